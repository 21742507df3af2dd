//! Every operation in every state that changes its path.

use plyfs::Errno;
use plyfs::union::{Kind, RenameFlags, Seek, SetAttr, SetTime, Time, ViewGid, ViewUid};

use super::{Act, Row, Step, fresh, indexed, metacopy, whiteout_at_d, without_d};
use crate::engine::{Engine, Result, me};

/// What an object is to start with: how that comes about, and its path.
struct State {
    what: &'static str,
    before: fn(&Engine) -> Result<()>,
    path: &'static str,
    links: bool,
}

const fn state(what: &'static str, before: fn(&Engine) -> Result<()>, path: &'static str) -> State {
    State { what, before, path, links: false }
}

const fn linked(what: &'static str, before: fn(&Engine) -> Result<()>, path: &'static str) -> State {
    State { links: true, ..state(what, before, path) }
}

fn new_file(e: &Engine, path: &str) -> Result<()> {
    e.create(path)?;
    e.write(path, 0, "something new")?;
    e.setxattr(path, "user.a", "is here")?;
    e.utimes(path, 2_000_000)
}

/// All states of a file.
const FILES: &[State] = &[
    state("a lower file", fresh, "f"),
    state("a lower file in lower directories", fresh, "d/sub/deep"),
    state("a file of the lowest layer", fresh, "m/bottom"),
    state("a metacopy file", metacopy, "f"),
    state("a renamed metacopy file", |e| e.rename("f", "into/g"), "into/g"),
    state("an upper file", |e| new_file(e, "new"), "new"),
    state(
        "an upper file over a lower one that was removed",
        |e| {
            e.unlink("f")?;
            new_file(e, "f")
        },
        "f",
    ),
    state(
        "a file in an opaque directory",
        |e| {
            whiteout_at_d(e)?;
            e.mkdir("d")?;
            new_file(e, "d/in")
        },
        "d/in",
    ),
    state("a file in a redirected directory", |e| e.rename("d", "d2"), "d2/in"),
    linked("a name of a lower hard link", fresh, "one"),
    linked("a name of an indexed file", indexed, "one"),
    linked("a lower name of an indexed file", indexed, "two"),
];

/// All states of a directory.
const DIRS: &[State] = &[
    state("a lower directory", fresh, "d"),
    state("a lower directory of two layers", fresh, "m"),
    state("a merged directory", |e| e.create("d/new"), "d"),
    state(
        "a new directory",
        |e| {
            e.mkdir("new")?;
            e.create("new/file")
        },
        "new",
    ),
    state(
        "an opaque directory",
        |e| {
            whiteout_at_d(e)?;
            e.mkdir("d")?;
            e.create("d/file")
        },
        "d",
    ),
    state("a redirected directory", |e| e.rename("d", "into/d2"), "into/d2"),
    state("an emptied directory", without_d, "d"),
];

/// Objects that are neither.
const OTHERS: &[State] = &[
    state("a lower symlink", fresh, "symlink"),
    state("a lower fifo", fresh, "fifo"),
    state("a lower socket", fresh, "socket"),
    state("an upper symlink", |e| e.symlink("new"), "new"),
    state("an upper fifo", |e| e.mknod("new", libc::S_IFIFO | 0o600, 0), "new"),
];

