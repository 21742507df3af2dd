//! What every floor above speaks in: errors, names, settings, statistics.

pub mod config;
mod errno;
mod name;
pub mod sync;

pub use errno::{Errno, Result};
pub use name::Name;
