//! Rename: plain, without replacing, exchanging, and leaving a whiteout.
//!
//! One `renameat2` moves the object, covers the target and leaves the whiteout that a lower name needs.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::copy_up::CopyUp;
use super::covered::{Covered, clear_dir};
use super::indexed::unless_foreign;
use super::protect::{Change, refuses};
use super::resent::or_gone_before;
use super::{Caller, InodeId, Union};
use crate::base::sync::RwLockWriteGuard;
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Ended, Inode, LeafBody, LeafObject, Names, is_ancestor, lock_names};
use crate::layer::{DirPlace, Place};
use crate::merge::{self, Absent, Answer, DirView, Found};
use crate::sys::stat::Kind;
use crate::sys::tree::{self, RenameFlags};
use crate::upper::{Temp, Upper, WhiteoutStyle, relocate};

/// What a rename did.
enum Moved {
    /// There was nothing to do.
    Nothing,
    All,
    /// The object has moved, but the device that was to be left could not be.
    LeavesNothing(Errno),
}

/// One side of a rename.
pub(super) struct Side<'a> {
    parent: &'a Arc<Inode>,
    name: &'a Name,
    /// The directory's parts, under its `names`.
    view: DirView,
    /// What is under the name.
    found: Answer,
    /// Its inode, held.
    inode: Option<Arc<Inode>>,
}

impl Side<'_> {
    fn place(&self) -> Result<&Arc<DirPlace>> {
        Ok(&self.view.upper.as_ref().ok_or(Errno::ESTALE)?.place)
    }

    /// Whether a lower layer shows something under the name.
    fn is_below(&self) -> Result<bool> {
        let told = match &self.found {
            Answer::Found(Found::Dir(dir)) => dir.is_below(),
            Answer::Found(Found::Leaf(leaf)) => leaf.is_below(),
            Answer::Absent(_) => false,
        };
        Ok(told || self.was_below() || merge::lower_has(&self.view, self.name)?)
    }

    /// Whether it is a copy of what one of the directory's lower parts has under the name, so that nobody need look.
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

    /// The object stands in the upper layer under this name.
    pub fn is_upper(&self) -> bool {
        match &self.found {
            Answer::Found(Found::Dir(dir)) => dir.view.upper.is_some(),
            Answer::Found(Found::Leaf(leaf)) => leaf.named,
            Answer::Absent(_) => false,
        }
    }

    fn inode(&self) -> Result<&Arc<Inode>> {
        self.inode.as_ref().ok_or(Errno::ENOENT)
    }
}

impl Union {
    /// Moves `name` of one directory to `new_name` of another.
    ///
    /// `flags`: `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT` of `renameat2(2)`.
    ///
    /// # Errors
    /// `EXDEV` for a directory that has lower parts where the upper layer cannot say what they are (`redirect_dir`);
    /// `EEXIST`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `ENOENT`, `EINVAL`, `EROFS`; what copy-up and the system calls say, and then nothing has moved.
    #[allow(clippy::too_many_arguments)]
    pub fn rename(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        new_parent: InodeId,
        new_name: &Name,
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.contains(RenameFlags::EXCHANGE) && flags != RenameFlags::EXCHANGE {
            return Err(Errno::EINVAL);
        }
        self.upper()?;
        self.check_name(new_name)?;
        if flags.contains(RenameFlags::EXCHANGE) && self.was_exchanged(caller, parent, name) {
            return Ok(());
        }
        let (parent, new_parent) = (self.inode(parent)?, self.inode(new_parent)?);
        let done = self.again(|| {
            loop {
                match self.try_rename(caller, (&parent, name), (&new_parent, new_name), flags) {
                    // The name led elsewhere when it was locked.
                    Err(Errno::EAGAIN) => {}
                    done => return done,
                }
            }
        });
        or_gone_before(caller, Errno::ENOENT, done)
    }

