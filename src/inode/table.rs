//! The concurrent inode cache. An inode is in it as long as the kernel may name it by its number, and leaves it with
//! FORGET.

use std::sync::Arc;

use smallvec::SmallVec;

use super::body::{Added, LeafState};
use super::shards::{Keyed, Named, Shards};
use super::{Body, DirBody, Inode, InodeId, Journal, Key, LeafBody, Node, Numbers, System};
use crate::base::sync::yield_now;
use crate::base::{Few, Name};
use crate::format::Namespace;
use crate::format::journal::Record;
use crate::layer::{Layer, read_leaf_marks};
use crate::merge::{DirView, Found, FoundLeaf};
use crate::sys::stat::Kind;

/// What becomes of several names of one lower object.
#[derive(Debug, Clone, Copy)]
pub struct HardLinks {
    /// The names are one inode. False where a copy cannot have several names: each is a file of its own then.
    pub unite: bool,
    /// Objects are copied up, and each known name gets a link of the copy.
    pub copied: bool,
    /// The namespace of the index's marks; `None`: there is no index by which other names find a copy.
    pub indexed: Option<Namespace>,
}

impl HardLinks {
    /// Whether the copy of such an object goes into the index. Symlinks, fifos, sockets and devices take no `user.*`
    /// marks.
    pub fn is_indexed(&self, layer: &Layer, kind: Kind) -> bool {
        let takes = |marks| kind == Kind::File || marks == Namespace::Trusted;
        layer.handles.are_lasting() && self.indexed.is_some_and(takes)
    }
}

/// All live inodes: by number, by parent and name, and, if they have several links, by object.
///
/// Directories are never found by object: a bind mount shows one directory under two names.
pub struct Table {
    pub(super) by_id: Shards<Arc<Inode>>,
    pub(super) by_name: Shards<Named>,
    pub(super) by_key: Shards<Keyed>,
    pub(super) numbers: Numbers,
    pub(super) root: Arc<Inode>,
    /// What becomes of several names of one lower object.
    pub hard_links: HardLinks,
    /// Where changes are written down for another daemon that may have to go on.
    journal: Option<Arc<Journal>>,
}

impl Table {
    /// A table with nothing but the root.
    pub fn new(numbers: Numbers, root: DirView, hard_links: HardLinks, journal: Option<Arc<Journal>>) -> Self {
        let root = Arc::new(Inode { id: InodeId::ROOT, body: Body::Dir(Box::new(DirBody::new(None, root))) });
        let by_id = Shards::new();
        by_id.insert(&InodeId::ROOT, &root);
        Self { by_id, by_name: Shards::new(), by_key: Shards::new(), numbers, root, hard_links, journal }
    }

    /// The inode with this number.
    pub fn get(&self, id: InodeId) -> Option<Arc<Inode>> {
        if id == InodeId::ROOT {
            return Some(self.root.clone());
        }
        self.by_id.get(&id)
    }

    /// The number that an object of a layer gets when it is looked up, if no other inode has it.
    pub fn number_of(&self, dev: u64, ino: u64) -> Option<InodeId> {
        self.numbers.of_object(dev, ino).filter(|id| self.get(*id).is_none())
    }

    /// A number that leads nowhere, for a name that can be listed but not looked up.
    pub fn spare_id(&self) -> InodeId {
        self.numbers.private()
    }

    /// Whether a number was made up for one inode, and lasts only as long as that is live.
    pub fn is_private(&self, id: InodeId) -> bool {
        self.numbers.is_private(id)
    }

    /// Calls `act` for each live inode, the root included. No request is under way.
    pub fn for_each(&self, act: &mut dyn FnMut(&Arc<Inode>)) {
        self.by_id.for_each(act);
    }

    /// A lower layer is on the file system of the upper one from now on.
    pub fn upper_has_lower_beside(&self) {
        self.numbers.first_is_lower();
    }

    /// How many file systems the layers are on.
    pub fn systems(&self) -> usize {
        self.numbers.systems()
    }

    /// A layer on this file system joins the others.
    pub fn add_system(&self, system: System) {
        self.numbers.add(system);
    }

    /// No lower layer is on this file system any more; `stays`: the upper one is.
    pub fn drop_system(&self, dev: u64, stays: bool) {
        self.numbers.drop(dev, stays);
    }

