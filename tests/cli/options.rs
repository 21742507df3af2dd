//! What each option does, seen from outside.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use rustix::fs::XattrFlags;

use super::*;
use crate::common::*;

fn stack() -> Stack {
    let stack = Stack::new(2);
    stack.lowers[0].file("f", "top").file("d/x", "x");
    stack.lowers[1].file("f", "bottom").file("g", "bottom");
    stack
}

#[test]
fn each_flag_stands_in_the_mount_table_and_the_last_of_two_counts() {
    bounded(|| {
        let stack = stack();
        let safe = !mounts_directly();
        for (options, flag, expected) in [
            ("rw", "ro", false),
            ("ro", "ro", true),
            ("ro,rw", "ro", false),
            ("nosuid", "nosuid", true),
            ("suid", "nosuid", safe),
            ("nodev", "nodev", true),
            ("dev", "nodev", safe),
            ("defaults", "nosuid", safe),
            ("defaults", "nodev", safe),
            ("noexec", "noexec", true),
            ("noexec,exec", "noexec", false),
            ("noatime", "noatime", true),
            ("noatime,atime", "noatime", false),
        ] {
            let view = Background::start(&stack, options);
            assert_eq!(view.entry().has(flag), expected, "{options}: {:?}", view.entry());
        }
        for (options, flag, expected) in
            [("sync", "sync", true), ("sync,async", "sync", false), ("dirsync", "dirsync", true)]
        {
            let view = Background::start(&stack, options);
            assert_eq!(view.entry().of_kernel.contains(flag), expected, "{options}: {:?}", view.entry());
        }
        let view = Background::start(&stack, "ro");
        assert_eq!(fs::write(stack.merged.join("new"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        drop(view);
        Background::start(&stack, "default_permissions,rw");
        fs::write(stack.upper().at("program"), "#!/bin/sh\nexit 7\n").unwrap();
        stack.upper().perm("program", 0o755);
        for (options, runs) in [("exec", true), ("noexec", false)] {
            let _view = Background::start(&stack, options);
            let status = Command::new(stack.merged.join("program")).status();
            assert_eq!(status.is_ok_and(|status| status.code() == Some(7)), runs, "{options}");
        }
    });
}

/// fusermount3 drops the two words without an error.
#[test]
fn what_a_normal_user_asks_for_in_vain_is_said_in_one_line() {
    bounded(|| {
        let stack = stack();
        for (options, words) in [
            ("suid", Some("suid: without effect")),
            ("dev", Some("dev: without effect")),
            ("suid,dev", Some("suid,dev: without effect")),
            ("suid,nosuid", None),
            ("defaults", None),
            ("nosuid,nodev", None),
        ] {
            let _end = End(&stack.merged);
            let mut command = plyfs(["-o", &format!("{},{options}", stack.layer_options("work"))]);
            let out = command.arg(&stack.merged).output().unwrap();
            let said = stderr(&out);
            let notes: Vec<&str> = said.lines().filter(|line| line.contains("without effect")).collect();
            assert!(out.status.success(), "{options}: {said}");
            match words.filter(|_| !mounts_directly()) {
                Some(words) => assert!(notes.len() == 1 && notes[0].contains(words), "{options}: {said}"),
                None => assert!(notes.is_empty(), "{options}: {said}"),
            }
        }
    });
}

#[test]
fn names_in_the_mount_table() {
    bounded(|| {
        let stack = stack();
        let names = |view: &Background| (view.entry().kind, view.entry().source);
        let is = |kind: &str, source: &str| (kind.to_owned(), source.to_owned());
        let view = Background::start(&stack, "rw,fsync=strict");
        let (upper, work) = (stack.upper().root().display(), stack.scratch.dir("work"));
        let lowers = format!("{}:{}", stack.lowers[0].root().display(), stack.lowers[1].root().display());
        let shown = format!("upperdir={upper},workdir={},fsync=strict,lowerdir={lowers}", work.display());
        assert_eq!(names(&view), is("fuse.plyfs", &shown));
        drop(view);
        assert_eq!(names(&Background::start(&stack, r"fsname=a\,b,subtype=x")), is("fuse.x", "a,b"));
        let mut command = plyfs(["overlay"]);
        command.arg(&stack.merged).args(["-o", &stack.layer_options("work")]);
        assert_eq!(names(&Background::run(&stack, &mut command)), is("fuse.plyfs", "overlay"));
    });
}

#[test]
fn others_may_enter_where_the_kernel_overlayfs_lets_them() {
    bounded(|| {
        let stack = stack();
        let view = Background::start(&stack, "default_permissions");
        assert!(view.entry().of_kernel.contains("default_permissions"));
        assert_eq!(view.entry().of_kernel.contains("allow_other"), mounts_directly());
        drop(view);
        if mounts_directly() {
            assert!(Background::start(&stack, "allow_other").entry().of_kernel.contains("allow_other"));
            return;
        }
        if fs::read_to_string("/etc/fuse.conf").is_ok_and(|conf| conf.lines().any(|l| l.trim() == "user_allow_other")) {
            assert!(Background::start(&stack, "allow_other").entry().of_kernel.contains("allow_other"));
        } else {
            say_skipped("/etc/fuse.conf lets no normal user give allow_other");
        }
    });
}

#[test]
fn layers_are_named_as_the_kernel_names_them() {
    bounded(|| {
        let stack = Stack::read_only(0);
        let base = stack.scratch.path().to_owned();
        for (dir, name) in [
            ("plain", "plain"),
            ("co:lon", "colon"),
            ("com,ma", "comma"),
            (r"back\slash", "slash"),
            ("\"q\"", "q"),
            ("@at", "at"),
        ] {
            fs::write(stack.scratch.dir(dir).join(name), dir).unwrap();
            fs::write(stack.scratch.dir(dir).join("same"), dir).unwrap();
        }
        fs::write(base.join("list"), format!("{0}/com,ma\n{0}/co:lon\n", base.display())).unwrap();
        let base = base.display();
        for (options, expected) in [
            (format!(r"lowerdir={base}/co\:lon:{base}/com\,ma:{base}/back\\slash"), "colon comma same slash"),
            (
                format!(r"lowerdir+={base}/plain,lowerdir+={base}/co:lon,lowerdir+={base}/back\slash"),
                "colon plain same slash",
            ),
            (format!("lowerdir+=@{base}/list"), "colon comma same"),
            (format!("lowerdir=@{base}/list"), "colon comma same"),
            (format!("lowerdir={base}/co\\:lon,lowerdir={base}/plain"), "plain same"),
            (format!("lowerdir={base}/\"q\""), "q same"),
        ] {
            let _view = Background::run(&stack, plyfs(["-o", &options]).arg(&stack.merged));
            let mut names: Vec<_> =
                fs::read_dir(&stack.merged).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names.join(" "), expected, "{options}");
            let first = options.split('=').nth(1).unwrap().split(':').next().unwrap();
            let top = fs::read_to_string(stack.merged.join("same")).unwrap();
            assert!(first.contains('@') || first.contains(&top[..2]), "{options}: {top} is on top");
        }
        // Relative paths count from where the command was called; the list itself too.
        let mut command = plyfs(["-o", r"lowerdir=\@at:plain", "merged"]);
        command.current_dir(stack.scratch.path());
        adopt_orphans();
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        assert_eq!(fs::read_to_string(stack.merged.join("same")).unwrap(), "@at");
        unmount_any(&stack.merged, false).unwrap();
    });
}

#[test]
fn a_layer_that_is_given_by_itself_is_the_path_as_it_stands() {
    bounded(|| {
        let stack = Stack::read_only(0);
        for dir in ["a", "b", "c:d", r"c\:d", r"e\\f", r"g\,h", r#""q""#] {
            fs::write(stack.scratch.dir(dir).join(format!("in {dir}")), "x").unwrap();
        }
        let base = stack.scratch.path().display().to_string();
        let kernel = who() == Who::Root && Kernel::usable();
        if !kernel {
            say_skipped("the kernel's answers: its OverlayFS as root is needed");
        }
        for (options, expected) in [
            ("lowerdir+=/a,lowerdir+=/c:d", Some("in a|in c:d")),
            (r"lowerdir+=/a,lowerdir+=/c\:d", Some(r"in a|in c\:d")),
            (r"lowerdir+=/a,lowerdir+=/e\\f", Some(r"in a|in e\\f")),
            (r"lowerdir+=/a,lowerdir+=/g\,h", Some(r"in a|in g\,h")),
            (r#"lowerdir+=/a,lowerdir+=/"q""#, Some(r#"in "q"|in a"#)),
            (r"lowerdir+=/a,lowerdir+=/e\f", None),
            ("lowerdir+=/a,lowerdir+=/a:/b", None),
            (r"lowerdir+=/a,lowerdir+=/b,datadir+=/c\:d", Some("in a|in b")),
            (r"lowerdir+=/a,lowerdir+=/b,datadir+=/e\f", None),
            // One list of all layers, or each by itself.
            ("lowerdir=/a:/b,lowerdir+=/c:d", None),
            ("lowerdir=/a:/b,datadir+=/c:d", None),
            ("lowerdir=/a:/b::/c\\:d,datadir+=/e\\\\f", None),
            ("lowerdir+=/c:d,lowerdir+=/g\\,h,lowerdir=/a:/b", Some("in a|in b")),
            ("lowerdir+=/c:d,datadir+=/g\\,h,lowerdir=/a:/b", Some("in a|in b")),
        ] {
            let options = options.replace("=/", &format!("={base}/")).replace(":/", &format!(":{base}/"));
            let names = || {
                let mut names: Vec<_> = fs::read_dir(&stack.merged)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect();
                names.sort();
                names.join("|")
            };
            if kernel {
                let got = Kernel::with(&options, &stack.merged).ok().map(|_view| names());
                assert_eq!(got.as_deref(), expected, "the kernel: {options}");
            }
            match expected {
                Some(expected) => {
                    let _view = Background::run(&stack, plyfs(["-o", &options]).arg(&stack.merged));
                    assert_eq!(names(), expected, "{options}");
                }
                None => {
                    let out = plyfs(["-o", &options]).arg(&stack.merged).output().unwrap();
                    assert!(!out.status.success() && stderr(&out).lines().count() == 1, "{options}: {}", stderr(&out));
                }
            }
        }
    });
}

#[test]
fn options_may_be_given_in_pieces() {
    bounded(|| {
        let stack = stack();
        let layers = stack.layer_options("work");
        let mut command = plyfs(["mount", "-o", "noexec", "-onoatime"]);
        command.arg(&stack.merged).args(["-o", &format!(",,{layers},")]);
        let entry = Background::run(&stack, &mut command).entry();
        assert!(entry.has("noexec") && entry.has("noatime") && !entry.has("ro"), "{entry:?}");
    });
}

#[test]
fn without_an_upper_layer_nothing_changes() {
    bounded(|| {
        let stack = Stack::read_only(1);
        stack.lowers[0].file("f", "x");
        let view = Background::start(&stack, "rw");
        assert!(view.entry().has("ro"));
        for result in [
            fs::write(stack.merged.join("f"), "y"),
            fs::remove_file(stack.merged.join("f")),
            fs::create_dir(stack.merged.join("d")),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
        }
        assert_eq!(fs::read_to_string(stack.merged.join("f")).unwrap(), "x");
    });
}

#[test]
fn threads_are_as_many_as_asked_for() {
    bounded(|| {
        let stack = stack();
        for threads in [1, 3] {
            let view = Background::start(&stack, &format!("threads={threads}"));
            let workers = || {
                let tasks = fs::read_dir(view.proc("task")).unwrap();
                let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
                names.filter(|name| name.starts_with("fuser-")).count()
            };
            // A thread names itself once it runs, which may be after the mount answers.
            wait_until(|| workers() >= threads);
            assert_eq!(workers(), threads);
        }
    });
}

/// How many requests of one kind the kernel sends while `act` runs, by the log of `-d`.
fn requests(stack: &Stack, options: &str, kind: &str, act: impl Fn()) -> usize {
    let log = stack.scratch.path().join("requests");
    let options = format!("{},{options}", stack.layer_options("work"));
    let mut command = plyfs(["-d", "-o", &options]);
    command.arg(&stack.merged).stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
    assert!(wait_until(|| is_mounted(&stack.merged)));
    fs::metadata(&stack.merged).unwrap();
    let count = || fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains(kind)).count();
    let before = count();
    act();
    unmount_any(&stack.merged, false).unwrap();
    assert!(child.wait().unwrap().success());
    count() - before
}

#[test]
fn the_kernel_keeps_what_it_was_told_as_long_as_it_is_allowed_to() {
    bounded(|| {
        let stack = stack();
        let five = |name: &str| {
            for _ in 0..5 {
                let _ = fs::metadata(stack.merged.join(name));
            }
        };
        for (options, kind, name, often) in [
            ("timeout=60", "GETATTR", "f", false),
            ("attr_timeout=0", "GETATTR", "f", true),
            ("timeout=0,attr_timeout=60", "GETATTR", "f", false),
            ("timeout=60", "LOOKUP", "f", false),
            ("entry_timeout=0", "LOOKUP", "f", true),
            ("timeout=0", "LOOKUP", "f", true),
            ("negative_timeout=60", "LOOKUP", "missing", false),
            ("negative_timeout=0", "LOOKUP", "missing", true),
            ("timeout=0", "LOOKUP", "missing", true),
            ("timeout=0.0", "LOOKUP", "missing", true),
        ] {
            let sent = requests(&stack, options, kind, || five(name));
            assert_eq!(sent >= 4, often, "{options}: {sent} {kind} for five stats of {name}");
        }
    });
}

#[test]
fn debug_stays_in_the_foreground_and_logs() {
    bounded(|| {
        let stack = stack();
        for flag in [&["-d"][..], &["--debug"], &["-f", "-o", "debug"]] {
            let log = stack.scratch.path().join("log");
            let mut command = plyfs(flag);
            command.args(["-o", &stack.layer_options("work")]).arg(&stack.merged).stdout(Stdio::null());
            let mut child = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
            assert!(wait_until(|| is_mounted(&stack.merged)));
            fs::metadata(stack.merged.join("f")).unwrap();
            unmount_any(&stack.merged, false).unwrap();
            assert!(child.wait().unwrap().success(), "{flag:?}");
            assert!(fs::read_to_string(&log).unwrap().contains("LOOKUP"), "{flag:?}");
        }
    });
}

/// A look that is under way when the mount begins to be served: the kernel takes no answer to it that a notice overtakes,
/// and the root has no permissions until then.
#[test]
fn the_first_look_at_a_mount_is_answered() {
    bounded(|| {
        let stack = stack();
        for _ in 0..40 {
            let mut command = plyfs(["-f", "-o", &stack.layer_options("work")]);
            let mut child = command.arg(&stack.merged).stderr(Stdio::null()).spawn().unwrap();
            while !is_mounted(&stack.merged) {
                std::hint::spin_loop();
            }
            let looked = fs::metadata(stack.merged.join("f")).map(drop);
            unmount_any(&stack.merged, false).unwrap();
            assert!(child.wait().unwrap().success());
            looked.unwrap();
        }
    });
}

#[test]
fn a_volatile_view_is_marked_where_podman_looks_for_it() {
    bounded(|| {
        let stack = stack();
        let mark = stack.scratch.path().join("work/work/incompat/volatile");
        for options in ["volatile", "fsync=volatile", "fsync=0", "volatile,fsync=0"] {
            let view = Background::start(&stack, options);
            assert!(fs::symlink_metadata(&mark).is_ok(), "{options}");
            drop(view);
            // The kernel refuses such a workdir until the mark is gone; what removes it is not this test's affair.
            let _ = fs::remove_dir_all(mark.parent().unwrap());
        }
        for options in ["fsync=auto", "fsync=1", "fsync=strict", "rw"] {
            let _view = Background::start(&stack, options);
            assert!(fs::symlink_metadata(&mark).is_err(), "{options}");
        }
    });
}

/// How often the daemon syncs while a lower file is changed, and a new one fsynced.
fn syncs(options: &str) -> Option<usize> {
    let stack = stack();
    let trace = stack.scratch.path().join("trace");
    let all = format!("{},{options}", stack.layer_options("work"));
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs,sync_file_range", "-o"]).arg(&trace);
    command.arg(common::mount::binary()).args(["-f", "-o", &all]).arg(&stack.merged);
    let mut child = command.stderr(Stdio::null()).spawn().ok()?;
    let mounted = wait_until(|| is_mounted(&stack.merged) || child.try_wait().unwrap().is_some());
    if !mounted || !is_mounted(&stack.merged) {
        return None;
    }
    stack.upper().file("unused", "");
    fs::write(stack.merged.join("g"), "changed").unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(stack.merged.join("f")).unwrap();
    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    drop(file);
    rustix::fs::chmod(stack.merged.join("d/x"), 0o600.into()).unwrap();
    unmount_any(&stack.merged, false).unwrap();
    child.wait().unwrap();
    Some(fs::read_to_string(&trace).unwrap().lines().filter(|line| line.contains("sync")).count())
}

#[test]
fn what_is_synced_follows_the_option() {
    bounded(|| {
        let Some(volatile) = syncs("volatile") else { skip!("no strace, or it may not trace here") };
        let (auto, strict) = (syncs("fsync=auto").unwrap(), syncs("fsync=strict").unwrap());
        assert_eq!(volatile, 0);
        assert!(auto > 0 && strict > auto, "auto {auto}, strict {strict}");
    });
}

#[test]
fn numbers_are_unique_in_every_mode() {
    bounded(|| {
        let stack = stack();
        for options in ["xino=off", "xino=auto", "rw"] {
            let _view = Background::start(&stack, options);
            let numbers: BTreeSet<u64> = ["", "f", "g", "d", "d/x"]
                .iter()
                .map(|name| fs::symlink_metadata(stack.merged.join(name)).unwrap().ino())
                .collect();
            assert_eq!(numbers.len(), 5, "{options}");
        }
    });
}

/// `system.posix_acl_access` that lets user 1 read.
fn acl() -> Vec<u8> {
    let entry =
        |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let id = rustix::process::getuid().as_raw();
    [
        2u32.to_le_bytes().to_vec(),
        entry(1, 6, none),
        entry(2, 4, id),
        entry(4, 4, none),
        entry(16, 4, none),
        entry(32, 4, none),
    ]
    .concat()
}

#[test]
fn noacl_leaves_acls_alone() {
    bounded(|| {
        let stack = stack();
        let probe =
            rustix::fs::setxattr(stack.lowers[0].at("f"), c"system.posix_acl_access", &acl(), XattrFlags::empty());
        if let Err(errno) = probe {
            skip!("no ACLs on the file system for tests: {errno}");
        }
        let read = || {
            let mut value = [0; 256];
            rustix::fs::getxattr(stack.merged.join("f"), c"system.posix_acl_access", &mut value[..])
        };
        let view = Background::start(&stack, "rw");
        assert_eq!(read().map(|n| n > 0), Ok(true));
        drop(view);
        let _view = Background::start(&stack, "noacl");
        assert!(read().is_err());
    });
}

#[test]
fn static_nlink_shows_one_link() {
    bounded(|| {
        let stack = stack();
        stack.lowers[0].dir("d/e", 0o755);
        let _view = Background::start(&stack, "static_nlink");
        assert_eq!(fs::metadata(stack.merged.join("d")).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(stack.merged.join("f")).unwrap().nlink(), 1);
    });
}

#[test]
fn copyup_block_copies_blocks_and_complete_the_rest() {
    bounded(|| {
        let stack = stack();
        stack.lowers[0].file("large", "0123456789abcdef".repeat(1 << 16));
        let expected = "0123456789abcdef".repeat(1 << 16).replacen("0123", "0-23", 1);
        {
            let _view = Background::start(&stack, "copyup_block=4K");
            let file = fs::OpenOptions::new().write(true).open(stack.merged.join("large")).unwrap();
            file.write_all_at(b"-", 1).unwrap();
            assert!(fs::read_to_string(stack.merged.join("large")).unwrap() == expected);
            assert!(fs::metadata(stack.upper().at("large")).unwrap().blocks() * 512 <= 4 * 4096);
        }
        let complete = || {
            let out = plyfs(["complete", "-o", &stack.layer_options("work")]).output().unwrap();
            (out.status.code(), String::from_utf8(out.stdout).unwrap())
        };
        assert_eq!(complete(), (Some(0), "1 files completed\n".to_owned()));
        assert_eq!(complete(), (Some(0), "0 files completed\n".to_owned()));
        assert!(fs::read_to_string(stack.upper().at("large")).unwrap() == expected);
        for right in ["copyup_block=4k", "copyup_block=1MiB", "copyup_block=16m,copyup_rate=5g"] {
            let _view = Background::start(&stack, right);
        }
        let wrong = ["copyup_block=1K", "copyup_block=5000", "copyup_block=32M", "copyup_rate=fast"];
        for option in wrong {
            let out = plyfs(["-o", &format!("{},{option}", stack.layer_options("work"))])
                .arg(&stack.merged)
                .output()
                .unwrap();
            assert_eq!(out.status.code(), Some(2), "{option}: {}", stderr(&out));
        }
        assert_eq!(
            plyfs(["complete", "-o", &stack.layer_options("work"), "here"]).output().unwrap().status.code(),
            Some(2)
        );
    });
}

#[test]
fn words_with_nothing_to_do_are_accepted_together() {
    bounded(|| {
        let stack = stack();
        let words = "defaults,auto,noauto,nofail,_netdev,user,users,nouser,relatime,strictatime,nodiratime,lazytime,\
            x-systemd.automount,X-mount.mkdir=0755,comment=a b,async,suid,dev,exec,redirect_dir=off,redirect_dir=nofollow,\
            index=off,metacopy=off,nfs_export=off,verity=off,uuid=null,xino=auto,threaded=1,writeback=1,fast_ino=0,\
            noxattrs=0,xattr_permissions=0,kernel_cache,max_write=4096,splice_read,override_creds,nonempty";
        let _view = Background::start(&stack, words);
        assert_eq!(fs::read_to_string(stack.merged.join("f")).unwrap(), "top");
    });
}

#[test]
fn xattr_permissions_keeps_owners_and_modes_in_attributes() {
    bounded(|| {
        for (value, key) in [(1, c"security.fuseoverlayfs.override_stat"), (2, c"user.containers.override_stat")] {
            if value == 1 && who() != Who::Root {
                continue;
            }
            let stack = stack();
            let _view = Background::start(&stack, &format!("xattr_permissions={value}"));
            fs::write(stack.merged.join("new"), "x").unwrap();
            fs::set_permissions(stack.merged.join("new"), fs::Permissions::from_mode(0o4711)).unwrap();
            let mut mark = [0; 64];
            let len = rustix::fs::getxattr(stack.upper().at("new"), key, &mut mark[..]).unwrap();
            let mark = String::from_utf8_lossy(&mark[..len]).into_owned();
            assert!(mark.ends_with(":4711:file"), "{mark}");
            assert_eq!(stack.upper().mode("new") & 0o7000, 0);
        }
    });
}

#[test]
fn userxattr_puts_the_marks_where_a_normal_user_can_write_them() {
    bounded(|| {
        let stack = stack();
        let _view = Background::start(&stack, "userxattr");
        fs::remove_dir_all(stack.merged.join("d")).unwrap();
        fs::create_dir(stack.merged.join("d")).unwrap();
        let mut value = [0; 8];
        let read = rustix::fs::getxattr(stack.upper().at("d"), c"user.overlay.opaque", &mut value[..]);
        assert_eq!(read.map(|n| value[..n].to_vec()), Ok(b"y".to_vec()));
    });
}

#[test]
fn help_and_version_are_printed_without_a_mount() {
    let most_need = ["lowerdir=", "upperdir=", "volatile", "-f", "fusermount3 -u", "--help-all"];
    let few_need = ["allow_root", "x-*", "-N NAMESPACE"];
    for (args, is_all) in [
        (&["-h"][..], false),
        (&["--help"], false),
        (&["mount", "--help"], false),
        (&["--help-all"], true),
        (&["show", "--help-all"], true),
    ] {
        let out = plyfs(args).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && out.stderr.is_empty());
        for word in most_need {
            assert!(text.contains(word), "{args:?}: {word}");
        }
        for word in few_need {
            assert_eq!(text.contains(word), is_all, "{args:?}: {word}");
        }
    }
    for command in ["mount", "show", "umount", "complete", "help"] {
        let out = plyfs(["help", command]).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{command}");
        assert!(text.starts_with("plyfs ") && text.contains(command) && text.lines().count() < 10, "{text}");
    }
    assert_eq!(plyfs(["help"]).output().unwrap().stdout, plyfs(["--help"]).output().unwrap().stdout);
    for flag in ["-V", "--version"] {
        let out = plyfs([flag]).output().unwrap();
        assert!(out.status.success());
        assert_eq!(String::from_utf8(out.stdout).unwrap(), format!("plyfs {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn the_documents_list_the_options_as_they_are() {
    let options = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/options.md");
    let Ok(listed) = fs::read_to_string(&options) else { skip!("the sources are closed to this user") };
    for row in ::plyfs::cli::help::markdown().lines().filter(|row| row.starts_with('|')) {
        assert!(listed.contains(row), "docs/options.md lacks this row, or has another one:\n{row}");
    }
}
