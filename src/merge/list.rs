//! The merged listing of a directory, in an order that comes out the same whenever it is built again.
//!
//! That order is by a hash of the name, so that a part of it, a *window*, can be read by itself: a directory of a million
//! names is listed by a few readings of the layers, none of which holds more than a fraction of the names.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::hash::Hasher;
use std::iter::Peekable;

use siphasher::sip::SipHasher13;

use super::DirView;
use super::places::{LAST, Places, WIDTH, cookie_of, end_of};
use crate::base::{Name, Result};
use crate::layer::{ListedName, NameSink, list_names};
use crate::sys::random::random_bytes;
use crate::sys::stat::Kind;

/// The key of a mount's directory cookies: a layer cannot choose names that collide.
#[derive(Debug, Clone, Copy)]
pub struct CookieKey([u8; 16]);

impl CookieKey {
    /// Cookies 0, 1 and 2 are the start, `.` and `..`.
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

    /// The hash of `name`, in the order of which a directory is listed: see [`Places`].
    pub fn hash(&self, name: &Name) -> u64 {
        self.of(name.as_bytes())
    }

    fn of(&self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(name);
        (hasher.finish() >> 1).max(end_of(Self::FIRST - 1) + 1)
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

/// A name as it was read: 24 bytes beside the name's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) place: u64,
    ino: u64,
    /// Where the name begins in `bytes`.
    at: u32,
    /// Its slot, and [`GONE`].
    slot: u16,
    len: u8,
    kind: Option<Kind>,
}

/// Of `slot`: it is not seen: a whiteout, or removed since it was read.
const GONE: u16 = 1 << 15;
/// So many bytes of names are enough for one window.
const MOST_BYTES: usize = 1 << 28;

impl Read {
    pub(super) fn name<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.at as usize..).and_then(|rest| rest.get(..usize::from(self.len))).unwrap_or_default()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.slot & GONE != 0
    }

    pub(super) fn compare(&self, place: u64, name: &[u8], bytes: &[u8]) -> Ordering {
        self.place.cmp(&place).then_with(|| self.name(bytes).cmp(name))
    }
}

/// The names of a directory whose places lie in one window, in the order of these. Changes are entered as they are made,
/// so that a walk that goes on sees what the kernel's own cache of the directory would.
#[derive(Debug)]
pub struct Listing {
    /// Names after this place …
    pub(super) after: u64,
    /// … and up to this one.
    pub(super) to: u64,
    pub(super) read: Vec<Read>,
    pub(super) bytes: Vec<u8>,
    /// Names that came since.
    pub(super) added: BTreeMap<(u64, Name), Listed>,
    /// The places of directories of several parts, with the slots of the parts below the topmost.
    pub(super) below: Vec<(u64, u16)>,
    live: usize,
    /// How many names the layers have, in the window or not.
    total: usize,
    /// Some name may be found that is not in it.
    inexact: bool,
}

impl Default for Listing {
    fn default() -> Self {
        Self::empty(0)
    }
}

impl Listing {
    fn empty(after: u64) -> Self {
        let (read, bytes, added, below) = (Vec::new(), Vec::new(), BTreeMap::new(), Vec::new());
        Self { after, to: LAST, read, bytes, added, below, live: 0, total: 0, inexact: false }
    }

    /// One with these names.
    #[cfg(test)]
    pub(super) fn made(names: impl Iterator<Item = (u64, Name)>) -> Self {
        let mut listing = Self::empty(0);
        for (place, name) in names {
            let (at, len) = (listing.bytes.len() as u32, name.as_bytes().len() as u8);
            listing.read.push(Read { place, ino: 0, at, slot: 1, len, kind: None });
            listing.bytes.extend_from_slice(name.as_bytes());
        }
        listing.live = listing.read.len();
        let bytes = &listing.bytes;
        listing.read.sort_unstable_by(|a, b| a.compare(b.place, b.name(bytes), bytes));
        listing
    }

    /// What comes after `place` within the window.
    pub fn after(&self, place: u64) -> impl Iterator<Item = (u64, Name, Listed)> {
        let from = self.read.partition_point(|read| read.place <= place);
        let read = self.read.get(from..).unwrap_or_default().iter();
        let added = self.added_from(place.saturating_add(1));
        Merged { read: read.peekable(), added: added.peekable(), bytes: &self.bytes }
    }

