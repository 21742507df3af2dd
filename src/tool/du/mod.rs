//! What layers weigh: how much of each is seen, and how much is hidden by the layers above it.
//!
//! First the view is walked, which tells the objects that are seen; then each layer by itself, from the lowest one up. What
//! a layer has and nobody has seen is hidden. Directories are not counted.

mod room;
mod seen;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;
use std::sync::Arc;

use self::room::Room;
use self::seen::{Seen, Use};
use super::Role;
use super::change::{Trouble, path_of};
use super::diff::{is_gone, join, list_upper};
use crate::base::{Errno, Name, Result};
use crate::layer::Place;
use crate::merge::{Answer, DirPart, DirView, Found, Layers, lookup};
use crate::sys::stat::Stat;

/// Objects other than directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many names they have.
    pub files: u64,
    /// What they take on disk, in bytes. What files have in common (hard links, reflinks) counts once, in the lowest layer.
    pub bytes: u64,
}

/// What one layer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weighed {
    /// Its position: 0 is the upper layer.
    pub level: usize,
    /// What it is.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
    /// Files whose data the view shows.
    pub visible: Amount,
    /// Files of which the view shows the metadata only: their data is in a layer below.
    pub metadata: Amount,
    /// Files in whose place the view shows something else.
    pub covered: Amount,
    /// Files that the view does not show: somebody has deleted them, and they are still there.
    pub deleted: Amount,
    /// Whiteouts.
    pub whiteouts: u64,
}

/// A file that may be worth a look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Large {
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// The position of its layer.
    pub level: usize,
    /// Where it is in the layer.
    pub path: PathBuf,
    /// Why it is told.
    pub why: Why,
}

/// Why a file is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Something else stands in its place.
    Covered,
    /// It was deleted.
    Deleted,
    /// It is in the upper layer, and a layer below has something of its name.
    CopiedUp,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Du {
    /// The layers, the topmost first.
    pub layers: Vec<Weighed>,
    /// The largest hidden files, the largest first.
    pub hidden: Vec<Large>,
    /// The largest files that were copied up.
    pub copied_up: Vec<Large>,
    /// What could not be looked at.
    pub troubles: Vec<Trouble>,
}

impl Weighed {
    /// All of its files.
    pub fn own(&self) -> Amount {
        let all = [self.visible, self.metadata, self.hidden()];
        all.into_iter().fold(Amount::default(), Amount::plus)
    }

    /// What the view does not show.
    pub fn hidden(&self) -> Amount {
        self.covered.plus(self.deleted)
    }
}

impl Amount {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes.saturating_add(other.bytes) }
    }
}

/// Weighs the layers of a view. `top`: how many of the largest files are told.
///
/// # Errors
/// The view's root cannot be read.
pub fn du(layers: &Layers, top: usize) -> Result<Du> {
    for (_, part) in layers.root.parts(0) {
        list_upper(part)?;
    }
    let mut weighing = Weighing {
        layers,
        seen: Seen::of(layers)?,
        room: Room::default(),
        hidden: Largest::new(top),
        copied_up: Largest::new(top),
        troubles: Vec::new(),
    };
    let lowers = layers.stack.lowers.iter().map(|part| (part.clone(), Role::Lower));
    let upper = layers.root.upper.iter().map(|part| (part.clone(), Role::Upper));
    let last = layers.stack.last();
    let data = layers.stack.data_only.iter().enumerate().map(|(at, place)| {
        let part = DirPart { place: place.clone(), level: last + 1 + at, xattr_whiteouts: false, impure: false };
        (part, Role::DataOnly)
    });
    let all: Vec<_> = upper.chain(lowers).chain(data).collect();
    let mut weighed: Vec<_> = all.into_iter().rev().map(|(part, role)| weighing.layer(part, role)).collect();
    weighed.reverse();
    let mut troubles = std::mem::take(&mut weighing.seen.troubles);
    troubles.append(&mut weighing.troubles);
    let (hidden, copied_up) = (weighing.hidden.sorted(), weighing.copied_up.sorted());
    Ok(Du { layers: weighed, hidden, copied_up, troubles })
}

struct Weighing<'a> {
    layers: &'a Layers,
    seen: Seen,
    room: Room,
    hidden: Largest,
    copied_up: Largest,
    troubles: Vec<Trouble>,
}

/// A directory of a layer.
struct Node {
    dir: DirPart,
    path: Vec<u8>,
    /// What the view shows in its place.
    view: Option<Arc<DirView>>,
}

