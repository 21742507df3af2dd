//! Makes all that is new beside its place, in directories of the lower layer that only this process's user can enter.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::commit::{Progress, drop_staged, run, slot_name, sync};
use super::journal::{Journal, Kept, Slot, Step};
use super::reach::{Dirs, Id, depth, id, is_within, open_dir, split, ways};
use super::{Act, At, Clean, DirStep, Item, Loss, Outcome, Plan, Refusal};
use crate::base::{Errno, Result};
use crate::layer::Layer;
use crate::merge::{FoundLeaf, Layers};
use crate::sys::caller::own_ids;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::temp_name;
use crate::sys::stat::{Kind, stat_at, stat_fd};
use crate::sys::{flags, tree};
use crate::tool::change::path_of;
use crate::tool::content::Content;
use crate::upper::{Metadata, Staged as Object, make_private};

/// All that is new is made, and nothing has changed yet.
pub struct Staged<'a> {
    layers: &'a Layers,
    dirs: &'a Dirs,
    kept: Kept,
    journal: Journal,
}

impl<'a> Plan<'a> {
    /// Makes all that is new beside its place.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing of it is left.
    pub fn stage(self, progress: Progress<'_>) -> Outcome<Staged<'a>> {
        let (layers, dirs) = (self.layers, self.dirs);
        if let Some(kept) = Kept::find(dirs).at(b"")? {
            // Of an apply that had not begun to change anything.
            drop_staged(&kept, dirs).at(b"")?;
        }
        let lower = id(&stat_fd(dirs.lower.as_fd()).at(b"")?);
        let token = temp_name(".plyfs-apply-").at(b"")?;
        let kept = Kept::begin(dirs).at(b"")?;
        let mut stager = Stager::new(layers, dirs, (&kept, token));
        let made = stager.all(&self, progress).and_then(|()| in_order(dirs, self.cleans).at(b""));
        let Stager { token, anchors, steps, losses, .. } = stager;
        let anchors = anchors.into_iter().map(|anchor| anchor.path).collect();
        let journal = Journal { lower, token: token.to_bytes().to_vec(), anchors, steps, cleans: Vec::new(), losses };
        let mut staged = Staged { layers, dirs, kept, journal };
        match made {
            Ok(cleans) => {
                staged.journal.cleans = cleans;
                Ok(staged)
            }
            Err(refusal) => staged.abandon().map_or_else(Err, |()| Err(refusal)),
        }
    }
}

/// What is taken out of the upper layer: names and trees, then the directories that held them, the deepest first. Those
/// that stay get their times back. One that its owner cannot change is opened first, and gets its mode back at the end.
fn in_order(dirs: &Dirs, cleans: Vec<(Vec<u8>, Clean)>) -> Result<Vec<Clean>> {
    let mut cleans: Vec<_> = cleans.into_iter().map(|(_, clean)| clean).collect();
    cleans.sort_by_key(|clean| match clean {
        Clean::Dir(path) => (1, usize::MAX - depth(path)),
        _ => (0, 0),
    });
    let mut above = BTreeSet::new();
    for clean in &cleans {
        if let Clean::Name(path) | Clean::Tree(path) | Clean::Dir(path) = clean {
            above.extend(split(path)?.map(|(dir, _)| dir.to_vec()));
        }
    }
    let (mut opens, mut closes) = (Vec::new(), Vec::new());
    for dir in above {
        let stat = stat_fd(open_dir(dirs.upper.as_fd(), &dir)?.as_fd())?;
        let mode = stat.mode & 0o7777;
        if mode & 0o700 != 0o700 && !dir.is_empty() && stat.uid == own_ids().0 {
            opens.push(Clean::Mode(dir.clone(), mode | 0o700));
            closes.push(Clean::Mode(dir.clone(), mode));
        }
        cleans.push(Clean::Times(dir, [stat.atime, stat.mtime]));
    }
    opens.extend(cleans);
    opens.extend(closes.into_iter().rev());
    Ok(opens)
}

impl Staged<'_> {
    /// Changes the lower layer, and takes what was changed out of the upper one.
    ///
    /// # Errors
    /// [`Refusal`]; then [`super::resume`] goes on.
    pub fn commit(self, progress: Progress<'_>) -> Outcome<Vec<Loss>> {
        if let Err(errno) = self.kept.commit(&self.journal) {
            let refusal = Refusal::errno(b"", errno);
            // Only if it is known that nobody will make the steps.
            return match self.kept.journal() {
                Ok(None) => self.abandon().map_or_else(Err, |()| Err(refusal)),
                _ => Err(refusal),
            };
        }
        let Self { layers, dirs, kept, journal } = self;
        run((layers, dirs), kept, &journal, false, progress)
    }

