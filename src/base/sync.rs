//! The one place that names the lock and table types, so that they can be swapped (loom, std) in one line.

pub use dashmap::DashMap;
pub use hashbrown::HashTable;
pub use once_cell::race::OnceBox;
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
