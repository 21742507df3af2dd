//! One operation after the other.

use rustix::fs::{FileType, RenameFlags, Timespec};

use super::*;

type Act = fn(&Tree);

fn tree(stack: &Stack) {
    let low = &stack.lowers[0];
    low.file("d/a", "12345").file("d/b", "other").file("d/e/deep", "deep").file("top", "top").dir("empty", 0o755);
    low.file("s/t/u", "u").file("s/v", "v").soft_link("target", "link").perm("d/a", 0o644).perm("top", 0o644);
    low.file("big", vec![b'x'; 300_000]).with_xattr("big", "user.x", b"1").with_xattr("d", "user.d", b"1");
    stack.age();
    pause();
}

#[rustfmt::skip]
const CASES: &[(&str, Act)] = &[
    ("nothing", |_| ()),
    ("objects of each type are new", |m| {
        m.mkdir("n", 0o750).unwrap();
        m.mkdir("n/o", 0o555).unwrap();
        m.write("n/f", "x").unwrap();
        m.symlink("12", "n/l").unwrap();
        m.mknod("n/p", FileType::Fifo, 0o600, 0).unwrap();
        m.set_xattr("n", "user.y", b"2").unwrap();
        m.utimes("n/l", Timespec { tv_sec: 5, tv_nsec: 6 }).unwrap();
    }),
    ("bytes are others", |m| { m.pwrite("d/a", 1, b"x").unwrap(); m.append("big", "y").unwrap(); }),
    ("a file is cut", |m| m.truncate("big", 4).unwrap()),
    ("modes, times, attributes", |m| {
        m.chmod("big", 0o4711).unwrap();
        m.utimes("top", Timespec { tv_sec: 5, tv_nsec: 7 }).unwrap();
        m.set_xattr("d/b", "user.b", b"3").unwrap();
        m.remove_xattr("big", "user.x").unwrap();
        m.chmod("d", 0o2700).unwrap();
        m.remove_xattr("d", "user.d").unwrap();
        m.set_xattr("s", "user.s", b"4").unwrap();
        m.utimes("empty", Timespec { tv_sec: 9, tv_nsec: 1 }).unwrap();
    }),
    ("a mode and back", |m| { m.chmod("d/a", 0o700).unwrap(); m.chmod("d/a", 0o644).unwrap(); }),
    ("deleted", |m| { m.unlink("d/a").unwrap(); m.remove_all("s").unwrap(); m.unlink("link").unwrap(); }),
    ("deleted and made anew", |m| {
        m.remove_all("d").unwrap();
        m.mkdir("d", 0o700).unwrap();
        m.write("d/b", "new").unwrap();
        m.mkdir("d/e", 0o755).unwrap();
        m.write("d/e/other", "").unwrap();
    }),
    ("of another type", |m| {
        m.unlink("top").unwrap();
        m.mkdir("top", 0o755).unwrap();
        m.write("top/f", "1").unwrap();
        m.remove_all("d").unwrap();
        m.write("d", "12").unwrap();
        m.unlink("link").unwrap();
        m.write("link", "12").unwrap();
        m.unlink("big").unwrap();
        m.symlink("top", "big").unwrap();
    }),
    ("files are renamed", |m| {
        m.rename("big", "z").unwrap();
        m.rename("d/a", "top").unwrap();
        m.rename("d/b", "d/e/b").unwrap();
    }),
    ("files change places", |m| {
        m.chmod("top", 0o600).unwrap();
        m.rename_with("top", "big", RenameFlags::EXCHANGE).unwrap();
        m.rename_with("d/a", "d/b", RenameFlags::EXCHANGE).unwrap();
    }),
    ("files have more names", |m| { m.link("d/a", "z").unwrap(); m.link("z", "s/z").unwrap(); m.link("top", "t").unwrap(); }),
    ("as editors save", |m| { m.write("d/.a.swp", "123456").unwrap(); m.rename("d/.a.swp", "d/a").unwrap(); }),
];

