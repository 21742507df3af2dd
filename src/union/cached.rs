//! What the kernel may have of a file: asked before data that nobody asked for is put into its cache.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::io::open_to_read_once;
use super::{InodeId, Union};
use crate::base::{Errno, Result};
use crate::inode::Inode;
use crate::sys::data::pread_full;

/// An inode whose number leads to it as long as this lives.
pub struct Held<'a> {
    union: &'a Union,
    inode: Arc<Inode>,
}

impl Union {
    /// The kernel may have data of this file from now on, or a program may be about to change it: true for the first who
    /// says so, for as long as the inode is known. Sequentially consistent.
    pub fn mark_cached(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.mark_cached())
    }

    /// Whether somebody said so.
    pub fn is_cached(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.is_cached())
    }

    /// Keeps an inode known, and so its number from another one; `None` if it is not.
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

    /// Reads the whole of a small file, which is not kept open for that. Returns its size.
    ///
    /// # Errors
    /// `EFBIG`: `room` is too small; `ESTALE`: it is just being changed; `EOPNOTSUPP`: its data is put together from
    /// several files; else those of [`Union::read`].
    pub fn read_whole(&self, room: &mut [u8]) -> Result<usize> {
        let leaf = self.inode.file()?;
        if self.union.blocks(&self.inode, leaf)?.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let (file, stat) = self.union.at_data(&self.inode, leaf, open_to_read_once)?;
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
