//! New objects: create, mkdir, mknod, symlink.
//!
//! Without a whiteout in the way the object is made in the real parent with the caller's ids, by one system call: so
//! the upper layer's file system sees to set-group-id directories, default ACLs and quotas. Else the object is made in
//! a nursery in workdir, which is like the parent, and takes the whiteout's place by one rename.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::change::AbsentName;
use super::protect::Change;
use super::{Caller, Entry, InodeId, Union};
use crate::base::{DiskGid, DiskUid, Errno, Name, Result};
use crate::format::{OverrideKey, OverrideStat, OverrideType};
use crate::inode::{Body, DataFd, Inode, Names};
use crate::layer::{Evict, as_said};
use crate::merge::{Absent, DirPart, DirView, Found, FoundDir, FoundLeaf};
use crate::sys::path::OFlags;
use crate::sys::stat::{Kind, Stat, stat_at, stat_fd};
use crate::sys::{caller, tree, xattr};
use crate::upper::{Nursery, Staged, Temp, Upper, WhiteoutStyle, set_mark};

/// What to make; modes are permission bits.
#[derive(Debug, Clone, Copy)]
pub enum Make<'a> {
    /// A regular file.
    File {
        /// Permission bits before the umask.
        mode: u32,
    },
    /// A directory.
    Dir {
        /// Permission bits before the umask.
        mode: u32,
    },
    /// A fifo, socket or device, or a regular file, as `mknod(2)` makes it.
    Node {
        /// Type and permission bits before the umask.
        mode: u32,
        /// Device number.
        rdev: u64,
    },
    /// A symlink.
    Symlink {
        /// The path that it holds.
        target: &'a CStr,
    },
}

impl Make<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::File { .. } => Kind::File,
            Self::Dir { .. } => Kind::Dir,
            Self::Node { mode, .. } => Kind::from_mode(*mode),
            Self::Symlink { .. } => Kind::Symlink,
        }
    }

    /// The set-user-id and set-group-id bits that a new file is to have.
    fn set_ids(&self) -> u32 {
        match *self {
            Self::File { mode } | Self::Node { mode, .. } => mode & (libc::S_ISUID | libc::S_ISGID),
            Self::Dir { .. } | Self::Symlink { .. } => 0,
        }
    }

    /// Whether it is a 0/0 character device. In a layer that would be a whiteout, so that it is stored as a marked
    /// empty file.
    fn is_whiteout_like(&self) -> bool {
        matches!(self, Self::Node { rdev: 0, .. }) && self.kind() == Kind::Char
    }

    /// Makes the object at `name` in `dir`; returns a regular file open.
    fn at(&self, dir: BorrowedFd<'_>, name: &CStr, mask: u32) -> Result<Option<OwnedFd>> {
        match *self {
            Self::File { mode } => tree::create_at(dir, name, OFlags::RDWR, mode & !mask).map(Some),
            Self::Dir { mode } => tree::mkdir_at(dir, name, mode & !mask).map(|()| None),
            Self::Node { mode, .. } if self.is_whiteout_like() => {
                tree::create_at(dir, name, OFlags::RDWR, mode & 0o7777 & !mask).map(|_| None)
            }
            Self::Node { mode, rdev } => tree::mknod_at(dir, name, mode & !mask, rdev).map(|()| None),
            Self::Symlink { target } => tree::symlink_at(target, dir, name).map(|()| None),
        }
    }
}

/// A new object in the upper layer, not yet in the table.
struct Made {
    stat: Stat,
    file: Option<OwnedFd>,
}