#[rustfmt::skip]
const RENAMES: &[(&str, Act)] = &[
    ("a directory is renamed", |m| m.rename("d", "z").unwrap()),
    ("and things in it change", |m| {
        m.rename("d", "z").unwrap();
        m.append("z/a", "6").unwrap();
        m.unlink("z/b").unwrap();
        m.write("z/e/new", "").unwrap();
        m.chmod("z", 0o700).unwrap();
    }),
    ("into a new one", |m| { m.mkdir("n", 0o755).unwrap(); m.rename("d", "n/d").unwrap(); }),
    ("out of a renamed one", |m| { m.rename("d", "z").unwrap(); m.rename("z/e", "y").unwrap(); m.write("y/new", "").unwrap(); }),
    ("out of one that is deleted", |m| { m.rename("d/e", "y").unwrap(); m.remove_all("d").unwrap(); }),
    ("another is made in its place", |m| {
        m.rename("d", "z").unwrap();
        m.mkdir("d", 0o755).unwrap();
        m.write("d/a", "new").unwrap();
    }),
    ("a file is made in its place", |m| { m.rename("d", "z").unwrap(); m.write("d", "1").unwrap(); }),
    ("over an empty one", |m| m.rename("d", "empty").unwrap()),
    ("two change places", |m| m.rename_with("d", "s", RenameFlags::EXCHANGE).unwrap()),
    ("three change places", |m| {
        m.rename_with("d", "s", RenameFlags::EXCHANGE).unwrap();
        m.rename_with("s", "empty", RenameFlags::EXCHANGE).unwrap();
        m.write("s/x", "1").unwrap();
    }),
    ("into the one that stands in its old place", |m| {
        m.rename("d", "z").unwrap();
        m.mkdir("d", 0o755).unwrap();
        m.rename("z", "d/z").unwrap();
    }),
    ("one above changes places with one below", |m| {
        m.rename("s/t", "t").unwrap();
        m.rename("s", "t/s").unwrap();
    }),
    ("a file out of a renamed directory", |m| { m.rename("d", "z").unwrap(); m.rename("z/a", "y").unwrap(); }),
    ("to and fro", |m| { m.rename("d", "z").unwrap(); m.append("z/a", "x").unwrap(); m.rename("z", "d").unwrap(); }),
];

fn run(cases: &[(&str, Act)], options: &str) {
    for (name, act) in cases {
        let mut stack = Stack::new(1);
        if !options.is_empty() {
            stack = stack.option(options);
        }
        tree(&stack);
        let mut mount = stack.mount();
        act(&mount);
        let expected = seen(&mount);
        mount.unmount();
        let lost = apply(&stack, What::default());
        assert_eq!(lost, Ok(Vec::new()), "{name}, with {options:?}");
        if let Err(why) = check_applied(&stack, &expected) {
            panic!("{name}, with {options:?}: {why}");
        }
        assert_eq!(apply(&stack, What::default()), Ok(Vec::new()), "{name}: nothing is left to apply");
    }
}

#[test]
fn each_change_is_applied() {
    within(240, || run(CASES, ""));
}

#[test]
fn each_change_is_applied_where_all_is_copied() {
    within(240, || run(CASES, "redirect_dir=off,metacopy=off,index=off"));
}

#[test]
fn each_change_of_blocks_is_applied() {
    within(240, || run(CASES, "copyup_block=4K"));
}

#[test]
fn directories_are_renamed_below() {
    within(240, || run(RENAMES, ""));
}

#[test]
fn what_need_not_be_copied_keeps_its_number() {
    bounded(|| {
        let stack = Stack::new(1);
        tree(&stack);
        let number = |path: &str| stack.lowers[0].stat(path).unwrap().st_ino;
        let before = ["d", "big", "top"].map(number);
        let mut mount = stack.mount();
        let is_renamed = mount.rename("d", "z").is_ok();
        mount.rename("big", "large").unwrap();
        mount.chmod("top", 0o600).unwrap();
        let expected = seen(&mount);
        mount.unmount();
        apply(&stack, What::default()).unwrap();
        let after = [if is_renamed { "z" } else { "d" }, "large", "top"].map(number);
        assert_eq!(after, before, "renamed and changed in place, not copied");
        check_applied(&stack, &expected).unwrap();
    });
}

#[test]
fn holes_stay_holes() {
    bounded(|| {
        for options in ["", "copyup_block=64K"] {
            let mut stack = Stack::new(1);
            if !options.is_empty() {
                stack = stack.option(options);
            }
            stack.lowers[0].file("f", "begin").truncate("f", 8 << 20).unwrap();
            stack.age();
            pause();
            let mut mount = stack.mount();
            mount.pwrite("f", 4 << 20, b"middle").unwrap();
            mount.write("g", "x").unwrap();
            mount.truncate("g", 8 << 20).unwrap();
            let expected = seen(&mount);
            mount.unmount();
            apply(&stack, What::default()).unwrap();
            check_applied(&stack, &expected).unwrap();
            for name in ["f", "g"] {
                let blocks = stack.lowers[0].stat(name).unwrap().st_blocks;
                assert!(blocks < 2000, "{name} takes {blocks} blocks, with {options:?}");
            }
        }
    });
}

