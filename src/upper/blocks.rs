//! A file of the upper layer whose data arrives block by block, and the record of the blocks that have arrived.
//!
//! A block is written by one call and recorded by the next: whenever the process ends, blocks that are not recorded are
//! read from the lower file, as before. A crash of the machine may leave blocks recorded whose data is lost, so that a
//! first record ([`HERE`]) counts only until the machine stops; [`Blocks::keep`] syncs the data and then records the
//! blocks for good ([`KEPT`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::Upper;
use super::content::{copy_step, segment};
use crate::base::config::Fsync;
use crate::base::sync::RwLock;
use crate::base::{Errno, Name, Result};
use crate::format::BlocksMark;
use crate::format::blocks::{BELOW, HERE, Header, KEPT, STATES};
use crate::format::capability::CAPABILITY;
use crate::sys::random::boot_id;
use crate::sys::stat::{SetTime, stat_fd};
use crate::sys::{data, tree, xattr};

/// `FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE`
const PUNCH: i32 = 3;

/// A file whose data is partly in the upper layer. All users of the file share one value.
pub struct Blocks {
    file: OwnedFd,
    below: Arc<OwnedFd>,
    record: OwnedFd,
    shift: u8,
    fsync: Fsync,
    /// Which run of the machine this is can be told, so that blocks that are [`HERE`] count after the end of this
    /// process.
    boot_is_known: bool,
    /// Some block is [`HERE`], and may not be on disk.
    loose: AtomicBool,
    /// Locked shared by writes to blocks in the upper file, exclusively by who adds blocks.
    map: RwLock<Map>,
}

struct Map {
    /// The size in bytes of the part that may be in the lower file. Behind it all data is in the upper file, which is
    /// at least this long.
    limit: u64,
    states: Vec<u8>,
    /// How many of `states` are [`BELOW`].
    missing: usize,
    /// No block before this one is [`BELOW`]: a search for one begins here.
    next: usize,
}

impl Map {
    fn new(limit: u64, states: Vec<u8>) -> Self {
        let missing = states.iter().filter(|state| **state == BELOW).count();
        Self { limit, states, missing, next: 0 }
    }

    /// The run of bytes from `at` that is in one file: true for the upper file, and the offset at which the run ends,
    /// at most `end`.
    fn run(&self, shift: u8, at: u64, end: u64) -> (bool, u64) {
        let state = |at: u64| at >= self.limit || self.states.get(index(at, shift)) != Some(&BELOW);
        let here = state(at);
        let mut to = at;
        while to < end && state(to) == here {
            let next = if to >= self.limit { end } else { ((to >> shift).saturating_add(1)) << shift };
            to = if here || next < self.limit { next } else { next.min(self.limit) };
        }
        (here, to.min(end))
    }

    fn is_complete(&self) -> bool {
        self.missing == 0
    }
}

fn index(at: u64, shift: u8) -> usize {
    usize::try_from(at >> shift).unwrap_or(usize::MAX)
}

impl Blocks {
    /// Opens the record that `mark` names, for the open upper file `file` and the lower file `below`.
    ///
    /// # Errors
    /// `EIO`: no record fits; what the system calls say.
    pub fn open(upper: &Upper, mark: &BlocksMark, file: OwnedFd, below: Arc<OwnedFd>) -> Result<Self> {
        let record = upper.open_record(&mark.record).map_err(|errno| {
            log::warn!("workdir: the record {:?} of a file's blocks: {errno}", mark.record);
            if errno == Errno::ENOENT { Errno::EIO } else { errno }
        })?;
        let mut bytes = [0; Header::LEN];
        data::pread_full(record.as_fd(), &mut bytes, 0)?;
        let header = Header::parse(&bytes).ok().filter(|header| header.shift == mark.shift);
        let header =
            header.ok_or(Errno::EIO).inspect_err(|_| log::warn!("{:?} is no record of blocks", mark.record))?;
        let mut states = vec![BELOW; usize::try_from(header.blocks()).map_err(|_| Errno::EFBIG)?];
        if data::pread_full(record.as_fd(), &mut states, STATES)? < states.len() {
            return Err(Errno::EIO);
        }
        let (boot, size) = (boot_id()?, stat_fd(file.as_fd())?.size);
        let (fsync, boot_is_known) = (upper.fsync, boot != [0; 16]);
        let now = Header { boot, limit: header.limit.min(size), ..header };
        let map = settle_record(record.as_fd(), &header, &now, states, fsync)?;
        let loose = AtomicBool::new(map.states.contains(&HERE));
        Ok(Self { file, below, record, shift: mark.shift, fsync, boot_is_known, loose, map: RwLock::new(map) })
    }

