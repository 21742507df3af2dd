//! What has changed below since it was changed in the view is listed, and nothing is touched.

use super::*;

type Act = fn(&Tree);

fn tree(stack: &Stack) {
    let low = &stack.lowers[0];
    low.file("d/a", "12345").file("d/b", "other").file("d/e/deep", "deep").file("top", "top").dir("empty", 0o755);
    low.file("s/t/u", "u").file("s/v", "v");
    stack.age();
    pause();
}

/// Name, what the view does, what is done below meanwhile, and the conflicts.
#[rustfmt::skip]
const CASES: &[(&str, Act, Act, &[&str])] = &[
    ("other files change", |m| m.append("d/a", "6").unwrap(), |l| { l.append("d/b", "x").unwrap(); l.write("n", "").unwrap(); }, &[]),
    ("bytes of both", |m| m.append("d/a", "6").unwrap(), |l| l.append("d/a", "x").unwrap(), &["d/a"]),
    ("metadata of both", |m| m.chmod("d/a", 0o600).unwrap(), |l| l.chmod("d/a", 0o640).unwrap(), &["d/a"]),
    ("metadata above, bytes below", |m| m.chmod("d/a", 0o600).unwrap(), |l| l.append("d/a", "x").unwrap(), &["d/a"]),
    ("gone below", |m| m.append("d/a", "6").unwrap(), |l| l.unlink("d/a").unwrap(), &["d/a"]),
    ("replaced below", |m| m.append("d/a", "6").unwrap(), |l| { l.write("x", "").unwrap(); l.rename("x", "d/a").unwrap(); }, &["d/a"]),
    ("a directory below", |m| m.append("d/a", "6").unwrap(), |l| { l.unlink("d/a").unwrap(); l.mkdir("d/a", 0o755).unwrap(); l.write("d/a/x", "").unwrap(); }, &["d/a", "d/a/x"]),
    ("deleted above, changed below", |m| m.unlink("d/a").unwrap(), |l| l.append("d/a", "x").unwrap(), &["d/a"]),
    ("deleted on both sides", |m| m.unlink("d/a").unwrap(), |l| l.unlink("d/a").unwrap(), &[]),
    ("new on both sides", |m| m.write("n", "1").unwrap(), |l| l.write("n", "2").unwrap(), &["n"]),
    ("a new directory on both sides", |m| { m.mkdir("n", 0o755).unwrap(); m.write("n/f", "").unwrap(); }, |l| { l.mkdir("n", 0o755).unwrap(); l.write("n/g", "").unwrap(); }, &["n", "n/g"]),
    ("new in what was deleted", |m| m.remove_all("d").unwrap(), |l| { l.write("d/new", "").unwrap(); l.write("d/e/new", "").unwrap(); }, &["d", "d/e", "d/e/new", "d/new"]),
    ("new in what was replaced", |m| { m.remove_all("d").unwrap(); m.mkdir("d", 0o755).unwrap(); }, |l| l.write("d/new", "").unwrap(), &["d/new"]),
    ("a directory's mode on both sides", |m| m.chmod("empty", 0o700).unwrap(), |l| l.chmod("empty", 0o711).unwrap(), &["empty"]),
    ("a directory is gone below", |m| m.write("empty/f", "").unwrap(), |l| l.rmdir("empty").unwrap(), &["empty"]),
    ("in the place of a rename", |m| m.rename("top", "n").unwrap(), |l| l.write("n", "").unwrap(), &["n"]),
    ("a swapped directory", |m| m.append("d/e/deep", "6").unwrap(), |l| { l.rename("d/e", "e.old").unwrap(); l.rename("s/t", "d/e").unwrap(); l.write("d/e/deep", "").unwrap(); }, &["d/e", "d/e/deep"]),
    ("several", |m| { m.append("top", "x").unwrap(); m.unlink("d/a").unwrap(); m.write("n", "").unwrap(); m.write("ok", "").unwrap(); },
        |l| { l.append("top", "y").unwrap(); l.append("d/a", "y").unwrap(); l.write("n", "z").unwrap(); }, &["d/a", "n", "top"]),
];