    fn try_rename(
        &self,
        caller: &Caller,
        (parent, name): (&Arc<Inode>, &Name),
        (new_parent, new_name): (&Arc<Inode>, &Name),
        flags: RenameFlags,
    ) -> Result<()> {
        let upper = self.upper()?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        self.check_flags(parent, Change::Other)?;
        self.check_flags(new_parent, if exchange { Change::Other } else { Change::Addition })?;
        self.copy_up_dir(parent)?;
        self.copy_up_dir(new_parent)?;
        let stays = Arc::ptr_eq(parent, new_parent);
        let moves_dir = self.prepare(caller, parent, name, stays)?;
        let moves_dir = (exchange && self.prepare(caller, new_parent, new_name, stays)?) || moves_dir;
        self.prepare_target(caller, new_parent, new_name)?;
        // Directories that change their parent change who is whose ancestor.
        let (_shared, _exclusive) =
            if moves_dir && !stays { (None, Some(self.topology.write())) } else { (Some(self.topology.read()), None) };
        let mut names = lock_names(parent, new_parent)?;
        let (known, new_known) = names.both();
        let from = self.side(known, parent, name)?;
        let to = self.side(new_known, new_parent, new_name).inspect_err(|_| self.put(&from))?;
        names.each(|names, _| names.begin());
        if let Some(moved) = &from.inode {
            to.inode.iter().for_each(|target| self.note_detached(target));
            self.note_move(caller.request, moved.id, (parent.id, name), (new_parent.id, new_name));
        }
        let done = self.rename_sides(upper, &from, &to, flags);
        if matches!(done, Ok(Moved::All | Moved::LeavesNothing(_))) {
            let left = match (&to.inode, &done) {
                (_, Ok(Moved::LeavesNothing(_))) => None,
                (Some(other), _) if exchange => Some(other.kind),
                _ => flags.contains(RenameFlags::WHITEOUT).then_some(Kind::Char),
            };
            names.each(|names, first| self.moved_names(names, first, (name, left), (new_name, &from, &to)));
        }
        let (mut ended, mut new_ended) = (Ended::default(), Ended::default());
        names.each(|names, first| {
            let (dir, ended) = if first { (parent, &mut ended) } else { (new_parent, &mut new_ended) };
            *ended = names.end();
            self.note_places(dir.id, names);
        });
        drop(names);
        self.changed(new_parent.id, new_ended);
        self.changed(parent.id, ended);
        for moved in [&from, &to].into_iter().filter_map(|side| side.inode.as_ref()) {
            // A directory's marks may take a block; the kernel asks for its time of change only.
            if done.is_err() || moved.kind == Kind::Dir || caller.resent {
                self.attributes_changed(moved.id);
            }
        }
        self.put(&from);
        self.put(&to);
        match done? {
            Moved::LeavesNothing(errno) => Err(errno),
            Moved::Nothing | Moved::All => Ok(()),
        }
    }

    /// Enters a rename into the names of its first directory, then of its second one.
    fn moved_names(
        &self,
        names: &mut Names,
        first: bool,
        (name, left): (&Name, Option<Kind>),
        (new_name, from, to): (&Name, &Side<'_>, &Side<'_>),
    ) {
        match (first, left, &from.inode) {
            (true, Some(kind), _) => names.raised(&self.cookies, name, kind),
            (true, None, _) => names.removed(&self.cookies, name),
            (false, _, Some(moved)) if to.inode.is_some() => names.raised(&self.cookies, new_name, moved.kind),
            (false, _, Some(moved)) => names.added(&self.cookies, new_name, moved.kind),
            (false, _, None) => {}
        }
        names.replaced();
    }

    /// Copies up what will be moved, in its directory or out of it; true for a directory. No `names` are held.
    fn prepare(&self, caller: &Caller, parent: &Arc<Inode>, name: &Name, stays: bool) -> Result<bool> {
        let inode = self.held(parent, name)?;
        let allowed = self.check_flags(&inode, Change::Other);
        let done = match &inode.body {
            _ if allowed.is_err() => allowed.map(|_| false),
            Body::Dir(dir) if !dir.view().lowers.is_empty() && !self.upper()?.redirect => Err(Errno::EXDEV),
            Body::Dir(_) => self.copy_up_dir(&inode).map(|()| true),
            Body::Leaf(leaf) => {
                let data = leaf.state.lock().is_stuck();
                let how = CopyUp { data, renamed: stays, flags: allowed.ok().flatten(), ..CopyUp::metadata(caller) };
                self.copy_up(&inode, &how).map(|()| false)
            }
        };
        self.forget(inode.id, 1);
        done
    }

