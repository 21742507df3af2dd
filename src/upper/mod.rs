//! The only code that changes a layer: the upper one. What takes more than one system call is built in workdir and
//! appears by one.

mod content;
mod features;
mod marks;
mod metadata;
mod stage;
mod whiteout;
mod workdir;

pub use content::copy_data;
pub use features::Features;
pub use metadata::{Metadata, Staged, clear_privileges};
pub use stage::{Nursery, Temp, Widened, relocate};
pub use workdir::{WorkError, Workdir, remove};

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::base::Result;
use crate::base::config::Fsync;
use crate::base::sync::Mutex;
use crate::format::mark::Namespace;
pub use crate::format::mark::WhiteoutStyle;
use crate::layer::DirPlace;
use crate::sys::data;

/// The writable layer.
pub struct Upper {
    /// Its root.
    pub root: Arc<DirPlace>,
    /// The directory in workdir where changes are staged.
    pub work: OwnedFd,
    /// What its file system can do.
    pub features: Features,
    /// How deleted names are written.
    pub style: WhiteoutStyle,
    /// When what is changed is on disk.
    pub fsync: Fsync,
    /// A whiteout in workdir of which others are links.
    whiteout: Mutex<Option<CString>>,
    _lock: Vec<OwnedFd>,
}

impl Upper {
    /// An upper layer on a prepared workdir.
    pub fn new(root: Arc<DirPlace>, workdir: Workdir, features: Features, fsync: Fsync) -> Self {
        let style = features.whiteout_style();
        let (work, lock) = workdir.into_parts();
        Self { root, work, features, style, fsync, whiteout: Mutex::new(None), _lock: lock }
    }

    /// Where changes are staged.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// The namespace of the marks that are written, if the file system takes any.
    pub fn namespace(&self) -> Option<Namespace> {
        self.features.marks
    }

    /// A staged object is on disk before its name is: a file with data always, unless `volatile`; with `strict` all.
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

    /// With `strict` a name that has just appeared in `dir` is on disk, too.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn sync_name(&self, dir: &DirPlace) -> Result<()> {
        if self.fsync == Fsync::Strict { data::fsync(dir.open()?.as_fd()) } else { Ok(()) }
    }
}
