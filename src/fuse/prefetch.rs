//! Reading ahead of programs where the kernel does not: of the next small files of a walk, and around random reads.
//!
//! The daemon opens the file through its own mount and asks the kernel to read ahead (`POSIX_FADV_WILLNEED`). What comes of
//! it are ordinary READs, so that nothing can be in the kernel's cache that a program's own read would not have put there:
//! unlike `FUSE_NOTIFY_STORE` this is right on a writable view whose opens are not seen. It is done while a program's READ
//! waits for its answer, for at most one READ at a time: that program has the mount in use anyway, so that no umount fails
//! of it (but for READs of the kernel's own whose program has gone meanwhile).
//!
//! It needs opens that are not asked for, and timeouts that do not end: an open that is answered, or a lookup that brings
//! other attributes, may make the kernel drop the file's pages, and wait for the one that the READ holds.
//!
//! Only by evidence: of small files, once two were read in the order in which they were listed, then twice as many each
//! time a program arrives where the last ones end; of a large file, once it was read at random, what the layer has in its
//! cache of a window around, each window once.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use fuser::Notifier;
use rustix::fs::Advice;

use super::order::{Order, SMALL_FILE};
use super::push::Push;
use super::turns::Turns;
use crate::base::sync::Mutex;
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::stat::{Kind, cached_ino};
use crate::union::{Attr, InodeId, Union};

/// Files that are read ahead at a time.
const MOST_FILES: u64 = 64;
/// Looks at files that were read ahead together after which that ends, and for how many places.
const ENOUGH: usize = 2;
const PAUSE: u64 = 4096;
/// A READ of more is not random, or is read ahead by the kernel already.
const SMALL_READ: u32 = 16 << 10;
/// What is read ahead around a random read.
const WINDOW: u64 = 256 << 10;
/// What one call reads ahead, as large as the kernel's own window.
const STEP: u64 = 128 << 10;
/// Random reads of a file before its windows are read ahead.
const EVIDENCE: u32 = 8;
/// Of a file of more than 256 GiB the rest is not read ahead.
const MOST_WORDS: usize = 1 << 14;
/// Large files that are known to be read at random.
const MOST_RANDOM: usize = 64;

/// What was read and listed lately, and how to reach it.
pub struct Prefetch {
    mountpoint: PathBuf,
    device: u64,
    order: Arc<Order>,
    /// In a view without an upper layer small files are pushed.
    push: Option<Push>,
    /// Held by the one READ that reads ahead.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The place in the order at which the last files that were read ahead end.
    next: u64,
    /// How many those were.
    files: u64,
    /// The last of them, and for how many the kernel asked for attributes.
    last: HashSet<InodeId>,
    asked: usize,
    /// No files are read ahead before this place.
    pause: u64,
    random: HashMap<InodeId, Random>,
}

/// What is open of the way to a file; several are often in one directory.
#[derive(Default)]
struct Way {
    root: Option<OwnedFd>,
    dir: Option<(InodeId, OwnedFd)>,
}

/// A large file that is read at random.
#[derive(Default)]
struct Random {
    end: u64,
    reads: u32,
    /// Windows that were read ahead, a bit each.
    done: Vec<u64>,
    /// Reads that came all the same: the kernel does not keep them.
    again: u32,
}

impl Prefetch {
    /// For a view that is mounted there; `device` is its `st_dev`.
    pub fn new(
        union: &Arc<Union>,
        (mountpoint, device): (PathBuf, u64),
        notifier: Notifier,
        turns: &Arc<Turns>,
    ) -> Self {
        let order = Arc::<Order>::default();
        let start = || {
            let push = Push::start((union.clone(), order.clone()), notifier, turns.clone());
            push.inspect_err(|error| log::info!("small files are not pushed: {error}")).ok()
        };
        let push = if union.is_writable() { None } else { start() };
        Self { mountpoint, device, order, push, state: Mutex::default() }
    }

    /// A name was listed with its attributes.
    pub fn listed(&self, id: InodeId, attr: &Attr) {
        if attr.kind == Kind::File && attr.size > 0 && attr.size <= SMALL_FILE {
            self.order.add(id);
        }
    }

    /// An inode is known no longer, or its data will be others.
    pub fn forget(&self, id: InodeId) {
        self.order.take(id);
    }

    /// The kernel asks for attributes: it does so again after a READ, so that nothing is won where programs look at each
    /// file before they read it.
    pub fn asked(&self, id: InodeId) {
        if let Some(mut state) = self.state.try_lock() {
            state.looked_at(id);
        }
    }

    /// A READ arrived and is not answered yet; where the view is asked itself somebody else has to answer.
    pub fn read(&self, union: &Union, (id, offset, size): (InodeId, u64, u32), turns: &Turns) {
        let place = self.order.take(id);
        if place.is_none() && size > SMALL_READ {
            return;
        }
        if let (Some(push), Some(place)) = (&self.push, place) {
            return push.read(place);
        }
        let Some(mut state) = self.state.try_lock() else { return };
        match place {
            Some(place) => {
                let ahead = state.follow(place);
                if ahead > 0 {
                    turns.much();
                    turns.call_one();
                }
                let files = self.files(union, place, ahead);
                if !files.is_empty() {
                    (state.last, state.asked) = (files, 0);
                }
            }
            None => {
                if let Some(window) = state.window(id, offset, u64::from(size)) {
                    turns.call_one();
                    self.around(union, id, window);
                }
            }
        }
    }

