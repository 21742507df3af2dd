//! The fault seam: where a test decides which system call of a thread fails.
//!
//! [`with_plan`] runs a piece of code under a [`Plan`] and counts its calls; running it again for each number below that
//! count covers every error path. [`Plan::dead_from`] is a kill -9 without a process: from one call on nothing happens
//! any more, not even the cleaning up. [`Plan::panic`] is a bug at a call. Idle, the seam costs one relaxed load.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::sync::Mutex;
use crate::base::{Errno, Result};

macro_rules! calls {
    ($($call:ident)*) => {
        /// The calls that the seam tells apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Call { $($call),* }

        impl Call {
            /// Each of them once.
            pub const ALL: &'static [Call] = &[$(Call::$call),*];
        }
    };
}

calls! {
    OpenRoot OpenBeneath Reopen
    Stat StatBeneath StatFs
    ReadDir
    Mkdir Mknod Symlink Link Rename Unlink Rmdir Create Readlink Chmod Chown Utimens
    Pread Pwrite Reflink CopyRange SeekData SeekHole Truncate Fallocate Fsync Fdatasync Syncfs SyncRange
    GetXattr SetXattr RemoveXattr ListXattr
    Handle OpenHandle FsUuid
    GetFlags SetFlags GetFsx SetFsx
    Verity
    AsCaller Caps ProcStatus
    Lock Random
    Process Mount
    Protect
}

/// What a test makes of the system calls of a thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    fault: Option<Fault>,
    only: Option<Call>,
    each: Option<fn()>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Fail { at: u64, errno: Errno },
    Dead { from: u64 },
    Short { at: u64, part: Part, then: Option<Errno> },
    Panic { at: u64 },
}

/// How many of the bytes asked for a call moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Nothing, as a file system does that has no better answer.
    Nothing,
    /// One byte.
    Byte,
    /// Half of it, at least one byte.
    Half,
}

impl Part {
    fn of(self, len: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Byte => len.min(1),
            Self::Half => len.div_ceil(2),
        }
    }
}

impl Plan {
    /// Only counts.
    pub fn count() -> Self {
        Self::default()
    }

    /// The call with number `at` (from 0) fails with `errno`, without being made.
    pub fn fail(at: u64, errno: Errno) -> Self {
        Self { fault: Some(Fault::Fail { at, errno }), ..Self::default() }
    }

    /// The call with number `from` (from 0) and all later ones answer `EIO` and do nothing.
    pub fn dead_from(from: u64) -> Self {
        Self { fault: Some(Fault::Dead { from }), ..Self::default() }
    }

    /// The call with number `at` (from 0) moves only a part of its bytes, if it moves any; the call after it fails with
    /// `then`.
    pub fn short(at: u64, part: Part, then: Option<Errno>) -> Self {
        Self { fault: Some(Fault::Short { at, part, then }), ..Self::default() }
    }

    /// The call with number `at` (from 0) panics.
    pub fn panic(at: u64) -> Self {
        Self { fault: Some(Fault::Panic { at }), ..Self::default() }
    }

    /// Counts, and fails, calls of this kind only.
    #[must_use]
    pub fn only(self, call: Call) -> Self {
        Self { only: Some(call), ..self }
    }

    /// Runs `act` before each counted call; the calls of `act` are not counted. It stands for what else may happen between
    /// two calls.
    #[must_use]
    pub fn each(self, act: fn()) -> Self {
        Self { each: Some(act), ..self }
    }
}

/// What file systems seem to lack, for a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lacks {
    /// The flags of `renameat2(2)`.
    pub rename_flags: bool,
    /// 0/0 character devices.
    pub devices: bool,
    /// Marks: extended attributes of overlays.
    pub marks: bool,
    /// mknod(2) of a device fails, but the name is there afterwards.
    pub late: bool,
    /// Hard links.
    pub links: bool,
    /// Attributes without a value: to set one takes it away, as on 9p.
    pub empty_values: bool,
}

thread_local! {
    static LACKS: std::cell::Cell<Lacks> = const {
        std::cell::Cell::new(Lacks {
            rename_flags: false,
            devices: false,
            marks: false,
            late: false,
            links: false,
            empty_values: false,
        })
    };
}

/// While this value lives, file systems seem to lack this for the thread that made it. That thread must drop it.
pub struct Lacking(());

impl Lacking {
    /// In place of what they lacked before.
    pub fn new(lacks: Lacks) -> Self {
        PLANS.fetch_add(1, Ordering::Relaxed);
        LACKS.set(lacks);
        Self(())
    }
}

