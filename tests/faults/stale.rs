//! A lower layer on a network file system, whose server forgets what its handles were for (`ESTALE`).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, MountOption, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};
use rustix::fs::OFlags;

use crate::common::mount::unmount_any;
use crate::common::served::attributes;
use crate::common::*;
use crate::table::Layers;

/// What the server has: number, the number of the directory that it is in, its name.
const OBJECTS: [(u64, u64, &str, FileType); 4] = [
    (2, 1, "d", FileType::Directory),
    (3, 2, "f", FileType::RegularFile),
    (4, 2, "cut", FileType::RegularFile),
    (5, 2, "link", FileType::Symlink),
];

const SIZE: usize = 3 << 20;

/// What does not change until somebody looks it up again.
#[derive(Default)]
struct State {
    /// These numbers mean nothing to the server until they are looked up by name.
    forgotten: HashSet<u64>,
    /// Nothing means anything to it.
    gone: bool,
}

/// The server, and the client's mount of it.
struct Server(Arc<Mutex<State>>);

impl Server {
    fn is_stale(&self, ino: INodeNo) -> bool {
        let state = self.0.lock().unwrap();
        state.gone || state.forgotten.contains(&ino.0)
    }
}

fn attr(ino: u64) -> FileAttr {
    let kind = OBJECTS.iter().find(|object| object.0 == ino).map_or(FileType::Directory, |object| object.3);
    let (size, perm) = match kind {
        FileType::RegularFile => (SIZE as u64, 0o644),
        FileType::Symlink => (1, 0o777),
        _ => (4096, 0o755),
    };
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    attributes(ino, (kind, perm), size, old)
}

/// What the client may keep is nothing: each request gets to the server.
const TTL: Duration = Duration::ZERO;

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if self.is_stale(parent) {
            return reply.error(fuser::Errno::from_i32(libc::ESTALE));
        }
        match OBJECTS.iter().find(|object| object.1 == parent.0 && name == object.2) {
            Some(object) => {
                self.0.lock().unwrap().forgotten.remove(&object.0);
                reply.entry(&TTL, &attr(object.0), Generation(0));
            }
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if self.is_stale(ino) {
            return reply.error(fuser::Errno::from_i32(libc::ESTALE));
        }
        reply.attr(&TTL, &attr(ino.0));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        if self.is_stale(ino) {
            return reply.error(fuser::Errno::from_i32(libc::ESTALE));
        }
        reply.data(b"f");
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.is_stale(ino) {
            return reply.error(fuser::Errno::from_i32(libc::ESTALE));
        }
        reply.opened(FileHandle(0), fuser::FopenFlags::FOPEN_DIRECT_IO);
    }

    #[allow(clippy::too_many_arguments)]
    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.is_stale(ino) {
            return reply.error(fuser::Errno::from_i32(libc::ESTALE));
        }
        let left = SIZE.saturating_sub(usize::try_from(offset).unwrap());
        reply.data(&vec![b'x'; left.min(size as usize)]);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if self.is_stale(ino) {
            return reply.error(fuser::Errno::from_i32(libc::ESTALE));
        }
        let entries = OBJECTS.iter().enumerate().filter(|(_, object)| object.1 == ino.0);
        for (number, object) in entries.skip_while(|(number, _)| (*number as u64) < offset) {
            if reply.add(INodeNo(object.0), number as u64 + 1, object.3, object.2) {
                break;
            }
        }
        reply.ok();
    }
}

/// Mounted in this process; unmounted on Drop.
struct Remote {
    at: PathBuf,
    state: Arc<Mutex<State>>,
    session: Option<fuser::BackgroundSession>,
}

