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
//! The keeper sleeps when requests stop, when they come from several callers at once (then no processor sleeps anyway, and
//! 22,500 files looked at by 1, 2, 4, 8 threads take 690, 590, 480, 450 ms; with a keeper 680, 760, 650, 620), and
//! while much data is read (the kernel asks for more of that before the caller needs it, so that two processors are of use).
//! Among several callers it then watches: two threads serve, and who takes a request last calls nobody, which would cost more
//! than most requests; the keeper calls a third one where it finds requests that wait (absent names a second, of two callers:
//! 98,000 to 129,000; 79,000 to 82,000 before; of one, four and eight the same).
//!
//! It also watches while much is read from memory (`stream.rs`): then one thread serves.
//!
//! Measured on 2 processors, ms, medians of 7 to 9 turns in one run, for 6,000 absent names / 5,000 files created / 1,250
//! renamed / 6,415 removed: threads that sleep 85 / 555 / 120 / 445, threads bound to a processor each that look for
//! requests for 20 us 62 / 446 / 157 / 389, this way 36 / 312 / 127 / 335 (fuse-overlayfs 2.0 92 / 659 / 229 / 1001). Two
//! callers at once, absent names: bound threads 78, this way 61; four 121 and 121. With a program that computes on each
//! processor, absent names / created / renamed: 119 / 740 / 244 and 87 / 755 / 311.
//! Tried, and no gain: a keeper without the two rules (83 absent names); one that does not yield (creates take three times as
//! long, as a woken thread waits for the end of the keeper's turn); one that sleeps after 50 us without a request.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Turns;
use crate::base::sync::{Condvar, Mutex};
use crate::sys::process;

/// Requests in a row that wake the keeper, each this many microseconds after the answer to the one before at most.
const STREAK: usize = 4;
const GAP: u64 = 300;
/// After so many microseconds without a request the keeper sleeps, or if it takes so many to answer one.
const LINGER: u64 = 500;
const LONG: u64 = 2_000;
/// After so many microseconds of one request in which others wait, somebody else is to serve them.
const STUCK: u64 = 300;
/// They must be seen to wait for so long: who has just answered may have lost its processor to the caller, whose next
/// request waits then.
const SURE: u64 = 50;
/// It happens to a single caller, too, where the machine stands still for a moment. So often within so many microseconds
/// it means that there are several.
const OFTEN: u32 = 4;
const SOON: u64 = 20_000;
/// For so many microseconds the keeper sleeps then; twice as long each time in a row, up to the second number.
const REST: u64 = 2_000;
const LONG_REST: u64 = 128_000;
/// Microseconds of being held up that mean that somebody else ran.
const HELD_UP: u64 = 5;
/// So many arrivals and answers are looked at before the keeper leaves; it must have been held up at a quarter of them.
const SAMPLE: u64 = 64;
/// Of so many requests in a sample at least one arrives while another one waits if there are several callers.
const BEHIND: u64 = 3;
/// A thread that serves leaves at most once in so many microseconds.
const STAY: u64 = 200;
/// While it watches it looks around once in so many microseconds, until no request has come for so many.
const LOOK: u64 = 1_000;
const IDLE: u64 = 20_000;
/// What the keeper adds to its nice value.
const NICE: i32 = 10;

/// Nobody has a place.
const NOWHERE: usize = usize::MAX;

/// The thread that keeps a processor awake, and what the threads that serve know of it.
#[derive(Debug)]
pub struct Keeper {
    start: Instant,
    awake: AtomicBool,
    watching: AtomicBool,
    /// Requests that arrived or were answered while it was awake.
    served: AtomicU64,
    /// Whose request was the last one, and how often it was another's than the one before.
    caller: AtomicU32,
    changes: AtomicU64,
    /// The processor that it keeps awake.
    place: AtomicUsize,
    /// When a thread that serves left that processor for the last time.
    left: AtomicU64,
    /// When the last request arrived that found it asleep, and how many did so in a row.
    last: AtomicU64,
    streak: AtomicUsize,
    /// It sleeps until then.
    rest: AtomicU64,
    orders: Mutex<Orders>,
    order: Condvar,
}

#[derive(Debug, Default)]
struct Orders {
    next: Option<Task>,
    closed: bool,
}

/// What the keeper is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fuse) enum Task {
    /// To keep a processor awake.
    Wake,
    /// To watch: both are awake, and one thread serves.
    Watch,
}

