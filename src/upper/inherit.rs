//! What a directory hands on to all that is made in it. What is staged in workdir is moved to where it is seen, and must
//! have nothing of that kind but what its place there would have given it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::base::{Errno, Result};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::temp_name;
use crate::sys::stat::{stat_at, stat_fd};
use crate::sys::{flags, tree, xattr};

const ACLS: [&CStr; 2] = [c"system.posix_acl_default", c"system.posix_acl_access"];

/// What `chattr` gives to a directory and all that is made in it from then on, and says how an object behaves:
/// `FS_SYNC_FL`, `FS_NODUMP_FL`, `FS_NOATIME_FL`, `FS_DIRSYNC_FL`, `FS_CASEFOLD_FL`. What says how it is stored
/// (compression, copy-on-write, DAX, project, key) stays: the upper layer has mostly got the same from the same parent, and
/// data can be shared, and names moved, only between those that are alike in it.
const BEHAVIOUR: u32 = 0x8 | 0x40 | 0x80 | 0x1_0000 | 0x4000_0000;
/// XFS: no symlink can be made in it (`FS_XFLAG_NOSYMLINKS`).
const NO_SYMLINKS: u32 = 0x400;
/// What is made in it has its project (`FS_XFLAG_PROJINHERIT`).
const GIVES_PROJECT: u32 = 0x200;

/// Makes an open directory, which is in `parent`, one that only this process's user can enter, and that gives what is made
/// in it no rights of its own.
///
/// # Errors
/// `EPERM` for a directory of another user without privilege; what the system calls say.
pub(super) fn make_private(dir: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let stat = stat_fd(dir)?;
    if (stat.uid, stat.gid) != (uid, gid) {
        // Made by another user's mount, who could enter it; or of a group that some mounts (`grpid`) hand on.
        match tree::chown_fd(dir, Some(uid), Some(gid)) {
            // Where the file system says whose all is that is made there (NFS without root, sshfs), it is that one's.
            Err(Errno::EPERM) if owners_of_new(parent)? == (stat.uid, stat.gid) => {}
            owned => owned?,
        }
    }
    for acl in ACLS {
        match xattr::remove_fd(dir, acl) {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Set-group-id came with the parent's.
    if stat_fd(dir)?.mode & 0o7777 == 0o700 { Ok(()) } else { tree::chmod_fd(dir, 0o700) }
}

/// User and group of a directory that this process makes in `parent`.
fn owners_of_new(parent: BorrowedFd<'_>) -> Result<(u32, u32)> {
    let name = temp_name("#")?;
    tree::mkdir_at(parent, &name, 0o700)?;
    let made = stat_at(parent, &name);
    tree::rmdir_at(parent, &name)?;
    made.map(|stat| (stat.uid, stat.gid))
}

/// Lets an empty directory of workdir hand on no behaviour. It gets the project of `root`, the upper layer's: a file
/// system moves nothing into a directory that hands on another one.
///
/// # Errors
/// What the system calls say.
pub(super) fn disinherit(dir: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<()> {
    match flags::get_flags(dir) {
        // Some file systems have no such flags, and say so in several ways.
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => return Ok(()),
        Err(errno) => return Err(errno),
        Ok(set) if set & BEHAVIOUR != 0 => flags::set_flags(dir, set & !BEHAVIOUR)?,
        Ok(_) => {}
    }
    take_project(dir, root)
}

fn take_project(dir: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let open = open_beneath(root, c".", OFlags::RDONLY | OFlags::DIRECTORY);
    let (Ok(mut fsx), Ok(root)) = (flags::get_fsx(dir), open) else { return Ok(()) };
    let Ok(wanted) = flags::get_fsx(root.as_fd()) else { return Ok(()) };
    let before = fsx;
    let given = flags::xflags(&wanted) & GIVES_PROJECT;
    flags::set_xflags(&mut fsx, flags::xflags(&before) & !(NO_SYMLINKS | GIVES_PROJECT) | given);
    flags::set_project(&mut fsx, flags::project(&wanted));
    if fsx == before {
        return Ok(());
    }
    match flags::set_fsx(dir, &fsx) {
        // Not from within a user namespace: what hands on a project then takes nothing from here (`EXDEV`), as in the kernel.
        Err(Errno::EINVAL | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOTTY) => {
            log::info!("workdir keeps another project than the upper layer has");
            Ok(())
        }
        set => set,
    }
}
