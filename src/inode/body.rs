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
    /// What its kind has of its own, and [`Common`].
    pub body: Body,
}

/// The two sorts of inode.
pub enum Body {
    /// A directory. Boxed, as it is larger than a leaf, of which there are most.
    Dir(Box<DirBody>),
    /// Any other object.
    Leaf(LeafBody),
}

/// A directory.
pub struct DirBody {
    common: Common,
    /// Locked shared to look a name up, exclusively to change one.
    pub names: RwLock<Names>,
    /// Where the directory is. Locked for a short time, and over no system call.
    pub state: RwLock<DirState>,
}

/// Where a directory is.
pub struct DirState {
    /// Its parent and name; the root and removed directories have none.
    pub at: Option<(Arc<Inode>, Name)>,
    /// Its parts.
    pub view: DirView,
    /// The last attributes of a removed directory; `None`: it exists.
    pub removed: Option<Box<Stat>>,
}

/// An object other than a directory. Most are only looked at, so that fields which few of them use are boxed apart.
pub struct LeafBody {
    common: Common,
    /// Where the object is. Locked for a short time, and over no system call.
    pub state: Mutex<LeafState>,
    /// What a file has from its first opening on.
    opened: OnceBox<Opened>,
}

/// The fields of a file that was opened, or whose marks were changed.
#[derive(Default)]
struct Opened {
    data: Mutex<Option<DataFd>>,
    used: AtomicBool,
    no_privileges: AtomicBool,
    /// The thread that removed the file's capabilities last; taken by whoever asks.
    capability_ender: Mutex<Option<u32>>,
}

/// Where an object other than a directory is.
pub struct LeafState {
    /// The names by which the union knows the object, which may not be all of them.
    pub names: Few<(Arc<Inode>, Name)>,
    /// The object that is seen: the upper one as soon as there is one.
    object: Option<LeafObject>,
    /// The fields that few files use.
    more: Option<Box<More>>,
}

/// The fields that few files use.
#[derive(Debug, Clone, Default)]
struct More {
    /// The lower object of a file that has an upper one, if it was seen.
    lower: Option<LeafObject>,
    /// The hard-link keys that lead to the inode.
    keys: SmallVec<[Key; 1]>,
    /// Where its data is, if it is a metacopy file.
    meta: Option<Box<MetaFile>>,
    /// Its entry in the index.
    index: Option<Name>,
    /// The link count of the lower file, while some name may have no link of the copy.
    unaliased: Option<u64>,
    /// The link count in the union, where it differs from the object's own.
    nlink: Option<u32>,
    /// Whether the data matches its digest; `None`: not compared yet.
    verified: Option<bool>,
    /// The upper object has its only name in workdir, and is removed with the inode.
    hidden: bool,
    /// The object is a file that stands for a 0/0 character device.
    device: bool,
    /// The table holds the inode until the unmount, so that its other lower names lead to the copy.
    pinned: bool,
    /// The mark `nlink` counts from the lower inode, as a crash may leave it.
    counted_from_lower: bool,
    /// The upper layer has no room for a redirect to the data: a rename must copy the data first.
    stuck: bool,
}

/// What came of remembering a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The name was known before.
    Known,
    /// The name is known now.
    New,
    /// The name is not remembered: there are too many.
    TooMany,
}

/// An object in a layer.
#[derive(Debug, Clone)]
pub struct LeafObject {
    /// Where it is.
    pub place: Place,
    /// `st_dev` and `st_ino` there.
    pub key: Key,
}

impl LeafObject {
    /// Whether the object at its place, which has this key, may still be this object.
    pub fn may_be(&self, key: Key) -> bool {
        self.key.dev == key.dev && self.place.dir.layer.may_be(self.key.ino, key.ino)
    }
}

impl LeafState {
    /// The object that is seen: the upper one as soon as there is one.
    pub fn current(&self) -> Result<&LeafObject> {
        self.object.as_ref().ok_or(Errno::ESTALE)
    }

