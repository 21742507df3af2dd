//! Files put into the kernel's cache before a program asks for them, as far as `store.rs` finds it right.
//!
//! By evidence: once two small files were read in the order of the listings, the READ that comes next is answered when the
//! files after it are pushed, and a thread does the same with those after them, twice as far each time the program asks
//! for one all the same. The two share the work: with the thread alone the program, which takes half as long for a file as
//! a push, catches up with it at once. Who has caught up asks for a file just while it is pushed, and would for the next
//! ones: so the thread stops there, and goes on with the next READ (24,000 files: 330 READs instead of 1,400). It also
//! pushes the windows around random reads of large files, each once.

use std::sync::Arc;

use super::order::{Order, SMALL_FILE};
use super::random::Window;
use super::store::{Hand, Stores, WHOLE};
use crate::base::panics;
use crate::base::sync::{Condvar, Mutex};
use crate::fuse::turns::Turns;

/// Files that the thread goes ahead at most.
const MOST: u64 = 1024;
/// Files that are pushed before a READ is answered, at most: 15 us each.
const MOST_WAITED_FOR: u64 = 32;
/// Places that a program may leave out and be going on in the order all the same.
const NEAR: u64 = 64;

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
}

/// What the thread is to do.
#[derive(Default)]
struct Work {
    way: Way,
    window: Option<Window>,
    over: bool,
}

enum Task {
    File(u64),
    Window(Window),
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    more: Condvar,
}

/// The one who pushes; the thread ends with it.
pub(in crate::fuse) struct Push {
    shared: Arc<Shared>,
    pusher: Arc<Pusher>,
    /// For the one READ that pushes before it is answered. With two of them each could wait for a page that the other
    /// one's answer is for.
    hand: Mutex<Hand>,
}

/// What it takes to push a file.
struct Pusher {
    order: Arc<Order>,
    stores: Arc<Stores>,
    turns: Arc<Turns>,
}

impl Push {
    /// How many hands it takes.
    pub const HANDS: usize = 2;

    /// Starts the thread. `hands`: one for it, one for the READs.
    ///
    /// # Errors
    /// `EAGAIN` where there can be no more threads.
    pub fn start(
        order: Arc<Order>,
        (stores, mut theirs, ours): (Arc<Stores>, Hand, Hand),
        turns: Arc<Turns>,
    ) -> std::io::Result<Self> {
        let pusher = Arc::new(Pusher { order, stores, turns });
        let push = Self { shared: Arc::default(), pusher, hand: Mutex::new(ours) };
        let (shared, pusher) = (push.shared.clone(), push.pusher.clone());
        std::thread::Builder::new().name("plyfs-push".into()).spawn(move || {
            while let Some(task) = shared.wait() {
                panics::caught(|| match task {
                    Task::File(place) => pusher.file(place, &mut theirs),
                    Task::Window(window) => pusher.window(&window, &mut theirs),
                });
            }
        })?;
        Ok(push)
    }

    /// A program reads the small file at this place, and is not answered yet; it is at once, if that is `urgent`.
    pub fn read(&self, place: u64, urgent: bool) {
        let ahead = self.shared.work.lock().way.read(place, self.pusher.order.last());
        if ahead == 0 {
            return;
        }
        self.pusher.turns.much();
        self.shared.more.notify_one();
        let Some(mut hand) = self.hand.try_lock().filter(|_| !urgent) else { return };
        // A store may wait for a READ of another program: somebody else has to answer that.
        self.pusher.turns.call_one();
        for _ in 0..ahead.min(MOST_WAITED_FOR) {
            let Some(place) = self.shared.work.lock().way.step() else { return };
            self.pusher.file(place, &mut hand);
        }
    }

    /// A program reads what is just being pushed, and is answered at once.
    pub fn caught_up(&self) {
        self.shared.work.lock().way.caught_up();
    }

    /// A program reads at random in this window, and is not answered yet.
    pub fn window(&self, window: Window) {
        self.pusher.turns.much();
        let more = {
            let mut work = self.shared.work.lock();
            if work.window.is_some() { Some(window) } else { work.window.replace(window) }
        };
        let Some(window) = more else {
            self.shared.more.notify_one();
            return;
        };
        let Some(mut hand) = self.hand.try_lock() else { return };
        self.pusher.turns.call_one();
        self.pusher.window(&window, &mut hand);
    }
}

