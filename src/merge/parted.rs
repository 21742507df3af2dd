//! Parts names that have one cookie: see [`Places`].

use std::collections::{BTreeMap, btree_map};

use super::list::{CookieKey, Listed, Listing, Read};
use super::places::{Apartness, Places, cookie_of, end_of, moved_to};
use crate::base::Name;

/// The range of places that have a cookie.
fn places_of(cookie: u64) -> std::ops::RangeInclusive<u64> {
    end_of(cookie.saturating_sub(1)).saturating_add(1)..=end_of(cookie)
}

impl Listing {
    /// The names that were read, are seen, and have a cookie.
    fn read_at(&self, cookie: u64) -> impl Iterator<Item = &Read> {
        let places = places_of(cookie);
        let from = self.read.partition_point(|read| read.place < *places.start());
        let read = self.read.get(from..).unwrap_or_default().iter();
        read.take_while(move |read| read.place <= *places.end()).filter(|read| !read.is_gone())
    }

    /// The names that were added later, and have a cookie.
    fn added_at(&self, cookie: u64) -> impl Iterator<Item = &Name> {
        let places = places_of(cookie);
        let added = self.added_from(*places.start()).take_while(move |((at, _), _)| at <= places.end());
        added.map(|((_, name), _)| name)
    }

    /// The names that were added later, from a place on.
    pub(super) fn added_from(&self, place: u64) -> btree_map::Range<'_, (u64, Name), Listed> {
        // The first name in the order of bytes.
        match Name::new(b"\x01") {
            Ok(least) => self.added.range((place, least)..),
            Err(_) => self.added.range(..),
        }
    }

    /// Whether another name has the cookie of a name at this place.
    pub fn meets(&self, place: u64, name: &Name) -> bool {
        let cookie = cookie_of(place);
        self.read_at(cookie).any(|read| read.name(&self.bytes) != name.as_bytes())
            || self.added_at(cookie).any(|added| added != name)
    }

    /// A cookie near that of `place`, within the window, that no name has or is about to get (`is_taken`).
    pub fn free_near(&self, place: u64, is_taken: impl Fn(u64) -> bool) -> Option<u64> {
        let free = |cookie: &u64| {
            let empty = self.read_at(*cookie).next().is_none() && self.added_at(*cookie).next().is_none();
            empty && !is_taken(*cookie)
        };
        let first = cookie_of(self.after).saturating_add(1).max(CookieKey::FIRST);
        let cookie = cookie_of(place);
        let behind = (cookie.saturating_add(1)..=cookie_of(self.to)).find(free);
        behind.or_else(|| (first..cookie).rev().find(free))
    }

    /// Parts the names that have one cookie, right after the listing was read: all but one get another cookie for good.
    /// The one that keeps the cookie is a name that may have been listed before.
    pub fn settle(&mut self, places: &mut Places) {
        // The new place of each name, by its old place.
        let mut moves: BTreeMap<u64, u64> = BTreeMap::new();
        let meet = |a: &Read, b: &Read| cookie_of(a.place) == cookie_of(b.place);
        for group in self.read.chunk_by(meet).filter(|group| group.len() > 1) {
            // A name that gave way before has its place for good, and stays.
            let moved = group.iter().position(|read| places.has_moved_to(read.place));
            let stays = moved.or_else(|| group.iter().position(|read| !places.is_new(read.place))).unwrap_or(0);
            for (_, read) in group.iter().enumerate().filter(|(at, _)| *at != stays) {
                let is_taken = |cookie| moves.values().any(|place| cookie_of(*place) == cookie);
                if let Some(cookie) = self.free_near(read.place, is_taken) {
                    moves.insert(read.place, moved_to(read.place, cookie));
                }
            }
        }
        for (from, to) in &moves {
            places.set(*from, Apartness::Moved(cookie_of(*to)));
        }
        places.settled(self.after, self.to);
        if moves.is_empty() {
            return;
        }
        let moved = |place: u64| moves.get(&place).copied().unwrap_or(place);
        self.read.iter_mut().for_each(|read| read.place = moved(read.place));
        self.below.iter_mut().for_each(|(place, _)| *place = moved(*place));
        let bytes = &self.bytes;
        self.read.sort_unstable_by(|a, b| a.compare(b.place, b.name(bytes), bytes));
        self.below.sort_unstable();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stat::Kind;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    /// A listing of these names at these places.
    fn listing(names: &[(u64, &str)]) -> Listing {
        Listing::made(names.iter().map(|(place, text)| (*place, name(text))))
    }

    fn cookies(listing: &Listing) -> Vec<(u64, String)> {
        let text = |name: Name| String::from_utf8(name.as_bytes().to_vec()).unwrap();
        listing.after(0).map(|(place, name, _)| (cookie_of(place), text(name))).collect()
    }

    const AT: u64 = 1 << 32;

    #[test]
    fn names_of_one_cookie_get_others_and_keep_them() {
        let names = [(7 * AT, "a"), (7 * AT + 1, "b"), (7 * AT + 2, "c"), (8 * AT, "d"), (11 * AT, "e")];
        let mut places = Places::default();
        let mut first = listing(&names);
        first.settle(&mut places);
        let expected = [(7, "a"), (8, "d"), (9, "b"), (10, "c"), (11, "e")].map(|(at, text)| (at, text.to_owned()));
        assert_eq!(cookies(&first), expected);
        // Read again, with what is known by now; some are gone.
        let left = [1, 2, 4].map(|at: usize| (places.of(names[at].0), names[at].1));
        let mut second = listing(&left);
        second.settle(&mut places);
        assert_eq!(cookies(&second), [(9, "b"), (10, "c"), (11, "e")].map(|(at, text)| (at, text.to_owned())));
    }

    #[test]
    fn who_came_since_the_last_reading_gives_way() {
        for (new, stays) in [(0, 1), (1, 0)] {
            let names = [(7 * AT, "a"), (7 * AT + 1, "b")];
            let mut places = Places::default();
            places.set(names[new].0, Apartness::New);
            let mut listing = listing(&names);
            listing.settle(&mut places);
            assert_eq!((places.of(names[stays].0), places.of(names[new].0)), (names[stays].0, 8 * AT + new as u64));
            assert!(!places.is_new(names[new].0));
        }
    }

    #[test]
    fn a_name_that_comes_while_the_listing_is_there_is_seen_to_meet_another() {
        let mut listing = listing(&[(7 * AT, "a"), (9 * AT, "b")]);
        assert!(listing.meets(7 * AT + 5, &name("x")) && !listing.meets(7 * AT, &name("a")));
        assert!(!listing.meets(8 * AT, &name("x")));
        assert_eq!(listing.free_near(9 * AT, |cookie| cookie == 10), Some(11));
        listing.insert(8 * AT, &name("x"), Kind::File);
        assert!(listing.meets(8 * AT + 1, &name("y")));
        assert_eq!(listing.free_near(7 * AT, |_| false), Some(10));
        listing.remove(8 * AT, &name("x"));
        assert_eq!(listing.free_near(7 * AT, |_| false), Some(8));
        let last = crate::merge::places::LAST;
        listing.insert(last, &name("z"), Kind::File);
        assert_eq!(listing.free_near(last, |_| false), Some(cookie_of(last) - 1));
    }
}
