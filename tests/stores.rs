//! What `src/fuse/ahead/store.rs` relies on, seen at the kernel: a file system that answers a request when the test says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, SystemTime};

use common::mount::{unmount_any, wait_until};
use common::raw::SharedMap;
use common::served::attributes;
use common::*;
use fuser::{
    Config, Errno as FuseErrno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request,
    Session, SessionACL, WriteFlags,
};
use plyfs::testing::lent::Lent;
use plyfs::testing::mount::{MountRequest, mount_on, open_device, open_mountpoint};
use rustix::fs::OFlags;

const PAGE: usize = 4096;
const SIZE: usize = 3 * PAGE;
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// A request that the test answers.
enum Asked {
    Read(u32, ReplyData),
    Capability(ReplyXattr),
    Write(u32, ReplyWrite),
    SetAttr(ReplyAttr),
}

/// Files of [`SIZE`] bytes whose names are their numbers.
struct Slow(Sender<Asked>);

fn attr(ino: u64) -> FileAttr {
    let (kind, perm, size) =
        if ino == 1 { (FileType::Directory, 0o755, 0) } else { (FileType::RegularFile, 0o644, SIZE as u64) };
    attributes(ino, (kind, perm), size, SystemTime::UNIX_EPOCH)
}

impl Filesystem for Slow {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for flag in [InitFlags::FUSE_HANDLE_KILLPRIV_V2, InitFlags::FUSE_NO_OPEN_SUPPORT] {
            config.add_capabilities(flag).unwrap();
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ino = name.to_str().and_then(|name| name.parse().ok()).unwrap_or(2);
        reply.entry(&FOREVER, &attr(ino), Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &attr(ino.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(FuseErrno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.send(Asked::Read(size, reply)).unwrap();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, reply: ReplyXattr) {
        assert_eq!(name, "security.capability");
        self.0.send(Asked::Capability(reply)).unwrap();
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.send(Asked::Write(u32::try_from(data.len()).unwrap(), reply)).unwrap();
    }

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<fuser::TimeOrNow>,
        _: Option<fuser::TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.0.send(Asked::SetAttr(reply)).unwrap();
    }
}

/// A mount of it.
struct View {
    scratch: Scratch,
    device: OwnedFd,
    asked: Receiver<Asked>,
    files: u64,
}

/// Whether mount(2) may be tried.
fn may_mount() -> bool {
    let may = who() != Who::User;
    if !may {
        println!("not tried: this user may not mount without fusermount3");
    }
    may
}

/// Mounts on `merged` in the scratch directory.
fn mount_in(scratch: &Scratch) -> OwnedFd {
    let at = open_mountpoint(&scratch.dir("merged")).unwrap();
    let device = open_device().unwrap();
    let request = MountRequest {
        source: "slow".into(),
        subtype: "slow".into(),
        flags: Default::default(),
        allow_other: false,
        security: Vec::new(),
    };
    mount_on(at.as_fd(), device.as_fd(), &request).unwrap();
    device
}

impl View {
    /// `None` for who may not mount by mount(2).
    fn new() -> Option<Self> {
        if !may_mount() {
            return None;
        }
        let scratch = Scratch::new();
        let device = mount_in(&scratch);
        let (tell, asked) = channel();
        let session = Session::from_fd(Slow(tell), device.try_clone().unwrap(), SessionACL::All, Config::default());
        let session = session.unwrap();
        thread::spawn(move || session.run());
        Some(Self { scratch, device, asked, files: 1 })
    }

    /// A file that the kernel knows nothing of.
    fn file(&mut self, flags: OFlags) -> (u64, File) {
        self.files += 1;
        let path = self.scratch.path().join("merged").join(self.files.to_string());
        (self.files, rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap().into())
    }

    fn next(&self) -> Asked {
        self.asked.recv_timeout(Duration::from_secs(10)).expect("nothing was asked")
    }

    /// Closes a mapped file, and answers the WRITEs that the kernel makes of it.
    fn write_back(&self, file: File, map: SharedMap) {
        let closed = thread::spawn(move || drop((map, file)));
        while !closed.is_finished() {
            match self.asked.recv_timeout(Duration::from_millis(10)) {
                Ok(Asked::Write(size, reply)) => reply.written(size),
                Ok(Asked::Capability(reply)) => reply.error(FuseErrno::ENODATA),
                _ => {}
            }
        }
    }

