//! The file system as fuser calls it: each handler translates one request and its answer.
//!
//! Opens are stateless unless the [`DataPath`] says otherwise: OPEN is answered `ENOSYS` once, after which the kernel asks
//! no more, a warm read of a cached file costs no request, and a file is copied up by its first write. So is OPENDIR.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno as FuseErrno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::convert::{attr, caller, decode_dev, errno, id, negative, set_time};
use super::opens::{DataPath, OpenFiles};
use super::prefetch::Prefetch;
use super::probe::{self, Probe};
use super::reply::{Plain, Plus, attributes, empty, written, xattr};
use super::requests::{Op, Requests};
use super::turns::{Turn, Turns};
use super::{init, ioctl};
use crate::base::{Errno, Name, Result};
use crate::union::{self, Caller, Entry, InodeId, Make, Notices, Seek, SetAttr, Union, WriteHow, symlink_target};

/// Never the backing inode's: copy-up would make the kernel's inode bad.
pub(super) const GENERATION: Generation = Generation(0);

/// Serves a [`Union`] to the kernel.
pub struct Adapter {
    union: Arc<Union>,
    timeouts: crate::base::config::Timeouts,
    requests: Arc<Requests>,
    turns: Arc<Turns>,
    data: DataPath,
    open_files: Arc<OpenFiles>,
    probe: Arc<Probe>,
    prefetch: Arc<OnceLock<Prefetch>>,
}

/// The kernel's end of the connection, for what nobody asked.
struct Kernel(Notifier);

impl Notices for Kernel {
    fn names_changed(&self, dir: InodeId) {
        if let Err(error) = self.0.inval_inode(INodeNo(dir.0), 0, 0) {
            log::warn!("the kernel did not drop the listing of directory {}: {error}", dir.0);
        }
    }
}

impl Adapter {
    /// An adapter for this union.
    pub fn new(union: Arc<Union>, data: DataPath) -> Self {
        let (timeouts, turns) = (union.timeouts(), Arc::new(Turns::new()));
        let probe = Arc::new(if data.opens_seen { Probe::default() } else { Probe::new() });
        let (requests, open_files, prefetch) = (Arc::default(), Arc::default(), Arc::default());
        Self { union, timeouts, requests, turns, data, open_files, probe, prefetch }
    }

    /// The counters, for who wants to know while the session runs.
    pub(super) fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// The threads' turns: they begin with the session's descriptor.
    pub(super) fn turns(&self) -> Arc<Turns> {
        self.turns.clone()
    }

    /// The open to begin with.
    pub(super) fn probe(&self) -> Arc<Probe> {
        self.probe.clone()
    }

    /// Who reads ahead, once it is set.
    pub(super) fn prefetch(&self) -> Arc<OnceLock<Prefetch>> {
        self.prefetch.clone()
    }

    /// The union of this adapter.
    pub(super) fn union(&self) -> Arc<Union> {
        self.union.clone()
    }

    /// A request arrived.
    fn begin(&self, op: Op) -> Turn<'_> {
        self.requests.count(op);
        self.turns.begin()
    }

    /// How long the kernel may keep the attributes of an inode.
    fn attr_ttl(&self, ino: INodeNo, mode: Option<u32>) -> Duration {
        let ids = mode.is_none_or(|mode| mode & (libc::S_ISUID | libc::S_ISGID) != 0);
        let unseen = self.data.passthrough && ids && self.open_files.is_through(ino);
        if unseen { Duration::ZERO } else { self.timeouts.attr }
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

    fn created(&self, reply: ReplyCreate, entry: &Entry) {
        let (ttl, shown) = (self.timeouts.entry.min(self.timeouts.attr), attr(&entry.attr));
        if !self.data.opens_seen {
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
            return reply.created(&ttl, &shown, GENERATION, FileHandle(0), flags);
        }
        let (ino, through) = (INodeNo(entry.id.0), self.data.passthrough);
        let opened = self.open_files.open(&self.union, ino, through, |fd| reply.open_backing(fd));
        let (handle, flags) = (opened.handle, opened.flags);
        match &opened.backing {
            Some(backing) => reply.created_passthrough(&ttl, &shown, GENERATION, handle, flags, backing),
            None => reply.created(&ttl, &shown, GENERATION, handle, flags),
        }
    }

    fn make(&self, who: &Caller, parent: INodeNo, name: &OsStr, what: Make<'_>) -> Result<Entry> {
        self.union.make(who, id(parent), &to_name(name)?, what)
    }
}

