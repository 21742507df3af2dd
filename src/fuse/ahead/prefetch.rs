//! Reading ahead of programs where the kernel does not: of the next small files of a walk, and around random reads.
//!
//! It needs opens that are not asked for, and timeouts that do not end: an open that is answered, or a lookup that brings
//! other attributes, may make the kernel drop the file's pages, and wait for one that a READ holds which nobody answers yet.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::guard::Guard;
use super::order::{Order, SMALL_FILE};
use super::push::Push;
use super::random::Random;
use super::store::{Landing, Stores, WHOLE, WINDOW};
use crate::base::Result;
use crate::fuse::turns::Turns;
use crate::union::{Attr, InodeId, Live, Operation};

/// What was read and listed lately, and who pushes what is next.
pub struct Prefetch {
    live: Arc<Live>,
    order: Arc<Order>,
    random: Random,
    stores: Arc<Stores>,
    push: Push,
}

impl Prefetch {
    /// For a view with this connection, and its guard. Fails with `EINVAL` before Linux 6.9; `ENOMEM`, `EAGAIN`.
    pub fn start(live: &Arc<Live>, (connection, guard): (&OwnedFd, Guard), turns: &Arc<Turns>) -> io::Result<Self> {
        let guarded = guard.take(connection.as_fd())?;
        let (stores, hands) = Stores::new(live.clone(), (connection.try_clone()?, guarded))?;
        let (order, random) = (Arc::<Order>::default(), Random::default());
        let push = Push::start(order.clone(), stores.clone(), hands, turns.clone())?;
        Ok(Self { live: live.clone(), order, random, stores, push })
    }

    /// The view is unmounted.
    pub fn finish(&self) {
        self.stores.finish();
    }

    /// The name of a file was listed with its attributes.
    pub fn listed(&self, id: InodeId, attr: &Attr) {
        if attr.size > 0 && attr.size <= SMALL_FILE && !self.live.enter().is_cached(id) {
            self.order.add(id);
        }
    }

    /// An inode is known no longer.
    pub fn forget(&self, id: InodeId) {
        self.order.take(id);
        self.random.end(id);
    }

    /// A READ arrived and is not answered yet. `ENOMEM`: it must fail.
    pub fn read(&self, id: InodeId, offset: u64, size: u64) -> Result<()> {
        let place = self.order.take(id);
        let window = match place {
            Some(_) => {
                self.live.enter().mark_cached(id);
                None
            }
            None => self.random.read(&self.live.enter(), id, offset, size),
        };
        let windows = offset / WINDOW..offset.saturating_add(size).div_ceil(WINDOW);
        // Who stores waits for the answer then.
        let awaited = self.stores.call_back(id, &windows)?;
        match (place, window) {
            (Some(place), _) => self.push.read(place, awaited),
            (None, None) if awaited => self.push.caught_up(),
            (None, Some(window)) if !awaited => self.push.window(window),
            _ => {}
        }
        Ok(())
    }

    /// As [`Ahead::changing`](super::Ahead::changing).
    pub fn changing(&self, operation: &Operation) -> Result<Option<Landing<'_>>> {
        let id = match *operation {
            Operation::Look | Operation::Attributes(_) | Operation::Unname(..) | Operation::Sync(_) => return Ok(None),
            Operation::Data(id) | Operation::Write(id) | Operation::LookBeforeWrite(id) => id,
            Operation::Length(id, _) | Operation::CopyInto(id, _) => id,
        };
        let first = self.live.enter().mark_cached(id);
        if first {
            self.order.take(id);
        }
        self.random.end(id);
        let called_back = self.stores.call_back(id, &WHOLE);
        let landing = Landing { stores: &self.stores, id };
        match (operation, called_back) {
            // The kernel then writes, whatever the answer is.
            (Operation::LookBeforeWrite(_), called_back) => Ok(called_back.is_err().then_some(landing)),
            // A file must not be cut while the kernel compares its length with that of the store.
            (Operation::Length(..), Ok(flies)) => Ok(flies.then_some(landing)),
            (Operation::Write(_), Ok(_)) if first => {
                self.stores.stop("this kernel writes to files without asking for security.capability first");
                Ok(None)
            }
            (_, called_back) => called_back.map(|_| None),
        }
    }
}