    /// Of a directory of a lower layer: the slots after the topmost in which it has a part or a whiteout, ascending.
    /// `None`: in any of them. (What is no directory may have its data elsewhere; the upper layer's names change.)
    pub fn below(&self, place: u64, listed: &Listed) -> Option<impl Iterator<Item = usize> + Clone> {
        if self.inexact || listed.slot == 0 || listed.kind != Some(Kind::Dir) {
            return None;
        }
        let from = self.below.partition_point(|(of, _)| *of < place);
        let slots = self.below.get(from..).unwrap_or_default().iter().take_while(move |(of, _)| *of == place);
        Some(slots.map(|(_, slot)| usize::from(*slot)))
    }

    /// Enters a name that now stands in the upper layer.
    pub fn insert(&mut self, place: u64, name: &Name, kind: Kind) {
        if !self.has(place) {
            return;
        }
        let kind = Some(kind);
        let new = match self.find(place, name) {
            Some(read) => {
                let was_gone = read.is_gone();
                (read.kind, read.slot, read.ino) = (kind, 0, 0);
                was_gone
            }
            None => self.added.insert((place, name.clone()), Listed { kind, slot: 0, ino: 0 }).is_none(),
        };
        self.live += usize::from(new);
    }

    /// Takes a name out.
    pub fn remove(&mut self, place: u64, name: &Name) {
        let gone = match self.find(place, name) {
            Some(read) => {
                let was_there = !read.is_gone();
                read.slot |= GONE;
                was_there
            }
            None => self.added.remove(&(place, name.clone())).is_some(),
        };
        self.live = self.live.saturating_sub(usize::from(gone));
    }

    fn find(&mut self, place: u64, name: &Name) -> Option<&mut Read> {
        let bytes = &self.bytes;
        let at = self.read.binary_search_by(|read| read.compare(place, name.as_bytes(), bytes)).ok()?;
        self.read.get_mut(at)
    }

    /// Whether this place is in the window.
    pub fn has(&self, place: u64) -> bool {
        self.after < place && place <= self.to
    }

    /// Whether what comes next after `place` is in this window, if anything comes: it goes on at [`Listing::to`] else.
    pub fn goes_on(&self, place: u64) -> bool {
        self.after <= place && (place < self.to || self.is_last())
    }

    /// The last place of the window.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// Where a window may begin that goes on after `place`: earlier, where this one ends there and has nothing left.
    pub fn next_after(&self, place: u64) -> u64 {
        if self.live == 0 && self.goes_on_at(place) { self.after } else { place }
    }

    fn goes_on_at(&self, place: u64) -> bool {
        self.after <= place && place <= self.to
    }

    /// Whether nothing comes after the window.
    pub fn is_last(&self) -> bool {
        self.to == LAST
    }

    /// Whether it has all names.
    pub fn is_whole(&self) -> bool {
        self.after <= end_of(CookieKey::FIRST - 1) && self.is_last()
    }

    /// Whether a name that is not in it is not there.
    pub fn is_exact(&self) -> bool {
        !self.inexact && self.is_whole()
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.live
    }

    /// How many names the layers had together when it was read.
    pub fn total(&self) -> usize {
        self.total
    }
}

/// What was read and what was added, in one order.
struct Merged<'a, R: Iterator<Item = &'a Read>, A: Iterator<Item = (&'a (u64, Name), &'a Listed)>> {
    read: Peekable<R>,
    added: Peekable<A>,
    bytes: &'a [u8],
}

impl<'a, R, A> Iterator for Merged<'a, R, A>
where
    R: Iterator<Item = &'a Read>,
    A: Iterator<Item = (&'a (u64, Name), &'a Listed)>,
{
    type Item = (u64, Name, Listed);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let first = match (self.read.peek(), self.added.peek()) {
                (Some(read), Some(((place, name), _))) => {
                    read.compare(*place, name.as_bytes(), self.bytes) == Ordering::Less
                }
                (read, _) => read.is_some(),
            };
            if !first {
                return self.added.next().map(|((place, name), listed)| (*place, name.clone(), *listed));
            }
            let read = self.read.next()?;
            if let (false, Ok(name)) = (read.is_gone(), Name::new(read.name(self.bytes))) {
                return Some((read.place, name, Listed { kind: read.kind, slot: read.slot, ino: read.ino }));
            }
        }
    }
}

