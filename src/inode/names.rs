//! What is known of the names in a directory.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::base::Name;
use crate::merge::{Apartness, CookieKey, Listing, NameIndex, Places, Window};
use crate::sys::stat::Kind;

/// What is known of the names in a directory. The lock [`DirBody::names`](super::DirBody) guards it.
#[derive(Default)]
pub struct Names {
    listing: Option<Listing>,
    /// How many windows were read since a walk last came to its end.
    windows: u32,
    index: Option<NameIndex>,
    /// Whether the directory has a default ACL; `None`: not known.
    pub default_acl: Option<bool>,
    /// How many parts lookups have searched without an index; [`NEVER`]: an index would have too many names.
    searched: AtomicU32,
    /// The kernel may have a part of a listing in its cache.
    walked: AtomicBool,
    /// A reader was given a part of a listing, and may go on.
    told: AtomicBool,
    /// The places of names that are not at the place of their hash. They are kept as long as the inode lives.
    places: Places,
    /// A change was begun, and it is not yet known whether the layers have it.
    uncertain: bool,
    /// A name was changed since the names were locked.
    changed: bool,
}

/// What is left to do after a change.
#[must_use]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// The kernel must drop what it keeps of the listing.
    pub relist: bool,
    /// The change was begun and not entered: it is not known what the layers have now.
    pub uncertain: bool,
}

/// The value of `searched` that says: no index is built.
const NEVER: u32 = u32::MAX;
/// Lookups in one directory after which its names are indexed: listing a part costs about as much as 20 searches in it.
const LOOKUPS: usize = 16;
/// The fewest parts with which an index costs less than the searches that it saves.
const PARTS: usize = 3;
/// How many windows of a listing may be read in addition to two readings of each.
const MORE_WINDOWS: usize = 4;
/// A directory with more names than this is not indexed: an index takes 12 bytes for each.
pub const MOST_INDEXED: usize = 1 << 17;

impl Names {
    /// The window of names in memory, while somebody lists the directory.
    pub fn listing(&self) -> Option<&Listing> {
        self.listing.as_ref()
    }

    /// The index of all names, if there is one.
    pub fn index(&self) -> Option<&NameIndex> {
        self.index.as_ref()
    }

    /// The places of its names.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Takes what must be written down of the places for the next daemon.
    pub fn unwritten(&mut self) -> Vec<(u64, Apartness)> {
        self.places.unwritten()
    }

    /// Enters what the daemon before has written down.
    pub fn set_place(&mut self, hash: u64, what: Apartness) {
        self.places.set(hash, what);
        self.places.unwritten();
    }

    /// Which window to read for a reader that goes on after the place `after`: about `most` names, so that no listing
    /// holds all of them.
    ///
    /// A reader at another place takes the window of a walk away. Two readings of each window leave room for that;
    /// walks that disturb each other more often read all names at once.
    pub fn next_window(&mut self, after: u64, most: usize) -> Window {
        // The old window is dropped before the next is read: there are never two in memory.
        let Some(last) = self.listing.take() else { return Window { after, most, total: 0 } };
        let enough = 2 * last.total().div_ceil(most.max(1)) + MORE_WINDOWS;
        if self.windows as usize > enough {
            return Window::WHOLE;
        }
        Window { after: last.next_after(after), most, total: last.total() }
    }

    /// Enters a listing that was read. With `index` a listing of all names also becomes the index for lookups.
    pub fn set_listing(&mut self, key: &CookieKey, mut listing: Listing, index: bool) {
        self.windows = self.windows.saturating_add(1);
        listing.settle(&mut self.places);
        if index && listing.is_exact() && listing.len() <= MOST_INDEXED {
            self.index = Some(NameIndex::new(&listing, key, &self.places));
        }
        self.listing = Some(listing);
    }

    /// Drops the listing at the end of a walk.
    pub fn drop_listing(&mut self) {
        self.listing = None;
        self.windows = 0;
    }

    /// Sets the index for lookups; `None`: the directory has too many names.
    pub fn set_index(&mut self, key: &CookieKey, listing: Option<&Listing>) {
        // The names of this listing are at the places of their hashes.
        self.index = listing.map(|listing| NameIndex::new(listing, key, &Places::default()));
        self.searched.store(if listing.is_some() { 0 } else { NEVER }, Relaxed);
    }

    /// Forgets all names.
    pub fn forget(&mut self) {
        self.listing = None;
        self.index = None;
        self.searched.store(0, Relaxed);
    }

    /// Counts a lookup that has searched this number of parts. True: an index is worth its cost now.
    pub fn searched(&self, parts: usize) -> bool {
        let before = self.searched.load(Relaxed);
        if parts < PARTS || self.index.is_some() || before == NEVER {
            return false;
        }
        let after = before.saturating_add(u32::try_from(parts).unwrap_or(NEVER)).min(NEVER - 1);
        self.searched.store(after, Relaxed);
        after as usize >= parts * LOOKUPS
    }

    /// Notes that the kernel was given the beginning of a listing, which it keeps.
    pub fn walked(&self) {
        self.walked.store(true, Relaxed);
        self.told.store(true, Relaxed);
    }

    /// Whether the kernel was given a part of a listing since the last change.
    pub fn is_walked(&self) -> bool {
        self.walked.load(Relaxed)
    }

