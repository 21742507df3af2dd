//! Whether threads get in each other's way: 1 to 8 of them look up names and forget them again, in one directory or each
//! in its own, through the engine. The time is that of one lookup and its forget, all threads together: half of it with
//! twice the threads is no contention at all, as far as there are processors.
//!
//! - `kept`: another lookup holds each inode, as the kernel's cache does
//! - `dropped`: each forget is the last one, so that the inode leaves the table and is made anew
//!
//! No mount and no upper layer. `PLYFS_BENCH_SHORT=1` measures little (CI); `TMPDIR` says on which file system.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::cell::LazyCell;
use std::fs::{self, File};
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use common::Layers;
use common::engine::{name, walk};
use criterion::{BenchmarkId, Criterion};
use plyfs::union::InodeId;
use plyfs::{Name, Union};

const THREADS: [usize; 4] = [1, 2, 4, 8];
const NAMES: usize = 256;
/// Lookups of a thread in one run.
const FEWEST: usize = 2000;

fn file(number: usize) -> String {
    format!("file{number}")
}

fn make_layers() -> Layers {
    let layers = Layers::new(1);
    for dir in 0..THREADS[THREADS.len() - 1] {
        let dir = layers.lower(0).join(format!("dir{dir}"));
        fs::create_dir(&dir).expect("mkdir");
        for number in 0..NAMES {
            File::create(dir.join(file(number))).expect("create");
        }
    }
    layers
}

/// The time of `count` lookups and forgets in all: thread by thread in one of `dirs`, each from another name on.
fn together(union: &Union, dirs: &[InodeId], names: &[Name], count: u64) -> Duration {
    // Fewer would show how threads are started.
    let each = (count as usize).div_ceil(dirs.len()).max(FEWEST);
    let barrier = Barrier::new(dirs.len());
    let run = |dir: InodeId, first: usize| {
        barrier.wait();
        let start = Instant::now();
        for name in names.iter().cycle().skip(first).take(each) {
            let entry = union.lookup(dir, name).expect("lookup").expect("the file");
            union.forget(black_box(entry.id), 1);
        }
        (start, Instant::now())
    };
    let times: Vec<_> = thread::scope(|scope| {
        let start = |(thread, dir): (usize, &InodeId)| {
            let (dir, first, run) = (*dir, thread * NAMES / dirs.len(), &run);
            scope.spawn(move || run(dir, first))
        };
        let threads: Vec<_> = dirs.iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread that ends")).collect()
    });
    // From the first one's start to the last one's end.
    let start = times.iter().map(|(start, _)| *start).min().expect("a thread");
    let end = times.iter().map(|(_, end)| *end).max().expect("a thread");
    (end - start).mul_f64(count as f64 / (each * dirs.len()) as f64)
}

fn inode_table(criterion: &mut Criterion) {
    let layers = LazyCell::new(make_layers);
    let names: Vec<_> = (0..NAMES).map(|number| name(&file(number))).collect();
    for (word, one) in [("one-directory", true), ("own-directories", false)] {
        let mut group = criterion.benchmark_group(format!("inode_table/{word}"));
        for kept in [true, false] {
            for threads in THREADS {
                let id = BenchmarkId::new(if kept { "kept" } else { "dropped" }, threads);
                group.bench_function(id, |bencher| {
                    let union = layers.read_only();
                    let dir = |thread| walk(&union, &[name(&format!("dir{}", if one { 0 } else { thread }))]);
                    let dirs: Vec<_> = (0..threads).map(dir).collect();
                    if kept {
                        dirs.iter().for_each(|dir| hold(&union, *dir, &names));
                    }
                    bencher.iter_custom(|count| together(&union, &dirs, &names, count));
                });
            }
        }
        group.finish();
    }
}

fn hold(union: &Union, dir: InodeId, names: &[Name]) {
    for name in names {
        union.lookup(dir, name).expect("lookup").expect("the file");
    }
}

fn main() {
    common::run(inode_table);
}
