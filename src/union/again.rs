//! The one place that tries an operation a second time. Every public operation runs its body through it.

use super::Union;
use crate::base::{Errno, Result};

impl Union {
    /// Runs `act`, and runs it once more where cached descriptors may be why it failed: a network file system has forgotten
    /// what they are open on (`ESTALE`), or too many are open (`EMFILE`, `ENFILE`). The cached descriptors are closed in
    /// between.
    ///
    /// `act` must have changed nothing when it fails, or only what it may do twice.
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
