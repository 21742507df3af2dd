//! The bytes of a disk, of which a copy costs little, and the crash states that a log of its writes allows.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What a disk writes whole or not at all: the smallest unit in which states between two flushes differ.
pub const BLOCK: usize = 4096;

/// A sparse image: what is not in it is zeros.
#[derive(Clone, Default)]
pub struct Image {
    blocks: HashMap<u64, (Arc<[u8]>, u64)>,
    /// Of all of it.
    hash: u64,
}

fn hash_of(block: u64, bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (block, bytes).hash(&mut hasher);
    hasher.finish()
}

/// The parts of a range that lie in one block each: block, offset in it, offset in the range, length.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = offset + done as u64;
            let within = (at % BLOCK as u64) as usize;
            let part = (BLOCK - within).min(len - done);
            done += part;
            (at / BLOCK as u64, within, done - part, part)
        })
    })
}

impl Image {
    /// Of a file.
    pub fn load(file: &std::fs::File) -> Self {
        let (mut image, len) = (Image::default(), file.metadata().unwrap().len());
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < len {
            at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data / BLOCK as u64 * BLOCK as u64,
                Err(_) => break,
            };
            let read = file.read_at(&mut buffer, at).unwrap();
            image.write(at, &buffer[..read]);
            at += read as u64;
        }
        image
    }

    /// A number that other content is most unlikely to have.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (block, within, at, part) in parts(offset, len) {
            if let Some((data, _)) = self.blocks.get(&block) {
                bytes[at..at + part].copy_from_slice(&data[within..within + part]);
            }
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (block, within, at, part) in parts(offset, bytes.len()) {
            let mut data = [0; BLOCK];
            if let Some((old, hash)) = self.blocks.get(&block) {
                data.copy_from_slice(old);
                self.hash ^= hash;
            }
            data[within..within + part].copy_from_slice(&bytes[at..at + part]);
            if data == [0; BLOCK] {
                self.blocks.remove(&block);
                continue;
            }
            let hash = hash_of(block, &data);
            self.hash ^= hash;
            self.blocks.insert(block, (Arc::from(data), hash));
        }
    }
}

/// What reached the disk, and what the test knows of it.
#[derive(Clone)]
pub enum Event {
    Write(u64, Arc<[u8]>),
    /// All before it is on the medium.
    Flush,
    /// Step so-and-so begins.
    Begin(usize),
    /// Step so-and-so has answered.
    Done(usize),
}

/// What a loss of power may leave.
pub struct State {
    pub image: Image,
    /// Steps that had begun.
    pub begun: usize,
    /// Steps that had answered.
    pub done: usize,
    /// Which it is.
    pub what: String,
}

/// A generator of the same numbers each time (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

/// The states that a log allows, no two alike: after each write and at each mark all that was written; at each mark and
/// before each flush nothing since the flush before it, and `subsets` times some of the blocks written since.
pub fn states(base: &Image, log: &[Event], subsets: usize, random: &mut Random) -> Vec<State> {
    let mut found = Vec::new();
    let mut known = std::collections::HashSet::new();
    let (mut durable, mut all) = (base.clone(), base.clone());
    let mut pending: Vec<(u64, Arc<[u8]>)> = Vec::new();
    let (mut begun, mut done) = (0, 0);
    for (at, event) in log.iter().enumerate() {
        let mut add = |image: &Image, (begun, done), what: &str| {
            if known.insert((image.hash(), begun, done)) {
                found.push(State { image: image.clone(), begun, done, what: format!("event {at}, {what}") });
            }
        };
        if !matches!(event, Event::Write(..)) {
            add(&durable, (begun, done), "nothing since the flush");
            for _ in 0..if pending.is_empty() { 0 } else { subsets } {
                add(&some(&durable, &pending, random), (begun, done), "some blocks since the flush");
            }
        }
        match event {
            Event::Write(offset, bytes) => {
                all.write(*offset, bytes);
                pending.push((*offset, bytes.clone()));
            }
            Event::Flush => {
                durable = all.clone();
                pending.clear();
            }
            Event::Begin(step) => begun = step + 1,
            Event::Done(step) => done = step + 1,
        }
        add(&durable, (begun, done), "nothing since the flush");
        add(&all, (begun, done), "all that was written");
    }
    found
}

/// Of each write some blocks, in order.
fn some(durable: &Image, pending: &[(u64, Arc<[u8]>)], random: &mut Random) -> Image {
    let mut image = durable.clone();
    let often = [2, 4, 8][random.below(3) as usize];
    let mostly = random.below(2) == 0;
    for (offset, bytes) in pending {
        for (block, within, at, part) in parts(*offset, bytes.len()) {
            if (random.below(often) == 0) != mostly {
                image.write(block * BLOCK as u64 + within as u64, &bytes[at..at + part]);
            }
        }
    }
    image
}
