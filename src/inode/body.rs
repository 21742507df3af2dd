//! One live inode.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::{DataFd, InodeId, Key, Names};
use crate::base::sync::{Mutex, RwLock};
use crate::base::{Errno, Name, Result};
use crate::format::{Base, Protattr};
use crate::layer::{Evict, Place};
use crate::merge::{DirView, FoundLeaf, MetaFile};
use crate::sys::stat::{Kind, Stat};

/// An object that the kernel (or a user of the engine) knows.
pub struct Inode {
    /// Its number.
    pub id: InodeId,
    /// Its type; it never changes.
    pub kind: Kind,
    /// Lookups that were not forgotten, and children that are held.
    refs: AtomicU64,
    /// What `chattr` forbids on its upper object: bits [`APPEND`] and [`IMMUTABLE`].
    protection: AtomicU8,
    /// Held through its copy-up (lock order: `locks.rs`).
    pub up: Mutex<()>,
    /// What is particular to its kind.
    pub body: Body,
}

/// What directories and other objects have of their own.
pub enum Body {
    /// A directory.
    Dir(DirBody),
    /// Anything else.
    Leaf(LeafBody),
}

/// A directory.
pub struct DirBody {
    /// Held (shared) to resolve a name in it, exclusively to change one.
    pub names: RwLock<Names>,
    /// Where it is. Short holds, no system call inside.
    pub state: RwLock<DirState>,
}

/// Where a directory is.
pub struct DirState {
    /// Its parent and name; the root and removed directories have none.
    pub at: Option<(Arc<Inode>, Name)>,
    /// Its parts.
    pub view: DirView,
    /// Set when it was removed: its last attributes.
    pub removed: Option<Stat>,
}

/// An object other than a directory.
pub struct LeafBody {
    /// Where it is. Short holds, no system call inside.
    pub state: Mutex<LeafState>,
    /// The descriptor of its data. Opening is done under this lock, so that copy-up can replace it for good.
    pub data: Mutex<Option<DataFd>>,
    used: AtomicBool,
    /// Known to have no set-user-id, set-group-id or file capability left to clear.
    pub no_privileges: AtomicBool,
}

/// Where an object other than a directory is.
pub struct LeafState {
    /// Names by which it is known; not always all.
    pub names: SmallVec<[(Arc<Inode>, Name); 1]>,
    /// The lower object, if one was seen.
    pub lower: Option<LeafObject>,
    /// The upper object, once there is one.
    pub upper: Option<LeafObject>,
    /// The upper object's only name is one in workdir that must go when the inode does.
    pub hidden: bool,
    /// The link count in the union, where it differs from the object's own.
    pub nlink: Option<u32>,
    /// The hard-link keys that lead to it.
    pub keys: SmallVec<[Key; 1]>,
    /// It stands for a 0/0 character device.
    pub device: bool,
    /// It is held in the table for the sake of its other lower names, which lead to its copy as long as this is mounted.
    pub pinned: bool,
    /// What few files have.
    more: Option<Box<More>>,
}

/// What few files have.
#[derive(Debug, Clone, Default)]
struct More {
    /// Its data is elsewhere.
    meta: Option<MetaFile>,
    /// What comparing the data with its digest came to.
    verified: Option<bool>,
    /// Its entry in the index.
    index: Option<Name>,
    /// Names of it may have no link of the copy in the index: the links of the lower file.
    unaliased: Option<u64>,
    /// The mark `nlink` is the difference from the lower count, as a crash may leave it.
    counted_from_lower: bool,
    /// The upper layer has no room to say where the data is once the file is renamed.
    stuck: bool,
}

/// An object in a layer.
#[derive(Debug, Clone)]
pub struct LeafObject {
    /// Where.
    pub place: Place,
    /// `st_dev` and `st_ino` there.
    pub key: Key,
}

impl LeafState {
    /// The object that is seen: the upper one as soon as there is one.
    pub fn current(&self) -> Result<&LeafObject> {
        self.upper.as_ref().or(self.lower.as_ref()).ok_or(Errno::ESTALE)
    }

