//! The lock order, and the only code that locks two inodes.
//!
//! 1. `Union::topology`: exclusive while a directory moves to another parent, shared by every other rename.
//! 2. [`Inode::up`](super::Inode): an inode's copy-up, and every change of a file's attributes, which a copy of its data
//!    that runs meanwhile would undo. Ancestors are copied up before it is taken; one at a time.
//! 3. [`DirBody::names`](super::DirBody): an ancestor before its descendant, else by number.
//! 4. A leaf's `data`: held to open the file, and to change a mark that all of its names share.
//! 5. A shard of the table: never two at once. The one of a name looks into the `state` of inodes that may have it.
//! 6. `state` of an inode: short, no system call inside; neither `data` nor the table is asked under it.
//! 7. A place's descriptor, the descriptor queue: never two at once, never across a call. A layer's `modes`: across the
//!    calls that widen or set one mode.

use std::sync::Arc;

use super::{DirBody, Inode, Names};
use crate::base::Result;
use crate::base::sync::RwLockWriteGuard;

/// Exclusive hold of the names of one or two directories. What is not known to be true when it ends is forgotten.
pub struct PairGuard<'a> {
    first: RwLockWriteGuard<'a, Names>,
    second: Option<RwLockWriteGuard<'a, Names>>,
    swapped: bool,
}

impl Drop for PairGuard<'_> {
    fn drop(&mut self) {
        // A change that was not brought to its end, by a panic: the kernel is not told, as its caller was answered EIO.
        self.each(|names, _| _ = names.end());
    }
}

impl PairGuard<'_> {
    /// The names of the first and of the second directory (the same where they are one).
    pub fn each(&mut self, mut change: impl FnMut(&mut Names, bool)) {
        let swapped = self.swapped;
        change(&mut self.first, !swapped);
        match &mut self.second {
            Some(second) => change(second, swapped),
            None => change(&mut self.first, swapped),
        }
    }
}

/// Locks the names of two directories, which may be one. The caller holds `topology`.
///
/// # Errors
/// `ENOTDIR`
pub fn lock_names<'a>(a: &'a Arc<Inode>, b: &'a Arc<Inode>) -> Result<PairGuard<'a>> {
    let (dir_a, dir_b) = (a.dir()?, b.dir()?);
    if Arc::ptr_eq(a, b) {
        return Ok(PairGuard { first: dir_a.names.write(), second: None, swapped: false });
    }
    let swapped = if is_ancestor(a, dir_b) { false } else { is_ancestor(b, dir_a) || b.id < a.id };
    let (first, second) = if swapped { (dir_b, dir_a) } else { (dir_a, dir_b) };
    Ok(PairGuard { first: first.names.write(), second: Some(second.names.write()), swapped })
}

/// Whether `above` is a proper ancestor of `below`.
pub fn is_ancestor(above: &Arc<Inode>, below: &DirBody) -> bool {
    let mut at = below.state.read().at.clone();
    while let Some((parent, _)) = at {
        if Arc::ptr_eq(&parent, above) {
            return true;
        }
        at = match parent.dir() {
            Ok(dir) => dir.state.read().at.clone(),
            Err(_) => None,
        };
    }
    false
}
