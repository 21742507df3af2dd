//! The merged listing of a directory, in an order that comes out the same whenever it is built again.
//!
//! Names are in the order of their hashes, so that a range of them, a *window*, can be read by itself: a directory of a
//! million names is listed by a few readings of the layers, each of which holds a fraction of the names in memory.

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

/// The secret key of a mount's directory cookies: with it no layer can choose names whose cookies collide.
#[derive(Debug, Clone, Copy)]
pub struct CookieKey([u8; 16]);

impl CookieKey {
    /// Cookies 0, 1 and 2 are the start, `.` and `..`.
    pub const FIRST: u64 = 3;

    /// A random key.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn random() -> Result<Self> {
        Ok(Self(random_bytes()?))
    }

    /// The key of a mount that goes on.
    pub fn from_bytes(key: [u8; 16]) -> Self {
        Self(key)
    }

    /// The key, for the next daemon of a mount that goes on.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The hash of `name`, by which a directory is ordered: see [`Places`].
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
    /// Its type, if the directory of the topmost layer told it.
    pub kind: Option<Kind>,
    /// The slot of the topmost part that has it.
    pub slot: u16,
    /// Its inode number as that part's directory has it; 0: not known.
    pub ino: u64,
}

/// A name as it was read, in 24 bytes beside the bytes of the name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) place: u64,
    ino: u64,
    /// Where the name begins in `bytes`.
    at: u32,
    /// Its slot, with the bit [`GONE`].
    slot: u16,
    len: u8,
    kind: Option<Kind>,
}

/// A bit of `slot`: the name is not seen, as it is a whiteout or was removed after it was read.
const GONE: u16 = 1 << 15;
/// The most bytes of names in one window.
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

/// The names of a directory whose places lie in one window, in the order of their places. Changes of the directory are
/// entered at once, so that a walk that goes on sees what the kernel's own cache of the directory shows.
#[derive(Debug)]
pub struct Listing {
    /// The window begins after this place …
    pub(super) after: u64,
    /// … and ends with this one.
    pub(super) to: u64,
    pub(super) read: Vec<Read>,
    pub(super) bytes: Vec<u8>,
    /// Names that were added after the window was read.
    pub(super) added: BTreeMap<(u64, Name), Listed>,
    /// The places of subdirectories with several parts, each with the slot of one part below the topmost.
    pub(super) below: Vec<(u64, u16)>,
    live: usize,
    /// How many names the layers have together, within the window and outside.
    total: usize,
    /// A name may be found that the listing does not have: a layer finds names that it does not list.
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

    /// A listing of these names.
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

    /// The names after `place` within the window, each with its place.
    pub fn after(&self, place: u64) -> impl Iterator<Item = (u64, Name, Listed)> {
        let from = self.read.partition_point(|read| read.place <= place);
        let read = self.read.get(from..).unwrap_or_default().iter();
        let added = self.added_from(place.saturating_add(1));
        Merged { read: read.peekable(), added: added.peekable(), bytes: &self.bytes }
    }

    /// For a directory of a lower layer: the slots below its topmost part in which it has a part or a whiteout,
    /// ascending. `None`: any slot may have one. (It is not known for files, whose data may be in any layer, nor for
    /// the upper layer, whose names change.)
    pub fn below(&self, place: u64, listed: &Listed) -> Option<impl Iterator<Item = usize> + Clone> {
        if self.inexact || listed.slot == 0 || listed.kind != Some(Kind::Dir) {
            return None;
        }
        let from = self.below.partition_point(|(of, _)| *of < place);
        let slots = self.below.get(from..).unwrap_or_default().iter().take_while(move |(of, _)| *of == place);
        Some(slots.map(|(_, slot)| usize::from(*slot)))
    }

    /// Enters a name that is in the upper layer now.
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

    /// Takes a removed name out.
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

    /// Whether a place is in the window.
    pub fn has(&self, place: u64) -> bool {
        self.after < place && place <= self.to
    }

    /// Whether a reader at `place` goes on in this window: the name after `place` is in it, or no name follows. Else
    /// the reader goes on at [`Listing::to`].
    pub fn goes_on(&self, place: u64) -> bool {
        self.after <= place && (place < self.to || self.is_last())
    }

    /// The last place of the window.
    pub fn to(&self) -> u64 {
        self.to
    }

    /// The place after which the next window for a reader at `place` begins: that of an empty window is taken again.
    pub fn next_after(&self, place: u64) -> u64 {
        if self.live == 0 && self.goes_on_at(place) { self.after } else { place }
    }

    fn goes_on_at(&self, place: u64) -> bool {
        self.after <= place && place <= self.to
    }

    /// Whether the window reaches to the end of the directory.
    pub fn is_last(&self) -> bool {
        self.to == LAST
    }

    /// Whether the window covers all names.
    pub fn is_whole(&self) -> bool {
        self.after <= end_of(CookieKey::FIRST - 1) && self.is_last()
    }

    /// Whether a name that the listing does not have is not in the directory.
    pub fn is_exact(&self) -> bool {
        !self.inexact && self.is_whole()
    }

    /// How many names the listing has.
    pub fn len(&self) -> usize {
        self.live
    }

    /// How many names the layers had together when the window was read.
    pub fn total(&self) -> usize {
        self.total
    }
}

/// The names that were read and those that were added, in one order.
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

/// Which part of a directory is read into one listing.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The window begins after this place, which is the last one of its cookie.
    pub after: u64,
    /// About the most names to read; of a directory with very many names a fixed share.
    pub most: usize,
    /// How many names the directory had when it was last read; 0: not known.
    pub total: usize,
}

impl Window {
    /// A window over all names.
    pub const WHOLE: Self = Self { after: 0, most: usize::MAX, total: 0 };
}

/// The most readings of a whole directory in one listing, so that a listing takes time linear in its names.
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

/// Lists a whole directory. `None`: its parts have more than `most` names together.
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

/// Whether nothing is seen in a directory. It is read window by window, as there may be any number of whiteouts;
/// `most`: about the most names in memory.
///
/// # Errors
/// As [`list`].
pub fn is_empty(dir: &DirView, key: &CookieKey, most: usize) -> Result<bool> {
    let mut window = Window { after: 0, most, total: 0 };
    // A name that the topmost part shows is seen.
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

/// How many names of the topmost part are looked at before all parts are merged.
const FEW: usize = 1000;

/// Looks for any name but a whiteout among the first names.
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
    /// The window is made narrower once it has more names than this.
    most: usize,
    /// The reading ends once it has seen more names than this.
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
            // A little narrower than should hold `most` names: a window that holds too many is halved.
            let share = u128::from(LAST) * (most - most / 64) as u128 / window.total as u128;
            let share = u64::try_from(share).unwrap_or(LAST).max(WIDTH);
            // All names of one cookie must be in one window.
            listing.to = end_of(cookie_of(window.after.saturating_add(share).min(LAST)));
        }
        Self { key, places, listing, most, give_up: usize::MAX, slot: 0, place: 0 }
    }

    /// Halves the window until it has few enough names.
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

    /// Orders the names, and keeps each as its topmost part has it. A name that is a whiteout there is not seen.
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

    /// Reads a window from this number of made-up names, of which a part above has deleted `gone`.
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

    /// Reads all names by windows; returns them with the number of readings.
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
