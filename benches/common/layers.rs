//! Lower layers that stay, and an upper layer that is made anew.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use plyfs::Union;
use plyfs::config::{Config, Fsync, UpperDirs};
use tempfile::TempDir;

/// A directory with `lower0` (the top) to `lowerN`, `upper`, `work` and `merged`.
pub struct Layers {
    dir: TempDir,
    lowers: Vec<PathBuf>,
}

impl Layers {
    /// In `TMPDIR`.
    pub fn new(lowers: usize) -> Self {
        Self::within(&std::env::temp_dir(), lowers)
    }

    /// In a directory of the file system that is asked about.
    pub fn within(dir: &Path, lowers: usize) -> Self {
        let dir = tempfile::tempdir_in(dir).expect("a directory for the layers");
        let lowers: Vec<_> = (0..lowers).map(|level| dir.path().join(format!("lower{level}"))).collect();
        lowers.iter().for_each(|lower| fs::create_dir(lower).expect("mkdir"));
        fs::create_dir(dir.path().join("merged")).expect("mkdir");
        Self { dir, lowers }
    }

    /// The same, but with one lower layer that stands elsewhere.
    pub fn over(lower: &Path, dir: &Path) -> Self {
        Self { lowers: vec![lower.to_owned()], ..Self::within(dir, 0) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn lower(&self, level: usize) -> &Path {
        &self.lowers[level]
    }

    pub fn levels(&self) -> usize {
        self.lowers.len()
    }

    /// An empty upper layer, with nothing of the last one left to be written by the file system.
    pub fn renew_upper(&self) {
        self.empty_upper();
        self.settle();
    }

    /// An empty upper layer.
    pub fn empty_upper(&self) {
        for name in ["upper", "work"] {
            let _ = fs::remove_dir_all(self.path(name));
            fs::create_dir(self.path(name)).expect("mkdir");
        }
    }

    /// All that was written is on disk.
    pub fn settle(&self) {
        let dir = File::open(self.dir.path()).expect("open");
        rustix::fs::syncfs(dir.as_fd()).expect("syncfs");
    }

    /// The words of a mount.
    pub fn options(&self, more: &str) -> String {
        let lowers: Vec<_> = self.lowers.iter().map(|lower| lower.display().to_string()).collect();
        let (upper, work) = (self.path("upper"), self.path("work"));
        format!("lowerdir={},upperdir={},workdir={}{more}", lowers.join(":"), upper.display(), work.display())
    }

    /// The engine over the lower layers alone.
    pub fn read_only(&self) -> Union {
        Union::open(Config { lowers: self.lowers.clone(), ..Config::default() }).expect("layers that were just made")
    }

    /// The engine with the upper layer.
    pub fn union(&self, fsync: Fsync) -> Union {
        self.union_with(fsync, None)
    }

    /// The same, with `copyup_block`.
    pub fn union_with(&self, fsync: Fsync, copyup_block: Option<u8>) -> Union {
        let upper = Some(UpperDirs { dir: self.path("upper"), work: self.path("work") });
        let config = Config { lowers: self.lowers.clone(), upper, fsync, copyup_block, ..Config::default() };
        Union::open(config).expect("layers that were just made")
    }
}

/// A file of `size` bytes: all of it data, or 4 KiB at each offset of `data` and holes between.
pub fn make_file(path: &Path, size: u64, data: &[u64]) {
    let mut file = File::create(path).expect("create");
    if !data.is_empty() {
        file.set_len(size).expect("truncate");
        data.iter().for_each(|at| file.write_all_at(&[0x5a; 4096], *at).expect("write"));
        return;
    }
    let block = vec![0x5a; 1 << 20];
    let mut rest = size;
    while rest > 0 {
        let step = rest.min(block.len() as u64);
        file.write_all(&block[..step as usize]).expect("write");
        rest -= step;
    }
}
