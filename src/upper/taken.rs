//! Single paths that are taken out of an upper layer: what stood there moves into a commit of its own, and the layers below
//! show through.
//!
//! The commit is prepared with the directories that the paths need. Then each path is one rename. As long as that goes on,
//! the commit has a file `taking`: where it lacks some of its paths then, the next mount moves the others back.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::commits::{Commits, Standing, Successor, open_dir};
use crate::base::{Errno, Name, Result};
use crate::format::commits::{About, Stand};
use crate::format::mark::{Mark, Namespace};
use crate::sys::path::OFlags;
use crate::sys::stat::stat_at;
use crate::sys::tree::{self, RenameFlags};
use crate::sys::{data, xattr};

/// The name of the file in a commit that is about to take its paths.
pub(super) const TAKING: &CStr = c"taking";

/// The time for which an undo or a redo of paths that is under way is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// A path, from the root of a layer on; it has a last component.
pub type Path = Vec<Name>;

/// A path that is to be taken.
#[derive(Debug)]
struct Move {
    path: Path,
    /// The directory that holds it in the upper layer, and the one that will.
    from: OwnedFd,
    to: OwnedFd,
    done: bool,
}

/// Paths that are to be taken, and the commit that gets them. It goes with the value unless it has all of them.
#[derive(Debug)]
pub struct Taken {
    moves: Vec<Move>,
    /// The directories that were made in the commit, parents before what is in them.
    made: Vec<Path>,
    successor: Option<Successor>,
    synced: bool,
}

/// The directory at a path of a layer.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP` for a symlink, and what opening says.
pub fn dir_at(root: BorrowedFd<'_>, path: &[Name]) -> Result<OwnedFd> {
    path.iter().try_fold(open_dir(root, c".")?, |dir, name| open_dir(dir.as_fd(), name.as_c_str()))
}

/// A path as bytes.
pub fn joined(path: &[Name]) -> Vec<u8> {
    path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
}

fn split(path: &[u8]) -> Result<Path> {
    path.split(|&byte| byte == b'/').map(Name::new).collect()
}

fn last(path: &[Name]) -> Result<(&CStr, &[Name])> {
    path.split_last().map(|(name, above)| (name.as_c_str(), above)).ok_or(Errno::EINVAL)
}

impl Standing<'_> {
    /// Prepares a commit that stands where the upper layer does, and that takes these paths. Nothing is taken yet. `number`: the least
    /// number that it may have.
    ///
    /// # Errors
    /// What the system calls say; then nothing is left.
    pub fn prepare_taken(&self, paths: &[Path], (number, about): (u64, &About), from: Stand) -> Result<Taken> {
        let id = Commits::open(self.workdir, self.namespace)?.about(from.on).ok().and_then(|about| about.id);
        let stand = |_| Stand { id, ..from };
        let successor = self.prepare(self.root, (number, about), stand)?;
        let root = successor.root.try_clone()?;
        let mut taken = Taken { moves: Vec::new(), made: Vec::new(), successor: Some(successor), synced: self.synced };
        taken.begin()?;
        for path in paths {
            let (_, above) = last(path)?;
            let (mut from, mut to) = (open_dir(self.root, c".")?, open_dir(root.as_fd(), c".")?);
            for (depth, name) in above.iter().enumerate() {
                from = open_dir(from.as_fd(), name.as_c_str())?;
                let made = tree::mkdir_at(to.as_fd(), name.as_c_str(), 0o700);
                to = match made {
                    Ok(()) => {
                        taken.made.push(above.get(..=depth).unwrap_or(above).to_vec());
                        let to = open_dir(to.as_fd(), name.as_c_str())?;
                        self.dress_like(to.as_fd(), from.as_fd())?;
                        to
                    }
                    Err(Errno::EEXIST) => open_dir(to.as_fd(), name.as_c_str())?,
                    Err(errno) => return Err(errno),
                };
            }
            taken.moves.push(Move { path: path.clone(), from, to, done: false });
        }
        Ok(taken)
    }

    /// Makes a directory look like one of the upper layer, marks and all.
    fn dress_like(&self, dir: BorrowedFd<'_>, like: BorrowedFd<'_>) -> Result<()> {
        let mut marks = Vec::new();
        for mark in [Mark::Origin, Mark::Impure, Mark::Opaque] {
            let key = self.namespace.key(mark);
            marks.extend(xattr::get_at(like, c".", key)?.map(|value| (key, value)));
        }
        let marks: Vec<(&CStr, &[u8])> = marks.iter().map(|(key, value)| (*key, value.as_slice())).collect();
        self.dress(dir, like, like, &marks)
    }

    /// The directory at a path of a commit's layer, and the one of the upper layer, which is made anew where it is gone.
    fn dirs_back(&self, layer: BorrowedFd<'_>, path: &[Name]) -> Result<(OwnedFd, OwnedFd)> {
        let (mut from, mut to) = (open_dir(layer, c".")?, open_dir(self.root, c".")?);
        for name in path.iter().map(Name::as_c_str) {
            from = open_dir(from.as_fd(), name)?;
            to = match open_dir(to.as_fd(), name) {
                Err(Errno::ENOENT) => {
                    tree::mkdir_at(to.as_fd(), name, 0o700)?;
                    let made = open_dir(to.as_fd(), name)?;
                    self.dress_like(made.as_fd(), from.as_fd())?;
                    made
                }
                dir => dir?,
            };
        }
        Ok((from, to))
    }

    /// Moves paths back that were about to be taken when the process ended.
    pub(super) fn settle_taken(&self, commits: &Commits) -> Result<()> {
        let Some(&number) = commits.numbers()?.last() else { return Ok(()) };
        let (Ok(frozen), Ok(about)) = (commits.frozen(number), commits.about(number)) else { return Ok(()) };
        if !commits.is_taking(number)? {
            return Ok(());
        }
        let paths = about.paths().into_iter().map(split).collect::<Result<Vec<Path>>>().unwrap_or_default();
        let has = |path: &Path| {
            let (name, above) = last(path)?;
            let there = dir_at(frozen.root.as_fd(), above).and_then(|dir| stat_at(dir.as_fd(), name));
            match there {
                Ok(_) => Ok(true),
                Err(Errno::ENOENT) => Ok(false),
                Err(errno) => Err(errno),
            }
        };
        let there = paths.iter().map(has).collect::<Result<Vec<bool>>>()?;
        if there.iter().all(|&there| there) {
            return commits.has_taken(number);
        }
        for (path, _) in paths.iter().zip(&there).filter(|(_, there)| **there) {
            let (name, above) = last(path)?;
            let (from, to) = self.dirs_back(frozen.root.as_fd(), above)?;
            tree::rename_at(from.as_fd(), name, to.as_fd(), name, RenameFlags::NOREPLACE)?;
        }
        for path in &paths {
            let depths = (1..path.len()).rev();
            depths.for_each(|depth| remove_dir(frozen.root.as_fd(), path.get(..depth).unwrap_or_default()));
        }
        commits.has_taken(number)?;
        commits.remove_empty(number)
    }
}

