//! Single paths that go back to what they were at the last commit: what the upper layer has there is taken out of it, and kept
//! as a commit of its own. The stack stays as it is.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{SystemTime, UNIX_EPOCH};

use super::labels::Lost;
use super::returned::Notes;
use crate::base::{Errno, Name, Result};
use crate::format::Redirect;
use crate::format::commits::{About, MOST_TEXT, Stand, Why};
use crate::format::mark::{Mark, Namespace, Opacity};
use crate::inode::Body;
use crate::layer::{DirPlace, Place};
use crate::merge::{self, Answer, DirPart, DirView, Found};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::random_bytes;
use crate::sys::stat::{Stat, stat_at, stat_fd};
use crate::sys::{dirent, xattr};
use crate::union::Union;
use crate::union::refusal::{Setup, SetupError};
use crate::upper::commits::stand_of;
use crate::upper::taken::{Path, Taken, dir_at, joined};

/// Paths that are about to be taken.
pub(super) struct Taking {
    taken: Taken,
    /// How many directories had been renamed when it was looked for renames.
    moved_dirs: u64,
    /// The commit that shows through.
    pub on: u64,
}

/// A directory in what is taken: the place of its parent in the list (`None`: the directory that holds the path), its name
/// and its inode number.
struct Below {
    parent: Option<usize>,
    name: Name,
    ino: u64,
}

/// By its inode number, how many names of a file are in what is taken, how many it has, and the first path that has one.
type Links = HashMap<u64, (u64, u64, Path)>;

fn shown(path: &[Name]) -> String {
    String::from_utf8_lossy(&joined(path)).into_owned()
}

fn refused<T>(path: &[Name], reason: impl Into<String>, hint: impl Into<String>) -> Setup<T> {
    Err(SetupError::new(shown(path), reason, hint))
}

/// Whether anything says that a directory hides those below it: a view believes more marks than its own.
fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool> {
    for namespace in [Namespace::Trusted, Namespace::User] {
        let mark = xattr::get_at(dir, c".", namespace.key(Mark::Opaque))?;
        if Opacity::parse(mark.as_deref()) == Opacity::Opaque {
            return Ok(true);
        }
    }
    match stat_at(dir, c".wh..wh..opq") {
        Err(Errno::ENOENT) => Ok(false),
        there => there.map(|_| true),
    }
}

fn at(path: &[Name]) -> impl Fn(Errno) -> SetupError {
    move |errno| SetupError::new(shown(path), errno.to_string(), "nothing has changed")
}

/// The paths without those that lie below another one.
fn parse(paths: &[Vec<u8>]) -> Setup<Vec<Path>> {
    let parse = |path: &Vec<u8>| {
        let parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty());
        let names = parts.map(Name::new).collect::<Result<Path>>();
        let names = names.map_err(|errno| {
            SetupError::new(String::from_utf8_lossy(path).into_owned(), errno.to_string(), "name a path in the view")
        })?;
        match names.is_empty() {
            true => Err(SetupError::new("/", "it is the whole view", "plyfs undo without a path goes back with that")),
            false => Ok(names),
        }
    };
    let mut all = paths.iter().map(parse).collect::<Setup<Vec<Path>>>()?;
    all.sort();
    all.dedup_by(|later, earlier| later.starts_with(earlier));
    if all.iter().map(|path| joined(path).len() + 1).sum::<usize>() > MOST_TEXT {
        return Err(SetupError::new(
            "the paths",
            format!("they have more than {MOST_TEXT} bytes"),
            "name a directory, or some in each of several commands",
        ));
    }
    Ok(all)
}

