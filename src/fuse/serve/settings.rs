//! How a view is mounted, as far as the kernel and the session need to know.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::opens::DataPath;
pub use crate::fuse::turns::Spin;
pub use crate::sys::mount::{Flags, Propagation};

/// Where and how to mount.
#[derive(Debug, Clone)]
pub struct MountSettings {
    /// The directory to mount on, absolute and without symbolic links; for a `given` connection its name.
    pub mountpoint: PathBuf,
    /// The connection of a mount that the caller has made, and will unmount.
    pub given: Option<Arc<OwnedFd>>,
    /// What was asked for; a mount by a normal user is `nosuid` and `nodev` whatever stands here.
    pub flags: Flags,
    /// What becomes of the mount's propagation, one after the other.
    pub propagation: Vec<Propagation>,
    /// Unmount when the daemon dies.
    pub auto_unmount: bool,
    /// The first column of the mount table.
    pub fsname: OsString,
    /// The type in the mount table is `fuse.SUBTYPE`.
    pub subtype: OsString,
    /// Let other users in. A mount by mount(2) always does, as the kernel's OverlayFS.
    pub allow_other: bool,
    /// Requests served at once, at least 1.
    pub threads: usize,
    /// Whether a processor is kept awake while requests follow each other.
    pub spin: Spin,
    /// Files are read ahead of programs (see `fuse/ahead/prefetch.rs`), and directories (`fuse/ahead/walk.rs`).
    pub prefetch: bool,
    /// How data goes between programs and layers.
    pub data: DataPath,
    /// Options for the kernel's security modules, as they stand (`context=…`).
    pub security: Vec<OsString>,
}

impl MountSettings {
    /// The connection of a mount that the caller has made.
    pub fn given(&self) -> Option<BorrowedFd<'_>> {
        self.given.as_ref().map(|fd| fd.as_fd())
    }

    /// Whether files are to be put into the kernel's cache before they are asked for.
    pub fn reads_ahead(&self) -> bool {
        // Where opens are seen an open may wait for a page that is held by the READ for which it is made.
        self.prefetch && self.threads > 1 && !self.data.opens_seen
    }
}
