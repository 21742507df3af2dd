//! One layer as it stands on disk: its directories and their descriptors, the objects in them and their marks.
//!
//! Nothing here knows of the union: a layer's role is its position in a stack, which floors above hold.

mod fd_cache;
mod folding;
mod hidden;
mod index;
mod list;
mod marks;
mod origin;
mod place;
pub mod verity;

pub use fd_cache::{Evict, FdCache};
pub use folding::{Folding, is_folding_root};
pub use hidden::{DirId, Hidden, HiddenDir};
pub use index::IndexDir;
pub use list::{ListedName, NameSink, list_names};
pub use marks::{DirMarks, LeafMarks, LookedUp, look_up, read_dir_marks, read_leaf_marks};
pub use origin::{index_of, origin_of, resolve};
pub use place::{DirPlace, Place};

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use crate::base::sync::{AtomicU32, RwLock};
use crate::base::{Errno, Result};
use crate::format::mark::{Namespace, WhiteoutStyle};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::tree;

/// What is the same for everything in one layer.
#[derive(Debug)]
pub struct Layer {
    /// For messages.
    pub path: std::path::PathBuf,
    /// `st_dev` of the root.
    pub dev: u64,
    /// By what marks name the root's file system (zeros where it has no UUID).
    pub uuid: [u8; 16],
    /// The UUID of that, also where marks are without.
    pub real_uuid: [u8; 16],
    /// What the file handles of its objects are good for.
    pub handles: Handles,
    /// A name is found there if and only if the directory lists it.
    pub exact_names: bool,
    /// What its directories may be.
    pub folding: Folding,
    /// An object has one inode number for as long as it is there. Elsewhere (FUSE, vfat, CIFS) it may get another when the
    /// kernel forgets it.
    pub lasting_numbers: bool,
    /// Objects of this layer give no set-user-id, set-group-id or file capability.
    pub nosuid: bool,
    /// `.wh.` names are whiteouts here (not in a layer of overlay style, where a user may make such a name).
    pub wh_names: bool,
    /// The layer is the upper one, and how it hides names.
    pub upper_style: Option<WhiteoutStyle>,
    /// The root is a private clone of the mount: no other mount can lie below it.
    pub isolated: bool,
    /// Directories in it that are not shown.
    pub hidden: Hidden,
    /// The namespaces whose whiteouts and opaque marks count, the mount's own first; what stands in another one is a user's.
    pub reads: &'static [Namespace],
    /// The namespace of all other marks.
    pub namespace: Namespace,
    /// The namespace whose marks may lead elsewhere.
    pub believed: Namespace,
    /// The union's bounded set of open descriptors.
    pub fds: Arc<FdCache>,
    /// Held exclusively while an object's mode is widened for the instant of a look at it, shared by who sets a mode.
    pub modes: RwLock<Modes>,
    /// How often a mode was widened and given back: odd while one is.
    pub widenings: AtomicU32,
}

/// What [`Layer::modes`] guards, and by what the order of the locks knows it.
#[derive(Debug, Default)]
pub struct Modes;

/// What the file handles of a file system's objects are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handles {
    /// They last, and hold inode numbers where they are looked for.
    Tell,
    /// They last; what they name must be asked for.
    Silent,
    /// Of a mount of plyfs: they hold inode numbers, but a number that was free may name another object after a remount.
    Plyfs,
    /// They last as long as a mount at most (FUSE), or there are none.
    Passing,
}

impl Handles {
    /// Whether a handle names one object for good.
    pub fn are_lasting(self) -> bool {
        matches!(self, Self::Tell | Self::Silent)
    }
}

impl Layer {
    /// Whether what stands at a place, with inode number `now`, may be what was seen there with number `then`. Where numbers do
    /// not last nothing but its name tells, as it does for the kernel's OverlayFS.
    pub fn may_be(&self, then: u64, now: u64) -> bool {
        then == now || !self.lasting_numbers
    }

    /// Does something that needs these permissions of the owner on `name` in `dir`, an object of the upper layer, which
    /// an unprivileged daemon may own without them.
    ///
    /// # Errors
    /// `EPERM` where it is another's, `EACCES` for a symlink; what `act` says.
    pub fn widened<T>(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        bits: u32,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let _modes = self.modes.write();
        let stat = stat_at(dir, name)?;
        if stat.kind() == Kind::Symlink {
            // No mode is in the way there.
            return Err(Errno::EACCES);
        }
        let mode = stat.mode & 0o7777;
        let _widening = Widening::new(&self.widenings);
        tree::chmod_at(dir, name, mode | bits)?;
        let narrow = Narrow(dir, name, mode);
        let done = act();
        narrow.now()?;
        done
    }

    /// Looks at attributes, and not while they are those of an instant.
    ///
    /// # Errors
    /// What `look` says.
    pub fn steady<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        let before = self.widenings.load(SeqCst);
        let seen = look();
        if before.is_multiple_of(2) && self.widenings.load(SeqCst) == before {
            return seen;
        }
        let _modes = self.modes.read();
        look()
    }
}

/// The time in which a mode is widened.
struct Widening<'a>(&'a AtomicU32);

impl<'a> Widening<'a> {
    fn new(widenings: &'a AtomicU32) -> Self {
        widenings.fetch_add(1, SeqCst);
        Self(widenings)
    }
}

impl Drop for Widening<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A mode that an object gets back whatever happens.
struct Narrow<'a>(BorrowedFd<'a>, &'a CStr, u32);

impl Narrow<'_> {
    fn now(self) -> Result<()> {
        let Self(dir, name, mode) = self;
        std::mem::forget(self);
        tree::chmod_at(dir, name, mode)
    }
}

impl Drop for Narrow<'_> {
    fn drop(&mut self) {
        // By a panic only.
        let _ = tree::chmod_at(self.0, self.1, self.2);
    }
}
