//! Directories of which an archive has only what is in them: umoci writes them so where only that has changed. Unpacked over
//! the layers below, as other programs do it, they are what those layers say, and so they are made here.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::unpack::{As, Attributes, Unpacked, give, there};
use crate::base::{Errno, Name};
use crate::format::mark::Mark;
use crate::format::wh;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{stat_at, stat_fd};
use crate::sys::xattr;
use crate::tool::export::{is_local, is_mark};

/// Gives such directories of the first of these layers, the topmost first, what the others say of them.
///
/// # Errors
/// What the file system says.
pub(super) fn settle(layers: &[OwnedFd], how: As, done: &mut Unpacked) -> io::Result<()> {
    let Some(layer) = layers.first() else { return Ok(()) };
    for path in std::mem::take(&mut done.implied) {
        let below = match below(layers, &path, how) {
            // Normal users cannot look into all that they own.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            below => below?,
        };
        let Some(below) = below else { continue };
        let mut dir = open(layer.as_fd(), c".")?;
        for name in &path {
            dir = open(dir.as_fd(), name.as_c_str())?;
        }
        let shown = path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        give((dir.as_fd(), c"."), (&shown, attributes(&below)?, false), how, done)?;
    }
    Ok(())
}

fn open(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    Ok(open_beneath(dir, name, OFlags::PATH | OFlags::DIRECTORY)?)
}

/// The directory that the layers below the first one show at its path.
fn below(layers: &[OwnedFd], path: &[Name], how: As) -> io::Result<Option<OwnedFd>> {
    for (at, layer) in layers.iter().enumerate() {
        let (mut dir, mut ends, mut found) = (open(layer.as_fd(), c".")?, false, at > 0);
        for name in path {
            ends |= is_opaque(dir.as_fd(), how)?;
            match there(dir.as_fd(), name)? {
                Some(stat) if stat.is_dir() => dir = open(dir.as_fd(), name.as_c_str())?,
                Some(_) => return Ok(None),
                None => {
                    let whiteout = wh::whiteout_name(name.as_bytes()).ok();
                    ends |= whiteout.is_some_and(|whiteout| stat_at(dir.as_fd(), whiteout.as_c_str()).is_ok());
                    found = false;
                    break;
                }
            }
        }
        if found {
            return Ok(Some(dir));
        }
        if ends {
            return Ok(None);
        }
    }
    Ok(None)
}

/// Whether a directory hides what the layers below have in it.
fn is_opaque(dir: BorrowedFd<'_>, how: As) -> io::Result<bool> {
    let mark = xattr::get_fd(dir, how.marks.key(Mark::Opaque))?;
    let name = Name::new(wh::OPAQUE)?;
    Ok(mark.is_some_and(|value| value == b"y") || there(dir, &name)?.is_some())
}

fn attributes(dir: &OwnedFd) -> io::Result<Attributes> {
    let stat = stat_fd(dir.as_fd())?;
    let mut xattrs = BTreeMap::new();
    for key in xattr::list_fd(dir.as_fd())? {
        let name = std::ffi::CString::new(key.clone()).map_err(|_| Errno::EINVAL)?;
        if !is_mark(&key)
            && !is_local(&key)
            && let Some(value) = xattr::get_fd(dir.as_fd(), &name)?
        {
            xattrs.insert(key, value);
        }
    }
    let owner = (stat.uid.0.into(), stat.gid.0.into());
    Ok(Attributes { mode: stat.mode, owner, mtime: stat.mtime, xattrs })
}
