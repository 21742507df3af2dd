//! `chattr +i` and `+a`: shown and enforced by the union. The upper object itself does not get them, or nobody could copy
//! up into it; the mark `protattr` remembers them there.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{SetAttr, Union};
use crate::base::{Errno, Result};
use crate::format::Protattr;
use crate::inode::{Body, Inode};
use crate::sys::flags;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{self, Kind, SetTime};

/// A change, as far as the flags tell changes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// What an append-only object takes: more at its end, a new name in it, the time of now.
    Addition,
    /// Any other.
    Other,
}

impl Union {
    /// Refuses what an object's flags forbid.
    ///
    /// # Errors
    /// `EPERM`
    pub(super) fn check_flags(&self, inode: &Inode, change: Change) -> Result<()> {
        let flags = self.protection(inode)?;
        let refused = flags.immutable || (flags.append && change != Change::Addition);
        if refused { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// The flags of an object: of a lower one its own, of an upper one those that its mark remembers.
    pub(super) fn protection(&self, inode: &Inode) -> Result<Protattr> {
        match &inode.body {
            Body::Dir(dir) => {
                let lower = {
                    let state = dir.state.read();
                    if state.view.upper.is_some() || state.removed.is_some() {
                        None
                    } else {
                        state.view.lowers.first().cloned()
                    }
                };
                match lower {
                    Some(part) => of_lower(part.place.fd()?.as_fd(), c".", inode.kind),
                    None => Ok(inode.protection()),
                }
            }
            Body::Leaf(leaf) => {
                let lower = {
                    let state = leaf.state.lock();
                    if state.upper().is_some() { None } else { state.lower().cloned() }
                };
                match lower {
                    Some(object) => {
                        let place = &object.place;
                        of_lower(place.dir.fd()?.as_fd(), place.name.as_c_str(), inode.kind)
                    }
                    None => Ok(inode.protection()),
                }
            }
        }
    }

    /// Sets the flags of an object that is in the upper layer.
    pub(super) fn protect(&self, inode: &Arc<Inode>, flags: Protattr) -> Result<()> {
        if inode.protection() == flags {
            return Ok(());
        }
        let upper = self.upper()?;
        self.at_object(inode, |dir, name| upper.set_protattr(dir, name, flags))?;
        inode.set_protection(flags);
        Ok(())
    }
}

/// The flags of a lower object. statx(2) is asked first, which costs no open; but some file systems that are read-only by
/// nature (EROFS) call everything immutable there, and have no such flags.
pub(super) fn of_lower(dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<Protattr> {
    const NONE: Protattr = Protattr { append: false, immutable: false };
    let said = stat::protection_at(dir, name)?;
    if !(said.append || said.immutable) || !matches!(kind, Kind::File | Kind::Dir) {
        return Ok(NONE);
    }
    let fd = open_beneath(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
    match flags::get_flags(fd.as_fd()) {
        Ok(_) => Ok(Protattr { append: said.append, immutable: said.immutable }),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(NONE),
        Err(errno) => Err(errno),
    }
}

impl SetAttr {
    /// What kind of change it is.
    pub(super) fn change(&self) -> Change {
        let plain = self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.size.is_none();
        let set = |time| matches!(time, SetTime::At(_));
        if plain && !set(self.atime) && !set(self.mtime) { Change::Addition } else { Change::Other }
    }
}
