//! What an open does, where a file system sees opens.

use super::long::Operation;
use super::{Caller, InodeId, Union};
use crate::base::Result;

/// How a program opens a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct OpenHow {
    /// For writing.
    pub writes: bool,
    /// At its end only.
    pub appends: bool,
    /// It is emptied (`O_TRUNC`).
    pub empties: bool,
    /// Each write is on disk when it returns (`O_SYNC`, `O_DSYNC`).
    pub syncs: bool,
    /// The open copies the file up, or empties it; else that comes with its first change.
    pub copies_up: bool,
    /// The kernel reads and writes the file by itself from then on.
    pub by_kernel: bool,
}

impl OpenHow {
    /// What this open of a file does.
    pub fn operation(&self, id: InodeId) -> Operation {
        match (self.copies_up && (self.writes || self.empties), self.empties) {
            (false, _) => Operation::Look,
            (true, false) => Operation::Data(id),
            (true, true) => Operation::Length(id, 0),
        }
    }
}

impl Union {
    /// Does what comes before a file is open for a program.
    ///
    /// # Errors
    /// `EPERM` where chattr(1) forbids it; as for [`Union::write`] and [`Union::setattr`].
    pub fn open_file(&self, caller: &Caller, id: InodeId, how: OpenHow) -> Result<()> {
        if how.writes {
            self.may_open_to_write(id, how.appends)?;
        }
        let kernel_writes = how.by_kernel && how.writes;
        match how.operation(id) {
            Operation::Data(id) => self.open_to_write(caller, id)?,
            Operation::Length(id, _) => self.open_to_empty(caller, id)?,
            _ if kernel_writes => self.settle_names(caller, id)?,
            _ => {}
        }
        if kernel_writes && how.syncs { self.sync_loose(id) } else { Ok(()) }
    }
}
