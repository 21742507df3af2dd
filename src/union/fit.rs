//! Layers of which no right view can be made are refused.

use super::ground::Ground;
use super::overlap;
use super::refusal::{Setup, SetupError};
use super::roots::{Root, UpperRoots};
use crate::base::config::XattrPermissions;
use crate::sys::process;

/// Refuses layers of which no right view can be made.
pub(super) fn check(
    (lowers, data_only): (&[Root], &[Root]),
    upper: Option<&UpperRoots>,
    wish: Option<XattrPermissions>,
    ground: &Ground,
) -> Setup<()> {
    let lower = lowers.iter().chain(data_only).map(|root| ("lowerdir", root));
    let alone = upper.is_none() && lowers.len() + data_only.len() == 1;
    for (option, root) in lower.chain(upper.map(|upper| ("upperdir", &upper.upper))) {
        if root.folds && !alone {
            return Err(folded(format!("{option}={}", root.path.display())));
        }
    }
    upper.map_or(Ok(()), |upper| check_owners(&upper.upper, wish))?;
    overlap::check_nesting(lowers.iter().chain(data_only), ground)
}

/// The refusal of a case-insensitive layer: one name there may be several names to the other layers and to the caches.
pub(super) fn folded(what: String) -> SetupError {
    let reason = "it is case-insensitive (FAT, exFAT, NTFS, chattr +F): its names cannot be merged with others";
    SetupError::new(what, reason, "copy it to a case-sensitive directory; alone and without upperdir it can be mounted")
}

/// Refuses marks that this process cannot write, and an upper layer whose root says that its owners stand in another
/// attribute than `wish`.
fn check_owners(upper: &Root, wish: Option<XattrPermissions>) -> Setup<()> {
    if wish == Some(XattrPermissions::Security) && !(process::is_admin() && process::ids_are_initial()) {
        let reason = "only root, outside of user namespaces, can write security.* attributes";
        return Err(SetupError::new("xattr_permissions=1", reason, "use xattr_permissions=2"));
    }
    let (Some(wish), Some(owners)) = (wish, upper.owners) else { return Ok(()) };
    if owners.goes_with(wish) {
        return Ok(());
    }
    let key = owners.key().to_string_lossy();
    let reason = format!("the owners of upperdir={} stand in {key}", upper.path.display());
    let option = format!("xattr_permissions={}", wish.value());
    Err(SetupError::new(option, reason, "leave it out: they are read and written there without it"))
}
