//! The one place that names the lock and map types, so that they can be swapped (loom, std) in one line.

pub use dashmap::{DashMap, Entry};
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
