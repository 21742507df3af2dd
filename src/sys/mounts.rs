//! The mount table of a process, and where a directory is according to it
//! ([proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno as Raw;

use super::newer::{self, Newer};
use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// Its number, as statx(2) has it.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// `st_dev` of its file system.
    pub device: u64,
    /// The directory of the file system that it shows.
    pub root: PathBuf,
    /// Where it is.
    pub at: PathBuf,
    /// The type of the file system, such as `overlay` or `fuse.plyfs`.
    pub kind: String,
    /// The source of the mount.
    pub source: OsString,
    /// The options of the file system, between commas, with the escapes of the table.
    pub options: Vec<u8>,
}

/// The mount table of this process.
///
/// # Errors
/// Those of reading `/proc`.
pub fn table() -> Result<Vec<MountEntry>> {
    read_table(Path::new("/proc/self/mountinfo"))
}

/// The mount table of another process.
///
/// # Errors
/// `EACCES` where this user may not see it, `ENOENT` and `EINVAL` for one that is gone.
pub fn table_of(pid: u32) -> Result<Vec<MountEntry>> {
    read_table(Path::new(&format!("/proc/{pid}/mountinfo")))
}

/// The places in FUSE file systems, counted from the root of each, on which something is mounted in any mount namespace
/// that this user may see.
///
/// # Errors
/// Those of reading `/proc`.
pub fn below_fuse() -> Result<Vec<PathBuf>> {
    let mut places = below(&table()?);
    let mut seen = HashSet::new();
    for process in std::fs::read_dir("/proc")?.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        let link = |name: &str| std::fs::read_link(process.path().join(name)).ok();
        if let Some(pid) = pid
            && seen.insert((link("ns/mnt"), link("root")))
            // It is gone, or another user's.
            && let Ok(table) = table_of(pid)
        {
            places.extend(below(&table));
        }
    }
    places.sort();
    places.dedup();
    Ok(places)
}

/// Those in one table.
fn below(table: &[MountEntry]) -> Vec<PathBuf> {
    let place = |mount: &MountEntry| match table.iter().find(|other| other.id == mount.parent) {
        Some(on) if !on.kind.starts_with("fuse") => None,
        Some(on) => Some(on.root.join(mount.at.strip_prefix(&on.at).ok()?)),
        // The root of the process may be in a view.
        None => Some(mount.at.clone()),
    };
    let relative = |path: PathBuf| path.strip_prefix("/").map(Path::to_owned).ok();
    table.iter().filter_map(place).filter_map(relative).filter(|path| path != Path::new("")).collect()
}

