//! The lower layer's file system goes away.

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, kill_process};

use crate::common::scratch::Mounted;
use crate::common::stack::Layer;
use crate::common::*;
use crate::table::{DIRS, Layers, fill, run_blindly};

/// What is in the upper layer works on.
fn assert_alive(mount: &Tree) {
    assert_eq!(mount.text("new/file"), "in the upper layer");
    mount.write("new/other", "too").unwrap();
    mount.rename("new/other", "new/another").unwrap();
    mount.mkdir("new/dir", 0o755).unwrap();
    mount.unlink("new/another").unwrap();
    mount.rmdir("new/dir").unwrap();
}

fn prepare(mount: &Tree) {
    mount.mkdir("new", 0o755).unwrap();
    mount.write("new/file", "in the upper layer").unwrap();
}

#[test]
fn a_lower_that_is_removed_beneath_gives_errors_and_a_mount_that_lives() {
    within(60, || {
        let scratch = Scratch::in_memory();
        let lower = Layer::new(scratch.dir("lower"));
        fill(&lower);
        let layers = Layers::new(lower.root(), scratch.path(), &scratch, "plyfs");
        let mut mount = layers.mount();
        prepare(&mount);
        mount.names(DIRS[0]).unwrap();
        lower.remove_all("first").unwrap();
        lower.remove_all("second").unwrap();
        for dir in DIRS {
            for (name, done) in run_blindly(&mount, dir) {
                let said = matches!(done, Ok(()) | Err(Errno::NOENT | Errno::STALE | Errno::IO));
                assert!(said, "{dir}, {name}: {done:?}");
            }
        }
        assert_alive(&mount);
        layers.assert_clean("afterwards");
        assert!(mount.unmount().unwrap().success());
    });
}

#[test]
fn a_lower_file_system_that_is_unmounted_lazily_stays_as_long_as_the_mount() {
    within(60, || {
        let scratch = Scratch::in_memory();
        let Some(mounted) = Mounted::tmpfs(&scratch.dir("lower")) else { skip!("tmpfs may not be mounted") };
        let lower = Layer::new(scratch.dir("lower"));
        fill(&lower);
        let layers = Layers::new(lower.root(), scratch.path(), &scratch, "plyfs");
        let mount = layers.mount();
        prepare(&mount);
        let before = View::of(&mount, Walk::default());
        unmount(lower.root(), UnmountFlags::DETACH).unwrap();
        std::mem::forget(mounted);
        assert!(!lower.has(DIRS[0]));
        View::of(&mount, Walk::default()).assert_same(&before, "without the mount of its lower layer");
        for (name, done) in run_blindly(&mount, DIRS[0]) {
            assert_eq!(done, Ok(()), "{name}");
        }
        assert_alive(&mount);
    });
}

#[test]
fn a_lower_whose_daemon_is_killed_gives_what_the_kernel_gives() {
    within(60, || {
        if who() != Who::Root || !Kernel::usable() {
            skip!("no kernel OverlayFS to compare with");
        }
        let scratch = Scratch::in_memory();
        let bottom = Layer::new(scratch.dir("bottom"));
        fill(&bottom);
        let inner = format!("lowerdir={}", bottom.root().display());
        let lower = Mount::with(&inner, &scratch.dir("lower"), &scratch.path().join("inner-log"));
        let [ours, theirs] = ["plyfs", "kernel"].map(|who| Layers::new(lower.root(), scratch.path(), &scratch, who));
        let (mut mount, kernel) = (ours.mount(), theirs.mount_kernel());
        prepare(&mount);
        prepare(&kernel);
        kill_process(lower.pid().unwrap(), Signal::KILL).unwrap();
        assert!(mount::wait_until(|| lower.stat("none").err() == Some(Errno::NOTCONN)));
        let mut differ = Vec::new();
        for ((name, done), (_, kernel)) in run_blindly(&mount, DIRS[0]).into_iter().zip(run_blindly(&kernel, DIRS[0])) {
            assert!(done.is_err() || kernel.is_ok(), "{name} is done, where the kernel says {kernel:?}");
            if done != kernel {
                differ.push(format!("{name}: {done:?}, the kernel: {kernel:?}"));
            }
        }
        assert!(differ.is_empty(), "{}", differ.join("\n"));
        assert_alive(&mount);
        ours.assert_clean("afterwards");
        assert!(mount.unmount().unwrap().success());
    });
}
