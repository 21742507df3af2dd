//! The descriptor through which a file's data is read and written: a cache, never the file's identity.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An open descriptor of a regular file and what it was opened for.
#[derive(Debug, Clone)]
pub struct DataFd {
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
    /// It is open for reading.
    pub readable: bool,
    /// It is open for writing.
    pub writable: bool,
}

impl DataFd {
    /// Whether the descriptor can be used for reading or, with `write`, for writing.
    pub fn serves(&self, write: bool) -> bool {
        if write { self.writable } else { self.readable }
    }
}
