//! What the kernel keeps of attributes is what it would be told if it asked: a table of operations, after each of which
//! everything that was known before is compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use common::*;
use rustix::fs::{self as sys, AtFlags, CWD, FallocateFlags, FileType, IFlags, OFlags, RenameFlags};
use rustix::io::Result;

/// Something that is done in a directory `dir` of its own, which has what [`fill`] puts there.
type Act = fn(&Tree, &dyn Fn(&str) -> String) -> Result<()>;

const ACTS: [(&str, Act); 51] = [
    ("nothing", |_, _| Ok(())),
    ("write", |tree, at| tree.pwrite(at("d/e/f"), 0, b"y")),
    ("append", |tree, at| tree.append(at("d/e/f"), "y")),
    ("write to a large file", |tree, at| tree.pwrite(at("d/e/large"), 5000, b"y")),
    ("write to nothing", |tree, at| tree.append(at("d/e/empty"), "y")),
    ("write through a mapping", |tree, at| {
        let mut map = SharedMap::new(tree.open(at("d/e/large"), OFlags::RDWR)?, 4096, true);
        map.put(0, b"stored");
        map.sync().map_err(|error| Errno::from_io_error(&error).unwrap())
    }),
    ("open to write", |tree, at| tree.open(at("d/e/f"), OFlags::RDWR).map(drop)),
    ("open with O_TRUNC", |tree, at| tree.open(at("d/e/f"), OFlags::RDWR | OFlags::TRUNC).map(drop)),
    ("truncate", |tree, at| tree.truncate(at("d/e/large"), 10)),
    ("truncate to more", |tree, at| tree.truncate(at("d/e/f"), 10_000)),
    ("fallocate", |tree, at| {
        sys::fallocate(tree.open(at("d/e/f"), OFlags::RDWR)?, FallocateFlags::empty(), 0, 100_000)
    }),
    ("punch", |tree, at| {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        sys::fallocate(tree.open(at("d/e/large"), OFlags::RDWR)?, how, 0, 8192)
    }),
    ("copy_file_range", |tree, at| {
        let (from, to) = (tree.open(at("d/e/large"), OFlags::RDONLY)?, tree.open(at("d/e/f"), OFlags::WRONLY)?);
        sys::copy_file_range(&from, None, &to, None, 100_000).map(drop)
    }),
    ("chmod", |tree, at| tree.chmod(at("d/e/f"), 0o600)),
    ("chmod of a large file", |tree, at| tree.chmod(at("d/e/large"), 0o600)),
    ("chmod of a directory", |tree, at| tree.chmod(at("d/e"), 0o700)),
    ("chmod of a directory in the upper layer", |tree, at| tree.chmod(at("up/in"), 0o700)),
    ("chown to the same", |tree, at| {
        let stat = tree.stat(at("d/e/f"))?;
        tree.chown(at("d/e/f"), stat.st_uid, stat.st_gid)
    }),
    ("chown to nobody", |tree, at| sys::chownat(CWD, tree.at(at("d/e/f")), None, None, AtFlags::empty())),
    ("chown of a directory to nobody", |tree, at| sys::chownat(CWD, tree.at(at("d/e")), None, None, AtFlags::empty())),
    ("utimes", |tree, at| tree.utimes(at("d/e/f"), tree::OLD)),
    ("utimes of a symlink", |tree, at| tree.utimes(at("d/e/link"), tree::OLD)),
    ("utimes of a directory", |tree, at| tree.utimes(at("d/e/sub"), tree::OLD)),
    ("setxattr", |tree, at| tree.set_xattr(at("d/e/f"), "user.a", b"value")),
    ("a large xattr", |tree, at| tree.set_xattr(at("d/e/f"), "user.a", &[7; 2000])),
    ("a large xattr in the upper layer", |tree, at| tree.set_xattr(at("up/file"), "user.a", &[7; 2000])),
    ("setxattr of a directory", |tree, at| tree.set_xattr(at("d/e"), "user.a", &[7; 2000])),
    ("removexattr", |tree, at| tree.remove_xattr(at("d/e/marked"), "user.big")),
    ("chattr", |tree, at| flag(&tree.open(at("d/e/f"), OFlags::RDONLY)?)),
    ("chattr of a directory", |tree, at| flag(&tree.open(at("d/e/sub"), OFlags::RDONLY)?)),
    ("create", |tree, at| tree.create(at("d/e/new"), 0o644).map(drop)),
    ("create in the upper layer", |tree, at| tree.create(at("up/in/new"), 0o644).map(drop)),
    ("mkdir", |tree, at| tree.mkdir(at("d/e/new"), 0o755)),
    ("mknod", |tree, at| tree.mknod(at("d/e/new"), FileType::Fifo, 0o644, 0)),
    ("symlink", |tree, at| tree.symlink("to", at("d/e/new"))),
    ("create over a whiteout", |tree, at| tree.unlink(at("d/e/f")).and_then(|()| tree.write(at("d/e/f"), "new"))),
    ("link", |tree, at| tree.link(at("d/e/f"), at("d/new"))),
    ("link of a large file", |tree, at| tree.link(at("d/e/large"), at("up/new"))),
    ("unlink", |tree, at| tree.unlink(at("d/e/f"))),
    ("unlink of one name of two", |tree, at| tree.unlink(at("d/hard"))),
    ("write by one name of two", |tree, at| tree.append(at("d/hard"), "y")),
    ("chmod by one name of two", |tree, at| tree.chmod(at("d/e/hard"), 0o600)),
    ("rename over one name of two", |tree, at| tree.rename(at("d/e/f"), at("d/hard"))),
    ("unlink of one name of two in the upper layer", |tree, at| tree.unlink(at("up/hard"))),
    ("rmdir", |tree, at| tree.rmdir(at("d/e/void"))),
    ("rmdir of what is not empty", |tree, at| match tree.rmdir(at("d/e")) {
        Err(Errno::NOTEMPTY) => Ok(()),
        done => panic!("{done:?}"),
    }),
    ("rename", |tree, at| tree.rename(at("d/e/f"), at("d/e/new"))),
    ("rename of a large file elsewhere", |tree, at| tree.rename(at("d/e/large"), at("up/in/new"))),
    ("rename of a directory", |tree, at| match tree.rename(at("d/e"), at("up/in/new")) {
        // As a user of the kernel's OverlayFS.
        Err(Errno::XDEV) => Ok(()),
        done => done,
    }),
    ("exchange", |tree, at| tree.rename_with(at("d/e/f"), at("up/file"), RenameFlags::EXCHANGE)),
    ("rename over a directory", |tree, at| match tree.rename(at("up/in"), at("d/e/void")) {
        Err(Errno::XDEV) => Ok(()),
        done => done,
    }),
];

