//! Which names a merged directory has, and where: what spares a lookup the layers that have nothing.

use std::collections::BTreeMap;

use super::Listing;

/// The names of a directory by their cookies, each with the slot of the topmost part that has it.
///
/// A cookie that is not in it is a name that the directory does not have. One that is in it may still stand for another
/// name of the same cookie, so that what it leads to is looked at.
#[derive(Debug, Default)]
pub struct NameIndex(BTreeMap<u64, u16>);

impl NameIndex {
    /// The names of a listing, which is in the order of the cookies.
    pub fn new(listing: &Listing) -> Self {
        let mut slots: Vec<(u64, u16)> = Vec::with_capacity(listing.len());
        for (cookie, _, listed) in listing.after(0) {
            match slots.last_mut() {
                // Two names of one cookie: the search must begin where the upper one of them is.
                Some((last, slot)) if *last == cookie => *slot = listed.slot.min(*slot),
                _ => slots.push((cookie, listed.slot)),
            }
        }
        // Built in one pass, as it is sorted.
        Self(slots.into_iter().collect())
    }

    /// The slot from which on a name of this cookie is looked for; `None` where the directory has no such name.
    pub fn slot(&self, cookie: u64) -> Option<usize> {
        self.0.get(&cookie).map(|slot| usize::from(*slot))
    }

    /// A new name stands in the upper layer; false where another name has this cookie, and the index is of no use more.
    #[must_use]
    pub fn insert(&mut self, cookie: u64) -> bool {
        self.0.insert(cookie, 0).is_none()
    }

    /// A name that the directory has stands in the upper layer now.
    pub fn raise(&mut self, cookie: u64) {
        self.0.insert(cookie, 0);
    }

    /// The name is gone.
    pub fn remove(&mut self, cookie: u64) {
        self.0.remove(&cookie);
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
        let mut index = NameIndex::new(&listing);
        assert_eq!((index.slot(7), index.slot(8)), (Some(0), None));
        assert!(index.insert(8));
        assert!(!index.insert(8), "a second name of one cookie");
        index.remove(7);
        assert_eq!((index.slot(7), index.len()), (None, 1));
    }
}
