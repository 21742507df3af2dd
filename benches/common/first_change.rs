//! The first change of lower files, through the engine or a mount: what makes them be copied up.

use std::fs::{self, File, Permissions};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId};
use plyfs::Union;
use plyfs::config::Fsync;
use plyfs::union::{Caller, InodeId, SetAttr, WriteHow};

use super::engine::name;
use super::layers::make_file;
use super::mounts::{Peer, Server};
use super::stock::Stock;
use super::{Layers, Mounted};

/// What is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// One byte of the data.
    Data,
    /// The mode.
    Mode,
}

/// Who copies up.
pub enum Way {
    Engine,
    /// The engine with `copyup_block=64K`.
    Blocks,
    Mount(Peer),
}

impl Way {
    pub fn available() -> Vec<Self> {
        [Self::Engine, Self::Blocks].into_iter().chain(Peer::available().into_iter().map(Self::Mount)).collect()
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Engine => "engine",
            Self::Blocks => "engine-blocks",
            Self::Mount(peer) => &peer.name,
        }
    }

    /// It never syncs a copy, and it writes the holes of sparse files.
    pub fn is_fuse_overlayfs(&self) -> bool {
        matches!(self, Self::Mount(Peer { server: Server::FuseOverlayfs(_), .. }))
    }
}

/// Lower files that are all alike.
pub struct Files {
    pub size: u64,
    /// Where 4 KiB of data stand; none: all of it is data.
    pub data: &'static [u64],
}

impl Files {
    /// Bytes of data.
    pub fn bytes(&self) -> u64 {
        if self.data.is_empty() { self.size } else { self.data.len() as u64 * 4096 }
    }

    /// As many as fit 256 MiB, so that the upper layer is not made anew all the time. Holes count, as some write them.
    pub fn count(&self) -> usize {
        ((256 << 20) / self.size.max(1)).clamp(1, 128) as usize
    }

    pub fn make(&self, dir: &Path) {
        (0..self.count()).for_each(|number| make_file(&dir.join(file(number)), self.size, self.data));
    }
}

fn file(number: usize) -> String {
    format!("file{number}")
}

/// Measures one way, with synced or unsynced copies. The layers are made by the first that is measured.
pub fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    (layers, files): (&dyn Deref<Target = Layers>, &Files),
    way: &Way,
    change: Change,
    fsync: Fsync,
) {
    let word = if fsync == Fsync::Volatile { "volatile" } else { "synced" };
    let id = BenchmarkId::new(format!("{}/{word}", way.name()), files.size);
    match way {
        Way::Engine | Way::Blocks => {
            let blocks = matches!(way, Way::Blocks).then_some(16);
            let mut stock = Stock::new(files.count(), || engine(layers, fsync, blocks));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| stock.time(count, look_up, |union, id| in_engine(union, *id, change)));
            });
        }
        Way::Mount(peer) => {
            let more = if fsync == Fsync::Volatile { ",volatile" } else { "" };
            let mut stock = Stock::new(files.count(), || mount(layers, peer, more));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| {
                    let path = |mounted: &Mounted, number| {
                        let path = mounted.at().join(file(number));
                        fs::metadata(&path).expect("stat");
                        path
                    };
                    stock.time(count, path, |_, path| on_mount(path, change))
                });
            });
        }
    }
}

fn engine(layers: &Layers, fsync: Fsync, copyup_block: Option<u8>) -> Union {
    layers.renew_upper();
    layers.union_with(fsync, copyup_block)
}

fn mount(layers: &Layers, peer: &Peer, more: &str) -> Mounted {
    layers.renew_upper();
    peer.mount(layers, more).expect("it was mounted before")
}

fn look_up(union: &Union, number: usize) -> InodeId {
    union.lookup(InodeId::ROOT, &name(&file(number))).expect("lookup").expect("the file").id
}

fn in_engine(union: &Union, id: InodeId, change: Change) {
    let caller = Caller::this_process();
    match change {
        Change::Data => drop(union.write(&caller, id, 0, b"x", WriteHow::default()).expect("write")),
        Change::Mode => {
            let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            union.setattr(&caller, id, &set).expect("chmod");
        }
    }
}

fn on_mount(path: &Path, change: Change) {
    match change {
        Change::Data => {
            let file = File::options().write(true).open(path).expect("open");
            file.write_all_at(b"x", 0).expect("write");
        }
        Change::Mode => fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod"),
    }
}
