//! Attributes of objects and of file systems.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    Access, AtFlags, FileType, IFlags, Mode, StatVfsMountFlags, StatxAttributes, StatxFlags, ioctl_getflags, openat,
};

use super::newer::{self, Newer};
use super::path::{OFlags, open_again, open_confined};
use super::seam::{self, Call};
use crate::base::{DiskGid, DiskUid, Errno, Result};

/// A time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub sec: i64,
    /// Nanoseconds after `sec`, below 1,000,000,000.
    pub nsec: u32,
}

/// What a time stamp is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetTime {
    /// The time stays as it is.
    #[default]
    Omit,
    /// The kernel's time of the call.
    Now,
    /// This time.
    At(Time),
}

/// The type of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)]
pub enum Kind {
    #[default]
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Char,
    Block,
}

impl Kind {
    /// From the type bits of `st_mode`; none at all mean a regular file, as for mknod(2).
    pub fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::Char,
            libc::S_IFBLK => Self::Block,
            _ => Self::File,
        }
    }

    /// From the `d_type` of a directory entry; `None` for `DT_UNKNOWN`.
    pub fn from_dtype(dtype: u8) -> Option<Self> {
        Some(match dtype {
            libc::DT_REG => Self::File,
            libc::DT_DIR => Self::Dir,
            libc::DT_LNK => Self::Symlink,
            libc::DT_FIFO => Self::Fifo,
            libc::DT_SOCK => Self::Socket,
            libc::DT_CHR => Self::Char,
            libc::DT_BLK => Self::Block,
            _ => return None,
        })
    }

    /// The type bits for `st_mode`.
    pub fn to_mode(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Dir => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::Char => libc::S_IFCHR,
            Self::Block => libc::S_IFBLK,
        }
    }

    pub(super) fn from_file_type(found: FileType) -> Option<Self> {
        match found {
            FileType::Unknown => None,
            known => Some(Self::from_mode(known.as_raw_mode())),
        }
    }
}

/// The attributes of an object, as [stat(3type)](https://man7.org/linux/man-pages/man3/stat.3type.html) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    pub dev: u64,
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    pub nlink: u64,
    pub uid: DiskUid,
    pub gid: DiskGid,
    /// The device that a device node stands for.
    pub rdev: u64,
    /// In bytes.
    pub size: u64,
    /// In units of 512 bytes.
    pub blocks: u64,
    pub blksize: u32,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

impl Stat {
    /// The type of an object.
    pub fn kind(&self) -> Kind {
        Kind::from_mode(self.mode)
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == Kind::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == Kind::File
    }

    /// Whether it is a symbolic link.
    #[cfg(test)]
    pub fn is_symlink(&self) -> bool {
        self.kind() == Kind::Symlink
    }

    /// Whether it is a character device 0:0, which hides a name of the layers below
    /// ([overlayfs](https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories)).
    pub fn is_whiteout(&self) -> bool {
        self.rdev == 0 && self.kind() == Kind::Char
    }

    // The types of the kernel's structure differ between architectures.
    #[allow(clippy::unnecessary_cast)]
    #[inline]
    fn from_raw(raw: &rustix::fs::Stat) -> Self {
        Self {
            dev: raw.st_dev as u64,
            ino: raw.st_ino as u64,
            mode: raw.st_mode as u32,
            nlink: raw.st_nlink as u64,
            uid: DiskUid(raw.st_uid as u32),
            gid: DiskGid(raw.st_gid as u32),
            rdev: raw.st_rdev as u64,
            size: raw.st_size as u64,
            blocks: raw.st_blocks as u64,
            blksize: raw.st_blksize as u32,
            atime: Time { sec: raw.st_atime as i64, nsec: raw.st_atime_nsec as u32 },
            mtime: Time { sec: raw.st_mtime as i64, nsec: raw.st_mtime_nsec as u32 },
            ctime: Time { sec: raw.st_ctime as i64, nsec: raw.st_ctime_nsec as u32 },
        }
    }
}

/// The attributes of `name` in `dir`, of a symlink itself
/// ([fstatat(2)](https://man7.org/linux/man-pages/man2/stat.2.html)). It crosses into a mount on `name`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR` and those of fstatat(2).
#[inline]
pub fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    seam::enter(Call::Stat)?;
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(Errno::from) {
        found if super::is_closed_itself(name, &found) => Ok(Stat::from_raw(&rustix::fs::fstat(dir)?)),
        found => Ok(Stat::from_raw(&found?)),
    }
}

/// The attributes of an open object, opened with `O_PATH` or otherwise
/// ([fstat(2)](https://man7.org/linux/man-pages/man2/stat.2.html)).
///
/// # Errors
/// Those of fstat(2).
#[inline]
pub fn stat_fd(fd: BorrowedFd<'_>) -> Result<Stat> {
    seam::enter(Call::Stat)?;
    Ok(Stat::from_raw(&rustix::fs::fstat(fd)?))
}

