//! Files put into the kernel's cache before a program asks for them, as far as `store.rs` finds it right.
//!
//! It begins once two small files were read in the order of the listings. The next READ pushes the files after its own
//! before it is answered. A thread pushes those after them, twice as far each time that the program has to ask all the same.
//! It takes both: a push takes twice as long as the program does for a file, so that the program would catch up with the
//! thread alone at once. A program that has caught up asks for the very file that is being pushed, and would do so with each
//! of the next. There the thread stops until the next READ (24,000 files: 330 READs instead of 1,400). It also pushes the
//! windows around random reads of large files, each once.

use std::io;
use std::sync::Arc;

use super::order::{Order, SMALL_FILE};
use super::random::Window;
use super::store::{Hand, Stores, WHOLE};
use super::worker::{Work, Worker};
use crate::base::sync::{Mutex, MutexGuard};
use crate::fuse::turns::Turns;

/// Files that the thread goes ahead at most.
const MOST: u64 = 1024;
/// Files that are pushed before a READ is answered, at most: 15 us each.
const MOST_WAITED_FOR: u64 = 32;
/// Places that a program may leave out and be going on in the order all the same.
const NEAR: u64 = 64;

/// How far the files are pushed, and how far they are to be, in places of the [`Order`].
#[derive(Debug, Default)]
struct Plan {
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
struct ToPush {
    plan: Plan,
    window: Option<Window>,
}

enum Task {
    File(u64),
    Window(Window),
}

/// Pushes files and windows, by a thread and by the READs themselves.
pub struct Push {
    thread: Worker<ToPush>,
    pusher: Arc<Pusher>,
    turns: Arc<Turns>,
    /// For the one READ that pushes before it is answered. With two of them each could wait for a page that the other
    /// one's answer is for.
    hand: Mutex<Hand>,
}

/// What it takes to push a file.
struct Pusher {
    order: Arc<Order>,
    stores: Arc<Stores>,
}

impl Push {
    /// Starts the thread. Fails with `EAGAIN` where there can be no more threads.
    pub fn start(
        order: Arc<Order>,
        stores: Arc<Stores>,
        [ours, mut theirs]: [Hand; 2],
        turns: Arc<Turns>,
    ) -> io::Result<Self> {
        let pusher = Arc::new(Pusher { order, stores });
        let by_thread = pusher.clone();
        let thread = Worker::start("plyfs-push", ToPush::default(), move |task| by_thread.push(task, &mut theirs))?;
        Ok(Self { thread, pusher, turns, hand: Mutex::new(ours) })
    }

    /// A program reads the small file at this place, and is not answered yet; it is at once, if that is `urgent`.
    pub fn read(&self, place: u64, urgent: bool) {
        let ahead = self.thread.work().plan.read(place, self.pusher.order.last());
        if ahead == 0 {
            return;
        }
        self.turns.work_for_two();
        self.thread.wake();
        let Some(mut hand) = self.hand(urgent) else { return };
        for _ in 0..ahead.min(MOST_WAITED_FOR) {
            let Some(place) = self.thread.work().plan.step() else { return };
            self.pusher.push(Task::File(place), &mut hand);
        }
    }

    /// A program reads what is just being pushed, and is answered at once.
    pub fn caught_up(&self) {
        self.thread.work().plan.caught_up();
    }

    /// A program reads at random in this window, and is not answered yet.
    pub fn window(&self, window: Window) {
        self.turns.work_for_two();
        let second = {
            let mut work = self.thread.work();
            if work.window.is_some() { Some(window) } else { work.window.replace(window) }
        };
        let Some(window) = second else { return self.thread.wake() };
        if let Some(mut hand) = self.hand(false) {
            self.pusher.push(Task::Window(window), &mut hand);
        }
    }

    /// The hand by which the calling thread pushes before it answers, unless that is urgent or another thread has it.
    fn hand(&self, urgent: bool) -> Option<MutexGuard<'_, Hand>> {
        if urgent { None } else { self.hand.try_lock() }
    }
}

impl Work for ToPush {
    type Task = Task;

    fn next(&mut self) -> Option<Task> {
        self.window.take().map(Task::Window).or_else(|| self.plan.step().map(Task::File))
    }
}

impl Plan {
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
    fn push(&self, task: Task, hand: &mut Hand) {
        match task {
            Task::File(place) => self.file(place, hand),
            Task::Window(window) => self.window(&window, hand),
        }
    }

    /// Pushes the small file at a place.
    fn file(&self, place: u64, hand: &mut Hand) {
        let Some(id) = self.order.after(place.saturating_sub(1), 1).next() else { return };
        let union = self.stores.live.enter();
        let Some(file) = union.hold(id).filter(|file| !file.is_cached()) else { return };
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
        let (union, (start, len)) = (self.stores.live.enter(), window.part());
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
        let mut plan = Plan::default();
        let far = 1 << 20;
        assert_eq!((plan.read(10, far), plan.step()), (0, None));
        assert_eq!(plan.read(11, far), 4);
        let steps = |plan: &mut Plan| std::iter::from_fn(|| plan.step()).collect::<Vec<_>>();
        assert_eq!(steps(&mut plan), [12, 13, 14, 15]);
        // It asks for what was pushed, and is gone by now; and for what was not yet.
        assert_eq!((plan.read(14, far), steps(&mut plan)), (7, (16..=22).collect()));
        assert_eq!((plan.read(23, far), steps(&mut plan)), (16, (24..=39).collect()));
        // It was faster.
        assert_eq!((plan.read(45, far), plan.step()), (32, Some(46)));
        // It asks for what is being pushed, then for the next one.
        plan.caught_up();
        assert_eq!(plan.step(), None);
        assert_eq!((plan.read(47, far), plan.step()), (64, Some(48)));
        // The directory ends there; the next one is listed.
        assert_eq!((plan.read(48, 50), steps(&mut plan)), (2, (49..=50).collect()));
        assert_eq!((plan.read(51, 60), steps(&mut plan)), (9, (52..=60).collect()));
        assert_eq!((plan.read(5, far), plan.step()), (0, None), "back");
    }
}