impl Union {
    /// Makes an object under `name`, owned by the caller. The entry counts one lookup.
    ///
    /// # Errors
    /// `EEXIST`, `EROFS`, `ENOENT` in a removed directory, `EPERM` or `EOVERFLOW` where the process cannot make
    /// objects of this caller; what the system calls say.
    pub fn make(&self, caller: &Caller, parent: InodeId, name: &Name, what: Make<'_>) -> Result<Entry> {
        let made = self.again(|| {
            let upper = self.upper()?;
            self.check_name(name)?;
            let owner = if upper.owners().is_some() { self.owners.ids_of(caller) } else { self.owners.of_new(caller) }?;
            self.owners.check_new_set_ids(what.set_ids())?;
            let parent = self.inode(parent)?;
            self.check_flags(&parent, Change::Addition)?;
            let AbsentName { mut names, into, is_merged, absent } = self.lock_absent_name(&parent, name)?;
            let dir = into.place.fd()?;
            let owned =
                upper.owners().map(|owners| into.place.stat_self().map(|parent| (owners, parent))).transpose()?;
            let acl = owned.is_none() && self.has_default_acl(&mut names, dir.as_fd())?;
            let mask = if acl { 0 } else { caller.umask };
            if what.is_whiteout_like() && upper.style == WhiteoutStyle::File {
                // The layer can hold neither a device nor a mark that makes a file stand for one.
                return Err(Errno::EPERM);
            }
            names.begin();
            let group = self.owners.group_of_all();
            let making = Making { upper, owner, group, dir: dir.as_fd(), name, what: &what, mask, absent, is_merged };
            let made = match owned {
                Some((owners, parent)) => {
                    let gives_group = caller.keeps_sgid() || self.owners.is_in(caller, parent.gid);
                    making.marked(owners, (&parent, gives_group))?
                }
                None if making.is_staged()? => making.staged()?,
                None => making.direct()?,
            };
            names.added(&self.cookies, name, what.kind());
            self.enter_new(&parent, name, &into, &what, made)
        });
        self.or_made_before(caller, parent, name, made)
    }

    /// Whether a directory has a default ACL, so that the umask does not count in it. The answer is remembered.
    fn has_default_acl(&self, names: &mut Names, dir: BorrowedFd<'_>) -> Result<bool> {
        if self.noacl {
            return Ok(false);
        }
        if let Some(known) = names.default_acl {
            return Ok(known);
        }
        let found = xattr::get_at(dir, c".", c"system.posix_acl_default")?.is_some();
        names.default_acl = Some(found);
        Ok(found)
    }

    fn enter_new(
        &self,
        parent: &Arc<Inode>,
        name: &Name,
        into: &DirPart,
        what: &Make<'_>,
        made: Made,
    ) -> Result<Entry> {
        let Made { mut stat, file } = made;
        let found = if stat.is_dir() {
            let place = into.place.child(name, stat.ino);
            let upper = Some(DirPart { place, level: 0, xattr_whiteouts: into.xattr_whiteouts, impure: false });
            let view = DirView { upper, redirect: None, lowers: Arc::new([]) };
            Found::Dir(FoundDir { view, stat, lower: None, protection: Default::default(), plain: (false, false) })
        } else {
            let device = what.is_whiteout_like();
            if device {
                stat.mode = libc::S_IFCHR | (stat.mode & 0o7777);
            }
            let place = crate::layer::Place { dir: into.place.clone(), name: name.clone() };
            Found::Leaf(FoundLeaf::new_upper(place, stat, device))
        };
        let entry = self.enter(parent, name, &found)?;
        if let (Some(file), Some(inode)) = (file, self.table.get(entry.id)) {
            self.keep_open(&inode, file);
        }
        Ok(entry)
    }

    /// Keeps the descriptor of a new file, which can write the file even where its mode forbids to open it again.
    fn keep_open(&self, inode: &Arc<Inode>, file: OwnedFd) {
        let Body::Leaf(leaf) = &inode.body else { return };
        leaf.touch();
        *leaf.data().lock() = Some(DataFd { fd: Arc::new(file), readable: true, writable: true });
        let holder: std::sync::Weak<Inode> = Arc::downgrade(inode);
        let holder: std::sync::Weak<dyn Evict> = holder;
        self.fds.opened(holder);
    }
}

