//! Where directories are, by whatever mounts they were found.

use std::os::fd::{AsFd, BorrowedFd};

use crate::base::Result;
use crate::layer::{DirId, DirPlace};
use crate::sys::mounts::{self, MountEntry, PlaceInFs};
use crate::sys::path::parent_of;
use crate::sys::stat::stat_fd;

/// The mount table as it is now, which tells where directories are.
pub(super) struct Ground(Vec<MountEntry>);

impl Ground {
    pub fn look() -> Self {
        // Without the table directories are compared by a walk upwards, which ends at a bind mount.
        Self(mounts::table().unwrap_or_default())
    }

    /// Where a directory is.
    pub fn spot<'a>(&self, fd: BorrowedFd<'a>) -> Spot<'a> {
        Spot { fd, place: PlaceInFs::of(fd, &self.0).ok().flatten() }
    }
}

/// Where a directory is.
pub(super) struct Spot<'a> {
    pub fd: BorrowedFd<'a>,
    /// `None` where the mount table does not tell.
    pub place: Option<PlaceInFs>,
}

impl Spot<'_> {
    /// Whether this directory is `above` or lies somewhere in it, by whatever mounts the two were found.
    pub fn lies_in(&self, above: &Spot<'_>) -> bool {
        match (&self.place, &above.place) {
            (Some(inner), Some(outer)) => inner.is_in(outer),
            _ => id(above.fd).and_then(|above| lies_in(self.fd, above)).unwrap_or(false),
        }
    }
}

pub(super) fn id(fd: BorrowedFd<'_>) -> Result<DirId> {
    stat_fd(fd).map(|stat| (stat.dev, stat.ino))
}

/// The directory of a layer as the system numbers it now.
pub(super) fn id_of(place: &DirPlace) -> Result<DirId> {
    place.fd().and_then(|fd| id(fd.as_fd()))
}

/// [`Spot::lies_in`] by a walk upwards from `below`.
pub(super) fn lies_in(below: BorrowedFd<'_>, target: DirId) -> Result<bool> {
    let mut here = id(below)?;
    let mut at = None;
    loop {
        if here == target {
            return Ok(true);
        }
        let Some((parent, _)) = parent_of(at.as_ref().map_or(below, AsFd::as_fd))? else { return Ok(false) };
        here = id(parent.as_fd())?;
        at = Some(parent);
    }
}