    /// Removes what was made.
    ///
    /// # Errors
    /// [`Refusal`]: it stays, and the next apply removes it.
    pub fn abandon(self) -> Outcome<()> {
        drop_staged(&self.kept, self.dirs).at(b"")?;
        self.kept.end(self.dirs).at(b"")
    }
}

/// A directory in which things are staged.
struct Anchor {
    /// The directory of the lower layer that holds it.
    path: Vec<u8>,
    dir: OwnedFd,
    home: Home,
}

/// What two directories must have in common for a rename between them.
type Home = (u64, Option<u32>);

fn home(dir: BorrowedFd<'_>) -> Result<Home> {
    let open = open_beneath(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY);
    let project = open.and_then(|open| flags::get_fsx(open.as_fd())).ok().map(|fsx| flags::project(&fsx));
    Ok((stat_fd(dir)?.dev, project))
}

struct Stager<'a> {
    layers: &'a Layers,
    dirs: &'a Dirs,
    kept: &'a Kept,
    token: CString,
    anchors: Vec<Anchor>,
    /// Directories in which nothing can be made.
    closed: HashSet<Vec<u8>>,
    /// The anchor for each directory.
    known: HashMap<Vec<u8>, usize>,
    /// The first slot of each object with several names.
    names: HashMap<Id, (Slot, Id)>,
    count: u64,
    steps: Vec<Step>,
    losses: Vec<Loss>,
}

