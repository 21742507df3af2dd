//! The types that every floor above uses: errors, names, settings, statistics.

pub mod config;
pub mod described;
mod errno;
mod few;
mod id_map;
pub mod ids;
mod name;
pub mod panics;
#[cfg(plyfs_shuttle)]
mod shuttled;
pub mod sync;

pub use errno::{Errno, Result};
pub use few::Few;
pub use ids::{DiskGid, DiskUid, ViewGid, ViewUid};
pub use name::Name;
