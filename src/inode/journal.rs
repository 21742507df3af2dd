//! What the next daemon must know of the inodes that the kernel holds, written to memory files that a supervisor holds
//! open, too.
//!
//! Two files take turns: when one has grown large, the records that still hold are written to the other. Of two files
//! the one with the higher number at its beginning counts, and that number is written last. So a kill at any instant
//! leaves a file that is whole but for a torn last record.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use smallvec::SmallVec;

use crate::base::sync::Mutex;
use crate::base::{Name, Result};
use crate::format::journal::{Detached, Record};
use crate::merge::Apartness;
use crate::sys::data::{pread_full, pwrite_all, truncate};
use crate::sys::memory::memory_file;
use crate::sys::stat::Kind;

/// What the kernel holds of one inode, and where its object is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its type (`S_IFMT >> 12`).
    pub kind: u8,
    /// The number of lookups that were not forgotten.
    pub lookups: u64,
    /// The names by which it is known, each with the number of its parent.
    pub names: SmallVec<[(u64, Name); 1]>,
    /// Where its object is, if no name leads to it.
    pub detached: Option<Detached>,
    /// The objects of layers (`st_dev`, `st_ino`) that lead to the inode although the layers do not say so.
    pub keys: SmallVec<[(u64, u64); 1]>,
}

impl Node {
    /// A type in the form of [`Node::kind`].
    pub fn kind_of(kind: Kind) -> u8 {
        // The type has four bits.
        u8::try_from(kind.to_mode() >> 12).unwrap_or_default()
    }
}

/// A rename that was about to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The number of the kernel's request.
    pub request: u64,
    /// The number of the inode that was at `from`.
    pub was: u64,
    /// The number of the old parent, and the old name.
    pub from: (u64, Name),
    /// The number of the new parent, and the new name.
    pub to: (u64, Name),
}

/// The journal of one mount.
pub struct Journal {
    state: Mutex<State>,
}

#[derive(Default)]
struct Known {
    init: Option<Vec<u8>>,
    cookies: Option<[u8; 16]>,
    nodes: HashMap<u64, Node>,
    moves: VecDeque<Move>,
    /// By directory and hash of a name: what is known of the name's place, [as a number](Apartness::to_number).
    places: HashMap<u64, BTreeMap<u64, u64>>,
}

struct State {
    files: [OwnedFd; 2],
    /// Which of the two files is written.
    at: usize,
    generation: u64,
    /// The length of that file in bytes.
    len: u64,
    /// The length in bytes at which the records are written anew to the other file.
    enough: u64,
    /// A write has failed: the journal no longer counts.
    broken: bool,
    known: Known,
}

/// Bytes at the start of a file, which hold its generation.
const HEAD: u64 = 8;
/// A file of fewer bytes is not written anew.
const SMALL: u64 = 1 << 20;
/// The renames to remember, more than can be under way at once.
const MOVES: usize = 64;