    /// The state of an object that was found under a name; `key`: the hard-link key that leads to it.
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

    /// The lower object; `None`: none was seen.
    pub fn lower(&self) -> Option<&LeafObject> {
        match &self.object {
            Some(object) if !object.place.is_upper() => Some(object),
            _ => self.more.as_ref()?.lower.as_ref(),
        }
    }

    /// Takes the lower object of an object that has an upper one out of the state.
    pub fn take_lower(&mut self) -> Option<LeafObject> {
        self.upper()?;
        self.more.as_mut()?.lower.take()
    }

    /// The upper object; `None`: there is none yet.
    pub fn upper(&self) -> Option<&LeafObject> {
        self.object.as_ref().filter(|object| object.place.is_upper())
    }

    /// Sets the upper object. An object of a lower layer that was seen becomes the lower object.
    pub fn set_upper(&mut self, object: LeafObject) {
        if let Some(lower) = self.object.replace(object).filter(|old| !old.place.is_upper()) {
            self.more_mut().lower = Some(lower);
        }
    }

    /// Sets the key of the upper object (`upper`) or of the lower one. Returns the old key, if it was another.
    pub fn renumber(&mut self, upper: bool, key: Key) -> Option<Key> {
        let object = match &mut self.object {
            Some(object) if object.place.is_upper() == upper => object,
            _ => self.more.as_mut()?.lower.as_mut().filter(|_| !upper)?,
        };
        let old = std::mem::replace(&mut object.key, key);
        (old != key).then_some(old)
    }

    /// Whether a hard-link key leads to the inode.
    pub fn has_key(&self, key: Key) -> bool {
        self.more.as_ref().is_some_and(|more| more.keys.contains(&key))
    }

    /// Sets the place of the upper object. False: there is no upper object.
    pub fn move_upper(&mut self, place: Place) -> bool {
        match &mut self.object {
            Some(object) if object.place.is_upper() => {
                object.place = place;
                true
            }
            _ => false,
        }
    }

    /// Sets the place of the object that is seen.
    pub fn set_place(&mut self, place: Place) {
        if let Some(object) = &mut self.object {
            object.place = place;
        }
    }

    /// Takes the upper object whose only name is in workdir out of the state.
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

