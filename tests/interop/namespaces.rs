//! `user.overlay.*` that a program sets inside a mount of root's: an attribute of its own, and no mark.

use rustix::fs::XattrFlags;

use crate::common::*;
use crate::side::*;

/// Sets an attribute on the directory of a view as the program would.
fn set(tree: &Tree, path: &str, name: &str, value: &[u8]) {
    rustix::fs::setxattr(tree.at(path), name, value, XattrFlags::empty()).unwrap();
}

/// Before, a name that the kernel shows was hidden by plyfs.
#[test]
fn what_a_program_sets_in_a_kernel_mount_hides_nothing() {
    if who() != Who::Root || !kernel_is_here() || is_kernel() {
        return;
    }
    bounded(|| {
        for attribute in ["user.overlay.opaque", "user.fuseoverlayfs.opaque"] {
            for (name, next) in [("plyfs", PLYFS_ALL), ("kernel", KERNEL_ALL), ("plyfs again", PLYFS_ALL)] {
                let stack = Stack::new(2);
                stack.lowers[0].file("d/low", "x").file("e/low", "x");
                stack.lowers[1].file("d/lowest", "x");
                let first = KERNEL_ALL.mount(&stack, "work").unwrap();
                first.write("d/new", "x").unwrap();
                set(&first, "d", attribute, b"y");
                set(&first, "e", attribute, b"x");
                first.write("e/empty", "").unwrap();
                set(&first, "e/empty", "user.overlay.whiteout", b"y");
                let shown = |tree: &Tree| (tree.names("d").unwrap(), tree.names("e").unwrap());
                let before = shown(&first);
                first.unmount().unwrap();
                for _ in 0..2 {
                    let again = next.mount(&stack, "work").unwrap();
                    assert_eq!(shown(&again), before, "{attribute} {name}");
                    again.write("d/newer", "x").unwrap();
                    again.unlink("d/newer").unwrap();
                    again.unmount().unwrap();
                }
                // As a lower layer, too.
                let above = Stack::new(0);
                let options = format!(
                    "lowerdir={}:{}:{}",
                    stack.upper().root().display(),
                    stack.lowers[0].root().display(),
                    stack.lowers[1].root().display()
                );
                let log = above.scratch.path().join("log");
                let read = Mount::with(&options, &above.merged, &log);
                assert_eq!(shown(&read), before, "{attribute} {name}, as a lower layer");
            }
        }
    });
}

/// A layer of which nobody says who wrote it is read in both namespaces, also after root's plyfs has marked it as its own.
#[test]
fn what_a_users_mark_hides_stays_hidden_over_remounts() {
    if who() != Who::Root || is_kernel() {
        return;
    }
    bounded(|| {
        for root in [None, Some("user.overlay.impure")] {
            let stack = Stack::new(1);
            stack.lowers[0].file("d/low", "x");
            stack.upper().file("d/own", "x").with_xattr("d", "user.overlay.opaque", b"y");
            if let Some(root) = root {
                stack.upper().with_xattr("", root, b"y");
            }
            let mut mount = stack.mount();
            for _ in 0..3 {
                assert_eq!(mount.names("d").unwrap(), ["own"], "{root:?}");
                mount.write("new", "x").unwrap();
                mount.remount();
            }
        }
    });
}
