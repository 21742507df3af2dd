//! Objects of a lower layer that belong to the daemon's own user, but that the daemon of a normal user may not read.
//! Their modes stay closed in the lower layer, which is never changed: the union gives none of them a mode by which it
//! could be read, since nobody could read it.

use super::Union;
use crate::base::{Errno, Result};
use crate::inode::{Body, Inode};
use crate::merge::{Data, LowerFile};
use crate::sys::caller::overrides_modes;
use crate::sys::stat::stat_at;

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
                    missing |= !part.place.stat_self()?.mode & 0o500;
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
        check(self.at_object(inode, stat_at)?.mode, mode, missing)
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
    if file.place.dir.layer.owners.is_some() { 0 } else { !file.stat.mode & 0o400 }
}

fn check(now: u32, mode: u32, missing: u32) -> Result<()> {
    let gained = mode & !now;
    let read = gained & READ != 0 && missing & 0o400 != 0;
    let search = gained & SEARCH != 0 && missing & 0o100 != 0;
    if read || search { Err(Errno::EACCES) } else { Ok(()) }
}

/// The permission bits that an access ACL gives; `None` for bytes that are no ACL
/// ([acl(5)](https://man7.org/linux/man-pages/man5/acl.5.html), `linux/posix_acl_xattr.h`).
pub(super) fn mode_of_acl(value: &[u8]) -> Option<u32> {
    const OWNER: u16 = 1;
    const OTHERS: u16 = 0x20;
    const MASK: u16 = 0x10;
    let (mut mode, mut group, mut mask) = (0, 0, 0o7);
    for entry in value.get(4..)?.chunks_exact(8) {
        let (tag, perm) = (entry.first_chunk::<2>()?, entry.get(2..4)?);
        let perm = u32::from(u16::from_le_bytes([*perm.first()?, *perm.get(1)?])) & 0o7;
        match u16::from_le_bytes(*tag) {
            OWNER => mode |= perm << 6,
            OTHERS => mode |= perm,
            MASK => mask = perm,
            _ => group |= perm,
        }
    }
    Some(mode | (group & mask) << 3)
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

    #[test]
    fn an_acl_makes_a_mode() {
        let acl = |entries: &[(u16, u16)]| {
            let mut value = 2u32.to_le_bytes().to_vec();
            for (tag, perm) in entries {
                value.extend(tag.to_le_bytes().iter().chain(&perm.to_le_bytes()).chain(&[0xff; 4]));
            }
            value
        };
        for (entries, mode) in [
            (&[(1, 6), (4, 4), (0x20, 0)][..], 0o640),
            (&[(1, 7), (2, 7), (4, 0), (0x10, 5), (0x20, 1)], 0o751),
            (&[(1, 0), (2, 4), (4, 0), (0x10, 0), (0x20, 0)], 0o000),
        ] {
            assert_eq!(mode_of_acl(&acl(entries)), Some(mode));
        }
        assert_eq!((mode_of_acl(b"abc"), mode_of_acl(&[2, 0, 0, 0, 1])), (None, Some(0)));
    }
}
