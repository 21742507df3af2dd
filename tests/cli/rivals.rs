//! Others who have the layers already: another plyfs, by name and place; the kernel's OverlayFS and fuse-overlayfs, before
//! the mount and after it; and a workdir in which nothing can be written.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use super::errors::fails;
use super::*;
use crate::common::*;

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "lower");
    stack.upper().file("u", "upper");
    stack
}

/// A process in a mount namespace of its own, a copy of this one, that has run `script` there.
struct Keeper(Child);

impl Keeper {
    fn start(script: &str) -> Self {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-ec", &format!("{script}; echo; exec sleep 60")]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap_or_else(|_| panic!("{script}"));
        Keeper(child)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the kernel tells which FUSE mount a process serves.
fn daemons_are_known(view: &Background) -> bool {
    let infos = fs::read_dir(view.proc("fdinfo")).into_iter().flatten().flatten();
    let known =
        infos.filter_map(|info| fs::read_to_string(info.path()).ok()).any(|info| info.contains("fuse_connection"));
    if !known {
        say_skipped("the kernel does not tell which mount a daemon serves (Linux 6.17)");
    }
    known
}

#[test]
fn who_has_an_upper_layer_is_named_with_its_mountpoint() {
    bounded(|| {
        let (stack, second) = (stack(), Stack::new(1));
        let view = Background::start(&stack, "rw");
        let (pid, at) = (view.daemon.as_raw_pid().to_string(), stack.merged.display().to_string());
        let umount = format!("umount {at}");
        let says: &[&str] =
            if daemons_are_known(&view) { &["another plyfs", &pid, &at, &umount] } else { &["another plyfs", &pid] };
        let both = stack.layer_options("work");
        let other_work = stack.layer_options("other");
        let other_upper = both.replace("/upper,", "/lower0/../spare,");
        stack.scratch.dir("spare");
        for options in [both, other_work, other_upper] {
            fails(plyfs(["-o", &options]).arg(&second.merged), 1, says);
        }
    });
}

/// moby#34672: unmounted here, and still there in a namespace that was copied meanwhile.
#[test]
fn a_mount_that_a_leaked_namespace_keeps_is_found() {
    if who() != Who::Root {
        return;
    }
    bounded(|| {
        let (stack, second) = (stack(), Stack::new(1));
        let mut view = Background::start(&stack, "rw");
        if !daemons_are_known(&view) {
            return;
        }
        let keeper = Keeper::start("true");
        unmount_any(&stack.merged, false).unwrap();
        let (pid, at) = (view.daemon.as_raw_pid().to_string(), stack.merged.display().to_string());
        let hint = format!("nsenter -t {} -m umount {at}", keeper.0.id());
        let says = ["in use", &pid, "not mounted here", "(sleep)", &hint];
        fails(plyfs(["-o", &stack.layer_options("work")]).arg(&second.merged), 1, &says);
        assert!(Command::new("sh").args(["-c", &hint]).status().unwrap().success());
        assert_eq!(view.ended(), Some(0));
        // Only a process that is still in it keeps it.
        let mut view = Background::start(&stack, "rw");
        let inside = fs::File::open(&stack.merged).unwrap();
        unmount_any(&stack.merged, true).unwrap();
        let pid = view.daemon.as_raw_pid().to_string();
        fails(plyfs(["-o", &stack.layer_options("work")]).arg(&second.merged), 1, &["in use", &pid, "nowhere", "kill"]);
        drop(inside);
        assert_eq!(view.ended(), Some(0));
    });
}

/// Makes a directory one in which this user cannot make anything; what takes that back.
fn closed(dir: &Path) -> Option<impl FnOnce() + use<'_>> {
    let done = match who() {
        Who::Root => Command::new("chattr").arg("+i").arg(dir).status().is_ok_and(|status| status.success()),
        Who::User => fs::set_permissions(dir, fs::Permissions::from_mode(0o555)).is_ok(),
        Who::Namespace => false,
    };
    done.then_some(move || {
        let _ = Command::new("chattr").arg("-i").arg(dir).status();
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    })
}

#[test]
fn a_workdir_that_cannot_be_written_to_makes_the_view_read_only() {
    bounded(|| {
        for inner in ["", "work"] {
            let stack = stack();
            stack.upper().file("f", "changed");
            let work = stack.scratch.dir("work");
            let closed_dir = work.join(inner);
            fs::create_dir_all(&closed_dir).unwrap();
            let Some(open) = closed(&closed_dir) else { skip!("no directory is closed to this user") };
            // In work/work of his own a user helps himself.
            let expected = if who() == Who::User && inner == "work" { "" } else { "read-only" };
            let before = view::layer(stack.upper().root());
            adopt_orphans();
            let out = plyfs(["-o", &stack.layer_options("work")]).arg(&stack.merged).output().unwrap();
            let said = stderr(&out);
            let entry = Entry::of(&stack.merged);
            let wrote = fs::write(stack.merged.join("new"), "x").map_err(|error| error.raw_os_error());
            let read = ["f", "u"].map(|name| fs::read_to_string(stack.merged.join(name)).unwrap_or_default());
            if let Some(pid) = daemon_of(&stack.merged) {
                unmount_any(&stack.merged, true).unwrap();
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            }
            let after = view::layer(stack.upper().root());
            let kernel = (who() == Who::Root).then(|| {
                let at = stack.scratch.dir("kernel");
                let kernel = mount::Kernel::with(&stack.layer_options("work"), &at).unwrap();
                let entry = Entry::of(&at).unwrap();
                drop(kernel);
                entry.of_kernel.contains("ro")
            });
            open();
            assert!(out.status.success() && said.contains(expected), "{inner:?}: {said}");
            if expected.is_empty() {
                continue;
            }
            assert!(said.lines().count() == 1 && said.contains("workdir="), "{said}");
            assert!(entry.is_some_and(|entry| entry.has("ro")), "{inner:?}");
            assert_ne!(kernel, Some(false), "the kernel's OverlayFS is writable");
            assert_eq!((wrote, read), (Err(Some(libc::EROFS)), ["changed".into(), "upper".into()]));
            after.assert_same(&before, "a read-only view");
        }
    });
}

#[test]
fn an_upper_on_a_read_only_file_system_is_refused_as_by_the_kernel() {
    if who() == Who::User {
        return;
    }
    bounded(|| {
        let stack = stack();
        let at = stack.scratch.dir("tmpfs");
        let Some(_held) = scratch::Mounted::tmpfs(&at) else { skip!("no tmpfs to be had") };
        fs::create_dir(at.join("u")).unwrap();
        fs::create_dir(at.join("w")).unwrap();
        assert!(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(&at).status().unwrap().success());
        let (lower, dirs) = (stack.lowers[0].root().display(), at.display());
        let options = format!("lowerdir={lower},upperdir={dirs}/u,workdir={dirs}/w");
        fails(plyfs(["-o", &options]).arg(&stack.merged), 1, &["read-only", "lowerdir="]);
    });
}

/// The kernel's OverlayFS, mounted by a shell in `dir`, so that its paths may be relative.
fn kernel_mount(dir: &Path, options: &str, at: &str) -> Option<scratch::Mounted> {
    let more = if who() == Who::Root { "index=off" } else { "userxattr" };
    let mut command = Command::new("mount");
    command.args(["-t", "overlay", "overlay", "-o", &format!("{options},{more}"), at]).current_dir(dir);
    let done = command.status().is_ok_and(|status| status.success());
    done.then(|| scratch::Mounted::adopt(&dir.join(at)))
}

#[test]
fn an_upper_that_the_kernels_overlayfs_writes_is_refused() {
    if who() == Who::User {
        return;
    }
    bounded(|| {
        let stack = stack();
        let base = stack.scratch.path().to_owned();
        for dir in ["work", "k", "k2", "upper 2", "work2", "lower9"] {
            stack.scratch.dir(dir);
        }
        let dirs = base.display();
        let options = stack.layer_options("work");
        let tries = [
            (format!("lowerdir={dirs}/lower9,upperdir={dirs}/upper,workdir={dirs}/work2"), "upperdir"),
            (format!("lowerdir={dirs}/lower9,upperdir={dirs}/upper 2,workdir={dirs}/work"), "workdir"),
            (format!("lowerdir={dirs}/lower9,upperdir={dirs}/lower9/../upper,workdir={dirs}/work2"), "upperdir"),
            ("lowerdir=lower9,upperdir=upper,workdir=work2".to_owned(), "upperdir"),
        ];
        for (theirs, option) in tries {
            let Some(held) = kernel_mount(&base, &theirs, "k") else { skip!("no OverlayFS of the kernel here") };
            let at = format!("umount {dirs}/k");
            fails(plyfs(["-o", &options]).arg(&stack.merged), 1, &["OverlayFS", option, &at, "old data"]);
            drop(held);
        }
        if who() == Who::Root {
            let script = format!(
                "cd {dirs}; mount -t overlay overlay -o lowerdir={dirs}/lower9,upperdir={dirs}/upper,workdir={dirs}/work2 {dirs}/k"
            );
            let keeper = Keeper::start(&script);
            let hint = format!("nsenter -t {} -m umount {dirs}/k", keeper.0.id());
            fails(plyfs(["-o", &options]).arg(&stack.merged), 1, &["OverlayFS", "sleep", &hint]);
        }
        // What is only seen there, or here, is said.
        let said = |theirs: &str, word: &str| {
            let held = kernel_mount(&base, theirs, "k").unwrap();
            let out = plyfs(["-o", &options]).arg(&stack.merged).output().unwrap();
            let said = stderr(&out);
            if let Some(pid) = daemon_of(&stack.merged) {
                unmount_any(&stack.merged, true).unwrap();
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            }
            assert!(out.status.success() && said.contains(word) && said.contains("/k"), "{theirs}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            drop(held);
        };
        adopt_orphans();
        said(&format!("lowerdir={dirs}/lower9:{dirs}/upper"), "upperdir=");
        said(&format!("lowerdir={dirs}/lower9,upperdir={dirs}/lower0,workdir={dirs}/work2"), "lowerdir=");
        // Nothing of ours: not a word.
        let held =
            kernel_mount(&base, &format!("lowerdir={dirs}/lower0,upperdir={dirs}/upper 2,workdir={dirs}/work2"), "k");
        let view = Background::start(&stack, "rw");
        drop((view, held));
    });
}

#[test]
fn an_overlay_of_the_kernel_that_comes_later_is_told() {
    if who() == Who::User {
        return;
    }
    bounded(|| {
        let stack = stack();
        let base = stack.scratch.path().to_owned();
        for dir in ["k", "upper2", "work2"] {
            stack.scratch.dir(dir);
        }
        let view = stack.mount();
        let lower = stack.lowers[0].root().display();
        let other = format!("lowerdir={lower},upperdir=upper2,workdir=work2");
        let Some(held) = kernel_mount(&base, &other, "k") else { skip!("no OverlayFS of the kernel here") };
        drop(held);
        std::thread::sleep(std::time::Duration::from_millis(1500));
        assert_eq!(view.messages(), "", "nothing of ours");
        let same = format!("lowerdir={lower},upperdir={0}/upper,workdir={0}/work2", base.display());
        let _held = kernel_mount(&base, &same, "k").unwrap();
        let told = || view.messages().contains("unmount one of the two");
        assert!(wait_until(told), "not a word: {}", view.messages());
        assert_eq!(view.messages().lines().count(), 1, "{}", view.messages());
    });
}

#[test]
fn an_upper_that_fuse_overlayfs_writes_is_refused() {
    bounded(|| {
        let (stack, second) = (stack(), Stack::new(1));
        let mut command = Command::new("fuse-overlayfs");
        command.args(["-o", &stack.layer_options("work")]).arg(&stack.merged);
        if !command.status().is_ok_and(|status| status.success()) {
            skip!("no fuse-overlayfs here");
        }
        let options = format!("{},rw", stack.layer_options("work"));
        let out = plyfs(["-o", &options]).arg(&second.merged).output().unwrap();
        unmount_any(&stack.merged, true).unwrap();
        let said = stderr(&out);
        assert_eq!(out.status.code(), Some(1), "{said}");
        assert!(said.contains("fuse-overlayfs") && said.contains("upperdir") && said.lines().count() == 1, "{said}");
    });
}

/// Anybody can call a program so, and start it with the words that forbid a mount of root's.
#[test]
fn a_program_of_a_user_that_is_called_fuse_overlayfs_forbids_nothing() {
    if who() != Who::Root {
        skip!("root starts a program as another user");
    }
    bounded(|| {
        let stack = stack();
        fs::set_permissions(stack.scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let started = |uid: &str| {
            let script = stack.scratch.path().join("fuse-overlayfs");
            fs::write(&script, "#!/bin/sh\nread line\n").unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={uid}"), "--clear-groups"]).arg(&script);
            command.args(["-o", &stack.layer_options("work")]).stdin(Stdio::piped());
            let child = command.spawn().unwrap();
            assert!(wait_until(|| {
                fs::read_to_string(format!("/proc/{}/comm", child.id())).is_ok_and(|name| name.starts_with("fuse-over"))
            }));
            child
        };
        for (uid, status) in [("0", Some(1)), ("65534", Some(0))] {
            let mut other = started(uid);
            let out =
                plyfs(["-o", &format!("{},rw", stack.layer_options("work"))]).arg(&stack.merged).output().unwrap();
            let _ = unmount_any(&stack.merged, true);
            other.kill().unwrap();
            other.wait().unwrap();
            assert_eq!(out.status.code(), status, "{uid}: {}", stderr(&out));
        }
    });
}

/// As the kernel warns of its own.
#[test]
fn a_lower_layer_that_another_plyfs_writes_is_told() {
    bounded(|| {
        let (stack, second) = (stack(), Stack::new(1));
        let view = Background::start(&stack, "rw");
        let lower = stack.upper().root().display().to_string();
        adopt_orphans();
        for options in [
            format!("lowerdir={lower}"),
            second.layer_options("work").replacen("lowerdir=", &format!("lowerdir={lower}:"), 1),
        ] {
            let out = plyfs(["-o", &options]).arg(&second.merged).output().unwrap();
            let said = stderr(&out);
            let daemon = daemon_of(&second.merged).unwrap();
            unmount_any(&second.merged, true).unwrap();
            let _ = rustix::process::waitpid(Some(daemon), WaitOptions::empty());
            let pid = view.daemon.as_raw_pid().to_string();
            let told = ["note", &lower, &pid].iter().all(|word| said.contains(word));
            assert!(out.status.success() && told && said.lines().count() == 1, "{options}: {said}");
        }
    });
}
