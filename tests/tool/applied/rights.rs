//! Owners, ACLs, capabilities and devices; what a normal user cannot keep; and layers made to do harm.

use std::process::Command;

use rustix::fs::FileType;

use super::*;

#[test]
fn owners_acls_capabilities_and_devices_are_kept() {
    bounded(|| {
        if who() != Who::Root {
            return say_skipped("only root can give files away");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1").file("d/f", "2").file("run", "x");
        stack.age();
        pause();
        let mut mount = stack.mount();
        mount.chown("a", 7, 8).unwrap();
        mount.chmod("a", 0o6755).unwrap();
        mount.chown("d", 9, 10).unwrap();
        mount.chmod("d", 0o2770).unwrap();
        mount.mknod("null", FileType::CharacterDevice, 0o666, 0x103).unwrap();
        mount.chown("null", 1, 2).unwrap();
        mount.symlink("x", "l").unwrap();
        mount.chown("l", 3, 4).unwrap();
        let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        mount.set_xattr("run", "security.capability", &capability).unwrap();
        mount.set_xattr("run", "trusted.t", b"1").unwrap();
        let acl = |path: &str, words: &[&str]| {
            let done = Command::new("setfacl").args(words).arg(mount.at(path)).status();
            done.is_ok_and(|status| status.success())
        };
        if !(acl("a", &["-m", "u:5:rw"]) && acl("d", &["-m", "u:5:rwx", "-d", "-m", "u:6:rw"])) {
            say_skipped("no setfacl: ACLs are left out");
        }
        let expected = seen(&mount);
        mount.unmount();
        assert_eq!(apply(&stack, What::default()), Ok(Vec::new()));
        check_applied(&stack, &expected).unwrap();
    });
}

#[test]
fn a_copy_inherits_nothing_from_the_directory_that_it_comes_to() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].dir("d", 0o755).file("d/f", "1");
        let dirs = ["", "d"].map(|path| stack.lowers[0].at(path));
        let done = Command::new("setfacl").args(["-d", "-m", "u:5:rwx"]).args(dirs).status();
        if !done.is_ok_and(|status| status.success()) {
            return say_skipped("no setfacl");
        }
        stack.lowers[0].chmod("d", 0o2755).unwrap();
        pause();
        // As a layer has it that something else has written: without the ACL.
        stack.upper().dir("d", 0o2755).file("d/f", "22").perm("d/f", 0o600).dir("d/n", 0o700).file("d/n/g", "");
        apply(&stack, What::default()).unwrap();
        let low = &stack.lowers[0];
        for path in ["d/f", "d/n", "d/n/g"] {
            let acls: Vec<_> =
                low.xattrs(path).unwrap().into_iter().filter(|key| key.starts_with(b"system.posix_acl")).collect();
            assert!(acls.is_empty(), "{path} has {acls:?}");
        }
        assert_eq!((low.mode("d/f"), low.mode("d/n")), (0o600, 0o700));
    });
}

