//! A directory that is made beside its place, and gets its name when all is in it. What a killed process has left there
//! goes when the next one begins.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::{Errno, Name, Result};
use crate::sys::caller::own_ids;
use crate::sys::dirent::read_dir;
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::stat::{Kind, Stat, stat_at, stat_fd};
use crate::sys::tree::RenameFlags;
use crate::sys::{data, lock, tree};
use crate::upper::{make_private, relocate, remove};

/// What follows the name of a directory that is being made; a point stands before it.
const SUFFIX: &str = ".plyfs-new";
/// How each name in it begins. What holds other names is not removed: somebody else made it.
const OWN: &[u8] = b".plyfs-";
/// How often another process may take away what was just made.
const RACES: usize = 8;

/// Why nothing can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There is something at the place.
    There,
    /// Another process is making it.
    Busy,
    /// Something that this did not make has the name beside it.
    Foreign,
    /// A system call failed.
    Failed(Errno),
}

impl From<Errno> for Taken {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// A directory beside the place of another one. It is removed with the value.
pub struct Beside {
    parent: OwnedFd,
    place: CString,
    name: CString,
    path: PathBuf,
    dir: OwnedFd,
}

impl Beside {
    /// Makes one beside `place`, which must not exist.
    ///
    /// # Errors
    /// [`Taken`]
    pub fn begin(place: &Path) -> std::result::Result<Self, Taken> {
        Self::open(place, false)
    }

    /// Makes one beside the directory `place`, which it is to replace.
    ///
    /// # Errors
    /// As [`Beside::begin`]; `ENOTDIR`; `EXDEV` for the root of a mount.
    pub fn instead_of(place: &Path) -> std::result::Result<Self, Taken> {
        Self::open(place, true)
    }

    fn open(place: &Path, is_there: bool) -> std::result::Result<Self, Taken> {
        let name = Name::new(place.file_name().ok_or(Errno::EINVAL)?.as_bytes())?;
        let above = place.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = open_root(above)?;
        match stat_at(parent.as_fd(), name.as_c_str()) {
            Err(Errno::ENOENT) if !is_there => {}
            Ok(stat) if is_there && !stat.is_dir() => return Err(Errno::ENOTDIR.into()),
            Ok(stat) if is_there && stat.dev != stat_fd(parent.as_fd())?.dev => return Err(Errno::EXDEV.into()),
            Ok(_) if is_there => {}
            found => return Err(found.map_or_else(Taken::Failed, |_| Taken::There)),
        }
        let temp = [b".", name.as_bytes(), SUFFIX.as_bytes()].concat();
        let path = above.join(std::ffi::OsStr::from_bytes(&temp));
        let temp = CString::new(temp).map_err(|_| Errno::EINVAL)?;
        let dir = make(&parent, &temp)?;
        Ok(Self { parent, place: name.as_c_str().to_owned(), name: temp, path, dir })
    }

    /// Makes an empty directory in it that only this process's user can enter; its path. On the disk its name has a prefix.
    ///
    /// # Errors
    /// What `mkdirat(2)` says.
    pub fn add(&self, name: &CStr) -> Result<PathBuf> {
        let name = own(name)?;
        tree::mkdir_at(self.dir.as_fd(), &name, 0o700)?;
        Ok(self.path.join(std::ffi::OsStr::from_bytes(name.to_bytes())))
    }

    /// Writes all to the disk, and moves the directory `name` of it to its place.
    ///
    /// # Errors
    /// `EEXIST`; what the system calls say.
    pub fn publish(self, name: &CStr) -> Result<()> {
        let name = &own(name)?;
        data::syncfs(self.dir.as_fd())?;
        let (dir, parent) = (self.dir.as_fd(), self.parent.as_fd());
        let rename = |flags| relocate((dir, name), (parent, &self.place), flags);
        match rename(RenameFlags::NOREPLACE) {
            // The file system lacks the flag. What came there meanwhile stays, unless it is an empty directory.
            Err(Errno::EINVAL) => rename(RenameFlags::empty())?,
            done => done?,
        }
        let above = open_beneath(parent, c".", OFlags::RDONLY | OFlags::DIRECTORY);
        above.and_then(|above| data::fsync(above.as_fd()))
    }

    /// Writes all to the disk.
    ///
    /// # Errors
    /// What `syncfs(2)` says.
    pub fn flush(&self) -> Result<()> {
        data::syncfs(self.dir.as_fd())
    }

