//! The work directory: taken for one process, cleaned, and marked while the layer is volatile.
//!
//! Layout as the kernel's OverlayFS has it (`Documentation/filesystems/overlayfs.rst`): changes are staged in
//! `workdir/work`, `work/incompat/volatile/dirty` says that nothing was synced.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::inherit::{disinherit, make_private};
use super::records::RECORDS;
use crate::base::{Errno, Result};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::{dirent, lock, tree};

const WORK: &CStr = c"work";
pub(super) const INCOMPAT: &CStr = c"incompat";
/// How long a daemon that was unmounted may take to end.
const HANDOVER: Duration = Duration::from_millis(500);

/// Why a workdir cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkError {
    /// Another process has the upper or work directory.
    InUse,
    /// A volatile mount was not unmounted in order, or an unknown feature is in use.
    Incompatible,
    /// A system call failed.
    Failed(Errno),
}

impl WorkError {
    /// Whether nothing can be written there, though it can be read: then the kernel's OverlayFS mounts read-only. Not on a
    /// file system that is read-only itself, of which it takes no upper layer.
    pub fn is_unwritable(self) -> bool {
        matches!(self, Self::Failed(Errno::EACCES | Errno::EPERM | Errno::ENOSPC | Errno::EDQUOT))
    }
}

impl From<Errno> for WorkError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// A workdir that is ours.
pub struct Workdir(OwnedFd);

