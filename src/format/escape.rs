//! Names of extended attributes: the name that a user of the union sees, and the name that is stored in a layer.
//!
//! The marks are private: no user can see or set them. A user's attribute with the name of a mark is stored one level
//! deeper, so that a layer can be in a union itself
//! ([nesting](https://docs.kernel.org/filesystems/overlayfs.html#nesting-overlayfs-mounts)):
//!
//! | said by a user | stored |
//! |---|---|
//! | `trusted.overlay.X`, where that is the union's own namespace | `trusted.overlay.overlay.X` |
//! | `user.overlay.X`, the same | `user.overlay.overlay.X` |
//! | `user.fuseoverlayfs.X` | `user.overlay.fuseoverlayfs.X` |
//! | `user.containers.override_X` | `user.overlay.containers.override_X` |
//! | any other | the same |
//!
//! A layer with owners in attributes ([`super::override_stat`]) keeps more from users, and more of theirs: [`Naming`].
//!
//! In the other namespace only the marks are stored so, since they are read there, too. Its other names are the users',
//! as with the kernel's OverlayFS.

use std::ffi::CString;

use super::OverrideKey;
use super::mark::{Mark, Namespace};
use crate::base::{Errno, Result};

/// The longest name of an extended attribute in bytes (`XATTR_NAME_MAX`).
const MAX: usize = 255;

const ESCAPE: &[u8] = b"overlay.";
/// The prefixes that fuse-overlayfs and containers/storage use for themselves, each with the prefix under which a
/// user's attribute of such a name is stored: these programs read `user.containers.override_stat` as the owner and mode
/// of an object.
const FOREIGN: [(&[u8], &[u8]); 2] = [
    (b"user.fuseoverlayfs.", b"user.overlay.fuseoverlayfs."),
    (b"user.containers.override_", b"user.overlay.containers.override_"),
];

/// Where a layer of which [`OverrideKey::Containers`] says the owners keeps the attributes `security.*` of its objects:
/// `security.capability` is `user.containers.override_security.capability` there, as with fuse-overlayfs since 1.14.
const OVERRIDDEN: &[u8] = b"user.containers.override_";
const SECURITY: &[u8] = b"security.";
const ACL: &[u8] = b"system.posix_acl_";

/// How one layer names the attributes of its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    /// The namespace of its marks.
    pub own: Namespace,
    /// Where owner and mode of its objects stand; `None`: in the objects themselves.
    pub owners: Option<OverrideKey>,
}

impl Naming {
    /// The name under which the layer stores what a user calls `name`.
    ///
    /// # Errors
    /// As [`to_disk`]; `EOPNOTSUPP` also for an ACL where owners stand in attributes: an ACL holds a mode, too, which
    /// counts for the object on disk.
    pub fn to_disk(self, name: &[u8]) -> Result<CString> {
        match self.owners {
            Some(_) if name.starts_with(ACL) => Err(Errno::EOPNOTSUPP),
            Some(OverrideKey::Containers) if name.starts_with(SECURITY) => {
                let stored = [OVERRIDDEN, name].concat();
                if stored.len() > MAX {
                    return Err(Errno::EOPNOTSUPP);
                }
                CString::new(stored).map_err(|_| Errno::EINVAL)
            }
            Some(_) if name == OverrideKey::Security.key().to_bytes() => Err(Errno::EOPNOTSUPP),
            _ => to_disk(name, self.own),
        }
    }

    /// What users call an attribute that the layer stores under `name`; `None` if it is private.
    pub fn from_disk(self, name: &[u8]) -> Option<Vec<u8>> {
        match self.owners {
            None => from_disk(name, self.own),
            Some(_) if name.starts_with(ACL) => None,
            Some(OverrideKey::Containers) => match name.strip_prefix(OVERRIDDEN) {
                Some(said) => said.starts_with(SECURITY).then(|| said.to_vec()),
                None if name.starts_with(SECURITY) => None,
                None => from_disk(name, self.own),
            },
            Some(_) if name == OverrideKey::Security.key().to_bytes() => None,
            Some(_) => from_disk(name, self.own),
        }
    }
}

