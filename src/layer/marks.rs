//! The marks on a layer's objects that decide what a name means.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{DirPlace, Layer};
use crate::base::{Errno, Name, Result};
use crate::format::mark::{LEGACY_OPAQUE, Mark, Namespace, Opacity, WhiteoutStyle};
use crate::format::origin::{Decoded, Origin};
use crate::format::wh;
use crate::sys::stat::Stat;
use crate::sys::xattr;

/// What one layer says of a name.
pub enum LookedUp {
    /// Nothing: ask the layer below.
    Nothing,
    /// The name is deleted here.
    Whiteout,
    /// An object stands here.
    Object(Stat),
}

/// What the marks on a directory of a layer say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirMarks {
    /// Nothing of the layers below shows through.
    pub opaque: bool,
    /// Empty files in it may be whiteouts (`opaque=x`).
    pub xattr_whiteouts: bool,
    /// Objects in it may have an `origin`.
    pub impure: bool,
}

impl Layer {
    /// Both namespaces, the layer's own first.
    fn namespaces(&self) -> [Namespace; 2] {
        match self.namespace {
            Namespace::Trusted => [Namespace::Trusted, Namespace::User],
            Namespace::User => [Namespace::User, Namespace::Trusted],
        }
    }
}

/// Looks `name` up in one directory of a layer. `xattr_whiteouts` is that directory's mark.
///
/// # Errors
/// What the system calls say; a mark that cannot be read is an error, never absence.
pub fn look_up(dir: &DirPlace, name: &Name, xattr_whiteouts: bool) -> Result<LookedUp> {
    if let Some(stat) = dir.stat(name)? {
        if stat.is_whiteout() || (xattr_whiteouts && is_xattr_whiteout(dir, name, &stat)?) {
            return Ok(LookedUp::Whiteout);
        }
        if dir.layer.wh_names && name.as_bytes().starts_with(wh::PREFIX) {
            return Ok(LookedUp::Nothing);
        }
        return Ok(LookedUp::Object(stat));
    }
    if dir.layer.wh_names
        && let Ok(hidden) = wh::whiteout_name(name.as_bytes())
        && dir.stat(&hidden)?.is_some_and(|stat| stat.is_file())
    {
        return Ok(LookedUp::Whiteout);
    }
    Ok(LookedUp::Nothing)
}

/// An empty regular file with the `whiteout` mark.
pub(super) fn is_xattr_whiteout(dir: &DirPlace, name: &Name, stat: &Stat) -> Result<bool> {
    if !stat.is_file() || stat.size != 0 {
        return Ok(false);
    }
    let keys = xattr::list_at(dir.fd()?.as_fd(), name.as_c_str())?;
    Ok(dir.layer.namespaces().into_iter().any(|namespace| has(&keys, namespace.key(Mark::Whiteout))))
}

/// Whether a mark stands there: that is seen without permission to read the object, its value is not.
fn has(keys: &[Vec<u8>], key: &CStr) -> bool {
    keys.iter().any(|k| k.as_slice() == key.to_bytes())
}

/// Reads the marks of the directory `place`, which is `name` (or `.`) in the open directory `at`, in one pass.
///
/// `below`: there are layers below that an opaque directory would hide; else that mark is not looked for.
///
/// # Errors
/// `EPERM` for a directory whose lower part has another name (`redirect`), which is not followed; what the system calls
/// say.
pub fn read_dir_marks(place: &Arc<DirPlace>, at: BorrowedFd<'_>, name: &CStr, below: bool) -> Result<DirMarks> {
    let mut marks = DirMarks::default();
    if place.ino() == 0 {
        return Ok(marks);
    }
    let layer = &place.layer;
    let keys = xattr::list_at(at, name)?;
    if (below || layer.upper_style.is_some()) && has(&keys, layer.namespace.key(Mark::Redirect)) {
        log::warn!("{place:?} has a redirect, which is not followed (redirect_dir=off)");
        return Err(Errno::EPERM);
    }
    for namespace in layer.namespaces() {
        let key = namespace.key(Mark::Opaque);
        if has(&keys, key) {
            match xattr::get_at(at, name, key) {
                Ok(value) => match Opacity::parse(value.as_deref()) {
                    Opacity::Opaque => marks.opaque = true,
                    Opacity::XattrWhiteouts => marks.xattr_whiteouts = true,
                    Opacity::None => {}
                },
                // A directory that its owner may not read; an upper layer's mark is `y`, as long as it writes devices.
                Err(Errno::EACCES) if layer.upper_style == Some(WhiteoutStyle::Device) => marks.opaque = true,
                Err(errno) => return Err(errno),
            }
        }
        marks.impure |= has(&keys, namespace.key(Mark::Impure));
    }
    if has(&keys, LEGACY_OPAQUE) {
        marks.opaque |= Opacity::parse(xattr::get_at(at, name, LEGACY_OPAQUE)?.as_deref()) == Opacity::Opaque;
    }
    if below && !marks.opaque && layer.wh_names {
        marks.opaque = place.stat(&Name::new(wh::OPAQUE)?)?.is_some_and(|stat| stat.is_file());
    }
    Ok(marks)
}

/// What the marks on an object other than a directory say.
#[derive(Debug, Default)]
pub struct LeafMarks {
    /// It stands for a 0/0 character device that a user made.
    pub device: bool,
    /// The lower object that it was copied up from.
    pub origin: Option<Origin>,
}

/// Reads all marks of an object other than a directory. `impure`: its directory says that it may have an origin.
///
/// # Errors
/// `EPERM` for a file whose data is in another layer (`metacopy`), which is not followed; what the system calls say.
pub fn read_leaf_marks(dir: &DirPlace, name: &Name, stat: &Stat, impure: bool) -> Result<LeafMarks> {
    let mut marks = LeafMarks::default();
    let layer = &dir.layer;
    let upper = layer.upper_style.is_some();
    let empty = stat.is_file() && stat.size == 0 && (upper || !layer.wh_names);
    // What an overlay copied up stands in a directory that says so; nothing is taken on trust in the upper layer.
    if !(empty || impure || (upper && stat.is_file())) {
        return Ok(marks);
    }
    let fd = dir.fd()?;
    let keys = xattr::list_at(fd.as_fd(), name.as_c_str())?;
    if stat.is_file() && has(&keys, layer.namespace.key(Mark::Metacopy)) {
        log::warn!("{name:?} in {dir:?} has its data in another layer, which is not followed (metacopy=off)");
        return Err(Errno::EPERM);
    }
    marks.device = empty && has(&keys, layer.namespace.key(Mark::Device));
    let key = layer.namespace.key(Mark::Origin);
    if impure && has(&keys, key) {
        // A file that its owner may not read is looked up without: its number then lasts as long as the mount.
        let value = match xattr::get_at(fd.as_fd(), name.as_c_str(), key) {
            Err(Errno::EACCES) => None,
            value => value?,
        };
        if let Some(Ok(Decoded::Known(known))) = value.map(|value| Origin::decode(&value)) {
            marks.origin = Some(known);
        }
    }
    Ok(marks)
}
