//! Names of extended attributes: as users of the union say them, and as they are stored in a layer.
//!
//! The marks are private: no user can see or set them. What a user calls like a mark is stored one level deeper, so that
//! a union can be a layer's user in turn
//! ([nesting](https://docs.kernel.org/filesystems/overlayfs.html#nesting-overlayfs-mounts)):
//!
//! | said by a user | stored |
//! |---|---|
//! | `trusted.overlay.X` | `trusted.overlay.overlay.X` |
//! | `user.overlay.X` | `user.overlay.overlay.X` |
//! | `user.fuseoverlayfs.X` | `user.overlay.fuseoverlayfs.X` |
//! | any other | the same |

use std::ffi::CString;

use crate::base::{Errno, Result};

/// The longest name of an extended attribute in bytes (`XATTR_NAME_MAX`).
const MAX: usize = 255;

/// What begins so when a user says it is stored with the other beginning, and the other way round.
const ESCAPED: [(&[u8], &[u8]); 3] = [
    (b"trusted.overlay.", b"trusted.overlay.overlay."),
    (b"user.overlay.", b"user.overlay.overlay."),
    (b"user.fuseoverlayfs.", b"user.overlay.fuseoverlayfs."),
];

/// The name under which a layer stores what a user calls `name`.
///
/// # Errors
/// `EOPNOTSUPP` if it would be longer than 255 bytes; `EINVAL` if it holds a NUL.
pub fn to_disk(name: &[u8]) -> Result<CString> {
    let stored = replace_prefix(name, |&(said, stored)| (said, stored)).unwrap_or_else(|| name.to_vec());
    if stored.len() > MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    CString::new(stored).map_err(|_| Errno::EINVAL)
}

/// What users call an attribute that a layer stores under `name`; `None` if it is private.
pub fn from_disk(name: &[u8]) -> Option<Vec<u8>> {
    if let Some(shown) = replace_prefix(name, |&(said, stored)| (stored, said)) {
        return Some(shown);
    }
    let private = ESCAPED.iter().any(|(said, _)| name.starts_with(said));
    (!private).then(|| name.to_vec())
}

type Beginning = (&'static [u8], &'static [u8]);

fn replace_prefix(name: &[u8], direction: impl Fn(&Beginning) -> Beginning) -> Option<Vec<u8>> {
    ESCAPED.iter().map(direction).find_map(|(from, to)| name.strip_prefix(from).map(|rest| [to, rest].concat()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_user_calls_like_a_mark_is_stored_one_level_deeper() {
        for (said, stored) in [
            ("user.a", "user.a"),
            ("security.capability", "security.capability"),
            ("system.posix_acl_access", "system.posix_acl_access"),
            ("trusted.overlay.opaque", "trusted.overlay.overlay.opaque"),
            ("trusted.overlay.", "trusted.overlay.overlay."),
            ("trusted.overlay.overlay.x", "trusted.overlay.overlay.overlay.x"),
            ("user.overlay.opaque", "user.overlay.overlay.opaque"),
            ("user.overlay.fuseoverlayfs.x", "user.overlay.overlay.fuseoverlayfs.x"),
            ("user.fuseoverlayfs.opaque", "user.overlay.fuseoverlayfs.opaque"),
            ("user.fuseoverlayfs.overlay.x", "user.overlay.fuseoverlayfs.overlay.x"),
            ("trusted.fuseoverlayfs.x", "trusted.fuseoverlayfs.x"),
            ("trusted.overlay", "trusted.overlay"),
            ("user.overlayfs.x", "user.overlayfs.x"),
            ("", ""),
        ] {
            assert_eq!(to_disk(said.as_bytes()).unwrap().to_bytes(), stored.as_bytes());
            assert_eq!(from_disk(stored.as_bytes()).as_deref(), Some(said.as_bytes()));
        }
    }

    #[test]
    fn marks_are_hidden() {
        for stored in [
            "trusted.overlay.opaque",
            "trusted.overlay.",
            "trusted.overlay.overlay",
            "trusted.overlay.plyfs.device",
            "trusted.overlay.fuseoverlayfs.x",
            "user.overlay.redirect",
            "user.overlay.plyfs.style",
            "user.overlay.fuseoverlayfs",
            "user.fuseoverlayfs.opaque",
            "user.fuseoverlayfs.overlay.x",
        ] {
            assert_eq!(from_disk(stored.as_bytes()), None, "{stored}");
        }
    }

    #[test]
    fn a_name_that_gets_too_long_is_not_supported() {
        let fits = [&b"trusted.overlay."[..], &[b'x'; 231]].concat();
        assert_eq!(to_disk(&fits).unwrap().to_bytes().len(), 255);
        let too_long = [&b"trusted.overlay."[..], &[b'x'; 232]].concat();
        assert_eq!(to_disk(&too_long), Err(Errno::EOPNOTSUPP));
        assert_eq!(to_disk(b"user.a\0b"), Err(Errno::EINVAL));
    }

    fn names() -> impl Strategy<Value = Vec<u8>> {
        let parts = ["trusted.", "user.", "overlay.", "fuseoverlayfs.", "plyfs.", "x", "\u{ff}"];
        let part = prop::sample::select(parts.map(str::as_bytes).to_vec());
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn a_user_finds_again_what_was_stored(name in names()) {
            let stored = to_disk(&name).unwrap();
            prop_assert_eq!(from_disk(stored.to_bytes()), Some(name));
        }

        #[test]
        fn what_is_shown_is_stored_where_it_was_found(stored in names()) {
            if let Some(shown) = from_disk(&stored) {
                let again = to_disk(&shown).unwrap();
                prop_assert_eq!(again.to_bytes(), &stored[..]);
            }
        }
    }
}
