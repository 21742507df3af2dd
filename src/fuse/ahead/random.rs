//! Large files that are read at random: which of their pages the kernel may have, and which windows are worth storing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use super::order::SMALL_FILE;
use super::store::WINDOW;
use crate::base::sync::{DashMap, Mutex};
use crate::union::{InodeId, Union};

const PAGE: u64 = WINDOW / 64;
/// A READ of more is not random, or is read ahead by the kernel already.
const SMALL_READ: u64 = 16 << 10;
/// Random reads of a file before its windows are stored.
const EVIDENCE: u64 = 8;
/// Of a larger file the rest is not stored: 8 GiB, which take 256 KiB of memory.
const MOST_WORDS: u64 = 1 << 15;
/// Files that are known.
const MOST_FILES: usize = 64;

/// The large files that were read lately.
#[derive(Default)]
pub struct Random {
    files: DashMap<InodeId, Arc<Pages>>,
    /// The order in which they came.
    order: Mutex<VecDeque<InodeId>>,
}

/// The pages of a file. It is known from its first READ on, so that a page without a mark was never read.
struct Pages {
    size: u64,
    /// A bit for each page that was read or stored, a word for each window.
    marks: Box<[AtomicU64]>,
    /// The first mark of the inode was this one's: no READ was answered before.
    sure: AtomicBool,
    /// It may change, or is not watched any more.
    over: AtomicBool,
    /// Where the last READ ended, and how many began somewhere else.
    end: AtomicU64,
    random: AtomicU64,
    /// READs of pages with a mark: the kernel does not keep them.
    again: AtomicU64,
}

/// A window of a file that may be stored.
pub struct Window {
    pub id: InodeId,
    pub number: u64,
    pages: Arc<Pages>,
}

impl Random {
    /// A part of a file is read: sets the marks of its pages. A window that is worth storing.
    pub fn read(&self, union: &Union, id: InodeId, offset: u64, size: u64) -> Option<Window> {
        self.enter(union, id);
        let pages = self.files.get(&id).map(|pages| pages.clone())?;
        let number = pages.read(offset, size)?;
        Some(Window { id, number, pages })
    }

    /// The data of a file is read for the first time, perhaps: sets the mark of the inode, and enters the file unless it is
    /// small.
    fn enter(&self, union: &Union, id: InodeId) {
        if union.is_cached(id) {
            return;
        }
        let size = union.getattr(id).map_or(0, |attr| attr.size);
        if size <= SMALL_FILE {
            union.mark_cached(id);
            return;
        }
        // Before the mark is seen: who finds the inode marked must find its pages, too.
        let new = Arc::new(Pages::new(size));
        let pages = self.files.entry(id).or_insert_with(|| new.clone()).clone();
        if !Arc::ptr_eq(&pages, &new) {
            // Two at once: this one is answered, perhaps before the other one has set the mark.
            if !pages.sure.load(SeqCst) {
                pages.over.store(true, SeqCst);
            }
            return;
        }
        self.make_room(id);
        // Another one may have set it who knew nothing of the pages.
        match union.mark_cached(id) {
            true => new.sure.store(true, SeqCst),
            false => self.end(id),
        }
    }

    fn make_room(&self, id: InodeId) {
        let mut order = self.order.lock();
        order.push_back(id);
        let old = if order.len() > MOST_FILES { order.pop_front() } else { None };
        drop(order);
        old.into_iter().for_each(|old| self.end(old));
    }

    /// A file may change, or is not known any more: nothing of it is stored.
    pub fn end(&self, id: InodeId) {
        // At once: who does not find it any more relies on that.
        self.files.remove_if(&id, |_, pages| {
            pages.over.store(true, SeqCst);
            true
        });
    }
}

impl Pages {
    fn new(size: u64) -> Self {
        let words = size.div_ceil(WINDOW).min(MOST_WORDS);
        Self {
            size,
            marks: (0..words).map(|_| AtomicU64::new(0)).collect(),
            sure: AtomicBool::new(false),
            over: AtomicBool::new(false),
            end: AtomicU64::new(0),
            random: AtomicU64::new(0),
            again: AtomicU64::new(0),
        }
    }

    /// The marks of a window.
    fn word(&self, number: u64) -> Option<&AtomicU64> {
        self.marks.get(usize::try_from(number).ok()?)
    }

    /// Sets the marks of what is read. The window, if it was a random read and there is evidence enough.
    fn read(&self, offset: u64, size: u64) -> Option<u64> {
        let end = offset.saturating_add(size);
        let (first, last) = (offset / WINDOW, end.saturating_sub(1) / WINDOW);
        let mut left = false;
        let mut known = true;
        for number in first..=last.min(MOST_WORDS) {
            let Some(word) = self.word(number) else { continue };
            let mine = mask(offset, end, number);
            let before = word.fetch_or(mine, SeqCst);
            known &= before & mine == mine;
            left = before | mine != u64::MAX;
        }
        let sequential = self.end.swap(end, Relaxed) == offset;
        if sequential || size > SMALL_READ || self.over.load(Relaxed) {
            return None;
        }
        let random = self.random.fetch_add(1, Relaxed) + 1;
        let again = self.again.fetch_add(u64::from(known), Relaxed);
        // Where the kernel drops what was stored there is no room for it.
        let worth = random >= EVIDENCE && again <= 2 * (random / 3) + EVIDENCE;
        (worth && left).then_some(first)
    }
}

