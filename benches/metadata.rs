//! What changes of metadata cost that need no copy of the data: `chmod -R` over files of a lower layer (`metacopy`), and
//! `mv` of a directory of one (`redirect_dir`), each beside the kernel's OverlayFS, synced and volatile.
//!
//! `PLYFS_BENCH_SHORT=1` takes small layers (CI); `TMPDIR` says on which file system. Fails where plyfs copies data.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use common::Mounted;
use rustix::fs::{SeekFrom, seek};
use tempfile::TempDir;

/// The size of each file that is chmodded.
const SIZE: usize = 64 << 10;
/// As many in one directory.
const TOGETHER: usize = 100;
/// A rename is measured so many times, each on a fresh upper layer.
const ROUNDS: usize = 5;

/// Who changes, and what it is mounted with.
struct Way {
    name: &'static str,
    kernel: bool,
    options: &'static str,
}

const fn way(name: &'static str, options: &'static str) -> Way {
    Way { name, kernel: false, options }
}

const fn kernel(name: &'static str, options: &'static str) -> Way {
    Way { name, kernel: true, options }
}

/// The first one is what the others are compared with.
const CHMOD: [Way; 4] = [
    kernel("kernel metacopy=off", ",metacopy=off,redirect_dir=on"),
    kernel("kernel metacopy=on", ",metacopy=on,redirect_dir=on"),
    way("plyfs metacopy=off", ",metacopy=off"),
    way("plyfs", ",metacopy=on"),
];
const RENAME: [Way; 2] = [kernel("kernel redirect_dir=on", ",redirect_dir=on"), way("plyfs", ",redirect_dir=on")];

/// A lower layer for all, and upper layers one after the other.
struct Layers {
    dir: TempDir,
}

impl Layers {
    fn new() -> Self {
        let layers = Self { dir: tempfile::tempdir().expect("a directory in TMPDIR") };
        ["lower", "merged"].iter().for_each(|name| fs::create_dir(layers.path(name)).expect("mkdir"));
        layers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Mounted over a fresh upper layer, with everything before on disk.
    fn mount(&self, way: &Way, volatile: bool) -> Option<Mounted> {
        for name in ["upper", "work"] {
            let _ = fs::remove_dir_all(self.path(name));
            fs::create_dir(self.path(name)).expect("mkdir");
        }
        rustix::fs::sync();
        let path = |name| self.path(name).display().to_string();
        let layers = format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
        let options = format!("{layers}{}{}", way.options, if volatile { ",volatile" } else { "" });
        let at = self.path("merged");
        if way.kernel { Mounted::kernel(&options, &at) } else { Mounted::plyfs(&options, &at) }
    }

    /// Whether it can be mounted here; says why not.
    fn offers(&self, way: &Way) -> bool {
        let there = self.mount(way, false).is_some();
        if !there {
            let lacks = if way.kernel { "root is needed" } else { "an option or fusermount3 is not there yet" };
            eprintln!("SKIPPED: {}: it cannot be mounted here ({lacks})", way.name);
        }
        there
    }
}

/// Of all files below `dir`: bytes of data, and bytes on disk. On ext4 the latter count a block for the attributes, too.
fn stored(dir: &Path) -> [u64; 2] {
    let of = |entry: fs::DirEntry| {
        let meta = entry.metadata().expect("stat");
        match (meta.is_dir(), meta.is_file()) {
            (true, _) => stored(&entry.path()),
            (_, true) => [data(&entry.path()), meta.blocks() * 512],
            _ => [0; 2],
        }
    };
    let entries = fs::read_dir(dir).expect("readdir").map(|entry| of(entry.expect("readdir")));
    entries.fold([0; 2], |sum, each| [sum[0] + each[0], sum[1] + each[1]])
}

/// The bytes of a file that are no holes.
fn data(path: &Path) -> u64 {
    let file = fs::File::open(path).expect("open");
    let (mut bytes, mut at) = (0, 0);
    while let Ok(start) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(start)).expect("lseek");
        bytes += at - start;
    }
    bytes
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// A time as a multiple of the one that all are compared with.
fn ratio(time: Duration, base: Option<Duration>) -> String {
    base.map_or_else(|| "-".into(), |base| format!("x{:.2}", time.as_secs_f64() / base.as_secs_f64()))
}

