//! Inode numbers. They are unique over all layers, and wherever a layer gives one they stay the same over copy-up,
//! rename and remount.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::base::config::Xino;
use crate::base::sync::RwLock;
use crate::format::origin::Origin;
use crate::layer::Handles;

/// An inode of the union: its `st_ino`, its `d_ino` and the node id that the kernel knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root of the mount (FUSE fixes it).
    pub const ROOT: Self = Self(1);
}

/// The index of a file system is above this bit of a number, the layer's own number below it.
const SYSTEM_SHIFT: u32 = 56;
/// The most file systems whose index a number has room for.
const MAX_SYSTEMS: usize = 0x7f;
/// The first number that lasts only as long as its inode is held. No file system has the index 0x7f.
const PRIVATE: u64 = 0x7f << SYSTEM_SHIFT;

/// The first such number where numbers have 32 bits. The first file system's own numbers below it last.
const PRIVATE_SMALL: u64 = 1 << 31;

/// Gives out inode numbers.
#[derive(Debug)]
pub struct Numbers {
    /// In their order; the last ones are free for those that layers bring later.
    systems: Box<[OnceLock<Known>]>,
    xino: Xino,
    /// No number has more than 32 bits.
    small: bool,
    next: AtomicU64,
    /// A lower layer is on the first file system, too: a commit has made one of the upper layer.
    first_is_lower: AtomicBool,
}

/// A file system that numbers are given out for.
#[derive(Debug)]
struct Known {
    /// Its `st_dev`, which is compared without a lock.
    dev: AtomicU64,
    system: RwLock<System>,
    /// A lower layer is on it now.
    lower: AtomicBool,
    /// No layer is on it any more, or another file system has its `st_dev` now: its place may be given to another one.
    gone: AtomicBool,
}

impl Known {
    fn new(system: System) -> Self {
        let (dev, lower) = (system.dev.into(), system.lower.into());
        Self { dev, system: RwLock::new(system), lower, gone: AtomicBool::new(false) }
    }

    fn has(&self, dev: u64) -> bool {
        self.dev.load(Relaxed) == dev
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// Whether it is this file system, or that of the upper layer alone.
    fn is(&self, system: &System) -> bool {
        let known = self.system.read();
        self.has(system.dev) && (known.uuids == system.uuids || !known.lower)
    }

    /// A lower layer is on it.
    fn stand(&self) {
        self.lower.store(true, Relaxed);
        self.gone.store(false, Relaxed);
    }
}

/// A file system on which layers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// `st_dev` of a layer's root.
    pub dev: u64,
    /// The UUID that marks hold of it, and its own UUID; zeros: none.
    pub uuids: [[u8; 16]; 2],
    /// What its file handles are good for.
    pub handles: Handles,
    /// A lower layer is on this file system.
    pub lower: bool,
}

impl Numbers {
    /// `layers`: the file system of each layer; the numbers of the first stay as they are. `small`: numbers have 32
    /// bits at most.
    pub fn new(layers: impl IntoIterator<Item = System>, xino: Xino, small: bool) -> Self {
        let mut systems: Vec<System> = Vec::new();
        for layer in layers {
            match systems.iter_mut().find(|system| system.dev == layer.dev) {
                // Marks name the file systems of lower layers, so that a lower layer's entry counts.
                Some(system) if layer.lower => *system = layer,
                Some(_) => {}
                None => systems.push(layer),
            }
        }
        let first = if small { PRIVATE_SMALL } else { PRIVATE };
        let room = systems.len().max(MAX_SYSTEMS);
        let mut systems = systems.into_iter();
        let one = |system: Option<System>| system.map(Known::new).map_or_else(OnceLock::new, OnceLock::from);
        let systems = (0..room).map(|_| one(systems.next())).collect();
        Self { systems, xino, small, next: AtomicU64::new(first), first_is_lower: AtomicBool::new(false) }
    }

    /// How many file systems the layers are on.
    pub fn systems(&self) -> usize {
        self.known().filter(|known| !known.is_gone()).count()
    }

    fn known(&self) -> impl Iterator<Item = &Known> {
        self.systems.iter().map_while(OnceLock::get)
    }

