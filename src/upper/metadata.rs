//! All metadata of an object: read from one layer, and set on a staged object in an order in which no step undoes
//! another.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use super::owners::{clear_ids, mark_of, mode_on_disk, set_mark};
use crate::base::ids::OVERFLOW_ID;
use crate::base::{DiskGid, DiskUid, Errno, Result};
use crate::format::capability::{CAPABILITY, capability_key};
use crate::format::{OverrideKey, acl};
use crate::layer::Layer;
use crate::sys::caller::own_ids;
use crate::sys::stat::{self, Kind, SetTime, Stat};
use crate::sys::{tree, xattr};

const ACCESS_ACL: &CStr = c"system.posix_acl_access";
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Attributes and extended attributes of an object.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Its attributes.
    pub stat: Stat,
    /// The object's time of modification becomes the time of the copy.
    is_now: bool,
    /// Where owner and mode of the copy are written; `None`: the copy has them itself.
    owners: Option<OverrideKey>,
    xattrs: Vec<(CString, Vec<u8>)>,
    /// The object has an access ACL, and the copy gets none.
    drops_acl: bool,
}

/// What setting the metadata came to.
#[derive(Debug, Clone, Copy)]
pub struct Applied {
    /// The object's attributes before.
    pub made: Stat,
    /// The copy gives less than the original: it is in another group, with a mode that grants that group no more than
    /// everybody, or has no ACL.
    pub narrowed: bool,
}

/// A staged object: open, or by name where it cannot be opened (symlinks, devices).
#[derive(Debug, Clone, Copy)]
pub enum Staged<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A name in a directory.
    Named(BorrowedFd<'a>, &'a CStr),
}

impl Staged<'_> {
    fn stat(self) -> Result<Stat> {
        match self {
            Self::Open(fd) => stat::stat_fd(fd),
            Self::Named(dir, name) => stat::stat_at(dir, name),
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// What `setxattr(2)` says.
    pub fn set_xattr(self, key: &CStr, value: &[u8]) -> Result<()> {
        match self {
            Self::Open(fd) => xattr::set_fd(fd, key, value, 0),
            Self::Named(dir, name) => xattr::set_at(dir, name, key, value, 0),
        }
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// What `removexattr(2)` says.
    pub fn remove_xattr(self, key: &CStr) -> Result<()> {
        match self {
            Self::Open(fd) => xattr::remove_fd(fd, key),
            Self::Named(dir, name) => xattr::remove_at(dir, name, key),
        }
    }

    /// The keys of its extended attributes.
    fn keys(self) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Open(fd) => xattr::list_fd(fd),
            Self::Named(dir, name) => xattr::list_at(dir, name),
        }
    }

    fn chown(self, uid: DiskUid, gid: DiskGid) -> Result<()> {
        match self {
            Self::Open(fd) => tree::chown_fd(fd, Some(uid), Some(gid)),
            Self::Named(dir, name) => tree::chown_at(dir, name, Some(uid), Some(gid)),
        }
    }

    fn chmod(self, mode: u32) -> Result<()> {
        match self {
            Self::Open(fd) => tree::chmod_fd(fd, mode),
            Self::Named(dir, name) => tree::chmod_at(dir, name, mode),
        }
    }

    fn utimens(self, times: [SetTime; 2]) -> Result<()> {
        match self {
            Self::Open(fd) => tree::utimens_fd(fd, times),
            Self::Named(dir, name) => tree::utimens_at(dir, name, times),
        }
    }
}

