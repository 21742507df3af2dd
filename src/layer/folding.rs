//! Case-insensitive directories, which find a name in other spellings than the one that they list: nothing can be
//! merged with them by name.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::Relaxed;

use super::Layer;
use crate::base::{Errno, Result};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::stat_at;
use crate::sys::{dirent, flags};

/// Whether directories of a layer may be case-insensitive, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// No directory is case-insensitive unless all are.
    Never,
    /// Some directories may be: they are refused where they are met.
    Refused,
    /// Some directories may be, and are shown: the layer is the only one, and read-only.
    Alone,
}

/// File systems that are case-insensitive however they are mounted: FAT, exFAT, HFS, HPFS.
const ALWAYS: [u64; 4] = [0x4d44, 0x2011_bab0, 0x4244, 0xf995_e849];

/// File systems that can make single directories case-insensitive (`chattr +F`): ext4, f2fs, tmpfs, bcachefs, and
/// OverlayFS over them.
const BY_DIRECTORY: [u64; 5] = [0xef53, 0xf2f5_2010, 0x0102_1994, 0xca45_1a4e, 0x794c_7630];

impl Folding {
    /// For a layer on a file system with this magic number; `alone`: the layer is the only one, and not written.
    pub fn of(magic: u64, alone: bool) -> Self {
        match BY_DIRECTORY.contains(&magic) && flags::kernel_folds() {
            false => Self::Never,
            true if alone => Self::Alone,
            true => Self::Refused,
        }
    }
}

/// Whether a layer's root, open for reading, is case-insensitive. `exact`: only directories with the flag can be on its
/// file system.
///
/// # Errors
/// What reading it says.
pub fn is_folding_root(root: BorrowedFd<'_>, magic: u64, exact: bool) -> Result<bool> {
    Ok(flags::is_casefolded(root) || ALWAYS.contains(&magic) || (!exact && finds_respelled(root)?))
}

/// Whether the first name that has another spelling is found in that spelling, too. NTFS, CIFS, XFS and FUSE tell in no
/// other way how they are mounted.
fn finds_respelled(dir: BorrowedFd<'_>) -> Result<bool> {
    let mut other = None;
    dirent::read_dir(dir, &mut |entry| {
        other = respelled(entry.name);
        other.is_none()
    })?;
    let Some(other) = other.filter(|other| stat_at(dir, other).is_ok()) else { return Ok(false) };
    let mut listed = false;
    dirent::read_dir(dir, &mut |entry| {
        listed = entry.name == other.as_c_str();
        !listed
    })?;
    Ok(!listed)
}

/// The name with its ASCII letters in the other case; `None`: it has no such letters.
fn respelled(name: &CStr) -> Option<CString> {
    let swap =
        |byte: &u8| if byte.is_ascii_lowercase() { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() };
    let other: Vec<u8> = name.to_bytes().iter().map(swap).collect();
    if other == name.to_bytes() { None } else { CString::new(other).ok() }
}

impl Layer {
    /// Refuses the directory `name` in `at` if it is case-insensitive and the layer's root is not.
    ///
    /// # Errors
    /// `EREMOTE`, as the kernel's OverlayFS; what opening it says, but for a directory that may not be read.
    pub fn check_folding(&self, at: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let is_refused = match self.folding {
            Folding::Never => false,
            Folding::Refused => true,
            Folding::Alone => self.joined.load(Relaxed),
        };
        if !is_refused {
            return Ok(());
        }
        match open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(dir) if flags::is_casefolded(dir.as_fd()) => {
                log::warn!("{name:?} in {} is case-insensitive (chattr +F), and layers are not", self.path.display());
                Err(Errno::EREMOTE)
            }
            Ok(_) | Err(Errno::EACCES) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::path::{open_root, reopen};

    #[test]
    fn letters_change_their_case() {
        for (name, expected) in [(c"Foo.txt", Some(c"fOO.TXT")), (c"1_2", None), (c"\xc3\xa9", None)] {
            assert_eq!(respelled(name).as_deref(), expected, "{name:?}");
        }
    }

    #[test]
    fn a_directory_with_names_that_differ_by_case_only_is_exact() {
        let here = tempfile::tempdir().unwrap();
        let dir = reopen(open_root(here.path()).unwrap().as_fd(), OFlags::RDONLY).unwrap();
        let folds = |magic, exact| is_folding_root(dir.as_fd(), magic, exact).unwrap();
        assert!(!folds(0, false), "an empty one");
        std::fs::write(here.path().join("Foo"), "").unwrap();
        assert!(!folds(0, false) && !folds(0xef53, true));
        std::fs::write(here.path().join("fOO"), "").unwrap();
        assert!(!folds(0, false));
        for magic in ALWAYS {
            assert!(folds(magic, true), "{magic:x}");
        }
    }
}
