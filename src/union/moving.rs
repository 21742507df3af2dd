//! The part of a rename that changes the layer, when both directories' `names` are held.
//!
//! One `renameat2(2)` moves the object, covers the target and leaves the whiteout that a lower name needs.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Union;
use super::covered::{Covered, clear_dir};
use super::protect::{Change, refuses};
use super::side::{At, Side};
use crate::base::sync::RwLockWriteGuard;
use crate::base::{Errno, Name, Result};
use crate::format::{OverrideStat, OverrideType};
use crate::inode::{Body, Inode, LeafBody, LeafObject, Names, is_ancestor};
use crate::layer::{DirPlace, Place};
use crate::merge::{Answer, Found};
use crate::sys::caller::own_ids;
use crate::sys::path::OFlags;
use crate::sys::stat::Kind;
use crate::sys::tree::{self, RenameFlags};
use crate::upper::{Staged, Temp, Upper, WhiteoutStyle, relocate, set_mark};

/// What a move did.
pub(super) enum Moved {
    /// Both names lead to one object: there was nothing to do.
    Nothing,
    /// All that was asked for.
    All,
    /// The object has moved, but the device that was to be left at its old name could not be made there.
    WithoutDevice(Errno),
}

/// A rename whose two directories are locked.
pub(super) struct Move<'a> {
    pub union: &'a Union,
    pub upper: &'a Upper,
    pub from: Side<'a>,
    pub to: Side<'a>,
    pub flags: RenameFlags,
}

/// The two names of a move that exchanges nothing.
struct Ends<'a> {
    source: At<'a>,
    target: At<'a>,
    /// A lower layer shows something under the old name, which a whiteout must hide.
    is_below: bool,
}

impl<'a> Move<'a> {
    fn is_exchange(&self) -> bool {
        self.flags.contains(RenameFlags::EXCHANGE)
    }

