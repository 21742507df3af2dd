//! What every inode has, whatever its kind.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::base::sync::{AtomicU32, Mutex};
use crate::format::Protattr;
use crate::sys::stat::Kind;

/// What every inode has: also `inode.kind` and `inode.up`. It is within the body, where its `kind` tells the two sorts of
/// body apart, so that no word is spent on that.
pub struct Common {
    /// Lookups that were not forgotten, and children that are held.
    refs: AtomicU32,
    /// Its type; it never changes.
    pub kind: Kind,
    /// What `chattr` forbids on its upper object: bits [`APPEND`] and [`IMMUTABLE`].
    protection: AtomicU8,
    /// Bits [`LOOSE`], [`CACHED`], [`APPENDS`] and [`BARE`].
    flags: AtomicU8,
    /// Held through its copy-up (lock order: `locks.rs`).
    pub up: Mutex<CopyUpTurn>,
}

const APPEND: u8 = 1;
const IMMUTABLE: u8 = 2;
/// That its upper object is seen, or has its data itself, may not be on disk yet.
const LOOSE: u8 = 1;
/// The kernel may have data of it, or a program may be about to change it.
const CACHED: u8 = 2;
/// Its upper object itself is append-only.
const APPENDS: u8 = 4;
/// Its lower object had no extended attribute when it was found.
const BARE: u8 = 8;

/// What [`Common::up`] guards, and by what the order of the locks knows it.
pub struct CopyUpTurn;

/// `refs` of an inode that is being taken out of the table.
const DEAD: u32 = u32::MAX;
/// `refs` that can no longer be counted: the inode stays as long as this is mounted.
const COUNTLESS: u32 = DEAD - 1;

impl Common {
    /// Of a new inode with one reference.
    pub(super) fn new(kind: Kind) -> Self {
        let (refs, protection, flags) = (AtomicU32::new(1), AtomicU8::new(0), AtomicU8::new(0));
        Self { refs, kind, protection, flags, up: Mutex::new(CopyUpTurn) }
    }

    /// Whether its copy-up may not be on disk yet.
    pub fn is_loose(&self) -> bool {
        self.flags.load(Ordering::Acquire) & LOOSE != 0
    }

    /// It is so from now on, or no longer. The caller holds its `up`.
    pub fn set_loose(&self, loose: bool) {
        if loose {
            self.flags.fetch_or(LOOSE, Ordering::AcqRel);
        } else {
            self.flags.fetch_and(!LOOSE, Ordering::AcqRel);
        }
    }

    /// The kernel may have data of it from now on, or a program may be about to change it, for as long as this lives: true
    /// for the first who says so. Sequentially consistent.
    pub fn mark_cached(&self) -> bool {
        !self.is_cached() && self.flags.fetch_or(CACHED, Ordering::SeqCst) & CACHED == 0
    }

    /// Whether somebody said so.
    pub fn is_cached(&self) -> bool {
        self.flags.load(Ordering::SeqCst) & CACHED != 0
    }

    /// One reference more; false where the inode is on its way out.
    pub fn acquire(&self) -> bool {
        let more = |refs| match refs {
            DEAD => None,
            refs => Some((refs + 1).min(COUNTLESS)),
        };
        self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// `n` references more of an inode that is held.
    pub fn acquire_many(&self, n: u64) {
        let n = u32::try_from(n).unwrap_or(COUNTLESS);
        let more = |refs: u32| (refs != DEAD).then(|| refs.saturating_add(n).min(COUNTLESS));
        let _ = self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// `n` references less; true where these were the last (exactly one caller is told so).
    pub fn release(&self, n: u64) -> bool {
        let n = u32::try_from(n).unwrap_or(COUNTLESS);
        let less = |refs| match refs {
            DEAD | COUNTLESS => None,
            refs if refs <= n => Some(DEAD),
            refs => Some(refs - n),
        };
        matches!(self.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, less), Ok(refs) if refs <= n)
    }

    /// What `chattr` forbids on its upper object.
    pub fn protection(&self) -> Protattr {
        let bits = self.protection.load(Ordering::Relaxed);
        Protattr { append: bits & APPEND != 0, immutable: bits & IMMUTABLE != 0 }
    }

    /// Whether its upper object was seen to be append-only itself: `chattr` was used in the layer.
    pub fn appends(&self) -> bool {
        self.flags.load(Ordering::Acquire) & APPENDS != 0
    }

    /// It is so from now on, or no longer; what it was before.
    pub fn set_appends(&self, appends: bool) -> bool {
        let before = match appends {
            true => self.flags.fetch_or(APPENDS, Ordering::AcqRel),
            false => self.flags.fetch_and(!APPENDS, Ordering::AcqRel),
        };
        before & APPENDS != 0
    }

    /// Whether its lower object had no extended attribute when it was found.
    pub fn is_bare_below(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & BARE != 0
    }

    /// Its lower object has no extended attribute.
    pub fn set_bare_below(&self) {
        self.flags.fetch_or(BARE, Ordering::Relaxed);
    }

    /// That is so from now on.
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
