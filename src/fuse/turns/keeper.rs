//! Keeps the second of two processors awake while requests follow each other, so that caller and daemon share the first.
//!
//! The scheduler moves whoever is woken to a processor that sleeps. With two processors that is the other one at each
//! request and at each answer, and waking a sleeping processor takes 20 to 50 us on a virtual machine, where a request
//! among threads of one processor takes 5. The keeper is a thread that does nothing, at low priority and yielding to
//! whoever wants to run; while it does so there is no processor to move to. Two things can be in the way, and both last,
//! since the scheduler sees no reason to move anybody:
//! - a thread that serves is where the keeper is (so the caller is where nobody is): that thread leaves;
//! - the caller is where the keeper is, which the keeper feels as being held up at each request: it leaves.
//!
//! Where others compute no processor sleeps, and the keeper only looks at the line: one thread that waits is quicker there,
//! too (4,000 files created beside a compiler and a virtual machine: 39 us each, 106 where all threads waited).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Relaxed, Release},
};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Rule;
use super::line::{LOOK, Line};
use super::rules::{Counts, Rest, See, Streak, WORK_FOR_TWO, Watch};
use crate::base::sync::Mutex;
use crate::sys::{process, processors};

/// A thread that serves leaves the keeper's processor at most once in this time.
const STAY: Duration = Duration::from_micros(200);
/// What the keeper adds to its nice value.
const NICE: i32 = 10;
/// Where others compute the keeper leaves the line when no request has arrived for so many looks.
const IDLE: u32 = 20;
/// Nobody has a place.
const NOWHERE: usize = usize::MAX;

/// The thread that keeps a processor awake, and looks after the [`Line`]. It ends with this.
#[derive(Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
    thread: Thread,
}

/// What the keeper and the threads that serve know of each other.
#[derive(Debug)]
struct Shared {
    start: Instant,
    line: Arc<Line>,
    /// Requests follow each other, and the keeper is to keep a processor awake.
    wanted: AtomicBool,
    /// It does so, and threads that serve must not be where it is.
    awake: AtomicBool,
    over: AtomicBool,
    /// The counts, and whose request was the last one.
    events: AtomicU64,
    changes: AtomicU64,
    caller: AtomicU32,
    /// The processor that it keeps awake.
    place: AtomicUsize,
    /// When a thread that serves left that processor for the last time.
    left: Time,
    /// It keeps none awake until then, and all threads wait.
    rest: Time,
    /// Nor until then, as others compute.
    others: Time,
    streak: Mutex<Streak>,
}

/// A time since the session began, in microseconds.
#[derive(Debug, Default)]
struct Time(AtomicU64);

impl Time {
    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }

    /// It is this, or later.
    fn reach(&self, time: Duration) {
        self.0.fetch_max(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Keeper {
    /// Starts the thread, which sleeps until there are requests on `device`, the connection to the kernel.
    ///
    /// # Errors
    /// `EAGAIN` where there can be no more threads.
    pub fn start(device: OwnedFd) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(Line::new(device)));
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || theirs.run())?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        self.thread.unpark();
    }
}

impl Rule for Keeper {
    fn begin(&self, caller: u32) {
        self.shared.line.begin();
        if self.shared.arrived(caller) {
            self.thread.unpark();
        }
    }

    fn end(&self) {
        self.shared.answered();
        self.shared.line.end();
    }

    fn work_for_two(&self) {
        self.shared.rest.reach(self.shared.now() + WORK_FOR_TWO);
    }
}