    /// Moves the object in the upper layer and in the live state.
    pub fn run(&self) -> Result<Moved> {
        let Self { union, upper, from, to, .. } = self;
        let source = from.inode()?;
        // A directory that is replaced stays empty meanwhile.
        let _empty = match &to.inode {
            None if self.is_exchange() => return Err(Errno::ENOENT),
            Some(_) if self.flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EEXIST),
            Some(target) if Arc::ptr_eq(source, target) => return Ok(Moved::Nothing),
            Some(target) if !self.is_exchange() => self.check_replace(target)?,
            _ => None,
        };
        if let (Ok(dir), true) = (to.parent.dir(), from.is_dir())
            && (Arc::ptr_eq(source, to.parent) || is_ancestor(source, dir))
        {
            return Err(Errno::EINVAL);
        }
        union.check_flags(source, Change::Other)?;
        if let Some(target) = &to.inode {
            union.check_flags(target, Change::Other)?;
            union.check_flags(to.parent, Change::Other)?;
        }
        self.settle(from, to)?;
        if self.is_exchange() {
            self.settle(to, from)?;
            relocate(from.at()?.pair(), to.at()?.pair(), RenameFlags::EXCHANGE)?;
            self.swapped()?;
            return Ok(Moved::All);
        }
        let kept = self.keep_target()?;
        let device = self.flags.contains(RenameFlags::WHITEOUT).then(|| stage_device(upper)).transpose()?;
        self.move_over(kept)?;
        self.replaced();
        let left = device.map_or(Ok(()), |device| device.publish(from.at()?.fd(), from.name.as_c_str()));
        Ok(left.map_or_else(Moved::WithoutDevice, |()| Moved::All))
    }

    /// Whether the target may be replaced: an empty directory by a directory only. The names of such a target are then held:
    /// it is below both parents, so this keeps the lock order.
    fn check_replace<'t>(&self, target: &'t Arc<Inode>) -> Result<Option<RwLockWriteGuard<'t, Names>>> {
        let Self { union, from, to, .. } = self;
        match (from.is_dir(), to.is_dir()) {
            (true, false) => Err(Errno::ENOTDIR),
            (false, true) => Err(Errno::EISDIR),
            (false, false) => Ok(None),
            (true, true) => {
                if is_ancestor(target, from.parent.dir()?) || Arc::ptr_eq(target, from.parent) {
                    return Err(Errno::ENOTEMPTY);
                }
                let dir = target.dir()?;
                let names = dir.names.write();
                union.check_empty(&dir.view())?;
                Ok(Some(names))
            }
        }
    }

    /// Makes sure that the object can be moved by one rename and shows right at the other side.
    fn settle(&self, from: &Side<'_>, to: &Side<'_>) -> Result<()> {
        let Self { union, upper, .. } = self;
        let inode = from.inode()?;
        match &from.found {
            Answer::Found(Found::Dir(dir)) => {
                let (fd, name) = (from.place()?.fd()?, from.name.as_c_str());
                if !dir.view.lowers.is_empty() {
                    if dir.view.upper.is_none() {
                        return Err(Errno::EAGAIN);
                    }
                    self.redirect_dir(from, !Arc::ptr_eq(from.parent, to.parent))?;
                    union.make_impure(upper, to.parent, to.place()?)?;
                } else if !to.view.lowers.is_empty() {
                    // Before it is seen there: nothing of a lower directory of that name may show through it.
                    upper.marked(fd.as_fd(), name, || upper.set_opaque(fd.as_fd(), name))?;
                }
            }
            Answer::Found(Found::Leaf(leaf)) => {
                let body = inode.leaf()?;
                if !leaf.named {
                    // Copied up under another name of the same lower file, or not at all (a race that was lost).
                    if body.state.lock().upper().is_none() {
                        return Err(Errno::EAGAIN);
                    }
                    union.alias_found(upper, from.parent, from.place()?, from.name, inode, leaf)?;
                }
                // All names share the mark.
                let shared = leaf.stat.nlink > 1 || body.state.lock().nlink().is_some();
                let absolute = shared || !Arc::ptr_eq(from.parent, to.parent);
                if !union.redirect_file(upper, body, from.parent, from.name, absolute)? {
                    return Err(Errno::EAGAIN);
                }
                if from.view.upper.as_ref().is_some_and(|part| part.impure) {
                    union.make_impure_for(upper, inode, to.parent, to.place()?)?;
                }
            }
            Answer::Absent(_) => return Err(Errno::ENOENT),
        }
        Ok(())
    }

    /// Before a merged directory moves, its upper part says where the lower parts are.
    fn redirect_dir(&self, from: &Side<'_>, absolute: bool) -> Result<()> {
        let state = &from.inode()?.dir()?.state;
        let redirect = state.read().view.redirect.clone();
        let Some(redirect) = self.union.next_redirect(redirect.as_ref(), from.parent, from.name, absolute)? else {
            return Ok(());
        };
        let fd = from.place()?.fd()?;
        let name = from.name.as_c_str();
        if !self.upper.set_redirect(fd.as_fd(), name, &redirect)? {
            return Err(if refuses(fd.as_fd(), name) { Errno::EPERM } else { Errno::EXDEV });
        }
        state.write().view.redirect = Some(redirect);
        Ok(())
    }

    /// A target that is replaced may be open: a second link in workdir keeps it.
    fn keep_target(&self) -> Result<Option<Temp<'a>>> {
        let Self { union, upper, to, .. } = self;
        let (Answer::Found(Found::Leaf(found)), Some(inode)) = (&to.found, &to.inode) else { return Ok(None) };
        if !found.named {
            if found.upper {
                // Only what has this name in the upper layer takes a link along when it goes.
                union.alias_found(upper, to.parent, to.place()?, to.name, inode, found)?;
            }
            return Ok(None);
        }
        union.count_with_upper(upper, inode.leaf()?, -1)?;
        if !union.leave_name(inode.leaf()?, to.parent, to.name, &found.stat) {
            return Ok(None);
        }
        let on_disk = if found.device { Kind::File } else { inode.kind };
        let temp = Temp::new(upper, on_disk)?;
        let (dir, name) = (to.place()?.fd()?, to.name.as_c_str());
        match tree::link_at(dir.as_fd(), name, upper.work(), temp.name()) {
            Ok(()) => Ok(Some(temp)),
            // Without links there: who has it open keeps the descriptor that is cached.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Moves the object and covers the target, leaves a whiteout where one is needed, and enters the move into the live
    /// state: by one system call where the upper layer has what that takes.
    fn move_over(&self, kept: Option<Temp<'_>>) -> Result<()> {
        let Self { upper, from, to, .. } = self;
        let ends = Ends { source: from.at()?, target: to.at()?, is_below: from.is_below()? };
        let Ends { source, target, is_below } = &ends;
        if from.is_dir() && to.is_dir() && to.is_upper() {
            clear_dir(upper, target, |ino| self.is_cleared(ino))?;
        }
        if upper.style == WhiteoutStyle::File {
            if *is_below {
                // `X` beside `.wh.X` is seen until X has moved.
                upper.whiteout_beside(source.fd(), from.name)?;
            }
            relocate(source.pair(), target.pair(), RenameFlags::empty())?;
            self.moved(kept)?;
            upper.drop_wh_file(target.fd(), to.name);
            return Ok(());
        }
        let swap = to.upper_whiteout() && upper.features.exchange && (*is_below || from.is_dir());
        if swap {
            // The whiteout that stands at the target goes where one is needed, or away.
            relocate(source.pair(), target.pair(), RenameFlags::EXCHANGE)?;
            self.moved(kept)?;
            if !is_below && let Err(errno) = tree::unlink_at(source.fd(), source.name) {
                log::warn!("{:?}: a whiteout that hides nothing stays: {errno}", from.name);
            }
            return Ok(());
        }
        if *is_below && upper.features.rename_whiteout {
            relocate(source.pair(), target.pair(), RenameFlags::WHITEOUT)?;
            return self.moved(kept);
        }
        self.move_and_hide(&ends, kept)
    }

    /// Does the same in several steps, where the upper layer lacks flags of `renameat2(2)`: an end of the process between
    /// them may leave both names. What needs room is done first, and the move is undone where the old name cannot be
    /// hidden.
    fn move_and_hide(&self, ends: &Ends<'_>, kept: Option<Temp<'_>>) -> Result<()> {
        let Ends { source, target, is_below } = ends;
        let whiteout = if *is_below { Some(self.upper.whiteout_for(source.fd())?) } else { None };
        let covered = Covered::new(self.upper, whiteout.is_some(), &self.from, (&self.to, target))?;
        if let Err(errno) = relocate(source.pair(), target.pair(), RenameFlags::empty()) {
            if let Covered::Away(taken) = covered {
                taken.put_back(target.fd(), target.name);
            }
            return Err(errno);
        }
        let hidden = whiteout.map_or(Ok(()), |staged| staged.publish_new(source.fd(), source.name));
        if hidden.is_err()
            && !matches!(covered, Covered::Gone)
            && relocate(target.pair(), source.pair(), RenameFlags::empty()).is_ok()
        {
            match covered {
                Covered::Away(kept) | Covered::Linked(kept) => kept.put_back(target.fd(), target.name),
                Covered::Like(spare, ino) => {
                    spare.put_back(target.fd(), target.name);
                    self.is_cleared(ino)?;
                }
                Covered::Nothing | Covered::Gone => {}
            }
            return hidden;
        }
        self.moved(kept)?;
        hidden
    }

    /// The upper part of an empty target was replaced by an opaque one, and the target is still there until the move.
    fn is_cleared(&self, ino: u64) -> Result<()> {
        let to = &self.to;
        let (into, target) = (to.place()?, to.inode()?);
        let mut state = target.dir()?.state.write();
        if let Some(part) = &mut state.view.upper {
            part.place = into.child(to.name, ino);
        }
        state.view.lowers = Arc::new([]);
        state.view.redirect = None;
        Ok(())
    }

    /// The live state after a move; no system call is made.
    fn moved(&self, kept: Option<Temp<'_>>) -> Result<()> {
        let Self { union, from, to, .. } = self;
        if let Some(target) = &to.inode {
            match &target.body {
                Body::Dir(dir) => {
                    if let Answer::Found(Found::Dir(found)) = &to.found {
                        dir.state.write().removed = Some(Box::new(found.stat));
                    }
                }
                Body::Leaf(leaf) => {
                    if let Some(kept) = kept {
                        union.hide(leaf, kept)?;
                    }
                }
            }
            union.table.remove_name(to.parent, to.name);
        }
        arrived(from.inode()?, from, to)?;
        union.table.rename(from.inode()?, (from.parent, from.name), (to.parent, to.name));
        Ok(())
    }

    /// What a move replaced has one name less.
    fn replaced(&self) {
        let to = &self.to;
        let (Some(target), Answer::Found(Found::Leaf(found))) = (&to.inode, &to.found) else { return };
        if let Ok(leaf) = target.leaf() {
            self.union.one_link_less(target, leaf, if found.named { 0 } else { found.stat.nlink });
        }
    }

    /// The live state after an exchange.
    fn swapped(&self) -> Result<()> {
        let Self { union, from, to, .. } = self;
        let (source, target) = (from.inode()?, to.inode()?);
        arrived(source, from, to)?;
        arrived(target, to, from)?;
        union.table.rename(source, (from.parent, from.name), (to.parent, to.name));
        union.table.rename(target, (to.parent, to.name), (from.parent, from.name));
        Ok(())
    }
}

