//! The only code that changes a layer, which is the upper one. A change that takes more than one system call is built
//! in workdir and appears by one call.

mod blocks;
pub mod commits;
mod content;
mod features;
mod index;
mod inherit;
mod marks;
mod metadata;
mod owners;
mod records;
mod removal;
mod stage;
pub mod taken;
mod whiteout;
mod workdir;

pub use blocks::Blocks;
pub use content::{CopyData, SMALL, copy_data, copy_from_cache};
pub use features::Features;
pub use index::{Belongings, Index, IndexError};
pub use inherit::make_private;
pub use metadata::{
    Applied, Cleared, Metadata, Staged, clear_capability, clear_privileges, copy_attributes, without_ids,
};
pub use owners::{mark_of, mode_on_disk, set_mark};
pub use records::{APPLY, INCOMPAT};
pub use removal::{children, remove};
pub use stage::{Nursery, Temp, Widened, relocate};
pub use workdir::{FIRST, WorkError, Workdir};

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::base::Result;
use crate::base::config::{Fsync, Verity};
use crate::base::sync::Mutex;
use crate::format::mark::Namespace;
pub use crate::format::mark::WhiteoutStyle;
use crate::layer::DirPlace;
use crate::sys::data;
use crate::sys::stat::Kind;

/// The writable layer.
pub struct Upper {
    /// Its root.
    pub root: Arc<DirPlace>,
    /// The directory in workdir where changes are staged.
    pub work: OwnedFd,
    /// What its file system can do.
    pub features: Features,
    /// The form of whiteouts.
    pub style: WhiteoutStyle,
    /// What is synced, and when.
    pub fsync: Fsync,
    /// A directory that has lower parts can be renamed.
    pub redirect: bool,
    /// A change of metadata copies no data.
    pub metacopy: bool,
    /// Which digests go into the mark `metacopy`.
    pub verity: Verity,
    /// The name in workdir of the whiteout that all others are links of.
    whiteout: Mutex<Option<CString>>,
    /// Objects in workdir that could not be removed: the removal is tried again when the next object is staged.
    leftovers: Mutex<Leftovers>,
    /// Held to make and to remove records of blocks.
    records: Mutex<Records>,
}

/// Objects in workdir, by name.
#[derive(Default)]
struct Leftovers(Vec<(CString, Kind)>);

/// The type that [`Upper::records`] guards, by which the order of the locks knows that lock.
struct Records;

/// What an upper layer does, as the options ask and its file system can.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)]
pub struct Does {
    pub fsync: Fsync,
    pub redirect: bool,
    pub metacopy: bool,
    pub verity: Verity,
}

impl Upper {
    /// An upper layer on a prepared workdir.
    pub fn new(root: Arc<DirPlace>, workdir: Workdir, features: Features, style: WhiteoutStyle, does: Does) -> Self {
        let work = workdir.into_work();
        let Does { fsync, redirect, metacopy, verity } = does;
        let whiteout = Mutex::new(None);
        Self {
            root,
            work,
            features,
            style,
            fsync,
            redirect,
            metacopy,
            verity,
            whiteout,
            leftovers: Mutex::default(),
            records: Mutex::new(Records),
        }
    }

    /// The layer that comes after this one, with the root `root` and in the same work directory.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`
    pub fn successor(&self, root: Arc<DirPlace>) -> Result<Self> {
        Ok(Self {
            root,
            work: self.work.try_clone()?,
            features: self.features.clone(),
            style: self.style,
            fsync: self.fsync,
            redirect: self.redirect,
            metacopy: self.metacopy,
            verity: self.verity,
            whiteout: Mutex::new(self.whiteout.lock().clone()),
            leftovers: Mutex::new(Leftovers(self.leftovers.lock().0.clone())),
            records: Mutex::new(Records),
        })
    }

    /// The directory in workdir in which changes are staged.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// The namespace in which marks are written; `None`: the file system takes none.
    pub fn namespace(&self) -> Option<Namespace> {
        self.features.marks
    }

    /// Syncs a staged object before it gets its name: a file with data unless `volatile`, any object with `strict`.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn sync_staged(&self, fd: BorrowedFd<'_>, has_data: bool) -> Result<()> {
        match self.fsync {
            Fsync::Strict => data::fsync(fd),
            Fsync::Auto if has_data => data::fsync(fd),
            Fsync::Auto | Fsync::Volatile => Ok(()),
        }
    }

    /// Whether the data of a staged file is synced before its name appears.
    pub fn syncs_data(&self) -> bool {
        self.fsync != Fsync::Volatile
    }

    /// Syncs a name that has just appeared in `dir`, with `strict` only.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn sync_name(&self, dir: &DirPlace) -> Result<()> {
        if self.fsync == Fsync::Strict { data::fsync(dir.open()?.as_fd()) } else { Ok(()) }
    }
}
