//! Hard links of lower files that stay one file: the copy is in the index, by which each of the names finds it.
//!
//! Before a name is changed it gets a link of the copy (an *alias*). Then one call on the name changes the real link
//! count and the union's alike, and the mark `nlink`, which holds the difference of the two, stays right whenever the
//! process ends.
//!
//! Without an index only links lead to the copy. The kernel does not say by which name a program changes a file, so
//! that each name that was looked up gets its link before the change begins: then no name loses the change over a
//! remount.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::copy_up::{Copy, keeping_times, killed};
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::format::{Base, Nlink};
use crate::inode::{Body, Inode, Key, LeafBody, LeafState, lock_up};
use crate::layer::{DirPlace, IndexDir, Layer};
use crate::merge::FoundLeaf;
use crate::sys::stat::{Kind, stat_at};
use crate::sys::tree::{self, RenameFlags};
use crate::upper::{Temp, Upper, relocate};

impl Union {
    /// Whether the copy of a lower object with this link count goes into the index.
    pub(super) fn is_indexed(&self, layer: &Layer, kind: Kind, links: u64) -> bool {
        links > 1 && self.table.hard_links.is_indexed(layer, kind)
    }

    /// Whether a change of this name must wait for the copy-up of its file.
    pub(super) fn needs_index(&self, inode: &Inode, found: &FoundLeaf) -> bool {
        !found.upper
            && self.is_indexed(&found.place.dir.layer, inode.kind, found.stat.nlink)
            && inode.leaf().is_ok_and(|leaf| leaf.state.lock().upper().is_none())
    }

    /// Moves a staged copy of a lower hard link into the index. The caller holds the inode's `up`.
    pub(super) fn copy_into_index(
        &self,
        upper: &Upper,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        copy: Copy<'_>,
    ) -> Result<()> {
        let (Some(index), Some(entry)) = (&self.stack.index, copy.entry) else { return Err(Errno::EIO) };
        let union = leaf.state.lock().nlink().map_or(copy.links, u64::from);
        let links = i32::try_from(union).map_err(|_| Errno::EMLINK)?;
        // The entry in the index is the only real link at first.
        upper.set_nlink(upper.work(), copy.temp.name(), &Nlink { base: Base::Upper, difference: links - 1 })?;
        // A thread that finds the entry before this call returns must find this inode.
        let held = self.table.hold_key(inode, Key::of(&copy.made));
        copy.temp.publish_new(index.dir().fd()?.as_fd(), entry.as_c_str())?;
        held.keep();
        {
            let mut state = leaf.state.lock();
            state.set_index(Some(entry.clone()));
            state.set_unaliased(copy.links);
        }
        self.now_upper(inode, leaf, index.place(&entry), &copy.made, copy.links, copy.meta);
        upper.sync_name(index.dir())
    }

    /// Gives each known name of a copied-up hard link a link of the copy, if it has none.
    ///
    /// # Errors
    /// Without an index what copying up a directory or `linkat(2)` says: a change by that name would be lost.
    pub(super) fn alias_known(
        &self,
        upper: &Upper,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        killed: &dyn Fn() -> bool,
    ) -> Result<()> {
        let (names, lower_links) = {
            let mut state = leaf.state.lock();
            let Some(lower_links) = state.unaliased() else { return Ok(()) };
            if state.index().is_none() {
                drop(state);
                return self.alias_all(upper, inode, leaf, killed);
            }
            state.set_aliased();
            (state.names.iter().take(LeafState::FEW_NAMES).cloned().collect::<Vec<_>>(), lower_links)
        };
        // The index leads the names to the copy in any case, but not where the upper layer becomes a lower one.
        for (parent, name) in &names {
            let aliased =
                self.copy_up_dir(parent).and_then(|()| self.alias_one(upper, inode, leaf, (parent, name), lower_links));
            if let Err(errno) = aliased {
                log::debug!("{name:?} gets no link of its copy: {errno}");
            }
        }
        Ok(())
    }

