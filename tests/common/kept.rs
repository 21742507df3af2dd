//! The attributes that the kernel keeps of a view's object, and those that it is told when it asks anew.

use std::ffi::OsStr;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Result;

use super::Tree;

/// What stat(2) shows, but for the time of access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub size: u64,
    pub blocks: u64,
    pub mtime: (i64, u32),
    pub ctime: (i64, u32),
}

impl Kept {
    /// As the kernel answers by itself. Each attribute is asked for alone: who asks for several is answered with all of
    /// them anew as soon as one is out of date. What the kernel forgets most rarely comes first.
    pub fn now(tree: &Tree, path: impl AsRef<OsStr>) -> Result<Self> {
        Self::by(tree, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// As the file system answers that is asked.
    pub fn asked(tree: &Tree, path: impl AsRef<OsStr>) -> Result<Self> {
        Self::by(tree, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC)
    }

    fn by(tree: &Tree, path: &OsStr, how: AtFlags) -> Result<Self> {
        let at = tree.at(path);
        let one = |mask| statx(CWD, &at, how, mask);
        let mode = one(StatxFlags::MODE)?.stx_mode.into();
        let uid = one(StatxFlags::UID)?.stx_uid;
        let gid = one(StatxFlags::GID)?.stx_gid;
        let nlink = one(StatxFlags::NLINK)?.stx_nlink;
        let size = one(StatxFlags::SIZE)?.stx_size;
        let blocks = one(StatxFlags::BLOCKS)?.stx_blocks;
        let mtime = one(StatxFlags::MTIME)?.stx_mtime;
        let ctime = one(StatxFlags::CTIME)?.stx_ctime;
        let (mtime, ctime) = ((mtime.tv_sec, mtime.tv_nsec), (ctime.tv_sec, ctime.tv_nsec));
        Ok(Self { mode, uid, gid, nlink, size, blocks, mtime, ctime })
    }

    /// The mode alone, as the kernel answers by itself: that by which it gives a program its user.
    pub fn mode(tree: &Tree, path: impl AsRef<OsStr>) -> Result<u32> {
        let stat = statx(CWD, tree.at(path), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MODE)?;
        Ok(u32::from(stat.stx_mode) & 0o7777)
    }
}
