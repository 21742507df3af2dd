//! The marks on a layer's objects that decide what a name means.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{DirPlace, Layer};
use crate::base::{Errno, Name, Result};
use crate::format::mark::{LEGACY_OPAQUE, Mark, Namespace, Opacity};
use crate::format::origin::{Decoded, Origin};
use crate::format::{BlocksMark, Malformed, Metacopy, Nlink, Protattr, Redirect, wh};
use crate::sys::stat::Stat;
use crate::sys::xattr;

/// What one layer says of a name.
pub enum LookedUp {
    /// The layer has nothing: the layer below is asked next.
    Nothing,
    /// A whiteout: the name is deleted here.
    Whiteout,
    /// An object with these attributes.
    Object(Stat),
}

/// What the marks on a directory of a layer say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirMarks {
    /// The directory hides those of its name in the layers below.
    pub opaque: bool,
    /// Empty files in it may be whiteouts (`opaque=x`).
    pub xattr_whiteouts: bool,
    /// Objects in it may have an `origin`.
    pub impure: bool,
    /// Where its parts in the layers below are; `None`: under its own name.
    pub redirect: Option<Redirect>,
    /// What `chattr` forbids, in the upper layer.
    pub protection: Protattr,
    /// No extended attribute was listed that users see.
    pub plain: bool,
}

/// Looks `name` up in one directory of a layer. `xattr_whiteouts` is that directory's mark.
///
/// # Errors
/// What the system calls say; a mark that cannot be read is an error, never absence.
pub fn look_up(dir: &DirPlace, name: &Name, xattr_whiteouts: bool) -> Result<LookedUp> {
    // Whiteouts are what they are on disk, whatever owner and type a mark gives them.
    if let Some(stat) = dir.stat_on_disk(name)? {
        if stat.is_whiteout() || (xattr_whiteouts && is_xattr_whiteout(dir, name, &stat)?) {
            return Ok(LookedUp::Whiteout);
        }
        if dir.layer.wh_names && name.as_bytes().starts_with(wh::PREFIX) {
            return Ok(LookedUp::Nothing);
        }
        let shown = if dir.layer.owners.or(dir.layer.carried).is_none() { Some(stat) } else { dir.stat(name)? };
        return Ok(shown.map_or(LookedUp::Nothing, LookedUp::Object));
    }
    if dir.layer.wh_names
        && let Ok(hidden) = wh::whiteout_name(name.as_bytes())
        && dir.stat_on_disk(&hidden)?.is_some_and(|stat| stat.is_file())
    {
        return Ok(LookedUp::Whiteout);
    }
    Ok(LookedUp::Nothing)
}

/// Whether an object is an empty regular file with the mark `whiteout`.
pub(super) fn is_xattr_whiteout(dir: &DirPlace, name: &Name, stat: &Stat) -> Result<bool> {
    if !stat.is_file() || stat.size != 0 {
        return Ok(false);
    }
    let (keys, _) = keys_of(dir.fd()?.as_fd(), name.as_c_str())?;
    Ok(dir.layer.reads.iter().any(|namespace| has(&keys, namespace.key(Mark::Whiteout))))
}

/// The keys of an object's extended attributes. Where there are more than the kernel lists only those of marks are
/// found: such an object can be seen and removed, but not copied. Whether these are all.
fn keys_of(at: BorrowedFd<'_>, name: &CStr) -> Result<(Vec<Vec<u8>>, bool)> {
    match xattr::list_at(at, name) {
        Err(Errno::E2BIG) => Ok((keys_of_marks(at, name)?, false)),
        keys => Ok((keys?, true)),
    }
}

