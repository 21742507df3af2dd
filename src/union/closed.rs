//! Objects of a lower layer that belong to the daemon's own user, but that the daemon of a normal user may not read.
//! Their modes stay closed in the lower layer, which is never changed: the union gives none of them a mode by which it
//! could be read, since nobody could read it.

use super::Union;
use crate::base::{Errno, Result};
use crate::inode::{Body, Inode};
use crate::merge::{Data, LowerFile};
use crate::sys::caller::overrides_modes;

const READ: u32 = 0o444;
const SEARCH: u32 = 0o111;

impl Union {
    /// Whether an object may get this mode. A directory may get it if its lower parts can be listed and searched as far
    /// as the mode says; a file may get it if its data can be read. The data of a file without an upper object is
    /// checked when the file is copied up.
    ///
    /// # Errors
    /// `EACCES`
    pub(super) fn check_closed(&self, inode: &Inode, mode: Option<u32>) -> Result<()> {
        let Some(mode) = mode.filter(|mode| mode & (READ | SEARCH) != 0 && !overrides_modes()) else { return Ok(()) };
        match &inode.body {
            Body::Dir(dir) => {
                let lowers = dir.view().lowers;
                let mut missing = 0;
                // Where modes stand in attributes, what could be looked at can be read.
                for part in lowers.iter().filter(|part| part.place.layer.owners.is_none()) {
                    // What a commit has frozen is the daemon's own, and listed all the same.
                    let needed = if part.place.layer.widens_frozen() { 0o100 } else { 0o500 };
                    missing |= !part.place.stat_self()?.mode & needed;
                }
                self.check_gain(inode, mode, missing)
            }
            Body::Leaf(leaf) => {
                let file = leaf.state.lock().meta().map(|meta| meta.data.clone());
                let Some(Data::At(file)) = file else { return Ok(()) };
                self.check_gain(inode, mode, missing_of(&file))
            }
        }
    }

    /// Refuses a mode that grants what the owner may not do in the layer: the bits of `missing`.
    fn check_gain(&self, inode: &Inode, mode: u32, missing: u32) -> Result<()> {
        if missing == 0 {
            return Ok(());
        }
        check(self.stat_shown(inode)?.mode, mode, missing)
    }
}

/// Refuses a mode by which the object's owner could read data that `file` holds, and that the daemon cannot read.
/// `now`: the object's mode; `mode`: the one that it gets next, if any.
pub(super) fn check_file(file: &LowerFile, now: u32, mode: Option<u32>) -> Result<()> {
    let Some(mode) = mode.filter(|_| !overrides_modes()) else { return Ok(()) };
    check(now, mode, missing_of(file))
}

/// What the daemon may not do with a file of a layer, as a bit of its mode.
fn missing_of(file: &LowerFile) -> u32 {
    // What a commit has frozen is the daemon's own, and opened all the same.
    if file.place.dir.layer.owners.is_some() || file.place.dir.layer.widens_frozen() {
        0
    } else {
        !file.stat.mode & 0o400
    }
}

fn check(now: u32, mode: u32, missing: u32) -> Result<()> {
    let gained = mode & !now;
    let read = gained & READ != 0 && missing & 0o400 != 0;
    let search = gained & SEARCH != 0 && missing & 0o100 != 0;
    if read || search { Err(Errno::EACCES) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_gained_and_cannot_be_had_is_refused() {
        for (now, mode, missing, refused) in [
            (0o000, 0o600, 0o400, true),
            (0o000, 0o040, 0o400, true),
            (0o000, 0o200, 0o400, false),
            (0o644, 0o600, 0o400, false),
            (0o004, 0o044, 0o400, true),
            (0o000, 0o700, 0, false),
            (0o311, 0o711, 0o400, true),
            (0o311, 0o111, 0o400, false),
            (0o400, 0o500, 0o100, true),
            (0o400, 0o600, 0o100, false),
        ] {
            assert_eq!(check(now, mode, missing).is_err(), refused, "{now:o} {mode:o} {missing:o}");
        }
    }
}
