//! Objects of owners whom the daemon's user namespace does not have, in the view of a normal user's own
//! (`xattr_permissions=parents`).
//!
//! The kernel lets nobody write to an object whose owner or group a FUSE mount cannot name (`HAS_UNMAPPED_ID` in
//! fs/namei.c), whatever its mode is: a user could make nothing in `/tmp`. So these are shown as the user's:
//!
//! - a directory that everybody may write to, with what everybody may do as the owner's and the group's part, too. Its mode
//!   and owner cannot be set.
//! - what belongs to the user and to a group that the namespace does not have, with a group's part that gives no more than
//!   everybody has. A copy is so, too.

use crate::base::ids::OVERFLOW_ID;
use crate::base::{DiskGid, DiskUid};
use crate::sys::stat::Stat;

/// What others may do, in a mode.
const OTHERS: u32 = 0o007;

/// The mode of an object that is shown as that of the daemon's user; `None`: it is shown as its owner's.
pub(super) fn lent_mode(stat: &Stat, own: (DiskUid, DiskGid)) -> Option<u32> {
    let (mode, others) = (stat.mode & 0o7777, stat.mode & OTHERS);
    if is_lent(stat, own) {
        return Some(mode & libc::S_ISVTX | others << 6 | others << 3 | others);
    }
    (stat.uid == own.0 && stat.gid.0 == OVERFLOW_ID).then_some(mode & !libc::S_ISGID & (0o7707 | others << 3))
}

/// Whether the object belongs to somebody else, and is shown as the user's.
pub(super) fn is_lent(stat: &Stat, own: (DiskUid, DiskGid)) -> bool {
    let is_strange = stat.uid.0 == OVERFLOW_ID || (stat.gid.0 == OVERFLOW_ID && stat.uid != own.0);
    stat.is_dir() && is_strange && stat.mode & 0o002 != 0
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn nobody_gets_more_than_everybody_has() {
        let here = crate::sys::stat::stat_fd(std::fs::File::open("/").unwrap().as_fd()).unwrap();
        const OWN: (DiskUid, DiskGid) = (DiskUid(7), DiskGid(8));
        for (uid, gid, mode, shown) in [
            (OVERFLOW_ID, OVERFLOW_ID, 0o041_777, Some(0o1777)),
            (OVERFLOW_ID, OVERFLOW_ID, 0o042_777, Some(0o777)),
            (OVERFLOW_ID, 8, 0o040_703, Some(0o333)),
            (OVERFLOW_ID, OVERFLOW_ID, 0o040_775, None),
            (OVERFLOW_ID, OVERFLOW_ID, 0o100_666, None),
            (7, OVERFLOW_ID, 0o100_664, Some(0o644)),
            (7, OVERFLOW_ID, 0o106_675, Some(0o4655)),
            (7, OVERFLOW_ID, 0o042_770, Some(0o700)),
            (7, 8, 0o100_664, None),
        ] {
            let stat = Stat { uid: DiskUid(uid), gid: DiskGid(gid), mode, ..here };
            assert_eq!(lent_mode(&stat, OWN), shown, "{uid}:{gid} {mode:o}");
        }
    }
}
