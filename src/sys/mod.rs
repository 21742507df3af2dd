//! System calls, and the only `unsafe` of the crate.
//!
//! Every function here is one call (or one call and its fallback on older kernels) on borrowed descriptors. Its first
//! line asks the [`seam`], so that a test can make each of them fail, or end a "process" between two of them.

pub mod ask;
pub mod caller;
pub mod data;
pub mod dirent;
pub mod ending;
pub mod extents;
pub mod flags;
pub mod follow;
pub mod handle;
pub mod handover;
pub mod inherited;
pub mod lent;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mounts;
pub mod namespace;
pub mod newer;
pub mod others;
pub mod path;
pub mod process;
pub mod processors;
pub mod random;
pub mod seam;
pub mod splice;
pub mod stat;
pub mod tree;
pub mod uuid;
pub mod verity;
pub mod xattr;

// What the unit tests of several files use.
#[cfg(test)]
pub use data::pwrite_all;
#[cfg(test)]
pub use handle::handle_fd;
#[cfg(test)]
pub use path::{OFlags, open_beneath, open_root, reopen};
#[cfg(test)]
pub use stat::{Time, stat_at, stat_fd};
#[cfg(test)]
pub use tree::{create_at, mknod_at};

use crate::base::Errno;

/// Whether the answer to a call that cannot succeed shows that the kernel has the call.
///
/// `ENOSYS` is what an older kernel says, `EPERM` what some seccomp filters say about calls that they do not know.
fn has_call(answer: Errno) -> bool {
    !matches!(answer, Errno::ENOSYS | Errno::EPERM)
}

/// Whether `answer` to a call on `name` is only that `.` cannot be looked up in a directory that is there already: that
/// takes the right to search it, which the owner of a closed directory does not have.
fn is_closed_itself<T>(name: &std::ffi::CStr, answer: &crate::base::Result<T>) -> bool {
    matches!(answer, Err(Errno::EACCES)) && name.to_bytes() == b"."
}

/// Makes a [`crate::base::Result`] of what a function of libc returned: -1, or a count.
fn check(result: libc::c_long) -> crate::base::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().into())
}
