//! One live inode.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::{Common, DataFd, InodeId, Key, Names};
use crate::base::sync::{Mutex, OnceBox, RwLock};
use crate::base::{Errno, Few, Name, Result};
use crate::format::Base;
use crate::layer::{Evict, Place};
use crate::merge::{DirView, FoundLeaf, MetaFile};
use crate::sys::stat::{Kind, Stat};

/// An object that the kernel (or a user of the engine) knows.
pub struct Inode {
    /// Its number.
    pub id: InodeId,
    /// What is particular to its kind, and [`Common`].
    pub body: Body,
}

/// What directories and other objects have of their own.
pub enum Body {
    /// A directory; apart, as it is larger than what there is most of.
    Dir(Box<DirBody>),
    /// Anything else.
    Leaf(LeafBody),
}

/// A directory.
pub struct DirBody {
    common: Common,
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
    pub removed: Option<Box<Stat>>,
}

/// An object other than a directory. Most are only looked at: what few of them have is apart.
pub struct LeafBody {
    common: Common,
    /// Where it is. Short holds, no system call inside.
    pub state: Mutex<LeafState>,
    /// What it has from its first opening on.
    opened: OnceBox<Opened>,
}

/// What a file has that was opened, or whose marks were changed.
#[derive(Default)]
struct Opened {
    data: Mutex<Option<DataFd>>,
    used: AtomicBool,
    no_privileges: AtomicBool,
    /// The thread that took its capabilities away last, since somebody asked.
    capability_ender: Mutex<Option<u32>>,
}

/// Where an object other than a directory is.
pub struct LeafState {
    /// Names by which it is known; not always all.
    pub names: Few<(Arc<Inode>, Name)>,
    /// The object that is seen: the upper one as soon as there is one.
    object: Option<LeafObject>,
    /// What few files have.
    more: Option<Box<More>>,
}

/// What few files have.
#[derive(Debug, Clone, Default)]
struct More {
    /// The lower object of one that has an upper one, if it was seen.
    lower: Option<LeafObject>,
    /// The hard-link keys that lead to it.
    keys: SmallVec<[Key; 1]>,
    /// Its data is elsewhere.
    meta: Option<Box<MetaFile>>,
    /// Its entry in the index.
    index: Option<Name>,
    /// Names of it may have no link of the copy yet: the links of the lower file.
    unaliased: Option<u64>,
    /// The link count in the union, where it differs from the object's own.
    nlink: Option<u32>,
    /// What comparing the data with its digest came to.
    verified: Option<bool>,
    /// The upper object's only name is one in workdir that must go when the inode does.
    hidden: bool,
    /// It stands for a 0/0 character device.
    device: bool,
    /// It is held in the table for the sake of its other lower names, which lead to its copy as long as this is mounted.
    pinned: bool,
    /// The mark `nlink` is the difference from the lower count, as a crash may leave it.
    counted_from_lower: bool,
    /// The upper layer has no room to say where the data is once the file is renamed.
    stuck: bool,
}

/// What became of a name that was to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It was known.
    Known,
    /// It is.
    New,
    /// It is not.
    TooMany,
}

/// An object in a layer.
#[derive(Debug, Clone)]
pub struct LeafObject {
    /// Where.
    pub place: Place,
    /// `st_dev` and `st_ino` there.
    pub key: Key,
}

impl LeafObject {
    /// Whether what stands at its place, and has this key, may be it.
    pub fn may_be(&self, key: Key) -> bool {
        self.key.dev == key.dev && self.place.dir.layer.may_be(self.key.ino, key.ino)
    }
}

impl LeafState {
    /// The object that is seen: the upper one as soon as there is one.
    pub fn current(&self) -> Result<&LeafObject> {
        self.object.as_ref().ok_or(Errno::ESTALE)
    }

