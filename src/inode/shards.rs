//! The tables of live inodes: hash tables in shards, each behind its lock. An entry is as small as can be, as the inode
//! knows its number and its names itself; what is forgotten gives its memory back.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use super::{Inode, InodeId, Key};
use crate::base::Name;
use crate::base::sync::{HashTable, RwLock};

/// What a table has of one inode under one key.
pub trait Entry {
    /// What it is found by.
    type Key<'a>: Hash;
    /// The entry of an inode under a key with this hash.
    fn new(key: &Self::Key<'_>, hash: u64, inode: Arc<Inode>) -> Self;
    /// The hash of its key.
    fn hash(&self, state: &RandomState) -> u64;
    /// Whether this is its key; `hash` is that of `key`.
    fn has(&self, key: &Self::Key<'_>, hash: u64) -> bool;
    /// The inode.
    fn inode(&self) -> &Arc<Inode>;
    /// The inode, without the rest.
    fn into_inode(self) -> Arc<Inode>;
}

/// Under its number.
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

/// Under a parent and a name, which the inode has in its state. It may have several, so the hash tells which one it is.
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

/// Under the key of its object.
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

/// Shards for each processor: threads rarely meet.
const SHARDS_PER_CPU: usize = 4;
/// More shards are of no use.
const MOST_SHARDS: usize = 1024;
/// Values of the hash for each shard, on average.
const VALUES: usize = 32;
/// A shard with room for no more than this is not made smaller.
const FEW: usize = 32;
/// A shard is made smaller where it could hold so many times what it holds.
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

    /// Enters an inode, unless there is one under this key.
    pub fn insert_new(&self, key: &E::Key<'_>, inode: &Arc<Inode>) -> bool {
        let (hash, shard) = self.shard(key);
        let mut table = shard.write();
        if table.find(hash, |entry| entry.has(key, hash)).is_some() {
            return false;
        }
        table.insert_unique(hash, E::new(key, hash, inode.clone()), |entry| entry.hash(&self.state));
        true
    }

    /// Enters an inode in place of the one that is there, if any.
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

    /// Takes out what is under this key.
    pub fn remove(&self, key: &E::Key<'_>) -> Option<Arc<Inode>> {
        let (hash, shard) = self.shard(key);
        self.take(shard, hash, |entry| entry.has(key, hash))
    }

    /// Takes out this inode, if it is entered under this key. Its own state need not have the key any more.
    pub fn remove_inode(&self, key: &E::Key<'_>, inode: &Arc<Inode>) {
        let (hash, shard) = self.shard(key);
        let same = |entry: &E| Arc::ptr_eq(entry.inode(), inode) && entry.hash(&self.state) == hash;
        drop(self.take(shard, hash, same));
    }

    /// All inodes, which are no longer in it.
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
        // Half full afterwards: as many entries must come or go before the next time as are moved now.
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
