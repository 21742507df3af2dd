//! The marks on a layer's objects that decide what a name means.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{DirPlace, Layer};
use crate::base::{Name, Result};
use crate::format::mark::{LEGACY_OPAQUE, Mark, Namespace, Opacity};
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
    if dir.layer.wh_names {
        if let Ok(hidden) = wh::whiteout_name(name.as_bytes()) {
            if dir.stat(&hidden)?.is_some_and(|stat| stat.is_file()) {
                return Ok(LookedUp::Whiteout);
            }
        }
    }
    Ok(LookedUp::Nothing)
}

/// An empty regular file with the `whiteout` mark.
pub(super) fn is_xattr_whiteout(dir: &DirPlace, name: &Name, stat: &Stat) -> Result<bool> {
    if !stat.is_file() || stat.size != 0 {
        return Ok(false);
    }
    let fd = dir.fd()?;
    for namespace in dir.layer.namespaces() {
        if xattr::get_at(fd.as_fd(), name.as_c_str(), namespace.key(Mark::Whiteout))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the marks of the directory `place`, which is `name` (or `.`) in the open directory `at`, in one pass.
///
/// `below`: there are layers below that an opaque directory would hide; else that mark is not looked for.
///
/// # Errors
/// What the system calls say.
pub fn read_dir_marks(place: &Arc<DirPlace>, at: BorrowedFd<'_>, name: &CStr, below: bool) -> Result<DirMarks> {
    let mut marks = DirMarks::default();
    if place.ino() == 0 {
        return Ok(marks);
    }
    let keys = xattr::list_at(at, name)?;
    let has = |key: &CStr| keys.iter().any(|k| k.as_slice() == key.to_bytes());
    for namespace in place.layer.namespaces() {
        let key = namespace.key(Mark::Opaque);
        if has(key) {
            match Opacity::parse(xattr::get_at(at, name, key)?.as_deref()) {
                Opacity::Opaque => marks.opaque = true,
                Opacity::XattrWhiteouts => marks.xattr_whiteouts = true,
                Opacity::None => {}
            }
        }
        marks.impure |= has(namespace.key(Mark::Impure));
    }
    let legacy = LEGACY_OPAQUE;
    if has(legacy) {
        marks.opaque |= Opacity::parse(xattr::get_at(at, name, legacy)?.as_deref()) == Opacity::Opaque;
    }
    if below && !marks.opaque && place.layer.wh_names {
        marks.opaque = place.stat(&Name::new(wh::OPAQUE)?)?.is_some();
    }
    Ok(marks)
}
