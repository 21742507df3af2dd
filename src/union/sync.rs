//! Syncs: what was acknowledged is on disk, and with it what leads there.
//!
//! A copy-up appears by a rename of which a file system need not think when only data is to be synced (ext4 leaves it for
//! the next write of its journal), and its directories are the union's own doing: the first sync after it sees to both.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{InodeId, Union};
use crate::base::config::Fsync;
use crate::base::{Errno, Result};
use crate::inode::{Body, Inode, LeafBody};
use crate::sys::data;

impl Union {
    /// Data and attributes are on disk; with them what leads to the file.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn fsync(&self, id: InodeId, data_only: bool) -> Result<()> {
        self.again(|| self.fsync_once(id, data_only))
    }

    fn fsync_once(&self, id: InodeId, data_only: bool) -> Result<()> {
        let inode = self.inode(id)?;
        let Ok(upper) = self.upper() else { return Ok(()) };
        if upper.fsync == Fsync::Volatile {
            return Ok(());
        }
        match &inode.body {
            Body::Dir(_) => {
                self.sync_dir(&inode)?;
                self.sync_ancestors(Some(inode))
            }
            // A lower file is on disk.
            Body::Leaf(leaf) if leaf.state.lock().upper().is_none() => Ok(()),
            Body::Leaf(leaf) => self.sync_file(&inode, leaf, data_only, || {
                if let Some(blocks) = self.blocks(&inode, leaf)? {
                    return blocks.keep();
                }
                let fd = self.synced_fd(&inode, leaf)?;
                if data_only { data::fdatasync(fd.as_fd()) } else { data::fsync(fd.as_fd()) }
            }),
        }
    }

    /// What a sync of the data alone relies on is on disk: for a program that opens a file so that the kernel, which has
    /// the file in its own hands, syncs each write.
    ///
    /// # Errors
    /// As [`Union::fsync`].
    pub fn sync_loose(&self, id: InodeId) -> Result<()> {
        if self.inode(id)?.is_loose() { self.fsync(id, true) } else { Ok(()) }
    }

    /// Syncs a file by `sync`, and what its copy-up left to that.
    pub(super) fn sync_file(
        &self,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        data_only: bool,
        sync: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let upper = self.upper()?;
        if upper.fsync == Fsync::Volatile {
            return Ok(());
        }
        if !(inode.is_loose() && self.sync_copy(inode, leaf, &sync)?) {
            sync()?;
            if !data_only && self.blocks(inode, leaf)?.is_some() {
                data::fsync(self.synced_fd(inode, leaf)?.as_fd())?;
            }
            if upper.fsync == Fsync::Strict {
                self.sync_parent(leaf)?;
            }
        }
        named_in(leaf).into_iter().try_for_each(|parent| self.sync_ancestors(Some(parent)))
    }

    /// The first sync after a copy-up; false where another one was first, which may not have seen the data of now.
    fn sync_copy(&self, inode: &Arc<Inode>, leaf: &LeafBody, sync: &impl Fn() -> Result<()>) -> Result<bool> {
        // Held so that whoever comes meanwhile waits, and nothing that comes after it is taken for done.
        let _up = inode.up.lock();
        if !inode.is_loose() {
            return Ok(false);
        }
        if self.blocks(inode, leaf)?.is_some() {
            sync()?;
        }
        data::fsync(self.synced_fd(inode, leaf)?.as_fd())?;
        self.sync_parent(leaf)?;
        // Where it has several links each is as good as the first.
        named_in(leaf).iter().skip(1).try_for_each(|parent| self.sync_dir(parent))?;
        inode.set_loose(false);
        Ok(true)
    }

    /// The names of directories that were copied up, from this one upwards.
    fn sync_ancestors(&self, from: Option<Arc<Inode>>) -> Result<()> {
        let mut at = from;
        while let Some(dir) = at {
            at = dir.dir()?.state.read().at.as_ref().map(|(parent, _)| parent.clone());
            if let (true, Some(parent)) = (dir.is_loose(), &at) {
                let _up = dir.up.lock();
                if dir.is_loose() {
                    self.sync_dir(parent)?;
                    dir.set_loose(false);
                }
            }
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Inode) -> Result<()> {
        match dir.dir()?.live_view().ok().and_then(|view| view.upper) {
            Some(part) => data::fsync(part.place.open()?.as_fd()),
            None => Ok(()),
        }
    }

    /// A descriptor of what the upper file itself has: of one whose data is below that is not its content.
    fn synced_fd(&self, inode: &Arc<Inode>, leaf: &LeafBody) -> Result<Arc<OwnedFd>> {
        if leaf.state.lock().meta().is_some() {
            return self.at_leaf(inode, |object| super::io::open_to_read(&object.place, object.key.ino)).map(|o| o.fd);
        }
        match self.data_fd(inode, true) {
            Err(Errno::EACCES | Errno::EPERM | Errno::ETXTBSY) => self.data_fd(inode, false),
            fd => fd,
        }
    }

    /// The directory with the name of its object.
    fn sync_parent(&self, leaf: &LeafBody) -> Result<()> {
        let place = leaf.state.lock().upper().map(|object| object.place.dir.clone());
        match place {
            Some(dir) => data::fsync(dir.open()?.as_fd()),
            None => Ok(()),
        }
    }
}

/// The directories whose names lead to a file over a remount: one is enough, but for a hard link without an index, which
/// each of its names must lead to.
fn named_in(leaf: &LeafBody) -> Vec<Arc<Inode>> {
    let state = leaf.state.lock();
    let most = if state.is_pinned() { usize::MAX } else { 1 };
    let mut dirs: Vec<Arc<Inode>> = Vec::new();
    for (parent, _) in state.names.iter().take(most) {
        if dirs.last().is_none_or(|last| !Arc::ptr_eq(last, parent)) {
            dirs.push(parent.clone());
        }
    }
    dirs
}