    /// The lower object of a file that has an upper one is in a layer that is gone: nothing leads from there to the copy.
    /// The inode may be held for the sake of its lower names: true, that hold is the caller's to take back.
    pub fn drop_lower(&self, inode: &Arc<Inode>) -> bool {
        let Body::Leaf(leaf) = &inode.body else { return false };
        let (key, pinned) = {
            let mut state = leaf.state.lock();
            let key = state.take_lower().map(|lower| lower.key);
            (key, state.set_pinned(false))
        };
        key.into_iter().for_each(|key| self.drop_key(inode, key));
        pinned
    }

    /// Makes no hard-link key lead to `inode` any more.
    pub fn drop_keys(&self, inode: &Arc<Inode>) {
        let Body::Leaf(leaf) = &inode.body else { return };
        let keys = leaf.state.lock().take_keys();
        keys.into_iter().for_each(|key| self.by_key.remove_inode(&key, inode));
    }

    /// How many inodes are live.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The inode for the object that was found under `name`, with one more reference. The caller holds the parent's
    /// `names`.
    pub fn intern(&self, parent: &Arc<Inode>, name: &Name, found: &Found) -> Arc<Inode> {
        let inode = self.find_or_make(parent, name, found);
        if let (Body::Leaf(leaf), Found::Leaf(found)) = (&inode.body, found)
            && let (Some(lower), Some(_), false) = (&found.lower, &found.index, found.named)
        {
            let mut state = leaf.state.lock();
            state.set_unaliased(lower.nlink);
            // This name tells the link count, which an earlier one may not have told.
            if let (None, Some(links)) = (state.nlink(), found.links()) {
                state.set_nlink(links);
            }
        }
        inode
    }

    fn find_or_make(&self, parent: &Arc<Inode>, name: &Name, found: &Found) -> Arc<Inode> {
        loop {
            if let Some(inode) = self.by_name(parent.id, name) {
                if matches(&inode, found) {
                    if self.hold(&inode) {
                        self.renumber(&inode, found);
                        return inode;
                    }
                    yield_now();
                    continue;
                }
                // The layers have changed underneath: the old inode keeps only its number.
                self.by_name.remove_inode(&(parent.id, name), &inode);
                self.note(|| [unnamed(inode.id.0, parent, name)]);
            }
            let key = match self.by_link(parent, name, found) {
                Linked::No => self.link_key(found),
                Linked::Apart => None,
                Linked::Yes(inode) => return inode,
                Linked::Again => {
                    yield_now();
                    continue;
                }
            };
            if let Some(inode) = self.insert(parent, name, found, key) {
                return inode;
            }
        }
    }

    /// The live inode under this name, if any.
    pub fn by_name(&self, parent: InodeId, name: &Name) -> Option<Arc<Inode>> {
        self.by_name.get(&(parent, name))
    }

    fn by_link(&self, parent: &Arc<Inode>, name: &Name, found: &Found) -> Linked {
        let Found::Leaf(leaf) = found else { return Linked::No };
        let united = self.hard_links.unite || leaf.upper;
        let Some(inode) = self.by_key.get(&Key::of(&leaf.stat)).filter(|_| united) else { return Linked::No };
        if !self.hold(&inode) {
            return Linked::Again;
        }
        if !self.still_has(&inode, leaf) {
            self.forget(inode.id, 1, &mut |_| {});
            return Linked::Again;
        }
        let lower = (!leaf.upper).then_some(leaf.stat.nlink);
        let added = self.add_name(&inode, parent, name, lower);
        let told = leaf.upper || !self.hard_links.copied;
        if added == Added::TooMany && !told && !self.hard_links.is_indexed(&leaf.place.dir.layer, inode.kind) {
            // Data that is written by this name must be found under it later: the name is a file of its own.
            self.forget(inode.id, 1, &mut |_| {});
            return Linked::Apart;
        }
        Linked::Yes(inode)
    }

    /// Gives `inode` the new key of its object, whose number is another now.
    fn renumber(&self, inode: &Arc<Inode>, found: &Found) {
        if let (Body::Leaf(leaf), Found::Leaf(found)) = (&inode.body, found)
            && !found.place.dir.layer.lasting_numbers
        {
            self.set_key(inode, leaf, found.upper, Key::of(&found.stat));
        }
    }

    fn set_key(&self, inode: &Arc<Inode>, leaf: &LeafBody, upper: bool, key: Key) {
        let old = {
            let mut state = leaf.state.lock();
            state.renumber(upper, key).filter(|old| state.has_key(*old))
        };
        if let Some(old) = old {
            self.drop_key(inode, old);
            self.add_key(inode, key);
        }
    }

