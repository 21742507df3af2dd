//! What a directory hands on to the objects that are made in it. An object that is staged in workdir and then moved to
//! its place must have inherited only what that place would have given it.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::base::{DiskGid, DiskUid, Errno, Result};
use crate::sys::caller::own_ids;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::temp_name;
use crate::sys::stat::{stat_at, stat_fd};
use crate::sys::{flags, tree, xattr};

const ACLS: [&CStr; 2] = [c"system.posix_acl_default", c"system.posix_acl_access"];

/// The inherited flags of chattr(1) that say how an object behaves: `FS_SYNC_FL`, `FS_NODUMP_FL`, `FS_NOATIME_FL`,
/// `FS_DIRSYNC_FL`, `FS_CASEFOLD_FL`. The flags that say how an object is stored (compression, copy-on-write, DAX,
/// project, key) stay: the upper layer mostly has the same ones from the same parent, and data can be shared and names
/// moved only between directories with the same ones.
const BEHAVIOUR: u32 = 0x8 | 0x40 | 0x80 | 0x1_0000 | 0x4000_0000;
/// `FS_XFLAG_NOSYMLINKS` (XFS): no symlink can be made in the directory.
const NO_SYMLINKS: u32 = 0x400;
/// `FS_XFLAG_PROJINHERIT`: objects that are made in the directory get its project.
const GIVES_PROJECT: u32 = 0x200;

/// Makes the open directory `dir`, which is in `parent`, one that only this process's user can enter, and that hands on
/// no group and no ACL.
///
/// # Errors
/// `EPERM` for a directory of another user without privilege; what the system calls say.
pub fn make_private(dir: BorrowedFd<'_>, parent: BorrowedFd<'_>) -> Result<()> {
    let (uid, gid) = own_ids();
    let stat = stat_fd(dir)?;
    if (stat.uid, stat.gid) != (uid, gid) {
        // The directory may belong to another user, who could enter it, or to a group that some mounts (`grpid`) hand
        // on.
        match tree::chown_fd(dir, Some(uid), Some(gid)) {
            // Some file systems give each new object to one fixed user (NFS without root, sshfs); a directory of that
            // user is ours.
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
    // Set-group-id may have come from the parent.
    if stat_fd(dir)?.mode & 0o7777 == 0o700 { Ok(()) } else { tree::chmod_fd(dir, 0o700) }
}

/// User and group of a directory that this process makes in `parent`.
fn owners_of_new(parent: BorrowedFd<'_>) -> Result<(DiskUid, DiskGid)> {
    let name = temp_name("#")?;
    tree::mkdir_at(parent, &name, 0o700)?;
    let made = stat_at(parent, &name);
    tree::rmdir_at(parent, &name)?;
    made.map(|stat| (stat.uid, stat.gid))
}

/// Keeps an empty directory of workdir from handing on flags that say how an object behaves. It gets the project of the
/// upper layer's root: a file system moves no object into a directory with another project to hand on.
///
/// # Errors
/// What the system calls say.
pub(super) fn disinherit(dir: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<()> {
    match flags::get_flags(dir) {
        // A file system without such flags says so in one of these ways.
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => return Ok(()),
        Err(errno) => return Err(errno),
        Ok(set) if set & BEHAVIOUR != 0 => flags::set_flags(dir, set & !BEHAVIOUR)?,
        Ok(_) => {}
    }
    take_project(dir, root)
}

pub(super) fn take_project(dir: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<()> {
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
        // In a user namespace the project cannot be set. Directories that hand on a project then take no objects from
        // workdir (`EXDEV`), as with the kernel's OverlayFS.
        Err(Errno::EINVAL | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOTTY) => {
            log::info!("workdir keeps another project than the upper layer has");
            Ok(())
        }
        set => set,
    }
}