/// The name under which a layer whose marks are in `own` stores what a user calls `name`.
///
/// # Errors
/// `EOPNOTSUPP` if it would be longer than 255 bytes; `EINVAL` if it holds a NUL.
pub fn to_disk(name: &[u8], own: Namespace) -> Result<CString> {
    let foreign = FOREIGN.iter().find_map(|(said, stored)| Some((stored, name.strip_prefix(*said)?)));
    let stored = match (foreign, split(name)) {
        (Some((stored, rest)), _) => [*stored, rest].concat(),
        (None, Some((namespace, rest))) if is_reserved(rest, namespace == own) => {
            [namespace.prefix(), ESCAPE, rest].concat()
        }
        _ => name.to_vec(),
    };
    if stored.len() > MAX {
        return Err(Errno::EOPNOTSUPP);
    }
    CString::new(stored).map_err(|_| Errno::EINVAL)
}

/// What users call an attribute that a layer whose marks are in `own` stores under `name`; `None` if it is private.
pub fn from_disk(name: &[u8], own: Namespace) -> Option<Vec<u8>> {
    for (said, stored) in FOREIGN {
        if let Some(rest) = name.strip_prefix(stored) {
            return Some([said, rest].concat());
        }
        if name.starts_with(said) {
            return None;
        }
    }
    match split(name) {
        Some((namespace, rest)) if is_reserved(rest, namespace == own) => {
            let shown = rest.strip_prefix(ESCAPE)?;
            Some([namespace.prefix(), shown].concat())
        }
        _ => Some(name.to_vec()),
    }
}

/// The namespace of a mark's key and what follows.
fn split(name: &[u8]) -> Option<(Namespace, &[u8])> {
    let of = |namespace: Namespace| Some((namespace, name.strip_prefix(namespace.prefix())?));
    of(Namespace::Trusted).or_else(|| of(Namespace::User))
}