    /// What was found under a name; `keys`: the hard-link keys that lead to it.
    pub fn new(parent: &Arc<Inode>, name: &Name, found: &FoundLeaf, keys: SmallVec<[Key; 1]>) -> Self {
        let object = Some(LeafObject { place: found.place.clone(), key: Key::of(&found.stat) });
        let (upper, lower) = if found.upper { (object, None) } else { (None, object) };
        let more = (found.meta.is_some() || found.index.is_some()).then(|| {
            let (meta, index) = (found.meta.clone(), found.index.clone());
            let counted_from_lower = found.nlink.as_ref().is_some_and(|mark| mark.base == Base::Lower);
            Box::new(More { meta, index, counted_from_lower, ..More::default() })
        });
        Self {
            names: [(parent.clone(), name.clone())].into_iter().collect(),
            lower,
            upper,
            hidden: false,
            nlink: found.links(),
            keys,
            device: found.device,
            pinned: false,
            more,
        }
    }

    /// Where its data is, if not in its object.
    pub fn meta(&self) -> Option<&MetaFile> {
        self.more.as_ref()?.meta.as_ref()
    }

    /// The same, to be changed.
    pub fn meta_mut(&mut self) -> Option<&mut MetaFile> {
        self.more.as_mut()?.meta.as_mut()
    }

    /// Its data is elsewhere from now on, or (`None`) its object has it.
    pub fn set_meta(&mut self, meta: Option<MetaFile>) {
        if meta.is_some() || self.more.is_some() {
            self.more.get_or_insert_default().meta = meta;
        }
    }

    /// Its entry in the index.
    pub fn index(&self) -> Option<&Name> {
        self.more.as_ref()?.index.as_ref()
    }

    /// It has this entry in the index from now on, or none.
    pub fn set_index(&mut self, entry: Option<Name>) {
        self.more.get_or_insert_default().index = entry;
    }

    /// Whether the mark `nlink` is the difference from the lower count.
    pub fn is_counted_from_lower(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.counted_from_lower)
    }

    /// That is so from now on, or no longer.
    pub fn set_count_from_lower(&mut self, lower: bool) {
        self.more.get_or_insert_default().counted_from_lower = lower;
    }

    /// A name of it may have no link of its copy in the index; the lower file has so many links.
    pub fn set_unaliased(&mut self, lower_links: u64) {
        self.more.get_or_insert_default().unaliased = Some(lower_links);
    }

    /// The links of the lower file, if names of it may have no link of its copy in the index; asked once.
    pub fn take_unaliased(&mut self) -> Option<u64> {
        self.more.as_mut()?.unaliased.take()
    }

    /// What comparing the data with its digest came to, if it was done.
    pub fn verified(&self) -> Option<bool> {
        self.more.as_ref()?.verified
    }

    /// The data was compared with its digest.
    pub fn set_verified(&mut self, right: bool) {
        self.more.get_or_insert_default().verified = Some(right);
    }

    /// Whether a rename must copy its data up first, as there is no room for a redirect.
    pub fn is_stuck(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.stuck)
    }

    /// A rename must copy its data up first.
    pub fn set_stuck(&mut self) {
        self.more.get_or_insert_default().stuck = true;
    }

    /// Most names that are remembered: one is enough to work, a few save a rename into workdir.
    const MAX_NAMES: usize = 8;

    /// Whether this is one of the names known.
    pub fn has_name(&self, parent: &Arc<Inode>, name: &Name) -> bool {
        self.names.iter().any(|(p, n)| Arc::ptr_eq(p, parent) && n == name)
    }

    /// Remembers a name.
    pub fn add_name(&mut self, parent: &Arc<Inode>, name: &Name) -> bool {
        if self.has_name(parent, name) || self.names.len() >= Self::MAX_NAMES {
            return false;
        }
        self.names.push((parent.clone(), name.clone()));
        true
    }

    /// Forgets a name; true where it was known.
    pub fn remove_name(&mut self, parent: &Inode, name: &Name) -> bool {
        let before = self.names.len();
        self.names.retain(|(p, n)| p.id != parent.id || n != name);
        before != self.names.len()
    }
}

