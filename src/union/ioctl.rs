//! File attributes of `chattr(1)` and `xfs_io(8)` (`FS_IOC_GETFLAGS`, `FS_IOC_FSGETXATTR` and their setters).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::copy_up::CopyUp;
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Result};
use crate::inode::{Body, Inode};
use crate::sys::flags;
use crate::sys::stat::Kind;

impl Union {
    /// `FS_IOC_GETFLAGS`
    ///
    /// # Errors
    /// `ENOTTY` for what is no file or directory, or where the layer's file system has no such flags.
    pub fn get_flags(&self, id: InodeId) -> Result<u32> {
        flags::get_flags(self.flags_fd(&self.inode(id)?)?.as_fd())
    }

    /// `FS_IOC_SETFLAGS`
    ///
    /// # Errors
    /// As [`Union::get_flags`]; `EPERM`, `EOPNOTSUPP`, `EROFS`; what copy-up says.
    pub fn set_flags(&self, caller: &Caller, id: InodeId, set: u32) -> Result<()> {
        let inode = self.changeable(caller, id)?;
        flags::set_flags(self.flags_fd(&inode)?.as_fd(), set)
    }

    /// `FS_IOC_FSGETXATTR`: a `struct fsxattr`.
    ///
    /// # Errors
    /// As [`Union::get_flags`].
    pub fn get_fsx(&self, id: InodeId) -> Result<[u8; 28]> {
        flags::get_fsx(self.flags_fd(&self.inode(id)?)?.as_fd())
    }

    /// `FS_IOC_FSSETXATTR`: a `struct fsxattr`.
    ///
    /// # Errors
    /// As [`Union::set_flags`].
    pub fn set_fsx(&self, caller: &Caller, id: InodeId, set: &[u8; 28]) -> Result<()> {
        let inode = self.changeable(caller, id)?;
        flags::set_fsx(self.flags_fd(&inode)?.as_fd(), set)
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