    /// Gives all known names a link of the copy where there is no index. Other changes of the file wait meanwhile.
    fn alias_all(&self, upper: &Upper, inode: &Arc<Inode>, leaf: &LeafBody, killed: &dyn Fn() -> bool) -> Result<()> {
        loop {
            let names = leaf.state.lock().names.clone();
            for (parent, name) in names.iter() {
                // Directories are copied up before `up` is taken. A removed directory has no such name any more.
                let copied = self.copy_up_dir(parent);
                if leaf.state.lock().has_name(parent, name) {
                    copied?;
                }
            }
            let _up = lock_up(inode, killed)?;
            let Some(lower_links) = leaf.state.lock().unaliased() else { return Ok(()) };
            for (parent, name) in names.iter() {
                self.alias_one(upper, inode, leaf, (parent, name), lower_links)?;
            }
            let mut state = leaf.state.lock();
            let known = |(parent, name): &(Arc<Inode>, Name)| {
                names.iter().any(|(other, also)| Arc::ptr_eq(other, parent) && also == name)
            };
            // A name that was looked up meanwhile may lead to the next change.
            if state.names.len() <= names.len() && state.names.iter().all(known) {
                state.set_aliased();
                return Ok(());
            }
        }
    }

    fn alias_one(
        &self,
        upper: &Upper,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        (parent, name): (&Arc<Inode>, &Name),
        lower_links: u64,
    ) -> Result<()> {
        let dir = parent.dir()?;
        let mut names = self.changing(parent)?;
        let (still, indexed) = {
            let state = leaf.state.lock();
            (state.has_name(parent, name), state.index().is_some())
        };
        let Some(into) = dir.view().upper.filter(|_| still) else { return Ok(()) };
        if into.place.stat(name)?.is_none() {
            names.begin();
            keeping_times(&into.place, |_| {
                if indexed {
                    self.make_impure(upper, parent, &into.place)?;
                }
                self.alias(upper, inode, leaf, &into.place, name, lower_links)
            })?;
            if !indexed {
                inode.set_loose(true);
            }
            names.raised(&self.cookies, name, inode.kind);
            drop(names);
            self.attributes_changed(parent.id);
            return upper.sync_name(&into.place);
        }
        Ok(())
    }

    /// Gives the known names of a hard link their links before the kernel writes to the file by itself, as
    /// [`Union::write`] does: so each name shows the data after a remount.
    ///
    /// # Errors
    /// As for [`Union::write`].
    pub fn settle_names(&self, caller: &Caller, id: InodeId) -> Result<()> {
        let inode = self.inode(id)?;
        match (&inode.body, &self.upper) {
            (Body::Leaf(leaf), Some(upper)) if leaf.state.lock().upper().is_some() => {
                self.alias_known(upper, &inode, leaf, &killed(caller.pid))
            }
            _ => Ok(()),
        }
    }

    /// Gives one lower name of a copied-up file a link of the copy. The caller holds the directory's `names`.
    pub(super) fn alias(
        &self,
        upper: &Upper,
        inode: &Inode,
        leaf: &LeafBody,
        into: &DirPlace,
        name: &Name,
        lower_links: u64,
    ) -> Result<()> {
        let (entry, union) = {
            let state = leaf.state.lock();
            (state.index().cloned(), state.nlink())
        };
        let (Some(index), Some(entry)) = (&self.stack.index, entry) else {
            return self.link_object(inode, into, name);
        };
        let dir = index.dir().fd()?;
        // Locked so that two changes of the mark do not mix.
        let _data = leaf.data().lock();
        let (dir, entry) = (dir.as_fd(), entry.as_c_str());
        let less = |from: u32, links: u64| i64::from(from).saturating_sub(i64::try_from(links).unwrap_or(i64::MAX));
        let mark = |base, difference: i64| {
            let difference = i32::try_from(difference).map_err(|_| Errno::EMLINK)?;
            upper.set_nlink(dir, entry, &Nlink { base, difference })
        };
        let before = match (upper.nlink(dir, entry)?, union) {
            (Some(Nlink { base: Base::Upper, difference }), _) => i64::from(difference),
            // A crash has left this mark. It counts from the lower file, so that the link does not change what it says.
            (Some(Nlink { base: Base::Lower, .. }), _) | (None, None) => return self.link_object(inode, into, name),
            (None, Some(union)) => less(union, stat_at(dir, entry)?.nlink),
        };
        if let Some(union) = union {
            // While the real count changes, the mark counts from the lower file.
            mark(Base::Lower, less(union, lower_links))?;
        }
        let linked = self.link_object(inode, into, name);
        if let Err(errno) = mark(Base::Upper, if linked.is_ok() { before - 1 } else { before }) {
            // The mark that is there counts from the lower file, and is right, too.
            log::debug!("index: the mark of {entry:?} stays that of the lower file: {errno}");
            leaf.state.lock().set_count_from_lower(true);
        }
        linked
    }

