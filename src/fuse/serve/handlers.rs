//! What each request is, as fuser calls it: a translation of the request and of its answer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno as FuseErrno, FileHandle, Filesystem, FopenFlags, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, GENERATION, to_name};
use super::convert::{caller, decode_dev, errno, id, negative, set_time};
use super::reply::{Plain, Plus, attributes, empty, written, xattr};
use super::requests::Op;
use super::{init, ioctl, opens, splice};
use crate::base::{Errno, panics};
use crate::sys::ask;
use crate::union::{self, InodeId, Make, Seek, SetAttr, Union, WriteHow, symlink_target};

thread_local! {
    /// Read replies are filled here: no allocation for each.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = panics::caught(|| self.agreed = init::negotiate(&self.union, self.data, config));
        if agreed { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.serve(req, Op::Lookup, || match to_name(name).and_then(|name| self.union.lookup(id(parent), &name)) {
            Ok(Some(entry)) => self.ttls().entry(reply, Ok(entry)),
            Ok(None) if self.timeouts.negative.is_zero() => reply.error(errno(Errno::ENOENT)),
            Ok(None) => reply.entry_with_ttls(&Duration::ZERO, &self.timeouts.negative, &negative(), GENERATION),
            Err(error) => reply.error(errno(error)),
        });
    }

    /// No turn: they come in batches, in which the thread must not be sent aside.
    fn forget(&self, _req: &Request, ino: INodeNo, lookups: u64) {
        self.requests.count(Op::Forget);
        panics::caught(|| self.forget_one(ino, lookups));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(req, Op::GetAttr, || {
            let ttl = self.attr_ttl(ino, None);
            attributes(reply, ttl, self.union.getattr(id(ino)));
        });
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
        self.serve(req, Op::SetAttr, || {
            if let Err(error) = size.map_or(Ok(()), |_| self.changing(id(ino))) {
                return reply.error(errno(error));
            }
            let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
            let (who, ino, ttl) = (caller(req, 0), id(ino), self.attr_ttl(ino, mode));
            let long = match size {
                Some(0) => self.union.is_in_copy_up(ino),
                size => self.union.is_long_copy_up(ino, size.is_some()),
            };
            let job = move |union: &Union| attributes(reply, ttl, union.setattr(&who, ino, &set));
            if size.is_some() { self.run_after_stores(ino, long, job) } else { self.run(long, job) }
        });
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.serve(req, Op::ReadLink, || match self.union.readlink(id(ino)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        self.serve(req, Op::MkNod, || {
            let what = match mode & libc::S_IFMT {
                libc::S_IFREG => Make::File { mode: mode & 0o7777 },
                _ => Make::Node { mode, rdev: decode_dev(rdev) },
            };
            self.ttls().entry(reply, self.make(&caller(req, umask), parent, name, what));
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.serve(req, Op::MkDir, || {
            let what = Make::Dir { mode: mode & 0o7777 };
            self.ttls().entry(reply, self.make(&caller(req, umask), parent, name, what));
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, Op::Unlink, || {
            let name = match to_name(name) {
                Ok(name) => name,
                Err(error) => return reply.error(errno(error)),
            };
            let (who, parent) = (caller(req, 0), id(parent));
            // A hard link goes into the index first.
            let long = self.union.known(parent, &name).is_some_and(|ino| self.union.is_long_copy_up(ino, false));
            self.run(long, move |union| empty(reply, union.unlink(&who, parent, &name)));
        });
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, Op::RmDir, || {
            empty(reply, to_name(name).and_then(|name| self.union.rmdir(&caller(req, 0), id(parent), &name)));
        });
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.serve(req, Op::Symlink, || {
            let made = symlink_target(target.as_os_str().as_bytes())
                .and_then(|target| self.make(&caller(req, 0), parent, name, Make::Symlink { target: &target }));
            self.ttls().entry(reply, made);
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
        self.serve(req, Op::Rename, || {
            let (Ok(name), Ok(new_name)) = (to_name(name), to_name(new_name)) else {
                return reply.error(errno(Errno::EINVAL));
            };
            let (who, parent, new_parent) = (caller(req, 0), id(parent), id(new_parent));
            let flags = union::RenameFlags::from_bits_retain(flags.bits());
            let long = self.union.known(parent, &name).is_some_and(|ino| self.union.is_long_copy_up(ino, false));
            self.run(long, move |union| {
                empty(reply, union.rename(&who, parent, &name, new_parent, &new_name, flags));
            });
        });
    }

    fn link(&self, req: &Request, ino: INodeNo, new_parent: INodeNo, new_name: &OsStr, reply: ReplyEntry) {
        self.serve(req, Op::Link, || {
            let (who, ino, parent) = (caller(req, 0), id(ino), id(new_parent));
            let Ok(name) = to_name(new_name) else { return reply.error(errno(Errno::EINVAL)) };
            let ttls = self.ttls();
            self.run(self.union.is_long_copy_up(ino, false), move |union| {
                ttls.entry(reply, union.link(&who, ino, parent, &name));
            });
        });
    }

    /// Answered away unless opens are to be seen: the kernel opens files without asking from then on.
    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.serve(req, Op::Open, || {
            match (self.data.opens_seen, self.agreed.no_open) {
                (true, _) => {}
                (false, true) => return reply.error(FuseErrno::ENOSYS),
                (false, false) => return reply.opened(FileHandle(0), opens::cached_flags()),
            }
            let (who, data, files) = (caller(req, 0), self.data, self.open_files.clone());
            let (writes, cuts) = (flags.0 & libc::O_ACCMODE != libc::O_RDONLY, flags.0 & libc::O_TRUNC != 0);
            let appends = flags.0 & (libc::O_APPEND | libc::O_TRUNC) == libc::O_APPEND;
            let changes = data.copy_up_at_open && (writes || cuts);
            let long = match cuts {
                true => changes && self.union.is_in_copy_up(id(ino)),
                false => changes && self.union.is_long_copy_up(id(ino), true),
            };
            self.run(long, move |union| {
                let may = if writes { union.may_open_to_write(id(ino), appends) } else { Ok(()) };
                let prepared = match (changes, cuts) {
                    _ if may.is_err() => may,
                    (false, _) if data.passthrough && writes => union.settle_names(&who, id(ino)),
                    (false, _) => Ok(()),
                    (true, false) => union.open_to_write(&who, id(ino)),
                    (true, true) => union.open_to_empty(&who, id(ino)),
                };
                let synced = data.passthrough && writes && flags.0 & libc::O_DSYNC != 0;
                let prepared = prepared.and_then(|()| if synced { union.sync_loose(id(ino)) } else { Ok(()) });
                if let Err(error) = prepared {
                    return reply.error(errno(error));
                }
                let opened = files.open(union, ino, data.passthrough, |fd| reply.open_backing(fd));
                match &opened.backing {
                    Some(backing) => reply.opened_passthrough(opened.handle, opened.flags, backing),
                    None => reply.opened(opened.handle, opened.flags),
                }
            });
        });
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(req, Op::Read, || {
            if offset == 0 {
                self.relist.read(&self.union, id(ino));
            }
            let prefetched = self.ahead.prefetch.get().map_or(Ok(()), |prefetch| prefetch.read(id(ino), offset, size));
            if let Err(error) = prefetched {
                return reply.error(errno(error));
            }
            if size >= splice::WORTH {
                self.turns.much();
                let (splice, part, begun) = (self.splice.as_ref(), (id(ino), offset, size), Instant::now());
                if splice.is_some_and(|splice| splice.answer(&self.union, req.unique().0, part)) {
                    self.turns.streamed(req.pid(), (size, begun.elapsed()));
                    return std::mem::forget(reply);
                }
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
        self.serve(req, Op::Write, || {
            let how = WriteHow {
                kill_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
                sync: flags.0 & libc::O_DSYNC != 0,
                opened: self.data.writeback,
            };
            let (who, ino) = (caller(req, 0), id(ino));
            if let Err(error) = self.ahead.prefetch.get().map_or(Ok(()), |prefetch| prefetch.writing(ino)) {
                return reply.error(errno(error));
            }
            let count = |bytes| u32::try_from(bytes).unwrap_or(u32::MAX);
            if self.union.is_long_write(ino) {
                let data = data.to_vec();
                self.run(true, move |union| written(reply, union.write(&who, ino, offset, &data, how).map(count)));
            } else {
                written(reply, self.union.write(&who, ino, offset, data, how).map(count));
            }
        });
    }

    /// Nothing is left to do at close(2): the kernel need not ask again.
    fn flush(&self, req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.serve(req, Op::Flush, || {
            reply.error(FuseErrno::ENOSYS);
        });
    }

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.serve(req, Op::Release, || {
            reply.ok();
            if self.data.opens_seen {
                self.open_files.release(ino, fh);
            }
        });
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.serve(req, Op::FSync, || {
            let ino = id(ino);
            self.run(self.union.is_long_sync(ino), move |union| empty(reply, union.fsync(ino, datasync)));
        });
    }

    /// Answered away, as [`Adapter::open`]: the kernel keeps listings, and is told when to drop one.
    fn opendir(&self, req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.serve(req, Op::OpenDir, || {
            match self.agreed.no_opendir {
                true => reply.error(FuseErrno::ENOSYS),
                // Not cached: kernels of that time have not learned all there is to it.
                false => reply.opened(FileHandle(0), FopenFlags::empty()),
            }
        });
    }

    fn readdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.serve(req, Op::ReadDir, || match self.union.readdir(id(ino), offset, false, &mut Plain(&mut reply)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readdirplus(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.serve(req, Op::ReadDirPlus, || {
            let (ino, ttl) = (id(ino), self.timeouts.entry.min(self.timeouts.attr));
            let walk = self.ahead.walk.get();
            if let (Some(walk), 0) = (walk, offset) {
                walk.lists(ino);
            }
            let mut sink = Plus { reply: &mut reply, ttl, adapter: self, dirs: Vec::new() };
            let done = self.union.readdir(ino, offset, true, &mut sink);
            let dirs = sink.dirs;
            // Before the next request can come; the thread is woken when this one is answered.
            let wake = walk.is_some_and(|walk| walk.listed(&dirs));
            match done {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
            if let Some(walk) = walk.filter(|_| wake) {
                walk.wake();
            }
        });
    }

    fn releasedir(&self, req: &Request, _ino: INodeNo, _fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.serve(req, Op::ReleaseDir, || {
            reply.ok();
        });
    }

    fn fsyncdir(&self, req: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        self.serve(req, Op::FSyncDir, || {
            let ino = id(ino);
            self.run(self.union.is_long_sync(ino), move |union| empty(reply, union.fsync(ino, datasync)));
        });
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.serve(req, Op::StatFs, || match self.union.statfs() {
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
        self.serve(req, Op::SetXattr, || {
            let (who, ino, name, value) = (caller(req, 0), id(ino), name.to_owned(), value.to_vec());
            self.run(self.union.is_long_copy_up(ino, false), move |union| {
                empty(reply, union.setxattr(&who, ino, name.as_bytes(), &value, flags.unsigned_abs()));
            });
        });
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.serve(req, Op::GetXattr, || {
            // The kernel asks so before it writes, and does that whatever the answer is.
            let capability = name == "security.capability";
            let (ino, name) = (id(ino), name.to_owned());
            let answer = move |union: &Union| xattr(reply, size, union.getxattr(ino, name.as_bytes()));
            match capability && self.changing(ino).is_err() {
                true => self.run_after_stores(ino, false, answer),
                false => answer(&self.union),
            }
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.serve(req, Op::ListXattr, || {
            xattr(reply, size, self.union.listxattr(&caller(req, 0), id(ino)));
        });
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, Op::RemoveXattr, || {
            let (who, ino, name) = (caller(req, 0), id(ino), name.to_owned());
            self.run(self.union.is_long_copy_up(ino, false), move |union| {
                empty(reply, union.removexattr(&who, ino, name.as_bytes()));
            });
        });
    }

    /// The kernel checks permissions itself (`default_permissions`); this answers mounts without that.
    fn access(&self, req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        self.serve(req, Op::Access, || {
            empty(reply, self.union.getattr(id(ino)).map(drop));
        });
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
        self.serve(req, Op::Create, || {
            if !self.data.opens_seen {
                return reply.error(FuseErrno::ENOSYS);
            }
            let what = Make::File { mode: mode & 0o7777 };
            match self.make(&caller(req, umask), parent, name, what) {
                Ok(entry) => self.created(reply, &entry),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn bmap(&self, req: &Request, _ino: INodeNo, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        self.serve(req, Op::Bmap, || {
            reply.error(FuseErrno::from_i32(libc::ENOTTY));
        });
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
        self.serve(req, Op::Ioctl, || {
            if cmd == ask::COMMAND {
                let told = self.described();
                // Its process: the next daemon tells of itself.
                let stamp = u64::from(std::process::id()) << 32 | told.as_bytes().len() as u64;
                return match ask::piece(in_data, told.as_bytes(), stamp) {
                    Ok(piece) => reply.ioctl(0, &piece),
                    Err(error) => reply.error(errno(error)),
                };
            }
            let (who, ino, data) = (caller(req, 0), id(ino), in_data.to_vec());
            self.run(self.union.is_long_copy_up(ino, false), move |union| {
                match ioctl::answer(union, &who, ino, cmd, &data) {
                    Ok(data) => reply.ioctl(0, &data),
                    Err(error) => reply.error(errno(error)),
                }
            });
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
        self.serve(req, Op::FAllocate, || {
            let (who, ino) = (caller(req, 0), id(ino));
            if let Err(error) = self.changing(ino) {
                return reply.error(errno(error));
            }
            self.run(self.union.is_long_copy_up(ino, true), move |union| {
                empty(reply, union.fallocate(&who, ino, mode, offset, length));
            });
        });
    }

    fn lseek(&self, req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        self.serve(req, Op::LSeek, || {
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
        self.serve(req, Op::CopyRange, || {
            let who = caller(req, 0);
            let (from, to): ((InodeId, u64), (InodeId, u64)) = ((id(ino_in), offset_in), (id(ino_out), offset_out));
            if let Err(error) = self.changing(to.0) {
                return reply.error(errno(error));
            }
            self.run(len > 1 << 20, move |union| written(reply, union.copy_range(&who, from, to, len)));
        });
    }
}
