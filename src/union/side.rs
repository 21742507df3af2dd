//! One side of a rename: a name, what is under it, and where it stands in the upper layer.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::Union;
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode, Names};
use crate::layer::{DirPlace, Place};
use crate::merge::{self, Absent, Answer, DirView, Found};

/// One side of a rename, looked up under its directory's `names`.
pub(super) struct Side<'a> {
    pub parent: &'a Arc<Inode>,
    pub name: &'a Name,
    /// The directory's parts, under its `names`.
    pub view: DirView,
    /// What is under the name.
    pub found: Answer,
    /// Its inode, held until [`Union::put`].
    pub inode: Option<Arc<Inode>>,
}

impl<'a> Side<'a> {
    /// The directory's part in the upper layer.
    ///
    /// # Errors
    /// `ESTALE`: it has none.
    pub fn place(&self) -> Result<&Arc<DirPlace>> {
        Ok(&self.view.upper.as_ref().ok_or(Errno::ESTALE)?.place)
    }

    /// The name in the directory's part in the upper layer, open.
    pub fn at(&self) -> Result<At<'a>> {
        Ok(At { fd: self.place()?.fd()?, name: self.name.as_c_str() })
    }

    /// Whether a lower layer shows something under the name.
    pub fn is_below(&self) -> Result<bool> {
        let told = match &self.found {
            Answer::Found(Found::Dir(dir)) => dir.is_below(),
            Answer::Found(Found::Leaf(leaf)) => leaf.is_below(),
            Answer::Absent(_) => false,
        };
        Ok(told || self.was_below() || merge::lower_has(&self.view, self.name)?)
    }

    /// Whether the object is a copy of what a lower part of the directory has under the name: then no layer is asked.
    fn was_below(&self) -> bool {
        let Some(Body::Leaf(leaf)) = self.inode.as_ref().map(|inode| &inode.body) else { return false };
        let state = leaf.state.lock();
        let Some(Place { dir, name }) = state.lower().map(|lower| &lower.place) else { return false };
        name == self.name && self.view.lowers.iter().any(|part| Arc::ptr_eq(&part.place, dir))
    }

    pub fn is_dir(&self) -> bool {
        matches!(self.found, Answer::Found(Found::Dir(_)))
    }

    pub fn upper_whiteout(&self) -> bool {
        matches!(self.found, Answer::Absent(Absent::UpperWhiteout))
    }

    /// Whether the object stands in the upper layer under this name.
    pub fn is_upper(&self) -> bool {
        match &self.found {
            Answer::Found(Found::Dir(dir)) => dir.view.upper.is_some(),
            Answer::Found(Found::Leaf(leaf)) => leaf.named,
            Answer::Absent(_) => false,
        }
    }

    /// # Errors
    /// `ENOENT`: nothing is under the name.
    pub fn inode(&self) -> Result<&Arc<Inode>> {
        self.inode.as_ref().ok_or(Errno::ENOENT)
    }
}

impl Union {
    /// What is under a name, looked up again while the directory's `names` are held; its inode is held until
    /// [`Union::put`].
    pub(super) fn side<'a>(&self, names: &Names, parent: &'a Arc<Inode>, name: &'a Name) -> Result<Side<'a>> {
        let view = parent.dir()?.live_view()?;
        if let Some((inode, found)) = self.known_leaf(parent, &view, name)? {
            return Ok(Side { parent, name, view, found: Answer::Found(Found::Leaf(found)), inode: Some(inode) });
        }
        let found = self.find(names, &view, name)?;
        let inode = match &found {
            Answer::Found(found) => Some(self.table.intern(parent, name, found)),
            Answer::Absent(_) => None,
        };
        Ok(Side { parent, name, view, found, inode })
    }

    /// Ends the hold on a side's inode.
    pub(super) fn put(&self, side: &Side<'_>) {
        if let Some(inode) = &side.inode {
            self.forget(inode.id, 1);
        }
    }
}

/// A name in an open directory of the upper layer.
pub(super) struct At<'a> {
    fd: Arc<OwnedFd>,
    pub name: &'a CStr,
}

impl At<'_> {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Both as the arguments of a system call.
    pub fn pair(&self) -> (BorrowedFd<'_>, &CStr) {
        (self.fd(), self.name)
    }
}
