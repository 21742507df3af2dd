//! Changing names and what is attached to them: create, link, rename, remove, mode, owner, times.
//!
//! A `name` is one component. No function here follows a symlink.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, openat};
use rustix::io::Errno as Raw;

pub use rustix::fs::RenameFlags;

use super::newer::{self, Newer};
use super::path::{OFlags, ProcPath};
use super::seam::{self, Call};
use super::stat::{Kind, SetTime};
use crate::base::{DiskGid, DiskUid, Errno, Result};

/// Makes a directory ([mkdirat(2)](https://man7.org/linux/man-pages/man2/mkdir.2.html)); the process's umask applies.
///
/// # Errors
/// `EEXIST`, `ENOSPC` and those of mkdirat(2).
pub fn mkdir_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    seam::enter(Call::Mkdir)?;
    Ok(rustix::fs::mkdirat(dir, name, permissions(mode))?)
}

/// Makes a file, fifo, socket or device ([mknodat(2)](https://man7.org/linux/man-pages/man2/mknod.2.html)): `mode` with
/// its type bits, `rdev` as in `st_rdev`. The process's umask applies.
///
/// # Errors
/// `EPERM` for a device other than 0:0 without `CAP_MKNOD`, `EEXIST`, and those of mknodat(2).
pub fn mknod_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32, rdev: u64) -> Result<()> {
    seam::enter(Call::Mknod)?;
    let kind = FileType::from_raw_mode(Kind::from_mode(mode).to_mode());
    let lacks = seam::lacks();
    if lacks.devices && kind == FileType::CharacterDevice && rdev == 0 {
        if lacks.late {
            rustix::fs::mknodat(dir, name, kind, permissions(mode), rdev)?;
        }
        return Err(Errno::EPERM);
    }
    Ok(rustix::fs::mknodat(dir, name, kind, permissions(mode), rdev)?)
}

/// Makes a symbolic link that holds `target`
/// ([symlinkat(2)](https://man7.org/linux/man-pages/man2/symlink.2.html)).
///
/// # Errors
/// `EEXIST`, `ENAMETOOLONG` and those of symlinkat(2).
pub fn symlink_at(target: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    seam::enter(Call::Symlink)?;
    Ok(rustix::fs::symlinkat(target, dir, name)?)
}

/// Gives an object one more name, a symlink itself too
/// ([linkat(2)](https://man7.org/linux/man-pages/man2/link.2.html)).
///
/// # Errors
/// `EEXIST`, `EMLINK`, `EPERM` for a directory, and those of linkat(2).
pub fn link_at(old_dir: BorrowedFd<'_>, old: &CStr, new_dir: BorrowedFd<'_>, new: &CStr) -> Result<()> {
    seam::enter(Call::Link)?;
    if seam::lacks().links {
        return Err(Errno::EPERM);
    }
    Ok(rustix::fs::linkat(old_dir, old, new_dir, new, AtFlags::empty())?)
}

/// Moves a name ([renameat2(2)](https://man7.org/linux/man-pages/man2/rename.2.html)).
///
/// # Errors
/// `EEXIST` with `NOREPLACE`, `ENOENT` with `EXCHANGE` and no target, `EINVAL` for flags that the file system lacks,
/// `ENOTEMPTY`, and those of renameat2(2).
pub fn rename_at(
    old_dir: BorrowedFd<'_>,
    old: &CStr,
    new_dir: BorrowedFd<'_>,
    new: &CStr,
    flags: RenameFlags,
) -> Result<()> {
    seam::enter(Call::Rename)?;
    if flags.is_empty() {
        return Ok(rustix::fs::renameat(old_dir, old, new_dir, new)?);
    }
    if seam::lacks().rename_flags || newer::is_absent(Newer::RenameFlags) {
        return Err(Errno::EINVAL);
    }
    match rustix::fs::renameat_with(old_dir, old, new_dir, new, flags) {
        Err(Raw::NOSYS) => {
            newer::lacks(Newer::RenameFlags);
            Err(Errno::EINVAL)
        }
        done => Ok(done?),
    }
}

/// Removes a name of anything but a directory
/// ([unlinkat(2)](https://man7.org/linux/man-pages/man2/unlink.2.html)).
///
/// # Errors
/// `ENOENT`, `EISDIR` and those of unlinkat(2).
pub fn unlink_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    seam::enter(Call::Unlink)?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?)
}