#[rustfmt::skip]
const RENAMES: &[(&str, Act, Act, &[&str])] = &[
    ("a renamed directory is gone", |m| m.rename("s", "z").unwrap(), |l| l.remove_all("s").unwrap(), &["z"]),
    ("in the place of a renamed directory", |m| m.rename("s", "z").unwrap(), |l| l.write("z", "").unwrap(), &["z"]),
    ("what changes in a renamed directory comes with it", |m| m.rename("s", "z").unwrap(), |l| l.append("s/v", "x").unwrap(), &[]),
    ("a file in a renamed directory", |m| { m.rename("s", "z").unwrap(); m.append("z/v", "1").unwrap(); }, |l| l.append("s/v", "x").unwrap(), &["z/v"]),
];

fn run(cases: &[(&str, Act, Act, &[&str])]) {
    for (name, above, below, conflicts) in cases {
        let stack = Stack::new(1);
        tree(&stack);
        let mut mount = stack.mount();
        above(&mount);
        mount.unmount();
        pause();
        below(&stack.lowers[0]);
        let before = (view::layer(stack.lowers[0].root()), view::layer(stack.upper().root()));
        match apply(&stack, What::default()) {
            Ok(lost) => assert!(conflicts.is_empty() && lost.is_empty(), "{name}: {conflicts:?} {lost:?}"),
            Err(Not::Conflicts(found)) => {
                let paths: Vec<_> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
                assert_eq!(&paths, conflicts, "{name}: {found:?}");
                let after = (view::layer(stack.lowers[0].root()), view::layer(stack.upper().root()));
                after.0.assert_same(&before.0, &format!("{name}: the lower directory was touched"));
                after.1.assert_same(&before.1, &format!("{name}: the upper layer was touched"));
                assert!(!stack.scratch.path().join("work/work/incompat").exists(), "{name}");
            }
            Err(other) => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn conflicts_of_every_kind_are_listed_and_nothing_is_touched() {
    within(240, || run(CASES));
}

#[test]
fn conflicts_about_renamed_directories_are_listed() {
    within(240, || run(RENAMES));
}

/// As an editor does.
fn save(tree: &Tree, path: &str) {
    let new = format!("{path}.new");
    tree.write(&new, "saved").unwrap();
    tree.rename(&new, path).unwrap();
}

#[test]
fn what_changes_below_between_two_saves_or_a_save_and_a_deletion_is_a_conflict() {
    bounded(|| {
        type Then = fn(&Tree, &str);
        let then: [(&str, Then); 3] = [
            ("saved", |m, path| save(m, path)),
            ("deleted", |m, path| m.unlink(path).unwrap()),
            ("made anew", |m, path| {
                m.unlink(path).unwrap();
                m.write(path, "anew").unwrap();
            }),
        ];
        for path in ["d/a", "top"] {
            for (name, then) in then {
                let stack = Stack::new(1);
                tree(&stack);
                let mut mount = stack.mount();
                save(&mount, path);
                mount.unmount();
                pause();
                stack.lowers[0].append(path, "precious").unwrap();
                pause();
                let mut mount = stack.mount();
                then(&mount, path);
                mount.unmount();
                let stopped = apply(&stack, What::default());
                assert!(matches!(stopped, Err(Not::Conflicts(_))), "{path} {name}: {stopped:?}");
            }
        }
    });
}

/// The kernel's OverlayFS makes another `work` at each mount; a user may make another work directory.
#[test]
fn a_change_below_between_two_saves_is_a_conflict_when_the_work_directory_was_remade() {
    bounded(|| {
        for mode in [Some(0o000), Some(0o700), None] {
            let stack = Stack::new(1);
            tree(&stack);
            let work = Tree::new(stack.scratch.path().join("work"));
            let mut mount = stack.mount();
            save(&mount, "top");
            mount.unmount();
            pause();
            stack.lowers[0].append("top", "precious").unwrap();
            pause();
            work.remove_all("work").unwrap();
            if let Some(mode) = mode {
                work.mkdir("work", mode).unwrap();
            }
            let mut mount = stack.mount();
            save(&mount, "top");
            mount.unmount();
            let stopped = apply(&stack, What::default());
            assert!(matches!(stopped, Err(Not::Conflicts(_))), "{mode:?}: {stopped:?}");
        }
    });
}

#[test]
fn nothing_in_a_swapped_directory_is_applied_by_itself() {
    bounded(|| {
        let stack = Stack::new(1);
        tree(&stack);
        let mut mount = stack.mount();
        mount.append("d/e/deep", "6").unwrap();
        mount.append("top", "1").unwrap();
        mount.unmount();
        let low = &stack.lowers[0];
        low.rename("d/e", "e.old").unwrap();
        low.dir("d/e", 0o755).file("d/e/other", "");
        for path in ["d/e/deep", "d/e", "d"] {
            let stopped = apply(&stack, What { paths: &[path], ..What::default() });
            assert!(stopped.is_err(), "{path}: {stopped:?}");
        }
        apply(&stack, What { theirs: true, ..What::default() }).unwrap();
        assert_eq!((low.text("top").as_str(), low.has("d/e/deep")), ("top1", false));
        assert_eq!(stack.upper().text("d/e/deep"), "deep6");
        apply(&stack, What { ours: true, ..What::default() }).unwrap();
        assert_eq!((low.text("d/e/deep").as_str(), low.has("d/e/other")), ("deep6", true));
        assert_eq!(left_in(stack.upper().root()), [""; 0]);
    });
}

#[test]
fn an_applied_file_is_saved_and_applied_again_without_a_conflict() {
    bounded(|| {
        let stack = Stack::new(1);
        tree(&stack);
        for round in 0..3 {
            pause();
            let mut mount = stack.mount();
            save(&mount, "top");
            save(&mount, "d/a");
            mount.append("top", "more").unwrap();
            mount.unmount();
            assert_eq!(apply(&stack, What::default()), Ok(Vec::new()), "round {round}");
            assert_eq!(stack.lowers[0].text("d/a"), "saved", "round {round}");
        }
    });
}

#[test]
fn theirs_leaves_conflicts_out_and_ours_overrides_them() {
    bounded(|| {
        for theirs in [true, false] {
            let stack = Stack::new(1);
            tree(&stack);
            let mut mount = stack.mount();
            mount.append("top", "1").unwrap();
            mount.append("d/a", "6").unwrap();
            mount.unlink("d/b").unwrap();
            mount.mkdir("n", 0o755).unwrap();
            mount.write("n/f", "view").unwrap();
            let expected = seen(&mount);
            mount.unmount();
            pause();
            let low = &stack.lowers[0];
            low.append("d/a", "below").unwrap();
            low.append("d/b", "below").unwrap();
            low.file("n/f", "below");
            apply(&stack, What { theirs, ours: !theirs, ..What::default() }).unwrap();
            if theirs {
                let texts = ["top", "d/a", "d/b", "n/f"].map(|path| low.text(path));
                assert_eq!(texts, ["top1", "12345below", "otherbelow", "below"]);
                assert_eq!(stack.upper().text("d/a"), "123456", "the view keeps its own");
                assert!(!stack.upper().has("top"));
                let mut mount = stack.mount();
                assert_eq!(
                    (mount.text("d/a").as_str(), mount.has("d/b"), mount.text("n/f").as_str()),
                    ("123456", false, "view")
                );
                mount.unmount();
            } else {
                check_applied(&stack, &expected).unwrap();
            }
        }
    });
}