impl Remote {
    fn mount(at: &Path) -> std::io::Result<Self> {
        let state = Arc::<Mutex<State>>::default();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("remote".into())];
        config.acl = fuser::SessionACL::All;
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(Server(state.clone()), at, &config)?;
        Ok(Remote { at: at.to_owned(), state, session: Some(session) })
    }

    /// The server starts anew: what its clients have open means nothing to it.
    fn restart(&self) {
        self.state.lock().unwrap().forgotten = OBJECTS.iter().map(|object| object.0).collect();
    }

    fn set_gone(&self, gone: bool) {
        self.state.lock().unwrap().gone = gone;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = unmount_any(&self.at, true);
        drop(self.session.take());
    }
}

/// A read or a change, which needs the lower layer.
type Op = (&'static str, fn(&Tree) -> Result<(), Errno>);

const OPS: &[Op] = &[
    ("stat", |t| t.stat("d/f").map(drop)),
    ("lookup of nothing", |t| match t.stat("d/none") {
        Err(Errno::NOENT) => Ok(()),
        other => other.map(drop),
    }),
    ("readdir", |t| t.names("d").map(|names| assert_eq!(names.len(), 3))),
    ("readlink", |t| t.readlink("d/link").map(|target| assert_eq!(target, b"f"))),
    ("read", |t| t.read("d/f").map(|bytes| assert!(bytes == vec![b'x'; SIZE]))),
    ("copy-up by a write", |t| t.pwrite("d/f", 3, b"YY")),
    ("copy-up by a truncate", |t| t.truncate("d/cut", 5)),
    ("unlink", |t| t.unlink("d/link")),
    ("rename", |t| t.rename("d/f", "d/g")),
    ("rename of a directory", |t| t.rename("d", "e")),
];

/// Everything is seen once, so that all is open that will be kept open. Nothing of it is kept by the kernel of the view:
/// each operation gets to the layers.
fn start(scratch: &Scratch) -> Result<(Remote, Layers, Mount), String> {
    let remote = Remote::mount(&scratch.dir("remote")).map_err(|error| format!("no FUSE in this process: {error}"))?;
    let mut layers = Layers::new(&remote.at, scratch.path(), scratch, "plyfs");
    layers.options += ",attr_timeout=0,entry_timeout=0,negative_timeout=0";
    let mount = Mount::try_with(&layers.options, &layers.at, &layers.log)?;
    Ok((remote, layers, mount))
}

#[test]
fn what_a_server_has_forgotten_is_looked_up_once_more() {
    within(60, || {
        let scratch = Scratch::new();
        for (name, op) in OPS {
            let scratch = Scratch::within(scratch.path());
            let (remote, _layers, mount) = match start(&scratch) {
                Ok(started) => started,
                Err(why) => skip!("{why}"),
            };
            let open = mount.open("d/f", OFlags::RDONLY).unwrap();
            mount.names("d").unwrap();
            let mut bytes = [0; 10];
            rustix::io::pread(&open, &mut bytes, 0).unwrap();
            remote.restart();
            assert_eq!(rustix::io::pread(&open, &mut bytes, SIZE as u64 - 5), Ok(5), "before {name}");
            remote.restart();
            assert_eq!(op(&mount), Ok(()), "{name}");
        }
    });
}

#[test]
fn a_server_that_answers_estale_for_good_gives_estale_until_it_is_back() {
    within(60, || {
        let scratch = Scratch::new();
        let (remote, _layers, mount) = match start(&scratch) {
            Ok(started) => started,
            Err(why) => skip!("{why}"),
        };
        mount.mkdir("new", 0o755).unwrap();
        mount.write("new/file", "in the upper layer").unwrap();
        let before = View::of(&mount, Walk::default());
        remote.set_gone(true);
        for (name, op) in OPS {
            assert_eq!(op(&mount), Err(Errno::STALE), "{name}");
        }
        assert_eq!(mount.text("new/file"), "in the upper layer");
        mount.write("new/other", "too").unwrap();
        mount.unlink("new/other").unwrap();
        remote.set_gone(false);
        View::of(&mount, Walk::default()).assert_same(&before, "when it is back");
        for (name, op) in OPS {
            assert_eq!(op(&mount), Ok(()), "{name}, when it is back");
        }
    });
}
