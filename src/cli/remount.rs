//! `-o remount`: the flags of a mounted view change; its layers and what it does with them do not, as with the kernel's
//! OverlayFS.

use std::os::fd::AsFd;

use super::commands;
use super::daemon;
use super::line::Mount;
use super::report::Failure;
use super::resolve::{self, Abilities};
use super::show;
use crate::base::Errno;
use crate::sys::mount;

/// Gives the view at the mountpoint the flags that the words say; others stay as they are.
///
/// # Errors
/// A word that is wrong; no view of plyfs stands there; this process may not; the view has no upper layer that can be
/// written, or shows set-user-id bits as a `nosuid` mount may.
pub fn remount(command: &Mount, abilities: Abilities) -> Result<(), Failure> {
    let what = command.merged.to_string_lossy().into_owned();
    let refused = |reason: &str, hint: &str| Failure::refused(&what, reason, hint);
    let at = commands::mountpoint(command.merged.as_ref())?;
    let failed = |errno: Errno| refused(&format!("remount: {errno}"), "");
    let (dir, told) = show::view_at(&at)?;
    let now = mount::flags_of(dir.as_fd()).map_err(failed)?;
    let wished = resolve::changed(&command.words, command.sloppy, now)?;
    if command.fake {
        return Ok(());
    }
    if !abilities.mounts_directly {
        return Err(refused("a normal user cannot remount", "unmount it, and mount it again"));
    }
    if now.ro && !wished.flags.ro && told.all("whiteouts").any(|form| form == b"none") {
        return Err(refused("remount,rw: there is no upper layer that can be written", "mount it again with one"));
    }
    if now.nosuid && !wished.flags.nosuid {
        let reason = "remount,suid: a view that was mounted nosuid shows bits that must not count";
        return Err(refused(reason, "unmount it, and mount it again"));
    }
    mount::remount(&at, now, wished.flags).map_err(failed)?;
    for how in wished.propagation {
        mount::propagate(&at, how).map_err(failed)?;
    }
    if !wished.left.is_empty() {
        daemon::say(&format!("note: remount leaves {} as it is", wished.left.join(",")));
    }
    Ok(())
}