/// Tells the kernel what the union has to say, from now on.
pub(super) fn connect(union: &Union, notifier: Notifier) {
    union.set_notices(Box::new(Kernel(notifier)));
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

thread_local! {
    /// Read replies are filled here: no allocation for each.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        init::negotiate(&self.union, self.data, config);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.begin(Op::Lookup);
        if let Some(shown) = self.probe.look_up(parent, name) {
            return reply.entry_with_ttls(&probe::VALID, &Duration::ZERO, &shown, GENERATION);
        }
        guard(|| match to_name(name).and_then(|name| self.union.lookup(id(parent), &name)) {
            Ok(Some(entry)) => self.entry(reply, Ok(entry)),
            Ok(None) if self.timeouts.negative.is_zero() => reply.error(errno(Errno::ENOENT)),
            Ok(None) => reply.entry_with_ttls(&Duration::ZERO, &self.timeouts.negative, &negative(), GENERATION),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, lookups: u64) {
        let _turn = self.begin(Op::Forget);
        guard(|| {
            if let Some(prefetch) = self.prefetch.get() {
                prefetch.forget(id(ino));
            }
            self.union.forget(id(ino), lookups);
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.begin(Op::GetAttr);
        let ttl = self.attr_ttl(ino, None);
        guard(|| attributes(reply, ttl, self.union.getattr(id(ino))));
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
        let _turn = self.begin(Op::SetAttr);
        let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        let (who, ino, ttl) = (caller(req, 0), id(ino), self.attr_ttl(ino, mode));
        let long = size != Some(0) && self.union.is_long_copy_up(ino, size.is_some());
        self.run(long, move |union| attributes(reply, ttl, union.setattr(&who, ino, &set)));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let _turn = self.begin(Op::ReadLink);
        guard(|| match self.union.readlink(id(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let _turn = self.begin(Op::MkNod);
        let what = Make::Node { mode, rdev: decode_dev(rdev) };
        guard(|| self.entry(reply, self.make(&caller(req, umask), parent, name, what)));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _turn = self.begin(Op::MkDir);
        let what = Make::Dir { mode: mode & 0o7777 };
        guard(|| self.entry(reply, self.make(&caller(req, umask), parent, name, what)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.begin(Op::Unlink);
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
        let _turn = self.begin(Op::RmDir);
        guard(|| empty(reply, to_name(name).and_then(|name| self.union.rmdir(&caller(req, 0), id(parent), &name))));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _turn = self.begin(Op::Symlink);
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
        let _turn = self.begin(Op::Rename);
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
        let _turn = self.begin(Op::Link);
        let (who, ino, parent) = (caller(req, 0), id(ino), id(new_parent));
        let Ok(name) = to_name(new_name) else { return reply.error(errno(Errno::EINVAL)) };
        let Self { timeouts, .. } = *self;
        self.run(self.union.is_long_copy_up(ino, false), move |union| match union.link(&who, ino, parent, &name) {
            Ok(entry) => reply.entry_with_ttls(&timeouts.attr, &timeouts.entry, &attr(&entry.attr), GENERATION),
            Err(error) => reply.error(errno(error)),
        });
    }

    /// Answered away unless opens are to be seen: the kernel opens files without asking from then on.
    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.begin(Op::Open);
        if !self.data.opens_seen {
            return reply.error(FuseErrno::ENOSYS);
        }
        let (who, data, files) = (caller(req, 0), self.data, self.open_files.clone());
        let (writes, cuts) = (flags.0 & libc::O_ACCMODE != libc::O_RDONLY, flags.0 & libc::O_TRUNC != 0);
        let appends = flags.0 & (libc::O_APPEND | libc::O_TRUNC) == libc::O_APPEND;
        let changes = data.copy_up_at_open && (writes || cuts);
        let long = changes && !cuts && self.union.is_long_copy_up(id(ino), true);
        self.run(long, move |union| {
            let may = if writes { union.may_open_to_write(id(ino), appends) } else { Ok(()) };
            let prepared = match (changes, cuts) {
                _ if may.is_err() => may,
                (false, _) => Ok(()),
                (true, false) => union.open_to_write(&who, id(ino)),
                (true, true) => {
                    union.setattr(&who, id(ino), &SetAttr { size: Some(0), ..SetAttr::default() }).map(drop)
                }
            };
            if let Err(error) = prepared {
                return reply.error(errno(error));
            }
            let opened = files.open(union, ino, data.passthrough, |fd| reply.open_backing(fd));
            match &opened.backing {
                Some(backing) => reply.opened_passthrough(opened.handle, opened.flags, backing),
                None => reply.opened(opened.handle, opened.flags),
            }
        });
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
        let _turn = self.begin(Op::Read);
        guard(|| {
            if let Some(prefetch) = self.prefetch.get() {
                prefetch.read(&self.union, id(ino), offset, size);
            }
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
        let _turn = self.begin(Op::Write);
        let how = WriteHow {
            kill_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            sync: flags.0 & libc::O_DSYNC != 0,
            opened: self.data.opens_seen,
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
        let _turn = self.begin(Op::Flush);
        reply.error(FuseErrno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.begin(Op::Release);
        reply.ok();
        if self.data.opens_seen {
            guard(|| self.open_files.release(ino, fh));
        }
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let _turn = self.begin(Op::FSync);
        let ino = id(ino);
        self.run(self.union.is_writable(), move |union| empty(reply, union.fsync(ino, datasync)));
    }

    /// Answered away, as [`Adapter::open`]: the kernel keeps listings, and is told when to drop one.
    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.begin(Op::OpenDir);
        reply.error(FuseErrno::ENOSYS);
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _turn = self.begin(Op::ReadDir);
        guard(|| match self.union.readdir(id(ino), offset, false, &mut Plain(&mut reply)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let _turn = self.begin(Op::ReadDirPlus);
        let ttl = self.timeouts.entry.min(self.timeouts.attr);
        guard(|| match self.union.readdir(id(ino), offset, true, &mut Plus(&mut reply, ttl, self.prefetch.get())) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let _turn = self.begin(Op::ReleaseDir);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let _turn = self.begin(Op::FSyncDir);
        let ino = id(ino);
        self.run(self.union.is_writable(), move |union| empty(reply, union.fsync(ino, datasync)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _turn = self.begin(Op::StatFs);
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
        let _turn = self.begin(Op::SetXattr);
        let (who, ino, name, value) = (caller(req, 0), id(ino), name.to_owned(), value.to_vec());
        self.run(self.union.is_long_copy_up(ino, false), move |union| {
            empty(reply, union.setxattr(&who, ino, name.as_bytes(), &value, flags.unsigned_abs()));
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.begin(Op::GetXattr);
        guard(|| xattr(reply, size, self.union.getxattr(id(ino), name.as_bytes())));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.begin(Op::ListXattr);
        guard(|| xattr(reply, size, self.union.listxattr(&caller(req, 0), id(ino))));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.begin(Op::RemoveXattr);
        let (who, ino, name) = (caller(req, 0), id(ino), name.to_owned());
        self.run(self.union.is_long_copy_up(ino, false), move |union| {
            empty(reply, union.removexattr(&who, ino, name.as_bytes()));
        });
    }

    /// The kernel checks permissions itself (`default_permissions`); this answers mounts without that.
    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        let _turn = self.begin(Op::Access);
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
        let _turn = self.begin(Op::Create);
        guard(|| {
            let what = Make::File { mode: mode & 0o7777 };
            match self.make(&caller(req, umask), parent, name, what) {
                Ok(entry) => self.created(reply, &entry),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn bmap(&self, _req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        let _turn = self.begin(Op::Bmap);
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
        let _turn = self.begin(Op::Ioctl);
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
        let _turn = self.begin(Op::FAllocate);
        let (who, ino) = (caller(req, 0), id(ino));
        self.run(self.union.is_long_copy_up(ino, true), move |union| {
            empty(reply, union.fallocate(&who, ino, mode, offset, length));
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _turn = self.begin(Op::LSeek);
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
        let _turn = self.begin(Op::CopyRange);
        let who = caller(req, 0);
        let (from, to): ((InodeId, u64), (InodeId, u64)) = ((id(ino_in), offset_in), (id(ino_out), offset_out));
        self.run(len > 1 << 20, move |union| written(reply, union.copy_range(&who, from, to, len)));
    }
}