impl Weighing<'_> {
    /// Weighs one layer.
    fn layer(&mut self, root: DirPart, role: Role) -> Weighed {
        let (zero, layer) = (Amount::default(), root.place.layer.clone());
        let (visible, metadata, covered, deleted) = (zero, zero, zero, zero);
        let (level, path) = (root.level, layer.path.clone());
        let mut weighed = Weighed { level, role, path, visible, metadata, covered, deleted, whiteouts: 0 };
        let mut todo = vec![Node { view: self.seen.view_of(&root.place).cloned(), dir: root, path: Vec::new() }];
        while let Some(node) = todo.pop() {
            if let Err(errno) = self.directory(&mut weighed, &node, &mut todo) {
                self.trouble(&node.path, errno);
            }
        }
        weighed
    }

    /// Counts what is in one directory.
    fn directory(&mut self, weighed: &mut Weighed, node: &Node, todo: &mut Vec<Node>) -> Result<()> {
        for (name, is_whiteout) in list_upper(&node.dir)? {
            if is_whiteout {
                weighed.whiteouts += 1;
                continue;
            }
            let path = join(&node.path, &name);
            match node.dir.place.stat_on_disk(&name) {
                Ok(Some(stat)) if stat.is_dir() => todo.push(self.below(node, &name, (path, stat.ino))),
                Ok(Some(stat)) => self.file(weighed, node, (&name, &path), &stat),
                Ok(None) => {}
                Err(errno) => self.trouble(&path, errno),
            }
        }
        Ok(())
    }

    /// A directory in that of `node`.
    fn below(&self, node: &Node, name: &Name, (path, ino): (Vec<u8>, u64)) -> Node {
        let place = node.dir.place.child(name, ino);
        if let Some(view) = self.seen.view_of(&place) {
            let is_it = |part: &DirPart| Arc::ptr_eq(&part.place.layer, &place.layer) && part.place.ino() == ino;
            let part = view.parts(0).map(|(_, part)| part).find(|part| is_it(part)).cloned();
            let dir = part.unwrap_or(DirPart { place, ..node.dir.clone() });
            return Node { view: Some(view.clone()), dir, path };
        }
        // The view does not show it, and shows another one in its place, or none.
        let found = node.view.as_ref().map(|view| lookup(&self.layers.stack, view, name));
        let view = match found {
            Some(Ok(Answer::Found(Found::Dir(found)))) => Some(Arc::new(found.view)),
            _ => None,
        };
        Node { view, dir: DirPart { place, ..node.dir.clone() }, path }
    }

    /// Counts one object of a layer.
    fn file(&mut self, weighed: &mut Weighed, node: &Node, (name, path): (&Name, &[u8]), stat: &Stat) {
        let place = Place { dir: node.dir.place.clone(), name: name.clone() };
        let bytes = self.room.taken_by(&place, stat);
        let large = |why| Large { bytes, level: weighed.level, path: path_of(path), why };
        let to = match self.seen.get(&node.dir.place, stat.ino) {
            Some(Use::Metadata) => &mut weighed.metadata,
            Some(Use::Data) => {
                if weighed.role == Role::Upper && self.copied_up.wants(bytes) && self.is_below(node, name) {
                    self.copied_up.add(large(Why::CopiedUp));
                }
                &mut weighed.visible
            }
            None => match self.is_covered(node, name) {
                Ok(is_covered) => {
                    self.hidden.add(large(if is_covered { Why::Covered } else { Why::Deleted }));
                    if is_covered { &mut weighed.covered } else { &mut weighed.deleted }
                }
                Err(errno) => return self.trouble(path, errno),
            },
        };
        *to = to.plus(Amount { files: 1, bytes });
    }

    /// Whether the view shows something in the place of an object that it does not show.
    fn is_covered(&self, node: &Node, name: &Name) -> Result<bool> {
        let Some(view) = &node.view else { return Ok(false) };
        Ok(matches!(lookup(&self.layers.stack, view, name)?, Answer::Found(_)))
    }

    /// Whether a layer below the upper one shows something of this name.
    fn is_below(&self, node: &Node, name: &Name) -> bool {
        let below = node.view.as_ref().map(|view| view.below());
        below.is_some_and(|below| matches!(lookup(&self.layers.stack, &below, name), Ok(Answer::Found(_))))
    }

    fn trouble(&mut self, path: &[u8], errno: Errno) {
        if !is_gone(errno) {
            self.troubles.push(Trouble { path: path_of(path), errno });
        }
    }
}

/// The largest files so far, at most so many.
struct Largest {
    most: usize,
    heap: BinaryHeap<Reverse<Large>>,
}

impl Largest {
    fn new(most: usize) -> Self {
        Self { most, heap: BinaryHeap::new() }
    }

    /// Whether a file of this size is among them.
    fn wants(&self, bytes: u64) -> bool {
        bytes > 0
            && self.most > 0
            && (self.heap.len() < self.most || self.heap.peek().is_some_and(|Reverse(least)| least.bytes < bytes))
    }

    fn add(&mut self, large: Large) {
        if self.wants(large.bytes) {
            self.heap.push(Reverse(large));
            if self.heap.len() > self.most {
                self.heap.pop();
            }
        }
    }

    fn sorted(self) -> Vec<Large> {
        // The least one is the greatest in reverse.
        self.heap.into_sorted_vec().into_iter().map(|Reverse(large)| large).collect()
    }
}
