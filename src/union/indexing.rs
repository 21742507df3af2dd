//! Opens the index of copied-up hard links of an upper layer.

use std::os::fd::{AsFd, BorrowedFd};

use super::refusal::{Setup, SetupError};
use crate::base::Errno;
use crate::base::config::Config;
use crate::format::mark::Mark;
use crate::layer::{DirPlace, IndexDir, is_other_root};
use crate::merge::{DirPart, Stack};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::stat_fd;
use crate::sys::xattr;
use crate::upper::{Belongings, Index, IndexError, Upper};

/// Opens the index, if the layers can have one. An index that cannot be had is an error with `index=on`, and a note
/// otherwise.
pub(super) fn open_index(
    config: &Config,
    upper: &Upper,
    workdir: BorrowedFd<'_>,
    stack: &Stack,
    notes: &mut Vec<String>,
) -> Setup<Option<IndexDir>> {
    if stack.lowers.is_empty() || config.index == Some(false) {
        return Ok(None);
    }
    let failed = |errno: Errno| SetupError::new("index", errno.to_string(), "leave it out, or say index=off");
    match belongings(upper, workdir, stack, &mut |belongings| belongings.open()) {
        Ok(Index { dir: fd, lost }) => {
            if lost {
                notes.push(
                    "workdir/index is new, but the upper layer had one: its hard links of lower files have parted"
                        .into(),
                );
            }
            let ino = stat_fd(fd.as_fd()).map_err(failed)?.ino;
            Ok(Some(IndexDir::new(DirPlace::root(upper.root.layer.clone(), fd, ino))))
        }
        Err(error) => {
            let (reason, hint) = index_failed(&error);
            if config.index == Some(true) && error != IndexError::NoHandles {
                return Err(SetupError::new("index=on", reason, hint));
            }
            notes.push(format!("index=off: {reason}; hard links of lower files part over a remount ({hint})"));
            Ok(None)
        }
    }
}

/// Finds the index of an upper layer that is only looked at: that of another one does not count.
///
/// # Errors
/// [`IndexError::OtherUpper`]; what opening it says.
pub(super) fn find_index(upper: &DirPart, work: BorrowedFd<'_>) -> std::result::Result<Option<IndexDir>, IndexError> {
    let fd = match open_beneath(work, c"index", OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        fd => fd?,
    };
    let (layer, root) = (&upper.place.layer, upper.place.fd()?);
    // Old kernels kept the upper layer's mark under the other key.
    for mark in [Mark::Upper, Mark::Origin] {
        let value = match xattr::get_at(work, c"index", layer.namespace.key(mark)) {
            // The kernel leaves it with mode 0000.
            Err(Errno::EACCES) => None,
            value => value?,
        };
        if let Some(value) = value
            && is_other_root(layer, root.as_fd(), &value)?
        {
            return Err(IndexError::OtherUpper);
        }
    }
    let ino = stat_fd(fd.as_fd())?.ino;
    Ok(Some(IndexDir::new(DirPlace::root(layer.clone(), fd, ino))))
}

/// As [`find_index`], for a layer of which all is to be copied: the index that it had must be there.
///
/// # Errors
/// [`SetupError`]
pub(super) fn need_index(config: &Config, upper: &DirPart, work: BorrowedFd<'_>) -> Setup<Option<IndexDir>> {
    let what =
        config.upper.as_ref().map_or_else(|| "workdir".into(), |dirs| format!("workdir={}", dirs.work.display()));
    let hint = "use the workdir of this upper layer, or none: names of its hard links part without";
    let refused = |reason: String| SetupError::new(&what, reason, hint);
    let found = find_index(upper, work).map_err(|error| match error {
        IndexError::Failed(errno) => refused(format!("its index: {errno}")),
        _ => refused("its index belongs to another upper layer".into()),
    })?;
    let root = upper.place.fd().map_err(|errno| refused(errno.to_string()))?;
    let had = xattr::get_at(root.as_fd(), c".", upper.place.layer.namespace.key(Mark::Origin));
    if found.is_none() && had.is_ok_and(|value| value.is_some_and(|value| !value.is_empty())) {
        return Err(refused("it has no index, and the upper layer had one".into()));
    }
    Ok(found)
}

/// Calls `act` with what an index of this upper layer belongs to.
pub(super) fn belongings<T>(
    upper: &Upper,
    workdir: BorrowedFd<'_>,
    stack: &Stack,
    act: &mut dyn FnMut(&Belongings<'_>) -> std::result::Result<T, IndexError>,
) -> std::result::Result<T, IndexError> {
    let lower = stack.lowers.first().ok_or(IndexError::NoHandles)?;
    let namespace = upper.namespace().filter(|_| upper.features.links).ok_or(IndexError::NoHandles)?;
    let (upper_fd, lower_fd) = (upper.root.fd()?, lower.place.fd()?);
    act(&Belongings {
        workdir,
        upper: (&upper.root.layer, upper_fd.as_fd()),
        lower: (&lower.place.layer, lower_fd.as_fd()),
        namespace,
        is_lower: &|mark| stack.has_root(mark),
        is_gone: &|origin| stack.is_gone(origin),
    })
}

fn index_failed(error: &IndexError) -> (String, &'static str) {
    match error {
        IndexError::OtherLower => (
            "the upper layer was used with an index over another lower layer".into(),
            "mount it over the same lower layers, or say index=off",
        ),
        IndexError::OtherUpper => (
            "workdir/index belongs to another upper layer".into(),
            "use the workdir of this upper layer, or an empty one",
        ),
        IndexError::Foreign(entry) => {
            (format!("workdir/index/{entry} was not made by an overlay"), "remove it, or say index=off")
        }
        IndexError::OtherNamespace => (
            "workdir/index was made with marks in the other namespace".into(),
            "mount it as before (root writes trusted.*, or user.* with userxattr), or say index=off",
        ),
        IndexError::NoHandles => (
            "the layers' file systems lack file handles, extended attributes or hard links".into(),
            "nothing is to be done",
        ),
        IndexError::Failed(errno) => (format!("workdir/index: {errno}"), "check the directory, or say index=off"),
    }
}