impl Metadata {
    /// Reads the metadata of `name` in `dir`, an object of the layer `from`, for a copy in the layer `to`. `stat`: its
    /// attributes, as they are shown.
    ///
    /// # Errors
    /// What reading the extended attributes says.
    pub fn of(dir: BorrowedFd<'_>, name: &CStr, stat: Stat, (from, to): (&Layer, &Layer)) -> Result<Self> {
        let (mut xattrs, mut stat, mut drops_acl) = (Vec::new(), stat, false);
        for key in xattr::list_at(dir, name)? {
            let Ok(key) = CString::new(key) else { continue };
            if to.owners.is_some() && [ACCESS_ACL, DEFAULT_ACL].contains(&key.as_c_str()) {
                // Where it counts, the mode that is left must give nobody more than the ACL does.
                if from.owners.is_none()
                    && key.as_c_str() == ACCESS_ACL
                    && let Some(value) = xattr::get_at(dir, name, &key)?
                {
                    (stat.mode, drops_acl) = (acl::mode_without(stat.mode, &value), true);
                }
                continue;
            }
            // Marks are not copied. An attribute that a user set is copied under the name that it has in either layer.
            let Some(said) = from.said(key.to_bytes()) else { continue };
            if said == CAPABILITY.to_bytes() && from.hides_capability(dir, name)? {
                continue;
            }
            let stored = to.stored_as(from, &key)?;
            match from.xattr(dir, name, &key) {
                Ok(value) => xattrs.push((stored, value)),
                Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Self { stat, is_now: false, owners: to.owners, xattrs, drops_acl })
    }

    /// The metadata for a copy that belongs to the daemon and says in `owners` whose it is. It gets no ACL, and a mode
    /// that gives nobody more.
    #[must_use]
    pub fn carried(mut self, owners: OverrideKey) -> Self {
        if let Some((_, value)) = self.xattrs.iter().find(|(key, _)| key.as_c_str() == ACCESS_ACL) {
            self.stat.mode = acl::mode_without(self.stat.mode, value);
        }
        self.xattrs.retain(|(key, _)| ![ACCESS_ACL, DEFAULT_ACL].contains(&key.as_c_str()));
        self.owners = Some(owners);
        self
    }

    /// Reads what the children of an open directory inherit.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn of_dir(dir: BorrowedFd<'_>) -> Result<Self> {
        let acl = xattr::get_fd(dir, DEFAULT_ACL)?;
        let xattrs = acl.into_iter().map(|acl| (DEFAULT_ACL.to_owned(), acl)).collect();
        Ok(Self { stat: stat::stat_fd(dir)?, is_now: false, owners: None, xattrs, drops_acl: false })
    }

    /// The metadata as a truncation leaves it: without capabilities and with the time of now. `ends_ids`: whether the
    /// caller is in a group, for a caller who may not keep set-user-id and set-group-id; these bits end then.
    #[must_use]
    pub fn truncated(mut self, ends_ids: Option<&dyn Fn(DiskGid) -> bool>) -> Self {
        self.xattrs.retain(|(key, _)| key.as_c_str() != capability_key(self.owners));
        if let Some(is_in) = ends_ids {
            self.stat.mode = without_ids((self.stat.mode, self.stat.gid), is_in);
        }
        self.is_now = true;
        self
    }

    /// The metadata for another owner or group, if one is given, with those privileges that chown(2) would leave.
    #[must_use]
    pub fn given_to(mut self, uid: Option<DiskUid>, gid: Option<DiskGid>) -> Self {
        let before = (self.stat.uid, self.stat.gid);
        let now = (uid.unwrap_or(before.0), gid.unwrap_or(before.1));
        (self.stat.uid, self.stat.gid) = now;
        if now != before && !self.stat.is_dir() {
            self.stat.mode = without_ids((self.stat.mode, now.1), &|_| false);
            self.xattrs.retain(|(key, _)| key.as_c_str() != capability_key(self.owners));
        }
        self
    }

