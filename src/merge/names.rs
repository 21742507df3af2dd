//! The names of a merged directory with their topmost parts: with them a lookup need not search the layers that have
//! nothing.

use std::collections::BTreeMap;

use super::{CookieKey, Listing, Places};

/// The names of a directory by their hashes, each with the slot of the topmost part that has it.
///
/// A name whose hash the index does not have is not in the directory. A hash in the index may stand for another name,
/// so that a lookup still looks at the part.
#[derive(Debug, Default)]
pub struct NameIndex(BTreeMap<u64, u16>);

impl NameIndex {
    /// An index of the names of a listing.
    pub fn new(listing: &Listing, key: &CookieKey, places: &Places) -> Self {
        let mut slots: Vec<(u64, u16)> = Vec::with_capacity(listing.len());
        for (place, name, listed) in listing.after(0) {
            let hash = if places.are_natural() { place } else { key.hash(&name) };
            match slots.last_mut() {
                // Two names have this hash: a search must begin at the upper of their parts.
                Some((last, slot)) if *last == hash => *slot = listed.slot.min(*slot),
                _ => slots.push((hash, listed.slot)),
            }
        }
        // The map is built in one pass, as the hashes are sorted.
        Self(slots.into_iter().collect())
    }

    /// The slot at which the search for a name with this hash begins; `None`: the directory has no such name.
    pub fn slot(&self, hash: u64) -> Option<usize> {
        self.0.get(&hash).map(|slot| usize::from(*slot))
    }

    /// Enters a new name of the upper layer. False: another name has this hash, and the index must be dropped.
    #[must_use]
    pub fn insert(&mut self, hash: u64) -> bool {
        self.0.insert(hash, 0).is_none()
    }

    /// Notes that a name of the directory is in the upper layer now.
    pub fn raise(&mut self, hash: u64) {
        self.0.insert(hash, 0);
    }

    /// Takes a removed name out.
    pub fn remove(&mut self, hash: u64) {
        self.0.remove(&hash);
    }

    /// How many hashes the index has.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Name;
    use crate::sys::stat::Kind;

    #[test]
    fn a_name_is_looked_for_from_its_slot_and_an_absent_one_nowhere() {
        let mut listing = Listing::default();
        listing.insert(7, &Name::new(b"a").unwrap(), Kind::File);
        let key = CookieKey::from_bytes([1; 16]);
        let mut index = NameIndex::new(&listing, &key, &Places::default());
        assert_eq!((index.slot(7), index.slot(8)), (Some(0), None));
        assert!(index.insert(8));
        assert!(!index.insert(8), "a second name of one hash");
        index.remove(7);
        assert_eq!((index.slot(7), index.len()), (None, 1));
    }
}
