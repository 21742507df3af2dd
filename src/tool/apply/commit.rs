//! Makes the steps of a journal. Each can be made again: the inode number in the journal tells whether it was made.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::journal::{Journal, Kept, Slot, Step, Was};
use super::reach::{Dirs, Id, id, open_dir, split, stat_in};
use super::same::{Touched, changed};
use super::since;
use super::{At, Loss, Outcome, Refusal, clean};
use crate::base::{Errno, Name, Result};
use crate::layer::DirPlace;
use crate::merge::Layers;
use crate::sys::data;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, SetTime, Stat, Time, stat_fd};
use crate::sys::tree::{self, RenameFlags};
use crate::tool::change::path_of;
use crate::upper::{Metadata, Staged as Object, remove};

use std::sync::Arc;

/// Told how many steps of how many are made.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What came of an apply that was broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resumed {
    /// There was none.
    Nothing,
    /// It had changed nothing, and nothing of it is left.
    Dropped,
    /// It is done.
    Done(Vec<Loss>),
}

/// Ends an apply that was broken off. `ours`: what has changed below meanwhile is overridden.
///
/// # Errors
/// [`Refusal`]; then it can be resumed again.
pub fn resume(layers: &Layers, dirs: &Dirs, ours: bool, progress: Progress<'_>) -> Outcome<Resumed> {
    let Some(kept) = Kept::find(dirs).at(b"")? else { return Ok(Resumed::Nothing) };
    let Some(journal) = kept.journal().at(b"")? else {
        drop_staged(&kept, dirs).at(b"")?;
        let losses = kept.cleaning().at(b"")?;
        kept.end(dirs).at(b"")?;
        return Ok(losses.map_or(Resumed::Dropped, Resumed::Done));
    };
    run((layers, dirs), kept, &journal, ours, progress).map(Resumed::Done)
}

/// Removes what an apply has staged that has not begun.
pub(super) fn drop_staged(kept: &Kept, dirs: &Dirs) -> Result<()> {
    let (token, anchors) = kept.staging()?;
    remove_anchors(dirs, &token, &anchors)
}

