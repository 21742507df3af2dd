//! Attributes: getattr, setattr, statfs.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::copy_up::{CopyUp, killed};
use super::protect::Change;
use super::{Attr, Caller, InodeId, SetAttr, Union};
use crate::base::sync::yield_now;
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, DirState, Inode, LeafObject, LeafState, lock_up};
use crate::merge::Data;
use crate::sys::stat::{self, Kind, SetTime, Stat, StatFs};
use crate::sys::{data, tree};
use crate::upper::{clear_capability, clear_privileges, without_ids};

/// How often an object is looked for again while others rename it.
const RENAME_RACES: usize = 8;

impl Union {
    /// The attributes of an inode.
    ///
    /// # Errors
    /// `ESTALE`; what `fstatat(2)` says.
    pub fn getattr(&self, id: InodeId) -> Result<Attr> {
        self.again(|| self.getattr_once(id))
    }

    fn getattr_once(&self, id: InodeId) -> Result<Attr> {
        self.attr(self.inode(id)?.as_ref())
    }

    pub(super) fn attr(&self, inode: &Inode) -> Result<Attr> {
        match &inode.body {
            Body::Dir(dir) => {
                let top = {
                    let state = dir.state.read();
                    if let Some(last) = &state.removed {
                        return Ok(Attr::new(inode, last, 0));
                    }
                    state.view.top().ok_or(Errno::ESTALE)?.place.clone()
                };
                let stat = top.stat_self()?;
                Ok(self.dir_attr(inode, &dir.state.read(), &stat))
            }
            Body::Leaf(leaf) => {
                let mut stat = self.at_leaf(inode, |object| object.place.stat())?;
                let below = leaf.state.lock().meta().map(|meta| meta.data.clone());
                if let Some(data) = below {
                    stat.blocks = blocks(&data, stat.size);
                }
                Ok(self.leaf_attr(inode, &leaf.state.lock(), &stat))
            }
        }
    }

    /// A merged directory has a link count of 1, as the kernel's OverlayFS shows it: counting would read all parts.
    pub(super) fn dir_attr(&self, inode: &Inode, state: &DirState, stat: &Stat) -> Attr {
        let counted = state.view.len() == 1 && !self.static_nlink;
        Attr::new(inode, stat, if counted { links(stat.nlink) } else { 1 })
    }

    pub(super) fn leaf_attr(&self, inode: &Inode, state: &LeafState, stat: &Stat) -> Attr {
        let own = links(stat.nlink).saturating_sub(u32::from(state.is_hidden()));
        let mut attr = Attr::new(inode, stat, state.nlink().unwrap_or(own));
        if state.meta().is_some() && self.is_nosuid(state) {
            attr.mode &= !(libc::S_ISUID | libc::S_ISGID);
        }
        if state.is_device() {
            attr.rdev = 0;
        }
        attr
    }

    /// Does something with an inode's object by its place, again if it was renamed meanwhile.
    pub(super) fn at_leaf<T>(&self, inode: &Inode, mut act: impl FnMut(&LeafObject) -> Result<T>) -> Result<T> {
        let leaf = inode.leaf()?;
        let mut done = Err(Errno::ESTALE);
        for _ in 0..RENAME_RACES {
            let object = leaf.state.lock().current()?.clone();
            done = act(&object);
            // ENXIO: a whiteout has just taken its place. EXDEV: it went out of its directory while it was opened.
            if !matches!(done, Err(Errno::ENOENT | Errno::ESTALE | Errno::ENXIO | Errno::EXDEV)) {
                return done;
            }
            let same = {
                let state = leaf.state.lock();
                let place = &state.current()?.place;
                Arc::ptr_eq(&object.place.dir, &place.dir) && object.place.name == place.name
            };
            if same {
                // Whoever renamed it may be about to say so.
                yield_now();
            }
        }
        // No program shall hear of a whiteout: it is looked for once more.
        done.map_err(|errno| if errno == Errno::ENXIO { Errno::ESTALE } else { errno })
    }

