//! A disk that remembers in which order it was written and flushed: one file of a FUSE file system, which the page cache
//! is kept away from, with a loop device on it. The loop device makes an FSYNC of each flush of its disk, and the block
//! layer a write and a flush of each forced write, as a loop device has none.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::common::mount::unmount_any;
use crate::common::served::attributes;
use crate::image::{Event, Image};

const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Contents {
    image: Image,
    log: Option<Vec<Event>>,
}

impl Contents {
    fn log(&mut self, event: Event) {
        if let Some(log) = &mut self.log {
            log.push(event);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.image.write(offset, bytes);
        self.log(Event::Write(offset, Arc::from(bytes)));
    }
}

/// What the kernel sees.
struct OneFile {
    contents: Arc<Mutex<Contents>>,
    size: u64,
}

impl OneFile {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        let (sort, size) =
            if is_file { ((FileType::RegularFile, 0o600), self.size) } else { ((FileType::Directory, 0o700), 0) };
        FileAttr { blocks: 0, ..attributes(ino.0, sort, size, UNIX_EPOCH) }
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_READ);
        Ok(())
    }

    fn lookup(&self, _req: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == NAME {
            reply.entry(&FOREVER, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attr(ino));
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.contents.lock().unwrap().image.read(offset, size as usize);
        reply.data(&bytes);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.contents.lock().unwrap().write(offset, data);
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        self.contents.lock().unwrap().log(Event::Flush);
        reply.ok();
    }

    /// Discards and zeroes.
    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        self.contents.lock().unwrap().write(offset, &vec![0; length as usize]);
        reply.ok();
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

/// A block device whose writes are recorded.
pub struct Disk {
    contents: Arc<Mutex<Contents>>,
    device: PathBuf,
    // In the order in which they go.
    _loop: Loop,
    _served: Served,
}

/// The FUSE mount, and who answers for it; unmounted on Drop.
struct Served {
    at: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Served {
    /// The connection is open in the server's own table of descriptors only: when the test is killed it ends with that
    /// thread, although another one may wait for the disk just then, which nothing else would ever end.
    fn start(file: OneFile, at: &Path) -> Result<Self, String> {
        let (told, said) = channel();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("plyfs-test-disk".into())];
        let mountpoint = at.to_owned();
        let server = move || {
            // SAFETY: the thread has just begun; of the descriptors in its own new table it uses the first three only.
            #[allow(unsafe_code)]
            let apart = unsafe {
                let apart = unshare_unsafe(UnshareFlags::FILES);
                if apart.is_ok() {
                    // Others would hold the file systems of other tests.
                    libc::close_range(3, u32::MAX, 0);
                }
                apart
            };
            let session = apart.map_err(std::io::Error::from).and_then(|()| Session::new(file, &mountpoint, &config));
            match session {
                Ok(session) => {
                    let _ = told.send(Ok(()));
                    let _ = session.spawn().and_then(BackgroundSession::join);
                }
                Err(error) => drop(told.send(Err(format!("no FUSE mount: {error}")))),
            }
        };
        let server = std::thread::Builder::new().name("disk".into()).spawn(server).map_err(|e| e.to_string())?;
        said.recv().map_err(|e| e.to_string())??;
        Ok(Served { at: at.to_owned(), server: Some(server) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if unmount_any(&self.at, false).is_err() {
            let _ = unmount_any(&self.at, true);
        }
        let _ = self.server.take().map(JoinHandle::join);
    }
}

/// The loop device; taken away on Drop.
struct Loop(PathBuf);

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.0).output();
    }
}

impl Disk {
    /// A disk of this size, or why there can be none here; `at` is an empty directory.
    pub fn new(size: u64, at: &Path) -> Result<Self, String> {
        let contents = Arc::<Mutex<Contents>>::default();
        let served = Served::start(OneFile { contents: contents.clone(), size }, at)?;
        let mut losetup = Command::new("losetup");
        let out = losetup.args(["--find", "--show", "--direct-io=on"]).arg(at.join(NAME)).output();
        let out = out.map_err(|_| "no losetup (Debian: mount)")?;
        if !out.status.success() {
            return Err(format!("losetup: {}", String::from_utf8_lossy(&out.stderr).trim()));
        }
        let device = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        Ok(Disk { contents, device: device.clone(), _loop: Loop(device), _served: served })
    }

    /// The block device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Puts this on the disk, which nobody uses meanwhile.
    pub fn load(&self, image: &Image) {
        *self.contents.lock().unwrap() = Contents { image: image.clone(), log: None };
    }

    pub fn image(&self) -> Image {
        self.contents.lock().unwrap().image.clone()
    }

    /// From now on what is written is recorded; what stands there now.
    pub fn record(&self) -> Image {
        let mut contents = self.contents.lock().unwrap();
        contents.log = Some(Vec::new());
        contents.image.clone()
    }

    /// Enters what the test knows.
    pub fn mark(&self, event: Event) {
        self.contents.lock().unwrap().log(event);
    }

    /// What was recorded.
    pub fn recorded(&self) -> Vec<Event> {
        self.contents.lock().unwrap().log.take().unwrap_or_default()
    }
}
