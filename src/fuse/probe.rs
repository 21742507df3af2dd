//! Makes the kernel see before anybody else comes that opens are not asked for.
//!
//! Until the first OPEN is answered `ENOSYS` the kernel sends a RELEASE for each file that CREATE opened. So the daemon
//! opens a file through its own mount once, one that nobody else can name and that is not there any more afterwards.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use fuser::{FileAttr, INodeNo};

use super::convert::bare;
use crate::sys::random;
use crate::union::{InodeId, Kind};

/// How long the attributes are good for: longer than the open takes.
pub(super) const VALID: Duration = Duration::from_secs(10);
/// A number that the union gives to nothing.
const NUMBER: InodeId = InodeId(u64::MAX);

/// The file's name; none where opens are seen.
#[derive(Debug, Default)]
pub(super) struct Probe(Option<std::ffi::CString>);

impl Probe {
    /// A name that cannot be guessed.
    pub fn new() -> Self {
        Self(random::temp_name(".plyfs-open-").ok())
    }

    /// What a lookup of the name in the root answers.
    pub fn look_up(&self, parent: INodeNo, name: &OsStr) -> Option<FileAttr> {
        let here = parent.0 == InodeId::ROOT.0 && self.0.as_ref()?.to_bytes() == name.as_bytes();
        let uid = rustix::process::geteuid().as_raw();
        here.then(|| FileAttr { perm: 0o400, uid, ..bare(NUMBER, Kind::File) })
    }

    /// Opens the file below the mountpoint, once requests are served. Where that fails there are more requests.
    pub fn open(&self, mountpoint: &Path) {
        let Some(name) = &self.0 else { return };
        if let Err(error) = std::fs::File::open(mountpoint.join(OsStr::from_bytes(name.to_bytes()))) {
            log::debug!("the first open: {error}");
        }
    }
}
