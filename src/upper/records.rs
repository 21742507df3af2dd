//! The directory of the records of blocks: `work/incompat/plyfs.blocks`. It exists as long as it holds a record, and
//! keeps other overlays from mounting the layer.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::blocks::NewRecord;
use super::removal::children;
use super::{Staged, Upper};
use crate::base::config::Fsync;
use crate::base::{Errno, Name, Result};
use crate::format::blocks::{Header, MOST_BLOCKS, STATES};
use crate::format::mark::Mark;
use crate::format::{BlocksMark, Metacopy};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::{boot_id, temp_name};
use crate::sys::{data, tree, xattr};

/// The directory in `work` that keeps other overlays from mounting the layer as long as it holds anything.
pub const INCOMPAT: &CStr = c"incompat";
pub(super) const RECORDS: &CStr = c"plyfs.blocks";
/// The journal of `plyfs apply` (`tool/apply/journal.rs`).
pub const APPLY: &CStr = c"plyfs.apply";
const PATH: &CStr = c"incompat/plyfs.blocks";

fn open_dir(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_beneath(at, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

impl Upper {
    /// Makes the record for a file of `size` bytes of which no block has arrived; `shift`: the size of a block in
    /// bytes, as a power of two.
    ///
    /// # Errors
    /// `EFBIG` for more blocks than a record has; what the system calls say.
    pub fn new_record(&self, shift: u8, size: u64) -> Result<NewRecord<'_>> {
        let header = Header { shift, limit: size, boot: boot_id()? };
        if header.blocks() > MOST_BLOCKS {
            return Err(Errno::EFBIG);
        }
        let name = Name::new(temp_name("")?.to_bytes())?;
        let record = NewRecord { upper: self, name: Some(name.clone()) };
        self.make_record(&name, &header)?;
        Ok(record)
    }

    fn make_record(&self, name: &Name, header: &Header) -> Result<()> {
        // Locked against the removal of the last record, which removes the directory, too.
        let _records = self.records.lock();
        let dir = self.records_dir()?;
        let file = tree::create_at(dir.as_fd(), name.as_c_str(), OFlags::RDWR, 0o600)?;
        data::pwrite_all(file.as_fd(), &header.encode(), 0)?;
        data::truncate(file.as_fd(), STATES + header.blocks())?;
        // Synced before a mark leads to the record.
        self.sync_record(file.as_fd())?;
        self.sync_record(dir.as_fd())
    }

    fn sync_record(&self, fd: BorrowedFd<'_>) -> Result<()> {
        if self.fsync == Fsync::Volatile { Ok(()) } else { data::fsync(fd) }
    }

    /// Opens the directory of the records, or makes it.
    fn records_dir(&self) -> Result<OwnedFd> {
        match open_dir(self.work(), PATH) {
            Err(Errno::ENOENT) => {}
            dir => return dir,
        }
        let make = |at: BorrowedFd<'_>, name: &CStr| match tree::mkdir_at(at, name, 0o700) {
            Err(Errno::EEXIST) | Ok(()) => self.sync_record(open_dir(at, c".")?.as_fd()),
            Err(errno) => Err(errno),
        };
        make(self.work(), INCOMPAT)?;
        make(open_dir(self.work(), INCOMPAT)?.as_fd(), RECORDS)?;
        open_dir(self.work(), PATH)
    }

    /// Whether some file of the layer arrives by blocks.
    pub fn has_records(&self) -> bool {
        open_dir(self.work(), PATH).is_ok()
    }

    pub(super) fn open_record(&self, name: &Name) -> Result<OwnedFd> {
        open_beneath(open_dir(self.work(), PATH)?.as_fd(), name.as_c_str(), OFlags::RDWR)
    }

    /// Removes the record of a file that has all its data, or is gone. The directory goes with the last record.
    pub fn drop_record(&self, name: &Name) {
        let _records = self.records.lock();
        let unlink = || tree::unlink_at(open_dir(self.work(), PATH)?.as_fd(), name.as_c_str());
        let gone = match unlink() {
            Ok(()) | Err(Errno::ENOENT) => drop_dirs(self.work()),
            Err(errno) => Err(errno),
        };
        if let Err(errno) = gone {
            log::warn!("workdir: the record {name:?} of a file's blocks stays: {errno}");
        }
    }

    /// Removes all records; no file may be marked any more.
    ///
    /// # Errors
    /// What the system calls say.
    pub fn drop_records(&self) -> Result<()> {
        let _records = self.records.lock();
        let dir = match open_dir(self.work(), PATH) {
            Err(Errno::ENOENT) => return Ok(()),
            dir => dir?,
        };
        children(dir.as_fd())?.iter().try_for_each(|(name, _)| tree::unlink_at(dir.as_fd(), name))?;
        drop_dirs(self.work())
    }

    /// Marks an open metacopy file of the upper layer as one whose data arrives by blocks. False: there is no room for
    /// the marks. The second of the two marks makes the change, in one call.
    ///
    /// # Errors
    /// `EIO`; what the system calls say.
    pub fn set_blocks(&self, file: BorrowedFd<'_>, mark: &BlocksMark, metacopy: &Metacopy) -> Result<bool> {
        let Some(namespace) = self.namespace() else { return Ok(false) };
        let (blocks, short) = mark.encode(metacopy);
        let to = Staged::Open(file);
        let set = || {
            to.set_xattr(namespace.key(Mark::Blocks), &blocks)?;
            to.set_xattr(namespace.key(Mark::Metacopy), &short)
        };
        let set = super::marks::fits(self.marked_file(file, set));
        if !matches!(set, Ok(Some(()))) {
            self.clear_blocks(file);
        }
        Ok(set?.is_some())
    }

    /// Removes the mark with the name of the record, which means nothing without the mark `metacopy`.
    pub fn clear_blocks(&self, file: BorrowedFd<'_>) {
        let Some(namespace) = self.namespace() else { return };
        let clear = || xattr::remove_fd(file, namespace.key(Mark::Blocks));
        if let Err(errno) = self.marked_file(file, clear) {
            log::debug!("a mark that says nothing stays: {errno}");
        }
    }
}

/// Removes the directory of the records and `incompat`, if they are empty.
pub(super) fn drop_dirs(work: BorrowedFd<'_>) -> Result<()> {
    let unless_used = |removed| match removed {
        Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT) => Ok(()),
        removed => removed,
    };
    let Ok(incompat) = open_dir(work, INCOMPAT) else { return Ok(()) };
    unless_used(tree::rmdir_at(incompat.as_fd(), RECORDS))?;
    unless_used(tree::rmdir_at(work, INCOMPAT))
}