const APPEND: u8 = 1;
const IMMUTABLE: u8 = 2;

/// `refs` of an inode that is being taken out of the table.
const DEAD: u64 = u64::MAX;

impl Inode {
    /// A new inode with one reference.
    pub fn new(id: InodeId, kind: Kind, body: Body) -> Self {
        Self { id, kind, refs: AtomicU64::new(1), protection: AtomicU8::new(0), up: Mutex::new(()), body }
    }

    /// What `chattr` forbids on its upper object.
    pub fn protection(&self) -> Protattr {
        let bits = self.protection.load(Ordering::Relaxed);
        Protattr { append: bits & APPEND != 0, immutable: bits & IMMUTABLE != 0 }
    }

    /// That is so from now on.
    pub fn set_protection(&self, flags: Protattr) {
        let bits = if flags.append { APPEND } else { 0 } | if flags.immutable { IMMUTABLE } else { 0 };
        self.protection.store(bits, Ordering::Relaxed);
    }

    /// The directory's part.
    ///
    /// # Errors
    /// `ENOTDIR`
    pub fn dir(&self) -> Result<&DirBody> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::Leaf(_) => Err(Errno::ENOTDIR),
        }
    }

    /// The other objects' part.
    ///
    /// # Errors
    /// `EISDIR`
    pub fn leaf(&self) -> Result<&LeafBody> {
        match &self.body {
            Body::Leaf(leaf) => Ok(leaf),
            Body::Dir(_) => Err(Errno::EISDIR),
        }
    }

    /// The regular file's part.
    ///
    /// # Errors
    /// `EISDIR`, or `EINVAL` for what has no data.
    pub fn file(&self) -> Result<&LeafBody> {
        if self.kind == Kind::File || self.kind == Kind::Dir { self.leaf() } else { Err(Errno::EINVAL) }
    }

    /// One reference more; false where the inode is on its way out.
    pub fn acquire(&self) -> bool {
        let more = |refs| if refs == DEAD { None } else { Some(refs + 1) };
        self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// `n` references less; true where these were the last (exactly one caller is told so).
    pub fn release(&self, n: u64) -> bool {
        let less = |refs| match refs {
            DEAD => None,
            refs if refs <= n => Some(DEAD),
            refs => Some(refs - n),
        };
        matches!(self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, less), Ok(refs) if refs <= n)
    }
}

impl DirBody {
    /// A directory at `at`.
    pub fn new(at: Option<(Arc<Inode>, Name)>, view: DirView) -> Self {
        Self { names: RwLock::default(), state: RwLock::new(DirState { at, view, removed: None }) }
    }

    /// Its parts as of now.
    pub fn view(&self) -> DirView {
        self.state.read().view.clone()
    }

    /// Its parts, for a change of its names.
    ///
    /// # Errors
    /// `ENOENT` where it was removed.
    pub fn live_view(&self) -> Result<DirView> {
        let state = self.state.read();
        if state.removed.is_some() { Err(Errno::ENOENT) } else { Ok(state.view.clone()) }
    }
}

impl LeafBody {
    /// An object with what is known of it.
    pub fn new(state: LeafState) -> Self {
        Self {
            state: Mutex::new(state),
            data: Mutex::new(None),
            used: AtomicBool::new(false),
            no_privileges: AtomicBool::new(false),
        }
    }

    /// The descriptor was used.
    pub fn touch(&self) {
        self.used.store(true, Ordering::Relaxed);
    }
}

impl Evict for Inode {
    fn take_used(&self) -> bool {
        self.leaf().is_ok_and(|leaf| leaf.used.swap(false, Ordering::Relaxed))
    }

    fn evict(&self) {
        if let Ok(leaf) = self.leaf() {
            // Held while it is opened: that one is in use.
            if let Some(mut data) = leaf.data.try_lock() {
                *data = None;
            }
        }
    }
}