impl Workdir {
    /// Locks the upper and the work directory for this process. Nothing is changed yet.
    ///
    /// # Errors
    /// [`WorkError::InUse`]; what opening them says.
    pub fn lock(dirs: [BorrowedFd<'_>; 2]) -> std::result::Result<Vec<OwnedFd>, WorkError> {
        dirs.into_iter()
            .map(|dir| {
                let fd = open_beneath(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
                // Who has just unmounted may mount again at once: that daemon is about to end.
                let deadline = Instant::now() + HANDOVER;
                while !lock::try_lock(fd.as_fd())? {
                    if Instant::now() > deadline {
                        return Err(WorkError::InUse);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(fd)
            })
            .collect()
    }

    /// Makes `workdir/work` an empty directory of ours, for the upper layer of that root. `kept`: the inode numbers of what
    /// stays there, where this goes on with a mount whose daemon died; its mark that nothing is synced is ours then.
    ///
    /// # Errors
    /// [`WorkError::Incompatible`]; what the system calls say.
    pub fn prepare(
        (workdir, root): (BorrowedFd<'_>, BorrowedFd<'_>),
        kept: Option<&HashSet<u64>>,
    ) -> std::result::Result<Self, WorkError> {
        match tree::mkdir_at(workdir, WORK, 0o700) {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                // The kernel leaves it with mode 0000, which its owner cannot look into without privilege.
                tree::chmod_at(workdir, WORK, 0o700)?;
            }
            Err(errno) => return Err(errno.into()),
        }
        let work = open_beneath(workdir, WORK, OFlags::RDONLY | OFlags::DIRECTORY)?;
        make_private(work.as_fd(), workdir)?;
        super::records::drop_dirs(work.as_fd())?;
        if kept.is_none() && stat_at(work.as_fd(), INCOMPAT).is_ok() {
            take_over_records(work.as_fd())?;
        }
        empty(work.as_fd(), kept)?;
        disinherit(work.as_fd(), root)?;
        Ok(Self(work))
    }

    /// The directory in which changes are staged.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Leaves the kernel's mark that nothing in this layer is synced.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn mark_volatile(&self) -> Result<()> {
        let work = self.work();
        match tree::mkdir_at(work, INCOMPAT, 0o700) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let incompat = open_beneath(work, INCOMPAT, OFlags::RDONLY | OFlags::DIRECTORY)?;
        match tree::mkdir_at(incompat.as_fd(), c"volatile", 0o700) {
            // The mount goes on (see `prepare`).
            Err(Errno::EEXIST) => return Ok(()),
            made => made?,
        }
        let volatile = open_beneath(incompat.as_fd(), c"volatile", OFlags::RDONLY | OFlags::DIRECTORY)?;
        tree::create_at(volatile.as_fd(), c"dirty", OFlags::WRONLY, 0o600).map(drop)
    }

    pub(super) fn into_work(self) -> OwnedFd {
        self.0
    }
}

/// Looks whether all that an earlier mount has left in `incompat` are records of blocks, which stay.
fn take_over_records(work: BorrowedFd<'_>) -> std::result::Result<(), WorkError> {
    let open = |at: BorrowedFd<'_>, name| open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY);
    let incompat = open(work, INCOMPAT).map_err(|_| WorkError::Incompatible)?;
    let kept = children(incompat.as_fd())?;
    if kept.iter().any(|(name, _)| name.as_c_str() != RECORDS) {
        return Err(WorkError::Incompatible);
    }
    make_private(incompat.as_fd(), work)?;
    if !kept.is_empty() {
        let records = open(incompat.as_fd(), RECORDS).map_err(|_| WorkError::Incompatible)?;
        make_private(records.as_fd(), incompat.as_fd())?;
    }
    Ok(())
}

/// Removes everything in `work` but what stands there for other mounts, and what is `kept`.
fn empty(work: BorrowedFd<'_>, kept: Option<&HashSet<u64>>) -> Result<()> {
    for (name, kind) in children(work)?.into_iter().filter(|(name, _)| name.as_c_str() != INCOMPAT) {
        let stays = match kept {
            Some(kept) if !kept.is_empty() && kind != Kind::Dir => kept.contains(&stat_at(work, &name)?.ino),
            _ => false,
        };
        if !stays {
            remove(work, &name, kind)?;
        }
    }
    Ok(())
}

/// A directory that is being emptied.
struct Emptying {
    fd: OwnedFd,
    name: CString,
    left: Vec<(CString, Kind)>,
}

/// Removes `name` and all below it; a directory's depth costs no stack.
///
/// # Errors
/// What the system calls say.
pub fn remove(dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<()> {
    if kind != Kind::Dir {
        return tree::unlink_at(dir, name);
    }
    match tree::rmdir_at(dir, name) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
        done => return done,
    }
    let open = |at: BorrowedFd<'_>, name: &CStr| -> Result<OwnedFd> {
        let open = || open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY);
        match open() {
            Err(Errno::EACCES) => {
                tree::chmod_at(at, name, 0o700)?;
                open()
            }
            fd => fd,
        }
    };
    let first = open(dir, name)?;
    let left = children(first.as_fd())?;
    let mut stack = vec![Emptying { fd: first, name: name.to_owned(), left }];
    while let Some(Emptying { fd, left, .. }) = stack.last_mut() {
        match left.pop() {
            Some((name, Kind::Dir)) => match tree::rmdir_at(fd.as_fd(), &name) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    let below = open(fd.as_fd(), &name)?;
                    let left = children(below.as_fd())?;
                    stack.push(Emptying { fd: below, name, left });
                }
                done => done?,
            },
            Some((name, _)) => unlink_in(fd.as_fd(), &name)?,
            None => {
                let Some(empty) = stack.pop() else { break };
                let parent = stack.last().map_or(dir, |above| above.fd.as_fd());
                tree::rmdir_at(parent, &empty.name)?;
            }
        }
    }
    Ok(())
}

/// Unlinks in a directory of our own that may lack write permission.
fn unlink_in(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match tree::unlink_at(dir, name) {
        Err(Errno::EACCES) => {
            tree::chmod_fd(dir, 0o700)?;
            tree::unlink_at(dir, name)
        }
        done => done,
    }
}

pub(super) fn children(dir: BorrowedFd<'_>) -> Result<Vec<(CString, Kind)>> {
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    dirent::read_dir(dir, &mut |entry| {
        match entry.kind {
            Some(kind) => found.push((entry.name.to_owned(), kind)),
            None => unknown.push(entry.name.to_owned()),
        }
        true
    })?;
    for name in unknown {
        let kind = stat_at(dir, &name)?.kind();
        found.push((name, kind));
    }
    Ok(found)
}
