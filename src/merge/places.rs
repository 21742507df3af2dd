//! Where names stand in the order of a directory's listing, and the cookies by which a reader goes on.
//!
//! A place is 63 bits of a hash of the name. Its upper 31 bits are the cookie, the most that a program of 32 bits
//! without large-file support can take. A reader that goes on by a cookie cannot tell names with that cookie apart. So
//! all but one of these names get another cookie nearby when they are first read together, and keep it as long as they
//! and the directory's inode live. No reader can know an old cookie before that reading, but for names that were made
//! since the last one: those are remembered, and give way.

use std::collections::{BTreeMap, BTreeSet};

/// Bits of a place below the cookie.
const BELOW: u32 = 32;
const LOW: u64 = (1 << BELOW) - 1;
/// The last cookie, and the last place.
pub const LAST_COOKIE: u64 = i32::MAX as u64;
/// The last place that a name can have.
pub const LAST: u64 = i64::MAX as u64;
/// The least width of a window, 64 cookies: names with one cookie must find another cookie within it.
pub const WIDTH: u64 = 64 << BELOW;

/// The cookie of a place.
pub fn cookie_of(place: u64) -> u64 {
    place >> BELOW
}

/// The last place that has a cookie.
pub fn end_of(cookie: u64) -> u64 {
    cookie.min(LAST_COOKIE) << BELOW | LOW
}

/// The place that a name at `place` gets with another cookie.
pub fn moved_to(place: u64, cookie: u64) -> u64 {
    cookie << BELOW | place & LOW
}

/// The names of a directory that are not at the place of their hash, and the names that may have to give way.
#[derive(Debug, Default)]
pub struct Places(Option<Box<Apart>>);

#[derive(Debug, Default)]
struct Apart {
    /// The cookies of names that gave way, by their hashes.
    moved: BTreeMap<u64, u64>,
    /// The hashes of names that were made while it was not known whether another name has their cookie.
    new: BTreeSet<u64>,
    /// What the journal does not have yet.
    unwritten: Vec<(u64, Apartness)>,
}

/// What is known of a name's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apartness {
    /// The name is at the place of its hash.
    Nowhere,
    /// The name must give way to another with its cookie.
    New,
    /// The name has this cookie.
    Moved(u64),
}

impl Places {
    /// The place of the name with this hash.
    pub fn of(&self, hash: u64) -> u64 {
        let moved = self.0.as_ref().and_then(|apart| apart.moved.get(&hash));
        moved.map_or(hash, |cookie| moved_to(hash, *cookie))
    }

    /// Whether every name is at the place of its hash.
    pub fn are_natural(&self) -> bool {
        self.0.as_ref().is_none_or(|apart| apart.moved.is_empty())
    }

    /// Whether the name with this hash must give way to another with its cookie.
    pub fn is_new(&self, hash: u64) -> bool {
        self.0.as_ref().is_some_and(|apart| apart.new.contains(&hash))
    }

    /// Whether a name that gave way has this place.
    pub fn has_moved_to(&self, place: u64) -> bool {
        let is_there = |(hash, cookie): (&u64, &u64)| moved_to(*hash, *cookie) == place;
        self.0.as_ref().is_some_and(|apart| apart.moved.iter().any(is_there))
    }

    /// Sets what is known of a name.
    pub fn set(&mut self, hash: u64, what: Apartness) {
        if what == Apartness::Nowhere && self.0.is_none() {
            return;
        }
        let apart = self.0.get_or_insert_default();
        let before = (apart.moved.remove(&hash), apart.new.remove(&hash));
        match what {
            Apartness::Nowhere if before == (None, false) => return,
            Apartness::Nowhere => {}
            Apartness::New => drop(apart.new.insert(hash)),
            Apartness::Moved(cookie) => drop(apart.moved.insert(hash, cookie)),
        }
        apart.unwritten.push((hash, what));
    }

    /// Notes that all names after one place up to another were read together, and that no two of them have one cookie.
    pub fn settled(&mut self, after: u64, to: u64) {
        let Some(apart) = self.0.as_mut().filter(|apart| !apart.new.is_empty() && after < to) else { return };
        let known: Vec<u64> = apart.new.range(after.saturating_add(1)..=to).copied().collect();
        known.into_iter().for_each(|hash| self.set(hash, Apartness::Nowhere));
    }

    /// Takes what must be written down for the next daemon.
    pub fn unwritten(&mut self) -> Vec<(u64, Apartness)> {
        let unwritten = self.0.as_mut().map(|apart| std::mem::take(&mut apart.unwritten)).unwrap_or_default();
        if self.0.as_ref().is_some_and(|apart| apart.moved.is_empty() && apart.new.is_empty()) {
            self.0 = None;
        }
        unwritten
    }
}

impl Apartness {
    /// The value as a number: 0 for `Nowhere`, 1 for `New`, and a cookie, which is above 1.
    pub fn to_number(self) -> u64 {
        match self {
            Self::Nowhere => 0,
            Self::New => 1,
            Self::Moved(cookie) => cookie,
        }
    }

    /// The value of such a number.
    pub fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Nowhere,
            1 => Self::New,
            cookie => Self::Moved(cookie.min(LAST_COOKIE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_where_its_hash_says_unless_it_gave_way() {
        let mut places = Places::default();
        let (hash, other) = (7 << BELOW | 5, 9 << BELOW | 1);
        assert_eq!((places.of(hash), places.are_natural(), places.unwritten()), (hash, true, vec![]));
        places.set(hash, Apartness::Moved(8));
        places.set(other, Apartness::New);
        assert_eq!((places.of(hash), places.of(other), places.is_new(other)), (8 << BELOW | 5, other, true));
        assert_eq!(places.unwritten(), [(hash, Apartness::Moved(8)), (other, Apartness::New)]);
        places.settled(other, LAST);
        assert!(places.is_new(other), "not in that window");
        places.settled(LAST, LAST);
        assert!(places.is_new(other), "nothing is read behind the last place");
        assert!(places.has_moved_to(8 << BELOW | 5) && !places.has_moved_to(hash) && !places.has_moved_to(other));
        places.settled(end_of(8), end_of(9));
        assert!(!places.is_new(other) && !places.are_natural());
        places.set(hash, Apartness::Nowhere);
        places.set(hash, Apartness::Nowhere);
        assert_eq!(places.unwritten(), [(other, Apartness::Nowhere), (hash, Apartness::Nowhere)]);
        assert!(places.0.is_none() && places.are_natural());
    }

    #[test]
    fn cookies_have_31_bits_and_part_places() {
        assert_eq!((cookie_of(LAST), end_of(LAST_COOKIE), end_of(u64::MAX)), (LAST_COOKIE, LAST, LAST));
        for cookie in [0, 3, 1 << 20, LAST_COOKIE] {
            assert_eq!(cookie_of(end_of(cookie)), cookie);
            assert_eq!(cookie_of(end_of(cookie).wrapping_add(1)), cookie + 1);
        }
        for what in [Apartness::Nowhere, Apartness::New, Apartness::Moved(3), Apartness::Moved(LAST_COOKIE)] {
            assert_eq!(Apartness::from_number(what.to_number()), what);
        }
    }
}
