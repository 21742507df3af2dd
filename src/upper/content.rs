//! A file's data, copied: shared blocks where the file system can, holes kept exactly.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::base::{Errno, Result};
use crate::sys::{data, process};

/// Asked between steps of a long copy: true ends it with `EINTR`.
pub type Interrupt<'a> = &'a dyn Fn() -> bool;

/// Bytes a step of the loop copies where the kernel cannot.
const BUFFER: usize = 256 << 10;

thread_local! {
    /// What the loop reads into: fresh memory for each step would cost as much as the copying.
    static ROOM: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Gives room for `len` bytes, or for as many as a step copies.
fn with_room<T>(len: u64, act: impl FnOnce(&mut [u8]) -> T) -> T {
    let len = usize::try_from(len).unwrap_or(BUFFER).min(BUFFER);
    ROOM.with_borrow_mut(|room| {
        room.resize(BUFFER, 0);
        act(room.get_mut(..len).unwrap_or_default())
    })
}

/// How data is copied.
#[derive(Clone, Copy)]
pub struct CopyData<'a> {
    /// The first so many bytes.
    pub len: u64,
    /// That is all of the file, whose blocks may be shared.
    pub whole: bool,
    /// It is synced next: what is copied goes to the disk at once, so that the sync, which nothing can end, is short.
    pub synced: bool,
    /// Whether the caller is gone.
    pub interrupt: Interrupt<'a>,
}

/// Copies data of `from` to the empty file `to`, which then is `len` bytes long. True where the two share their blocks, and
/// nothing was written.
///
/// # Errors
/// `EINTR`; what reading and writing say (`ENOSPC`, `EDQUOT`, `EIO` …).
pub fn copy_data(from: BorrowedFd<'_>, to: BorrowedFd<'_>, how: CopyData<'_>) -> Result<bool> {
    let len = how.len;
    if len == 0 {
        return data::truncate(to, 0).map(|()| false);
    }
    if how.whole && data::reflink(from, to).is_ok() {
        return Ok(true);
    }
    if len <= SMALL && is_dense(from, len)? {
        return copy_small(from, to, len).map(|()| false);
    }
    let mut in_kernel = true;
    let mut pace = Pace::new(to, how);
    let (mut at, mut reached) = (0, 0);
    while at < len {
        let (start, end) = match segment(from, at, len)? {
            Some(segment) => segment,
            None => break,
        };
        let mut offset = start;
        while offset < end {
            let copied = copy_step(from, to, offset, (end - offset).min(pace.step), &mut in_kernel)?;
            if copied == 0 {
                // Shorter than it said: what is missing reads as zeros, as a truncated file does.
                break;
            }
            pace.copied(offset, copied)?;
            offset += copied;
            reached = offset;
        }
        at = end;
    }
    end_at(to, reached, len).map(|()| false)
}

/// Whether none of the first `len` bytes is in a hole, as far as that can be told.
fn is_dense(from: BorrowedFd<'_>, len: u64) -> Result<bool> {
    match data::seek_hole(from, 0) {
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(true),
        hole => Ok(hole?.is_none_or(|hole| hole >= len)),
    }
}