/// How much of a directory is read into one listing.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// What comes after this place, the last one of its cookie.
    pub after: u64,
    /// About so many names at most; where they are very many, a fixed share of them.
    pub most: usize,
    /// How many there were when they were last read, 0 if that is not known.
    pub total: usize,
}

impl Window {
    /// All names at once.
    pub const WHOLE: Self = Self { after: 0, most: usize::MAX, total: 0 };
}

/// A directory is read whole so many times at most, however many names it has: listing it takes time linear in these.
const MOST_READINGS: usize = 16;

/// Lists a part of a merged directory.
///
/// # Errors
/// What the layers' system calls say.
pub fn list(dir: &DirView, key: &CookieKey, places: &Places, window: Window) -> Result<Listing> {
    let mut reading = Reading::new(key, places, window);
    for (slot, part) in dir.parts(0) {
        reading.slot = u16::try_from(slot).unwrap_or(0) & !GONE;
        let exact = list_names(&part.place, part.xattr_whiteouts, &mut reading)?;
        reading.listing.inexact |= !exact;
    }
    Ok(reading.finish())
}

/// Lists a whole directory, but `None` as soon as its parts have more than `most` names together.
///
/// # Errors
/// As [`list`].
pub fn list_some(dir: &DirView, key: &CookieKey, most: usize) -> Result<Option<Listing>> {
    let places = Places::default();
    let mut reading = Reading { give_up: most, ..Reading::new(key, &places, Window::WHOLE) };
    for (slot, part) in dir.parts(0) {
        reading.slot = u16::try_from(slot).unwrap_or(0) & !GONE;
        let exact = list_names(&part.place, part.xattr_whiteouts, &mut reading)?;
        if reading.listing.total > most {
            return Ok(None);
        }
        reading.listing.inexact |= !exact;
    }
    Ok(Some(reading.finish()))
}

/// Whether nothing is seen in a directory; window by window, as whiteouts may be as many as names.
///
/// # Errors
/// As [`list`].
pub fn is_empty(dir: &DirView, key: &CookieKey, most: usize) -> Result<bool> {
    let mut window = Window { after: 0, most, total: 0 };
    // What the topmost part shows is seen.
    let mut top = AnyName { found: false, looks: if dir.len() < 2 { usize::MAX } else { FEW } };
    if let Some(part) = dir.top() {
        list_names(&part.place, part.xattr_whiteouts, &mut top)?;
    }
    if top.found || dir.len() < 2 {
        return Ok(!top.found);
    }
    loop {
        let listing = list(dir, key, &Places::default(), window)?;
        if listing.len() > 0 || listing.is_last() {
            return Ok(listing.len() == 0);
        }
        window = Window { after: listing.to(), total: listing.total(), ..window };
    }
}

/// Names of the topmost part that are looked at before all parts are merged.
const FEW: usize = 1000;

/// Whether there is any name but whiteouts among the first.
struct AnyName {
    found: bool,
    looks: usize,
}

impl NameSink for AnyName {
    fn wants(&mut self, _name: &[u8]) -> bool {
        true
    }

    fn take(&mut self, name: &ListedName<'_>) -> bool {
        self.found |= !name.whiteout;
        self.looks -= 1;
        !self.found && self.looks > 0
    }
}

/// A window being read.
struct Reading<'a> {
    key: &'a CookieKey,
    places: &'a Places,
    listing: Listing,
    /// More names than this make the window narrower.
    most: usize,
    /// More names than this are too many altogether.
    give_up: usize,
    /// The part that is being read.
    slot: u16,
    place: u64,
}

impl<'a> Reading<'a> {
    fn new(key: &'a CookieKey, places: &'a Places, window: Window) -> Self {
        let mut listing = Listing::empty(window.after);
        let most = window.most.max(window.total / MOST_READINGS);
        if window.total > most {
            // As wide as should do, a little less: what does not fit halves it.
            let share = u128::from(LAST) * (most - most / 64) as u128 / window.total as u128;
            let share = u64::try_from(share).unwrap_or(LAST).max(WIDTH);
            // Names of one cookie are in one window.
            listing.to = end_of(cookie_of(window.after.saturating_add(share).min(LAST)));
        }
        Self { key, places, listing, most, give_up: usize::MAX, slot: 0, place: 0 }
    }

