//! The lock order, and the only code that locks two inodes.
//!
//! 1. The one program's READ that stores ahead (`Push::hand`, only tried), the opens of an inode (`OpenFiles`): they ask
//!    the union for something. `Order`, `Turns`, `Push`, `Stores`, `Walk` have locks that no other is asked for under, but
//!    for that of the memory that is lent (`Lent`).
//! 2. `Union::topology`: exclusive while a directory moves to another parent, shared by every other rename.
//! 3. [`Inode::up`](super::Inode): over an inode's copy-up, over every change of a file's attributes (which a copy of
//!    its data that runs meanwhile would undo), and over the first sync after a copy-up. Ancestors are copied up before
//!    it is taken; one at a time. A rename, which holds `topology`, has copied up before.
//! 4. [`DirBody::names`](super::DirBody): an ancestor before its descendant, else by number. A thread that holds some
//!    only tries those of directories whose listings must go (`ListingCache`).
//! 5. A leaf's `data`: held to open the file, and to change a mark that all of its names share.
//! 6. The map of a file that arrives by blocks: across the calls that read, write and record. `Upper::records`: across
//!    those that make or remove a record. Neither under the other.
//! 7. A layer's `modes`: across the calls that widen, set or clear one mode, and across a look at one that is widened.
//! 8. A shard of the table: never two at once. The one of a name looks into the `state` of inodes that may have it.
//! 9. `state` of an inode: short, no system call inside; neither `data` nor the table is asked under it.
//! 10. A place's link or descriptor, the descriptor queue, the list of cached listings, the shared whiteout, what is left
//!     in workdir, the files that arrive by blocks, a file system of `Numbers`: one at a time, never across a call. The journal:
//!     across the call that writes it.
//!
//! `tests/models.rs` sees in which order they are taken, and fails where two orders contradict each other.
//!
//! A panic under a lock unlocks it, and no lock is poisoned. If a directory was in the middle of a change, its names
//! are forgotten ([`Names::end`](super::Names::end)). No call is made between the one that publishes a change and the
//! update of the live state, so that a panic cannot come between the two: `tests/crash` has a panic at every call. Only
//! references are lost: the inodes of that request may stay in the table until the unmount.

use std::sync::Arc;
use std::time::Duration;

use super::common::CopyUpTurn;
use super::{DirBody, Inode, Names};
use crate::base::sync::{MutexGuard, RwLockWriteGuard};
use crate::base::{Errno, Result};

/// How often a thread that waits for a copy-up checks that its program was not killed.
const LOOK: Duration = Duration::from_millis(100);

/// Locks an inode's [`up`](super::Common::up). A copy-up by another thread may hold it for seconds.
///
/// # Errors
/// `EINTR`: `killed` says that the program was killed.
pub fn lock_up<'a>(inode: &'a Inode, killed: &dyn Fn() -> bool) -> Result<MutexGuard<'a, CopyUpTurn>> {
    loop {
        if let Some(guard) = inode.up.try_lock_for(LOOK) {
            return Ok(guard);
        }
        if killed() {
            return Err(Errno::EINTR);
        }
    }
}

/// The type that `Union::topology` guards, by which the order of the locks knows that lock.
#[derive(Debug, Default)]
pub struct Topology;

/// The exclusive locks on the names of one or two directories. Names whose change was not brought to an end are
/// forgotten when it is dropped.
pub struct PairGuard<'a> {
    /// The one that was locked first.
    first: RwLockWriteGuard<'a, Names>,
    second: Option<RwLockWriteGuard<'a, Names>>,
    /// The directory that was locked first is the second one of the caller.
    swapped: bool,
}

impl Drop for PairGuard<'_> {
    fn drop(&mut self) {
        // Only a panic leaves a change unfinished. The kernel is not told: the request is answered with EIO.
        let _ = (self.first_mut().end(), self.second_mut().end());
    }
}

impl PairGuard<'_> {
    /// The names of the caller's first and second directory, which may be one.
    pub fn both(&self) -> (&Names, &Names) {
        let second = self.second.as_deref().unwrap_or(&self.first);
        if self.swapped { (second, &self.first) } else { (&self.first, second) }
    }

    /// The names of the caller's first directory, to change them.
    pub fn first_mut(&mut self) -> &mut Names {
        match &mut self.second {
            Some(second) if self.swapped => second,
            _ => &mut self.first,
        }
    }

    /// The names of the caller's second directory, to change them.
    pub fn second_mut(&mut self) -> &mut Names {
        match &mut self.second {
            Some(second) if !self.swapped => second,
            _ => &mut self.first,
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
