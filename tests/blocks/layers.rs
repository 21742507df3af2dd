//! Layers with one large file, and how they are opened.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use plyfs::config::Config;
use plyfs::testing::seam::{Plan, with_plan};
use rustix::io::Errno;

use crate::common::Scratch;
use crate::engine::{self, Engine};

/// Of the blocks in most tests.
pub const BLOCK: usize = 4096;
/// Of the file `f`: its last block is not whole.
pub const SIZE: usize = 40 * BLOCK + 1000;

/// Bytes of which no two blocks are alike.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.below(251) as u8 + 1).collect()
}

/// A generator of the same numbers each time (xorshift).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

pub struct Layers(Scratch);

impl Layers {
    pub fn new() -> Self {
        Self::within(Scratch::in_memory())
    }

    pub fn on_disk() -> Self {
        Self::within(Scratch::new())
    }

    fn within(scratch: Scratch) -> Self {
        for dir in ["lower/dir", "upper", "work"] {
            fs::create_dir_all(scratch.path().join(dir)).unwrap();
        }
        // With holes: what an attempt left in the upper file must not show through those.
        let file = fs::File::create(scratch.path().join("lower/f")).unwrap();
        file.set_len(SIZE as u64).unwrap();
        for (block, bytes) in
            pattern(SIZE, 99).chunks(BLOCK).enumerate().filter(|(block, _)| ![2, 3, 12].contains(block))
        {
            file.write_all_at(bytes, (block * BLOCK) as u64).unwrap();
        }
        fs::write(scratch.path().join("lower/small"), "small").unwrap();
        Layers(scratch)
    }

    pub fn base(&self) -> &Path {
        self.0.path()
    }

    pub fn lower(&self) -> PathBuf {
        self.base().join("lower")
    }

    pub fn upper(&self) -> PathBuf {
        self.base().join("upper")
    }

    pub fn records(&self) -> PathBuf {
        self.base().join("work/work/incompat/plyfs.blocks")
    }

    pub fn has_incompat(&self) -> bool {
        self.base().join("work/work/incompat").exists()
    }

    /// What the lower layer has under `f`.
    pub fn content(&self) -> Vec<u8> {
        fs::read(self.lower().join("f")).unwrap()
    }

    /// Whether an upper file has blocks only.
    pub fn is_partial(&self, name: &str) -> bool {
        let path = self.upper().join(name);
        let is = |key| {
            let mut value = [0; 8];
            match rustix::fs::getxattr(&path, key, &mut value) {
                Ok(len) => value[..len].starts_with(b"pb"),
                Err(Errno::NODATA) => false,
                Err(errno) => panic!("{path:?}: {errno}"),
            }
        };
        is("trusted.overlay.metacopy") || is("user.overlay.metacopy")
    }

    pub fn config(&self, shift: Option<u8>) -> Config {
        Config { copyup_block: shift, index: Some(true), ..engine::config(&self.lower(), self.base()) }
    }

    pub fn open(&self, shift: Option<u8>) -> Engine {
        Engine::with(self.config(shift))
    }

    pub fn open_again(&self, engine: Engine, shift: Option<u8>) -> Engine {
        drop(engine);
        self.open(shift)
    }

    /// From now on the records are of another run of the machine.
    pub fn reboot(&self) {
        for record in fs::read_dir(self.records()).into_iter().flatten() {
            let file = fs::OpenOptions::new().write(true).open(record.unwrap().path()).unwrap();
            file.write_all_at(&[0xee; 16], 24).unwrap();
        }
    }
}

/// The process ends at once.
pub fn abandon(engine: Engine) {
    with_plan(Plan::dead_from(0), || drop(engine));
}

/// All bytes of a file.
pub fn read(engine: &Engine, path: &str) -> Vec<u8> {
    let id = engine.id(path).unwrap();
    let size = usize::try_from(engine.0.getattr(id).unwrap().size).unwrap();
    let mut buffer = vec![0; size + 1];
    let len = engine.0.read(id, 0, &mut buffer).unwrap();
    assert_eq!(len, size);
    buffer.truncate(len);
    buffer
}
