//! When the keeper wakes, moves and sleeps. Times are counted from the beginning of the session.

use std::time::Duration;

const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// The keeper wakes at the fourth request that follows the answer before it this soon.
const STREAK: u32 = 4;
const SOON: Duration = micros(300);
/// It sleeps when no request has arrived for so long, or when one takes so long.
const LINGER: Duration = micros(500);
const LONG: Duration = micros(2_000);
/// A caller was on its processor meanwhile, if it was held up this long.
const HELD_UP: Duration = micros(5);
/// Somebody computes, if turns this long held it up for three quarters of this time. Single ones are plyfs's own thread that
/// looks ahead, or a host that took the processor away.
const TURN: Duration = micros(1_000);
const WINDOW: Duration = micros(16_000);
/// The keeper looks at the callers once in so many requests.
const SAMPLE: u64 = 64;
/// Behind one of so many requests another one waits if there are several callers at once.
const BEHIND: u64 = 3;
/// How long it sleeps at least after it was of no use: doubled each time in a row, up to the second.
const REST: Duration = micros(64_000);
const LONG_REST: Duration = micros(1_024_000);
/// Having been awake for this long was of use.
const USEFUL: Duration = micros(64_000);
/// It sleeps for this long after a READ for which two processors have work.
pub const WORK_FOR_TWO: Duration = micros(2_000);

/// Whether requests follow each other.
#[derive(Debug, Default)]
pub struct Streak {
    last_answer: Duration,
    row: u32,
}

impl Streak {
    /// A request arrived, and the keeper rests until `rest`: true if it is time to wake.
    pub fn arrived(&mut self, now: Duration, rest: Duration) -> bool {
        let counts = now.saturating_sub(self.last_answer) <= SOON && now >= rest;
        self.row = if counts { self.row + 1 } else { 0 };
        let due = self.row == STREAK;
        if due {
            self.row = 0;
        }
        due
    }

    /// One was answered.
    pub fn answered(&mut self, now: Duration) {
        self.last_answer = now;
    }
}

/// What the keeper finds when it looks around.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum See {
    /// All is well.
    Nothing,
    /// The caller is on the keeper's processor, so that the other one sleeps: one of them must move.
    Caller,
    /// No requests come any more.
    End,
    /// Several programs ask at once: no processor sleeps anyway, and two threads are to serve.
    Several,
    /// Somebody computes: no processor sleeps anyway.
    Others,
}

/// What the threads that serve have counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Requests that arrived or were answered.
    pub events: u64,
    /// How often the caller was another than the one before.
    pub changes: u64,
}

impl Counts {
    /// Whether the caller was another one at each fourth request at least.
    pub fn have_several_since(self, before: Self) -> bool {
        let requests = self.events.saturating_sub(before.events) / 2;
        requests > 0 && self.changes.saturating_sub(before.changes) * 4 >= requests
    }
}

/// What the keeper remembers from one look to the next.
#[derive(Debug)]
pub struct Watch {
    last_look: Duration,
    last_event: Duration,
    events: u64,
    /// The counts when the sample began.
    sample: Counts,
    /// Since then: how often the keeper was held up, how many requests it saw being served, and behind how many of these
    /// another one waited.
    held_up: u64,
    seen: u64,
    behind: u64,
    /// When the window began, and for how long others held the keeper up since.
    window: Duration,
    away: Duration,
}

impl Watch {
    /// The keeper has just woken.
    pub fn new(now: Duration, counts: Counts) -> Self {
        Self {
            last_look: now,
            last_event: now,
            events: counts.events,
            sample: counts,
            held_up: 0,
            seen: 0,
            behind: 0,
            window: now,
            away: Duration::ZERO,
        }
    }

    /// The keeper looks around, which it does all the time. `serves`: every thread serves a request; `others_wait` tells
    /// whether there are more.
    pub fn look(&mut self, (now, serves): (Duration, bool), counts: Counts, others_wait: impl FnOnce() -> bool) -> See {
        let away = now.saturating_sub(std::mem::replace(&mut self.last_look, now));
        if self.is_taken(now, away) {
            return See::Others;
        }
        self.held_up += u64::from(away >= HELD_UP);
        if counts.events != self.events {
            (self.events, self.last_event) = (counts.events, now);
            if serves {
                self.seen += 1;
                self.behind += u64::from(others_wait());
            }
        }
        if now.saturating_sub(self.last_event) > if serves { LONG } else { LINGER } {
            return See::End;
        }
        if counts.events.saturating_sub(self.sample.events) < 2 * SAMPLE {
            return See::Nothing;
        }
        let found = self.judge(counts.changes.saturating_sub(self.sample.changes));
        let Self { last_event, window, away, .. } = *self;
        *self = Self { last_event, window, away, ..Self::new(now, counts) };
        found
    }

    /// Whether a window ends in which others had most of the keeper's processor; it was held up just now for `away`.
    fn is_taken(&mut self, now: Duration, away: Duration) -> bool {
        if away >= TURN {
            self.away += away;
        }
        let lasted = now.saturating_sub(self.window);
        if lasted < WINDOW {
            return false;
        }
        self.window = now;
        std::mem::take(&mut self.away) >= lasted * 3 / 4
    }

    /// What a whole sample says in which the caller changed so often.
    fn judge(&self, changes: u64) -> See {
        // What waits may be a FORGET of the one caller; and callers that take turns wait for each other.
        if self.seen >= SAMPLE / 8 && self.behind.min(changes) * BEHIND > self.seen {
            See::Several
        } else if self.held_up > SAMPLE / 2 {
            See::Caller
        } else {
            See::Nothing
        }
    }

