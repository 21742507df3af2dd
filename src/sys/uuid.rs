//! The identity of file systems, as the kernel's OverlayFS writes it into its marks (`s_uuid`).
#![allow(unsafe_code)]

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};

use super::newer::{self, Newer};
use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// 16 bytes, as they stand in the superblock.
pub type FsUuid = [u8; 16];

/// `struct fsuuid2`
#[repr(C)]
struct Any {
    len: u8,
    uuid: FsUuid,
}

/// `struct fsuuid` with room for the UUID. The number of the ioctl is made from the size of its head alone.
#[repr(C)]
struct Ext4 {
    len: u32,
    flags: u32,
    uuid: FsUuid,
}

/// `struct xfs_fsop_geom_v1`
#[repr(C)]
struct Xfs {
    sizes: [u32; 8],
    counts: [u64; 4],
    uuid: FsUuid,
    more: [u64; 4],
}

/// `struct btrfs_ioctl_fs_info_args`
#[repr(C)]
struct Btrfs {
    devices: [u64; 2],
    uuid: FsUuid,
    more: [u64; 124],
}

const FS_IOC_GETFSUUID: Opcode = opcode::read::<Any>(0x15, 0);
const EXT4_IOC_GETFSUUID: Opcode = opcode::read::<[u32; 2]>(b'f', 44);
const XFS_IOC_FSGEOMETRY_V1: Opcode = opcode::read::<Xfs>(b'X', 100);
const BTRFS_IOC_FS_INFO: Opcode = opcode::read::<Btrfs>(0x94, 31);

const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const BTRFS: u64 = 0x9123_683e;
const F2FS: u64 = 0xf2f5_2010;
const EROFS: u64 = 0xe0f5_e1e2;

/// The offset in bytes of a superblock on its device.
const SUPERBLOCK: u64 = 1024;
/// How many bytes of a superblock are read.
const HEAD: usize = 256;

/// The UUID of the file system that `fd` is on; `None` if it has none, or nobody says.
///
/// Before Linux 6.9 (`FS_IOC_GETFSUUID`) it is asked for by the call of ext4 (Linux 6.0), XFS or btrfs, or, for ext4, f2fs
/// and EROFS, read from the device where this user may, or from what udev has found there.
///
/// # Errors
/// `EBADF` for an `O_PATH` descriptor, `EIO`.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Result<Option<FsUuid>> {
    seam::enter(Call::FsUuid)?;
    if !newer::is_absent(Newer::FsUuid) {
        // SAFETY: the number carries the size of what the kernel writes: 17 bytes, for which any value is valid.
        let answer = unsafe { ioctl(fd, Getter::<FS_IOC_GETFSUUID, Any>::new()) };
        if let Some(found) = unless_unknown(answer)? {
            return Ok((found.len == 16).then_some(found.uuid));
        }
    }
    let magic = super::stat::statfs_fd(fd)?.magic;
    match magic {
        EXT4 => Ok(ext4(fd)?.or_else(|| elsewhere(fd, magic))),
        F2FS | EROFS => Ok(elsewhere(fd, magic)),
        XFS => {
            // SAFETY: the number carries the size of what the kernel writes, 112 bytes, for which any value is valid.
            let answer = unsafe { ioctl(fd, Getter::<XFS_IOC_FSGEOMETRY_V1, Xfs>::new()) };
            Ok(unless_unknown(answer)?.map(|found| found.uuid))
        }
        BTRFS => {
            // SAFETY: the number carries the size of what the kernel writes, 1024 bytes, for which any value is valid.
            let answer = unsafe { ioctl(fd, Getter::<BTRFS_IOC_FS_INFO, Btrfs>::new()) };
            Ok(unless_unknown(answer)?.map(|found| found.uuid))
        }
        _ => Ok(None),
    }
}

