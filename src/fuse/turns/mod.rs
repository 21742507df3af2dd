//! Who of the threads waits for requests: most of what a request costs is waking somebody up.
//!
//! The kernel hands a request to the thread that has slept longest. On machines of few processors only as many threads wait
//! as there are processors, and one while the [`Keeper`] is awake or a [`Stream`] is read; the others stand aside until
//! nobody waits. With more processors all threads wait: nothing was measured there.

mod keeper;
mod stream;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::keeper::{Keeper, Task};
use self::stream::Stream;
use crate::base::sync::{Condvar, Mutex};
use crate::sys::process;

/// With more processors than this all threads wait.
const FEW: usize = 2;

/// The threads' turns at waiting.
#[derive(Debug)]
pub struct Turns {
    /// Set where the threads take turns.
    device: OnceLock<OwnedFd>,
    cpus: usize,
    /// Threads that have served and wait now. Together with the keeper's being on duty it tells who sees to it that somebody
    /// waits, so both are sequentially consistent.
    waiting: AtomicUsize,
    aside: Mutex<Aside>,
    call: Condvar,
    keeper: Keeper,
    keeping: AtomicBool,
    stream: Stream,
}

#[derive(Debug, Default)]
struct Aside {
    standing: usize,
    called: usize,
    closed: bool,
}

