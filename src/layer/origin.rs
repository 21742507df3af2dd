//! From an object of a layer to the value of the mark `origin`, and back.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::{DirPlace, Handles, Layer};
use crate::base::{Errno, Result};
use crate::format::Origin;
use crate::sys::handle::{Handle, handle_at, open_by_handle};
use crate::sys::stat::{Stat, stat_fd};

/// The value of the mark `origin` for `name` in `dir`, an object of `layer`; `None` where its file system has no handles
/// that last.
///
/// # Errors
/// `EIO`, `ENOMEM` and their like: an object that has a handle for one mount must not be without for another.
pub fn origin_of(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
    if layer.handles == Handles::Passing {
        return Ok(None);
    }
    match handle_at(dir, name) {
        Ok(handle) => Ok(Origin::new(handle.kind, layer.uuid, &handle.bytes).map(|origin| origin.encode())),
        // No handles there, or the call is forbidden to this process for good.
        Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW | Errno::ENOSYS | Errno::EPERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The same as the name of an entry in the index, for which the handle must name one object for good.
///
/// # Errors
/// As [`origin_of`].
pub fn index_of(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
    if layer.handles.are_lasting() { origin_of(layer, dir, name) } else { Ok(None) }
}

/// The attributes of the object that `origin` names, on the file system of a layer's root.
///
/// # Errors
/// `EPERM` without the privilege to open handles; `ESTALE` where there is no such object.
pub fn resolve(root: &DirPlace, origin: &Origin) -> Result<Stat> {
    let handle = Handle { kind: origin.kind.into(), bytes: origin.fid.clone() };
    stat_fd(open_by_handle(root.open()?.as_fd(), &handle)?.as_fd())
}