    /// Begins a change of the layers: until it is entered it is not known what they have.
    pub fn begin(&mut self) {
        self.uncertain = true;
    }

    /// Enters a new name of the upper layer.
    pub fn added(&mut self, key: &CookieKey, name: &Name, kind: Kind) {
        let hash = key.hash(name);
        if self.index.as_mut().is_some_and(|index| !index.insert(hash)) {
            self.index = None;
        }
        self.place(hash, name);
        let place = self.places.of(hash);
        self.enter(|listing| listing.insert(place, name, kind));
    }

    /// Finds a place for a new name. If it is not known which names have the same cookie the new name gives way to them
    /// later.
    fn place(&mut self, hash: u64, name: &Name) {
        match self.listing.as_ref().filter(|listing| listing.has(hash)) {
            Some(listing) if listing.meets(hash, name) => {
                let what = listing.free_near(hash, |_| false).map_or(Apartness::New, Apartness::Moved);
                self.places.set(hash, what);
            }
            Some(_) => {}
            None if self.told.load(Relaxed) => self.places.set(hash, Apartness::New),
            None => {}
        }
    }

    /// Enters that an existing name is in the upper layer now. The directory shows the same names.
    pub fn raised(&mut self, key: &CookieKey, name: &Name, kind: Kind) {
        let hash = key.hash(name);
        if let Some(index) = &mut self.index {
            index.raise(hash);
        }
        if let Some(listing) = &mut self.listing {
            listing.insert(self.places.of(hash), name, kind);
        }
        self.uncertain = false;
    }

    /// Enters that a name is gone.
    pub fn removed(&mut self, key: &CookieKey, name: &Name) {
        let hash = key.hash(name);
        if let Some(index) = &mut self.index {
            index.remove(hash);
        }
        let place = self.places.of(hash);
        self.places.set(hash, Apartness::Nowhere);
        self.enter(|listing| listing.remove(place, name));
    }

    /// Enters that an existing name leads to another object now.
    pub fn replaced(&mut self) {
        self.uncertain = false;
        self.changed = true;
    }

    fn enter(&mut self, change: impl FnOnce(&mut Listing)) {
        if let Some(listing) = &mut self.listing {
            change(listing);
        }
        self.replaced();
    }

    /// Ends a change.
    ///
    /// The kernel checks only at the start of a walk whether its cached listing is out of date. A listing that a walk
    /// from before a change had begun would be completed, and later walks would read it. No walk is under way during a
    /// change: the kernel locks the directory for either.
    pub fn end(&mut self) -> Ended {
        let uncertain = std::mem::take(&mut self.uncertain);
        if uncertain {
            self.forget();
        }
        let changed = std::mem::take(&mut self.changed) || uncertain;
        Ended { relist: changed && self.walked.swap(false, Relaxed), uncertain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn listed(key: &CookieKey, names: &[&str]) -> Names {
        let mut listing = Listing::default();
        names.iter().for_each(|text| listing.insert(key.hash(&name(text)), &name(text), Kind::File));
        let mut known = Names::default();
        known.set_listing(key, listing, true);
        known
    }

    #[test]
    fn a_change_that_is_not_entered_makes_the_names_unknown() {
        let key = CookieKey::from_bytes([1; 16]);
        let mut names = listed(&key, &["a"]);
        names.begin();
        names.added(&key, &name("b"), Kind::File);
        let _ = names.end();
        assert!(names.index().is_some_and(|index| index.len() == 2));
        names.begin();
        let _ = names.end();
        assert!(names.index().is_none() && names.listing().is_none());
    }

    #[test]
    fn the_kernel_drops_its_listing_at_the_first_change_after_a_walk_began() {
        let key = CookieKey::from_bytes([1; 16]);
        let mut names = listed(&key, &["a"]);
        for (walk, change, drop) in
            [(false, true, false), (true, false, false), (false, true, true), (false, true, false), (true, true, true)]
        {
            if walk {
                names.walked();
            }
            if change {
                names.removed(&key, &name("a"));
            }
            assert_eq!(names.end().relist, drop, "walk {walk} change {change}");
        }
    }

    #[test]
    fn copy_up_changes_no_names() {
        let key = CookieKey::from_bytes([1; 16]);
        let mut names = listed(&key, &["a"]);
        names.walked();
        names.raised(&key, &name("a"), Kind::File);
        assert!(!names.end().relist);
        assert_eq!(names.index().and_then(|index| index.slot(key.hash(&name("a")))), Some(0));
    }

    #[test]
    fn walks_that_take_each_others_windows_away_go_by_all_names_in_the_end() {
        let key = CookieKey::random().unwrap();
        let mut names = listed(&key, &["a"]);
        let whole = |names: &mut Names| names.next_window(2, 1).most == usize::MAX;
        let before = (0..100).take_while(|_| {
            let some = !whole(&mut names);
            names.set_listing(&key, Listing::default(), true);
            some
        });
        assert_eq!(before.count(), MORE_WINDOWS);
        names.drop_listing();
        assert!(!whole(&mut names), "a new walk");
    }

    #[test]
    fn an_index_is_worth_it_after_some_lookups_in_many_parts_only() {
        let names = Names::default();
        assert!(!(0..1000).any(|_| names.searched(PARTS - 1)));
        assert_eq!((0..1000).position(|_| names.searched(100)), Some(LOOKUPS - 1));
    }
}
