//! The file system that fuser is given, and what its handlers (`handlers.rs`) share.
//!
//! Opens are stateless unless the [`DataPath`] says otherwise: OPEN is answered `ENOSYS` once, after which the kernel asks
//! no more, a warm read of a cached file costs no request, and a file is copied up by its first write. So is OPENDIR.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{FileHandle, Generation, INodeNo, Notifier, ReplyCreate, ReplyEntry, Request};

use super::convert::{attr, errno, id};
use super::init::Agreed;
use super::opens::{DataPath, OpenFiles, cached_flags};
use super::requests::{Op, Requests};
use super::splice::Splice;
use crate::base::config::Timeouts;
use crate::base::described::Described;
use crate::base::sync::Mutex;
use crate::base::{Name, Result, panics};
use crate::fuse::ahead::prefetch::Prefetch;
use crate::fuse::ahead::relist::Relist;
use crate::fuse::ahead::walk::Walk;
use crate::fuse::turns::Turns;
use crate::sys::process;
use crate::union::{Attr, Caller, Entry, InodeId, Kind, Make, Notices, Union};

/// Never the backing inode's: copy-up would make the kernel's inode bad.
pub(in crate::fuse) const GENERATION: Generation = Generation(0);

/// Serves a [`Union`] to the kernel.
pub struct Adapter {
    pub(in crate::fuse) union: Arc<Union>,
    pub(in crate::fuse) timeouts: Timeouts,
    pub(in crate::fuse) requests: Arc<Requests>,
    pub(in crate::fuse) turns: Arc<Turns>,
    pub(in crate::fuse) data: DataPath,
    pub(in crate::fuse) agreed: Agreed,
    pub(in crate::fuse) open_files: Arc<OpenFiles>,
    pub(in crate::fuse) ahead: Arc<ReadAhead>,
    pub(in crate::fuse) splice: Option<Splice>,
    pub(in crate::fuse) relist: Relist,
    pub(in crate::fuse) forgotten: Forgotten,
    described: Described,
}

/// Who sees to what is read before it is asked for, from the beginning of the session on.
#[derive(Default)]
pub(in crate::fuse) struct ReadAhead {
    pub prefetch: OnceLock<Prefetch>,
    pub walk: OnceLock<Walk>,
}

/// What the kernel has forgotten, counted so that the memory of very much goes back to the system: the allocator keeps it.
#[derive(Debug, Default)]
pub(in crate::fuse) struct Forgotten {
    inodes: AtomicUsize,
    /// Most inodes that were live since memory was given back.
    most: AtomicUsize,
}

impl Forgotten {
    /// How often it is looked at, in inodes.
    const LOOK: usize = 1024;
    /// The memory of fewer is kept: about 1 MiB.
    const WORTH: usize = 1 << 12;

    /// An inode was forgotten; `live` tells how many are left. True where memory should go back: half of them are gone.
    fn one(&self, live: impl FnOnce() -> usize) -> bool {
        if !self.inodes.fetch_add(1, Ordering::Relaxed).is_multiple_of(Self::LOOK) {
            return false;
        }
        let live = live();
        let most = self.most.fetch_max(live, Ordering::Relaxed);
        let due = most >= Self::WORTH && live < most / 2;
        if due {
            self.most.store(live, Ordering::Relaxed);
        }
        due
    }
}

/// The kernel's end of the connection, for what nobody asked.
struct Kernel(Notifier);

impl Notices for Kernel {
    fn names_changed(&self, dir: InodeId) {
        if let Err(error) = self.0.inval_inode(INodeNo(dir.0), 0, 0) {
            log::warn!("the kernel did not drop the listing of directory {}: {error}", dir.0);
        }
    }

    fn attributes_changed(&self, id: InodeId) {
        // Before the first byte: attributes alone. For data the kernel would wait for pages that a request holds.
        const NO_DATA: i64 = -1;
        if let Err(error) = self.0.inval_inode(INodeNo(id.0), NO_DATA, 0) {
            log::warn!("the kernel did not drop the attributes of {}: {error}", id.0);
        }
    }
}

/// How long the kernel may keep what it is told.
#[derive(Debug, Clone, Copy)]
pub(in crate::fuse) struct Ttls {
    timeouts: Timeouts,
    passthrough: bool,
}

impl Ttls {
    /// For attributes with this mode: what the kernel writes by itself clears set-user-id bits unseen.
    pub fn attr(&self, shown: &Attr) -> Duration {
        let ids = shown.mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        if self.passthrough && ids && shown.kind == Kind::File { Duration::ZERO } else { self.timeouts.attr }
    }

    /// Answers with an entry.
    pub fn entry(&self, reply: ReplyEntry, found: Result<Entry>) {
        match found {
            Ok(entry) => {
                reply.entry_with_ttls(&self.attr(&entry.attr), &self.timeouts.entry, &attr(&entry.attr), GENERATION)
            }
            Err(error) => reply.error(errno(error)),
        }
    }
}

impl Adapter {
    /// An adapter for this union; `described` is what who asks is told.
    pub fn new(union: Arc<Union>, data: DataPath, described: Described) -> Self {
        let (timeouts, turns) = (union.timeouts(), Arc::new(Turns::new()));
        let (requests, open_files, ahead) = (Arc::default(), Arc::default(), Arc::default());
        Self {
            union,
            timeouts,
            requests,
            turns,
            data,
            agreed: Agreed::default(),
            open_files,
            ahead,
            splice: None,
            relist: Relist::default(),
            forgotten: Forgotten::default(),
            described,
        }
    }

