//! File handles, which name an inode over renames and remounts.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// The longest handle in bytes (`MAX_HANDLE_SZ`).
const MAX: usize = 128;

/// A file handle: opaque bytes whose meaning the file system's `kind` decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Handle {
    /// `handle_type`
    pub kind: i32,
    /// `f_handle`, at most 128 bytes.
    pub bytes: Vec<u8>,
}

/// The handle of `name` in `dir`, of a symlink itself
/// ([name_to_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html)).
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no handles, `ENOENT`, and those of name_to_handle_at(2).
pub fn handle_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Handle> {
    seam::enter(Call::Handle)?;
    let found = name_to_handle(dir, name, 0);
    if super::is_closed_itself(name, &found) { name_to_handle(dir, c"", libc::AT_EMPTY_PATH) } else { found }
}

/// The handle of an open object, opened with `O_PATH` or otherwise.
///
/// # Errors
/// As [`handle_at`].
#[cfg(test)]
pub fn handle_fd(fd: BorrowedFd<'_>) -> Result<Handle> {
    seam::enter(Call::Handle)?;
    name_to_handle(fd, c"", libc::AT_EMPTY_PATH)
}

/// The object that a handle names, opened with `O_PATH`; `mount` is any directory of its file system, opened for reading
/// ([open_by_handle_at(2)](https://man7.org/linux/man-pages/man2/open_by_handle_at.2.html)).
///
/// # Errors
/// `EPERM` without `CAP_DAC_READ_SEARCH` in the initial user namespace, `ESTALE` where there is no such object.
pub fn open_by_handle(mount: BorrowedFd<'_>, handle: &Handle) -> Result<OwnedFd> {
    seam::enter(Call::OpenHandle)?;
    let mut named = FileHandle { bytes: 0, kind: handle.kind, handle: [0; MAX] };
    let room = named.handle.get_mut(..handle.bytes.len()).ok_or(Errno::EOVERFLOW)?;
    room.copy_from_slice(&handle.bytes);
    named.bytes = handle.bytes.len() as u32;
    let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `named` is a handle of the length that its first field says.
    let result = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw mut named, flags) };
    let fd = i32::try_from(super::check(result)?).map_err(|_| Errno::EIO)?;
    // SAFETY: the call has just made this descriptor, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `struct file_handle` with room for any handle.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; MAX],
}

fn name_to_handle(dir: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> Result<Handle> {
    let mut found = FileHandle { bytes: MAX as u32, kind: 0, handle: [0; MAX] };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: `name` is NUL-terminated; `found` has the room that its first field says, and `mount_id` is an int.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut found,
            &raw mut mount_id,
            flags,
        )
    };
    super::check(result)?;
    let bytes = found.handle.get(..found.bytes as usize).ok_or(Errno::EOVERFLOW)?;
    Ok(Handle { kind: found.kind, bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::{OFlags, create_at, open_beneath, open_root, reopen};

    #[test]
    fn an_object_has_one_handle_however_it_is_reached() {
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        let file = create_at(dir.as_fd(), c"f", OFlags::WRONLY, 0o600).unwrap();
        symlink("f", here.path().join("l")).unwrap();
        let handle = match handle_at(dir.as_fd(), c"f") {
            Err(Errno::EOPNOTSUPP) => return eprintln!("skipped: no file handles on this file system"),
            found => found.unwrap(),
        };
        assert!(!handle.bytes.is_empty() && handle.bytes.len() <= MAX);
        assert_eq!(handle_fd(file.as_fd()), Ok(handle.clone()));
        let path_only = open_beneath(dir.as_fd(), c"f", OFlags::PATH).unwrap();
        assert_eq!(handle_fd(path_only.as_fd()), Ok(handle.clone()));
        assert_ne!(handle_at(dir.as_fd(), c"l"), Ok(handle));
        assert_eq!(handle_at(dir.as_fd(), c"none"), Err(Errno::ENOENT));
    }

    #[test]
    fn a_handle_leads_back_to_its_object() {
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        let mount = reopen(dir.as_fd(), OFlags::RDONLY).unwrap();
        let file = create_at(dir.as_fd(), c"f", OFlags::WRONLY, 0o600).unwrap();
        let Ok(handle) = handle_at(dir.as_fd(), c"f") else {
            return eprintln!("skipped: no file handles on this file system");
        };
        match open_by_handle(mount.as_fd(), &handle) {
            Ok(found) => assert_eq!(crate::sys::stat_fd(found.as_fd()), crate::sys::stat_fd(file.as_fd())),
            Err(errno) => assert_eq!(errno, Errno::EPERM),
        }
        drop(file);
        std::fs::remove_file(here.path().join("f")).unwrap();
        assert!(open_by_handle(mount.as_fd(), &handle).is_err());
    }
}
