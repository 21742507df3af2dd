//! Syncs: data that was acknowledged is on disk, and with it the names that lead to it.
//!
//! A copy-up appears by a rename. A file system need not write that rename when only data is synced (ext4 leaves it for
//! the next write of its journal), and no program asked for the directories that were copied up with it: so the first
//! sync after a copy-up syncs both.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use super::{InodeId, Union};
use crate::base::config::Fsync;
use crate::base::{Errno, Result};
use crate::inode::{Body, Inode, LeafBody};
use crate::sys::data;
use crate::upper::Upper;

impl Union {
    /// Syncs data and attributes, and the names that lead to the file; `data_only`: only attributes that reading needs.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn fsync(&self, id: InodeId, data_only: bool) -> Result<()> {
        self.again(|| {
            let inode = self.inode(id)?;
            let Ok(upper) = self.upper() else { return Ok(()) };
            if upper.fsync == Fsync::Volatile {
                return Ok(());
            }
            self.sync_frozen(upper)?;
            match &inode.body {
                Body::Dir(_) => {
                    self.sync_dir(&inode)?;
                    self.sync_ancestors(Some(inode))
                }
                // A lower file is on disk already.
                Body::Leaf(leaf) if leaf.state.lock().upper().is_none() => Ok(()),
                Body::Leaf(leaf) => self.sync_file(&inode, leaf, data_only, || {
                    if let Some(blocks) = self.blocks(&inode, leaf)? {
                        return blocks.keep();
                    }
                    let fd = self.synced_fd(&inode, leaf)?;
                    if data_only { data::fdatasync(fd.as_fd()) } else { data::fsync(fd.as_fd()) }
                }),
            }
        })
    }

    /// Syncs what was changed before a commit: that is in a layer below by now.
    fn sync_frozen(&self, upper: &Upper) -> Result<()> {
        if self.unsynced.load(Acquire) {
            data::syncfs(upper.root.open()?.as_fd())?;
            self.unsynced.store(false, Release);
        }
        Ok(())
    }

    /// Syncs what a later sync of the data alone relies on. It is for a program that opens a file with `O_SYNC` or
    /// `O_DSYNC` while the kernel writes the file by itself, and so syncs each write.
    ///
    /// # Errors
    /// As [`Union::fsync`].
    pub fn sync_loose(&self, id: InodeId) -> Result<()> {
        if self.inode(id)?.is_loose() { self.fsync(id, true) } else { Ok(()) }
    }

    /// Syncs a file by `sync`, and syncs what its copy-up has left to the first sync.
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

    /// Makes the first sync after a copy-up. False: another thread made it, and may not have seen the data of now.
    fn sync_copy(&self, inode: &Arc<Inode>, leaf: &LeafBody, sync: &impl Fn() -> Result<()>) -> Result<bool> {
        // Locked so that other syncs wait until this one is done, and none takes a later copy-up for synced.
        let _up = inode.up.lock();
        if !inode.is_loose() {
            return Ok(false);
        }
        if self.blocks(inode, leaf)?.is_some() {
            sync()?;
        }
        data::fsync(self.synced_fd(inode, leaf)?.as_fd())?;
        self.sync_parent(leaf)?;
        // Each of several links must be on disk like the first.
        named_in(leaf).iter().skip(1).try_for_each(|parent| self.sync_dir(parent))?;
        inode.set_loose(false);
        Ok(true)
    }

    /// Syncs the names of directories that were copied up, from this directory upwards.
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

    /// A descriptor of the upper file itself, which of a metacopy file does not have the data.
    fn synced_fd(&self, inode: &Arc<Inode>, leaf: &LeafBody) -> Result<Arc<OwnedFd>> {
        if leaf.state.lock().meta().is_some() {
            return self.at_leaf(inode, |object| super::io::open_to_read(&object.place, object.key.ino)).map(|o| o.fd);
        }
        match self.data_fd(inode, true) {
            Err(Errno::EACCES | Errno::EPERM | Errno::ETXTBSY) => self.data_fd(inode, false),
            fd => fd,
        }
    }

    /// Syncs the directory that holds the name of a file's object.
    fn sync_parent(&self, leaf: &LeafBody) -> Result<()> {
        let place = leaf.state.lock().upper().map(|object| object.place.dir.clone());
        match place {
            Some(dir) => data::fsync(dir.open()?.as_fd()),
            None => Ok(()),
        }
    }
}

/// The directories whose names must lead to a file after a remount. One is enough, but each name of a hard link without
/// an index must lead to it.
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
