//! Inode flags, as chattr(1) shows and sets them.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, IFlags, StatxAttributes, StatxFlags};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use super::newer::{self, Newer};
use super::path::ProcPath;
use super::seam::{self, Call};
use super::stat::stat_fd;
use crate::base::{Errno, Result};

/// `struct fsxattr`: flags, extent size, extent count, project id, and more, 28 bytes.
pub type Fsx = [u8; 28];

const FS_IOC_FSGETXATTR: Opcode = opcode::read::<Fsx>(b'X', 31);
const FS_IOC_FSSETXATTR: Opcode = opcode::write::<Fsx>(b'X', 32);

/// The `FS_*_FL` flags of an open file or directory
/// ([ioctl_iflags(2)](https://man7.org/linux/man-pages/man2/ioctl_iflags.2.html)).
///
/// # Errors
/// `ENOTTY` or `EOPNOTSUPP` where there are none; `EBADF` for an `O_PATH` descriptor.
pub fn get_flags(fd: BorrowedFd<'_>) -> Result<u32> {
    seam::enter(Call::GetFlags)?;
    Ok(rustix::fs::ioctl_getflags(fd)?.bits())
}

/// Sets all of the `FS_*_FL` flags
/// ([ioctl_iflags(2)](https://man7.org/linux/man-pages/man2/ioctl_iflags.2.html)).
///
/// # Errors
/// `EPERM` for append-only and immutable without `CAP_LINUX_IMMUTABLE`; those of [`get_flags`].
pub fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    seam::enter(Call::SetFlags)?;
    Ok(rustix::fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags))?)
}

/// Whether an object is immutable or append-only, as far as its file system says
/// ([statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html), `stx_attributes`).
///
/// # Errors
/// Those of `statx(2)`.
pub fn is_fixed(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
    seam::enter(Call::GetFlags)?;
    let stat = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(stat.stx_attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND))
}

/// `FS_CASEFOLD_FL` ([ioctl_iflags(2)](https://man7.org/linux/man-pages/man2/ioctl_iflags.2.html)): the directory finds
/// names in other spellings.
pub const CASEFOLD: u32 = 0x4000_0000;

/// Whether an open directory has the flag [`CASEFOLD`]. A file system without flags has no such directories.
pub fn is_casefolded(dir: BorrowedFd<'_>) -> bool {
    seam::guise().is_some_and(|guise| guise.casefolded == stat_fd(dir).map_or(0, |stat| stat.ino))
        || get_flags(dir).is_ok_and(|flags| flags & CASEFOLD != 0)
}

/// Whether this kernel has directories with the flag [`CASEFOLD`] at all (`CONFIG_UNICODE`), as far as it tells
/// ([sysfs-fs-ext4](https://docs.kernel.org/admin-guide/ext4.html), `/sys/fs/ext4/features`).
pub fn kernel_folds() -> bool {
    if seam::guise().is_some() || seam::enter(Call::GetFlags).is_err() {
        return true;
    }
    let features = ["ext4", "f2fs", "tmpfs"].map(|name| PathBuf::from(format!("/sys/fs/{name}/features")));
    let mut told = features.iter().filter(|path| path.is_dir()).peekable();
    told.peek().is_none() || told.any(|path| path.join("casefold").exists())
}

/// Whether an empty directory of the process's own takes the flag [`CASEFOLD`]: then others of its file system may have it.
pub fn takes_casefold(dir: BorrowedFd<'_>) -> bool {
    seam::guise().is_some() || get_flags(dir).and_then(|flags| set_flags(dir, flags | CASEFOLD)).is_ok()
}

/// The `struct fsxattr` of an open file or directory
/// ([ioctl_fsgetxattr(2)](https://man7.org/linux/man-pages/man2/ioctl_xfs_fsgetxattr.2.html)).
///
/// # Errors
/// As [`get_flags`].
pub fn get_fsx(fd: BorrowedFd<'_>) -> Result<Fsx> {
    seam::enter(Call::GetFsx)?;
    // SAFETY: the number carries the size of what the kernel writes: 28 bytes, for which any value is valid.
    Ok(unsafe { ioctl(fd, Getter::<FS_IOC_FSGETXATTR, Fsx>::new()) }?)
}