/// Whether paths were about to be taken, or to be put back, when the process ended: the upper layer is neither what it was nor
/// what it is to be until the next mount.
///
/// # Errors
/// What reading the work directory says.
fn is_half_done(workdir: BorrowedFd<'_>, namespace: Namespace) -> Result<bool> {
    let commits = Commits::open(workdir, namespace)?;
    commits.numbers()?.last().map_or(Ok(false), |&number| commits.is_taking(number))
}

/// Whether an undo of paths, or the redo of one, was broken off. One that is under way is waited for.
pub fn is_broken_off(work: BorrowedFd<'_>, namespace: Namespace) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while let Ok(true) = is_half_done(work, namespace) {
        if Instant::now() > deadline {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

impl Commits {
    /// Whether a commit was about to take paths when the process ended.
    fn is_taking(&self, number: u64) -> Result<bool> {
        match stat_at(self.at(number)?.as_fd(), TAKING) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn has_taken(&self, number: u64) -> Result<()> {
        tree::unlink_at(self.at(number)?.as_fd(), TAKING)
    }
}

/// Paths of a commit that are about to move into the upper layer again.
#[derive(Debug)]
pub struct Returning {
    /// The paths.
    pub paths: Vec<Path>,
    /// The root of the commit's layer.
    pub root: OwnedFd,
    /// The commit to which redo led before.
    pub tip: Option<u64>,
    commits: Commits,
    number: u64,
    synced: bool,
    upper: OwnedFd,
}

impl Standing<'_> {
    /// Prepares to move the paths of a commit back.
    ///
    /// # Errors
    /// What opening it says; `EINVAL`: it is no such commit.
    pub fn prepare_return(&self, number: u64) -> Result<Returning> {
        let commits = Commits::open(self.workdir, self.namespace)?;
        let (frozen, about) = (commits.frozen(number)?, commits.about(number)?);
        let paths = about.paths().into_iter().map(split).collect::<Result<Vec<Path>>>()?;
        // The next mount settles only the last one.
        if paths.is_empty() || commits.numbers()?.last() != Some(&number) {
            return Err(Errno::EINVAL);
        }
        let (root, upper) = (open_dir(frozen.root.as_fd(), c".")?, open_dir(self.root, c".")?);
        Ok(Returning { paths, root, tip: frozen.stand.tip, commits, number, synced: self.synced, upper })
    }
}

impl Returning {
    /// Moves the paths. A process that is killed on the way goes on with the next mount.
    ///
    /// # Errors
    /// What the system calls say; then nothing has changed.
    pub fn put_back(&mut self, upper: BorrowedFd<'_>) -> Result<()> {
        let at = self.commits.at(self.number)?;
        let marker = tree::create_at(at.as_fd(), TAKING, OFlags::WRONLY, 0o600)?;
        if self.synced {
            data::fsync(marker.as_fd())?;
            data::fsync(at.as_fd())?;
        }
        for (done, path) in self.paths.iter().enumerate() {
            let (name, above) = last(path)?;
            let moved = dir_at(self.root.as_fd(), above).and_then(|from| {
                let to = dir_at(upper, above)?;
                tree::rename_at(from.as_fd(), name, to.as_fd(), name, RenameFlags::NOREPLACE)
            });
            if let Err(errno) = moved {
                for path in self.paths.iter().take(done) {
                    let (name, above) = last(path)?;
                    let (from, to) = (dir_at(upper, above)?, dir_at(self.root.as_fd(), above)?);
                    tree::rename_at(from.as_fd(), name, to.as_fd(), name, RenameFlags::NOREPLACE)?;
                }
                self.commits.has_taken(self.number)?;
                return Err(errno);
            }
        }
        Ok(())
    }

    /// Syncs what came back, and removes the commit, in which nothing is any more.
    ///
    /// # Errors
    /// What the system calls say: then the next mount does it.
    pub fn settle(&self) -> Result<()> {
        for path in self.paths.iter().filter(|_| self.synced) {
            data::fsync(dir_at(self.upper.as_fd(), last(path)?.1)?.as_fd())?;
        }
        for path in &self.paths {
            let depths = (1..path.len()).rev();
            depths.for_each(|depth| remove_dir(self.root.as_fd(), path.get(..depth).unwrap_or_default()));
        }
        self.commits.has_taken(self.number)?;
        self.commits.remove_empty(self.number)
    }
}

/// Removes an empty directory that was made for a path.
fn remove_dir(root: BorrowedFd<'_>, path: &[Name]) {
    let done = last(path).and_then(|(name, above)| tree::rmdir_at(dir_at(root, above)?.as_fd(), name));
    if let Err(errno) = done
        && errno != Errno::ENOENT
    {
        log::info!("a directory that was made for a path is left: {errno}");
    }
}

impl Taken {
    /// The number of the commit.
    pub fn number(&self) -> u64 {
        self.successor.as_ref().map_or(0, |successor| successor.number)
    }

    /// The root of the commit's layer.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`
    pub fn root(&self) -> Result<OwnedFd> {
        let successor = self.successor.as_ref().ok_or(Errno::EIO)?;
        open_dir(successor.root.as_fd(), c".")
    }

    /// The directories that hold the paths in the upper layer, in the order of the paths.
    pub fn parents(&self) -> impl Iterator<Item = (&Path, BorrowedFd<'_>)> {
        self.moves.iter().map(|one| (&one.path, one.from.as_fd()))
    }

    /// Takes the paths.
    ///
    /// # Errors
    /// What renameat2(2) says; then nothing has changed.
    pub fn take(&mut self) -> Result<()> {
        for at in 0..self.moves.len() {
            let Some(one) = self.moves.get_mut(at) else { break };
            let (name, _) = last(&one.path)?;
            match tree::rename_at(one.from.as_fd(), name, one.to.as_fd(), name, RenameFlags::NOREPLACE) {
                Ok(()) => one.done = true,
                Err(errno) => {
                    self.put_back();
                    return Err(errno);
                }
            }
        }
        Ok(())
    }

    fn begin(&self) -> Result<()> {
        let successor = self.successor.as_ref().ok_or(Errno::EIO)?;
        let file = tree::create_at(successor.at(), TAKING, OFlags::WRONLY, 0o600)?;
        if self.synced { data::fsync(file.as_fd()).and_then(|()| successor.sync_own()) } else { Ok(()) }
    }

    fn put_back(&mut self) {
        for one in self.moves.iter_mut().filter(|one| one.done).rev() {
            let back = last(&one.path).and_then(|(name, _)| {
                tree::rename_at(one.to.as_fd(), name, one.from.as_fd(), name, RenameFlags::NOREPLACE)
            });
            match back {
                Ok(()) => one.done = false,
                Err(errno) => log::error!("a path that was taken is not put back: {errno}"),
            }
        }
    }

    /// Syncs what was taken, and ends it.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`: then the next mount ends it.
    pub fn settle(&self) -> Result<()> {
        for one in self.moves.iter().filter(|_| self.synced) {
            data::fsync(one.to.as_fd())?;
            data::fsync(one.from.as_fd())?;
        }
        tree::unlink_at(self.successor.as_ref().ok_or(Errno::EIO)?.at(), TAKING)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Some(mut successor) = self.successor.take() else { return };
        if self.moves.iter().any(|one| one.done) {
            successor.keep();
            return;
        }
        let root = successor.root.as_fd();
        self.made.iter().rev().for_each(|path| remove_dir(root, path));
        let _ = tree::unlink_at(successor.at(), TAKING);
    }
}