    /// Gives a staged directory the metadata that its children inherit.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn bequeath(&self, to: BorrowedFd<'_>) -> Result<()> {
        for (key, value) in &self.xattrs {
            xattr::set_fd(to, key, value, 0)?;
        }
        if self.stat.mode & libc::S_ISGID != 0 {
            tree::chown_fd(to, None, Some(self.stat.gid))?;
            return tree::chmod_fd(to, 0o700 | libc::S_ISGID);
        }
        // The group is inherited where the mount says so (`grpid`).
        if self.stat.gid != stat::stat_fd(to)?.gid
            && let Err(errno) = tree::chown_fd(to, None, Some(self.stat.gid))
        {
            log::debug!(
                "what is made here gets another group where the file system goes by that of the directory: {errno}"
            );
        }
        Ok(())
    }

    /// Whether the copy may get the daemon's group: the object belongs to the daemon's user and to a group that the
    /// daemon is not in, and no ACL speaks of groups. Otherwise a normal user could not change such a file of his at
    /// all.
    fn may_leave_group(&self, to: Staged<'_>) -> Result<bool> {
        let own = own_ids().0 == self.stat.uid;
        let acl = self.xattrs.iter().any(|(key, _)| key.to_bytes().starts_with(b"system.posix_acl_"));
        if !own || acl {
            return Ok(false);
        }
        log::info!(
            "group {} cannot be set on a copy: it gets the daemon's group, without rights of its own",
            self.stat.gid
        );
        match to {
            Staged::Open(fd) => tree::chown_fd(fd, Some(self.stat.uid), None)?,
            Staged::Named(dir, name) => tree::chown_at(dir, name, Some(self.stat.uid), None)?,
        }
        Ok(true)
    }

    /// The mode with which a staged file is made: its final mode, as far as the later steps allow it.
    pub fn mode_at_first(&self) -> u32 {
        match self.owners {
            None => self.stat.mode & 0o777 | 0o600,
            Some(_) => mode_on_disk(self.stat.kind(), self.stat.mode),
        }
    }

    /// Whether an object has this owner already, so that no call must set it. The id that stands for all ids which a
    /// user namespace does not have is no owner.
    fn is_owned(&self, made: &Stat) -> bool {
        (made.uid, made.gid) == (self.stat.uid, self.stat.gid) && made.uid.0 != OVERFLOW_ID && made.gid.0 != OVERFLOW_ID
    }

    /// Sets the metadata on a staged object whose data is complete: the owner first (which clears set-user-id bits and
    /// capabilities), the mode after the steps that need write permission, the times last. A value that the object has
    /// already is not set again, since that would be a write to the file system's journal.
    ///
    /// # Errors
    /// `EPERM` for what the process may not set, `EOVERFLOW` for an id that its user namespace does not have: nothing
    /// is ever copied with another owner, nor with another group that gains by it.
    pub fn apply(&self, to: Staged<'_>, symlink: bool) -> Result<Applied> {
        let made = to.stat()?;
        if let Some(owners) = self.owners {
            return self.apply_marked(owners, to, made);
        }
        let owned = self.is_owned(&made);
        let chowned = if owned { Ok(()) } else { to.chown(self.stat.uid, self.stat.gid) };
        let (mode, narrowed) = match chowned {
            Ok(()) => (self.stat.mode & 0o7777, false),
            Err(Errno::EPERM | Errno::EINVAL) if self.may_leave_group(to)? => (without_group(self.stat.mode), true),
            Err(Errno::EINVAL) => return Err(Errno::EOVERFLOW),
            Err(errno) => return Err(errno),
        };
        let capability_last = |(key, _): &&(CString, Vec<u8>)| key.as_c_str() == CAPABILITY;
        let (last, first): (Vec<_>, Vec<_>) = self.xattrs.iter().partition(capability_last);
        for (key, value) in first.into_iter().chain(last) {
            match to.set_xattr(key, value) {
                // A security label that this file system or process cannot set is no data of the user's.
                Err(Errno::EOPNOTSUPP | Errno::EPERM) if !must_copy(key) => {}
                set => set?,
            }
        }
        let changed = !owned || !self.xattrs.is_empty();
        if !symlink && (changed || made.mode & 0o7777 != mode) {
            to.chmod(mode)?;
        }
        let mtime = if self.is_now { SetTime::Now } else { SetTime::At(self.stat.mtime) };
        to.utimens([SetTime::At(self.stat.atime), mtime])?;
        Ok(Applied { made, narrowed })
    }

    /// Sets the metadata on an object of the layer `layer`, which belongs to no union, as far as this process and the file
    /// system can, and takes away what the object has besides. Returns what could not be kept, in words. The object never
    /// gives anybody more than before or after.
    ///
    /// # Errors
    /// What the system calls say of what every object has: mode and times.
    pub fn give(&self, to: Staged<'_>, layer: &Layer) -> Result<Vec<String>> {
        let (made, mut lost) = (to.stat()?, Vec::new());
        let symlink = made.kind() == Kind::Symlink;
        let mut mode = self.stat.mode & 0o7777;
        if !self.is_owned(&made) {
            if !symlink && made.mode & !mode & 0o7777 != 0 {
                to.chmod(made.mode & mode & 0o777)?;
            }
            mode = self.give_owner(to, (&made, mode), &mut lost)?;
        }
        for key in to.keys()? {
            let is_wanted = self.xattrs.iter().any(|(wanted, _)| wanted.to_bytes() == key);
            let Ok(stored) = CString::new(key) else { continue };
            if !is_wanted && is_of_users(&stored) && layer.naming().from_disk(stored.to_bytes()).is_some() {
                to.remove_xattr(&stored)?;
            }
        }
        let capability_last = |(key, _): &&(CString, Vec<u8>)| key.as_c_str() == CAPABILITY;
        let (last, first): (Vec<_>, Vec<_>) = self.xattrs.iter().partition(capability_last);
        for (key, value) in first.into_iter().chain(last) {
            match to.set_xattr(key, value) {
                Err(Errno::EOPNOTSUPP | Errno::EPERM | Errno::ENOSPC | Errno::E2BIG) => {
                    if key.as_c_str() == ACCESS_ACL {
                        mode = acl::mode_without(mode, value);
                    }
                    // A label of the machine's is no data of the user's.
                    lost.extend(is_of_users(key).then(|| format!("attribute {}", key.to_string_lossy())));
                }
                set => set?,
            }
        }
        if !symlink && to.stat()?.mode & 0o7777 != mode {
            to.chmod(mode)?;
        }
        to.utimens([SetTime::At(self.stat.atime), SetTime::At(self.stat.mtime)])?;
        Ok(lost)
    }

    /// Sets the owner, or as much of it as this process may; the mode that goes with what it is then.
    fn give_owner(&self, to: Staged<'_>, (made, mode): (&Stat, u32), lost: &mut Vec<String>) -> Result<u32> {
        let (uid, gid) = (self.stat.uid, self.stat.gid);
        match to.chown(uid, gid) {
            Ok(()) => return Ok(mode),
            Err(Errno::EPERM | Errno::EINVAL | Errno::EOVERFLOW) => {}
            Err(errno) => return Err(errno),
        }
        lost.push(format!("owner {uid}:{gid}"));
        let has_group = made.gid == gid || to.chown(made.uid, gid).is_ok();
        let kept = if has_group { mode & !libc::S_ISGID } else { without_group(mode) };
        // What runs as somebody else was meant to run as its owner only.
        Ok(kept & !libc::S_ISUID)
    }

    /// [`Metadata::apply`] where owner and mode are written as a mark. A symlink has its mark, if it takes one.
    fn apply_marked(&self, owners: OverrideKey, to: Staged<'_>, made: Stat) -> Result<Applied> {
        if made.kind() != Kind::Symlink {
            set_mark(to, owners, &mark_of(&self.stat)?)?;
        }
        for (key, value) in &self.xattrs {
            // A symlink on disk takes no `user.*`: what is kept under such a name is a label of the lower one.
            let optional = !must_copy(key) || (made.kind() == Kind::Symlink && key.to_bytes().starts_with(b"user."));
            match to.set_xattr(key, value) {
                Err(Errno::EOPNOTSUPP | Errno::EPERM) if optional => {}
                set => set?,
            }
        }
        let mode = mode_on_disk(self.stat.kind(), self.stat.mode);
        if made.kind() != Kind::Symlink && made.mode & 0o7777 != mode {
            to.chmod(mode)?;
        }
        let mtime = if self.is_now { SetTime::Now } else { SetTime::At(self.stat.mtime) };
        to.utimens([SetTime::At(self.stat.atime), mtime])?;
        Ok(Applied { made, narrowed: self.drops_acl })
    }
}

