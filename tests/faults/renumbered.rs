//! Layers on a file system that makes inode numbers up, for as long as it remembers an object at most: what is open or known
//! goes on to be what its name leads to, as in the kernel's OverlayFS.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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

/// What there is: its place here, that of its directory, and its name.
const OBJECTS: [(u64, u64, &str, FileType); 7] = [
    (1, 0, "", FileType::Directory),
    (2, 1, "d", FileType::Directory),
    (3, 2, "f", FileType::RegularFile),
    (4, 2, "link", FileType::Symlink),
    (5, 2, "sub", FileType::Directory),
    (6, 5, "deep", FileType::RegularFile),
    (7, 1, "script", FileType::RegularFile),
];
const SCRIPT: &[u8] = b"#!/bin/sh\nexit 7\n";
const SIZE: usize = 200_000;

/// A server that gives an object another number at each look-up, and knows it by all of them. It asks to be asked each time.
#[derive(Default)]
struct Server {
    looked_up: AtomicU64,
}

/// The place of the object that a number stands for.
fn object(ino: u64) -> u64 {
    ino & 0xff
}

fn content(object: u64) -> Vec<u8> {
    match object {
        7 => SCRIPT.to_vec(),
        object => vec![b'a' + u8::try_from(object).unwrap(); SIZE],
    }
}

fn attr(ino: u64) -> FileAttr {
    let kind = OBJECTS[usize::try_from(object(ino)).unwrap() - 1].3;
    let (size, perm) = match kind {
        FileType::RegularFile => (content(object(ino)).len() as u64, 0o755),
        FileType::Symlink => (1, 0o777),
        _ => (4096, 0o755),
    };
    attributes(ino, (kind, perm), size, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000))
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match OBJECTS.iter().find(|found| found.1 == object(parent.0) && name == found.2) {
            Some(found) => {
                let number = self.looked_up.fetch_add(1, Relaxed) + 1;
                reply.entry(&Duration::ZERO, &attr(number << 8 | found.0), Generation(0));
            }
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &attr(ino.0));
    }

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.data(b"f");
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), fuser::FopenFlags::empty());
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
        let content = content(object(ino.0));
        let from = content.len().min(usize::try_from(offset).unwrap());
        reply.data(&content[from..content.len().min(from + size as usize)]);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = OBJECTS.iter().enumerate().filter(|(_, found)| found.1 == object(ino.0));
        for (at, found) in entries.skip_while(|(at, _)| (*at as u64) < offset) {
            if reply.add(INodeNo(found.0), at as u64 + 1, found.3, found.2) {
                break;
            }
        }
        reply.ok();
    }
}

/// Mounted in this process; unmounted on Drop.
struct Served(PathBuf, Option<fuser::BackgroundSession>);

impl Served {
    fn mount(at: &Path) -> std::io::Result<Self> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("renumbers".into())];
        config.acl = fuser::SessionACL::All;
        config.n_threads = Some(2);
        Ok(Served(at.to_owned(), Some(fuser::spawn_mount(Server::default(), at, &config)?)))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = unmount_any(&self.0, true);
        drop(self.1.take());
    }
}

