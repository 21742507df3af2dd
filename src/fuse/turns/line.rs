//! While the keeper minds the line one thread waits for the next request, and the others stand aside; else all wait.
//!
//! The kernel hands a request to the thread that has slept longest, so that threads which wait take turns; one that has just
//! served is quicker, as all that it needs is at hand. The keeper [looks](Line::look) each [`LOOK`] whether a request waits
//! behind one that takes long (a disk is slow), and then all wait for some time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::base::sync::{Condvar, Mutex};
use crate::sys::process;

/// How often the keeper looks.
pub const LOOK: Duration = Duration::from_millis(1);
/// For so many looks all threads wait after a request had to wait.
const NOT_ENOUGH: u32 = 100;

/// The threads that serve.
#[derive(Debug)]
pub struct Line {
    /// The connection to the kernel, on which requests can be seen to wait.
    device: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
    nobody_waits: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// The keeper minds the line, so that one that waits is enough.
    for_one: bool,
    /// Threads that have served before and wait for a request.
    waiting: usize,
    /// Requests since the beginning, and how many there were at the last look.
    arrived: u64,
    seen: u64,
    /// For so many looks one is not enough.
    not_enough: u32,
    /// The session is over.
    over: bool,
}

impl State {
    /// Whether a thread that has served stands aside.
    fn is_enough(&self) -> bool {
        self.waiting > 0 && self.for_one && self.not_enough == 0 && !self.over
    }
}

impl Line {
    /// A line of threads none of which has served.
    pub fn new(device: OwnedFd) -> Arc<Self> {
        let nobody_waits = AtomicBool::new(false);
        Arc::new(Self { device, state: Mutex::default(), changed: Condvar::default(), nobody_waits })
    }

    /// A request arrived at the calling thread.
    pub fn begin(self: &Arc<Self>) {
        let is_new = Seat::take(self);
        let mut state = self.state.lock();
        state.arrived += 1;
        if !is_new {
            state.waiting = state.waiting.saturating_sub(1);
        }
        self.nobody_waits.store(state.waiting == 0, Relaxed);
    }

    /// It is served. This returns when the calling thread is to wait for the next one.
    pub fn end(&self) {
        let mut state = self.state.lock();
        while state.is_enough() {
            self.changed.wait(&mut state);
        }
        state.waiting += 1;
        self.nobody_waits.store(false, Relaxed);
    }

    /// Whether one that waits is enough, as the keeper looks.
    pub fn set_for_one(&self, for_one: bool) {
        self.state.lock().for_one = for_one;
        self.changed.notify_all();
    }

    /// Whether a request would have to wait until one is served.
    pub fn nobody_waits(&self) -> bool {
        self.nobody_waits.load(Relaxed)
    }

    /// Whether there is a request that nobody has taken.
    pub fn has_request(&self) -> bool {
        process::is_readable(self.device.as_fd())
    }

    /// Looks whether a request waits behind one that was there at the last look, or behind any where `several` ask.
    pub fn look(&self, several: bool) {
        let mut state = self.state.lock();
        let same = state.arrived == state.seen;
        state.seen = state.arrived;
        state.not_enough = state.not_enough.saturating_sub(1);
        if (same || several) && state.waiting == 0 && self.has_request() {
            state.not_enough = NOT_ENOUGH;
            self.changed.notify_all();
        }
    }

    /// Nobody stands aside any more.
    pub fn close(&self) {
        self.state.lock().over = true;
        self.changed.notify_all();
    }
}

/// A thread's place in the line. When the thread ends the session is over: those who stand aside must come and see that.
struct Seat(Arc<Line>);

thread_local! {
    static SEAT: std::cell::OnceCell<Seat> = const { std::cell::OnceCell::new() };
}

impl Seat {
    /// The calling thread has a place from now on: true if it had none.
    fn take(line: &Arc<Line>) -> bool {
        SEAT.with(|seat| {
            let is_new = seat.get().is_none();
            seat.get_or_init(|| Self(line.clone()));
            is_new
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

    /// A line on a pipe, one thread that waits, and one that stands aside.
    fn line() -> (Arc<Line>, OwnedFd, std::thread::JoinHandle<()>) {
        let (read, write) = process::pipe().unwrap();
        let line = Line::new(read);
        line.set_for_one(true);
        line.begin();
        line.end();
        let theirs = line.clone();
        let aside = std::thread::spawn(move || {
            theirs.begin();
            theirs.end();
        });
        while line.state.lock().arrived < 2 {
            std::thread::yield_now();
        }
        line.look(false);
        (line, write, aside)
    }

    #[test]
    fn of_two_threads_one_stands_aside_until_a_request_waits_behind_one_that_takes_long() {
        let (line, write, aside) = line();
        line.begin();
        line.look(false);
        line.look(false);
        assert!(line.nobody_waits() && !line.has_request());
        assert!(!aside.is_finished(), "nothing waits behind that request");
        rustix::io::write(&write, b"x").unwrap();
        line.look(false);
        aside.join().unwrap();
    }

    #[test]
    fn a_request_that_waits_is_no_reason_while_others_are_served_meanwhile_or_somebody_waits() {
        let (line, write, aside) = line();
        rustix::io::write(&write, b"x").unwrap();
        for _ in 0..10 {
            line.begin();
            assert!(line.nobody_waits() && line.has_request());
            line.look(false);
            line.end();
        }
        line.look(false);
        assert!(!aside.is_finished(), "this thread waits");
        line.set_for_one(false);
        aside.join().unwrap();
    }

    #[test]
    fn where_several_ask_a_request_that_waits_behind_any_is_reason_enough() {
        let (line, write, aside) = line();
        line.begin();
        line.look(true);
        assert!(line.nobody_waits() && !aside.is_finished(), "nothing waits");
        rustix::io::write(&write, b"x").unwrap();
        line.end();
        line.begin();
        line.look(true);
        aside.join().unwrap();
    }

    #[test]
    fn nobody_stands_aside_once_a_thread_has_ended() {
        let (line, _write, aside) = line();
        // A thread whose session ended.
        let theirs = line.clone();
        std::thread::spawn(move || Seat::take(&theirs)).join().unwrap();
        aside.join().unwrap();
    }
}
