//! Writing the marks of the upper layer.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::metadata::Staged;
use super::{Upper, WhiteoutStyle};
use crate::base::{Errno, Result};
use crate::format::mark::{DEVICE_VALUE, Mark};
use crate::format::origin::Origin;
use crate::format::wh;
use crate::layer::Layer;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::{handle, tree, xattr};

impl Upper {
    /// Makes a directory of the upper layer opaque: nothing of the layers below shows through it.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn set_opaque(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        match self.namespace() {
            Some(namespace) => xattr::set_at(dir, name, namespace.key(Mark::Opaque), b"y", 0),
            None => {
                let inside = open_beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                let mark = std::ffi::CString::new(wh::OPAQUE).map_err(|_| Errno::EINVAL)?;
                match tree::create_at(inside.as_fd(), &mark, OFlags::WRONLY, 0o600) {
                    Ok(_) | Err(Errno::EEXIST) => Ok(()),
                    Err(errno) => Err(errno),
                }
            }
        }
    }

    /// Marks a directory of the upper layer: objects in it may have an `origin`.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn set_impure(&self, dir: BorrowedFd<'_>) -> Result<()> {
        match self.namespace() {
            Some(namespace) => xattr::set_at(dir, c".", namespace.key(Mark::Impure), b"y", 0),
            None => Ok(()),
        }
    }

    /// A directory that will hold whiteouts must say so where they are marked files.
    ///
    /// # Errors
    /// What the system calls say.
    pub(super) fn set_xattr_whiteouts(&self, dir: BorrowedFd<'_>) -> Result<()> {
        let (WhiteoutStyle::Xattr, Some(namespace)) = (self.style, self.namespace()) else { return Ok(()) };
        let key = namespace.key(Mark::Opaque);
        match xattr::get_at(dir, c".", key)? {
            Some(_) => Ok(()),
            None => xattr::set_at(dir, c".", key, b"x", 0),
        }
    }

    /// Marks the empty regular file `name` in workdir as standing for a 0/0 character device.
    ///
    /// # Errors
    /// `EPERM` where the upper layer takes no marks: the device then cannot be told from a whiteout.
    pub fn set_device(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let namespace = self.namespace().ok_or(Errno::EPERM)?;
        xattr::set_at(dir, name, namespace.key(Mark::Device), DEVICE_VALUE, 0)
    }

    /// Writes on a staged object which lower object it is a copy of. True where the mark tells its number.
    ///
    /// # Errors
    /// `ENOSPC`, `EIO`; a layer or an object that takes no such mark is no error.
    pub fn set_origin(&self, to: Staged<'_>, layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        let Some(namespace) = self.namespace() else { return Ok(false) };
        // Without a handle the mark is empty: "copied up, from where is unknown".
        let origin = match handle::handle_at(dir, name) {
            Ok(handle) => Origin::new(handle.kind, layer.uuid, &handle.bytes).map(|origin| origin.encode()),
            Err(_) => None,
        };
        let known = origin.is_some();
        match to.set_xattr(namespace.key(Mark::Origin), &origin.unwrap_or_default()) {
            Ok(()) => Ok(known),
            // user.* does not go on symlinks and devices; a file system's room for xattrs may be full.
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSPC | Errno::ERANGE | Errno::E2BIG) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}
