//! Who of the threads waits for requests, and how: most of what a request costs is waking somebody up.
//!
//! The kernel hands a request to the thread that has slept longest, wherever it slept. If that is another processor, one
//! that is asleep too, waking it takes 20 to 50 us on a virtual machine; and so does waking the caller for the answer. So
//! on machines of few processors
//! - one thread a processor waits, bound to it; the others stand aside until nobody waits;
//! - a thread that has answered looks for the next request for a moment ([`LOOK`]), yielding to whoever wants to run,
//!   before it sleeps. Meanwhile its processor is not asleep either, which keeps the caller where it is.
//!
//! Measured on 2 processors, ms for 7,200 lookups of absent names / 7,200 files walked and read / 6,000 files created /
//! 7,690 removed, the best of two rounds: 4 threads that sleep at once 198 / 544 / 1026 / 951; this way with 20 us
//! 163 / 397 / 920 / 833, with 100 us 161 / 446 / 927 / 771; one thread 440 / 670 / 1720 / 1060. With a program that computes
//! on each processor, absent names / read / created: sleeping at once 430 / 750 / 1686, this way 268 / 738 / 1703. Tried, and
//! no gain: following the caller's processor (the scheduler moves the caller away at each answer), `SCHED_IDLE`, yielding
//! without being bound (348 / 600 / 1076 / 870), one thread that only keeps the other processor awake.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::base::sync::{Condvar, Mutex};
use crate::sys::process;

/// How long a thread looks for the next request.
const LOOK: Duration = Duration::from_micros(20);
/// With more processors threads sleep at once, wherever they are: nothing was measured there.
const FEW: usize = 4;

/// The threads' turns at waiting.
#[derive(Debug, Default)]
pub struct Turns {
    /// Set where the threads take turns.
    device: OnceLock<OwnedFd>,
    cpus: Vec<usize>,
    /// Threads that have served and wait now.
    waiting: AtomicUsize,
    /// Threads that have served at least once.
    seated: AtomicUsize,
    aside: Mutex<Aside>,
    call: Condvar,
}

#[derive(Debug, Default)]
struct Aside {
    standing: usize,
    called: usize,
    closed: bool,
}

/// One request, from its arrival to after its answer, or until a thread of its own has it.
pub struct Turn<'a> {
    turns: &'a Turns,
    bound: bool,
}

impl Turns {
    /// Turns for this process; they begin once there is a [device](Self::set_device).
    pub fn new() -> Self {
        let cpus = process::allowed_cpus();
        Self { cpus: if cpus.len() <= FEW { cpus } else { Vec::new() }, ..Self::default() }
    }

    /// A descriptor on which requests can be seen to wait.
    pub fn set_device(&self, device: OwnedFd) {
        if !self.cpus.is_empty() {
            let _ = self.device.set(device);
        }
    }

    /// A request arrived at this thread.
    pub fn begin(self: &Arc<Self>) -> Turn<'_> {
        let seat = match self.device.get() {
            Some(_) => Seat::take(self),
            None => Taken { bound: true, new: true },
        };
        if !seat.new && self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.call_one();
        }
        Turn { turns: self, bound: seat.bound }
    }

    /// Nobody waits: one of those who stand aside is to.
    fn call_one(&self) {
        let mut aside = self.aside.lock();
        if aside.standing > aside.called {
            aside.called += 1;
            self.call.notify_one();
        }
    }

    fn end(&self, bound: bool) {
        let Some(device) = self.device.get() else { return };
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if bound {
            look(device);
        } else {
            self.stand_aside();
        }
    }

    /// The calling thread, which one of these has started, may run on all processors.
    pub fn let_go(&self) {
        if self.device.get().is_some() {
            process::bind_thread(&self.cpus);
        }
    }

    fn stand_aside(&self) {
        let mut aside = self.aside.lock();
        // Others still wait then; the last of them to be busy calls under the lock, when this one is counted.
        let others = |waiting| if waiting > 1 { Some(waiting - 1) } else { None };
        if aside.closed || self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, others).is_err() {
            return;
        }
        aside.standing += 1;
        while aside.called == 0 && !aside.closed {
            self.call.wait(&mut aside);
        }
        aside.called = aside.called.saturating_sub(1);
        aside.standing -= 1;
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// The session is over for a thread, and so it is for all.
    fn close(&self) {
        self.aside.lock().closed = true;
        self.call.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.end(self.bound);
    }
}

