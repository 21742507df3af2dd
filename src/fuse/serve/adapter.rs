//! The file system that fuser is given, and what its handlers (`handlers.rs`) share.
//!
//! Opens are stateless unless the [`DataPath`] says otherwise: OPEN is answered `ENOSYS` once, after which the kernel asks
//! no more, a warm read of a cached file costs no request, and a file is copied up by its first write. So is OPENDIR.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fuser::{INodeNo, Notifier, ReplyEmpty, ReplyEntry, ReplyIoctl, Request};

use super::convert::{caller, errno, id};
use super::init::Agreed;
use super::opens::{DataPath, OpenFiles};
use super::reply::{Reply, Ttls, answer, done, has_ids};
use super::requests::{Op, Requests};
use super::splice::{self, Splice};
use super::steps;
use crate::base::described::Described;
use crate::base::sync::Mutex;
use crate::base::{Errno, Name, Result, panics};
use crate::fuse::ahead::Ahead;
use crate::fuse::turns::Turns;
use crate::sys::{ask, process};
use crate::union::{InodeId, Live, Make, Notices, Operation, Step, Union, step_together};

/// Serves a [`Union`] to the kernel.
pub struct Adapter {
    pub(super) live: Arc<Live>,
    pub(super) ttls: Ttls,
    pub(super) requests: Arc<Requests>,
    pub(super) turns: Arc<Turns>,
    pub(super) data: DataPath,
    pub(super) agreed: Agreed,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) ahead: Arc<Ahead>,
    pub(super) splice: Option<Splice>,
    forgotten: Forgotten,
    described: Described,
    answers: ask::Answers,
    peers: Peers,
    /// The view is one of a session, whatever others that has.
    joined: bool,
}

/// The views that get commits together: those of one session, or one that stands alone.
pub type Peers = Arc<Mutex<Vec<Peer>>>;

/// A view, and its open files.
#[derive(Clone)]
pub struct Peer {
    live: Arc<Live>,
    files: Arc<OpenFiles>,
}

/// Counts what the kernel forgets. The allocator keeps the memory; where many inodes are gone it goes back to the system.
#[derive(Debug, Default)]
struct Forgotten {
    inodes: AtomicUsize,
    /// The most inodes that were live at a time since memory was given back.
    most: AtomicUsize,
}

impl Forgotten {
    /// Live inodes are counted each time that so many were forgotten.
    const LOOK: usize = 1024;
    /// The memory of fewer inodes is kept: about 1 MiB.
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

/// Tells the kernel what it did not ask for.
struct Kernel(Notifier);

impl Notices for Kernel {
    fn names_changed(&self, dir: InodeId) {
        if let Err(error) = self.0.inval_inode(INodeNo(dir.0), 0, 0) {
            log::warn!("the kernel did not drop the listing of directory {}: {error}", dir.0);
        }
    }

