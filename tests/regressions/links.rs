//! Names of a lower hard link where no index leads to its copy: the name that was written keeps what it got.

use rustix::fs::{OFlags, XattrFlags};

use crate::common::tree::OLD;
use crate::common::*;

/// The names of the lower file; the last one is not looked up.
const NAMES: [&str; 4] = ["a", "h", "d/k", "d/unknown"];

/// How a program changes a file by a name, and how that is seen.
type Change = (&'static str, fn(&Tree, &str), fn(&Tree, &str) -> bool);

const CHANGES: [Change; 7] = [
    ("append", |m, at| m.append(at, "more").unwrap(), |m, at| m.text(at) == "lowmore"),
    ("written anew", |m, at| m.write(at, "new").unwrap(), |m, at| m.text(at) == "new"),
    ("truncate", |m, at| m.truncate(at, 1).unwrap(), |m, at| m.text(at) == "l"),
    ("chmod", |m, at| m.chmod(at, 0o604).unwrap(), |m, at| m.mode(at) == 0o604 && m.text(at) == "low"),
    ("utimes", |m, at| m.utimes(at, OLD).unwrap(), |m, at| m.stat(at).unwrap().st_mtime == OLD.tv_sec),
    (
        "setxattr",
        |m, at| rustix::fs::lsetxattr(m.at(at), "user.a", b"b", XattrFlags::empty()).unwrap(),
        |m, at| m.xattr(at, "user.a").is_ok_and(|value| value == b"b"),
    ),
    ("mapped", store, |m, at| m.text(at) == "LOW"),
];

fn store(tree: &Tree, at: &str) {
    let fd = tree.open(at, OFlags::RDWR).unwrap();
    let mut map = SharedMap::new(&fd, 3, true);
    map.put(0, b"LOW");
    map.sync().unwrap();
}

fn linked(option: &str) -> Stack {
    let stack = Stack::new(1).option("index=off").option(option);
    let lower = &stack.lowers[0];
    lower.file("a", "low").hard_link("a", "h").hard_link("a", "d/k").hard_link("a", "d/unknown");
    stack
}

fn look_up(mount: &Tree, name: &str) {
    mount.stat(name).unwrap();
}

/// In whatever order the names were looked up, and however the file is changed. While mounted they stay one file, which the
/// kernel's OverlayFS parts at once.
#[test]
fn the_name_that_was_written_keeps_it_without_an_index() {
    within(240, || {
        let orders = [["a", "h", "d/k"], ["h", "a", "d/k"], ["d/k", "h", "a"]];
        let options = ["metacopy=on", "metacopy=off", "fsync=strict", "copyup=open", "io=passthrough", "io=writeback"];
        for option in options.into_iter().filter(|option| is_offered(option)) {
            // A daemon that is started again must not have seen opens.
            if Mount::has_more("supervise") && (option.starts_with("io=") || option.starts_with("copyup=")) {
                continue;
            }
            for (at, (how, change, shows)) in CHANGES.iter().enumerate() {
                let (order, written) = (orders[at % orders.len()], NAMES[(at + 1) % 3]);
                let when = format!("{option}: {how} by {written}, looked up {order:?}");
                let stack = linked(option);
                let mut mount = stack.mount();
                order.iter().for_each(|name| look_up(&mount, name));
                change(&mount, written);
                assert!(order.iter().all(|name| shows(&mount, name)), "{when}, live");
                mount.remount();
                for name in order {
                    assert!(shows(&mount, name), "{when}, over a remount: {name}");
                }
                assert_eq!(mount.stat("a").unwrap().st_ino, mount.stat("d/k").unwrap().st_ino, "{when}");
                assert_eq!(mount.text("d/unknown"), "low", "{when}: as in the kernel's OverlayFS");
                assert_eq!(NAMES.map(|name| stack.lowers[0].text(name)), ["low"; 4], "{when}");
            }
        }
    });
}

/// A name that is looked up when there is a copy already is as good.
#[test]
fn names_that_are_looked_up_after_the_copy_keep_what_is_written_by_them() {
    bounded(|| {
        let stack = linked("metacopy=on");
        let mut mount = stack.mount();
        mount.append("a", "1").unwrap();
        mount.append("h", "2").unwrap();
        assert_eq!(mount.text("a"), "low12");
        let k = mount.open("d/k", OFlags::WRONLY | OFlags::APPEND).unwrap();
        // By a descriptor whose name is older than the copy's newest name; and one whose name goes.
        look_up(&mount, "d/unknown");
        write_all_at_end(&k, "3");
        mount.unlink("a").unwrap();
        mount.append("d/k", "4").unwrap();
        mount.rename("h", "renamed").unwrap();
        mount.append("renamed", "5").unwrap();
        drop(k);
        for round in 0..2 {
            for name in ["renamed", "d/k", "d/unknown"] {
                assert_eq!(mount.text(name), "low12345", "{name}, {round} remounts");
            }
            assert!(!mount.has("a") && !mount.has("h"));
            mount.remount();
        }
    });
}

/// The copy has lost its last name, and lives on for who has it open; what is written by a lower name goes there all the
/// same, and stays.
#[test]
fn a_name_of_a_file_whose_copy_has_none_left_keeps_what_is_written_by_it() {
    bounded(|| {
        let stack = linked("metacopy=on");
        let mut mount = stack.mount();
        let open = mount.open("a", OFlags::RDWR | OFlags::APPEND).unwrap();
        write_all_at_end(&open, "1");
        mount.unlink("a").unwrap();
        write_all_at_end(&open, "2");
        mount.append("h", "3").unwrap();
        assert_eq!(mount.text("h"), "low123");
        write_all_at_end(&open, "4");
        drop(open);
        mount.remount();
        assert_eq!(mount.text("h"), "low1234");
        assert_eq!((mount.has("a"), mount.text("d/k").as_str()), (false, "low"));
    });
}

fn write_all_at_end(fd: &std::os::fd::OwnedFd, text: &str) {
    let mut file = std::fs::File::from(fd.try_clone().unwrap());
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

/// Where no index can be had, as over another FUSE file system.
#[test]
fn the_name_that_was_written_keeps_it_where_no_index_is_possible() {
    bounded(|| {
        let below = Stack::read_only(1);
        below.lowers[0].file("a", "low").hard_link("a", "h");
        let lower = below.mount();
        let stack = Stack::new(0);
        let work = stack.scratch.dir("work");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            lower.root().display(),
            stack.upper().root().display(),
            work.display()
        );
        let mut mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        if mount::is_plyfs() {
            assert!(mount.messages().contains("index=off"), "{}", mount.messages());
        }
        look_up(&mount, "h");
        mount.append("a", "more").unwrap();
        mount.remount();
        assert_eq!([mount.text("a"), mount.text("h")], ["lowmore", "lowmore"]);
        drop(mount);
    });
}

/// More names than are remembered for one file are files of their own: each keeps what is written by it.
#[test]
fn any_number_of_names_keeps_what_is_written_by_them() {
    bounded(|| {
        const NAMES: usize = 1200;
        let name = |i: usize| format!("d{}/n{i}", i % 7);
        let stack = Stack::new(1).option("index=off");
        stack.lowers[0].file(&name(0), "low");
        for i in 1..NAMES {
            stack.lowers[0].hard_link(&name(0), &name(i));
        }
        let mut mount = stack.mount();
        (0..NAMES).for_each(|i| look_up(&mount, &name(i)));
        for i in [NAMES - 1, 3, NAMES - 2] {
            mount.append(name(i), format!("+{i}")).unwrap();
        }
        assert!(mount.text(name(3)).ends_with("+3"));
        let last = [NAMES - 1, NAMES - 2].map(|i| mount.text(name(i)));
        mount.remount();
        for (i, text) in [NAMES - 1, NAMES - 2].into_iter().zip(last) {
            assert!(text.contains(&format!("+{i}")), "{i}: {text}");
            assert_eq!(mount.text(name(i)), text);
        }
        assert_eq!(mount.text(name(3)), mount.text(name(0)));
        assert!(mount.text(name(0)).contains("+3"));
    });
}