impl Keeper {
    /// A keeper that sleeps.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            awake: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            served: AtomicU64::new(0),
            caller: AtomicU32::new(0),
            changes: AtomicU64::new(0),
            place: AtomicUsize::new(NOWHERE),
            left: AtomicU64::new(0),
            last: AtomicU64::new(0),
            streak: AtomicUsize::new(0),
            rest: AtomicU64::new(0),
            orders: Mutex::default(),
            order: Condvar::default(),
        }
    }

    /// Microseconds since this process began to serve.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether it keeps a processor awake.
    pub fn is_awake(&self) -> bool {
        self.awake.load(Ordering::SeqCst)
    }

    /// Whether it looks for requests that wait once in a while.
    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::SeqCst)
    }

    /// Whether it sees to it that somebody waits for requests.
    pub fn sees_to_it(&self) -> bool {
        self.is_awake() || self.is_watching()
    }

    /// A request of the thread `caller` arrived: true if the keeper sleeps and had better be awake.
    pub fn is_wanted(&self, caller: u32) -> bool {
        if self.is_awake() {
            self.served.fetch_add(1, Ordering::Relaxed);
            if self.caller.swap(caller, Ordering::Relaxed) != caller {
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
            self.make_way();
            return false;
        }
        self.is_due(self.now())
    }

    /// A request was answered.
    pub fn answered(&self) {
        if self.is_awake() {
            self.served.fetch_add(1, Ordering::Relaxed);
        } else {
            self.last.store(self.now(), Ordering::Relaxed);
        }
    }

    fn is_due(&self, now: u64) -> bool {
        let quick = now.saturating_sub(self.last.swap(now, Ordering::Relaxed)) <= GAP;
        if !quick || now < self.rest.load(Ordering::Relaxed) {
            self.streak.store(0, Ordering::Relaxed);
            return false;
        }
        self.streak.fetch_add(1, Ordering::Relaxed) + 1 == STREAK
    }

    /// The calling thread serves: where the keeper is the caller is not.
    fn make_way(&self) {
        if process::current_cpu() != self.place.load(Ordering::Relaxed) {
            return;
        }
        if self.may_leave(self.now()) {
            process::leave_cpu();
        }
    }

    /// Whether a thread that serves may leave; it is taken to do so.
    fn may_leave(&self, now: u64) -> bool {
        let may = now.saturating_sub(self.left.load(Ordering::Relaxed)) >= STAY;
        if may {
            self.left.store(now, Ordering::Relaxed);
        }
        may
    }

    /// Much is read that the caller does not wait for: the kernel or plyfs is ahead of it. Two processors are of use then.
    pub fn stand_down(&self) {
        self.rest.fetch_max(self.now() + REST, Ordering::Relaxed);
    }

    /// Asks it for this.
    pub fn ask(&self, task: Task) {
        self.orders.lock().next = Some(task);
        self.order.notify_one();
    }

    /// The session is over.
    pub fn close(&self) {
        self.orders.lock().closed = true;
        self.order.notify_one();
    }

    /// Is the keeper until the session is over.
    pub fn run(&self, turns: &Turns) {
        process::be_nice(NICE);
        let mut rest = 0;
        while let Some(task) = self.next() {
            if task == Task::Wake {
                let crowded = self.keep(turns);
                rest = if crowded { (rest * 2).clamp(REST, LONG_REST) } else { rest / 4 };
                if !crowded {
                    continue;
                }
                self.rest.fetch_max(self.now() + rest, Ordering::Relaxed);
            }
            self.watch(turns);
        }
    }

    /// What it is asked for next; `None` at the end of the session.
    fn next(&self) -> Option<Task> {
        let mut orders = self.orders.lock();
        loop {
            match orders.next.take() {
                _ if orders.closed => return None,
                None => self.order.wait(&mut orders),
                task => return task,
            }
        }
    }

    /// Watches until it is to be awake, the session is over, or requests stop.
    pub(in crate::fuse) fn watch(&self, turns: &Turns) {
        let _watching = Duty::begin(&self.watching, turns);
        self.last.store(self.now(), Ordering::Relaxed);
        loop {
            let mut orders = self.orders.lock();
            if orders.next.is_none() && !orders.closed {
                self.order.wait_for(&mut orders, Duration::from_micros(LOOK));
            }
            orders.next = orders.next.filter(|next| *next != Task::Watch);
            let called = orders.next.is_some() || orders.closed;
            let since = self.now().saturating_sub(self.last.load(Ordering::Relaxed));
            if called || since > IDLE {
                return;
            }
            drop(orders);
            // Of a stream some READs always wait.
            let due = since > STUCK || !turns.is_streaming();
            if due && turns.nobody_waits() && turns.have_requests() {
                turns.call_one();
            }
        }
    }

    /// Is awake while requests come; true if there are too many at once for it to be of use.
    fn keep(&self, turns: &Turns) -> bool {
        let crowded = self.stay_awake(turns);
        self.streak.store(0, Ordering::Relaxed);
        self.place.store(NOWHERE, Ordering::Relaxed);
        crowded
    }

    fn stay_awake(&self, turns: &Turns) -> bool {
        let _awake = Duty::begin(&self.awake, turns);
        let mut watch =
            Watch::new(self.now(), self.served.load(Ordering::Relaxed), self.changes.load(Ordering::Relaxed));
        loop {
            std::thread::yield_now();
            self.place.store(process::current_cpu(), Ordering::Relaxed);
            let busy = turns.nobody_waits();
            let others_wait = || busy && turns.have_requests();
            let now = self.now();
            if now < self.rest.load(Ordering::Relaxed) {
                return false;
            }
            let counts = (self.served.load(Ordering::Relaxed), self.changes.load(Ordering::Relaxed));
            match watch.look((now, busy), counts, others_wait) {
                See::Nothing => {}
                See::Caller => {
                    process::leave_cpu();
                    watch.moved(self.now());
                }
                See::Stuck => turns.call_one(),
                See::Crowd => return true,
                See::End => return false,
            }
        }
    }
}

