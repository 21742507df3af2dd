//! File attributes of `chattr(1)` and `xfs_io(8)` (`FS_IOC_GETFLAGS`, `FS_IOC_FSGETXATTR` and their setters).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::copy_up::CopyUp;
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Result};
use crate::format::Protattr;
use crate::inode::{Body, Inode};
use crate::sys::flags::{self, set_xflags, xflags};
use crate::sys::stat::Kind;

impl Union {
    /// `FS_IOC_GETFLAGS`
    ///
    /// # Errors
    /// `ENOTTY` for what is no file or directory, or where the layer's file system has no such flags.
    pub fn get_flags(&self, id: InodeId) -> Result<u32> {
        self.again(|| self.get_flags_once(id))
    }

    fn get_flags_once(&self, id: InodeId) -> Result<u32> {
        let inode = self.inode(id)?;
        let own = flags::get_flags(self.flags_fd(&inode)?.as_fd())?;
        Ok(own | FLAGS.of(inode.protection()))
    }

    /// `FS_IOC_SETFLAGS`
    ///
    /// # Errors
    /// As [`Union::get_flags`]; `EPERM`, `EOPNOTSUPP`, `EROFS`; what copy-up says.
    pub fn set_flags(&self, caller: &Caller, id: InodeId, set: u32) -> Result<()> {
        self.again(|| self.set_flags_once(caller, id, set))
    }

    fn set_flags_once(&self, caller: &Caller, id: InodeId, set: u32) -> Result<()> {
        if set & flags::CASEFOLD != 0 {
            // The layers' other directories of this name are not case-insensitive.
            return Err(Errno::EOPNOTSUPP);
        }
        let inode = self.changeable(caller, id)?;
        let set_own = |fd: Arc<OwnedFd>| flags::set_flags(fd.as_fd(), FLAGS.without(set));
        let done = self.flags_fd(&inode).and_then(set_own).and_then(|()| self.protect(&inode, FLAGS.in_(set)));
        // The kernel asks for nothing after an ioctl(2).
        self.attributes_changed(id);
        done
    }

    /// `FS_IOC_FSGETXATTR`: a `struct fsxattr`.
    ///
    /// # Errors
    /// As [`Union::get_flags`].
    pub fn get_fsx(&self, id: InodeId) -> Result<[u8; 28]> {
        self.again(|| self.get_fsx_once(id))
    }

    fn get_fsx_once(&self, id: InodeId) -> Result<[u8; 28]> {
        let inode = self.inode(id)?;
        let mut fsx = flags::get_fsx(self.flags_fd(&inode)?.as_fd())?;
        let own = xflags(&fsx);
        set_xflags(&mut fsx, own | XFLAGS.of(inode.protection()));
        Ok(fsx)
    }

    /// Sets the `struct fsxattr` (`FS_IOC_FSSETXATTR`).
    ///
    /// # Errors
    /// As [`Union::set_flags`].
    pub fn set_fsx(&self, caller: &Caller, id: InodeId, set: &[u8; 28]) -> Result<()> {
        self.again(|| self.set_fsx_once(caller, id, set))
    }

    fn set_fsx_once(&self, caller: &Caller, id: InodeId, set: &[u8; 28]) -> Result<()> {
        let inode = self.changeable(caller, id)?;
        let (mut own, wished) = (*set, xflags(set));
        set_xflags(&mut own, XFLAGS.without(wished));
        let set_own = |fd: Arc<OwnedFd>| flags::set_fsx(fd.as_fd(), &own);
        let done = self.flags_fd(&inode).and_then(set_own).and_then(|()| self.protect(&inode, XFLAGS.in_(wished)));
        self.attributes_changed(id);
        done
    }

    fn changeable(&self, caller: &Caller, id: InodeId) -> Result<Arc<Inode>> {
        self.upper()?;
        let inode = self.inode(id)?;
        if !matches!(inode.kind, Kind::File | Kind::Dir) {
            return Err(Errno::ENOTTY);
        }
        self.copy_up(&inode, &CopyUp::metadata(caller))?;
        Ok(inode)
    }

    fn flags_fd(&self, inode: &Arc<Inode>) -> Result<Arc<OwnedFd>> {
        match &inode.body {
            Body::Dir(dir) => Ok(Arc::new(dir.live_view()?.top().ok_or(Errno::ESTALE)?.place.open()?)),
            Body::Leaf(leaf) if inode.kind == Kind::File => self.at_leaf(inode, |object| {
                let fd = super::io::open_object(leaf, object, false)?;
                Ok(fd.fd)
            }),
            Body::Leaf(_) => Err(Errno::ENOTTY),
        }
    }
}

/// The bits of some flags in a set of them.
pub(super) struct Bits {
    append: u32,
    immutable: u32,
    pub sync: u32,
    pub noatime: u32,
}

/// `FS_APPEND_FL` and its like of `linux/fs.h`.
pub(super) const FLAGS: Bits = Bits { append: 0x20, immutable: 0x10, sync: 0x8, noatime: 0x80 };
/// `FS_XFLAG_APPEND` and its like.
pub(super) const XFLAGS: Bits = Bits { append: 0x10, immutable: 0x8, sync: 0x20, noatime: 0x40 };

impl Bits {
    fn of(&self, flags: Protattr) -> u32 {
        (if flags.append { self.append } else { 0 }) | if flags.immutable { self.immutable } else { 0 }
    }

    pub fn in_(&self, set: u32) -> Protattr {
        Protattr { append: set & self.append != 0, immutable: set & self.immutable != 0 }
    }

    fn without(&self, set: u32) -> u32 {
        set & !(self.append | self.immutable)
    }
}
