//! Directories of very many names: listed a window at a time, and emptied while they are listed.

use std::collections::{BTreeSet, HashSet};
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::process::Command;
use std::time::{Duration, Instant};

use plyfs::config::{Config, UpperDirs};
use plyfs::union::{Caller, DirSink, InodeId, ListedEntry, Make};
use plyfs::{Name, Union};
use rustix::fs::{self as sys, AtFlags, Mode, OFlags, RawDir};

use crate::common::*;
use crate::{processor_time, scale, status_of};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// As many entries as one reply takes.
struct Reply {
    names: Vec<(String, u64)>,
    room: usize,
}

impl DirSink for Reply {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        if self.names.len() == self.room {
            return false;
        }
        self.names.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.cookie));
        true
    }
}

/// A walk through a directory, a reply at a time.
struct Walk<'a> {
    union: &'a Union,
    dir: InodeId,
    room: usize,
    cookie: u64,
    seen: Vec<String>,
}

impl<'a> Walk<'a> {
    fn new(union: &'a Union, dir: InodeId, room: usize) -> Self {
        Walk { union, dir, room, cookie: 0, seen: Vec::new() }
    }

    /// The next names; none at the end.
    fn next(&mut self) -> Vec<String> {
        let mut reply = Reply { names: Vec::new(), room: self.room };
        self.union.readdir(self.dir, self.cookie, false, &mut reply).unwrap();
        if let Some((_, cookie)) = reply.names.last() {
            self.cookie = *cookie;
        }
        let names: Vec<String> = reply.names.into_iter().map(|(name, _)| name).collect();
        self.seen.extend(names.iter().cloned());
        names
    }

    fn rest(mut self) -> Vec<String> {
        while !self.next().is_empty() {}
        self.seen
    }
}

/// Layers with these names in `d`: in the upper, in the lower, and whiteouts in the upper.
fn union(at_once: usize, lower: &[String], upper: &[String]) -> (Scratch, Union, InodeId) {
    let scratch = Scratch::in_memory();
    for (layer, names) in [("lower", lower), ("upper", upper)] {
        let dir = scratch.dir(&format!("{layer}/d"));
        names.iter().for_each(|name| std::fs::write(dir.join(name), "").unwrap());
    }
    let config = Config {
        lowers: vec![scratch.path().join("lower")],
        upper: Some(UpperDirs { dir: scratch.path().join("upper"), work: scratch.dir("work") }),
        names_at_once: Some(at_once),
        ..Config::default()
    };
    let union = Union::open(config).unwrap();
    let dir = union.lookup(InodeId::ROOT, &name("d")).unwrap().unwrap().id;
    (scratch, union, dir)
}

fn numbered(word: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{word}{number}")).collect()
}

/// Three walks at once in replies of odd sizes, while names go, come and come back: what stays is seen exactly once by each,
/// nothing twice, and a new walk sees what there is.
#[test]
fn names_that_stay_are_seen_once_through_every_window() {
    for at_once in [1, 7, 50, 10_000] {
        let (lower, upper) = (numbered("low", 300), numbered("up", 100));
        let (_scratch, union, dir) = union(at_once, &lower, &upper);
        let me = Caller::this_process();
        let mut walks = [3, 17, 64].map(|room| Walk::new(&union, dir, room));
        let mut there: BTreeSet<String> = lower.iter().chain(&upper).cloned().collect();
        let mut changed = BTreeSet::new();
        for round in 0..150 {
            for walk in &mut walks {
                walk.next();
            }
            let (gone, new) = (format!("low{}", round * 2), format!("new{round}"));
            union.unlink(&me, dir, &name(&gone)).unwrap();
            union.make(&me, dir, &name(&new), Make::File { mode: 0o644 }).unwrap();
            there.remove(&gone);
            there.insert(new.clone());
            changed.extend([gone.clone(), new]);
            if round % 3 == 0 {
                union.make(&me, dir, &name(&gone), Make::File { mode: 0o644 }).unwrap();
                there.insert(gone);
            }
        }
        for walk in walks {
            let case = format!("{at_once} at once, replies of {}", walk.room);
            let seen = walk.rest();
            let once: HashSet<&String> = seen.iter().collect();
            assert_eq!(once.len(), seen.len(), "{case}: something twice");
            for name in there.difference(&changed) {
                assert!(once.contains(name), "{case}: {name} was not seen");
            }
        }
        let now: BTreeSet<String> = Walk::new(&union, dir, 33).rest().into_iter().collect();
        let want: BTreeSet<String> = there.into_iter().chain([".".into(), "..".into()]).collect();
        assert_eq!(now, want, "{at_once} at once");
    }
}