/// Removes an empty directory ([unlinkat(2)](https://man7.org/linux/man-pages/man2/unlink.2.html)).
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY` and those of unlinkat(2).
pub fn rmdir_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    seam::enter(Call::Rmdir)?;
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

/// Makes a regular file that did not exist, and opens it
/// ([openat(2)](https://man7.org/linux/man-pages/man2/open.2.html)): `O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC` are added.
/// The process's umask applies.
///
/// # Errors
/// `EEXIST`, `ENOSPC` and those of openat(2).
pub fn create_at(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, mode: u32) -> Result<OwnedFd> {
    seam::enter(Call::Create)?;
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, permissions(mode))?)
}

/// What a symbolic link holds ([readlinkat(2)](https://man7.org/linux/man-pages/man2/readlink.2.html)).
///
/// # Errors
/// `EINVAL` if it is no symlink, and those of readlinkat(2).
pub fn readlink_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>> {
    seam::enter(Call::Readlink)?;
    Ok(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// Sets the permission bits of anything but a symlink
/// ([fchmodat2(2)](https://man7.org/linux/man-pages/man2/chmod.2.html), Linux 6.6; else through `/proc/self/fd`).
///
/// # Errors
/// `EOPNOTSUPP` for a symlink, and those of fchmodat2(2).
pub fn chmod_at(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    seam::enter(Call::Chmod)?;
    let has = newer::has(Newer::Fchmodat2, || fchmodat2(-1, c".", 0).err().is_none_or(super::has_call));
    let done = if has { fchmodat2(dir.as_raw_fd(), name, mode & 0o7777) } else { chmod_by_fd(dir, name, mode) };
    if super::is_closed_itself(name, &done) { chmod_open(dir, mode) } else { done }
}

fn fchmodat2(dir: libc::c_int, name: &CStr, mode: u32) -> Result<()> {
    // SAFETY: `name` is a NUL-terminated string, and the call only reads it.
    let result = unsafe { libc::syscall(libc::SYS_fchmodat2, dir, name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    super::check(result).map(drop)
}

/// [`chmod_at`] without fchmodat2.
fn chmod_by_fd(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Result<()> {
    let object = openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    // Some file systems would change it, before Linux 6.6.
    if FileType::from_raw_mode(rustix::fs::fstat(&object)?.st_mode).is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(rustix::fs::chmodat(CWD, ProcPath::of(object.as_fd()).as_c_str(), permissions(mode), AtFlags::empty())?)
}

/// Sets the permission bits of an open object, opened with `O_PATH` or otherwise
/// ([fchmod(2)](https://man7.org/linux/man-pages/man2/chmod.2.html)).
///
/// # Errors
/// Those of fchmod(2).
pub fn chmod_fd(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    seam::enter(Call::Chmod)?;
    chmod_open(fd, mode)
}

fn chmod_open(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    match rustix::fs::fchmod(fd, permissions(mode)) {
        Err(Raw::BADF) => {
            Ok(rustix::fs::chmodat(CWD, ProcPath::of(fd).as_c_str(), permissions(mode), AtFlags::empty())?)
        }
        result => Ok(result?),
    }
}

/// Sets owner and group, of a symlink itself too; `None` leaves one as it is
/// ([fchownat(2)](https://man7.org/linux/man-pages/man2/chown.2.html)).
///
/// # Errors
/// `EINVAL` for an id that cannot be expressed here, `EPERM`, and those of fchownat(2).
pub fn chown_at(dir: BorrowedFd<'_>, name: &CStr, uid: Option<DiskUid>, gid: Option<DiskGid>) -> Result<()> {
    seam::enter(Call::Chown)?;
    let (uid, gid) = owner(uid, gid)?;
    match rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(Errno::from) {
        done if super::is_closed_itself(name, &done) => {
            Ok(rustix::fs::chownat(dir, c"", uid, gid, AtFlags::EMPTY_PATH)?)
        }
        done => done,
    }
}

/// As [`chown_at`], of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`chown_at`].
pub fn chown_fd(fd: BorrowedFd<'_>, uid: Option<DiskUid>, gid: Option<DiskGid>) -> Result<()> {
    seam::enter(Call::Chown)?;
    let (uid, gid) = owner(uid, gid)?;
    Ok(rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)?)
}

/// Sets access and modification time, in this order, of a symlink itself too
/// ([utimensat(2)](https://man7.org/linux/man-pages/man2/utimensat.2.html)).
///
/// # Errors
/// `EINVAL` for nanoseconds of a second or more, and those of utimensat(2).
pub fn utimens_at(dir: BorrowedFd<'_>, name: &CStr, times: [SetTime; 2]) -> Result<()> {
    seam::enter(Call::Utimens)?;
    let times = timestamps(times)?;
    match rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(Errno::from) {
        done if super::is_closed_itself(name, &done) => utimens_open(dir, &times),
        done => done,
    }
}

/// As [`utimens_at`], of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`utimens_at`].
pub fn utimens_fd(fd: BorrowedFd<'_>, times: [SetTime; 2]) -> Result<()> {
    seam::enter(Call::Utimens)?;
    utimens_open(fd, &timestamps(times)?)
}

fn utimens_open(fd: BorrowedFd<'_>, times: &Timestamps) -> Result<()> {
    match rustix::fs::futimens(fd, times) {
        Err(Raw::BADF) => Ok(rustix::fs::utimensat(CWD, ProcPath::of(fd).as_c_str(), times, AtFlags::empty())?),
        result => Ok(result?),
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Refuses the number that chown(2) takes for "leave it": it is no id.
fn owner(uid: Option<DiskUid>, gid: Option<DiskGid>) -> Result<(Option<Uid>, Option<Gid>)> {
    if uid == Some(DiskUid(u32::MAX)) || gid == Some(DiskGid(u32::MAX)) {
        return Err(Errno::EINVAL);
    }
    Ok((uid.map(|uid| Uid::from_raw(uid.0)), gid.map(|gid| Gid::from_raw(gid.0))))
}

fn timestamps(times: [SetTime; 2]) -> Result<Timestamps> {
    let [last_access, last_modification] = times.map(|time| match time {
        SetTime::Omit => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }),
        SetTime::Now => Ok(Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }),
        // Larger numbers include those that mean "now" and "leave it".
        SetTime::At(time) if time.nsec >= 1_000_000_000 => Err(Errno::EINVAL),
        SetTime::At(time) => Ok(Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() }),
    });
    Ok(Timestamps { last_access: last_access?, last_modification: last_modification? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::{Time, open_root, stat_at, stat_fd};

    fn fixture() -> (tempfile::TempDir, OwnedFd) {
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        (here, dir)
    }

    #[test]
    fn objects_of_each_kind_are_made_and_removed() {
        let (_here, dir) = fixture();
        let dir = dir.as_fd();
        mkdir_at(dir, c"d", 0o700).unwrap();
        mknod_at(dir, c"fifo", libc::S_IFIFO | 0o600, 0).unwrap();
        mknod_at(dir, c"sock", libc::S_IFSOCK | 0o600, 0).unwrap();
        mknod_at(dir, c"file", 0o600, 0).unwrap();
        symlink_at(c"../target", dir, c"l").unwrap();
        drop(create_at(dir, c"f", OFlags::RDWR, 0o600).unwrap());
        for (name, kind) in [
            (c"d", Kind::Dir),
            (c"fifo", Kind::Fifo),
            (c"sock", Kind::Socket),
            (c"file", Kind::File),
            (c"l", Kind::Symlink),
            (c"f", Kind::File),
        ] {
            assert_eq!(stat_at(dir, name).unwrap().kind(), kind);
            assert_eq!(create_at(dir, name, OFlags::RDWR, 0o600).err(), Some(Errno::EEXIST));
        }
        assert_eq!(readlink_at(dir, c"l").unwrap(), b"../target");
        assert_eq!(unlink_at(dir, c"d"), Err(Errno::EISDIR));
        assert_eq!(rmdir_at(dir, c"f"), Err(Errno::ENOTDIR));
        rmdir_at(dir, c"d").unwrap();
        unlink_at(dir, c"l").unwrap();
        assert_eq!(unlink_at(dir, c"l"), Err(Errno::ENOENT));
    }

    #[test]
    fn names_are_linked_moved_and_exchanged() {
        let (_here, dir) = fixture();
        let dir = dir.as_fd();
        drop(create_at(dir, c"a", OFlags::WRONLY, 0o600).unwrap());
        let a = stat_at(dir, c"a").unwrap().ino;
        link_at(dir, c"a", dir, c"b").unwrap();
        assert_eq!(rename_at(dir, c"a", dir, c"b", RenameFlags::NOREPLACE), Err(Errno::EEXIST));
        mkdir_at(dir, c"d", 0o700).unwrap();
        rename_at(dir, c"a", dir, c"d", RenameFlags::EXCHANGE).unwrap();
        assert!(stat_at(dir, c"a").unwrap().is_dir());
        rename_at(dir, c"d", dir, c"e", RenameFlags::empty()).unwrap();
        assert_eq!(stat_at(dir, c"e").unwrap().ino, a);
        assert_eq!(stat_at(dir, c"d"), Err(Errno::ENOENT));
        symlink_at(c"none", dir, c"l").unwrap();
        link_at(dir, c"l", dir, c"m").unwrap();
        assert!(stat_at(dir, c"m").unwrap().is_symlink());
    }

    #[test]
    fn modes_change_but_not_through_symlinks() {
        let (here, dir) = fixture();
        let dir = dir.as_fd();
        drop(create_at(dir, c"f", OFlags::WRONLY, 0o600).unwrap());
        mknod_at(dir, c"fifo", libc::S_IFIFO | 0o600, 0).unwrap();
        symlink("f", here.path().join("l")).unwrap();
        for (chmod, mode) in [(chmod_at as fn(BorrowedFd<'_>, &CStr, u32) -> Result<()>, 0o4711), (chmod_by_fd, 0o2640)]
        {
            for name in [c"f", c"fifo"] {
                chmod(dir, name, mode).unwrap();
                assert_eq!(stat_at(dir, name).unwrap().mode & 0o7777, mode);
            }
            assert_eq!(chmod(dir, c"l", 0o600), Err(Errno::EOPNOTSUPP));
            assert_eq!(chmod(dir, c"none", 0o600), Err(Errno::ENOENT));
            assert_eq!(stat_at(dir, c"f").unwrap().mode & 0o7777, mode);
        }
        chmod_fd(dir, 0o711).unwrap();
        assert_eq!(stat_fd(dir).unwrap().mode & 0o7777, 0o711);
    }

    #[test]
    fn owners_change_of_the_object_itself() {
        let (here, dir) = fixture();
        let dir = dir.as_fd();
        drop(create_at(dir, c"f", OFlags::WRONLY, 0o600).unwrap());
        symlink("f", here.path().join("l")).unwrap();
        let own = stat_at(dir, c"f").unwrap();
        assert_eq!(chown_at(dir, c"f", Some(DiskUid(u32::MAX)), None), Err(Errno::EINVAL));
        chown_at(dir, c"f", None, None).unwrap();
        match chown_at(dir, c"l", Some(DiskUid(7)), Some(DiskGid(8))) {
            // No capability, or no such ids in this user namespace.
            Err(Errno::EPERM | Errno::EINVAL) => return eprintln!("skipped: cannot give files away"),
            result => result.unwrap(),
        }
        let link = stat_at(dir, c"l").unwrap();
        let file = stat_at(dir, c"f").unwrap();
        assert_eq!((link.uid, link.gid, file.uid, file.gid), (DiskUid(7), DiskGid(8), own.uid, own.gid));
        chown_fd(dir, None, Some(DiskGid(9))).unwrap();
        assert_eq!((stat_fd(dir).unwrap().uid, stat_fd(dir).unwrap().gid), (own.uid, DiskGid(9)));
    }

    #[test]
    fn times_are_set_left_alone_or_now() {
        let (here, dir) = fixture();
        let dir = dir.as_fd();
        let file = create_at(dir, c"f", OFlags::WRONLY, 0o600).unwrap();
        symlink("f", here.path().join("l")).unwrap();
        let early = Time { sec: -2, nsec: 200_000_000 };
        let late = Time { sec: 1 << 31, nsec: 999_999_999 };
        utimens_at(dir, c"f", [SetTime::At(early), SetTime::At(late)]).unwrap();
        utimens_at(dir, c"l", [SetTime::At(late), SetTime::At(early)]).unwrap();
        let (found, link) = (stat_at(dir, c"f").unwrap(), stat_at(dir, c"l").unwrap());
        assert_eq!((found.atime, found.mtime, link.atime, link.mtime), (early, late, late, early));
        utimens_fd(file.as_fd(), [SetTime::Omit, SetTime::Now]).unwrap();
        let found = stat_at(dir, c"f").unwrap();
        assert!(found.atime == early && found.mtime != late);
        // `O_PATH`
        utimens_fd(dir, [SetTime::At(early), SetTime::Omit]).unwrap();
        assert_eq!(stat_fd(dir).unwrap().atime, early);
        for nsec in [1_000_000_000, UTIME_NOW as u32, UTIME_OMIT as u32] {
            let time = SetTime::At(Time { sec: 0, nsec });
            assert_eq!(utimens_at(dir, c"f", [SetTime::Omit, time]), Err(Errno::EINVAL));
        }
    }
}