    /// Whether the upper object has its only name in workdir.
    pub fn is_hidden(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.hidden)
    }

    /// Notes that the upper object has its only name in workdir, and is removed with the inode.
    pub fn set_hidden(&mut self) {
        self.more_mut().hidden = true;
    }

    /// Whether the object is a file that stands for a 0/0 character device.
    pub fn is_device(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.device)
    }

    /// The link count in the union, where it differs from the object's own.
    pub fn nlink(&self) -> Option<u32> {
        self.more.as_ref()?.nlink
    }

    /// The link count in the union, to be changed; `None`: it is the object's own.
    pub fn nlink_mut(&mut self) -> Option<&mut u32> {
        self.more.as_mut()?.nlink.as_mut()
    }

    /// Sets the link count in the union.
    pub fn set_nlink(&mut self, links: u32) {
        self.more_mut().nlink = Some(links);
    }

    /// Sets whether the table holds the inode for the sake of its other names; returns whether it did before.
    pub fn set_pinned(&mut self, pinned: bool) -> bool {
        match &mut self.more {
            None if !pinned => false,
            _ => std::mem::replace(&mut self.more_mut().pinned, pinned),
        }
    }

    /// Whether the table holds the inode for the sake of its other names, which no index leads to the copy.
    pub fn is_pinned(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.pinned)
    }

    /// Adds a hard-link key that leads to the inode. False: the key was known.
    pub fn add_key(&mut self, key: Key) -> bool {
        let keys = &mut self.more_mut().keys;
        let new = !keys.contains(&key);
        if new {
            keys.push(key);
        }
        new
    }

    /// Removes a hard-link key.
    pub fn remove_key(&mut self, key: Key) {
        if let Some(more) = &mut self.more {
            more.keys.retain(|known| *known != key);
        }
    }

    /// Takes all hard-link keys out of the state.
    pub fn take_keys(&mut self) -> SmallVec<[Key; 1]> {
        self.more.as_mut().map(|more| std::mem::take(&mut more.keys)).unwrap_or_default()
    }

    /// Where the data of a metacopy file is; `None`: the object has its data.
    pub fn meta(&self) -> Option<&MetaFile> {
        self.more.as_ref()?.meta.as_deref()
    }

    /// Where the data of a metacopy file is, to be changed.
    pub fn meta_mut(&mut self) -> Option<&mut MetaFile> {
        self.more.as_mut()?.meta.as_deref_mut()
    }

    /// Sets where the data of a metacopy file is; `None`: the object has its data.
    pub fn set_meta(&mut self, meta: Option<MetaFile>) {
        if meta.is_some() || self.more.is_some() {
            self.more_mut().meta = meta.map(Box::new);
        }
    }

    /// Its entry in the index.
    pub fn index(&self) -> Option<&Name> {
        self.more.as_ref()?.index.as_ref()
    }

    /// Sets its entry in the index, or removes it (`None`).
    pub fn set_index(&mut self, entry: Option<Name>) {
        self.more_mut().index = entry;
    }

    /// Whether the mark `nlink` counts from the lower inode.
    pub fn is_counted_from_lower(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.counted_from_lower)
    }

    /// Sets whether the mark `nlink` counts from the lower inode.
    pub fn set_count_from_lower(&mut self, lower: bool) {
        self.more_mut().counted_from_lower = lower;
    }

    /// Notes that some name may have no link of the copy. `lower_links`: the link count of the lower file.
    pub fn set_unaliased(&mut self, lower_links: u64) {
        self.more_mut().unaliased = Some(lower_links);
    }

    /// The link count of the lower file, while some name may have no link of the copy.
    pub fn unaliased(&self) -> Option<u64> {
        self.more.as_ref()?.unaliased
    }

    /// Notes that all known names have a link of the copy.
    pub fn set_aliased(&mut self) {
        if let Some(more) = &mut self.more {
            more.unaliased = None;
        }
    }

    /// Whether the data matches its digest; `None`: not compared yet.
    pub fn verified(&self) -> Option<bool> {
        self.more.as_ref()?.verified
    }

    /// Notes whether the data matches its digest.
    pub fn set_verified(&mut self, right: bool) {
        self.more_mut().verified = Some(right);
    }

    /// Whether a rename must copy the data up first, as there is no room for a redirect.
    pub fn is_stuck(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.stuck)
    }

    /// Notes that a rename must copy the data up first.
    pub fn set_stuck(&mut self) {
        self.more_mut().stuck = true;
    }

    /// The most names to remember where the layers tell the others. One is enough to work; a few more save moves into
    /// workdir when a name is removed.
    pub const FEW_NAMES: usize = 8;
    /// The most names to remember of any inode: each is compared with a new one.
    pub const MOST_NAMES: usize = 1 << 10;

    /// Whether a name is known.
    pub fn has_name(&self, parent: &Arc<Inode>, name: &Name) -> bool {
        self.names.iter().any(|(p, n)| Arc::ptr_eq(p, parent) && n == name)
    }

    /// Remembers a name, unless `most` names are known already.
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

    /// Whether the inode is found by a hard-link key, so that several names lead to it.
    pub fn is_linked(&self) -> bool {
        self.more.as_ref().is_some_and(|more| !more.keys.is_empty())
    }

    /// Forgets a name; returns whether it was known.
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
    /// The body of a directory.
    ///
    /// # Errors
    /// `ENOTDIR`
    pub fn dir(&self) -> Result<&DirBody> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::Leaf(_) => Err(Errno::ENOTDIR),
        }
    }

    /// The body of any other object.
    ///
    /// # Errors
    /// `EISDIR`
    pub fn leaf(&self) -> Result<&LeafBody> {
        match &self.body {
            Body::Leaf(leaf) => Ok(leaf),
            Body::Dir(_) => Err(Errno::EISDIR),
        }
    }

    /// The body of a regular file.
    ///
    /// # Errors
    /// `EISDIR`; `EINVAL` for an object that has no data.
    pub fn file(&self) -> Result<&LeafBody> {
        if self.kind == Kind::File || self.kind == Kind::Dir { self.leaf() } else { Err(Errno::EINVAL) }
    }

    /// Whether the inode is known by this name.
    pub fn has_name(&self, parent: InodeId, name: &Name) -> bool {
        let is = |(p, n): &(Arc<Inode>, Name)| p.id == parent && n == name;
        match &self.body {
            Body::Leaf(leaf) => leaf.state.lock().names.iter().any(is),
            Body::Dir(dir) => dir.state.read().at.as_ref().is_some_and(is),
        }
    }
}

