//! Copies the data of a file. Blocks are shared where the file system can, and holes stay holes.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::base::{Errno, Result};
use crate::sys::{data, process};

/// Asked between two steps of a long copy; true ends the copy with `EINTR`.
pub type Interrupt<'a> = &'a dyn Fn() -> bool;

/// Bytes that one step copies by read and write, where the kernel cannot copy by itself.
const BUFFER: usize = 256 << 10;

thread_local! {
    /// The buffer of a thread's copies: fresh memory for each step would cost as much as the copying.
    static ROOM: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Calls `act` with a buffer of `len` bytes, at most as many as a step copies.
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
    /// How many bytes from the start of the file are copied.
    pub len: u64,
    /// `len` is the whole file, so that the copy may share its blocks.
    pub whole: bool,
    /// A sync follows: copied data goes to the disk at once, so that the sync, which no signal can end, is short.
    pub synced: bool,
    /// Whether the caller has gone.
    pub interrupt: Interrupt<'a>,
}

/// Copies data of `from` to the empty file `to`, which is `len` bytes long afterwards. True: the two files share their
/// blocks, and nothing was written.
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
                // The file is shorter than its size said: the rest reads as zeros, as in a file that was truncated.
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

/// Whether none of the first `len` bytes is in a hole, as far as the file system tells.
fn is_dense(from: BorrowedFd<'_>, len: u64) -> Result<bool> {
    match data::seek_hole(from, 0) {
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(true),
        hole => Ok(hole?.is_none_or(|hole| hole >= len)),
    }
}

/// Copies by one read and one write.
fn copy_small(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: u64) -> Result<()> {
    with_room(len, |room| {
        let read = data::pread_full(from, room, 0)?;
        data::pwrite_all(to, room.get(..read).unwrap_or_default(), 0)?;
        end_at(to, read as u64, len)
    })
}

/// Copies `len` bytes, at most [`SMALL`], of `from` to the empty file `to`, if all of them are in the page cache and
/// none is in a hole. False: nothing was copied.
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

/// Sets the length of a file whose data reaches up to `reached`, if that is another length: setting the same one costs
/// a write to the file system's journal.
fn end_at(to: BorrowedFd<'_>, reached: u64, len: u64) -> Result<()> {
    if reached < len { data::truncate(to, len) } else { Ok(()) }
}

/// Up to this many bytes are copied by one read and one write if none is in a hole: the kernel's own copy, through a
/// pipe, costs more.
pub const SMALL: u64 = 16 << 10;

/// Bytes of the first step, which is also the smallest.
const FIRST_STEP: u64 = 256 << 10;
const MOST_STEP: u64 = 64 << 20;
/// The most processor time that a step should take: a kernel that does not preempt itself lets a thread that wakes up
/// meanwhile wait for the end of the step, or for the next tick.
const STEP_CPU: Duration = Duration::from_micros(200);
/// The longest that a step should take, with its waits for a disk or a network.
const STEP_TIME: Duration = Duration::from_millis(50);
/// How often the interrupt is asked. A small file is copied in less time than the question takes.
const ASK: Duration = Duration::from_millis(20);
/// Bytes that are sent to the disk together; at most twice as many are on their way.
const OUT: u64 = 8 << 20;

/// Keeps a long copy out of the way of others: it goes in small steps, yields after each, and does not fill the page
/// cache with data that a sync must wait for.
struct Pace<'a> {
    to: BorrowedFd<'a>,
    how: CopyData<'a>,
    step: u64,
    asked: Instant,
    /// When the last step ended, and the processor time of this thread by then.
    last: (Instant, Duration),
    /// The range in bytes that was copied and not yet sent to the disk.
    fresh: Option<(u64, u64)>,
    /// The range in bytes that is on its way to the disk.
    sent: Option<(u64, u64)>,
}

impl<'a> Pace<'a> {
    fn new(to: BorrowedFd<'a>, how: CopyData<'a>) -> Self {
        let now = Instant::now();
        Self { to, how, step: FIRST_STEP, asked: now, last: (now, process::thread_time()), fresh: None, sent: None }
    }

    /// Ends a step that has copied `len` bytes at `at`.
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

    /// Sends copied data to the disk once there is enough of it, and waits for the data that was sent before.
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
        // 0 means the end of the file, or a file system that cannot copy (FUSE, procfs): reading tells which.
        *in_kernel = false;
    }
    with_room(len as u64, |room| {
        let read = data::pread_full(from, room, at)?;
        data::pwrite_all(to, room.get(..read).unwrap_or_default(), at)?;
        Ok(read as u64)
    })
}
