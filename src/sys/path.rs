//! Opening: beneath a directory, and never through a symlink or into another mount.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, ResolveFlags, openat, openat2};
use rustix::io::Errno as Raw;

pub use rustix::fs::OFlags;

use super::mounts::mount_id;
use super::newer::{self, Newer};
use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// How often a lookup that raced with a rename is tried again.
const RACES: usize = 128;

/// Opens the root of a layer as the user named it, symlinks and mounts included
/// ([open(2)](https://man7.org/linux/man-pages/man2/open.2.html) with `O_PATH`).
///
/// # Errors
/// `ENOTDIR` if it is not a directory, and those of open(2).
pub fn open_root(path: &Path) -> Result<OwnedFd> {
    seam::enter(Call::OpenRoot)?;
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens what stands at `path` (`.`, `a`, `a/b`) beneath `dir`, without following any symlink and without leaving the
/// mount ([openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html)). `O_CLOEXEC` and `O_NOFOLLOW` are added;
/// a symlink itself can be opened with `O_PATH`.
///
/// Where the kernel or a seccomp filter lacks openat2, the components are opened one by one.
///
/// # Errors
/// `EXDEV` for a mount point, `..` out of `dir` or an absolute path; `ELOOP` for a symlink; those of open(2).
pub fn open_beneath(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    seam::enter(Call::OpenBeneath)?;
    open_confined(dir, path, flags)
}

pub(super) fn open_confined(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let opened = open_by_path(dir, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW);
    if super::is_closed_itself(path, &opened) { open_again(dir, flags) } else { opened }
}

fn open_by_path(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    if !has_openat2() {
        return open_by_components(dir, path, flags);
    }
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut races = 0;
    loop {
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            Err(Raw::INTR) => {}
            Err(Raw::AGAIN) if races < RACES => races += 1,
            result => return Ok(result?),
        }
    }
}

/// The directory that holds the directory `dir`, and the name that it has there; `None` for the root of a mount.
///
/// # Errors
/// `EACCES` where the way up is closed; those of open(2) and of reading `/proc`.
pub fn parent_of(dir: BorrowedFd<'_>) -> Result<Option<(OwnedFd, CString)>> {
    seam::enter(Call::OpenBeneath)?;
    let parent = openat(dir, c"..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let same = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    if mount_id(dir)? != mount_id(parent.as_fd())? || same(rustix::fs::fstat(dir)?) == same(rustix::fs::fstat(&parent)?)
    {
        return Ok(None);
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok()).unwrap_or_default();
    Ok(Some((parent, name)))
}

/// The path of an open object as `/proc` shows it
/// ([proc_pid_fd(5)](https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html)): from the root of its mount, if that is nowhere.
///
/// # Errors
/// `ENOENT` where /proc is not mounted.
pub fn shown_path(fd: BorrowedFd<'_>) -> Result<std::ffi::OsString> {
    Ok(std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.into_os_string())
}

/// Opens the object behind `fd` again with other flags, through `/proc/self/fd`
/// ([proc_pid_fd(5)](https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html)). `O_CLOEXEC` is added.
///
/// # Errors
/// `ENOENT` where /proc is not mounted, `ELOOP` for a symlink, and those of open(2).
#[cfg(test)]
pub fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    seam::enter(Call::Reopen)?;
    open_again(fd, flags)
}

pub(super) fn open_again(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    let path = ProcPath::of(fd);
    let flags = flags.difference(OFlags::NOFOLLOW) | OFlags::CLOEXEC;
    loop {
        match openat(CWD, path.as_c_str(), flags, Mode::empty()) {
            Err(Raw::INTR) => {}
            result => return Ok(result?),
        }
    }
}

fn has_openat2() -> bool {
    newer::has(Newer::Openat2, || {
        openat2(CWD, c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())
            .map_or_else(|errno| super::has_call(errno.into()), |_| true)
    })
}

/// [`open_beneath`] without openat2. A foreign mount is recognised before anything of it is asked for.
fn open_by_components(dir: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let bytes = path.to_bytes();
    match bytes.first() {
        None => return Err(Errno::ENOENT),
        Some(b'/') => return Err(Errno::EXDEV),
        Some(_) => {}
    }
    let home = mount_id(dir)?;
    let mut components = bytes.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    let mut at = openat(dir, c".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    while let Some(component) = components.next() {
        if component == b".." {
            return Err(Errno::EXDEV);
        }
        at = openat(&at, component, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if mount_id(at.as_fd())? != home {
            return Err(Errno::EXDEV);
        }
        let wanted = components.peek().is_none() && flags.contains(OFlags::PATH);
        if !wanted && rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode).is_symlink() {
            return Err(Errno::ELOOP);
        }
    }
    if flags.contains(OFlags::PATH) {
        let is_dir = || Ok::<_, Errno>(rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&at)?.st_mode).is_dir());
        return if flags.contains(OFlags::DIRECTORY) && !is_dir()? { Err(Errno::ENOTDIR) } else { Ok(at) };
    }
    open_again(at.as_fd(), flags)
}