    /// A layer on this file system joins the others. Numbers that were given out stay what they are. No request is under way.
    pub fn add(&self, system: System) {
        if let Some(same) = self.known().find(|known| known.is(&system)) {
            return same.stand();
        }
        self.drop(system.dev, false);
        let mut system = Some(Known::new(system));
        for free in &self.systems {
            let Some(known) = system.take() else { return };
            system = free.set(known).err();
        }
        // One whose objects are gone; a number of theirs that somebody still holds is given to nothing else.
        if let (Some(new), Some(place)) = (system, self.known().find(|known| known.is_gone())) {
            let system = new.system.into_inner();
            place.dev.store(system.dev, Relaxed);
            *place.system.write() = system;
            place.stand();
        }
    }

    /// No lower layer is on this file system any more; `stays`: the upper one is. No request is under way.
    pub fn drop(&self, dev: u64, stays: bool) {
        for known in self.known().filter(|known| known.has(dev)) {
            known.lower.store(false, Relaxed);
            known.gone.store(!stays, Relaxed);
        }
    }

    /// The number for an object of a layer; `None`: it has no number that lasts.
    pub fn of_object(&self, dev: u64, ino: u64) -> Option<InodeId> {
        let system = self.known().position(|known| known.has(dev) && !known.is_gone())?;
        self.compose(system, ino)
    }

    /// The number of the lower object that a mark `origin` names, on the only file system with the mark's UUID. For a
    /// mark without a UUID there must be only one file system with a lower layer.
    pub fn of_origin(&self, origin: &Origin) -> Option<InodeId> {
        let first = self.first_is_lower.load(Relaxed);
        // A file of a layer that is gone keeps its number as long as the mark names its file system.
        let lower = |(at, known): &(usize, &Known)| {
            let stands = known.lower.load(Relaxed) || (!origin.is_nameless() && known.system.read().lower);
            stands || (first && *at == 0)
        };
        let systems = || self.known().enumerate().filter(lower);
        let named = |(_, known): &(usize, &Known)| known.system.read().uuids.contains(&origin.uuid);
        let nameless = origin.is_nameless() && !systems().any(|one| named(&one));
        let mut same = systems().filter(|one| nameless || named(one));
        match (same.next(), same.next()) {
            (Some((at, known)), None) => {
                let handles = known.system.read().handles;
                let ino = match handles {
                    Handles::Tell => origin.ino()?,
                    // A number that the other mount made up does not last.
                    Handles::Plyfs => origin.node_id().filter(|id| id >> SYSTEM_SHIFT < PRIVATE >> SYSTEM_SHIFT)?,
                    Handles::Silent | Handles::Passing => return None,
                };
                self.compose(at, ino)
            }
            _ => None,
        }
    }

    fn compose(&self, system: usize, ino: u64) -> Option<InodeId> {
        // To FUSE 0 means "no entry" and 1 the root.
        if ino <= InodeId::ROOT.0 || ino >> SYSTEM_SHIFT != 0 || system >= MAX_SYSTEMS {
            return None;
        }
        if system > 0 && self.xino == Xino::Off {
            return None;
        }
        if self.small && (system > 0 || ino >= PRIVATE_SMALL) {
            return None;
        }
        Some(InodeId((system as u64) << SYSTEM_SHIFT | ino))
    }

    /// A commit has put a lower layer on the file system of the upper one, which is the first.
    pub fn first_is_lower(&self) {
        self.first_is_lower.store(true, Relaxed);
    }

    /// Whether a number was made up for an inode to which no layer gives one.
    pub fn is_private(&self, id: InodeId) -> bool {
        id.0 >= if self.small { PRIVATE_SMALL } else { PRIVATE }
    }

    /// Makes new made-up numbers start behind those that were given out before.
    pub fn go_on_behind(&self, ids: impl Iterator<Item = u64>) {
        if let Some(last) = ids.filter(|id| self.is_private(InodeId(*id))).max() {
            self.next.fetch_max(last + 1, Relaxed);
        }
    }