/// Runs `act` with the ids of the owner to be.
fn as_owner<T>((uid, gid): (DiskUid, DiskGid), act: impl FnOnce() -> Result<T>) -> Result<T> {
    if !caller::may_act_as_others() && uid != caller::own_ids().0 {
        return Err(Errno::EPERM);
    }
    caller::as_caller(uid, gid, act)
}

/// A new object that is being made.
struct Making<'a> {
    upper: &'a Upper,
    /// User and group that it will belong to.
    owner: (DiskUid, DiskGid),
    /// The group that it gets whatever group its directory hands on.
    group: Option<DiskGid>,
    dir: BorrowedFd<'a>,
    name: &'a Name,
    what: &'a Make<'a>,
    /// The permission bits that the object does not get.
    mask: u32,
    absent: Absent,
    /// The directory has lower parts.
    is_merged: bool,
}

impl<'a> Making<'a> {
    /// Whether the object cannot be made in its directory as it is to be seen there.
    fn is_staged(&self) -> Result<bool> {
        let Self { upper, group, dir, what, absent, .. } = *self;
        // In the style `.wh.` a whiteout has another name. A directory must be opaque before it is seen all the same.
        let takes_place = upper.style != WhiteoutStyle::File || what.kind() == Kind::Dir;
        if what.is_whiteout_like() || (absent == Absent::UpperWhiteout && takes_place) {
            return Ok(true);
        }
        // A directory with set-group-id hands on its group, and so does each where the mount says so (`grpid`).
        group.map_or(Ok(false), |group| Ok(stat_fd(dir)?.gid != group))
    }

    /// Makes the object in its directory.
    fn direct(&self) -> Result<Made> {
        let Self { upper, owner, dir, name, what, mask, absent, is_merged, .. } = *self;
        let is_dir = what.kind() == Kind::Dir;
        let file = as_owner(owner, || what.at(dir, name.as_c_str(), mask))?;
        if is_dir && is_merged {
            // No lower layer has the name now. The mark keeps it so if the union gets other lower layers one day.
            if let Err(errno) = upper.set_opaque(dir, name.as_c_str()) {
                log::debug!("{name:?} is not marked opaque: {errno}");
            }
        }
        match stat_at(dir, name.as_c_str()) {
            Ok(stat) => {
                // `X` beside `.wh.X` is seen. The whiteout goes last: if X had to be removed again it must still hide the
                // lower X.
                if absent == Absent::UpperWhiteout {
                    upper.drop_wh_file(dir, name);
                }
                Ok(Made { stat, file })
            }
            Err(errno) => {
                // Nobody has seen the object: the directory's names were locked all the time.
                let on_disk = if what.is_whiteout_like() { Kind::File } else { what.kind() };
                if let Err(errno) = crate::upper::remove(dir, name.as_c_str(), on_disk) {
                    log::warn!("{name:?}, which could not be looked at, stays: {errno}");
                }
                Err(errno)
            }
        }
    }

    /// Makes the object in workdir, and moves it to its name.
    fn staged(&self) -> Result<Made> {
        let Self { upper, what, absent, is_merged, .. } = *self;
        let temp = self.grow()?;
        let (work, at) = (upper.work(), temp.name());
        if what.kind() == Kind::Dir && (is_merged || absent == Absent::UpperWhiteout) {
            upper.marked(work, at, || upper.set_opaque(work, at))?;
        }
        if what.is_whiteout_like() {
            upper.marked(work, at, || upper.set_device(work, at))?;
        }
        let stat = stat_at(work, at)?;
        self.publish(temp)?;
        Ok(Made { stat, file: None })
    }

