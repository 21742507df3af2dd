//! The descriptor through which a file's data is read and written: a cache, never the file's identity.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An open descriptor of a regular file and what it was opened for.
#[derive(Debug, Clone)]
pub struct DataFd {
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
}

impl DataFd {
    /// Whether it serves a use that reads or (`write`) writes.
    pub fn serves(&self, write: bool) -> bool {
        if write { self.writable } else { self.readable }
    }
}