/// The attributes of what a path of this process leads to, symlinks and mounts included; nothing is mounted for that.
///
/// # Errors
/// Those of [stat(2)](https://man7.org/linux/man-pages/man2/stat.2.html).
pub fn stat_path(path: &std::path::Path) -> Result<Stat> {
    seam::enter(Call::Stat)?;
    Ok(Stat::from_raw(&rustix::fs::statat(rustix::fs::CWD, path, rustix::fs::AtFlags::NO_AUTOMOUNT)?))
}

/// As [`stat_at`], without crossing into a mount: nothing is asked of a file system mounted on `name`.
///
/// # Errors
/// `EXDEV` if something is mounted on `name`; those of openat2(2).
pub fn stat_beneath(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat> {
    seam::enter(Call::StatBeneath)?;
    let object = open_confined(dir, name, OFlags::PATH)?;
    Ok(Stat::from_raw(&rustix::fs::fstat(&object)?))
}

/// When `name` in `dir` was made ([statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html), Linux 4.11); `None`: the
/// file system does not tell.
///
/// # Errors
/// `ENOENT` and those of statx(2).
pub fn born_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Time>> {
    seam::enter(Call::Stat)?;
    if newer::is_absent(Newer::Statx) {
        return Ok(None);
    }
    let found = rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME)?;
    let tells = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(tells.then_some(Time { sec: found.stx_btime.tv_sec, nsec: found.stx_btime.tv_nsec }))
}

/// Checks that this process may make and remove names in an open directory
/// ([faccessat(2)](https://man7.org/linux/man-pages/man2/access.2.html)).
///
/// # Errors
/// `EACCES`, `EROFS`, and those of faccessat(2).
pub fn may_change_in(dir: BorrowedFd<'_>) -> Result<()> {
    seam::enter(Call::Stat)?;
    Ok(rustix::fs::accessat(dir, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::empty())?)
}

/// What flags of chattr(1) forbid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protection {
    /// The object can only grow (`FS_APPEND_FL`).
    pub append: bool,
    /// The object cannot be changed (`FS_IMMUTABLE_FL`).
    pub immutable: bool,
}

/// Whether `name` in `dir` (or `dir` itself, `.`) may be changed, as
/// [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html) says without opening it (Linux 4.11; else it is opened);
/// where nobody says, nothing is forbidden.
///
/// # Errors
/// `ENOENT`, `ENOTDIR` and those of statx(2).
pub fn protection_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Protection> {
    seam::enter(Call::Stat)?;
    if newer::is_absent(Newer::Statx) {
        return protection_by_flags(dir, name);
    }
    let ask = |name: &CStr, flags| rustix::fs::statx(dir, name, flags, StatxFlags::TYPE).map_err(Errno::from);
    let mut answer = ask(name, AtFlags::SYMLINK_NOFOLLOW);
    if super::is_closed_itself(name, &answer) {
        answer = ask(c"", AtFlags::EMPTY_PATH);
    }
    match answer {
        Ok(found) => {
            let has = |flag| found.stx_attributes.contains(flag);
            Ok(Protection { append: has(StatxAttributes::APPEND), immutable: has(StatxAttributes::IMMUTABLE) })
        }
        Err(errno) if !super::has_call(errno) => {
            newer::lacks(Newer::Statx);
            protection_by_flags(dir, name)
        }
        Err(errno) => Err(errno),
    }
}

/// [`protection_at`] without statx: a file or directory is opened, if this user may read it.
fn protection_by_flags(dir: BorrowedFd<'_>, name: &CStr) -> Result<Protection> {
    let object = match name.to_bytes() {
        b"." => None,
        _ => Some(openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?),
    };
    let object = object.as_ref().map_or(dir, AsFd::as_fd);
    // Nodes are not opened.
    if !matches!(Kind::from_mode(rustix::fs::fstat(object)?.st_mode), Kind::File | Kind::Dir) {
        return Ok(Protection::default());
    }
    let flags = open_again(object, OFlags::RDONLY | OFlags::NONBLOCK).ok().and_then(|fd| ioctl_getflags(&fd).ok());
    let has = |flag| flags.is_some_and(|flags| flags.contains(flag));
    Ok(Protection { append: has(IFlags::APPEND), immutable: has(IFlags::IMMUTABLE) })
}

/// The size and state of a file system, as [statfs(2)](https://man7.org/linux/man-pages/man2/statfs.2.html) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StatFs {
    /// The magic number of its type, such as 0xef53 for ext4.
    pub magic: u64,
    /// Preferred size of a transfer, in bytes.
    pub bsize: u32,
    /// The unit of the block counts, in bytes.
    pub frsize: u32,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    /// Longest name, in bytes.
    pub namelen: u32,
}