    /// Whether the object of `inode` still has the number that was found. Where numbers do not last, another object may
    /// have it now.
    fn still_has(&self, inode: &Arc<Inode>, found: &FoundLeaf) -> bool {
        let Body::Leaf(leaf) = &inode.body else { return false };
        if found.place.dir.layer.lasting_numbers {
            return true;
        }
        let object = {
            let state = leaf.state.lock();
            if found.upper { state.upper().cloned() } else { state.lower().cloned() }
        };
        let key = object.and_then(|object| object.place.stat().ok()).map(|stat| Key::of(&stat));
        if key == Some(Key::of(&found.stat)) {
            return true;
        }
        self.drop_key(inode, Key::of(&found.stat));
        if let Some(key) = key {
            self.set_key(inode, leaf, found.upper, key);
        }
        false
    }

    /// Adds one reference. False: the inode is being taken out of the table.
    pub fn hold(&self, inode: &Inode) -> bool {
        let held = inode.acquire();
        if held && inode.id != InodeId::ROOT {
            self.note(|| [Record::Held { id: inode.id.0, lookups: 1 }]);
        }
        held
    }

    /// Writes records to the journal, if there is one.
    fn note<const N: usize>(&self, records: impl FnOnce() -> [Record; N]) {
        if let Some(journal) = &self.journal {
            journal.write(records());
        }
    }

    /// Enters a new inode, also under the hard-link key `key` if it has one. `None`: another thread was first.
    fn insert(&self, parent: &Arc<Inode>, name: &Name, found: &Found, key: Option<Key>) -> Option<Arc<Inode>> {
        let inode = self.number(parent, name, found, key);
        // Other threads that find the inode wait until it is known where its data is. Nobody else can hold these locks
        // of a new inode.
        let unsure = match (&inode.body, found) {
            (Body::Leaf(leaf), Found::Leaf(found)) if found.upper && found.meta.is_some() => Some((leaf, found)),
            _ => None,
        };
        let _wait = unsure.map(|(leaf, _)| (inode.up.try_lock(), leaf.data().try_lock()));
        // Written down before another thread can find and hold the inode.
        self.note(|| {
            let (id, kind) = (inode.id.0, Node::kind_of(inode.kind));
            [Record::Node { id, kind }, named(id, parent, name), Record::Held { id, lookups: 1 }]
        });
        let linked = key.is_none_or(|key| self.by_key.insert_new(&key, &inode));
        if linked && self.by_name.insert_new(&(parent.id, name), &inode) {
            if let Some((leaf, found)) = unsure {
                refresh_meta(leaf, found);
            }
            parent.acquire();
            return Some(inode.clone());
        }
        // Another thread was first: its inode counts.
        if let (true, Some(key)) = (linked, key) {
            self.by_key.remove_inode(&key, &inode);
        }
        self.note(|| [Record::Dead { id: inode.id.0 }]);
        self.by_id.remove_inode(&inode.id, &inode);
        None
    }

    /// Enters a new inode under its number: its lasting number, unless another inode still has that.
    fn number(&self, parent: &Arc<Inode>, name: &Name, found: &Found, key: Option<Key>) -> Arc<Inode> {
        let mut id = self.lasting(found).unwrap_or_else(|| self.numbers.private());
        loop {
            let inode = Arc::new(make(id, parent, name, found, key));
            if self.by_id.insert_new(&id, &inode) {
                return inode;
            }
            id = self.numbers.private();
        }
    }

    /// The lasting number that the layers give an object, if any.
    pub fn lasting(&self, found: &Found) -> Option<InodeId> {
        match found {
            Found::Dir(dir) => {
                let stat = dir.lower.as_ref().unwrap_or(&dir.stat);
                self.numbers.of_object(stat.dev, stat.ino)
            }
            Found::Leaf(leaf) => {
                let lower = leaf.lower.as_ref().and_then(|stat| self.numbers.of_object(stat.dev, stat.ino));
                let origin = lower.or_else(|| leaf.origin.as_ref().and_then(|origin| self.numbers.of_origin(origin)));
                origin.or_else(|| self.numbers.of_object(leaf.stat.dev, leaf.stat.ino))
            }
        }
    }

