//! A file's data. Every operation finds the file by its inode: an open need not be seen.

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
use crate::sys::stat::{Stat, protection_at, stat_fd};
use crate::upper::clear_privileges;

/// How a write is to be done.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// The writer has no right to keep set-user-id and set-group-id bits.
    pub kill_privileges: bool,
    /// The data is on disk when it returns (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
    /// Whether the file may be written was asked at [`Union::may_open_to_write`].
    pub opened: bool,
}

/// What `lseek` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next data (`SEEK_DATA`).
    Data,
    /// The next hole (`SEEK_HOLE`).
    Hole,
}

/// What one call writes at most. A file system keeps what comes at once in one piece of its cache, and ext4 looks at all of
/// that at each small write into it later: 50,000 of 4 KiB into what came by 1 MiB take 3.4 s, by 128 KiB 1.5 s.
const WRITE_STEP: usize = 128 << 10;

/// A reply carries the count in 32 bits, and a whole 4 GiB would read as 0.
const MOST_COPIED: u64 = 0xffff_f000;

impl Union {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// `EISDIR`, `EACCES` where the process may not read the layer's file, `EIO` …
    pub fn read(&self, id: InodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.again(|| self.read_once(id, offset, buffer))
    }

    fn read_once(&self, id: InodeId, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let inode = self.inode(id)?;
        if let Some(blocks) = self.blocks(&inode, inode.file()?)? {
            return blocks.read(offset, buffer);
        }
        let fd = self.data_fd(&inode, false)?;
        data::pread_full(fd.as_fd(), buffer, offset)
    }

