//! Opens that are seen (`io=passthrough`, `io=writeback`, `copyup=open`), and what the kernel may do without asking.
//!
//! Files are handed to the kernel (passthrough) where nothing but the file itself decides what is read and written: those
//! of the upper layer, and all of a view without one. A lower file of a writable view never: its copy-up must be seen.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fuser::{BackingId, FileHandle, FopenFlags, INodeNo};

use crate::base::sync::DashMap;
use crate::sys::caller;
use crate::sys::newer::{self, Newer};
use crate::union::{InodeId, Union};

/// How data goes between programs and layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataPath {
    /// The kernel tells of each open, and of its end.
    pub opens_seen: bool,
    /// Files are handed to the kernel where that is right.
    pub passthrough: bool,
    /// The kernel holds written data back.
    pub writeback: bool,
    /// An open for writing copies a file up; else its first write does.
    pub copy_up_at_open: bool,
}

/// The opens of one inode: the kernel allows one way for all that there are at a time.
#[derive(Debug, Default)]
struct Opens {
    cached: u32,
    through: u32,
    backing: Option<Arc<BackingId>>,
}

/// All opens that were seen and have not ended.
#[derive(Debug, Default)]
pub struct OpenFiles(DashMap<u64, Opens>);

const CACHED: FileHandle = FileHandle(1);
const THROUGH: FileHandle = FileHandle(2);

/// How an open is answered.
pub struct Opened {
    pub handle: FileHandle,
    pub flags: FopenFlags,
    /// The file that the kernel reads and writes by itself.
    pub backing: Option<Arc<BackingId>>,
}

impl OpenFiles {
    /// Enters an open. `register` hands a file to the kernel.
    pub fn open(
        &self,
        union: &Union,
        ino: INodeNo,
        passthrough: bool,
        register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>,
    ) -> Opened {
        let backing = if passthrough { union.backing(InodeId(ino.0)) } else { None };
        let mut opens = self.0.entry(ino.0).or_default();
        // As long as others go through, so must this one, whatever the file has become.
        if opens.cached == 0 && (opens.through > 0 || backing.is_some()) {
            if let (None, Some(fd)) = (&opens.backing, &backing) {
                // Such as an upper layer that is itself on a stacked file system.
                let registered = caller::without_fsetid(|| register(fd)).map_err(io::Error::from);
                let registered = registered
                    .and_then(|tried| tried)
                    .inspect_err(|error| log::debug!("{}: not handed on: {error}", ino.0));
                opens.backing = registered.ok().map(Arc::new);
            }
            if opens.backing.is_some() {
                opens.through += 1;
                let backing = opens.backing.clone();
                return Opened { handle: THROUGH, flags: no_flush(), backing };
            }
        }
        opens.cached += 1;
        let mut flags = no_flush();
        // What was written by the kernel itself meanwhile is not in its cache.
        if !passthrough || union.is_lower(InodeId(ino.0)) {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        if union.appends(InodeId(ino.0)) {
            flags = FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_DIRECT_IO;
        }
        Opened { handle: CACHED, flags, backing: None }
    }

    /// Whether the kernel may be writing to it by itself: then it does not see that this clears set-user-id bits.
    pub fn is_through(&self, ino: INodeNo) -> bool {
        self.0.get(&ino.0).is_some_and(|opens| opens.through > 0)
    }

    /// An open ended.
    pub fn release(&self, ino: INodeNo, handle: FileHandle) {
        let Some(mut opens) = self.0.get_mut(&ino.0) else { return };
        if handle == THROUGH {
            opens.through = opens.through.saturating_sub(1);
        } else {
            opens.cached = opens.cached.saturating_sub(1);
        }
        let over = opens.through == 0 && opens.cached == 0;
        drop(opens);
        if over {
            self.0.remove_if(&ino.0, |_, opens| opens.through == 0 && opens.cached == 0);
        }
    }
}

/// How a file is opened whose data the kernel may keep in its cache.
pub(in crate::fuse) fn cached_flags() -> FopenFlags {
    FopenFlags::FOPEN_KEEP_CACHE | no_flush()
}

/// Nothing is left to do at close(2).
fn no_flush() -> FopenFlags {
    if newer::is_absent(Newer::NoFlush) { FopenFlags::empty() } else { FopenFlags::FOPEN_NOFLUSH }
}

/// Whether this connection can hand files to the kernel: tried with one.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN in the initial user namespace, `EOPNOTSUPP` or `ENOTTY` where the kernel cannot.
pub fn can_pass(device: impl AsFd) -> io::Result<()> {
    if newer::is_absent(Newer::Passthrough) {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let file = std::fs::File::open("/proc/self/exe")?;
    BackingId::create_raw(device, file).map(drop)
}
