//! A file name: bytes, not text.

use std::cmp::Ordering;
use std::ffi::{CStr, OsStr};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;

use triomphe::ThinArc;

use super::{Errno, Result};

/// One component of a path: 1 to 255 bytes without `/` or NUL, and neither `.` nor `..`.
///
/// It keeps its terminating NUL, so that a system call needs no copy, and is cheap to clone: one word that leads to one
/// allocation, as each live inode has several.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(ThinArc<(), u8>);

impl Name {
    /// The longest name in bytes (`NAME_MAX`).
    pub const MAX: usize = 255;

    /// Checks and takes over `bytes`.
    ///
    /// # Errors
    /// `ENAMETOOLONG` beyond 255 bytes; `EINVAL` for an empty name, `.`, `..`, or one with `/` or NUL.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > Self::MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if !Self::is_one(bytes) {
            return Err(Errno::EINVAL);
        }
        let mut ended = [0; Self::MAX + 1];
        let (name, _) = ended.split_at_mut(bytes.len() + 1);
        name.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
        Ok(Self(ThinArc::from_header_and_slice((), name)))
    }

    /// Whether [`Name::new`] takes these bytes.
    pub fn is_one(bytes: &[u8]) -> bool {
        let dots = bytes.is_empty() || bytes == b"." || bytes == b"..";
        !dots && bytes.len() <= Self::MAX && !bytes.iter().any(|byte| matches!(byte, b'/' | 0))
    }

    /// The name as a system call takes it.
    pub fn as_c_str(&self) -> &CStr {
        // It never has another NUL.
        CStr::from_bytes_with_nul(&self.0.slice).unwrap_or_default()
    }

    /// The name without its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.slice.split_last().map_or(&[], |(_nul, name)| name)
    }

    /// The name as the standard library's paths take it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_c_str(), f)
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As the bytes do that it is borrowed as.
        self.as_bytes().hash(state);
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_proper_component_is_a_name() {
        for (bytes, expected) in [
            (&b"a"[..], None),
            (b"\xff\n", None),
            (&[b'x'; 255], None),
            (&[b'x'; 256], Some(Errno::ENAMETOOLONG)),
            (b"", Some(Errno::EINVAL)),
            (b".", Some(Errno::EINVAL)),
            (b"..", Some(Errno::EINVAL)),
            (b"a/b", Some(Errno::EINVAL)),
            (b"a\0b", Some(Errno::EINVAL)),
        ] {
            let name = Name::new(bytes);
            assert_eq!(Name::is_one(bytes), name.is_ok(), "{bytes:?}");
            assert_eq!(name.as_ref().err(), expected.as_ref(), "{bytes:?}");
            if let Ok(name) = name {
                assert_eq!((name.as_bytes(), name.as_c_str().to_bytes()), (bytes, bytes));
            }
        }
    }

    #[test]
    fn a_name_is_one_word() {
        assert_eq!(size_of::<Option<Name>>(), size_of::<usize>());
    }
}