    /// The file in which the data stands, open for reading; `None` where it is put together from several.
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
        self.again(|| self.write_once(caller, id, offset, bytes, how))
    }

    fn write_once(&self, caller: &Caller, id: InodeId, offset: u64, bytes: &[u8], how: WriteHow) -> Result<usize> {
        let inode = self.inode(id)?;
        if !how.opened {
            self.check_writable(&inode, Some(offset))?;
        }
        if let Some(written) = self.write_blocks(caller, &inode, offset, bytes, how)? {
            return Ok(written);
        }
        let done = self.write_all(caller, &inode, offset, bytes, how);
        self.told_if_failed(id, done)
    }

    fn write_all(
        &self,
        caller: &Caller,
        inode: &Arc<Inode>,
        offset: u64,
        bytes: &[u8],
        how: WriteHow,
    ) -> Result<usize> {
        self.copy_up(inode, &CopyUp::written(caller))?;
        let fd = self.data_fd(inode, true)?;
        // Whatever the offset, such a file writes at its end.
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
                // What is on disk counts; the next write meets the error again.
                Err(_) if written > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        if how.sync {
            self.sync_file(inode, inode.leaf()?, true, || data::fdatasync(fd.as_fd()))?;
        }
        Ok(written)
    }

    /// Clears what a write by who may not keep it ends, before anything is written. Looked at once until the mode changes.
    /// The kernel, which has asked for that before ([`Union::setattr`]), is told where it was answered with the bits.
    pub(super) fn end_privileges(&self, caller: &Caller, inode: &Inode, file: BorrowedFd<'_>) -> Result<()> {
        let leaf = inode.leaf()?;
        if leaf.has_no_privileges() {
            return Ok(());
        }
        let upper = self.upper()?;
        let cleared = {
            // Not while another thread has it widened, who would give back what goes here.
            let _modes = upper.root.layer.modes.read();
            clear_privileges(file, &|group| caller.is_in(group))?
        };
        if cleared.changed {
            self.attributes_changed(inode.id);
        }
        // Set-group-id can stay for one caller and go with the next.
        if cleared.all {
            leaf.set_no_privileges();
        }
        Ok(())
    }

    /// The descriptor for a change of the data, which ends what a write ends; `at` is where something is written.
    fn writable(&self, caller: &Caller, inode: &Arc<Inode>, at: Option<u64>) -> Result<Arc<OwnedFd>> {
        self.check_writable(inode, at)?;
        self.copy_up(inode, &CopyUp::written(caller))?;
        let fd = self.data_fd(inode, true)?;
        if !caller.keeps_privileges() {
            self.end_privileges(caller, inode, fd.as_fd())?;
        }
        Ok(fd)
    }

    /// Whether its data may change.
    fn check_writable(&self, inode: &Arc<Inode>, at: Option<u64>) -> Result<()> {
        inode.file()?;
        let flags = self.protection(inode)?;
        let at_end = || Ok::<_, Errno>(at.is_some_and(|at| self.attr(inode).is_ok_and(|attr| attr.size == at)));
        if flags.immutable || (flags.append && !at_end()?) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// The descriptor of a file's data as it is now: the upper one as soon as there is one.
    pub(super) fn data_fd(&self, inode: &Arc<Inode>, write: bool) -> Result<Arc<OwnedFd>> {
        let leaf = inode.file()?;
        leaf.touch();
        let fd = {
            // Held while opening, so that a copy-up replaces what it finds here for good.
            let mut data = leaf.data().lock();
            if let Some(open) = data.as_ref().filter(|open| open.serves(write)) {
                return Ok(open.fd.clone());
            }
            let has_meta = || leaf.state.lock().meta().is_some();
            let open = || {
                if !write {
                    return self.at_data(inode, leaf, open_to_read);
                }
                // Who writes has seen to it that the data is there; a file without is never read through this.
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
                // It has just begun to arrive by blocks: for whoever was on the way here, and nobody else.
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

    /// Opens where a file's data is read from, by its place and its number there.
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
            // A copy-up of its metadata may just have come between: that file has no data.
            if leaf.state.lock().meta().is_none() {
                return Ok(opened);
            }
        }
    }

    /// Whether a program may open the file for writing, as far as `chattr` has a say in that. `append`: at its end only.
    ///
    /// # Errors
    /// `EPERM`
    pub fn may_open_to_write(&self, id: InodeId, append: bool) -> Result<()> {
        self.again(|| self.may_open_to_write_once(id, append))
    }

    fn may_open_to_write_once(&self, id: InodeId, append: bool) -> Result<()> {
        let inode = self.inode(id)?;
        self.check_flags(&inode, if append { Change::Addition } else { Change::Other })?;
        let whole = |leaf: &LeafBody| {
            let state = leaf.state.lock();
            state.upper().is_some() && state.meta().is_none()
        };
        // What the layer itself forbids is told as soon as it is known, any other error by what meets it.
        match inode.file().is_ok_and(whole).then(|| self.data_fd(&inode, true)) {
            Some(Err(Errno::EPERM)) => Err(Errno::EPERM),
            Some(Ok(_)) if inode.appends() && !append => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    /// Whether what is written to a file goes to its end, wherever it was to go: the kernel must not hold it back, and write
    /// other parts again with it.
    pub fn appends(&self, id: InodeId) -> bool {
        self.inode(id).is_ok_and(|inode| inode.appends())
    }

    /// Copies a file up for a program that opens it for writing.
    ///
    /// # Errors
    /// As for [`Union::write`].
    pub fn open_to_write(&self, caller: &Caller, id: InodeId) -> Result<()> {
        self.again(|| self.open_to_write_once(caller, id))
    }

    fn open_to_write_once(&self, caller: &Caller, id: InodeId) -> Result<()> {
        let inode = self.inode(id)?;
        inode.file()?;
        self.copy_up(&inode, &CopyUp::data(caller))
    }

    /// Empties a file for a program that opens it so (`O_TRUNC`). Of that the kernel sees by itself only that it is empty.
    ///
    /// # Errors
    /// As for [`Union::setattr`].
    pub fn open_to_empty(&self, caller: &Caller, id: InodeId) -> Result<()> {
        self.setattr(caller, id, &SetAttr { size: Some(0), ..SetAttr::default() })?;
        self.attributes_changed(id);
        Ok(())
    }

    /// Whether a read of this part of a file would not wait for a disk.
    pub fn is_in_cache(&self, id: InodeId, offset: u64, len: u64) -> bool {
        let fd = self.inode(id).and_then(|inode| self.data_fd(&inode, false));
        fd.is_ok_and(|fd| data::is_in_cache(fd.as_fd(), offset, len))
    }

    /// Whether the file is what a lower layer has.
    pub fn is_lower(&self, id: InodeId) -> bool {
        let upper = |inode: &Inode| inode.leaf().is_ok_and(|leaf| leaf.state.lock().upper().is_some());
        self.inode(id).is_ok_and(|inode| !upper(&inode))
    }

    /// The file that alone decides what is read and written, and will as long as it lives: nothing is left to do here
    /// for a read or write of it.
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
        // Whose write clears them depends on who writes.
        let keeps = stat_fd(fd.as_fd()).is_ok_and(|stat| stat.mode & (libc::S_ISUID | libc::S_ISGID) == 0);
        keeps.then_some(fd)
    }

    /// Reserves, zeroes or frees space (`fallocate(2)`); `mode` as there.
    ///
    /// # Errors
    /// As for write; `EOPNOTSUPP` where the upper layer's file system has no such mode.
    pub fn fallocate(&self, caller: &Caller, id: InodeId, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.again(|| self.fallocate_once(caller, id, mode, offset, len))
    }

    fn fallocate_once(&self, caller: &Caller, id: InodeId, mode: i32, offset: u64, len: u64) -> Result<()> {
        let inode = self.inode(id)?;
        let fd = self.writable(caller, &inode, None);
        let done = fd.and_then(|fd| data::fallocate(fd.as_fd(), mode, offset, len));
        self.told_if_failed(id, done)
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `ENXIO` beyond the end.
    pub fn seek(&self, id: InodeId, offset: u64, what: Seek) -> Result<u64> {
        self.again(|| self.seek_once(id, offset, what))
    }

    fn seek_once(&self, id: InodeId, offset: u64, what: Seek) -> Result<u64> {
        let inode = self.inode(id)?;
        if self.blocks(&inode, inode.file()?)?.is_some() {
            // Two files hold its data: holes are not told.
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
    }

    /// Copies between files below the mount; blocks are shared where the upper layer's file system can.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the kernel must copy through pages instead; as for write.
    pub fn copy_range(&self, caller: &Caller, from: (InodeId, u64), to: (InodeId, u64), len: u64) -> Result<u32> {
        self.again(|| self.copy_range_once(caller, from, to, len))
    }

    fn copy_range_once(&self, caller: &Caller, from: (InodeId, u64), to: (InodeId, u64), len: u64) -> Result<u32> {
        let (source, target) = (self.inode(from.0)?, self.inode(to.0)?);
        if self.blocks(&source, source.file()?)?.is_some() {
            return Err(Errno::EOPNOTSUPP);
        }
        let done = self.copy_to(caller, (&source, from.1), (&target, to.1), len);
        self.told_if_failed(to.0, done)
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

/// Opens what an inode's object itself has as its data.
pub(super) fn open_object(leaf: &LeafBody, object: &LeafObject, write: bool) -> Result<DataFd> {
    if !write {
        return open_to_read(&object.place, object.key.ino);
    }
    if leaf.state.lock().upper().is_none() {
        return Err(Errno::EROFS);
    }
    open_for_write(object)
}

/// Opens an object of the upper layer that refused to be opened for writing, if that is because it can only grow.
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
    let (fd, _) = open_to_read_once(place, ino)?;
    Ok(DataFd { fd: Arc::new(fd), readable: true, writable: false })
}

/// The same for one read, with its attributes.
pub(super) fn open_to_read_once(place: &Place, ino: u64) -> Result<(OwnedFd, Stat)> {
    // A lower file's time of access stays as it is.
    match place.open_with_stat(ino, OFlags::RDONLY | OFlags::NOATIME) {
        Err(Errno::EPERM) => place.open_with_stat(ino, OFlags::RDONLY),
        opened => opened,
    }
}

/// Opens an object of the upper layer for writing, and reading where that goes.
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
    // Whoever writes had it open when its mode still allowed that (or made it so): the daemon's own file.
    let (dir, name) = (object.place.dir.fd()?, object.place.name.as_c_str());
    let fd = object.place.dir.layer.widened(dir.as_fd(), name, 0o600, || open(OFlags::RDWR))?;
    Ok(data(fd, true))
}
