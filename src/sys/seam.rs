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
    Mkdir Mknod Symlink Link Rename Unlink Rmdir Create Tmpfile Readlink Chmod Chown Utimens
    Pread Pwrite Reflink CopyRange SeekData SeekHole Truncate Fallocate Fsync Fdatasync Syncfs
    GetXattr SetXattr RemoveXattr ListXattr
    Handle OpenHandle FsUuid
    GetFlags SetFlags GetFsx SetFsx
    Verity
    AsCaller Caps ProcStatus
    Lock Random
    Process Mount
}

/// What happens to the calls of a thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    fault: Option<Fault>,
    only: Option<Call>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Fail { at: u64, errno: Errno },
    Dead { from: u64 },
    Panic { at: u64 },
}

impl Plan {
    /// Only counts.
    pub fn count() -> Self {
        Self::default()
    }

    /// The call with number `at` (from 0) fails with `errno`, without being made.
    pub fn fail(at: u64, errno: Errno) -> Self {
        Self { fault: Some(Fault::Fail { at, errno }), only: None }
    }

    /// The call with number `from` (from 0) and all later ones answer `EIO` and do nothing.
    pub fn dead_from(from: u64) -> Self {
        Self { fault: Some(Fault::Dead { from }), only: None }
    }

    /// There is a bug at the call with number `at` (from 0).
    pub fn panic(at: u64) -> Self {
        Self { fault: Some(Fault::Panic { at }), only: None }
    }

    /// Counts, and fails, calls of this kind only.
    #[must_use]
    pub fn only(self, call: Call) -> Self {
        Self { only: Some(call), ..self }
    }
}

#[derive(Clone, Copy)]
struct Running {
    plan: Plan,
    count: u64,
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
    PLANS.fetch_add(1, Ordering::Relaxed);
    let installed = Installed { outer: RUNNING.replace(Some(Running { plan, count: 0 })) };
    let result = f();
    let count = RUNNING.with_borrow(|running| running.as_ref().map_or(0, |running| running.count));
    drop(installed);
    (result, count)
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
    *COMMON.lock() = Some(Running { plan, count: 0 });
    let common = Common;
    let result = f();
    let count = COMMON.lock().map_or(0, |running| running.count);
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

#[cold]
#[track_caller]
fn enter_planned(call: Call) -> Result<()> {
    let own = RUNNING.with_borrow_mut(|running| running.as_mut().map(|running| running.enter(call)));
    // No lock is held any more when the plan is carried out.
    let fault = own.unwrap_or_else(|| COMMON.lock().as_mut().and_then(|running| running.enter(call)));
    match fault {
        None => Ok(()),
        Some(Fault::Fail { errno, .. }) => Err(errno),
        Some(Fault::Dead { .. }) => Err(Errno::EIO),
        Some(Fault::Panic { at }) => bug(call, at),
    }
}

impl Running {
    /// What is to happen to this call.
    fn enter(&mut self, call: Call) -> Option<Fault> {
        if self.plan.only.is_some_and(|only| only != call) {
            return None;
        }
        let number = self.count;
        self.count += 1;
        self.plan.fault.filter(|fault| match fault {
            Fault::Fail { at, .. } | Fault::Panic { at } => *at == number,
            Fault::Dead { from } => *from <= number,
        })
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
    fn another_thread_is_not_concerned() {
        let (result, calls) = with_plan(Plan::dead_from(0), || std::thread::spawn(three_calls).join());
        assert_eq!((result.unwrap(), calls), ([Ok(()); 3], 0));
    }
}
