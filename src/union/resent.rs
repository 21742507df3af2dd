//! Requests that a daemon had read when it died, and that the kernel sends to the next daemon again.
//!
//! The kernel locks the directories that a request changes until the answer, and knew beforehand that the request could
//! succeed: a name that exists when a MKDIR is sent again was made by that very request.

use super::{Caller, Entry, InodeId, Union};
use crate::base::{Errno, Name, Result};

impl Union {
    /// The result of a request to make `name`: for a request that was sent again, an existing name is a success.
    pub(super) fn or_made_before(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        made: Result<Entry>,
    ) -> Result<Entry> {
        match made {
            Err(Errno::EEXIST) if caller.resent => self.lookup(parent, name)?.ok_or(Errno::EEXIST),
            made => made,
        }
    }

    /// Whether an exchange was made before its daemon died: then another inode stands at the first name.
    pub(super) fn was_exchanged(&self, caller: &Caller, parent: InodeId, name: &Name) -> bool {
        let moves = self.journal.as_ref().filter(|_| caller.resent).map(|journal| journal.moves()).unwrap_or_default();
        let Some(begun) = moves.into_iter().find(|one| one.request == caller.request) else { return false };
        let Ok(Some(entry)) = self.lookup(parent, name) else { return false };
        self.forget(entry.id, 1);
        entry.id.0 != begun.was
    }
}

/// The result of a request that removes something: for a request that was sent again, `missing` is a success.
pub(super) fn or_gone_before(caller: &Caller, missing: Errno, done: Result<()>) -> Result<()> {
    match done {
        Err(errno) if caller.resent && errno == missing => Ok(()),
        done => done,
    }
}