#[test]
fn names_of_a_lower_hard_link_stay_together() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "x").hard_link("a", "b").hard_link("a", "d/c").file("other", "");
        stack.age();
        pause();
        let mut mount = stack.mount();
        mount.append("a", "y").unwrap();
        if mount.text("b") != "xy" {
            skip!("the layers can have no index");
        }
        mount.rename("d", "e").unwrap();
        let expected = seen(&mount);
        mount.unmount();
        apply(&stack, What::default()).unwrap();
        check_applied(&stack, &expected).unwrap();
        let numbers = ["a", "b", "e/c"].map(|name| stack.lowers[0].stat(name).unwrap().st_ino);
        assert!(numbers[0] == numbers[1] && numbers[1] == numbers[2], "{numbers:?}");
    });
}

#[test]
fn paths_are_applied_and_the_rest_stays() {
    bounded(|| {
        let stack = Stack::new(1);
        tree(&stack);
        let mut mount = stack.mount();
        mount.append("d/a", "6").unwrap();
        mount.unlink("d/b").unwrap();
        mount.write("new", "1").unwrap();
        mount.mkdir("n", 0o755).unwrap();
        mount.write("n/f", "2").unwrap();
        mount.rename("s", "z").unwrap();
        let expected = seen(&mount);
        mount.unmount();
        let low = &stack.lowers[0];
        let refused = |paths: &[&str]| match apply(&stack, What { paths, ..What::default() }) {
            Err(Not::Refused(refusal)) => refusal.reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(&["n/f"]), "it lies in n, which is new, renamed or replaced");
        assert_eq!(refused(&["s"]), "what was there is renamed to z, which is not applied");
        for (path, left) in [
            ("d/a", vec!["d", "n", "new", "s", "z"]),
            ("n", vec!["d", "new", "s", "z"]),
            ("d", vec!["new", "s", "z"]),
            ("none", vec!["new", "s", "z"]),
        ] {
            apply(&stack, What { paths: &[path], ..What::default() }).unwrap();
            assert_eq!(left_in(stack.upper().root()), left, "{path}");
            let mut mount = stack.mount();
            assert_eq!(expected.difference(&seen(&mount)), None, "{path}: the view has changed");
            mount.unmount();
        }
        assert_eq!(
            (low.text("d/a").as_str(), low.has("d/b"), low.has("new"), low.text("n/f").as_str()),
            ("123456", false, false, "2")
        );
        apply(&stack, What { paths: &["z", "s"], ..What::default() }).unwrap();
        apply(&stack, What::default()).unwrap();
        check_applied(&stack, &expected).unwrap();
    });
}

#[test]
fn what_the_rest_leads_to_is_not_taken_away() {
    bounded(|| {
        let stack = Stack::new(1);
        tree(&stack);
        let mut mount = stack.mount();
        mount.rename("big", "z").unwrap();
        mount.link("d/a", "y").unwrap();
        mount.chmod("d/a", 0o600).unwrap();
        let expected = seen(&mount);
        mount.unmount();
        for path in ["big", "y"] {
            let before = seen(&stack.lowers[0]);
            match apply(&stack, What { paths: &[path], ..What::default() }) {
                Err(Not::Refused(_)) => assert_eq!(before.difference(&seen(&stack.lowers[0])), None, "{path}"),
                // Where all data was copied nothing leads to it.
                Ok(_) => assert!(path == "big"),
                other => panic!("{other:?}"),
            }
            let mut mount = stack.mount();
            assert_eq!(expected.difference(&seen(&mount)), None, "{path}");
            mount.unmount();
        }
        apply(&stack, What { paths: &["y", "d"], ..What::default() }).unwrap();
        apply(&stack, What::default()).unwrap();
        check_applied(&stack, &expected).unwrap();
    });
}

#[test]
fn several_lower_layers_are_refused() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.upper().file("new", "");
        pause();
        let Err(Not::Refused(refusal)) = apply(&stack, What::default()) else { panic!("it was not refused") };
        assert_eq!(refusal.reason, "which of several lower layers is to change is not clear");
        assert!(stack.upper().has("new") && !stack.lowers[0].has("new"));
    });
}
