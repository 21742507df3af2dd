//! A file's data. Every operation finds the file by its inode, so that opens need not reach the union.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use super::copy_up::CopyUp;
use super::protect::Change;
use super::{Caller, InodeId, SetAttr, Union};
use crate::base::{Errno, Result};
use crate::format::Protattr;
use crate::inode::{DataFd, Inode, LeafBody, LeafObject};
use crate::layer::{Evict, Place};
use crate::sys::data;
use crate::sys::path::OFlags;
use crate::sys::stat::{protection_at, stat_fd};
use crate::upper::clear_privileges;

/// How data is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// Set-user-id and set-group-id end with the write: the writer may not keep them.
    pub kill_privileges: bool,
    /// The data is on disk when the write returns (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// [`Union::may_open_to_write`] has checked that the file may be written.
    pub opened: bool,
    /// Nobody would hear that only a part was written: that is an error. The kernel gives up what it writes back from its
    /// cache, whatever count it is told.
    pub whole: bool,
}

/// One write to a file.
pub(super) struct Write<'a> {
    pub caller: &'a Caller,
    /// Where in the file, in bytes.
    pub offset: u64,
    pub bytes: &'a [u8],
    pub how: WriteHow,
}

/// What `lseek(2)` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next data (`SEEK_DATA`).
    Data,
    /// The next hole (`SEEK_HOLE`).
    Hole,
}

/// The most bytes that one pwrite(2) writes. A file system keeps the data of one call in one piece of its cache, and
/// ext4 goes through the whole piece at each small write into it later: 50,000 writes of 4 KiB into pieces of 1 MiB
/// take 3.4 s, into pieces of 128 KiB 1.5 s.
const WRITE_STEP: usize = 128 << 10;

/// The most bytes that one call copies. A reply carries the count in 32 bits, in which 4 GiB would read as 0.
const MOST_COPIED: u64 = 0xffff_f000;

impl Union {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `EISDIR`, `EACCES` where the process may not read the layer's file, `EIO` …
    pub fn read(&self, id: InodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.again(|| {
            let inode = self.inode(id)?;
            if let Some(blocks) = self.blocks(&inode, inode.file()?)? {
                return blocks.read(offset, buffer);
            }
            let fd = self.data_fd(&inode, false)?;
            data::pread_full(fd.as_fd(), buffer, offset)
        })
    }

