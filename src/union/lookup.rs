//! Names to inodes, and back: lookup and forget.

use std::sync::Arc;

use super::{Attr, Entry, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode, Key};
use crate::merge::{self, Answer, Found};
use crate::upper::remove;

impl Union {
    /// What `name` in a directory is; `None` where there is nothing. A found entry counts one lookup.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`; what the layers say.
    pub fn lookup(&self, parent: InodeId, name: &Name) -> Result<Option<Entry>> {
        let parent = self.inode(parent)?;
        let body = parent.dir()?;
        let _names = body.names.read();
        let Ok(view) = body.live_view() else { return Ok(None) };
        match merge::lookup(&self.stack, &view, name)? {
            Answer::Absent(_) => Ok(None),
            Answer::Found(found) => self.enter(&parent, name, &found).map(Some),
        }
    }

    /// The inode that is live under this name, without looking.
    pub fn known(&self, parent: InodeId, name: &Name) -> Option<InodeId> {
        self.table.by_name(parent, name).map(|inode| inode.id)
    }

    /// The entry for what was just found. The caller holds the parent's `names`.
    pub(super) fn enter(&self, parent: &Arc<Inode>, name: &Name, found: &Found) -> Result<Entry> {
        let inode = self.table.intern(parent, name, found);
        match self.attr_of_found(&inode, found) {
            Ok(attr) => Ok(Entry { id: inode.id, attr }),
            Err(errno) => {
                self.forget(inode.id, 1);
                Err(errno)
            }
        }
    }

    /// The attributes, without a second system call where what was found is what the inode shows.
    fn attr_of_found(&self, inode: &Arc<Inode>, found: &Found) -> Result<Attr> {
        match (&inode.body, found) {
            (Body::Leaf(leaf), Found::Leaf(found)) => {
                let state = leaf.state.lock();
                if state.current()?.key == Key::of(&found.stat) {
                    return Ok(self.leaf_attr(inode, &state, &found.stat));
                }
            }
            (Body::Dir(dir), Found::Dir(found)) => {
                let state = dir.state.read();
                if state.view.upper.is_some() == found.view.upper.is_some() {
                    return Ok(self.dir_attr(inode, &state, &found.stat));
                }
            }
            _ => return Err(Errno::ESTALE),
        }
        self.attr(inode)
    }

    /// Takes back `lookups` of an inode; at zero it leaves the table and what it kept in workdir goes.
    pub fn forget(&self, id: InodeId, lookups: u64) {
        self.table.forget(id, lookups, &mut |inode| self.bury(inode));
    }

    fn bury(&self, inode: &Arc<Inode>) {
        let Body::Leaf(leaf) = &inode.body else { return };
        let hidden = {
            let mut state = leaf.state.lock();
            if std::mem::take(&mut state.hidden) { state.upper.take() } else { None }
        };
        self.leave_blocks(inode, leaf, hidden.is_some());
        let (Some(object), Some(upper)) = (hidden, &self.upper) else { return };
        if let Err(errno) = remove(upper.work(), object.place.name.as_c_str(), inode.kind) {
            log::warn!("workdir: {:?} stays until the next mount: {errno}", object.place.name);
        }
    }
}
