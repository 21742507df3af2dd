//! `plyfs umount MOUNTPOINT`: by whoever may, and back when the daemon has let go of the layers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Pid;

use super::report::Failure;
use super::show;
use crate::base::Errno;
use crate::fuse::serve::session;
use crate::sys::process::Watched;
use crate::sys::{mounts, others};

/// How long a daemon may take to end: it may have much to sync.
const PATIENCE: Duration = Duration::from_secs(60);

/// Unmounts the view at `at`, and waits for the end of its daemon. If `lazy`, the view leaves the tree at once, its users go
/// on, and nothing is waited for.
///
/// # Errors
/// No view of plyfs stands there; it is in use; this user may not unmount it; the daemon does not end.
pub fn umount(at: &Path, lazy: bool) -> Result<(), Failure> {
    let what = at.display().to_string();
    let refused = |reason: String, hint: &str| Err(Failure::refused(&what, reason, hint));
    let place = place(at).map_err(|errno| Failure::refused(&what, errno.to_string(), ""))?;
    let table = mounts::table().map_err(|errno| Failure::refused("/proc/self/mountinfo", errno.to_string(), ""))?;
    let Some(mount) = table.into_iter().rfind(|mount| mount.at == place) else {
        return refused("nothing is mounted there".to_owned(), "findmnt -t fuse.plyfs lists what is mounted");
    };
    let is_ours = mount.kind == "fuse.plyfs";
    // A lazy unmount is for a daemon that does not answer.
    let asked = if lazy && is_ours { Ok(None) } else { show::pid_at(&place) };
    if asked.is_err() && !is_ours {
        return refused(format!("a mount of the type {}, not a view of plyfs", mount.kind), "umount(8) unmounts it");
    }
    let daemon = asked.ok().flatten().filter(|pid| may_serve(*pid, mount.device)).and_then(watched);
    if let Err(said) = session::unmount(&place, lazy) {
        let hint = "-l takes it out of the tree at once, and lets who is in it finish; fuser -vm lists who that is";
        return refused(format!("not unmounted: {said}"), if lazy { "" } else { hint });
    }
    let Some(daemon) = daemon.filter(|_| !lazy) else { return Ok(()) };
    match daemon.has_ended_within(PATIENCE) {
        Ok(false) => {
            let reason = format!("unmounted here, but process {} still serves it", daemon.pid().as_raw_nonzero());
            refused(reason, "another mount namespace may have it, too")
        }
        _ => Ok(()),
    }
}

/// Where the mountpoint stands in the mount table. That of a dead daemon may not be looked at.
fn place(at: &Path) -> Result<PathBuf, Errno> {
    let dead = |errno: &Errno| [libc::ENOTCONN, libc::ECONNABORTED, libc::EACCES, libc::EIO].contains(&errno.raw());
    match std::fs::canonicalize(at).map_err(Errno::from) {
        Err(errno) if dead(&errno) => {
            let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(errno) };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(std::fs::canonicalize(parent)?.join(name))
        }
        place => place,
    }
}

/// Whether a process here may be the one that serves this file system: the daemon's number may be that of another PID
/// namespace.
fn may_serve(pid: u32, device: u64) -> bool {
    let served = others::serves(pid);
    served.is_empty() || served.contains(&device)
}

/// The daemon, if the process number that it gives is valid in this PID namespace.
fn watched(pid: u32) -> Option<Watched> {
    let name = others::name(pid)?;
    // mount(8) may have run it by another name.
    let ours = ["plyfs", "mount."].iter().any(|known| name.starts_with(known));
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    if ours { Watched::other(pid).ok() } else { None }
}
