//! Names to inodes, and back: lookup and forget.

use std::sync::Arc;

use super::{Attr, Entry, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode, Key, Names};
use crate::layer::{LookedUp, look_up};
use crate::merge::{self, Absent, Answer, DirView, Found, FoundLeaf};
use crate::sys::stat::Kind;

impl Union {
    /// Looks `name` up in a directory; `None`: the directory has no such name. A found entry counts one lookup until
    /// [`Union::forget`].
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`; what the layers say.
    pub fn lookup(&self, parent: InodeId, name: &Name) -> Result<Option<Entry>> {
        self.again(|| {
            let parent = self.inode(parent)?;
            let body = parent.dir()?;
            let names = body.names.read();
            let Ok(view) = body.live_view() else { return Ok(None) };
            let slot = match names.index() {
                Some(index) => match index.slot(self.cookies.hash(name)) {
                    Some(slot) => slot,
                    None => return Ok(None),
                },
                None => 0,
            };
            if let Some(entry) = self.known_dir(parent.id, name)? {
                return Ok(Some(entry));
            }
            let entry = match merge::lookup_from(&self.stack, &view, name, slot)? {
                Answer::Absent(_) => None,
                Answer::Found(found) => Some(self.enter(&parent, name, &found)?),
            };
            if names.searched(view.len()) && self.layers_stay() {
                drop(names);
                self.index_names(&parent, body);
            }
            Ok(entry)
        })
    }

    /// The entry of a directory whose inode is live, so that its parts need not be merged again. The caller holds the
    /// parent's `names`.
    fn known_dir(&self, parent: InodeId, name: &Name) -> Result<Option<Entry>> {
        let known = self.table.by_name(parent, name).filter(|inode| self.layers_stay() && inode.kind == Kind::Dir);
        let Some(inode) = known.filter(|inode| self.table.hold(inode)) else { return Ok(None) };
        match self.attr(&inode) {
            Ok(attr) => Ok(Some(Entry { id: inode.id, attr })),
            Err(errno) => {
                self.forget(inode.id, 1);
                Err(errno)
            }
        }
    }

    /// Looks `name` up as [`merge::lookup`] does, but without a search where the directory's names are known. The
    /// caller holds `names`.
    pub(super) fn find(&self, names: &Names, view: &DirView, name: &Name) -> Result<Answer> {
        let slot = match names.index().map(|index| index.slot(self.cookies.hash(name))) {
            None => 0,
            Some(Some(slot)) => slot,
            Some(None) => {
                let Some(part) = &view.upper else { return Ok(Answer::Absent(Absent::Nowhere)) };
                match look_up(&part.place, name, part.xattr_whiteouts)? {
                    LookedUp::Nothing => return Ok(Answer::Absent(Absent::Nowhere)),
                    LookedUp::Whiteout => return Ok(Answer::Absent(Absent::UpperWhiteout)),
                    // An object that was not made through this mount.
                    LookedUp::Object(_) => 0,
                }
            }
        };
        merge::lookup_from(&self.stack, view, name, slot)
    }

    /// The live inode under `name`, held, with what a search would find, by one look: for an object of the upper layer
    /// that has this name and no other. `None`: only a search can tell. The caller holds the parent's `names`.
    pub(super) fn known_leaf(
        &self,
        parent: &Arc<Inode>,
        view: &DirView,
        name: &Name,
    ) -> Result<Option<(Arc<Inode>, FoundLeaf)>> {
        let (Some(part), Some(inode)) = (&view.upper, self.table.by_name(parent.id, name)) else { return Ok(None) };
        let Body::Leaf(leaf) = &inode.body else { return Ok(None) };
        let (object, meta) = {
            let state = leaf.state.lock();
            let alone = state.index().is_none() && state.nlink().is_none() && !state.is_device();
            match state.upper() {
                Some(object) if alone && self.layers_stay() => (object.clone(), state.meta().cloned()),
                _ => return Ok(None),
            }
        };
        if !Arc::ptr_eq(&object.place.dir, &part.place) || object.place.name != *name {
            return Ok(None);
        }
        let stat = part.place.stat(name)?.filter(|stat| Key::of(stat) == object.key && stat.nlink == 1);
        let Some(stat) = stat.filter(|_| self.table.hold(&inode)) else { return Ok(None) };
        let new = FoundLeaf::new_upper(object.place, stat, false);
        let found = FoundLeaf { meta, protection: inode.protection(), ..new };
        Ok(Some((inode, found)))
    }

    /// A directory in which an object other than a directory has a name.
    pub fn parent_of(&self, id: InodeId) -> Option<InodeId> {
        let inode = self.table.get(id)?;
        let state = inode.leaf().ok()?.state.lock();
        state.names.first().map(|(parent, _)| parent.id)
    }

    /// The live inode under this name; no layer is asked.
    pub fn known(&self, parent: InodeId, name: &Name) -> Option<InodeId> {
        self.table.by_name(parent, name).map(|inode| inode.id)
    }

    /// Enters what was just found into the table. The caller holds the parent's `names`.
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

    /// The attributes of an inode that was just found. A second system call is made only where the inode shows another
    /// object.
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

    /// Takes back `lookups` of an inode. An inode without lookups leaves the table, and its object in workdir is
    /// removed.
    pub fn forget(&self, id: InodeId, lookups: u64) {
        self.table.forget(id, lookups, &mut |inode| self.bury(inode));
    }

    fn bury(&self, inode: &Arc<Inode>) {
        let Body::Leaf(leaf) = &inode.body else { return self.not_ahead(inode) };
        let hidden = leaf.state.lock().take_hidden();
        self.leave_blocks(inode, leaf, hidden.is_some());
        let (Some(object), Some(upper)) = (hidden, &self.upper) else { return };
        upper.bury(object.place.name.as_c_str(), inode.kind);
    }
}