    /// Makes up a number that no inode of this mount has had; with numbers of 32 bits one that was not among the last
    /// two billion.
    pub fn private(&self) -> InodeId {
        let next = self.next.fetch_add(1, Relaxed);
        InodeId(if self.small { PRIVATE_SMALL | (next & (PRIVATE_SMALL - 1)) } else { next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] = [7; 16];

    const fn on(dev: u64, uuid: [u8; 16]) -> System {
        System { dev, uuids: [uuid; 2], handles: Handles::Tell, lower: true }
    }

    #[test]
    fn numbers_of_several_file_systems_never_meet() {
        let numbers = Numbers::new([on(10, UUID), on(20, [0; 16]), on(10, UUID)], Xino::Auto, false);
        assert_eq!(numbers.systems(), 2);
        assert_eq!(numbers.of_object(10, 5), Some(InodeId(5)));
        assert_eq!(numbers.of_object(20, 5), Some(InodeId(1 << 56 | 5)));
        for (dev, ino, why) in [
            (10, 0, "no number at all"),
            (10, 1, "FUSE's root"),
            (10, 1 << 56, "no room for the file system's index"),
            (30, 5, "a file system within a layer"),
        ] {
            assert_eq!(numbers.of_object(dev, ino), None, "{why}");
        }
        assert_ne!(numbers.private(), numbers.private());
    }

    #[test]
    fn a_layer_that_joins_brings_its_file_system() {
        let numbers = Numbers::new([on(10, UUID)], Xino::Auto, false);
        for _ in 0..2 {
            numbers.add(on(20, [1; 16]));
            numbers.add(on(10, UUID));
            assert_eq!((numbers.systems(), numbers.of_object(20, 5)), (2, Some(InodeId(1 << 56 | 5))));
        }
        // Another file system with the number of one that is gone.
        numbers.add(on(20, [2; 16]));
        assert_eq!(numbers.of_object(20, 5), Some(InodeId(2 << 56 | 5)));
        (0..200).for_each(|dev| numbers.add(on(1000 + dev, [3; 16])));
        assert_eq!(numbers.of_object(1199, 5), None);
        let full = numbers.systems();
        // The places of those that went are given to others.
        for dev in 0..200 {
            numbers.drop(1000 + dev, false);
            numbers.add(on(2000 + dev, [4; 16]));
            assert!(numbers.of_object(2000 + dev, 5).is_some());
            numbers.drop(2000 + dev, false);
        }
        assert!(numbers.systems() < full);
        assert_eq!(numbers.of_object(10, 5), Some(InodeId(5)));
    }

    #[test]
    fn nameless_marks_are_of_the_only_file_system_that_has_a_layer_now() {
        let numbers = Numbers::new([on(10, [0; 16])], Xino::Auto, false);
        // FILEID_INO32_GEN
        let fid = [5u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat();
        let origin = Origin { kind: 1, uuid: [0; 16], fid };
        assert_eq!(numbers.of_origin(&origin), Some(InodeId(5)));
        numbers.add(on(20, [0; 16]));
        assert_eq!(numbers.of_origin(&origin), None);
        numbers.drop(20, false);
        assert_eq!(numbers.of_origin(&origin), Some(InodeId(5)));
    }

    #[test]
    fn xino_off_keeps_the_high_bits_out_of_lasting_numbers() {
        let numbers = Numbers::new([on(10, UUID), on(20, UUID)], Xino::Off, false);
        assert_eq!(numbers.of_object(10, 5), Some(InodeId(5)));
        assert_eq!(numbers.of_object(20, 5), None);
    }

    #[test]
    fn small_numbers_have_32_bits_and_begin_anew() {
        let numbers = Numbers::new([on(10, UUID), on(20, UUID)], Xino::Auto, true);
        assert_eq!(numbers.of_object(10, 5), Some(InodeId(5)));
        assert_eq!(numbers.of_object(10, PRIVATE_SMALL - 1), Some(InodeId(PRIVATE_SMALL - 1)));
        for (dev, ino) in [(10, PRIVATE_SMALL), (10, 1 << 40), (20, 5)] {
            assert_eq!(numbers.of_object(dev, ino), None, "{dev} {ino}");
        }
        numbers.go_on_behind([7, u64::from(u32::MAX) - 1].into_iter());
        assert_eq!(numbers.private(), InodeId(u32::MAX.into()));
        assert_eq!(numbers.private(), InodeId(PRIVATE_SMALL));
        assert!(numbers.is_private(InodeId(PRIVATE_SMALL)) && !numbers.is_private(InodeId(PRIVATE_SMALL - 1)));
    }
}
