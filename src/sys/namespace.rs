//! Namespaces of a process ([namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html)), and the mounts in
//! them.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Pid;
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, UnshareFlags};

use crate::base::Result;

/// Gives this process, which must have one thread, a mount namespace of its own, from which nothing reaches the old one.
/// `user`: a user namespace, too, in which the process has all privileges and only its own ids exist.
///
/// # Errors
/// `EPERM` and `ENOSPC` of [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html) where there can be no such
/// namespaces.
pub fn enter_own(user: bool) -> Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let flags = if user { UnshareFlags::NEWUSER | UnshareFlags::NEWNS } else { UnshareFlags::NEWNS };
    // SAFETY: descriptors stay common; the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    if user {
        // Without it the kernel lets nobody without privilege set the groups.
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    Ok(rustix::mount::mount_change("/", private)?)
}

/// A copy of the mount namespace, for this process alone.
///
/// # Errors
/// As [`enter_own`].
pub fn enter_copy() -> Result<()> {
    // SAFETY: as above.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// A network namespace in which there is nothing but a loopback device, which is down.
///
/// # Errors
/// As [`enter_own`].
pub fn leave_network() -> Result<()> {
    // SAFETY: as above.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Lets no program that this process becomes have a privilege, also where its user is root in a user namespace.
pub fn give_up_privileges() {
    for capability in CapabilitySet::all() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

/// Enters the user and the network namespace, if they are others, and the mount namespace of a process; its root becomes this one's.
/// The process must have one thread.
///
/// # Errors
/// `ESRCH` for a process that is gone, `EPERM` for one of another user
/// ([setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html)).
pub fn join(pid: Pid) -> Result<()> {
    let there = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let number = pid.as_raw_nonzero().to_string();
    let is_other = |kind: &str| -> Result<bool> {
        let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}"));
        Ok(space(&number)? != space("self")?)
    };
    let others = [("user", ThreadNameSpaceType::USER), ("net", ThreadNameSpaceType::NETWORK)];
    let mut spaces = ThreadNameSpaceType::MOUNT;
    for (kind, space) in others {
        if is_other(kind)? {
            spaces |= space;
        }
    }
    Ok(rustix::thread::move_into_thread_name_spaces(there.as_fd(), spaces)?)
}

/// Shows the tree `from`, with all that is mounted below it, at `to`.
///
/// # Errors
/// Those of [mount(2)](https://man7.org/linux/man-pages/man2/mount.2.html).
pub fn bind(from: &Path, to: &Path) -> Result<()> {
    Ok(rustix::mount::mount_bind_recursive(from, to)?)
}

/// Lets nobody write through the mount at `at`.
///
/// # Errors
/// Those of mount(2).
pub fn make_read_only(at: &Path) -> Result<()> {
    // A namespace may have been given a mount with flags that it must keep.
    let kept = rustix::fs::statvfs(at)?.f_flag;
    let flags = [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let flags =
        flags.iter().filter(|(set, _)| kept.contains(*set)).fold(MountFlags::RDONLY, |all, (_, flag)| all | *flag);
    Ok(rustix::mount::mount_remount(at, flags | MountFlags::BIND, c"")?)
}

/// An empty file system of its own at `at`.
///
/// # Errors
/// Those of mount(2).
pub fn mount_empty(at: &Path) -> Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(rustix::mount::mount("plyfs", at, "tmpfs", flags, Some(c"mode=555,size=4k"))?)
}

/// Makes `root`, where something is mounted, the root of all processes in this mount namespace; what was there is gone.
///
/// # Errors
/// Those of [pivot_root(2)](https://man7.org/linux/man-pages/man2/pivot_root.2.html).
pub fn change_root(root: &Path) -> Result<()> {
    rustix::process::chdir(root)?;
    // The old root comes to lie on top of the new one, and is taken away there.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Whether writing below `at` is refused by the file system or the mount there.
///
/// # Errors
/// Those of statvfs(3).
pub fn is_read_only(at: &Path) -> Result<bool> {
    Ok(rustix::fs::statvfs(at)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// The processes whose mount namespace is the one that `/proc/PID/ns/mnt` is said to link to.
pub fn all_in(namespace: &Path) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_there = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|link| link == namespace);
    numbers.filter(is_there).filter_map(Pid::from_raw).collect()
}

/// Opens what is at `path` below `root`, and no symbolic link on the way; other mounts are entered.
///
/// # Errors
/// `ELOOP` for a symbolic link, and those of [openat2(2)](https://man7.org/linux/man-pages/man2/openat2.2.html).
pub fn open_in(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// What `/proc/self/ns/mnt` links to: the name of this process's mount namespace.
///
/// # Errors
/// Those of readlink(2).
pub fn own_mounts() -> Result<std::path::PathBuf> {
    Ok(std::fs::read_link("/proc/self/ns/mnt")?)
}

/// Opens a directory, to come back to it in another namespace.
///
/// # Errors
/// Those of open(2).
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens what is at `path`, to show it elsewhere.
///
/// # Errors
/// Those of open(2).
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Which file system is mounted at `at` (`f_fsid` of statfs(2)): the same one after a restart of the machine, where it has
/// an identity.
///
/// # Errors
/// Those of statfs(2).
pub fn file_system_at(at: &Path) -> Result<u64> {
    Ok(rustix::fs::statvfs(at)?.f_fsid)
}

/// Gives the directory `dir` the owner, the mode and the ACLs of `like`.
///
/// # Errors
/// Those of chown(2), chmod(2) and setxattr(2).
pub fn own_as(dir: &Path, like: &Path) -> Result<()> {
    let stat = rustix::fs::stat(like)?;
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chown(dir, Some(uid), Some(gid))?;
    rustix::fs::chmod(dir, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let (to, from) = (open_readable(dir)?, open_readable(like)?);
    for key in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        if let Some(value) = super::xattr::get_fd(from.as_fd(), key).unwrap_or(None) {
            super::xattr::set_fd(to.as_fd(), key, &value, 0)?;
        }
    }
    Ok(())
}

fn open_readable(dir: &Path) -> Result<OwnedFd> {
    Ok(rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