    /// [`Union::alias`] for an object that was found under a name.
    pub(super) fn alias_found(
        &self,
        upper: &Upper,
        parent: &Arc<Inode>,
        into: &Arc<DirPlace>,
        name: &Name,
        inode: &Inode,
        found: &FoundLeaf,
    ) -> Result<()> {
        self.make_impure(upper, parent, into)?;
        let lower = found.lower.as_ref().map_or(found.stat.nlink, |lower| lower.nlink);
        self.alias(upper, inode, inode.leaf()?, into, name, lower)
    }

    fn link_object(&self, inode: &Inode, into: &DirPlace, name: &Name) -> Result<()> {
        let fd = into.fd()?;
        self.at_object(inode, |from, old| tree::link_at(from, old, fd.as_fd(), name.as_c_str()))
    }

    /// Makes the mark `nlink` of an indexed file count from the upper inode before its real count changes by `by`, for
    /// another reason than an alias. A mark that a crash has left counts from the lower inode: it is written anew where
    /// the union's count is known, and else changed by `by` itself.
    pub(super) fn count_with_upper(&self, upper: &Upper, leaf: &LeafBody, by: i32) -> Result<()> {
        let _data = leaf.data().lock();
        let (entry, union) = {
            let state = leaf.state.lock();
            if !state.is_counted_from_lower() {
                return Ok(());
            }
            (state.index().cloned(), state.nlink())
        };
        let (Some(index), Some(entry)) = (&self.stack.index, entry) else { return Ok(()) };
        let dir = index.dir().fd()?;
        let (dir, entry) = (dir.as_fd(), entry.as_c_str());
        match (union, upper.nlink(dir, entry)?) {
            (Some(union), _) => {
                let real = i64::try_from(stat_at(dir, entry)?.nlink).unwrap_or(i64::MAX);
                let difference = i32::try_from(i64::from(union) - real).map_err(|_| Errno::EMLINK)?;
                upper.set_nlink(dir, entry, &Nlink { base: Base::Upper, difference })?;
                leaf.state.lock().set_count_from_lower(false);
                Ok(())
            }
            // A count that is too high does no harm.
            (None, Some(Nlink { base: Base::Lower, difference })) if by > 0 => {
                let difference = difference.saturating_add(by);
                upper.set_nlink(dir, entry, &Nlink { base: Base::Lower, difference })
            }
            _ => Ok(()),
        }
    }

    /// Takes the entry of an indexed file out of the index after the last name is gone. The file lives on in workdir
    /// until it is forgotten.
    pub(super) fn leave_index(&self, leaf: &LeafBody) {
        let entry = leaf.state.lock().index().cloned();
        if let Err(errno) = self.try_leave_index(leaf) {
            log::warn!("index: {entry:?} stays until the next mount: {errno}");
        }
    }

    /// [`Union::leave_index`] for a caller who must know whether it could be done.
    pub(super) fn try_leave_index(&self, leaf: &LeafBody) -> Result<()> {
        let entry = leaf.state.lock().index().cloned();
        let (Some(upper), Some(index), Some(entry)) = (&self.upper, &self.stack.index, entry) else { return Ok(()) };
        self.take_from_index(upper, index, leaf, &entry)
    }

    fn take_from_index(&self, upper: &Upper, index: &IndexDir, leaf: &LeafBody, entry: &Name) -> Result<()> {
        let dir = index.dir().fd()?;
        let stat = stat_at(dir.as_fd(), entry.as_c_str())?;
        if stat.nlink > 1 {
            // The file has more names than the union knows: a lower link was made meanwhile, or the mark was wrong.
            log::warn!("index: {entry:?} has names left");
            return Ok(());
        }
        let temp = Temp::new(upper, stat.kind())?;
        relocate((dir.as_fd(), entry.as_c_str()), (upper.work(), temp.name()), RenameFlags::empty())?;
        leaf.state.lock().set_index(None);
        self.hide(leaf, temp)
    }
}

/// Passes over an error of a copy-up that does not keep the name from being hidden: the process may not set the owner.
/// Without a copy in the index the other names of the hard link are counted as if this name were still there.
pub(super) fn unless_foreign(copied: Result<()>) -> Result<()> {
    match copied {
        Err(Errno::EPERM | Errno::EOVERFLOW | Errno::EACCES) => Ok(()),
        copied => copied,
    }
}
