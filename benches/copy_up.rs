//! What copy-up costs: the first byte written to a lower file, through the engine alone, through a real mount, and on the
//! kernel's OverlayFS beside it. Each iteration copies a file up that nobody has touched.
//!
//! `PLYFS_BENCH_SHORT=1` measures little (CI); `TMPDIR` says on which file system.

#![allow(clippy::expect_used)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Mounted;
use criterion::{BenchmarkId, Criterion, Throughput};
use plyfs::base::config::{Config, Fsync, UpperDirs};
use plyfs::union::{Caller, InodeId, WriteHow};
use plyfs::{Name, Union};
use tempfile::TempDir;

/// Name, apparent size, and the offsets at which 4 KiB of data stand (none: all of it is data).
const FILES: [(&str, u64, &[u64]); 4] = [
    ("4KiB", 4 << 10, &[]),
    ("1MiB", 1 << 20, &[]),
    ("64MiB", 64 << 20, &[]),
    ("sparse-1GiB", 1 << 30, &[0, 256 << 20, 1 << 29, (1 << 30) - 4096]),
];

/// Files copied up before the layers are made anew.
const BATCH: usize = 8;

struct Layers {
    dir: TempDir,
}

impl Layers {
    fn new(size: u64, data: &[u64]) -> Self {
        let dir = tempfile::tempdir().expect("a directory in TMPDIR");
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        let layers = Self { dir };
        for i in 0..BATCH {
            let file = File::create(layers.path("lower").join(format!("f{i}"))).expect("create");
            file.set_len(size).expect("truncate");
            if data.is_empty() {
                let block = vec![0x5a; 1 << 20];
                let mut rest = size;
                while rest > 0 {
                    let step = rest.min(block.len() as u64) as usize;
                    (&file).write_all(&block[..step]).expect("write");
                    rest -= step as u64;
                }
            }
            for at in data {
                file.write_all_at(&[0x5a; 4096], *at).expect("write");
            }
            file.sync_all().expect("sync");
        }
        layers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self, more: &str) -> String {
        let path = |name| self.path(name).display().to_string();
        format!("lowerdir={},upperdir={},workdir={}{more}", path("lower"), path("upper"), path("work"))
    }
}

/// Who copies up.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Engine,
    /// The engine with `copyup_block=64K`.
    Blocks,
    Mount,
    Kernel,
}

fn mount(way: Way, layers: &Layers, volatile: bool) -> Option<Mounted> {
    let (at, options) = (layers.path("merged"), layers.options(if volatile { ",volatile" } else { "" }));
    if way == Way::Kernel { Mounted::kernel(&options, &at) } else { Mounted::plyfs(&options, &at) }
}

/// The time of `count` copy-ups of fresh files.
fn copy_ups(way: Way, volatile: bool, size: u64, data: &[u64], count: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count as usize;
    while left > 0 {
        let (layers, batch) = (Layers::new(size, data), left.min(BATCH));
        left -= batch;
        spent += if matches!(way, Way::Engine | Way::Blocks) {
            engine_batch(&layers, volatile, (way == Way::Blocks).then_some(16), batch)
        } else {
            let mounted = mount(way, &layers, volatile).expect("it was mounted before");
            mount_batch(mounted.at(), batch)
        };
    }
    spent
}

fn mount_batch(merged: &Path, batch: usize) -> Duration {
    let files: Vec<_> = (0..batch).map(|i| merged.join(format!("f{i}"))).collect();
    for path in &files {
        black_box(fs::metadata(path).expect("stat"));
    }
    let start = Instant::now();
    for path in &files {
        let file = File::options().write(true).open(path).expect("open");
        file.write_all_at(b"x", 0).expect("write");
    }
    start.elapsed()
}

fn engine_batch(layers: &Layers, volatile: bool, copyup_block: Option<u8>, batch: usize) -> Duration {
    let fsync = if volatile { Fsync::Volatile } else { Fsync::Auto };
    let upper = UpperDirs { dir: layers.path("upper"), work: layers.path("work") };
    let lowers = vec![layers.path("lower")];
    let config = Config { lowers, upper: Some(upper), fsync, copyup_block, ..Config::default() };
    let union = Union::open(config).expect("layers that were just made");
    let caller = Caller::this_process();
    let ids: Vec<_> = (0..batch)
        .map(|i| {
            let name = Name::new(format!("f{i}").as_bytes()).expect("a name");
            union.lookup(InodeId::ROOT, &name).expect("lookup").expect("the file").id
        })
        .collect();
    let start = Instant::now();
    for id in ids {
        union.write(&caller, id, 0, b"x", WriteHow::default()).expect("write");
    }
    start.elapsed()
}

fn copy_up(criterion: &mut Criterion) {
    let short = std::env::var_os("PLYFS_BENCH_SHORT").is_some();
    let ways = [
        (Way::Engine, "engine"),
        (Way::Blocks, "engine-blocks"),
        (Way::Mount, "mount"),
        (Way::Kernel, "kernel-overlayfs"),
    ];
    let available: Vec<_> = ways
        .into_iter()
        .filter(|(way, name)| {
            let there = matches!(way, Way::Engine | Way::Blocks) || mount(*way, &Layers::new(0, &[]), false).is_some();
            if !there {
                eprintln!("SKIPPED: {name}: it cannot be mounted here (root, or fusermount3 for the mount)");
            }
            there
        })
        .collect();
    for (file, size, data) in FILES {
        let mut group = criterion.benchmark_group(format!("copy_up/{file}"));
        let bytes = if data.is_empty() { size } else { data.len() as u64 * 4096 };
        group.throughput(Throughput::Bytes(bytes)).sample_size(10);
        group.warm_up_time(Duration::from_millis(if short { 50 } else { 500 }));
        group.measurement_time(Duration::from_millis(if short { 200 } else { 5000 }));
        for volatile in [false, true] {
            for (way, name) in &available {
                let id = BenchmarkId::new(*name, if volatile { "volatile" } else { "synced" });
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|count| copy_ups(*way, volatile, size, data, count));
                });
            }
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    copy_up(&mut criterion);
    criterion.final_summary();
}