    /// What was found under a name; `key`: the hard-link key that leads to it.
    pub fn new(parent: &Arc<Inode>, name: &Name, found: &FoundLeaf, key: Option<Key>) -> Self {
        let nlink = found.links();
        let rare = found.meta.is_some() || found.index.is_some() || nlink.is_some() || key.is_some() || found.device;
        let more = rare.then(|| {
            Box::new(More {
                keys: key.into_iter().collect(),
                meta: found.meta.clone().map(Box::new),
                index: found.index.clone(),
                nlink,
                device: found.device,
                counted_from_lower: found.nlink.as_ref().is_some_and(|mark| mark.base == Base::Lower),
                ..More::default()
            })
        });
        Self {
            names: Few::One((parent.clone(), name.clone())),
            object: Some(LeafObject { place: found.place.clone(), key: Key::of(&found.stat) }),
            more,
        }
    }

    /// The lower object, if one was seen.
    pub fn lower(&self) -> Option<&LeafObject> {
        match &self.object {
            Some(object) if !object.place.is_upper() => Some(object),
            _ => self.more.as_ref()?.lower.as_ref(),
        }
    }

    /// The upper object, once there is one.
    pub fn upper(&self) -> Option<&LeafObject> {
        self.object.as_ref().filter(|object| object.place.is_upper())
    }

    /// There is an upper object from now on, or it is at this place.
    pub fn set_upper(&mut self, object: LeafObject) {
        if let Some(lower) = self.object.replace(object).filter(|old| !old.place.is_upper()) {
            self.more_mut().lower = Some(lower);
        }
    }

    /// The object of the upper or of a lower layer has this key from now on; the one that it had, if that was another.
    pub fn renumber(&mut self, upper: bool, key: Key) -> Option<Key> {
        let object = match &mut self.object {
            Some(object) if object.place.is_upper() == upper => object,
            _ => self.more.as_mut()?.lower.as_mut().filter(|_| !upper)?,
        };
        let old = std::mem::replace(&mut object.key, key);
        (old != key).then_some(old)
    }

    /// Whether a hard-link key leads to it.
    pub fn has_key(&self, key: Key) -> bool {
        self.more.as_ref().is_some_and(|more| more.keys.contains(&key))
    }

    /// The upper object, if there is one, is at this place from now on; true where there is one.
    pub fn move_upper(&mut self, place: Place) -> bool {
        match &mut self.object {
            Some(object) if object.place.is_upper() => {
                object.place = place;
                true
            }
            _ => false,
        }
    }

    /// The upper object whose only name is one in workdir; the inode lets go of it.
    pub fn take_hidden(&mut self) -> Option<LeafObject> {
        let hidden = self.is_hidden() && self.upper().is_some();
        let more = self.more.as_mut().filter(|_| hidden)?;
        more.hidden = false;
        let lower = more.lower.take();
        std::mem::replace(&mut self.object, lower)
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// Whether the upper object's only name is one in workdir.
    pub fn is_hidden(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.hidden)
    }

    /// It is one in workdir, which must go when the inode does.
    pub fn set_hidden(&mut self) {
        self.more_mut().hidden = true;
    }