/// By one read and one write.
fn copy_small(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> Result<()> {
    with_room(len, |room| {
        let read = data::pread_full(from, room, 0)?;
        data::pwrite_all(to, room.get(..read).unwrap_or_default(), 0)?;
        end_at(to, read as u64, len)
    })
}

/// Copies `len` bytes, [`SMALL`] at most, of `from` to the empty file `to`, if they are in memory and none is in a hole; false
/// where that is not so, and then nothing is copied.
///
/// # Errors
/// What looking for holes and writing say.
pub fn copy_from_cache(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> Result<bool> {
    if !is_dense(from, len)? {
        return Ok(false);
    }
    with_room(len, |room| {
        if !data::read_from_cache(from, room) {
            return Ok(false);
        }
        data::pwrite_all(to, room, 0).map(|()| true)
    })
}

/// The length of what was written up to `reached`: to set the one that it has costs a change in the journal.
fn end_at(to: BorrowedFd<'_>, reached: u64, len: u64) -> Result<()> {
    if reached < len { data::truncate(to, len) } else { Ok(()) }
}

/// Bytes that are copied by one read and one write if all of them are data: the kernel's copying, by way of a pipe, costs more.
pub const SMALL: u64 = 16 << 10;

/// Bytes of the first step, and of the smallest.
const FIRST_STEP: u64 = 256 << 10;
const MOST_STEP: u64 = 64 << 20;
/// A step takes this much of the processor at most, as far as it can be foretold: a kernel that does not preempt itself
/// lets whoever wakes up meanwhile wait for its end, or for the next tick.
const STEP_CPU: Duration = Duration::from_micros(200);
/// A step takes this long at most: that of a disk, a network, or a shared block.
const STEP_TIME: Duration = Duration::from_millis(50);
/// How often the interrupt is asked. A small file is copied sooner than the question is answered.
const ASK: Duration = Duration::from_millis(20);
/// Bytes that go to the disk together; twice as many at most are on the way.
const OUT: u64 = 8 << 20;

/// Keeps a long copy from being in everybody's way: it goes in small steps, yields after each, and does not fill the page
/// cache with what a sync must wait for.
struct Pace<'a> {
    to: BorrowedFd<'a>,
    how: CopyData<'a>,
    step: u64,
    asked: Instant,
    /// When the last step ended, and how much of the processor this thread had had by then.
    last: (Instant, Duration),
    /// Copied, and not on the way yet.
    fresh: Option<(u64, u64)>,
    /// On the way to the disk.
    sent: Option<(u64, u64)>,
}

impl<'a> Pace<'a> {
    fn new(to: BorrowedFd<'a>, how: CopyData<'a>) -> Self {
        let now = Instant::now();
        Self { to, how, step: FIRST_STEP, asked: now, last: (now, process::thread_time()), fresh: None, sent: None }
    }

    /// A step is done.
    fn copied(&mut self, at: u64, len: u64) -> Result<()> {
        if self.how.synced {
            self.send(at, len)?;
        }
        std::thread::yield_now();
        let now = (Instant::now(), process::thread_time());
        let (took, cpu) = (now.0.duration_since(self.last.0), now.1.saturating_sub(self.last.1));
        self.last = now;
        if cpu > STEP_CPU || took > STEP_TIME {
            self.step = (self.step / 2).max(FIRST_STEP);
        } else if cpu < STEP_CPU / 4 && took < STEP_TIME / 4 && len == self.step {
            self.step = (self.step * 2).min(MOST_STEP);
        }
        if now.0.duration_since(self.asked) >= ASK {
            self.asked = now.0;
            if (self.how.interrupt)() {
                return Err(Errno::EINTR);
            }
        }
        Ok(())
    }

    /// Sends what was copied on its way, once it is enough, and waits for what was sent before.
    fn send(&mut self, at: u64, len: u64) -> Result<()> {
        let start = self.fresh.map_or(at, |(start, _)| start);
        self.fresh = Some((start, at + len));
        if at + len - start < OUT {
            return Ok(());
        }
        let write_out = |(start, end): (u64, u64), wait| match data::write_out(self.to, start, end - start, wait) {
            Err(Errno::EOPNOTSUPP) => Ok(()),
            done => done,
        };
        if let Some(sent) = self.sent.take() {
            write_out(sent, true)?;
        }
        self.sent = self.fresh.take();
        self.sent.map_or(Ok(()), |sent| write_out(sent, false))
    }
}

/// The next run of data at or after `at`; `None` where only a hole is left.
pub(super) fn segment(from: BorrowedFd<'_>, at: u64, len: u64) -> Result<Option<(u64, u64)>> {
    let start = match data::seek_data(from, at) {
        Ok(Some(start)) if start < len => start,
        Ok(_) => return Ok(None),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((at, len))),
        Err(errno) => return Err(errno),
    };
    let end = data::seek_hole(from, start)?.unwrap_or(len).min(len);
    Ok(Some((start, end.max(start + 1).min(len))))
}

pub(super) fn copy_step(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    at: u64,
    len: u64,
    in_kernel: &mut bool,
) -> Result<u64> {
    let len = usize::try_from(len).unwrap_or(BUFFER);
    if *in_kernel {
        match data::copy_range(from, at, to, at, len) {
            Ok(0) => {}
            Ok(copied) => return Ok(copied as u64),
            Err(Errno::EXDEV | Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EPERM | Errno::EBADF) => {}
            Err(errno) => return Err(errno),
        }
        // 0 is the end of the file, or a file system that pretends (FUSE, procfs): reading tells.
        *in_kernel = false;
    }
    with_room(len as u64, |room| {
        let read = data::pread_full(from, room, at)?;
        data::pwrite_all(to, room.get(..read).unwrap_or_default(), at)?;
        Ok(read as u64)
    })
}
