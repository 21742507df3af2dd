//! Random operations against bytes in memory, by one thread and by several.

use std::sync::Mutex;

use plyfs::union::WriteHow;

use crate::engine::{Engine, me};
use crate::layers::{BLOCK, Layers, Random, SIZE, abandon, pattern, read};

struct Run {
    layers: Layers,
    engine: Engine,
    bytes: Vec<u8>,
    name: &'static str,
    random: Random,
}

impl Run {
    fn option(&mut self) -> Option<u8> {
        [Some(12), Some(13), None][self.random.below(3) as usize]
    }

    fn write(&mut self) {
        let at = self.random.below(self.bytes.len() as u64 + 5000) as usize;
        let most = [10, 5000, 30_000][self.random.below(3) as usize];
        let mut data = pattern(self.random.below(most) as usize + 1, self.random.0 | 1);
        let mut from = at;
        if self.random.below(4) == 0 {
            // Whole blocks.
            from -= at % BLOCK;
            data.resize(data.len().next_multiple_of(BLOCK), 7);
        }
        let id = self.engine.id(self.name).unwrap();
        let how = WriteHow { kill_privileges: false, sync: self.random.below(20) == 0, opened: false, whole: false };
        assert_eq!(self.engine.0.write(&me(), id, from as u64, &data, how), Ok(data.len()));
        let end = from + data.len();
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[from..end].copy_from_slice(&data);
    }

    fn read_some(&mut self) {
        let at = self.random.below(self.bytes.len() as u64 + 100) as usize;
        let mut found = vec![0xaa; self.random.below(20_000) as usize];
        let id = self.engine.id(self.name).unwrap();
        let len = self.engine.0.read(id, at as u64, &mut found).unwrap();
        let expected = self.bytes.get(at..).unwrap_or_default();
        let expected = &expected[..expected.len().min(found.len())];
        assert!(&found[..len] == expected, "read at {at}");
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..50 => self.write(),
            50..85 => self.read_some(),
            85 => {
                let size = self.random.below(self.bytes.len() as u64 + 9000);
                self.engine.truncate(self.name, size).unwrap();
                self.bytes.resize(size as usize, 0);
            }
            86..89 => self.engine.chmod(self.name, 0o600 + self.random.below(8) as u32).unwrap(),
            89..92 => {
                let new = if self.name == "f" { "dir/g" } else { "f" };
                self.engine.rename(self.name, new).unwrap();
                self.name = new;
            }
            92..95 => self.engine.0.fsync(self.engine.id(self.name).unwrap(), self.random.below(2) == 0).unwrap(),
            95 => drop(self.engine.0.complete_all().unwrap()),
            96..98 => self.reopen(false),
            _ => self.reopen(true),
        }
    }

    fn reopen(&mut self, at_once: bool) {
        let option = self.option();
        // Two engines on the same layers for an instant: the old one does not look any more.
        let unused = Layers::new();
        let old = std::mem::replace(&mut self.engine, unused.open(None));
        if at_once {
            abandon(old)
        } else {
            drop(old)
        }
        self.engine = self.layers.open(option);
        assert!(read(&self.engine, self.name) == self.bytes, "after it was opened again");
    }
}

#[test]
fn random_operations_show_what_memory_shows() {
    for seed in 1..=40 {
        let layers = Layers::new();
        let (engine, bytes) = (layers.open(Some(12)), layers.content());
        let random = Random(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut run = Run { layers, engine, bytes, name: "f", random };
        for _ in 0..120 {
            run.step();
        }
        assert!(read(&run.engine, run.name) == run.bytes, "seed {seed}");
        run.reopen(false);
        run.engine.0.complete_all().unwrap();
        assert!(read(&run.engine, run.name) == run.bytes, "seed {seed}, completed");
        assert!(!run.layers.has_incompat(), "seed {seed}");
        assert!(run.layers.content() == Layers::new().content(), "the lower layer was changed");
    }
}

/// Each thread owns every fourth run of 100 bytes, so that four of them write to one block.
#[test]
fn threads_that_write_to_the_same_blocks_lose_nothing() {
    const RUN: usize = 100;
    for round in 1..=10 {
        let layers = Layers::new();
        let engine = layers.open(Some(12));
        let expected = Mutex::new(layers.content());
        let id = engine.id("f").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (engine, expected) = (&engine, &expected);
                scope.spawn(move || {
                    let mut random = Random(round * 77 + thread + 1);
                    for _ in 0..150 {
                        let slot = random.below((SIZE / RUN / 4) as u64) * 4 + thread;
                        let (at, byte) = (slot as usize * RUN, random.below(256) as u8);
                        let data = [byte; RUN];
                        assert_eq!(engine.0.write(&me(), id, at as u64, &data, WriteHow::default()), Ok(RUN));
                        expected.lock().unwrap()[at..at + RUN].copy_from_slice(&data);
                        let mut found = [0; RUN];
                        assert_eq!(engine.0.read(id, at as u64, &mut found), Ok(RUN));
                        assert_eq!(found, data);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..5 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    engine.0.fsync(id, true).unwrap();
                }
                engine.0.complete_all().unwrap();
            });
        });
        assert!(read(&engine, "f") == *expected.lock().unwrap());
    }
}