impl Drop for Push {
    fn drop(&mut self) {
        self.shared.work.lock().over = true;
        self.shared.more.notify_one();
    }
}

impl Shared {
    /// What is next, once there is something; `None` at the end.
    fn wait(&self) -> Option<Task> {
        let mut work = self.work.lock();
        loop {
            if work.over {
                return None;
            }
            if let Some(window) = work.window.take() {
                return Some(Task::Window(window));
            }
            if let Some(place) = work.way.step() {
                return Some(Task::File(place));
            }
            self.more.wait(&mut work);
        }
    }
}

impl Way {
    /// A program reads the file at this place, and nothing is listed yet after `last`: how many are to be pushed.
    fn read(&mut self, place: u64, last: u64) -> u64 {
        let from = self.read.max(self.end.saturating_sub(1)).max(1);
        let near = self.read > 0 && place >= self.read && place <= from + NEAR;
        self.ahead = if near { (self.ahead * 2).clamp(4, MOST) } else { 0 };
        self.read = place;
        if self.next <= place || self.next > place + 2 * MOST {
            self.next = place + 1;
        }
        self.end = if near { (place + 1 + self.ahead).min(last + 1) } else { 0 };
        self.end.saturating_sub(self.next)
    }

    /// The program asks for the file that is just being pushed: nothing more is until it asks for the next one.
    fn caught_up(&mut self) {
        self.end = self.end.min(self.next);
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

impl Pusher {
    /// Pushes the small file at a place.
    fn file(&self, place: u64, hand: &mut Hand) {
        let Some(id) = self.order.after(place.saturating_sub(1), 1).next() else { return };
        let Some(file) = self.stores.union.hold(id).filter(|file| !file.is_cached()) else { return };
        let Some(room) = hand.room().get_mut(..SMALL_FILE as usize) else { return };
        let Ok(read) = file.read_whole(room) else { return };
        if read > 0 && self.order.take(id).is_some() {
            // What was read above is right where nothing had a mark until now.
            let claim = || file.mark_cached().then_some(0..read).into_iter().collect();
            hand.store(&self.stores, (&file, WHOLE), claim);
        }
    }

    /// Pushes a window, as far as the layer has it in the cache.
    fn window(&self, window: &Window, hand: &mut Hand) {
        let (union, (start, len)) = (&self.stores.union, window.part());
        if !union.is_in_cache(window.id, start, len as u64) {
            return;
        }
        let (Some(file), Some(room)) = (union.hold(window.id), hand.room().get_mut(..len)) else { return };
        if union.read(window.id, start, room) == Ok(len) {
            let windows = window.number..window.number + 1;
            hand.store(&self.stores, (&file, windows), || window.claim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_pushed_ahead_of_who_reads_in_order_but_not_of_who_does_not() {
        let mut way = Way::default();
        let far = 1 << 20;
        assert_eq!((way.read(10, far), way.step()), (0, None));
        assert_eq!(way.read(11, far), 4);
        let steps = |way: &mut Way| std::iter::from_fn(|| way.step()).collect::<Vec<_>>();
        assert_eq!(steps(&mut way), [12, 13, 14, 15]);
        // It asks for what was pushed, and is gone by now; and for what was not yet.
        assert_eq!((way.read(14, far), steps(&mut way)), (7, (16..=22).collect()));
        assert_eq!((way.read(23, far), steps(&mut way)), (16, (24..=39).collect()));
        // It was faster.
        assert_eq!((way.read(45, far), way.step()), (32, Some(46)));
        // It asks for what is being pushed, then for the next one.
        way.caught_up();
        assert_eq!(way.step(), None);
        assert_eq!((way.read(47, far), way.step()), (64, Some(48)));
        // The directory ends there; the next one is listed.
        assert_eq!((way.read(48, 50), steps(&mut way)), (2, (49..=50).collect()));
        assert_eq!((way.read(51, 60), steps(&mut way)), (9, (52..=60).collect()));
        assert_eq!((way.read(5, far), way.step()), (0, None), "back");
    }
}
