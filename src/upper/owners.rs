//! Owners, modes and types that are written as marks, in an upper layer whose root says so
//! ([`crate::format::override_stat`]). On disk all is the daemon's, and a regular file stands for what the daemon could
//! not make.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::metadata::without_ids;
use super::{Cleared, Staged, Upper};
use crate::base::{DiskGid, DiskUid, Errno, Result};
use crate::format::{OverrideKey, OverrideStat, OverrideType};
use crate::sys::caller::own_ids;
use crate::sys::path::OFlags;
use crate::sys::stat::{Kind, Stat, stat_fd};
use crate::sys::{data, tree, xattr};

/// The mode on disk of an object with this mode. The daemon's user can read and write it whatever its mode is; its group
/// and others get what the mode gives to others, who are everybody here, but nothing that could change it.
pub fn mode_on_disk(kind: Kind, mode: u32) -> u32 {
    let own = if kind == Kind::Dir { 0o700 } else { 0o600 };
    let others = mode & 0o005;
    own | others << 3 | others
}

/// The mark of an object with these attributes.
///
/// # Errors
/// `EINVAL` for a device number that has no room in a mark.
pub fn mark_of(stat: &Stat) -> Result<OverrideStat> {
    let kind = OverrideType::from_mode(stat.mode, stat.rdev).ok_or(Errno::EINVAL)?;
    Ok(OverrideStat { uid: stat.uid, gid: stat.gid, mode: stat.mode & 0o7777, kind })
}

impl Upper {
    /// The attribute in which owners and modes are written; `None`: objects have them themselves.
    pub fn owners(&self) -> Option<OverrideKey> {
        self.root.layer.owners
    }

    /// The attribute in which they stand of directories that belong to somebody else and are copied up for what changes
    /// below them; `None`: such a directory cannot be copied up.
    pub fn carried(&self) -> Option<OverrideKey> {
        self.root.layer.carried
    }

    /// Makes what stands in workdir for an object of this kind, without its mark: a directory, or a regular file, which is
    /// returned open. A symlink gets its target as its content.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn make_stand_in(
        &self,
        name: &CStr,
        kind: Kind,
        (mode, target): (u32, Option<&CStr>),
    ) -> Result<Option<std::os::fd::OwnedFd>> {
        let mode = mode_on_disk(kind, mode);
        if kind == Kind::Dir {
            return tree::mkdir_at(self.work(), name, mode).map(|()| None);
        }
        let file = tree::create_at(self.work(), name, OFlags::RDWR, mode)?;
        if let Some(target) = target {
            data::pwrite_all(file.as_fd(), target.to_bytes(), 0)?;
            self.sync_staged(file.as_fd(), true)?;
        }
        Ok(Some(file))
    }

    /// Whether a symlink of this owner can be one on disk, which other programs read, too: it takes no mark of
    /// `user.*`, so that it belongs to the daemon.
    pub fn takes_symlink(&self, owners: OverrideKey, owner: (DiskUid, DiskGid)) -> bool {
        owners.is_privileged() || own_ids() == owner
    }

    /// Makes a symlink in workdir, with its mark.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn stage_symlink(&self, name: &CStr, owners: OverrideKey, said: &OverrideStat, target: &CStr) -> Result<()> {
        if !self.takes_symlink(owners, (said.uid, said.gid)) {
            self.make_stand_in(name, Kind::Symlink, (said.mode, Some(target)))?;
            return set_mark(Staged::Named(self.work(), name), owners, said);
        }
        tree::symlink_at(target, self.work(), name)?;
        if owners.is_privileged() { set_mark(Staged::Named(self.work(), name), owners, said) } else { Ok(()) }
    }
}

/// Sets the mark of an object.
///
/// # Errors
/// What `setxattr(2)` says.
pub fn set_mark(to: Staged<'_>, owners: OverrideKey, said: &OverrideStat) -> Result<()> {
    to.set_xattr(owners.key(), &said.encode())
}

/// Clears set-user-id and set-group-id in a file's mark as [`without_ids`] says. `None`: the file has no mark.
///
/// # Errors
/// `EIO` for a malformed mark; what the system calls say.
pub(super) fn clear_ids(
    file: BorrowedFd<'_>,
    owners: OverrideKey,
    is_in: &dyn Fn(DiskGid) -> bool,
) -> Result<Option<Cleared>> {
    let Some(value) = xattr::get_fd(file, owners.key())? else { return Ok(None) };
    let stat = stat_fd(file)?;
    let said = OverrideStat::parse(&value, (stat.mode, stat.rdev)).map_err(|_| Errno::EIO)?;
    let cleared = without_ids((said.mode, said.gid), is_in);
    let changed = cleared != said.mode;
    if changed {
        set_mark(Staged::Open(file), owners, &OverrideStat { mode: cleared, ..said })?;
    }
    Ok(Some(Cleared { changed, all: cleared & libc::S_ISGID == 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_on_disk_than_everybody_has() {
        for (kind, mode, on_disk) in [
            (Kind::File, 0o644, 0o644),
            (Kind::File, 0o000, 0o600),
            (Kind::File, 0o660, 0o600),
            (Kind::File, 0o6755, 0o655),
            (Kind::File, 0o666, 0o644),
            (Kind::Dir, 0o1777, 0o755),
            (Kind::Dir, 0o070, 0o700),
            (Kind::Fifo, 0o622, 0o600),
        ] {
            assert_eq!(mode_on_disk(kind, mode), on_disk, "{kind:?} {mode:o}");
        }
    }
}
