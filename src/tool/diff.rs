//! The changes that an upper layer makes to what the layers below it show, from the upper layer alone.
//!
//! The upper layer is walked. For each of its names the lower layers are asked what they have there, and no others are
//! looked at, but for those that an opaque directory hides. What is renamed is known at the end only
//! ([`super::renamed`]), since a directory may be met before or after the name that it had.

use std::collections::HashSet;
use std::sync::Arc;

use super::change::{path_of, size_of};
use super::compare;
use super::renamed::{Dir, Gone, New, Now};
use super::source::{self, Copies};
use super::{Change, Diff, Letter, Trouble, What};
use crate::base::sync::Mutex;
use crate::base::{Errno, Name, Result};
use crate::format::Redirect;
use crate::layer::{ListedName, NameSink, list_names_alone};
use crate::merge::{
    Answer, CookieKey, DirPart, DirView, Found, FoundDir, FoundLeaf, Layers, Places, Stack, Window, list, lookup,
};
use crate::sys::stat::Kind;
use crate::sys::{process, processors};

/// What is to be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct How {
    /// How many files are in renamed and deleted directories, which are walked for that.
    pub counts: bool,
    /// The lower layers are in use: a directory that has changed there since it was copied up has not changed above.
    pub in_use: bool,
    /// Nobody else changes the upper layer: what is gone while it is looked at is told as trouble.
    pub alone: bool,
}

/// An object whose marks make no sense is looked at so often again.
const TRIES: usize = 3;

/// So many directories are looked at before those that were found in them.
const ROUND: usize = 4096;
/// At most so many threads look at objects, and each has so many to look at that it pays.
const MOST_THREADS: usize = 4;
const FEW: usize = 64;
/// Room for so many descriptors is made before that, as the kernel makes it slowly where threads share them.
const DESCRIPTORS: usize = 8192;

/// The longest path that is looked into, in bytes: a program can hardly reach further.
pub(super) const MOST_PATH: usize = 1 << 16;

/// Compares a view with what it would be without its upper layer, or without the other layers that hold the changes that are
/// meant; without such a layer there are no changes. The root itself is not compared.
///
/// # Errors
/// What listing the root says; what goes wrong below is among [`Diff::troubles`].
pub fn diff(layers: &Layers, how: How) -> Result<Diff> {
    let plain = layers.are_several().then(|| layers.stack.without_index());
    let mut walk = Walk::new(layers, plain.as_ref().unwrap_or(&layers.stack), how, CookieKey::random()?);
    if layers.sources(&layers.root).next().is_some() {
        source::names(layers, &layers.root)?;
        if layers.are_several() {
            walk.copies = Arc::new(Copies::of(layers)?);
        }
        let old = Old { view: layers.below(), path: Vec::new(), hidden: false };
        walk.todo.push(Node::new(layers.root.clone(), Some(old), Vec::new()));
        walk.threads = processors::count().clamp(1, MOST_THREADS);
        walk.all();
    }
    Ok(walk.finish())
}

/// Whether an object went away before it was looked at.
pub(super) fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESTALE | Errno::ENOTDIR)
}

/// Looks a name up. A daemon may change the marks of an object between two looks at it, which then make no sense.
fn look(stack: &Stack, dir: &DirView, name: &Name) -> Result<Answer> {
    let mut tries = 0;
    loop {
        match lookup(stack, dir, name) {
            Err(Errno::EINVAL | Errno::EIO) if tries < TRIES => tries += 1,
            answer => return answer,
        }
    }
}

pub(super) fn join(dir: &[u8], name: &Name) -> Vec<u8> {
    if dir.is_empty() { name.as_bytes().to_vec() } else { [dir, b"/", name.as_bytes()].concat() }
}

