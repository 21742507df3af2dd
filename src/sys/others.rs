//! Other processes, as far as `/proc` shows them to this one: who has a lock, who keeps a mount.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::seam::{self, Call};
use crate::base::{DiskUid, Result};

/// The ids of the processes that this one sees.
///
/// # Errors
/// Those of reading `/proc`.
pub fn all() -> Result<Vec<u32>> {
    seam::enter(Call::Process)?;
    let names = std::fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(names.collect())
}

/// The name of a process ([proc_pid_comm(5)](https://man7.org/linux/man-pages/man5/proc_pid_comm.5.html)).
pub fn name(pid: u32) -> Option<String> {
    seam::enter(Call::Process).ok()?;
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// Whether a process is root's or of this user: others may have any name and arguments.
pub fn is_trusted(pid: u32) -> bool {
    let (own, _) = super::caller::own_ids();
    let stat = super::stat::stat_path(std::path::Path::new(&format!("/proc/{pid}")));
    stat.is_ok_and(|stat| stat.uid == DiskUid(0) || stat.uid == own)
}

/// The command line of a process, the program first.
pub fn arguments(pid: u32) -> Vec<OsString> {
    let line = seam::enter(Call::Process).ok().and_then(|()| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
    let line = line.unwrap_or_default();
    let words = line.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(|word| OsString::from_vec(word.to_vec())).collect()
}

/// The number of a process's mount namespace, where that may be asked.
pub fn mount_namespace(pid: u32) -> Option<u64> {
    namespace(&format!("/proc/{pid}/ns/mnt"))
}

/// The number of this process's mount namespace.
pub fn own_mount_namespace() -> Option<u64> {
    namespace("/proc/self/ns/mnt")
}

/// The number in `mnt:[4026531841]`.
fn namespace(link: &str) -> Option<u64> {
    seam::enter(Call::Process).ok()?;
    let link = std::fs::read_link(link).ok()?;
    link.to_str()?.split(['[', ']']).nth(1)?.parse().ok()
}

/// The root directory of a process, which leads into its mount namespace, and its current directory.
pub fn ways_into(pid: u32) -> (PathBuf, PathBuf) {
    (PathBuf::from(format!("/proc/{pid}/root")), PathBuf::from(format!("/proc/{pid}/cwd")))
}

/// A file that is [locked](super::lock::try_lock).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// The process that holds the lock.
    pub pid: u32,
    /// The device of its file system: on btrfs another than stat(2) gives.
    pub device: u64,
    /// Its inode number.
    pub ino: u64,
}

/// The file locks of the processes that this one sees
/// ([proc_locks(5)](https://man7.org/linux/man-pages/man5/proc_locks.5.html)).
pub fn locks() -> Vec<Lock> {
    let table = seam::enter(Call::Process).ok().and_then(|()| std::fs::read_to_string("/proc/locks").ok());
    table.unwrap_or_default().lines().filter_map(lock).collect()
}

/// Parses a line such as `1: FLOCK  ADVISORY  WRITE 24744 fe:00:10045730 0 EOF`.
fn lock(line: &str) -> Option<Lock> {
    let mut words = line.split_whitespace().skip(1);
    if (words.next()?, words.next()?, words.next()?) != ("FLOCK", "ADVISORY", "WRITE") {
        return None;
    }
    // One of another PID namespace has no number here.
    let pid = words.next()?.parse().ok().filter(|pid| *pid > 0)?;
    let mut file = words.next()?.split(':');
    let (major, minor) = (file.next()?, file.next()?);
    let device = |number| u32::from_str_radix(number, 16).ok();
    let device = rustix::fs::makedev(device(major)?, device(minor)?);
    Some(Lock { pid, device, ino: file.next()?.parse().ok()? })
}

/// `st_dev` of the FUSE mounts that a process serves, where the kernel tells (Linux 6.17).
pub fn serves(pid: u32) -> Vec<u64> {
    let infos = seam::enter(Call::Process).ok().and_then(|()| std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok());
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        let info = std::fs::read_to_string(entry.ok()?.path()).ok()?;
        let line = info.lines().find_map(|line| line.strip_prefix("fuse_connection:"))?;
        Some(rustix::fs::makedev(0, line.trim().parse().ok()?))
    };
    let mut found: Vec<u64> = infos.into_iter().flatten().filter_map(number).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::lock::try_lock;
    use crate::sys::stat::stat_fd;

    #[test]
    fn the_holder_of_a_lock_is_told() {
        let line = "1: FLOCK  ADVISORY  WRITE 24744 fe:10:10045730 0 EOF";
        let device = rustix::fs::makedev(254, 16);
        assert_eq!(lock(line), Some(Lock { pid: 24744, device, ino: 10_045_730 }));
        for other in [
            "2: FLOCK  ADVISORY  READ 1 fe:00:7 0 EOF",
            "3: POSIX  ADVISORY  WRITE 1 fe:00:7 0 EOF",
            "4: FLOCK  ADVISORY  WRITE 0 fe:00:7 0 EOF",
            "4: FLOCK  ADVISORY  WRITE -1 fe:00:7 0 EOF",
            "4: -> FLOCK  ADVISORY  WRITE 9 fe:00:7 0 EOF",
            "",
        ] {
            assert_eq!(lock(other), None, "{other}");
        }
        let here = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(here.path()).unwrap();
        assert_eq!(try_lock(open.as_fd()), Ok(true));
        let stat = stat_fd(open.as_fd()).unwrap();
        let own = locks().into_iter().find(|lock| lock.ino == stat.ino);
        assert!(own.is_none_or(|lock| lock.pid == std::process::id()));
    }

    #[test]
    fn this_process_is_one_of_all() {
        let own = std::process::id();
        assert!(all().unwrap().contains(&own));
        assert!(name(own).is_some_and(|name| !name.is_empty()) && !arguments(own).is_empty());
        assert_eq!(mount_namespace(own), own_mount_namespace());
        assert!(arguments(0).is_empty() && name(0).is_none() && serves(0).is_empty());
    }
}
