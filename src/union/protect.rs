//! `chattr +i` and `+a`: shown and enforced by the union. The upper object itself does not get them, or nobody could copy
//! up into it; the mark `protattr` remembers them there. What is set on it in its layer all the same holds there as it does
//! in the kernel's OverlayFS: the layer refuses what it forbids. `+S` and `+A` a copy gets itself.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::ioctl::{FLAGS, XFLAGS};
use super::{SetAttr, Union};
use crate::base::{Errno, Result};
use crate::format::Protattr;
use crate::inode::{Body, Inode, LeafObject};
use crate::layer::{Handles, Layer, Place};
use crate::merge::DirPart;
use crate::sys::flags;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{self, Kind, SetTime};
use crate::upper::Upper;

/// A change, as far as the flags tell changes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// What an append-only object takes: more at its end, a new name in it, the time of now.
    Addition,
    /// Any other.
    Other,
}

/// What `chattr` has set on a lower object, as far as it matters to a copy of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LowerFlags {
    /// Remembered by a mark.
    pub protection: Protattr,
    /// Set on the copy, too: those of [`KEPT`], as `FS_*_FL` bits.
    pub kept: u32,
}

/// As the kernel's OverlayFS has it: `OVL_COPY_FS_FLAGS_MASK`.
const KEPT: u32 = FLAGS.sync | FLAGS.noatime;

impl Union {
    /// Refuses what an object's flags forbid. The flags, where it is a lower object that was looked at for that.
    ///
    /// # Errors
    /// `EPERM`
    pub(super) fn check_flags(&self, inode: &Inode, change: Change) -> Result<Option<LowerFlags>> {
        let lower = self.lower_flags(inode)?;
        let flags = lower.map_or_else(|| own_protection(inode), |lower| lower.protection);
        let refused = flags.immutable || (flags.append && change != Change::Addition);
        if refused { Err(Errno::EPERM) } else { Ok(lower) }
    }

    /// What is forbidden on an object: on a lower one what its flags say, on an upper one what its mark remembers, and that
    /// it was seen to be append-only itself.
    pub(super) fn protection(&self, inode: &Inode) -> Result<Protattr> {
        Ok(self.lower_flags(inode)?.map_or_else(|| own_protection(inode), |lower| lower.protection))
    }

    /// The flags of an object that has no upper one.
    fn lower_flags(&self, inode: &Inode) -> Result<Option<LowerFlags>> {
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
                let of = |part: DirPart| of_lower(&part.place.layer, part.place.fd()?.as_fd(), c".", inode.kind);
                lower.map(of).transpose()
            }
            Body::Leaf(leaf) => {
                let lower = {
                    let state = leaf.state.lock();
                    if state.upper().is_some() { None } else { state.lower().cloned() }
                };
                let of = |LeafObject { place: Place { dir, name }, .. }: LeafObject| {
                    of_lower(&dir.layer, dir.fd()?.as_fd(), name.as_c_str(), inode.kind)
                };
                lower.map(of).transpose()
            }
        }
    }

    /// Sets the flags of an object that is in the upper layer, which has none of them itself now.
    pub(super) fn protect(&self, inode: &Arc<Inode>, flags: Protattr) -> Result<()> {
        if let (true, Body::Leaf(leaf)) = (inode.set_appends(false), &inode.body) {
            // What is open writes at the end only.
            leaf.close();
        }
        if inode.protection() == flags {
            return Ok(());
        }
        let upper = self.upper()?;
        self.at_object(inode, |dir, name| upper.set_protattr(dir, name, flags))?;
        inode.set_protection(flags);
        Ok(())
    }
}

/// Of an object of the upper layer.
fn own_protection(inode: &Inode) -> Protattr {
    let marked = inode.protection();
    Protattr { append: marked.append || inode.appends(), ..marked }
}

/// The flags of `name` in `dir`, an object of a lower layer: one call, on a newer kernel. On FUSE, whose daemon would be
/// asked three times, only what statx(2) tells; the kernel's OverlayFS sees none there.
pub(super) fn of_lower(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<LowerFlags> {
    if matches!(layer.handles, Handles::Passing | Handles::Plyfs) {
        let told = told_of(dir, name)?;
        return if told == LowerFlags::default() { Ok(told) } else { of_opened(dir, name, kind) };
    }
    match flags::xflags_at(dir, name) {
        Ok(set) => {
            let kept = [(XFLAGS.sync, FLAGS.sync), (XFLAGS.noatime, FLAGS.noatime)];
            let kept = kept.into_iter().filter(|(xflag, _)| set & xflag != 0).fold(0, |all, (_, flag)| all | flag);
            Ok(LowerFlags { protection: XFLAGS.in_(set), kept })
        }
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL) => Ok(LowerFlags::default()),
        Err(Errno::ENOSYS | Errno::EPERM) => of_opened(dir, name, kind),
        Err(errno) => Err(errno),
    }
}

/// What statx(2) tells, without an open. Some file systems that are read-only by nature (EROFS) call everything immutable
/// there, and have no such flags.
fn told_of(dir: BorrowedFd<'_>, name: &CStr) -> Result<LowerFlags> {
    let said = stat::protection_at(dir, name)?;
    Ok(LowerFlags { protection: Protattr { append: said.append, immutable: said.immutable }, kept: 0 })
}

fn of_opened(dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<LowerFlags> {
    if !matches!(kind, Kind::File | Kind::Dir) {
        return Ok(LowerFlags::default());
    }
    let fd = match open_beneath(dir, name, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(Errno::EACCES) => return told_of(dir, name),
        fd => fd?,
    };
    match flags::get_flags(fd.as_fd()) {
        Ok(set) => Ok(LowerFlags { protection: FLAGS.in_(set), kept: set & KEPT }),
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(LowerFlags::default()),
        Err(errno) => Err(errno),
    }
}

/// Whether `name` in `dir`, an object of the upper layer, is append-only or immutable itself: why a change of it that can
/// fail in other ways was refused.
pub(super) fn refuses(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    stat::protection_at(dir, name).is_ok_and(|said| said.append || said.immutable)
}

/// Gives the staged copy `name` in `dir`, a file or directory, the flags of its lower object that it is to keep. Where it
/// cannot have them it is a copy without, as in the kernel.
pub(super) fn keep(upper: &Upper, dir: BorrowedFd<'_>, name: &CStr, kept: u32) -> Result<()> {
    let set = || {
        let fd = open_beneath(dir, name, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let own = flags::get_flags(fd.as_fd())?;
        flags::set_flags(fd.as_fd(), own & !KEPT | kept)
    };
    match upper.marked(dir, name, set) {
        Err(Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EPERM) => {
            log::info!("a copy does not get the flags {kept:#x} of its lower object");
            Ok(())
        }
        set => set,
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
