//! A file's data, copied: shared blocks where the file system can, holes kept exactly.

use std::os::fd::BorrowedFd;

use crate::base::{Errno, Result};
use crate::sys::data;

/// Asked between steps of a long copy: true ends it with `EINTR`.
pub type Interrupt<'a> = &'a dyn Fn() -> bool;

/// Bytes between two looks at the interrupt.
const STEP: u64 = 16 << 20;
/// Bytes a step of the loop copies where the kernel cannot.
const BUFFER: usize = 256 << 10;

thread_local! {
    /// What the loop reads into: fresh memory for each step would cost as much as the copying.
    static ROOM: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Copies the first `len` bytes of `from` to the empty file `to`, which then is `len` bytes long. True where the two share
/// their blocks, and nothing was written.
///
/// # Errors
/// `EINTR`; what reading and writing say (`ENOSPC`, `EDQUOT`, `EIO` …).
pub fn copy_data(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: u64,
    whole: bool,
    interrupt: Interrupt,
) -> Result<bool> {
    if len == 0 {
        return data::truncate(to, 0).map(|()| false);
    }
    if whole && data::reflink(from, to).is_ok() {
        return Ok(true);
    }
    let mut in_kernel = true;
    let mut at = 0;
    let mut since = 0;
    while at < len {
        let (start, end) = match segment(from, at, len)? {
            Some(segment) => segment,
            None => break,
        };
        let mut offset = start;
        while offset < end {
            // A small file is copied sooner than the question is answered.
            if since >= STEP {
                since = 0;
                if interrupt() {
                    return Err(Errno::EINTR);
                }
            }
            let step = (end - offset).min(STEP);
            let copied = copy_step(from, to, offset, step, &mut in_kernel)?;
            if copied == 0 {
                // Shorter than it said: what is missing reads as zeros, as a truncated file does.
                break;
            }
            offset += copied;
            since += copied;
        }
        at = end;
    }
    data::truncate(to, len).map(|()| false)
}

/// The next run of data at or after `at`; `None` where only a hole is left.
pub(super) fn segment(from: BorrowedFd<'_>, at: u64, len: u64) -> Result<Option<(u64, u64)>> {
    let start = match data::seek_data(from, at) {
        Ok(Some(start)) if start < len => start,
        Ok(_) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((at, len))),
        Err(errno) => return Err(errno),
    };
    let end = data::seek_hole(from, start)?.unwrap_or(len).min(len);
    Ok(Some((start, end.max(start + 1).min(len))))
}

pub(super) fn copy_step(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    at: u64,
    len: u64,
    in_kernel: &mut bool,
) -> Result<u64> {
    let len = usize::try_from(len).unwrap_or(BUFFER);
    if *in_kernel {
        match data::copy_range(from, at, to, at, len) {
            Ok(0) => {}
            Ok(copied) => return Ok(copied as u64),
            Err(Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM | Errno::EBADF) => {}
            Err(errno) => return Err(errno),
        }
        // 0 is the end of the file, or a file system that pretends (FUSE, procfs): reading tells.
        *in_kernel = false;
    }
    ROOM.with_borrow_mut(|room| {
        room.resize(BUFFER, 0);
        let read = data::pread_full(from, room.get_mut(..len.min(BUFFER)).unwrap_or_default(), at)?;
        data::pwrite_all(to, room.get(..read).unwrap_or_default(), at)?;
        Ok(read as u64)
    })
}