/// Gives a staged object all extended attributes of another object of the upper layer, its marks among them.
///
/// # Errors
/// What the system calls say.
pub fn copy_attributes(from: (BorrowedFd<'_>, &CStr), to: (BorrowedFd<'_>, &CStr)) -> Result<()> {
    for key in xattr::list_at(from.0, from.1)? {
        let Ok(key) = CString::new(key) else { continue };
        let Some(value) = xattr::get_at(from.0, from.1, &key)? else { continue };
        match xattr::set_at(to.0, to.1, &key, &value, 0) {
            Err(Errno::EOPNOTSUPP | Errno::EPERM) if !must_copy(&key) => {}
            set => set?,
        }
    }
    Ok(())
}

/// The mode for a copy in another group: it grants the new group no more than everybody.
fn without_group(mode: u32) -> u32 {
    mode & !libc::S_ISGID & 0o7707 | (mode & 0o007) << 3 & mode & 0o070
}

fn must_copy(key: &CStr) -> bool {
    let key = key.to_bytes();
    key == CAPABILITY.to_bytes() || key.starts_with(b"system.posix_acl_") || key.starts_with(b"user.")
}

/// Whether an attribute is data of users, root among them.
fn is_of_users(key: &CStr) -> bool {
    must_copy(key) || key.to_bytes().starts_with(b"trusted.")
}