/// While it lives the keeper sees to it that somebody waits; at its end those who serve do so again.
struct Duty<'a> {
    on: &'a AtomicBool,
    turns: &'a Turns,
}

impl<'a> Duty<'a> {
    fn begin(on: &'a AtomicBool, turns: &'a Turns) -> Self {
        on.store(true, Ordering::SeqCst);
        Self { on, turns }
    }
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        self.on.store(false, Ordering::SeqCst);
        // A thread that found it on duty just now called nobody.
        if self.turns.nobody_waits() {
            self.turns.call_one();
        }
    }
}

/// What the keeper can find when it looks around.
#[derive(Debug, PartialEq, Eq)]
enum See {
    Nothing,
    /// A caller is on the keeper's processor.
    Caller,
    /// Requests wait behind one.
    Stuck,
    /// They do so often.
    Crowd,
    /// No requests come any more.
    End,
}

/// What the keeper remembers from one look to the next; times in microseconds.
#[derive(Debug)]
struct Watch {
    /// The last look.
    last: u64,
    /// The last request, and how many there were.
    arrival: u64,
    served: u64,
    /// How many there were when the sample was begun, and how often the keeper was held up since.
    sample: u64,
    held_up: u64,
    /// How many requests were seen to arrive since, and at how many of them another one waited.
    seen: (u64, u64),
    /// How often the caller had changed when the sample was begun.
    changes: u64,
    /// Since when others wait for the request that takes long.
    waits: Option<u64>,
    /// Since when requests were seen to wait behind one, and how often.
    stuck: (u64, u32),
}

impl Watch {
    fn new(now: u64, served: u64, changes: u64) -> Self {
        Self {
            last: now,
            arrival: now,
            served,
            sample: served,
            held_up: 0,
            seen: (0, 0),
            changes,
            waits: None,
            stuck: (0, 0),
        }
    }

    fn look(&mut self, (now, busy): (u64, bool), (served, changes): (u64, u64), others_wait: impl Fn() -> bool) -> See {
        self.held_up += u64::from(now.saturating_sub(self.last) >= HELD_UP);
        self.last = now;
        if served != self.served {
            (self.served, self.arrival, self.waits) = (served, now, None);
            if busy {
                let (arrived, behind) = self.seen;
                self.seen = (arrived + 1, behind + u64::from(others_wait()));
            }
        }
        if served.saturating_sub(self.sample) >= SAMPLE {
            let (held_up, (arrived, behind)) = (self.held_up, self.seen);
            let turns = changes.saturating_sub(self.changes);
            (self.sample, self.held_up, self.seen, self.changes) = (served, 0, (0, 0), changes);
            // What waits may be a FORGET of the one caller; and callers that take turns wait for each other.
            if arrived >= SAMPLE / 8 && behind.min(turns) * BEHIND > arrived {
                return See::Crowd;
            }
            if held_up >= SAMPLE / 4 {
                return See::Caller;
            }
        }
        let since = now.saturating_sub(self.arrival);
        if since > STUCK && self.wait_long(now, others_wait()) {
            // Looked for again after as long.
            (self.arrival, self.waits) = (now, None);
            let (first, times) = self.stuck;
            self.stuck = if now.saturating_sub(first) > SOON { (now, 1) } else { (first, times + 1) };
            return if self.stuck.1 >= OFTEN { See::Crowd } else { See::Stuck };
        }
        if since > if busy { LONG } else { LINGER } { See::End } else { See::Nothing }
    }

    fn wait_long(&mut self, now: u64, others_wait: bool) -> bool {
        self.waits = if others_wait { self.waits.or(Some(now)) } else { None };
        self.waits.is_some_and(|since| now.saturating_sub(since) >= SURE)
    }

