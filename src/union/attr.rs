//! Attributes: getattr, setattr, statfs.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::copy_up::{CopyUp, killed};
use super::protect::Change;
use super::{Attr, Caller, InodeId, SetAttr, Union};
use crate::base::sync::yield_now;
use crate::base::{DiskGid, DiskUid, Errno, Name, Result};
use crate::inode::{Body, DirBody, DirState, Inode, LeafObject, LeafState, lock_up};
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
        self.again(|| self.attr(self.inode(id)?.as_ref()))
    }

    pub(super) fn attr(&self, inode: &Inode) -> Result<Attr> {
        match &inode.body {
            Body::Dir(dir) => {
                let stat = stat_of_dir(dir)?;
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
        let nlink = match state.removed {
            Some(_) => 0,
            None if state.view.len() == 1 && !self.static_nlink => links(stat.nlink),
            None => 1,
        };
        Attr::new(inode, stat, nlink, &self.owners)
    }

    pub(super) fn leaf_attr(&self, inode: &Inode, state: &LeafState, stat: &Stat) -> Attr {
        let own = links(stat.nlink).saturating_sub(u32::from(state.is_hidden()));
        let mut attr = Attr::new(inode, stat, state.nlink().unwrap_or(own), &self.owners);
        if state.meta().is_some() && self.is_nosuid(state) {
            attr.mode &= !(libc::S_ISUID | libc::S_ISGID);
        }
        if state.is_device() {
            attr.rdev = 0;
        }
        attr
    }

    /// Calls `act` with an inode's current object, and calls it again if the object was renamed meanwhile.
    pub(super) fn at_leaf<T>(&self, inode: &Inode, mut act: impl FnMut(&LeafObject) -> Result<T>) -> Result<T> {
        let leaf = inode.leaf()?;
        let mut done = Err(Errno::ESTALE);
        for _ in 0..RENAME_RACES {
            let object = leaf.state.lock().current()?.clone();
            done = act(&object);
            // ENXIO: a whiteout has just taken the object's place. EXDEV: the object left its directory while it was
            // opened.
            if !matches!(done, Err(Errno::ENOENT | Errno::ESTALE | Errno::ENXIO | Errno::EXDEV)) {
                return done;
            }
            let same = {
                let state = leaf.state.lock();
                let place = &state.current()?.place;
                Arc::ptr_eq(&object.place.dir, &place.dir) && object.place.name == place.name
            };
            if same {
                // The thread that renamed the object may be about to enter its new place.
                yield_now();
            }
        }
        // No program may hear of a whiteout: ESTALE makes [`Union::again`] try once more.
        done.map_err(|errno| if errno == Errno::ENXIO { Errno::ESTALE } else { errno })
    }

    /// Calls `act` with the open directory and the name of an inode's current object; for a directory with itself and
    /// `.`.
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
        self.again(|| {
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
        })
    }

    fn set_all(&self, caller: &Caller, inode: &Arc<Inode>, set: &SetAttr) -> Result<()> {
        // Before anything is copied up.
        self.owners.to_set(set)?;
        self.owners.check_own(set, || self.stat_shown(inode))?;
        let change = set.change();
        let flags = self.check_flags(inode, change)?;
        let ends_ids = (set.size.is_some() && !caller.keeps_privileges()).then_some(*caller);
        // Data that is cut off cannot come back: together with other changes, a truncation comes after them.
        let (alone, sized) = (!set.is_several(), set.size.is_some());
        let data = sized || set.mode.is_some_and(|mode| self.needs_own_data(inode, mode));
        let (len, ends) = (set.size.filter(|_| alone), ends_ids.filter(|_| alone));
        self.check_closed(inode, set.mode)?;
        let how = CopyUp { data, len, ends_ids: ends, flags, mode: set.mode, seen: true, ..CopyUp::metadata(caller) };
        let cut = self.copy_up_cut(inode, &how)?;
        // A background copy of the data puts attributes back as it found them, and must not run meanwhile.
        let _up = matches!(inode.body, Body::Leaf(_)).then(|| lock_up(inode, &killed(caller.pid))).transpose()?;
        // With a new owner set-group-id may end by a second call, which can fail.
        let before = if alone && !set.sets_owner() { None } else { Some(self.stat_shown(inode)?) };
        let mut back = SetBack { union: self, inode, before };
        self.set_each(caller, inode, set, (set.size.filter(|_| !cut), ends_ids))?;
        back.before = None;
        Ok(())
    }

    /// Carries out a change that sets nothing. The kernel sends one for chown(2) to no owner and no group, and before a
    /// write to a file with set-user-id or set-group-id; fuser does not pass on the bit that tells the two apart. The
    /// time of change becomes now, and the bits end as by chown(2). For a caller who is not the owner they stay:
    /// chown(2) would refuse him, and a write of his ends them by itself.
    fn end_ids(&self, caller: &Caller, inode: &Arc<Inode>) -> Result<Attr> {
        let shown = self.attr(inode)?;
        let mut forbidden = Change::Addition;
        if let Body::Leaf(leaf) = &inode.body {
            let writes = leaf.take_capability_ender(caller.pid);
            if without_ids((shown.mode, shown.gid), &|group| caller.keeps_sgid() || caller.is_in(group)) != shown.mode {
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
            // Read again: the copy may have got another group, and fewer permissions.
            let now = self.stat_shown(inode)?;
            let keeps_group = |group| caller.keeps_sgid() || self.owners.is_in(caller, group);
            self.set_mode(inode, without_ids((now.mode, now.gid), &keeps_group) & 0o7777)?;
        }
        self.change_owner(inode, None, None)?;
        self.attr(inode)
    }

    /// Sets the attributes one after the other. `size`: the new length in bytes, unless the copy-up has set it.
    /// `ends_ids`: the caller whose truncation ends set-user-id and set-group-id.
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
            if mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
                self.owners.check_set_ids(mode, &self.stat_shown(inode)?)?;
            }
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

    /// Whether a file needs data of its own before it gets this mode: set-user-id and set-group-id are meant for the
    /// data of now, not for data that a layer on a `nosuid` mount has later, or one whose files others may write.
    fn needs_own_data(&self, inode: &Inode, mode: u32) -> bool {
        let ids = mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        ids && inode.kind == Kind::File && inode.leaf().is_ok_and(|leaf| self.has_doubtful_data(&leaf.state.lock()))
    }

    fn set_owner(&self, caller: &Caller, inode: &Arc<Inode>, set: &SetAttr) -> Result<()> {
        // The kernel leaves set-group-id to a daemon with CAP_FSETID, even where it would end for the caller.
        let foreign = !matches!(inode.body, Body::Dir(_)) && self.has_foreign_sgid(caller, inode)?;
        let (uid, gid) = self.owners.to_set(set)?;
        self.change_owner(inode, uid, gid).map_err(|errno| {
            // The daemon's user namespace does not have this id.
            if errno == Errno::EINVAL { Errno::EOVERFLOW } else { errno }
        })?;
        if foreign { self.drop_sgid(inode) } else { Ok(()) }
    }

    /// Sets owner and group. The kernel ends set-user-id, set-group-id and capabilities of anything but a directory.
    fn change_owner(&self, inode: &Inode, uid: Option<DiskUid>, gid: Option<DiskGid>) -> Result<()> {
        let upper = self.upper()?;
        if let Some(owners) = upper.owners() {
            return self.change_marked_owner((upper, owners), inode, (uid, gid));
        }
        // Not while another thread has the mode widened: that thread would give back the bits that end here.
        let _modes = upper.root.layer.modes.read();
        self.at_object(inode, |dir, name| tree::chown_at(dir, name, uid, gid))
    }

    pub(super) fn set_mode(&self, inode: &Inode, mode: u32) -> Result<()> {
        let upper = self.upper()?;
        if let Some(owners) = upper.owners() {
            return self.change_mark((upper, owners), inode, |said| said.mode = mode);
        }
        // Not while another thread has the mode widened, and would set the old mode again.
        let _modes = upper.root.layer.modes.read();
        self.at_object(inode, |dir, name| tree::chmod_at(dir, name, mode))
    }

    /// Sets attributes of a removed directory that somebody still holds; they are in memory only.
    fn set_removed(&self, inode: &Inode, set: &SetAttr) -> Result<Attr> {
        let (uid, gid) = self.owners.to_set(set)?;
        if let Some(last) = &mut inode.dir()?.state.write().removed {
            last.mode = set.mode.map_or(last.mode, |mode| libc::S_IFDIR | (mode & 0o7777));
            last.uid = uid.unwrap_or(last.uid);
            last.gid = gid.unwrap_or(last.gid);
            for (time, to) in [(&mut last.atime, set.atime), (&mut last.mtime, set.mtime)] {
                if let SetTime::At(at) = to {
                    *time = at;
                }
            }
        }
        self.attr(inode)
    }

    /// Truncates a file. Its set-user-id, set-group-id and capabilities end first, as before a write, so that no
    /// changed file keeps them; a mode that was set by the same request stays.
    fn resize(&self, ends_ids: Option<Caller>, keeps_mode: bool, inode: &Arc<Inode>, size: u64) -> Result<()> {
        let (fd, upper) = (self.data_fd(inode, true)?, self.upper()?);
        match ends_ids {
            Some(_) if keeps_mode => clear_capability(fd.as_fd(), upper.owners())?,
            Some(caller) => {
                let _modes = upper.root.layer.modes.read();
                clear_privileges(fd.as_fd(), upper.owners(), &|group| self.owners.is_in(&caller, group))?;
            }
            None => {}
        }
        data::truncate(fd.as_fd(), size)
    }

    /// The state of the upper layer's file system; without an upper layer that of the topmost lower one.
    ///
    /// # Errors
    /// What `fstatvfs(3)` says.
    pub fn statfs(&self) -> Result<StatFs> {
        self.again(|| stat::statfs_fd(self.top.fd()?.as_fd()))
    }

    /// The path that a symlink holds.
    ///
    /// # Errors
    /// `EINVAL` for anything else; what `readlinkat(2)` says.
    pub fn readlink(&self, id: InodeId) -> Result<Vec<u8>> {
        self.again(|| {
            let inode = self.inode(id)?;
            if inode.kind != Kind::Symlink {
                return Err(Errno::EINVAL);
            }
            self.at_leaf(&inode, |object| object.place.readlink())
        })
    }

    /// Refuses a name with the prefix `.wh.` (`EINVAL`) where the upper layer's whiteouts are files with that prefix.
    pub(super) fn check_name(&self, name: &Name) -> Result<()> {
        let reserved = self.upper.as_ref().is_some_and(|upper| upper.root.layer.wh_names);
        if reserved && name.as_bytes().starts_with(crate::format::wh::PREFIX) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// The attributes of a directory in its topmost layer; once it is removed, those that it had last.
pub(super) fn stat_of_dir(dir: &DirBody) -> Result<Stat> {
    let top = {
        let state = dir.state.read();
        if let Some(last) = &state.removed {
            return Ok(**last);
        }
        state.view.top().ok_or(Errno::ESTALE)?.place.clone()
    };
    top.stat_self()
}

/// The blocks of 512 bytes that the data of a metacopy file takes on disk.
fn blocks(data: &Data, size: u64) -> u64 {
    match data {
        Data::At(file) => file.place.stat().map_or(file.stat.blocks, |stat| stat.blocks),
        Data::Beneath(_) => size.div_ceil(512),
    }
}

fn links(nlink: u64) -> u32 {
    u32::try_from(nlink).unwrap_or(u32::MAX)
}

/// Puts owner and mode back when the value is dropped: where one of several attributes could not be set the others get
/// their old values again.
struct SetBack<'a> {
    union: &'a Union,
    inode: &'a Inode,
    /// The old attributes; `None` once all are set, and where only one is set.
    before: Option<Stat>,
}

impl SetBack<'_> {
    fn set(&self, before: &Stat) -> Result<()> {
        let (union, inode) = (self.union, self.inode);
        let now = union.stat_shown(inode)?;
        // Only where it is needed: chown(2) ends capabilities and set-user-id.
        if (now.uid, now.gid) != (before.uid, before.gid) {
            union.change_owner(inode, Some(before.uid), Some(before.gid))?;
        }
        let mode = union.stat_shown(inode)?.mode;
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
