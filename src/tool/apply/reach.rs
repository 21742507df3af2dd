//! Ways to objects of a layer by their path from its root, of any length: beneath the root, and through no symlink.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::base::{Errno, Name, Result};
use crate::merge::Layers;
use crate::sys::path::{OFlags, open_beneath, open_root, parent_of};
use crate::sys::stat::{Stat, stat_beneath, stat_fd};

/// A relative path that is handed to one system call is kept below `PATH_MAX`.
const STEP: usize = 3800;

/// `st_dev` and inode number.
pub(super) type Id = (u64, u64);

pub(super) fn id(stat: &Stat) -> Id {
    (stat.dev, stat.ino)
}

/// The directories that are changed, opened. They are not the clones by which layers are looked at, which are read-only.
#[derive(Debug)]
pub struct Dirs {
    pub(super) lower: OwnedFd,
    pub(super) upper: OwnedFd,
    pub(super) work: OwnedFd,
}

impl Dirs {
    /// Opens the roots of the topmost lower layer below all commits and of the upper layer again, and the work directory at `work`.
    ///
    /// # Errors
    /// `ESTALE`: other directories stand there now; `EINVAL` without an upper layer; those of open(2).
    pub fn open(layers: &Layers, work: &Path) -> Result<Self> {
        let (Some(lower), Some(upper)) = (layers.grounds().first(), &layers.root.upper) else {
            return Err(Errno::EINVAL);
        };
        let again = |place: &crate::layer::DirPlace| -> Result<OwnedFd> {
            let fd = open_root(&place.layer.path)?;
            let same = id(&stat_fd(fd.as_fd())?) == id(&stat_fd(place.fd()?.as_fd())?);
            if same { Ok(fd) } else { Err(Errno::ESTALE) }
        };
        Ok(Self { lower: again(&lower.place)?, upper: again(&upper.place)?, work: open_root(work)? })
    }

    /// The directories in which the upper layer and the work directory lie, up to the root of their mount, and they
    /// themselves.
    pub(super) fn own(&self) -> Result<Vec<Id>> {
        let mut own = Vec::new();
        for dir in [&self.upper, &self.work] {
            own.push(id(&stat_fd(dir.as_fd())?));
            let mut at = parent_of(dir.as_fd());
            while let Ok(Some((parent, _))) = at {
                own.push(id(&stat_fd(parent.as_fd())?));
                at = parent_of(parent.as_fd());
            }
        }
        Ok(own)
    }
}

/// The directory that holds an object, and the object's name there; `None` for the root.
pub(super) fn split(path: &[u8]) -> Result<Option<(&[u8], Name)>> {
    if path.is_empty() {
        return Ok(None);
    }
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (dir, name) = match at.and_then(|at| path.split_at_checked(at)) {
        Some((dir, name)) => (dir, name.strip_prefix(b"/").unwrap_or(name)),
        None => (&b""[..], path),
    };
    Name::new(name).map(|name| Some((dir, name)))
}

/// How deep an object lies.
pub(super) fn depth(path: &[u8]) -> usize {
    if path.is_empty() { 0 } else { 1 + path.iter().filter(|byte| **byte == b'/').count() }
}

/// Whether a path is that of `dir` or of something below it.
pub(super) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// The path and those of all directories that it lies in, from the root down.
pub(super) fn ways(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let parts = ends.chain((!path.is_empty()).then_some(path.len()));
    std::iter::once(&b""[..]).chain(parts.filter_map(|end| path.get(..end)))
}

/// An `O_PATH` descriptor of a directory.
///
/// # Errors
/// Those of openat2(2).
pub(super) fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut fd = open_beneath(root, c".", flags)?;
    let mut step: Vec<u8> = Vec::new();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let name = Name::new(name)?;
        if step.len() + name.as_bytes().len() + 1 > STEP {
            fd = open_beneath(fd.as_fd(), &c_path(&mut step)?, flags)?;
        }
        if !step.is_empty() {
            step.push(b'/');
        }
        step.extend_from_slice(name.as_bytes());
    }
    if step.is_empty() { Ok(fd) } else { open_beneath(fd.as_fd(), &c_path(&mut step)?, flags) }
}

fn c_path(step: &mut Vec<u8>) -> Result<CString> {
    CString::new(std::mem::take(step)).map_err(|_| Errno::EINVAL)
}

/// What stands under a name; `None`: nothing.
///
/// # Errors
/// `EXDEV` where something is mounted; those of openat2(2).
pub(super) fn stat_in(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Option<Stat>> {
    match stat_beneath(dir, name) {
        Err(Errno::ENOENT) => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_directory_a_depth_and_ways() {
        assert_eq!(split(b"").unwrap(), None);
        assert_eq!(split(b"a").unwrap(), Some((&b""[..], Name::new(b"a").unwrap())));
        assert_eq!(split(b"a/b/c").unwrap(), Some((&b"a/b"[..], Name::new(b"c").unwrap())));
        assert!(split(b"a/..").is_err());
        assert_eq!([&b""[..], b"a", b"a/b"].map(depth), [0, 1, 2]);
        assert_eq!(ways(b"a/bc/d").collect::<Vec<_>>(), [&b""[..], b"a", b"a/bc", b"a/bc/d"]);
        assert_eq!(ways(b"").collect::<Vec<_>>(), [&b""[..]]);
        for (path, dir, is) in
            [(&b"a/b"[..], &b"a"[..], true), (b"ab", b"a", false), (b"a", b"a", true), (b"a", b"", true)]
        {
            assert_eq!(is_within(path, dir), is);
        }
    }

    #[test]
    fn no_way_leads_through_a_symlink() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(here.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", here.path().join("l")).unwrap();
        let root = open_root(here.path()).unwrap();
        assert!(open_dir(root.as_fd(), b"a/b").is_ok() && open_dir(root.as_fd(), b"").is_ok());
        assert_eq!(open_dir(root.as_fd(), b"l/b").err(), Some(Errno::ELOOP));
        assert_eq!(open_dir(root.as_fd(), b"a/../a").err(), Some(Errno::EINVAL));
    }
}
