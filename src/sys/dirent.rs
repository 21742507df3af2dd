//! Reading a directory.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{RawDir, SeekFrom};
use rustix::io::Errno as Raw;

use super::seam::{self, Call};
use super::stat::Kind;
use crate::base::{Name, Result};

/// Bytes asked for at once: about 1,000 entries, on the stack.
const BUFFER: usize = 48 * 1024;

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Dirent<'a> {
    /// Neither `.` nor `..`.
    pub name: &'a CStr,
    /// `None` where the file system does not say.
    pub kind: Option<Kind>,
    /// The number in the directory: on a mount point that of what is below it.
    pub ino: u64,
}

/// Hands the entries of `dir` to `sink` from the beginning, until it returns false
/// ([getdents64(2)](https://man7.org/linux/man-pages/man2/getdents.2.html)).
///
/// `dir` must be open for reading (`O_RDONLY`), and its offset must not be in use elsewhere. What is created or removed
/// meanwhile may be missing or not. A directory that was removed has no entries.
///
/// # Errors
/// `EBADF` for an `O_PATH` descriptor, `ENOTDIR`, and those of getdents64(2).
pub fn read_dir(dir: BorrowedFd<'_>, sink: &mut dyn FnMut(Dirent<'_>) -> bool) -> Result<()> {
    seam::enter(Call::ReadDir)?;
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut buffer = [const { MaybeUninit::<u8>::uninit() }; BUFFER];
    let mut entries = RawDir::new(dir, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Raw::INTR) => continue,
            Err(Raw::NOENT) => break,
            Err(errno) => return Err(errno.into()),
        };
        let name = entry.file_name();
        let entry = Dirent { name, kind: Kind::from_file_type(entry.file_type()), ino: entry.ino() };
        if !matches!(name.to_bytes(), b"." | b"..") && !sink(entry) {
            break;
        }
    }
    Ok(())
}

/// The names in `dir`, in the order of its file system.
///
/// # Errors
/// As [`read_dir`].
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    read_dir(dir, &mut |entry| {
        names.extend(Name::new(entry.name.to_bytes()).ok());
        true
    })?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::base::Errno;
    use crate::sys::{OFlags, open_root, reopen, stat_at};

    type Listed = BTreeMap<Vec<u8>, (Option<Kind>, u64)>;

    fn list(dir: BorrowedFd<'_>) -> Result<Listed> {
        let mut found = BTreeMap::new();
        read_dir(dir, &mut |entry| {
            let before = found.insert(entry.name.to_bytes().to_vec(), (entry.kind, entry.ino));
            assert!(before.is_none(), "{entry:?}");
            true
        })?;
        Ok(found)
    }

    #[test]
    fn each_entry_comes_once_and_a_second_time_from_the_beginning() {
        let here = tempfile::tempdir().unwrap();
        // More than one buffer.
        for number in 0..700 {
            std::fs::write(here.path().join(format!("{number:0>200}")), "").unwrap();
        }
        std::fs::create_dir(here.path().join("d")).unwrap();
        symlink("x", here.path().join("l")).unwrap();
        let path_only = open_root(here.path()).unwrap();
        let dir = reopen(path_only.as_fd(), OFlags::RDONLY).unwrap();
        let found = list(dir.as_fd()).unwrap();
        assert_eq!(found.len(), 702);
        for (name, kind) in [(c"d", Kind::Dir), (c"l", Kind::Symlink)] {
            let (told, ino) = found[name.to_bytes()];
            assert!(told.is_none_or(|told| told == kind));
            assert_eq!(ino, stat_at(dir.as_fd(), name).unwrap().ino);
        }
        assert_eq!(list(dir.as_fd()), Ok(found));
        assert_eq!(list(path_only.as_fd()), Err(Errno::EBADF));
    }

    #[test]
    fn a_removed_directory_is_empty() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("d");
        std::fs::create_dir(&path).unwrap();
        let dir = reopen(open_root(&path).unwrap().as_fd(), OFlags::RDONLY).unwrap();
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(list(dir.as_fd()), Ok(BTreeMap::new()));
    }
}