impl Drop for Lacking {
    fn drop(&mut self) {
        LACKS.set(Lacks::default());
        PLANS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What file systems lack for the calling thread.
#[inline]
pub(crate) fn lacks() -> Lacks {
    if PLANS.load(Ordering::Relaxed) == 0 { Lacks::default() } else { LACKS.get() }
}

/// Sorts of directories that the machine may not have, for a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guise {
    /// The inode number of the directory that is taken to be case-insensitive; 0: none.
    pub casefolded: u64,
    /// The inode number of a directory, and the magic number that its file system is taken to have.
    pub magic: (u64, u64),
}

thread_local! {
    static GUISE: std::cell::Cell<Option<Guise>> = const { std::cell::Cell::new(None) };
}

/// While this value lives, the thread that made it sees directories so. That thread must drop it.
pub struct Guised(());

impl Guised {
    /// In place of what they were taken to be before.
    pub fn new(guise: Guise) -> Self {
        PLANS.fetch_add(1, Ordering::Relaxed);
        GUISE.set(Some(guise));
        Self(())
    }
}

impl Drop for Guised {
    fn drop(&mut self) {
        GUISE.set(None);
        PLANS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the calling thread takes directories to be.
#[inline]
pub(crate) fn guise() -> Option<Guise> {
    if PLANS.load(Ordering::Relaxed) == 0 { None } else { GUISE.get() }
}

struct Running {
    plan: Plan,
    count: u64,
    /// The counted calls in their order, if a test asked for them.
    trace: Option<Vec<Call>>,
}

/// Threads with a plan, and one more while there is one for all.
static PLANS: AtomicUsize = AtomicUsize::new(0);
/// The plan of the threads that have none.
static COMMON: Mutex<Option<Running>> = Mutex::new(None);

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Takes the plan away again, also when the code under it panics.
struct Installed {
    outer: Option<Running>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        PLANS.fetch_sub(1, Ordering::Relaxed);
        RUNNING.replace(self.outer.take());
    }
}

/// Runs `f` with the calls of this thread under `plan`; returns what it returned and how many calls it made.
///
/// A plan inside another one replaces it until its end. Other threads are not concerned.
pub fn with_plan<R>(plan: Plan, f: impl FnOnce() -> R) -> (R, u64) {
    let (result, ended) = run(Running { plan, count: 0, trace: None }, f);
    (result, ended.map_or(0, |running| running.count))
}

/// Runs `f` without a fault; returns what it returned and each of its calls, in their order.
pub fn traced<R>(f: impl FnOnce() -> R) -> (R, Vec<Call>) {
    let (result, ended) = run(Running { plan: Plan::count(), count: 0, trace: Some(Vec::new()) }, f);
    (result, ended.and_then(|running| running.trace).unwrap_or_default())
}

fn run<R>(running: Running, f: impl FnOnce() -> R) -> (R, Option<Running>) {
    PLANS.fetch_add(1, Ordering::Relaxed);
    let installed = Installed { outer: RUNNING.replace(Some(running)) };
    let result = f();
    let ended = RUNNING.take();
    drop(installed);
    (result, ended)
}

/// Runs `f` with the calls of all threads that have no plan of their own under `plan`, as of a mount that this process
/// serves; returns what it returned and how many calls they made.
pub fn with_common_plan<R>(plan: Plan, f: impl FnOnce() -> R) -> (R, u64) {
    struct Common;
    impl Drop for Common {
        fn drop(&mut self) {
            PLANS.fetch_sub(1, Ordering::Relaxed);
            *COMMON.lock() = None;
        }
    }
    PLANS.fetch_add(1, Ordering::Relaxed);
    *COMMON.lock() = Some(Running { plan, count: 0, trace: None });
    let common = Common;
    let result = f();
    let count = COMMON.lock().as_ref().map_or(0, |running| running.count);
    drop(common);
    (result, count)
}

/// The first line of each system call.
///
/// # Errors
/// What the thread's plan says.
#[inline]
#[track_caller]
pub(crate) fn enter(call: Call) -> Result<()> {
    if PLANS.load(Ordering::Relaxed) == 0 { Ok(()) } else { enter_planned(call) }
}

/// The same for a call that moves `len` bytes: how many of them it is to move.
///
/// # Errors
/// What the thread's plan says.
#[inline]
#[track_caller]
pub(crate) fn enter_moving(call: Call, len: usize) -> Result<usize> {
    if PLANS.load(Ordering::Relaxed) == 0 { Ok(len) } else { planned(call, len) }
}

#[cold]
#[track_caller]
fn enter_planned(call: Call) -> Result<()> {
    planned(call, 0).map(drop)
}

#[cold]
#[track_caller]
fn planned(call: Call, len: usize) -> Result<usize> {
    let own = RUNNING.with_borrow_mut(|running| running.as_mut().map(|running| running.enter(call)));
    // No lock is held any more when the plan is carried out.
    let (each, answer) =
        own.unwrap_or_else(|| COMMON.lock().as_mut().map_or((None, Todo::All), |running| running.enter(call)));
    if let Some(act) = each {
        with_plan(Plan::count(), act);
    }
    match answer {
        Todo::All => Ok(len),
        Todo::Part(part) => Ok(part.of(len)),
        Todo::Nothing(errno) => Err(errno),
        Todo::Panic(at) => bug(call, at),
    }
}

/// What a call is to do.
enum Todo {
    All,
    Part(Part),
    Nothing(Errno),
    Panic(u64),
}

impl Running {
    /// What is to happen before this call, and to it.
    fn enter(&mut self, call: Call) -> (Option<fn()>, Todo) {
        if self.plan.only.is_some_and(|only| only != call) {
            return (None, Todo::All);
        }
        let number = self.count;
        self.count += 1;
        self.trace.iter_mut().for_each(|trace| trace.push(call));
        let todo = match self.plan.fault {
            Some(Fault::Fail { at, errno }) if at == number => Todo::Nothing(errno),
            Some(Fault::Dead { from }) if from <= number => Todo::Nothing(Errno::EIO),
            Some(Fault::Short { at, part, .. }) if at == number => Todo::Part(part),
            Some(Fault::Short { at, then: Some(errno), .. }) if at + 1 == number => Todo::Nothing(errno),
            Some(Fault::Panic { at }) if at == number => Todo::Panic(at),
            _ => Todo::All,
        };
        (self.plan.each, todo)
    }
}

#[expect(clippy::panic, reason = "what a test asked for")]
#[track_caller]
fn bug(call: Call, at: u64) -> ! {
    panic!("a plan: {call:?} {at}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_calls() -> [Result<()>; 3] {
        [enter(Call::Mkdir), enter(Call::Link), enter(Call::Mkdir)]
    }

    #[test]
    fn a_plan_decides_which_calls_fail() {
        let (eio, enospc) = (Err(Errno::EIO), Err(Errno::ENOSPC));
        for (plan, expected, calls) in [
            (Plan::count(), [Ok(()); 3], 3),
            (Plan::fail(0, Errno::ENOSPC), [enospc, Ok(()), Ok(())], 3),
            (Plan::fail(2, Errno::ENOSPC), [Ok(()), Ok(()), enospc], 3),
            (Plan::fail(3, Errno::ENOSPC), [Ok(()); 3], 3),
            (Plan::dead_from(1), [Ok(()), eio, eio], 3),
            (Plan::fail(1, Errno::ENOSPC).only(Call::Mkdir), [Ok(()), Ok(()), enospc], 2),
        ] {
            assert_eq!(with_plan(plan, three_calls), (expected, calls), "{plan:?}");
        }
        assert_eq!(three_calls(), [Ok(()); 3]);
        assert_eq!(traced(three_calls), ([Ok(()); 3], vec![Call::Mkdir, Call::Link, Call::Mkdir]));
    }

    #[test]
    fn a_plan_decides_how_much_a_call_moves() {
        let move_ten = || [(); 3].map(|()| enter_moving(Call::Pwrite, 10));
        for (part, then, expected) in [
            (Part::Nothing, None, [Ok(10), Ok(0), Ok(10)]),
            (Part::Byte, None, [Ok(10), Ok(1), Ok(10)]),
            (Part::Half, Some(Errno::ENOSPC), [Ok(10), Ok(5), Err(Errno::ENOSPC)]),
        ] {
            assert_eq!(with_plan(Plan::short(1, part, then), move_ten), (expected, 3), "{part:?}");
        }
        assert_eq!(with_plan(Plan::short(0, Part::Byte, None), three_calls), ([Ok(()); 3], 3));
    }

    #[test]
    fn an_inner_plan_and_a_panic_leave_the_outer_plan_in_place() {
        let (_, calls) = with_plan(Plan::count(), || {
            assert_eq!(with_plan(Plan::dead_from(0), three_calls).1, 3);
            let panicked = std::panic::catch_unwind(|| with_plan(Plan::dead_from(0), || panic!("on purpose")));
            assert!(panicked.is_err());
            three_calls()
        });
        assert_eq!(calls, 3);
    }

    #[test]
    fn something_runs_before_each_call_and_is_not_counted() {
        thread_local! {
            static RUNS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
        }
        let act = || {
            RUNS.set(RUNS.get() + 1);
            let _ = three_calls();
        };
        let (result, calls) = with_plan(Plan::fail(1, Errno::EIO).only(Call::Mkdir).each(act), three_calls);
        assert_eq!((result, calls, RUNS.get()), ([Ok(()), Ok(()), Err(Errno::EIO)], 2, 2));
    }

    #[test]
    fn another_thread_is_not_concerned() {
        let (result, calls) = with_plan(Plan::dead_from(0), || std::thread::spawn(three_calls).join());
        assert_eq!((result.unwrap(), calls), ([Ok(()); 3], 0));
    }
}