type Change = (&'static str, fn(&Engine, &str) -> Result<()>);
type Read = (&'static str, fn(&Engine, &str) -> Result<String>);

const ALL_AT_ONCE: SetAttr = SetAttr {
    mode: Some(0o4711),
    uid: Some(ViewUid(0)),
    gid: Some(ViewGid(0)),
    size: Some(3),
    atime: SetTime::Now,
    mtime: SetTime::At(Time { sec: 3_000_000, nsec: 0 }),
};

/// The whiteout is left by a step of its own.
const WHITEOUT: &str = "rename leaving a whiteout of";

/// What is cut off does not come back.
const ALL: &str = "setattr of all at once of";

/// Changes of anything.
const ANY: &[Change] = &[
    ("chown of", |e, path| e.chown(path, 1234, 1234)),
    ("utimensat of", |e, path| e.utimes(path, 4_000_000)),
    ("rename beside of", |e, path| e.rename(path, &format!("{path}.renamed"))),
    ("rename to another directory of", |e, path| e.rename(path, "p/renamed")),
    ("rename without replacing of", |e, path| e.rename_with(path, "renamed", RenameFlags::NOREPLACE)),
    (WHITEOUT, |e, path| e.rename_with(path, "renamed", RenameFlags::WHITEOUT)),
    ("exchange with a lower file of", |e, path| e.exchange(path, "e/other")),
    ("exchange with a lower directory of", |e, path| e.exchange(path, "e")),
];

/// Of anything but a symlink.
const MODES: &[Change] = &[("chmod of", |e, path| e.chmod(path, 0o2751))];

const OF_LEAVES: &[Change] = &[
    ("link of", |e, path| e.link(path, "into/link")),
    ("unlink of", |e, path| e.unlink(path)),
    ("rename over a lower file of", |e, path| e.rename(path, "e/other")),
];

const OF_FILES: &[Change] = &[
    ("write within", |e, path| e.write(path, 3, "XX")),
    ("write past the end of", |e, path| e.write(path, 30, "XX")),
    ("truncate to nothing of", |e, path| e.truncate(path, 0)),
    ("truncate to less of", |e, path| e.truncate(path, 5)),
    ("truncate to more of", |e, path| e.truncate(path, 50)),
    (ALL, |e, path| e.set(path, ALL_AT_ONCE)),
    ("truncate at a time of", |e, path| {
        e.set(path, SetAttr { size: Some(3), mtime: SetTime::Now, ..SetAttr::default() })
    }),
    ("setxattr of", |e, path| e.setxattr(path, "user.b", "new")),
    ("removexattr of", |e, path| e.removexattr(path, "user.a")),
    ("rename onto it of", |e, path| e.rename("into/keep", path)),
    ("fallocate behind the end of", |e, path| e.fallocate(path, 0, 0, 40)),
    ("fallocate of a hole in", |e, path| e.fallocate(path, 3, 2, 4)),
    ("copy_file_range to", |e, path| e.copy(("into/keep", 1), (path, 1), 5)),
    ("copy_file_range from", |e, path| e.copy((path, 1), ("into/keep", 0), 5)),
];

const IN_DIRS: &[Change] = &[
    ("create in", |e, path| e.create(&format!("{path}/made"))),
    ("mkdir in", |e, path| e.mkdir(&format!("{path}/made"))),
    ("symlink in", |e, path| e.symlink(&format!("{path}/made"))),
    ("link in", |e, path| e.link("f", &format!("{path}/made"))),
    ("mknod of a fifo in", |e, path| e.mknod(&format!("{path}/made"), libc::S_IFIFO | 0o600, 0)),
    ("mknod of a socket in", |e, path| e.mknod(&format!("{path}/made"), libc::S_IFSOCK | 0o600, 0)),
    ("mknod of a device 0/0 in", |e, path| e.mknod(&format!("{path}/made"), libc::S_IFCHR | 0o600, 0)),
    ("rename of a file into", |e, path| e.rename("f", &format!("{path}/made"))),
    ("setxattr of", |e, path| e.setxattr(path, "user.b", "new")),
    ("rename over an empty directory of", |e, path| e.rename(path, "empty")),
];

fn answered<T: std::fmt::Debug>(answer: Result<T>, expected: Errno) -> Result<String> {
    match answer {
        Ok(value) => Ok(format!("{value:?}")),
        Err(errno) if errno == expected => Ok(format!("{errno:?}")),
        Err(errno) => Err(errno),
    }
}

/// What changes nothing that is seen, of anything.
const LOOKS: &[Read] = &[
    ("getattr of", |e, path| e.stat(path)),
    ("lookup of nothing beside", |e, path| answered(e.id(&format!("{path}.none")), Errno::ENOENT)),
    ("listxattr of", |e, path| Ok(e.0.listxattr(&me(), e.id(path)?)?.escape_ascii().to_string())),
    ("getxattr of none of", |e, path| answered(e.0.getxattr(e.id(path)?, b"user.none"), Errno::ENODATA)),
    ("mkdir in place of", |e, path| answered(e.mkdir(path), Errno::EEXIST)),
    ("rename to the name of", |e, path| {
        answered(e.rename_with("into/keep", path, RenameFlags::NOREPLACE), Errno::EEXIST)
    }),
    ("forget of", |e, path| {
        let id = e.id(path)?;
        e.forget_all();
        answered(e.0.getattr(id).map(drop), Errno::ESTALE)
    }),
];

const LOOKS_AT_FILES: &[Read] = &[
    ("read of", |e, path| e.text(path)),
    ("read of a part of", |e, path| {
        let mut buffer = [0; 4];
        let read = e.0.read(e.id(path)?, 2, &mut buffer)?;
        Ok(buffer[..read].escape_ascii().to_string())
    }),
    ("getxattr of", |e, path| Ok(e.0.getxattr(e.id(path)?, b"user.a")?.escape_ascii().to_string())),
    ("lseek to data of", |e, path| Ok(e.0.seek(e.id(path)?, 1, Seek::Data)?.to_string())),
    ("lseek to a hole of", |e, path| Ok(e.0.seek(e.id(path)?, 1, Seek::Hole)?.to_string())),
    ("lseek past the end of", |e, path| answered(e.0.seek(e.id(path)?, 1000, Seek::Hole), Errno::ENXIO)),
    ("open to write of", |e, path| {
        let id = e.id(path)?;
        e.0.may_open_to_write(id, false)?;
        e.0.open_to_write(&me(), id).map(|()| "done".into())
    }),
    ("rmdir of", |e, path| answered(e.rmdir(path), Errno::ENOTDIR)),
];

const LOOKS_AT_DIRS: &[Read] = &[
    ("readdir of", |e, path| e.list(path, false)),
    ("readdirplus of", |e, path| e.list(path, true)),
    ("unlink of the directory", |e, path| answered(e.unlink(path), Errno::EISDIR)),
];

const LOOKS_AT_BOTH: &[Read] = &[
    ("fsync of", |e, path| e.0.fsync(e.id(path)?, false).map(|()| "done".into())),
    ("fdatasync of", |e, path| e.0.fsync(e.id(path)?, true).map(|()| "done".into())),
    ("FS_IOC_GETFLAGS of", |e, path| Ok(format!("{:x}", e.0.get_flags(e.id(path)?)?))),
    ("FS_IOC_SETFLAGS of", |e, path| {
        let id = e.id(path)?;
        e.0.set_flags(&me(), id, 0x20)?;
        let set = e.0.get_flags(id)?;
        // Nothing else could be done with it.
        e.0.set_flags(&me(), id, 0)?;
        Ok(format!("{set:x}, then {:x}", e.0.get_flags(id)?))
    }),
    ("FS_IOC_FSGETXATTR of", |e, path| Ok(format!("{:?}", e.0.get_fsx(e.id(path)?)?))),
    ("statfs with", |e, path| {
        e.id(path)?;
        Ok(e.0.statfs()?.namelen.to_string())
    }),
];

const LOOKS_AT_OTHERS: &[Read] = &[("readlink of", |e, path| {
    let id = e.id(path)?;
    let symlink = e.0.getattr(id)?.kind == Kind::Symlink;
    let target = e.0.readlink(id).map(|target| target.escape_ascii().to_string());
    if symlink { target } else { answered(target, Errno::EINVAL) }
})];

fn name(what: &str, state: &State) -> String {
    format!("{what} {}", state.what)
}

fn cross(states: &'static [State], changes: &[&[Change]], reads: &[&[Read]]) -> Vec<Row> {
    let mut rows = Vec::new();
    for state in states {
        let row = |name, act, middle, attributes| Row {
            name,
            before: Box::new(state.before),
            act,
            middle,
            links: state.links,
            answers_attributes: attributes,
            crossed: true,
        };
        for &(what, change) in changes.iter().copied().flatten() {
            let sets = ["ch", "tr", "ut", "setattr", "link", "create", "mk", "sym"];
            let attributes = sets.iter().any(|word| what.starts_with(word));
            let act = Act::Change(Box::new(move |e| change(e, state.path)));
            let middle: Option<Step<()>> = match what {
                WHITEOUT => Some(Box::new(|e| e.rename(state.path, "renamed"))),
                ALL => Some(Box::new(|e| e.truncate(state.path, 3))),
                _ => None,
            };
            rows.push(row(name(what, state), act, middle, attributes));
        }
        for &(what, read) in reads.iter().copied().flatten() {
            rows.push(row(name(what, state), Act::Read(Box::new(move |e| read(e, state.path))), None, false));
        }
    }
    rows
}

pub fn files() -> Vec<Row> {
    cross(FILES, &[ANY, MODES, OF_LEAVES, OF_FILES], &[LOOKS, LOOKS_AT_FILES, LOOKS_AT_BOTH])
}

pub fn dirs() -> Vec<Row> {
    cross(DIRS, &[ANY, MODES, IN_DIRS], &[LOOKS, LOOKS_AT_DIRS, LOOKS_AT_BOTH])
}

pub fn others() -> Vec<Row> {
    cross(OTHERS, &[ANY, OF_LEAVES], &[LOOKS, LOOKS_AT_OTHERS])
}
