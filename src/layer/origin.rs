//! Makes the value of the mark `origin` for an object of a layer, and finds the object for a value.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::{DirPlace, Handles, Layer};
use crate::base::{Errno, Result};
use crate::format::{Decoded, Origin};
use crate::sys::handle::{Handle, handle_at, open_by_handle};
use crate::sys::stat::{Stat, stat_fd};

/// The value of the mark `origin` for `name` in `dir`, an object of `layer`; `None`: its file system has no lasting
/// handles.
///
/// # Errors
/// `EIO`, `ENOMEM` and others: an object that has a handle in one mount must have it in the next.
pub fn origin_of(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
    if layer.handles == Handles::Passing {
        return Ok(None);
    }
    match handle_at(dir, name) {
        Ok(handle) => Ok(Origin::new(handle.kind, layer.uuid, &handle.bytes).map(|origin| origin.encode())),
        // The file system has no handles, or the process may never ask for one.
        Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::ENOSYS | Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The value of `origin` from which the name of an index entry is made; `None`: the handle does not name one object for
/// good.
///
/// # Errors
/// As [`origin_of`].
pub fn index_of(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
    if layer.handles.are_lasting() { origin_of(layer, dir, name) } else { Ok(None) }
}

/// Whether a mark names another object than the root of a layer, as far as it says so and file handles tell.
///
/// # Errors
/// As [`origin_of`].
pub fn is_other_root(layer: &Layer, root: BorrowedFd<'_>, mark: &[u8]) -> Result<bool> {
    let Some(own) = origin_of(layer, root, c".")? else { return Ok(false) };
    Ok(match (Origin::decode(mark), Origin::decode(&own)) {
        (Ok(Decoded::Known(mark)), Ok(Decoded::Known(own))) => !mark.agrees_with(&own),
        _ => false,
    })
}

/// The attributes of the object that `origin` names, on the file system of a layer's root.
///
/// # Errors
/// `EPERM` without the privilege to open handles; `ESTALE`: the object no longer exists.
pub fn resolve(root: &DirPlace, origin: &Origin) -> Result<Stat> {
    let handle = Handle { kind: origin.kind.into(), bytes: origin.fid.clone() };
    stat_fd(open_by_handle(root.open()?.as_fd(), &handle)?.as_fd())
}
