//! fs-verity: files that nobody can change, and of whose content the kernel keeps a digest.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::newer::{self, Newer};
use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// The longest digest in bytes (`FS_VERITY_MAX_DIGEST_SIZE`).
const MAX: usize = 64;

/// The head of `struct fsverity_digest`, which has its length in the number of the call.
#[repr(C)]
struct Head {
    algorithm: u16,
    size: u16,
}

/// `struct fsverity_digest` with room for any digest.
#[repr(C)]
struct Measured {
    head: Head,
    digest: [u8; MAX],
}

const FS_IOC_MEASURE_VERITY: Opcode = opcode::read_write::<Head>(b'f', 134);

/// The algorithm (`FS_VERITY_HASH_ALG_*`) and the digest of an open file, in no time; `None` for one without fs-verity
/// ([fsverity](https://docs.kernel.org/filesystems/fsverity.html#fs-ioc-measure-verity)).
///
/// # Errors
/// `EBADF` for an `O_PATH` descriptor, `EOVERFLOW` for a digest longer than 64 bytes, `EIO`.
pub fn measure(fd: BorrowedFd<'_>) -> Result<Option<(u16, Vec<u8>)>> {
    seam::enter(Call::Verity)?;
    if newer::is_absent(Newer::Verity) {
        return Ok(None);
    }
    let mut found = Measured { head: Head { algorithm: 0, size: MAX as u16 }, digest: [0; MAX] };
    // SAFETY: the kernel reads and writes the head, whose size the number carries, and writes at most as many bytes
    // behind it as `size` says; any value is valid.
    let answer = unsafe { ioctl(fd, Updater::<FS_IOC_MEASURE_VERITY, Measured>::new(&mut found)) };
    match answer.map_err(Errno::from) {
        Ok(()) => {
            let digest = found.digest.get(..found.head.size.into()).ok_or(Errno::EOVERFLOW)?;
            Ok(Some((found.head.algorithm, digest.to_vec())))
        }
        Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::ENOTTY) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::{OFlags, open_root};

    #[test]
    fn the_number_is_the_kernels() {
        assert_eq!(FS_IOC_MEASURE_VERITY, 0xc004_6686);
        assert_eq!(size_of::<Measured>(), 68);
    }

    #[test]
    fn a_file_without_fs_verity_has_no_digest() {
        assert_eq!(measure(tempfile::tempfile().unwrap().as_fd()), Ok(None));
        assert_eq!(measure(std::fs::File::open("/proc/version").unwrap().as_fd()), Ok(None));
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("f"), b"x").unwrap();
        let dir = open_root(here.path()).unwrap();
        let path_only = crate::sys::open_beneath(dir.as_fd(), c"f", OFlags::PATH).unwrap();
        assert_eq!(measure(path_only.as_fd()), Err(Errno::EBADF));
    }
}
