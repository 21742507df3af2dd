//! Requests that a daemon had read when it died, and that the next one is sent again.
//!
//! The kernel holds the directories that a request changes until it is answered, and knew beforehand what is in them: a
//! name that is there when a MKDIR is sent again was made by that very request.

use super::{Caller, Entry, InodeId, Union};
use crate::base::{Errno, Name, Result};

impl Union {
    /// What a request to make `name` came to.
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

    /// Whether an exchange was made before its daemon died: another inode stands at its first name then.
    pub(super) fn was_exchanged(&self, caller: &Caller, parent: InodeId, name: &Name) -> bool {
        let moves = self.journal.as_ref().filter(|_| caller.resent).map(|journal| journal.moves()).unwrap_or_default();
        let Some(begun) = moves.into_iter().find(|one| one.request == caller.request) else { return false };
        let Ok(Some(entry)) = self.lookup(parent, name) else { return false };
        self.forget(entry.id, 1);
        entry.id.0 != begun.was
    }
}

/// What a request came to that leaves nothing where `missing` says that there is nothing.
pub(super) fn or_gone_before(caller: &Caller, missing: Errno, done: Result<()>) -> Result<()> {
    match done {
        Err(errno) if caller.resent && errno == missing => Ok(()),
        done => done,
    }
}
