//! The one place that names the lock and table types, so that they can be swapped in one line: under `--cfg plyfs_shuttle`
//! they are those of a model (`tests/models.rs`).

pub use dashmap::DashMap;
pub use hashbrown::HashTable;
pub use once_cell::race::OnceBox;

#[cfg(not(plyfs_shuttle))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(plyfs_shuttle))]
pub use std::{sync::atomic::AtomicU32, thread::yield_now};

#[cfg(plyfs_shuttle)]
pub use super::shuttled::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, begin, order_seen};
#[cfg(plyfs_shuttle)]
pub use shuttle::{sync::atomic::AtomicU32, thread::yield_now};