    /// The inode under a name, held: the one that is live, or what is found. Another one may be there once it is locked.
    fn held(&self, parent: &Arc<Inode>, name: &Name) -> Result<Arc<Inode>> {
        let known = self.table.by_name(parent.id, name).filter(|_| self.layers_stay());
        match known.filter(|inode| self.table.hold(inode)) {
            Some(inode) => Ok(inode),
            None => self.inode(self.lookup(parent.id, name)?.ok_or(Errno::ENOENT)?.id),
        }
    }

    /// A target that the index must know before it loses this name is copied up. No `names` are held.
    fn prepare_target(&self, caller: &Caller, parent: &Arc<Inode>, name: &Name) -> Result<()> {
        if self.stack.index.is_none() {
            return Ok(());
        }
        let Some(entry) = self.lookup(parent.id, name)? else { return Ok(()) };
        let inode = self.inode(entry.id)?;
        let lower = inode.leaf().ok().and_then(|leaf| leaf.state.lock().lower().cloned());
        let links = entry.attr.nlink.into();
        let indexed = lower.is_some_and(|lower| self.is_indexed(&lower.place.dir.layer, inode.kind, links));
        let done = if indexed { self.copy_up(&inode, &CopyUp::metadata(caller)) } else { Ok(()) };
        self.forget(entry.id, 1);
        unless_foreign(done)
    }