    /// Moves the object from workdir to its name.
    fn publish(&self, temp: Temp<'_>) -> Result<()> {
        let Self { upper, dir, name, what, absent, .. } = *self;
        match absent {
            Absent::Nowhere => temp.publish_new(dir, name.as_c_str()),
            Absent::UpperWhiteout if upper.style == WhiteoutStyle::File => {
                temp.publish_new(dir, name.as_c_str())?;
                upper.drop_wh_file(dir, name);
                Ok(())
            }
            Absent::UpperWhiteout if what.kind() != Kind::Dir => temp.publish(dir, name.as_c_str()),
            Absent::UpperWhiteout => temp.replace(dir, name.as_c_str(), Kind::Char).map(drop),
        }
    }

    /// Makes the object in workdir, with a mark of its owner, and moves it to its name. `parent`: the attributes of its
    /// directory, as they are shown, and whether the caller may give set-group-id for the directory's group.
    fn marked(&self, owners: OverrideKey, parent: (&Stat, bool)) -> Result<Made> {
        let Self { upper, dir, name, what, absent, is_merged, .. } = *self;
        let (said, kind) = (self.said(parent)?, what.kind());
        let temp = Temp::new(upper, kind)?;
        let (work, at) = (upper.work(), temp.name());
        let file = match *what {
            Make::Symlink { target } => {
                upper.stage_symlink(at, owners, &said, target)?;
                None
            }
            _ => {
                let file = upper.make_stand_in(at, kind, (said.mode, None))?;
                set_mark(Staged::Named(work, at), owners, &said)?;
                file.filter(|_| kind == Kind::File)
            }
        };
        if kind == Kind::Dir && (is_merged || absent == Absent::UpperWhiteout) {
            upper.set_opaque(work, at)?;
        }
        if what.is_whiteout_like() {
            upper.set_device(work, at)?;
        }
        let staged = stat_at(work, at)?;
        self.publish(temp)?;
        // The move has set the time of change.
        let stat = stat_at(dir, name.as_c_str()).unwrap_or(staged);
        Ok(Made { stat: as_said(&stat, &said), file })
    }

    /// What the mark of the object says: what a file system gives to an object of the owner's in such a directory.
    fn said(&self, (parent, gives_group): (&Stat, bool)) -> Result<OverrideStat> {
        let Self { owner: (uid, gid), what, mask, .. } = *self;
        let (kind, inherits) = (what.kind(), parent.mode & libc::S_ISGID != 0);
        let (mode, rdev) = match *what {
            Make::File { mode } | Make::Dir { mode } => (mode & !mask, 0),
            Make::Node { mode, rdev } => (mode & !mask, rdev),
            Make::Symlink { .. } => (0o777, 0),
        };
        let gid = self.group.unwrap_or(if inherits { parent.gid } else { gid });
        let mut mode = mode & 0o7777;
        if inherits && kind == Kind::Dir {
            mode |= libc::S_ISGID;
        }
        let is_sgid = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP;
        if kind != Kind::Dir && inherits && is_sgid && !gives_group {
            mode &= !libc::S_ISGID;
        }
        // The 0/0 device of a user is an empty file with a mark of its own.
        let kind = if what.is_whiteout_like() { Kind::File } else { kind };
        let kind = OverrideType::from_mode(kind.to_mode(), rdev).ok_or(Errno::EINVAL)?;
        Ok(OverrideStat { uid, gid, mode, kind })
    }

    /// Makes the object with the caller's ids in a nursery that is like `dir`, and moves it to workdir.
    fn grow(&self) -> Result<Temp<'a>> {
        let Self { upper, owner, group, dir, what, mask, .. } = *self;
        let nursery = Nursery::new(upper, dir, group)?;
        as_owner(owner, || what.at(nursery.fd(), Nursery::CHILD, mask))?;
        let on_disk = if what.is_whiteout_like() { Kind::File } else { what.kind() };
        nursery.grown(on_disk)
    }
}

/// Checks a symlink's target, and makes it a string for `symlinkat(2)`.
///
/// # Errors
/// `EINVAL` for a target with a NUL, `ENOENT` for an empty one.
pub fn symlink_target(bytes: &[u8]) -> Result<CString> {
    if bytes.is_empty() {
        return Err(Errno::ENOENT);
    }
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}
