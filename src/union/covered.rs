//! What a rename covers: an upper directory that is seen as empty, and what can come back where a later step fails.

use std::os::fd::AsFd;

use super::side::{At, Side};
use crate::base::Result;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::{dirent, tree};
use crate::upper::{Metadata, Staged, Temp, Upper};

/// What a move covers, so that it can come back.
pub(super) enum Covered<'a> {
    Nothing,
    /// A whiteout that a directory cannot be moved over: it is in workdir.
    Away(Temp<'a>),
    /// A second link of it is.
    Linked(Temp<'a>),
    /// It is an empty directory; another one is in workdir.
    Like(Temp<'a>, u64),
    /// It cannot come back.
    Gone,
}

impl<'a> Covered<'a> {
    /// Takes it out of the way where that must be, or keeps what it takes to undo the move if that may be needed.
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

/// An upper directory that is seen as empty may hold whiteouts: an empty opaque one takes its place, so that a rename
/// can replace it. `update` is told its number in the layer, where one does.
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
    // What was there is removed when this is dropped.
    let _taken = temp.replace(target.fd(), target.name, Kind::Dir)?;
    update(ino)
}

/// An empty opaque directory in workdir that is like the one at `target`, and its number.
fn empty_like<'a>(upper: &'a Upper, target: &At<'_>) -> Result<(Temp<'a>, u64)> {
    let stat = stat_at(target.fd(), target.name)?;
    let metadata = Metadata::of(target.fd(), target.name, stat, &upper.root.layer)?;
    let temp = Temp::new(upper, Kind::Dir)?;
    tree::mkdir_at(upper.work(), temp.name(), 0o700)?;
    upper.set_opaque(upper.work(), temp.name())?;
    metadata.apply(Staged::Named(upper.work(), temp.name()), false)?;
    let ino = stat_at(upper.work(), temp.name())?.ino;
    Ok((temp, ino))
}