fn read_table(path: &Path) -> Result<Vec<MountEntry>> {
    seam::enter(Call::Process)?;
    let table = std::fs::read(path)?;
    Ok(table.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

fn parse(line: &[u8]) -> Option<MountEntry> {
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let os = |field: &[u8]| OsString::from_vec(unescaped(field));
    let mut fields = line.split(|&byte| byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let parent = text(fields.next()?)?.parse().ok()?;
    let device = text(fields.next()?)?;
    let (major, minor) = device.split_once(':')?;
    let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
    let (root, at) = (PathBuf::from(os(fields.next()?)), PathBuf::from(os(fields.next()?)));
    // The flags, and fields of which there may be any number.
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(&unescaped(fields.next()?)).into_owned();
    let source = os(fields.next()?);
    Some(MountEntry { id, parent, device, root, at, kind, source, options: fields.next().unwrap_or_default().to_vec() })
}

/// A field of the table, in which space, tab, newline, backslash and `#` stand as three octal digits.
pub fn unescaped(field: &[u8]) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

/// Waits for changes of this process's mount table.
#[derive(Debug)]
pub struct MountChanges(std::fs::File);

impl MountChanges {
    /// Begins to watch.
    ///
    /// # Errors
    /// Those of opening a file in `/proc`.
    pub fn open() -> Result<Self> {
        seam::enter(Call::Process)?;
        Ok(Self(std::fs::File::open("/proc/self/mountinfo")?))
    }

    /// Sleeps until the table has changed since the last call.
    ///
    /// # Errors
    /// Those of [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html).
    pub fn wait(&self) -> Result<()> {
        seam::enter(Call::Process)?;
        loop {
            match poll(&mut [PollFd::new(&self.0, PollFlags::PRI)], None) {
                Err(Raw::INTR) => {}
                done => return Ok(done.map(drop)?),
            }
        }
    }
}

/// Where an open directory is in its file system, counted from that file system's own root. In their order a directory
/// comes right before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaceInFs {
    /// `st_dev` of the file system.
    device: u64,
    /// The path from the file system's own root.
    path: PathBuf,
}

impl PlaceInFs {
    /// The place of `fd`, if the mount that it is on stands in `table`.
    ///
    /// # Errors
    /// Those of statx(2) and of reading `/proc`.
    pub fn of(fd: BorrowedFd<'_>, table: &[MountEntry]) -> Result<Option<Self>> {
        seam::enter(Call::Process)?;
        let id = mount_id(fd)?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let Some(mount) = table.iter().find(|mount| mount.id == id) else { return Ok(None) };
        let within = path.strip_prefix(&mount.at).ok();
        Ok(within.map(|within| Self { device: mount.device, path: mount.root.join(within) }))
    }

    /// Whether it is `other`, or below it.
    pub fn is_in(&self, other: &Self) -> bool {
        self.device == other.device && self.path.starts_with(&other.path)
    }
}

/// The number of the mount that `fd` is on. A FUSE daemon, maybe this process, is not asked.
///
/// # Errors
/// Those of [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html); before Linux 5.8 those of reading `/proc`.
pub fn mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    if newer::is_absent(Newer::MountId) || newer::is_absent(Newer::Statx) {
        return listed_mount_id(fd);
    }
    let wish = StatxFlags::MNT_ID;
    match rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wish).map_err(Errno::from) {
        Ok(found) if found.stx_mask & wish.bits() != 0 => Ok(found.stx_mnt_id),
        Ok(_) => {
            newer::lacks(Newer::MountId);
            listed_mount_id(fd)
        }
        Err(errno) if !super::has_call(errno) => {
            newer::lacks(Newer::Statx);
            listed_mount_id(fd)
        }
        Err(errno) => Err(errno),
    }
}

/// [`mount_id`] by [proc_pid_fdinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html).
fn listed_mount_id(fd: BorrowedFd<'_>) -> Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    line.and_then(|id| id.trim().parse().ok()).ok_or(Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::open_root;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/ro\\134ot rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.device), (36, rustix::fs::makedev(98, 0)));
        assert_eq!((mount.root.to_str(), mount.at.to_str()), (Some("/mnt1"), Some("/mnt 2")));
        assert_eq!((&*mount.kind, mount.source.to_str()), ("ext3", Some("/dev/ro\\ot")));
        assert_eq!(mount.options, b"rw,errors=continue");
        for line in ["", "1", "1 2 3 / / rw - x y z", "1 2 3:4 / / rw no end", "x 2 3:4 / / rw - x y z"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        for (field, path) in [("/a\\040b\\134c", "/a b\\c"), ("/a\\", "/a\\"), ("/a\\9", "/a\\9"), ("", "")] {
            assert_eq!(unescaped(field.as_bytes()), path.as_bytes());
        }
    }

    #[test]
    fn a_mount_is_known_without_statx() {
        let fds = ["/", "/proc", "/proc/self"].map(|path| open_root(Path::new(path)).unwrap());
        let ids = [0, 1, 2].map(|i| listed_mount_id(fds[i].as_fd()));
        assert_eq!((ids[0] == ids[1], ids[1] == ids[2]), (false, true), "{ids:?}");
        assert_eq!(ids[0], mount_id(fds[0].as_fd()));
    }

    #[test]
    fn a_directory_is_in_another_of_its_file_system_only() {
        let (table, here) = (table().unwrap(), tempfile::tempdir().unwrap());
        let inner = here.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let place = |path: &Path| PlaceInFs::of(open_root(path).unwrap().as_fd(), &table).unwrap();
        let (Some(outer), Some(inner)) = (place(here.path()), place(&inner)) else { return };
        assert!(inner.is_in(&outer) && outer.is_in(&outer) && !outer.is_in(&inner));
        assert!(!place(Path::new("/proc/self")).unwrap().is_in(&outer));
    }
}
