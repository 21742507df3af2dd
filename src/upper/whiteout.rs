//! Whiteouts, which hide a deleted name of a lower layer. One system call puts each in place.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use super::{Temp, Upper, WhiteoutStyle, relocate};
use crate::base::{Errno, Name, Result};
use crate::format::mark::Mark;
use crate::format::wh;
use crate::sys::path::OFlags;
use crate::sys::stat::Kind;
use crate::sys::{tree, xattr};

impl Upper {
    /// Puts a whiteout at `name` in `dir`, where the upper layer has no object.
    ///
    /// # Errors
    /// What the system calls say (`ENOSPC`, `EDQUOT`, `EROFS` …); then the name is still seen.
    pub fn place_whiteout(&self, dir: BorrowedFd<'_>, name: &Name) -> Result<()> {
        if self.style == WhiteoutStyle::File {
            return self.whiteout_beside(dir, name);
        }
        self.set_xattr_whiteouts(dir)?;
        if self.link_whiteout(dir, name.as_c_str())? {
            return Ok(());
        }
        self.stage_whiteout()?.publish_new(dir, name.as_c_str())
    }

    /// Makes a whiteout in workdir that one rename can put into `dir`.
    ///
    /// # Errors
    /// As [`place_whiteout`](Self::place_whiteout).
    pub fn whiteout_for(&self, dir: BorrowedFd<'_>) -> Result<Temp<'_>> {
        self.set_xattr_whiteouts(dir)?;
        self.stage_whiteout()
    }

    /// Replaces `name` in `dir`, an object of the upper layer, by a whiteout. Returns the object, in workdir.
    ///
    /// # Errors
    /// What the system calls say; then the object is still there.
    pub fn replace_with_whiteout(&self, dir: BorrowedFd<'_>, name: &Name, kind: Kind) -> Result<Temp<'_>> {
        if self.style == WhiteoutStyle::File {
            // `X` beside `.wh.X` is seen: the view does not change until X goes.
            self.whiteout_beside(dir, name)?;
            return self.take_away(dir, name.as_c_str(), kind);
        }
        let staged = self.whiteout_for(dir)?;
        if self.features.exchange || kind == Kind::Dir {
            return staged.replace(dir, name.as_c_str(), kind);
        }
        // A second link keeps the object reachable while the rename covers its name.
        let kept = Temp::new(self, kind)?;
        match tree::link_at(dir, name.as_c_str(), self.work(), kept.name()) {
            Ok(()) | Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EMLINK) => {}
            Err(errno) => return Err(errno),
        }
        staged.publish(dir, name.as_c_str())?;
        Ok(kept)
    }

    /// Moves `name` of `dir` into workdir, which takes it out of the view in one step.
    ///
    /// # Errors
    /// What `renameat2(2)` says.
    pub fn take_away(&self, dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<Temp<'_>> {
        let temp = Temp::new(self, kind)?;
        relocate((dir, name), (self.work(), temp.name()), tree::RenameFlags::empty())?;
        Ok(temp)
    }

    /// Removes the file `.wh.name` after `name` was made beside it. A file that stays does no harm, since `name` is
    /// seen in any case.
    pub fn drop_wh_file(&self, dir: BorrowedFd<'_>, name: &Name) {
        // A name that is too long for the prefix has no such file.
        let Ok(hidden) = wh::whiteout_name(name.as_bytes()) else { return };
        match tree::unlink_at(dir, hidden.as_c_str()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => log::info!("{hidden:?}, which hides nothing now, stays: {errno}"),
        }
    }

    /// Makes the file `.wh.name`, which hides `name` of the layers below; an object `name` in `dir` is still seen.
    ///
    /// # Errors
    /// What `openat(2)` says; `ENAMETOOLONG` where the name has no room for the prefix.
    pub fn whiteout_beside(&self, dir: BorrowedFd<'_>, name: &Name) -> Result<()> {
        let hidden = wh::whiteout_name(name.as_bytes())?;
        match tree::create_at(dir, hidden.as_c_str(), OFlags::WRONLY, 0o600) {
            Ok(_) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Makes a whiteout in workdir: a link of one that all share, as with the kernel's OverlayFS.
    pub fn stage_whiteout(&self) -> Result<Temp<'_>> {
        let temp = Temp::new(self, Kind::Char)?;
        if self.link_whiteout(self.work(), temp.name())? {
            return Ok(temp);
        }
        self.make_whiteout(temp.name())?;
        let next = Temp::new(self, Kind::Char)?;
        if tree::link_at(self.work(), temp.name(), self.work(), next.name()).is_ok() {
            let old: Option<CString> = self.whiteout.lock().replace(next.keep());
            drop(old.map(|old| Temp::adopt(self, old, Kind::Char)));
        }
        Ok(temp)
    }

    /// Links the shared whiteout to `name` in `dir`. False: there is no shared whiteout, or it can have no further
    /// link.
    fn link_whiteout(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<bool> {
        let Some(shared) = self.whiteout.lock().clone() else { return Ok(false) };
        match tree::link_at(self.work(), &shared, dir, name) {
            Ok(()) => Ok(true),
            // The whiteout has too many links, or the file system has none: a new whiteout is made.
            Err(Errno::EMLINK | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn make_whiteout(&self, name: &CStr) -> Result<()> {
        match (self.style, self.namespace()) {
            (WhiteoutStyle::Xattr, Some(namespace)) => {
                drop(tree::create_at(self.work(), name, OFlags::WRONLY, 0o600)?);
                xattr::set_at(self.work(), name, namespace.key(Mark::Whiteout), b"y", 0)
            }
            _ => tree::mknod_at(self.work(), name, libc::S_IFCHR, 0),
        }
    }
}
