//! Layers that lie in each other. An upper and a work directory may lie in a lower layer, which is shown without them; a
//! lower layer that lies in what is written is refused.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::roots::{Root, UpperRoots};
use super::setup::{Setup, SetupError};
use crate::base::{Name, Result};
use crate::layer::{DirId, HiddenDir};
use crate::merge::Traps;
use crate::sys::mounts::{self, MountEntry, PlaceInFs};
use crate::sys::path::parent_of;
use crate::sys::stat::{stat_at, stat_fd};

/// What tells where directories are: the mount table as it is now.
pub(super) struct Ground(Vec<MountEntry>);

impl Ground {
    pub fn look() -> Self {
        // Without it what lies in what is found by walking up, which ends at a bind mount.
        Self(mounts::table().unwrap_or_default())
    }

    /// Where a directory is.
    pub fn spot<'a>(&self, fd: BorrowedFd<'a>) -> Spot<'a> {
        Spot { fd, place: PlaceInFs::of(fd, &self.0).ok().flatten() }
    }
}

/// Where a directory is.
pub(super) struct Spot<'a> {
    fd: BorrowedFd<'a>,
    place: Option<PlaceInFs>,
}

impl Spot<'_> {
    /// Whether it is `above` or a directory somewhere in it, by whatever mounts the two were found.
    pub fn lies_in(&self, above: &Spot<'_>) -> bool {
        match (&self.place, &above.place) {
            (Some(inner), Some(outer)) => inner.is_in(outer),
            _ => lies_in(self.fd, above.fd).unwrap_or(false),
        }
    }
}

fn id(fd: BorrowedFd<'_>) -> Result<DirId> {
    stat_fd(fd).map(|stat| (stat.dev, stat.ino))
}

/// The same by walking up.
fn lies_in(below: BorrowedFd<'_>, above: BorrowedFd<'_>) -> Result<bool> {
    let (target, mut here) = (id(above)?, id(below)?);
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

/// A lower layer must not be, or lie in, what is written. The notes: lower layers in which that lies.
pub(super) fn check<'a>(
    lowers: impl Iterator<Item = &'a Root>,
    upper: &UpperRoots,
    ground: &Ground,
) -> Setup<Vec<String>> {
    let mut notes = Vec::new();
    let dirs = [(upper.upper.fd.as_fd(), "upperdir"), (upper.work.as_fd(), "workdir")];
    let written = dirs.map(|(fd, option)| (ground.spot(fd), option));
    for lower in lowers {
        let what = || format!("lowerdir={}", lower.path.display());
        let spot = ground.spot(lower.fd.as_fd());
        for (dir, option) in &written {
            let same = matches!((id(spot.fd), id(dir.fd)), (Ok(a), Ok(b)) if a == b);
            if same || spot.lies_in(dir) {
                let reason = format!("it is or lies in {option}: a lower layer must not change");
                return Err(SetupError::new(what(), reason, "use directories of their own for upperdir and workdir"));
            }
        }
        let inside: Vec<_> = written.iter().filter(|(dir, _)| dir.lies_in(&spot)).map(|(_, name)| *name).collect();
        match inside[..] {
            [] => {}
            [one] => notes.push(format!("{} holds {one}, and is shown without it", what())),
            [..] => notes.push(format!("{} holds {}, and is shown without them", what(), inside.join(" and "))),
        }
    }
    Ok(notes)
}

/// No lower layer may be another one or lie in one (`ELOOP` in the kernel): an object would have two places in the view, and
/// one number, one entry of the index and one origin for both.
pub(super) fn check_nesting<'a>(lowers: impl Iterator<Item = &'a Root>, ground: &Ground) -> Setup<()> {
    let mut seen: HashMap<DirId, &Root> = HashMap::new();
    let mut spots = Vec::new();
    for lower in lowers {
        let what = || format!("lowerdir={}", lower.path.display());
        if let Some(other) = id(lower.fd.as_fd()).ok().and_then(|id| seen.insert(id, lower)) {
            let reason = format!("it is the same directory as lowerdir={}", other.path.display());
            return Err(SetupError::new(what(), reason, "name each layer once"));
        }
        spots.push((ground.spot(lower.fd.as_fd()), lower));
    }
    spots.sort_by(|(a, _), (b, _)| a.place.cmp(&b.place));
    // In their order what lies in a directory comes right behind it. Without places each is compared with each.
    let near = if spots.iter().all(|(spot, _)| spot.place.is_some()) { 1 } else { spots.len() };
    for (at, (one, first)) in spots.iter().enumerate() {
        for (two, second) in spots.iter().skip(at + 1).take(near) {
            let (inner, outer) = match (two.lies_in(one), near > 1 && one.lies_in(two)) {
                (true, _) => (second, first),
                (_, true) => (first, second),
                _ => continue,
            };
            let reason = format!("it lies in lowerdir={}: its objects would have two places", outer.path.display());
            let hint = "use directories that do not lie in each other, or a copy of one";
            return Err(SetupError::new(format!("lowerdir={}", inner.path.display()), reason, hint));
        }
    }
    Ok(())
}

/// What is written, for lower layers that may hold it.
pub(super) fn written(upper: &UpperRoots) -> Arc<[HiddenDir]> {
    let dirs = [upper.upper.fd.as_fd(), upper.work.as_fd()];
    dirs.into_iter()
        .filter_map(|dir| Some(HiddenDir { id: id(dir).ok()?, at: place(dir).unwrap_or_default() }))
        .collect()
}

/// The directory that holds `dir`, with its name there.
fn place(dir: BorrowedFd<'_>) -> Result<Option<(DirId, Name)>> {
    let Some((parent, name)) = parent_of(dir)? else { return Ok(None) };
    let known = stat_at(parent.as_fd(), &name).map(|stat| (stat.dev, stat.ino)) == id(dir);
    if known { Ok(Some((id(parent.as_fd())?, Name::new(name.to_bytes())?))) } else { Ok(None) }
}

/// What the upper layer must not be found to have below its root.
pub(super) fn traps<'a>(lowers: impl Iterator<Item = &'a Root>, upper: Option<&UpperRoots>) -> Traps {
    let Some(upper) = upper else { return Traps::default() };
    let roots = lowers.map(|root| root.fd.as_fd()).chain([upper.work.as_fd()]);
    Traps { upper: roots.filter_map(|fd| id(fd).ok()).collect() }
}
