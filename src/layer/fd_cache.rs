//! A bound on open descriptors: each holder of one can be asked to close it, and opens it again when it is needed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::base::sync::Mutex;

/// A holder of one descriptor that can be opened again.
pub trait Evict: Send + Sync {
    /// Whether the descriptor was used since the last call.
    fn take_used(&self) -> bool;
    /// Closes the descriptor. A thread in the middle of a call keeps its own reference.
    fn evict(&self);
}

/// Second-chance (CLOCK) eviction over all holders.
pub struct FdCache {
    limit: usize,
    queue: Mutex<Queue>,
}

/// The holders, the oldest first.
#[derive(Default)]
struct Queue {
    holders: VecDeque<Weak<dyn Evict>>,
    /// How many holders in the queue are known to be gone.
    gone: usize,
}

/// This many holders that are gone may stay in the queue.
const FEW: usize = 32;

impl FdCache {
    /// A cache that keeps about `limit` descriptors open.
    pub fn new(limit: usize) -> Self {
        Self { limit, queue: Mutex::default() }
    }

    /// Enters a holder that has just opened its descriptor. Where the limit is passed other holders must close theirs.
    ///
    /// Must be called without a lock that `evict` of any holder takes.
    pub fn opened(&self, holder: Weak<dyn Evict>) {
        let mut spare = {
            let mut queue = self.queue.lock();
            queue.holders.push_back(holder);
            queue.holders.len().saturating_sub(self.limit)
        };
        // At most one round of second chances for each descriptor over the limit.
        let mut chances = self.limit;
        while spare > 0 {
            let Some(weak) = self.queue.lock().holders.pop_front() else { return };
            let Some(oldest) = weak.upgrade() else {
                spare -= 1;
                continue;
            };
            if chances > 0 && oldest.take_used() {
                chances -= 1;
                self.queue.lock().holders.push_back(weak);
                continue;
            }
            oldest.evict();
            spare -= 1;
        }
    }

    /// Notes that a holder is dropped with its descriptor open. The holder's entry keeps its memory, so that such
    /// entries are swept out once they are half of the queue.
    pub fn gone(&self) {
        let mut queue = self.queue.lock();
        queue.gone += 1;
        if queue.gone > FEW && queue.gone * 2 > queue.holders.len() {
            queue.gone = 0;
            queue.holders.retain(|holder| holder.strong_count() > 0);
            let room = queue.holders.len() * 2;
            queue.holders.shrink_to(room);
        }
    }

    /// Closes every descriptor, for when the process can open no more (`EMFILE`).
    pub fn evict_all(&self) {
        let all: Vec<Arc<dyn Evict>> = self.queue.lock().holders.drain(..).filter_map(|weak| weak.upgrade()).collect();
        all.iter().for_each(|holder| holder.evict());
    }
}

impl std::fmt::Debug for FdCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FdCache({} of {})", self.queue.lock().holders.len(), self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    #[derive(Default)]
    struct Holder {
        used: AtomicBool,
        gone: AtomicBool,
    }

    impl Evict for Holder {
        fn take_used(&self) -> bool {
            self.used.swap(false, Relaxed)
        }
        fn evict(&self) {
            self.gone.store(true, Relaxed);
        }
    }

    #[test]
    fn the_oldest_unused_descriptor_goes_first() {
        let cache = FdCache::new(2);
        let holders: Vec<_> = (0..3).map(|_| Arc::new(Holder::default())).collect();
        let enter = |holder: &Arc<Holder>| {
            let weak: Weak<Holder> = Arc::downgrade(holder);
            cache.opened(weak);
        };
        holders[0].used.store(true, Relaxed);
        holders.iter().for_each(enter);
        let gone: Vec<_> = holders.iter().map(|h| h.gone.load(Relaxed)).collect();
        assert_eq!(gone, [false, true, false]);
    }

    #[test]
    fn what_the_queue_has_of_holders_that_are_gone_is_swept_out() {
        let cache = FdCache::new(10_000);
        let live = Arc::new(Holder::default());
        let enter = |holder: &Arc<Holder>| {
            let weak: Weak<Holder> = Arc::downgrade(holder);
            cache.opened(weak);
        };
        enter(&live);
        let holders: Vec<_> = (0..1000).map(|_| Arc::new(Holder::default())).collect();
        holders.iter().for_each(enter);
        for holder in holders {
            drop(holder);
            cache.gone();
        }
        let queue = cache.queue.lock();
        assert!(queue.holders.len() <= 2 * FEW + 2 && queue.holders.capacity() <= 200, "{}", queue.holders.len());
        assert!(queue.holders.iter().any(|holder| holder.strong_count() > 0));
    }

    #[test]
    fn dead_holders_do_not_count_for_long() {
        let cache = FdCache::new(2);
        for _ in 0..100 {
            let weak: Weak<Holder> = Arc::downgrade(&Arc::new(Holder::default()));
            cache.opened(weak);
        }
        assert!(cache.queue.lock().holders.len() <= 3);
    }
}
