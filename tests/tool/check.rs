//! `plyfs layer check`: what is wrong is found (`tests/formats` has the table), and a layer in which nothing is has no finding.

use std::path::Path;
use std::process::Command;

use crate::common::stack::prefix;
use crate::common::*;
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

/// The exit status, and what is said.
fn check(words: &[&str], layers: &[&Path]) -> (i32, String) {
    let done = Command::new(mount::binary()).args(["layer", "check"]).args(words).args(layers).output().unwrap();
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    (done.status.code().unwrap(), said)
}

/// Of a stack with its upper layer.
fn check_stack(stack: &Stack, words: &[&str]) -> (i32, String) {
    let lowers = stack.lowers.iter().map(|layer| layer.root());
    let layers: Vec<&Path> = std::iter::once(stack.upper().root()).chain(lowers).collect();
    let work = stack.scratch.path().join("work");
    check(&[words, &["--workdir", work.to_str().unwrap()]].concat(), &layers)
}

#[test]
fn what_a_history_leaves_has_no_finding_even_if_its_daemon_was_killed() {
    within(600, || {
        let test = |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
            let stack = build(&plan(things, true));
            let mut mount = stack.mount();
            let half = ops.len() / 2;
            for (at, op) in ops.iter().enumerate() {
                if at == half {
                    let pid = mount.pid().unwrap();
                    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                    let _ = mount.ended(std::time::Duration::from_secs(10));
                    let _ = mount::unmount_any(&stack.merged, true);
                    drop(mount);
                    mount = stack.mount();
                }
                let mut real = Real::new(&mount);
                let step = op.resolve(&real.known());
                let _ = real.apply(&step);
            }
            mount.unmount();
            drop(mount);
            match check_stack(&stack, &[]) {
                (0, said) if said.is_empty() => Ok(()),
                (status, said) => Err(format!("{status}: {said}")),
            }
        };
        let drawn = (things(), changes(30));
        let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, true));
        model::check(60, 227, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn a_finding_is_a_line_with_what_both_do_and_repair_changes_no_view() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/below", "x").file("f", "x");
        stack.upper().opaque("d").whiteout("d/below").whiteout("d/other").file("d/own", "x").whiteout("f");
        let work = stack.scratch.dir("work/work");
        std::fs::write(work.join("#1"), "x").unwrap();
        stack.age();
        let (status, said) = check_stack(&stack, &[]);
        assert_eq!((status, said.lines().count()), (1, 3), "{said}");
        for line in said.lines() {
            assert!(line.contains("; plyfs ") && line.contains("; the kernel "), "{line}");
        }
        assert!(said.contains("upper/d/below: a whiteout in an opaque directory, which hides nothing;"), "{said}");
        let (status, said) = check_stack(&stack, &["--json"]);
        assert_eq!(status, 1);
        assert!(said.contains("\"path\":\"d/below\",\"kind\":\"idle-whiteout\""), "{said}");
        let view = |stack: &Stack| {
            let mut mount = stack.mount();
            let view = View::of(&mount, Walk { times: true, ..Walk::default() });
            mount.unmount();
            view
        };
        let before = Stack::new(1);
        before.lowers[0].file("d/below", "x").file("f", "x");
        before.upper().opaque("d").whiteout("d/below").whiteout("d/other").file("d/own", "x").whiteout("f");
        before.age();
        let before = view(&before);
        let (status, said) = check_stack(&stack, &["--repair"]);
        assert_eq!((status, said.matches("; removed;").count()), (1, 3), "{said}");
        assert!(!stack.upper().has("d/below") && stack.upper().is_whiteout("f") && !work.join("#1").exists());
        assert_eq!(check_stack(&stack, &[]), (0, String::new()));
        view(&stack).assert_same(&before, "repaired");
    });
}

#[test]
fn an_undo_that_was_broken_off_is_a_finding_until_the_next_mount() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x");
        let mut mount = stack.mount();
        mount.write("f", "changed").unwrap();
        let commit = Command::new(mount::binary()).arg("commit").arg(mount.root()).output().unwrap();
        if !commit.status.success() {
            return say_skipped("no commits here");
        }
        mount.unmount();
        assert_eq!(check_stack(&stack, &[]), (0, String::new()));
        std::fs::write(stack.scratch.path().join("work/commits/1/taking"), "").unwrap();
        let (status, said) = check_stack(&stack, &[]);
        assert_eq!((status, said.lines().count()), (1, 1), "{said}");
        assert!(said.contains("work/commits: an undo or redo of paths that was broken off;"), "{said}");
        let (status, said) = check_stack(&stack, &["--repair"]);
        assert!(status == 1 && said.contains("mount the view once"), "{said}");
        stack.mount().unmount();
        assert_eq!(check_stack(&stack, &[]), (0, String::new()));
    });
}

