//! Layers of which no right view can be made are refused.

use std::os::fd::AsFd;

use super::ground::Ground;
use super::overlap;
use super::refusal::{Setup, SetupError};
use super::roots::{Root, UpperRoots};
use crate::format::mark::OVERRIDE_STAT;
use crate::sys::xattr;

/// Refuses layers of which no right view can be made.
pub(super) fn check(lowers: &[Root], data_only: &[Root], upper: Option<&UpperRoots>, ground: &Ground) -> Setup<()> {
    let lower = lowers.iter().chain(data_only).map(|root| ("lowerdir", root));
    let alone = upper.is_none() && lowers.len() + data_only.len() == 1;
    for (option, root) in lower.chain(upper.map(|upper| ("upperdir", &upper.upper))) {
        check_owners(option, root)?;
        if root.folds && !alone {
            return Err(folded(format!("{option}={}", root.path.display())));
        }
    }
    overlap::check_nesting(lowers.iter().chain(data_only), ground)
}

/// The refusal of a case-insensitive layer: one name there may be several names to the other layers and to the caches.
pub(super) fn folded(what: String) -> SetupError {
    let reason = "it is case-insensitive (FAT, exFAT, NTFS, chattr +F): its names cannot be merged with others";
    SetupError::new(what, reason, "copy it to a case-sensitive directory; alone and without upperdir it can be mounted")
}

/// Refuses a layer whose owners and modes stand in extended attributes, which are not read here: its files could be
/// open to more users than they should be. As with fuse-overlayfs and containers/storage, an attribute on the root
/// speaks for the whole layer.
fn check_owners(option: &str, root: &Root) -> Setup<()> {
    let what = || format!("{option}={}", root.path.display());
    for key in OVERRIDE_STAT {
        let found = xattr::get_at(root.fd.as_fd(), c".", key);
        if found.map_err(|errno| SetupError::new(what(), errno.to_string(), "check the layer"))?.is_some() {
            let reason = format!("its owners and modes stand in {}, which is not read yet", key.to_string_lossy());
            return Err(SetupError::new(what(), reason, "mount it with fuse-overlayfs, or make it without force_mask"));
        }
    }
    Ok(())
}