/// `chmod -R` over `count` files; false where plyfs has copied data that it need not.
fn chmod(count: usize) -> bool {
    let layers = Layers::new();
    let content = vec![0x5a; SIZE];
    for file in 0..count {
        let dir = layers.path("lower").join(format!("tree/{}", file / TOGETHER));
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join(file.to_string()), &content).expect("write");
    }
    println!("\n`chmod -R` over {count} files of {} KiB:\n", SIZE >> 10);
    println!("| | synced | | volatile | | data in the upper layer | on disk |\n|---|---|---|---|---|---|---|");
    let (mut base, mut good) = ([None; 2], true);
    for way in CHMOD.iter().filter(|way| layers.offers(way)) {
        let (mut cells, mut upper) = (String::new(), [0; 2]);
        for (base, volatile) in base.iter_mut().zip([false, true]) {
            let mounted = layers.mount(way, volatile).expect("it was mounted before");
            let start = Instant::now();
            let done = Command::new("chmod").args(["-R", "go-w,a+r,u+x"]).arg(mounted.at().join("tree")).status();
            let time = start.elapsed();
            assert!(done.is_ok_and(|status| status.success()), "chmod -R");
            drop(mounted);
            rustix::fs::sync();
            upper = stored(&layers.path("upper"));
            let base = if way.kernel { *base.get_or_insert(time) } else { base.unwrap_or(time) };
            cells += &format!(" {} | {} |", millis(time), ratio(time, Some(base)));
        }
        let [copied, on_disk] = upper;
        println!("| {} |{cells} {} KiB | {} KiB |", way.name, copied >> 10, on_disk >> 10);
        good &= way.kernel || way.options.contains("off") || copied == 0;
    }
    good
}

/// `mv` of a directory with `count` files, and of one with one file.
fn rename(count: usize) {
    let layers = Layers::new();
    for (dir, count) in [("few", 1), ("many", count)] {
        let dir = layers.path("lower").join(dir);
        fs::create_dir(&dir).expect("mkdir");
        (0..count).for_each(|file| fs::write(dir.join(file.to_string()), "").expect("write"));
    }
    println!("\n`mv` of a directory with 1 and with {count} files, medians of {ROUNDS}:\n");
    println!("| | synced: 1 | | {count} | | volatile: 1 | | {count} | |\n|---|---|---|---|---|---|---|---|---|");
    let mut base = [None; 4];
    for way in RENAME.iter().filter(|way| layers.offers(way)) {
        let mut cells = String::new();
        for (volatile, base) in [false, true].into_iter().zip(base.chunks_exact_mut(2)) {
            for (dir, base) in ["few", "many"].into_iter().zip(base) {
                let time = median(|| {
                    let mounted = layers.mount(way, volatile).expect("it was mounted before");
                    let start = Instant::now();
                    fs::rename(mounted.at().join(dir), mounted.at().join("moved")).expect("rename");
                    start.elapsed()
                });
                let base = *base.get_or_insert(time);
                cells += &format!(" {} | {} |", millis(time), ratio(time, Some(base)));
            }
        }
        println!("| {} |{cells}", way.name);
    }
}

fn median(mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    times.sort();
    times[ROUNDS / 2]
}

fn main() -> ExitCode {
    let short = std::env::var_os("PLYFS_BENCH_SHORT").is_some();
    let good = chmod(if short { 500 } else { 10_000 });
    rename(if short { 5_000 } else { 100_000 });
    if !good {
        eprintln!("FAILED: plyfs copies data to change metadata");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
