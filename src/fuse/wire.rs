//! Messages of linux/fuse.h that fuser neither reads nor writes: what stands in front of an answer, errors, and what the
//! daemon says without being asked.

use std::ops::Range;
use std::os::fd::BorrowedFd;

use crate::base::{Errno, Result};
use crate::sys::handover;
use crate::sys::newer::{self, Newer};
use crate::union::InodeId;

/// Bytes of the largest request: a WRITE of 1 MiB. The kernel wants room for 8 KiB at least.
pub const MESSAGE: usize = (1 << 20) + 8192;
/// Set in the number of a request that another daemon has read before (`FUSE_UNIQUE_RESEND`).
pub const RESENT: u64 = 1 << 63;
/// Where `struct fuse_in_header` has the kind of a request, and its number.
const OPCODE: Range<usize> = 4..8;
const UNIQUE: Range<usize> = 8..16;
/// `FUSE_FORGET`, `FUSE_INTERRUPT` and `FUSE_BATCH_FORGET`.
const UNANSWERED: [u32; 3] = [2, 36, 42];
/// `enum fuse_notify_code`
const NOTIFY_STORE: i32 = 4;
const NOTIFY_RESEND: i32 = 7;

/// `struct fuse_out_header`, in front of so many bytes. `error` is negative; of what nobody asked for it is the code.
pub fn out_header(bytes: usize, error: i32, unique: u64) -> [u8; 16] {
    let length = u32::try_from(bytes + 16).unwrap_or_default();
    let mut header = [0; 16];
    let parts = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes()].concat();
    header.copy_from_slice(&parts);
    header
}

/// What stands in front of `bytes` that go into the kernel's cache: also `struct fuse_notify_store_out`, which is the
/// inode, the offset, the length and padding.
pub fn store_header(id: InodeId, offset: u64, bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes).unwrap_or_default();
    let out = out_header(24 + bytes, NOTIFY_STORE, 0);
    [&out[..], &id.0.to_ne_bytes(), &offset.to_ne_bytes(), &length.to_ne_bytes(), &[0; 4]].concat()
}

/// The number of a request that wants an answer.
pub fn request(message: &[u8]) -> Option<u64> {
    let opcode = message.get(OPCODE)?.try_into().ok().map(u32::from_ne_bytes)?;
    let unique = message.get(UNIQUE)?.try_into().ok().map(u64::from_ne_bytes)?;
    (!UNANSWERED.contains(&opcode)).then_some(unique)
}

/// Answers a request by an error. Fails as write(2) on the connection does.
pub fn answer_error(connection: BorrowedFd<'_>, unique: u64, error: Errno) -> Result<()> {
    match handover::write(connection, &out_header(0, -error.raw(), unique)) {
        // Whoever waited for it is gone.
        Err(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

/// Asks for all that was read and not answered once more. `EINVAL` before Linux 6.9; else as write(2) on the connection.
pub fn resend(connection: BorrowedFd<'_>) -> Result<()> {
    if newer::is_absent(Newer::Resend) {
        return Err(Errno::EINVAL);
    }
    handover::write(connection, &out_header(0, NOTIFY_RESEND, 0))
}