impl Union {
    /// Prepares to take paths. Nothing that counts is changed.
    pub(super) fn make_ready_to_take(&self, paths: &[Vec<u8>]) -> Setup<Taking> {
        let root = self.root_fd()?;
        let standing = self.standing(&root)?;
        let (paths, stand) = (parse(paths)?, self.standpoint()?.stand);
        if !self.has_empty_index() {
            let reason =
                "hard links of a lower file were changed or removed, and beside that they cannot be taken back";
            return Err(SetupError::new("single paths", reason, "plyfs undo without a path goes back with everything"));
        }
        let moved_dirs = self.moved_dirs();
        paths.iter().try_for_each(|path| self.check_path(root.as_fd(), path))?;
        self.check_renames(root.as_fd(), &paths)?;
        for mount in self.mounts_below()? {
            let is_at = |path: &&Path| mount.starts_with(std::path::Path::new(&shown(path)));
            if let Some(path) = paths.iter().find(is_at) {
                return refused(
                    path,
                    Errno::EBUSY.to_string(),
                    "something is mounted at or below it; unmount that first",
                );
            }
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let text = About::of_paths(&paths.iter().map(|path| joined(path)).collect::<Vec<_>>());
        let failed = |errno: Errno| SetupError::new("getrandom", errno.to_string(), "");
        let id = Some(u128::from_ne_bytes(random_bytes().map_err(failed)?));
        let about = About { seconds, why: Why::Paths, id, text };
        let number = self.next_number()?;
        let taken = standing
            .prepare_taken(&paths, (number, &about), stand)
            .map_err(|errno| SetupError::new("workdir/commits", errno.to_string(), "nothing has changed"))?;
        Ok(Taking { taken, moved_dirs, on: stand.on })
    }

    /// Refuses a path at which the upper layer has nothing, or whose directories are not what they were.
    fn check_path(&self, root: BorrowedFd<'_>, path: &[Name]) -> Setup<()> {
        let (own, failed) = (self.stands.own, at(path));
        let mut dir = dir_at(root, &[]).map_err(&failed)?;
        let mut anew = None;
        for (depth, name) in path.iter().enumerate() {
            let here = path.get(..=depth).unwrap_or(path);
            let stat = match stat_at(dir.as_fd(), name.as_c_str()) {
                Err(Errno::ENOENT) => {
                    let hint = "plyfs diff tells what has changed";
                    return refused(path, "nothing has changed there since the last commit", hint);
                }
                stat => stat.map_err(&failed)?,
            };
            if here.len() == path.len() {
                break;
            }
            let undo_that = || format!("take {} back, too", shown(here));
            if !stat.is_dir() {
                return refused(path, format!("its directory {} is deleted or replaced", shown(here)), undo_that());
            }
            dir = open_beneath(dir.as_fd(), name.as_c_str(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(&failed)?;
            let mark = |mark| xattr::get_at(dir.as_fd(), c".", own.key(mark)).map_err(&failed);
            if mark(Mark::Redirect)?.is_some() {
                return refused(path, format!("its directory {} was renamed", shown(here)), undo_that());
            }
            if anew.is_none() && is_opaque(dir.as_fd()).map_err(&failed)? {
                anew = Some(here);
            }
        }
        match anew {
            Some(dir) if self.is_below(path).map_err(failed)? => {
                let (reason, hint) = (format!("its directory {} was made anew", shown(dir)), shown(dir));
                refused(path, reason, format!("take {hint} back, too"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the layers below the upper one show a path.
    fn is_below(&self, path: &[Name]) -> Result<bool> {
        let mut view = DirView { upper: None, redirect: None, lowers: self.stack.lowers.clone() };
        for (depth, name) in path.iter().enumerate() {
            match merge::lookup(&self.stack, &view, name)? {
                Answer::Found(Found::Dir(found)) => view = found.view,
                Answer::Found(Found::Leaf(_)) => return Ok(depth + 1 == path.len()),
                Answer::Absent(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Refuses to take one end of a renamed directory without the other one.
    fn check_renames(&self, root: BorrowedFd<'_>, paths: &[Path]) -> Setup<()> {
        let failed = |errno: Errno| SetupError::new("upperdir", errno.to_string(), "nothing has changed");
        let is_taken = |path: &Path| paths.iter().any(|taken| path.starts_with(taken));
        for (is, was) in self.renamed_dirs(root).map_err(failed)? {
            let hint = |other: &Path| format!("name {} as well: both or none", shown(other));
            match (is_taken(&is), is_taken(&was)) {
                (true, false) => return refused(&is, format!("it was renamed from {}", shown(&was)), hint(&was)),
                (false, true) => return refused(&was, format!("it was renamed to {}", shown(&is)), hint(&is)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the paths; `None`: what was found before has changed. No request is under way.
    pub(super) fn take_paths(&self, taking: &mut Taking) -> Setup<Option<Notes>> {
        let failed = |errno: Errno| SetupError::new("upperdir", errno.to_string(), "nothing has changed");
        let root = self.root_fd()?;
        if self.linked.moved_dirs.load(SeqCst) != taking.moved_dirs || !self.has_empty_index() {
            return Ok(None);
        }
        let (mut moves, mut links) = (Vec::new(), Links::new());
        for (path, parent) in taking.taken.parents() {
            let Some((name, above)) = path.split_last() else { return Ok(None) };
            let there = dir_at(root.as_fd(), above).and_then(|dir| stat_fd(dir.as_fd()));
            let held = stat_fd(parent).map_err(failed)?;
            if there.map(|there| there.ino) != Ok(held.ino) || stat_at(parent, name.as_c_str()).is_err() {
                return Ok(None);
            }
            let below = self.look_through(path, parent, name, &mut links)?;
            moves.push((path.clone(), held.ino, below));
        }
        if let Some((.., path)) = links.values().find(|(names, links, _)| names < links) {
            let hint = "take all of its names back at once";
            return refused(path, "a file has more names, elsewhere in the view", hint);
        }
        taking.taken.take().map_err(failed)?;
        // A redo leads back.
        let (own, tip) = (self.stands.own, Some(taking.number()));
        let marked = stand_of(root.as_fd(), own).and_then(|stand| {
            let stand = Stand { tip, ..stand };
            xattr::set_fd(root.as_fd(), own.key(Mark::On), stand.encode().as_bytes(), 0)
        });
        if let Err(errno) = marked {
            log::warn!("a redo does not lead to what was taken back: {errno}");
        }
        let places = self.places_of(&taking.taken, &moves);
        Ok(Some(places.map_or_else(
            |errno| {
                log::error!("what was taken is not found again: {errno}");
                Notes::default()
            },
            |places| self.after_taking(&moves, &places),
        )))
    }

    /// The directories in what is taken, and what hard links are in it.
    fn look_through(&self, path: &Path, parent: BorrowedFd<'_>, name: &Name, links: &mut Links) -> Setup<Vec<Below>> {
        let (failed, own) = (at(path), self.stands.own);
        let mut count = |dir: BorrowedFd<'_>, name: &Name, stat: &Stat| -> Result<()> {
            if stat.nlink > 1 && !is_whiteout(dir, name, stat, own)? {
                links.entry(stat.ino).or_insert_with(|| (0, stat.nlink, path.clone())).0 += 1;
            }
            Ok(())
        };
        let stat = stat_at(parent, name.as_c_str()).map_err(&failed)?;
        let mut below = Vec::new();
        if stat.is_dir() {
            below.push(Below { parent: None, name: name.clone(), ino: stat.ino });
            let mut left = vec![(0, open(parent, name.as_c_str()).map_err(&failed)?)];
            while let Some((at, dir)) = left.pop() {
                for name in dirent::names(dir.as_fd()).map_err(&failed)? {
                    let stat = stat_at(dir.as_fd(), name.as_c_str()).map_err(&failed)?;
                    if stat.is_dir() {
                        left.push((below.len(), open(dir.as_fd(), name.as_c_str()).map_err(&failed)?));
                        below.push(Below { parent: Some(at), name, ino: stat.ino });
                    } else {
                        count(dir.as_fd(), &name, &stat).map_err(&failed)?;
                    }
                }
            }
        } else {
            count(parent, name, &stat).map_err(&failed)?;
        }
        Ok(below)
    }

    /// Where the directories are that hold what was taken, and those in it: by their inode numbers in the upper layer, and, for
    /// those that hold a path, by the number of the path.
    fn places_of(&self, taken: &Taken, moves: &[(Path, u64, Vec<Below>)]) -> Result<Places> {
        let (fd, layer) = (taken.root()?, self.upper()?.root.layer.sibling());
        layer.freeze();
        let ino = stat_fd(fd.as_fd())?.ino;
        let root = DirPlace::root(Arc::new(layer), fd, ino);
        let mut places = Places::default();
        for (path, _, below) in moves {
            let mut holder = root.clone();
            for name in path.iter().take(path.len().saturating_sub(1)) {
                let stat = holder.stat_on_disk(name)?.ok_or(Errno::ENOENT)?;
                holder = holder.child(name, stat.ino);
            }
            let mut all: Vec<Arc<DirPlace>> = Vec::with_capacity(below.len());
            for Below { parent, name, ino } in below {
                let parent = parent.and_then(|at| all.get(at)).unwrap_or(&holder);
                let place = parent.child(name, *ino);
                places.dirs.insert(*ino, place.clone());
                all.push(place);
            }
            places.holders.push(holder);
        }
        Ok(places)
    }

    /// Tells the live inodes that paths were taken.
    fn after_taking(&self, moves: &[(Path, u64, Vec<Below>)], places: &Places) -> Notes {
        let Ok(upper) = self.upper() else { return Notes::default() };
        let is_own = |dir: &Arc<DirPlace>| Arc::ptr_eq(&dir.layer, &upper.root.layer);
        let moved = |place: &Place| {
            let holder = || {
                let is_it = |(path, ino, _): &(Path, u64, Vec<Below>)| {
                    *ino == place.dir.ino() && path.last() == Some(&place.name)
                };
                moves.iter().position(is_it).and_then(|at| places.holders.get(at))
            };
            let dir = places.dirs.get(&place.dir.ino()).or_else(holder).filter(|_| is_own(&place.dir))?;
            Some(Place { dir: dir.clone(), name: place.name.clone() })
        };
        self.ahead.forget();
        self.has_unsynced();
        self.table.upper_has_lower_beside();
        let mut lost = Lost::default();
        self.table.for_each(&mut |inode| match &inode.body {
            Body::Dir(dir) => {
                dir.names.write().forget();
                let mut state = dir.state.write();
                let part = state.view.upper.as_ref().filter(|part| is_own(&part.place));
                let Some(place) = part.and_then(|part| places.dirs.get(&part.place.ino())) else { return };
                let part = part.map(|part| DirPart { place: place.clone(), ..part.clone() });
                let before = DirView { upper: part, ..state.view.clone() };
                state.view = DirView { upper: None, redirect: None, lowers: state.view.lowers.clone() };
                lost.dirs.push((inode.clone(), before));
            }
            Body::Leaf(leaf) => {
                let mut state = leaf.state.lock();
                let Some(place) = state.current().ok().and_then(|object| moved(&object.place)) else { return };
                state.set_place(place);
                drop(state);
                // A descriptor that could write to what is kept now.
                leaf.close();
                inode.may_be_dressed_below();
                lost.leaves.push(inode.clone());
            }
        });
        let mut seeds = Vec::new();
        for (path, _, _) in moves {
            seeds.extend(self.seed(path));
        }
        self.returned(lost, &|_| false, seeds)
    }

    /// What is left to do when requests are answered again.
    pub(super) fn tidy_taken(&self, taking: &Taking) {
        if let Err(errno) = taking.taken.settle() {
            log::warn!("what was taken is not settled until the next mount: {errno}");
        }
    }
}

impl Taking {
    /// The number of the commit.
    pub fn number(&self) -> u64 {
        self.taken.number()
    }
}

/// Where what was taken is now.
#[derive(Default)]
struct Places {
    dirs: HashMap<u64, Arc<DirPlace>>,
    holders: Vec<Arc<DirPlace>>,
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Whether an object hides a name. Whiteouts are links of one.
fn is_whiteout(dir: BorrowedFd<'_>, name: &Name, stat: &Stat, own: Namespace) -> Result<bool> {
    let by_mark = || xattr::get_at(dir, name.as_c_str(), own.key(Mark::Whiteout)).map(|mark| mark.is_some());
    Ok(stat.is_whiteout() || (stat.is_file() && stat.size == 0 && by_mark()?))
}

/// A directory of the upper layer: where it is, and where the layers below have it.
struct Dir {
    fd: OwnedFd,
    is: Path,
    was: Path,
}

impl Union {
    /// The directories of the upper layer that were renamed: where each is, and where the layers below have it.
    fn renamed_dirs(&self, root: BorrowedFd<'_>) -> Result<Vec<(Path, Path)>> {
        let mut renamed = Vec::new();
        let mut left = vec![Dir { fd: dir_at(root, &[])?, is: Path::new(), was: Path::new() }];
        let mut known = HashSet::new();
        while let Some(dir) = left.pop() {
            if !known.insert(stat_fd(dir.fd.as_fd())?.ino) {
                continue;
            }
            for (name, fd) in self.while_open(dir.fd.as_fd(), || dirs_in(dir.fd.as_fd()))? {
                let key = self.stands.own.key(Mark::Redirect);
                let mark = self.while_open(fd.as_fd(), || xattr::get_fd(fd.as_fd(), key))?;
                let is = [&dir.is[..], std::slice::from_ref(&name)].concat();
                let below = |name: &Name| [&dir.was[..], std::slice::from_ref(name)].concat();
                let was = match mark.and_then(|mark| Redirect::parse(&mark).ok()) {
                    None => below(&name),
                    Some(to) => {
                        let was = match to {
                            Redirect::Absolute(path) => path,
                            Redirect::Relative(name) => below(&name),
                        };
                        renamed.push((is.clone(), was.clone()));
                        was
                    }
                };
                left.push(Dir { fd, is, was });
            }
        }
        Ok(renamed)
    }

    /// Looks into a directory of the upper layer that its owner may have closed to himself: the daemon owns it, too. `look`
    /// looks into no other one.
    fn while_open<T>(&self, dir: BorrowedFd<'_>, look: impl Fn() -> Result<T>) -> Result<T> {
        let layer = &self.upper()?.root.layer;
        match look() {
            Err(Errno::EACCES) if layer.widens => {
                let looked = layer.widened(dir, c".", 0o500, &look);
                looked.map_err(|errno| if errno == Errno::EPERM { Errno::EACCES } else { errno })
            }
            looked => looked,
        }
    }
}

/// The directories in one.
fn dirs_in(dir: BorrowedFd<'_>) -> Result<Vec<(Name, OwnedFd)>> {
    let mut dirs = Vec::new();
    for name in dirent::names(open(dir, c".")?.as_fd())? {
        if stat_at(dir, name.as_c_str())?.is_dir() {
            let fd = open_beneath(dir, name.as_c_str(), OFlags::PATH | OFlags::DIRECTORY)?;
            dirs.push((name, fd));
        }
    }
    Ok(dirs)
}
