//! Opens that are seen (`io=passthrough`, `io=writeback`, `copyup=open`), and what the kernel may do without asking.
//!
//! Files are handed to the kernel (passthrough) where nothing but the file itself decides what is read and written: those
//! of the upper layer, and all of a view without one. A lower file of a writable view never: its copy-up must be seen.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fuser::{BackingId, Errno, FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyOpen};

use super::convert::{attr, id};
use super::reply::{GENERATION, Ttls};
use crate::base::sync::DashMap;
use crate::sys::caller;
use crate::sys::newer::{self, Newer};
use crate::union::{Entry, Live, OpenHow, SetupError};

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

impl DataPath {
    /// What an open with these flags is to do.
    pub(super) fn how(self, OpenFlags(flags): OpenFlags) -> OpenHow {
        OpenHow {
            writes: flags & libc::O_ACCMODE != libc::O_RDONLY,
            appends: flags & (libc::O_APPEND | libc::O_TRUNC) == libc::O_APPEND,
            empties: flags & libc::O_TRUNC != 0,
            syncs: flags & libc::O_DSYNC != 0,
            copies_up: self.copy_up_at_open,
            by_kernel: self.passthrough,
        }
    }
}

/// The opens of one inode. At a time all of them are cached, or all go through: the kernel allows no mixture.
#[derive(Debug, Default)]
struct Opens {
    cached: u32,
    through: u32,
    backing: Option<Arc<BackingId>>,
}

/// All opens that were seen and have not ended.
pub struct OpenFiles {
    live: Arc<Live>,
    passthrough: bool,
    opens: DashMap<u64, Opens>,
}

const CACHED: FileHandle = FileHandle(1);
const THROUGH: FileHandle = FileHandle(2);

/// How an open is answered: also by the file that the kernel reads and writes by itself.
type Opened = (FileHandle, FopenFlags, Option<Arc<BackingId>>);

impl OpenFiles {
    pub fn new(live: Arc<Live>, data: DataPath) -> Self {
        Self { live, passthrough: data.passthrough, opens: DashMap::default() }
    }

    /// Enters an open, and answers it.
    pub fn opened(&self, reply: ReplyOpen, ino: INodeNo) {
        match self.enter(ino, |fd| reply.open_backing(fd)) {
            (handle, flags, Some(backing)) => reply.opened_passthrough(handle, flags, &backing),
            (handle, flags, None) => reply.opened(handle, flags),
        }
    }

    /// The same for a file that was made.
    pub fn created(&self, reply: ReplyCreate, ttls: Ttls, entry: &Entry) {
        let (ttl, shown) = (ttls.timeouts.entry.min(ttls.timeouts.attr), attr(&entry.attr));
        match self.enter(INodeNo(entry.id.0), |fd| reply.open_backing(fd)) {
            (handle, flags, Some(backing)) => {
                reply.created_passthrough(&ttl, &shown, GENERATION, handle, flags, &backing)
            }
            (handle, flags, None) => reply.created(&ttl, &shown, GENERATION, handle, flags),
        }
    }

    /// Enters an open. `register` hands a file to the kernel.
    fn enter(&self, ino: INodeNo, register: impl FnOnce(&OwnedFd) -> io::Result<BackingId>) -> Opened {
        let backing = if self.passthrough { self.live.enter().backing(id(ino)) } else { None };
        let mut opens = self.opens.entry(ino.0).or_default();
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
            if let Some(backing) = opens.backing.clone() {
                opens.through += 1;
                return (THROUGH, no_flush(), Some(backing));
            }
        }
        opens.cached += 1;
        let mut flags = no_flush();
        // What was written by the kernel itself meanwhile is not in its cache.
        if !self.passthrough || self.live.enter().is_lower(id(ino)) {
            flags |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        if self.live.enter().appends(id(ino)) {
            flags = FopenFlags::FOPEN_NOFLUSH | FopenFlags::FOPEN_DIRECT_IO;
        }
        (CACHED, flags, None)
    }

    /// Whether the kernel may be writing to it by itself.
    pub fn is_through(&self, ino: INodeNo) -> bool {
        self.passthrough && self.opens.get(&ino.0).is_some_and(|opens| opens.through > 0)
    }

    /// Refuses a step while the kernel may be writing to a file by itself.
    pub fn check_none_through(&self) -> Result<(), SetupError> {
        match self.opens.iter().filter(|opens| opens.through > 0).count() {
            0 => Ok(()),
            open => Err(SetupError {
                what: "io=passthrough".to_owned(),
                reason: format!("the kernel itself reads or writes {open} open files of the upper layer"),
                hint: "close them, or mount with io=stateless".to_owned(),
            }),
        }
    }

    /// An open ended.
    pub fn release(&self, ino: INodeNo, handle: FileHandle) {
        let Some(mut opens) = self.opens.get_mut(&ino.0) else { return };
        let count = if handle == THROUGH { &mut opens.through } else { &mut opens.cached };
        *count = count.saturating_sub(1);
        let over = opens.through == 0 && opens.cached == 0;
        drop(opens);
        if over {
            self.opens.remove_if(&ino.0, |_, opens| opens.through == 0 && opens.cached == 0);
        }
    }
}

/// Answers an open that need not be seen. With `ENOSYS` the kernel opens files without asking from then on.
pub fn unseen(reply: ReplyOpen, without_asking: bool) {
    match without_asking {
        true => reply.error(Errno::ENOSYS),
        false => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | no_flush()),
    }
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
