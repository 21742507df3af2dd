//! Paths that were taken back come again: what an undo has kept of them moves into the upper layer, where nothing has come in
//! its place since.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::labels::Lost;
use super::live::Live;
use super::returned::Notes;
use crate::base::{Errno, Name};
use crate::format::commits::Stand;
use crate::format::mark::Mark;
use crate::inode::{Body, InodeId};
use crate::layer::DirPlace;
use crate::sys::stat::{stat_at, stat_fd};
use crate::sys::xattr;
use crate::union::Union;
use crate::union::refusal::{Setup, SetupError};
use crate::upper::commits::stand_of;
use crate::upper::taken::{Path, Returning, dir_at, joined};

/// How often files of what comes back are looked for that the kernel still knows, and may forget soon.
const LOOKS: usize = 25;

fn failed(errno: Errno) -> SetupError {
    SetupError::new("redo", errno.to_string(), "nothing has changed")
}

fn refused<T>(path: &[Name], reason: &str, hint: &str) -> Setup<T> {
    Err(SetupError::new(String::from_utf8_lossy(&joined(path)).into_owned(), reason, hint))
}

impl Union {
    /// Whether a redo leads to paths that were taken back.
    pub(super) fn has_taken(&self) -> Setup<bool> {
        let stand = self.standpoint()?.stand;
        let (Some(tip), commits) = (stand.tip, self.commits()?) else { return Ok(false) };
        let is_taken = commits.about(tip).is_ok_and(|about| !about.paths().is_empty());
        Ok(is_taken && commits.frozen(tip).is_ok_and(|frozen| frozen.stand.on == stand.on))
    }

    /// Prepares the way back. Nothing that counts is changed.
    pub(super) fn make_ready_to_return(&self) -> Setup<Returning> {
        let root = self.root_fd()?;
        let (standing, stand) = (self.standing(&root)?, self.standpoint()?.stand);
        let Some(tip) = stand.tip else { return Err(failed(Errno::ENOENT)) };
        if !self.has_empty_index() {
            let reason =
                "hard links of a lower file were changed or removed since, and beside that they cannot come back";
            return Err(SetupError::new("single paths", reason, "plyfs undo N shows what is kept"));
        }
        let returning = standing.prepare_return(tip).map_err(failed)?;
        self.check_return(root.as_fd(), &returning)?;
        for mount in self.mounts_below()? {
            let is_at = |path: &&Path| mount.as_os_str().as_encoded_bytes().starts_with(&joined(path));
            if let Some(path) = returning.paths.iter().find(is_at) {
                return refused(path, "something is mounted at or below it", "unmount that first");
            }
        }
        Ok(returning)
    }

    /// Refuses paths at which something has changed since.
    fn check_return(&self, root: BorrowedFd<'_>, returning: &Returning) -> Setup<()> {
        let changed = "plyfs undo N shows what is kept";
        for path in &returning.paths {
            let Some((name, above)) = path.split_last() else { continue };
            for depth in 1..=above.len() {
                let dir = above.get(..depth).unwrap_or_default();
                let (there, kept) = (dir_at(root, dir), dir_at(returning.root.as_fd(), dir).map_err(failed)?);
                let Ok(there) = there else { return refused(path, "its directory has changed since", changed) };
                let mark =
                    |fd: BorrowedFd<'_>, mark| xattr::get_at(fd, c".", self.stands.own.key(mark)).map_err(failed);
                for of in [Mark::Opaque, Mark::Redirect] {
                    if mark(there.as_fd(), of)? != mark(kept.as_fd(), of)? {
                        return refused(path, "its directory has changed since", changed);
                    }
                }
            }
            let dir = dir_at(root, above).map_err(failed)?;
            match stat_at(dir.as_fd(), name.as_c_str()) {
                Err(Errno::ENOENT) => {}
                Ok(_) => return refused(path, "it has changed since", changed),
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(())
    }

    /// Whether somebody still has an object of what comes back. No request is under way.
    fn is_held(&self, returning: &Returning) -> Setup<bool> {
        let ino = stat_fd(returning.root.as_fd()).map_err(failed)?.ino;
        let mut held = false;
        self.table.for_each(&mut |inode| {
            if let Body::Leaf(leaf) = &inode.body
                && let Ok(object) = leaf.state.lock().current()
                && object.place.dir.layer.is_frozen()
            {
                held |= root_of(&object.place.dir).ino() == ino;
            }
        });
        Ok(held)
    }

    /// Moves the paths back; `None`: what was found before has changed. No request is under way.
    fn return_paths(&self, returning: &mut Returning) -> Setup<Option<Notes>> {
        let root = self.root_fd()?;
        if !self.has_empty_index() || self.is_held(returning)? {
            return Ok(None);
        }
        self.check_return(root.as_fd(), returning)?;
        let (now, own) = (stand_of(root.as_fd(), self.stands.own).map_err(failed)?, self.stands.own);
        returning.put_back(root.as_fd()).map_err(failed)?;
        let stand = Stand { tip: returning.tip, ..now };
        if let Err(errno) = xattr::set_fd(root.as_fd(), own.key(Mark::On), stand.encode().as_bytes(), 0) {
            log::warn!("the mark of the upper layer names a commit that is gone: {errno}");
        }
        self.ahead.forget();
        self.has_unsynced();
        let mut seeds = Vec::new();
        for path in &returning.paths {
            seeds.extend(self.seed(path));
        }
        self.table.for_each(&mut |inode| {
            if let Body::Dir(dir) = &inode.body {
                dir.names.write().forget();
            }
        });
        Ok(Some(self.returned(Lost::default(), &|part| part.level == 0, seeds)))
    }

    /// A path as the live inode of its directory and its name there, where that inode is live.
    pub(super) fn seed(&self, path: &[Name]) -> Option<(InodeId, Name)> {
        let (name, above) = path.split_last()?;
        let root = self.table.get(InodeId::ROOT)?;
        let parent = above.iter().try_fold(root, |at, name| self.table.by_name(at.id, name))?;
        Some((parent.id, name.clone()))
    }
}

fn root_of(dir: &Arc<DirPlace>) -> Arc<DirPlace> {
    let mut at = dir.clone();
    while let Some((parent, _)) = at.parent() {
        at = parent;
    }
    at
}

/// One attempt; `None`: it must be made again.
pub(super) fn try_return(view: &Live, check: &dyn Fn() -> Setup<()>) -> Setup<Option<u64>> {
    let union = view.enter().clone();
    union.make_whole()?;
    let mut returning = union.make_ready_to_return()?;
    for look in 0.. {
        if !union.is_held(&returning)? {
            break;
        }
        if look > LOOKS {
            let reason = "a program still has a file open of what comes back";
            return Err(SetupError::new("redo", reason, "plyfs undo N shows what is kept"));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let Some(closed) = view.close() else { return Ok(None) };
    if !union.check_whole()? {
        return Ok(None);
    }
    check()?;
    let Some(notes) = union.return_paths(&mut returning)? else { return Ok(None) };
    drop(closed);
    if let Err(errno) = returning.settle() {
        log::warn!("what came back is not settled until the next mount: {errno}");
    }
    union.tell_returned(&notes);
    Ok(Some(union.standpoint()?.stand.on))
}
