//! The key that tells the objects of all layers apart.

use crate::sys::stat::Stat;

/// An object of a layer: `st_dev` and `st_ino`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// `st_dev`
    pub dev: u64,
    /// `st_ino`
    pub ino: u64,
}

impl Key {
    /// The key of what `stat` describes.
    pub fn of(stat: &Stat) -> Self {
        Self { dev: stat.dev, ino: stat.ino }
    }
}
