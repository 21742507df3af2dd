//! Layers of which no right view can be made are refused.

use super::ground::Ground;
use super::overlap;
use super::refusal::{Setup, SetupError};
use super::roots::{Root, UpperRoots};

/// Refuses layers of which no right view can be made.
pub(super) fn check(lowers: &[Root], data_only: &[Root], upper: Option<&UpperRoots>, ground: &Ground) -> Setup<()> {
    let lower = lowers.iter().chain(data_only).map(|root| ("lowerdir", root));
    let alone = upper.is_none() && lowers.len() + data_only.len() == 1;
    for (option, root) in lower.chain(upper.map(|upper| ("upperdir", &upper.upper))) {
        if root.folds && !alone {
            return Err(folded(format!("{option}={}", root.path.display())));
        }
    }
    upper.map_or(Ok(()), |upper| check_owners(&upper.upper))?;
    overlap::check_nesting(lowers.iter().chain(data_only), ground)
}

/// The refusal of a case-insensitive layer: one name there may be several names to the other layers and to the caches.
pub(super) fn folded(what: String) -> SetupError {
    let reason = "it is case-insensitive (FAT, exFAT, NTFS, chattr +F): its names cannot be merged with others";
    SetupError::new(what, reason, "copy it to a case-sensitive directory; alone and without upperdir it can be mounted")
}

/// Refuses an upper layer whose owners and modes stand in extended attributes, which are not written here.
fn check_owners(upper: &Root) -> Setup<()> {
    let Some(owners) = upper.owners else { return Ok(()) };
    let reason = format!("its owners and modes stand in {}, which is not written yet", owners.key().to_string_lossy());
    let what = format!("upperdir={}", upper.path.display());
    Err(SetupError::new(what, reason, "mount it with fuse-overlayfs, or as a lower layer"))
}
