//! What single requests of a program cost on a real mount: plyfs, and beside it the kernel's OverlayFS (root only) and each
//! fuse-overlayfs on the PATH.
//!
//! One lower layer with files of 4 KiB. "cold": the first time on a fresh mount, so that the request is served; the lower
//! file itself is in the page cache. "warm": once more, so that the kernel answers what it may keep. Changes are those of
//! lower files that were looked at before, each the file's first one, with `volatile`: nobody syncs. (What the syncing
//! costs is measured by `copy_up`.)
//!
//! `PLYFS_BENCH_SHORT=1` measures little (CI); `TMPDIR` says on which file system.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A bench that cannot make its layers has nothing to measure.

mod common;

use std::cell::LazyCell;
use std::fs::{self, File, Permissions};
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::layers::make_file;
use common::mounts::Peer;
use common::stock::Stock;
use common::{Layers, Mounted};
use criterion::Criterion;

/// Files on one mount, each used once.
const FILES: usize = 256;
const SIZE: usize = 4096;

/// A lower file's path on the mount, and one that is not there.
struct Paths {
    file: PathBuf,
    new: PathBuf,
}

/// What is there before the time begins.
#[derive(Clone, Copy)]
enum Before {
    /// A mount that has not seen the name.
    Cold,
    /// The file was looked up.
    Seen,
    /// The same request was made before.
    Done,
}

type Request = (&'static str, Before, fn(&Paths));

const REQUESTS: [Request; 11] = [
    ("stat-cold", Before::Cold, stat),
    ("stat-warm", Before::Done, stat),
    ("miss-cold", Before::Cold, miss),
    ("miss-warm", Before::Done, miss),
    ("open-read-close-cold", Before::Cold, read),
    ("open-read-close-warm", Before::Done, read),
    ("create-write-close", Before::Cold, create),
    ("unlink", Before::Seen, |paths| fs::remove_file(&paths.file).expect("unlink")),
    ("mkdir", Before::Cold, |paths| fs::create_dir(&paths.new).expect("mkdir")),
    ("rename", Before::Seen, |paths| fs::rename(&paths.file, &paths.new).expect("rename")),
    ("chmod", Before::Seen, |paths| fs::set_permissions(&paths.file, Permissions::from_mode(0o600)).expect("chmod")),
];

fn stat(paths: &Paths) {
    black_box(fs::metadata(&paths.file).expect("stat"));
}

fn miss(paths: &Paths) {
    assert!(fs::metadata(&paths.new).is_err());
}

fn read(paths: &Paths) {
    let mut buffer = [0; SIZE];
    File::open(&paths.file).expect("open").read_exact(&mut buffer).expect("read");
    black_box(buffer);
}

fn create(paths: &Paths) {
    File::create_new(&paths.new).expect("create").write_all(&[0x5a; SIZE]).expect("write");
}

fn paths(dir: &Path, number: usize) -> Paths {
    Paths { file: dir.join(format!("file{number:04}")), new: dir.join(format!("new{number:04}")) }
}

fn make_layers() -> Layers {
    let layers = Layers::new(1);
    let dir = layers.lower(0).join("dir");
    fs::create_dir(&dir).expect("mkdir");
    (0..FILES).for_each(|number| make_file(&paths(&dir, number).file, SIZE as u64, &[]));
    layers
}

/// A mount over a fresh upper layer. Its directory was changed, so that no request has to copy it up.
fn fresh(layers: &Layers, peer: &Peer) -> Mounted {
    layers.renew_upper();
    let mounted = peer.mount(layers, ",volatile").expect("it was mounted before");
    let first = mounted.at().join("dir/first");
    fs::create_dir(&first).expect("mkdir");
    mounted
}

fn mount_ops(criterion: &mut Criterion) {
    let (peers, layers) = (Peer::available(), LazyCell::new(make_layers));
    for (name, before, request) in REQUESTS {
        let mut group = criterion.benchmark_group(format!("mount_ops/{name}"));
        for peer in &peers {
            let prepare = |mounted: &Mounted, number: usize| {
                let paths = paths(&mounted.at().join("dir"), number);
                match before {
                    Before::Cold => {}
                    Before::Seen => stat(&paths),
                    Before::Done => request(&paths),
                }
                paths
            };
            let stock = Stock::new(FILES, || fresh(&layers, peer));
            // What changes nothing can be done again and again on one mount.
            let mut stock = if matches!(before, Before::Done) { stock.kept() } else { stock };
            group.bench_function(&peer.name, |bencher| {
                bencher.iter_custom(|count| stock.time(count, prepare, |_, paths| request(paths)));
            });
        }
        group.finish();
    }
}

fn main() {
    common::run(mount_ops);
}