/// Whatever ends the keeper, nobody stands aside from then on.
struct AtTheEnd<'a>(&'a Line);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Shared {
    fn new(line: Arc<Line>) -> Self {
        Self {
            start: Instant::now(),
            line,
            wanted: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            over: AtomicBool::new(false),
            events: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            caller: AtomicU32::new(0),
            place: AtomicUsize::new(NOWHERE),
            left: Time::default(),
            rest: Time::default(),
            others: Time::default(),
            streak: Mutex::default(),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A request arrived: true if the keeper is to be woken.
    fn arrived(&self, caller: u32) -> bool {
        self.events.fetch_add(1, Relaxed);
        // Nobody waits for what the kernel itself asks for.
        if caller != 0 && self.caller.swap(caller, Relaxed) != caller {
            self.changes.fetch_add(1, Relaxed);
        }
        if !self.awake.load(Relaxed) {
            let due = self.streak.lock().arrived(self.now(), self.rest.get());
            return due && !self.wanted.swap(true, AcqRel);
        }
        if processors::current_cpu() == self.place.load(Relaxed) {
            self.make_way();
        }
        false
    }

    fn answered(&self) {
        self.events.fetch_add(1, Relaxed);
        if !self.awake.load(Relaxed) {
            self.streak.lock().answered(self.now());
        }
    }

    /// The calling thread serves: where the keeper is the caller is not.
    fn make_way(&self) {
        let now = self.now();
        if now.saturating_sub(self.left.get()) >= STAY {
            self.left.reach(now);
            processors::leave_cpu();
        }
    }

    fn counts(&self) -> Counts {
        Counts { events: self.events.load(Relaxed), changes: self.changes.load(Relaxed) }
    }

    /// Is the keeper until the session is over.
    fn run(&self) {
        let _at_the_end = AtTheEnd(&self.line);
        process::be_nice(NICE);
        let mut rest = Rest::default();
        while !self.over.load(Relaxed) {
            if self.wanted.load(Relaxed) {
                self.mind(&mut rest);
                self.wanted.store(false, Release);
            } else {
                std::thread::park();
            }
        }
    }

    /// One thread waits until requests no longer follow each other, or several programs ask at once.
    fn mind(&self, rest: &mut Rest) {
        self.line.set_for_one(true);
        while self.look_on() {
            let begun = self.now();
            let end = self.stay_awake();
            let now = self.now();
            let until = now + rest.after(end, now.saturating_sub(begun));
            if end != See::Others {
                self.rest.reach(until);
                break;
            }
            self.others.reach(until);
        }
        self.line.set_for_one(false);
    }

    /// Only looks at the line for as long as others are taken to compute; false if requests stop meanwhile.
    fn look_on(&self) -> bool {
        let mut counts = self.counts();
        let mut idle = 0;
        while self.now() < self.others.get() {
            std::thread::park_timeout(LOOK);
            let before = std::mem::replace(&mut counts, self.counts());
            idle = if counts.events == before.events { idle + 1 } else { 0 };
            if idle == IDLE || self.now() < self.rest.get() || self.over.load(Relaxed) {
                return false;
            }
            self.line.look(counts.have_several_since(before));
        }
        true
    }

    fn stay_awake(&self) -> See {
        let begun = self.now();
        let mut watch = Watch::new(begun, self.counts());
        let mut look = begun + LOOK;
        self.awake.store(true, Relaxed);
        let end = loop {
            std::thread::yield_now();
            self.place.store(processors::current_cpu(), Relaxed);
            let now = self.now();
            if now < self.rest.get() || self.over.load(Relaxed) {
                break See::End;
            }
            if now >= look {
                self.line.look(false);
                look = now + LOOK;
            }
            match watch.look((now, self.line.nobody_waits()), self.counts(), || self.line.has_request()) {
                See::Nothing => {}
                See::Caller => {
                    processors::leave_cpu();
                    watch.moved(self.now());
                }
                end => break end,
            }
        };
        self.awake.store(false, Relaxed);
        self.place.store(NOWHERE, Relaxed);
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_sleeps_wakes_at_requests_and_ends_with_the_session() {
        let (read, _write) = process::pipe().unwrap();
        let keeper = Keeper::start(read).unwrap();
        let shared = keeper.shared.clone();
        let is_awake = || shared.awake.load(Relaxed);
        for _ in 0..3 {
            assert!(!is_awake());
            while !is_awake() {
                keeper.begin(1);
                keeper.end();
            }
            while is_awake() {
                std::thread::yield_now();
            }
        }
        drop(keeper);
        // The thread has the other one.
        while Arc::strong_count(&shared) > 1 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn beside_others_the_keeper_sleeps_and_of_two_threads_one_serves_while_requests_come() {
        let (read, _write) = process::pipe().unwrap();
        let keeper = Arc::new(Keeper::start(read).unwrap());
        let shared = keeper.shared.clone();
        shared.others.reach(Duration::from_secs(3_600));
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let serve = |which: usize| {
            let (keeper, over, served) = (keeper.clone(), over.clone(), served.clone());
            std::thread::spawn(move || {
                while !over.load(Relaxed) {
                    keeper.begin(1);
                    keeper.end();
                    served[which].fetch_add(1, Relaxed);
                }
            })
        };
        let threads = [serve(0), serve(1)];
        let counts = || [0, 1].map(|which| served[which].load(Relaxed));
        let one_serves = |_| {
            let before = counts();
            std::thread::sleep(Duration::from_millis(200));
            let after = counts();
            before[0] == after[0] || before[1] == after[1]
        };
        let (found, awake) = ((0..20).any(one_serves), shared.awake.load(Relaxed));
        // The one that serves ends, and so the other one does.
        over.store(true, Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(found && !awake);
        // The keeper looks on still, and ends with the session.
        drop(keeper);
        while Arc::strong_count(&shared) > 1 {
            std::thread::yield_now();
        }
    }
}
