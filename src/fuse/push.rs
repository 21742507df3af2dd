//! Small files put into the kernel's cache before a program asks for them (`FUSE_NOTIFY_STORE`), in a view without an upper
//! layer: nothing in it changes, so that what is stored is right whenever it arrives.
//!
//! A thread goes ahead of the program in the order of the listings, by the evidence of `prefetch.rs`: once two files were
//! read in that order, and twice as far each time the program asks for one all the same.

use std::sync::Arc;

use fuser::{INodeNo, Notifier};

use super::order::{Order, SMALL_FILE};
use crate::base::panics;
use crate::base::sync::{Condvar, Mutex};
use crate::union::{InodeId, Union};

/// Files that the thread goes ahead at most.
const MOST: u64 = 1024;
/// Places that a program may leave out and be going on in the order all the same.
const NEAR: u64 = 64;
/// Places that are left to a program that was faster, at first.
const LEAD: u64 = 8;
/// Room to see that a file is larger than it was listed.
const ROOM: usize = SMALL_FILE as usize + 1;

/// Where the thread is, and how far it is to go.
#[derive(Debug, Default)]
struct Way {
    /// The next place.
    next: u64,
    /// The first place that is too far.
    end: u64,
    /// How far ahead of the program that is.
    ahead: u64,
    /// Places that are left to the program when it was faster.
    lead: u64,
    /// Where the program was.
    read: u64,
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    way: Mutex<Way>,
    more: Condvar,
}

/// The one who goes ahead; the thread ends with it.
#[derive(Debug)]
pub(super) struct Push(Arc<Shared>);

impl Push {
    /// Starts the thread.
    ///
    /// # Errors
    /// `EAGAIN` where there can be no more threads.
    pub fn start(union: Arc<Union>, order: Arc<Order>, notifier: Notifier) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let push = Self(shared.clone());
        std::thread::Builder::new().name("plyfs-push".into()).spawn(move || {
            let mut room = vec![0; ROOM];
            while let Some(place) = shared.step() {
                panics::caught(|| {
                    for id in order.after(place.saturating_sub(1), 1) {
                        order.take(id);
                        store(&union, &notifier, id, &mut room);
                    }
                });
            }
        })?;
        Ok(push)
    }

    /// A program reads the file at this place.
    pub fn read(&self, place: u64) {
        if self.0.way.lock().read(place) {
            self.0.more.notify_one();
        }
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.0.way.lock().over = true;
        self.0.more.notify_one();
    }
}

impl Shared {
    /// The next place, once there is one; `None` at the end.
    fn step(&self) -> Option<u64> {
        let mut way = self.way.lock();
        while way.next >= way.end && !way.over {
            self.more.wait(&mut way);
        }
        way.next += 1;
        (!way.over).then(|| way.next - 1)
    }
}

impl Way {
    /// True where there is something to do.
    fn read(&mut self, place: u64) -> bool {
        let from = self.read.max(self.end.saturating_sub(1)).max(1);
        let near = self.read > 0 && place >= self.read && place <= from + NEAR;
        self.ahead = if near { (self.ahead * 2).clamp(4, MOST) } else { 0 };
        self.read = place;
        if self.ahead == 0 {
            self.end = 0;
            return false;
        }
        if self.next <= place || self.next > place + MOST {
            // The program was faster: room, twice as much each time, so that the two do not meet at each file.
            self.lead = (self.lead * 2).clamp(LEAD, MOST / 4);
            self.next = place + self.lead;
        } else {
            self.lead = 0;
        }
        self.end = place + self.lead + 1 + self.ahead;
        true
    }
}

fn store(union: &Union, notifier: &Notifier, id: InodeId, room: &mut [u8]) {
    let Ok(read) = union.read(id, 0, room) else { return };
    if let Some(bytes) = room.get(..read).filter(|bytes| !bytes.is_empty() && bytes.len() < ROOM)
        && let Err(error) = notifier.store(INodeNo(id.0), 0, bytes)
    {
        log::debug!("{} is not pushed: {error}", id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_goes_ahead_of_who_reads_in_order_and_lets_go_of_who_does_not() {
        let mut way = Way::default();
        assert!(!way.read(10));
        assert!(way.read(11));
        assert_eq!((way.next, way.end), (19, 24));
        way.next = 20;
        // The program asks for what the thread has not reached.
        assert!(way.read(22));
        assert_eq!((way.next, way.end), (38, 47));
        // It asks for what was left to it.
        assert!(way.read(30));
        assert_eq!((way.next, way.end), (38, 47));
        assert!(!way.read(5), "back");
        assert!(way.next >= way.end);
    }
}