/// Sets the `struct fsxattr`
/// ([ioctl_fssetxattr(2)](https://man7.org/linux/man-pages/man2/ioctl_xfs_fsgetxattr.2.html)).
///
/// # Errors
/// As [`set_flags`].
pub fn set_fsx(fd: BorrowedFd<'_>, value: &Fsx) -> Result<()> {
    seam::enter(Call::SetFsx)?;
    // SAFETY: the number carries the size of what the kernel reads: 28 bytes.
    Ok(unsafe { ioctl(fd, Setter::<FS_IOC_FSSETXATTR, Fsx>::new(*value)) }?)
}

/// The `FS_XFLAG_*` flags of `name` in `dir` (or of `dir` itself, `.`), which is not opened for that (`file_getattr(2)`).
///
/// # Errors
/// `ENOSYS` before Linux 6.17; `EOPNOTSUPP` where there are no such flags; `ENOENT`, `ENOTDIR`.
pub fn xflags_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<u32> {
    seam::enter(Call::GetFsx)?;
    if !newer::has(Newer::FileGetattr, || file_getattr(-1, c".", 0).err().is_none_or(super::has_call)) {
        return Err(Errno::ENOSYS);
    }
    match file_getattr(dir.as_raw_fd(), name, libc::AT_SYMLINK_NOFOLLOW) {
        // The call takes no `O_PATH` descriptor with an empty name.
        asked if super::is_closed_itself(name, &asked) => file_getattr(libc::AT_FDCWD, ProcPath::of(dir).as_c_str(), 0),
        asked => asked,
    }
}

fn file_getattr(dir: libc::c_int, name: &CStr, how: libc::c_int) -> Result<u32> {
    // The same on all architectures but alpha and mips, where this number is unused.
    const FILE_GETATTR: libc::c_long = 468;
    // `struct file_attr`, which begins with 64 bits of flags; those beyond 32 have no meaning yet.
    let mut attr = [0_u64; 3];
    // SAFETY: `name` is NUL-terminated; the kernel writes at most the 24 bytes of `attr`, for which any value is valid.
    let result = unsafe { libc::syscall(FILE_GETATTR, dir, name.as_ptr(), attr.as_mut_ptr(), size_of_val(&attr), how) };
    super::check(result).map(|_| attr[0] as u32)
}

/// `fsx_xflags`, the first field of a `struct fsxattr`.
pub fn xflags(fsx: &Fsx) -> u32 {
    fsx.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Sets the field.
pub fn set_xflags(fsx: &mut Fsx, flags: u32) {
    if let Some(bytes) = fsx.first_chunk_mut() {
        *bytes = flags.to_ne_bytes();
    }
}

/// `fsx_projid`, its project.
pub fn project(fsx: &Fsx) -> u32 {
    fsx.get(PROJECT).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Sets the field.
pub fn set_project(fsx: &mut Fsx, project: u32) {
    if let Some(bytes) = fsx.get_mut(PROJECT) {
        bytes.copy_from_slice(&project.to_ne_bytes());
    }
}

/// Where `fsx_projid` is.
const PROJECT: std::ops::Range<usize> = 12..16;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    const NODUMP: u32 = 0x40;

    #[test]
    fn flags_are_set_and_read() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_fd();
        let flags = match get_flags(fd) {
            Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => return eprintln!("skipped: no flags on this file system"),
            found => found.unwrap(),
        };
        set_flags(fd, flags | NODUMP).unwrap();
        assert_eq!(get_flags(fd), Ok(flags | NODUMP));
        let here = tempfile::tempdir().unwrap();
        let dir = std::fs::File::open(here.path()).unwrap();
        match xflags_at(dir.as_fd(), c".") {
            Err(Errno::ENOSYS | Errno::EOPNOTSUPP) => eprintln!("skipped: file_getattr"),
            found => assert_eq!(found.unwrap(), xflags(&get_fsx(dir.as_fd()).unwrap())),
        }
        if let Ok(fsx) = get_fsx(fd) {
            // FS_XFLAG_NODUMP
            assert_eq!(u32::from_ne_bytes([fsx[0], fsx[1], fsx[2], fsx[3]]) & 0x80, 0x80);
            set_fsx(fd, &fsx).unwrap();
            assert_eq!(get_fsx(fd), Ok(fsx));
        }
    }

    #[test]
    fn a_file_system_without_flags_says_so() {
        let proc = std::fs::File::open("/proc/version").unwrap();
        assert!(matches!(get_flags(proc.as_fd()), Err(Errno::ENOTTY | Errno::EOPNOTSUPP)));
        assert!(matches!(get_fsx(proc.as_fd()), Err(Errno::ENOTTY | Errno::EOPNOTSUPP)));
    }
}