/// `chattr +d`, which every file system with flags has.
fn flag(file: &OwnedFd) -> Result<()> {
    match sys::ioctl_getflags(file).and_then(|flags| sys::ioctl_setflags(file, flags | IFlags::NODUMP)) {
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
        done => done,
    }
}

fn dir_of(act: &str) -> String {
    act.replace(' ', "-")
}

/// What each act finds: `up` stands in the upper layer, the rest below.
fn fill(stack: &Stack) {
    let (lower, upper) = (&stack.lowers[0], stack.upper());
    for (act, _) in ACTS {
        let at = |path: &str| format!("{}/{path}", dir_of(act));
        lower.file(&at("d/e/f"), "some bytes").file(&at("d/e/g"), "more").file(&at("d/e/empty"), "");
        lower.file(&at("d/e/large"), vec![7; 200_000]).soft_link("f", &at("d/e/link")).file(&at("d/e/marked"), "x");
        lower.dir(&at("d/e/sub/deep"), 0o755).dir(&at("d/e/void"), 0o755).hard_link(&at("d/e/g"), &at("d/hard"));
        lower.hard_link(&at("d/e/g"), &at("d/e/hard")).with_xattr(&at("d/e/marked"), "user.big", &[7; 2000]);
        upper.file(&at("up/file"), "upper").file(&at("up/hard2"), "x").hard_link(&at("up/hard2"), &at("up/hard"));
        upper.dir(&at("up/in"), 0o755);
    }
    stack.age();
}

/// All paths of a directory, itself and those above it included.
fn paths(tree: &Tree, dir: &str) -> Vec<String> {
    let mut found = vec![String::new(), dir.to_owned()];
    let mut next = 1;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if FileType::from_raw_mode(tree.stat(&path).unwrap().st_mode) == FileType::Directory {
            found.extend(tree.names(&path).unwrap().into_iter().map(|name| format!("{path}/{name}")));
        }
    }
    found
}

/// What differs between what the kernel kept and what it is told.
fn stale(kept: &BTreeMap<String, Kept>, told: impl Fn(&str) -> Result<Kept>) -> Vec<String> {
    let differs = |(path, kept): (&String, &Kept)| {
        let told = told(path).unwrap();
        (told != *kept).then(|| format!("{path}:\n  kept {kept:?}\n  told {told:?}"))
    };
    kept.iter().filter_map(differs).collect()
}

fn after_each_act(options: &str) {
    let stack = Stack::new(1).option(options);
    fill(&stack);
    let mount = stack.mount();
    let (mut wrong, mut all) = (Vec::new(), BTreeMap::new());
    for (act, run) in ACTS {
        let dir = dir_of(act);
        let before = paths(&mount, &dir);
        for path in &before {
            Kept::asked(&mount, path).unwrap();
        }
        // Later than any change before.
        std::thread::sleep(std::time::Duration::from_millis(5));
        let done = run(&mount, &|path| format!("{dir}/{path}"));
        assert_eq!(done, Ok(()), "{act} ({options})");
        let kept: BTreeMap<_, _> =
            before.into_iter().filter_map(|path| Some((path.clone(), Kept::now(&mount, &path).ok()?))).collect();
        wrong.extend(stale(&kept, |path| Kept::asked(&mount, path)).into_iter().map(|line| format!("{act}: {line}")));
        all.extend(kept.into_keys().map(|path| (path.clone(), Kept::now(&mount, &path).unwrap())));
    }
    // What was forgotten is looked up anew.
    if std::fs::write("/proc/sys/vm/drop_caches", "2").is_ok() {
        let anew = |path: &str| {
            let (anew, kept) = (Kept::now(&mount, path)?, all[path]);
            let file = FileType::from_raw_mode(anew.mode) == FileType::RegularFile;
            Ok(match options {
                // Without an index nobody remembers that a name of a lower file is hidden.
                "index=off" => Kept { nlink: kept.nlink, ..anew },
                // The kernel keeps a time of change of its own, which nobody can set below.
                "io=writeback" if file => Kept { ctime: kept.ctime, ..anew },
                _ => anew,
            })
        };
        wrong.extend(stale(&all, anew).into_iter().map(|line| format!("forgotten: {line}")));
    }
    assert!(wrong.is_empty(), "{} ({options}):\n{}", wrong.len(), wrong.join("\n"));
}

/// In each way that data goes, and where copies are made in each way.
#[test]
fn what_the_kernel_keeps_is_what_it_would_be_told() {
    let options =
        ["rw", "index=off", "metacopy=off", "copyup=open", "io=writeback", "copyup_block=4K", "io=passthrough"];
    for options in options.into_iter().filter(|options| is_offered(options)) {
        within(120, move || after_each_act(options));
    }
}

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
