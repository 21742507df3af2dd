//! The bytes of files: read, write, copy, holes, and getting them onto the disk.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno as Raw;

use super::newer::{self, Newer};
use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// Whether some bytes of each 64 KiB of a part are in the page cache
/// ([preadv2(2)](https://man7.org/linux/man-pages/man2/preadv2.2.html), `RWF_NOWAIT`), up to the end of the file.
pub fn is_in_cache(fd: BorrowedFd<'_>, offset: u64, len: u64) -> bool {
    if newer::is_absent(Newer::NoWait) {
        return false;
    }
    let mut byte = [0; 1];
    (offset..offset.saturating_add(len)).step_by(64 << 10).all(|at| {
        let mut room = [std::io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(fd, &mut room, at, rustix::io::ReadWriteFlags::NOWAIT).is_ok()
    })
}

/// Reads at an offset; 0 is the end of the file
/// ([pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html)). Fewer bytes than asked for are no error.
///
/// # Errors
/// Those of pread(2), `EINTR` excepted.
#[inline]
pub fn pread(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    again_if_interrupted(|| {
        let len = seam::enter_moving(Call::Pread, buffer.len())?;
        Ok(rustix::io::pread(fd, buffer.get_mut(..len).unwrap_or_default(), offset)?)
    })
}

/// Repeats a call that a signal interrupted before it moved any bytes.
fn again_if_interrupted(mut act: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match act() {
            Err(Errno::EINTR) => {}
            done => return done,
        }
    }
}

/// Reads at an offset until the buffer is full or the file ends; returns the number of bytes.
///
/// # Errors
/// Those of [`pread`]; what was read before is lost.
pub fn pread_full(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match pread(fd, rest, offset.saturating_add(done as u64))? {
            0 => break,
            count => done += count,
        }
    }
    Ok(done)
}

