//! Objects that are built in workdir: each appears whole by one rename or link, or is removed with its value.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::removal::remove;
use super::{Metadata, Upper, workdir};
use crate::base::{DiskGid, Errno, Result};
use crate::sys::caller::effective_caps;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::temp_name;
use crate::sys::stat::{Kind, stat_at};
use crate::sys::tree::{self, RenameFlags};

/// A name in workdir; the object under it is removed when the value is dropped.
pub struct Temp<'a> {
    upper: &'a Upper,
    name: Option<CString>,
    kind: Kind,
}

impl<'a> Temp<'a> {
    /// Chooses an unused name for an object of this kind, which the caller makes next.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn new(upper: &'a Upper, kind: Kind) -> Result<Self> {
        upper.sweep();
        Ok(Self { upper, name: Some(temp_name("#")?), kind })
    }

    /// Takes over an object in workdir.
    pub fn adopt(upper: &'a Upper, name: CString, kind: Kind) -> Self {
        Self { upper, name: Some(name), kind }
    }

    /// Its name in workdir.
    pub fn name(&self) -> &CStr {
        self.name.as_deref().unwrap_or(c"#")
    }

    /// Moves the object to `name` in `dir`, in place of an object there that is no directory.
    ///
    /// # Errors
    /// What `renameat2(2)` says.
    pub fn publish(mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        relocate((self.upper.work(), self.name()), (dir, name), RenameFlags::empty())?;
        self.name = None;
        Ok(())
    }

    /// Moves the object to `name` in `dir`, which must not exist.
    ///
    /// # Errors
    /// `EEXIST`; what `renameat2(2)` says.
    pub fn publish_new(mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let rename = |flags| relocate((self.upper.work(), self.name()), (dir, name), flags);
        match rename(RenameFlags::NOREPLACE) {
            // The file system lacks RENAME_NOREPLACE: the caller's lock keeps other threads away from the name.
            Err(Errno::EINVAL) => match stat_at(dir, name) {
                Ok(_) => return Err(Errno::EEXIST),
                Err(Errno::ENOENT) => rename(RenameFlags::empty())?,
                Err(errno) => return Err(errno),
            },
            done => done?,
        }
        self.name = None;
        Ok(())
    }

    /// Exchanges the object with `name` in `dir`. The value then stands for the object that was there, which is of
    /// `kind`.
    ///
    /// # Errors
    /// What `renameat2(2)` says.
    fn exchange(&mut self, dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<()> {
        relocate((self.upper.work(), self.name()), (dir, name), RenameFlags::EXCHANGE)?;
        self.kind = kind;
        Ok(())
    }

    /// Replaces `name` in `dir`, an object of `kind`, by this object; returns the old object, in workdir.
    ///
    /// Where names cannot be exchanged this takes two steps, between which the name shows what the layers below have.
    /// If the second step fails the first is undone.
    ///
    /// # Errors
    /// What `renameat2(2)` says; then `name` is what it was.
    pub fn replace(mut self, dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<Self> {
        if self.upper.features.exchange {
            self.exchange(dir, name, kind)?;
            return Ok(self);
        }
        let taken = self.upper.take_away(dir, name, kind)?;
        match self.publish_new(dir, name) {
            Ok(()) => Ok(taken),
            Err(errno) => {
                taken.put_back(dir, name);
                Err(errno)
            }
        }
    }

    /// Moves an object that was taken away back to `name` in `dir`.
    pub fn put_back(mut self, dir: BorrowedFd<'_>, name: &CStr) {
        let back = relocate((self.upper.work(), self.name()), (dir, name), RenameFlags::empty());
        let Some(here) = self.name.take() else { return };
        if let Err(errno) = back {
            log::error!("{name:?} is in workdir as {here:?}, and cannot go back: {errno}");
        }
    }

    /// Lets the object stay in workdir; returns its name.
    pub fn keep(mut self) -> CString {
        self.name.take().unwrap_or_default()
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        let Some(name) = &self.name else { return };
        match remove(self.upper.work(), name, self.kind) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => self.upper.left(name, self.kind, errno),
        }
    }
}

impl Upper {
    /// Remembers an object that stays in workdir because its removal has failed.
    fn left(&self, name: &CStr, kind: Kind, errno: Errno) {
        log::warn!("workdir: {name:?} stays for now: {errno}");
        self.leftovers.lock().0.push((name.to_owned(), kind));
    }