impl<'a> Stager<'a> {
    fn new(layers: &'a Layers, dirs: &'a Dirs, (kept, token): (&'a Kept, CString)) -> Self {
        Self {
            layers,
            dirs,
            kept,
            token,
            anchors: Vec::new(),
            closed: HashSet::new(),
            known: HashMap::new(),
            names: HashMap::new(),
            count: 0,
            steps: Vec::new(),
            losses: Vec::new(),
        }
    }

    fn all(&mut self, plan: &Plan<'_>, progress: Progress<'_>) -> Outcome<()> {
        let mut items: Vec<&Item> = plan.items.iter().collect();
        items.sort_by_key(|item| depth(&item.path));
        let (mut takes, mut puts, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
        // The inode numbers of what comes to each path.
        let mut made: HashMap<Vec<u8>, u64> = HashMap::new();
        for (done, item) in items.iter().enumerate() {
            progress(done as u64, items.len() as u64);
            let slot = self.slot(&item.ground).at(&item.path)?;
            let (path, old) = (item.path.clone(), item.old.as_ref().map(|old| plan.was(old)));
            let id = match &item.act {
                Act::Nothing => continue,
                Act::Attribute(leaf) => {
                    let mode = self.metadata(leaf, item).at(&path)?.stat.mode & 0o7777;
                    let times = [leaf.stat.atime, leaf.stat.mtime];
                    deletes.extend(old.map(|old| Step::Leaf { old, mode, times, path }));
                    continue;
                }
                Act::Delete => {
                    deletes.extend(old.map(|old| Step::Delete { slot, old, path }));
                    continue;
                }
                Act::Moved { was, id } => {
                    let from = self.parent_of(was).at(&path)?;
                    takes.push((depth(was), Step::Take { slot, id: *id, from, was: was.clone() }));
                    *id
                }
                Act::NewDir => self.new_dir(slot).at(&path)?,
                Act::Leaf(leaf) => self.leaf(slot, leaf, item).at(&path)?,
            };
            let above = split(&path).at(&path)?.and_then(|(dir, _)| made.get(dir).copied());
            let parent = above.or(item.parent).unwrap_or_default();
            made.insert(path.clone(), id.1);
            puts.push(Step::Put { slot, id, old, parent, path });
        }
        self.check_anchors(plan)?;
        // What lies deeper goes first, while its path is what it was.
        takes.sort_by_key(|(depth, _)| usize::MAX - depth);
        let parents: HashSet<&[u8]> = plan.items.iter().filter_map(|item| split(&item.path).ok()??.0.into()).collect();
        let is_touched =
            |step: &&DirStep| step.all || (!step.later && (step.times || parents.contains(step.path.as_slice())));
        let mut dirs: Vec<_> = plan.steps.iter().filter(is_touched).map(|step| (step.all, step.path.clone())).collect();
        dirs.sort_by_key(|(_, path)| usize::MAX - depth(path));
        let narrow = |step: &DirStep| step.narrow.clone().filter(|_| step.all);
        self.steps =
            plan.steps.iter().filter_map(narrow).map(|(id, mode, path)| Step::Narrow { id, mode, path }).collect();
        self.steps.extend(takes.into_iter().map(|(_, step)| step).chain(puts).chain(deletes));
        self.steps.extend(dirs.into_iter().map(|(all, path)| Step::Dir { all, path }));
        sync(self.dirs.lower.as_fd()).at(b"")
    }

    /// The inode number of the directory of the lower layer that holds an object.
    fn parent_of(&self, path: &[u8]) -> Result<u64> {
        let (dir, _) = split(path)?.ok_or(Errno::EINVAL)?;
        Ok(stat_fd(open_dir(self.dirs.lower.as_fd(), dir)?.as_fd())?.ino)
    }

    /// A place in which something is staged must stay where it is.
    fn check_anchors(&self, plan: &Plan<'_>) -> Outcome<()> {
        let goes = |item: &Item, anchor: &Anchor| match &item.act {
            Act::Moved { was, .. } => is_within(&anchor.path, was),
            Act::Nothing | Act::Attribute(_) => false,
            _ => item.old.as_ref().is_some_and(|old| old.stat.is_dir()) && is_within(&anchor.path, &item.path),
        };
        for anchor in self.anchors.iter().filter(|anchor| !anchor.path.is_empty()) {
            if let Some(item) = plan.items.iter().find(|item| goes(item, anchor)) {
                let reason = "the directory that goes holds another subvolume or project, in which something changes";
                return Err(Refusal::new(&item.path, reason, "apply what is in it first"));
            }
        }
        Ok(())
    }

    /// A free slot, from which a name in the directory `ground` of the lower layer can be had by a rename.
    fn slot(&mut self, ground: &[u8]) -> Result<Slot> {
        let anchor = match self.known.get(ground) {
            Some(anchor) => *anchor,
            None => {
                let anchor = self.anchor(ground)?;
                self.known.insert(ground.to_vec(), anchor);
                anchor
            }
        };
        self.count += 1;
        Ok(Slot { anchor, number: self.count })
    }

    /// The topmost directory on the way to `ground` in which this process can make something.
    fn anchor(&mut self, ground: &[u8]) -> Result<usize> {
        let wanted = home(open_dir(self.dirs.lower.as_fd(), ground)?.as_fd())?;
        let mut last = Errno::EACCES;
        for way in ways(ground) {
            if let Some(at) = self.anchors.iter().position(|anchor| anchor.path == way && anchor.home == wanted) {
                return Ok(at);
            }
            let dir = open_dir(self.dirs.lower.as_fd(), way)?;
            if self.closed.contains(way) || home(dir.as_fd())? != wanted {
                continue;
            }
            match self.make_anchor(way, dir.as_fd()) {
                Ok(staged) => {
                    self.anchors.push(Anchor { path: way.to_vec(), dir: staged, home: wanted });
                    return Ok(self.anchors.len() - 1);
                }
                Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::EROFS)) => {
                    self.closed.insert(way.to_vec());
                    last = errno;
                }
                Err(errno) => return Err(errno),
            }
        }
        Err(last)
    }

