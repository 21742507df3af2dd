//! The merged listing of a directory, in an order that comes out the same whenever it is built again.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::DirView;
use crate::base::{Name, Result};
use crate::layer::list_names;
use crate::sys::stat::Kind;

/// The key of a mount's directory cookies: a layer cannot choose names that collide.
#[derive(Debug, Default)]
pub struct CookieKey(RandomState);

impl CookieKey {
    /// Cookies 0, 1 and 2 are the start, `.` and `..`; the sign bit stays clear (`off_t`).
    pub const FIRST: u64 = 3;

    /// Where `name` stands in its directory's order.
    pub fn cookie(&self, name: &Name) -> u64 {
        (self.0.hash_one(name.as_bytes()) >> 1).max(Self::FIRST)
    }
}

/// One name of a listing.
#[derive(Debug)]
pub struct Listed {
    /// Its place in the order.
    pub cookie: u64,
    /// The name.
    pub name: Name,
    /// Its type, where the topmost layer's directory told.
    pub kind: Option<Kind>,
    /// The slot of the topmost part that has it.
    pub slot: u16,
    removed: AtomicBool,
}

impl Listed {
    /// It was deleted since the listing was built.
    pub fn removed(&self) -> bool {
        self.removed.load(Relaxed)
    }
}

/// A directory's names, sorted by cookie.
#[derive(Debug)]
pub struct Listing(Vec<Listed>);

impl Listing {
    /// What comes after `cookie`.
    pub fn after(&self, cookie: u64) -> &[Listed] {
        let start = self.0.partition_point(|listed| listed.cookie <= cookie);
        self.0.get(start..).unwrap_or_default()
    }

    /// Marks a name as deleted.
    pub fn remove(&self, cookie: u64, name: &Name) {
        let start = self.0.partition_point(|listed| listed.cookie < cookie);
        let same = self.0.iter().skip(start).take_while(|listed| listed.cookie == cookie);
        same.filter(|listed| listed.name == *name).for_each(|listed| listed.removed.store(true, Relaxed));
    }

    /// How many names it was built with.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Lists a merged directory.
///
/// # Errors
/// What the layers' system calls say.
pub fn list(dir: &DirView, key: &CookieKey) -> Result<Listing> {
    let mut listed = Vec::new();
    let mut seen: HashSet<Name> = HashSet::new();
    let merged = dir.len() > 1;
    for (slot, part) in dir.parts(0) {
        let slot = u16::try_from(slot).unwrap_or(0);
        for entry in list_names(&part.place, part.xattr_whiteouts)? {
            if merged && !seen.insert(entry.name.clone()) {
                continue;
            }
            if !entry.whiteout {
                let cookie = key.cookie(&entry.name);
                listed.push(Listed {
                    cookie,
                    name: entry.name,
                    kind: entry.kind,
                    slot,
                    removed: AtomicBool::new(false),
                });
            }
        }
    }
    listed.sort_unstable_by_key(|listed| listed.cookie);
    Ok(Listing(listed))
}