    /// The keeper has left its processor, which took a while.
    fn moved(&mut self, now: u64) {
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_is_wanted_when_requests_follow_each_other_and_it_does_not_rest() {
        let table: [(&[u64], u64, &[bool]); 4] = [
            (&[1000, 1010, 1020, 1030, 1040, 1050], 0, &[false, false, false, false, true, false]),
            (&[1000, 1010, 1020, 1321, 1331, 1341], 0, &[false; 6]),
            (&[1000, 1010, 1020, 1030, 1040], 1035, &[false; 5]),
            (&[1000, 2000, 3000, 4000, 5000, 6000], 0, &[false; 6]),
        ];
        for (arrivals, rest, wanted) in table {
            let keeper = Keeper::new();
            keeper.rest.store(rest, Ordering::Relaxed);
            let told: Vec<bool> = arrivals.iter().map(|&now| keeper.is_due(now)).collect();
            assert_eq!(told, wanted, "{arrivals:?}, rest until {rest}");
        }
    }

    #[test]
    fn a_thread_leaves_once_in_a_while_however_often_it_finds_the_keeper() {
        let keeper = Keeper::new();
        let left: Vec<u64> = (1000..1000 + 3 * STAY).step_by(10).filter(|&now| keeper.may_leave(now)).collect();
        assert_eq!(left, [1000, 1000 + STAY, 1000 + 2 * STAY]);
    }

    #[test]
    fn the_keeper_sees_an_end_a_crowd_and_the_caller() {
        let steps = |gap: u64, events: u64| (1..=3000).map(|i| (i * gap, i * events)).collect::<Vec<_>>();
        let looks = |looks: Vec<(u64, u64)>, (busy, others_wait): (bool, bool)| {
            let mut watch = Watch::new(0, 0, 0);
            looks.into_iter().find_map(|(now, served)| match watch.look((now, busy), (served, 0), || others_wait) {
                See::Nothing => None,
                see => Some((see, now)),
            })
        };
        let table = [
            (steps(1, 0), (false, false), Some((See::End, LINGER + 1)), "nobody asks"),
            (steps(1, 0), (true, false), Some((See::End, LONG + 1)), "an answer takes long"),
            (steps(1, 0), (true, true), Some((See::Stuck, STUCK + 1 + SURE)), "others wait for it"),
            (steps(1, 1), (true, true), None, "nothing holds it up"),
            (steps(HELD_UP, 2), (false, false), Some((See::Caller, SAMPLE / 2 * HELD_UP)), "held up at each request"),
            (steps(HELD_UP, 6), (false, false), None, "held up at a third of the requests"),
        ];
        for (steps, state, seen, what) in table {
            assert_eq!(looks(steps, state), seen, "{what}");
        }
        let mut watch = Watch::new(0, 0, 0);
        let mut waits =
            (1..).filter_map(|now| Some(watch.look((now, true), (0, 0), || true)).filter(|see| *see != See::Nothing));
        let often = OFTEN as usize;
        assert!(waits.by_ref().take(often - 1).all(|see| see == See::Stuck));
        assert_eq!(waits.next(), Some(See::Crowd));
    }

    #[test]
    fn callers_are_a_crowd_if_they_wait_for_each_other_and_not_if_they_take_turns_or_one_forgets() {
        // Every how many requests another one waits, and the caller is another.
        let table = [
            ((1, 1), Some(See::Crowd)),
            ((2, 2), Some(See::Crowd)),
            ((1, 1000), None),
            ((1000, 1), None),
            ((4, 1), None),
        ];
        for ((waits, another), seen) in table {
            let mut watch = Watch::new(0, 0, 0);
            let mut look = |n: u64| watch.look((n, true), (n, n / another), || n.is_multiple_of(waits));
            let see = (1..=10 * SAMPLE).map(&mut look).find(|see| *see != See::Nothing);
            assert_eq!(see, seen, "waits at 1 in {waits}, another at 1 in {another}");
        }
    }

    #[test]
    fn a_keeper_that_goes_to_sleep_leaves_somebody_who_waits_and_ends_with_the_session() {
        let turns = std::sync::Arc::new(Turns::new());
        let keeper = std::sync::Arc::new(Keeper::new());
        let (theirs, others) = (keeper.clone(), turns.clone());
        let thread = std::thread::spawn(move || theirs.run(&others));
        for _ in 0..3 {
            while !keeper.is_awake() {
                keeper.ask(Task::Wake);
                std::thread::yield_now();
            }
            while keeper.is_awake() {
                std::thread::yield_now();
            }
        }
        keeper.close();
        thread.join().unwrap();
    }
}
