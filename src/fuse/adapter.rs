//! The file system as fuser calls it: each handler translates one request and its answer.
//!
//! Opens are stateless: OPEN is answered `ENOSYS` once, after which the kernel asks no more, a warm read of a cached
//! file costs no request, and a file is copied up by its first write. So is OPENDIR where nothing can change.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno as FuseErrno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{attr, bare, caller, decode_dev, errno, id, kind, negative, set_time};
use super::{init, ioctl};
use crate::base::{Errno, Name, Result};
use crate::union::{
    self, Attr, Caller, DirSink, Entry, InodeId, ListedEntry, Make, Seek, SetAttr, Union, WriteHow, symlink_target,
};

/// Never the backing inode's: copy-up would make the kernel's inode bad.
const GENERATION: Generation = Generation(0);

/// The handle of a directory that was opened with the kernel's cache.
const CACHED: FileHandle = FileHandle(1);

/// Serves a [`Union`] to the kernel.
pub struct Adapter {
    union: Arc<Union>,
    timeouts: crate::base::config::Timeouts,
}

impl Adapter {
    /// An adapter for this union.
    pub fn new(union: Arc<Union>) -> Self {
        let timeouts = union.timeouts();
        Self { union, timeouts }
    }

    /// Runs what may take long (a large copy-up, a sync) on a thread of its own, so that no other request waits for it.
    fn run(&self, long: bool, job: impl FnOnce(&Union) + Send + 'static) {
        if !long {
            return guard(|| job(&self.union));
        }
        let union = self.union.clone();
        let spawned = std::thread::Builder::new().name("plyfs-long".into()).spawn(move || guard(|| job(&union)));
        if let Err(error) = spawned {
            // The reply is dropped with the job: the caller gets EIO.
            log::error!("no thread for a long request: {error}");
        }
    }

    fn entry(&self, reply: ReplyEntry, found: Result<Entry>) {
        match found {
            Ok(entry) => {
                reply.entry_with_ttls(&self.timeouts.attr, &self.timeouts.entry, &attr(&entry.attr), GENERATION)
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn make(&self, who: &Caller, parent: INodeNo, name: &OsStr, what: Make<'_>) -> Result<Entry> {
        self.union.make(who, id(parent), &to_name(name)?, what)
    }
}

/// A bug costs one request, not the mount: the reply that the panic drops answers `EIO`.
fn guard(handle: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handle)).is_err() {
        log::error!("a request ended in a panic and was answered EIO: please report this");
    }
}

fn to_name(name: &OsStr) -> Result<Name> {
    Name::new(name.as_bytes())
}

fn empty(reply: ReplyEmpty, done: Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn attributes(reply: ReplyAttr, ttl: Duration, found: Result<Attr>) {
    match found {
        Ok(found) => reply.attr(&ttl, &attr(&found)),
        Err(error) => reply.error(errno(error)),
    }
}

fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>>) {
    match value {
        Err(error) => reply.error(errno(error)),
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(errno(Errno::ERANGE)),
        Ok(value) => reply.data(&value),
    }
}

fn written(reply: ReplyWrite, done: Result<u32>) {
    match done {
        Ok(bytes) => reply.written(bytes),
        Err(error) => reply.error(errno(error)),
    }
}

/// Entries with attributes.
struct Plus<'a>(&'a mut ReplyDirectoryPlus, Duration);

impl DirSink for Plus<'_> {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        let name = OsStr::from_bytes(entry.name);
        let (found, ttl) = match &entry.attr {
            Some(found) => (attr(found), self.1),
            // Asked again when somebody wants to know.
            None => (bare(entry.id, entry.kind), Duration::ZERO),
        };
        !self.0.add(INodeNo(entry.id.0), entry.cookie, name, &ttl, &found, GENERATION)
    }
}

/// Entries without.
struct Plain<'a>(&'a mut ReplyDirectory);

