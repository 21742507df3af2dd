//! Removal of whole trees in the work directory.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::base::{Errno, Result};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::{dirent, tree};

/// A directory that is being emptied.
struct Emptying {
    fd: OwnedFd,
    name: CString,
    left: Vec<(CString, Kind)>,
}

/// Removes `name` and all below it; a directory's depth costs no stack.
///
/// # Errors
/// What the system calls say.
pub fn remove(dir: BorrowedFd<'_>, name: &CStr, kind: Kind) -> Result<()> {
    if kind != Kind::Dir {
        return tree::unlink_at(dir, name);
    }
    match tree::rmdir_at(dir, name) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
        done => return done,
    }
    let open = |at: BorrowedFd<'_>, name: &CStr| -> Result<OwnedFd> {
        let open = || open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY);
        match open() {
            Err(Errno::EACCES) => {
                tree::chmod_at(at, name, 0o700)?;
                open()
            }
            fd => fd,
        }
    };
    let first = open(dir, name)?;
    let left = children(first.as_fd())?;
    let mut stack = vec![Emptying { fd: first, name: name.to_owned(), left }];
    while let Some(Emptying { fd, left, .. }) = stack.last_mut() {
        match left.pop() {
            Some((name, Kind::Dir)) => match rmdir_in(fd.as_fd(), &name) {
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    let below = open(fd.as_fd(), &name)?;
                    let left = children(below.as_fd())?;
                    stack.push(Emptying { fd: below, name, left });
                }
                done => done?,
            },
            Some((name, _)) => unlink_in(fd.as_fd(), &name)?,
            None => {
                let Some(empty) = stack.pop() else { break };
                match stack.last() {
                    Some(above) => rmdir_in(above.fd.as_fd(), &empty.name)?,
                    None => tree::rmdir_at(dir, &empty.name)?,
                }
            }
        }
    }
    Ok(())
}

/// Unlinks a name in a directory of this process's user, which may lack write permission.
fn unlink_in(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match tree::unlink_at(dir, name) {
        Err(Errno::EACCES) => {
            tree::chmod_fd(dir, 0o700)?;
            tree::unlink_at(dir, name)
        }
        done => done,
    }
}

/// Removes a directory in a directory of this process's user, which may lack write permission.
fn rmdir_in(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match tree::rmdir_at(dir, name) {
        Err(Errno::EACCES) => {
            tree::chmod_fd(dir, 0o700)?;
            tree::rmdir_at(dir, name)
        }
        done => done,
    }
}

/// The names in a directory, each with its type.
///
/// # Errors
/// What the system calls say.
pub fn children(dir: BorrowedFd<'_>) -> Result<Vec<(CString, Kind)>> {
    let mut found = Vec::new();
    let mut unknown = Vec::new();
    dirent::read_dir(dir, &mut |entry| {
        match entry.kind {
            Some(kind) => found.push((entry.name.to_owned(), kind)),
            None => unknown.push(entry.name.to_owned()),
        }
        true
    })?;
    for name in unknown {
        let kind = stat_at(dir, &name)?.kind();
        found.push((name, kind));
    }
    Ok(found)
}
