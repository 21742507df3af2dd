//! The engine itself under a scheduler that decides at each lock, and at each count of references, which thread goes on:
//! `tests/suites/shuttle.sh`. A deadlock, a lock that is taken against the order of others, and a wrong answer end a run
//! with the schedule that led there. `PLYFS_TEST_CASES` schedules of each model (200).
#![cfg(plyfs_shuttle)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/engine.rs"]
mod engine;

use std::fs;
use std::sync::Arc;

use common::{Scratch, env_number};
use engine::{Engine, me, name};
use plyfs::testing::sync;
use plyfs::union::{InodeId, Make, RenameFlags, SetAttr, WriteHow};
use plyfs::{Errno, Union};
use shuttle::thread;

/// Layers in which there is something of everything.
fn layers(base: &std::path::Path) {
    for dir in ["lower/a/d/x", "lower/b/e", "upper", "work"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    for file in ["lower/f", "lower/one", "lower/a/g", "lower/a/d/h", "lower/b/i"] {
        fs::write(base.join(file), "0123456789").unwrap();
    }
    fs::hard_link(base.join("lower/one"), base.join("lower/two")).unwrap();
}

type Act = fn(&Union);

/// Runs the acts at once, each in a thread of its own, then `after`; many times, each in another order.
fn all_at_once(acts: &'static [Act], after: fn(&Engine)) {
    let model = move || {
        sync::begin();
        let scratch = Scratch::in_memory();
        layers(scratch.path());
        let engine = Arc::new(Engine::open(scratch.path()));
        let run = |act: &'static Act| {
            let engine = engine.clone();
            thread::spawn(move || act(&engine.0))
        };
        let threads: Vec<_> = acts.iter().map(run).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        after(&engine);
        let live = engine.view().unwrap();
        drop(engine);
        let again = Engine::open(scratch.path()).view().unwrap();
        assert!(live == again, "live, opened again:{}", live.difference(&again));
    };
    let cases = usize::try_from(env_number("PLYFS_TEST_CASES", 200)).unwrap();
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    let half = shuttle::scheduler::RandomScheduler::new(cases.div_ceil(2));
    shuttle::Runner::new(half, config.clone()).run(model);
    let half = shuttle::scheduler::PctScheduler::new(3, cases.div_ceil(2));
    shuttle::Runner::new(half, config).run(model);
    println!("{} schedules; locks held together: {:#?}", cases, sync::order_seen());
}

fn find(union: &Union, dir: InodeId, text: &str) -> Option<InodeId> {
    union.lookup(dir, &name(text)).unwrap().map(|entry| entry.id)
}

/// An inode that is held is there, and all who hold it hold the same.
fn holds(union: &Union) {
    for text in ["f", "one", "two", "f"] {
        let Some(id) = find(union, InodeId::ROOT, text) else { continue };
        union.getattr(id).unwrap();
        assert!(union.known(InodeId::ROOT, &name(text)).is_none_or(|known| text != "one" || known == id));
        union.forget(id, 1);
    }
}

fn two_names(union: &Union) {
    let (Some(one), Some(two)) = (find(union, InodeId::ROOT, "one"), find(union, InodeId::ROOT, "two")) else { return };
    assert_eq!(one, two, "names of one file");
    union.forget(one, 1);
    union.forget(two, 1);
}

#[test]
fn lookups_and_forgets_of_the_same_inodes() {
    all_at_once(&[holds, two_names, holds, two_names], |engine| {
        for text in ["f", "one", "two"] {
            assert_eq!(engine.0.known(InodeId::ROOT, &name(text)), None, "{text} is held by nobody");
        }
    });
}

#[test]
fn lookups_and_forgets_while_names_come_and_go() {
    let goes: Act = |union| {
        union.unlink(&me(), InodeId::ROOT, &name("f")).unwrap();
        let made = union.make(&me(), InodeId::ROOT, &name("f"), Make::File { mode: 0o600 }).unwrap();
        union.forget(made.id, 1);
    };
    let links: Act = |union| {
        let one = find(union, InodeId::ROOT, "one").unwrap();
        let made = union.link(&me(), one, InodeId::ROOT, &name("three")).unwrap();
        assert_eq!(made.id, one);
        union.forget(one, 2);
        union.unlink(&me(), InodeId::ROOT, &name("two")).unwrap();
    };
    // Statics, as closures that capture nothing are functions.
    static ACTS: std::sync::OnceLock<Vec<Act>> = std::sync::OnceLock::new();
    all_at_once(ACTS.get_or_init(|| vec![goes, holds, links, holds]), |_| ());
}

