//! Layers that lie in each other. An upper and a work directory may lie in a lower layer, which is shown without them;
//! a lower layer that lies in an upper or work directory is refused.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::ground::{Ground, id};
use super::refusal::{Setup, SetupError};
use super::roots::{Root, UpperRoots};
use crate::base::{Name, Result};
use crate::layer::{DirId, HiddenDir};
use crate::merge::Traps;
use crate::sys::path::parent_of;
use crate::sys::stat::stat_at;

/// Refuses a lower layer that is or lies in the upper or work directory. Returns a note on each lower layer that holds
/// one of the two.
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

/// Refuses a lower layer that is another lower layer or lies in one (`ELOOP` in the kernel's OverlayFS): an object
/// would stand at two places of the view, with one number, one entry of the index and one origin for both.
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
    // In the order of places a directory that lies in another one comes right behind it. Where a place is not known
    // each directory is compared with each.
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

/// The upper and the work directory, in this order, which lower layers must not show.
pub(super) fn written(upper: &UpperRoots) -> Arc<[HiddenDir]> {
    let dirs = [upper.upper.fd.as_fd(), upper.work.as_fd()];
    dirs.into_iter()
        .filter_map(|dir| {
            let (dev, ino) = id(dir).ok()?;
            Some(HiddenDir { dev, ino: Arc::new(AtomicU64::new(ino)), at: place(dir).unwrap_or_default() })
        })
        .collect()
}

/// The directory that holds `dir`, with its name there.
fn place(dir: BorrowedFd<'_>) -> Result<Option<(DirId, Name)>> {
    let Some((parent, name)) = parent_of(dir)? else { return Ok(None) };
    let known = stat_at(parent.as_fd(), &name).map(|stat| (stat.dev, stat.ino)) == id(dir);
    if known { Ok(Some((id(parent.as_fd())?, Name::new(name.to_bytes())?))) } else { Ok(None) }
}

/// The directories that must not be met below the upper layer's root.
pub(super) fn traps<'a>(lowers: impl Iterator<Item = &'a Root>, upper: Option<&UpperRoots>) -> Traps {
    let Some(upper) = upper else { return Traps::default() };
    let roots = lowers.map(|root| root.fd.as_fd()).chain([upper.work.as_fd()]);
    Traps { upper: roots.filter_map(|fd| id(fd).ok()).collect() }
}
