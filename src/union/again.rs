//! What an operation does once more before it fails.

use super::Union;
use crate::base::{Errno, Result};

impl Union {
    /// Does an operation, and once more where descriptors may be to blame: those that are kept open only to be found again
    /// are let go. A network file system has forgotten what they were for (`ESTALE`), or there are too many.
    ///
    /// An operation that fails has done nothing, or what it does again without harm.
    pub(super) fn again<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        match act() {
            Err(Errno::ESTALE | Errno::EMFILE | Errno::ENFILE) => {
                self.fds.evict_all();
                act()
            }
            done => done,
        }
    }
}
