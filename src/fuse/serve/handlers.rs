//! What each request is, as fuser calls it: a translation of the request and of its answer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno as FuseErrno, FileHandle as Fh, Filesystem, FopenFlags,
    INodeNo as Ino, IoctlFlags, KernelConfig, LockOwner, OpenFlags as Flags, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::adapter::{Adapter, looked_too_early, to_name};
use super::convert::{attr, caller, decode_dev, errno, id, set_time};
use super::reply::{Plain, Plus, answer, done, written, xattr};
use super::requests::Op;
use super::{init, ioctl, opens};
use crate::base::{Errno, ViewGid, ViewUid, panics};
use crate::sys::ask;
use crate::union::{self, Make, Operation, Seek, SetAttr, Union, WriteHow, symlink_target};

type Owner = Option<LockOwner>;

thread_local! {
    /// Read replies are filled here: no allocation for each.
    static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let agreed = panics::caught(|| self.agreed = init::negotiate(&self.live.enter(), self.data, config));
        if agreed { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    fn lookup(&self, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        self.serve(req, Op::Lookup, |union| {
            let found = to_name(name).and_then(|name| union.lookup(id(parent), &name));
            answer(reply, found, |reply, found| self.ttls.found(reply, found));
        });
    }

    /// No turn: they come in batches, in which the thread must not be sent aside.
    fn forget(&self, _: &Request, ino: Ino, lookups: u64) {
        self.requests.count(Op::Forget);
        panics::caught(|| self.forget_one(ino, lookups));
    }

    fn getattr(&self, req: &Request, ino: Ino, _: Option<Fh>, reply: ReplyAttr) {
        self.serve(req, Op::GetAttr, |union| {
            let ttl = self.attr_ttl(ino, None);
            answer(reply, union.getattr(id(ino)), |reply, found| reply.attr(&ttl, &attr(&found)));
        });
    }

    fn setattr(
        &self,
        req: &Request,
        ino: Ino,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<Fh>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.serve(req, Op::SetAttr, |union| {
            let (uid, gid) = (uid.map(ViewUid), gid.map(ViewGid));
            let set = SetAttr { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
            let (who, ttl, ino) = (caller(req, 0), self.attr_ttl(ino, mode), id(ino));
            let operation = size.map_or(Operation::Attributes(ino), |size| Operation::Length(ino, size));
            let tell = move |reply: ReplyAttr, found| reply.attr(&ttl, &attr(&found));
            self.run(union, reply, operation, move |union| union.setattr(&who, ino, &set), tell);
        });
    }

    fn readlink(&self, req: &Request, ino: Ino, reply: ReplyData) {
        self.serve(req, Op::ReadLink, |union| {
            answer(reply, union.readlink(id(ino)), |reply, target| reply.data(&target));
        });
    }

    fn mknod(&self, req: &Request, parent: Ino, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        self.serve(req, Op::MkNod, |union| {
            let what = match mode & libc::S_IFMT {
                libc::S_IFREG => Make::File { mode: mode & 0o7777 },
                _ => Make::Node { mode, rdev: decode_dev(rdev) },
            };
            self.make(union, reply, (req, umask), parent, name, what);
        });
    }

    fn mkdir(&self, req: &Request, parent: Ino, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.serve(req, Op::MkDir, |union| {
            self.make(union, reply, (req, umask), parent, name, Make::Dir { mode: mode & 0o7777 });
        });
    }

    fn unlink(&self, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, Op::Unlink, |union| {
            answer(reply, to_name(name), |reply, name| {
                let (who, parent, operation) =
                    (caller(req, 0), id(parent), Operation::Unname(id(parent), name.clone()));
                self.run(union, reply, operation, move |union| union.unlink(&who, parent, &name), done);
            });
        });
    }

    fn rmdir(&self, req: &Request, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, Op::RmDir, |union| {
            let removed = to_name(name).and_then(|name| union.rmdir(&caller(req, 0), id(parent), &name));
            answer(reply, removed, done);
        });
    }

    fn symlink(&self, req: &Request, parent: Ino, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.serve(req, Op::Symlink, |union| {
            answer(reply, symlink_target(target.as_os_str().as_bytes()), |reply, target| {
                self.make(union, reply, (req, 0), parent, name, Make::Symlink { target: &target });
            });
        });
    }

    fn rename(&self, req: &Request, dir: Ino, name: &OsStr, to: Ino, new: &OsStr, how: RenameFlags, reply: ReplyEmpty) {
        self.serve(req, Op::Rename, |union| {
            let names = to_name(name).and_then(|name| Ok((name, to_name(new)?)));
            answer(reply, names, |reply, (name, new)| {
                let (who, dir, to) = (caller(req, 0), id(dir), id(to));
                let how = union::RenameFlags::from_bits_retain(how.bits());
                let operation = Operation::Unname(dir, name.clone());
                self.run(union, reply, operation, move |union| union.rename(&who, dir, &name, to, &new, how), done);
            });
        });
    }

    fn link(&self, req: &Request, ino: Ino, new_parent: Ino, new_name: &OsStr, reply: ReplyEntry) {
        self.serve(req, Op::Link, |union| {
            answer(reply, to_name(new_name), |reply, name| {
                let (who, ino, parent, ttls) = (caller(req, 0), id(ino), id(new_parent), self.ttls);
                let tell = move |reply, entry| ttls.entry(reply, entry);
                self.run(
                    union,
                    reply,
                    Operation::Attributes(ino),
                    move |union| union.link(&who, ino, parent, &name),
                    tell,
                );
            });
        });
    }

    fn open(&self, req: &Request, ino: Ino, flags: Flags, reply: ReplyOpen) {
        self.serve(req, Op::Open, |union| {
            if !self.data.opens_seen {
                return opens::unseen(reply, self.agreed.no_open);
            }
            let (who, id, how, files) = (caller(req, 0), id(ino), self.data.how(flags), self.open_files.clone());
            let tell = move |reply, ()| files.opened(reply, ino);
            self.run(union, reply, how.operation(id), move |union| union.open_file(&who, id, how), tell);
        });
    }

    fn read(&self, req: &Request, ino: Ino, _: Fh, offset: u64, size: u32, _: Flags, _: Owner, reply: ReplyData) {
        self.serve(req, Op::Read, |union| {
            if let Err(error) = self.ahead.read(id(ino), offset, size) {
                return reply.error(errno(error));
            }
            if self.spliced(union, req, (id(ino), offset, size)) {
                return std::mem::forget(reply);
            }
            BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let Some(room) = buffer.get_mut(..size) else { return };
                let read = union.read(id(ino), offset, room);
                answer(reply, read, |reply, read| reply.data(room.get(..read).unwrap_or_default()));
            });
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: Ino,
        _: Fh,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: Flags,
        _: Owner,
        reply: ReplyWrite,
    ) {
        self.serve(req, Op::Write, |union| {
            let how = WriteHow {
                kill_privileges: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
                sync: flags.0 & libc::O_DSYNC != 0,
                opened: self.data.writeback,
                whole: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            };
            let (who, ino) = (caller(req, 0), id(ino));
            let write = move |union: &Union, data: &[u8]| union.write(&who, ino, offset, data, how);
            self.run_with(union, reply, (Operation::Write(ino), data), write, written);
        });
    }

    /// Nothing is left to do at close(2): the kernel need not ask again.
    fn flush(&self, req: &Request, _: Ino, _: Fh, _: LockOwner, reply: ReplyEmpty) {
        self.serve(req, Op::Flush, |_| reply.error(FuseErrno::ENOSYS));
    }

    fn release(&self, req: &Request, ino: Ino, fh: Fh, _: Flags, _: Owner, _: bool, reply: ReplyEmpty) {
        self.serve(req, Op::Release, |_| {
            reply.ok();
            if self.data.opens_seen {
                self.open_files.release(ino, fh);
            }
        });
    }

    fn fsync(&self, req: &Request, ino: Ino, _: Fh, datasync: bool, reply: ReplyEmpty) {
        self.serve(req, Op::FSync, |union| self.sync(union, reply, id(ino), datasync));
    }

    /// Answered away, as OPEN: the kernel keeps listings, and is told when to drop one.
    fn opendir(&self, req: &Request, _: Ino, _: Flags, reply: ReplyOpen) {
        self.serve(req, Op::OpenDir, |_| match self.agreed.no_opendir {
            true => reply.error(FuseErrno::ENOSYS),
            // Not cached: kernels of that time have not learned all there is to it.
            false => reply.opened(Fh(0), FopenFlags::empty()),
        });
    }

    fn readdir(&self, req: &Request, ino: Ino, _: Fh, offset: u64, mut reply: ReplyDirectory) {
        self.serve(req, Op::ReadDir, |union| {
            let listed = union.readdir(id(ino), offset, false, &mut Plain(&mut reply));
            answer(reply, listed, |reply, ()| reply.ok());
        });
    }

    fn readdirplus(&self, req: &Request, ino: Ino, _: Fh, offset: u64, reply: ReplyDirectoryPlus) {
        self.serve(req, Op::ReadDirPlus, |union| {
            let mut sink = Plus { reply, ttls: self.ttls, listed: self.ahead.listed(id(ino), offset == 0) };
            let listed = union.readdir(id(ino), offset, true, &mut sink);
            sink.listed.end(|| answer(sink.reply, listed, |reply, ()| reply.ok()));
        });
    }

    fn releasedir(&self, req: &Request, _: Ino, _: Fh, _: Flags, reply: ReplyEmpty) {
        self.serve(req, Op::ReleaseDir, |_| reply.ok());
    }

    fn fsyncdir(&self, req: &Request, ino: Ino, _: Fh, datasync: bool, reply: ReplyEmpty) {
        self.serve(req, Op::FSyncDir, |union| self.sync(union, reply, id(ino), datasync));
    }

    fn statfs(&self, req: &Request, _: Ino, reply: ReplyStatfs) {
        self.serve(req, Op::StatFs, |union| {
            answer(reply, union.statfs(), |reply, fs| {
                reply.statfs(fs.blocks, fs.bfree, fs.bavail, fs.files, fs.ffree, fs.bsize, fs.namelen, fs.frsize);
            });
        });
    }

    fn setxattr(&self, req: &Request, ino: Ino, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        self.serve(req, Op::SetXattr, |union| {
            let (who, ino, name, flags) = (caller(req, 0), id(ino), name.to_owned(), flags.unsigned_abs());
            let set = move |union: &Union, value: &[u8]| union.setxattr(&who, ino, name.as_bytes(), value, flags);
            self.run_with(union, reply, (Operation::Attributes(ino), value), set, done);
        });
    }

    fn getxattr(&self, req: &Request, ino: Ino, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.serve(req, Op::GetXattr, |union| {
            let ino = id(ino);
            let before_write = name == "security.capability";
            let operation = if before_write { Operation::LookBeforeWrite(ino) } else { Operation::Look };
            self.run_with(
                union,
                reply,
                (operation, name.as_bytes()),
                move |union, name| union.getxattr(ino, name),
                xattr(size),
            );
        });
    }

    fn listxattr(&self, req: &Request, ino: Ino, size: u32, reply: ReplyXattr) {
        self.serve(req, Op::ListXattr, |union| {
            answer(reply, union.listxattr(&caller(req, 0), id(ino)), xattr(size));
        });
    }

    fn removexattr(&self, req: &Request, ino: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.serve(req, Op::RemoveXattr, |union| {
            let (who, ino) = (caller(req, 0), id(ino));
            let remove = move |union: &Union, name: &[u8]| union.removexattr(&who, ino, name);
            self.run_with(union, reply, (Operation::Attributes(ino), name.as_bytes()), remove, done);
        });
    }

    /// The kernel checks permissions itself (`default_permissions`); this answers mounts without that.
    fn access(&self, req: &Request, ino: Ino, _: AccessFlags, reply: ReplyEmpty) {
        self.serve(req, Op::Access, |union| answer(reply, union.getattr(id(ino)).map(drop), done));
    }

    fn create(&self, req: &Request, dir: Ino, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        self.serve(req, Op::Create, |union| {
            if !self.data.opens_seen {
                return reply.error(FuseErrno::ENOSYS);
            }
            let what = Make::File { mode: mode & 0o7777 };
            let made = to_name(name).and_then(|name| union.make(&caller(req, umask), id(dir), &name, what));
            let made = made.map_err(looked_too_early);
            answer(reply, made, |reply, entry| self.open_files.created(reply, self.ttls, &entry));
        });
    }

    fn bmap(&self, req: &Request, _: Ino, _blocksize: u32, _idx: u64, reply: ReplyBmap) {
        self.serve(req, Op::Bmap, |_| reply.error(FuseErrno::from_i32(libc::ENOTTY)));
    }

    fn ioctl(&self, req: &Request, ino: Ino, _: Fh, _: IoctlFlags, code: u32, data: &[u8], _: u32, reply: ReplyIoctl) {
        self.serve(req, Op::Ioctl, |union| {
            let (who, ino, tell) = (caller(req, 0), id(ino), |reply: ReplyIoctl, data: Vec<u8>| reply.ioctl(0, &data));
            match code {
                ask::COMMAND => return answer(reply, self.describe(union, data), tell),
                ask::STEP => return self.take_step((req, data), reply),
                _ => {}
            }
            let act = move |union: &Union, data: &[u8]| ioctl::answer(union, &who, ino, code, data);
            self.run_with(union, reply, (Operation::Attributes(ino), data), act, tell);
        });
    }

    fn fallocate(&self, req: &Request, ino: Ino, _: Fh, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        self.serve(req, Op::FAllocate, |union| {
            let (who, ino) = (caller(req, 0), id(ino));
            self.run(
                union,
                reply,
                Operation::Data(ino),
                move |union| union.fallocate(&who, ino, mode, offset, length),
                done,
            );
        });
    }

    fn lseek(&self, req: &Request, ino: Ino, _: Fh, offset: i64, whence: i32, reply: ReplyLseek) {
        self.serve(req, Op::LSeek, |union| {
            let what = match whence {
                libc::SEEK_DATA => Ok(Seek::Data),
                libc::SEEK_HOLE => Ok(Seek::Hole),
                _ => Err(Errno::EINVAL),
            };
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO);
            let found = what.and_then(|what| union.seek(id(ino), offset?, what));
            answer(reply, found, |reply, found| reply.offset(i64::try_from(found).unwrap_or(i64::MAX)));
        });
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: Ino,
        _: Fh,
        offset_in: u64,
        ino_out: Ino,
        _: Fh,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.serve(req, Op::CopyRange, |union| {
            let (who, from, to) = (caller(req, 0), (id(ino_in), offset_in), (id(ino_out), offset_out));
            let operation = Operation::CopyInto(to.0, len);
            self.run(union, reply, operation, move |union| union.copy_range(&who, from, to, len), written);
        });
    }
}
