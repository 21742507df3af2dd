//! Objects whose owner, mode and type stand in an attribute: what is shown of them is what that says.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use super::{Layer, Place};
use crate::base::{Errno, Result};
use crate::format::capability::capability_key;
use crate::format::{Naming, OverrideKey, OverrideStat, OverrideType};
use crate::sys::caller::own_ids;
use crate::sys::data::pread_full;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Stat, stat_at, stat_fd};
use crate::sys::{tree, xattr};

/// The longest target of a symlink (`PATH_MAX` with its NUL).
const MOST_TARGET: usize = 4095;

impl Layer {
    /// How attributes of the layer's objects are named.
    pub fn naming(&self) -> Naming {
        Naming { own: self.namespace, owners: self.owners }
    }

    /// What users call an attribute that the layer stores under `key`; `None` if it is private. Unlike the view this tells
    /// the [programs' own](Self::is_of_programs), which copies must keep.
    pub fn said(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.naming().from_disk(key).or_else(|| self.is_of_programs(key).then(|| key.to_vec()))
    }

    /// The name under which this layer stores what the layer `from` stores under `key`, which is not private there.
    ///
    /// # Errors
    /// As [`Naming::to_disk`].
    pub fn stored_as(&self, from: &Self, key: &CStr) -> Result<CString> {
        let name = key.to_bytes();
        match from.naming().from_disk(name) {
            Some(_) if from.naming() == self.naming() => Ok(key.to_owned()),
            Some(said) => self.naming().to_disk(&said),
            None if self.is_of_programs(name) => Ok(key.to_owned()),
            None => self.naming().to_disk(name),
        }
    }

    /// Whether an attribute is named like a mark of the other namespace, of which the layer has [none](Self::reads):
    /// a program has set it through the kernel's OverlayFS, which stores such names as they are.
    fn is_of_programs(&self, key: &[u8]) -> bool {
        let other = self.namespace.other();
        !self.reads.contains(&other) && key.starts_with(other.prefix())
    }

    /// Whether an object that is on disk as `stat` says may have got its mark from somebody who could not make it what
    /// the mark says: of `user.*` whoever may write the object can.
    pub fn doubts(&self, stat: &Stat) -> bool {
        let ours = || stat.uid == own_ids().0 && stat.mode & 0o022 == 0;
        self.is_open_to_others() && !ours()
    }

    /// Whether others may be able to write objects of which the layer shows that they may not.
    pub fn is_open_to_others(&self) -> bool {
        self.doubts_marks && self.owners.is_some_and(|owners| !owners.is_privileged())
    }

    /// Whether the file capability of `name` in `dir` is not shown.
    ///
    /// # Errors
    /// What `fstatat(2)` says.
    pub fn hides_capability(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        Ok(self.nosuid || (self.has_users_capabilities() && self.doubts(&stat_at(dir, name)?)))
    }

    /// Whether file capabilities stand in attributes of users.
    pub fn has_users_capabilities(&self) -> bool {
        self.owners == Some(OverrideKey::Containers) && self.doubts_marks
    }

