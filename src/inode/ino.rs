//! Inode numbers: unique over all layers, the same over copy-up, rename and remount wherever a layer gives one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::config::Xino;
use crate::format::origin::Origin;
use crate::layer::Handles;

/// An inode of the union: its `st_ino`, its `d_ino` and the node id that the kernel knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InodeId(pub u64);

impl InodeId {
    /// The root of the mount (FUSE fixes it).
    pub const ROOT: Self = Self(1);
}

/// A file system's index stands above this bit, a layer's own number below it.
const SYSTEM_SHIFT: u32 = 56;
/// More file systems than this have no room for their index.
const MAX_SYSTEMS: usize = 0x7f;
/// Numbers that last as long as the inode is held start here: no file system's index is 0x7f.
const PRIVATE: u64 = 0x7f << SYSTEM_SHIFT;

/// With numbers of 32 bits they start here, and all of the first file system that are lower last.
const PRIVATE_SMALL: u64 = 1 << 31;

/// Gives out numbers.
#[derive(Debug)]
pub struct Numbers {
    systems: Vec<System>,
    xino: Xino,
    /// None has more than 32 bits.
    small: bool,
    next: AtomicU64,
}

/// A file system on which layers are.
#[derive(Debug, PartialEq, Eq)]
pub struct System {
    /// `st_dev` of a layer's root.
    pub dev: u64,
    /// What marks hold of it, and its UUID; zeros for none.
    pub uuids: [[u8; 16]; 2],
    /// What its file handles are good for.
    pub handles: Handles,
    /// A lower layer is on it.
    pub lower: bool,
}

impl Numbers {
    /// `layers`: the file system of each layer; the first is the one whose numbers stay bare. `small`: 32 bits are enough.
    pub fn new(layers: impl IntoIterator<Item = System>, xino: Xino, small: bool) -> Self {
        let mut systems: Vec<System> = Vec::new();
        for layer in layers {
            match systems.iter_mut().find(|system| system.dev == layer.dev) {
                // What marks hold is said of lower layers.
                Some(system) if layer.lower => *system = layer,
                Some(_) => {}
                None => systems.push(layer),
            }
        }
        let first = if small { PRIVATE_SMALL } else { PRIVATE };
        Self { systems, xino, small, next: AtomicU64::new(first) }
    }

    /// How many file systems the layers are on.
    pub fn systems(&self) -> usize {
        self.systems.len()
    }

    /// The number for an object of a layer, where it has one that lasts.
    pub fn of_object(&self, dev: u64, ino: u64) -> Option<InodeId> {
        let system = self.systems.iter().position(|system| system.dev == dev)?;
        self.compose(system, ino)
    }

    /// The number of the lower object that an `origin` mark names: on the only file system that has this UUID, or where it
    /// holds none the only one with a lower layer.
    pub fn of_origin(&self, origin: &Origin) -> Option<InodeId> {
        let named = |system: &System| system.lower && system.uuids.contains(&origin.uuid);
        let nameless = origin.is_nameless() && !self.systems.iter().any(named);
        let counts = |system: &System| if nameless { system.lower } else { named(system) };
        let mut same = self.systems.iter().enumerate().filter(|(_, system)| counts(system));
        match (same.next(), same.next()) {
            (Some((at, system)), None) => {
                let ino = match system.handles {
                    Handles::Tell => origin.ino()?,
                    // What that mount made up for a while is no lasting number.
                    Handles::Plyfs => origin.node_id().filter(|id| id >> SYSTEM_SHIFT < PRIVATE >> SYSTEM_SHIFT)?,
                    Handles::Silent | Handles::Passing => return None,
                };
                self.compose(at, ino)
            }
            _ => None,
        }
    }

    fn compose(&self, system: usize, ino: u64) -> Option<InodeId> {
        // 0 is "no entry" and 1 the root to FUSE.
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

    /// Whether a number was made up for one inode, because no layer gives it one.
    pub fn is_private(&self, id: InodeId) -> bool {
        id.0 >= if self.small { PRIVATE_SMALL } else { PRIVATE }
    }

    /// Numbers that were given out before are not given out again.
    pub fn go_on_behind(&self, ids: impl Iterator<Item = u64>) {
        if let Some(last) = ids.filter(|id| self.is_private(InodeId(*id))).max() {
            self.next.fetch_max(last + 1, Relaxed);
        }
    }

    /// A number that nothing else has had in this mount; where they are small, none of the last two billion.
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
