//! The index of copied-up hard links, as it is read: `workdir/index`, whose entries are named after lower objects.
//!
//! Format: `Documentation/filesystems/overlayfs.rst`, "inode index"; an entry is a link of the upper object, and its name
//! is the hexadecimal form of the value that its mark `origin` has.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{DirPlace, Layer, Place};
use crate::base::{Name, Result};
use crate::format::{Origin, index_name};
use crate::sys::handle::handle_at;
use crate::sys::stat::Stat;

/// The value of the mark `origin` for `name` in `dir`, an object of `layer`; `None` where its file system has no handles
/// for its objects.
pub fn origin_of(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
    let handle = handle_at(dir, name).ok()?;
    Some(Origin::new(handle.kind, layer.uuid, &handle.bytes)?.encode())
}

/// The open directory `index`, as a place of the upper layer.
#[derive(Debug)]
pub struct IndexDir(Arc<DirPlace>);

impl IndexDir {
    /// The directory at `dir`.
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
    /// `ENAMETOOLONG` for a handle that has no room in a name.
    pub fn name(origin: &[u8]) -> Result<Name> {
        index_name(origin)
    }

    /// What stands under `name`, if anything does.
    ///
    /// # Errors
    /// What `fstatat(2)` says.
    pub fn find(&self, name: &Name) -> Result<Option<Stat>> {
        self.0.stat(name)
    }

    /// Where an entry is.
    pub fn place(&self, name: &Name) -> Place {
        Place { dir: self.0.clone(), name: name.clone() }
    }
}