    /// Gives `inode` one more name. `lower_links`: the link count of the lower object, if the name is in a lower layer.
    pub fn add_name(&self, inode: &Arc<Inode>, parent: &Arc<Inode>, name: &Name, lower_links: Option<u64>) -> Added {
        let Body::Leaf(leaf) = &inode.body else { return Added::Known };
        let all = lower_links.is_some() && self.hard_links.copied;
        let added = {
            let mut state = leaf.state.lock();
            let added = state.add_name(parent, name, if all { LeafState::MOST_NAMES } else { LeafState::FEW_NAMES });
            if let (Added::New, Some(links), true, None) = (added, lower_links, state.upper().is_some(), state.index())
            {
                state.set_unaliased(links);
            }
            added
        };
        if added == Added::New {
            parent.acquire();
            self.by_name.insert(&(parent.id, name), inode);
            self.note(|| [named(inode.id.0, parent, name)]);
        }
        added
    }

    /// The key of an object with several links, by which all of its names lead to one inode.
    pub(super) fn link_key(&self, found: &Found) -> Option<Key> {
        match found {
            Found::Leaf(leaf) if leaf.stat.nlink > 1 || leaf.index.is_some() => {
                (self.hard_links.unite || leaf.upper).then(|| Key::of(&leaf.stat))
            }
            _ => None,
        }
    }

    /// Makes a hard-link key lead to `inode`.
    pub fn add_key(&self, inode: &Arc<Inode>, key: Key) {
        if let Body::Leaf(leaf) = &inode.body {
            let new = leaf.state.lock().add_key(key);
            if !new {
                return;
            }
        }
        self.by_key.insert(&key, inode);
    }

    /// Makes a hard-link key lead to `inode` until the value is dropped, or for good if it is [kept](HeldKey::keep).
    pub fn hold_key<'a>(&'a self, inode: &'a Arc<Inode>, key: Key) -> HeldKey<'a> {
        self.add_key(inode, key);
        HeldKey { table: self, inode, key, ends: true }
    }

    fn drop_key(&self, inode: &Arc<Inode>, key: Key) {
        if let Body::Leaf(leaf) = &inode.body {
            leaf.state.lock().remove_key(key);
        }
        self.by_key.remove_inode(&key, inode);
    }

    /// Takes out a name that is gone or leads elsewhere. Returns the inode that it led to.
    pub fn remove_name(&self, parent: &Arc<Inode>, name: &Name) -> Option<Arc<Inode>> {
        let inode = self.by_name.remove(&(parent.id, name))?;
        let known = match &inode.body {
            Body::Leaf(leaf) => leaf.state.lock().remove_name(parent, name),
            Body::Dir(dir) => {
                let mut state = dir.state.write();
                let here = state.at.as_ref().is_some_and(|(p, n)| Arc::ptr_eq(p, parent) && n == name);
                if here {
                    state.at = None;
                }
                here
            }
        };
        self.note(|| [unnamed(inode.id.0, parent, name)]);
        if known {
            self.release(parent, 1, &mut |_| {});
        }
        Some(inode)
    }

    /// Enters that an inode was renamed.
    pub fn rename(&self, inode: &Arc<Inode>, from: (&Arc<Inode>, &Name), to: (&Arc<Inode>, &Name)) {
        self.by_name.remove_inode(&(from.0.id, from.1), inode);
        match &inode.body {
            Body::Leaf(leaf) => {
                let mut state = leaf.state.lock();
                let known = state.remove_name(from.0, from.1);
                to.0.acquire();
                state.names.push((to.0.clone(), to.1.clone()));
                drop(state);
                if known {
                    self.release(from.0, 1, &mut |_| {});
                }
            }
            Body::Dir(dir) => {
                to.0.acquire();
                let old = dir.state.write().at.replace((to.0.clone(), to.1.clone()));
                if let Some((parent, _)) = old {
                    self.release(&parent, 1, &mut |_| {});
                }
            }
        }
        self.by_name.insert(&(to.0.id, to.1), inode);
        self.note(|| [unnamed(inode.id.0, from.0, from.1), named(inode.id.0, to.0, to.1)]);
    }

    /// Takes `n` references back. `dead` is called for each inode that had no other.
    pub fn forget(&self, id: InodeId, n: u64, dead: &mut dyn FnMut(&Arc<Inode>)) {
        if id != InodeId::ROOT
            && let Some(inode) = self.get(id)
        {
            self.note(|| [Record::Forgot { id: id.0, lookups: n }]);
            self.release(&inode, n, dead);
        }
    }

    pub(super) fn release(&self, inode: &Arc<Inode>, n: u64, dead: &mut dyn FnMut(&Arc<Inode>)) {
        let mut less = vec![(inode.clone(), n)];
        while let Some((inode, n)) = less.pop() {
            if Arc::ptr_eq(&inode, &self.root) || !inode.release(n) {
                continue;
            }
            let parents = self.take_out(&inode);
            dead(&inode);
            less.extend(parents.into_iter().map(|parent| (parent, 1)));
        }
    }

