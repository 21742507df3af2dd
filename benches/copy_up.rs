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
use criterion::{Criterion, Throughput};
use plyfs::config::Fsync;

const fn full(name: &'static str, size: u64) -> (&'static str, Files) {
    (name, Files { size, data: &[] })
}

const FILES: [(&str, Files); 7] = [
    full("0B", 0),
    full("4KiB", 4 << 10),
    full("64KiB", 64 << 10),
    full("1MiB", 1 << 20),
    full("64MiB", 64 << 20),
    full("1GiB", 1 << 30),
    ("sparse-1GiB", Files { size: 1 << 30, data: &[0, 256 << 20, 1 << 29, (1 << 30) - 4096] }),
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
    for (name, files) in FILES {
        if let Some(why) = unfit(&files) {
            say_skipped(&format!("{name}: {why}"));
            continue;
        }
        let layers = LazyCell::new(|| {
            let layers = Layers::new(1);
            files.make(layers.lower(0));
            layers
        });
        let mut group = criterion.benchmark_group(format!("copy_up/{name}"));
        group.throughput(Throughput::Bytes(files.bytes()));
        for fsync in [Fsync::Auto, Fsync::Volatile] {
            let left_out = |way: &Way| {
                let takes_long = is_short() && !files.data.is_empty();
                way.is_fuse_overlayfs() && (takes_long || fsync != Fsync::Volatile)
            };
            for way in ways.iter().filter(|way| !left_out(way)) {
                measure(&mut group, (&layers, &files), way, Change::Data, fsync);
            }
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = common::criterion();
    copy_up(&mut criterion);
    criterion.final_summary();
}
