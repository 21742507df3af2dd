//! What is mounted on a view, or set on its root, while it goes back: it stays, or the step is refused.

use std::fs;
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;

use crate::about;
use crate::common::*;
use crate::live::beside;

fn sys_mount(args: &[&str]) -> bool {
    Command::new("mount").args(args).status().is_ok_and(|status| status.success())
}

fn path(mount: &Mount, name: &str) -> String {
    mount.at(name).to_str().unwrap().to_owned()
}

#[test]
fn no_step_tears_down_what_is_mounted_on_the_view() {
    if who() == Who::User {
        skip!("a normal user mounts nothing");
    }
    within(60, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "f").file("d/masked", "secret").dir("d/on", 0o755);
        let mount = stack.mount();
        mount.write("d/new", "new").unwrap();
        mount.mkdir("made", 0o755).unwrap();
        mount.mkdir("made/on", 0o755).unwrap();
        let [stays, masked, goes] = ["d/on", "d/masked", "made/on"].map(|name| path(&mount, name));
        assert!(sys_mount(&["-t", "tmpfs", "stays", &stays]));
        assert!(sys_mount(&["--bind", "/dev/null", &masked]));
        assert!(sys_mount(&["-t", "tmpfs", "goes", &goes]));
        for dir in [&stays, &goes] {
            fs::write(format!("{dir}/inside"), "").unwrap();
        }
        let error = about("undo", mount.root()).unwrap_err();
        assert!(error.contains("/made/on") && error.lines().count() == 1, "{error}");
        assert!(mount.stat("made/on/inside").is_ok() && mount.stat("d/new").is_ok());
        assert!(Command::new("umount").arg(&goes).status().unwrap().success());
        about("undo", mount.root()).unwrap();
        assert!(mount.stat("made").is_err() && mount.stat("d/new").is_err());
        assert!(mount.stat("d/on/inside").is_ok());
        assert_eq!(mount.read("d/masked").unwrap(), b"");
        for at in [&stays, &masked] {
            assert!(Command::new("umount").arg(at).status().unwrap().success());
        }
        assert_eq!(mount.read("d/masked").unwrap(), b"secret");
    });
}

#[test]
fn a_view_that_is_read_only_now_takes_no_step() {
    if who() != Who::Root {
        skip!("only root changes a mount");
    }
    let stack = Stack::new(1);
    let mount = stack.mount();
    mount.write("a", "a").unwrap();
    assert!(sys_mount(&["-i", "-o", "remount,ro", mount.root().to_str().unwrap()]));
    for step in ["commit", "undo"] {
        let error = about(step, mount.root()).unwrap_err();
        assert!(error.contains("ead-only file system"), "{error}");
    }
    assert_eq!(mount.read("a").unwrap(), b"a");
}

#[test]
fn what_is_set_on_the_root_outlives_each_commit() {
    within(120, || {
        let stack = Stack::in_memory(1);
        let mount = stack.mount();
        let root = Tree::new(mount.root());
        let set = move |over: &std::sync::atomic::AtomicBool| {
            let mut number = 0u32;
            while !over.load(Relaxed) {
                number += 1;
                root.set_xattr("", "user.n", &number.to_ne_bytes()).unwrap();
                // A commit may be under way, and is over by then.
                std::thread::sleep(std::time::Duration::from_micros(u64::from(number % 7) * 300));
                assert_eq!(root.xattr("", "user.n").unwrap(), number.to_ne_bytes());
            }
        };
        beside(set, || {
            for number in 0..150 {
                mount.write("each", number.to_string()).unwrap();
                about("commit", mount.root()).unwrap();
            }
        });
    });
}