/// The state of the file system that `fd` is on, opened with `O_PATH` or otherwise
/// ([fstatfs(2)](https://man7.org/linux/man-pages/man2/statfs.2.html)).
///
/// # Errors
/// Those of fstatfs(2).
// The types of the kernel's structure differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub fn statfs_fd(fd: BorrowedFd<'_>) -> Result<StatFs> {
    seam::enter(Call::StatFs)?;
    let raw = rustix::fs::fstatfs(fd)?;
    let bsize = raw.f_bsize as u32;
    // 32 bits everywhere; on some architectures they arrive with their sign extended.
    let mut magic = u64::from(raw.f_type as u32);
    if let Some(guise) = seam::guise().filter(|guise| stat_fd(fd).is_ok_and(|stat| stat.ino == guise.magic.0)) {
        magic = guise.magic.1;
    }
    Ok(StatFs {
        magic,
        bsize,
        frsize: if raw.f_frsize == 0 { bsize } else { raw.f_frsize as u32 },
        blocks: raw.f_blocks as u64,
        bfree: raw.f_bfree as u64,
        bavail: raw.f_bavail as u64,
        files: raw.f_files as u64,
        ffree: raw.f_ffree as u64,
        namelen: raw.f_namelen as u32,
    })
}

/// Whether `fd` is on a mount that honours no set-user-id bits
/// ([fstatvfs(3)](https://man7.org/linux/man-pages/man3/statvfs.3.html)).
///
/// # Errors
/// Those of fstatvfs(3).
pub fn mount_flags_nosuid(fd: BorrowedFd<'_>) -> Result<bool> {
    seam::enter(Call::StatFs)?;
    Ok(rustix::fs::fstatvfs(fd)?.f_flag.contains(StatVfsMountFlags::NOSUID))
}

/// Whether `fd` is on a mount, or in a file system, that is read-only
/// ([fstatvfs(3)](https://man7.org/linux/man-pages/man3/statvfs.3.html)).
///
/// # Errors
/// Those of fstatvfs(3).
pub fn is_read_only(fd: BorrowedFd<'_>) -> Result<bool> {
    seam::enter(Call::StatFs)?;
    Ok(rustix::fs::fstatvfs(fd)?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::base::Errno;
    use crate::sys::{mknod_at, open_root};

    #[test]
    fn kinds_and_their_numbers_belong_together() {
        for (kind, mode, dtype) in [
            (Kind::File, libc::S_IFREG, libc::DT_REG),
            (Kind::Dir, libc::S_IFDIR, libc::DT_DIR),
            (Kind::Symlink, libc::S_IFLNK, libc::DT_LNK),
            (Kind::Fifo, libc::S_IFIFO, libc::DT_FIFO),
            (Kind::Socket, libc::S_IFSOCK, libc::DT_SOCK),
            (Kind::Char, libc::S_IFCHR, libc::DT_CHR),
            (Kind::Block, libc::S_IFBLK, libc::DT_BLK),
        ] {
            assert_eq!((Kind::from_mode(mode | 0o7777), kind.to_mode()), (kind, mode));
            assert_eq!(Kind::from_dtype(dtype), Some(kind));
        }
        assert_eq!(Kind::from_mode(0o644), Kind::File);
        assert_eq!(Kind::from_dtype(libc::DT_UNKNOWN), None);
    }

    #[test]
    fn attributes_are_those_of_the_object_itself() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("f"), "four").unwrap();
        symlink("f", here.path().join("l")).unwrap();
        let dir = open_root(here.path()).unwrap();

        let file = stat_at(dir.as_fd(), c"f").unwrap();
        let expected = std::fs::symlink_metadata(here.path().join("f")).unwrap();
        assert_eq!((file.dev, file.ino, file.mode, file.size), (expected.dev(), expected.ino(), expected.mode(), 4));
        assert_eq!((file.nlink, file.blocks), (expected.nlink(), expected.blocks()));
        assert_eq!((file.mtime.sec, i64::from(file.mtime.nsec)), (expected.mtime(), expected.mtime_nsec()));
        assert!(file.is_file() && !file.is_dir() && !file.is_whiteout());

        assert!(stat_at(dir.as_fd(), c"l").unwrap().is_symlink());
        assert!(stat_beneath(dir.as_fd(), c"l").unwrap().is_symlink());
        assert_eq!(stat_beneath(dir.as_fd(), c"f"), Ok(file));
        assert!(stat_fd(dir.as_fd()).unwrap().is_dir());
        assert_eq!(stat_at(dir.as_fd(), c"none"), Err(Errno::ENOENT));

        if mknod_at(dir.as_fd(), c"w", libc::S_IFCHR, 0).is_ok() {
            assert!(stat_at(dir.as_fd(), c"w").unwrap().is_whiteout());
        }
    }

    #[test]
    fn nothing_is_asked_of_what_is_mounted_on_a_name() {
        let root = open_root(Path::new("/")).unwrap();
        assert!(stat_at(root.as_fd(), c"proc").is_ok());
        assert_eq!(stat_beneath(root.as_fd(), c"proc"), Err(Errno::EXDEV));
    }

    #[test]
    fn file_systems_are_described() {
        let proc = open_root(Path::new("/proc")).unwrap();
        assert_eq!(statfs_fd(proc.as_fd()).unwrap().magic, 0x9fa0);
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        let found = statfs_fd(dir.as_fd()).unwrap();
        assert!(found.blocks > 0 && found.frsize > 0 && found.namelen >= 255);
        mount_flags_nosuid(dir.as_fd()).unwrap();
    }
}
