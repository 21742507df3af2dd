//! Copy-up block by block (`copyup_block=`): the first write to a large lower file copies the blocks that it touches, the
//! others follow when they are written to, at a bounded rate in the background, or all at once when something needs the
//! whole file.
//!
//! Such a file is a metacopy file whose mark says that some of its blocks are in the upper layer (`format/blocks.rs`).
//! Reads, writes and syncs go by that mark; everything else that changes or shares the file's data goes through
//! [`Union::copy_up`], which completes the file.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use super::copy_up::{CopyUp, killed};
use super::io::{Write, open_to_read};
use super::{Caller, DirSink, InodeId, Kind, ListedEntry, Live, Union};
use crate::base::sync::{DashMap, Mutex};
use crate::base::{Errno, Name, Result, panics};
use crate::format::Metacopy;
use crate::inode::{Inode, LeafBody, lock_up};
use crate::merge::LowerFile;
use crate::sys::path::OFlags;
use crate::sys::stat::stat_fd;
use crate::sys::{data, tree};
use crate::upper::{Blocks, Temp, Upper, clear_privileges};

/// A file of fewer blocks is copied up whole.
const WORTH_BLOCKS: u64 = 16;
/// Bytes that one step of a completion copies; between two steps others may use the file.
const BATCH: u64 = 4 << 20;
const TICK: Duration = Duration::from_secs(1);
/// Ticks after which written blocks are synced and recorded for good.
const TICKS_TO_KEEP: u32 = 5;

/// What a union knows of files that arrive by blocks.
#[derive(Default)]
pub(super) struct ByBlocks {
    /// The size of a block in bytes, as a power of two; `None`: new files are copied up whole.
    shift: Option<u8>,
    /// Bytes that are copied in the background each second.
    rate: u64,
    /// The files that were read or written.
    live: DashMap<InodeId, Arc<Blocks>>,
    /// Whether a whole copy from the file system with this `st_dev` shares its blocks: such a copy takes less time than
    /// any copy by blocks.
    shares: Mutex<HashMap<u64, bool>>,
    /// How many files began to arrive by blocks.
    begun: AtomicU64,
    /// How many of them had begun when all were last completed.
    completed: AtomicU64,
}

impl ByBlocks {
    /// Closes each file that nobody uses and whose blocks are all recorded for good. Only `live` hands out the values,
    /// so that a file never has two.
    fn close_unused(&self) {
        self.live.retain(|_, blocks| Arc::strong_count(blocks) > 1 || blocks.is_loose());
    }

    /// With the same settings, and nothing live.
    pub fn like(other: &Self) -> Self {
        Self::new(other.shift, other.rate)
    }

    /// `shift`: the size of a block in bytes, as a power of two. `rate`: the bytes that follow in the background each
    /// second.
    pub fn new(shift: Option<u8>, rate: u64) -> Self {
        Self { shift, rate, ..Self::default() }
    }
}

/// The thread that looks after files that arrive by blocks; it ends when the value is dropped.
pub struct Tender {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Tender {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How many files that arrive by blocks were found, by what became of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Completed {
    /// Files that have all their data now.
    pub done: u64,
    /// Files that could not be completed, and directories that could not be read; the log says why.
    pub failed: u64,
}

impl Union {
    /// The blocks of a file that arrives by blocks; `None` for any other file.
    pub(super) fn blocks(&self, inode: &Arc<Inode>, leaf: &LeafBody) -> Result<Option<Arc<Blocks>>> {
        let mark = || leaf.state.lock().meta().and_then(|meta| meta.blocks.clone());
        let known = || self.by_blocks.live.get(&inode.id).map(|blocks| blocks.clone());
        if mark().is_none() {
            return Ok(None);
        }
        if let Some(blocks) = known() {
            return Ok(Some(blocks));
        }
        // Held so that only one thread opens the file.
        let _data = leaf.data().lock();
        let Some(mark) = mark() else { return Ok(None) };
        if let Some(blocks) = known() {
            return Ok(Some(blocks));
        }
        let upper = self.upper.as_ref().ok_or(Errno::EIO)?;
        let source = self.meta_source(leaf)?.ok_or(Errno::EIO)?;
        let open = || Blocks::open(upper, &mark, self.open_whole(inode)?, open_below(&source)?);
        let opened = match open() {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.fds.evict_all();
                self.by_blocks.close_unused();
                open()
            }
            opened => opened,
        };
        let blocks = Arc::new(opened?);
        self.by_blocks.live.insert(inode.id, blocks.clone());
        Ok(Some(blocks))
    }

