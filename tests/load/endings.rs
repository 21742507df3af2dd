//! An end that is asked for while files are open: what was written is there.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::process::{Signal, kill_process};

use crate::common::mount::{is_mounted, unmount_any, wait_until};
use crate::common::tree::{pwrite_all, read_all};
use crate::common::*;
use crate::ways;

/// With `io=writeback` what was written is in the kernel's cache only when the signal comes.
#[test]
fn sigterm_with_open_and_unsynced_files_loses_nothing_and_ends_in_order() {
    within(120, || {
        for way in ways() {
            let mut stack = crate::stack(1);
            stack.options = vec![way.into()];
            for i in 0..50 {
                stack.lowers[0].file(&format!("f{i}"), vec![b'l'; 10_000]);
            }
            let mut mount = stack.mount();
            let write = |i: usize| {
                let fd = mount.open(format!("f{i}"), OFlags::RDWR).unwrap();
                pwrite_all(&fd, &vec![b'w'; 8000], 1000).unwrap();
                fd
            };
            let open: Vec<OwnedFd> = (0..50).map(write).collect();
            let new = mount.open("new", OFlags::RDWR | OFlags::CREATE).unwrap();
            pwrite_all(&new, &vec![b'n'; 300_000], 0).unwrap();
            mount.unlink("f49").unwrap();
            // Somebody is in it: the view leaves the tree at once and goes on for those who have it open.
            kill_process(mount.pid().unwrap(), Signal::TERM).unwrap();
            assert!(wait_until(|| !is_mounted(&stack.merged)), "{way}: still mounted");
            for fd in &open {
                pwrite_all(fd, b"late", 20_000).unwrap();
                rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0)).unwrap();
                assert_eq!(read_all(fd).unwrap().len(), 20_004, "{way}");
            }
            drop((open, new));
            let status = mount.ended(Duration::from_secs(15));
            assert!(status.is_some_and(|status| status.success()), "{way}: {status:?}: {}", mount.messages());
            for i in 0..49 {
                let content = stack.upper().read(format!("f{i}")).unwrap();
                assert!(content[1000..9000].iter().all(|byte| *byte == b'w'), "{way}: f{i}");
                assert_eq!(&content[20_000..], b"late", "{way}: f{i}");
            }
            assert_eq!(stack.upper().read("new").unwrap(), vec![b'n'; 300_000], "{way}");
            assert!(stack.upper().is_whiteout("f49"));
            // Nothing is left over that the next mount would have to clean.
            let again = stack.mount();
            assert_eq!(again.names("").unwrap().len(), 50, "{way}");
        }
    });
}

/// Who stores into the kernel's cache may wait there for a READ that the dead daemon had (`src/fuse/ahead/guard.rs`). It takes many
/// kills to see that: one run in some dozens fails without the guard.
#[test]
fn a_daemon_that_is_killed_while_files_are_read_ahead_leaves_nobody_waiting() {
    const FILES: usize = 2000;
    within(120, || {
        let stack = crate::stack(1);
        (0..FILES).for_each(|i| {
            stack.lowers[0].file(&format!("d/{i}"), vec![b'l'; 100 + i * 7 % 9000]);
        });
        for round in 0..40 {
            let mut mount = stack.mount();
            let list = std::fs::read_dir(mount.at("d")).unwrap();
            let order: Vec<_> = list.map(|entry| entry.unwrap().path()).collect();
            assert!(order.iter().all(|path| path.metadata().unwrap().is_file()));
            let readers: Vec<_> = (0..1 + round % 3)
                .map(|_| {
                    let order = order.clone();
                    std::thread::spawn(move || order.iter().try_for_each(|path| std::fs::read(path).map(drop)))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(2 + round as u64 * 7 % 40));
            kill_process(mount.pid().unwrap(), Signal::KILL).unwrap();
            assert!(mount.ended(Duration::from_secs(10)).is_some(), "{round}: the daemon cannot end");
            unmount_any(&stack.merged, true).unwrap();
            for reader in readers {
                assert!(wait_until(|| reader.is_finished()), "{round}: a reader waits");
                let _ = reader.join().unwrap();
            }
        }
    });
}

/// The daemon writes what a program writes that may, and may not itself: an error, and no signal that ends it.
#[test]
fn a_limit_of_file_sizes_does_not_end_the_daemon() {
    within(120, || {
        for way in ways() {
            let stack = crate::stack(1);
            stack.lowers[0].file("lower", vec![b'l'; 1 << 20]);
            let mount = crate::mount_after(&stack, "ulimit -f 256", way);
            let grow = |path: &str| {
                let fd = mount.open(path, OFlags::RDWR | OFlags::CREATE)?;
                pwrite_all(&fd, &vec![b'w'; 1 << 20], 4096)?;
                rustix::fs::fsync(&fd)
            };
            for path in ["new", "lower"] {
                let done = grow(path);
                // The kernel itself writes to files that it has been given.
                let is_given = way.contains("passthrough") && done.is_ok();
                assert!(done == Err(Errno::FBIG) || is_given, "{way}: {path}: {done:?}");
            }
            assert_eq!(mount.read("lower").unwrap().len(), 1 << 20, "{way}");
            mount.write("small", "x").unwrap();
            assert_eq!(mount.text("small"), "x", "{way}");
        }
    });
}
