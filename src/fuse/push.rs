//! Small files put into the kernel's cache before a program asks for them (`FUSE_NOTIFY_STORE`), in a view without an upper
//! layer: nothing in it changes, so that what is stored is right whenever it arrives.
//!
//! By the evidence of `prefetch.rs`: once two files were read in the order of the listings, the READ that comes next is
//! answered when the files after it are pushed, and a thread does the same with those after them, twice as far each time
//! the program asks for one all the same. The two share the work: with the thread alone the program, which takes half as
//! long for a file as a push, catches up with it at once, and reads every second file by itself.

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use super::order::{Order, SMALL_FILE};
use super::turns::Turns;
use crate::base::panics;
use crate::base::sync::{Condvar, Mutex};
use crate::union::Union;

/// Files that the thread goes ahead at most.
const MOST: u64 = 1024;
/// Files that are pushed before a READ is answered, at most: 20 us each.
const MOST_WAITED_FOR: u64 = 32;
/// Places that a program may leave out and be going on in the order all the same.
const NEAR: u64 = 64;
/// Room to see that a file is larger than it was listed.
const ROOM: usize = SMALL_FILE as usize + 1;

/// How far the files are pushed, and how far they are to be.
#[derive(Debug, Default)]
struct Way {
    /// The next place.
    next: u64,
    /// The first place that is too far.
    end: u64,
    /// How far ahead of the program that is.
    ahead: u64,
    /// Where the program was.
    read: u64,
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    way: Mutex<Way>,
    more: Condvar,
}

/// The one who pushes; the thread ends with it.
pub(super) struct Push {
    shared: Arc<Shared>,
    store: Arc<Store>,
    /// Room for the one READ that pushes before it is answered. With two of them each could wait for a page that the other
    /// one's answer is for.
    room: Mutex<Vec<u8>>,
}

/// What it takes to push a file.
struct Store {
    union: Arc<Union>,
    order: Arc<Order>,
    notifier: Notifier,
    turns: Arc<Turns>,
}

impl Push {
    /// Starts the thread.
    ///
    /// # Errors
    /// `EAGAIN` where there can be no more threads.
    pub fn start(
        (union, order): (Arc<Union>, Arc<Order>),
        notifier: Notifier,
        turns: Arc<Turns>,
    ) -> std::io::Result<Self> {
        let store = Arc::new(Store { union, order, notifier, turns });
        let push = Self { shared: Arc::default(), store, room: Mutex::new(vec![0; ROOM]) };
        let (shared, store) = (push.shared.clone(), push.store.clone());
        std::thread::Builder::new().name("plyfs-push".into()).spawn(move || {
            let mut room = vec![0; ROOM];
            while let Some(place) = shared.wait() {
                panics::caught(|| store.push_unless_read(place, &mut room));
            }
        })?;
        Ok(push)
    }

    /// A program reads the file at this place, and is not answered yet.
    pub fn read(&self, place: u64) {
        let ahead = self.shared.way.lock().read(place);
        if ahead == 0 {
            return;
        }
        self.store.turns.much();
        self.shared.more.notify_one();
        let Some(mut room) = self.room.try_lock() else { return };
        // A store may wait for a READ of another program: somebody else has to answer that.
        self.store.turns.call_one();
        for _ in 0..ahead.min(MOST_WAITED_FOR) {
            let Some(place) = self.shared.way.lock().step() else { return };
            self.store.push(place, &mut room);
        }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.shared.way.lock().over = true;
        self.shared.more.notify_one();
    }
}

impl Shared {
    /// The next place, once there is one; `None` at the end.
    fn wait(&self) -> Option<u64> {
        let mut way = self.way.lock();
        loop {
            if way.over {
                return None;
            }
            if let Some(place) = way.step() {
                return Some(place);
            }
            self.more.wait(&mut way);
        }
    }
}

impl Way {
    /// A program reads the file at this place: how far ahead of it files are to be pushed.
    fn read(&mut self, place: u64) -> u64 {
        let from = self.read.max(self.end.saturating_sub(1)).max(1);
        let near = self.read > 0 && place >= self.read && place <= from + NEAR;
        self.ahead = if near { (self.ahead * 2).clamp(4, MOST) } else { 0 };
        self.read = place;
        if self.next <= place || self.next > place + 2 * MOST {
            self.next = place + 1;
        }
        self.end = if near { place + 1 + self.ahead } else { 0 };
        self.ahead
    }

    /// The next place that is to be pushed.
    fn step(&mut self) -> Option<u64> {
        let place = self.next;
        (place < self.end).then(|| {
            self.next += 1;
            place
        })
    }
}

impl Store {
    /// Pushes the file at a place for a program that waits meanwhile.
    fn push(&self, place: u64, room: &mut [u8]) {
        self.push_if(place, room, || true);
    }

    /// Pushes it unless the program has caught up and asks for it: then it has the page, for which the store would wait.
    fn push_unless_read(&self, place: u64, room: &mut [u8]) {
        self.push_if(place, room, || !self.turns.have_requests());
    }

    fn push_if(&self, place: u64, room: &mut [u8], free: impl FnOnce() -> bool) {
        let Some(id) = self.order.after(place.saturating_sub(1), 1).next() else { return };
        let Ok(read) = self.union.read(id, 0, room) else { return };
        if free()
            && self.order.take(id).is_some()
            && let Some(bytes) = room.get(..read).filter(|bytes| !bytes.is_empty() && bytes.len() < ROOM)
            && let Err(error) = self.notifier.store(INodeNo(id.0), 0, bytes)
        {
            log::debug!("{} is not pushed: {error}", id.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_pushed_ahead_of_who_reads_in_order_but_not_of_who_does_not() {
        let mut way = Way::default();
        assert_eq!((way.read(10), way.step()), (0, None));
        assert_eq!(way.read(11), 4);
        let steps = |way: &mut Way| std::iter::from_fn(|| way.step()).collect::<Vec<_>>();
        assert_eq!(steps(&mut way), [12, 13, 14, 15]);
        // It asks for what was pushed, and is gone by now; and for what was not yet.
        assert_eq!((way.read(14), steps(&mut way)), (8, (16..=22).collect()));
        assert_eq!((way.read(23), steps(&mut way)), (16, (24..=39).collect()));
        // It was faster.
        assert_eq!((way.read(45), way.step()), (32, Some(46)));
        assert_eq!((way.read(5), way.step()), (0, None), "back");
    }
}