    /// Reads the next files of the order ahead.
    fn files(&self, union: &Union, place: u64, ahead: u64) -> HashSet<InodeId> {
        let mut way = Way::default();
        let mut done = HashSet::new();
        for id in self.order.after(place, ahead) {
            self.order.take(id);
            if let Some(file) = self.open(union, id, &mut way) {
                read_ahead(&file, 0, SMALL_FILE);
                done.insert(id);
            }
        }
        done
    }

    /// Reads a window of a file ahead, as far as the layer has it in the cache.
    fn around(&self, union: &Union, id: InodeId, window: u64) {
        let start = window * WINDOW;
        if !union.is_in_cache(id, start, WINDOW) {
            return;
        }
        if let Some(file) = self.open(union, id, &mut Way::default()) {
            (0..WINDOW / STEP).for_each(|step| read_ahead(&file, start + step * STEP, STEP));
        }
    }

    /// Opens a file of the view, as any program does.
    fn open(&self, union: &Union, id: InodeId, way: &mut Way) -> Option<OwnedFd> {
        let (parent, name) = union.name_of(id)?;
        if way.dir.as_ref().is_none_or(|(of, _)| *of != parent) {
            if way.root.is_none() {
                way.root = self.root();
            }
            let path = union.path_of(parent)?;
            let dir = open_beneath(way.root.as_ref()?.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
            way.dir = Some((parent, dir));
        }
        let (_, dir) = way.dir.as_ref()?;
        let file = open_beneath(dir.as_fd(), name.as_c_str(), OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        self.is(&file, id).then_some(file)
    }

    /// The root of the view, if it is still mounted there.
    fn root(&self) -> Option<OwnedFd> {
        let root = open_root(&self.mountpoint).ok()?;
        self.is(&root, InodeId::ROOT).then_some(root)
    }

    /// Whether this is that inode of the view, by what the kernel knows without asking.
    fn is(&self, fd: &OwnedFd, id: InodeId) -> bool {
        cached_ino(fd.as_fd()).is_ok_and(|found| found == (self.device, id.0))
    }
}

impl State {
    /// A listed file is read by a program: how many of those after it are to be read ahead.
    fn follow(&mut self, place: u64) -> u64 {
        let here = place >= self.next && place - self.next <= MOST_FILES;
        self.files = match (here && self.next > 0 && place >= self.pause, self.files) {
            (false, _) => 0,
            (true, 0) => 4,
            (true, files) => (files * 2).min(MOST_FILES),
        };
        self.next = place + self.files + 1;
        self.files
    }

    /// Somebody looks at a file: too often at those that were read ahead, and no more are for a while.
    fn looked_at(&mut self, id: InodeId) {
        if self.last.remove(&id) {
            self.asked += 1;
            if self.asked >= ENOUGH {
                self.pause = self.next + PAUSE;
                self.last.clear();
            }
        }
    }

    /// The window around a small read that is to be read ahead, if one is.
    fn window(&mut self, id: InodeId, offset: u64, size: u64) -> Option<u64> {
        if self.random.len() >= MOST_RANDOM && !self.random.contains_key(&id) {
            self.random.clear();
        }
        let random = self.random.entry(id).or_default();
        let sequential = offset == random.end;
        random.end = offset.saturating_add(size);
        if sequential {
            return None;
        }
        random.reads += 1;
        let window = offset / WINDOW;
        let (word, bit) = (usize::try_from(window / 64).ok()?, 1 << (window % 64));
        if word >= MOST_WORDS {
            return None;
        }
        if random.done.len() <= word {
            random.done.resize(word + 1, 0);
        }
        let done = random.done.get_mut(word)?;
        if *done & bit != 0 {
            random.again += 1;
            return None;
        }
        // Where the kernel drops what was read ahead there is no room for it.
        if random.reads < EVIDENCE || random.again > 2 * random.reads / 3 + EVIDENCE {
            return None;
        }
        *done |= bit;
        Some(window)
    }
}

fn read_ahead(file: &OwnedFd, offset: u64, len: u64) {
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), Advice::WillNeed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_ahead_once_two_came_in_order_and_twice_as_many_each_time() {
        let mut state = State::default();
        let places = [(10, 0), (11, 4), (16, 8), (25, 16), (42, 32), (75, 64), (140, 64), (7, 0), (5, 0), (6, 4)];
        for (place, ahead) in places {
            assert_eq!(state.follow(place), ahead, "at {place}");
        }
    }

    #[test]
    fn nothing_is_read_ahead_for_a_while_where_each_file_is_looked_at_first() {
        let mut state = State::default();
        assert_eq!((state.follow(10), state.follow(11)), (0, 4));
        state.last = (12..16).map(InodeId).collect();
        state.looked_at(InodeId(99));
        state.looked_at(InodeId(12));
        assert_eq!(state.follow(16), 8);
        state.looked_at(InodeId(13));
        assert_eq!((state.follow(25), state.follow(26)), (0, 0));
        let later = 26 + PAUSE + MOST_FILES;
        assert_eq!((state.follow(later), state.follow(later + 1)), (0, 4));
    }

    #[test]
    fn windows_are_read_ahead_after_some_random_reads_and_once_each() {
        let mut state = State::default();
        let id = InodeId(7);
        let mut at = |offset| state.window(id, offset, 4096);
        assert!((1..u64::from(EVIDENCE)).all(|i| at(i * 10_000_000).is_none()));
        assert_eq!(at(3 * WINDOW + 5000), Some(3));
        assert_eq!(at(3 * WINDOW + 50_000), None);
        assert_eq!(at(4 * WINDOW), Some(4));
        assert_eq!(at(4 * WINDOW + 4096), None, "sequential");
    }
}
