//! The values that a lookup returns.

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
    /// Empty files in the directory may be whiteouts.
    pub xattr_whiteouts: bool,
    /// Objects in the directory may have an `origin`, or may be metacopy files.
    pub impure: bool,
}

/// A merged directory: its parts, the topmost first.
#[derive(Debug, Clone)]
pub struct DirView {
    /// The part in the upper layer.
    pub upper: Option<DirPart>,
    /// The upper part's mark `redirect`, which says where the lower parts are; `None`: under the directory's own name.
    pub redirect: Option<Redirect>,
    /// The parts in the lower layers that have the directory, the topmost first.
    pub lowers: Arc<[DirPart]>,
}

impl DirView {
    /// All parts from slot `from` on, with their slots: slot 0 is the upper part, slot k the k-th lower part.
    pub fn parts(&self, from: usize) -> impl Iterator<Item = (usize, &DirPart)> {
        let upper = self.upper.iter().filter(move |_| from == 0).map(|part| (0, part));
        let skipped = from.saturating_sub(1);
        upper.chain(self.lowers.iter().enumerate().skip(skipped).map(|(i, part)| (i + 1, part)))
    }

    /// How many parts the directory has.
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
    /// An object is seen under the name.
    Found(Found),
    /// Nothing is seen under the name.
    Absent(Absent),
}

/// Why a name is not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A whiteout stands in the upper layer.
    UpperWhiteout,
    /// No layer has the name, or a lower layer hides it.
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
    /// The lookup has listed no extended attribute of the topmost part, and of the topmost lower part, that users see.
    pub plain: (bool, bool),
}

/// An object other than a directory that is seen.
pub struct FoundLeaf {
    /// Where the object is: in the index, if it has an entry there.
    pub place: Place,
    /// Its attributes as they are shown.
    pub stat: Stat,
    /// The object is in the upper layer.
    pub upper: bool,
    /// The object stands in the upper layer under the name that was looked up.
    pub named: bool,
    /// The lower object that it was copied up from.
    pub origin: Option<Origin>,
    /// The object is a file that stands for a 0/0 character device of a user.
    pub device: bool,
    /// Where its data is, if it is a metacopy file.
    pub meta: Option<MetaFile>,
    /// Its entry in the index.
    pub index: Option<Name>,
    /// The mark `nlink`: how many links the union has of the object.
    pub nlink: Option<Nlink>,
    /// The attributes of the topmost lower object that it is a copy of, if the search went there.
    pub lower: Option<Stat>,
    /// What `chattr` forbids on an upper object, as its mark says.
    pub protection: Protattr,
    /// It is known to have no extended attribute.
    pub bare: bool,
    /// The lookup has listed no extended attribute that users see.
    pub plain: bool,
}

impl FoundDir {
    /// Whether a lower layer is known to show the directory under the name by which it was found.
    pub fn is_below(&self) -> bool {
        self.view.redirect.is_none() && !self.view.lowers.is_empty()
    }
}

impl FoundLeaf {
    /// Whether a lower layer is known to show an object under the name by which this one was found.
    pub fn is_below(&self) -> bool {
        // The search for the data went on under the same name.
        let here = |redirect: &Redirect| *redirect == Redirect::Relative(self.place.name.clone());
        let has_data = |meta: &MetaFile| matches!(meta.data, Data::At(_)) && meta.redirect.as_ref().is_none_or(here);
        !self.upper || (self.named && self.meta.as_ref().is_some_and(has_data))
    }

    /// A new object of the upper layer, without marks.
    pub fn new_upper(place: Place, stat: Stat, device: bool) -> Self {
        let (origin, meta, index, nlink, lower) = (None, None, None, None, None);
        let protection = Protattr::default();
        let (upper, named, bare, plain) = (true, true, false, false);
        Self { place, stat, upper, named, origin, device, meta, index, nlink, lower, protection, bare, plain }
    }

    /// The link count in the union, if it is not the object's own.
    pub fn links(&self) -> Option<u32> {
        self.index.as_ref()?;
        // A mark without a sensible value leaves the object's own count, as in the kernel's OverlayFS.
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
    /// The digest that the data must have.
    pub digest: Option<Digest>,
    /// The mark that leads to the data; `None`: the file's name does.
    pub redirect: Option<Redirect>,
    /// Some blocks of the data are in the upper layer already.
    pub blocks: Option<BlocksMark>,
}

/// Where the bytes of a metacopy file are.
#[derive(Debug, Clone)]
pub enum Data {
    /// In a file of a lower layer.
    At(LowerFile),
    /// At this path in the data-only layers, which are searched when the data is first needed.
    Beneath(Arc<[Name]>),
}