/// The keys of an object's marks, asked for one by one.
fn keys_of_marks(at: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Vec<u8>>> {
    let of = |namespace: Namespace| Mark::ALL.iter().map(move |&mark| namespace.key(mark));
    let mut keys = Vec::new();
    for key in of(Namespace::Trusted).chain(of(Namespace::User)).chain([LEGACY_OPAQUE]) {
        if xattr::get_at(at, name, key)?.is_some() {
            keys.push(key.to_bytes().to_vec());
        }
    }
    Ok(keys)
}

/// Whether a mark is among the keys. Keys are listed without permission to read the object; values are not read without
/// it.
fn has(keys: &[Vec<u8>], key: &CStr) -> bool {
    keys.iter().any(|k| k.as_slice() == key.to_bytes())
}

/// The error for a malformed mark that must be understood.
fn refused(at: &dyn std::fmt::Debug, malformed: Malformed) -> Errno {
    log::warn!("{at:?}: {malformed}");
    if malformed.mark == Mark::Redirect.name() { Errno::EINVAL } else { Errno::EIO }
}

impl Layer {
    /// Whether users see none of these attributes.
    fn are_private(&self, keys: &[Vec<u8>]) -> bool {
        keys.iter().all(|key| self.naming().from_disk(key).is_none())
    }

    /// The value of a mark that an object has.
    fn value(&self, at: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<Vec<u8>> {
        Ok(self.attribute(at, name, key)?.unwrap_or_default())
    }

    /// The value of an attribute; `None`: the object has no such one. A value that the daemon may not read is unknown,
    /// not absent: on an object of the upper layer, which the daemon owns, the mode is widened for an instant.
    pub(super) fn attribute(&self, at: BorrowedFd<'_>, name: &CStr, key: &CStr) -> Result<Option<Vec<u8>>> {
        let read = || xattr::get_at(at, name, key);
        match read() {
            Err(Errno::EACCES) if self.widens => {
                let read = self.widened(at, name, 0o400, read);
                read.map_err(|errno| if errno == Errno::EPERM { Errno::EACCES } else { errno })
            }
            value => value,
        }
    }

    /// What the mark `protattr` of an upper object forbids. A malformed value forbids nothing, as with the kernel's
    /// OverlayFS.
    fn protection(&self, at: BorrowedFd<'_>, name: &CStr, keys: &[Vec<u8>]) -> Result<Protattr> {
        let key = self.namespace.key(Mark::Protattr);
        if !self.is_upper() || !has(keys, key) {
            return Ok(Protattr::default());
        }
        Ok(Protattr::parse(&self.value(at, name, key)?).unwrap_or_default())
    }

    /// Whether an object has a mark that leads elsewhere. Such a mark is followed in one namespace only: otherwise a
    /// user who may write `user.*` could show files of other layers through root's mount.
    ///
    /// # Errors
    /// `EPERM`: the mark is in the other namespace, and the layer's marks in that are [read](Layer::reads).
    fn leads(&self, keys: &[Vec<u8>], mark: Mark, at: &dyn std::fmt::Debug) -> Result<bool> {
        let own = self.believed;
        if has(keys, own.key(mark)) {
            return Ok(true);
        }
        let other = own.other();
        if self.reads.contains(&other) && has(keys, other.key(mark)) {
            let hint =
                if own == Namespace::Trusted { "mount with userxattr" } else { "mount as root without userxattr" };
            log::warn!("{at:?} has {:?}, which is not followed here ({hint})", other.key(mark));
            return Err(Errno::EPERM);
        }
        Ok(false)
    }
}

/// Reads the marks of the directory `place`, which is `name` (or `.`) in the open directory `at`, in one pass.
///
/// `below`: there are layers below, which an opaque directory hides; else the mark `opaque` is not read.
///
/// # Errors
/// `EPERM` for a `redirect` in the namespace that is not [believed](Layer::believed), `EINVAL` for a malformed one; what
/// the system calls say.
pub fn read_dir_marks(place: &Arc<DirPlace>, at: BorrowedFd<'_>, name: &CStr, below: bool) -> Result<DirMarks> {
    let mut marks = DirMarks::default();
    if place.ino() == 0 {
        return Ok(marks);
    }
    let layer = &place.layer;
    let (keys, all) = keys_of(at, name)?;
    marks.plain = all && layer.are_private(&keys);
    if keys.is_empty() && !(below && layer.wh_names) {
        return Ok(marks);
    }
    for namespace in layer.reads {
        let key = namespace.key(Mark::Opaque);
        if has(&keys, key) {
            match Opacity::parse(Some(&layer.value(at, name, key)?)) {
                Opacity::Opaque => marks.opaque = true,
                Opacity::XattrWhiteouts => marks.xattr_whiteouts = true,
                Opacity::None => {}
            }
        }
        marks.impure |= has(&keys, namespace.key(Mark::Impure));
    }
    if layer.reads.contains(&Namespace::User) && has(&keys, LEGACY_OPAQUE) {
        marks.opaque |= Opacity::parse(Some(&layer.value(at, name, LEGACY_OPAQUE)?)) == Opacity::Opaque;
    }
    if below && !marks.opaque && layer.wh_names {
        marks.opaque = place.stat_on_disk(&Name::new(wh::OPAQUE)?)?.is_some_and(|stat| stat.is_file());
    }
    if !marks.opaque && (below || layer.is_upper()) && layer.leads(&keys, Mark::Redirect, place)? {
        let value = layer.value(at, name, layer.believed.key(Mark::Redirect))?;
        marks.redirect = Some(Redirect::parse(&value).map_err(|malformed| refused(place, malformed))?);
    }
    marks.protection = layer.protection(at, name, &keys)?;
    Ok(marks)
}

/// What the marks on an object other than a directory say.
#[derive(Debug, Default)]
pub struct LeafMarks {
    /// The object is known to have no extended attribute.
    pub bare: bool,
    /// The object is a file that stands for a 0/0 character device of a user.
    pub device: bool,
    /// The lower object that an upper object was copied up from.
    pub origin: Option<Origin>,
    /// Its data is in a layer below.
    pub metacopy: Option<Metacopy>,
    /// Some of its blocks are in the upper layer, as their record says.
    pub blocks: Option<BlocksMark>,
    /// Where that data is; `None`: under the file's own name.
    pub redirect: Option<Redirect>,
    /// How many links the union has of the object.
    pub nlink: Option<Nlink>,
    /// What `chattr` forbids, in the upper layer.
    pub protection: Protattr,
    /// No extended attribute was listed that users see.
    pub plain: bool,
}

/// Reads all marks of an object other than a directory. `impure`: its directory says that it may have an origin.
///
/// # Errors
/// `EPERM` for a `metacopy` in the namespace that is not [believed](Layer::believed); `EIO` or `EINVAL` for a malformed
/// one or its redirect; what the system calls say.
pub fn read_leaf_marks(dir: &DirPlace, name: &Name, stat: &Stat, impure: bool) -> Result<LeafMarks> {
    let read = || read_leaf_marks_once(dir, name, stat, impure);
    match read() {
        // A mark was removed after the keys were listed: the file has got its data.
        Err(Errno::ENODATA) => read(),
        marks => marks,
    }
}

fn read_leaf_marks_once(dir: &DirPlace, name: &Name, stat: &Stat, impure: bool) -> Result<LeafMarks> {
    let mut marks = LeafMarks::default();
    let layer = &dir.layer;
    let upper = layer.is_upper();
    // Objects that an overlay copied up are in a directory marked impure, but a metacopy file may be made by hand. An
    // origin counts in the upper layer only: a lower object keeps its own number, as with the kernel's OverlayFS, and
    // its copy gets the same number.
    let copied = impure && upper;
    if !(stat.is_file() || copied) {
        return Ok(marks);
    }
    let fd = dir.fd()?;
    let (at, cname) = (fd.as_fd(), name.as_c_str());
    let (keys, all) = keys_of(at, cname)?;
    marks.plain = all && layer.are_private(&keys);
    if all && keys.is_empty() {
        return Ok(LeafMarks { bare: layer.lists_attributes, ..marks });
    }
    let here = || (dir, name);
    if stat.is_file() && layer.leads(&keys, Mark::Metacopy, &here())? {
        let value = layer.value(at, cname, layer.believed.key(Mark::Metacopy))?;
        let malformed = |malformed| refused(&here(), malformed);
        // Only an upper layer has a work directory, which holds the record.
        match BlocksMark::shift_in(&value).filter(|_| upper) {
            Some(shift) => {
                let value = layer.value(at, cname, layer.believed.key(Mark::Blocks))?;
                let (blocks, metacopy) = BlocksMark::parse(shift, &value).map_err(malformed)?;
                (marks.blocks, marks.metacopy) = (Some(blocks), Some(metacopy));
            }
            None => marks.metacopy = Some(Metacopy::parse(&value).map_err(malformed)?),
        }
        if layer.leads(&keys, Mark::Redirect, &here())? {
            let value = layer.value(at, cname, layer.believed.key(Mark::Redirect))?;
            marks.redirect = Some(Redirect::parse(&value).map_err(|malformed| refused(&here(), malformed))?);
        }
    }
    let empty = stat.is_file() && stat.size == 0 && (upper || !layer.wh_names);
    marks.device = empty && has(&keys, layer.namespace.key(Mark::Device));
    let key = layer.namespace.key(Mark::Origin);
    if copied && has(&keys, key) {
        // A mark that the process may not read is passed over.
        let value = match layer.value(at, cname, key) {
            Err(Errno::EACCES) => None,
            value => Some(value?),
        };
        if let Some(Ok(Decoded::Known(known))) = value.map(|value| Origin::decode(&value)) {
            marks.origin = Some(known);
        }
    }
    let key = layer.namespace.key(Mark::Nlink);
    if upper && has(&keys, key) {
        marks.nlink = Nlink::parse(&layer.value(at, cname, key)?).ok();
    }
    marks.protection = layer.protection(at, cname, &keys)?;
    Ok(marks)
}