/// Looks for a request until there is one, the connection is gone, or time is up.
fn look(device: &OwnedFd) {
    let start = Instant::now();
    while !process::is_readable(device.as_fd()) && start.elapsed() < LOOK {
        std::thread::yield_now();
    }
}

/// A thread's place. When the thread ends, those who stand aside must come and see that, too.
struct Seat {
    turns: Arc<Turns>,
    bound: bool,
}

/// What a thread's place says.
struct Taken {
    /// It has a processor of its own.
    bound: bool,
    /// It serves for the first time.
    new: bool,
}

thread_local! {
    static SEAT: std::cell::OnceCell<Seat> = const { std::cell::OnceCell::new() };
}

impl Seat {
    fn take(turns: &Arc<Turns>) -> Taken {
        SEAT.with(|seat| {
            let mut new = false;
            let seat = seat.get_or_init(|| {
                new = true;
                let cpu = turns.cpus.get(turns.seated.fetch_add(1, Ordering::Relaxed));
                if let Some(cpu) = cpu {
                    process::bind_thread(std::slice::from_ref(cpu));
                }
                Self { turns: turns.clone(), bound: cpu.is_some() }
            });
            Taken { bound: seat.bound, new }
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.turns.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns on a pipe in which nothing ever arrives.
    fn turns(cpus: usize) -> Arc<Turns> {
        let turns = Turns { cpus: (0..cpus).map(|_| usize::MAX).collect(), ..Turns::default() };
        let (read, write) = process::pipe().unwrap();
        turns.set_device(read);
        std::mem::forget(write);
        Arc::new(turns)
    }

    #[test]
    fn a_thread_too_many_stands_aside_until_nobody_waits_or_the_session_ends() {
        let turns = turns(1);
        // This thread serves, and waits from then on.
        drop(turns.begin());
        let other = turns.clone();
        let thread = std::thread::spawn(move || drop(other.begin()));
        let standing = || turns.aside.lock().standing;
        while standing() != 1 {
            std::thread::yield_now();
        }
        // Now nobody waits: the other is called, comes to wait, and ends.
        let turn = turns.begin();
        thread.join().unwrap();
        assert_eq!(standing(), 0);
        drop(turn);
    }

    #[test]
    fn a_thread_that_a_bound_one_starts_runs_on_every_processor() {
        let cpus = process::allowed_cpus();
        let turns = Turns { cpus: cpus.clone(), ..Turns::default() };
        let (read, _write) = process::pipe().unwrap();
        turns.set_device(read);
        let turns = Arc::new(turns);
        let serving = std::thread::spawn(move || {
            drop(turns.begin());
            let started = std::thread::spawn(move || {
                let before = process::allowed_cpus();
                turns.let_go();
                (before, process::allowed_cpus())
            });
            started.join().unwrap()
        });
        assert_eq!(serving.join().unwrap(), (cpus[..1].to_vec(), cpus));
    }

    #[test]
    fn nobody_stands_aside_for_good_once_a_thread_has_ended() {
        let turns = turns(1);
        drop(turns.begin());
        let (first, second) = (turns.clone(), turns.clone());
        let standing = std::thread::spawn(move || drop(first.begin()));
        while turns.aside.lock().standing != 1 {
            std::thread::yield_now();
        }
        // A thread whose session ended.
        std::thread::spawn(move || Seat::take(&second).new).join().unwrap();
        standing.join().unwrap();
    }
}