    /// Keeps the first half of the window only, until it has few enough names.
    fn narrow(&mut self) {
        let Listing { after, to, read, bytes, total, .. } = &mut self.listing;
        self.most = self.most.max(*total / MOST_READINGS);
        while (read.len() > self.most || bytes.len() > MOST_BYTES) && to.saturating_sub(*after) > WIDTH {
            *to = end_of(cookie_of(*after + (*to - *after) / 2));
            let mut kept = Vec::with_capacity(bytes.len() / 2);
            read.retain_mut(|read| {
                if read.place > *to {
                    return false;
                }
                let at = kept.len() as u32;
                kept.extend_from_slice(read.name(bytes));
                read.at = at;
                true
            });
            *bytes = kept;
        }
    }

    /// In order, each name as the topmost part has it, without what that says is deleted.
    fn finish(mut self) -> Listing {
        let Listing { read, bytes, below, .. } = &mut self.listing;
        let slot = |read: &Read| read.slot & !GONE;
        read.sort_unstable_by(|a, b| a.compare(b.place, b.name(bytes), bytes).then(slot(a).cmp(&slot(b))));
        read.dedup_by(|later, first| {
            let same = later.compare(first.place, first.name(bytes), bytes) == Ordering::Equal;
            if same && first.kind == Some(Kind::Dir) {
                below.push((later.place, slot(later)));
            }
            same
        });
        below.sort_unstable();
        below.shrink_to_fit();
        read.retain(|read| !read.is_gone());
        read.shrink_to_fit();
        bytes.shrink_to_fit();
        self.listing.live = read.len();
        self.listing
    }
}

