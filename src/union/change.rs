//! One change of a directory's names, from its lock to the notice that the kernel gets of it.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{InodeId, Union};
use crate::base::Result;
use crate::base::sync::RwLockWriteGuard;
use crate::inode::{Inode, Names};

/// Who is told what the kernel must not keep. Called with no lock held, before the change is answered.
pub trait Notices: Send + Sync {
    /// The kernel must drop what it has of this directory's listing.
    fn names_changed(&self, dir: InodeId);
}

/// Exclusive hold of a directory's names.
pub(super) struct Changing<'a> {
    /// Let go of before the kernel is told: fields are dropped in this order.
    names: RwLockWriteGuard<'a, Names>,
    notice: Notice<'a>,
}

/// Tells the kernel when it is dropped, if there is something to tell.
struct Notice<'a> {
    union: &'a Union,
    id: InodeId,
    due: bool,
}

impl Union {
    /// Sends notices there from now on. Without a mount nobody needs them.
    pub fn set_notices(&self, notices: Box<dyn Notices>) {
        let _ = self.notices.set(notices);
    }

    /// Makes the kernel drop what it has of a directory's listing, if it was given any.
    pub fn drop_listing(&self, dir: InodeId) {
        let inode = self.table.get(dir);
        let kept = inode.and_then(|inode| inode.dir().ok().map(|body| body.names.read().is_walked()));
        if kept == Some(true) {
            self.names_changed(dir);
        }
    }

    /// Locks a directory's names for a change.
    ///
    /// # Errors
    /// `ENOTDIR`
    pub(super) fn changing<'a>(&'a self, dir: &'a Arc<Inode>) -> Result<Changing<'a>> {
        Ok(Changing { names: dir.dir()?.names.write(), notice: Notice { union: self, id: dir.id, due: false } })
    }

    /// Tells the kernel. No lock is held.
    pub(super) fn names_changed(&self, dir: InodeId) {
        if let Some(notices) = self.notices.get() {
            notices.names_changed(dir);
        }
    }
}

impl Deref for Changing<'_> {
    type Target = Names;

    fn deref(&self) -> &Names {
        &self.names
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Names {
        &mut self.names
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.notice.due = self.names.end();
    }
}

impl Drop for Notice<'_> {
    fn drop(&mut self) {
        if self.due {
            self.union.names_changed(self.id);
        }
    }
}
