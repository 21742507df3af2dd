//! The upper layer's file system is full, over its quota, read-only, or gone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::scratch::Mounted;
use crate::common::stack::Layer;
use crate::common::systems::run as program;
use crate::common::*;
use crate::table::{DIRS, Layers, failed, fill, run, run_again, run_blindly};

/// What is wrong with the file system at a place, and how that ends.
struct Cause {
    errno: Errno,
    begin: fn(&Path),
    end: fn(&Path),
    /// Every change needs what is missing.
    all: bool,
}

/// Writes until there is no room, in steps that become smaller; then names, until there is none for these.
fn write_all_over(at: &Path) {
    let fill = at.join("fill");
    std::fs::create_dir(&fill).unwrap();
    let mut file = std::fs::File::create(fill.join("data")).unwrap();
    for step in [1 << 20, 1 << 16, 1 << 12] {
        while file.write_all(&vec![1; step]).and_then(|()| file.sync_data()).is_ok() {}
    }
    let name = |number| fill.join(format!("{number:0>200}"));
    let _ = (0..).find(|number| std::fs::File::create(name(*number)).is_err());
}

fn make_room(at: &Path) {
    std::fs::remove_dir_all(at.join("fill")).unwrap();
    rustix::fs::sync();
}

fn remount(at: &Path, how: &str) {
    program("mount", Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(at)).unwrap();
}

/// While it lasts each change is refused with its errno or done, as it says; afterwards all goes on, and nothing is left.
fn goes_on_after(cause: &Cause, on: &Path) {
    let scratch = Scratch::in_memory();
    let lower = Layer::new(scratch.dir("lower"));
    fill(&lower);
    let long = |number: usize| format!("many/{number:0>200}");
    (0..300).for_each(|number| _ = lower.file(&long(number), "x"));
    let [ours, theirs] = ["plyfs", "kernel"].map(|who| Layers::new(lower.root(), on, &scratch, who));
    let (mut mount, kernel) = (ours.mount(), theirs.mount_kernel());
    for tree in [&*mount, &*kernel] {
        // What is to be changed is in a directory of the upper layer, so that not all fails of that.
        ["first/old", "many/old"].iter().for_each(|dir| tree.mkdir(dir, 0o755).unwrap());
    }
    (cause.begin)(on);
    let done = run(&mount, DIRS[0]);
    for (name, done) in &done {
        assert!(matches!(done, Ok(())) || *done == Err(cause.errno), "{name}: {done:?}");
        assert!(!cause.all || done.is_err(), "{name} is done");
    }
    ours.assert_clean("while it lasts");
    let theirs = run(&kernel, DIRS[0]);
    eprintln!("plyfs: {:?}\nkernel: {:?}", failed(&done), failed(&theirs));
    for (name, done) in &theirs {
        // Where the kernel refuses, it is for the same reason.
        assert!(matches!(done, Ok(())) || *done == Err(cause.errno), "the kernel, {name}: {done:?}");
    }
    // Every removal needs a whiteout, and those in the end a block more.
    let removed: Vec<_> = (0..300).map(|number| (number, mount.unlink(long(number)))).collect();
    for (number, done) in &removed {
        assert!(matches!(done, Ok(())) || *done == Err(cause.errno), "unlink {number}: {done:?}");
        assert_eq!(mount.has(long(*number)), done.is_err(), "unlink {number}: {done:?}");
    }
    assert!(removed.iter().any(|(_, done)| done.is_err()), "no removal had no room");
    (cause.end)(on);
    run_again(&mount, DIRS[0], &done);
    for (number, done) in &removed {
        assert!(done.is_ok() || mount.unlink(long(*number)).is_ok(), "unlink {number}, when the cause is gone");
    }
    assert!(failed(&run(&mount, DIRS[1])).is_empty());
    ours.assert_clean("in the end");
    let before = View::of(&mount, Walk::default());
    mount.remount();
    View::of(&mount, Walk::default()).assert_same(&before, "after a remount");
}

/// A file system for the upper layers; `None` where there is none.
fn ext4(scratch: &Scratch, mib: u64) -> Option<(Mounted, PathBuf)> {
    let at = scratch.dir("on");
    Mounted::ext4(&at, mib).map(|mounted| (mounted, at))
}

#[test]
fn a_full_upper_refuses_what_needs_room_and_goes_on_when_there_is_some() {
    within(120, || {
        let scratch = Scratch::in_memory();
        let Some((_mounted, at)) = ext4(&scratch, 24) else { skip!("no ext4 images") };
        let cause = Cause { errno: Errno::NOSPC, begin: write_all_over, end: make_room, all: false };
        goes_on_after(&cause, &at);
    });
}

#[test]
fn an_upper_over_its_quota_is_refused_with_that_errno() {
    within(120, || {
        let scratch = Scratch::in_memory();
        let system = match System::native("btrfs", &scratch) {
            Ok(system) => system,
            Err(why) => skip!("{why}"),
        };
        let at = system.root();
        let btrfs = |words: &[&str]| program("btrfs-progs", Command::new("btrfs").args(words).arg(at));
        if let Err(why) = btrfs(&["quota", "enable"]).and_then(|()| btrfs(&["qgroup", "limit", "12M"])) {
            skip!("{why}");
        }
        let cause = Cause { errno: Errno::DQUOT, begin: write_all_over, end: make_room, all: false };
        goes_on_after(&cause, at);
    });
}

#[test]
fn an_upper_that_was_made_read_only_says_so_and_can_be_written_again() {
    within(120, || {
        let scratch = Scratch::in_memory();
        let Some((_mounted, at)) = ext4(&scratch, 24) else { skip!("no ext4 images") };
        let begin = |at: &Path| remount(at, "ro");
        let cause = Cause { errno: Errno::ROFS, begin, end: |at| remount(at, "rw"), all: true };
        goes_on_after(&cause, &at);
    });
}

/// As if its disk was pulled out: nothing can be read any more that is not in memory, and nothing comes back.
#[test]
fn an_upper_whose_device_is_gone_gives_eio_and_the_mount_ends_in_order() {
    within(120, || {
        let scratch = Scratch::in_memory();
        let Some((_mounted, at)) = ext4(&scratch, 24) else { skip!("no ext4 images") };
        let lower = Layer::new(scratch.dir("lower"));
        fill(&lower);
        let [ours, theirs] = ["plyfs", "kernel"].map(|who| Layers::new(lower.root(), &at, &scratch, who));
        let (mut mount, kernel) = (ours.mount(), theirs.mount_kernel());
        let before = View::of(&mount, Walk::default());
        let shutdown = Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&at).output();
        if !shutdown.is_ok_and(|out| out.status.success()) {
            skip!("no xfs_io (Debian: xfsprogs) that can shut an ext4 down");
        }
        for (tree, who) in [(&*mount, "plyfs"), (&*kernel, "the kernel")] {
            let done = run_blindly(tree, DIRS[0]);
            for (name, done) in &done {
                assert_eq!(*done, Err(Errno::IO), "{who}, {name}");
            }
        }
        // The lower layer is there all the same.
        View::of(&mount, Walk::default()).assert_same(&before, "without its upper layer");
        assert!(mount.unmount().unwrap().success(), "{}", mount.messages());
    });
}
