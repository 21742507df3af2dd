//! What looking up a path costs in the engine, by the number of lower layers and the depth of the path. Each directory of
//! the path is in all layers, and the file in the lowest: as long as a search can be. The time is that of the whole path.
//!
//! - `hit-first`, `miss-first`: over layers that were just opened, so that nothing is known of any name
//! - `hit-again`, `miss-again`: the same path once more
//! - `miss-new-name`: another name that is not there, in a directory that is known; the kernel asks each layer's file
//!   system, while of names that were missed before its cache of names knows
//!
//! No mount and no upper layer. `PLYFS_BENCH_SHORT=1` measures little and leaves 500 layers out (CI);
//! `TMPDIR` says on which file system.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::cell::LazyCell;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use common::engine::{name, walk};
use common::{Layers, is_short};
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion};
use plyfs::{Name, Union};

const LAYERS: [usize; 4] = [1, 16, 128, 500];
/// Names in the path, the file's own included.
const DEPTHS: [usize; 3] = [1, 4, 8];

/// The directories of all layers, one below the other.
fn directories(depth: usize) -> Vec<Name> {
    (1..depth).map(|level| name(&format!("dir{level}"))).collect()
}

fn make_layers(count: usize) -> Layers {
    let layers = Layers::new(count);
    for level in 0..count {
        let mut dir = layers.lower(level).to_owned();
        for depth in DEPTHS[0]..=DEPTHS[DEPTHS.len() - 1] {
            if level + 1 == count {
                fs::write(dir.join("file"), "content").expect("write");
            }
            dir.push(format!("dir{depth}"));
            fs::create_dir(&dir).expect("mkdir");
        }
    }
    layers
}

/// Looks up the whole path; true where there is something.
fn path(union: &Union, directories: &[Name], last: &Name) -> bool {
    let dir = walk(union, directories);
    union.lookup(dir, last).expect("lookup").is_some()
}

/// The time of `count` first visits, each over layers that were just opened.
fn first_visits(layers: &Layers, directories: &[Name], last: &Name, count: u64) -> Duration {
    let visit = |_| {
        let union = layers.read_only();
        let start = Instant::now();
        black_box(path(&union, directories, last));
        start.elapsed()
    };
    (0..count).map(visit).sum()
}

#[derive(Clone, Copy)]
enum Visit {
    First,
    Again,
    NewName,
}

const CASES: [(&str, Visit, &str); 5] = [
    ("hit-first", Visit::First, "file"),
    ("hit-again", Visit::Again, "file"),
    ("miss-first", Visit::First, "missing"),
    ("miss-again", Visit::Again, "missing"),
    ("miss-new-name", Visit::NewName, "missing"),
];

fn measure(bencher: &mut Bencher<'_>, layers: &Layers, depth: usize, visit: Visit, last: &str) {
    let (directories, is_there) = (directories(depth), last == "file");
    let last = name(last);
    let union = layers.read_only();
    assert_eq!(path(&union, &directories, &last), is_there);
    match visit {
        Visit::First => bencher.iter_custom(|count| first_visits(layers, &directories, &last, count)),
        Visit::Again => bencher.iter(|| black_box(path(&union, &directories, &last))),
        Visit::NewName => {
            let mut number = 0_u64;
            let next = || {
                number += 1;
                name(&format!("missing{number}"))
            };
            bencher.iter_batched(next, |last| black_box(path(&union, &directories, &last)), BatchSize::SmallInput);
        }
    }
}

fn lookup(criterion: &mut Criterion) {
    let most = if is_short() { 128 } else { usize::MAX };
    // Made by the first that is measured.
    let lazy = |count| (count, LazyCell::new(move || make_layers(count)));
    let layers: Vec<_> = LAYERS.into_iter().filter(|count| *count <= most).map(lazy).collect();
    for (case, visit, last) in CASES {
        let mut group = criterion.benchmark_group(format!("lookup/{case}"));
        for (count, layers) in &layers {
            for depth in DEPTHS {
                let id = BenchmarkId::new(format!("{count}-layers"), depth);
                group.bench_function(id, |bencher| measure(bencher, layers, depth, visit, last));
            }
        }
        group.finish();
    }
}

fn main() {
    common::run(lookup);
}
