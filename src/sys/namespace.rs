//! Namespaces of a process ([namespaces(7)](https://man7.org/linux/man-pages/man7/namespaces.7.html)), and the mounts in
//! them.

#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Pid;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

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

/// Enters the user namespace, if it is another one, and the mount namespace of a process; its root becomes this one's.
/// The process must have one thread.
///
/// # Errors
/// `ESRCH` for a process that is gone, `EPERM` for one of another user
/// ([setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html)).
pub fn join(pid: Pid) -> Result<()> {
    let there = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/user"));
    let other_user = space(&pid.as_raw_nonzero().to_string())? != space("self")?;
    let user = if other_user { ThreadNameSpaceType::USER } else { ThreadNameSpaceType::empty() };
    Ok(rustix::thread::move_into_thread_name_spaces(there.as_fd(), user | ThreadNameSpaceType::MOUNT)?)
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

/// A process whose mount namespace is the one that `/proc/PID/ns/mnt` is said to link to.
pub fn somebody_in(namespace: &Path) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_there = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).is_ok_and(|link| link == namespace);
    numbers.filter(is_there).find_map(Pid::from_raw)
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
pub fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens what is at `path`, to show it elsewhere.
///
/// # Errors
/// Those of open(2).
pub fn open_path(path: &Path) -> Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}
