//! What copy-up costs, by the size of the file: the first byte written to a lower file, through the engine alone, through
//! a real mount, and beside it on the kernel's OverlayFS (root only) and on each fuse-overlayfs on the PATH, which never
//! syncs and writes the holes of sparse files. Each file is copied up once; its data is in the page cache. How it is
//! copied depends on the file system: see `copy_up_methods`.
//!
//! `PLYFS_BENCH_SHORT=1` measures little and leaves the largest out (CI); `TMPDIR` says on which file system.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::cell::LazyCell;

use common::first_change::{Change, Files, Way, measure};
use common::{Layers, is_short, say_skipped};
use criterion::measurement::WallTime;
use criterion::{AxisScale, BenchmarkGroup, Criterion, PlotConfiguration, Throughput};
use plyfs::config::Fsync;

const fn full(size: u64) -> Files {
    Files { size, data: &[] }
}

const FILES: [Files; 7] = [
    full(0),
    full(4 << 10),
    full(64 << 10),
    full(1 << 20),
    full(64 << 20),
    full(1 << 30),
    Files { size: 1 << 30, data: &[0, 256 << 20, 1 << 29, (1 << 30) - 4096] },
];

/// Why this size is left out.
fn unfit(files: &Files) -> Option<&'static str> {
    let most = if is_short() { 1 << 20 } else { u64::MAX };
    if files.bytes() > most {
        return Some("a short run");
    }
    // The lower files, their copies, and one more for what the file system has not freed yet.
    let needed = 3 * files.size * files.count() as u64;
    let room = rustix::fs::statvfs(std::env::temp_dir()).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    (needed > room).then_some("TMPDIR has no room for it")
}

fn copy_up(criterion: &mut Criterion) {
    let ways = Way::available();
    // One group, so that its plot shows the cost by size; the sparse file has one of its own.
    for (group, is_sparse) in [("copy_up", false), ("copy_up_sparse", true)] {
        let mut group = criterion.benchmark_group(group);
        group.plot_config(PlotConfiguration::default().summary_scale(AxisScale::Logarithmic));
        for files in FILES.iter().filter(|files| files.data.is_empty() != is_sparse) {
            measure_size(&mut group, files, &ways);
        }
        group.finish();
    }
}

fn measure_size(group: &mut BenchmarkGroup<'_, WallTime>, files: &Files, ways: &[Way]) {
    if let Some(why) = unfit(files) {
        return say_skipped(&format!("{} bytes: {why}", files.size));
    }
    let layers = LazyCell::new(|| {
        let layers = Layers::new(1);
        files.make(layers.lower(0));
        layers
    });
    group.throughput(Throughput::Bytes(files.bytes()));
    for fsync in [Fsync::Auto, Fsync::Volatile] {
        let left_out = |way: &Way| {
            let takes_long = is_short() && !files.data.is_empty();
            way.is_fuse_overlayfs() && (takes_long || fsync != Fsync::Volatile)
        };
        for way in ways.iter().filter(|way| !left_out(way)) {
            measure(group, (&layers, files), way, Change::Data, fsync);
        }
    }
}

fn main() {
    common::run(copy_up);
}
