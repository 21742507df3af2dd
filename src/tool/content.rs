//! The bytes of a file as the view shows them, whichever layers have them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::base::{Errno, Name, Result};
use crate::format::BlocksMark;
use crate::format::blocks::{BELOW, HERE, Header, STATES};
use crate::layer::Place;
use crate::merge::{Data, Found, FoundLeaf, Layers};
use crate::sys::data::{pread_full, pwrite_all, seek_data, truncate};
use crate::sys::ending;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::boot_id;
use crate::sys::stat::Stat;
use crate::upper::{CopyData, copy_data};

/// The directory of the records of blocks, in the work directory (`upper/records.rs`).
const RECORDS: &std::ffi::CStr = c"work/incompat/plyfs.blocks";

/// Bytes of a file in several layers that are copied at once: one that has no others than 0 becomes a hole.
const PART: usize = 4096;

/// With the upper layer or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What the lower layers show.
    Before,
    /// What the view shows.
    After,
}

/// The content of the regular file at a path, and its size in bytes; `None`: there is no regular file.
///
/// # Errors
/// `EINVAL` for a path that is none; what the layers' system calls say.
pub fn read(layers: &Layers, side: Side, path: &std::path::Path) -> Result<Option<(Content, u64)>> {
    let names = path.iter().map(|part| Name::new(part.as_encoded_bytes())).collect::<Result<Vec<_>>>()?;
    let root = if side == Side::Before { layers.below() } else { layers.root.clone() };
    match layers.find(&root, &names)? {
        Some(Found::Leaf(leaf)) if leaf.stat.is_file() => Ok(Some((Content::open(layers, &leaf)?, leaf.stat.size))),
        _ => Ok(None),
    }
}

/// The bytes of an open file.
pub struct Content {
    /// The file that is seen, or the one with its data.
    file: OwnedFd,
    /// Where some of the data is elsewhere.
    parted: Option<Parted>,
}

/// A file of the upper layer of which only blocks were copied.
struct Parted {
    below: OwnedFd,
    /// The size of a block in bytes, as a power of two.
    shift: u8,
    /// The size in bytes of the part of which blocks may be below.
    limit: u64,
    states: Vec<u8>,
}

impl Content {
    /// Opens the data of a regular file.
    ///
    /// # Errors
    /// `EIO` for a record of blocks that fits nothing; what the layers' system calls say.
    pub(super) fn open(layers: &Layers, leaf: &FoundLeaf) -> Result<Self> {
        let (place, stat) = data_of(layers, leaf)?;
        let (data, _) = place.open_to_read(stat.ino)?;
        let Some(mark) = leaf.meta.as_ref().and_then(|meta| meta.blocks.as_ref()) else {
            return Ok(Self { file: data, parted: None });
        };
        let (file, stat) = leaf.place.open_to_read(leaf.stat.ino)?;
        let parted = Parted::read(layers, mark, data, stat.size)?;
        Ok(Self { file, parted: Some(parted) })
    }

    /// Reads at an offset until the buffer is full or the file ends.
    ///
    /// # Errors
    /// `EIO`; `ECANCELED`: somebody has asked for the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        ending::check()?;
        let Some(parted) = &self.parted else { return pread_full(self.file.as_fd(), buffer, offset) };
        let len = pread_full(self.file.as_fd(), buffer, offset)?;
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..len).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            let left = usize::try_from(parted.block_end(at) - at).unwrap_or(usize::MAX).min(rest.len());
            let Some(part) = rest.get_mut(..left).filter(|part| !part.is_empty()) else { break };
            if parted.is_below(at) {
                let read = pread_full(parted.below.as_fd(), part, at)?;
                part.iter_mut().skip(read).for_each(|byte| *byte = 0);
            }
            done += left;
        }
        Ok(len)
    }

    /// Copies all bytes to an empty file, which is `size` bytes long then. Holes stay holes, and blocks are shared where that
    /// can be.
    ///
    /// # Errors
    /// What reading and writing say.
    pub(super) fn copy_to(&self, to: BorrowedFd<'_>, size: u64) -> Result<()> {
        if self.parted.is_none() {
            let how = CopyData { len: size, whole: true, synced: false, interrupt: &|| ending::check().is_err() };
            return copy_data(self.file.as_fd(), to, how).map(drop);
        }
        let mut buffer = vec![0; PART];
        let mut at = 0;
        while at < size {
            let len = self.read_at(at, &mut buffer)?;
            let bytes = buffer.get(..len).filter(|bytes| !bytes.is_empty()).ok_or(Errno::EIO)?;
            if bytes.iter().any(|byte| *byte != 0) {
                pwrite_all(to, bytes, at)?;
            }
            at += len as u64;
        }
        truncate(to, size)
    }

    /// The first offset from `offset` on at which there may be another byte than 0; `None`: there is none.
    pub(super) fn data_from(&self, offset: u64) -> Option<u64> {
        if self.parted.is_some() { Some(offset) } else { data_from(self.file.as_fd(), offset) }
    }
}

/// As [`Content::data_from`]; a file system that knows no holes may have bytes everywhere.
fn data_from(fd: BorrowedFd<'_>, offset: u64) -> Option<u64> {
    seek_data(fd, offset).unwrap_or(Some(offset))
}

impl Parted {
    fn read(layers: &Layers, mark: &BlocksMark, below: OwnedFd, size: u64) -> Result<Self> {
        let work = layers.work.as_ref().ok_or(Errno::EIO)?;
        let dir = open_beneath(work.as_fd(), RECORDS, OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let record = open_beneath(dir.as_fd(), mark.record.as_c_str(), flags)?;
        let mut bytes = [0; Header::LEN];
        pread_full(record.as_fd(), &mut bytes, 0)?;
        let header = Header::parse(&bytes).ok().filter(|header| header.shift == mark.shift).ok_or(Errno::EIO)?;
        let mut states = vec![BELOW; usize::try_from(header.blocks()).map_err(|_| Errno::EFBIG)?];
        if pread_full(record.as_fd(), &mut states, STATES)? < states.len() {
            return Err(Errno::EIO);
        }
        if header.boot != boot_id()? {
            // What was not synced before the machine stopped does not count.
            states.iter_mut().filter(|state| **state == HERE).for_each(|state| *state = BELOW);
        }
        Ok(Self { below, shift: mark.shift, limit: header.limit.min(size), states })
    }

    fn is_below(&self, at: u64) -> bool {
        let state = usize::try_from(at >> self.shift).ok().and_then(|block| self.states.get(block));
        at < self.limit && state == Some(&BELOW)
    }

    /// The end of the block at an offset.
    fn block_end(&self, at: u64) -> u64 {
        if at >= self.limit {
            return u64::MAX;
        }
        (((at >> self.shift) + 1) << self.shift).min(self.limit)
    }
}

/// Where the data of a regular file is, as far as it is in one file.
///
/// # Errors
/// `EIO`: no layer has the data.
pub(super) fn data_of(layers: &Layers, leaf: &FoundLeaf) -> Result<(Place, Stat)> {
    match leaf.meta.as_ref().map(|meta| &meta.data) {
        None => Ok((leaf.place.clone(), leaf.stat)),
        Some(Data::At(file)) => Ok((file.place.clone(), file.stat)),
        Some(Data::Beneath(path)) => layers.stack.find_data(path),
    }
}
