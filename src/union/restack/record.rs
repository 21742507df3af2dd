//! A step of several views is written down before the first of them takes it. Where it is broken off between two of them,
//! whoever comes next takes it in the others.

use std::path::PathBuf;
use std::sync::Arc;

use super::disk::Ready;
use super::live::Live;
use crate::base::{Errno, Result};
use crate::union::Union;
use crate::union::refusal::{Setup, SetupError};

/// What a step does in one view: two names are exchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The upper layer.
    pub upper: PathBuf,
    /// The commit in its work directory whose `layer` takes its place.
    pub commit: u64,
    /// The inode number of that.
    pub successor: u64,
}

/// Where a step of several views is written down.
pub trait Record: Send + Sync {
    /// Notes what is about to be done. It does not count yet.
    ///
    /// # Errors
    /// What writing says.
    fn note(&self, exchanges: &[Exchange]) -> Result<()>;
    /// From here on it counts.
    ///
    /// # Errors
    /// What renaming says.
    fn begin(&self) -> Result<()>;
    /// It is done, or taken back.
    fn end(&self);
}

/// A step that is written down until the value is dropped.
pub(super) struct Recorded(Arc<dyn Record>);

impl Drop for Recorded {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn failed(errno: Errno) -> SetupError {
    SetupError::new("the session's record of a step", errno.to_string(), "nothing has changed")
}

/// Notes a step, where several views take it and have a record.
pub(super) fn note(views: &[&Live], unions: &[Arc<Union>], ready: &[Ready]) -> Setup<Option<Arc<dyn Record>>> {
    let Some(record) = views.first().and_then(|view| view.record()).filter(|_| views.len() > 1) else {
        return Ok(None);
    };
    let exchange = |(union, ready): (&Arc<Union>, &Ready)| {
        let dirs = union.stands.config.upper.as_ref().ok_or(Errno::EROFS)?;
        let successor = ready.successor.stat()?.ino;
        Ok(Exchange { upper: dirs.dir.clone(), commit: ready.successor.number, successor })
    };
    let exchanges = unions.iter().zip(ready).map(exchange).collect::<Result<Vec<_>>>();
    exchanges.and_then(|exchanges| record.note(&exchanges)).map_err(failed)?;
    Ok(Some(record))
}

/// Makes a noted step count.
pub(super) fn begin(record: Option<Arc<dyn Record>>) -> Setup<Option<Recorded>> {
    record.map(|record| record.begin().map(|()| Recorded(record)).map_err(failed)).transpose()
}