    /// Opens an upper file for reading and writing, whatever its mode says.
    fn open_whole(&self, inode: &Arc<Inode>) -> Result<OwnedFd> {
        self.at_leaf(inode, |object| {
            let open = || object.place.open_file(object.key.ino, OFlags::RDWR);
            match open() {
                Err(Errno::EACCES) => {
                    let (dir, name) = (object.place.dir.fd()?, object.place.name.as_c_str());
                    object.place.dir.layer.widened(dir.as_fd(), name, 0o600, open)
                }
                fd => fd,
            }
        })
    }

    /// Writes to a file that arrives by blocks, or begins to with this write. `None`: the file is written like any
    /// other.
    pub(super) fn write_blocks(&self, inode: &Arc<Inode>, write: &Write<'_>) -> Result<Option<usize>> {
        let Write { caller, offset, bytes, how } = *write;
        let leaf = inode.leaf()?;
        let Some(blocks) =
            self.blocks(inode, leaf)?.map_or_else(|| self.begin_blocks(caller, inode, leaf), |b| Ok(Some(b)))?
        else {
            return Ok(None);
        };
        if blocks.is_complete() {
            // The file is complete now, and is written like any other.
            self.copy_up(inode, &CopyUp::written(caller))?;
            return Ok(None);
        }
        if how.kill_privileges && !leaf.has_no_privileges() {
            // A background copy of blocks gives the file the mode back that it found: it must not run while the bits
            // are cleared.
            let _up = lock_up(inode, &killed(caller.pid))?;
            self.end_privileges(caller, inode, blocks.file())?;
        }
        let written = blocks.write(offset, bytes)?;
        if how.sync {
            self.sync_file(inode, leaf, true, || blocks.keep())?;
        }
        Ok(Some(written))
    }

    /// Whether the first write to a file copies only the blocks that it touches.
    pub(super) fn is_for_blocks(&self, inode: &Inode, leaf: &LeafBody) -> bool {
        let Some(shift) = self.by_blocks.shift else { return false };
        {
            let state = leaf.state.lock();
            if inode.kind != Kind::File || (state.upper().is_some() && state.meta().is_none()) {
                return false;
            }
        }
        let large = |size: u64| size >> shift >= WORTH_BLOCKS;
        self.at_leaf(inode, |object| object.place.stat()).is_ok_and(|stat| large(stat.size) && stat.nlink == 1)
    }

    /// Makes a lower file or a metacopy file one that arrives by blocks. No block has arrived yet, so that readers see
    /// no change.
    fn begin_blocks(&self, caller: &Caller, inode: &Arc<Inode>, leaf: &LeafBody) -> Result<Option<Arc<Blocks>>> {
        if !self.is_for_blocks(inode, leaf) {
            return Ok(None);
        }
        let upper = self.upper()?;
        self.copy_up(inode, &CopyUp { seen: true, ..CopyUp::metadata(caller) })?;
        {
            let _up = inode.up.lock();
            // There was no room for a mark and the file was copied whole, or another thread has completed it.
            let Some(meta) = leaf.state.lock().meta().cloned() else { return Ok(None) };
            if meta.blocks.is_none() {
                let Some(below) = self.meta_source(leaf)?.filter(|below| !self.shares_blocks(upper, below)) else {
                    return Ok(None);
                };
                let (Some(shift), file) = (self.by_blocks.shift, self.open_whole(inode)?) else { return Ok(None) };
                if below.place.dir.layer.nosuid {
                    clear_privileges(file.as_fd(), upper.owners(), &|_| false)?;
                }
                let below = open_below(&below)?;
                let record = match upper.new_record(shift, stat_fd(file.as_fd())?.size) {
                    Err(Errno::EFBIG) => return Ok(None),
                    record => record?,
                };
                let mark = record.mark(shift)?;
                self.by_blocks.begun.fetch_add(1, SeqCst);
                let blocks = Arc::new(Blocks::open(upper, &mark, file, below)?);
                if !upper.set_blocks(blocks.file(), &mark, &Metacopy { digest: meta.digest })? {
                    return Ok(None);
                }
                record.keep();
                inode.set_loose(true);
                // A descriptor that was opened meanwhile leads to the file below, and must not stay.
                let mut data = leaf.data().lock();
                self.by_blocks.live.insert(inode.id, blocks);
                if let Some(meta) = leaf.state.lock().meta_mut() {
                    meta.blocks = Some(mark);
                }
                *data = None;
            }
        }
        self.blocks(inode, leaf)
    }

