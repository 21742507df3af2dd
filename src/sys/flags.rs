//! Inode flags, as chattr(1) shows and sets them.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::fs::IFlags;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use super::seam::{self, Call};
use crate::base::Result;

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

/// `fsx_xflags`, the first field of a `struct fsxattr`.
pub fn xflags(fsx: &Fsx) -> u32 {
    fsx.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Sets that field.
pub fn set_xflags(fsx: &mut Fsx, flags: u32) {
    if let Some(bytes) = fsx.first_chunk_mut() {
        *bytes = flags.to_ne_bytes();
    }
}

/// `fsx_projid`, its project.
pub fn project(fsx: &Fsx) -> u32 {
    fsx.get(PROJECT).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Sets that field.
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
    use crate::base::Errno;

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
