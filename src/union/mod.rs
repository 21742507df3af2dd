//! The operations of the union, one file a verb. Each is a method of [`Union`] that a file system's request maps to.
//!
//! The pattern of every change: load the view, *prepare* (copy up, stage; no names held), *lock* the names,
//! *revalidate*, *publish* by one system call, *update* the live state, unlock.

mod again;
mod ahead;
mod attr;
mod blocks;
mod cached;
mod change;
mod closed;
mod copy_up;
mod covered;
mod create;
mod dir;
mod fit;
mod identity;
mod in_use;
mod indexed;
mod io;
mod ioctl;
mod link;
mod long;
mod lookup;
mod metacopy;
mod moving;
mod open;
mod overlap;
mod past;
mod protect;
mod remove;
mod rename;
mod resent;
mod restore;
mod rivals;
mod roots;
mod setup;
mod side;
mod sync;
mod types;
mod xattr;

pub use crate::inode::{InodeId, Journal};
pub use crate::sys::stat::{Kind, SetTime, StatFs, Time};
pub use crate::sys::tree::RenameFlags;
pub use blocks::{Completed, Tender};
pub use cached::Held;
pub use change::Notices;
pub use create::{Make, symlink_target};
pub use dir::{DirSink, ListedEntry};
pub use io::{Seek, WriteHow};
pub use long::Operation;
pub use open::OpenHow;
pub use rivals::Rivals;
pub use setup::{Builder, SetupError};
pub use types::{Attr, Caller, Entry, SetAttr};

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use crate::base::config::{Fsync, Timeouts};
use crate::base::sync::RwLock;
use crate::base::{Errno, Result};
use crate::format::mark::Namespace;
use crate::inode::{Inode, Table, Topology};
use crate::layer::{DirPlace, FdCache};
use crate::merge::{CookieKey, Stack};
use crate::upper::{Upper, WhiteoutStyle};

/// What became of options that depend on what the layers can do, in the words of the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// `on`, `follow` or `nofollow`.
    pub redirect_dir: &'static str,
    /// A change of metadata copies no data; without an upper layer: files whose data is elsewhere are shown.
    pub metacopy: bool,
    /// Copied-up hard links are kept together by an index.
    pub index: bool,
    /// The attributes that marks of the upper layer are, or `none`.
    pub marks: &'static str,
    /// How deleted names are written there: `device`, `xattr`, `wh`, or `none`.
    pub whiteouts: &'static str,
}

/// A union of layers, ready to serve: the engine. It needs no mount.
pub struct Union {
    table: Table,
    /// The layers, as lookups need them.
    stack: Stack,
    upper: Option<Upper>,
    /// workdir as a place: where unlinked files that are still held live.
    work: Option<Arc<DirPlace>>,
    /// The topmost root, for `statfs`.
    top: Arc<DirPlace>,
    fds: Arc<FdCache>,
    cookies: CookieKey,
    listings: dir::ListingCache,
    ahead: ahead::Ahead,
    /// Lock order: `inode/locks.rs`.
    topology: RwLock<Topology>,
    noacl: bool,
    static_nlink: bool,
    by_blocks: blocks::ByBlocks,
    timeouts: Timeouts,
    /// About so many names of a directory are in memory while it is listed.
    names_at_once: usize,
    notices: OnceLock<Box<dyn Notices>>,
    /// Written where the mount is to outlive this process.
    journal: Option<Arc<Journal>>,
    notes: Vec<String>,
    /// The upper and the work directory are this process's own, also where nothing can be written there.
    _locks: Vec<OwnedFd>,
}

impl Union {
    /// A builder over [`crate::base::config::Config`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What does not work in full on this upper layer, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What became of the options that depend on the layers.
    pub fn effect(&self) -> Effect {
        let (upper, stack) = (self.upper.as_ref(), &self.stack);
        Effect {
            redirect_dir: match upper.is_some_and(|upper| upper.redirect) {
                true => "on",
                false if stack.follow_redirect => "follow",
                false => "nofollow",
            },
            metacopy: upper.map_or(stack.follow_metacopy, |upper| upper.metacopy),
            index: stack.index.is_some(),
            marks: match upper.map(Upper::namespace) {
                Some(Some(Namespace::Trusted)) => "trusted.overlay",
                Some(Some(Namespace::User)) => "user.overlay",
                _ => "none",
            },
            whiteouts: match upper.map(|upper| upper.style) {
                Some(WhiteoutStyle::Device) => "device",
                Some(WhiteoutStyle::Xattr) => "xattr",
                Some(WhiteoutStyle::File) => "wh",
                None => "none",
            },
        }
    }

    /// How long the kernel may keep what it is told.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Whether POSIX ACLs are interpreted.
    pub fn has_acls(&self) -> bool {
        !self.noacl
    }

    /// Whether anything can be changed.
    pub fn is_writable(&self) -> bool {
        self.upper.is_some()
    }

    /// How many inodes are live.
    pub fn live_inodes(&self) -> usize {
        self.table.len()
    }

    /// The inode of a number that was given out.
    fn inode(&self, id: InodeId) -> Result<Arc<Inode>> {
        self.table.get(id).ok_or(Errno::ESTALE)
    }

    /// The writable layer.
    fn upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    /// Whether what the layers have may be remembered: not where they may change underneath.
    pub fn layers_stay(&self) -> bool {
        let Timeouts { attr, entry, negative } = self.timeouts;
        [attr, entry, negative].iter().all(|timeout| *timeout == Timeouts::FOREVER)
    }

    /// Whether nothing is to be synced.
    fn is_volatile(&self) -> bool {
        self.upper.as_ref().is_none_or(|upper| upper.fsync == Fsync::Volatile)
    }
}