/// The names in the upper part of a directory, each with whether it is a whiteout.
pub(super) fn list_upper(part: &DirPart) -> Result<Vec<(Name, bool)>> {
    struct Names(Vec<(Name, bool)>);
    impl NameSink for Names {
        fn wants(&mut self, _name: &[u8]) -> bool {
            true
        }
        fn take(&mut self, listed: &ListedName<'_>) -> bool {
            self.0.extend(Name::new(listed.name).ok().map(|name| (name, listed.whiteout)));
            true
        }
    }
    let mut names = Names(Vec::new());
    list_names_alone(&part.place, part.xattr_whiteouts, &mut names)?;
    Ok(names.0)
}

/// The directory below the upper layer with which one of the view is compared.
pub(super) struct Old {
    view: DirView,
    /// Its path there.
    path: Vec<u8>,
    /// The view's directory is opaque: it shows none of it.
    hidden: bool,
}

/// A directory of the view that has an upper part.
struct Node {
    view: DirView,
    old: Option<Old>,
    path: Vec<u8>,
    /// It lies in a directory of which all renamed directories are known.
    scanned: bool,
    /// What differs of the directory itself, and of its time. Not for new and renamed ones.
    what: Vec<What>,
    time: bool,
}

impl Node {
    fn new(view: DirView, old: Option<Old>, path: Vec<u8>) -> Self {
        Self { view, old, path, scanned: false, what: Vec::new(), time: false }
    }
}

/// An opaque directory, and the one that it hides, which may have been renamed to elsewhere.
struct Opaque {
    new: FoundDir,
    old: FoundDir,
    node: Node,
}

pub(super) struct Walk<'a> {
    pub layers: &'a Layers,
    /// Where a lower hard link is what its layer has.
    plain: &'a Stack,
    copies: Arc<Copies>,
    /// How many threads share the work, and whether any did.
    threads: usize,
    has_shared: bool,
    pub how: How,
    pub key: CookieKey,
    todo: Vec<Node>,
    opaque: Vec<Opaque>,
    /// The paths below the upper layer of the directories that stand elsewhere in the view.
    pub moved: HashSet<Vec<u8>>,
    pub changes: Vec<Change>,
    pub gone: Vec<Gone>,
    pub new: Vec<New>,
    pub dirs: Vec<Dir>,
    pub troubles: Vec<Trouble>,
    /// How many names have come, gone, or got other content so far.
    names: usize,
}

impl<'a> Walk<'a> {
    fn new(layers: &'a Layers, plain: &'a Stack, how: How, key: CookieKey) -> Self {
        Self {
            layers,
            plain,
            copies: Arc::default(),
            threads: 1,
            has_shared: false,
            how,
            key,
            todo: Vec::new(),
            opaque: Vec::new(),
            moved: HashSet::new(),
            changes: Vec::new(),
            gone: Vec::new(),
            new: Vec::new(),
            dirs: Vec::new(),
            troubles: Vec::new(),
            names: 0,
        }
    }

    fn all(&mut self) {
        loop {
            while !self.todo.is_empty() {
                // From the end, which keeps few directories waiting.
                let nodes = self.todo.split_off(self.todo.len().saturating_sub(ROUND));
                self.share(nodes, Self::node);
            }
            // Whether an opaque directory is a new one depends on where the one went that it hides.
            let opaque = std::mem::take(&mut self.opaque);
            if opaque.is_empty() {
                return;
            }
            for one in opaque.iter().filter(|one| !one.node.scanned) {
                self.scan(&one.new.view, &one.node.path);
            }
            for one in opaque {
                let path = one.node.path.clone();
                self.done(&path, |walk| walk.settle(one));
            }
        }
    }

    /// Does a step for each item. Many are shared among threads, each of which notes by itself what it finds.
    fn share<T: Send>(&mut self, items: Vec<T>, step: impl Fn(&mut Self, T) + Sync) {
        let threads = self.threads.min(items.len() / FEW);
        if threads > 1 && !std::mem::replace(&mut self.has_shared, true) {
            process::reserve_descriptors(DESCRIPTORS);
        }
        let rest = Mutex::new(items.into_iter());
        let work = |walk: &mut Self| {
            // The lock is held for the time of the pop only.
            while let Some(item) = { rest.lock().next() } {
                step(walk, item);
            }
        };
        let mut parts: Vec<Self> = (1..threads).map(|_| self.part()).collect();
        std::thread::scope(|scope| {
            let work = &work;
            for part in &mut parts {
                // Where no thread can be had there is less to share.
                _ = std::thread::Builder::new().spawn_scoped(scope, move || work(part));
            }
            work(self);
        });
        parts.into_iter().for_each(|part| self.take(part));
    }