#[test]
fn repair_removes_marks_that_say_nothing_and_what_is_left_in_the_index() {
    bounded(|| {
        let stack = Stack::new(1);
        let mark = |name: &str| format!("{}{name}", prefix());
        stack.lowers[0].file("f", "x").file("count", "x").dir("d", 0o755);
        stack.lowers[0].with_xattr("f", &mark("opaque"), b"y").with_xattr("f", &mark("plyfs.device"), b"c0:0");
        stack.lowers[0].with_xattr("d", &mark("metacopy"), b"").with_xattr("count", &mark("nlink"), b"U-9");
        // These may say something to somebody.
        stack.lowers[0].with_xattr("d", &mark("opaque"), b"z").with_xattr("d", &mark("new"), b"1");
        std::fs::write(stack.scratch.dir("work/index").join("#7"), "x").unwrap();
        let (status, said) = check_stack(&stack, &["--repair"]);
        assert_eq!((status, said.lines().count(), said.matches("; removed;").count()), (1, 7, 5), "{said}");
        let left = |name: &str| {
            let all = stack.lowers[0].xattrs(name).unwrap();
            all.iter().filter(|key| key.starts_with(prefix().as_bytes())).count()
        };
        assert_eq!(["f", "d", "count"].map(left), [0, 2, 0]);
        let (status, said) = check_stack(&stack, &[]);
        assert_eq!((status, said.lines().count()), (1, 2), "{said}");
    });
}

/// What a kill leaves while a large file is emptied; the kernel shows the data of such a one.
#[test]
fn an_emptied_file_that_has_kept_its_mark_is_found_and_loses_it() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "data");
        stack.upper().file("f", "").with_xattr("f", &format!("{}metacopy", prefix()), b"");
        stack.scratch.dir("work");
        let (status, said) = check_stack(&stack, &["--json"]);
        assert!(status == 1 && said.contains("\"path\":\"f\",\"kind\":\"emptied\""), "{said}");
        let (_, said) = check_stack(&stack, &["--repair"]);
        assert_eq!((said.lines().count(), said.matches("; removed;").count()), (1, 1), "{said}");
        assert_eq!(check_stack(&stack, &[]), (0, String::new()));
        assert_eq!(stack.mount().read("f").unwrap(), b"");
    });
}

#[test]
fn data_in_data_only_layers_is_found() {
    bounded(|| {
        let stack = Stack::read_only(2);
        let mark = |name: &str| format!("{}{name}", prefix());
        stack.lowers[0].file("f", "1234").with_xattr("f", &mark("metacopy"), b"");
        stack.lowers[0].with_xattr("f", &mark("redirect"), b"/data/f");
        stack.lowers[1].file("data/f", "1234");
        let [top, data] = [0, 1].map(|at| stack.lowers[at].root());
        assert_eq!(check(&["--datadir", data.to_str().unwrap()], &[top]), (0, String::new()));
        let (status, said) = check(&[], &[top]);
        assert!(status == 1 && said.contains("f: a metacopy file whose data is in no layer"), "{said}");
        stack.lowers[1].write("data/f", "12345").unwrap();
        let (status, said) = check(&["--datadir", data.to_str().unwrap()], &[top]);
        assert!(status == 1 && said.contains("f: a metacopy file of 4 bytes, and its data has 5"), "{said}");
    });
}

#[test]
fn what_the_table_of_formats_lacks_is_found_too() {
    bounded(|| {
        type Fill = fn(&Stack);
        let table: [(&str, Fill, &str); 6] = [
            ("nothing", |s| _ = s.lowers[0].file("f", "x"), ""),
            (
                "a digest of other data",
                |s| {
                    let digest = [&[0, 36, 0, 1][..], &[7; 32]].concat();
                    s.lowers[1].file("f", "data");
                    s.lowers[0].file("f", "data").with_xattr("f", &format!("{}metacopy", prefix()), &digest);
                },
                "lower0/f: a metacopy file whose data has another digest",
            ),
            (
                "another size",
                |s| {
                    s.lowers[1].file("f", "data");
                    s.lowers[0].file("f", "longer").with_xattr("f", &format!("{}metacopy", prefix()), b"");
                },
                "lower0/f: a metacopy file of 6 bytes, and its data has 4",
            ),
            (
                "whiteouts of two forms",
                |s| {
                    s.lowers[0].whiteout("a").file("d/b", "").with_xattr("d/b", &format!("{}whiteout", prefix()), b"y");
                    s.lowers[0].with_xattr("d", &format!("{}opaque", prefix()), b"x");
                },
                "whiteouts of several forms in one layer: 0/0 devices, marked files",
            ),
            (
                "two names for a directory",
                |s| {
                    s.lowers[1].file("t/x", "");
                    for name in ["a", "b"] {
                        s.lowers[0].dir(name, 0o755).with_xattr(name, &format!("{}redirect", prefix()), b"/t");
                    }
                },
                "show the same directory of a layer below",
            ),
            (
                "a redirect in the last layer",
                |s| _ = s.lowers[1].dir("d", 0o755).with_xattr("d", &format!("{}redirect", prefix()), b"/t"),
                "lower1/d: a redirect in the last layer, which leads nowhere",
            ),
        ];
        for (what, fill, expected) in table {
            let stack = Stack::read_only(2);
            fill(&stack);
            let layers: Vec<&Path> = stack.lowers.iter().map(|layer| layer.root()).collect();
            let (status, said) = check(&[], &layers);
            assert_eq!(status, i32::from(!expected.is_empty()), "{what}: {said}");
            assert!(said.contains(expected), "{what}: {said}");
        }
        let stack = Stack::new(1);
        assert_eq!(check(&["--sideways"], &[stack.lowers[0].root()]).0, 2);
        let _mount = stack.mount();
        let (status, said) = check_stack(&stack, &["--repair"]);
        assert!(status == 1 && said.contains("in use by"), "{said}");
    });
}
