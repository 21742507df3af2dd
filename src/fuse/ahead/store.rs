//! Bytes put into the kernel's cache that nobody asked for (`FUSE_NOTIFY_STORE`), also where files change.
//!
//! The danger is a store of old bytes over what a program has just written, of which nobody need be told: opens are not
//! seen, and a mapped page is changed without a request. What holds, by the kernel's source (Linux 6.18, and long before):
//! - a page that a program changes is in the cache first. Mapped, it got there by a READ or a store; write(2) asks for the
//!   attribute `security.capability` before it takes any page, once for an inode; whatever else changes data is a request;
//! - a READ holds its pages until it is answered; a store copies each page while it holds it, and only then looks at the
//!   memory that it copies from.
//!
//! So a page is stored at most once for as long as the kernel knows the inode, and only as long as no READ of it was
//! answered and no request came that could begin a change. Each such request sets the *mark* of the file for good before it
//! is answered ([`Union::mark_cached`], or the marks of pages in `random.rs`). Then it calls back what is on its way to that
//! file: from then on nothing more is copied. A page that is being copied just then is held by no READ, and a writer waits
//! for it. The thread that stores first says to which file, and then looks at the mark; the request first sets the mark, and
//! then looks who stores. So one of the two sees the other.
//!
//! No request waits for a store: the store may itself wait for the page of a READ that nobody has answered yet. Only a file
//! must not be cut while the kernel compares its length with that of the store: the thread that stores does such a SETATTR
//! when the store is over.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::guard::Guarded;
use crate::base::sync::Mutex;
use crate::base::{Result, panics};
use crate::fuse::wire::store_header;
use crate::sys::lent::{Lent, Recall};
use crate::union::{Held, InodeId, Live};

/// Bytes that are stored at a time, at most; of a large file an aligned window.
pub const WINDOW: u64 = 256 << 10;
/// All windows of a file.
pub const WHOLE: Range<u64> = 0..u64::MAX;

/// What a request does when a store is over.
type Job = Box<dyn FnOnce() + Send>;

/// A store to a file that is on its way, or has just arrived. The file's mark is set.
pub struct Landing<'a> {
    pub stores: &'a Stores,
    pub id: InodeId,
}

impl Landing<'_> {
    /// Does this when it is over: now, or by the thread that stores.
    pub fn then(&self, job: impl FnOnce() + Send + 'static) {
        self.stores.after(self.id, Box::new(job));
    }
}

/// The stores that are on their way.
pub struct Stores {
    pub live: Arc<Live>,
    device: OwnedFd,
    /// Without it a killed daemon might not end.
    guard: Guarded,
    flights: [Arc<Flight>; 2],
    stopped: AtomicBool,
}

/// One who stores: one file at a time.
pub struct Hand {
    lent: Lent,
    flight: Arc<Flight>,
}

/// What a [`Hand`] stores.
struct Flight {
    /// To which inode; 0: to none.
    id: AtomicU64,
    now: Mutex<Now>,
    recall: Recall,
}

#[derive(Default)]
struct Now {
    windows: Range<u64>,
    after: Vec<Job>,
}

impl Stores {
    /// Stores by the connection `device`, and the hands that do. `ENOMEM`
    pub fn new(live: Arc<Live>, (device, guard): (OwnedFd, Guarded)) -> Result<(Arc<Self>, [Hand; 2])> {
        let hands = [Hand::new()?, Hand::new()?];
        let flights = hands.each_ref().map(|hand| hand.flight.clone());
        Ok((Arc::new(Self { live, device, guard, flights, stopped: AtomicBool::new(false) }), hands))
    }

    /// Nothing is on its way any more, as there is no connection.
    pub fn finish(&self) {
        self.stopped.store(true, SeqCst);
        self.guard.end();
    }

    /// Nothing is stored any more, where what is written above does not hold.
    pub fn stop(&self, why: &str) {
        if !self.stopped.swap(true, SeqCst) {
            log::warn!("files are no longer read ahead: {why}");
        }
    }

    /// What of these windows of a file is on its way is copied no further; whether anything was. Its mark was set before.
    /// `ENOMEM`: it may be copied, so the request must fail.
    pub fn call_back(&self, id: InodeId, windows: &Range<u64>) -> Result<bool> {
        let mut any = Ok(false);
        for flight in &self.flights {
            flight.at(id, |now| {
                if now.windows.start < windows.end && windows.start < now.windows.end {
                    any = flight.recall.recall().and(any).map(|_| true);
                }
            });
        }
        any
    }

    /// Does this once nothing is on its way to a file whose mark is set: now, or when who stores is ready.
    fn after(&self, id: InodeId, job: Job) {
        let mut job = Some(job);
        for flight in &self.flights {
            flight.at(id, |now| now.after.extend(job.take()));
        }
        job.into_iter().for_each(|job| job());
    }
}

impl Flight {
    /// Does something about what is on its way to this file, if anything is.
    fn at(&self, id: InodeId, act: impl FnOnce(&mut Now)) {
        if self.id.load(SeqCst) != id.0 {
            return;
        }
        let mut now = self.now.lock();
        if self.id.load(SeqCst) == id.0 {
            act(&mut now);
        }
    }

    fn begin(&self, id: InodeId, windows: Range<u64>) {
        let mut now = self.now.lock();
        now.windows = windows;
        self.id.store(id.0, SeqCst);
    }

