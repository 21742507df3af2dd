//! The locks under `--cfg plyfs_shuttle`, for `tests/models.rs`: [shuttle](https://docs.rs/shuttle) decides at each of them
//! which thread goes on. They have the form of parking_lot's, and remember in which order they are taken: a lock that is
//! asked for under one that is elsewhere asked for under it ends the model, whether or not the two meet.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex as Plain;
use std::time::Duration;

use shuttle::sync as model;

/// Sorts of locks, by what they guard.
type Sort = &'static str;

/// Which sorts were asked for while another one was held.
static AFTER: Plain<BTreeMap<Sort, BTreeSet<Sort>>> = Plain::new(BTreeMap::new());

thread_local! {
    /// What each thread of the model that runs here holds.
    static HELD: RefCell<Vec<(shuttle::thread::ThreadId, Sort)>> = const { RefCell::new(Vec::new()) };
}

/// Each pair of sorts of locks that were held together, in their order; for a look at what the models reach.
pub fn order_seen() -> Vec<(Sort, Sort)> {
    let after = AFTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    after.iter().flat_map(|(first, seconds)| seconds.iter().map(|second| (*first, *second))).collect()
}

/// A new run of a model begins; one that failed may have left locks.
pub fn begin() {
    HELD.with_borrow_mut(Vec::clear);
}

/// One lock that a thread holds.
struct Hold(shuttle::thread::ThreadId, Sort);

impl Hold {
    /// Before a lock is waited for.
    #[expect(clippy::panic, reason = "what a model is for")]
    fn ask(sort: Sort) {
        let me = shuttle::thread::current().id();
        let held: Vec<Sort> = HELD.with_borrow(|held| {
            held.iter().filter(|(thread, of)| *thread == me && *of != sort).map(|(_, of)| *of).collect()
        });
        let mut after = AFTER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for first in held {
            after.entry(first).or_default().insert(sort);
            if let Some(way) = leads(&after, sort, first) {
                drop(after);
                panic!("lock order: {sort} under {first}, and elsewhere {}", way.join(" before "));
            }
        }
    }

    fn taken(sort: Sort) -> Self {
        let me = shuttle::thread::current().id();
        HELD.with_borrow_mut(|held| held.push((me, sort)));
        Self(me, sort)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| {
            if let Some(at) = held.iter().rposition(|(thread, sort)| *thread == self.0 && *sort == self.1) {
                held.remove(at);
            }
        });
    }
}

/// A way in the order from one sort to another.
fn leads(after: &BTreeMap<Sort, BTreeSet<Sort>>, from: Sort, to: Sort) -> Option<Vec<Sort>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop() {
        let last = *way.last()?;
        if last == to {
            return Some(way);
        }
        for next in after.get(last).into_iter().flatten().filter(|next| seen.insert(next)) {
            ways.push([&way[..], &[*next]].concat());
        }
    }
    None
}

macro_rules! guard {
    ($(#[$doc:meta])* $name:ident of $inner:ident $(, $mut:ident)?) => {
        $(#[$doc])*
        pub struct $name<'a, T: ?Sized>(model::$inner<'a, T>, #[allow(dead_code)] Hold);

        impl<T: ?Sized> Deref for $name<'_, T> {
            type Target = T;
            fn deref(&self) -> &T {
                &self.0
            }
        }

        $(impl<T: ?Sized> DerefMut for $name<'_, T> {
            fn $mut(&mut self) -> &mut T {
                &mut self.0
            }
        })?
    };
}

guard! {
    /// Of [`RwLock::write`].
    RwLockWriteGuard of RwLockWriteGuard, deref_mut
}
guard! {
    /// Of [`RwLock::read`].
    Shared of RwLockReadGuard
}

/// Of [`Mutex::lock`]; nothing is in it while it waits for a [`Condvar`].
pub struct MutexGuard<'a, T: ?Sized>(Option<model::MutexGuard<'a, T>>, #[allow(dead_code)] Hold);

#[expect(clippy::expect_used, reason = "of a model only, and never while it waits")]
impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.0.as_ref().expect("held")
    }
}

#[expect(clippy::expect_used, reason = "of a model only, and never while it waits")]
impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held")
    }
}

/// Of [`RwLock::read`], or of one that was exclusive and stays so: stronger than it needs to be, and as one step.
pub enum RwLockReadGuard<'a, T: ?Sized> {
    /// Shared with others.
    Shared(Shared<'a, T>),
    /// Downgraded.
    Exclusive(RwLockWriteGuard<'a, T>),
}

impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Self::Shared(guard) => guard,
            Self::Exclusive(guard) => guard,
        }
    }
}

impl<'a, T: ?Sized> RwLockWriteGuard<'a, T> {
    /// Shared from now on.
    pub fn downgrade(guard: Self) -> RwLockReadGuard<'a, T> {
        RwLockReadGuard::Exclusive(guard)
    }
}

/// As parking_lot's.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(model::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(model::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        Hold::ask(type_name::<Self>());
        let guard = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        MutexGuard(Some(guard), Hold::taken(type_name::<Self>()))
    }

    /// Does not wait.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard), Hold::taken(type_name::<Self>())))
    }

    /// Waits for it for as long as it takes: no time passes in a model, and the order of the locks is that of a wait.
    pub fn try_lock_for(&self, _: Duration) -> Option<MutexGuard<'_, T>> {
        Some(self.lock())
    }

    /// Whether somebody has it right now.
    pub fn is_locked(&self) -> bool {
        self.0.try_lock().is_err()
    }

    /// Nobody else has it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// As parking_lot's.
#[derive(Default)]
pub struct RwLock<T: ?Sized>(model::RwLock<T>);

impl<T> RwLock<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Self {
        Self(model::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        Hold::ask(type_name::<Self>());
        let guard = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        RwLockReadGuard::Shared(Shared(guard, Hold::taken(type_name::<Self>())))
    }

    /// Waits for it.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        Hold::ask(type_name::<Self>());
        let guard = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        RwLockWriteGuard(guard, Hold::taken(type_name::<Self>()))
    }

    /// Does not wait.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok().map(|guard| RwLockWriteGuard(guard, Hold::taken(type_name::<Self>())))
    }
}

/// As parking_lot's.
#[derive(Default)]
pub struct Condvar(model::Condvar);

impl Condvar {
    /// Waits for a call.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.0.take() {
            guard.0 = Some(self.0.wait(held).unwrap_or_else(|poisoned| poisoned.into_inner()));
        }
    }

    /// The same; the model's time never ends.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, time: std::time::Duration) {
        if let Some(held) = guard.0.take() {
            let (held, _) = self.0.wait_timeout(held, time).unwrap_or_else(|poisoned| poisoned.into_inner());
            guard.0 = Some(held);
        }
    }

    /// Calls one.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Calls all.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

macro_rules! debug {
    ($($name:ident)*) => {
        $(impl<T: ?Sized> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(type_name::<Self>())
            }
        })*
    };
}

debug! { Mutex RwLock }

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}