/// `/proc/self/fd/N` or `/proc/self/fd/N/name` as a C string, without allocation.
pub(super) struct ProcPath {
    bytes: [u8; 304],
    len: usize,
}

impl ProcPath {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Self {
        let mut path = Self { bytes: [0; 304], len: 0 };
        // Cannot fail: at most 14 + 11 of 304 bytes.
        let _ = write!(path, "/proc/self/fd/{}", fd.as_raw_fd());
        path
    }

    /// # Errors
    /// `ENAMETOOLONG` if `name` is longer than a name can be.
    pub(super) fn of_child(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        let mut path = Self::of(dir);
        path.push(b"/").and_then(|()| path.push(name.to_bytes())).map_err(|_| Errno::ENAMETOOLONG)?;
        Ok(path)
    }

    fn push(&mut self, bytes: &[u8]) -> std::fmt::Result {
        let end = self.len + bytes.len();
        // The last byte stays NUL.
        let room = self.bytes.get_mut(self.len..end).filter(|_| end < 304).ok_or(std::fmt::Error)?;
        room.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl std::fmt::Write for ProcPath {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::stat_fd;

    type Open = fn(BorrowedFd<'_>, &CStr, OFlags) -> Result<OwnedFd>;
    const BOTH: [Open; 2] =
        [open_beneath, |dir, path, flags| open_by_components(dir, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC)];

    #[test]
    fn no_open_leaves_the_directory_or_follows_a_symlink() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(here.path().join("a/b")).unwrap();
        std::fs::write(here.path().join("a/b/f"), "x").unwrap();
        for (link, target) in [("to_a", "a"), ("to_root", "/"), ("dangling", "none"), ("loop", "loop")] {
            symlink(target, here.path().join(link)).unwrap();
        }
        let dir = open_root(here.path()).unwrap();
        for (path, flags, expected) in [
            (c".", OFlags::RDONLY, None),
            (c"a", OFlags::RDONLY, None),
            (c"a/b", OFlags::PATH, None),
            (c"a/b/f", OFlags::RDWR, None),
            (c"a/b/f", OFlags::PATH | OFlags::DIRECTORY, Some(Errno::ENOTDIR)),
            (c"a/b/f", OFlags::RDONLY | OFlags::DIRECTORY, Some(Errno::ENOTDIR)),
            (c"to_a", OFlags::PATH, None),
            (c"to_a", OFlags::RDONLY, Some(Errno::ELOOP)),
            (c"loop", OFlags::RDONLY, Some(Errno::ELOOP)),
            (c"dangling", OFlags::RDONLY, Some(Errno::ELOOP)),
            (c"to_a/b", OFlags::PATH, Some(Errno::ELOOP)),
            (c"to_root/etc", OFlags::PATH, Some(Errno::ELOOP)),
            (c"a/b/f/g", OFlags::PATH, Some(Errno::ENOTDIR)),
            (c"none", OFlags::PATH, Some(Errno::ENOENT)),
            (c"", OFlags::PATH, Some(Errno::ENOENT)),
            (c"..", OFlags::PATH, Some(Errno::EXDEV)),
            (c"/etc", OFlags::PATH, Some(Errno::EXDEV)),
        ] {
            for open in BOTH {
                assert_eq!(open(dir.as_fd(), path, flags).err(), expected, "{path:?} {flags:?}");
            }
        }
    }

    #[test]
    fn a_mount_point_is_another_device() {
        let root = open_root(Path::new("/")).unwrap();
        for open in BOTH {
            assert_eq!(open(root.as_fd(), c"proc", OFlags::PATH).err(), Some(Errno::EXDEV));
            assert_eq!(open(root.as_fd(), c"proc/self", OFlags::PATH).err(), Some(Errno::EXDEV));
        }
    }

    #[test]
    fn what_is_open_is_opened_again_with_other_flags() {
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        let again = reopen(dir.as_fd(), OFlags::RDONLY | OFlags::NOFOLLOW).unwrap();
        assert_eq!(stat_fd(again.as_fd()), stat_fd(dir.as_fd()));
        assert!(rustix::fs::fsync(&again).is_ok() && rustix::fs::fsync(&dir).is_err());
    }

    #[test]
    fn the_longest_name_has_room_below_any_descriptor() {
        let name = std::ffi::CString::new([b'x'; 255]).unwrap();
        let longest = std::ffi::CString::new([b'x'; 304]).unwrap();
        let dir = open_root(Path::new("/")).unwrap();
        let path = ProcPath::of_child(dir.as_fd(), &name).unwrap();
        assert!(path.as_c_str().to_bytes().ends_with(&[b'x'; 255]));
        assert_eq!(ProcPath::of_child(dir.as_fd(), &longest).err(), Some(Errno::ENAMETOOLONG));
    }
}
