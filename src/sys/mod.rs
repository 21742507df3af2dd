//! System calls, and the only `unsafe` of the crate.
//!
//! Every function here is one call (or one call and its fallback on older kernels) on borrowed descriptors. Its first
//! line asks the [`seam`], so that a test can make each of them fail, or end a "process" between two of them.

pub mod ask;
pub mod caller;
pub mod data;
pub mod dirent;
pub mod flags;
pub mod handle;
pub mod handover;
pub mod lent;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mounts;
pub mod newer;
pub mod others;
pub mod path;
pub mod process;
pub mod random;
pub mod seam;
pub mod splice;
pub mod stat;
pub mod tree;
pub mod uuid;
pub mod verity;
pub mod xattr;

pub use caller::{as_caller, caller_has_cap, effective_caps, may_act_as_others, sigkill_pending, without_fsetid};
pub use data::{
    copy_range, fallocate, fdatasync, fsync, pread, pread_full, pwrite, pwrite_all, reflink, seek_data, seek_hole,
    syncfs, truncate,
};
pub use dirent::{Dirent, read_dir};
pub use flags::{get_flags, get_fsx, set_flags, set_fsx};
pub use handle::{Handle, handle_at, handle_fd};
pub use lock::try_lock;
pub use path::{OFlags, open_beneath, open_root, reopen};
pub use random::{boot_id, random_bytes, temp_name};
pub use stat::{Kind, SetTime, Stat, StatFs, Time, mount_flags_nosuid, stat_at, stat_beneath, stat_fd, statfs_fd};
pub use tree::{
    RenameFlags, chmod_at, chmod_fd, chown_at, chown_fd, create_at, link_at, link_fd, mkdir_at, mknod_at, readlink_at,
    rename_at, rmdir_at, symlink_at, tmpfile_at, unlink_at, utimens_at, utimens_fd,
};
pub use uuid::fs_uuid;
pub use verity::measure;
pub use xattr::{get_at, get_at_raw, get_fd, get_fd_raw, list_at, list_fd, remove_at, remove_fd, set_at, set_fd};

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

/// What a function of libc returned, -1 or a count, as a [`crate::base::Result`].
fn check(result: libc::c_long) -> crate::base::Result<usize> {
    usize::try_from(result).map_err(|_| std::io::Error::last_os_error().into())
}
