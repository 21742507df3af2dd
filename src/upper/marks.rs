//! Writing the marks of the upper layer.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::metadata::Staged;
use super::{Upper, WhiteoutStyle};
use crate::base::{Errno, Result};
use crate::format::mark::{DEVICE_VALUE, LEGACY_OPAQUE, Mark, Namespace};
use crate::format::{Metacopy, Nlink, Protattr, Redirect, wh};
use crate::layer::{Layer, origin_of};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::stat_fd;
use crate::sys::{tree, xattr};

impl Upper {
    /// Makes the directory `name` in `dir` opaque: it hides the directories of the same name in the layers below.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn set_opaque(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        match self.namespace() {
            Some(namespace) => {
                // Where no mark of ours stands that fuse-overlayfs 1.x misses, it is to see this one, too.
                if namespace == Namespace::User && !self.redirect && !self.metacopy {
                    xattr::set_at(dir, name, LEGACY_OPAQUE, b"y", 0)?;
                }
                xattr::set_at(dir, name, namespace.key(Mark::Opaque), b"y", 0)
            }
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

    /// Marks a directory of the upper layer as impure: objects in it may have an `origin`.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn set_impure(&self, dir: BorrowedFd<'_>) -> Result<()> {
        match self.namespace() {
            Some(namespace) => xattr::set_at(dir, c".", namespace.key(Mark::Impure), b"y", 0),
            None => Ok(()),
        }
    }

    /// Marks a directory that will hold whiteouts, where whiteouts are marked files.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn set_xattr_whiteouts(&self, dir: BorrowedFd<'_>) -> Result<()> {
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
    /// `EPERM`: the upper layer takes no marks, so that the device could not be told from a whiteout.
    pub fn set_device(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let namespace = self.namespace().ok_or(Errno::EPERM)?;
        xattr::set_at(dir, name, namespace.key(Mark::Device), DEVICE_VALUE, 0)
    }

    /// Marks a staged object with the lower object that it is a copy of. Returns the value of the mark if that tells
    /// the lower object's number.
    ///
    /// # Errors
    /// `EIO`. A layer or an object that takes no such mark is no error.
    pub fn set_origin(
        &self,
        to: Staged<'_>,
        layer: &Layer,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<Option<Vec<u8>>> {
        let Some(namespace) = self.namespace() else { return Ok(None) };
        // Without a handle the mark is empty, which says: copied up from an unknown object.
        let origin = origin_of(layer, dir, name)?;
        let value = origin.as_deref().unwrap_or_default();
        // Symlinks and devices take no user.* attributes, and a file system may have no room for one more.
        Ok(fits(to.set_xattr(namespace.key(Mark::Origin), value))?.and(origin))
    }

    /// Whether the object `name` in `dir` is marked as a copy of a lower one. An object whose mark cannot be read
    /// counts as a copy.
    ///
    /// # Errors
    /// What `getxattr(2)` says.
    pub fn has_origin(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        let Some(namespace) = self.namespace() else { return Ok(false) };
        match xattr::get_at(dir, name, namespace.key(Mark::Origin)) {
            Err(Errno::EACCES) => Ok(true),
            origin => Ok(origin?.is_some_and(|origin| !origin.is_empty())),
        }
    }

    /// Marks a staged file as one whose data stays in a layer below (`metacopy`). False: there is no room for the mark.
    ///
    /// # Errors
    /// `EIO`
    pub fn set_metacopy(&self, to: Staged<'_>, mark: &Metacopy) -> Result<bool> {
        let Some(namespace) = self.namespace() else { return Ok(false) };
        Ok(fits(to.set_xattr(namespace.key(Mark::Metacopy), &mark.encode()))?.is_some())
    }

    /// Takes the mark `metacopy` off an open file of the upper layer, which has its data itself. By the descriptor, as
    /// the name may lead to another file by now.
    ///
    /// # Errors
    /// What `fremovexattr(2)` says.
    pub fn clear_metacopy(&self, file: BorrowedFd<'_>) -> Result<()> {
        let Some(namespace) = self.namespace() else { return Ok(()) };
        self.marked_file(file, || xattr::remove_fd(file, namespace.key(Mark::Metacopy)))
    }

    /// Changes a mark of an open file even if the file's mode forbids that to its owner.
    pub(super) fn marked_file(&self, file: BorrowedFd<'_>, change: impl Fn() -> Result<()>) -> Result<()> {
        match change() {
            Err(Errno::EACCES) => {
                let _modes = self.root.layer.modes.write();
                let mode = stat_fd(file)?.mode & 0o7777;
                tree::chmod_fd(file, mode | 0o600)?;
                let changed = change();
                tree::chmod_fd(file, mode)?;
                changed
            }
            done => done,
        }
    }

    /// Marks `name` in `dir` with the place of its object in the layers below (`redirect`). False: there is no room for
    /// the mark.
    ///
    /// # Errors
    /// `EIO`
    pub fn set_redirect(&self, dir: BorrowedFd<'_>, name: &CStr, to: &Redirect) -> Result<bool> {
        let at = Staged::Named(dir, name);
        let Some((key, value)) = self.redirect_mark(to) else { return Ok(false) };
        Ok(fits(self.marked(dir, name, || at.set_xattr(key, &value)))?.is_some())
    }

    /// Sets the mark `redirect` on a staged object. False: there is no room for it.
    ///
    /// # Errors
    /// `EIO`
    pub fn stage_redirect(&self, staged: Staged<'_>, to: &Redirect) -> Result<bool> {
        let Some((key, value)) = self.redirect_mark(to) else { return Ok(false) };
        Ok(fits(staged.set_xattr(key, &value))?.is_some())
    }

    /// Takes the mark `redirect` off a staged object.
    ///
    /// # Errors
    /// What `removexattr(2)` says.
    pub fn unstage_redirect(&self, staged: Staged<'_>) -> Result<()> {
        self.namespace().map_or(Ok(()), |namespace| staged.remove_xattr(namespace.key(Mark::Redirect)))
    }

    /// The key and the value of the mark for this redirect. `None`: redirects are not written, or this one could not be
    /// read again.
    fn redirect_mark(&self, to: &Redirect) -> Option<(&'static CStr, Vec<u8>)> {
        let value = to.encode();
        let readable = self.redirect && Redirect::parse(&value).as_ref() == Ok(to);
        self.namespace().filter(|_| readable).map(|namespace| (namespace.key(Mark::Redirect), value))
    }

    /// Sets the mark `protattr` on `name` in `dir`: the flags of chattr(1) that the union enforces.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the upper layer takes no marks; what `setxattr(2)` says.
    pub fn set_protattr(&self, dir: BorrowedFd<'_>, name: &CStr, flags: Protattr) -> Result<()> {
        let key = self.namespace().ok_or(Errno::EOPNOTSUPP)?.key(Mark::Protattr);
        let value = flags.encode();
        self.marked(dir, name, || match value.as_slice() {
            [] => match xattr::remove_at(dir, name, key) {
                Err(Errno::ENODATA) => Ok(()),
                done => done,
            },
            value => xattr::set_at(dir, name, key, value, 0),
        })
    }

    /// Reads the mark `nlink` of `name` in `dir`: how many links the union has of the object.
    ///
    /// # Errors
    /// What `getxattr(2)` says.
    pub fn nlink(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Nlink>> {
        let namespace = self.namespace().ok_or(Errno::EOPNOTSUPP)?;
        let read = || xattr::get_at(dir, name, namespace.key(Mark::Nlink));
        let value = match read() {
            Err(Errno::EACCES) => self.root.layer.widened(dir, name, 0o400, read),
            value => value,
        };
        Ok(value?.and_then(|value| Nlink::parse(&value).ok()))
    }

    /// Sets the mark `nlink` on `name` in `dir`: how many links the union has of the object.
    ///
    /// # Errors
    /// What `setxattr(2)` says.
    pub fn set_nlink(&self, dir: BorrowedFd<'_>, name: &CStr, mark: &Nlink) -> Result<()> {
        let namespace = self.namespace().ok_or(Errno::EOPNOTSUPP)?;
        self.marked(dir, name, || xattr::set_at(dir, name, namespace.key(Mark::Nlink), &mark.encode(), 0))
    }

    /// Changes a mark of `name` in `dir` even if the object's mode forbids that to its owner.
    ///
    /// # Errors
    /// What `change` says.
    pub fn marked(&self, dir: BorrowedFd<'_>, name: &CStr, change: impl Fn() -> Result<()>) -> Result<()> {
        match change() {
            Err(Errno::EACCES) => self.root.layer.widened(dir, name, 0o600, change),
            done => done,
        }
    }
}

/// Turns the errors of a mark that an object or its file system cannot hold into `None`: it takes no such mark, has no
/// room for it, or holds no empty value.
pub(super) fn fits(set: Result<()>) -> Result<Option<()>> {
    match set {
        Ok(()) => Ok(Some(())),
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSPC | Errno::EDQUOT | Errno::ERANGE | Errno::E2BIG) => {
            Ok(None)
        }
        // 9p removes an attribute that is set to an empty value.
        Err(Errno::ENODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}
