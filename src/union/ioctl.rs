//! File attributes of `chattr(1)` and `xfs_io(8)` (`FS_IOC_GETFLAGS`, `FS_IOC_FSGETXATTR` and their setters).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::copy_up::CopyUp;
use super::protect::{FLAGS, XFLAGS};
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Result};
use crate::inode::{Body, Inode};
use crate::sys::flags::{self, set_xflags, xflags};
use crate::sys::stat::Kind;

impl Union {
    /// The `FS_*_FL` flags of an inode (`FS_IOC_GETFLAGS` of `ioctl_iflags(2)`).
    ///
    /// # Errors
    /// `ENOTTY` for anything but a file or directory, and where the layer's file system has no such flags.
    pub fn get_flags(&self, id: InodeId) -> Result<u32> {
        self.again(|| {
            let inode = self.inode(id)?;
            let own = flags::get_flags(self.flags_fd(&inode)?.as_fd())?;
            Ok(own | FLAGS.of(inode.protection()))
        })
    }

    /// Sets the `FS_*_FL` flags of an inode (`FS_IOC_SETFLAGS` of `ioctl_iflags(2)`); the object is copied up first.
    ///
    /// # Errors
    /// As [`Union::get_flags`]; `EPERM`, `EOPNOTSUPP`, `EROFS`; what copy-up says.
    pub fn set_flags(&self, caller: &Caller, id: InodeId, set: u32) -> Result<()> {
        self.again(|| {
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
        })
    }

    /// The `struct fsxattr` of an inode (`FS_IOC_FSGETXATTR` of `ioctl_xfs_fsgetxattr(2)`).
    ///
    /// # Errors
    /// As [`Union::get_flags`].
    pub fn get_fsx(&self, id: InodeId) -> Result<[u8; 28]> {
        self.again(|| {
            let inode = self.inode(id)?;
            let mut fsx = flags::get_fsx(self.flags_fd(&inode)?.as_fd())?;
            let own = xflags(&fsx);
            set_xflags(&mut fsx, own | XFLAGS.of(inode.protection()));
            Ok(fsx)
        })
    }

    /// Sets the `struct fsxattr` of an inode (`FS_IOC_FSSETXATTR`); the object is copied up first.
    ///
    /// # Errors
    /// As [`Union::set_flags`].
    pub fn set_fsx(&self, caller: &Caller, id: InodeId, set: &[u8; 28]) -> Result<()> {
        self.again(|| {
            let inode = self.changeable(caller, id)?;
            let (mut own, wished) = (*set, xflags(set));
            set_xflags(&mut own, XFLAGS.without(wished));
            let set_own = |fd: Arc<OwnedFd>| flags::set_fsx(fd.as_fd(), &own);
            let done = self.flags_fd(&inode).and_then(set_own).and_then(|()| self.protect(&inode, XFLAGS.in_(wished)));
            self.attributes_changed(id);
            done
        })
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
