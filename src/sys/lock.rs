//! Taking a directory for oneself.

use std::os::fd::BorrowedFd;

use rustix::fs::FlockOperation;
use rustix::io::Errno as Raw;

use super::seam::{self, Call};
use crate::base::Result;

/// Takes the exclusive lock on an open directory or file for as long as `fd`, or a duplicate, is open
/// ([flock(2)](https://man7.org/linux/man-pages/man2/flock.2.html)); `false` if somebody else has it.
///
/// # Errors
/// `EBADF` for an `O_PATH` descriptor, and those of flock(2).
pub fn try_lock(fd: BorrowedFd<'_>) -> Result<bool> {
    seam::enter(Call::Lock)?;
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Err(Raw::WOULDBLOCK) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_lock_is_held_by_one_until_it_is_closed() {
        let here = tempfile::tempdir().unwrap();
        let [first, second] = [0; 2].map(|_| std::fs::File::open(here.path()).unwrap());
        assert_eq!(try_lock(first.as_fd()), Ok(true));
        assert_eq!(try_lock(first.as_fd()), Ok(true));
        assert_eq!(try_lock(second.as_fd()), Ok(false));
        drop(first);
        assert_eq!(try_lock(second.as_fd()), Ok(true));
    }
}