    /// Whether a whole copy of a lower file shares its blocks. It is tried once for each file system.
    fn shares_blocks(&self, upper: &Upper, below: &LowerFile) -> bool {
        if let Some(&known) = self.by_blocks.shares.lock().get(&below.stat.dev) {
            return known;
        }
        let tried = (|| {
            let from = below.place.open_file(below.stat.ino, OFlags::RDONLY)?;
            let temp = Temp::new(upper, Kind::File)?;
            let to = tree::create_at(upper.work(), temp.name(), OFlags::RDWR, 0o600)?;
            data::reflink(from.as_fd(), to.as_fd())
        })();
        match tried {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EXDEV | Errno::EINVAL | Errno::ENOTTY) => {
                self.by_blocks.shares.lock().insert(below.stat.dev, tried.is_ok());
            }
            Err(_) => {}
        }
        tried.is_ok()
    }

    /// Gives a file that arrives by blocks the rest of its data, up to the length that `how` cuts it to, and makes it
    /// an ordinary file. True where the file was cut. The caller holds its `up`.
    pub(super) fn complete_blocks(
        &self,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        blocks: &Arc<Blocks>,
        how: &CopyUp,
    ) -> Result<bool> {
        let upper = self.upper()?;
        let cut = how.len.filter(|len| stat_fd(blocks.file()).is_ok_and(|stat| *len < stat.size));
        let killed = how.killed();
        while blocks.fill(BATCH, cut.unwrap_or(u64::MAX))? {
            if killed() {
                return Err(Errno::EINTR);
            }
        }
        if let Some(caller) = how.ends_ids.filter(|_| cut.is_some()) {
            clear_privileges(blocks.file(), upper.owners(), &|group| self.owners.is_in(&caller, group))?;
        }
        if blocks.seal(upper, cut)? {
            inode.set_loose(true);
            let mark = {
                let mut data = leaf.data().lock();
                let mut state = leaf.state.lock();
                let mark = state.meta_mut().and_then(|meta| meta.blocks.take());
                state.set_meta(None);
                *data = None;
                mark
            };
            self.by_blocks.live.remove(&inode.id);
            // The mark is gone from the disk, so that nobody asks for the record that goes now.
            if let (Some(mark), Ok(())) = (mark, upper.sync_staged(blocks.file(), true)) {
                upper.drop_record(&mark.record);
                upper.clear_blocks(blocks.file());
            }
        }
        Ok(cut.is_some())
    }

    /// Ends a file's blocks when its inode is forgotten: they are recorded for good, or the record goes with the file
    /// (`gone`).
    pub(super) fn leave_blocks(&self, inode: &Inode, leaf: &LeafBody, gone: bool) {
        if leaf.state.lock().meta().is_none_or(|meta| meta.blocks.is_none()) {
            return;
        }
        let live = self.by_blocks.live.remove(&inode.id);
        if !gone {
            if let Some((_, blocks)) = live.filter(|(_, blocks)| blocks.is_loose()) {
                keep(&blocks);
            }
            return;
        }
        let mark = leaf.state.lock().meta_mut().and_then(|meta| meta.blocks.take());
        if let (Some(mark), Some(upper)) = (mark, &self.upper) {
            upper.drop_record(&mark.record);
        }
    }