/// The mode of a file of this group without set-user-id. Set-group-id ends, too, if it gives a privilege (the group may
/// execute the file) or the user who changes the file is not in the group.
pub fn without_ids<G>((mode, group): (u32, G), is_in: &dyn Fn(G) -> bool) -> u32 {
    let mode = mode & !libc::S_ISUID;
    let sgid = mode & libc::S_ISGID != 0 && (mode & libc::S_IXGRP != 0 || !is_in(group));
    if sgid { mode & !libc::S_ISGID } else { mode }
}

/// The result of [`clear_privileges`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleared {
    /// The mode was changed.
    pub changed: bool,
    /// The file has neither set-user-id nor set-group-id now.
    pub all: bool,
}

/// Clears what a write by an unprivileged process ends: set-user-id, set-group-id as [`without_ids`] says, and file
/// capabilities, which a write by any process ends.
///
/// # Errors
/// What the system calls say.
pub fn clear_privileges(
    file: BorrowedFd<'_>,
    owners: Option<OverrideKey>,
    is_in: &dyn Fn(DiskGid) -> bool,
) -> Result<Cleared> {
    if let Some(owners) = owners
        && let Some(cleared) = clear_ids(file, owners, is_in)?
    {
        clear_capability(file, Some(owners))?;
        return Ok(cleared);
    }
    let stat = stat::stat_fd(file)?;
    let cleared = without_ids((stat.mode, stat.gid), is_in);
    if cleared != stat.mode {
        tree::chmod_fd(file, cleared & 0o7777)?;
    }
    clear_capability(file, owners)?;
    Ok(Cleared { changed: cleared != stat.mode, all: cleared & libc::S_ISGID == 0 })
}

/// Clears file capabilities, which a change by any process ends.
///
/// # Errors
/// What the system calls say.
pub fn clear_capability(file: BorrowedFd<'_>, owners: Option<OverrideKey>) -> Result<()> {
    let key = capability_key(owners);
    // Asked for first: without privilege the removal of an attribute that does not exist is refused, too.
    if xattr::get_fd(file, key)?.is_some() { xattr::remove_fd(file, key) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_group_gains_nothing_from_a_copy() {
        for (mode, left) in
            [(0o644, 0o644), (0o640, 0o600), (0o664, 0o644), (0o2755, 0o755), (0o4771, 0o4711), (0o060, 0)]
        {
            assert_eq!(without_group(mode), left, "{mode:o}");
        }
    }
}
