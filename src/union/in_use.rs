//! Finds who has an upper layer already: another plyfs, by its lock, with the place where its view is mounted.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::refusal::SetupError;
use super::roots::UpperRoots;
use crate::sys::mounts::{self, MountEntry};
use crate::sys::others;
use crate::sys::stat::stat_fd;

/// The most time for reading the mount tables of other namespaces. A table of a thousand mounts takes about 2 ms.
const LOOK: Duration = Duration::from_millis(200);

/// The mount table of one namespace.
pub(super) struct Tables {
    pub mounts: Vec<MountEntry>,
    /// A process in the namespace; `None` for this process's own namespace.
    pub of: Option<u32>,
}

/// The mount tables of all namespaces that may be read, this process's own first. Each is read when it is asked for.
pub(super) fn tables() -> impl Iterator<Item = Tables> {
    let own = mounts::table().ok().map(|mounts| Tables { mounts, of: None });
    let mut known: HashSet<u64> = others::own_mount_namespace().into_iter().collect();
    let until = Instant::now() + LOOK;
    let others = std::iter::once_with(|| others::all().unwrap_or_default()).flatten();
    let others = others.take_while(move |_| Instant::now() < until).filter_map(move |pid| {
        let new = others::mount_namespace(pid).is_some_and(|namespace| known.insert(namespace));
        new.then(|| mounts::table_of(pid).ok()).flatten().map(|mounts| Tables { mounts, of: Some(pid) })
    });
    own.into_iter().chain(others)
}

/// A process as a message names it.
pub(super) fn process(pid: u32) -> String {
    others::name(pid).map_or_else(|| format!("process {pid}"), |name| format!("process {pid} ({name})"))
}

/// The error that says who uses `roots`, and how to end that.
pub(super) fn refusal(roots: &UpperRoots) -> SetupError {
    let what = format!("upperdir={}", roots.upper.path.display());
    let numbers = [&roots.upper.fd, &roots.work].map(|fd| stat_fd(fd.as_fd()).map_or(0, |stat| stat.ino));
    let own = std::process::id();
    let Some(pid) = others::locks()
        .into_iter()
        .find_map(|lock| (numbers.contains(&lock.ino) && lock.pid != own).then_some(lock.pid))
    else {
        let reason = "the upper layer or its workdir is in use by another plyfs, which is not seen from here";
        return SetupError::new(what, reason, "look outside of this container, or use other directories");
    };
    let is_ours = others::name(pid).is_none_or(|name| name.contains("plyfs"));
    let by = if is_ours { "another plyfs, " } else { "" };
    let who = format!("the upper layer or its workdir is in use by {by}{}", process(pid));
    match place_of(pid) {
        Place::Unknown => SetupError::new(what, who, "unmount that one first, or use other directories"),
        Place::Here(at) => {
            let hint = format!("umount {}, or use other directories", at.display());
            SetupError::new(what, format!("{who}, whose view is at {}", at.display()), hint)
        }
        Place::There(at, keeper) => {
            let reason = format!(
                "{who}, whose view is not mounted here, but at {} in the mount namespace of {}",
                at.display(),
                process(keeper)
            );
            let hint = format!("nsenter -t {keeper} -m umount {}, or end that process", at.display());
            SetupError::new(what, reason, hint)
        }
        Place::Nowhere => {
            let reason = format!("{who}, whose view is mounted nowhere that is seen from here");
            let hint =
                format!("a process is still in it, or a mount namespace that is kept has it; kill {pid} ends it");
            SetupError::new(what, reason, hint)
        }
    }
}

/// Where a process's view is mounted: nobody knows, in this namespace, in that of another process, or nowhere.
enum Place {
    Unknown,
    Here(PathBuf),
    There(PathBuf, u32),
    Nowhere,
}

fn place_of(pid: u32) -> Place {
    let devices = others::serves(pid);
    if devices.is_empty() {
        return Place::Unknown;
    }
    for Tables { mounts, of } in tables() {
        if let Some(mount) = mounts.into_iter().rfind(|mount| devices.contains(&mount.device)) {
            return of.map_or(Place::Here(mount.at.clone()), |keeper| Place::There(mount.at.clone(), keeper));
        }
    }
    Place::Nowhere
}