    fn live_blocks(&self) -> Vec<(InodeId, Arc<Blocks>)> {
        self.by_blocks.live.iter().map(|entry| (*entry.key(), entry.value().clone())).collect()
    }

    /// Syncs the blocks that were written, and records them for good.
    fn keep_blocks(&self) {
        self.live_blocks().iter().filter(|(_, blocks)| blocks.is_loose()).for_each(|(_, blocks)| keep(blocks));
    }

    /// Ends the use of this union in order: written blocks are on disk, and files without a name are removed. The kernel
    /// drops what it has not yet handed over of FORGET when the view is unmounted.
    pub fn finish(&self) {
        for (id, _) in self.live_blocks() {
            let Some(inode) = self.table.get(id) else { continue };
            let Ok(leaf) = inode.leaf() else { continue };
            let hidden = leaf.state.lock().is_hidden();
            self.leave_blocks(&inode, leaf, hidden);
        }
        self.upper.iter().for_each(Upper::clear);
    }

    /// Copies up to `most` bytes of the files that were read or written.
    fn fill_some(&self, most: u64) {
        let mut left = most;
        for (id, blocks) in self.live_blocks() {
            let Some(inode) = self.table.get(id) else { continue };
            let Ok(leaf) = inode.leaf() else { continue };
            let before = left;
            while left > 0 && !leaf.state.lock().is_hidden() {
                let _up = inode.up.lock();
                let step = left.min(1 << 20);
                left -= step;
                let how = CopyUp::unasked();
                let done = match blocks.fill(step, u64::MAX) {
                    Ok(true) => continue,
                    Ok(false) if self.by_blocks.live.contains_key(&id) => {
                        self.complete_blocks(&inode, leaf, &blocks, &how)
                    }
                    done => done,
                };
                if let Err(errno) = done {
                    log::info!("a file that arrives by blocks is not completed: {errno}");
                }
                break;
            }
            if left < before {
                // The file's size on disk and its time of change are others now.
                self.attributes_changed(id);
            }
        }
    }

    /// Whether files arrive by blocks, or may.
    fn has_files_by_blocks(&self) -> bool {
        self.by_blocks.shift.is_some() || self.upper.as_ref().is_some_and(Upper::has_records)
    }

    /// Completes every file of the upper layer that arrives by blocks. Once all are complete the kernel's OverlayFS can
    /// mount the layer, too. Nobody else may use the union meanwhile.
    ///
    /// # Errors
    /// `EROFS`
    pub fn complete_all(&self) -> Result<Completed> {
        let mut completed = self.complete_those_there()?;
        if completed.failed == 0
            && !self.holds_blocks()
            && let Err(errno) = self.upper()?.drop_records()
        {
            log::warn!("workdir: records of blocks stay: {errno}");
            completed.failed += 1;
        }
        Ok(completed)
    }

    /// Completes the files that arrive by blocks, those that are open without a name among them. Others may use the union
    /// meanwhile, and begin with further files; or rename one so that it is passed over.
    ///
    /// # Errors
    /// `EROFS`
    pub(super) fn complete_those_there(&self) -> Result<Completed> {
        self.upper()?;
        let begun = self.by_blocks.begun.load(SeqCst);
        let mut completed = Completed::default();
        for inode in self.held_by_blocks() {
            self.complete_one(&inode, &inode.id, &mut completed);
            self.forget(inode.id, 1);
        }
        let mut dirs = vec![InodeId::ROOT];
        while let Some(dir) = dirs.pop() {
            if let Err(errno) = self.complete_in(dir, &mut dirs, &mut completed) {
                log::warn!("a directory is passed over: {errno}");
                completed.failed += 1;
            }
            self.forget(dir, 1);
        }
        if completed.failed == 0 {
            self.by_blocks.completed.store(begun, SeqCst);
        }
        Ok(completed)
    }

