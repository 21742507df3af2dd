//! The plain values that operations take and return.

use std::sync::OnceLock;

use super::InodeId;
use super::owners::Owners;
use crate::base::{ViewGid, ViewUid};
use crate::inode::Inode;
use crate::sys::stat::{Kind, SetTime, Stat, Time};
use crate::sys::{caller, process};

/// The program that asks for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The owner of objects that it makes.
    pub uid: ViewUid,
    /// The group of objects that it makes.
    pub gid: ViewGid,
    /// Its thread id; 0: not known.
    pub pid: u32,
    /// Permission bits that objects which it makes do not get, unless the directory has a default ACL.
    pub umask: u32,
    /// The number of the request, which stays the same when the request is sent again; 0: none.
    pub request: u64,
    /// The request is sent again: a daemon that died may have carried it out.
    pub resent: bool,
}

impl Caller {
    /// This process itself, without a umask.
    pub fn this_process() -> Self {
        let (uid, gid) = (ViewUid(rustix::process::geteuid().as_raw()), ViewGid(rustix::process::getegid().as_raw()));
        Self { uid, gid, pid: 0, umask: 0, request: 0, resent: false }
    }

    /// Whether set-user-id bits stay when it changes a file (`CAP_FSETID`). Where the capabilities cannot be read root
    /// has it. In a user namespace nobody has it for files, not even the daemon.
    pub(super) fn keeps_privileges(self) -> bool {
        static INITIAL: OnceLock<bool> = OnceLock::new();
        *INITIAL.get_or_init(process::ids_are_initial) && self.keeps_sgid()
    }

    /// Whether it may give a file set-group-id for a group that it is not in (`CAP_FSETID` in its own user namespace).
    pub(super) fn keeps_sgid(self) -> bool {
        const CAP_FSETID: u32 = 4;
        self.has_cap(CAP_FSETID)
    }

    /// Whether it is in a group.
    pub(super) fn is_in(self, group: ViewGid) -> bool {
        caller::in_group(self.pid, self.gid, group)
    }

    /// Whether it is the user `uid`, an object's owner, or may act as the owner (`CAP_FOWNER`).
    pub(super) fn owns(self, uid: ViewUid) -> bool {
        const CAP_FOWNER: u32 = 3;
        self.uid == uid || self.has_cap(CAP_FOWNER)
    }

    /// Whether it sees `trusted.*` attributes (`CAP_SYS_ADMIN`).
    pub(super) fn sees_trusted(self) -> bool {
        const CAP_SYS_ADMIN: u32 = 21;
        self.has_cap(CAP_SYS_ADMIN)
    }

    fn has_cap(self, cap: u32) -> bool {
        caller::caller_has_cap(self.pid, cap).unwrap_or(self.uid == ViewUid(0))
    }
}

/// The attributes of an inode as they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attr {
    /// The inode.
    pub id: InodeId,
    /// Its type.
    pub kind: Kind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Link count.
    pub nlink: u32,
    /// Owner.
    pub uid: ViewUid,
    /// Group.
    pub gid: ViewGid,
    /// Device number, as `makedev(3)` composes it.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// 512-byte blocks on disk.
    pub blocks: u64,
    /// Preferred size of a request, in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl Attr {
    pub(super) fn new(inode: &Inode, stat: &Stat, nlink: u32, owners: &Owners) -> Self {
        let (uid, gid, mode) = owners.shown(stat);
        Self {
            id: inode.id,
            kind: inode.kind,
            mode,
            nlink,
            uid,
            gid,
            rdev: stat.rdev,
            size: stat.size,
            blocks: stat.blocks,
            blksize: stat.blksize,
            atime: stat.atime,
            mtime: stat.mtime,
            ctime: stat.ctime,
        }
    }
}

/// An inode that was looked up or made; it counts one lookup until [`super::Union::forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The inode.
    pub id: InodeId,
    /// Its attributes.
    pub attr: Attr,
}

/// Attributes to set; those that are `None` or [`SetTime::Omit`] stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttr {
    /// Permission bits (`0o7777`).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<ViewUid>,
    /// Group.
    pub gid: Option<ViewGid>,
    /// Bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: SetTime,
    /// Last change of the content.
    pub mtime: SetTime,
}

impl SetAttr {
    /// Whether no attribute is to be set.
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether setting the attributes takes more than one system call, of which a later one may fail.
    pub(super) fn is_several(&self) -> bool {
        let times = if self.size.is_some() { self.times_beside_size() } else { Some([self.atime, self.mtime]) };
        let times = times.is_some_and(|times| times != [SetTime::Omit; 2]);
        [self.sets_owner(), self.mode.is_some(), self.size.is_some(), times].iter().filter(|set| **set).count() > 1
    }

    /// Whether the owner or the group is to be set.
    pub(super) fn sets_owner(&self) -> bool {
        self.uid.is_some() || self.gid.is_some()
    }

    /// The times to set after a change of the length, which sets times by itself; `None`: no time is left to set.
    pub(super) fn times_beside_size(&self) -> Option<[SetTime; 2]> {
        let now = self.atime == SetTime::Omit && self.mtime == SetTime::Now;
        (!now).then_some([self.atime, self.mtime])
    }
}
