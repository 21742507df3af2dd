//! What containers' tools and scripts ask for beside the layers, seen from outside.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::errors::fails;
use super::*;
use crate::common::*;

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "lower").dir("d", 0o755);
    stack
}

/// The fields of the mount table on how the mount at `at` propagates.
fn propagation(at: &Path) -> String {
    let table = common::mount::mount_table();
    let line = table.lines().rfind(|line| line.split(' ').nth(4) == at.to_str()).unwrap();
    let fields = line.split(' ').skip(6).take_while(|field| *field != "-");
    fields.map(|field| field.split(':').next().unwrap()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_mount_propagates_as_it_is_told_to() {
    bounded(|| {
        let stack = stack();
        if !mounts_directly() {
            let options = format!("{},private", stack.layer_options("work"));
            let out = plyfs(["-o", &options]).arg(&stack.merged).output().unwrap();
            let _end = End(&stack.merged);
            assert!(out.status.success() && stderr(&out).contains("private, shared and the like: without effect"));
            return;
        }
        for (options, expected) in [
            ("private", ""),
            ("rprivate", ""),
            ("shared", "shared"),
            ("rshared", "shared"),
            ("shared,private", ""),
            ("private,shared", "shared"),
            ("shared,slave", ""),
            ("unbindable", "unbindable"),
            ("runbindable,private", ""),
            ("rslave,rshared", "shared"),
        ] {
            let _view = Background::start(&stack, options);
            assert_eq!(propagation(&stack.merged), expected, "{options}");
        }
    });
}

#[test]
fn noxattrs_shows_no_attributes_and_keeps_those_of_the_layers() {
    bounded(|| {
        let stack = stack();
        stack.lowers[0].with_xattr("f", "user.kept", b"k");
        for (option, shown) in [("noxattrs", false), ("noxattrs=1", false), ("noxattrs=0", true)] {
            let _view = Background::start(&stack, option);
            let file = stack.merged.join("f");
            let (mut value, mut list) = ([0; 64], [0; 256]);
            let got = rustix::fs::getxattr(&file, c"user.kept", &mut value[..]);
            assert_eq!(got, if shown { Ok(1) } else { Err(Errno::OPNOTSUPP) }, "{option}");
            let set = rustix::fs::setxattr(&file, c"user.new", b"n", XattrFlags::empty());
            assert_eq!(set, if shown { Ok(()) } else { Err(Errno::OPNOTSUPP) }, "{option}");
            let listed = rustix::fs::listxattr(&file, &mut list[..]);
            assert!(if shown {
                listed.is_ok_and(|len| len > 0)
            } else {
                listed == Ok(0) || listed == Err(Errno::OPNOTSUPP)
            });
            fs::write(&file, "changed").unwrap();
        }
        assert_eq!(stack.upper().xattr("f", "user.kept").unwrap(), b"k");
    });
}

#[test]
fn auto_unmount_leaves_no_dead_mount() {
    bounded(|| {
        let stack = stack();
        for (option, stays) in [("auto_unmount", false), ("rw", true)] {
            let mut view = Background::start(&stack, option);
            assert_eq!(fs::read_to_string(stack.merged.join("f")).unwrap(), "lower");
            view.signal(Signal::KILL);
            assert_eq!(view.ended(), None);
            if stays {
                std::thread::sleep(std::time::Duration::from_millis(300));
                assert!(is_mounted(&stack.merged), "{option}");
                unmount_any(&stack.merged, true).unwrap();
            } else {
                assert!(wait_until(|| !is_mounted(&stack.merged)), "{option}: a dead mount stays");
            }
        }
        // Nothing of it outlives the view, and what is mounted there later is left alone.
        let mut view = Background::start(&stack, "auto_unmount");
        unmount_any(&stack.merged, false).unwrap();
        assert_eq!(view.ended(), Some(0));
        drop(view);
        let _view = Background::start(&stack, "rw");
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(is_mounted(&stack.merged));
    });
}

#[test]
fn a_remount_changes_flags_and_nothing_else() {
    bounded(|| {
        let stack = stack();
        let remount = |options: &str| {
            let mut command = plyfs(["-o", &format!("remount,{options}")]);
            command.arg(&stack.merged);
            command
        };
        fails(&mut remount("ro"), 1, &["merged", "no view of plyfs"]);
        let view = Background::start(&stack, "noatime");
        if !mounts_directly() {
            return fails(&mut remount("ro"), 1, &["a normal user cannot remount"]);
        }
        let done = |options: &str| {
            let out = remount(options).output().unwrap();
            assert!(out.status.success(), "{options}: {}", stderr(&out));
            stderr(&out)
        };
        assert_eq!(done("ro"), "");
        assert!(view.entry().has("ro") && view.entry().has("noatime") && !view.entry().has("nosuid"));
        assert_eq!(fs::write(stack.merged.join("f"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
        let told = plyfs(["show"]).arg(&stack.merged).output().unwrap();
        assert!(String::from_utf8_lossy(&told.stdout).contains(" ro\n"));
        assert_eq!(done("rw,nodev,noexec,sync"), "");
        fs::write(stack.merged.join("f"), "changed").unwrap();
        let entry = view.entry();
        assert!(["nodev", "noexec", "noatime"].iter().all(|flag| entry.has(flag)), "{entry:?}");
        assert!(entry.of_kernel.contains("sync") && !entry.has("ro"));
        // As mount(8) calls it for a view that is in no fstab: with what the mount table says.
        assert_eq!(done("exec,async,atime,user_id=0,group_id=0,default_permissions,allow_other"), "");
        let entry = view.entry();
        assert!(entry.has("nodev") && !entry.has("noexec") && !entry.has("noatime"), "{entry:?}");
        // As mount(8) calls it for a line of fstab.
        let said = done(&format!("{},redirect_dir=off,nosuid", stack.layer_options("work")));
        assert!(said.contains("remount leaves lowerdir,upperdir,workdir,redirect_dir as it is"), "{said}");
        assert!(view.entry().has("nosuid"));
        fails(&mut remount("suid"), 1, &["remount,suid", "unmount it"]);
        fails(&mut remount("frobnicate"), 2, &["frobnicate", "unknown"]);
        drop(view);
        let read_only = Stack { upper: None, ..stack };
        let _view = Background::start(&read_only, "ro");
        let mut command = plyfs(["-o", "remount,rw"]);
        fails(command.arg(&read_only.merged), 1, &["remount,rw", "no upper layer"]);
    });
}

/// A `/dev/fuse` that is mounted at `at` by this process, as the set-user-id part of apptainer does: no permissions are
/// checked by the mount's options.
fn mounted(at: &Path, (uid, gid): (u32, u32)) -> OwnedFd {
    let device: OwnedFd = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap().into();
    let options = format!("fd={},rootmode=40000,user_id={uid},group_id={gid},allow_other", device.as_raw_fd());
    let options = std::ffi::CString::new(options).unwrap();
    rustix::mount::mount("fuse", at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).unwrap();
    device
}

/// plyfs on `/dev/fd/7`, as the user with these ids.
fn serve_given(stack: &Stack, device: &OwnedFd, flags: &str, options: &str, ids: Option<(u32, u32)>) -> Child {
    let script = r#"exec 7<&0 </dev/null; exec "$@""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    if let Some((uid, gid)) = ids {
        command.args(["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
    }
    // The build directory may be closed to the user; and what this process has written another thread's may hold open.
    let program = stack.scratch.path().join("plyfs");
    assert!(Command::new("cp").arg(common::mount::binary()).arg(&program).status().unwrap().success());
    command.arg(program).args(flags.split_whitespace()).args(["-o", options, "/dev/fd/7"]);
    command.stdin(Stdio::from(device.try_clone().unwrap())).stderr(Stdio::piped()).spawn().unwrap()
}

fn serve_and_unmount(flags: &str, ids: Option<(u32, u32)>) {
    let stack = stack();
    let (options, base) = (format!("{},noacl", stack.layer_options("work")), stack.scratch.path());
    let at = stack.merged.as_path();
    let _end = End(at);
    if let Some((uid, gid)) = ids {
        let status = Command::new("chown").args(["-R", &format!("{uid}:{gid}")]).arg(base).status().unwrap();
        assert!(status.success());
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let device = mounted(at, ids.unwrap_or((0, 0)));
    let mut child = serve_given(&stack, &device, flags, &options, ids);
    drop(device);
    let mut act = || {
        let mut wrote = Ok(());
        let is_up = wait_until(|| {
            wrote = fs::write(at.join("new"), "n");
            wrote.is_ok()
        });
        if !is_up {
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            let said = child.stderr.take().map(|stderr| std::io::read_to_string(stderr).unwrap_or_default());
            panic!("{flags} {ids:?}: {wrote:?}: {said:?}");
        }
        assert_eq!(fs::read_to_string(at.join("f")).unwrap(), "lower");
        fs::write(at.join("secret"), "s").unwrap();
        fs::set_permissions(at.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    match ids {
        Some((uid, gid)) => as_user(uid, gid, act),
        None => act(),
    }
    // The mount's own options ask the kernel for no check.
    if who() == Who::Root {
        let owner = ids.map_or(0, |(uid, _)| uid);
        let read = || fs::read_to_string(at.join("secret")).map_err(|error| error.kind());
        assert_eq!(as_user(owner + 1000, 65534, read), Err(std::io::ErrorKind::PermissionDenied), "{flags} {ids:?}");
    }
    unmount_any(at, false).unwrap();
    assert!(child.wait().unwrap().success(), "{flags} {ids:?}");
    assert!(wait_until(|| all_of(Path::new("/dev/fd/7")).is_empty()), "{flags}");
    assert_eq!(fs::read_to_string(stack.upper().at("new")).unwrap(), "n");
}

#[test]
fn a_connection_that_the_caller_has_mounted_is_served() {
    if !mounts_directly() {
        skip!("a normal user cannot mount for another");
    }
    bounded(|| {
        // In the foreground and in the background, as this user and, where that can be, as another one.
        let other = (who() == Who::Root).then(common::legs::user);
        for (flags, ids) in [("-f", None), ("", None), ("-f", other), ("--supervise", None)] {
            serve_and_unmount(flags, ids);
        }
        let stack = stack();
        let (options, at) = (stack.layer_options("work"), stack.merged.as_path());
        let _end = End(at);
        // Told to end it leaves the mount to the caller.
        let device = mounted(at, (0, 0));
        let mut child = serve_given(&stack, &device, "-f", &options, None);
        drop(device);
        assert!(wait_until(|| fs::metadata(at.join("f")).is_ok()));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(is_mounted(at));
    });
}

#[test]
fn a_descriptor_that_is_no_connection_is_refused() {
    bounded(|| {
        let stack = stack();
        let options = stack.layer_options("work");
        fails(&mut plyfs(["-o", &options, "/dev/fd/9"]), 1, &["/dev/fd/9", "no open /dev/fuse", "Bad file descriptor"]);
        fails(&mut plyfs(["-o", &options, "/dev/fd/0"]), 1, &["/dev/fd/0", "no open /dev/fuse"]);
        let Ok(device) = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") else {
            skip!("/dev/fuse cannot be opened");
        };
        let out = serve_given(&stack, &device.into(), "", &options, None).wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        assert!(stderr(&out).contains("nothing is mounted with this /dev/fuse yet"), "{}", stderr(&out));
    });
}

/// The binary as a program that knows nothing of it finds it.
fn in_place(stack: &Stack) -> std::path::PathBuf {
    let program = stack.scratch.path().join("fuse-overlayfs");
    if !program.exists() {
        std::os::unix::fs::symlink(common::mount::binary(), &program).unwrap();
    }
    program
}

#[test]
fn in_the_place_of_fuse_overlayfs_it_says_what_that_says() {
    bounded(|| {
        let stack = stack();
        for flag in ["--version", "-V"] {
            let out = Command::new(in_place(&stack)).arg(flag).output().unwrap();
            let said = String::from_utf8(out.stdout).unwrap();
            let lines: Vec<_> = said.lines().collect();
            assert_eq!(lines, ["fuse-overlayfs: version 1.16", &format!("plyfs {}", env!("CARGO_PKG_VERSION"))]);
        }
        let mut command = Command::new(in_place(&stack));
        let options = format!("{},lazytime,frob,x=y", stack.layer_options("work"));
        let out = command.args(["-o", &options]).arg("overlay").arg(&stack.merged).output().unwrap();
        let _end = End(&stack.merged);
        assert_eq!(
            (out.status.success(), &*stderr(&out)),
            (true, "unknown argument ignored: frob\nunknown argument ignored: x=y\n")
        );
        let entry = Entry::of(&stack.merged).unwrap();
        assert_eq!((&*entry.kind, &*entry.source), ("fuse.fuse-overlayfs", "overlay"));
        let out = plyfs(["umount"]).arg(&stack.merged).output().unwrap();
        assert!(out.status.success(), "{}", stderr(&out));
        fails(
            Command::new(in_place(&stack)).args(["-o", "lowerdir=/nonexistent/l"]).arg(&stack.merged),
            1,
            &["/nonexistent/l"],
        );
    });
}