    /// The value of the attribute that the layer stores under `key`.
    ///
    /// # Errors
    /// `ENODATA`, also for a capability that somebody else may have written; what `getxattr(2)` says.
    pub fn xattr(&self, dir: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<Vec<u8>> {
        if !self.has_users_capabilities() || key != capability_key(self.owners) {
            return xattr::get_at_raw(dir, name, key);
        }
        // Whoever may rename it could put another object in its place between two looks.
        let object = open_beneath(dir, name, OFlags::PATH)?;
        if self.doubts(&stat_fd(object.as_fd())?) {
            return Err(Errno::ENODATA);
        }
        xattr::get_fd_raw(object.as_fd(), key)
    }

    /// `stat` of `name` in `dir` as its mark says. An object without a mark is shown as it is.
    ///
    /// # Errors
    /// `EIO` for a malformed mark; what the system calls say.
    pub fn overridden(&self, dir: BorrowedFd<'_>, name: &CStr, stat: Stat) -> Result<Stat> {
        let Some(owners) = self.owners.or(self.carried.filter(|_| stat.is_dir())) else { return Ok(stat) };
        if stat.is_whiteout() || !takes(owners, &stat) {
            return Ok(stat);
        }
        // In a layer of somebody else's the name may go to and fro between two objects; in the upper layer another object may
        // have got it since it was looked at.
        let seen = if self.is_open_to_others() {
            let (stat, value) = open_and_read(dir, name, owners)?;
            (stat, value?)
        } else {
            let first = self.attribute(dir, name, owners.key())?;
            if self.is_upper() && is_other(&stat_at(dir, name)?, &stat) {
                match open_and_read(dir, name, owners)? {
                    // Its mode was widened for the first look, which changed its time.
                    (now, Err(Errno::EACCES)) if now.ino == stat.ino => (now, first),
                    (now, value) => (now, value?),
                }
            } else {
                (stat, first)
            }
        };
        let (stat, Some(value)) = seen else { return Ok(seen.0) };
        self.shown(&stat, &value).map_err(|why| {
            log::warn!("{name:?} in {}: {why}", self.path.display());
            Errno::EIO
        })
    }

    /// What the mark with this value makes of an object.
    fn shown(&self, stat: &Stat, value: &[u8]) -> std::result::Result<Stat, String> {
        let said = OverrideStat::parse(value, (stat.mode, stat.rdev)).map_err(|malformed| malformed.to_string())?;
        let mut shown = as_said(stat, &said);
        if self.doubts(stat) {
            if matches!(said.kind, OverrideType::Block { .. } | OverrideType::Char { .. }) {
                return Err("a device, marked so by an attribute that others may write".into());
            }
            if shown.is_file() {
                shown.mode &= !(libc::S_ISUID | libc::S_ISGID);
            }
        }
        Ok(shown)
    }
}

/// The attributes of the object that has this name, and its own mark.
#[allow(clippy::type_complexity)]
fn open_and_read(dir: BorrowedFd<'_>, name: &CStr, owners: OverrideKey) -> Result<(Stat, Result<Option<Vec<u8>>>)> {
    let object = open_beneath(dir, name, OFlags::PATH)?;
    let stat = stat_fd(object.as_fd())?;
    let value = if takes(owners, &stat) { xattr::get_fd(object.as_fd(), owners.key()) } else { Ok(None) };
    Ok((stat, value))
}

/// Whether such an object can have a mark: of anything but files and directories there are no user attributes.
fn takes(owners: OverrideKey, stat: &Stat) -> bool {
    owners.is_privileged() || stat.is_file() || stat.is_dir()
}

/// Whether two looks at a name may have been at two objects, or at one that was changed between.
fn is_other(one: &Stat, two: &Stat) -> bool {
    (one.dev, one.ino, one.ctime) != (two.dev, two.ino, two.ctime)
}

/// The attributes of an object with this mark, which is on disk as `stat` says.
pub fn as_said(stat: &Stat, said: &OverrideStat) -> Stat {
    let mut shown = Stat { uid: said.uid, gid: said.gid, mode: said.kind.to_mode() | said.mode, ..*stat };
    match said.kind {
        OverrideType::File | OverrideType::Dir | OverrideType::Symlink => {}
        kind => (shown.rdev, shown.size) = (kind.rdev(), 0),
    }
    shown
}

impl Place {
    /// The target of a symlink, which may be the content of a file that stands for it.
    ///
    /// # Errors
    /// `EIO` for a content that is no target; what `readlinkat(2)` says.
    pub fn readlink(&self) -> Result<Vec<u8>> {
        let dir = self.dir.fd()?;
        if self.dir.layer.owners.is_some() {
            let stat = stat_at(dir.as_fd(), self.name.as_c_str())?;
            if stat.is_file() {
                return self.read_target(stat.ino);
            }
        }
        tree::readlink_at(dir.as_fd(), self.name.as_c_str())
    }

    fn read_target(&self, ino: u64) -> Result<Vec<u8>> {
        let file = self.open_file(ino, OFlags::RDONLY)?;
        let mut target = vec![0; MOST_TARGET + 1];
        let len = pread_full(file.as_fd(), &mut target, 0)?;
        target.truncate(len);
        if target.is_empty() || len > MOST_TARGET || target.contains(&0) {
            log::warn!("{:?} in {:?} stands for a symlink, and its content is no target", self.name, self.dir);
            return Err(Errno::EIO);
        }
        Ok(target)
    }
}
