//! A name looked up through the layers, top-down.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::base::{Name, Result};
use crate::format::origin::Origin;
use crate::layer::{DirPlace, LookedUp, Place, look_up, read_dir_marks, read_leaf_marks};
use crate::sys::stat::Stat;

/// One layer's part of a merged directory.
#[derive(Debug, Clone)]
pub struct DirPart {
    /// The directory in its layer.
    pub place: Arc<DirPlace>,
    /// Empty files in it may be whiteouts.
    pub xattr_whiteouts: bool,
    /// Objects in it may have an `origin`, or their data elsewhere.
    pub impure: bool,
}

/// A merged directory: its parts, the topmost first.
#[derive(Debug, Clone)]
pub struct DirView {
    /// The part in the upper layer.
    pub upper: Option<DirPart>,
    /// The parts in lower layers, only those that have it.
    pub lowers: Arc<[DirPart]>,
}

impl DirView {
    /// Slot 0 is the upper part, slot k the k-th lower one.
    fn slots(&self) -> impl Iterator<Item = (usize, &DirPart)> {
        let lowers = self.lowers.iter().enumerate().map(|(i, part)| (i + 1, part));
        self.upper.iter().map(|part| (0, part)).chain(lowers)
    }

    /// All parts with their slots from slot `from` on.
    pub fn parts(&self, from: usize) -> impl Iterator<Item = (usize, &DirPart)> {
        self.slots().filter(move |(slot, _)| *slot >= from)
    }

    /// How many parts it has.
    pub fn len(&self) -> usize {
        usize::from(self.upper.is_some()) + self.lowers.len()
    }

    /// The topmost part.
    pub fn top(&self) -> Option<&DirPart> {
        self.upper.as_ref().or_else(|| self.lowers.first())
    }
}

/// What the layers say of a name.
#[allow(clippy::large_enum_variant)] // Lives for one call, on the stack: a box would cost each lookup an allocation.
pub enum Answer {
    /// It is seen.
    Found(Found),
    /// It is not.
    Absent(Absent),
}

/// Why a name is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A whiteout stands in the upper layer.
    UpperWhiteout,
    /// No layer has it, or a lower layer hides it.
    Nowhere,
}

/// An object that is seen.
pub enum Found {
    /// A directory.
    Dir(FoundDir),
    /// Anything else.
    Leaf(FoundLeaf),
}

/// A directory that is seen.
pub struct FoundDir {
    /// Its parts.
    pub view: DirView,
    /// The attributes of the topmost part.
    pub stat: Stat,
    /// The attributes of the topmost lower part.
    pub lower: Option<Stat>,
}

/// An object other than a directory that is seen.
pub struct FoundLeaf {
    /// Where it is.
    pub place: Place,
    /// Its attributes as they are shown.
    pub stat: Stat,
    /// It is in the upper layer.
    pub upper: bool,
    /// The object of another layer that it was copied up from.
    pub origin: Option<Origin>,
    /// It stands for a 0/0 character device that a user made.
    pub device: bool,
}

/// Looks `name` up in a merged directory.
///
/// # Errors
/// What the layers' system calls say.
pub fn lookup(dir: &DirView, name: &Name) -> Result<Answer> {
    lookup_from(dir, name, 0)
}

/// The same, where the slots before `from` are known not to have the name.
///
/// # Errors
/// What the layers' system calls say.
pub fn lookup_from(dir: &DirView, name: &Name, from: usize) -> Result<Answer> {
    let mut merged = Merged::default();
    let last = dir.lowers.len();
    for (slot, part) in dir.parts(from) {
        match look_up(&part.place, name, part.xattr_whiteouts)? {
            LookedUp::Nothing => {}
            LookedUp::Whiteout if slot == 0 && merged.top.is_none() => {
                return Ok(Answer::Absent(Absent::UpperWhiteout));
            }
            LookedUp::Whiteout => break,
            LookedUp::Object(stat) if stat.is_dir() => {
                if merged.add(part, name, slot, stat, slot < last)? {
                    break;
                }
            }
            // A file below a directory hides what is further down.
            LookedUp::Object(_) if merged.top.is_some() => break,
            LookedUp::Object(stat) => return leaf(part, name, slot == 0, stat),
        }
    }
    Ok(merged.answer())
}

/// A merged directory as it is put together.
#[derive(Default)]
struct Merged {
    top: Option<Stat>,
    lower: Option<Stat>,
    upper: Option<DirPart>,
    lowers: Vec<DirPart>,
}

impl Merged {
    /// Adds a part; true where nothing below shows through it.
    fn add(&mut self, within: &DirPart, name: &Name, slot: usize, stat: Stat, below: bool) -> Result<bool> {
        let place = within.place.child(name, stat.ino);
        let marks = read_dir_marks(&place, within.place.fd()?.as_fd(), name.as_c_str(), below)?;
        self.top.get_or_insert(stat);
        // An upper that writes xattr whiteouts has them everywhere.
        let xattr_whiteouts = marks.xattr_whiteouts || (slot == 0 && within.xattr_whiteouts);
        let part = DirPart { place, xattr_whiteouts, impure: marks.impure };
        if slot == 0 {
            self.upper = Some(part);
        } else {
            self.lower.get_or_insert(stat);
            self.lowers.push(part);
        }
        Ok(marks.opaque)
    }

    fn answer(self) -> Answer {
        let Some(stat) = self.top else { return Answer::Absent(Absent::Nowhere) };
        let view = DirView { upper: self.upper, lowers: self.lowers.into() };
        Answer::Found(Found::Dir(FoundDir { view, stat, lower: self.lower }))
    }
}

fn leaf(part: &DirPart, name: &Name, upper: bool, mut stat: Stat) -> Result<Answer> {
    let marks = read_leaf_marks(&part.place, name, &stat, part.impure)?;
    if marks.device {
        stat.mode = libc::S_IFCHR | (stat.mode & 0o7777);
        stat.rdev = 0;
    }
    let place = Place { dir: part.place.clone(), name: name.clone() };
    let (origin, device) = (marks.origin, marks.device);
    Ok(Answer::Found(Found::Leaf(FoundLeaf { place, stat, upper, origin, device })))
}

/// Whether a lower layer shows `name` in this directory: then its removal needs a whiteout.
///
/// # Errors
/// What the layers' system calls say.
pub fn lower_has(dir: &DirView, name: &Name) -> Result<bool> {
    for part in dir.lowers.iter() {
        match look_up(&part.place, name, part.xattr_whiteouts)? {
            LookedUp::Nothing => {}
            LookedUp::Whiteout => return Ok(false),
            LookedUp::Object(_) => return Ok(true),
        }
    }
    Ok(false)
}

/// A layer's root as a part, and whether it hides the layers below.
///
/// # Errors
/// What the system calls say.
pub fn root_part(root: &Arc<DirPlace>, below: bool) -> Result<(DirPart, crate::layer::DirMarks)> {
    let fd = root.open()?;
    let marks = read_dir_marks(root, fd.as_fd(), c".", below)?;
    let part = DirPart { place: root.clone(), xattr_whiteouts: marks.xattr_whiteouts, impure: marks.impure };
    Ok((part, marks))
}
