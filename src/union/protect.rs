//! The flags of chattr(1). The union shows and enforces `+i` and `+a`. The upper object itself does not get these two,
//! or nobody could copy up into it; the mark `protattr` remembers them. An upper object on which they were set in the
//! layer is protected by the layer, as with the kernel's OverlayFS. The flags `+S` and `+A` are set on the copy itself.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

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

/// The sorts of change that the flags tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A change that an append-only object allows: more data at its end, a new name in a directory, the time of now.
    Addition,
    /// Any other change.
    Other,
}

/// The flags of a lower object that matter to its copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LowerFlags {
    /// The flags that a mark remembers on the copy.
    pub protection: Protattr,
    /// The flags of [`KEPT`] that are set on the copy, too, as `FS_*_FL` bits.
    pub kept: u32,
}

/// Which bit of a set of flags stands for which flag.
pub(super) struct Bits {
    append: u32,
    immutable: u32,
    sync: u32,
    noatime: u32,
}

/// `FS_*_FL` of `linux/fs.h`: `FS_APPEND_FL` and others.
pub(super) const FLAGS: Bits = Bits { append: 0x20, immutable: 0x10, sync: 0x8, noatime: 0x80 };
/// `FS_XFLAG_*` of `linux/fs.h`: `FS_XFLAG_APPEND` and others.
pub(super) const XFLAGS: Bits = Bits { append: 0x10, immutable: 0x8, sync: 0x20, noatime: 0x40 };

impl Bits {
    /// The bits of these flags.
    pub fn of(&self, flags: Protattr) -> u32 {
        (if flags.append { self.append } else { 0 }) | if flags.immutable { self.immutable } else { 0 }
    }

    /// The flags that are in `set`.
    pub fn in_(&self, set: u32) -> Protattr {
        Protattr { append: set & self.append != 0, immutable: set & self.immutable != 0 }
    }

    /// `set` without the flags that only the union enforces.
    pub fn without(&self, set: u32) -> u32 {
        set & !(self.append | self.immutable)
    }
}

/// The flags that a copy gets itself: `OVL_COPY_FS_FLAGS_MASK` of the kernel's OverlayFS.
const KEPT: u32 = FLAGS.sync | FLAGS.noatime;

impl Union {
    /// Refuses a change that an object's flags forbid. Returns the flags of a lower object, which were read for that.
    ///
    /// # Errors
    /// `EPERM`
    pub(super) fn check_flags(&self, inode: &Inode, change: Change) -> Result<Option<LowerFlags>> {
        let lower = self.lower_flags(inode)?;
        let flags = lower.map_or_else(|| own_protection(inode), |lower| lower.protection);
        let refused = flags.immutable || (flags.append && change != Change::Addition);
        if refused { Err(Errno::EPERM) } else { Ok(lower) }
    }

    /// What is forbidden on an object: by the flags of a lower object, or by the mark of an upper one, which may also
    /// have been seen to be append-only itself.
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

    /// Sets the flags that the union enforces on an upper object. The caller has cleared them on the object itself.
    pub(super) fn protect(&self, inode: &Arc<Inode>, flags: Protattr) -> Result<()> {
        if let (true, Body::Leaf(leaf)) = (inode.set_appends(false), &inode.body) {
            // The open descriptor writes at the end only.
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

/// What is forbidden on an object of the upper layer.
fn own_protection(inode: &Inode) -> Protattr {
    let marked = inode.protection();
    Protattr { append: marked.append || inode.appends(), ..marked }
}

/// The flags of `name` in `dir`, an object of a lower layer. A newer kernel tells them by one call. On FUSE, where that
/// would be three requests, only statx(2) is asked; the kernel's OverlayFS sees no flags there.
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

/// The flags that statx(2) tells without an open. Some read-only file systems (EROFS) call everything immutable here,
/// although they have no such flags.
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

/// Whether `name` in `dir`, an object of the upper layer, is append-only or immutable itself. It tells why a change was
/// refused that can fail for other reasons, too.
pub(super) fn refuses(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    stat::protection_at(dir, name).is_ok_and(|said| said.append || said.immutable)
}

/// Sets on the staged copy `name` in `dir`, a file or directory, those flags of its lower object that a copy keeps. A
/// copy that cannot have them goes without, as with the kernel's OverlayFS.
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
    /// The sort of change that setting these attributes is.
    pub(super) fn change(&self) -> Change {
        let plain = self.mode.is_none() && self.uid.is_none() && self.gid.is_none() && self.size.is_none();
        let set = |time| matches!(time, SetTime::At(_));
        if plain && !set(self.atime) && !set(self.mtime) { Change::Addition } else { Change::Other }
    }
}