    /// The upper file.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether all blocks are in the upper file.
    pub fn is_complete(&self) -> bool {
        self.map.read().is_complete()
    }

    /// Reads at an offset until the buffer is full or the file ends.
    ///
    /// # Errors
    /// What reading says.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let end = offset.saturating_add(buffer.len() as u64);
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let (here, to) = self.map.read().run(self.shift, at, end);
            let len = usize::try_from(to.saturating_sub(at)).unwrap_or(usize::MAX).min(rest.len());
            let Some(part) = rest.get_mut(..len).filter(|part| !part.is_empty()) else { break };
            let from = if here { &self.file } else { &*self.below };
            let read = data::pread_full(from.as_fd(), part, at)?;
            done += read;
            if read < len {
                if here {
                    break;
                }
                // The lower file is shorter than it was: the rest reads as zeros, as in a copy.
                part.iter_mut().skip(read).for_each(|byte| *byte = 0);
                done += len - read;
            }
        }
        Ok(done)
    }

    /// Writes at an offset; returns how many bytes.
    ///
    /// # Errors
    /// What reading and writing say, if nothing was written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.write_run(offset.saturating_add(done as u64), rest) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn write_run(&self, at: u64, bytes: &[u8]) -> Result<usize> {
        let end = at.checked_add(bytes.len() as u64).ok_or(Errno::EFBIG)?;
        let part = |to: u64| bytes.get(..usize::try_from(to - at).unwrap_or(0)).unwrap_or(bytes);
        {
            let map = self.map.read();
            if let (true, to) = map.run(self.shift, at, end) {
                return data::pwrite(self.file(), part(to), at);
            }
        }
        let mut map = self.map.write();
        match map.run(self.shift, at, end) {
            // Another thread was first.
            (true, to) => data::pwrite(self.file(), part(to), at),
            (false, to) => {
                let (bytes, limit) = (part(to), map.limit);
                self.add(&mut map, at, to, || self.write_new(limit, at, bytes, to))?;
                Ok(bytes.len())
            }
        }
    }

    /// Writes to blocks that are in the lower file. The parts of them that `bytes` does not cover are copied first.
    fn write_new(&self, limit: u64, at: u64, bytes: &[u8], end: u64) -> Result<()> {
        let mask = (1 << self.shift) - 1;
        self.copy(at & !mask, at)?;
        self.copy(end, (end.saturating_add(mask) & !mask).min(limit))?;
        data::pwrite_all(self.file(), bytes, at)
    }

    /// Gets the blocks of a range, all of them [`BELOW`], and records them. If one step fails no block of the range
    /// counts.
    fn add(&self, map: &mut Map, from: u64, to: u64, get: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = get().and_then(|()| self.record(map, from, to));
        if done.is_err() && self.write_states(from, to, BELOW).is_ok() {
            self.give_back(map.limit, from, to);
        }
        done
    }

    fn copy(&self, from: u64, to: u64) -> Result<()> {
        let (mut at, mut in_kernel) = (from, false);
        while at < to {
            match copy_step(self.below.as_fd(), self.file(), at, to - at, &mut in_kernel)? {
                0 => return self.clear(at, to),
                copied => at += copied,
            }
        }
        Ok(())
    }

    /// Fills a range with zeros: an earlier attempt that failed may have left data there.
    fn clear(&self, from: u64, to: u64) -> Result<()> {
        if from >= to || data::fallocate(self.file(), PUNCH, from, to - from).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; 1 << self.shift];
        let mut at = from;
        while at < to {
            let len = (to - at).min(1 << self.shift);
            data::pwrite_all(self.file(), zeros.get(..usize::try_from(len).unwrap_or(0)).unwrap_or(&zeros), at)?;
            at += len;
        }
        Ok(())
    }

    /// Gives back the space of blocks that do not count after all.
    fn give_back(&self, limit: u64, at: u64, end: u64) {
        let mask = (1 << self.shift) - 1;
        let (from, to) = (at & !mask, (end.saturating_add(mask) & !mask).min(limit));
        if let Err(errno) = data::fallocate(self.file(), PUNCH, from, to.saturating_sub(from)) {
            log::debug!("blocks that do not count keep their room: {errno}");
        }
    }

    /// Records that the blocks of a range are in the upper file.
    fn record(&self, map: &mut Map, from: u64, to: u64) -> Result<()> {
        let state = if self.boot_is_known || self.fsync == Fsync::Volatile {
            HERE
        } else {
            data::fdatasync(self.file())?;
            KEPT
        };
        let (first, last) = (index(from, self.shift), index(to.saturating_sub(1), self.shift));
        self.write_states(from, to, state)?;
        for block in map.states.iter_mut().take(last + 1).skip(first) {
            map.missing -= usize::from(std::mem::replace(block, state) == BELOW);
        }
        self.loose.store(true, Relaxed);
        Ok(())
    }

    fn write_states(&self, from: u64, to: u64, state: u8) -> Result<()> {
        let (first, last) = (index(from, self.shift), index(to.saturating_sub(1), self.shift));
        data::pwrite_all(self.record.as_fd(), &vec![state; last - first + 1], STATES + first as u64)
    }

    /// Syncs all data that was written, and records its blocks for good.
    ///
    /// # Errors
    /// `EIO`, `ENOSPC`, `EDQUOT`
    pub fn keep(&self) -> Result<()> {
        if self.fsync == Fsync::Volatile {
            return Ok(());
        }
        let loose = self.loose.swap(false, Relaxed);
        let runs = if loose { runs(&self.map.read().states, HERE) } else { Vec::new() };
        let kept = self.keep_runs(&runs);
        if loose && kept.is_err() {
            self.loose.store(true, Relaxed);
        }
        kept
    }

    fn keep_runs(&self, here: &[(usize, usize)]) -> Result<()> {
        data::fdatasync(self.file())?;
        if here.is_empty() {
            return Ok(());
        }
        {
            let mut map = self.map.write();
            for &(first, len) in here {
                data::pwrite_all(self.record.as_fd(), &vec![KEPT; len], STATES + first as u64)?;
                map.states.iter_mut().skip(first).take(len).for_each(|state| *state = KEPT);
            }
        }
        data::fdatasync(self.record.as_fd())
    }

    /// Whether [`Blocks::keep`] has something to do.
    pub fn is_loose(&self) -> bool {
        self.loose.load(Relaxed)
    }

    /// Copies up to `most` bytes that are still in the lower file, within the first `len` bytes; true: more is left.
    /// Readers see no change, not even in the times.
    ///
    /// # Errors
    /// What reading and writing say.
    pub fn fill(&self, most: u64, len: u64) -> Result<bool> {
        let mut map = self.map.write();
        let end = map.limit.min(len);
        let rest = map.states.get(map.next..).unwrap_or_default();
        let Some(more) = rest.iter().position(|state| *state == BELOW) else { return Ok(false) };
        map.next += more;
        let from = (map.next as u64) << self.shift;
        if from >= end {
            return Ok(false);
        }
        // Whole blocks; the last block of the file may be shorter.
        let most = most.max(1 << self.shift) >> self.shift << self.shift;
        let (limit, bound) = (map.limit, from.saturating_add(most));
        let (_, to) = map.run(self.shift, from, bound.min(limit));
        let before = stat_fd(self.file())?;
        let capability = xattr::get_fd(self.file(), CAPABILITY)?;
        let copied = self.add(&mut map, from, to, || self.copy_run(from, to));
        // Writing has cleared bits of the mode.
        if stat_fd(self.file())?.mode != before.mode {
            tree::chmod_fd(self.file(), before.mode & 0o7777)?;
        }
        if let Some(value) = capability {
            xattr::set_fd(self.file(), CAPABILITY, &value, 0)?;
        }
        tree::utimens_fd(self.file(), [SetTime::At(before.atime), SetTime::At(before.mtime)])?;
        copied.map(|()| !map.is_complete())
    }

    fn copy_run(&self, from: u64, to: u64) -> Result<()> {
        let (mut at, mut in_kernel) = (from, true);
        while at < to {
            let (start, end) = segment(self.below.as_fd(), at, to)?.unwrap_or((to, to));
            self.clear(at, start)?;
            at = start;
            while at < end {
                match copy_step(self.below.as_fd(), self.file(), at, end - at, &mut in_kernel)? {
                    0 => return self.clear(at, to),
                    copied => at += copied,
                }
            }
        }
        Ok(())
    }

    /// Ends the arrival of a file that has all its data, or all up to its new length `cut`: the mark goes. False: the
    /// file was cut but kept the mark, and [`Blocks::seal`] must be called again before the file grows.
    ///
    /// # Errors
    /// What the system calls say; then nothing has changed.
    pub fn seal(&self, upper: &Upper, cut: Option<u64>) -> Result<bool> {
        // The long sync comes before the lock, so that nobody waits for it.
        upper.sync_staged(self.file(), true)?;
        let mut map = self.map.write();
        if let Some(len) = cut {
            data::truncate(self.file(), len)?;
            let blocks = usize::try_from(len.div_ceil(1 << self.shift)).unwrap_or(usize::MAX);
            let mut states = std::mem::take(&mut map.states);
            states.truncate(blocks);
            *map = Map::new(len, states);
        }
        if !map.is_complete() {
            return Err(Errno::EIO);
        }
        match upper.sync_staged(self.file(), true).and_then(|()| upper.clear_metacopy(self.file())) {
            Err(errno) if cut.is_some() => {
                log::info!("a file that was cut is still marked as one whose data is below: {errno}");
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

/// Brings a record up to date for this run of the machine and for the file as it is `now`: blocks that no longer count
/// are written down as [`BELOW`].
fn settle_record(
    record: BorrowedFd<'_>,
    header: &Header,
    now: &Header,
    mut states: Vec<u8>,
    fsync: Fsync,
) -> Result<Map> {
    if now != header {
        let sync = || if fsync == Fsync::Volatile { Ok(()) } else { data::fdatasync(record) };
        if now.boot != header.boot {
            for (first, len) in runs(&states, HERE) {
                data::pwrite_all(record, &vec![BELOW; len], STATES + first as u64)?;
                states.iter_mut().skip(first).take(len).for_each(|state| *state = BELOW);
            }
            sync()?;
        }
        data::pwrite_all(record, &now.encode(), 0)?;
        sync()?;
        states.truncate(usize::try_from(now.blocks()).unwrap_or(usize::MAX));
    }
    Ok(Map::new(now.limit, states))
}

/// The runs of blocks in a state: the first block and the number of blocks of each run.
fn runs(states: &[u8], state: u8) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in states.iter().enumerate().filter(|(_, is)| **is == state).map(|(at, _)| at) {
        match runs.last_mut() {
            Some((first, len)) if *first + *len == at => *len += 1,
            _ => runs.push((at, 1)),
        }
    }
    runs
}

/// A new record, which is removed with the value unless it is kept.
pub struct NewRecord<'a> {
    pub(super) upper: &'a Upper,
    pub(super) name: Option<Name>,
}

impl NewRecord<'_> {
    /// The mark that leads to the record; `shift`: the size of a block in bytes, as a power of two.
    pub fn mark(&self, shift: u8) -> Result<BlocksMark> {
        Ok(BlocksMark { shift, record: self.name.clone().ok_or(Errno::EIO)? })
    }

    /// Lets the record stay.
    pub fn keep(mut self) {
        self.name = None;
    }
}

impl Drop for NewRecord<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.upper.drop_record(name);
        }
    }
}
