//! Removal: unlink and rmdir. The system call that removes a name also leaves the whiteout that hides a lower object.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::copy_up::CopyUp;
use super::indexed::unless_foreign;
use super::protect::{Change, refuses};
use super::resent::or_gone_before;
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::inode::{Inode, LeafBody, LeafObject, Names};
use crate::layer::Place;
use crate::merge::{self, Answer, DirView, Found, FoundDir, FoundLeaf};
use crate::sys::stat::{Kind, Stat, stat_fd};
use crate::sys::tree;
use crate::upper::{Temp, Upper, Widened};

impl Union {
    /// Removes a name of anything but a directory. A program that has the object open can go on using it.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EROFS`; what the system calls say, and then the name is still there.
    pub fn unlink(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<()> {
        let done = self.again(|| {
            self.remove(caller, parent, name, |upper, view, parent, inode, found| match found {
                Found::Dir(_) => Err(Errno::EISDIR),
                Found::Leaf(leaf) => self.unlink_found(upper, view, parent, name, inode, leaf),
            })
        });
        or_gone_before(caller, Errno::ENOENT, done)
    }

    /// Looks a name up, lets `act` remove the name from the upper layer, and takes it out of the live state.
    fn remove(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        act: impl Fn(&Upper, &DirView, &Arc<Inode>, &Arc<Inode>, &Found) -> Result<()>,
    ) -> Result<()> {
        let upper = self.upper()?;
        let parent = self.inode(parent)?;
        self.check_flags(&parent, Change::Other)?;
        self.copy_up_dir(&parent)?;
        let body = parent.dir()?;
        let mut index_first = true;
        loop {
            let mut names = self.changing(&parent)?;
            let view = body.live_view()?;
            let Answer::Found(found) = self.find(&names, &view, name)? else { return Err(Errno::ENOENT) };
            let inode = self.table.intern(&parent, name, &found);
            let allowed = self.check_flags(&inode, Change::Other).map(drop);
            let done = match &found {
                _ if allowed.is_err() => Some(allowed),
                // A file that the index must know first is copied up while the names are not locked.
                Found::Leaf(leaf) if index_first && self.needs_index(&inode, leaf) => None,
                _ => {
                    names.begin();
                    self.note_detached(&inode);
                    Some(act(upper, &view, &parent, &inode, &found))
                }
            };
            if done == Some(Ok(())) {
                self.name_is_gone(&mut names, &parent, name);
            }
            drop(names);
            let done = match done {
                Some(done) => done.map(|()| true),
                None => {
                    index_first = false;
                    unless_foreign(self.copy_up(&inode, &CopyUp::metadata(caller))).map(|()| false)
                }
            };
            let done = self.told_if_failed(inode.id, done);
            self.forget(inode.id, 1);
            if done? {
                return Ok(());
            }
        }
    }

    fn unlink_found(
        &self,
        upper: &Upper,
        view: &DirView,
        parent: &Arc<Inode>,
        name: &Name,
        inode: &Arc<Inode>,
        found: &FoundLeaf,
    ) -> Result<()> {
        let into = view.upper.as_ref().ok_or(Errno::ESTALE)?;
        let dir = into.place.fd()?;
        let leaf = inode.leaf()?;
        if !found.named {
            if !found.upper {
                upper.place_whiteout(dir.as_fd(), name)?;
                self.one_link_less(inode, leaf, found.stat.nlink);
                return Ok(());
            }
            self.alias_found(upper, parent, &into.place, name, inode, found)?;
        }
        let kind = if found.device { Kind::File } else { inode.kind };
        self.count_with_upper(upper, leaf, -1)?;
        let whiteout = found.is_below() || merge::lower_has(view, name)?;
        let keep = self.leave_name(leaf, parent, name, &found.stat);
        let old = match (whiteout, keep) {
            (true, _) => Some(upper.replace_with_whiteout(dir.as_fd(), name, kind)?),
            (false, true) => Some(upper.take_away(dir.as_fd(), name.as_c_str(), kind)?),
            (false, false) => {
                tree::unlink_at(dir.as_fd(), name.as_c_str())?;
                None
            }
        };
        match old {
            Some(old) if keep => self.hide(leaf, old)?,
            // Another link in workdir would keep the file's entry in the index.
            old => drop(old),
        }
        self.one_link_less(inode, leaf, 0);
        Ok(())
    }

    /// Makes the inode use another of its names before `name` goes. True: no other name is known, and the object must
    /// be kept in workdir.
    pub(super) fn leave_name(&self, leaf: &LeafBody, parent: &Arc<Inode>, name: &Name, stat: &Stat) -> bool {
        let object = {
            let state = leaf.state.lock();
            // The copy of an indexed file stays in the index, whatever becomes of this name.
            if state.is_hidden() || state.index().is_some() {
                return false;
            }
            state.upper().cloned()
        };
        let Some(object) = object else { return false };
        if stat.nlink < 2 {
            return true;
        }
        // One name at a time: there may be many, and the first often serves.
        for at in 0.. {
            let Some((other, other_name)) = leaf.state.lock().names.get(at).cloned() else { break };
            if Arc::ptr_eq(&other, parent) && other_name == *name {
                continue;
            }
            let Some(part) = other.dir().ok().and_then(|dir| dir.view().upper) else { continue };
            let there = part.place.stat(&other_name).ok().flatten();
            if there.is_some_and(|stat| crate::inode::Key::of(&stat) == object.key) {
                let place = Place { dir: part.place.clone(), name: other_name };
                leaf.state.lock().set_upper(LeafObject { place, key: object.key });
                return false;
            }
        }
        // The object has other names, but the union knows none of them.
        true
    }

    /// Keeps an object that lost its last name in workdir until the inode is forgotten.
    pub(super) fn hide(&self, leaf: &LeafBody, old: Temp<'_>) -> Result<()> {
        let dir = self.work.clone().ok_or(Errno::EROFS)?;
        let name = Name::new(old.name().to_bytes())?;
        let mut state = leaf.state.lock();
        if state.move_upper(Place { dir, name }) {
            state.set_hidden();
            drop(old.keep());
        }
        Ok(())
    }

    /// Counts one link less in the union. A file that has only lower names begins with a count of `lower_links`.
    pub(super) fn one_link_less(&self, inode: &Arc<Inode>, leaf: &LeafBody, lower_links: u64) {
        let mut state = leaf.state.lock();
        // Names that were added to a layer underneath are not counted: the count does not reach 0 while another name is
        // known.
        let least = u32::from(state.names.len() > 1);
        if let Some(links) = state.nlink_mut() {
            *links = links.saturating_sub(1).max(least);
            if *links > 0 {
                return;
            }
            let pinned = state.set_pinned(false);
            drop(state);
            if pinned {
                // No name leads to the inode any more: it need not be held (see `now_upper`).
                self.forget(inode.id, 1);
            }
            self.leave_index(leaf);
        } else if lower_links > 0 {
            state.set_nlink(u32::try_from(lower_links - 1).unwrap_or(u32::MAX));
        }
    }

    /// Takes a removed name out of the live state. The caller holds the parent's `names`.
    pub(super) fn name_is_gone(&self, names: &mut Names, parent: &Arc<Inode>, name: &Name) {
        self.table.remove_name(parent, name);
        names.removed(&self.cookies, name);
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOENT`, `ENOTDIR`, `EROFS`; what the system calls say, and then it is still there.
    pub fn rmdir(&self, caller: &Caller, parent: InodeId, name: &Name) -> Result<()> {
        let done = self.again(|| {
            self.remove(caller, parent, name, |upper, view, _, inode, found| match found {
                Found::Dir(dir) => self.rmdir_found(upper, view, name, inode, dir),
                Found::Leaf(_) => Err(Errno::ENOTDIR),
            })
        });
        or_gone_before(caller, Errno::ENOENT, done)
    }

    fn rmdir_found(
        &self,
        upper: &Upper,
        view: &DirView,
        name: &Name,
        inode: &Arc<Inode>,
        found: &FoundDir,
    ) -> Result<()> {
        let dir = view.upper.as_ref().ok_or(Errno::ESTALE)?.place.fd()?;
        let child = inode.dir()?;
        let mut child_names = child.names.write();
        let seen = child.view();
        let whiteout = found.is_below() || merge::lower_has(view, name)?;
        let plain = !whiteout && seen.lowers.is_empty();
        let removed = if plain { tree::rmdir_at(dir.as_fd(), name.as_c_str()) } else { Err(Errno::ENOTEMPTY) };
        // The directory in workdir, which is removed when the live state is done.
        let _gone = match removed {
            Ok(()) => None,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                match self.check_empty(&seen) {
                    Err(Errno::ENOTEMPTY) if seen.upper.is_some() && refuses(dir.as_fd(), name.as_c_str()) => {
                        return Err(Errno::EPERM);
                    }
                    empty => empty?,
                }
                if !whiteout {
                    Some(upper.take_away(dir.as_fd(), name.as_c_str(), Kind::Dir)?)
                } else if seen.upper.is_some() {
                    Some(upper.replace_with_whiteout(dir.as_fd(), name, Kind::Dir)?)
                } else {
                    upper.place_whiteout(dir.as_fd(), name)?;
                    None
                }
            }
            Err(errno) => return Err(errno),
        };
        child_names.forget();
        child.state.write().removed = Some(Box::new(found.stat));
        Ok(())
    }

    /// Refuses a directory in which something is seen (`ENOTEMPTY`). The caller holds its `names`.
    pub(super) fn check_empty(&self, view: &DirView) -> Result<()> {
        let is_empty = || merge::is_empty(view, &self.cookies, self.names_at_once);
        let empty = match (is_empty(), &view.upper) {
            // An owner may remove a directory that he may not read.
            (Err(Errno::EACCES), Some(part)) => {
                let fd = part.place.fd()?;
                let _widened = Widened::new(fd.as_fd(), stat_fd(fd.as_fd())?.mode)?;
                is_empty()?
            }
            (empty, _) => empty?,
        };
        if empty { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }
}
