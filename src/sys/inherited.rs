//! Descriptors that this process was started with.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use super::newer::{self, Newer};
use crate::base::{Errno, Result};

/// The device of `/dev/fuse` (`MISC_MAJOR` and `FUSE_MINOR` of the kernel).
const FUSE: (u32, u32) = (10, 229);

/// The number N of a path `/dev/fd/N`, by which the parent hands over a descriptor
/// ([mount.fuse3(8)](https://man7.org/linux/man-pages/man8/mount.fuse3.8.html)).
pub fn number_in(path: &Path) -> Option<RawFd> {
    let digits = path.to_str()?.strip_prefix("/dev/fd/")?;
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The connection to the kernel that the parent of this process has opened, mounted and left open under this number.
///
/// # Errors
/// `EBADF` where nothing is open there, `EINVAL` where it is no `/dev/fuse`.
pub fn connection(number: RawFd) -> Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::from_raw(libc::EBADF));
    }
    // SAFETY: it is borrowed for one call only, which says EBADF where it is not open; a descriptor of this process of
    // its own takes its place.
    let fd = rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(number) }, 3)?;
    let stat = rustix::fs::fstat(&fd)?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    if is_device && device == FUSE { Ok(fd) } else { Err(Errno::EINVAL) }
}

/// Closes every descriptor from 3 on but those of `keep`: what a caller left open (a pipe that it waits on, a file that it
/// locked) must not stay open as long as a daemon lives.
///
/// To be called by a new process that holds no other descriptor of its own, before it opens any.
///
/// # Errors
/// Those of reading `/proc/self/fd`, needed where the kernel has no
/// [close_range(2)](https://man7.org/linux/man-pages/man2/close_range.2.html) (before Linux 5.9).
pub fn close_inherited(keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    keep.sort_unstable();
    let mut first = 3;
    let ends = keep.iter().map(|&fd| (fd.saturating_sub(1), fd.saturating_add(1)));
    for (last, next) in ends.chain([(u32::MAX, u32::MAX)]) {
        if first <= last {
            let closed = !newer::is_absent(Newer::CloseRange) && {
                // SAFETY: no descriptor in the range belongs to an object of this process (the function's contract).
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
            };
            if !closed {
                let listed = close_listed(&keep);
                // Only now: the log has a descriptor of its own.
                newer::lacks(Newer::CloseRange);
                return listed;
            }
        }
        first = next.max(first);
    }
    Ok(())
}

/// [`close_inherited`] by the list in `/proc/self/fd`.
fn close_listed(keep: &[u32]) -> Result<()> {
    // Collected first: the listing has a descriptor of its own, closed (harmlessly, again) below.
    let open: Vec<u32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        // SAFETY: as in `close_inherited`; an error means that it is closed already.
        unsafe { libc::syscall(libc::SYS_close, fd) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_all_that_stands_behind_the_directory() {
        for (path, number) in [
            ("/dev/fd/3", Some(3)),
            ("/dev/fd/27", Some(27)),
            ("/dev/fd/", None),
            ("/dev/fd/3x", None),
            ("/dev/fd/+3", None),
            ("/dev/fd/3/x", None),
            ("/dev/fd/99999999999", None),
            ("dev/fd/3", None),
        ] {
            assert_eq!(number_in(Path::new(path)), number, "{path}");
        }
    }

    #[test]
    fn only_an_open_connection_is_taken() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(connection(file.as_raw_fd()).err(), Some(Errno::EINVAL));
        assert_eq!(connection(1 << 20).err().map(Errno::raw), Some(libc::EBADF));
        match super::super::mount::open_device() {
            Ok(device) => assert!(connection(device.as_raw_fd()).is_ok()),
            Err(errno) => eprintln!("SKIPPED: /dev/fuse: {errno}"),
        }
    }
}
