//! Lists the names in one directory of a layer, and tells whiteouts from objects.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::marks::is_xattr_whiteout;
use super::{DirPlace, Folding};
use crate::base::{Errno, Name, Result};
use crate::format::wh::AufsName;
use crate::sys::stat::{Kind, Stat};
use crate::sys::{dirent, flags};

/// One name as a layer has it.
pub struct ListedName<'a> {
    /// The name that is shown or hidden.
    pub name: &'a [u8],
    /// The name is a whiteout.
    pub whiteout: bool,
    /// Its type, if the directory tells it.
    pub kind: Option<Kind>,
    /// Its inode number as the directory has it.
    pub ino: u64,
}

/// Takes the names of a directory one by one, so that nothing need hold all of them.
pub trait NameSink {
    /// Whether this name is wanted; the object of another name is not looked at.
    fn wants(&mut self, name: &[u8]) -> bool;
    /// Takes a name. False: no more are wanted.
    fn take(&mut self, name: &ListedName<'_>) -> bool;
}

/// Lists a directory of a layer; a directory that a mount covers is empty. True: a lookup finds no other names than
/// these.
///
/// # Errors
/// What `openat2(2)` and `getdents64(2)` say.
pub fn list_names(dir: &DirPlace, xattr_whiteouts: bool, sink: &mut dyn NameSink) -> Result<bool> {
    list_opened(dir, dir.open(), xattr_whiteouts, sink)
}

/// As [`list_names`], of what the daemon owns also where its user may not list it.
///
/// # Errors
/// As [`list_names`].
pub fn list_names_as_owner(dir: &DirPlace, xattr_whiteouts: bool, sink: &mut dyn NameSink) -> Result<bool> {
    list_opened(dir, dir.open_as_owner(), xattr_whiteouts, sink)
}

fn list_opened(
    dir: &DirPlace,
    opened: Result<OwnedFd>,
    xattr_whiteouts: bool,
    sink: &mut dyn NameSink,
) -> Result<bool> {
    match opened {
        Err(Errno::EXDEV) => Ok(dir.layer.exact_names),
        fd => list_from(dir, fd?.as_fd(), xattr_whiteouts, sink),
    }
}

/// As [`list_names`], where nobody else lists this [`DirPlace`] meanwhile: by the descriptor that it keeps.
///
/// # Errors
/// As [`list_names`].
pub fn list_names_alone(dir: &DirPlace, xattr_whiteouts: bool, sink: &mut dyn NameSink) -> Result<bool> {
    match dir.fd_to_list() {
        Some(fd) => list_from(dir, fd.as_fd(), xattr_whiteouts, sink),
        None => list_names(dir, xattr_whiteouts, sink),
    }
}

/// Lists a directory of a layer by a descriptor that is open for reading.
fn list_from(dir: &DirPlace, fd: BorrowedFd<'_>, xattr_whiteouts: bool, sink: &mut dyn NameSink) -> Result<bool> {
    let folds = dir.layer.folding != Folding::Never && flags::is_casefolded(fd);
    let mut failed = None;
    dirent::read_dir(fd, &mut |entry| match list_one(dir, xattr_whiteouts, &entry, sink) {
        Ok(more) => more,
        Err(errno) => {
            failed = Some(errno);
            false
        }
    })?;
    match failed {
        Some(errno) => Err(errno),
        None => Ok(dir.layer.exact_names && !folds),
    }
}

/// Hands one entry to the sink. False: the sink wants no more.
fn list_one(
    dir: &DirPlace,
    xattr_whiteouts: bool,
    entry: &dirent::Dirent<'_>,
    sink: &mut dyn NameSink,
) -> Result<bool> {
    let bytes = entry.name.to_bytes();
    if dir.layer.wh_names {
        match AufsName::parse(bytes) {
            AufsName::Opaque | AufsName::Metadata => return Ok(true),
            AufsName::Whiteout(hidden) => {
                // `X` beside `.wh.X` is visible: the object's own entry counts.
                let (Ok(name), Ok(own)) = (Name::new(hidden), Name::new(bytes)) else { return Ok(true) };
                if !sink.wants(hidden) {
                    return Ok(true);
                }
                let is_file = |stat: Stat| stat.is_file();
                let hides = dir.stat_on_disk(&name)?.is_none() && dir.stat_on_disk(&own)?.is_some_and(is_file);
                return Ok(!hides || sink.take(&ListedName { name: hidden, whiteout: true, kind: None, ino: 0 }));
            }
            AufsName::Plain => {}
        }
    }
    // A name that the view cannot have (beyond 255 bytes on an exotic file system) is not shown.
    if !Name::is_one(bytes) || !sink.wants(bytes) {
        return Ok(true);
    }
    let doubtful = match entry.kind {
        None | Some(Kind::Char) => true,
        Some(Kind::File) => xattr_whiteouts,
        _ => false,
    };
    // Where owners stand in attributes a file may stand for another object, which only a look at it tells.
    let told = |kind| if kind == Kind::File && dir.layer.owners.is_some() { None } else { Some(kind) };
    if !doubtful && !dir.layer.hidden.may_be(dir.ino(), entry.kind, entry.ino) {
        let kind = entry.kind.and_then(told);
        return Ok(sink.take(&ListedName { name: bytes, whiteout: false, kind, ino: entry.ino }));
    }
    let name = Name::new(bytes)?;
    let Some(stat) = dir.stat_on_disk(&name)? else { return Ok(true) };
    let whiteout = stat.is_whiteout() || (xattr_whiteouts && is_xattr_whiteout(dir, &name, &stat)?);
    Ok(sink.take(&ListedName { name: bytes, whiteout, kind: told(stat.kind()), ino: entry.ino }))
}
