//! The two that take turns on one set of layers.

use std::ffi::OsString;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::*;

/// Who mounts, and with which options besides the layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Plyfs(&'static str),
    Kernel(&'static str),
    /// Debian's fuse-overlayfs 1.x, which may write its whiteouts as `.wh.` files.
    FuseOverlayfs {
        wh_files: bool,
    },
    /// plyfs by the name of fuse-overlayfs.
    InPlace,
}

/// Where that is installed.
pub const FUSE_OVERLAYFS: &str = "/usr/bin/fuse-overlayfs";

/// All that the formats can hold. Named, as the defaults may depend on the upper layer.
pub const PLYFS_ALL: Side = Side::Plyfs("redirect_dir=on,index=on,metacopy=on");
/// The same for the kernel's OverlayFS; xino only makes its inode numbers unique.
pub const KERNEL_ALL: Side = Side::Kernel("redirect_dir=on,index=on,metacopy=on,xino=on");
/// What the kernel's OverlayFS reads from a mount by a normal user.
pub const PLYFS_PLAIN: Side = Side::Plyfs("redirect_dir=off,index=off,metacopy=off");
/// The kernel's OverlayFS in a user namespace; it refuses all else there.
pub const KERNEL_PLAIN: Side = Side::Kernel("userxattr");

/// A mount of either.
pub enum Live {
    Plyfs(Mount),
    Kernel(Kernel),
}

impl Deref for Live {
    type Target = Tree;
    fn deref(&self) -> &Tree {
        match self {
            Live::Plyfs(mount) => mount,
            Live::Kernel(kernel) => kernel,
        }
    }
}

/// Whether the kernel's OverlayFS stands in for plyfs: a test of these tests.
pub fn is_kernel() -> bool {
    mount::binary() == "kernel"
}

impl Side {
    /// The same, or the kernel's OverlayFS in place of plyfs with `PLYFS_TEST_BIN=kernel`.
    fn real(self) -> Side {
        match self {
            PLYFS_ALL if is_kernel() => KERNEL_ALL,
            PLYFS_PLAIN if is_kernel() => KERNEL_PLAIN,
            other => other,
        }
    }

    /// Mounts the stack at its mountpoint. Both use the same workdir: the index lives in it.
    pub fn mount(self, stack: &Stack, work: &str) -> Result<Live, String> {
        let (layers, log) = (stack.layer_options(work), stack.scratch.path().join("log"));
        match self.real() {
            Side::FuseOverlayfs { wh_files } => {
                Mount::by(fuse_overlayfs(stack, wh_files), &layers, &stack.merged, &log).map(Live::Plyfs)
            }
            Side::InPlace => Mount::by(in_place(stack), &layers, &stack.merged, &log).map(Live::Plyfs),
            Side::Plyfs(options) => {
                Mount::try_with(&format!("{layers},{options}"), &stack.merged, &log).map(Live::Plyfs)
            }
            Side::Kernel(options) => {
                let options = format!("{layers},{options}");
                let kernel = Kernel::with(&options, &stack.merged);
                kernel
                    .map(Live::Kernel)
                    .map_err(|e| format!("the kernel does not mount -o {options}: {e}\n{}", dmesg()))
            }
        }
        .map_err(|why| format!("{self:?}: {why}"))
    }

    /// What is compared. Private attributes of the other one are hidden by each only if it knows them, and the kernel's
    /// d_ino is not judged (wrong after some renames and links, Linux 6.18).
    pub fn walk(self, without_links: bool) -> Walk {
        let numbers = match self.real() {
            Side::Kernel(_) | Side::FuseOverlayfs { .. } => view::Numbers::NotJudged,
            Side::Plyfs(_) | Side::InPlace => view::Numbers::Judged,
        };
        // As root, what one hides the other one does, too.
        let foreign = self.real() == KERNEL_PLAIN;
        Walk { times: true, foreign, numbers, without_links }
    }
}

/// The program, with the setting that only the environment has.
fn fuse_overlayfs(stack: &Stack, wh_files: bool) -> OsString {
    if !wh_files {
        return FUSE_OVERLAYFS.into();
    }
    let script = stack.scratch.path().join("fuse-overlayfs");
    let text = format!("#!/bin/sh\nFUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT=1 exec {FUSE_OVERLAYFS} \"$@\"\n");
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script.into()
}

/// The program under test, where those who look for fuse-overlayfs find it.
fn in_place(stack: &Stack) -> OsString {
    let link = stack.scratch.dir("bin").join("fuse-overlayfs");
    if !link.exists() {
        std::os::unix::fs::symlink(mount::binary(), &link).unwrap();
    }
    link.into()
}

impl Live {
    /// Unmounts; a daemon must end well.
    pub fn unmount(self) -> Result<(), String> {
        match self {
            Live::Kernel(kernel) => drop(kernel),
            Live::Plyfs(mut mount) => match mount.unmount() {
                Some(status) if !status.success() => {
                    return Err(format!("the daemon ended with {status}: {}", mount.messages()));
                }
                _ => {}
            },
        }
        Ok(())
    }
}

/// The last that the kernel's OverlayFS has said.
fn dmesg() -> String {
    let out = Command::new("dmesg").output().map(|o| o.stdout).unwrap_or_default();
    let lines: Vec<_> =
        String::from_utf8_lossy(&out).lines().filter(|l| l.contains("overlayfs")).map(str::to_owned).collect();
    lines[lines.len().saturating_sub(4)..].join("\n")
}

/// The lower layers as they are: nobody may change them.
pub fn lowers(stack: &Stack) -> Vec<View> {
    stack.lowers.iter().map(|l| view::layer(l.root())).collect()
}

/// Fails if they are no longer as they were `before`.
pub fn unchanged(stack: &Stack, before: &[View]) -> Result<(), String> {
    for (now, before) in lowers(stack).iter().zip(before) {
        same(now, before, "a lower layer was changed (after, before)")?;
    }
    Ok(())
}

/// Fails with the differences.
pub fn same(one: &View, two: &View, what: &str) -> Result<(), String> {
    one.difference(two).map_or(Ok(()), |difference| Err(format!("{what}:\n{difference}")))
}

/// Whether the kernel's OverlayFS is there to take turns with; says so if it is not.
pub fn kernel_is_here() -> bool {
    let here = Kernel::usable();
    if !here {
        say_skipped("no kernel OverlayFS to take turns with here");
    }
    here
}