/// The inode's object is at the other side now.
fn arrived(inode: &Arc<Inode>, from: &Side<'_>, to: &Side<'_>) -> Result<()> {
    let into = to.place()?;
    match &inode.body {
        Body::Dir(dir) => {
            if let Some(part) = &dir.state.read().view.upper {
                part.place.moved(into, to.name);
            }
        }
        Body::Leaf(leaf) => arrived_leaf(leaf, from.place()?, from.name, into, to.name),
    }
    Ok(())
}

fn arrived_leaf(leaf: &LeafBody, old: &Arc<DirPlace>, old_name: &Name, into: &Arc<DirPlace>, name: &Name) {
    let mut state = leaf.state.lock();
    let is_there = |object: &LeafObject| Arc::ptr_eq(&object.place.dir, old) && object.place.name == *old_name;
    if state.upper().is_some_and(is_there) {
        state.move_upper(Place { dir: into.clone(), name: name.clone() });
    }
}

/// What `RENAME_WHITEOUT` by a user (an overlay on top of this one) leaves: its whiteout is a device to see here.
fn stage_device(upper: &Upper) -> Result<Temp<'_>> {
    let temp = Temp::new(upper, Kind::File)?;
    drop(tree::create_at(upper.work(), temp.name(), OFlags::RDWR, 0o600)?);
    upper.set_device(upper.work(), temp.name())?;
    match upper.owners() {
        Some(owners) => {
            let (uid, gid) = own_ids();
            let said = OverrideStat { uid, gid, mode: 0, kind: OverrideType::File };
            set_mark(Staged::Named(upper.work(), temp.name()), owners, &said)?;
        }
        None => tree::chmod_at(upper.work(), temp.name(), 0)?,
    }
    Ok(temp)
}
