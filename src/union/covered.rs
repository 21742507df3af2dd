//! The target that a rename covers: how it is taken out of the way, and how it comes back where a later step fails.

use std::os::fd::AsFd;

use super::side::{At, Side};
use crate::base::Result;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::{dirent, tree};
use crate::upper::{Metadata, Staged, Temp, Upper};

/// A target that was taken out of the way, and how it can come back.
pub(super) enum Covered<'a> {
    Nothing,
    /// The target was a whiteout, over which no directory can be moved: it is in workdir.
    Away(Temp<'a>),
    /// A second link of the target is in workdir.
    Linked(Temp<'a>),
    /// The target is an empty directory; another empty one, with this inode number, is in workdir.
    Like(Temp<'a>, u64),
    /// The target cannot come back.
    Gone,
}

impl<'a> Covered<'a> {
    /// Takes a whiteout at the target out of the way of a directory. For any other target it keeps what is needed to
    /// undo the move, if `may_undo` says that a later step can fail.
    pub fn new(upper: &'a Upper, may_undo: bool, from: &Side<'_>, (to, target): (&Side<'_>, &At<'_>)) -> Result<Self> {
        if to.upper_whiteout() && from.is_dir() {
            return Ok(Self::Away(upper.take_away(target.fd(), target.name, Kind::Char)?));
        }
        if !may_undo || !(to.upper_whiteout() || to.is_upper()) {
            return Ok(Self::Nothing);
        }
        if to.is_dir() {
            let (temp, ino) = empty_like(upper, target)?;
            return Ok(Self::Like(temp, ino));
        }
        let kept = Temp::new(upper, Kind::File)?;
        let linked = tree::link_at(target.fd(), target.name, upper.work(), kept.name());
        Ok(if linked.is_ok() { Self::Linked(kept) } else { Self::Gone })
    }
}

/// Makes an upper directory that is seen as empty replaceable by a rename: where it holds whiteouts an empty opaque
/// directory takes its place. `update` gets the inode number of the new directory, and is not called where the old one
/// stays.
pub(super) fn clear_dir(upper: &Upper, target: &At<'_>, update: impl FnOnce(u64) -> Result<()>) -> Result<()> {
    let dir = open_beneath(target.fd(), target.name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut empty = true;
    dirent::read_dir(dir.as_fd(), &mut |_| {
        empty = false;
        false
    })?;
    if empty {
        return Ok(());
    }
    let (temp, ino) = empty_like(upper, target)?;
    // The old directory is removed when this value is dropped.
    let _taken = temp.replace(target.fd(), target.name, Kind::Dir)?;
    update(ino)
}

/// Makes an empty opaque directory in workdir with the attributes of the one at `target`. Returns it with its inode
/// number.
fn empty_like<'a>(upper: &'a Upper, target: &At<'_>) -> Result<(Temp<'a>, u64)> {
    let stat = upper.root.layer.overridden(target.fd(), target.name, stat_at(target.fd(), target.name)?)?;
    let metadata = Metadata::of(target.fd(), target.name, stat, (&upper.root.layer, &upper.root.layer))?;
    let temp = Temp::new(upper, Kind::Dir)?;
    tree::mkdir_at(upper.work(), temp.name(), 0o700)?;
    upper.set_opaque(upper.work(), temp.name())?;
    metadata.apply(Staged::Named(upper.work(), temp.name()), false)?;
    let ino = stat_at(upper.work(), temp.name())?.ino;
    Ok((temp, ino))
}
