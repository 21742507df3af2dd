//! How long an operation takes, as far as can be told before it begins: who serves many callers lets others go on meanwhile.

use super::copy_up::lacks_data;
use super::{InodeId, Union};
use crate::base::Name;
use crate::base::config::Verity;
use crate::inode::Body;
use crate::sys::stat::Kind;
use std::sync::atomic::Ordering::Relaxed;

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Nothing is changed.
    Look,
    /// Nothing is changed, but the kernel asks so before it writes to the file for the first time.
    LookBeforeWrite(InodeId),
    /// Attributes change, and no data.
    Attributes(InodeId),
    /// Data changes.
    Data(InodeId),
    /// Some data is written.
    Write(InodeId),
    /// The length becomes this many bytes.
    Length(InodeId, u64),
    /// The object of this name in this directory loses the name, by a removal or a rename.
    Unname(InodeId, Name),
    /// So many bytes of another file are copied into this one.
    CopyInto(InodeId, u64),
    /// What was done is to be on disk.
    Sync(InodeId),
}

/// More than this many bytes are worth a thread of their own.
const LONG: u64 = 1 << 20;

impl Union {
    /// Whether an operation first copies so much, or waits for another who does, or for a disk, that nobody should wait in
    /// line behind it.
    pub fn is_long(&self, operation: &Operation) -> bool {
        match *operation {
            Operation::Look | Operation::LookBeforeWrite(_) => false,
            Operation::Attributes(id) => self.is_long_copy_up(id, false),
            Operation::Data(id) => self.is_long_copy_up(id, true),
            Operation::Write(id) => self.is_long_write(id),
            Operation::Length(id, 0) => self.is_in_copy_up(id),
            Operation::Length(id, _) => self.is_long_copy_up(id, true),
            // A hard link goes into the index first.
            Operation::Unname(dir, ref name) => {
                self.table.by_name(dir, name).is_some_and(|inode| self.is_long_copy_up(inode.id, false))
            }
            Operation::CopyInto(_, bytes) => bytes > LONG,
            Operation::Sync(id) => self.is_long_sync(id),
        }
    }

    /// Whether somebody copies it up right now, for whom every other change of it waits.
    fn is_in_copy_up(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.up.is_locked() && inode.leaf().is_ok_and(lacks_data))
    }

    /// Whether a change of this inode (`data`: of its data) copies it up first, and that takes long.
    fn is_long_copy_up(&self, id: InodeId, data: bool) -> bool {
        let (Ok(inode), Some(upper)) = (self.inode(id), &self.upper) else { return false };
        let Ok(leaf) = inode.leaf() else { return false };
        if inode.kind != Kind::File || !lacks_data(leaf) {
            return false;
        }
        if inode.up.is_locked() {
            return true;
        }
        let whole = data || !upper.metacopy || upper.verity == Verity::Require;
        whole && self.at_leaf(&inode, |object| object.place.stat()).is_ok_and(|stat| stat.size > LONG)
    }

    /// The same for a write. Where a file arrives by blocks a write copies some of them, and takes no longer than others.
    fn is_long_write(&self, id: InodeId) -> bool {
        self.is_long_copy_up(id, true)
            && self.inode(id).is_ok_and(|inode| {
                inode.leaf().is_ok_and(|leaf| {
                    let arrives = leaf.state.lock().meta().is_some_and(|meta| meta.blocks.is_some());
                    inode.up.is_locked() || !arrives && !self.is_for_blocks(&inode, leaf)
                })
            })
    }

    /// Whether a sync of this inode has to wait for a disk.
    fn is_long_sync(&self, id: InodeId) -> bool {
        if self.unsynced.load(Relaxed) {
            return true;
        }
        !self.is_volatile()
            && self.inode(id).is_ok_and(|inode| match &inode.body {
                Body::Dir(_) => true,
                Body::Leaf(leaf) => leaf.state.lock().upper().is_some(),
            })
    }
}