    /// Whether no file has begun to arrive by blocks since all of them were completed, and none that somebody holds does.
    pub(super) fn has_no_new_blocks(&self) -> bool {
        self.by_blocks.begun.load(SeqCst) == self.by_blocks.completed.load(SeqCst) && !self.holds_blocks()
    }

    /// The live files that arrive by blocks, each held.
    fn held_by_blocks(&self) -> Vec<Arc<Inode>> {
        let mut files = Vec::new();
        self.table.for_each(&mut |inode| files.extend((inode.kind == Kind::File).then(|| inode.clone())));
        files.retain(|inode| arrives_by_blocks(inode) && self.table.hold(inode));
        files
    }

    fn holds_blocks(&self) -> bool {
        let held = self.held_by_blocks();
        held.iter().for_each(|inode| self.forget(inode.id, 1));
        !held.is_empty()
    }

    fn complete_one(&self, inode: &Arc<Inode>, name: &dyn std::fmt::Debug, completed: &mut Completed) {
        match self.copy_up(inode, &CopyUp::unasked()) {
            Ok(()) => completed.done += 1,
            Err(errno) => {
                log::warn!("{name:?} is not completed: {errno}");
                completed.failed += 1;
            }
        }
    }

    /// Completes the files in one directory, and pushes its subdirectories that have an upper part to `dirs`, each
    /// held.
    fn complete_in(&self, dir: InodeId, dirs: &mut Vec<InodeId>, completed: &mut Completed) -> Result<()> {
        let is_upper = |id| Ok::<_, Errno>(self.inode(id)?.dir()?.view().upper.is_some());
        let mut names = Candidates(Vec::new());
        self.readdir(dir, 0, false, &mut names)?;
        for name in names.0 {
            let Some(entry) = self.lookup(dir, &name)? else { continue };
            if entry.attr.kind == Kind::Dir && is_upper(entry.id)? {
                dirs.push(entry.id);
                continue;
            }
            let inode = self.inode(entry.id)?;
            if arrives_by_blocks(&inode) {
                self.complete_one(&inode, &name, completed);
            }
            self.forget(entry.id, 1);
        }
        Ok(())
    }
}

fn arrives_by_blocks(inode: &Inode) -> bool {
    inode.leaf().is_ok_and(|leaf| leaf.state.lock().meta().is_some_and(|meta| meta.blocks.is_some()))
}

fn open_below(file: &LowerFile) -> Result<Arc<OwnedFd>> {
    open_to_read(&file.place, file.stat.ino).map(|data| data.fd)
}

fn keep(blocks: &Blocks) {
    if let Err(errno) = blocks.keep() {
        log::warn!("what was written by blocks may not outlive a crash of the machine: {errno}");
    }
}

/// Names of directories and files.
struct Candidates(Vec<Name>);

impl DirSink for Candidates {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        if entry.name != b"." && entry.name != b".." {
            self.0.extend(Name::new(entry.name).ok());
        }
        true
    }
}

impl Live {
    /// Starts the thread that records written blocks for good and copies more of them at the rate that was set. `None`:
    /// no file arrives by blocks.
    ///
    /// # Errors
    /// What `pthread_create(3)` says.
    pub fn tend(self: &Arc<Self>) -> std::io::Result<Option<Tender>> {
        if !self.enter().has_files_by_blocks() {
            return Ok(None);
        }
        let (stop, stopped) = channel();
        let (live, rate): (Weak<Self>, _) = (Arc::downgrade(self), self.enter().by_blocks.rate);
        let work = move || {
            let mut tick = 0u32;
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let Some(live) = live.upgrade() else { break };
                let union = live.enter();
                tick = tick.wrapping_add(1);
                panics::caught(|| {
                    if tick.is_multiple_of(TICKS_TO_KEEP) {
                        union.keep_blocks();
                    }
                    if rate > 0 {
                        union.fill_some(rate);
                    }
                });
            }
        };
        let thread = std::thread::Builder::new().name("plyfs-blocks".into()).spawn(work)?;
        Ok(Some(Tender { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Union {
    fn drop(&mut self) {
        if !self.superseded.load(Relaxed) {
            self.finish();
        }
    }
}
