//! Makes the kernel see early that opens are not asked for.
//!
//! Until the first OPEN is answered `ENOSYS` the kernel sends a RELEASE for each file that CREATE opened. So the daemon
//! opens a file through its own mount once, one that nobody else can name and that is not there any more afterwards.
//!
//! It does so while the first GETATTR of anything but the root waits for its answer: who asks has the mount in use anyway,
//! so that no umount fails of it, and does not hold the lock of the root in which the file is looked up.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::{FileAttr, INodeNo};

use super::convert::bare;
use crate::sys::random;
use crate::union::{InodeId, Kind};

/// How long the attributes are good for: longer than the open takes.
pub(super) const VALID: Duration = Duration::from_secs(10);
/// A number that the union gives to nothing.
const NUMBER: InodeId = InodeId(u64::MAX);

/// The file to open, where opens are not seen.
#[derive(Debug, Default)]
pub(super) struct Probe {
    file: OnceLock<File>,
    done: AtomicBool,
}

#[derive(Debug)]
struct File {
    mountpoint: PathBuf,
    /// It cannot be guessed.
    name: CString,
}

impl Probe {
    /// The view is mounted there, and there are threads enough to answer what the open asks.
    pub fn set(&self, mountpoint: &Path) {
        if let Ok(name) = random::temp_name(".plyfs-open-") {
            let _ = self.file.set(File { mountpoint: mountpoint.to_owned(), name });
        }
    }

    /// What a lookup of the name in the root answers.
    pub fn look_up(&self, parent: INodeNo, name: &OsStr) -> Option<FileAttr> {
        let file =
            self.file.get().filter(|file| parent.0 == InodeId::ROOT.0 && file.name.to_bytes() == name.as_bytes())?;
        let uid = rustix::process::geteuid().as_raw();
        log::debug!("{} is opened", file.mountpoint.display());
        Some(FileAttr { perm: 0o400, uid, ..bare(NUMBER, Kind::File) })
    }

    /// An OPEN was answered: nothing is left to do.
    pub fn seen(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    /// A GETATTR of this inode waits for its answer. Where the open fails there are more requests.
    pub fn open(&self, ino: INodeNo) {
        let Some(file) = self.file.get().filter(|_| ino.0 != InodeId::ROOT.0) else { return };
        if self.done.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Err(error) = std::fs::File::open(file.mountpoint.join(OsStr::from_bytes(file.name.to_bytes()))) {
            log::debug!("the first open: {error}");
        }
    }
}
