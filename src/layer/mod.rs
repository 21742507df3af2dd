//! One layer as it stands on disk: its directories and their descriptors, the objects in them and their marks.
//!
//! Nothing here knows of the union: a layer's role is its position in the stack, which the floors above hold.

mod fd_cache;
mod folding;
mod hidden;
mod index;
mod list;
mod marks;
mod origin;
mod override_stat;
mod place;
pub mod verity;
mod widened;

pub use fd_cache::{Evict, FdCache};
pub use folding::{Folding, is_folding_root};
pub use hidden::{DirId, Hidden, HiddenDir};
pub use index::IndexDir;
pub use list::{ListedName, NameSink, list_names, list_names_alone, list_names_as_owner};
pub use marks::{DirMarks, LeafMarks, LookedUp, look_up, read_dir_marks, read_leaf_marks};
pub use origin::{index_of, is_other_root, origin_of, resolve};
pub use override_stat::as_said;
pub use place::{DirPlace, Place};
pub use widened::{Modes, narrow_again};

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use crate::base::sync::{AtomicU32, RwLock};
use crate::base::{Errno, Result};
use crate::format::OverrideKey;
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
    /// The UUID by which marks name the root's file system; zeros: none.
    pub uuid: [u8; 16],
    /// The UUID of the root's file system, even if marks do not hold it.
    pub real_uuid: [u8; 16],
    /// What the file handles of its objects are good for.
    pub handles: Handles,
    /// A name is found in a directory if and only if the directory lists it.
    pub exact_names: bool,
    /// An object has those extended attributes that are listed, and its file system can have all kinds.
    pub lists_attributes: bool,
    /// Whether its directories may be case-insensitive.
    pub folding: Folding,
    /// Others have joined the only layer.
    pub joined: Arc<AtomicBool>,
    /// An object keeps its inode number for as long as it exists. Elsewhere (FUSE, vfat, CIFS) it may get another after
    /// the kernel forgot it.
    pub lasting_numbers: bool,
    /// Objects of this layer give no set-user-id, set-group-id or file capability.
    pub nosuid: bool,
    /// The attribute in which owner, mode and type of each object stand; `None`: objects are what they are on disk.
    pub owners: Option<OverrideKey>,
    /// The attribute in which they stand of directories that belong to somebody else and were made for what they hold.
    pub carried: Option<OverrideKey>,
    /// Marks that somebody else may have written give no privilege ([`crate::base::config::Config::doubts_marks`]).
    pub doubts_marks: bool,
    /// Names that begin with `.wh.` are whiteouts. In a layer that an overlay wrote they are a user's files.
    pub wh_names: bool,
    /// The form of whiteouts in the upper layer; `None`: this is a lower layer from the beginning.
    pub upper_style: Option<WhiteoutStyle>,
    /// It was an upper layer, and a commit has made it a lower one.
    pub frozen: AtomicBool,
    /// The mode of an object may be widened for an instant to read its marks: in an upper layer, frozen or not, unless it is
    /// only looked at.
    pub widens: bool,
    /// The root is in a private clone of its mount, in which no other mount can lie.
    pub isolated: bool,
    /// The directories that the layer does not show.
    pub hidden: Hidden,
    /// The namespaces whose whiteouts and opaque marks count, the mount's own first. Attributes in another namespace
    /// are a user's.
    pub reads: &'static [Namespace],
    /// The namespace of all other marks.
    pub namespace: Namespace,
    /// The namespace whose redirects and metacopy marks are followed.
    pub believed: Namespace,
    /// The union's bounded set of open descriptors.
    pub fds: Arc<FdCache>,
    /// Locked exclusively while the mode of an object is widened for an instant, shared while a mode is set.
    pub modes: Arc<RwLock<Modes>>,
    /// Counts each widening of a mode and each end of one: odd while a mode is widened.
    pub widenings: Arc<AtomicU32>,
}

/// What the file handles of a file system's objects are good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handles {
    /// Handles last, and hold the inode number.
    Tell,
    /// Handles last; the number of the object must be asked for.
    Silent,
    /// Handles of a plyfs mount hold inode numbers, but after a remount a number may name another object.
    Plyfs,
    /// Handles last at most as long as a mount (FUSE), or there are none.
    Passing,
}

impl Handles {
    /// Whether a handle names one object for good.
    pub fn are_lasting(self) -> bool {
        matches!(self, Self::Tell | Self::Silent)
    }
}

impl Layer {
    /// Whether it is the upper layer.
    pub fn is_upper(&self) -> bool {
        self.upper_style.is_some() && !self.is_frozen()
    }

    /// Whether it was an upper layer, and is a lower one.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Acquire)
    }

    /// Whether it is frozen, and modes in it may be widened for an instant.
    pub fn widens_frozen(&self) -> bool {
        self.widens && self.is_frozen()
    }

    /// Makes the upper layer a lower one, and all objects in it lower objects. No request is under way.
    pub fn freeze(&self) {
        self.frozen.store(true, Release);
    }

    /// A layer of the same kind, written in the same way: the successor of an upper layer, or its work directory.
    pub fn sibling(&self) -> Self {
        Self {
            path: self.path.clone(),
            dev: self.dev,
            uuid: self.uuid,
            real_uuid: self.real_uuid,
            handles: self.handles,
            exact_names: self.exact_names,
            lists_attributes: self.lists_attributes,
            folding: self.folding,
            joined: self.joined.clone(),
            lasting_numbers: self.lasting_numbers,
            nosuid: self.nosuid,
            owners: self.owners,
            carried: self.carried,
            doubts_marks: self.doubts_marks,
            wh_names: self.wh_names,
            upper_style: self.upper_style,
            frozen: AtomicBool::new(false),
            widens: self.widens,
            isolated: self.isolated,
            hidden: self.hidden.clone(),
            reads: self.reads,
            namespace: self.namespace,
            believed: self.believed,
            fds: self.fds.clone(),
            modes: self.modes.clone(),
            widenings: self.widenings.clone(),
        }
    }

    /// Whether the object at a place with inode number `now` may be the one that was seen there with number `then`.
    /// Where numbers do not last only the name tells, as for the kernel's OverlayFS.
    pub fn may_be(&self, then: u64, now: u64) -> bool {
        then == now || !self.lasting_numbers
    }

    /// Calls `act` while the owner has the permissions `bits` on `name` in `dir`, an object of the upper layer. An
    /// unprivileged daemon may own objects without them.
    ///
    /// # Errors
    /// `EPERM`: another user owns the object; `EACCES` for a symlink; what `act` says.
    pub fn widened<T>(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        bits: u32,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let modes = self.modes.write();
        let stat = stat_at(dir, name)?;
        if stat.kind() == Kind::Symlink {
            // A symlink has no mode that could be in the way.
            return Err(Errno::EACCES);
        }
        let mode = stat.mode & 0o7777;
        let _widening = Widening::new(&self.widenings);
        modes.note((dir, name), &stat, mode | bits);
        tree::chmod_at(dir, name, mode | bits)?;
        let narrow = Narrow(dir, name, mode);
        let done = act();
        narrow.now()?;
        modes.done();
        done
    }

    /// Calls `look`, which reads attributes, at a time when no mode is widened.
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

/// Counts the time in which a mode is widened.
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

/// Gives an object its mode back when the value is dropped.
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
        // Reached by a panic only.
        let _ = tree::chmod_at(self.0, self.1, self.2);
    }
}
