//! Memory that outlives the process, as long as another one holds its descriptor.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};

use super::newer::{self, Newer};
use crate::base::{Errno, Result};

/// An empty file without a name, in memory ([memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html)).
///
/// # Errors
/// `EMFILE`, `ENFILE` and `ENOMEM`; `ENOSYS` before Linux 3.17.
pub fn memory_file(label: &str) -> Result<OwnedFd> {
    if newer::is_absent(Newer::Memfd) {
        return Err(Errno::ENOSYS);
    }
    Ok(memfd_create(label, MemfdFlags::CLOEXEC)?)
}