/// Whether what follows the prefix is a mark, or one that a user's attribute hides behind.
fn is_reserved(rest: &[u8], own: bool) -> bool {
    let mut plain = rest;
    while let Some(deeper) = plain.strip_prefix(ESCAPE) {
        plain = deeper;
    }
    // How a user's `user.fuseoverlayfs.*` is stored is reserved, too.
    let foreign = plain.starts_with(b"fuseoverlayfs.") || plain.starts_with(b"containers.override_");
    own || foreign || Mark::ALL.iter().any(|mark| mark.name().as_bytes() == plain)
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
            ("user.containers.override_stat", "user.overlay.containers.override_stat"),
            ("user.overlay.containers.override_stat", "user.overlay.overlay.containers.override_stat"),
            ("user.containers.other", "user.containers.other"),
            ("trusted.fuseoverlayfs.x", "trusted.fuseoverlayfs.x"),
            ("trusted.overlay", "trusted.overlay"),
            ("user.overlayfs.x", "user.overlayfs.x"),
            ("", ""),
        ] {
            for own in own_namespaces(said) {
                assert_eq!(to_disk(said.as_bytes(), own).unwrap().to_bytes(), stored.as_bytes(), "{said}");
                assert_eq!(from_disk(stored.as_bytes(), own).as_deref(), Some(said.as_bytes()), "{stored}");
            }
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
            "user.containers.override_stat",
        ] {
            for own in own_namespaces(stored) {
                assert_eq!(from_disk(stored.as_bytes(), own), None, "{stored}");
            }
        }
    }

    #[test]
    fn a_name_that_gets_too_long_is_not_supported() {
        let fits = [&b"trusted.overlay."[..], &[b'x'; 231]].concat();
        assert_eq!(to_disk(&fits, Namespace::Trusted).unwrap().to_bytes().len(), 255);
        let too_long = [&b"trusted.overlay."[..], &[b'x'; 232]].concat();
        assert_eq!(to_disk(&too_long, Namespace::Trusted), Err(Errno::EOPNOTSUPP));
        assert_eq!(to_disk(b"user.a\0b", Namespace::User), Err(Errno::EINVAL));
    }

    /// Those in which a name means the same: its own, and for a mark and what is in neither the other one.
    fn own_namespaces(name: &str) -> Vec<Namespace> {
        match split(name.as_bytes()) {
            Some((own, rest)) if !is_reserved(rest, false) => vec![own],
            _ => vec![Namespace::Trusted, Namespace::User],
        }
    }

    #[test]
    fn only_marks_are_kept_from_users_in_the_other_namespace() {
        for (name, stored) in [
            ("user.overlay.x", "user.overlay.x"),
            ("user.overlay.overlay.x", "user.overlay.overlay.x"),
            ("user.overlay.opaque", "user.overlay.overlay.opaque"),
            ("user.overlay.overlay.opaque", "user.overlay.overlay.overlay.opaque"),
        ] {
            assert_eq!(to_disk(name.as_bytes(), Namespace::Trusted).unwrap().to_bytes(), stored.as_bytes());
            assert_eq!(from_disk(stored.as_bytes(), Namespace::Trusted), Some(name.as_bytes().to_vec()));
        }
        assert_eq!(from_disk(b"user.overlay.opaque", Namespace::Trusted), None);
    }

    #[test]
    fn a_layer_with_owners_in_attributes_keeps_more_of_them() {
        use OverrideKey::{Containers, Security, User};
        for (owners, said, stored) in [
            (Containers, "security.capability", "user.containers.override_security.capability"),
            (
                Containers,
                "security.fuseoverlayfs.override_stat",
                "user.containers.override_security.fuseoverlayfs.override_stat",
            ),
            (Containers, "user.containers.override_stat", "user.overlay.containers.override_stat"),
            (Containers, "user.a", "user.a"),
            (Containers, "trusted.a", "trusted.a"),
            (User, "security.capability", "security.capability"),
            (Security, "security.capability", "security.capability"),
            (Security, "user.fuseoverlayfs.override_stat", "user.overlay.fuseoverlayfs.override_stat"),
        ] {
            let naming = Naming { own: Namespace::User, owners: Some(owners) };
            assert_eq!(naming.to_disk(said.as_bytes()).unwrap().to_bytes(), stored.as_bytes(), "{said}");
            assert_eq!(naming.from_disk(stored.as_bytes()).as_deref(), Some(said.as_bytes()), "{stored}");
        }
        for (owners, stored) in [
            (Containers, "security.capability"),
            (Containers, "user.containers.override_stat"),
            (Containers, "user.containers.override_user.a"),
            (Containers, "system.posix_acl_access"),
            (Security, "security.fuseoverlayfs.override_stat"),
            (User, "user.fuseoverlayfs.override_stat"),
            (User, "system.posix_acl_default"),
        ] {
            let naming = Naming { own: Namespace::User, owners: Some(owners) };
            assert_eq!(naming.from_disk(stored.as_bytes()), None, "{owners:?} {stored}");
        }
        let naming = |owners| Naming { own: Namespace::User, owners };
        assert_eq!(naming(Some(Containers)).to_disk(&[SECURITY, &[b'x'; 246]].concat()), Err(Errno::EOPNOTSUPP));
        assert_eq!(naming(Some(User)).to_disk(b"system.posix_acl_access"), Err(Errno::EOPNOTSUPP));
        assert_eq!(naming(Some(Security)).to_disk(Security.key().to_bytes()), Err(Errno::EOPNOTSUPP));
        assert_eq!(naming(None).to_disk(b"system.posix_acl_access"), Ok(c"system.posix_acl_access".to_owned()));
    }

    fn namespaces() -> impl Strategy<Value = Namespace> {
        prop::sample::select(vec![Namespace::Trusted, Namespace::User])
    }

    fn names() -> impl Strategy<Value = Vec<u8>> {
        let parts = [
            "trusted.",
            "user.",
            "overlay.",
            "fuseoverlayfs.",
            "containers.override_",
            "plyfs.",
            "opaque",
            "x",
            "\u{ff}",
        ];
        let part = prop::sample::select(parts.map(str::as_bytes).to_vec());
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn a_user_finds_again_what_was_stored(name in names(), own in namespaces()) {
            let stored = to_disk(&name, own).unwrap();
            prop_assert_eq!(from_disk(stored.to_bytes(), own), Some(name));
        }

        #[test]
        fn what_is_shown_is_stored_where_it_was_found(stored in names(), own in namespaces()) {
            if let Some(shown) = from_disk(&stored, own) {
                let again = to_disk(&shown, own).unwrap();
                prop_assert_eq!(again.to_bytes(), &stored[..]);
            }
        }
    }
}