    /// The file that holds the data, open for reading; `None`: the data is in more than one file.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn file_to_read(&self, id: InodeId) -> Result<Option<Arc<OwnedFd>>> {
        self.again(|| {
            let inode = self.inode(id)?;
            if self.blocks(&inode, inode.file()?)?.is_some() {
                return Ok(None);
            }
            self.data_fd(&inode, false).map(Some)
        })
    }

    /// Writes at `offset`, after copy-up. Returns how much was written.
    ///
    /// # Errors
    /// `EROFS`, `ENOSPC`, `EDQUOT`, `EFBIG`, `EIO` …; what copy-up says.
    pub fn write(&self, caller: &Caller, id: InodeId, offset: u64, bytes: &[u8], how: WriteHow) -> Result<usize> {
        self.again(|| {
            let inode = self.inode(id)?;
            if !how.opened {
                self.check_writable(&inode, Some(offset))?;
            }
            let mut written = 0;
            loop {
                let bytes = bytes.get(written..).unwrap_or_default();
                let write = Write { caller, offset: offset.saturating_add(written as u64), bytes, how };
                let done = match self.write_blocks(&inode, &write)? {
                    Some(written) => written,
                    None => self.told_if_failed(id, self.write_all(&inode, &write))?,
                };
                written += done;
                // The rest meets what was in the way of it.
                if !how.whole || done == bytes.len() {
                    return Ok(written);
                }
                if done == 0 {
                    return Err(Errno::EIO);
                }
            }
        })
    }

    fn write_all(&self, inode: &Arc<Inode>, write: &Write<'_>) -> Result<usize> {
        let Write { caller, offset, bytes, how } = *write;
        self.copy_up(inode, &CopyUp::written(caller))?;
        let fd = self.data_fd(inode, true)?;
        // An append-only file writes at its end, whatever the offset says.
        if inode.appends() && stat_fd(fd.as_fd())?.size != offset {
            return Err(Errno::EPERM);
        }
        if how.kill_privileges {
            self.end_privileges(caller, inode, fd.as_fd())?;
        }
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            let step = rest.get(..WRITE_STEP).unwrap_or(rest);
            match data::pwrite(fd.as_fd(), step, offset.saturating_add(written as u64)) {
                Ok(0) if written > 0 => break,
                Ok(0) => return Err(Errno::EIO),
                Ok(n) => written += n,
                // The bytes that were written count; the next write meets the error again.
                Err(_) if written > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        if how.sync {
            self.sync_file(inode, inode.leaf()?, true, || data::fdatasync(fd.as_fd()))?;
        }
        Ok(written)
    }

    /// Clears the privileges that a write ends (set-user-id, set-group-id, capabilities) before anything is written.
    /// The file is looked at once, until its mode changes. The kernel asks for this by [`Union::setattr`] first; it is
    /// told that the attributes changed where that answer still had the bits.
    pub(super) fn end_privileges(&self, caller: &Caller, inode: &Inode, file: BorrowedFd<'_>) -> Result<()> {
        let leaf = inode.leaf()?;
        if leaf.has_no_privileges() {
            return Ok(());
        }
        let upper = self.upper()?;
        let cleared = {
            // Not while another thread has it widened, who would give back what goes here.
            let _modes = upper.root.layer.modes.read();
            clear_privileges(file, upper.owners(), &|group| self.owners.is_in(caller, group))?
        };
        if cleared.changed {
            self.attributes_changed(inode.id);
        }
        // Set-group-id can stay for one caller and end with the next.
        if cleared.all {
            leaf.set_no_privileges();
        }
        Ok(())
    }

    /// The descriptor for a change of the data, which ends the privileges that a write ends. `at`: the offset of a
    /// write.
    fn writable(&self, caller: &Caller, inode: &Arc<Inode>, at: Option<u64>) -> Result<Arc<OwnedFd>> {
        self.check_writable(inode, at)?;
        self.copy_up(inode, &CopyUp::written(caller))?;
        let fd = self.data_fd(inode, true)?;
        if !caller.keeps_privileges() {
            self.end_privileges(caller, inode, fd.as_fd())?;
        }
        Ok(fd)
    }

    /// Refuses a change of a file's data that its flags forbid (`EPERM`). `at`: the offset of a write.
    fn check_writable(&self, inode: &Arc<Inode>, at: Option<u64>) -> Result<()> {
        inode.file()?;
        let flags = self.protection(inode)?;
        let at_end = || Ok::<_, Errno>(at.is_some_and(|at| self.attr(inode).is_ok_and(|attr| attr.size == at)));
        if flags.immutable || (flags.append && !at_end()?) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// The descriptor of a file's data as it is now: that of the upper file as soon as there is one.
    pub(super) fn data_fd(&self, inode: &Arc<Inode>, write: bool) -> Result<Arc<OwnedFd>> {
        let leaf = inode.file()?;
        leaf.touch();
        let fd = {
            // Locked while the file is opened, so that a copy-up finds and closes every descriptor of the lower file.
            let mut data = leaf.data().lock();
            if let Some(open) = data.as_ref().filter(|open| open.serves(write)) {
                return Ok(open.fd.clone());
            }
            let has_meta = || leaf.state.lock().meta().is_some();
            let open = || {
                if !write {
                    return self.at_data(inode, leaf, open_to_read);
                }
                // A writer has copied the data up first; a metacopy file is never read through this descriptor.
                self.meta_source(leaf)?;
                if has_meta() { Err(Errno::EIO) } else { self.open_object_to_write(inode, leaf) }
            };
            let opened = match open() {
                Err(Errno::EMFILE | Errno::ENFILE) => {
                    self.fds.evict_all();
                    open()?
                }
                opened => opened?,
            };
            let fd = opened.fd.clone();
            if leaf.state.lock().meta().is_some_and(|meta| meta.blocks.is_some()) {
                // The file has just begun to arrive by blocks: the descriptor serves this call, and is not kept.
                return Ok(fd);
            }
            *data = Some(opened);
            fd
        };
        let holder: Weak<Inode> = Arc::downgrade(inode);
        let holder: Weak<dyn Evict> = holder;
        self.fds.opened(holder);
        Ok(fd)
    }

    fn open_object_to_write(&self, inode: &Inode, leaf: &LeafBody) -> Result<DataFd> {
        self.at_leaf(inode, |object| match open_object(leaf, object, true) {
            Err(Errno::EPERM) => {
                let opened = open_to_append(object)?;
                inode.set_appends(true);
                Ok(opened)
            }
            opened => opened,
        })
    }

    /// Calls `open` with the place and the inode number of the file that holds an inode's data.
    pub(super) fn at_data<T>(
        &self,
        inode: &Inode,
        leaf: &LeafBody,
        open: impl Fn(&Place, u64) -> Result<T>,
    ) -> Result<T> {
        loop {
            if let Some(file) = self.meta_source(leaf)? {
                return open(&file.place, file.stat.ino);
            }
            let opened = self.at_leaf(inode, |object| open(&object.place, object.key.ino))?;
            // A copy-up of the metadata may have come between: that upper file has no data.
            if leaf.state.lock().meta().is_none() {
                return Ok(opened);
            }
        }
    }

    /// Whether the flags of `chattr` let a program open the file for writing. `append`: the program writes at the end
    /// only.
    ///
    /// # Errors
    /// `EPERM`
    pub fn may_open_to_write(&self, id: InodeId, append: bool) -> Result<()> {
        self.again(|| {
            let inode = self.inode(id)?;
            self.check_flags(&inode, if append { Change::Addition } else { Change::Other })?;
            let whole = |leaf: &LeafBody| {
                let state = leaf.state.lock();
                state.upper().is_some() && state.meta().is_none()
            };
            // EPERM of the layer itself is reported here; any other error is left to the write that meets it.
            match inode.file().is_ok_and(whole).then(|| self.data_fd(&inode, true)) {
                Some(Err(Errno::EPERM)) => Err(Errno::EPERM),
                Some(Ok(_)) if inode.appends() && !append => Err(Errno::EPERM),
                _ => Ok(()),
            }
        })
    }

    /// Whether every write to a file goes to its end, whatever the offset. The kernel must not hold such writes back:
    /// it would write other parts of the page again with them.
    pub fn appends(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.appends())
    }

    /// Copies a file up for a program that opens it for writing.
    ///
    /// # Errors
    /// As for [`Union::write`].
    pub fn open_to_write(&self, caller: &Caller, id: InodeId) -> Result<()> {
        self.again(|| {
            let inode = self.inode(id)?;
            inode.file()?;
            self.copy_up(&inode, &CopyUp::data(caller))
        })
    }

    /// Empties a file for a program that opens it with `O_TRUNC`. The kernel learns by itself only that the file is
    /// empty, and is told to ask for the other attributes.
    ///
    /// # Errors
    /// As for [`Union::setattr`].
    pub fn open_to_empty(&self, caller: &Caller, id: InodeId) -> Result<()> {
        self.setattr(caller, id, &SetAttr { size: Some(0), ..SetAttr::default() })?;
        self.attributes_changed(id);
        Ok(())
    }

    /// Whether a read of this part of a file would find all of it in the page cache.
    pub fn is_in_cache(&self, id: InodeId, offset: u64, len: u64) -> bool {
        let fd = self.inode(id).and_then(|inode| self.data_fd(&inode, false));
        fd.is_ok_and(|fd| data::is_in_cache(fd.as_fd(), offset, len))
    }

    /// Whether the file has no upper object: it is as a lower layer has it.
    pub fn is_lower(&self, id: InodeId) -> bool {
        let upper = |inode: &Inode| inode.leaf().is_ok_and(|leaf| leaf.state.lock().upper().is_some());
        self.inode(id).is_ok_and(|inode| !upper(&inode))
    }

    /// The real file behind an inode, where the union has nothing to do for a read or write, now and as long as the
    /// file is open; else `None`.
    pub fn backing(&self, id: InodeId) -> Option<Arc<OwnedFd>> {
        let inode = self.inode(id).ok()?;
        let leaf = inode.file().ok()?;
        if !self.is_writable() {
            return self.data_fd(&inode, false).ok();
        }
        let whole = {
            let state = leaf.state.lock();
            state.upper().is_some() && state.meta().is_none()
        };
        if !whole || inode.protection() != Protattr::default() {
            return None;
        }
        let fd = self.data_fd(&inode, true).ok().filter(|_| !inode.appends())?;
        // Whether a write clears these bits depends on the writer.
        let mode = match self.upper().ok()?.owners() {
            None => stat_fd(fd.as_fd()).map(|stat| stat.mode),
            Some(_) => self.stat_shown(&inode).map(|stat| stat.mode),
        };
        let keeps = mode.is_ok_and(|mode| mode & (libc::S_ISUID | libc::S_ISGID) == 0);
        keeps.then_some(fd)
    }

    /// Reserves, zeroes or frees space (`fallocate(2)`); `mode` as there.
    ///
    /// # Errors
    /// As for write; `EOPNOTSUPP` where the upper layer's file system has no such mode.
    pub fn fallocate(&self, caller: &Caller, id: InodeId, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.again(|| {
            let inode = self.inode(id)?;
            let fd = self.writable(caller, &inode, None);
            let done = fd.and_then(|fd| data::fallocate(fd.as_fd(), mode, offset, len));
            self.told_if_failed(id, done)
        })
    }

    /// The offset of the next data or hole at or after `offset`, in bytes (`lseek(2)`).
    ///
    /// # Errors
    /// `ENXIO` beyond the end.
    pub fn seek(&self, id: InodeId, offset: u64, what: Seek) -> Result<u64> {
        self.again(|| {
            let inode = self.inode(id)?;
            if self.blocks(&inode, inode.file()?)?.is_some() {
                // Two files hold the data: holes are not reported.
                let size = self.attr(&inode)?.size;
                return match what {
                    _ if offset >= size => Err(Errno::ENXIO),
                    Seek::Data => Ok(offset),
                    Seek::Hole => Ok(size),
                };
            }
            let fd = self.data_fd(&inode, false)?;
            let found = match what {
                Seek::Data => data::seek_data(fd.as_fd(), offset)?,
                Seek::Hole => data::seek_hole(fd.as_fd(), offset)?,
            };
            found.ok_or(Errno::ENXIO)
        })
    }

    /// Copies up to `len` bytes between two files without a way through the mount (`copy_file_range(2)`); the upper
    /// layer's file system may share the blocks. Returns how many bytes were copied.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the kernel must copy through its page cache instead; those of [`Union::write`].
    pub fn copy_range(&self, caller: &Caller, from: (InodeId, u64), to: (InodeId, u64), len: u64) -> Result<u32> {
        self.again(|| {
            let (source, target) = (self.inode(from.0)?, self.inode(to.0)?);
            if self.blocks(&source, source.file()?)?.is_some() {
                return Err(Errno::EOPNOTSUPP);
            }
            let done = self.copy_to(caller, (&source, from.1), (&target, to.1), len);
            self.told_if_failed(to.0, done)
        })
    }

    fn copy_to(
        &self,
        caller: &Caller,
        (source, from): (&Arc<Inode>, u64),
        (target, to): (&Arc<Inode>, u64),
        len: u64,
    ) -> Result<u32> {
        let out = self.writable(caller, target, Some(to))?;
        let input = self.data_fd(source, false)?;
        let step = usize::try_from(len.min(MOST_COPIED)).unwrap_or(0);
        let copied = data::copy_range(input.as_fd(), from, out.as_fd(), to, step).map_err(|errno| match errno {
            Errno::EXDEV | Errno::EBADF | Errno::ENOSYS => Errno::EOPNOTSUPP,
            errno => errno,
        })?;
        Ok(u32::try_from(copied).unwrap_or(0))
    }
}