impl DirSink for Plain<'_> {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        !self.0.add(INodeNo(entry.id.0), entry.cookie, kind(entry.kind), OsStr::from_bytes(entry.name))
    }
}

thread_local! {
    /// Read replies are filled here: no allocation for each.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::negotiate(&self.union, config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guard(|| match to_name(name).and_then(|name| self.union.lookup(id(parent), &name)) {
            Ok(Some(entry)) => self.entry(reply, Ok(entry)),
            Ok(None) if self.timeouts.negative.is_zero() => reply.error(errno(Errno::ENOENT)),
            Ok(None) => reply.entry_with_ttls(&Duration::ZERO, &self.timeouts.negative, &negative(), GENERATION),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, lookups: u64) {
        guard(|| self.union.forget(id(ino), lookups));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        guard(|| attributes(reply, self.timeouts.attr, self.union.getattr(id(ino))));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        let (who, ino, ttl) = (caller(req, 0), id(ino), self.timeouts.attr);
        let long = size != Some(0) && self.union.is_long_copy_up(ino, size.is_some());
        self.run(long, move |union| attributes(reply, ttl, union.setattr(&who, ino, &set)));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        guard(|| match self.union.readlink(id(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let what = Make::Node { mode, rdev: decode_dev(rdev) };
        guard(|| self.entry(reply, self.make(&caller(req, umask), parent, name, what)));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let what = Make::Dir { mode: mode & 0o7777 };
        guard(|| self.entry(reply, self.make(&caller(req, umask), parent, name, what)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = match to_name(name) {
            Ok(name) => name,
            Err(error) => return reply.error(errno(error)),
        };
        let (who, parent) = (caller(req, 0), id(parent));
        // A hard link goes into the index first.
        let long = self.union.known(parent, &name).is_some_and(|ino| self.union.is_long_copy_up(ino, false));
        self.run(long, move |union| empty(reply, union.unlink(&who, parent, &name)));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guard(|| empty(reply, to_name(name).and_then(|name| self.union.rmdir(&caller(req, 0), id(parent), &name))));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guard(|| {
            let made = symlink_target(target.as_os_str().as_bytes())
                .and_then(|target| self.make(&caller(req, 0), parent, name, Make::Symlink { target: &target }));
            self.entry(reply, made);
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (Ok(name), Ok(new_name)) = (to_name(name), to_name(new_name)) else {
            return reply.error(errno(Errno::EINVAL));
        };
        let (who, parent, new_parent) = (caller(req, 0), id(parent), id(new_parent));
        let flags = union::RenameFlags::from_bits_retain(flags.bits());
        let long = self.union.known(parent, &name).is_some_and(|ino| self.union.is_long_copy_up(ino, false));
        self.run(long, move |union| {
            empty(reply, union.rename(&who, parent, &name, new_parent, &new_name, flags));
        });
    }

    fn link(&self, req: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        let (who, ino, parent) = (caller(req, 0), id(ino), id(new_parent));
        let Ok(name) = to_name(new_name) else { return reply.error(errno(Errno::EINVAL)) };
        let Self { timeouts, .. } = *self;
        self.run(self.union.is_long_copy_up(ino, false), move |union| match union.link(&who, ino, parent, &name) {
            Ok(entry) => reply.entry_with_ttls(&timeouts.attr, &timeouts.entry, &attr(&entry.attr), GENERATION),
            Err(error) => reply.error(errno(error)),
        });
    }

    /// Answered away: the kernel opens files without asking from then on.
    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guard(|| {
            BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let Some(room) = buffer.get_mut(..size) else { return };
                match self.union.read(id(ino), offset, room) {
                    Ok(read) => reply.data(room.get(..read).unwrap_or_default()),
                    Err(error) => reply.error(errno(error)),
                }
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let how = WriteHow {
            kill_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            sync: flags.0 & libc::O_DSYNC != 0,
        };
        let (who, ino) = (caller(req, 0), id(ino));
        let count = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.union.is_long_write(ino) {
            let data = data.to_vec();
            self.run(true, move |union| written(reply, union.write(&who, ino, offset, &data, how).map(count)));
        } else {
            guard(|| written(reply, self.union.write(&who, ino, offset, data, how).map(count)));
        }
    }

    /// Nothing is left to do at close(2): the kernel need not ask again.
    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let ino = id(ino);
        self.run(self.union.is_writable(), move |union| empty(reply, union.fsync(ino, datasync)));
    }

    /// Answered away, as [`Adapter::open`], where names cannot change.
    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if !self.union.is_writable() {
            return reply.error(FuseErrno::ENOSYS);
        }
        guard(|| match self.union.opendir(id(ino)) {
            Ok(true) => reply.opened(CACHED, FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE),
            Ok(false) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guard(|| match self.union.readdir(id(ino), offset, false, &mut Plain(&mut reply)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let ttl = self.timeouts.entry.min(self.timeouts.attr);
        guard(|| match self.union.readdir(id(ino), offset, true, &mut Plus(&mut reply, ttl)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn releasedir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        guard(|| empty(reply, if fh == CACHED { self.union.releasedir(id(ino)) } else { Ok(()) }));
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let ino = id(ino);
        self.run(self.union.is_writable(), move |union| empty(reply, union.fsync(ino, datasync)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guard(|| match self.union.statfs() {
            Ok(fs) => reply.statfs(fs.blocks, fs.bfree, fs.bavail, fs.files, fs.ffree, fs.bsize, fs.namelen, fs.frsize),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (who, ino, name, value) = (caller(req, 0), id(ino), name.to_owned(), value.to_vec());
        self.run(self.union.is_long_copy_up(ino, false), move |union| {
            empty(reply, union.setxattr(&who, ino, name.as_bytes(), &value, flags.unsigned_abs()));
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guard(|| xattr(reply, size, self.union.getxattr(id(ino), name.as_bytes())));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guard(|| xattr(reply, size, self.union.listxattr(&caller(req, 0), id(ino))));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, ino, name) = (caller(req, 0), id(ino), name.to_owned());
        self.run(self.union.is_long_copy_up(ino, false), move |union| {
            empty(reply, union.removexattr(&who, ino, name.as_bytes()));
        });
    }

    /// The kernel checks permissions itself (`default_permissions`); this answers mounts without that.
    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        guard(|| empty(reply, self.union.getattr(id(ino)).map(drop)));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        guard(|| {
            let what = Make::File { mode: mode & 0o7777 };
            match self.make(&caller(req, umask), parent, name, what) {
                Ok(entry) => {
                    let ttl = self.timeouts.entry.min(self.timeouts.attr);
                    let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                    reply.created(&ttl, &attr(&entry.attr), GENERATION, FileHandle(0), flags);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        reply.error(FuseErrno::from_i32(libc::ENOTTY));
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let (who, ino, data) = (caller(req, 0), id(ino), in_data.to_vec());
        self.run(self.union.is_long_copy_up(ino, false), move |union| {
            match ioctl::answer(union, &who, ino, cmd, &data) {
                Ok(data) => reply.ioctl(0, &data),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (who, ino) = (caller(req, 0), id(ino));
        self.run(self.union.is_long_copy_up(ino, true), move |union| {
            empty(reply, union.fallocate(&who, ino, mode, offset, length));
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guard(|| {
            let what = match whence {
                libc::SEEK_DATA => Ok(Seek::Data),
                libc::SEEK_HOLE => Ok(Seek::Hole),
                _ => Err(Errno::EINVAL),
            };
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO);
            match what.and_then(|what| self.union.seek(id(ino), offset?, what)) {
                Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let who = caller(req, 0);
        let (from, to): ((InodeId, u64), (InodeId, u64)) = ((id(ino_in), offset_in), (id(ino_out), offset_out));
        self.run(len > 1 << 20, move |union| written(reply, union.copy_range(&who, from, to, len)));
    }
}