/// The bits of the pages from `offset` to `end` in a window.
fn mask(offset: u64, end: u64, number: u64) -> u64 {
    let start = number * WINDOW;
    let from = (offset.max(start) - start) / PAGE;
    let to = (end.min(start + WINDOW) - start).div_ceil(PAGE);
    let below = |bit: u64| if bit >= 64 { u64::MAX } else { (1 << bit) - 1 };
    below(to) & !below(from)
}

impl Window {
    /// Where it begins, and how much of the file is in it.
    pub fn part(&self) -> (u64, usize) {
        let start = self.number * WINDOW;
        (start, self.pages.size.saturating_sub(start).min(WINDOW) as usize)
    }

    /// Marks its pages: the ranges of the window that had no mark, and may be stored.
    pub fn claim(&self) -> Vec<Range<usize>> {
        let Some(word) = self.pages.word(self.number) else { return Vec::new() };
        let marked = word.fetch_or(u64::MAX, SeqCst);
        if self.pages.over.load(SeqCst) || !self.pages.sure.load(SeqCst) {
            return Vec::new();
        }
        runs(!marked, self.part().1)
    }
}

/// The ranges of the first `len` bytes of a window whose pages these bits are.
fn runs(mut bits: u64, len: usize) -> Vec<Range<usize>> {
    let page = PAGE as usize;
    let mut found = Vec::new();
    let mut at = 0;
    while bits != 0 && at * page < len {
        let gap = bits.trailing_zeros() as usize;
        let run = (bits >> gap).trailing_ones() as usize;
        let range = (at + gap) * page..((at + gap + run) * page).min(len);
        if !range.is_empty() {
            found.push(range);
        }
        at += gap + run;
        bits = bits.checked_shr(u32::try_from(gap + run).unwrap_or(64)).unwrap_or(0);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages() -> Pages {
        Pages::new(100 * WINDOW + 5000)
    }

    #[test]
    fn a_window_is_worth_storing_after_some_random_reads_until_all_its_pages_are_marked() {
        let pages = pages();
        assert!((1..EVIDENCE).all(|i| pages.read(i * 8 * WINDOW, PAGE).is_none()));
        assert_eq!(pages.read(3 * WINDOW + 5000, PAGE), Some(3));
        assert_eq!(pages.read(3 * WINDOW + 50_000, PAGE), Some(3), "not stored yet");
        assert_eq!(pages.read(4 * WINDOW, PAGE), Some(4));
        assert_eq!(pages.read(4 * WINDOW + PAGE, PAGE), None, "sequential");
        assert_eq!(pages.read(9 * WINDOW, 2 * SMALL_READ), None, "large");
        pages.marks[5].store(u64::MAX, SeqCst);
        assert_eq!(pages.read(5 * WINDOW, PAGE), None, "stored");
        assert!((0..100).all(|_| pages.read(5 * WINDOW, PAGE).is_none()));
        assert_eq!(pages.read(6 * WINDOW, PAGE), None, "not kept");
        assert_eq!(pages.read(200 * WINDOW, PAGE), None, "beyond the end");
    }

    #[test]
    fn what_was_read_and_what_lies_beyond_the_end_is_not_claimed() {
        let pages = Arc::new(pages());
        assert_eq!(Window { id: InodeId(7), number: 50, pages: pages.clone() }.claim(), [0..0; 0], "not sure");
        pages.sure.store(true, SeqCst);
        pages.read(2 * WINDOW + 10 * PAGE + 1, PAGE);
        pages.read(3 * WINDOW - PAGE, 2 * PAGE);
        let window = |number| Window { id: InodeId(7), number, pages: pages.clone() };
        let claim = |number| window(number).claim().iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
        let page = PAGE as usize;
        assert_eq!(claim(2), [(0, 10 * page), (12 * page, 63 * page)]);
        assert_eq!(claim(2), []);
        assert_eq!(claim(3), [(page, 64 * page)]);
        assert_eq!(claim(100), [(0, 5000)]);
        assert_eq!(window(100).part(), (100 * WINDOW, 5000));
        pages.over.store(true, SeqCst);
        assert_eq!(claim(5), []);
    }

    #[test]
    fn more_reads_are_counted_than_anybody_makes() {
        let pages = pages();
        (0..EVIDENCE).for_each(|i| assert!(pages.read((10 + 2 * i) * WINDOW, PAGE).is_none() || i + 1 == EVIDENCE));
        // Hours of them.
        pages.random.fetch_add(u32::MAX.into(), Relaxed);
        pages.again.fetch_add(u32::MAX.into(), Relaxed);
        assert_eq!(pages.read(3 * WINDOW, PAGE), None, "not kept");
        pages.random.fetch_add(u32::MAX.into(), Relaxed);
        assert_eq!(pages.read(4 * WINDOW + PAGE, PAGE), Some(4));
    }

    #[test]
    fn so_many_files_are_known_and_the_oldest_is_given_up() {
        let random = Random::default();
        let first = Arc::new(pages());
        random.files.insert(InodeId(1), first.clone());
        (1..=MOST_FILES as u64).for_each(|id| random.make_room(InodeId(id)));
        assert!(!first.over.load(SeqCst));
        random.make_room(InodeId(1000));
        assert!(first.over.load(SeqCst) && random.files.is_empty());
    }
}