/// What a program does with such a layer, by names and by what it has open.
type Op = (&'static str, fn(&Tree));

const OPS: &[Op] = &[
    ("stat", |t| assert_eq!(t.stat("d/sub/deep").unwrap().st_ino, t.stat("d/sub/deep").unwrap().st_ino)),
    ("readdir", |t| assert_eq!(t.names("d").unwrap(), ["f", "link", "sub"])),
    ("readlink", |t| assert_eq!(t.readlink("d/link").unwrap(), b"f")),
    ("read", |t| assert!(t.read("d/f").unwrap() == content(3))),
    ("read in a directory", |t| assert!(t.read("d/sub/deep").unwrap() == content(6))),
    ("read of what is open", |t| {
        let open = t.open("d/f", OFlags::RDONLY).unwrap();
        t.stat("d/f").unwrap();
        assert!(tree::read_all(&open).unwrap() == content(3));
    }),
    ("mapped", |t| {
        let map = SharedMap::new(t.open("d/f", OFlags::RDONLY).unwrap(), SIZE, false);
        t.stat("d/f").unwrap();
        assert!(map.get(SIZE - 10, 10) == content(3)[..10]);
    }),
    ("run", |t| assert_eq!(Command::new(t.at("script")).status().unwrap().code(), Some(7))),
    ("open and removed", |t| {
        let open = t.open("d/sub/deep", OFlags::RDONLY).unwrap();
        t.unlink("d/sub/deep").unwrap();
        assert!(tree::read_all(&open).unwrap() == content(6));
        assert!(!t.has("d/sub/deep"));
    }),
    ("written", |t| {
        let open = t.open("d/f", OFlags::RDWR).unwrap();
        tree::pwrite_all(&open, b"YY", 3).unwrap();
        assert_eq!(t.read("d/f").unwrap()[..6], *b"dddYYd");
    }),
    ("mode, and then read", |t| {
        t.chmod("d/f", 0o600).unwrap();
        assert!(t.read("d/f").unwrap() == content(3));
    }),
    ("renamed, and then written", |t| {
        t.rename("d/f", "g").unwrap();
        t.append("g", "!").unwrap();
        assert_eq!(t.stat("g").unwrap().st_size, SIZE as i64 + 1);
    }),
    ("directory renamed", |t| {
        t.rename("d", "e").unwrap();
        assert!(t.read("e/sub/deep").unwrap() == content(6));
    }),
    ("directory removed", |t| t.remove_all("d").unwrap()),
];

/// Numbers that change at each look: what they belong to is there all the same. With all that the kernel may keep of the view,
/// and with nothing of it.
#[test]
fn what_gets_another_inode_number_in_its_layer_is_still_there() {
    within(120, || {
        let scratch = Scratch::new();
        for timeouts in ["", ",attr_timeout=0,entry_timeout=0,negative_timeout=0"] {
            for (name, op) in OPS {
                let scratch = Scratch::within(scratch.path());
                let served = match Served::mount(&scratch.dir("served")) {
                    Ok(served) => served,
                    Err(error) => skip!("no FUSE in this process: {error}"),
                };
                let mut layers = Layers::new(&served.0, scratch.path(), &scratch, "plyfs");
                layers.options += timeouts;
                let mount = Mount::try_with(&layers.options, &layers.at, &layers.log).unwrap();
                eprintln!("{name} {timeouts}");
                mount.names("d").unwrap();
                mount.stat("d/f").unwrap();
                forget();
                op(&mount);
                forget();
                assert!(mount.names("").is_ok());
                drop(mount);
            }
        }
    });
}

/// The kernel forgets what nobody has open.
fn forget() {
    if who() == Who::Root {
        std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    }
}

/// A file system of Debian's that numbers objects for as long as it remembers them, over `from`; `None` where it is not
/// installed.
fn serve(program: &str, from: &Path, at: &Path) -> Option<scratch::Mounted> {
    let mut command = Command::new(program);
    match program {
        "unionfs" => command.args(["-o", "allow_other,default_permissions"]).arg(format!("{}=RW", from.display())),
        _ => command.args(["-o", "allow_other"]).arg(from),
    };
    let status = command.arg(at).stdout(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    status.success().then(|| scratch::Mounted::adopt(at))
}

/// Below and above, on file systems as people have them.
#[test]
fn layers_on_file_systems_that_number_anew() {
    within(120, || {
        if who() != Who::Root {
            skip!("only root makes the kernel forget");
        }
        for program in ["unionfs", "mergerfs"] {
            let scratch = Scratch::new();
            let [from, lower, above, upper] = ["from", "lower", "above", "on"].map(|name| scratch.dir(name));
            let layer = stack::Layer::new(from.clone());
            layer.file("d/f", "below").file("d/g", "x").file("gone", "gone").soft_link("d/f", "s").perm("d/f", 0o644);
            let (Some(_lower), Some(_above)) = (serve(program, &from, &lower), serve(program, &above, &upper)) else {
                say_skipped(&format!("no {program}, or it does not mount"));
                continue;
            };
            for dir in ["upper", "work"] {
                std::fs::create_dir(upper.join(dir)).unwrap();
                std::fs::set_permissions(upper.join(dir), std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            let options = format!("lowerdir={},upperdir={1}/upper,workdir={1}/work", lower.display(), upper.display());
            let mut mount = Mount::with(&options, &scratch.dir("merged"), &scratch.path().join("log"));
            story(&mount);
            mount.remount();
            assert_eq!(mount.text("d/f"), "below+-", "{program}");
            assert_eq!([mount.text("new/file"), mount.text("d/h")], ["12", "x!"], "{program}");
            assert!(!mount.has("gone") && !mount.has("d/g"), "{program}");
            drop(mount);
        }
    });
}

fn story(mount: &Mount) {
    let [open, gone] = ["d/f", "gone"].map(|name| mount.open(name, OFlags::RDWR | OFlags::APPEND).unwrap());
    let number = mount.stat("d/f").unwrap().st_ino;
    forget();
    assert_eq!(tree::read_all(&open).unwrap(), b"below");
    assert_eq!(mount.stat("d/f").unwrap().st_ino, number, "of what is open");
    forget();
    assert_eq!((mount.text("d/f"), mount.readlink("s").unwrap()), ("below".into(), b"d/f".to_vec()));
    mount.unlink("gone").unwrap();
    forget();
    assert_eq!(tree::read_all(&gone).unwrap(), b"gone");
    mount.append("d/f", "+").unwrap();
    mount.mkdir("new", 0o755).unwrap();
    mount.write("new/file", "1").unwrap();
    let made = mount.open("new/file", OFlags::RDONLY).unwrap();
    forget();
    assert_eq!(tree::read_all(&made).unwrap(), b"1");
    assert_eq!(tree::read_all(&open).unwrap(), b"below+");
    mount.append("new/file", "2").unwrap();
    mount.append("d/f", "-").unwrap();
    mount.rename("d/g", "d/h").unwrap();
    forget();
    mount.append("d/h", "!").unwrap();
    assert_eq!(mount.names("d").unwrap(), ["f", "h"]);
    forget();
    assert_eq!([mount.text("new/file"), mount.text("d/h")], ["12", "x!"]);
    mount.unlink("new/file").unwrap();
    mount.write("new/file", "12").unwrap();
    forget();
    assert_eq!((tree::read_all(&made).unwrap(), mount.text("new/file")), (b"12".to_vec(), "12".into()));
}

/// Where numbers last, another one is another object: its data is not shown as that of the file that is open.
#[test]
fn a_lower_file_that_was_replaced_is_not_shown_where_numbers_last() {
    bounded(|| {
        let stack = Stack::new(1).option("prefetch=off");
        let lower = &stack.lowers[0];
        lower.file("f", "the one").file("another", "another");
        let mount = stack.mount();
        let open = mount.open("f", OFlags::RDONLY).unwrap();
        lower.rename("another", "f").unwrap();
        assert_eq!(tree::read_all(&open), Err(Errno::STALE));
    });
}