    fn make_anchor(&self, path: &[u8], at: BorrowedFd<'_>) -> Result<OwnedFd> {
        let known = self.anchors.iter().map(|anchor| anchor.path.clone());
        let all: Vec<_> = known.chain([path.to_vec()]).collect();
        self.kept.note_staging(self.token.to_bytes(), &all)?;
        tree::mkdir_at(at, &self.token, 0o700)?;
        let staged = open_beneath(at, &self.token, OFlags::RDONLY | OFlags::DIRECTORY)?;
        make_private(staged.as_fd(), at)?;
        Ok(staged)
    }

    fn staged(&self, slot: Slot) -> Result<(BorrowedFd<'_>, CString)> {
        let anchor = self.anchors.get(slot.anchor).ok_or(Errno::EIO)?;
        Ok((anchor.dir.as_fd(), slot_name(slot)?))
    }

    /// A directory that nobody else can enter until all is in it.
    fn new_dir(&self, slot: Slot) -> Result<Id> {
        let (dir, name) = self.staged(slot)?;
        tree::mkdir_at(dir, &name, 0o700)?;
        Ok(id(&stat_at(dir, &name)?))
    }

    fn leaf(&mut self, slot: Slot, leaf: &FoundLeaf, item: &Item) -> Result<Id> {
        let own = id(&leaf.stat);
        if let Some((first, made)) = self.names.get(&own) {
            let ((from, old), (to, new)) = (self.staged(*first)?, self.staged(slot)?);
            tree::link_at(from, &old, to, &new)?;
            return Ok(*made);
        }
        let metadata = self.metadata(leaf, item)?;
        let (dir, name) = self.staged(slot)?;
        let to = &self.lower()?;
        let lost = match leaf.stat.kind() {
            Kind::File => {
                let file = tree::create_at(dir, &name, OFlags::RDWR, 0o600)?;
                Content::open(self.layers, leaf)?.copy_to(file.as_fd(), leaf.stat.size)?;
                metadata.give(Object::Open(file.as_fd()), to)?
            }
            _ => {
                make_special(dir, &name, leaf)?;
                metadata.give(Object::Named(dir, &name), to)?
            }
        };
        let made = id(&stat_at(dir, &name)?);
        self.names.insert(own, (slot, made));
        self.losses.extend(lost.into_iter().map(|what| Loss { path: path_of(&item.path), what }));
        Ok(made)
    }

    fn lower(&self) -> Result<std::sync::Arc<Layer>> {
        self.layers.grounds().first().map(|part| part.place.layer.clone()).ok_or(Errno::EINVAL)
    }

    fn metadata(&self, leaf: &FoundLeaf, item: &Item) -> Result<Metadata> {
        let (dir, name) = (&leaf.place.dir, leaf.place.name.as_c_str());
        let mut metadata = Metadata::of(dir.fd()?.as_fd(), name, leaf.stat, (&dir.layer, &*self.lower()?))?;
        let below = item.old.as_ref().map(|old| &old.stat).or(leaf.lower.as_ref());
        // A copy that a daemon made which could not name the group: it keeps the group that it has below.
        if let Some(old) = below.filter(|old| old.kind() == leaf.stat.kind() && old.uid == leaf.stat.uid)
            && dir.layer.carried.is_some()
            && old.gid != leaf.stat.gid
        {
            metadata.stat.gid = old.gid;
            metadata.stat.mode = leaf.stat.mode & !0o2070 | old.mode & 0o2070;
        }
        Ok(metadata)
    }
}

fn make_special(dir: BorrowedFd<'_>, name: &CStr, leaf: &FoundLeaf) -> Result<()> {
    match leaf.stat.kind() {
        Kind::Symlink => {
            let target = CString::new(leaf.place.readlink()?).map_err(|_| Errno::EINVAL)?;
            tree::symlink_at(&target, dir, name)
        }
        kind => tree::mknod_at(dir, name, kind.to_mode() | 0o600, leaf.stat.rdev),
    }
}