/// `None` where the kernel, the file system or a filter of system calls does not know the call.
fn unless_unknown<T>(answer: rustix::io::Result<T>) -> Result<Option<T>> {
    match answer.map_err(Errno::from) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn ext4(fd: BorrowedFd<'_>) -> Result<Option<FsUuid>> {
    if newer::is_absent(Newer::Ext4Uuid) {
        return Ok(None);
    }
    let mut found = Ext4 { len: 16, flags: 0, uuid: [0; 16] };
    // SAFETY: the kernel reads the head and writes as many bytes behind it as `len` says; any value is valid.
    let answer = unsafe { ioctl(fd, Updater::<EXT4_IOC_GETFSUUID, Ext4>::new(&mut found)) };
    Ok(unless_unknown(answer)?.map(|()| found.uuid))
}

/// The UUID by the device that the file system is on.
fn elsewhere(fd: BorrowedFd<'_>, magic: u64) -> Option<FsUuid> {
    let device = rustix::fs::fstat(fd).ok()?.st_dev;
    let place = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let read = || in_superblock(magic, &superblock(&place, device)?);
    let asked = || in_udev(magic, &std::fs::read_to_string(format!("/run/udev/data/b{place}")).ok()?);
    read().or_else(asked)
}

/// The beginning of the superblock on a block device, where this user may read that.
fn superblock(place: &str, device: u64) -> Option<[u8; HEAD]> {
    let said = std::fs::read_to_string(format!("/sys/dev/block/{place}/uevent")).ok()?;
    let name = said.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let node: OwnedFd = rustix::fs::open(Path::new("/dev").join(name), flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&node).ok()?;
    if stat.st_rdev != device || !FileType::from_raw_mode(stat.st_mode).is_block_device() {
        return None;
    }
    let path = format!("/proc/self/fd/{}", node.as_fd().as_raw_fd());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(SUPERBLOCK)).ok()?;
    let mut head = [0; HEAD];
    std::fs::File::from(file).read_exact(&mut head).ok()?;
    Some(head)
}

/// The UUID in a superblock of this sort.
fn in_superblock(magic: u64, head: &[u8; HEAD]) -> Option<FsUuid> {
    let at = |from: usize, len: usize| head.get(from..from + len);
    let word = |from: usize| Some(u64::from(u32::from_le_bytes(at(from, 4)?.try_into().ok()?)));
    let (is_it, uuid) = match magic {
        EXT4 => (at(0x38, 2)? == [0x53, 0xef], 0x68),
        F2FS => (word(0)? == F2FS, 0x6c),
        EROFS => (word(0)? == EROFS, 0x30),
        _ => return None,
    };
    at(uuid, 16).filter(|_| is_it)?.try_into().ok()
}

/// The UUID in what udev keeps of a device.
fn in_udev(magic: u64, said: &str) -> Option<FsUuid> {
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix("E:ID_FS_")?.strip_prefix(key));
    let kinds: &[&str] = match magic {
        EXT4 => &["ext4", "ext3", "ext2"],
        F2FS => &["f2fs"],
        EROFS => &["erofs"],
        _ => return None,
    };
    if !kinds.contains(&value("TYPE=")?) {
        return None;
    }
    let digits: String = value("UUID=")?.chars().filter(|char| *char != '-').collect();
    (digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok())?.map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{open_root, reopen};

    const UUID: FsUuid = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];

    #[test]
    fn the_numbers_are_the_kernels() {
        assert_eq!(FS_IOC_GETFSUUID, 0x8011_1500);
        assert_eq!(EXT4_IOC_GETFSUUID, 0x8008_662c);
        assert_eq!(XFS_IOC_FSGEOMETRY_V1, 0x8070_5864);
        assert_eq!(BTRFS_IOC_FS_INFO, 0x8400_941f);
    }

    #[test]
    fn a_file_system_has_one_uuid_or_none() {
        let here = tempfile::tempdir().unwrap();
        let dir = reopen(open_root(here.path()).unwrap().as_fd(), OFlags::RDONLY).unwrap();
        assert_eq!(fs_uuid(dir.as_fd()), fs_uuid(tempfile::tempfile_in(here.path()).unwrap().as_fd()));
        let proc = std::fs::File::open("/proc/version").unwrap();
        assert_eq!(fs_uuid(proc.as_fd()), Ok(None));
    }

    #[test]
    fn a_superblock_is_read_as_what_it_is_only() {
        for (magic, mark, at, uuid) in [
            (EXT4, &[0x53, 0xef][..], 0x38, 0x68),
            (F2FS, &[0x10, 0x20, 0xf5, 0xf2], 0, 0x6c),
            (EROFS, &[0xe2, 0xe1, 0xf5, 0xe0], 0, 0x30),
        ] {
            let mut head = [0; HEAD];
            head[uuid..uuid + 16].copy_from_slice(&UUID);
            assert_eq!(in_superblock(magic, &head), None);
            head[at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(in_superblock(magic, &head), Some(UUID));
            assert_eq!(in_superblock(XFS, &head), None);
        }
    }

    #[test]
    fn what_udev_says_counts_for_the_file_system_that_it_found() {
        let said = "S:disk/by-uuid/x\nE:ID_FS_TYPE=ext3\nE:ID_FS_UUID=00112233-4455-6677-8899-aabbccddeeff\n";
        assert_eq!(in_udev(EXT4, said), Some(UUID));
        assert_eq!(in_udev(F2FS, said), None);
        for other in ["E:ID_FS_TYPE=ext4\nE:ID_FS_UUID=1234-ABCD\n", "E:ID_FS_UUID=x\n", "E:ID_FS_TYPE=ext4\n", ""] {
            assert_eq!(in_udev(EXT4, other), None, "{other}");
        }
    }
}