    /// Removes objects whose removal failed before, up to the first that fails again.
    fn sweep(&self) {
        loop {
            let Some((name, kind)) = self.leftovers.lock().0.pop() else { return };
            match remove(self.work(), &name, kind) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(_) => return self.leftovers.lock().0.push((name, kind)),
            }
        }
    }

    /// Removes all that workdir holds, at the end of a mount. The next mount would do it, but may be long in coming.
    pub fn clear(&self) {
        if let Err(errno) = workdir::empty(self.work(), None) {
            log::info!("workdir: what is left stays until the next mount: {errno}");
        }
    }

    /// Removes an object that workdir has kept for as long as somebody held it.
    pub fn bury(&self, name: &CStr, kind: Kind) {
        match remove(self.work(), name, kind) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => self.left(name, kind, errno),
        }
    }
}

/// Renames within the upper layer's file system.
///
/// An unprivileged daemon cannot move a directory without write permission to another parent, since its `..` changes:
/// the directory gets the permission for the moment of the move.
///
/// # Errors
/// What `renameat2(2)` says.
pub fn relocate(from: (BorrowedFd<'_>, &CStr), to: (BorrowedFd<'_>, &CStr), flags: RenameFlags) -> Result<()> {
    let rename = || tree::rename_at(from.0, from.1, to.0, to.1, flags);
    match rename() {
        Err(Errno::EACCES) => {}
        done => return done,
    }
    let widened = |(dir, name): (BorrowedFd<'_>, &CStr)| -> Result<Option<u32>> {
        let mode = match stat_at(dir, name) {
            Ok(stat) if stat.is_dir() && stat.mode & 0o200 == 0 => stat.mode & 0o7777,
            _ => return Ok(None),
        };
        tree::chmod_at(dir, name, mode | 0o200)?;
        Ok(Some(mode))
    };
    let (source, target) = (widened(from)?, widened(to)?);
    let done = rename();
    let swapped = flags.contains(RenameFlags::EXCHANGE) && done.is_ok();
    let source_at = if done.is_ok() { to } else { from };
    let target_at = if swapped { from } else { to };
    for (at, mode) in [(source_at, source), (target_at, target)] {
        if let Some(mode) = mode {
            // The target of a plain rename no longer exists, which is no error here.
            let _ = tree::chmod_at(at.0, at.1, mode);
        }
    }
    done
}

/// Gives the owner permission to read and change a directory of the upper layer for as long as the value lives: an
/// unprivileged daemon must copy up into directories that their owner made unwritable.
pub struct Widened<'a> {
    dir: BorrowedFd<'a>,
    mode: u32,
}

impl<'a> Widened<'a> {
    /// Widens the mode of the open directory `dir`; `None`: `mode` is wide enough.
    ///
    /// # Errors
    /// What `fchmodat2(2)` says.
    pub fn new(dir: BorrowedFd<'a>, mode: u32) -> Result<Option<Self>> {
        const CAP_DAC_OVERRIDE: u64 = 1 << 1;
        if mode & 0o700 == 0o700 || effective_caps() & CAP_DAC_OVERRIDE != 0 {
            return Ok(None);
        }
        let mode = mode & 0o7777;
        tree::chmod_at(dir, c".", mode | 0o700)?;
        Ok(Some(Self { dir, mode }))
    }
}

impl Drop for Widened<'_> {
    fn drop(&mut self) {
        if let Err(errno) = tree::chmod_at(self.dir, c".", self.mode) {
            log::error!("a directory of the upper layer keeps mode 0700 beside its own {:o}: {errno}", self.mode);
        }
    }
}

/// A directory in workdir with all that a new object inherits from its parent: group, set-group-id bit, default ACL. An
/// object that is made in it can be moved to the parent as if it had been made there.
pub struct Nursery<'a> {
    temp: Temp<'a>,
    fd: OwnedFd,
}

impl<'a> Nursery<'a> {
    /// Makes a nursery for children of `parent`, an open directory of the upper layer. `group`: what they get in the place
    /// of its group.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn new(upper: &'a Upper, parent: BorrowedFd<'_>, group: Option<DiskGid>) -> Result<Self> {
        let temp = Temp::new(upper, Kind::Dir)?;
        tree::mkdir_at(upper.work(), temp.name(), 0o700)?;
        let fd = open_beneath(upper.work(), temp.name(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        Metadata::of_dir(parent)?.given_to(None, group).bequeath(fd.as_fd())?;
        Ok(Self { temp, fd })
    }

    /// The directory in which the caller makes the object, under the name [`Nursery::CHILD`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The object's name in the nursery.
    pub const CHILD: &'static CStr = c"child";

    /// Moves the object from the nursery to workdir itself.
    ///
    /// # Errors
    /// What `renameat2(2)` says.
    pub fn grown(self, kind: Kind) -> Result<Temp<'a>> {
        let upper = self.temp.upper;
        let temp = Temp::new(upper, kind)?;
        relocate((self.fd(), Self::CHILD), (upper.work(), temp.name()), RenameFlags::empty())?;
        Ok(temp)
    }
}