/// Reads a file from its start until the buffer is full, if all of that is in the page cache; false where it is not
/// ([preadv2(2)](https://man7.org/linux/man-pages/man2/preadv2.2.html), `RWF_NOWAIT`), or cannot be told.
pub fn read_from_cache(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> bool {
    let wanted = buffer.len();
    let Ok(len) = seam::enter_moving(Call::Pread, wanted) else { return false };
    if newer::is_absent(Newer::NoWait) {
        return false;
    }
    let mut room = [std::io::IoSliceMut::new(buffer.get_mut(..len).unwrap_or_default())];
    rustix::io::preadv2(fd, &mut room, 0, rustix::io::ReadWriteFlags::NOWAIT) == Ok(wanted)
}

/// Writes at an offset; returns how many bytes, maybe fewer than given
/// ([pwrite(2)](https://man7.org/linux/man-pages/man2/pwrite.2.html)).
///
/// # Errors
/// `ENOSPC`, `EDQUOT`, `EFBIG` and those of pwrite(2), `EINTR` excepted.
#[inline]
pub fn pwrite(fd: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<usize> {
    again_if_interrupted(|| {
        let len = seam::enter_moving(Call::Pwrite, bytes.len())?;
        Ok(rustix::io::pwrite(fd, bytes.get(..len).unwrap_or_default(), offset)?)
    })
}

/// Writes all of `bytes` at an offset.
///
/// # Errors
/// Those of [`pwrite`]; a part may have been written.
pub fn pwrite_all(fd: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match pwrite(fd, rest, offset.saturating_add(done as u64))? {
            0 => return Err(Errno::EIO),
            count => done += count,
        }
    }
    Ok(())
}

/// Makes `dst` share the data of `src`, all of it
/// ([ioctl_ficlone(2)](https://man7.org/linux/man-pages/man2/ioctl_ficlone.2.html)).
///
/// # Errors
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL` or `ENOTTY` where that is not possible, and those of the ioctl.
pub fn reflink(src: BorrowedFd<'_>, dst: BorrowedFd<'_>) -> Result<()> {
    seam::enter(Call::Reflink)?;
    if newer::is_absent(Newer::Clone) {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(rustix::fs::ioctl_ficlone(dst, src)?)
}

/// Copies within the kernel; returns how many bytes, maybe fewer than asked for, 0 at the end of `src`
/// ([copy_file_range(2)](https://man7.org/linux/man-pages/man2/copy_file_range.2.html)).
///
/// Some file systems of old kernels answer 0 for files that have bytes: whoever relies on the end must compare with the
/// size. Holes may become data.
///
/// # Errors
/// `EXDEV`, `EOPNOTSUPP`, `EINVAL` or `ENOSYS` where that is not possible, and those of copy_file_range(2).
pub fn copy_range(
    src: BorrowedFd<'_>,
    src_offset: u64,
    dst: BorrowedFd<'_>,
    dst_offset: u64,
    len: usize,
) -> Result<usize> {
    again_if_interrupted(|| {
        let len = seam::enter_moving(Call::CopyRange, len)?;
        if newer::is_absent(Newer::CopyRange) {
            return Err(Errno::ENOSYS);
        }
        let (mut from, mut to) = (src_offset, dst_offset);
        Ok(rustix::fs::copy_file_range(src, Some(&mut from), dst, Some(&mut to), len)?)
    })
}

/// Where data begins at or after `offset`; `None` if there is none up to the end
/// ([lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), `SEEK_DATA`). Moves the offset of the open file.
///
/// # Errors
/// `EINVAL` where the file system does not know holes, and those of lseek(2).
pub fn seek_data(fd: BorrowedFd<'_>, offset: u64) -> Result<Option<u64>> {
    seam::enter(Call::SeekData)?;
    seek(fd, SeekFrom::Data(offset))
}

/// Where a hole, or the end of the file, is at or after `offset`; `None` if `offset` is not within the file
/// ([lseek(2)](https://man7.org/linux/man-pages/man2/lseek.2.html), `SEEK_HOLE`). Moves the offset of the open file.
///
/// # Errors
/// `EINVAL` where the file system does not know holes, and those of lseek(2).
pub fn seek_hole(fd: BorrowedFd<'_>, offset: u64) -> Result<Option<u64>> {
    seam::enter(Call::SeekHole)?;
    seek(fd, SeekFrom::Hole(offset))
}

fn seek(fd: BorrowedFd<'_>, to: SeekFrom) -> Result<Option<u64>> {
    match rustix::fs::seek(fd, to) {
        Err(Raw::NXIO) => Ok(None),
        result => Ok(Some(result?)),
    }
}

/// Sets the size in bytes ([ftruncate(2)](https://man7.org/linux/man-pages/man2/truncate.2.html)).
///
/// # Errors
/// `EINVAL` if `fd` is not open for writing, `EFBIG`, and those of ftruncate(2).
pub fn truncate(fd: BorrowedFd<'_>, len: u64) -> Result<()> {
    seam::enter(Call::Truncate)?;
    Ok(rustix::fs::ftruncate(fd, len)?)
}

/// Allocates, zeroes, or frees space, as the `FALLOC_FL_*` bits in `mode` say
/// ([fallocate(2)](https://man7.org/linux/man-pages/man2/fallocate.2.html)).
///
/// # Errors
/// `EOPNOTSUPP` for a mode that the file system lacks, `ENOSPC`, and those of fallocate(2).
pub fn fallocate(fd: BorrowedFd<'_>, mode: i32, offset: u64, len: u64) -> Result<()> {
    seam::enter(Call::Fallocate)?;
    Ok(rustix::fs::fallocate(fd, FallocateFlags::from_bits_retain(mode as u32), offset, len)?)
}

/// Waits until data and metadata are on the disk ([fsync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html)).
///
/// # Errors
/// `EIO`: what was written since the last success may be lost, and a second try says nothing about it. `EBADF` for an
/// `O_PATH` descriptor.
pub fn fsync(fd: BorrowedFd<'_>) -> Result<()> {
    seam::enter(Call::Fsync)?;
    Ok(rustix::fs::fsync(fd)?)
}

/// As [`fsync`], without the metadata that reading does not need
/// ([fdatasync(2)](https://man7.org/linux/man-pages/man2/fsync.2.html)).
///
/// # Errors
/// As [`fsync`].
pub fn fdatasync(fd: BorrowedFd<'_>) -> Result<()> {
    seam::enter(Call::Fdatasync)?;
    Ok(rustix::fs::fdatasync(fd)?)
}

/// As [`fsync`], for all of the file system that `fd` is on
/// ([syncfs(2)](https://man7.org/linux/man-pages/man2/syncfs.2.html)).
///
/// # Errors
/// As [`fsync`].
pub fn syncfs(fd: BorrowedFd<'_>) -> Result<()> {
    seam::enter(Call::Syncfs)?;
    Ok(rustix::fs::syncfs(fd)?)
}

/// Begins to write a part of a file to the disk. With `wait` it first waits until the writing begun before has ended
/// ([sync_file_range(2)](https://man7.org/linux/man-pages/man2/sync_file_range.2.html)). It does not write metadata:
/// fsync(2) must follow, and finds little left to do.
///
/// # Errors
/// `EIO`, `ENOSPC` of what was written, and then no later fsync(2) tells of it; `EOPNOTSUPP` where there is no such call.
pub fn write_out(fd: BorrowedFd<'_>, offset: u64, len: u64, wait: bool) -> Result<()> {
    seam::enter(Call::SyncRange)?;
    let waits = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if wait { waits } else { 0 };
    let (offset, len) = (i64::try_from(offset).unwrap_or(i64::MAX), i64::try_from(len).unwrap_or(0));
    loop {
        // SAFETY: the descriptor is open as long as it is borrowed; the rest are numbers.
        if unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) } == 0 {
            return Ok(());
        }
        match Errno::from(std::io::Error::last_os_error()) {
            Errno::EINTR => {}
            Errno::ENOSYS | Errno::EINVAL | Errno::EPERM => return Err(Errno::EOPNOTSUPP),
            errno => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn reads_end_with_the_file_and_writes_are_whole() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_fd();
        pwrite_all(fd, b"0123456789", 5).unwrap();
        assert_eq!(pwrite(fd, b"", 0), Ok(0));
        let mut buffer = [0xff; 12];
        assert_eq!(pread_full(fd, &mut buffer, 6), Ok(9));
        assert_eq!(&buffer[..9], b"123456789");
        assert_eq!(pread(fd, &mut buffer, 15), Ok(0));
        assert_eq!(pread(fd, &mut buffer, u64::MAX), Err(Errno::EINVAL));
        truncate(fd, 6).unwrap();
        assert_eq!(pread_full(fd, &mut buffer, 0), Ok(6));
        assert_eq!(&buffer[..6], b"\0\0\0\0\x000");
        let read_only = std::fs::File::open("/dev/full").unwrap();
        assert_eq!(pwrite_all(read_only.as_fd(), b"x", 0), Err(Errno::EBADF));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(pwrite_all(full.as_fd(), b"x", 0), Err(Errno::ENOSPC));
    }

    #[test]
    fn data_and_holes_are_found() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_fd();
        assert_eq!(seek_data(fd, 0), Ok(None));
        let (start, len) = (1 << 20, 64 << 10);
        pwrite_all(fd, &vec![1; len as usize], start).unwrap();
        truncate(fd, 2 << 20).unwrap();
        assert!(seek_data(fd, 0).unwrap().is_some_and(|at| at <= start));
        assert!(seek_hole(fd, start).unwrap().is_some_and(|at| at >= start + len));
        assert_eq!(seek_hole(fd, 2 << 20), Ok(None));
    }

    #[test]
    fn bytes_are_copied_within_the_kernel() {
        let (src, dst) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        pwrite_all(src.as_fd(), b"0123456789", 0).unwrap();
        assert_eq!(copy_range(src.as_fd(), 2, dst.as_fd(), 1, 100), Ok(8));
        assert_eq!(copy_range(src.as_fd(), 10, dst.as_fd(), 9, 100), Ok(0));
        let mut buffer = [0xff; 9];
        assert_eq!(pread_full(dst.as_fd(), &mut buffer, 0), Ok(9));
        assert_eq!(&buffer, b"\x0023456789");
        if reflink(src.as_fd(), dst.as_fd()).is_ok() {
            assert_eq!(pread_full(dst.as_fd(), &mut [0; 20], 0), Ok(10));
        }
    }

    #[test]
    fn space_is_allocated_and_everything_is_synced() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_fd();
        match fallocate(fd, 0, 0, 4096) {
            Ok(()) => assert_eq!(file.metadata().unwrap().len(), 4096),
            Err(errno) => assert_eq!(errno, Errno::EOPNOTSUPP),
        }
        assert_eq!(fallocate(fd, 0, 0, 0), Err(Errno::EINVAL));
        assert_eq!((fsync(fd), fdatasync(fd)), (Ok(()), Ok(())));
        for wait in [false, true] {
            assert!(matches!(write_out(fd, 0, 4096, wait), Ok(()) | Err(Errno::EOPNOTSUPP)));
        }
    }
}
