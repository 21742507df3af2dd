//! Reads the index of copied-up hard links: `workdir/index`, whose entries are named after lower objects.
//!
//! Format: `Documentation/filesystems/overlayfs.rst`, "inode index"; an entry is a link of the upper object, and its name
//! is the hexadecimal form of the value that its mark `origin` has.

use std::sync::Arc;

use super::{DirPlace, Place};
use crate::base::{Name, Result};
use crate::format::index_name;
use crate::sys::stat::Stat;

/// The open directory `index`, as a place of the upper layer.
#[derive(Debug)]
pub struct IndexDir(Arc<DirPlace>);

impl IndexDir {
    /// The index at the directory `dir`.
    pub fn new(dir: Arc<DirPlace>) -> Self {
        Self(dir)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Arc<DirPlace> {
        &self.0
    }

    /// The name of the entry for an object with this `origin`.
    ///
    /// # Errors
    /// `ENAMETOOLONG`: a name has no room for the handle.
    pub fn name(origin: &[u8]) -> Result<Name> {
        index_name(origin)
    }

    /// The attributes of the entry `name`; `None`: there is no such entry.
    ///
    /// # Errors
    /// What `fstatat(2)` says.
    pub fn find(&self, name: &Name) -> Result<Option<Stat>> {
        self.0.stat(name)
    }

    /// The place of an entry.
    pub fn place(&self, name: &Name) -> Place {
        Place { dir: self.0.clone(), name: name.clone() }
    }
}