    /// A walk for another thread, which has found nothing yet.
    fn part(&self) -> Self {
        Self { copies: self.copies.clone(), ..Self::new(self.layers, self.plain, self.how, self.key) }
    }

    /// Adds what another thread has found.
    fn take(&mut self, other: Self) {
        self.todo.extend(other.todo);
        self.opaque.extend(other.opaque);
        self.moved.extend(other.moved);
        self.changes.extend(other.changes);
        self.gone.extend(other.gone);
        self.new.extend(other.new);
        self.dirs.extend(other.dirs);
        self.troubles.extend(other.troubles);
        self.names += other.names;
    }

    fn node(&mut self, node: Node) {
        if node.path.len() > MOST_PATH {
            return self.trouble(&node.path, Errno::ENAMETOOLONG);
        }
        let path = node.path.clone();
        self.done(&path, |walk| walk.dir(node));
    }

    /// Does a step of the walk, and notes what went wrong.
    pub fn done<T>(&mut self, path: &[u8], step: impl FnOnce(&mut Self) -> Result<T>) -> Option<T> {
        step(self).map_err(|errno| self.trouble(path, errno)).ok()
    }

    fn trouble(&mut self, path: &[u8], errno: Errno) {
        if self.how.alone || !is_gone(errno) {
            self.troubles.push(Trouble { path: path_of(path), errno });
        }
    }

    /// Compares what is in a directory.
    fn dir(&mut self, node: Node) -> Result<()> {
        let names_before = self.names;
        let names = source::names(self.layers, &node.view)?;
        let hidden = node.old.as_ref().filter(|old| old.hidden);
        let is_shown = |(name, whiteout): &(Name, bool)| (!whiteout).then(|| name.clone());
        let shown: HashSet<Name> = hidden.map(|_| names.iter().filter_map(is_shown).collect()).unwrap_or_default();
        self.share(names, |walk, (name, whiteout)| {
            let look = if whiteout { Self::absent } else { Self::object };
            walk.done(&join(&node.path, &name), |walk| look(walk, &node, &name));
        });
        if let Some(old) = hidden {
            let listing = list(&old.view, &self.key, &Places::default(), Window::WHOLE)?;
            for (_, name, _) in listing.after(0).filter(|(_, name, _)| !shown.contains(name)) {
                self.done(&join(&node.path, &name), |walk| walk.absent(&node, &name));
            }
        }
        let mut what = node.what;
        // A name that comes or goes changes the time of its directory, and so does a file that a new one has replaced.
        what.extend((node.time && self.names == names_before).then_some(What::Times));
        if let (false, Some(old)) = (what.is_empty(), &node.old) {
            let was = (old.path != node.path).then(|| path_of(&old.path));
            self.change(Letter::Metadata, &node.path, was, Kind::Dir, what);
        }
        Ok(())
    }

    /// What the lower layers show under a name of a directory.
    fn below(&self, node: &Node, name: &Name) -> Result<Option<Found>> {
        let Some(old) = &node.old else { return Ok(None) };
        match look(self.plain, &old.view, name)? {
            Answer::Found(found) => Ok(Some(found)),
            Answer::Absent(_) => Ok(None),
        }
    }

    /// Notes a name that is hidden: its object was deleted, or renamed.
    fn absent(&mut self, node: &Node, name: &Name) -> Result<()> {
        if let (Some(found), Some(old)) = (self.below(node, name)?, &node.old) {
            self.gone(join(&node.path, name), join(&old.path, name), found, None);
        }
        Ok(())
    }