    /// Whether it stands for a 0/0 character device.
    pub fn is_device(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.device)
    }

    /// The link count in the union, where it differs from the object's own.
    pub fn nlink(&self) -> Option<u32> {
        self.more.as_ref()?.nlink
    }

    /// The same, to be changed.
    pub fn nlink_mut(&mut self) -> Option<&mut u32> {
        self.more.as_mut()?.nlink.as_mut()
    }

    /// The link count in the union is this from now on.
    pub fn set_nlink(&mut self, links: u32) {
        self.more_mut().nlink = Some(links);
    }

    /// It is held in the table for the sake of its other names from now on, or no longer. Whether it was.
    pub fn set_pinned(&mut self, pinned: bool) -> bool {
        match &mut self.more {
            None if !pinned => false,
            _ => std::mem::replace(&mut self.more_mut().pinned, pinned),
        }
    }

    /// Whether it is held in the table for the sake of its other names: no index leads from them to its copy.
    pub fn is_pinned(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.pinned)
    }

    /// A hard-link key leads to it; false where that was known.
    pub fn add_key(&mut self, key: Key) -> bool {
        let keys = &mut self.more_mut().keys;
        let new = !keys.contains(&key);
        if new {
            keys.push(key);
        }
        new
    }

    /// A hard-link key does not lead to it.
    pub fn remove_key(&mut self, key: Key) {
        if let Some(more) = &mut self.more {
            more.keys.retain(|known| *known != key);
        }
    }

    /// The hard-link keys that led to it.
    pub fn take_keys(&mut self) -> SmallVec<[Key; 1]> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.keys)).unwrap_or_default()
    }

    /// Where its data is, if not in its object.
    pub fn meta(&self) -> Option<&MetaFile> {
        self.more.as_ref()?.meta.as_deref()
    }

    /// The same, to be changed.
    pub fn meta_mut(&mut self) -> Option<&mut MetaFile> {
        self.more.as_mut()?.meta.as_deref_mut()
    }

    /// Its data is elsewhere from now on, or (`None`) its object has it.
    pub fn set_meta(&mut self, meta: Option<MetaFile>) {
        if meta.is_some() || self.more.is_some() {
            self.more_mut().meta = meta.map(Box::new);
        }
    }

    /// Its entry in the index.
    pub fn index(&self) -> Option<&Name> {
        self.more.as_ref()?.index.as_ref()
    }

    /// It has this entry in the index from now on, or none.
    pub fn set_index(&mut self, entry: Option<Name>) {
        self.more_mut().index = entry;
    }

    /// Whether the mark `nlink` is the difference from the lower count.
    pub fn is_counted_from_lower(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.counted_from_lower)
    }

    /// That is so from now on, or no longer.
    pub fn set_count_from_lower(&mut self, lower: bool) {
        self.more_mut().counted_from_lower = lower;
    }

    /// A name of it may have no link of its copy; the lower file has so many links.
    pub fn set_unaliased(&mut self, lower_links: u64) {
        self.more_mut().unaliased = Some(lower_links);
    }

    /// The links of the lower file, if names of it may have no link of its copy.
    pub fn unaliased(&self) -> Option<u64> {
        self.more.as_ref()?.unaliased
    }

    /// All names that are known have a link of its copy.
    pub fn set_aliased(&mut self) {
        if let Some(more) = &mut self.more {
            more.unaliased = None;
        }
    }

    /// What comparing the data with its digest came to, if it was done.
    pub fn verified(&self) -> Option<bool> {
        self.more.as_ref()?.verified
    }

    /// The data was compared with its digest.
    pub fn set_verified(&mut self, right: bool) {
        self.more_mut().verified = Some(right);
    }

    /// Whether a rename must copy its data up first, as there is no room for a redirect.
    pub fn is_stuck(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.stuck)
    }

    /// A rename must copy its data up first.
    pub fn set_stuck(&mut self) {
        self.more_mut().stuck = true;
    }

    /// So many names are enough to remember where the layers tell the others: one to work, a few save a rename into
    /// workdir.
    pub const FEW_NAMES: usize = 8;
    /// Most names that are remembered: each is compared with a new one.
    pub const MOST_NAMES: usize = 1 << 10;

    /// Whether this is one of the names known.
    pub fn has_name(&self, parent: &Arc<Inode>, name: &Name) -> bool {
        self.names.iter().any(|(p, n)| Arc::ptr_eq(p, parent) && n == name)
    }

    /// Remembers a name, unless there are so many.
    pub fn add_name(&mut self, parent: &Arc<Inode>, name: &Name, most: usize) -> Added {
        if self.has_name(parent, name) {
            return Added::Known;
        }
        if self.names.len() >= most {
            return Added::TooMany;
        }
        self.names.push((parent.clone(), name.clone()));
        Added::New
    }

    /// Whether it is found by the key of its object, as one of several names.
    pub fn is_linked(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.keys.is_empty())
    }

    /// Forgets a name; true where it was known.
    pub fn remove_name(&mut self, parent: &Inode, name: &Name) -> bool {
        let before = self.names.len();
        self.names.retain(|(p, n)| p.id != parent.id || n != name);
        before != self.names.len()
    }
}