    /// Puts the directory `name` of it, which is on the disk, in the place of the one that is there, in one step. That one goes.
    ///
    /// # Errors
    /// `EINVAL` where the file system cannot exchange names; `EBUSY` for a mountpoint; what the system calls say. Then the place
    /// is as it was.
    pub fn replace(self, name: &CStr) -> Result<()> {
        let name = &own(name)?;
        let parent = self.parent.as_fd();
        relocate((self.dir.as_fd(), name), (parent, &self.place), RenameFlags::EXCHANGE)?;
        let above = open_beneath(parent, c".", OFlags::RDONLY | OFlags::DIRECTORY);
        above.and_then(|above| data::fsync(above.as_fd()))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        match remove(self.parent.as_fd(), &self.name, Kind::Dir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => log::warn!("{} stays: {errno}", self.path.display()),
        }
    }
}

/// Makes the directory and locks it. One that is there and that nobody has locked is removed first.
fn make(parent: &OwnedFd, name: &CStr) -> std::result::Result<OwnedFd, Taken> {
    let parent = parent.as_fd();
    for _ in 0..RACES {
        let is_new = match tree::mkdir_at(parent, name, 0o700) {
            Err(Errno::EEXIST) => false,
            made => made.map(|()| true)?,
        };
        let dir = match open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::ENOENT) => continue,
            Err(Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::EXDEV) if !is_new => return Err(Taken::Foreign),
            dir => dir?,
        };
        if !lock::try_lock(dir.as_fd())? {
            return Err(Taken::Busy);
        }
        let found = stat_fd(dir.as_fd())?;
        if !stat_at(parent, name).is_ok_and(|stat| (stat.dev, stat.ino) == (found.dev, found.ino)) {
            continue;
        }
        if is_new {
            make_private(dir.as_fd(), parent)?;
            return Ok(dir);
        }
        if !is_own(dir.as_fd(), &found)? {
            return Err(Taken::Foreign);
        }
        remove(parent, name, Kind::Dir)?;
    }
    Err(Taken::Busy)
}

/// The name on the disk of a directory that is added.
fn own(name: &CStr) -> Result<CString> {
    CString::new([OWN, name.to_bytes()].concat()).map_err(|_| Errno::EINVAL)
}

/// Whether a killed process of this user can have left the directory. This holds at each instant of its making and of
/// its removal.
fn is_own(dir: BorrowedFd<'_>, stat: &Stat) -> Result<bool> {
    let is_private = stat.mode & 0o777 == 0o700 && stat.uid == own_ids().0;
    let mut own_names = true;
    read_dir(dir, &mut |entry| {
        let name = entry.name.to_bytes();
        own_names &= [&b"."[..], b".."].contains(&name) || name.starts_with(OWN);
        own_names
    })?;
    Ok(is_private && own_names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_made_appears_whole_and_what_a_killed_process_left_goes() {
        let here = tempfile::tempdir().unwrap();
        let (place, left) = (here.path().join("out"), here.path().join(".out.plyfs-new"));
        std::fs::create_dir_all(left.join(".plyfs-layer/x")).unwrap();
        let only_ours = || std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o700)).unwrap();
        only_ours();
        let beside = Beside::begin(&place).unwrap();
        assert_eq!(std::fs::read_dir(&left).unwrap().count(), 0);
        assert_eq!(Beside::begin(&place).err(), Some(Taken::Busy));
        std::fs::write(beside.add(c"layer").unwrap().join("f"), "x").unwrap();
        beside.publish(c"layer").unwrap();
        assert_eq!(std::fs::read(place.join("f")).unwrap(), b"x");
        assert!(!left.exists());
        assert_eq!(Beside::begin(&place).err(), Some(Taken::There));
        std::fs::remove_dir_all(&place).unwrap();
        std::fs::create_dir_all(left.join(".plyfs-layer")).unwrap();
        assert_eq!(Beside::begin(&place).err(), Some(Taken::Foreign), "others may enter it");
        only_ours();
        std::fs::write(left.join("mine"), "").unwrap();
        assert_eq!(Beside::begin(&place).err(), Some(Taken::Foreign), "a name of another's");
        std::fs::remove_dir_all(&left).unwrap();
        std::fs::write(&left, "").unwrap();
        assert_eq!(Beside::begin(&place).err(), Some(Taken::Foreign), "a file");
        std::fs::remove_file(&left).unwrap();
        let other = here.path().join("other");
        drop(Beside::begin(&other).unwrap().add(c"layer").unwrap());
        let made = Beside::begin(&other).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("mine"), "x").unwrap();
        made.add(c"layer").unwrap();
        assert!(made.publish(c"layer").is_err());
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1);
    }
}