    fn gone(&mut self, path: Vec<u8>, was: Vec<u8>, found: Found, now: Option<Now>) {
        self.names += 1;
        self.gone.push(Gone { path, was, found, now });
    }

    /// Compares an object of the upper layer.
    fn object(&mut self, node: &Node, name: &Name) -> Result<()> {
        let found = match look(&self.layers.stack, &node.view, name)? {
            Answer::Found(found) => found,
            // A layer hides what another one has.
            Answer::Absent(_) if self.layers.are_several() => return self.absent(node, name),
            // It went away meanwhile.
            Answer::Absent(_) => return Ok(()),
        };
        match found {
            Found::Dir(dir) if self.layers.sources(&dir.view).next().is_some() => self.found_dir(node, name, dir),
            Found::Leaf(mut leaf) if self.layers.holds(&leaf) => {
                self.copies.follow(self.layers, &mut leaf)?;
                self.found_leaf(node, name, leaf)
            }
            Found::Dir(_) | Found::Leaf(_) => Ok(()),
        }
    }

    fn found_dir(&mut self, node: &Node, name: &Name, dir: FoundDir) -> Result<()> {
        let path = join(&node.path, name);
        let here = node.old.as_ref().map(|old| join(&old.path, name));
        let of = |view: DirView, old, path| Node { scanned: node.scanned, ..Node::new(view, old, path) };
        let within = node.old.as_ref().map(|old| &*old.path);
        if let Some(was) = source::lower_path(self.layers, &dir.view, &path, within)? {
            self.moved.insert(was.clone());
            if here.as_ref() != Some(&was) {
                if let (Some(found), Some(here)) = (self.below(node, name)?, here) {
                    self.gone(path.clone(), here, found, None);
                }
                self.names += 1;
                let old = Old { view: self.layers.base(&dir.view), path: was.clone(), hidden: false };
                self.todo.push(of(dir.view.clone(), Some(old), path.clone()));
                self.dirs.push(Dir { path, was, found: dir });
                return Ok(());
            }
        }
        let merged = if self.layers.are_several() { None } else { merged_with(node, &dir) };
        let old = match merged {
            Some(old) => Some(Found::Dir(old)),
            None => self.below(node, name)?,
        };
        match (old, here) {
            (Some(Found::Dir(old)), Some(here)) => {
                let hidden = self.layers.base_part(&dir.view).is_none();
                let compared = Old { view: old.view.clone(), path: here, hidden };
                let child = of(dir.view.clone(), Some(compared), path);
                let opaque = Opaque { new: dir, old, node: child };
                if hidden && !node.scanned {
                    self.opaque.push(opaque);
                    return Ok(());
                }
                self.settle(opaque)
            }
            (Some(Found::Leaf(old)), Some(here)) => {
                self.todo.push(of(dir.view.clone(), None, path.clone()));
                self.gone(path, here, Found::Leaf(old), Some(Now::Dir));
                Ok(())
            }
            _ => {
                self.todo.push(of(dir.view, None, path.clone()));
                self.added(&path, Kind::Dir);
                Ok(())
            }
        }
    }

    /// Compares a directory with the one below it, which is known to stand there or to be elsewhere.
    fn settle(&mut self, Opaque { new, old, mut node }: Opaque) -> Result<()> {
        let hides = |compared: &Old| compared.hidden && self.moved.contains(&compared.path);
        node.scanned |= node.old.as_ref().is_some_and(|compared| compared.hidden);
        if node.old.as_ref().is_some_and(hides) {
            self.added(&node.path, Kind::Dir);
            node.old = None;
        } else if let (Some(one), Some(two)) = (new.view.top(), old.view.top()) {
            node.what = compare::dirs((&one.place, &new.stat, new.plain.0), (&two.place, &old.stat, old.plain.0))?;
            let of = |stat: &crate::sys::stat::Stat| (stat.mtime.sec, stat.mtime.nsec);
            let changed_below = self.how.in_use && of(&old.stat) > of(&new.stat);
            node.time = new.stat.mtime != old.stat.mtime && !changed_below;
        }
        self.todo.push(node);
        Ok(())
    }

