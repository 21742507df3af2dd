//! Whether the kernel may have data of a file in its cache: asked before data is put there that no program has asked
//! for.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::{InodeId, Union};
use crate::base::{Errno, Result};
use crate::inode::Inode;
use crate::layer::Place;
use crate::sys::data::pread_full;

/// A hold on an inode: its number leads to it as long as the value lives.
pub struct Held<'a> {
    union: &'a Union,
    inode: Arc<Inode>,
}

impl Union {
    /// Notes that the kernel may have data of this file, or that a program may be about to change it. True for the
    /// first such call while the inode is known. Sequentially consistent.
    pub fn mark_cached(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.mark_cached())
    }

    /// Whether [`Union::mark_cached`] was called for this file.
    pub fn is_cached(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.is_cached())
    }

    /// Keeps an inode known, so that no other inode gets its number; `None`: the inode is not known.
    pub fn hold(&self, id: InodeId) -> Option<Held<'_>> {
        let inode = self.inode(id).ok()?;
        self.table.hold(&inode).then(|| Held { union: self, inode })
    }
}

impl Held<'_> {
    /// Its number.
    pub fn id(&self) -> InodeId {
        self.inode.id
    }

    /// [`Union::mark_cached`]
    pub fn mark_cached(&self) -> bool {
        self.inode.mark_cached()
    }

    /// [`Union::is_cached`]
    pub fn is_cached(&self) -> bool {
        self.inode.is_cached()
    }

    /// Reads the whole of a small file, and does not keep it open. Returns its size in bytes.
    ///
    /// # Errors
    /// `EFBIG`: `room` is too small; `ESTALE`: the file is just being changed; `EOPNOTSUPP`: its data is in several
    /// files; else those of [`Union::read`].
    pub fn read_whole(&self, room: &mut [u8]) -> Result<usize> {
        let leaf = self.inode.file()?;
        if self.union.blocks(&self.inode, leaf)?.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let (file, stat) = self.union.at_data(&self.inode, leaf, Place::open_to_read)?;
        let size = usize::try_from(stat.size).unwrap_or(usize::MAX);
        let read = pread_full(file.as_fd(), room.get_mut(..size).ok_or(Errno::EFBIG)?, 0)?;
        if read == size { Ok(size) } else { Err(Errno::ESTALE) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.union.forget(self.inode.id, 1);
    }
}
