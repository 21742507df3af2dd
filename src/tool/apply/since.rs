//! Since when the upper layer covers what is below, where the object that covers it now does not tell.
//!
//! A copy names the lower object as its `origin`, and was born when that was copied up. Another object (a file that an editor
//! has saved by a rename, a whiteout, a directory made anew) may have come in the place of an earlier one, which knew less
//! of what is below. It covers it since some time after the directory was copied up, or after the first mount.

use std::os::fd::{AsFd, BorrowedFd};

use super::Plan;
use super::plan::Node;
use super::reach::Dirs;
use crate::base::{Errno, Name, Result};
use crate::format::origin::{Decoded, Origin};
use crate::layer::{DirPlace, origin_of};
use crate::merge::{DirView, FoundLeaf, Layers};
use crate::sys::stat::{Time, born_at, stat_at};
use crate::sys::{tree, xattr};
use crate::tool::diff::list_upper;
use crate::upper::FIRST;

/// The earlier of the birth of an object and of what it may have come in the place of.
pub(super) fn earlier(born: Option<Time>, covers: Option<Time>) -> Option<Time> {
    born.map(|born| covers.map_or(born, |covers| covers.min(born)))
}

/// A time before the first change of the upper layer. `None`: it never was mounted with this work directory.
///
/// It is that of the first mount, which makes `work` in the work directory and [marks](FIRST) it. Where another program has
/// made `work`, or the upper layer was not empty then, it is the birth of `root`, that of the upper layer or of the lowest commit.
pub(super) fn first_mount(dirs: &Dirs, root: BorrowedFd<'_>) -> Result<Option<Time>> {
    match stat_at(dirs.work.as_fd(), c"work") {
        Err(Errno::ENOENT) => Ok(None),
        Ok(_) => {
            let work = born_at(dirs.work.as_fd(), c"work")?;
            // A `work` that cannot be looked at has no mark.
            let is_first = matches!(xattr::get_at(dirs.work.as_fd(), c"work", FIRST), Ok(Some(_)));
            if is_first { Ok(work) } else { Ok(earlier(work, born_at(root, c".")?)) }
        }
        Err(errno) => Err(errno),
    }
}

/// Nothing is covered any more if the upper layer is empty: the next mount is the first.
pub(super) fn forget(layers: &Layers, dirs: &Dirs) -> Result<()> {
    let Some(upper) = &layers.root.upper else { return Ok(()) };
    if !list_upper(upper)?.is_empty() {
        return Ok(());
    }
    if stat_at(dirs.work.as_fd(), c"commits").is_ok() {
        // An undo may lead back to what is older than the next mount.
        return Ok(());
    }
    match tree::rmdir_at(dirs.work.as_fd(), c"work") {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn origin(layer: &crate::layer::Layer, (dir, name): (&DirPlace, &Name)) -> Result<Option<Origin>> {
    let value = origin_of(layer, dir.fd()?.as_fd(), name.as_c_str())?;
    Ok(value.and_then(|value| known(&value)))
}

fn known(value: &[u8]) -> Option<Origin> {
    match Origin::decode(value) {
        Ok(Decoded::Known(origin)) => Some(origin),
        _ => None,
    }
}

impl Plan<'_> {
    /// Since when a file covers the lower object of its name.
    pub(super) fn since_covered(
        &self,
        node: &Node,
        (name, leaf): (&Name, &FoundLeaf),
        born: Option<Time>,
    ) -> Option<Time> {
        let there = || {
            let place = &node.ground.as_ref()?.place;
            origin(&place.layer, (place, name)).ok()?
        };
        let is_copy = leaf.origin.as_ref().is_some_and(|of| there().is_some_and(|there| there.agrees_with(of)));
        if is_copy { born } else { earlier(born, node.covers) }
    }

    /// Since when an upper directory may cover what is below.
    pub(super) fn covers(&self, node: &Node, dir: &DirView, born: Option<Time>) -> Result<Option<Time>> {
        let is_copy = self.layers.base_part(dir).is_some() && self.origin_of_dir(dir)?.is_some();
        Ok(if is_copy { born } else { node.covers })
    }

    /// Whether an upper directory is a copy of another lower directory than the one that stands there now.
    pub(super) fn is_swapped(&self, dir: &DirView, lower: &DirPlace) -> Result<bool> {
        if !lower.layer.handles.are_lasting() {
            return Ok(false);
        }
        let Some(was) = self.origin_of_dir(dir)?.and_then(|value| known(&value)) else { return Ok(false) };
        let Some((above, name)) = lower.parent() else { return Ok(false) };
        Ok(origin(&lower.layer, (&above, &name))?.is_some_and(|now| !now.agrees_with(&was)))
    }
}