fn write_at(union: &Union, text: &str, at: u64, byte: &[u8; 1]) {
    let id = find(union, InodeId::ROOT, text).unwrap();
    let written = union.write(&me(), id, at, byte, WriteHow::default());
    assert_eq!(written, Ok(1), "{text} {id:?}, known as {:?}", union.known(InodeId::ROOT, &name(text)));
    union.forget(id, 1);
}

/// What a reader sees is the lower file with some of the writes.
fn reads(union: &Union) {
    for text in ["f", "one"] {
        let id = find(union, InodeId::ROOT, text).unwrap();
        let mut buffer = [0; 20];
        let len = union.read(id, 0, &mut buffer).unwrap();
        let is_whole =
            buffer[..len].iter().zip(b"0123456789").all(|(byte, lower)| byte == lower || b"abc".contains(byte));
        assert!(len == 10 && is_whole, "{}", buffer[..len].escape_ascii());
        union.forget(id, 1);
    }
}

#[test]
fn a_file_is_copied_up_once_by_several_writers_beside_readers() {
    all_at_once(
        &[
            |union| write_at(union, "f", 1, b"a"),
            |union| write_at(union, "f", 3, b"b"),
            |union| {
                let id = find(union, InodeId::ROOT, "f").unwrap();
                let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
                assert_eq!(union.setattr(&me(), id, &set).unwrap().mode & 0o777, 0o600);
                union.forget(id, 1);
            },
            reads,
        ],
        |engine| assert_eq!(engine.text("f").unwrap(), "0a2b456789"),
    );
}

#[test]
fn a_hard_link_is_copied_up_once_by_its_names() {
    all_at_once(
        &[|union| write_at(union, "one", 1, b"a"), |union| write_at(union, "two", 3, b"b"), reads, two_names],
        |engine| {
            assert_eq!(engine.text("one").unwrap(), "0a2b456789");
            assert_eq!(engine.text("two").unwrap(), "0a2b456789");
        },
    );
}

/// A rename by path, whose directories may be elsewhere by now.
fn renames(union: &Union, from: [&str; 2], to: [&str; 2], flags: RenameFlags) {
    let (Some(dir), Some(into)) = (find(union, InodeId::ROOT, from[0]), find(union, InodeId::ROOT, to[0])) else {
        return;
    };
    match union.rename(&me(), dir, &name(from[1]), into, &name(to[1]), flags) {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EINVAL | Errno::ENOTDIR | Errno::EISDIR) => {}
        Err(errno) => panic!("{from:?} to {to:?}: {errno:?}"),
    }
    union.forget(dir, 1);
    union.forget(into, 1);
}

#[test]
fn renames_that_cross_each_other_neither_wait_for_ever_nor_make_a_loop() {
    all_at_once(
        &[
            |union| renames(union, ["a", "d"], ["b", "e"], RenameFlags::EXCHANGE),
            |union| renames(union, ["b", "e"], ["a", "d"], RenameFlags::empty()),
            |union| renames(union, ["a", "g"], ["b", "i"], RenameFlags::empty()),
            |union| {
                // A directory into another one that may be below it by then.
                let Some(b) = find(union, InodeId::ROOT, "b") else { return };
                let moved = union.rename(&me(), InodeId::ROOT, &name("a"), b, &name("a"), RenameFlags::empty());
                assert!(matches!(moved, Ok(()) | Err(Errno::EINVAL)), "{moved:?}");
                union.forget(b, 1);
            },
        ],
        |_| (),
    );
}

#[test]
fn removals_listings_and_new_names_in_one_directory() {
    all_at_once(
        &[
            |union| {
                let a = find(union, InodeId::ROOT, "a").unwrap();
                let removed = union.unlink(&me(), a, &name("g"));
                assert!(matches!(removed, Ok(()) | Err(Errno::ENOENT)), "{removed:?}");
                union.forget(a, 1);
            },
            |union| renames(union, ["a", "g"], ["a", "k"], RenameFlags::empty()),
            |union| {
                let a = find(union, InodeId::ROOT, "a").unwrap();
                let made = union.make(&me(), a, &name("new"), Make::Dir { mode: 0o755 }).unwrap();
                union.forget(made.id, 1);
                union.rmdir(&me(), a, &name("new")).unwrap();
                union.forget(a, 1);
            },
            |union| {
                let a = find(union, InodeId::ROOT, "a").unwrap();
                let mut all = engine::Counted::default();
                union.readdir(a, 0, false, &mut all).unwrap();
                assert!((3..=6).contains(&all.0), "{}", all.0);
                union.forget(a, 1);
            },
        ],
        |_| (),
    );
}
