//! The work directory: locked for one process, emptied, and marked while the layer is volatile.
//!
//! The layout is that of the kernel's OverlayFS (`Documentation/filesystems/overlayfs.rst`): changes are staged in
//! `workdir/work`, and `work/incompat/volatile/dirty` says that nothing was synced.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::inherit::{disinherit, make_private};
use super::records::{APPLY, INCOMPAT, RECORDS, drop_dirs};
use super::removal::{children, remove};
use crate::base::{Errno, Result};
use crate::format::wh;
use crate::layer::narrow_again;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::{lock, tree, xattr};

const WORK: &CStr = c"work";
/// The attribute of a `work` that was made when the upper layer was empty, so that all changes are later than it. The kernel's
/// OverlayFS makes another `work` at each mount, without it.
pub const FIRST: &CStr = c"user.plyfs.first";
/// The most time that a daemon may take to end after its unmount.
const HANDOVER: Duration = Duration::from_millis(500);

/// Why a workdir cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkError {
    /// Another process has locked the upper or the work directory.
    InUse,
    /// A volatile mount did not end in order, or the layer uses an unknown feature.
    Incompatible,
    /// `plyfs apply` was broken off.
    Applying,
    /// This name in `workdir/work` is none that an overlay makes.
    Foreign(CString),
    /// A system call failed.
    Failed(Errno),
}

impl WorkError {
    /// Whether the workdir can be read but not written, for which the kernel's OverlayFS mounts read-only. A read-only
    /// file system does not count: the kernel refuses an upper layer on it.
    pub fn is_unwritable(&self) -> bool {
        matches!(self, Self::Failed(Errno::EACCES | Errno::EPERM | Errno::ENOSPC | Errno::EDQUOT))
    }
}

impl From<Errno> for WorkError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// A workdir that is ready for use.
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
                // A user may mount again right after an unmount, while the old daemon is about to end.
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

    /// Makes `workdir/work` an empty directory of this process's user, for the upper layer with the root `root`.
    /// `kept`: this goes on with a mount whose daemon died, and objects with these inode numbers stay; so does the mark
    /// that nothing is synced.
    ///
    /// # Errors
    /// [`WorkError::Incompatible`], [`WorkError::Foreign`]; what the system calls say.
    pub fn prepare(
        (workdir, root): (BorrowedFd<'_>, BorrowedFd<'_>),
        kept: Option<&HashSet<u64>>,
    ) -> std::result::Result<Self, WorkError> {
        let first = match tree::mkdir_at(workdir, WORK, 0o700) {
            Ok(()) => is_empty(root),
            Err(Errno::EEXIST) => {
                let mode = stat_at(workdir, WORK)?.mode & 0o7777;
                // The kernel leaves the directory with mode 0000, which its owner cannot enter without privilege.
                tree::chmod_at(workdir, WORK, 0o700)?;
                if let Some(name) = foreign(workdir)? {
                    tree::chmod_at(workdir, WORK, mode)?;
                    return Err(WorkError::Foreign(name));
                }
                false
            }
            Err(errno) => return Err(errno.into()),
        };
        let work = open_beneath(workdir, WORK, OFlags::RDONLY | OFlags::DIRECTORY)?;
        make_private(work.as_fd(), workdir)?;
        drop_dirs(work.as_fd())?;
        if kept.is_none() && stat_at(work.as_fd(), INCOMPAT).is_ok() {
            take_over_records(work.as_fd())?;
        }
        narrow_again(work.as_fd(), [root, workdir]);
        empty(work.as_fd(), kept)?;
        disinherit(work.as_fd(), root)?;
        if first {
            // Without the mark the birth of the upper layer's root counts, which is no later.
            let _ = xattr::set_fd(work.as_fd(), FIRST, b"y", 0);
        }
        Ok(Self(work))
    }

    /// The directory in which changes are staged.
    pub fn work(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes the kernel's mark that nothing in this layer is synced.
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
            // This mount goes on after another daemon (see `prepare`).
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

/// Whether a directory is known to be empty.
fn is_empty(dir: BorrowedFd<'_>) -> bool {
    let listed = open_beneath(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY).and_then(|dir| children(dir.as_fd()));
    listed.is_ok_and(|names| names.is_empty())
}

/// A name in `work` that no overlay makes, which is somebody's who did not know what a workdir is: what is left of overlays
/// has names of digits (fuse-overlayfs) or such as `#1a` (the kernel, plyfs). A directory of digits may be a year's.
fn foreign(workdir: BorrowedFd<'_>) -> Result<Option<CString>> {
    let work = open_beneath(workdir, WORK, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for (name, kind) in children(work.as_fd())? {
        let bytes = name.to_bytes();
        let is_count =
            || bytes.iter().all(u8::is_ascii_digit) && (kind != Kind::Dir || holds_nothing(work.as_fd(), &name));
        if !(bytes.starts_with(b"#") || name.as_c_str() == INCOMPAT || is_count()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Whether a directory has nothing but whiteouts, as one that fuse-overlayfs took away.
fn holds_nothing(work: BorrowedFd<'_>, name: &CStr) -> bool {
    let Ok(dir) = open_beneath(work, name, OFlags::RDONLY | OFlags::DIRECTORY) else { return false };
    let is_whiteout = |(name, _): &(CString, Kind)| {
        name.to_bytes().starts_with(wh::PREFIX) || stat_at(dir.as_fd(), name).is_ok_and(|stat| stat.is_whiteout())
    };
    children(dir.as_fd()).is_ok_and(|names| names.iter().all(is_whiteout))
}

/// Checks that an earlier mount has left nothing in `incompat` but records of blocks, which stay.
fn take_over_records(work: BorrowedFd<'_>) -> std::result::Result<(), WorkError> {
    let open = |at: BorrowedFd<'_>, name| open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY);
    let incompat = open(work, INCOMPAT).map_err(|_| WorkError::Incompatible)?;
    let kept = children(incompat.as_fd())?;
    if kept.iter().any(|(name, _)| name.as_c_str() == APPLY) {
        return Err(WorkError::Applying);
    }
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

/// Empties `work` but for `incompat` and the objects in `kept`.
///
/// # Errors
/// What the system calls say.
pub(super) fn empty(work: BorrowedFd<'_>, kept: Option<&HashSet<u64>>) -> Result<()> {
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
