//! What copy-up costs, by the method and by the upper layer's file system. The engine has no knob for the method: it takes
//! the first that works, so the layers are put where one of them is left.
//!
//! | method | lower layer | upper layer | change |
//! |---|---|---|---|
//! | `reflink` | same file system | xfs, btrfs | a byte is written |
//! | `copy_file_range` | same file system | ext4, xfs without reflinks | a byte is written |
//! | `loop` (read and write) | a tmpfs | each | a byte is written |
//! | `metacopy` | same file system | each | chmod |
//!
//! The names are those of what plyfs does; its peers do on the same layers what they do (for a chmod the kernel's OverlayFS,
//! with `metacopy` off by default, and fuse-overlayfs copy the data, or share its blocks). All with `volatile`.
//!
//! Root makes the file systems: images of 2 GiB on loop devices in memory, one at a time. A normal user measures in
//! `TMPDIR` (whatever the file system there does on the same one), and with the lower layer in `/dev/shm`.
//! `PLYFS_BENCH_SHORT=1` measures little (CI).

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::cell::LazyCell;
use std::path::{Path, PathBuf};

use common::first_change::{Change, Files, Way, measure};
use common::images::{BTRFS, EXT4, Image, Kind, Memory, XFS, XFS_WITHOUT_REFLINKS};
use common::{Layers, is_left_out, is_short, say_skipped};
use criterion::{Criterion, Throughput};
use plyfs::config::Fsync;
use tempfile::TempDir;

/// Bytes.
const SIZES: [u64; 2] = [1 << 20, 64 << 20];
/// Each kind, and how a file is copied within it.
const SYSTEMS: [(Kind, &str); 4] =
    [(EXT4, "copy_file_range"), (XFS, "reflink"), (XFS_WITHOUT_REFLINKS, "copy_file_range"), (BTRFS, "reflink")];
/// The lower files and their copies take 256 MiB each, and what was removed last is freed late.
const IMAGE_MIB: u64 = 2048;

/// Where the upper layer stands.
struct Place {
    system: &'static str,
    /// How a file is copied within it.
    within: &'static str,
    dir: PathBuf,
    _image: Option<Image>,
}

impl Place {
    /// A file system that is made for it; says what is missing.
    fn new((kind, within): (Kind, &'static str)) -> Option<Self> {
        match Image::new(kind, IMAGE_MIB) {
            Ok(image) => Some(Self { system: kind.name, within, dir: image.path().to_owned(), _image: Some(image) }),
            Err(why) => {
                say_skipped(&format!("{}: {why}", kind.name));
                None
            }
        }
    }

    fn here() -> Self {
        Self { system: "TMPDIR", within: "within", dir: std::env::temp_dir(), _image: None }
    }
}

/// A lower layer on a file system that copies to no other one within the kernel.
enum Elsewhere {
    Memory(Memory),
    Shm(TempDir),
}

impl Elsewhere {
    fn new(upper: &Path) -> Option<Self> {
        let why = match Memory::new() {
            Ok(memory) => return Some(Self::Memory(memory)),
            Err(why) => why,
        };
        let system = |path: &Path| rustix::fs::statfs(path).map(|stat| stat.f_type);
        let shm = tempfile::tempdir_in("/dev/shm").ok();
        let other = shm.filter(|shm| system(shm.path()).is_ok_and(|kind| system(upper) != Ok(kind)));
        if other.is_none() {
            say_skipped(&format!("loop: no second file system ({why}; /dev/shm is none)"));
        }
        other.map(Self::Shm)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Memory(memory) => memory.path(),
            Self::Shm(dir) => dir.path(),
        }
    }
}

/// One group, by size. `layers` are made for each size by the first that is measured.
fn measure_method(
    criterion: &mut Criterion,
    (method, place): (&str, &Place),
    (ways, change): (&[Way], Change),
    make: &dyn Fn(&Files) -> Layers,
) {
    let most = if is_short() { 1 << 20 } else { u64::MAX };
    let mut group = criterion.benchmark_group(format!("copy_up_methods/{method}/{}", place.system));
    for size in SIZES.into_iter().filter(|size| *size <= most) {
        let files = Files { size, data: &[] };
        let layers = LazyCell::new(|| make(&files));
        group.throughput(Throughput::Bytes(size));
        for way in ways {
            measure(&mut group, (&layers, &files), way, change, Fsync::Volatile);
        }
    }
    group.finish();
}

fn measure_place(criterion: &mut Criterion, place: &Place, ways: &[Way]) {
    let within = |files: &Files| {
        let layers = Layers::within(&place.dir, 1);
        files.make(layers.lower(0));
        layers
    };
    measure_method(criterion, (place.within, place), (ways, Change::Data), &within);
    measure_method(criterion, ("metacopy", place), (ways, Change::Mode), &within);
    if let Some(elsewhere) = Elsewhere::new(&place.dir) {
        let over = |files: &Files| {
            files.make(elsewhere.path());
            Layers::over(elsewhere.path(), &place.dir)
        };
        measure_method(criterion, ("loop", place), (ways, Change::Data), &over);
    }
}

fn copy_up_methods(criterion: &mut Criterion) {
    let ways = Way::available();
    // One after the other: each takes memory.
    let names = SYSTEMS.map(|(kind, _)| kind.name);
    let made = SYSTEMS.into_iter().filter(|(kind, _)| !is_left_out(kind.name, &names)).filter_map(Place::new);
    let measured = made.map(|place| measure_place(criterion, &place, &ways)).count();
    if measured == 0 {
        measure_place(criterion, &Place::here(), &ways);
    }
}

fn main() {
    common::run(copy_up_methods);
}
