//! Extended attributes, by directory and name or by descriptor.
//!
//! No length that a layer gives is trusted: a value or a list is read into a buffer on the stack, or else into one of
//! 64 KiB, the most that the kernel hands out.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::LazyLock;

use super::newer::{self, Newer};
use super::path::ProcPath;
use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// Bytes of the buffer on the stack; most values and lists fit in.
const SMALL: usize = 512;

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`
const LARGE: usize = 64 * 1024;

/// The value of `key` on `name` in `dir`, of a symlink itself; `None` if there is none or the file system has no such
/// attributes ([getxattr(2)](https://man7.org/linux/man-pages/man2/getxattr.2.html)).
///
/// # Errors
/// `EACCES` for `user.*` of an object that may not be read: then it is unknown, not absent. Those of lgetxattr(2).
pub fn get_at(dir: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<Option<Vec<u8>>> {
    absent_is_none(get_at_raw(dir, name, key))
}

/// As [`get_at`], but absence is an error.
///
/// # Errors
/// `ENODATA` if there is none, `EOPNOTSUPP` if there cannot be one, and those of [`get_at`].
pub fn get_at_raw(dir: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<Vec<u8>> {
    seam::enter(Call::GetXattr)?;
    let found = match has_xattrat() {
        true => read(|room| raw::get_at(dir, name, key, room)),
        false => {
            let path = ProcPath::of_child(dir, name)?;
            read(|room| raw::get_path(path.as_c_str(), false, key, room))
        }
    };
    if super::is_closed_itself(name, &found) {
        return read(|room| raw::get_path(ProcPath::of(dir).as_c_str(), true, key, room));
    }
    found
}

/// As [`get_at`], of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`get_at`].
pub fn get_fd(fd: BorrowedFd<'_>, key: &CStr) -> Result<Option<Vec<u8>>> {
    absent_is_none(get_fd_raw(fd, key))
}

/// As [`get_fd`], but absence is an error.
///
/// # Errors
/// As [`get_at_raw`].
pub fn get_fd_raw(fd: BorrowedFd<'_>, key: &CStr) -> Result<Vec<u8>> {
    seam::enter(Call::GetXattr)?;
    match read(|room| raw::get_fd(fd, key, room)) {
        Err(Errno::EBADF) => read(|room| raw::get_path(ProcPath::of(fd).as_c_str(), true, key, room)),
        result => result,
    }
}

/// [`seam::enter`] of a call that sets an attribute.
fn enter_set(key: &CStr) -> Result<()> {
    seam::enter(Call::SetXattr)?;
    let is_mark = || key.to_bytes().windows(9).any(|part| part == b".overlay.");
    if seam::lacks().marks && is_mark() { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

/// Sets `key` on `name` in `dir`, of a symlink itself; `flags` may be `XATTR_CREATE` or `XATTR_REPLACE`
/// ([setxattr(2)](https://man7.org/linux/man-pages/man2/setxattr.2.html)).
///
/// # Errors
/// `ENODATA` for an empty value that the file system cannot hold (9p takes the attribute away), `EPERM` for `user.*` of
/// anything but files and directories, `ENOSPC`, `EOPNOTSUPP`, and those of lsetxattr(2).
pub fn set_at(dir: BorrowedFd<'_>, name: &CStr, key: &CStr, value: &[u8], flags: u32) -> Result<()> {
    enter_set(key)?;
    if seam::lacks().empty_values && value.is_empty() {
        return remove_at(dir, name, key);
    }
    let set = match has_xattrat() {
        true => raw::set_at(dir, name, key, value, flags),
        false => raw::set_path(ProcPath::of_child(dir, name)?.as_c_str(), false, key, value, flags),
    };
    if super::is_closed_itself(name, &set) {
        return raw::set_path(ProcPath::of(dir).as_c_str(), true, key, value, flags);
    }
    set
}

/// As [`set_at`], of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`set_at`].
pub fn set_fd(fd: BorrowedFd<'_>, key: &CStr, value: &[u8], flags: u32) -> Result<()> {
    enter_set(key)?;
    if seam::lacks().empty_values && value.is_empty() {
        return remove_fd(fd, key);
    }
    match raw::set_fd(fd, key, value, flags) {
        Err(Errno::EBADF) => raw::set_path(ProcPath::of(fd).as_c_str(), true, key, value, flags),
        result => result,
    }
}

/// Removes `key` from `name` in `dir`, of a symlink itself
/// ([removexattr(2)](https://man7.org/linux/man-pages/man2/removexattr.2.html)).
///
/// # Errors
/// `ENODATA` if it is not there, and those of lremovexattr(2).
pub fn remove_at(dir: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<()> {
    seam::enter(Call::RemoveXattr)?;
    let removed = match has_xattrat() {
        true => raw::remove_at(dir, name, key),
        false => raw::remove_path(ProcPath::of_child(dir, name)?.as_c_str(), false, key),
    };
    if super::is_closed_itself(name, &removed) {
        return raw::remove_path(ProcPath::of(dir).as_c_str(), true, key);
    }
    removed
}

/// As [`remove_at`], of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`remove_at`].
pub fn remove_fd(fd: BorrowedFd<'_>, key: &CStr) -> Result<()> {
    seam::enter(Call::RemoveXattr)?;
    match raw::remove_fd(fd, key) {
        Err(Errno::EBADF) => raw::remove_path(ProcPath::of(fd).as_c_str(), true, key),
        result => result,
    }
}

/// The keys on `name` in `dir`, of a symlink itself; empty if the file system has no such attributes
/// ([listxattr(2)](https://man7.org/linux/man-pages/man2/listxattr.2.html)).
///
/// # Errors
/// `E2BIG` for more than 64 KiB, and those of llistxattr(2).
pub fn list_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Vec<u8>>> {
    seam::enter(Call::ListXattr)?;
    let list = match has_xattrat() {
        true => read(|room| raw::list_at(dir, name, room)),
        false => {
            let path = ProcPath::of_child(dir, name)?;
            read(|room| raw::list_path(path.as_c_str(), false, room))
        }
    };
    if super::is_closed_itself(name, &list) {
        return keys(read(|room| raw::list_path(ProcPath::of(dir).as_c_str(), true, room)));
    }
    keys(list)
}

/// Whether an attribute of this name is listed if the object has it, on file systems that make up none. SELinux does.
pub fn is_listed(key: &CStr) -> bool {
    static LABELLED: LazyLock<bool> = LazyLock::new(|| Path::new("/sys/fs/selinux/enforce").exists());
    match key.to_bytes() {
        b"security.capability" | b"system.posix_acl_access" | b"system.posix_acl_default" => true,
        b"security.selinux" => !*LABELLED,
        key => key.starts_with(b"user.") || key.starts_with(b"trusted."),
    }
}

/// As [`list_at`], of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`list_at`].
pub fn list_fd(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>> {
    seam::enter(Call::ListXattr)?;
    match read(|room| raw::list_fd(fd, room)) {
        Err(Errno::EBADF) => keys(read(|room| raw::list_path(ProcPath::of(fd).as_c_str(), true, room))),
        result => keys(result),
    }
}

fn absent_is_none(answer: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn keys(list: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    match list {
        Ok(list) => Ok(list.split(|&byte| byte == 0).filter(|key| !key.is_empty()).map(<[u8]>::to_vec).collect()),
        Err(Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

/// Calls `fill` with a small buffer, and once more with the largest if that was too small.
fn read(fill: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0; SMALL];
    match fill(&mut small) {
        Ok(len) => small.get(..len).map(<[u8]>::to_vec).ok_or(Errno::EIO),
        Err(Errno::ERANGE) => {
            let mut large = vec![0; LARGE];
            let len = fill(&mut large)?;
            large.truncate(len);
            large.shrink_to_fit();
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

/// Whether the calls that take a directory and a name are there (Linux 6.13).
fn has_xattrat() -> bool {
    newer::has(Newer::XattrAt, || raw::probe().err().is_none_or(super::has_call))
}

/// The system calls without a wrapper.
mod raw {
    use std::ptr::null_mut;

    use super::*;
    use crate::sys::check;

    // The same on all architectures but alpha and mips, where these numbers are unused.
    const SYS_SETXATTRAT: libc::c_long = 463;
    const SYS_GETXATTRAT: libc::c_long = 464;
    const SYS_LISTXATTRAT: libc::c_long = 465;
    const SYS_REMOVEXATTRAT: libc::c_long = 466;

    /// `struct xattr_args`
    #[repr(C, align(8))]
    struct Args {
        value: u64,
        size: u32,
        flags: u32,
    }

    pub fn probe() -> Result<usize> {
        // SAFETY: with this descriptor and no room the kernel reads and writes nothing.
        check(unsafe { libc::syscall(SYS_LISTXATTRAT, -1, c".".as_ptr(), 0, null_mut::<u8>(), 0_usize) })
    }

    /// `getxattrat` and `setxattrat`, which both take a `struct xattr_args`.
    ///
    /// # Safety
    /// `args` must describe memory that the call may read or write.
    unsafe fn with_args(call: libc::c_long, dir: BorrowedFd<'_>, name: &CStr, key: &CStr, args: &Args) -> libc::c_long {
        let (dir, flags) = (dir.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
        // SAFETY: both strings are NUL-terminated, and `args` has the size that is said; the caller answers for the rest.
        unsafe { libc::syscall(call, dir, name.as_ptr(), flags, key.as_ptr(), &raw const *args, size_of::<Args>()) }
    }

    pub fn get_at(dir: BorrowedFd<'_>, name: &CStr, key: &CStr, room: &mut [u8]) -> Result<usize> {
        let args = Args { value: room.as_mut_ptr() as u64, size: room.len() as u32, flags: 0 };
        // SAFETY: `args` describes `room`, which the kernel may write to.
        check(unsafe { with_args(SYS_GETXATTRAT, dir, name, key, &args) })
    }

    pub fn set_at(dir: BorrowedFd<'_>, name: &CStr, key: &CStr, value: &[u8], flags: u32) -> Result<()> {
        let size = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
        let args = Args { value: value.as_ptr() as u64, size, flags };
        // SAFETY: `args` describes `value`, which the kernel only reads.
        let result = unsafe { with_args(SYS_SETXATTRAT, dir, name, key, &args) };
        check(result).map(drop)
    }

    pub fn remove_at(dir: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<()> {
        let (dir, flags) = (dir.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
        // SAFETY: both strings are NUL-terminated.
        check(unsafe { libc::syscall(SYS_REMOVEXATTRAT, dir, name.as_ptr(), flags, key.as_ptr()) }).map(drop)
    }

    pub fn list_at(dir: BorrowedFd<'_>, name: &CStr, room: &mut [u8]) -> Result<usize> {
        let (dir, flags) = (dir.as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
        // SAFETY: `name` is NUL-terminated; the kernel writes at most `room.len()` bytes.
        check(unsafe { libc::syscall(SYS_LISTXATTRAT, dir, name.as_ptr(), flags, room.as_mut_ptr(), room.len()) })
    }

    /// `follow` is for `/proc/self/fd/N`: it leads to the object itself, and a symlink there is not followed further.
    pub fn get_path(path: &CStr, follow: bool, key: &CStr, room: &mut [u8]) -> Result<usize> {
        let call = if follow { libc::getxattr } else { libc::lgetxattr };
        // SAFETY: both strings are NUL-terminated; the kernel writes at most `room.len()` bytes.
        check(unsafe { call(path.as_ptr(), key.as_ptr(), room.as_mut_ptr().cast(), room.len()) } as libc::c_long)
    }

    pub fn set_path(path: &CStr, follow: bool, key: &CStr, value: &[u8], flags: u32) -> Result<()> {
        let call = if follow { libc::setxattr } else { libc::lsetxattr };
        let flags = flags as i32;
        // SAFETY: both strings are NUL-terminated; the kernel reads `value.len()` bytes.
        let result = unsafe { call(path.as_ptr(), key.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
        check(result.into()).map(drop)
    }

    pub fn remove_path(path: &CStr, follow: bool, key: &CStr) -> Result<()> {
        let call = if follow { libc::removexattr } else { libc::lremovexattr };
        // SAFETY: both strings are NUL-terminated.
        check(unsafe { call(path.as_ptr(), key.as_ptr()) }.into()).map(drop)
    }

    pub fn list_path(path: &CStr, follow: bool, room: &mut [u8]) -> Result<usize> {
        let call = if follow { libc::listxattr } else { libc::llistxattr };
        // SAFETY: `path` is NUL-terminated; the kernel writes at most `room.len()` bytes.
        check(unsafe { call(path.as_ptr(), room.as_mut_ptr().cast(), room.len()) } as libc::c_long)
    }

    pub fn get_fd(fd: BorrowedFd<'_>, key: &CStr, room: &mut [u8]) -> Result<usize> {
        let (fd, room, len) = (fd.as_raw_fd(), room.as_mut_ptr(), room.len());
        // SAFETY: `key` is NUL-terminated; the kernel writes at most `len` bytes.
        check(unsafe { libc::fgetxattr(fd, key.as_ptr(), room.cast(), len) } as libc::c_long)
    }

    pub fn set_fd(fd: BorrowedFd<'_>, key: &CStr, value: &[u8], flags: u32) -> Result<()> {
        let (fd, flags) = (fd.as_raw_fd(), flags as i32);
        // SAFETY: `key` is NUL-terminated; the kernel reads `value.len()` bytes.
        let result = unsafe { libc::fsetxattr(fd, key.as_ptr(), value.as_ptr().cast(), value.len(), flags) };
        check(result.into()).map(drop)
    }

    pub fn remove_fd(fd: BorrowedFd<'_>, key: &CStr) -> Result<()> {
        // SAFETY: `key` is NUL-terminated.
        check(unsafe { libc::fremovexattr(fd.as_raw_fd(), key.as_ptr()) }.into()).map(drop)
    }

    pub fn list_fd(fd: BorrowedFd<'_>, room: &mut [u8]) -> Result<usize> {
        // SAFETY: the kernel writes at most `room.len()` bytes.
        check(unsafe { libc::flistxattr(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) } as libc::c_long)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::{OFlags, create_at, open_beneath, open_root};

    /// A directory with a file, a symlink to it, and whether attributes can be set there.
    fn fixture() -> Option<(tempfile::TempDir, OwnedFd)> {
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        drop(create_at(dir.as_fd(), c"f", OFlags::WRONLY, 0o600).unwrap());
        symlink("f", here.path().join("l")).unwrap();
        match set_at(dir.as_fd(), c"f", c"user.plyfs", b"v", 0) {
            Err(Errno::EOPNOTSUPP) => {
                eprintln!("skipped: no user.* attributes on this file system");
                None
            }
            result => Some((here, result.map(|()| dir).unwrap())),
        }
    }

    #[test]
    fn attributes_are_set_read_listed_and_removed_by_name() {
        let Some((_here, dir)) = fixture() else { return };
        let dir = dir.as_fd();
        assert_eq!(get_at(dir, c"f", c"user.plyfs"), Ok(Some(b"v".to_vec())));
        assert_eq!(get_at(dir, c"f", c"user.none"), Ok(None));
        assert_eq!(get_at_raw(dir, c"f", c"user.none"), Err(Errno::ENODATA));
        assert_eq!(get_at(dir, c"f", c"nonsense"), Ok(None));
        assert_eq!(get_at_raw(dir, c"f", c"nonsense"), Err(Errno::EOPNOTSUPP));
        assert_eq!(get_at(dir, c"none", c"user.plyfs"), Err(Errno::ENOENT));
        let create = libc::XATTR_CREATE as u32;
        assert_eq!(set_at(dir, c"f", c"user.plyfs", b"w", create), Err(Errno::EEXIST));
        set_at(dir, c"f", c"user.empty", b"", create).unwrap();
        assert_eq!(get_at(dir, c"f", c"user.empty"), Ok(Some(Vec::new())));
        let listed = list_at(dir, c"f").unwrap();
        assert!(listed.contains(&b"user.plyfs".to_vec()) && listed.contains(&b"user.empty".to_vec()));
        remove_at(dir, c"f", c"user.plyfs").unwrap();
        assert_eq!(remove_at(dir, c"f", c"user.plyfs"), Err(Errno::ENODATA));
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let Some((_here, dir)) = fixture() else { return };
        let dir = dir.as_fd();
        assert_eq!(get_at(dir, c"l", c"user.plyfs"), Ok(None));
        assert_eq!(set_at(dir, c"l", c"user.plyfs", b"v", 0), Err(Errno::EPERM));
        let link = open_beneath(dir, c"l", OFlags::PATH).unwrap();
        assert_eq!(get_fd(link.as_fd(), c"user.plyfs"), Ok(None));
        let path = ProcPath::of_child(dir, c"l").unwrap();
        assert_eq!(read(|room| raw::get_path(path.as_c_str(), false, c"user.plyfs", room)), Err(Errno::ENODATA));
        assert_eq!(raw::set_path(path.as_c_str(), false, c"user.plyfs", b"v", 0), Err(Errno::EPERM));
        assert_eq!(raw::remove_path(path.as_c_str(), false, c"user.plyfs"), Err(Errno::EPERM));
        assert!(!list_at(dir, c"l").unwrap().contains(&b"user.plyfs".to_vec()));
    }

    #[test]
    fn descriptors_of_each_sort_work() {
        let Some((_here, dir)) = fixture() else { return };
        for flags in [OFlags::PATH, OFlags::RDONLY, OFlags::RDWR] {
            let file = open_beneath(dir.as_fd(), c"f", flags).unwrap();
            let file = file.as_fd();
            assert_eq!(get_fd(file, c"user.plyfs"), Ok(Some(b"v".to_vec())), "{flags:?}");
            set_fd(file, c"user.more", b"m", 0).unwrap();
            assert!(list_fd(file).unwrap().contains(&b"user.more".to_vec()));
            remove_fd(file, c"user.more").unwrap();
            assert_eq!(get_fd_raw(file, c"user.more"), Err(Errno::ENODATA));
        }
        set_fd(dir.as_fd(), c"user.dir", b"d", 0).unwrap();
        assert_eq!(get_fd(dir.as_fd(), c"user.dir"), Ok(Some(b"d".to_vec())));
    }

    #[test]
    fn older_kernels_give_the_same_answers() {
        let Some((_here, dir)) = fixture() else { return };
        let path = ProcPath::of_child(dir.as_fd(), c"f").unwrap();
        let path = path.as_c_str();
        raw::set_path(path, false, c"user.old", b"o", 0).unwrap();
        assert_eq!(get_at(dir.as_fd(), c"f", c"user.old"), Ok(Some(b"o".to_vec())));
        assert_eq!(read(|room| raw::get_path(path, false, c"user.old", room)), Ok(b"o".to_vec()));
        assert_eq!(keys(read(|room| raw::list_path(path, false, room))), list_at(dir.as_fd(), c"f"));
        raw::remove_path(path, false, c"user.old").unwrap();
        assert_eq!(get_at(dir.as_fd(), c"f", c"user.old"), Ok(None));
    }

    #[test]
    fn long_values_and_lists_are_whole() {
        // ext4 with blocks of 1 KiB holds no more than this.
        let Some((_here, dir)) = fixture() else { return };
        let dir = dir.as_fd();
        for len in [SMALL - 1, SMALL, SMALL + 1] {
            let value = vec![b'x'; len];
            set_at(dir, c"f", c"user.long", &value, 0).unwrap();
            assert_eq!(get_at(dir, c"f", c"user.long"), Ok(Some(value)));
        }
        remove_at(dir, c"f", c"user.long").unwrap();
        let names: Vec<_> =
            (0..3).map(|number| std::ffi::CString::new(format!("user.{number:0>200}")).unwrap()).collect();
        names.iter().for_each(|name| set_at(dir, c"f", name, b"", 0).unwrap());
        let listed = list_at(dir, c"f").unwrap();
        assert!(names.iter().all(|name| listed.contains(&name.to_bytes().to_vec())));
        assert_eq!(set_at(dir, c"f", c"user.long", &[0; LARGE + 1], 0), Err(Errno::E2BIG));
    }

    #[test]
    fn a_file_system_without_attributes_has_none() {
        let proc = open_root(std::path::Path::new("/proc")).unwrap();
        assert_eq!(get_at(proc.as_fd(), c"version", c"user.x"), Ok(None));
        assert_eq!(get_at(proc.as_fd(), c"version", c"trusted.x"), Ok(None));
        assert!(list_at(proc.as_fd(), c"version").is_ok());
    }
}
