//! What every inode has.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::base::sync::{AtomicU32, Mutex};
use crate::format::Protattr;
use crate::sys::stat::Kind;

/// What every inode has. It is a field of the two bodies rather than of the inode, so that its `kind` can tell the two
/// apart and no word of memory is spent on that.
pub struct Common {
    /// The number of lookups that were not forgotten, and of children in the table.
    refs: AtomicU32,
    /// Its type; it never changes.
    pub kind: Kind,
    /// What `chattr` forbids on its upper object: bits [`APPEND`] and [`IMMUTABLE`].
    protection: AtomicU8,
    /// Bits [`LOOSE`], [`CACHED`], [`APPENDS`] and [`BARE`].
    flags: AtomicU8,
    /// Locked throughout its copy-up (lock order: `locks.rs`).
    pub up: Mutex<CopyUpTurn>,
}

const APPEND: u8 = 1;
const IMMUTABLE: u8 = 2;
/// The copy-up of the object, or of its data, may not be on disk yet.
const LOOSE: u8 = 1;
/// The kernel may have data of the file, or a program may be about to change it.
const CACHED: u8 = 2;
/// The upper object itself is append-only.
const APPENDS: u8 = 4;
/// Its lower object had no extended attribute when it was found.
const BARE: u8 = 8;

/// The type that [`Common::up`] guards, by which the order of the locks knows that lock.
pub struct CopyUpTurn;

/// The value of `refs` while the inode is taken out of the table.
const DEAD: u32 = u32::MAX;
/// The value of `refs` once it can no longer be counted: the inode stays until the unmount.
const COUNTLESS: u32 = DEAD - 1;

impl Common {
    /// The common part of a new inode with one reference.
    pub(super) fn new(kind: Kind) -> Self {
        let (refs, protection, flags) = (AtomicU32::new(1), AtomicU8::new(0), AtomicU8::new(0));
        Self { refs, kind, protection, flags, up: Mutex::new(CopyUpTurn) }
    }

    /// Whether the copy-up may not be on disk yet.
    pub fn is_loose(&self) -> bool {
        self.flags.load(Ordering::Acquire) & LOOSE != 0
    }

    /// Sets whether the copy-up may not be on disk yet. The caller holds `up`.
    pub fn set_loose(&self, loose: bool) {
        if loose {
            self.flags.fetch_or(LOOSE, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!LOOSE, Ordering::AcqRel);
        }
    }

    /// Notes, for as long as the inode lives, that the kernel may have data of the file or that a program may be about
    /// to change it. True for the first such call. Sequentially consistent.
    pub fn mark_cached(&self) -> bool {
        !self.is_cached() && self.flags.fetch_or(CACHED, Ordering::SeqCst) & CACHED == 0
    }

    /// Whether [`Common::mark_cached`] was called.
    pub fn is_cached(&self) -> bool {
        self.flags.load(Ordering::SeqCst) & CACHED != 0
    }

    /// Adds one reference. False: the inode is being taken out of the table.
    pub fn acquire(&self) -> bool {
        let more = |refs| match refs {
            DEAD => None,
            refs => Some((refs + 1).min(COUNTLESS)),
        };
        self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Adds `n` references of an inode that is held.
    pub fn acquire_many(&self, n: u64) {
        let n = u32::try_from(n).unwrap_or(COUNTLESS);
        let more = |refs: u32| (refs != DEAD).then(|| refs.saturating_add(n).min(COUNTLESS));
        let _ = self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Takes `n` references back. True, for exactly one caller: they were the last.
    pub fn release(&self, n: u64) -> bool {
        let n = u32::try_from(n).unwrap_or(COUNTLESS);
        let less = |refs| match refs {
            DEAD | COUNTLESS => None,
            refs if refs <= n => Some(DEAD),
            refs => Some(refs - n),
        };
        matches!(self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, less), Ok(refs) if refs <= n)
    }

    /// What the union forbids on the upper object, as its mark `protattr` says.
    pub fn protection(&self) -> Protattr {
        let bits = self.protection.load(Ordering::Relaxed);
        Protattr { append: bits & APPEND != 0, immutable: bits & IMMUTABLE != 0 }
    }

    /// Whether the upper object itself was seen to be append-only: chattr(1) was used in the layer.
    pub fn appends(&self) -> bool {
        self.flags.load(Ordering::Acquire) & APPENDS != 0
    }

    /// Sets whether the upper object itself is append-only; returns whether it was before.
    pub fn set_appends(&self, appends: bool) -> bool {
        let before = match appends {
            true => self.flags.fetch_or(APPENDS, Ordering::AcqRel),
            false => self.flags.fetch_and(!APPENDS, Ordering::AcqRel),
        };
        before & APPENDS != 0
    }

    /// Whether the lower object had no extended attribute when it was found.
    pub fn is_bare_below(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & BARE != 0
    }

    /// Notes that the lower object has no extended attribute.
    pub fn set_bare_below(&self) {
        self.flags.fetch_or(BARE, Ordering::Relaxed);
    }

    /// Notes that another object is the lower one now, of which that is not known.
    pub fn may_be_dressed_below(&self) {
        self.flags.fetch_and(!BARE, Ordering::Relaxed);
    }

    /// Sets what the union forbids on the upper object.
    pub fn set_protection(&self, flags: Protattr) {
        let bits = if flags.append { APPEND } else { 0 } | if flags.immutable { IMMUTABLE } else { 0 };
        self.protection.store(bits, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_that_cannot_be_counted_are_kept() {
        let common = Common::new(Kind::File);
        assert!(common.acquire() && !common.release(1) && common.release(u64::MAX) && !common.acquire());
        let common = Common::new(Kind::File);
        common.refs.store(COUNTLESS - 1, Ordering::Relaxed);
        assert!(common.acquire() && common.acquire());
        assert!(!common.release(u64::MAX) && common.acquire());
    }

    #[test]
    fn the_first_who_marks_it_is_told_so_and_the_other_mark_stays() {
        let common = Common::new(Kind::File);
        common.set_loose(true);
        assert!(!common.is_cached() && common.mark_cached() && !common.mark_cached() && common.is_cached());
        common.set_loose(false);
        assert!(common.is_cached() && !common.is_loose());
    }
}