impl Journal {
    /// Makes the two empty files for [`Journal::open`].
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE` and `ENOMEM`.
    pub fn files() -> Result<[OwnedFd; 2]> {
        Ok([memory_file("plyfs-journal-0")?, memory_file("plyfs-journal-1")?])
    }

    /// Reads what the writer before has left, and goes on there.
    ///
    /// # Errors
    /// What reading the files says.
    pub fn open(files: [OwnedFd; 2]) -> Result<Self> {
        let [first, second] = {
            let [first, second] = &files;
            [generation(first.as_fd())?, generation(second.as_fd())?]
        };
        let at = usize::from(second > first);
        let mut state = State {
            files,
            at,
            generation: first.max(second),
            len: HEAD,
            enough: SMALL,
            broken: false,
            known: Known::default(),
        };
        let bytes = read_all(state.file(at))?;
        let mut rest = bytes.get(HEAD as usize..).unwrap_or_default();
        let whole = rest.len();
        while let Some(record) = Record::decode(&mut rest) {
            state.known.apply(record);
        }
        state.len = HEAD + (whole - rest.len()) as u64;
        if state.generation == 0 {
            state.generation = 1;
            state.start_file(1)?;
        }
        Ok(Self { state: Mutex::new(state) })
    }

    /// The kernel's INIT request, if one was kept.
    pub fn init(&self) -> Option<Vec<u8>> {
        self.state.lock().known.init.clone()
    }

    /// Keeps the kernel's INIT request. From then on another daemon can go on with the mount.
    pub fn set_init(&self, request: Vec<u8>) {
        self.write([Record::Init(request)]);
    }

    /// The key of the directory cookies, if one was kept.
    pub fn cookies(&self) -> Option<[u8; 16]> {
        self.state.lock().known.cookies
    }

    /// All inodes that were live.
    pub fn nodes(&self) -> Vec<(u64, Node)> {
        self.state.lock().known.nodes.iter().map(|(id, node)| (*id, node.clone())).collect()
    }

    /// The names that are not at the place of their hash, or may have to give way: directory, hash, and what is known.
    pub fn places(&self) -> Vec<(u64, u64, Apartness)> {
        let state = self.state.lock();
        let each = |(&id, places): (&u64, &BTreeMap<u64, u64>)| {
            places.iter().map(move |(&hash, &what)| (id, hash, Apartness::from_number(what))).collect::<Vec<_>>()
        };
        state.known.places.iter().flat_map(each).collect()
    }

    /// The last renames that were about to be published, the newest first.
    pub fn moves(&self) -> Vec<Move> {
        self.state.lock().known.moves.iter().rev().cloned().collect()
    }

    /// Writes records down, all of them by one call.
    pub fn write(&self, records: impl IntoIterator<Item = Record>) {
        let mut state = self.state.lock();
        let mut bytes = Vec::new();
        for record in records {
            record.encode(&mut bytes);
            state.known.apply(record);
        }
        state.append(&bytes);
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Journal({} inodes)", self.state.lock().known.nodes.len())
    }
}

impl State {
    fn file(&self, at: usize) -> BorrowedFd<'_> {
        let [first, second] = &self.files;
        if at == 0 { first.as_fd() } else { second.as_fd() }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.broken {
            return;
        }
        let written = pwrite_all(self.file(self.at), bytes, self.len);
        self.len += bytes.len() as u64;
        let written = if written.is_ok() && self.len > self.enough { self.rewrite() } else { written };
        if let Err(errno) = written {
            log::error!("the journal cannot be written, the mount will not outlive this daemon: {errno}");
            self.broken = true;
            for file in &self.files {
                let _ = pwrite_all(file.as_fd(), &0_u64.to_le_bytes(), 0);
            }
        }
    }

    /// Writes the records that still hold to the other file, and goes on there.
    fn rewrite(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        self.known.records(&mut |record| record.encode(&mut bytes));
        let other = 1 - self.at;
        truncate(self.file(other), 0)?;
        pwrite_all(self.file(other), &bytes, HEAD)?;
        let before = std::mem::replace(&mut self.at, other);
        self.len = HEAD + bytes.len() as u64;
        self.enough = SMALL.max(self.len * 4);
        self.start_file(self.generation + 1)?;
        truncate(self.file(before), 0)
    }

    /// Makes the file that is written the one that counts.
    fn start_file(&mut self, generation: u64) -> Result<()> {
        self.generation = generation;
        pwrite_all(self.file(self.at), &generation.to_le_bytes(), 0)
    }
}

impl Known {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Init(bytes) => self.init = Some(bytes),
            Record::Cookies(key) => self.cookies = Some(key),
            Record::Node { id, kind } => {
                self.nodes.insert(id, Node { kind, ..Node::default() });
            }
            Record::Dead { id } => {
                self.nodes.remove(&id);
                self.places.remove(&id);
            }
            Record::Place { id, hash, what: 0 } => {
                if let Some(places) = self.places.get_mut(&id) {
                    places.remove(&hash);
                }
            }
            Record::Place { id, hash, what } => {
                self.places.entry(id).or_default().insert(hash, what);
            }
            Record::Moving { request, was, from, to } => {
                if self.moves.len() >= MOVES {
                    self.moves.pop_front();
                }
                self.moves.push_back(Move { request, was, from, to });
            }
            Record::Named { id, parent, name } => self.node(id, |node| {
                if !node.names.iter().any(|(p, n)| (*p, n) == (parent, &name)) {
                    node.names.push((parent, name));
                }
            }),
            Record::Unnamed { id, parent, name } => {
                self.node(id, |node| node.names.retain(|(p, n)| (*p, &*n) != (parent, &name)));
            }
            Record::Held { id, lookups } => self.node(id, |node| node.lookups = node.lookups.saturating_add(lookups)),
            Record::Forgot { id, lookups } => self.node(id, |node| node.lookups = node.lookups.saturating_sub(lookups)),
            Record::Detached { id, at } => self.node(id, |node| node.detached = Some(at)),
            Record::Key { id, dev, ino } => self.node(id, |node| {
                if !node.keys.contains(&(dev, ino)) {
                    node.keys.push((dev, ino));
                }
            }),
        }
    }

    /// Changes a live node. The root has none, as its inode need not be found again.
    fn node(&mut self, id: u64, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            change(node);
        }
    }

    /// Hands out the records that describe the state now.
    fn records(&self, sink: &mut dyn FnMut(Record)) {
        self.init.iter().for_each(|init| sink(Record::Init(init.clone())));
        self.cookies.iter().for_each(|key| sink(Record::Cookies(*key)));
        for (&id, node) in &self.nodes {
            sink(Record::Node { id, kind: node.kind });
            for (parent, name) in &node.names {
                sink(Record::Named { id, parent: *parent, name: name.clone() });
            }
            if node.lookups > 0 {
                sink(Record::Held { id, lookups: node.lookups });
            }
            node.detached.iter().for_each(|at| sink(Record::Detached { id, at: at.clone() }));
            node.keys.iter().for_each(|&(dev, ino)| sink(Record::Key { id, dev, ino }));
        }
        for (&id, places) in &self.places {
            places.iter().for_each(|(&hash, &what)| sink(Record::Place { id, hash, what }));
        }
        for Move { request, was, from, to } in self.moves.iter().cloned() {
            sink(Record::Moving { request, was, from, to });
        }
    }
}

fn generation(file: BorrowedFd<'_>) -> Result<u64> {
    let mut head = [0; HEAD as usize];
    Ok(if pread_full(file, &mut head, 0)? == head.len() { u64::from_le_bytes(head) } else { 0 })
}

fn read_all(file: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let len = usize::try_from(crate::sys::stat::stat_fd(file)?.size).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    let read = pread_full(file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn again(journal: &Journal) -> Journal {
        let state = journal.state.lock();
        Journal::open(state.files.each_ref().map(|file| file.try_clone().unwrap())).unwrap()
    }

    fn sorted(journal: &Journal) -> Vec<(u64, Node)> {
        let mut nodes = journal.nodes();
        nodes.sort_by_key(|(id, _)| *id);
        nodes
    }

    fn file(journal: &Journal, id: u64, text: &str) {
        let named = Record::Named { id, parent: 1, name: name(text) };
        journal.write([Record::Node { id, kind: 8 }, named, Record::Held { id, lookups: 1 }]);
    }

    #[test]
    fn the_next_daemon_knows_what_the_one_before_wrote() {
        let journal = Journal::open(Journal::files().unwrap()).unwrap();
        assert_eq!((journal.init(), journal.cookies(), journal.nodes()), (None, None, vec![]));
        journal.write([Record::Init(vec![1; 104]), Record::Cookies([3; 16])]);
        for (id, text) in [(2, "a"), (3, "b"), (4, "c")] {
            file(&journal, id, text);
        }
        journal.write([Record::Held { id: 2, lookups: 2 }, Record::Forgot { id: 2, lookups: 1 }]);
        journal.write([
            Record::Named { id: 2, parent: 3, name: name("z") },
            Record::Unnamed { id: 2, parent: 1, name: name("a") },
        ]);
        journal.write([Record::Dead { id: 4 }, Record::Held { id: 4, lookups: 1 }]);
        journal.write([Record::Moving { request: 9, was: 2, from: (1, name("a")), to: (3, name("z")) }]);
        let next = again(&journal);
        assert_eq!(sorted(&next), sorted(&journal));
        assert_eq!((next.init(), next.cookies(), next.moves()), (Some(vec![1; 104]), Some([3; 16]), journal.moves()));
        let nodes = sorted(&next);
        assert_eq!(nodes.iter().map(|(id, node)| (*id, node.lookups)).collect::<Vec<_>>(), [(2, 2), (3, 1)]);
        assert_eq!(nodes[0].1.names.as_slice(), [(3, name("z"))]);
    }

    #[test]
    fn what_a_kill_leaves_of_a_record_is_written_over() {
        let journal = Journal::open(Journal::files().unwrap()).unwrap();
        file(&journal, 2, "a");
        {
            let state = journal.state.lock();
            pwrite_all(state.files[state.at].as_fd(), &[40, 0, 0, 0, 3, 9, 9], state.len).unwrap();
        }
        let next = again(&journal);
        file(&next, 3, "b");
        assert_eq!(sorted(&again(&next)).len(), 2);
    }

    #[test]
    fn a_journal_is_as_long_as_what_it_says_is_much() {
        let journal = Journal::open(Journal::files().unwrap()).unwrap();
        file(&journal, 2, "kept");
        for round in 0..40_000 {
            file(&journal, 3 + round % 7, "comes and goes");
            journal.write([Record::Dead { id: 3 + round % 7 }]);
        }
        let lens: Vec<u64> = {
            let state = journal.state.lock();
            state.files.iter().map(|file| crate::sys::stat::stat_fd(file.as_fd()).unwrap().size).collect()
        };
        assert!(lens.iter().sum::<u64>() < 2 * SMALL, "{lens:?}");
        assert_eq!(sorted(&again(&journal)), sorted(&journal));
        assert_eq!(sorted(&journal).len(), 1);
    }
}
