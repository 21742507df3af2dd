//! What the daemon's heap holds for each inode that the kernel knows, and that FORGET gives it back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use plyfs::union::InodeId;
use plyfs::{Name, Union};

/// Bytes that were asked for and not given back.
static ASKED: AtomicIsize = AtomicIsize::new(0);
/// The same as glibc keeps them: 8 bytes more, in multiples of 16.
static KEPT: AtomicIsize = AtomicIsize::new(0);

struct Counting;

fn count(layout: Layout, sign: isize) {
    let size = layout.size();
    let chunk = (size + 8).next_multiple_of(16).max(32);
    ASKED.fetch_add(sign * size.cast_signed(), Relaxed);
    KEPT.fetch_add(sign * chunk.cast_signed(), Relaxed);
}

// SAFETY: each call goes to the system's allocator as it is; beside it, only numbers are added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, 1);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout, -1);
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// The heap is one: a test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Where the heap stands.
#[derive(Debug, Clone, Copy)]
struct Heap {
    asked: isize,
    kept: isize,
}

impl Heap {
    fn now() -> Self {
        Self { asked: ASKED.load(Relaxed), kept: KEPT.load(Relaxed) }
    }

    /// What came on top of it since, in bytes.
    fn more(self) -> Self {
        let now = Self::now();
        Self { asked: now.asked - self.asked, kept: now.kept - self.kept }
    }

    /// Bytes for each of `count` objects whose names have `names` bytes together.
    fn each(self, count: usize, names: usize) -> (isize, isize) {
        let (count, names) = (count.cast_signed(), names.cast_signed());
        ((self.asked - names) / count, (self.kept - names) / count)
    }
}

const DIRS: usize = 200;
const FILES: usize = 100;
/// Heap for one cached file of a lower layer, beside its name.
const MOST: isize = 200;
/// What may stay once all is forgotten: tables and queues that are nearly empty.
const REST: isize = 8 << 10;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn dir_name(dir: usize) -> String {
    format!("directory-{dir:03}")
}

fn file_name(file: usize) -> String {
    format!("file-{file:03}.txt")
}

/// `DIRS` directories of `FILES` files below `base/lower`, and room for an upper layer.
fn layers() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for dir in (0..DIRS).map(|dir| base.path().join("lower").join(dir_name(dir))) {
        fs::create_dir_all(&dir).unwrap();
        for file in 0..FILES {
            fs::write(dir.join(file_name(file)), b"").unwrap();
        }
    }
    fs::create_dir(base.path().join("upper")).unwrap();
    fs::create_dir(base.path().join("work")).unwrap();
    base
}

fn open(base: &Path) -> Union {
    Union::builder().lower(base.join("lower")).upper(base.join("upper"), base.join("work")).build().unwrap()
}

fn look_up(union: &Union, parent: InodeId, text: &str) -> InodeId {
    union.lookup(parent, &name(text)).unwrap().unwrap().id
}

fn look_up_files(union: &Union, dir: InodeId) -> impl Iterator<Item = InodeId> {
    (0..FILES).map(move |file| look_up(union, dir, &file_name(file)))
}

fn forget(union: &Union, ids: Vec<InodeId>) {
    ids.into_iter().for_each(|id| union.forget(id, 1));
}

/// Bytes beside the name for each directory, and for each file when there were so many that it was most.
fn measure(union: &Union) -> [(isize, isize); 2] {
    let (mut dirs, mut files) = (Vec::with_capacity(DIRS), Vec::with_capacity(DIRS * FILES));
    let before = Heap::now();
    dirs.extend((0..DIRS).map(|dir| look_up(union, InodeId::ROOT, &dir_name(dir))));
    let of_dirs = before.more().each(DIRS, DIRS * dir_name(0).len());
    let mut of_files = (0, 0);
    let before = Heap::now();
    for dir in &dirs {
        files.extend(look_up_files(union, *dir));
        // Of few files, the tables' smallest sizes are most.
        if files.len() >= DIRS * FILES / 8 {
            let (asked, kept) = before.more().each(files.len(), files.len() * file_name(0).len());
            of_files = (asked.max(of_files.0), kept.max(of_files.1));
        }
    }
    forget(union, files);
    forget(union, dirs);
    [of_dirs, of_files]
}

#[test]
fn an_inode_costs_little_and_nothing_once_it_is_forgotten() {
    let _alone = ALONE.lock();
    let base = layers();
    let union = open(base.path());
    let empty = Heap::now();
    for _ in 0..3 {
        let [dir, file] = measure(&union);
        let rest = empty.more();
        println!("bytes beside the name, asked for and kept: directory {dir:?}, file {file:?}; left {rest:?}");
        assert!(file.0 <= MOST && file.1 <= MOST, "a file costs {file:?} bytes beside its name");
        assert_eq!(union.live_inodes(), 1);
        assert!(rest.asked <= REST, "{} bytes stay", rest.asked);
    }
}

/// `cargo test --release --test memory -- --ignored --nocapture`: for a comparison of two versions side by side.
#[test]
#[ignore = "a measurement"]
fn the_time_of_a_lookup() {
    let _alone = ALONE.lock();
    let base = layers();
    let union = open(base.path());
    let names: Vec<_> = (0..FILES).map(|file| name(&file_name(file))).collect();
    let (mut cold, mut warm, mut gone) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..20 {
        let dirs: Vec<_> = (0..DIRS).map(|dir| look_up(&union, InodeId::ROOT, &dir_name(dir))).collect();
        let all = || {
            let start = Instant::now();
            let mut ids = Vec::with_capacity(DIRS * FILES);
            for dir in &dirs {
                ids.extend(names.iter().map(|name| union.lookup(*dir, name).unwrap().unwrap().id));
            }
            (start.elapsed(), ids)
        };
        let (time, first) = all();
        cold = cold.min(time);
        let (time, second) = all();
        warm = warm.min(time);
        forget(&union, second);
        let start = Instant::now();
        forget(&union, first);
        gone = gone.min(start.elapsed());
        forget(&union, dirs);
    }
    let each = |time: Duration| time.as_nanos() / (DIRS * FILES) as u128;
    println!("ns: first lookup {}, second {}, last forget {}", each(cold), each(warm), each(gone));
}