    /// The same with the open directory and the name of any inode's current object, a directory included.
    pub(super) fn at_object<T>(
        &self,
        inode: &Inode,
        mut act: impl FnMut(BorrowedFd<'_>, &CStr) -> Result<T>,
    ) -> Result<T> {
        match &inode.body {
            Body::Dir(dir) => {
                let place = dir.live_view()?.top().ok_or(Errno::ESTALE)?.place.clone();
                act(place.fd()?.as_fd(), c".")
            }
            Body::Leaf(_) => {
                self.at_leaf(inode, |object| act(object.place.dir.fd()?.as_fd(), object.place.name.as_c_str()))
            }
        }
    }

    /// Sets attributes; the object is copied up first.
    ///
    /// # Errors
    /// `EROFS`; `EPERM` and `EOVERFLOW` as for copy-up; what the system calls say.
    pub fn setattr(&self, caller: &Caller, id: InodeId, set: &SetAttr) -> Result<Attr> {
        self.again(|| self.setattr_once(caller, id, set))
    }

    fn setattr_once(&self, caller: &Caller, id: InodeId, set: &SetAttr) -> Result<Attr> {
        self.upper()?;
        let inode = self.inode(id)?;
        if let Body::Dir(dir) = &inode.body
            && dir.live_view().is_err()
        {
            return self.set_removed(&inode, set);
        }
        let done = if set.is_nothing() {
            self.end_ids(caller, &inode)
        } else {
            self.set_all(caller, &inode, set).and_then(|()| self.attr(&inode))
        };
        self.told_if_failed(id, done)
    }

    fn set_all(&self, caller: &Caller, inode: &Arc<Inode>, set: &SetAttr) -> Result<()> {
        let change = set.change();
        let flags = self.check_flags(inode, change)?;
        let ends_ids = (set.size.is_some() && !caller.keeps_privileges()).then_some(*caller);
        // What is cut off cannot be given back: together with other changes only when those are made.
        let (alone, sized) = (!set.is_several(), set.size.is_some());
        let data = sized || set.mode.is_some_and(|mode| self.needs_own_data(inode, mode));
        let (len, ends) = (set.size.filter(|_| alone), ends_ids.filter(|_| alone));
        self.check_closed(inode, set.mode)?;
        let how = CopyUp { data, len, ends_ids: ends, flags, mode: set.mode, seen: true, ..CopyUp::metadata(caller) };
        let cut = self.copy_up_cut(inode, &how)?;
        // A copy of the data that runs meanwhile puts back what it found.
        let _up = matches!(inode.body, Body::Leaf(_)).then(|| lock_up(inode, &killed(caller.pid))).transpose()?;
        // A new owner may take set-group-id along, and that is a call of its own.
        let before = if alone && !set.sets_owner() { None } else { Some(self.stat_steadily(inode)?) };
        let mut back = SetBack { union: self, inode, before };
        self.set_each(caller, inode, set, (set.size.filter(|_| !cut), ends_ids))?;
        back.before = None;
        Ok(())
    }

    /// What a change that sets nothing asks for. The kernel sends it for chown(2) to no owner and no group, and before a
    /// write to a file that has set-user-id or set-group-id; the bit that tells the two apart from others does not come
    /// through fuser. The time of change is that of now, and the bits end as by chown(2), but not for who is not its owner:
    /// chown(2) refuses him (here it answers him without ending any), and what he may write ends them by itself.
    fn end_ids(&self, caller: &Caller, inode: &Arc<Inode>) -> Result<Attr> {
        let shown = self.attr(inode)?;
        let keeps_group = |group| caller.keeps_sgid() || caller.is_in(group);
        let mut forbidden = Change::Addition;
        if let Body::Leaf(leaf) = &inode.body {
            let writes = leaf.take_capability_ender(caller.pid);
            if without_ids((shown.mode, shown.gid), &keeps_group) != shown.mode {
                if !caller.owns(shown.uid) || (writes && caller.keeps_privileges()) {
                    return Ok(shown);
                }
                forbidden = Change::Other;
            }
        }
        let flags = self.check_flags(inode, forbidden)?;
        self.copy_up(inode, &CopyUp { flags, seen: true, ..CopyUp::metadata(caller) })?;
        let _up = matches!(inode.body, Body::Leaf(_)).then(|| lock_up(inode, &killed(caller.pid))).transpose()?;
        if forbidden == Change::Other {
            // Of what stands there now: the copy may have got another group, and fewer rights.
            let now = self.stat_steadily(inode)?;
            self.set_mode(inode, without_ids((now.mode, now.gid), &keeps_group) & 0o7777)?;
        }
        self.change_owner(inode, None, None)?;
        self.attr(inode)
    }

    /// Sets one after the other; `size` is the length that the copy-up has not set, and whose rights end with it.
    fn set_each(
        &self,
        caller: &Caller,
        inode: &Arc<Inode>,
        set: &SetAttr,
        (size, ends_ids): (Option<u64>, Option<Caller>),
    ) -> Result<()> {
        if set.sets_owner() {
            self.set_owner(caller, inode, set)?;
        }
        if let Some(mode) = set.mode {
            self.set_mode(inode, mode & 0o7777)?;
            if let Body::Leaf(leaf) = &inode.body {
                leaf.may_have_privileges();
            }
        }
        if let Some(size) = size {
            self.resize(ends_ids, set.mode.is_some(), inode, size)?;
        }
        let times = if set.size.is_some() { set.times_beside_size() } else { Some([set.atime, set.mtime]) };
        if let Some(times) = times.filter(|times| *times != [SetTime::Omit; 2]) {
            self.at_object(inode, |dir, name| tree::utimens_at(dir, name, times))?;
        }
        Ok(())
    }

    /// Whether a file may get this mode only with data of its own: set-user-id and set-group-id are given to what stands
    /// there now, not to what a layer on a `nosuid` mount has later.
    fn needs_own_data(&self, inode: &Inode, mode: u32) -> bool {
        let ids = mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        ids && inode.kind == Kind::File && inode.leaf().is_ok_and(|leaf| self.is_nosuid(&leaf.state.lock()))
    }

    fn set_owner(&self, caller: &Caller, inode: &Arc<Inode>, set: &SetAttr) -> Result<()> {
        // A daemon with CAP_FSETID keeps set-group-id where the caller, of another group than the old one, would not.
        let foreign = !matches!(inode.body, Body::Dir(_)) && self.has_foreign_sgid(caller, inode)?;
        self.change_owner(inode, set.uid, set.gid).map_err(|errno| {
            // An id that the daemon's user namespace does not have.
            if errno == Errno::EINVAL { Errno::EOVERFLOW } else { errno }
        })?;
        if foreign { self.drop_sgid(inode) } else { Ok(()) }
    }

    /// Ends set-user-id, set-group-id and capabilities of anything but a directory.
    fn change_owner(&self, inode: &Inode, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let upper = self.upper()?;
        // Not while another thread has it widened, who would give back what goes here.
        let _modes = upper.root.layer.modes.read();
        self.at_object(inode, |dir, name| tree::chown_at(dir, name, uid, gid))
    }

    /// The attributes of an object of the upper layer, which another thread has not widened.
    fn stat_steadily(&self, inode: &Inode) -> Result<Stat> {
        let upper = self.upper()?;
        upper.root.layer.steady(|| self.at_object(inode, stat::stat_at))
    }

    fn set_mode(&self, inode: &Inode, mode: u32) -> Result<()> {
        let upper = self.upper()?;
        // Not while another thread has it widened.
        let _modes = upper.root.layer.modes.read();
        self.at_object(inode, |dir, name| tree::chmod_at(dir, name, mode))
    }

    /// A removed directory that somebody still holds has attributes in memory only.
    fn set_removed(&self, inode: &Inode, set: &SetAttr) -> Result<Attr> {
        if let Some(last) = &mut inode.dir()?.state.write().removed {
            last.mode = set.mode.map_or(last.mode, |mode| libc::S_IFDIR | (mode & 0o7777));
            last.uid = set.uid.unwrap_or(last.uid);
            last.gid = set.gid.unwrap_or(last.gid);
            for (time, to) in [(&mut last.atime, set.atime), (&mut last.mtime, set.mtime)] {
                if let SetTime::At(at) = to {
                    *time = at;
                }
            }
        }
        self.attr(inode)
    }

    /// As a write of the kernel ends them first, so that no file is changed and keeps them; a mode that is set at the same
    /// time stays.
    fn resize(&self, ends_ids: Option<Caller>, keeps_mode: bool, inode: &Arc<Inode>, size: u64) -> Result<()> {
        let fd = self.data_fd(inode, true)?;
        match ends_ids {
            Some(_) if keeps_mode => clear_capability(fd.as_fd())?,
            Some(caller) => {
                let upper = self.upper()?;
                let _modes = upper.root.layer.modes.read();
                clear_privileges(fd.as_fd(), &|group| caller.is_in(group))?;
            }
            None => {}
        }
        data::truncate(fd.as_fd(), size)
    }

    /// The file system that changes go to, or the topmost one.
    ///
    /// # Errors
    /// What `fstatvfs(3)` says.
    pub fn statfs(&self) -> Result<StatFs> {
        self.again(|| self.statfs_once())
    }

    fn statfs_once(&self) -> Result<StatFs> {
        stat::statfs_fd(self.top.fd()?.as_fd())
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// `EINVAL` for anything else; what `readlinkat(2)` says.
    pub fn readlink(&self, id: InodeId) -> Result<Vec<u8>> {
        self.again(|| self.readlink_once(id))
    }

    fn readlink_once(&self, id: InodeId) -> Result<Vec<u8>> {
        let inode = self.inode(id)?;
        if inode.kind != Kind::Symlink {
            return Err(Errno::EINVAL);
        }
        self.at_object(&inode, tree::readlink_at)
    }

    /// Whether this name is kept for the union's own use in an upper layer whose whiteouts are files.
    pub(super) fn check_name(&self, name: &Name) -> Result<()> {
        let reserved = self.upper.as_ref().is_some_and(|upper| upper.root.layer.wh_names);
        if reserved && name.as_bytes().starts_with(crate::format::wh::PREFIX) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// What a file takes on disk whose data is elsewhere.
fn blocks(data: &Data, size: u64) -> u64 {
    match data {
        Data::At(file) => file.place.stat().map_or(file.stat.blocks, |stat| stat.blocks),
        Data::Beneath(_) => size.div_ceil(512),
    }
}

fn links(nlink: u64) -> u32 {
    u32::try_from(nlink).unwrap_or(u32::MAX)
}

/// Owner and mode as they were: when one of several attributes could not be set, those before it get their old values.
struct SetBack<'a> {
    union: &'a Union,
    inode: &'a Inode,
    /// `None` once all are set, and where one is all.
    before: Option<Stat>,
}

impl SetBack<'_> {
    fn set(&self, before: &Stat) -> Result<()> {
        let (union, inode) = (self.union, self.inode);
        let now = union.at_object(inode, stat::stat_at)?;
        // Not for nothing: it ends capabilities, and set-user-id.
        if (now.uid, now.gid) != (before.uid, before.gid) {
            union.change_owner(inode, Some(before.uid), Some(before.gid))?;
        }
        let mode = union.at_object(inode, stat::stat_at)?.mode;
        if mode == before.mode { Ok(()) } else { union.set_mode(inode, before.mode & 0o7777) }
    }
}

impl Drop for SetBack<'_> {
    fn drop(&mut self) {
        let Some(before) = &self.before else { return };
        if let Err(errno) = self.set(before) {
            log::warn!("{:?} keeps some of the attributes that were to be set at once: {errno}", self.inode.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_mode_that_is_widened_for_an_instant_is_not_shown() {
        let base = tempfile::tempdir().unwrap();
        let dirs = ["lower", "upper", "work"].map(|dir| base.path().join(dir));
        dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let [lower, upper, work] = dirs;
        fs::write(upper.join("closed"), "x").unwrap();
        fs::set_permissions(upper.join("closed"), Permissions::from_mode(0o000)).unwrap();
        let union = Union::builder().lower(lower).upper(upper, work).build().unwrap();
        let name = Name::new(b"closed").unwrap();
        let found = union.lookup(InodeId::ROOT, &name).unwrap().unwrap();
        let root = union.upper().unwrap().root.clone();
        let (begun, widened) = channel();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let look = || {
                    begun.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(50));
                    Ok(())
                };
                root.layer.widened(root.fd().unwrap().as_fd(), name.as_c_str(), 0o600, look).unwrap();
            });
            widened.recv().unwrap();
            let again = union.lookup(InodeId::ROOT, &name).unwrap().unwrap();
            assert_eq!((union.getattr(found.id).unwrap().mode, again.attr.mode), (0, 0));
        });
    }
}