    fn name_changed(&self, dir: InodeId, name: &Name) {
        match self.0.inval_entry(INodeNo(dir.0), OsStr::from_bytes(name.as_bytes())) {
            // It does not know the name, or not the directory.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => log::warn!("the kernel did not drop a name of directory {}: {error}", dir.0),
            Ok(()) => {}
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

/// The kernel makes a file under a name that it has seen to be absent. Where an undo has brought the name back since, it is to
/// look again: then it opens the file, or says `EEXIST` itself where that was not asked for.
pub(super) fn looked_too_early(errno: Errno) -> Errno {
    if errno == Errno::EEXIST { Errno::ESTALE } else { errno }
}

impl Adapter {
    /// An adapter for this union; `described` says what is mounted, for those who ask.
    pub fn new(union: Arc<Union>, data: DataPath, described: Described) -> Self {
        let live = Arc::new(Live::new(union.clone()));
        let open_files = Arc::new(OpenFiles::new(live.clone(), data));
        Self {
            ttls: Ttls { timeouts: union.timeouts(), passthrough: data.passthrough },
            requests: Arc::default(),
            turns: Arc::default(),
            data,
            agreed: Agreed::default(),
            open_files: open_files.clone(),
            ahead: Arc::default(),
            splice: None,
            forgotten: Forgotten::default(),
            described,
            answers: ask::Answers::default(),
            peers: Arc::new(Mutex::new(vec![Peer { live: live.clone(), files: open_files }])),
            joined: false,
            live,
        }
    }

    /// The union that is served.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Makes this view one of several that get commits together.
    pub fn join(&mut self, peers: &Peers) {
        peers.lock().push(Peer { live: self.live.clone(), files: self.open_files.clone() });
        self.peers = peers.clone();
        self.joined = true;
    }

    /// Takes a step, on a thread of its own: no request may be under way, this one neither.
    pub(super) fn take_step(&self, (req, question): (&Request, &[u8]), reply: ReplyIoctl) {
        let step = match steps::asked(req.uid(), question) {
            Ok(step) => step,
            Err(error) => return reply.error(errno(error)),
        };
        if let (Step::Layers(change), true) = (&step, self.joined) {
            let refused = steps::of_session(change.dir());
            return reply.ioctl(0, &steps::answer(Err(refused)));
        }
        let (peers, own) = (self.peers.lock().clone(), self.live.clone());
        let take = move || {
            let is_alone = matches!(step, Step::UndoPaths { .. } | Step::Layers(_));
            let is_asked = |peer: &&Peer| !is_alone || Arc::ptr_eq(&peer.live, &own);
            let views: Vec<&Live> = peers.iter().filter(is_asked).map(|peer| &*peer.live).collect();
            let check = || peers.iter().try_for_each(|peer| peer.files.check_none_through());
            steps::answer(step_together(&views, &step, &check))
        };
        // This thread could not take it: it is inside itself. Where there is no other, the dropped reply answers `EIO`.
        let long = move || {
            panics::caught(|| reply.ioctl(0, &take()));
        };
        if let Err(error) = std::thread::Builder::new().name("plyfs-step".into()).spawn(long) {
            log::warn!("no thread for a step: {error}");
        }
    }

    /// Answers the question what this mount is, with what was found out since it began.
    pub(super) fn describe(&self, union: &Union, question: &[u8]) -> Result<Vec<u8>> {
        self.answers.piece(question, || {
            let mut told = steps::tell_layers(union, self.described.clone());
            steps::tell(union, &mut told);
            told.add("option", if self.ahead.reads_files() { "prefetch=on" } else { "prefetch=off" });
            told.as_bytes().to_vec()
        })
    }

    /// A request arrived; `handle` has its reply. A bug costs one request, not the mount: the reply that a panic drops
    /// answers `EIO`.
    pub(super) fn serve(&self, req: &Request, op: Op, handle: impl FnOnce(&Union)) {
        panics::caught(|| {
            self.requests.count(op);
            let _turn = self.turns.begin(req.pid());
            // Until it is answered: the answer is told before what comes of a step.
            let union = self.live.enter();
            panics::caught(|| handle(&union));
        });
    }

    /// Does what a request asks for, and answers it: at once, or, where the union says that this takes long (a large copy-up,
    /// a sync), on a thread of its own, so that no other request waits for it.
    pub(super) fn run<R: Reply, T>(
        &self,
        union: &Union,
        reply: R,
        operation: Operation,
        act: impl FnOnce(&Union) -> Result<T> + Send + 'static,
        tell: impl FnOnce(R, T) + Send + 'static,
    ) {
        self.run_with(union, reply, (operation, &[]), |union, _| act(union), tell);
    }

    /// The same with data that came with the request, and is copied only if it has to outlive that.
    pub(super) fn run_with<R: Reply, T>(
        &self,
        union: &Union,
        reply: R,
        (operation, data): (Operation, &[u8]),
        act: impl FnOnce(&Union, &[u8]) -> Result<T> + Send + 'static,
        tell: impl FnOnce(R, T) + Send + 'static,
    ) {
        let landing = match self.ahead.changing(&operation) {
            Ok(landing) => landing,
            Err(error) => return reply.error(errno(error)),
        };
        let long = union.is_long(&operation);
        if !long && landing.is_none() {
            return answer(reply, act(union, data), tell);
        }
        let (live, data) = (self.live.clone(), data.to_vec());
        let job = move || {
            let _long = live.takes_long();
            let union = live.enter();
            answer(reply, act(&union, &data), tell);
        };
        match landing {
            Some(landing) => landing.then(move || if long { on_its_own_thread(job) } else { job() }),
            None => on_its_own_thread(job),
        }
    }

    /// Answers once what was done to a file or directory is on disk.
    pub(super) fn sync(&self, union: &Union, reply: ReplyEmpty, id: InodeId, data_only: bool) {
        self.run(union, reply, Operation::Sync(id), move |union| union.fsync(id, data_only), done);
    }

    /// Makes an object by this name, and answers with it.
    pub(super) fn make(
        &self,
        union: &Union,
        reply: ReplyEntry,
        (req, umask): (&Request, u32),
        parent: INodeNo,
        name: &OsStr,
        what: Make<'_>,
    ) {
        let is_file = matches!(what, Make::File { .. });
        let made = to_name(name).and_then(|name| union.make(&caller(req, umask), id(parent), &name, what));
        let made = if is_file { made.map_err(looked_too_early) } else { made };
        answer(reply, made, |reply, entry| self.ttls.entry(reply, entry));
    }

    /// Answers a large READ without a copy, where that can be: true if it is answered.
    pub(super) fn spliced(&self, union: &Union, req: &Request, (id, offset, size): (InodeId, u64, u32)) -> bool {
        if size < splice::WORTH {
            return false;
        }
        self.turns.work_for_two();
        let splice = self.splice.as_ref();
        splice.is_some_and(|splice| splice.answer(union, req.unique().0, (id, offset, size)))
    }

    /// How long the kernel may keep the attributes of an inode; `mode` where that is set just now.
    pub(super) fn attr_ttl(&self, ino: INodeNo, mode: Option<u32>) -> Duration {
        let unseen = mode.is_none_or(has_ids) && self.open_files.is_through(ino);
        if unseen { Duration::ZERO } else { self.ttls.timeouts.attr }
    }

    pub(super) fn forget_one(&self, ino: INodeNo, lookups: u64) {
        self.ahead.forget(id(ino));
        let union = self.live.enter();
        union.forget(id(ino), lookups);
        if self.forgotten.one(|| union.live_inodes()) {
            process::return_free_memory();
        }
    }
}

fn on_its_own_thread(job: impl FnOnce() + Send + 'static) {
    let job = Arc::new(Mutex::new(Some(job)));
    let take = |job: &Mutex<Option<_>>| job.lock().take();
    let theirs = job.clone();
    let long = move || {
        panics::caught(|| {
            process::take_short_turns();
            take(&theirs).into_iter().for_each(|job| job());
        });
    };
    if let Err(error) = std::thread::Builder::new().name("plyfs-long".into()).spawn(long) {
        // Out of memory or processes: then others wait.
        log::info!("no thread for a long request: {error}");
        take(&job).into_iter().for_each(|job| job());
    }
}

/// Tells the kernel what the union has to say, from now on.
pub fn connect(union: &Union, notifier: Notifier) {
    union.set_notices(Box::new(Kernel(notifier)));
}

pub fn to_name(name: &OsStr) -> Result<Name> {
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
