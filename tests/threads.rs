//! The engine in several threads, without a mount: everything at once on a few names, so that they meet. In the end nothing
//! is held that was let go, and the layers opened again show the same.
//!
//! `PLYFS_STRESS_SECONDS` (2 here) makes it longer; `tests/suites/tsan.sh` runs it under ThreadSanitizer.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/engine.rs"]
mod engine;

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Scratch, env_number, within};
use engine::{Counted, Engine, me, name};
use plyfs::Errno;
use plyfs::union::{Entry, InodeId, Make, RenameFlags, SetAttr, WriteHow};

const THREADS: u64 = 6;
const DIRS: [&str; 3] = ["a", "b", "c"];
const NAMES: [&str; 5] = ["one", "two", "three", "d", "e"];

thread_local! {
    /// What a thread does, for the message.
    static DOING: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// What the kernel holds of one lookup, until it is dropped.
struct Held<'a>(&'a Engine, InodeId);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.forget(self.1, 1);
    }
}

fn held(engine: &Engine, entry: Entry) -> Held<'_> {
    Held(engine, entry.id)
}

/// One operation; what it may answer where others change the same names meanwhile.
fn step(engine: &Engine, random: &mut Random) -> Result<(), Errno> {
    let (union, me) = (&engine.0, me());
    let into = |random: &mut Random| -> Result<Held<'_>, Errno> {
        let entry = union.lookup(InodeId::ROOT, &name(DIRS[random.below(DIRS.len())]))?;
        entry.map(|entry| held(engine, entry)).ok_or(Errno::ENOENT)
    };
    let (dir, other) = (into(random)?, into(random)?);
    let (at, to) = (name(NAMES[random.below(NAMES.len())]), name(NAMES[random.below(NAMES.len())]));
    let find = || union.lookup(dir.1, &at)?.map(|entry| held(engine, entry)).ok_or(Errno::ENOENT);
    let action = random.below(12);
    DOING.set(action);
    match action {
        0 => drop(held(engine, union.make(&me, dir.1, &at, Make::File { mode: 0o644 })?)),
        1 => drop(held(engine, union.make(&me, dir.1, &at, Make::Dir { mode: 0o755 })?)),
        2 => union.unlink(&me, dir.1, &at)?,
        3 => union.rmdir(&me, dir.1, &at)?,
        4 => union.rename(&me, dir.1, &at, other.1, &to, RenameFlags::empty())?,
        5 => union.rename(&me, dir.1, &at, other.1, &to, RenameFlags::EXCHANGE)?,
        6 => drop(held(engine, union.link(&me, find()?.1, other.1, &to)?)),
        7 => drop(union.write(&me, find()?.1, 3, b"written", WriteHow::default())?),
        8 => drop(union.setattr(&me, find()?.1, &SetAttr { mode: Some(0o600), ..SetAttr::default() })?),
        9 => drop(union.read(find()?.1, 0, &mut [0; 64])?),
        10 => union.readdir(dir.1, 0, false, &mut Counted::default())?,
        _ => drop(union.getattr(find()?.1)?),
    }
    Ok(())
}

#[test]
fn threads_that_meet_on_a_few_names_leave_what_a_new_union_shows() {
    let seconds = env_number("PLYFS_STRESS_SECONDS", 2);
    within(seconds * 3 + 60, move || {
        let scratch = Scratch::in_memory();
        let base = scratch.path();
        for dir in ["lower/a/d", "lower/b/d", "lower/c/d/e", "upper", "work"] {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        for file in ["lower/a/one", "lower/b/one", "lower/c/two", "lower/a/d/x"] {
            fs::write(base.join(file), file).unwrap();
        }
        fs::hard_link(base.join("lower/a/one"), base.join("lower/c/three")).unwrap();
        let engine = Engine::open(base);
        let (end, done, served) = (Instant::now() + Duration::from_secs(seconds), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (engine, done, served) = (&engine, &done, &served);
                scope.spawn(move || {
                    let mut random = Random(env_number("PLYFS_TEST_SEED", 1) * 0x9e37_79b9 + number + 1);
                    while Instant::now() < end {
                        match step(engine, &mut random) {
                            Ok(()) => served.fetch_add(1, Ordering::Relaxed),
                            Err(
                                Errno::ENOENT
                                | Errno::EEXIST
                                | Errno::ENOTEMPTY
                                | Errno::EISDIR
                                | Errno::ENOTDIR
                                | Errno::EINVAL
                                | Errno::EPERM
                                | Errno::ESTALE,
                            ) => 0,
                            Err(errno) => panic!("{errno:?} of action {}", DOING.get()),
                        };
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        println!("{done:?} operations, {served:?} of them done");
        let live = engine.view().unwrap();
        drop(engine);
        let again = Engine::open(base).view().unwrap();
        assert!(live == again, "live, opened again:{}", live.difference(&again));
    });
}
