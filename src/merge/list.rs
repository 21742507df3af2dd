//! The merged listing of a directory, in an order that comes out the same whenever it is built again.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::DirView;
use crate::base::{Name, Result};
use crate::layer::list_names;
use crate::sys::random::random_bytes;
use crate::sys::stat::Kind;

/// The key of a mount's directory cookies: a layer cannot choose names that collide.
#[derive(Debug, Clone, Copy)]
pub struct CookieKey([u8; 16]);

impl CookieKey {
    /// Cookies 0, 1 and 2 are the start, `.` and `..`; the sign bit stays clear (`off_t`).
    pub const FIRST: u64 = 3;

    /// A key that nobody knows.
    ///
    /// # Errors
    /// What the kernel's generator says, so early after its start that it has none.
    pub fn random() -> Result<Self> {
        Ok(Self(random_bytes()?))
    }

    /// The key of a mount that goes on.
    pub fn from_bytes(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// For the one who goes on.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Where `name` stands in its directory's order.
    pub fn cookie(&self, name: &Name) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(name.as_bytes());
        (hasher.finish() >> 1).max(Self::FIRST)
    }
}

/// One name of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// Its type, where the topmost layer's directory told.
    pub kind: Option<Kind>,
    /// The slot of the topmost part that has it.
    pub slot: u16,
    /// Its number in that part's directory, 0 where it is not known.
    pub ino: u64,
}

/// A directory's names in the order of their cookies. Changes are entered as they are made, so that a walk that goes on
/// sees what the kernel's own cache of the directory would.
#[derive(Debug, Default)]
pub struct Listing {
    names: BTreeMap<(u64, Option<Name>), Listed>,
    /// Some name may be found that is not in it.
    inexact: bool,
}

impl Listing {
    /// What comes after `cookie`.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Name, &Listed)> {
        let rest = self.names.range((cookie.saturating_add(1), None)..);
        rest.filter_map(|((cookie, name), listed)| name.as_ref().map(|name| (*cookie, name, listed)))
    }

    /// Enters a name that now stands in the upper layer.
    pub fn insert(&mut self, cookie: u64, name: &Name, kind: Kind) {
        self.names.insert((cookie, Some(name.clone())), Listed { kind: Some(kind), slot: 0, ino: 0 });
    }

    /// Takes a name out.
    pub fn remove(&mut self, cookie: u64, name: &Name) {
        self.names.remove(&(cookie, Some(name.clone())));
    }

    /// Whether a name that is not in it is not there.
    pub fn is_exact(&self) -> bool {
        !self.inexact
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.names.len()
    }
}

/// Lists a merged directory.
///
/// # Errors
/// What the layers' system calls say.
pub fn list(dir: &DirView, key: &CookieKey) -> Result<Listing> {
    list_some(dir, key, usize::MAX).map(Option::unwrap_or_default)
}

/// The same, but `None` as soon as a part has more than `most` names or they are so many together.
///
/// # Errors
/// As [`list`].
pub fn list_some(dir: &DirView, key: &CookieKey, most: usize) -> Result<Option<Listing>> {
    let mut listed = Vec::new();
    let mut seen: HashSet<Name> = HashSet::new();
    let merged = dir.len() > 1;
    let mut inexact = false;
    for (slot, part) in dir.parts(0) {
        let slot = u16::try_from(slot).unwrap_or(0);
        let Some(entries) = list_names(&part.place, part.xattr_whiteouts, most)? else { return Ok(None) };
        if listed.len() + entries.names.len() > most {
            return Ok(None);
        }
        inexact |= !entries.exact;
        for entry in entries.names {
            if merged && !seen.insert(entry.name.clone()) {
                continue;
            }
            if !entry.whiteout {
                let at = (key.cookie(&entry.name), Some(entry.name));
                listed.push((at, Listed { kind: entry.kind, slot, ino: entry.ino }));
            }
        }
    }
    // Sorted here, the map is built in one pass.
    listed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Some(Listing { names: listed.into_iter().collect(), inexact }))
}