    /// What this mount is, with what was found out since it began.
    pub(in crate::fuse) fn described(&self) -> Described {
        let mut told = self.described.clone();
        told.add("option", if self.ahead.prefetch.get().is_some() { "prefetch=on" } else { "prefetch=off" });
        told
    }

    /// A request arrived; `handle` has its reply. A bug costs one request, not the mount: the reply that a panic drops
    /// answers `EIO`.
    pub(in crate::fuse) fn serve(&self, req: &Request, op: Op, handle: impl FnOnce()) {
        panics::caught(|| {
            self.requests.count(op);
            let _turn = self.turns.begin(req.pid());
            panics::caught(handle);
        });
    }

    /// How long the kernel may keep what it is told; to be taken along by a request that goes on elsewhere.
    pub(in crate::fuse) fn ttls(&self) -> Ttls {
        Ttls { timeouts: self.timeouts, passthrough: self.data.passthrough }
    }

    /// How long the kernel may keep the attributes of an inode.
    pub(in crate::fuse) fn attr_ttl(&self, ino: INodeNo, mode: Option<u32>) -> Duration {
        let ids = mode.is_none_or(|mode| mode & (libc::S_ISUID | libc::S_ISGID) != 0);
        let unseen = self.data.passthrough && ids && self.open_files.is_through(ino);
        if unseen { Duration::ZERO } else { self.timeouts.attr }
    }

    /// Runs what may take long (a large copy-up, a sync) on a thread of its own, so that no other request waits for it.
    pub(in crate::fuse) fn run(&self, long: bool, job: impl FnOnce(&Union) + Send + 'static) {
        run(&self.union, long, job);
    }

    /// The same once no data is on its way to the kernel that nobody asked for, to a file that is [changing](Self::changing).
    pub(in crate::fuse) fn run_after_stores(
        &self,
        ino: InodeId,
        long: bool,
        job: impl FnOnce(&Union) + Send + 'static,
    ) {
        let union = self.union.clone();
        let job = move || run(&union, long, job);
        match self.ahead.prefetch.get() {
            Some(prefetch) => prefetch.after_stores(ino, Box::new(job)),
            None => job(),
        }
    }

    /// A request arrived that begins a change of a file's data, or lets a program begin one.
    ///
    /// # Errors
    /// `ENOMEM`: it must fail.
    pub(in crate::fuse) fn changing(&self, ino: InodeId) -> Result<()> {
        self.ahead.prefetch.get().map_or(Ok(()), |prefetch| prefetch.changing(ino))
    }

    pub(in crate::fuse) fn forget_one(&self, ino: INodeNo, lookups: u64) {
        if let Some(prefetch) = self.ahead.prefetch.get() {
            prefetch.forget(InodeId(ino.0));
        }
        self.union.forget(InodeId(ino.0), lookups);
        if self.forgotten.one(|| self.union.live_inodes()) {
            process::return_free_memory();
        }
    }

    pub(in crate::fuse) fn created(&self, reply: ReplyCreate, entry: &Entry) {
        let (ttl, shown) = (self.timeouts.entry.min(self.timeouts.attr), attr(&entry.attr));
        if !self.data.opens_seen {
            return reply.created(&ttl, &shown, GENERATION, FileHandle(0), cached_flags());
        }
        let (ino, through) = (INodeNo(entry.id.0), self.data.passthrough);
        let opened = self.open_files.open(&self.union, ino, through, |fd| reply.open_backing(fd));
        let (handle, flags) = (opened.handle, opened.flags);
        match &opened.backing {
            Some(backing) => reply.created_passthrough(&ttl, &shown, GENERATION, handle, flags, backing),
            None => reply.created(&ttl, &shown, GENERATION, handle, flags),
        }
    }

    pub(in crate::fuse) fn make(&self, who: &Caller, parent: INodeNo, name: &OsStr, what: Make<'_>) -> Result<Entry> {
        self.union.make(who, id(parent), &to_name(name)?, what)
    }
}

fn run(union: &Arc<Union>, long: bool, job: impl FnOnce(&Union) + Send + 'static) {
    if !long {
        return job(union);
    }
    let (ours, union) = (union, union.clone());
    let job = Arc::new(Mutex::new(Some(job)));
    let theirs = job.clone();
    let long = move || {
        panics::caught(|| {
            process::take_short_turns();
            let job = theirs.lock().take();
            job.into_iter().for_each(|job| job(&union));
        });
    };
    let spawned = std::thread::Builder::new().name("plyfs-long".into()).spawn(long);
    if let Err(error) = spawned {
        // Out of memory or processes: then others wait.
        log::info!("no thread for a long request: {error}");
        let job = job.lock().take();
        job.into_iter().for_each(|job| job(ours));
    }
}

/// Tells the kernel what the union has to say, from now on.
pub(in crate::fuse) fn connect(union: &Union, notifier: Notifier) {
    union.set_notices(Box::new(Kernel(notifier)));
}

pub(in crate::fuse) fn to_name(name: &OsStr) -> Result<Name> {
    Name::new(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_each_time_that_half_of_many_inodes_are_gone() {
        let forgotten = Forgotten::default();
        let due = |live: std::ops::Range<usize>| live.rev().filter(|live| forgotten.one(|| *live)).count();
        assert_eq!(due(0..4_000), 0, "few are kept");
        assert_eq!(due(0..1_000_000), 8);
        assert_eq!(due(0..1), 0);
    }
}
