//! What a lookup answers.

use std::sync::Arc;

use crate::base::Name;
use crate::format::metacopy::Digest;
use crate::format::origin::Origin;
use crate::format::{BlocksMark, Nlink, Protattr, Redirect};
use crate::layer::{DirPlace, Place};
use crate::sys::stat::Stat;

/// One layer's part of a merged directory.
#[derive(Debug, Clone)]
pub struct DirPart {
    /// The directory in its layer.
    pub place: Arc<DirPlace>,
    /// The layer's position in the stack: 0 is the upper one.
    pub level: usize,
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
    /// The upper part's mark: where the lower parts are, if not under its own name.
    pub redirect: Option<Redirect>,
    /// The parts in lower layers, only those that have it.
    pub lowers: Arc<[DirPart]>,
}

impl DirView {
    /// All parts with their slots from slot `from` on: slot 0 is the upper part, slot k the k-th lower one.
    pub fn parts(&self, from: usize) -> impl Iterator<Item = (usize, &DirPart)> {
        let upper = self.upper.iter().filter(move |_| from == 0).map(|part| (0, part));
        let skipped = from.saturating_sub(1);
        upper.chain(self.lowers.iter().enumerate().skip(skipped).map(|(i, part)| (i + 1, part)))
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
#[allow(clippy::large_enum_variant)] // As above.
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
    /// What `chattr` forbids on the upper part.
    pub protection: Protattr,
}

/// An object other than a directory that is seen.
pub struct FoundLeaf {
    /// Where it is: in the index, if it has an entry there.
    pub place: Place,
    /// Its attributes as they are shown.
    pub stat: Stat,
    /// It is an object of the upper layer.
    pub upper: bool,
    /// It stands in the upper layer under this very name.
    pub named: bool,
    /// The object of another layer that it was copied up from.
    pub origin: Option<Origin>,
    /// It stands for a 0/0 character device that a user made.
    pub device: bool,
    /// Its data is elsewhere.
    pub meta: Option<MetaFile>,
    /// Its entry in the index.
    pub index: Option<Name>,
    /// The links that the union has of it, as its mark says.
    pub nlink: Option<Nlink>,
    /// The attributes of the topmost lower object that it is a copy of, where they were looked for.
    pub lower: Option<Stat>,
    /// What `chattr` forbids on it, if it is in the upper layer.
    pub protection: Protattr,
    /// It is known to have no extended attribute.
    pub bare: bool,
}

impl FoundDir {
    /// Whether a lower layer is known to show it under the name by which it was found.
    pub fn is_below(&self) -> bool {
        self.view.redirect.is_none() && !self.view.lowers.is_empty()
    }
}

impl FoundLeaf {
    /// Whether a lower layer is known to show something under the name by which it was found.
    pub fn is_below(&self) -> bool {
        // The search for the data went on under the same name.
        let here = |redirect: &Redirect| *redirect == Redirect::Relative(self.place.name.clone());
        let has_data = |meta: &MetaFile| matches!(meta.data, Data::At(_)) && meta.redirect.as_ref().is_none_or(here);
        !self.upper || (self.named && self.meta.as_ref().is_some_and(has_data))
    }

    /// A new object of the upper layer.
    pub fn new_upper(place: Place, stat: Stat, device: bool) -> Self {
        let (origin, meta, index, nlink, lower) = (None, None, None, None, None);
        let protection = Protattr::default();
        let (upper, named, bare) = (true, true, false);
        Self { place, stat, upper, named, origin, device, meta, index, nlink, lower, protection, bare }
    }

    /// The links that the union has of it, where they are not the object's own.
    pub fn links(&self) -> Option<u32> {
        self.index.as_ref()?;
        // A mark that says nothing sensible leaves the object's own, as in the kernel.
        self.nlink.as_ref()?.links(self.stat.nlink, self.lower.as_ref().map(|lower| lower.nlink))
    }
}

/// An object of a lower layer.
#[derive(Debug, Clone)]
pub struct LowerFile {
    /// Where it is.
    pub place: Place,
    /// Its attributes.
    pub stat: Stat,
}

/// A file whose metadata is here and whose data is in a layer below.
#[derive(Debug, Clone)]
pub struct MetaFile {
    /// Where the data is.
    pub data: Data,
    /// What the data must be.
    pub digest: Option<Digest>,
    /// The mark that leads there, if the name does not.
    pub redirect: Option<Redirect>,
    /// Some of its blocks are here already.
    pub blocks: Option<BlocksMark>,
}

/// Where the bytes of a metacopy file are.
#[derive(Debug, Clone)]
pub enum Data {
    /// In this file of a lower layer.
    At(LowerFile),
    /// Beneath this path in the data-only layers, where it is looked for when it is first needed.
    Beneath(Arc<[Name]>),
}