    /// Takes a dead inode out of all tables; returns the parents that it held.
    fn take_out(&self, inode: &Arc<Inode>) -> Vec<Arc<Inode>> {
        // Written down before another inode can get the number.
        self.note(|| [Record::Dead { id: inode.id.0 }]);
        // The number goes first: a thread that finds the inode by a name before the names are gone waits, and then gets
        // the number for a new inode.
        self.by_id.remove_inode(&inode.id, inode);
        let (names, keys) = match &inode.body {
            Body::Leaf(leaf) => {
                let mut state = leaf.state.lock();
                (std::mem::take(&mut state.names), state.take_keys())
            }
            Body::Dir(dir) => {
                let at = dir.state.write().at.take();
                (at.map_or_else(Few::default, Few::One), SmallVec::new())
            }
        };
        for key in keys {
            self.by_key.remove_inode(&key, inode);
        }
        let named = |(parent, name): (Arc<Inode>, Name)| {
            self.by_name.remove_inode(&(parent.id, &name), inode);
            parent
        };
        names.into_vec().into_iter().map(named).collect()
    }
}

fn named(id: u64, parent: &Inode, name: &Name) -> Record {
    Record::Named { id, parent: parent.id.0, name: name.clone() }
}

fn unnamed(id: u64, parent: &Inode, name: &Name) -> Record {
    Record::Unnamed { id, parent: parent.id.0, name: name.clone() }
}

/// A hard-link key that leads to an inode while the value lives.
pub struct HeldKey<'a> {
    table: &'a Table,
    inode: &'a Arc<Inode>,
    key: Key,
    ends: bool,
}

impl HeldKey<'_> {
    /// Lets the key lead to the inode for good.
    pub fn keep(mut self) {
        self.ends = false;
    }
}

impl Drop for HeldKey<'_> {
    fn drop(&mut self) {
        if self.ends {
            self.table.drop_key(self.inode, self.key);
        }
    }
}

enum Linked {
    No,
    /// The name is one of too many, and becomes a file of its own.
    Apart,
    Yes(Arc<Inode>),
    Again,
}

fn matches(inode: &Inode, found: &Found) -> bool {
    match (&inode.body, found) {
        (Body::Dir(_), Found::Dir(_)) => true,
        (Body::Leaf(leaf), Found::Leaf(found)) => {
            let state = leaf.state.lock();
            let held = if found.upper { state.upper() } else { state.lower() };
            held.is_some_and(|object| object.may_be(Key::of(&found.stat))) && inode.kind == found.stat.kind()
        }
        _ => false,
    }
}

/// Makes the inode for an object that was found; `key`: the hard-link key that leads to it.
pub(super) fn make(id: InodeId, parent: &Arc<Inode>, name: &Name, found: &Found, key: Option<Key>) -> Inode {
    let (body, protection) = match found {
        Found::Dir(dir) => {
            let at = Some((parent.clone(), name.clone()));
            (Body::Dir(Box::new(DirBody::new(at, dir.view.clone()))), dir.protection)
        }
        Found::Leaf(leaf) => {
            let state = LeafState::new(parent, name, leaf, key);
            (Body::Leaf(LeafBody::new(leaf.stat.kind(), state)), leaf.protection)
        }
    };
    let inode = Inode { id, body };
    inode.set_protection(protection);
    if matches!(found, Found::Leaf(leaf) if leaf.bare && !leaf.upper) {
        inode.set_bare_below();
    }
    inode
}

/// Reads the marks of a new inode's metacopy file again. After they were read first, an earlier inode of the file may
/// have got the data and been forgotten. A live inode knows better than its marks.
fn refresh_meta(leaf: &LeafBody, found: &FoundLeaf) {
    let Ok(now) = read_leaf_marks(&found.place.dir, &found.place.name, &found.stat, true) else { return };
    let mut state = leaf.state.lock();
    if now.metacopy.is_none() {
        state.set_meta(None);
    } else if let Some(meta) = state.meta_mut() {
        meta.blocks = now.blocks;
    }
}

impl Drop for Table {
    /// Children hold their parents: taken apart one by one, a deep tree needs no deep recursion.
    fn drop(&mut self) {
        drop(self.by_name.drain());
        drop(self.by_key.drain());
        let inodes = self.by_id.drain();
        for inode in &inodes {
            self.take_out(inode);
        }
    }
}
