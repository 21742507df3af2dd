//! What the kernel may have of a file: asked before data that nobody asked for is put into its cache.

use super::{InodeId, Union};

/// An inode whose number leads to it as long as this lives.
pub struct Held<'a> {
    union: &'a Union,
    id: InodeId,
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
        self.table.hold(&inode).then(|| Held { union: self, id })
    }
}

impl Held<'_> {
    /// Its number.
    pub fn id(&self) -> InodeId {
        self.id
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.union.forget(self.id, 1);
    }
}