    fn end(&self) -> Vec<Job> {
        let mut now = self.now.lock();
        self.id.store(0, SeqCst);
        std::mem::take(&mut now.after)
    }
}

impl Hand {
    fn new() -> Result<Self> {
        let lent = Lent::new(WINDOW as usize)?;
        let (id, now, recall) = (AtomicU64::new(0), Mutex::default(), lent.recall());
        Ok(Self { lent, flight: Arc::new(Flight { id, now, recall }) })
    }

    /// Where the bytes are put that are stored next: a [`WINDOW`].
    pub fn room(&mut self) -> &mut [u8] {
        self.lent.room()
    }

    /// Stores these windows of a file, which begin with the [room](Self::room): those ranges of it (from whole pages on)
    /// that `claim` finds without a mark, and marks. The file was held before it was read: else what has no mark could be
    /// another one by the same number, or the same that the kernel forgot, with other bytes.
    pub fn store(
        &mut self,
        stores: &Stores,
        (file, windows): (&Held<'_>, Range<u64>),
        claim: impl FnOnce() -> Vec<Range<usize>>,
    ) {
        let id = file.id();
        if stores.guard.is_gone() {
            stores.stop("its guard has ended");
        }
        if stores.stopped.load(SeqCst) {
            return;
        }
        let start = if windows == WHOLE { 0 } else { windows.start * WINDOW };
        self.lent.begin();
        self.flight.begin(id, windows);
        panics::caught(|| {
            for range in claim() {
                let header = store_header(id, start + range.start as u64, range.len());
                if let Err(error) = self.lent.lend(stores.device.as_fd(), &header, range) {
                    log::debug!("{} is not stored: {error}", id.0);
                    break;
                }
            }
        });
        // There may be another one on its way to this file.
        self.flight.end().into_iter().for_each(|job| stores.after(id, job));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::sys::process::{is_readable, pipe};
    use crate::union::Union;

    const ID: InodeId = InodeId::ROOT;
    const HALF: usize = WINDOW as usize / 2;
    const BOTH: usize = 2 * (HALF + 40);

    /// Two stores, of half a window each, that are on their way into a pipe, which takes 16 pages before it must be read.
    struct Flying {
        stores: Arc<Stores>,
        pipe: std::fs::File,
        storing: std::thread::JoinHandle<()>,
    }

    fn flying(windows: Range<u64>) -> Flying {
        let layer = tempfile::tempdir().unwrap();
        let union = Arc::new(Live::new(Arc::new(Union::builder().lower(layer.path()).build().unwrap())));
        let (read, write) = pipe().unwrap();
        let (stores, mut hands) = Stores::new(union, (write, Guarded::nobody())).unwrap();
        let theirs = stores.clone();
        let storing = std::thread::spawn(move || {
            let union = theirs.live.enter();
            let root = union.hold(ID).unwrap();
            hands[1].store(&theirs, (&root, windows), || vec![0..HALF, HALF..2 * HALF]);
        });
        while !is_readable(read.as_fd()) {
            std::thread::yield_now();
        }
        Flying { stores, pipe: read.into(), storing }
    }

    impl Flying {
        /// How many bytes arrive once the pipe is read.
        fn arrive(self) -> usize {
            let mut pipe = self.pipe;
            let reading = std::thread::spawn(move || pipe.read_to_end(&mut Vec::new()).unwrap());
            self.storing.join().unwrap();
            drop(self.stores);
            reading.join().unwrap()
        }
    }

    #[test]
    fn a_store_is_called_back_by_its_file_and_window() {
        let table = [
            (WHOLE, ID, 7..8, true),
            (7..8, ID, WHOLE, true),
            (7..8, ID, 6..8, true),
            (7..8, ID, 7..9, true),
            (7..8, ID, 8..9, false),
            (7..8, ID, 5..7, false),
            (7..8, InodeId(2), WHOLE, false),
        ];
        for (windows, id, called, back) in table {
            let flying = flying(windows.clone());
            assert_eq!(flying.stores.call_back(id, &called), Ok(back));
            assert_eq!(flying.arrive() < BOTH, back, "{windows:?} {id:?} {called:?}");
        }
    }

    #[test]
    fn what_must_come_after_a_store_is_done_when_it_is_over_and_at_once_where_there_is_none() {
        let flying = flying(WHOLE);
        let done = Arc::new(AtomicUsize::new(0));
        let job = || {
            let done = done.clone();
            Box::new(move || {
                done.fetch_add(1, SeqCst);
            })
        };
        flying.stores.after(InodeId(2), job());
        assert_eq!(done.load(SeqCst), 1);
        flying.stores.after(ID, job());
        assert_eq!(done.load(SeqCst), 1, "not yet");
        let stores = flying.stores.clone();
        flying.stores.call_back(ID, &WHOLE).unwrap();
        let mut pipe = flying.pipe;
        std::thread::spawn(move || pipe.read_to_end(&mut Vec::new()));
        flying.storing.join().unwrap();
        assert_eq!(done.load(SeqCst), 2);
        stores.after(ID, job());
        assert_eq!(done.load(SeqCst), 3);
    }

    #[test]
    fn nothing_is_stored_where_it_was_stopped() {
        let Flying { stores, .. } = flying(WHOLE);
        let mut hand = Hand::new().unwrap();
        assert!(stores.live.enter().hold(InodeId(99)).is_none());
        stores.stop("a test");
        hand.store(&stores, (&stores.live.enter().hold(ID).unwrap(), WHOLE), || panic!("it was stopped"));
    }
}