impl Deref for Inode {
    type Target = Common;

    fn deref(&self) -> &Common {
        match &self.body {
            Body::Dir(dir) => &dir.common,
            Body::Leaf(leaf) => &leaf.common,
        }
    }
}

impl Inode {
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

    /// Whether it is known by this name.
    pub fn has_name(&self, parent: InodeId, name: &Name) -> bool {
        let is = |(p, n): &(Arc<Inode>, Name)| p.id == parent && n == name;
        match &self.body {
            Body::Leaf(leaf) => leaf.state.lock().names.iter().any(is),
            Body::Dir(dir) => dir.state.read().at.as_ref().is_some_and(is),
        }
    }
}

impl DirBody {
    /// A directory at `at`.
    pub fn new(at: Option<(Arc<Inode>, Name)>, view: DirView) -> Self {
        let state = DirState { at, view, removed: None };
        Self { common: Common::new(Kind::Dir), names: RwLock::default(), state: RwLock::new(state) }
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
    /// An object of this type with what is known of it.
    pub fn new(kind: Kind, state: LeafState) -> Self {
        Self { common: Common::new(kind), state: Mutex::new(state), opened: OnceBox::new() }
    }

    /// The descriptor of its data. Opening is done under this lock, so that copy-up can replace it for good.
    pub fn data(&self) -> &Mutex<Option<DataFd>> {
        &self.opened().data
    }

    /// Closes the descriptor of its data, which is elsewhere now.
    pub fn close(&self) {
        if let Some(opened) = self.opened.get() {
            *opened.data.lock() = None;
        }
    }

    /// The descriptor was used.
    pub fn touch(&self) {
        self.opened().used.store(true, Ordering::Relaxed);
    }

    /// Known to have no set-user-id, set-group-id or file capability left to clear.
    pub fn has_no_privileges(&self) -> bool {
        self.opened.get().is_some_and(|opened| opened.no_privileges.load(Ordering::Relaxed))
    }

    /// It has none left.
    pub fn set_no_privileges(&self) {
        self.opened().no_privileges.store(true, Ordering::Relaxed);
    }

    /// It may have some from now on.
    pub fn may_have_privileges(&self) {
        if let Some(opened) = self.opened.get() {
            opened.no_privileges.store(false, Ordering::Relaxed);
        }
    }

    /// This thread took its capabilities away.
    pub fn set_capability_ender(&self, thread: u32) {
        *self.opened().capability_ender.lock() = Some(thread);
    }

    /// Whether it was this thread that took its capabilities away last; asked once.
    pub fn take_capability_ender(&self, thread: u32) -> bool {
        self.opened.get().is_some_and(|opened| opened.capability_ender.lock().take() == Some(thread))
    }

    fn opened(&self) -> &Opened {
        self.opened.get_or_init(Box::default)
    }
}

impl Drop for LeafBody {
    fn drop(&mut self) {
        // The queue of open descriptors has it, or soon will not: it is told once more than needed rather than never.
        if self.opened.get().is_some()
            && let Some(object) = &self.state.get_mut().object
        {
            object.place.dir.layer.fds.gone();
        }
    }
}

impl Evict for Inode {
    fn take_used(&self) -> bool {
        let opened = self.leaf().ok().and_then(|leaf| leaf.opened.get());
        opened.is_some_and(|opened| opened.used.swap(false, Ordering::Relaxed))
    }

    fn evict(&self) {
        if let Some(opened) = self.leaf().ok().and_then(|leaf| leaf.opened.get()) {
            // Held while it is opened: that one is in use.
            if let Some(mut data) = opened.data.try_lock() {
                *data = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What one more word here costs: eight bytes for each file that the kernel knows. `tests/memory.rs` has the sum.
    #[test]
    fn an_inode_is_small() {
        assert!(size_of::<LeafState>() <= 56, "{}", size_of::<LeafState>());
        assert!(size_of::<Inode>() <= 88, "{}", size_of::<Inode>());
    }
}
