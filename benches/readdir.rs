//! What listing a directory costs, by the number of names in it and of the lower layers that they are in. Each layer has
//! its share of the names, and one name in ten is in all of them.
//!
//! - `engine-first`, `engine-plus-first`: the names, or names and attributes, over layers that were just opened
//! - `engine-again`: the names once more
//! - `NAME-first`: through a mount that was just made; `NAME-again`: once more. NAME is plyfs, and beside it the kernel's
//!   OverlayFS and fuse-overlayfs where they are
//!
//! `PLYFS_BENCH_SHORT=1` measures little and leaves 100,000 names out (CI); `TMPDIR` says on which file system.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::cell::LazyCell;
use std::fs::{self, File};
use std::hint::black_box;
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use common::engine::Count;
use common::mounts::Peer;
use common::{Layers, is_short};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use plyfs::Union;
use plyfs::union::InodeId;

const LAYERS: [usize; 2] = [1, 4];
const NAMES: [usize; 3] = [20, 1_000, 100_000];

fn make_layers(count: usize, names: usize) -> Layers {
    let layers = Layers::new(count);
    for number in 0..names {
        for level in (0..count).filter(|level| number % 10 == 0 || number % count == *level) {
            File::create(layers.lower(level).join(format!("name-{number:06}"))).expect("create");
        }
    }
    layers
}

fn list_engine(union: &Union, plus: bool) -> usize {
    let mut count = Count::default();
    union.readdir(InodeId::ROOT, 0, plus, &mut count).expect("readdir");
    count.0 - 2
}

fn list(dir: &Path) -> usize {
    fs::read_dir(dir).expect("readdir").count()
}

/// The time of `count` first listings: `open` makes what is listed anew for each.
fn firsts<T>(count: u64, open: impl Fn() -> T, list: impl Fn(&T) -> usize) -> Duration {
    let first = |_| {
        let opened = open();
        let start = Instant::now();
        black_box(list(&opened));
        start.elapsed()
    };
    (0..count).map(first).sum()
}

/// The layers, which the first that is measured makes.
type Lazy<'a> = &'a dyn Deref<Target = Layers>;

fn engine(group: &mut BenchmarkGroup<'_, WallTime>, layers: Lazy<'_>, names: usize) {
    for (id, plus) in [("engine-first", false), ("engine-plus-first", true)] {
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| firsts(count, || layers.read_only(), |union| list_engine(union, plus)));
        });
    }
    group.bench_function("engine-again", |bencher| {
        let union = layers.read_only();
        assert_eq!(list_engine(&union, false), names);
        bencher.iter(|| black_box(list_engine(&union, false)));
    });
}

fn mount(group: &mut BenchmarkGroup<'_, WallTime>, layers: Lazy<'_>, names: usize, peer: &Peer) {
    let open = || {
        layers.empty_upper();
        peer.mount(layers, "").expect("it was mounted before")
    };
    group.bench_function(format!("{}-first", peer.name), |bencher| {
        bencher.iter_custom(|count| firsts(count, open, |mounted| list(mounted.at())));
    });
    group.bench_function(format!("{}-again", peer.name), |bencher| {
        let mounted = open();
        assert_eq!(list(mounted.at()), names);
        bencher.iter(|| black_box(list(mounted.at())));
    });
}

fn readdir(criterion: &mut Criterion) {
    let peers = Peer::available();
    let most = if is_short() { 1_000 } else { usize::MAX };
    for names in NAMES.into_iter().filter(|names| *names <= most) {
        for count in LAYERS {
            let layers = LazyCell::new(|| make_layers(count, names));
            let mut group = criterion.benchmark_group(format!("readdir/{names}-names-{count}-layers"));
            group.throughput(Throughput::Elements(names as u64));
            engine(&mut group, &layers, names);
            peers.iter().for_each(|peer| mount(&mut group, &layers, names, peer));
            group.finish();
        }
    }
}

fn main() {
    common::run(readdir);
}
