//! What the kernel is told of a change: that a directory's listing is out of date, and that attributes changed which no
//! request asked to change.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::{InodeId, Union};
use crate::base::sync::RwLockWriteGuard;
use crate::base::{Errno, Name, Result};
use crate::inode::{Ended, Inode, Names};
use crate::merge::{Absent, Answer, DirPart};

/// Passes on to the kernel what it must drop from its caches. Called with no lock held, before the change is answered.
pub trait Notices: Send + Sync {
    /// The kernel must drop what it keeps of this directory's listing.
    fn names_changed(&self, dir: InodeId);

    /// The kernel must ask again what this name in the directory leads to. The call may wait for a request.
    fn name_changed(&self, dir: InodeId, name: &Name);

    /// The kernel must ask for this inode's attributes when it needs them next. The call waits for no request.
    fn attributes_changed(&self, id: InodeId);
}

/// Exclusive hold of a directory's names.
pub(super) struct Changing<'a> {
    /// Unlocked before the kernel is told: fields are dropped in this order.
    names: RwLockWriteGuard<'a, Names>,
    notice: Notice<'a>,
}

/// A name under which nothing is seen, in a directory whose names are locked for a change.
pub(super) struct AbsentName<'a> {
    pub names: Changing<'a>,
    /// The directory's part in the upper layer.
    pub into: DirPart,
    /// Whether the directory has lower parts.
    pub is_merged: bool,
    pub absent: Absent,
}

/// Tells the kernel about the end of a change when the value is dropped, if there is something to tell.
struct Notice<'a> {
    union: &'a Union,
    id: InodeId,
    ended: Ended,
}

impl Union {
    /// Sends notices to `notices` from now on. A union without a mount needs none. Only the first call has an effect.
    pub fn set_notices(&self, notices: Box<dyn Notices>) {
        let _ = self.notices.set(notices);
    }

    /// Tells the kernel again what the daemon before may have changed without telling. Requests that it did not answer
    /// are sent again anyway. A fresh mount must not do this: the kernel would not take the answer to its first look at
    /// the root, which has no permissions until then.
    pub fn tell_anew(&self) {
        let known = self.journal.as_ref().map(|journal| journal.nodes()).unwrap_or_default();
        let dirs = known.into_iter().filter_map(|(id, _)| self.table.get(InodeId(id)));
        dirs.chain(self.table.get(InodeId::ROOT)).filter(|inode| self.is_copied_dir(inode)).for_each(|dir| {
            self.attributes_changed(dir.id);
        });
    }

    fn is_copied_dir(&self, inode: &Inode) -> bool {
        inode.dir().is_ok_and(|dir| dir.state.read().view.upper.is_some())
    }

    /// Makes the kernel drop what it keeps of a directory's listing, if it was given a listing.
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
        Ok(Changing {
            names: dir.dir()?.names.write(),
            notice: Notice { union: self, id: dir.id, ended: Ended::default() },
        })
    }

    /// Copies a directory up and locks its names for a change that adds `name`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOTDIR`, `ENOENT` in a removed directory; what copy-up and the layers say.
    pub(super) fn lock_absent_name<'a>(&'a self, dir: &'a Arc<Inode>, name: &Name) -> Result<AbsentName<'a>> {
        self.copy_up_dir(dir)?;
        let names = self.changing(dir)?;
        let view = dir.dir()?.live_view()?;
        let absent = match self.find(&names, &view, name)? {
            Answer::Found(_) => return Err(Errno::EEXIST),
            Answer::Absent(absent) => absent,
        };
        let is_merged = view.len() > 1;
        Ok(AbsentName { names, into: view.upper.ok_or(Errno::ESTALE)?, is_merged, absent })
    }

    /// Tells the kernel what the end of a change of a directory's names leaves to tell. No lock is held.
    pub(super) fn changed(&self, dir: InodeId, ended: Ended) {
        if ended.relist {
            self.names_changed(dir);
        }
        if ended.uncertain {
            self.attributes_changed(dir);
        }
    }

    /// Tells the kernel that a directory's listing is out of date. No lock is held.
    pub(super) fn names_changed(&self, dir: InodeId) {
        if let Some(notices) = self.notices.get() {
            notices.names_changed(dir);
        }
    }

    /// Tells the kernel that the attributes which it keeps of an inode are out of date. No lock is held.
    ///
    /// Needed only where the kernel does not forget attributes by itself. It forgets times, size and blocks of a file
    /// that is written to, all attributes of a directory whose names a request changes, and the time of change of an
    /// object that gets another name or extended attribute.
    pub(super) fn attributes_changed(&self, id: InodeId) {
        if let Some(notices) = self.notices.get().filter(|_| !self.timeouts.attr.is_zero()) {
            notices.attributes_changed(id);
        }
    }

    /// Passes on the result of a change of this inode. A change that failed may have changed attributes before it did,
    /// and the kernel does not ask for them then.
    pub(super) fn told_if_failed<T>(&self, id: InodeId, done: Result<T>) -> Result<T> {
        done.inspect_err(|_| self.attributes_changed(id))
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
        self.notice.ended = self.names.end();
        self.notice.union.note_places(self.notice.id, &mut self.names);
    }
}

impl Drop for Notice<'_> {
    fn drop(&mut self) {
        self.union.changed(self.id, self.ended);
    }
}
