//! Changes of owner and mode in an upper layer that keeps both in marks. Each is one setxattr(2).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use super::Union;
use super::copy_up::keeping_times;
use crate::base::{DiskGid, DiskUid, Errno, Result};
use crate::format::capability::capability_key;
use crate::format::{OverrideKey, OverrideStat};
use crate::inode::{Body, Inode, Key, LeafBody, LeafObject};
use crate::sys::stat::{Kind, SetTime, Stat, stat_at};
use crate::sys::{tree, xattr};
use crate::upper::{Staged, Temp, Upper, copy_attributes, mark_of, mode_on_disk, set_mark, without_ids};

impl Union {
    /// The attributes of an inode's current object, as its layer shows them.
    pub(super) fn stat_shown(&self, inode: &Inode) -> Result<Stat> {
        match &inode.body {
            Body::Dir(dir) => dir.live_view()?.top().ok_or(Errno::ESTALE)?.place.stat_self(),
            Body::Leaf(_) => self.at_leaf(inode, |object| object.place.stat()),
        }
    }

    /// Changes the mark of an upper object. The kernel lets one request at a time change an inode's attributes.
    pub(super) fn change_mark(
        &self,
        (upper, owners): (&Upper, OverrideKey),
        inode: &Inode,
        change: impl FnOnce(&mut OverrideStat),
    ) -> Result<()> {
        let before = mark_of(&self.stat_shown(inode)?)?;
        let mut said = before;
        change(&mut said);
        if let (Body::Leaf(leaf), Kind::Symlink) = (&inode.body, inode.kind)
            && self.at_object(inode, stat_at)?.kind() == Kind::Symlink
            && !owners.is_privileged()
        {
            return self.change_symlink((upper, owners), inode, leaf, (&before, &said));
        }
        self.at_object(inode, |dir, name| {
            let mark = |said| upper.marked(dir, name, || set_mark(Staged::Named(dir, name), owners, said));
            if let Some(fewer) = fewer_on_disk(upper, (dir, name), mode_on_disk(inode.kind, said.mode))? {
                // An object without a mark is shown as it is on disk. With one, what was shown stays so until the last step.
                mark(&before)?;
                let _modes = upper.root.layer.modes.read();
                tree::chmod_at(dir, name, fewer)?;
            }
            mark(&said)
        })
    }

    /// Sets owner and group, each if it is given, and ends set-user-id, set-group-id and capabilities of anything but a
    /// directory, as chown(2) does.
    pub(super) fn change_marked_owner(
        &self,
        (upper, owners): (&Upper, OverrideKey),
        inode: &Inode,
        (uid, gid): (Option<DiskUid>, Option<DiskGid>),
    ) -> Result<()> {
        if inode.kind == Kind::File {
            self.at_object(inode, |dir, name| match xattr::remove_at(dir, name, capability_key(Some(owners))) {
                Ok(()) | Err(Errno::ENODATA | Errno::EPERM | Errno::EOPNOTSUPP) => Ok(()),
                Err(errno) => Err(errno),
            })?;
        }
        self.change_mark((upper, owners), inode, |said| {
            if inode.kind != Kind::Dir {
                said.mode = without_ids((said.mode, said.gid), &|_| true);
            }
            (said.uid, said.gid) = (uid.unwrap_or(said.uid), gid.unwrap_or(said.gid));
        })
    }

    /// A symlink on disk takes no mark: with another owner a file that has one takes its place.
    fn change_symlink(
        &self,
        (upper, owners): (&Upper, OverrideKey),
        inode: &Inode,
        leaf: &LeafBody,
        (before, said): (&OverrideStat, &OverrideStat),
    ) -> Result<()> {
        if (before.uid, before.gid) == (said.uid, said.gid) {
            // The time of change becomes now.
            return self.at_object(inode, |dir, name| tree::chown_at(dir, name, None, None));
        }
        let parent = {
            let state = leaf.state.lock();
            // All names of a hard link must lead to one object.
            if state.is_hidden() || state.index().is_some() || state.names.len() != 1 {
                return Err(Errno::EPERM);
            }
            state.names.first().map(|(parent, _)| parent.clone()).ok_or(Errno::EPERM)?
        };
        let names = self.changing(&parent)?;
        let object = leaf.state.lock().upper().cloned().ok_or(Errno::ESTALE)?;
        let stat = object.place.stat()?;
        if stat.nlink > 1 {
            return Err(Errno::EPERM);
        }
        let target = CString::new(object.place.readlink()?).map_err(|_| Errno::EIO)?;
        let temp = Temp::new(upper, Kind::Symlink)?;
        upper.stage_symlink(temp.name(), owners, said, &target)?;
        let place = &object.place;
        copy_attributes((place.dir.fd()?.as_fd(), place.name.as_c_str()), (upper.work(), temp.name()))?;
        tree::utimens_at(upper.work(), temp.name(), [SetTime::At(stat.atime), SetTime::At(stat.mtime)])?;
        let key = Key::of(&stat_at(upper.work(), temp.name())?);
        keeping_times(&place.dir, |dir| temp.publish(dir, place.name.as_c_str()))?;
        leaf.state.lock().set_upper(LeafObject { key, ..object });
        drop(names);
        self.attributes_changed(parent.id);
        Ok(())
    }
}

/// The mode that an object on disk gets where it has more there than it may; `None`: it has not. It gets none more: those
/// permissions that it was made with are enough for the daemon.
fn fewer_on_disk(upper: &Upper, (dir, name): (BorrowedFd<'_>, &CStr), most: u32) -> Result<Option<u32>> {
    let stat = upper.root.layer.steady(|| stat_at(dir, name))?;
    let (mode, fewer) = (stat.mode & 0o7777, stat.mode & (most | 0o700));
    Ok((stat.kind() != Kind::Symlink && mode != fewer).then_some(fewer))
}