fn remove_anchors(dirs: &Dirs, token: &[u8], anchors: &[Vec<u8>]) -> Result<()> {
    if token.is_empty() {
        return Ok(());
    }
    let token = Name::new(token)?;
    for path in anchors {
        let removed =
            open_dir(dirs.lower.as_fd(), path).and_then(|dir| remove(dir.as_fd(), token.as_c_str(), Kind::Dir));
        match removed {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes all steps, and cleans the upper layer.
pub(super) fn run(
    (layers, dirs): (&Layers, &Dirs),
    kept: Kept,
    journal: &Journal,
    ours: bool,
    progress: Progress<'_>,
) -> Outcome<Vec<Loss>> {
    if id(&stat_fd(dirs.lower.as_fd()).at(b"")?) != journal.lower {
        let reason = "the lower directory is not the one that was being changed";
        return Err(Refusal::new(b"", reason, "mount or name the one that was there"));
    }
    let total = (journal.steps.len() + journal.cleans.len()) as u64;
    let made = kept.cleaning().at(b"")?;
    let (is_made, mut losses) = (made.is_some(), made.unwrap_or_else(|| journal.losses.clone()));
    if !is_made {
        let touched = Touched::of(&journal.steps);
        let steps = Steps { layers, dirs, journal, touched, ours };
        for (done, step) in journal.steps.iter().enumerate() {
            progress(done as u64, total);
            steps.make(step, &mut losses)?;
        }
        sync(dirs.lower.as_fd()).at(b"")?;
        losses.sort_by(|one, two| one.path.cmp(&two.path));
        kept.begin_cleaning(&losses).at(b"")?;
    }
    for (done, one) in journal.cleans.iter().enumerate() {
        progress((journal.steps.len() + done) as u64, total);
        clean::clean(layers, dirs, one)?;
    }
    remove_anchors(dirs, &journal.token, &journal.anchors).at(b"")?;
    sync(dirs.upper.as_fd()).at(b"")?;
    kept.end(dirs).at(b"")?;
    since::forget(layers, dirs).at(b"")?;
    progress(total, total);
    Ok(losses)
}

/// Writes all of a file system to the disk.
pub(super) fn sync(dir: BorrowedFd<'_>) -> Result<()> {
    data::syncfs(open_beneath(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY)?.as_fd())
}

struct Steps<'a> {
    layers: &'a Layers,
    dirs: &'a Dirs,
    journal: &'a Journal,
    touched: Touched,
    /// What has changed below meanwhile is overridden.
    ours: bool,
}

impl Steps<'_> {
    fn make(&self, step: &Step, losses: &mut Vec<Loss>) -> Outcome<()> {
        match step {
            Step::Narrow { id, mode, path } => self.narrow(*id, *mode, path).at(path),
            Step::Take { slot, id, was, .. } => self.take(*slot, *id, was).at(was),
            Step::Delete { slot, old, path } => self.delete(*slot, old, path),
            Step::Put { slot, id, old, parent, path } => self.put(*slot, *id, (*old, *parent), path),
            Step::Leaf { old, mode, times, path } => self.attribute(old, (*mode, *times), path),
            Step::Dir { all, path } => {
                let lost = self.attributes(*all, path).at(path)?;
                losses.extend(lost.into_iter().map(|what| Loss { path: path_of(path), what }));
                Ok(())
            }
        }
    }

    /// The directory and the name of a slot.
    fn slot(&self, slot: Slot) -> Result<(OwnedFd, CString)> {
        let anchor = self.journal.anchors.get(slot.anchor).ok_or(Errno::EIO)?;
        let dir = open_dir(self.dirs.lower.as_fd(), anchor)?;
        let token = Name::new(&self.journal.token)?;
        let staged = open_beneath(dir.as_fd(), token.as_c_str(), OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((staged, slot_name(slot)?))
    }

    /// Takes permissions away from a directory, if it still is where it was.
    fn narrow(&self, wanted: Id, most: u32, path: &[u8]) -> Result<()> {
        let (dir, name) = match self.at(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            found => found?,
        };
        let Some(there) = stat_in(dir.as_fd(), name.as_c_str())?.filter(|there| there.ino == wanted.1) else {
            return Ok(());
        };
        let mode = there.mode & 0o7777;
        if !there.is_dir() || mode & !most == 0 {
            return Ok(());
        }
        match tree::chmod_at(dir.as_fd(), name.as_c_str(), mode & most) {
            // What cannot be kept is told at the end.
            Err(Errno::EPERM) => Ok(()),
            done => done,
        }
    }

    /// Takes an object away from its path, if it is there.
    fn take(&self, slot: Slot, wanted: Id, path: &[u8]) -> Result<()> {
        let (staged, slot) = self.slot(slot)?;
        let (dir, name) = match self.at(path) {
            // A directory above was taken already.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            found => found?,
        };
        if stat_in(staged.as_fd(), &slot)?.is_some() || !is(stat_in(dir.as_fd(), name.as_c_str())?, wanted) {
            return Ok(());
        }
        rename_new((dir.as_fd(), name.as_c_str()), (staged.as_fd(), &slot))
    }

    /// Takes away an object that is still the one that was planned for.
    fn delete(&self, slot: Slot, old: &Was, path: &[u8]) -> Outcome<()> {
        let (staged, name_there) = self.slot(slot).at(path)?;
        if stat_in(staged.as_fd(), &name_there).at(path)?.is_some() {
            return Ok(());
        }
        let (dir, name) = match self.at(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            found => found.at(path)?,
        };
        if let Some(there) = stat_in(dir.as_fd(), name.as_c_str()).at(path)? {
            self.check_same(old, &there, path)?;
        }
        self.take(slot, old.id, path).at(path)
    }

    fn check_same(&self, old: &Was, there: &Stat, path: &[u8]) -> Outcome<()> {
        if self.ours {
            return Ok(());
        }
        let lower = self.layers.grounds().first().ok_or(Errno::EINVAL).at(path)?;
        let dir = || place_at(&lower.place, path);
        self.touched.check(old, (there, &dir), path)
    }

    fn at(&self, path: &[u8]) -> Result<(OwnedFd, Name)> {
        let (dir, name) = split(path)?.ok_or(Errno::EINVAL)?;
        Ok((open_dir(self.dirs.lower.as_fd(), dir)?, name))
    }

    fn put(&self, slot: Slot, wanted: Id, (old, parent): (Option<Was>, u64), path: &[u8]) -> Outcome<()> {
        let (staged, slot) = self.slot(slot).at(path)?;
        let new = stat_in(staged.as_fd(), &slot).at(path)?.filter(|new| new.ino == wanted.1);
        let (dir, name) = self.at(path).at(path)?;
        let (from, to) = ((staged.as_fd(), slot.as_c_str()), (dir.as_fd(), name.as_c_str()));
        let there = stat_in(dir.as_fd(), name.as_c_str()).at(path)?;
        let Some(new) = new else {
            // Made before, which only the object itself can tell: otherwise the upper layer has the last copy.
            if there.is_some_and(|there| there.ino == wanted.1) {
                return Ok(());
            }
            let reason = "what was put there, or is to be put there, is gone";
            let hint =
                "the upper layer still has it: look at it, and remove work/incompat/plyfs.apply in the work directory";
            return Err(Refusal::new(path, reason, hint));
        };
        if parent != 0 && !self.ours && stat_fd(dir.as_fd()).at(path)?.ino != parent {
            return Err(changed(path, "it was to come into another directory than the one that is there now"));
        }
        let Some(there) = there else { return rename_new(from, to).at(path) };
        // A lower whiteout is no object.
        if !there.is_whiteout() {
            self.check_same(&old.unwrap_or_default(), &there, path)?;
        }
        replace(from, to, [&new, &there].map(Stat::is_dir).contains(&true)).at(path)
    }

    /// Sets mode and times, of which one is another, of an object that is still the one that was looked at.
    fn attribute(&self, old: &Was, (mode, times): (u32, [Time; 2]), path: &[u8]) -> Outcome<()> {
        let (dir, name) = self.at(path).at(path)?;
        let found = stat_in(dir.as_fd(), name.as_c_str()).at(path)?;
        let Some(there) = found.filter(|there| there.ino == old.id.1) else { return Ok(()) };
        let has_mode = there.kind() == Kind::Symlink || there.mode & 0o7777 == mode;
        if has_mode && there.mtime == times[1] {
            return Ok(());
        }
        // The one that was killed may have set the mode.
        if !(has_mode && there.mtime == old.mtime) {
            self.check_same(old, &there, path)?;
        }
        self.set((dir.as_fd(), &name), &there, (mode, times)).at(path)
    }

    fn set(&self, (dir, name): (BorrowedFd<'_>, &Name), there: &Stat, (mode, times): (u32, [Time; 2])) -> Result<()> {
        if there.kind() != Kind::Symlink && there.mode & 0o7777 != mode {
            tree::chmod_at(dir, name.as_c_str(), mode)?;
        }
        tree::utimens_at(dir, name.as_c_str(), times.map(SetTime::At))
    }

    /// Gives a directory what the upper one has; what could not be kept.
    fn attributes(&self, all: bool, path: &[u8]) -> Result<Vec<String>> {
        let (Some(lower), Some(upper)) = (self.layers.grounds().first(), &self.layers.root.upper) else {
            return Err(Errno::EINVAL);
        };
        let place =
            if self.layers.are_several() { self.layers.top_part(path)?.place } else { place_at(&upper.place, path)? };
        let stat = place.stat_self()?;
        let dir = open_dir(self.dirs.lower.as_fd(), path)?;
        let to = Object::Open(dir.as_fd());
        if !all {
            return match tree::utimens_fd(dir.as_fd(), [SetTime::At(stat.atime), SetTime::At(stat.mtime)]) {
                // What comes and goes in the directory of somebody else changes its time.
                Ok(()) | Err(Errno::EPERM) => Ok(Vec::new()),
                Err(errno) => Err(errno),
            };
        }
        let metadata = Metadata::of(place.fd()?.as_fd(), c".", stat, (&place.layer, &lower.place.layer))?;
        metadata.give(to, &lower.place.layer)
    }
}

/// The place of a directory of a layer.
fn place_at(root: &Arc<DirPlace>, path: &[u8]) -> Result<Arc<DirPlace>> {
    let mut at = root.clone();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let name = Name::new(name)?;
        let stat = at.stat_on_disk(&name)?.filter(Stat::is_dir).ok_or(Errno::ENOENT)?;
        at = at.child(&name, stat.ino);
    }
    Ok(at)
}

pub(super) fn slot_name(slot: Slot) -> Result<CString> {
    CString::new(slot.number.to_string()).map_err(|_| Errno::EINVAL)
}

fn is(found: Option<Stat>, wanted: Id) -> bool {
    // After a remount the file system may have another number.
    found.is_some_and(|found| found.ino == wanted.1)
}

type Named<'a> = (BorrowedFd<'a>, &'a CStr);

/// Moves a name to one that is free.
fn rename_new(from: Named<'_>, to: Named<'_>) -> Result<()> {
    match tree::rename_at(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE) {
        // A file system without such flags.
        Err(Errno::EINVAL) => tree::rename_at(from.0, from.1, to.0, to.1, RenameFlags::empty()),
        done => done,
    }
}

/// Puts an object in the place of another.
fn replace(from: Named<'_>, to: Named<'_>, has_dir: bool) -> Result<()> {
    if !has_dir {
        return tree::rename_at(from.0, from.1, to.0, to.1, RenameFlags::empty());
    }
    match tree::rename_at(from.0, from.1, to.0, to.1, RenameFlags::EXCHANGE) {
        Err(Errno::EINVAL) => {
            let aside = CString::new([from.1.to_bytes(), b".old"].concat()).map_err(|_| Errno::EINVAL)?;
            tree::rename_at(to.0, to.1, from.0, &aside, RenameFlags::empty())?;
            tree::rename_at(from.0, from.1, to.0, to.1, RenameFlags::empty())
        }
        done => done,
    }
}