    fn found_leaf(&mut self, node: &Node, name: &Name, leaf: FoundLeaf) -> Result<()> {
        let path = join(&node.path, name);
        let (Some(old), Some(compared)) = (self.below(node, name)?, &node.old) else {
            self.names += 1;
            self.new.push(New { path, leaf });
            return Ok(());
        };
        let here = join(&compared.path, name);
        match old {
            Found::Leaf(old) if old.stat.kind() == leaf.stat.kind() => {
                let what = compare::leaves(self.layers, &leaf, &old)?;
                let letter = if what.contains(&What::Data) { Letter::Modified } else { Letter::Metadata };
                self.names += usize::from(letter == Letter::Modified);
                if !what.is_empty() {
                    let was = (here != path).then(|| path_of(&here));
                    self.change(letter, &path, was, leaf.stat.kind(), what);
                    self.sized((size_of(&old.stat), size_of(&leaf.stat)));
                }
            }
            old => self.gone(path, here, old, Some(Now::Leaf(leaf))),
        }
        Ok(())
    }

    fn added(&mut self, path: &[u8], kind: Kind) {
        self.names += 1;
        self.change(Letter::Added, path, None, kind, Vec::new());
    }

    pub fn change(
        &mut self,
        letter: Letter,
        path: &[u8],
        was: Option<std::path::PathBuf>,
        kind: Kind,
        what: Vec<What>,
    ) {
        let path = path_of(path);
        self.changes.push(Change { letter, path, was, kind, was_kind: None, size: (None, None), what, files: None });
    }

    /// Adds the sizes to the last change.
    pub fn sized(&mut self, size: super::Sizes) {
        if let Some(last) = self.changes.last_mut() {
            last.size = size;
        }
    }

    /// Finds all directories below this one, which is at `path`, that stood elsewhere.
    fn scan(&mut self, dir: &DirView, path: &[u8]) {
        let mut todo = vec![(dir.clone(), path.to_vec(), None::<Vec<u8>>)];
        while let Some((dir, path, was)) = todo.pop() {
            // What goes wrong is told where the directory is compared.
            let names = source::names(self.layers, &dir).unwrap_or_default();
            for (name, _) in names.iter().filter(|(_, whiteout)| !whiteout) {
                let Ok(Answer::Found(Found::Dir(child))) = lookup(&self.layers.stack, &dir, name) else { continue };
                if self.layers.sources(&child.view).next().is_none() {
                    continue;
                }
                let path = join(&path, name);
                let moved = source::lower_path(self.layers, &child.view, &path, was.as_deref()).ok().flatten();
                self.moved.extend(moved.clone());
                let is_merged = self.layers.base_part(&child.view).is_some();
                let here = || was.as_ref().filter(|_| is_merged).map(|was| join(was, name));
                todo.push((child.view.clone(), path, moved.or_else(here)));
            }
        }
    }
}

/// Where the mark of a directory says that its lower parts are, if it has any; `within`: the path of its parent there.
pub(super) fn lower_path(dir: &DirView, within: Option<&[u8]>) -> Option<Vec<u8>> {
    match dir.redirect.as_ref().filter(|_| !dir.lowers.is_empty())? {
        Redirect::Relative(name) => within.map(|within| join(within, name)),
        Redirect::Absolute(path) => Some(path.iter().fold(Vec::new(), |at, name| join(&at, name))),
    }
}

/// The directory below a merged one, where the lookup of the merged one has found it already.
fn merged_with(node: &Node, dir: &FoundDir) -> Option<FoundDir> {
    let merged = node.old.as_ref().is_some_and(|old| !old.hidden);
    let stat = dir.lower.filter(|_| merged && dir.view.redirect.is_none() && !dir.view.lowers.is_empty())?;
    let plain = (dir.plain.1, dir.plain.1);
    Some(FoundDir { view: dir.view.below(), stat, lower: Some(stat), protection: Default::default(), plain })
}