/// One request, from its arrival to after its answer, or until a thread of its own has it.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Turns for this process; they begin once there is a [device](Self::set_device).
    pub fn new() -> Self {
        Self {
            device: OnceLock::new(),
            cpus: process::allowed_cpus().len(),
            waiting: AtomicUsize::new(0),
            aside: Mutex::default(),
            call: Condvar::default(),
            keeper: Keeper::new(),
            keeping: AtomicBool::new(false),
            stream: Stream::default(),
        }
    }

    /// A descriptor on which requests can be seen to wait.
    pub fn set_device(&self, device: OwnedFd) {
        if self.cpus <= FEW {
            let _ = self.device.set(device);
        }
    }

    /// Whether requests wait to be read, where that can be told.
    pub(in crate::fuse) fn have_requests(&self) -> bool {
        self.device.get().is_some_and(|device| process::is_readable(device.as_fd()))
    }

    /// A request of the thread `caller` arrived at this one.
    pub fn begin(self: &Arc<Self>, caller: u32) -> Turn<'_> {
        if self.device.get().is_some() {
            self.arrived(caller);
        }
        Turn(self)
    }

    fn arrived(self: &Arc<Self>, caller: u32) {
        // A thread that serves for the first time was not counted.
        let new = Seat::take(self);
        if !new && self.waiting.fetch_sub(1, Ordering::SeqCst) == 1 && !self.keeper.sees_to_it() {
            self.call_one();
        }
        if self.cpus == FEW && self.keeper.is_wanted(caller) {
            self.ask_keeper(Task::Wake);
        }
    }

    fn ask_keeper(self: &Arc<Self>, task: Task) {
        self.keeper.ask(task);
        if self.keeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let turns = self.clone();
        let keep = move || turns.keeper.run(&turns);
        if let Err(error) = std::thread::Builder::new().name("keeper".to_owned()).spawn(keep) {
            log::info!("no thread keeps a processor awake: {error}");
        }
    }

    /// Two processors are of use: much data is read, or read ahead by one thread and answered by another.
    pub fn much(&self) {
        self.keeper.stand_down();
    }

    /// A large READ of the thread `caller` was answered.
    pub fn streamed(self: &Arc<Self>, caller: u32, (size, took): (u32, Duration)) {
        if self.cpus != FEW || self.device.get().is_none() {
            return;
        }
        let now = self.keeper.now();
        self.stream.answered(caller, (size, took), now);
        if self.is_streaming() && !self.keeper.sees_to_it() {
            self.ask_keeper(Task::Watch);
        }
    }

    /// Whether one is to wait, and the keeper sees to the rest.
    fn is_for_one(&self) -> bool {
        self.keeper.is_awake() || (self.keeper.is_watching() && self.is_streaming())
    }

    /// Whether large READs follow each other, all from memory.
    pub(in crate::fuse) fn is_streaming(&self) -> bool {
        self.stream.is_on(self.keeper.now())
    }

    /// Whether a request would have to wait until one is answered.
    pub(in crate::fuse) fn nobody_waits(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }

    /// One of those who stand aside is to wait.
    pub(in crate::fuse) fn call_one(&self) {
        let mut aside = self.aside.lock();
        if aside.standing > aside.called {
            aside.called += 1;
            self.call.notify_one();
        }
    }

    fn end(&self) {
        if self.device.get().is_none() {
            return;
        }
        if self.cpus == FEW {
            self.keeper.answered();
        }
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        if waiting > FEW || (waiting > 1 && self.is_for_one()) {
            self.stand_aside();
        }
    }

    fn stand_aside(&self) {
        let mut aside = self.aside.lock();
        // Others still wait then; the last of them to be busy calls under the lock, when this one is counted.
        let others = |waiting| if waiting > 1 { Some(waiting - 1) } else { None };
        if aside.closed || self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, others).is_err() {
            return;
        }
        aside.standing += 1;
        while aside.called == 0 && !aside.closed {
            self.call.wait(&mut aside);
        }
        aside.called = aside.called.saturating_sub(1);
        aside.standing -= 1;
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// The session is over for a thread, and so it is for all.
    fn close(&self) {
        self.aside.lock().closed = true;
        self.call.notify_all();
        self.keeper.close();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A thread's place. When the thread ends, those who stand aside must come and see that, too.
struct Seat(Arc<Turns>);

thread_local! {
    static SEAT: std::cell::OnceCell<Seat> = const { std::cell::OnceCell::new() };
}

impl Seat {
    /// The calling thread has a place from now on; true if it had none.
    fn take(turns: &Arc<Turns>) -> bool {
        SEAT.with(|seat| {
            let new = seat.get().is_none();
            seat.get_or_init(|| Self(turns.clone()));
            new
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of one processor on a pipe in which nothing has arrived.
    fn turns() -> Arc<Turns> {
        let (turns, write) = turns_on_a_pipe();
        std::mem::forget(write);
        turns
    }

    fn turns_on_a_pipe() -> (Arc<Turns>, OwnedFd) {
        let turns = Turns { cpus: 1, ..Turns::new() };
        let (read, write) = process::pipe().unwrap();
        turns.set_device(read);
        (Arc::new(turns), write)
    }

    /// A thread that serves one request, and waits or stands aside then.
    fn serving(turns: &Arc<Turns>) -> std::thread::JoinHandle<()> {
        let turns = turns.clone();
        std::thread::spawn(move || drop(turns.begin(1)))
    }

    fn until(mut what: impl FnMut() -> bool) {
        while !what() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn threads_too_many_stand_aside_until_nobody_waits_or_the_session_ends() {
        let turns = turns();
        // This thread serves, and waits from then on; so does a second one.
        drop(turns.begin(1));
        turns.waiting.fetch_add(1, Ordering::SeqCst);
        let other = serving(&turns);
        let standing = || turns.aside.lock().standing;
        until(|| standing() == 1);
        // Now one waits still: the other stays.
        let first = turns.begin(1);
        assert_eq!((standing(), turns.nobody_waits()), (1, false));
        // Now nobody does: the other is called, comes to wait, and ends.
        let second = turns.begin(1);
        other.join().unwrap();
        assert_eq!(standing(), 0);
        drop((first, second));
    }

    /// A thread that stands aside while this one serves two requests and the keeper watches; and who watches.
    fn watched(turns: &Arc<Turns>) -> [std::thread::JoinHandle<()>; 2] {
        drop(turns.begin(1));
        turns.waiting.fetch_add(1, Ordering::SeqCst);
        let other = serving(turns);
        until(|| turns.aside.lock().standing == 1);
        let theirs = turns.clone();
        let watch = std::thread::spawn(move || theirs.keeper.watch(&theirs));
        until(|| turns.keeper.sees_to_it());
        [turns.begin(1), turns.begin(1)].into_iter().for_each(std::mem::forget);
        [other, watch]
    }

    #[test]
    fn while_the_keeper_watches_a_third_thread_is_called_for_requests_that_wait_only() {
        let (turns, write) = turns_on_a_pipe();
        let [other, watch] = watched(&turns);
        let begin = std::time::Instant::now();
        while begin.elapsed().as_millis() < 10 {
            // Requests come, so that it does not end; but where this thread stood still for long.
            turns.keeper.answered();
            let standing = turns.aside.lock().standing;
            assert!(standing == 1 || !turns.keeper.sees_to_it());
        }
        rustix::io::write(&write, b"x").unwrap();
        until(|| {
            turns.keeper.answered();
            other.is_finished()
        });
        turns.keeper.close();
        watch.join().unwrap();
    }

    #[test]
    fn of_a_stream_one_thread_waits_and_another_is_called_for_what_it_keeps_waiting() {
        let (read, write) = process::pipe().unwrap();
        let turns = Arc::new(Turns { cpus: FEW, ..Turns::new() });
        turns.set_device(read);
        let stream = || (0..64).for_each(|_| turns.streamed(1, (128 << 10, Duration::from_micros(1))));
        until(|| {
            stream();
            turns.keeper.is_watching()
        });
        drop(turns.begin(1));
        let (theirs, done) = (turns.clone(), Arc::new(AtomicBool::new(false)));
        let over = done.clone();
        // Where this thread stands still for so long that the stream is over the other one does not stand aside at once.
        let other = std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                drop(theirs.begin(1));
            }
        });
        until(|| {
            stream();
            turns.aside.lock().standing == 1
        });
        done.store(true, Ordering::SeqCst);
        // This one serves, and nobody else waits.
        let turn = turns.begin(1);
        rustix::io::write(&write, b"x").unwrap();
        other.join().unwrap();
        drop(turn);
        turns.keeper.close();
    }

    #[test]
    fn a_keeper_that_stops_watching_leaves_somebody_who_waits() {
        let (turns, _write) = turns_on_a_pipe();
        let threads = watched(&turns);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!turns.keeper.sees_to_it() && turns.aside.lock().standing == 0);
    }

    #[test]
    fn nobody_stands_aside_for_good_once_a_thread_has_ended() {
        let turns = turns();
        turns.waiting.store(FEW, Ordering::SeqCst);
        let standing = serving(&turns);
        until(|| turns.aside.lock().standing == 1);
        // A thread whose session ended.
        let theirs = turns.clone();
        std::thread::spawn(move || Seat::take(&theirs)).join().unwrap();
        standing.join().unwrap();
    }
}