impl DirBody {
    /// A directory at the parent and name `at`.
    pub fn new(at: Option<(Arc<Inode>, Name)>, view: DirView) -> Self {
        let state = DirState { at, view, removed: None };
        Self { common: Common::new(Kind::Dir), names: RwLock::default(), state: RwLock::new(state) }
    }

    /// Its parts as they are now.
    pub fn view(&self) -> DirView {
        self.state.read().view.clone()
    }

    /// Its parts, if it still exists.
    ///
    /// # Errors
    /// `ENOENT`: the directory was removed.
    pub fn live_view(&self) -> Result<DirView> {
        let state = self.state.read();
        if state.removed.is_some() { Err(Errno::ENOENT) } else { Ok(state.view.clone()) }
    }
}

impl LeafBody {
    /// An object of this type and state.
    pub fn new(kind: Kind, state: LeafState) -> Self {
        Self { common: Common::new(kind), state: Mutex::new(state), opened: OnceBox::new() }
    }

    /// The open descriptor of its data. The file is opened under this lock, so that a copy-up closes every descriptor
    /// of the old file.
    pub fn data(&self) -> &Mutex<Option<DataFd>> {
        &self.opened().data
    }

    /// Closes the descriptor of its data, after the data has moved to another file.
    pub fn close(&self) {
        if let Some(opened) = self.opened.get() {
            *opened.data.lock() = None;
        }
    }

    /// Notes a use of the descriptor.
    pub fn touch(&self) {
        self.opened().used.store(true, Ordering::Relaxed);
    }

    /// Whether the file is known to have no set-user-id, set-group-id or file capability.
    pub fn has_no_privileges(&self) -> bool {
        self.opened.get().is_some_and(|opened| opened.no_privileges.load(Ordering::Relaxed))
    }

    /// Notes that the file has no set-user-id, set-group-id or file capability.
    pub fn set_no_privileges(&self) {
        self.opened().no_privileges.store(true, Ordering::Relaxed);
    }

    /// Notes that the file may have set-user-id, set-group-id or a file capability again.
    pub fn may_have_privileges(&self) {
        if let Some(opened) = self.opened.get() {
            opened.no_privileges.store(false, Ordering::Relaxed);
        }
    }

    /// Notes the thread that has removed the file's capabilities.
    pub fn set_capability_ender(&self, thread: u32) {
        *self.opened().capability_ender.lock() = Some(thread);
    }

    /// Whether this thread was the last to remove the file's capabilities. The answer is given once.
    pub fn take_capability_ender(&self, thread: u32) -> bool {
        self.opened.get().is_some_and(|opened| opened.capability_ender.lock().take() == Some(thread))
    }

    fn opened(&self) -> &Opened {
        self.opened.get_or_init(Box::default)
    }
}

impl Drop for LeafBody {
    fn drop(&mut self) {
        // The cache of descriptors has an entry for this one, or had one: it may be told once too often, but must not
        // be told too rarely.
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
            // A lock that is taken means that the file is being opened: such a descriptor is in use.
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
