//! The UUID by which marks name the file system of a layer.
//!
//! It is the UUID of the file system, with two exceptions. An upper layer whose marks were made without a UUID (before
//! Linux 6.9, or with `uuid=off`) goes on without one, so that all of its marks agree. And where the UUID cannot be
//! found out now, the marks of an upper layer that was used elsewhere tell it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::roots::{Identity, Root, SUBVOLUMES, UpperRoots};
use crate::base::config::Uuid;
use crate::format::mark::{Mark, Namespace};
use crate::format::{Decoded, Origin};
use crate::layer::Handles;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{stat_fd, statfs_fd};
use crate::sys::uuid::{FsUuid, fs_uuid};
use crate::sys::{handle, xattr};

/// No UUID, or none that is known.
const NONE: FsUuid = [0; 16];

/// Finds out the identities of all layers. Returns notes for the user.
pub(super) fn settle(wish: Uuid, lowers: &mut [Root], upper: Option<&mut UpperRoots>) -> Vec<String> {
    let known = |root: &Root| uuid_for(wish, root.fd.as_fd());
    for root in lowers.iter_mut() {
        let real = known(root);
        root.identity = Identity { real, written: real };
    }
    if let Some(roots) = upper {
        let real = known(&roots.upper);
        roots.upper.identity = Identity { real, written: real };
        if let (Some(first), true) = (lowers.first(), wish != Uuid::Off)
            && let Some(marked) = marked(roots.upper.fd.as_fd(), first.fd.as_fd())
        {
            let (real, dev) = (first.identity.real, device(first));
            take_over(marked, (real, dev), lowers);
        }
    }
    part_alike(lowers)
}

/// Goes by the UUID `marked` that the upper layer's mark holds for the file system of the topmost lower layer; that
/// file system has the UUID `real` and the `st_dev` `dev`.
fn take_over(marked: FsUuid, (real, dev): (FsUuid, u64), lowers: &mut [Root]) {
    if marked == NONE && real != NONE {
        log::info!("the upper layer's marks were made without a UUID, and go on so");
        lowers.iter_mut().for_each(|root| root.identity.written = NONE);
    }
    if marked != NONE && real == NONE {
        let same = |root: &&mut Root| device(root) == dev;
        lowers.iter_mut().filter(same).for_each(|root| root.identity = Identity { real: marked, written: marked });
    }
}

/// The UUID in the mark by which an upper layer remembers its topmost lower one, if that is the directory `lower`.
fn marked(upper: BorrowedFd<'_>, lower: BorrowedFd<'_>) -> Option<FsUuid> {
    let read = |namespace: Namespace| xattr::get_at(upper, c".", namespace.key(Mark::Origin)).ok()?;
    let value = read(Namespace::Trusted).or_else(|| read(Namespace::User))?;
    let Ok(Decoded::Known(origin)) = Origin::decode(&value) else { return None };
    let handle = handle::handle_at(lower, c".").ok()?;
    (i32::from(origin.kind) == handle.kind && origin.fid == handle.bytes).then_some(origin.uuid)
}

/// Gives up the file handles of file systems that share a UUID (or have none): a mark cannot tell such file systems
/// apart, and would name objects of the wrong one.
fn part_alike(lowers: &mut [Root]) -> Vec<String> {
    let seen: Vec<(u64, Identity, bool)> =
        lowers.iter().map(|root| (device(root), root.identity, root.handles.are_lasting())).collect();
    let mut notes = Vec::new();
    for (root, &(dev, identity, lasts)) in lowers.iter_mut().zip(&seen) {
        // Handles of a subvolume say which subvolume it is.
        let subvolumes = identity.real != NONE && magic(root.fd.as_fd()).is_some_and(|it| SUBVOLUMES.contains(&it));
        let is_alike = |&&(other, theirs, last): &&(u64, Identity, bool)| {
            last && other != dev && theirs.written == identity.written && !subvolumes
        };
        if lasts && seen.iter().any(|one| is_alike(&one)) {
            root.handles = Handles::Passing;
            notes.push(alike(&root.path));
        }
    }
    notes
}

/// The note on a layer whose file handles are given up.
pub(super) fn alike(layer: &Path) -> String {
    format!(
        "lowerdir={} is on a file system that has no UUID, or that of another layer's: hard links of its files part \
         over a remount, and inode numbers of those that are copied up change",
        layer.display()
    )
}

/// The UUID of the file system below a root as `wish` has it, or zeros.
pub(super) fn uuid_for(wish: Uuid, root: BorrowedFd<'_>) -> FsUuid {
    if wish == Uuid::Off { NONE } else { uuid(root) }
}

fn device(root: &Root) -> u64 {
    stat_fd(root.fd.as_fd()).map_or(0, |stat| stat.dev)
}

fn magic(fd: BorrowedFd<'_>) -> Option<u64> {
    statfs_fd(fd).ok().map(|fs| fs.magic)
}

/// The UUID of the file system below a root, or zeros.
fn uuid(root: BorrowedFd<'_>) -> FsUuid {
    let open = open_beneath(root, c".", OFlags::RDONLY | OFlags::DIRECTORY);
    let found = open.and_then(|fd| fs_uuid(fd.as_fd()));
    found.inspect_err(|errno| log::warn!("the UUID of a file system: {errno}")).ok().flatten().unwrap_or_default()
}