/// A walk that begins anew after each few removals, and one that goes on: in both all is gone in the end.
#[test]
fn a_directory_is_emptied_through_every_window() {
    for (at_once, anew) in [(1, false), (10, true), (10, false), (64, true)] {
        let (_scratch, union, dir) = union(at_once, &numbered("low", 200), &numbered("up", 100));
        let me = Caller::this_process();
        let mut walk = Walk::new(&union, dir, 13);
        let mut removed = 0;
        loop {
            let names: Vec<String> = walk.next().into_iter().filter(|name| !name.starts_with('.')).collect();
            if names.is_empty() {
                break;
            }
            for gone in names {
                union.unlink(&me, dir, &name(&gone)).unwrap();
                removed += 1;
            }
            if anew {
                walk = Walk::new(&union, dir, 13);
            }
        }
        assert_eq!(removed, 300, "{at_once} at once, anew: {anew}");
        union.rmdir(&me, InodeId::ROOT, &name("d")).unwrap();
    }
}

/// A directory is empty when whiteouts hide all of it, however many windows that takes, and not before.
#[test]
fn the_last_name_in_any_window_keeps_its_directory() {
    for at_once in [1, 16, 1000] {
        let lower = numbered("low", 120);
        let (_scratch, union, dir) = union(at_once, &lower, &[]);
        let me = Caller::this_process();
        for gone in &lower {
            assert_eq!(union.rmdir(&me, InodeId::ROOT, &name("d")), Err(plyfs::Errno::ENOTEMPTY), "{gone} is there");
            union.unlink(&me, dir, &name(gone)).unwrap();
        }
        union.rmdir(&me, InodeId::ROOT, &name("d")).unwrap();
    }
}

/// Empty files in a directory of a layer.
fn fill(dir: &std::path::Path, count: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let fd = sys::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for number in 0..count {
        let name = format!("file-{number:07}.txt");
        sys::openat(&fd, name, OFlags::CREATE | OFlags::WRONLY, Mode::from(0o644)).unwrap();
    }
}

/// How a directory is emptied.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// `rm -rf`, which reads much before it removes.
    Rm,
    /// Each name is removed as soon as it is read.
    AsRead,
}

fn empty(dir: &std::path::Path, way: Way) {
    match way {
        Way::Rm => assert!(Command::new("rm").arg("-rf").arg(dir).status().unwrap().success()),
        Way::AsRead => {
            let fd = sys::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut names = RawDir::new(&fd, &mut buffer);
            while let Some(entry) = names.next() {
                let name = CString::from(entry.unwrap().file_name());
                if !name.to_bytes().starts_with(b".") {
                    sys::unlinkat(&fd, &name, AtFlags::empty()).unwrap();
                }
            }
            std::fs::remove_dir(dir).unwrap();
        }
    }
}