    /// Stores a whole file of `o`s.
    fn store(&self, ino: u64, mut lent: Lent) -> JoinHandle<plyfs::Result<()>> {
        lent.room().fill(b'o');
        lent.begin();
        let device = self.device.try_clone().unwrap();
        let word = |n: usize| u32::try_from(n).unwrap().to_ne_bytes();
        let header = [&word(SIZE + 40)[..], &word(4), &[0; 8], &ino.to_ne_bytes(), &[0; 8], &word(SIZE), &[0; 4]];
        let header = header.concat();
        thread::spawn(move || lent.lend(device.as_fd(), &header, 0..SIZE))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let at = self.scratch.path().join("merged");
        // Ends what nobody answers any more: this process would wait for it when it ends, and the kernel's writeback with it.
        let _ = rustix::mount::unmount(&at, rustix::mount::UnmountFlags::FORCE);
        let _ = unmount_any(&at, true);
    }
}

fn ends(thread: &JoinHandle<impl Sized>) -> bool {
    wait_until(|| thread.is_finished())
}

/// The current directory, by which a directory is mounted on, is one for all threads of a process unless something is done.
#[test]
fn mounts_made_at_the_same_time_are_each_where_they_were_asked_for() {
    if !may_mount() {
        return;
    }
    let here = std::env::current_dir().unwrap();
    let mount_often = || {
        for _ in 0..50 {
            let scratch = Scratch::new();
            let device = mount_in(&scratch);
            let at = scratch.path().join("merged");
            let mounts = common::mount::mount_table();
            assert!(mounts.contains(&format!(" {} ", at.display())), "{} is not mounted on", at.display());
            drop(device);
            unmount_any(&at, false).unwrap();
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(mount_often))));
    assert_eq!(std::env::current_dir().unwrap(), here);
}

/// Without calling it back the store does overwrite what the READ brought: what this is about.
#[test]
fn a_store_waits_for_the_pages_of_a_read_and_copies_nothing_after_it_was_called_back() {
    bounded(|| {
        let Some(mut view) = View::new() else { return };
        for called_back in [true, false] {
            let (ino, file) = view.file(OFlags::RDWR);
            let program = thread::spawn(move || {
                let mut map = SharedMap::new(&file, SIZE, true);
                map.put(10, b"new");
                (file, map)
            });
            let Asked::Read(size, reply) = view.next() else { panic!("a mapped page came without a READ") };
            let lent = Lent::new(SIZE).unwrap();
            let recall = lent.recall();
            let store = view.store(ino, lent);
            sleep(Duration::from_millis(100));
            assert!(!store.is_finished(), "the store did not wait for the page");
            if called_back {
                recall.recall().unwrap();
            }
            reply.data(&vec![b'r'; (size as usize).min(SIZE)]);
            let (file, map) = program.join().unwrap();
            let done = store.join().unwrap().map_err(|errno| errno.raw());
            assert_eq!(done, if called_back { Err(libc::EFAULT) } else { Ok(()) });
            assert_eq!(map.get(100, 1), if called_back { b"r" } else { b"o" });
            if called_back {
                assert_eq!(map.get(10, 3), b"new");
            }
            view.write_back(file, map);
        }
    });
}

/// The store ends while the question is open: no page is held yet.
#[test]
fn a_program_that_writes_asks_for_security_capability_before_it_takes_a_page() {
    type Way = (&'static str, OFlags, fn(&File) -> io::Result<usize>);
    const WAYS: [Way; 5] = [
        ("a part of a page", OFlags::WRONLY, |file| file.write_at(b"new", 10)),
        ("whole pages", OFlags::WRONLY, |file| file.write_at(&[b'n'; 2 * PAGE], 0)),
        ("behind the end", OFlags::WRONLY, |file| file.write_at(b"new", 2 * SIZE as u64)),
        ("at the end", OFlags::WRONLY.union(OFlags::APPEND), |file| file.write_at(b"new", 0)),
        ("splice", OFlags::WRONLY, |file| {
            let (read, write) = plyfs::testing::process::pipe()?;
            rustix::io::write(&write, b"new")?;
            Ok(rustix::pipe::splice(read, None, file, Some(&mut 10), 3, rustix::pipe::SpliceFlags::empty())?)
        }),
    ];
    bounded(|| {
        let Some(mut view) = View::new() else { return };
        for (name, flags, write) in WAYS {
            let (ino, file) = view.file(flags);
            let program = thread::spawn(move || write(&file));
            let Asked::Capability(reply) = view.next() else { panic!("{name}: it did not ask") };
            let store = view.store(ino, Lent::new(SIZE).unwrap());
            assert!(ends(&store), "{name}: a page is held");
            store.join().unwrap().unwrap();
            reply.error(FuseErrno::ENODATA);
            let Asked::Write(size, reply) = view.next() else { panic!("{name}: no WRITE") };
            reply.written(size);
            assert_eq!(program.join().unwrap().unwrap(), size as usize, "{name}");
        }
    });
}

/// A store that is called back may still be on its way to a file that a SETATTR cuts; the length is not guarded by a page.
#[test]
fn a_store_makes_a_file_longer_that_is_cut_before_it_begins() {
    bounded(|| {
        let Some(mut view) = View::new() else { return };
        let (ino, file) = view.file(OFlags::RDWR);
        let cut = file.try_clone().unwrap();
        let program = thread::spawn(move || cut.set_len(1));
        loop {
            match view.next() {
                Asked::Capability(reply) => reply.error(FuseErrno::ENODATA),
                Asked::SetAttr(reply) => break reply.attr(&FOREVER, &FileAttr { size: 1, ..attr(ino) }),
                _ => panic!("neither asked for"),
            }
        }
        program.join().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1);
        view.store(ino, Lent::new(SIZE).unwrap()).join().unwrap().unwrap();
        let end = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).unwrap();
        assert_eq!(end, SIZE as u64);
    });
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