#[test]
fn what_a_user_cannot_keep_is_told() {
    bounded(|| {
        if who() != Who::Root {
            return say_skipped("only root can be root and somebody else");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1").perm("a", 0o644);
        stack.age();
        pause();
        stack.upper().file("a", "22").perm("a", 0o4755).file("b", "3").perm("b", 0o4755);
        stack.upper().chown("a", 7, 8).unwrap();
        for tree in [&stack.lowers[0], stack.upper()] {
            tree.chown("", 7, 7).unwrap();
        }
        stack.upper().chown("b", 0, 0).unwrap();
        stack.upper().chmod("b", 0o4755).unwrap();
        let work = stack.scratch.dir("work");
        std::os::unix::fs::chown(&work, Some(7), Some(7)).unwrap();
        let lost = as_user(7, 7, || apply(&stack, What::default())).unwrap();
        let lost: Vec<_> = lost.iter().map(|loss| format!("{}: {}", loss.path.display(), loss.what)).collect();
        assert_eq!(lost, ["a: owner 7:8", "b: owner 0:0"]);
        let low = &stack.lowers[0];
        let stat = ["a", "b"].map(|path| low.stat(path).unwrap());
        let told = stat.map(|stat| (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777));
        assert_eq!(told, [(7, 7, 0o755), (7, 7, 0o755)], "without set-user-id");
    });
}

#[test]
fn what_a_user_cannot_keep_is_told_by_a_resume_too() {
    bounded(|| {
        if who() != Who::Root {
            return say_skipped("only root can be root and somebody else");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1").dir("c", 0o755).file("c/x", "");
        for path in ["", "a", "c"] {
            stack.lowers[0].chown(path, 7, 7).unwrap();
        }
        stack.age();
        pause();
        stack.upper().file("b", "3").file("a", "2").dir("c", 0o755).file("c/n", "");
        for path in ["", "a", "c"] {
            stack.upper().chown(path, 7, 7).unwrap();
        }
        stack.upper().chmod("c", 0o555).unwrap();
        let work = stack.scratch.dir("work");
        std::os::unix::fs::chown(&work, Some(7), Some(7)).unwrap();
        let config = config(&stack);
        let stopped = as_user(7, 7, || {
            apply_after(&config, What::default(), || {
                std::thread::sleep(std::time::Duration::from_millis(25));
                std::fs::write(stack.lowers[0].at("a"), "meanwhile").unwrap();
            })
        });
        assert!(matches!(&stopped, Err(Not::Refused(refusal)) if refusal.conflict), "{stopped:?}");
        let Ok(Resumed::Done(lost)) = as_user(7, 7, || resume_with(&config, true)) else { panic!("not resumed") };
        let lost: Vec<_> = lost.iter().map(|loss| format!("{}: {}", loss.path.display(), loss.what)).collect();
        assert_eq!(lost, ["b: owner 0:0", "c/n: owner 0:0"]);
        assert_eq!(stack.lowers[0].mode("c"), 0o555);
        assert_eq!(left_in(stack.upper().root()), [""; 0], "a directory of mode 555 is cleaned, too");
    });
}

#[test]
fn nothing_is_applied_through_a_symlink_and_no_fifo_is_opened() {
    within(60, || {
        let stack = Stack::new(1);
        let outside = stack.scratch.dir("outside");
        std::fs::write(outside.join("f"), "outside").unwrap();
        stack.lowers[0].soft_link(outside.to_str().unwrap(), "d").file("s/f", "1").fifo("p");
        stack.age();
        pause();
        stack.upper().file("d/f", "new").fifo("q").soft_link(outside.to_str().unwrap(), "s").fifo("p");
        apply(&stack, What::default()).unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("f")).unwrap(), "outside");
        assert_eq!(left_in(&outside), ["f"]);
        let low = &stack.lowers[0];
        assert_eq!(
            (low.text("d/f").as_str(), low.readlink("s").unwrap()),
            ("new", outside.as_os_str().as_bytes().to_vec())
        );
        assert_eq!(FileType::from_raw_mode(low.stat("q").unwrap().st_mode), FileType::Fifo);
    });
}

#[test]
fn marks_that_lead_elsewhere_are_refused_and_nothing_is_touched() {
    bounded(|| {
        for (mark, value) in [("redirect", &b"../../etc"[..]), ("metacopy", b"junk")] {
            let stack = Stack::new(1);
            stack.lowers[0].file("d/f", "x").file("g", "x");
            let (upper, prefix) = (stack.upper(), stack::prefix());
            upper.with_xattr("", "user.overlay.impure", b"y").file("new", "").dir("d", 0o755).file("g", "y");
            let path = if mark == "redirect" { "d" } else { "g" };
            upper.with_xattr(path, &format!("{prefix}{mark}"), value);
            stack.age();
            let before = view::layer(stack.lowers[0].root());
            assert!(matches!(apply(&stack, What::default()), Err(Not::Refused(_))), "{mark}");
            view::layer(stack.lowers[0].root()).assert_same(&before, "the lower directory was touched");
        }
    });
}

#[test]
fn the_directory_that_holds_the_upper_layer_is_not_taken_away() {
    bounded(|| {
        let stack = Stack::new(1);
        let low = &stack.lowers[0];
        low.file("home/f", "1").dir("home/store/u", 0o755).dir("home/store/w", 0o755);
        let config = plyfs::config::Config {
            lowers: vec![low.root().to_owned()],
            upper: Some(plyfs::config::UpperDirs { dir: low.at("home/store/u"), work: low.at("home/store/w") }),
            ..Default::default()
        };
        pause();
        if low.mknod("home/store/u/home", FileType::CharacterDevice, 0, 0).is_err() {
            return say_skipped("no whiteout can be made here");
        }
        let Err(Not::Refused(refusal)) = apply_with(&config, What::default()) else { panic!("it was not refused") };
        assert_eq!(refusal.reason, "the upper layer itself is kept in this directory");
        assert_eq!(low.text("home/f"), "1");
    });
}
