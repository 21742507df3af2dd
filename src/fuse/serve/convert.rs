//! Between fuser's types and the engine's.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, Request, TimeOrNow};

use crate::base::{Errno, ViewGid, ViewUid};
use crate::fuse::wire::RESENT;
use crate::union::{Attr, Caller, InodeId, Kind, SetTime, Time};

pub fn id(ino: INodeNo) -> InodeId {
    InodeId(ino.0)
}

/// Who asks; `umask` where the request has one.
pub fn caller(req: &Request, umask: u32) -> Caller {
    let unique = req.unique().0;
    let (request, resent) = (unique & !RESENT, unique & RESENT != 0);
    Caller { uid: ViewUid(req.uid()), gid: ViewGid(req.gid()), pid: req.pid(), umask, request, resent }
}

/// The one way an error goes to the kernel. `ENOSYS` would mean "there is no such operation" for the whole mount and
/// for good, so a layer's is never handed on.
pub fn errno(errno: Errno) -> fuser::Errno {
    let errno = if errno == Errno::ENOSYS { Errno::EOPNOTSUPP } else { errno };
    fuser::Errno::from_i32(errno.raw())
}

pub fn kind(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

pub fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.id.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system(attr.atime),
        mtime: to_system(attr.mtime),
        ctime: to_system(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.nlink,
        uid: attr.uid.0,
        gid: attr.gid.0,
        rdev: encode_dev(attr.rdev),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes of a name that has none to show: its type is all that counts.
pub fn bare(id: InodeId, kind: Kind) -> FileAttr {
    attr(&Attr { id, kind, nlink: 1, blksize: 4096, ..Attr::default() })
}

/// An entry with node id 0: the name does not exist, and the kernel may remember that.
pub fn negative() -> FileAttr {
    bare(InodeId(0), Kind::File)
}

fn to_system(time: Time) -> SystemTime {
    let (epoch, seconds) = (SystemTime::UNIX_EPOCH, Duration::from_secs(time.sec.unsigned_abs()));
    let whole = if time.sec < 0 { epoch.checked_sub(seconds) } else { epoch.checked_add(seconds) };
    whole.and_then(|t| t.checked_add(Duration::from_nanos(time.nsec.into()))).unwrap_or(epoch)
}

/// Undoes fuser's parsing of times before 1970: it takes the nanoseconds away where they are to be added.
fn from_system(time: SystemTime) -> Time {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Time { sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX), nsec: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Time { sec: 0_i64.wrapping_sub_unsigned(before.as_secs()), nsec: before.subsec_nanos() }
        }
    }
}

pub fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Omit,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::At(from_system(time)),
    }
}

/// The kernel's 32-bit form of a device number (`new_encode_dev`).
fn encode_dev(rdev: u64) -> u32 {
    let (major, minor) = (libc::major(rdev), libc::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Back from it.
pub fn decode_dev(rdev: u32) -> u64 {
    libc::makedev((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(0, 0), (1, 3), (8, 17), (0xfff, 0xf_ffff), (259, 70_000)] {
            assert_eq!(decode_dev(encode_dev(libc::makedev(major, minor))), libc::makedev(major, minor));
        }
    }

    #[test]
    fn times_before_1970_go_out_as_they_are() {
        for (sec, nsec) in [(0, 1), (-1, 999_999_999), (-2, 0), (i64::MIN, 5), (i64::MAX, 0)] {
            let system = to_system(Time { sec, nsec });
            let back = match system.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(d) => i128::from(d.as_secs()) * 1_000_000_000 + i128::from(d.subsec_nanos()),
                Err(e) => {
                    -(i128::from(e.duration().as_secs()) * 1_000_000_000 + i128::from(e.duration().subsec_nanos()))
                }
            };
            assert_eq!(back, i128::from(sec) * 1_000_000_000 + i128::from(nsec));
        }
    }

    #[test]
    fn what_fuser_makes_of_a_time_before_1970_is_undone() {
        // utimensat of -2 s + 200,000,000 ns arrives as -(2 s + 200,000,000 ns).
        let arrived = SystemTime::UNIX_EPOCH - Duration::new(2, 200_000_000);
        assert_eq!(from_system(arrived), Time { sec: -2, nsec: 200_000_000 });
    }

    #[test]
    fn a_layer_without_a_call_does_not_end_the_operation_for_the_mount() {
        assert_eq!(errno(Errno::ENOSYS).code(), libc::EOPNOTSUPP);
    }
}
