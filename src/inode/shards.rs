//! The tables of live inodes: hash tables in shards, each with its own lock. An entry is as small as can be, as the
//! inode knows its number and its names itself. A table gives memory back when inodes are forgotten.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use super::{Inode, InodeId, Key};
use crate::base::Name;
use crate::base::sync::{HashTable, RwLock};

/// The entry of one inode under one key.
pub trait Entry {
    /// The key by which it is found.
    type Key<'a>: Hash;
    /// The entry of an inode under a key with this hash.
    fn new(key: &Self::Key<'_>, hash: u64, inode: Arc<Inode>) -> Self;
    /// The hash of its key.
    fn hash(&self, state: &RandomState) -> u64;
    /// Whether the entry has this key; `hash`: the hash of `key`.
    fn has(&self, key: &Self::Key<'_>, hash: u64) -> bool;
    /// The inode.
    fn inode(&self) -> &Arc<Inode>;
    /// The inode, without the entry.
    fn into_inode(self) -> Arc<Inode>;
}

/// The entry under the inode's number.
impl Entry for Arc<Inode> {
    type Key<'a> = InodeId;

    fn new(_: &InodeId, _: u64, inode: Arc<Inode>) -> Self {
        inode
    }

    fn hash(&self, state: &RandomState) -> u64 {
        state.hash_one(self.id)
    }

    fn has(&self, id: &InodeId, _: u64) -> bool {
        self.id == *id
    }

    fn inode(&self) -> &Arc<Inode> {
        self
    }

    fn into_inode(self) -> Arc<Inode> {
        self
    }
}

/// The entry under a parent and a name, which are in the inode's state. An inode may have several names, so that the
/// hash tells which one is meant.
pub struct Named {
    hash: u64,
    inode: Arc<Inode>,
}

impl Entry for Named {
    type Key<'a> = (InodeId, &'a Name);

    fn new(_: &(InodeId, &Name), hash: u64, inode: Arc<Inode>) -> Self {
        Self { hash, inode }
    }

    fn hash(&self, _: &RandomState) -> u64 {
        self.hash
    }

    fn has(&self, (parent, name): &(InodeId, &Name), hash: u64) -> bool {
        self.hash == hash && self.inode.has_name(*parent, name)
    }

    fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    fn into_inode(self) -> Arc<Inode> {
        self.inode
    }
}

/// The entry under the key of the inode's object.
pub struct Keyed {
    key: Key,
    inode: Arc<Inode>,
}

impl Entry for Keyed {
    type Key<'a> = Key;

    fn new(key: &Key, _: u64, inode: Arc<Inode>) -> Self {
        Self { key: *key, inode }
    }

    fn hash(&self, state: &RandomState) -> u64 {
        state.hash_one(self.key)
    }

    fn has(&self, key: &Key, _: u64) -> bool {
        self.key == *key
    }

    fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    fn into_inode(self) -> Arc<Inode> {
        self.inode
    }
}

/// A concurrent table. Inodes are dropped outside its locks.
pub struct Shards<E> {
    shards: Box<[Shard<E>]>,
    /// The shard for each value of some bits of the hash.
    spread: Box<[u16]>,
    state: RandomState,
}

/// On cache lines of its own, so that threads at different shards do not slow each other down.
#[repr(align(64))]
struct Shard<E>(RwLock<HashTable<E>>);

/// Shards for each processor, so that threads rarely meet at one.
const SHARDS_PER_CPU: usize = 4;
/// The most shards; more are of no use.
const MOST_SHARDS: usize = 1024;
/// Values of the hash for each shard, on average.
const VALUES: usize = 32;
/// A shard with room for this many entries or fewer is not made smaller.
const FEW: usize = 32;
/// A shard is made smaller once it has room for more than this many times its entries.
const EMPTY: usize = 8;

impl<E: Entry> Shards<E> {
    /// An empty table.
    pub fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let count = (cpus * SHARDS_PER_CPU).next_power_of_two().min(MOST_SHARDS);
        let shards = (0..count).map(|_| Shard(RwLock::new(HashTable::new()))).collect();
        Self { shards, spread: spread(count), state: RandomState::new() }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.read().len()).sum()
    }

    /// The inode under this key.
    pub fn get(&self, key: &E::Key<'_>) -> Option<Arc<Inode>> {
        let (hash, shard) = self.shard(key);
        shard.read().find(hash, |entry| entry.has(key, hash)).map(|entry| entry.inode().clone())
    }

    /// Enters an inode under a key. False: another inode is under the key.
    pub fn insert_new(&self, key: &E::Key<'_>, inode: &Arc<Inode>) -> bool {
        let (hash, shard) = self.shard(key);
        let mut table = shard.write();
        if table.find(hash, |entry| entry.has(key, hash)).is_some() {
            return false;
        }
        table.insert_unique(hash, E::new(key, hash, inode.clone()), |entry| entry.hash(&self.state));
        true
    }

    /// Enters an inode under a key, in place of any other.
    pub fn insert(&self, key: &E::Key<'_>, inode: &Arc<Inode>) {
        let (hash, shard) = self.shard(key);
        let new = E::new(key, hash, inode.clone());
        let mut table = shard.write();
        let old = match table.find_mut(hash, |entry| entry.has(key, hash)) {
            Some(entry) => Some(std::mem::replace(entry, new)),
            None => {
                table.insert_unique(hash, new, |entry| entry.hash(&self.state));
                None
            }
        };
        drop(table);
        drop(old);
    }

    /// Takes the inode under this key out.
    pub fn remove(&self, key: &E::Key<'_>) -> Option<Arc<Inode>> {
        let (hash, shard) = self.shard(key);
        self.take(shard, hash, |entry| entry.has(key, hash))
    }

    /// Takes this inode out, if it is entered under this key. The inode's state need not have the key any more.
    pub fn remove_inode(&self, key: &E::Key<'_>, inode: &Arc<Inode>) {
        let (hash, shard) = self.shard(key);
        let same = |entry: &E| Arc::ptr_eq(entry.inode(), inode) && entry.hash(&self.state) == hash;
        drop(self.take(shard, hash, same));
    }

    /// Calls `act` for each inode. Nobody enters or takes out one meanwhile.
    pub fn for_each(&self, act: &mut dyn FnMut(&Arc<Inode>)) {
        self.shards.iter().for_each(|shard| shard.0.read().iter().for_each(|entry| act(entry.inode())));
    }

    /// Takes all inodes out.
    pub fn drain(&self) -> Vec<Arc<Inode>> {
        let all = self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.0.write()));
        all.map(E::into_inode).collect()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "masked to the length; what `spread` gives is below the number of shards"
    )]
    fn shard(&self, key: &E::Key<'_>) -> (u64, &RwLock<HashTable<E>>) {
        let hash = self.state.hash_one(key);
        // The low bits choose the place within a shard, and the uppermost seven are compared there.
        let at = self.spread[(hash >> 32) as usize & (self.spread.len() - 1)];
        (hash, &self.shards[usize::from(at)].0)
    }

    fn take(&self, shard: &RwLock<HashTable<E>>, hash: u64, is: impl FnMut(&E) -> bool) -> Option<Arc<Inode>> {
        let mut table = shard.write();
        let (entry, _) = table.find_entry(hash, is).ok()?.remove();
        // The shard is half full afterwards: it changes size again only after as many entries have come or gone as are
        // moved now.
        if table.capacity() > FEW && table.len() < table.capacity() / EMPTY {
            let room = table.len() * 2;
            table.shrink_to(room, |entry| entry.hash(&self.state));
        }
        drop(table);
        Some(entry.into_inode())
    }
}

/// Which of `count` shards each value belongs to: the last gets nearly twice as many as the first, evenly in between.
///
/// A hash table is between half full and full, as it grows by doubling. Were the shards alike, all would be half empty at
/// once; so the waste is the same at any time.
fn spread(count: usize) -> Box<[u16]> {
    let values = count * VALUES;
    let shard = |value: usize| ((1.0 + value as f64 / values as f64).log2() * count as f64) as u16;
    (0..values).map(shard).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_gets_its_share() {
        for count in [1, 4, 8, MOST_SHARDS] {
            let spread = spread(count);
            let share = |shard: usize| spread.iter().filter(|at| usize::from(**at) == shard).count();
            let shares: Vec<_> = (0..count).map(share).collect();
            assert_eq!(shares.iter().sum::<usize>(), spread.len());
            assert!(shares.iter().all(|share| (VALUES / 2..=VALUES * 2).contains(share)), "{shares:?}");
        }
    }
}
