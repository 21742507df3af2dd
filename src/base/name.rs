//! A file name: bytes, not text.

use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::{Errno, Result};

/// One component of a path: 1 to 255 bytes without `/` or NUL, and neither `.` nor `..`.
///
/// It keeps its terminating NUL, so that a system call needs no copy, and is cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<CStr>);

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
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        let name = CString::new(bytes).map_err(|_| Errno::EINVAL)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name as a system call takes it.
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// The name without its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    /// The name as the standard library's paths take it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.as_bytes())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
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
            assert_eq!(Name::new(bytes).err(), expected, "{bytes:?}");
        }
    }
}
