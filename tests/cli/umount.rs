//! `plyfs umount`: who may, what is in use, and that the daemon has ended when it returns.

use std::fs;

use super::*;
use crate::common::*;

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("d/f", "lower");
    stack
}

/// The status of `plyfs umount` with these arguments, and what it says.
fn umount<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (Option<i32>, String) {
    let out = plyfs(["umount"]).args(args).output().unwrap();
    assert!(out.stdout.is_empty() && stderr(&out).lines().count() <= 1, "{}", stderr(&out));
    (out.status.code(), stderr(&out))
}

#[test]
fn umount_returns_when_the_daemon_has_ended() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        for options in ["rw", "supervise", "ro", "threads=1"] {
            for _ in 0..3 {
                let mut view = Background::start(&stack, options);
                assert_eq!(umount([&stack.merged]), (Some(0), String::new()), "{options}");
                assert!(!is_mounted(&stack.merged), "{options}");
                // A zombie has no command line any more.
                let alive = all_of(&stack.merged).contains(&view.daemon);
                assert!(!alive || options == "supervise", "{options}: its daemon lives");
                assert_eq!(view.ended(), Some(0), "{options}");
            }
        }
    });
}

#[test]
fn umount_finds_the_mount_by_any_path() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        std::os::unix::fs::symlink(&stack.merged, stack.scratch.path().join("link")).unwrap();
        for path in ["merged", "./merged/", "link", "merged/../merged"] {
            let mut view = Background::start(&stack, "rw");
            let out = plyfs(["umount", path]).current_dir(stack.scratch.path()).output().unwrap();
            assert!(out.status.success() && !is_mounted(&stack.merged), "{path}: {}", stderr(&out));
            assert_eq!(view.ended(), Some(0));
        }
    });
}

#[test]
fn umount_of_a_view_in_use_says_so_unless_it_is_lazy() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        let mut view = Background::start(&stack, "rw");
        let file = fs::File::open(stack.merged.join("d/f")).unwrap();
        let (status, said) = umount([&stack.merged]);
        assert!(status == Some(1) && said.contains("not unmounted") && said.contains("-l"), "{status:?} {said}");
        assert!(is_mounted(&stack.merged));
        assert_eq!(umount([OsStr::new("-l"), stack.merged.as_os_str()]), (Some(0), String::new()));
        assert!(!is_mounted(&stack.merged));
        assert_eq!(file.metadata().unwrap().len(), 5);
        drop(file);
        assert_eq!(view.ended(), Some(0));
    });
}

#[test]
fn umount_leaves_alone_what_is_no_view() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        let _view = Background::start(&stack, "rw");
        for (at, says) in [
            (stack.scratch.path().to_owned(), "nothing is mounted there"),
            (stack.merged.join("d"), "nothing is mounted there"),
            ("/proc".into(), "of the type proc"),
            ("/nonexistent/place".into(), "No such file"),
        ] {
            let (status, said) = umount([&at]);
            assert!(status == Some(1) && said.contains(says), "{}: {status:?} {said}", at.display());
        }
        assert!(is_mounted(&stack.merged));
    });
}

#[test]
fn umount_ends_the_mount_of_a_dead_daemon() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        let mut view = Background::start(&stack, "rw");
        view.signal(Signal::KILL);
        assert_eq!(view.ended(), None);
        assert!(wait_until(|| fs::metadata(&stack.merged).is_err()));
        assert_eq!(umount([&stack.merged]), (Some(0), String::new()));
        assert!(!is_mounted(&stack.merged));
    });
}
