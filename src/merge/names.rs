//! Which names a merged directory has, and where: what spares a lookup the layers that have nothing.

use std::collections::BTreeMap;

use super::{CookieKey, Listing, Places};

/// The names of a directory by their hashes, each with the slot of the topmost part that has it.
///
/// A hash that is not in it is a name that the directory does not have. One that is in it may still stand for another
/// name of the same hash, so that what it leads to is looked at.
#[derive(Debug, Default)]
pub struct NameIndex(BTreeMap<u64, u16>);

impl NameIndex {
    /// The names of a listing.
    pub fn new(listing: &Listing, key: &CookieKey, places: &Places) -> Self {
        let mut slots: Vec<(u64, u16)> = Vec::with_capacity(listing.len());
        for (place, name, listed) in listing.after(0) {
            let hash = if places.are_natural() { place } else { key.hash(&name) };
            match slots.last_mut() {
                // Two names of one hash: the search must begin where the upper one of them is.
                Some((last, slot)) if *last == hash => *slot = listed.slot.min(*slot),
                _ => slots.push((hash, listed.slot)),
            }
        }
        // Built in one pass where it is sorted.
        Self(slots.into_iter().collect())
    }

    /// The slot from which on a name of this hash is looked for; `None` where the directory has no such name.
    pub fn slot(&self, hash: u64) -> Option<usize> {
        self.0.get(&hash).map(|slot| usize::from(*slot))
    }

    /// A new name stands in the upper layer; false where another name has this hash, and the index is of no use more.
    #[must_use]
    pub fn insert(&mut self, hash: u64) -> bool {
        self.0.insert(hash, 0).is_none()
    }

    /// A name that the directory has stands in the upper layer now.
    pub fn raise(&mut self, hash: u64) {
        self.0.insert(hash, 0);
    }

    /// The name is gone.
    pub fn remove(&mut self, hash: u64) {
        self.0.remove(&hash);
    }

    /// How many names it has.
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
