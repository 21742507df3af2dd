//! Reading ahead of programs where the kernel does not: of the next small files of a walk, and around random reads.
//!
//! It needs opens that are not asked for, and timeouts that do not end: an open that is answered, or a lookup that brings
//! other attributes, may make the kernel drop the file's pages, and wait for one that a READ holds which nobody answers yet.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::guard::Guarded;
use super::order::{Order, SMALL_FILE};
use super::push::Push;
use super::random::Random;
use super::store::{Job, Stores, WHOLE, WINDOW};
use crate::base::Result;
use crate::fuse::turns::Turns;
use crate::sys::stat::Kind;
use crate::union::{Attr, InodeId, Union};

/// What was read and listed lately, and who pushes what is next.
pub struct Prefetch {
    union: Arc<Union>,
    order: Arc<Order>,
    random: Random,
    stores: Arc<Stores>,
    push: Push,
}

impl Prefetch {
    /// For a view with this connection, and its guard.
    ///
    /// # Errors
    /// `ENOMEM`, or `EAGAIN` where there can be no more threads.
    pub fn new(union: &Arc<Union>, guarded: (OwnedFd, Guarded), turns: &Arc<Turns>) -> std::io::Result<Self> {
        let order = Arc::<Order>::default();
        let hands = Stores::new(union.clone(), guarded, Push::HANDS);
        let (stores, hands) = hands.map_err(|errno| std::io::Error::from_raw_os_error(errno.raw()))?;
        let [theirs, ours] = <[_; Push::HANDS]>::try_from(hands).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
        let push = Push::start(order.clone(), (stores.clone(), theirs, ours), turns.clone())?;
        Ok(Self { union: union.clone(), order, random: Random::default(), stores, push })
    }

    /// The view is unmounted.
    pub fn finish(&self) {
        self.stores.finish();
    }

    /// A name was listed with its attributes.
    pub fn listed(&self, id: InodeId, attr: &Attr) {
        if attr.kind == Kind::File && attr.size > 0 && attr.size <= SMALL_FILE && !self.union.is_cached(id) {
            self.order.add(id);
        }
    }

    /// An inode is known no longer.
    pub fn forget(&self, id: InodeId) {
        self.order.take(id);
        self.random.end(id);
    }

    /// A READ arrived and is not answered yet.
    ///
    /// # Errors
    /// `ENOMEM`: it must fail.
    pub fn read(&self, id: InodeId, offset: u64, size: u32) -> Result<()> {
        let place = self.order.take(id);
        let window = match place {
            Some(_) => {
                self.union.mark_cached(id);
                None
            }
            None => {
                self.random.meet(&self.union, id);
                self.random.read(id, offset, u64::from(size))
            }
        };
        // Who stores waits for the answer then.
        let awaited = self.stores.call_back(id, &windows(offset, u64::from(size)))?;
        match (place, window) {
            (Some(place), _) => self.push.read(place, awaited),
            (None, None) if awaited => self.push.caught_up(),
            (None, Some(_)) if awaited => {}
            (None, Some(window)) => self.push.window(window),
            (None, None) => {}
        }
        Ok(())
    }

    /// A request arrived that begins a change of a file's data, or lets a program begin one. It is not answered yet.
    ///
    /// # Errors
    /// `ENOMEM`: it must fail.
    pub fn changing(&self, id: InodeId) -> Result<()> {
        self.change(id).map(drop)
    }

    /// The same of a WRITE, before which the kernel asked for something.
    ///
    /// # Errors
    /// `ENOMEM`: it must fail.
    pub fn writing(&self, id: InodeId) -> Result<()> {
        if self.change(id)? {
            self.stores.stop("this kernel writes to files without asking for security.capability first");
        }
        Ok(())
    }

    fn change(&self, id: InodeId) -> Result<bool> {
        let first = self.union.mark_cached(id);
        if first {
            self.order.take(id);
        }
        self.random.end(id);
        self.stores.call_back(id, &WHOLE)?;
        Ok(first)
    }

    /// Does this once no store to a file that is [changing](Self::changing) is under way.
    pub fn after_stores(&self, id: InodeId, job: Job) {
        self.stores.after(id, job);
    }
}

/// The windows that this part of a file is in.
fn windows(offset: u64, size: u64) -> Range<u64> {
    offset / WINDOW..offset.saturating_add(size).div_ceil(WINDOW)
}