    /// What is under a name, looked up again under the lock; its inode is held until [`Union::put`].
    fn side<'a>(&self, names: &Names, parent: &'a Arc<Inode>, name: &'a Name) -> Result<Side<'a>> {
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

    fn put(&self, side: &Side<'_>) {
        if let Some(inode) = &side.inode {
            self.forget(inode.id, 1);
        }
    }

    /// The rename itself. Both directories' `names` are held.
    fn rename_sides(&self, upper: &Upper, from: &Side<'_>, to: &Side<'_>, flags: RenameFlags) -> Result<Moved> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let source = from.inode()?;
        // A directory that is replaced stays empty meanwhile.
        let _empty = match &to.inode {
            None if exchange => return Err(Errno::ENOENT),
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EEXIST),
            Some(target) if Arc::ptr_eq(source, target) => return Ok(Moved::Nothing),
            Some(target) if !exchange => check_replace(self, from, to, target)?,
            _ => None,
        };
        if let (Ok(dir), true) = (to.parent.dir(), from.is_dir())
            && (Arc::ptr_eq(source, to.parent) || is_ancestor(source, dir))
        {
            return Err(Errno::EINVAL);
        }
        self.check_flags(source, Change::Other)?;
        if let Some(target) = &to.inode {
            self.check_flags(target, Change::Other)?;
            self.check_flags(to.parent, Change::Other)?;
        }
        self.settle(upper, from, to)?;
        if exchange {
            self.settle(upper, to, from)?;
            relocate(at(from)?.each(), at(to)?.each(), RenameFlags::EXCHANGE)?;
            self.swapped(from, to)?;
            return Ok(Moved::All);
        }
        let kept = self.keep_target(upper, to)?;
        let device = flags.contains(RenameFlags::WHITEOUT).then(|| stage_device(upper)).transpose()?;
        self.move_over(upper, from, to, || self.moved(from, to, kept))?;
        self.replaced(to);
        let left = device.map_or(Ok(()), |device| device.publish(at(from)?.fd(), from.name.as_c_str()));
        Ok(left.map_or_else(Moved::LeavesNothing, |()| Moved::All))
    }

    /// Makes sure that the object can be moved by one rename and shows right at the other side.
    fn settle(&self, upper: &Upper, from: &Side<'_>, to: &Side<'_>) -> Result<()> {
        let inode = from.inode()?;
        match &from.found {
            Answer::Found(Found::Dir(dir)) => {
                let (fd, name) = (from.place()?.fd()?, from.name.as_c_str());
                if !dir.view.lowers.is_empty() {
                    if dir.view.upper.is_none() {
                        return Err(Errno::EAGAIN);
                    }
                    self.redirect_dir(upper, from, !Arc::ptr_eq(from.parent, to.parent))?;
                    self.make_impure(upper, to.parent, to.place()?)?;
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
                    self.alias_found(upper, from.parent, from.place()?, from.name, inode, leaf)?;
                }
                // All names share the mark.
                let shared = leaf.stat.nlink > 1 || body.state.lock().nlink().is_some();
                let absolute = shared || !Arc::ptr_eq(from.parent, to.parent);
                if !self.redirect_file(upper, body, from.parent, from.name, absolute)? {
                    return Err(Errno::EAGAIN);
                }
                if from.view.upper.as_ref().is_some_and(|part| part.impure) {
                    self.make_impure_for(upper, inode, to.parent, to.place()?)?;
                }
            }
            Answer::Absent(_) => return Err(Errno::ENOENT),
        }
        Ok(())
    }

    /// Before a merged directory moves, its upper part says where the lower parts are.
    fn redirect_dir(&self, upper: &Upper, from: &Side<'_>, absolute: bool) -> Result<()> {
        let state = &from.inode()?.dir()?.state;
        let redirect = state.read().view.redirect.clone();
        let Some(redirect) = self.next_redirect(redirect.as_ref(), from.parent, from.name, absolute)? else {
            return Ok(());
        };
        let fd = from.place()?.fd()?;
        let name = from.name.as_c_str();
        if !upper.set_redirect(fd.as_fd(), name, &redirect)? {
            return Err(if refuses(fd.as_fd(), name) { Errno::EPERM } else { Errno::EXDEV });
        }
        state.write().view.redirect = Some(redirect);
        Ok(())
    }

    /// A target that is replaced may be open: a second link in workdir keeps it.
    fn keep_target<'a>(&self, upper: &'a Upper, to: &Side<'_>) -> Result<Option<Temp<'a>>> {
        let (Answer::Found(Found::Leaf(found)), Some(inode)) = (&to.found, &to.inode) else { return Ok(None) };
        if !found.named {
            if found.upper {
                // Only what has this name in the upper layer takes a link along when it goes.
                self.alias_found(upper, to.parent, to.place()?, to.name, inode, found)?;
            }
            return Ok(None);
        }
        self.count_with_upper(upper, inode.leaf()?, -1)?;
        if !self.leave_name(inode.leaf()?, to.parent, to.name, &found.stat) {
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

    /// The one call that moves the object, covers the target and leaves a whiteout where one is needed; then `update`.
    fn move_over(
        &self,
        upper: &Upper,
        from: &Side<'_>,
        to: &Side<'_>,
        update: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (source, target) = (at(from)?, at(to)?);
        let below = from.is_below()?;
        if from.is_dir() && to.is_dir() && to.is_upper() {
            clear_dir(upper, &target, |ino| self.is_cleared(to, ino))?;
        }
        if upper.style == WhiteoutStyle::File {
            if below {
                // `X` beside `.wh.X` is seen until X has moved.
                upper.whiteout_beside(source.fd(), from.name)?;
            }
            relocate(source.each(), target.each(), RenameFlags::empty())?;
            update()?;
            upper.drop_wh_file(target.fd(), to.name);
            return Ok(());
        }
        let swap = to.upper_whiteout() && upper.features.exchange && (below || from.is_dir());
        if swap {
            // The whiteout that stands at the target goes where one is needed, or away.
            relocate(source.each(), target.each(), RenameFlags::EXCHANGE)?;
            update()?;
            if !below && let Err(errno) = tree::unlink_at(source.fd(), source.name) {
                log::warn!("{:?}: a whiteout that hides nothing stays: {errno}", from.name);
            }
            return Ok(());
        }
        if below && upper.features.rename_whiteout {
            relocate(source.each(), target.each(), RenameFlags::WHITEOUT)?;
            return update();
        }
        self.move_and_hide(upper, (from, &source, below), (to, &target), update)
    }

    /// The same in several steps where the upper layer lacks flags: an end in between may leave both names. What needs room
    /// is done before, and what is done is undone where the old name cannot be hidden.
    fn move_and_hide(
        &self,
        upper: &Upper,
        (from, source, below): (&Side<'_>, &At<'_>, bool),
        (to, target): (&Side<'_>, &At<'_>),
        update: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let whiteout = if below { Some(upper.whiteout_for(source.fd())?) } else { None };
        let covered = Covered::new(upper, whiteout.is_some(), from, (to, target))?;
        if let Err(errno) = relocate(source.each(), target.each(), RenameFlags::empty()) {
            if let Covered::Away(taken) = covered {
                taken.put_back(target.fd(), target.name);
            }
            return Err(errno);
        }
        let hidden = whiteout.map_or(Ok(()), |staged| staged.publish_new(source.fd(), source.name));
        if hidden.is_err()
            && !matches!(covered, Covered::Gone)
            && relocate(target.each(), source.each(), RenameFlags::empty()).is_ok()
        {
            match covered {
                Covered::Away(kept) | Covered::Linked(kept) => kept.put_back(target.fd(), target.name),
                Covered::Like(spare, ino) => {
                    spare.put_back(target.fd(), target.name);
                    self.is_cleared(to, ino)?;
                }
                Covered::Nothing | Covered::Gone => {}
            }
            return hidden;
        }
        update()?;
        hidden
    }

    /// The upper part of an empty target was replaced by an opaque one, and the target is still there until the move.
    fn is_cleared(&self, to: &Side<'_>, ino: u64) -> Result<()> {
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
    fn moved(&self, from: &Side<'_>, to: &Side<'_>, kept: Option<Temp<'_>>) -> Result<()> {
        if let Some(target) = &to.inode {
            match &target.body {
                Body::Dir(dir) => {
                    if let Answer::Found(Found::Dir(found)) = &to.found {
                        dir.state.write().removed = Some(Box::new(found.stat));
                    }
                }
                Body::Leaf(leaf) => {
                    if let Some(kept) = kept {
                        self.hide(leaf, kept)?;
                    }
                }
            }
            self.table.remove_name(to.parent, to.name);
        }
        self.arrived(from.inode()?, from, to)?;
        self.table.rename(from.inode()?, (from.parent, from.name), (to.parent, to.name));
        Ok(())
    }

    /// What a move replaced has one name less.
    fn replaced(&self, to: &Side<'_>) {
        let (Some(target), Answer::Found(Found::Leaf(found))) = (&to.inode, &to.found) else { return };
        if let Ok(leaf) = target.leaf() {
            self.one_link_less(target, leaf, if found.named { 0 } else { found.stat.nlink });
        }
    }

    /// The live state after an exchange.
    fn swapped(&self, from: &Side<'_>, to: &Side<'_>) -> Result<()> {
        let (source, target) = (from.inode()?, to.inode()?);
        self.arrived(source, from, to)?;
        self.arrived(target, to, from)?;
        self.table.rename(source, (from.parent, from.name), (to.parent, to.name));
        self.table.rename(target, (to.parent, to.name), (from.parent, from.name));
        Ok(())
    }

    /// The inode's object is at the other side now.
    fn arrived(&self, inode: &Arc<Inode>, from: &Side<'_>, to: &Side<'_>) -> Result<()> {
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
}

/// What `RENAME_WHITEOUT` by a user (an overlay on top of this one) leaves: its whiteout is a device to see here.
fn stage_device(upper: &Upper) -> Result<Temp<'_>> {
    let temp = Temp::new(upper, Kind::File)?;
    drop(tree::create_at(upper.work(), temp.name(), crate::sys::path::OFlags::RDWR, 0o600)?);
    upper.set_device(upper.work(), temp.name())?;
    tree::chmod_at(upper.work(), temp.name(), 0)?;
    Ok(temp)
}

/// A name in an open directory of the upper layer.
pub(super) struct At<'a> {
    fd: Arc<std::os::fd::OwnedFd>,
    pub name: &'a CStr,
}

impl At<'_> {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn each(&self) -> (BorrowedFd<'_>, &CStr) {
        (self.fd(), self.name)
    }
}

fn at<'a>(side: &Side<'a>) -> Result<At<'a>> {
    Ok(At { fd: side.place()?.fd()?, name: side.name.as_c_str() })
}

fn arrived_leaf(leaf: &LeafBody, old: &Arc<DirPlace>, old_name: &Name, into: &Arc<DirPlace>, name: &Name) {
    let mut state = leaf.state.lock();
    let is_there = |object: &LeafObject| Arc::ptr_eq(&object.place.dir, old) && object.place.name == *old_name;
    if state.upper().is_some_and(is_there) {
        state.move_upper(Place { dir: into.clone(), name: name.clone() });
    }
}

/// Whether the target may be replaced; an empty directory by a directory only. Its names are then held: it is below both
/// parents, so this keeps the lock order.
fn check_replace<'a>(
    union: &Union,
    from: &Side<'_>,
    to: &Side<'_>,
    target: &'a Arc<Inode>,
) -> Result<Option<RwLockWriteGuard<'a, Names>>> {
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
