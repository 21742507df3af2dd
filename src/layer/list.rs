//! The names in one directory of a layer, whiteouts told apart.

use std::os::fd::AsFd;

use super::DirPlace;
use super::marks::is_xattr_whiteout;
use crate::base::{Errno, Name, Result};
use crate::format::wh::AufsName;
use crate::sys::stat::Kind;
use crate::sys::{dirent, flags};

/// One name as a layer has it.
pub struct ListedName {
    /// The name that is shown or hidden.
    pub name: Name,
    /// It is deleted here.
    pub whiteout: bool,
    /// What the directory says of its type, if it does.
    pub kind: Option<Kind>,
    /// Its number as the directory has it.
    pub ino: u64,
}

/// The names of a directory.
pub struct ListedNames {
    /// All of them.
    pub names: Vec<ListedName>,
    /// Nothing else is found there.
    pub exact: bool,
}

/// `FS_CASEFOLD_FL` ([ioctl_iflags(2)](https://man7.org/linux/man-pages/man2/ioctl_iflags.2.html)).
const CASEFOLD: u32 = 0x4000_0000;

/// Lists a directory of a layer; a covered one is empty. `None` where it has more than `most` names.
///
/// # Errors
/// What `openat2(2)` and `getdents64(2)` say.
pub fn list_names(dir: &DirPlace, xattr_whiteouts: bool, most: usize) -> Result<Option<ListedNames>> {
    let fd = match dir.open() {
        Err(Errno::EXDEV) => return Ok(Some(ListedNames { names: Vec::new(), exact: dir.layer.exact_names })),
        fd => fd?,
    };
    // A file system without such flags has no such directories.
    let folds = flags::get_flags(fd.as_fd()).is_ok_and(|flags| flags & CASEFOLD != 0);
    let exact = dir.layer.exact_names && !folds;
    let mut names = Vec::new();
    let mut failed = None;
    let mut too_many = false;
    dirent::read_dir(fd.as_fd(), &mut |entry| {
        match list_one(dir, xattr_whiteouts, &entry) {
            Ok(Some(listed)) => names.push(listed),
            Ok(None) => {}
            Err(errno) => failed = Some(errno),
        }
        too_many = names.len() > most;
        !too_many
    })?;
    match failed {
        Some(errno) => Err(errno),
        None => Ok((!too_many).then_some(ListedNames { names, exact })),
    }
}

fn list_one(dir: &DirPlace, xattr_whiteouts: bool, entry: &dirent::Dirent<'_>) -> Result<Option<ListedName>> {
    let bytes = entry.name.to_bytes();
    if dir.layer.wh_names {
        match AufsName::parse(bytes) {
            AufsName::Opaque | AufsName::Metadata => return Ok(None),
            AufsName::Whiteout(hidden) => {
                // `X` beside `.wh.X` is visible: the object's own entry counts.
                let (Ok(name), Ok(own)) = (Name::new(hidden), Name::new(bytes)) else { return Ok(None) };
                let hides = dir.stat(&name)?.is_none() && dir.stat(&own)?.is_some_and(|stat| stat.is_file());
                return Ok(hides.then_some(ListedName { name, whiteout: true, kind: None, ino: 0 }));
            }
            AufsName::Plain => {}
        }
    }
    // A name that the view cannot have (beyond 255 bytes on an exotic file system) is not shown.
    let Ok(name) = Name::new(bytes) else { return Ok(None) };
    let doubtful = match entry.kind {
        None | Some(Kind::Char) => true,
        Some(Kind::File) => xattr_whiteouts,
        _ => false,
    };
    if !doubtful {
        return Ok(Some(ListedName { name, whiteout: false, kind: entry.kind, ino: entry.ino }));
    }
    let Some(stat) = dir.stat(&name)? else { return Ok(None) };
    let whiteout = stat.is_whiteout() || (xattr_whiteouts && is_xattr_whiteout(dir, &name, &stat)?);
    Ok(Some(ListedName { name, whiteout, kind: Some(stat.kind()), ino: entry.ino }))
}