/// Lists and empties directories of one, two and four times so many files; what each costs for a file.
#[test]
fn a_large_directory_is_listed_and_emptied_in_linear_time_and_little_memory() {
    within(1200, || {
        let unit = 5000 * scale() as usize;
        let mut each: Vec<[Duration; 3]> = Vec::new();
        for count in [unit, 2 * unit, 4 * unit] {
            let stack = crate::stack(1);
            for dir in ["list", "rm", "read"] {
                fill(&stack.lowers[0].at(dir), count);
            }
            let mount = stack.mount();
            let before = status_of(&mount, "VmHWM");
            let (start, used) = (Instant::now(), processor_time(&mount));
            let mut took = Vec::new();
            let mut costs = [Duration::ZERO; 3];
            let mut step = |at: usize| {
                let sum: Duration = costs.iter().sum();
                costs[at] = processor_time(&mount).saturating_sub(used + sum);
                took.push(start.elapsed());
            };
            assert_eq!(std::fs::read_dir(mount.at("list")).unwrap().count(), count);
            step(0);
            let peak = status_of(&mount, "VmHWM") - before;
            for (at, (dir, way)) in [("rm", Way::Rm), ("read", Way::AsRead)].into_iter().enumerate() {
                empty(&mount.at(dir), way);
                step(at + 1);
                assert!(!mount.has(dir) && stack.upper().is_whiteout(dir), "{way:?}");
                assert!(stack.lowers[0].has(format!("{dir}/file-0000000.txt")));
            }
            println!(
                "{count} names, the daemon's processor time: listed {:?} (peak {peak} KiB more), rm -rf {:?}, removed as \
                 read {:?}; peak {} KiB; by the clock {took:?}",
                costs[0],
                costs[1],
                costs[2],
                status_of(&mount, "VmHWM") - before,
            );
            assert!(peak < 24 << 10, "listing {count} names took {peak} KiB");
            each.push(costs.map(|cost| cost / u32::try_from(count).unwrap()));
        }
        for at in 1..3 {
            // A quadratic walk would take four times as long for each.
            assert!(each[2][at] < 2 * each[0][at] + Duration::from_micros(30), "not linear: {each:?}");
        }
    });
}

/// The 31 bits of a hash that an offset has are the same for some of so many names: fifteen pairs are to be expected. Each name
/// has an offset of its own all the same, and keeps it when the directory is read again in other pieces, while names come.
#[test]
fn names_of_one_hash_have_an_offset_each_and_keep_it() {
    let lower = numbered("name", 250_000);
    let (_scratch, union, dir) = union(1 << 15, &lower, &[]);
    let me = Caller::this_process();
    let offsets = |room: usize| {
        let (mut all, mut cookie) = (Vec::new(), 0);
        loop {
            let mut reply = Reply { names: Vec::new(), room };
            union.readdir(dir, cookie, false, &mut reply).unwrap();
            let Some((_, last)) = reply.names.last() else { return all };
            cookie = *last;
            all.append(&mut reply.names);
        }
    };
    let first = offsets(1000);
    assert!(first.is_sorted_by(|a, b| a.1 < b.1) && first.iter().all(|(_, offset)| *offset <= i32::MAX as u64));
    assert_eq!(first.len(), lower.len() + 2);
    // Behind the first name of each such pair, and of those that are as close by chance, the directory is read again.
    let pairs = first.windows(2).filter(|pair| pair[1].1 - pair[0].1 == 1);
    let behind: HashSet<&String> = pairs.map(|pair| &pair[0].0).collect();
    assert!(behind.len() >= 15, "{}", behind.len());
    let mut walks = [1, 3000].map(|room| Walk::new(&union, dir, room));
    let mut new = 0;
    while !walks[0].next().is_empty() {
        if walks[0].seen.len() % 2500 == 0 || walks[0].seen.last().is_some_and(|name| behind.contains(name)) {
            walks[1].next();
            for _ in 0..14 {
                new += 1;
                union.make(&me, dir, &name(&format!("new{new}")), Make::File { mode: 0o644 }).unwrap();
            }
        }
    }
    for walk in walks {
        let seen = walk.rest();
        let old: HashSet<&String> = seen.iter().filter(|name| name.starts_with("name")).collect();
        assert_eq!(old.len(), lower.len());
        assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len(), "a name twice");
    }
    let again = offsets(777);
    assert!(again.is_sorted_by(|a, b| a.1 < b.1));
    let kept = again.into_iter().filter(|(name, _)| !name.starts_with("new")).collect::<Vec<_>>();
    assert!(kept == first, "an offset changed");
}