    /// The keeper has moved to another processor, which took a while.
    pub fn moved(&mut self, now: Duration) {
        self.last_look = now;
    }
}

/// How long the keeper keeps no processor awake after it was of no use.
#[derive(Debug, Default)]
pub struct Rest(Duration);

impl Rest {
    /// The rest after this end of having been awake for so long.
    pub fn after(&mut self, end: See, awake: Duration) -> Duration {
        if awake >= USEFUL {
            self.0 = Duration::ZERO;
        }
        if !matches!(end, See::Several | See::Others) {
            return Duration::ZERO;
        }
        self.0 = (self.0 * 2).clamp(REST, LONG_REST);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keeper_wakes_when_requests_follow_each_other_soon_and_it_does_not_rest() {
        let rule = |gap: Duration, rest: Duration| {
            let mut streak = Streak::default();
            let mut now = micros(1_000_000);
            let arrived = |_| {
                now += gap;
                let due = streak.arrived(now, rest);
                streak.answered(now);
                due
            };
            (1..=10).map(arrived).collect::<Vec<_>>()
        };
        let at = |due: &[usize]| (1..=10).map(|request| due.contains(&request)).collect::<Vec<_>>();
        // The first one follows none.
        assert_eq!(rule(SOON, Duration::ZERO), at(&[5, 9]));
        assert_eq!(rule(SOON + micros(1), Duration::ZERO), at(&[]));
        assert_eq!(rule(micros(10), micros(1_000_000 + 30)), at(&[6, 10]), "it rests until the third");
    }

    /// What the keeper sees first if it looks every so many microseconds, the counts grow by so much each time (the changes
    /// in quarters), and another request waits behind each one or behind none.
    fn first((every, events, changes): (u64, u64, u64), is_behind: bool) -> Option<(See, Duration)> {
        let mut watch = Watch::new(Duration::ZERO, Counts::default());
        (1..=3_000).find_map(|look| {
            let now = micros(look * every);
            let counts = Counts { events: look * events, changes: look * changes / 4 };
            let see = watch.look((now, events > 0), counts, || is_behind);
            (see != See::Nothing).then_some((see, now))
        })
    }

    #[test]
    fn the_keeper_sees_an_end_the_caller_and_others() {
        let held_up = HELD_UP.as_micros() as u64;
        let table = [
            ("nobody asks", (1, 0, 0), false, Some((See::End, LINGER + micros(1)))),
            ("one asks", (1, 2, 0), false, None),
            ("one asks, and is held up", (held_up, 2, 0), false, Some((See::Caller, HELD_UP * SAMPLE as u32))),
            ("one asks, and is held up at each third", (held_up, 6, 0), false, None),
            ("one asks for several things at once", (1, 2, 0), true, None),
            ("several ask by turns", (1, 2, 4), false, None),
            ("several ask at once", (1, 2, 4), true, Some((See::Several, micros(SAMPLE)))),
            ("several ask at once, each some times in a row", (1, 2, 1), true, None),
            ("somebody computes", (1_000, 8, 0), false, Some((See::Others, WINDOW))),
        ];
        for (what, looks, is_behind, seen) in table {
            assert_eq!(first(looks, is_behind), seen, "{what}");
        }
    }

    #[test]
    fn several_callers_are_those_who_change_at_each_fourth_request() {
        let before = Counts { events: 100, changes: 10 };
        let is_several = |(events, changes): (u64, u64)| {
            Counts { events: 100 + events, changes: 10 + changes }.have_several_since(before)
        };
        assert_eq!([(0, 0), (16, 0), (16, 1), (16, 2), (2, 1)].map(is_several), [false, false, false, true, true]);
    }

    #[test]
    fn a_thread_of_plyfs_that_works_between_is_nobody_else() {
        // Held up for so many microseconds, then 1 ms of looks, and so on.
        let is_seen = |turn: u64| {
            let mut watch = Watch::new(Duration::ZERO, Counts::default());
            let mut at = 0;
            (0..10_000).any(|look| {
                at += if look % 251 == 0 { turn } else { 4 };
                let counts = Counts { events: look, changes: 0 };
                watch.look((micros(at), false), counts, || false) == See::Others
            })
        };
        assert_eq!([500, 1_500, 2_000, 4_000].map(is_seen), [false, false, false, true]);
    }

    #[test]
    fn a_keeper_that_moved_was_not_held_up() {
        let mut watch = Watch::new(Duration::ZERO, Counts::default());
        watch.moved(HELD_UP);
        watch.look((HELD_UP, false), Counts { events: 1, changes: 0 }, || false);
        assert_eq!(watch.held_up, 0);
    }

    #[test]
    fn the_keeper_rests_twice_as_long_each_time_that_others_are_there() {
        let mut rest = Rest::default();
        let rests: Vec<_> = (0..6).map(|_| rest.after(See::Others, Duration::ZERO).as_millis()).collect();
        assert_eq!(rests, [64, 128, 256, 512, 1024, 1024]);
        assert_eq!(rest.after(See::End, USEFUL - micros(1)), Duration::ZERO);
        assert_eq!(rest.after(See::Others, Duration::ZERO), LONG_REST, "it was not awake for long");
        assert_eq!(rest.after(See::Others, USEFUL), REST);
    }
}