/// Opens the object itself, wherever the data of the inode is.
pub(super) fn open_object(leaf: &LeafBody, object: &LeafObject, write: bool) -> Result<DataFd> {
    if !write {
        return open_to_read(&object.place, object.key.ino);
    }
    if leaf.state.lock().upper().is_none() {
        return Err(Errno::EROFS);
    }
    open_for_write(object)
}

/// Opens an append-only object of the upper layer, which can be opened for writing with `O_APPEND` only.
fn open_to_append(object: &LeafObject) -> Result<DataFd> {
    let LeafObject { place, key } = object;
    if !protection_at(place.dir.fd()?.as_fd(), place.name.as_c_str())?.append {
        return Err(Errno::EPERM);
    }
    let open = |flags| place.open_file(key.ino, flags | OFlags::APPEND);
    let (fd, readable) = match open(OFlags::RDWR) {
        Err(Errno::EACCES) => (open(OFlags::WRONLY)?, false),
        fd => (fd?, true),
    };
    Ok(DataFd { fd: Arc::new(fd), readable, writable: true })
}

pub(super) fn open_to_read(place: &Place, ino: u64) -> Result<DataFd> {
    let (fd, _) = place.open_to_read(ino)?;
    Ok(DataFd { fd: Arc::new(fd), readable: true, writable: false })
}

/// Opens an object of the upper layer for writing, and also for reading if its mode allows that.
pub(super) fn open_for_write(object: &LeafObject) -> Result<DataFd> {
    let open = |flags| object.place.open_file(object.key.ino, flags);
    let data = |fd, readable| DataFd { fd: Arc::new(fd), readable, writable: true };
    match open(OFlags::RDWR) {
        Err(Errno::EACCES) => {}
        fd => return Ok(data(fd?, true)),
    }
    match open(OFlags::WRONLY) {
        Err(Errno::EACCES) => {}
        fd => return Ok(data(fd?, false)),
    }
    // The program opened the file while its mode still allowed that, or made it with this mode: the daemon opens its
    // own file whatever the mode.
    let (dir, name) = (object.place.dir.fd()?, object.place.name.as_c_str());
    let fd = object.place.dir.layer.widened(dir.as_fd(), name, 0o600, || open(OFlags::RDWR))?;
    Ok(data(fd, true))
}