impl NameSink for Reading<'_> {
    fn wants(&mut self, name: &[u8]) -> bool {
        self.listing.total += 1;
        self.place = self.places.of(self.key.of(name));
        self.listing.has(self.place)
    }

    fn take(&mut self, name: &ListedName<'_>) -> bool {
        let Listing { read, bytes, total, .. } = &mut self.listing;
        read.push(Read {
            place: self.place,
            ino: name.ino,
            at: bytes.len() as u32,
            slot: if name.whiteout { self.slot | GONE } else { self.slot },
            len: u8::try_from(name.name.len()).unwrap_or(u8::MAX),
            kind: name.kind,
        });
        bytes.extend_from_slice(name.name);
        if *total > self.give_up {
            return false;
        }
        if read.len() > self.most || bytes.len() > MOST_BYTES {
            self.narrow();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window read from so many made-up names, `gone` of which a part above has deleted.
    fn read(key: &CookieKey, names: usize, gone: usize, window: Window) -> Listing {
        let places = Places::default();
        let mut reading = Reading::new(key, &places, window);
        for (slot, range) in [(0, 0..gone), (1, 0..names)] {
            reading.slot = slot;
            for number in range {
                let name = format!("name-{number}");
                let listed = ListedName { name: name.as_bytes(), whiteout: slot == 0, kind: None, ino: 7 };
                if reading.wants(name.as_bytes()) {
                    assert!(reading.take(&listed));
                }
            }
        }
        reading.finish()
    }

    /// All names by windows, with the number of readings that this took.
    fn all(key: &CookieKey, names: usize, gone: usize, most: usize) -> (Vec<Name>, usize) {
        let (mut found, mut readings) = (Vec::new(), 0);
        let mut window = Window { after: 2, most, total: 0 };
        loop {
            let listing = read(key, names, gone, window);
            readings += 1;
            assert!(listing.read.len() <= most.max((names + gone) / MOST_READINGS), "{} of {most}", listing.read.len());
            found.extend(listing.after(window.after).map(|(_, name, _)| name));
            if listing.is_last() {
                return (found, readings);
            }
            window = Window { after: listing.to(), total: listing.total(), ..window };
        }
    }

    #[test]
    fn windows_together_have_each_name_once_and_in_the_order_of_the_whole() {
        let key = CookieKey::random().unwrap();
        for (names, gone) in [(0, 0), (1, 0), (5000, 0), (5000, 1200), (300, 300)] {
            let (whole, one) = all(&key, names, gone, usize::MAX);
            assert_eq!((whole.len(), one), (names - gone, 1));
            for most in [1, 64, 1000, 5000] {
                let (found, readings) = all(&key, names, gone, most);
                assert!(found == whole, "{names} names, {most} at a time");
                let fewest = (names + gone).div_ceil(most).min(MOST_READINGS);
                assert!(readings <= 2 * fewest + 3, "{readings} readings for {names} names, {most} at a time");
            }
        }
    }

    #[test]
    fn changes_are_seen_where_they_lie_in_the_window() {
        let key = CookieKey::random().unwrap();
        let mut listing = read(&key, 1000, 0, Window { after: 2, most: 400, total: 0 });
        assert!(!listing.is_last() && listing.len() <= 400);
        let (place, name, listed) = listing.after(2).nth(17).unwrap();
        assert_eq!((listed.slot, listed.ino), (1, 7));
        let before = listing.len();
        listing.remove(place, &name);
        listing.remove(place, &name);
        assert_eq!((listing.len(), listing.after(2).count()), (before - 1, before - 1));
        listing.insert(place, &name, Kind::Dir);
        listing.insert(place, &name, Kind::Dir);
        let back = listing.after(2).nth(17).unwrap();
        assert_eq!((back.0, back.1, back.2.slot, back.2.kind), (place, name, 0, Some(Kind::Dir)));
        for new in (0..200).map(|number| Name::new(format!("new-{number}").as_bytes()).unwrap()) {
            let (place, in_window) = (key.hash(&new), key.hash(&new) <= listing.to());
            let before = listing.len();
            listing.insert(place, &new, Kind::File);
            assert_eq!(listing.len() - before, usize::from(in_window));
            assert_eq!(listing.after(place - 1).next().is_some_and(|(_, name, _)| name == new), in_window);
        }
        assert!(listing.after(2).map(|(place, _, _)| place).is_sorted());
    }

    #[test]
    fn the_parts_of_a_lower_directory_are_told_and_no_others() {
        let key = CookieKey::random().unwrap();
        let (dir, file) = (Some(Kind::Dir), Some(Kind::File));
        let parts: [&[(&str, Option<Kind>, bool)]; 5] = [
            &[("in-upper", dir, false)],
            &[("several", dir, false), ("file", file, false), ("one", dir, false)],
            &[("in-upper", dir, false)],
            &[("several", dir, true), ("file", file, false)],
            &[("several", file, false), ("in-upper", dir, false), ("file", file, false)],
        ];
        let places = Places::default();
        let mut reading = Reading::new(&key, &places, Window::WHOLE);
        for (slot, names) in (0..).zip(parts) {
            reading.slot = slot;
            for (name, kind, whiteout) in names {
                let listed = ListedName { name: name.as_bytes(), whiteout: *whiteout, kind: *kind, ino: 7 };
                assert!(reading.wants(name.as_bytes()) && reading.take(&listed));
            }
        }
        let listing = reading.finish();
        let told: BTreeMap<_, _> = listing
            .after(0)
            .map(|(place, name, listed)| {
                (name.as_bytes().to_vec(), listing.below(place, &listed).map(Iterator::collect::<Vec<_>>))
            })
            .collect();
        let expected = [("file", None), ("in-upper", None), ("one", Some(vec![])), ("several", Some(vec![3, 4]))];
        assert_eq!(told, expected.into_iter().map(|(name, below)| (name.as_bytes().to_vec(), below)).collect());
    }

    #[test]
    fn a_window_that_was_emptied_is_part_of_the_next() {
        let key = CookieKey::random().unwrap();
        let mut listing = read(&key, 1000, 0, Window { after: 2, most: 400, total: 0 });
        let (to, all): (u64, Vec<_>) = (listing.to(), listing.after(2).collect());
        assert_eq!((listing.next_after(to), listing.goes_on(to), listing.goes_on(2)), (to, false, true));
        all.iter().for_each(|(place, name, _)| listing.remove(*place, name));
        assert_eq!((listing.next_after(to), listing.len()), (2, 0));
    }
}
