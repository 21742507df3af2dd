//! Extended attributes, access lists, times and modes, of files and of the workdir.

use rustix::fs::{FileType, OFlags, Timespec};

use crate::common::*;
use crate::row::{Row, Stage, row, text};

/// An access list for `user:1234:rwx`, as the kernel takes it: version 2, then tag, rights and id of each entry.
fn acl(owner: u16, user: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let none = u32::MAX;
    let entries = [(1, owner, none), (2, user, 1234), (4, group, none), (16, mask, none), (32, other, none)];
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(u16::to_le_bytes(tag).iter().chain(&rights.to_le_bytes()).chain(&id.to_le_bytes()));
    }
    bytes
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The marks of layers, and names that only look like them.
fn private_names(s: &mut Stage) {
    s.lower().opaque("d").file("d/f", "x").file("f", "x");
    for name in ["trusted.overlayfsrz", "trusted.overlay", "user.overlayx", "trusted.other"] {
        s.lower().with_xattr("d", name, b"n");
    }
    for name in ["trusted.overlay.fsz", "trusted.overlay.", "user.overlay.fsz"] {
        s.lower().with_xattr("f", name, b"n");
    }
    s.stack.lowers[1].file("d/below", "x").opaque("e").dir("e", 0o755);
    let m = s.up();
    for path in ["d", "e", "f"] {
        let names = m.xattrs(path).unwrap();
        let names: Vec<_> = names.iter().map(|n| n.escape_ascii().to_string()).collect();
        s.say(format!("{path}: {}", names.join(" ")));
    }
    s.did("get", m.xattr("f", "trusted.overlay.fsz"));
    for name in ["trusted.overlay.fsz", "trusted.overlayfsz", "trusted.overlay.opaque"] {
        s.did("set", m.set_xattr("d", name, b"y"));
        s.say(m.xattr("d", name).map_or_else(code, |v| v.escape_ascii().to_string()));
    }
    s.did("remove", m.remove_xattr("d", "trusted.overlay.fsz"));
    s.did("remove", m.remove_xattr("d", "trusted.overlayfsz"));
    let m = s.again();
    s.say(m.xattr("d", "trusted.overlay.opaque").map_or_else(code, |v| v.escape_ascii().to_string()));
    s.list(&m, "d");
}

/// An opaque directory of a lower layer is copied up: what comes into that layer later is seen.
fn opaque_is_not_copied(s: &mut Stage) {
    s.stack.lowers[1].file("d/a", "x");
    s.lower().opaque("d").file("d/b", "x");
    let m = s.up();
    m.write("d/c", "x").unwrap();
    s.list(&m, "d");
    s.down();
    s.lower().file("d/later", "x");
    s.say(format!("mark {}", s.upper().xattr("d", "trusted.overlay.opaque").map_or_else(code, |_| "there".into())));
    let m = s.up();
    s.list(&m, "d");
}

/// Who may by an access list may at once, before anybody has looked.
fn access_lists(s: &mut Stage) {
    s.lower().file("d/f", "x").file("closed/f", "x").perm("d", 0o750).perm("closed", 0o750).file("rw", "x");
    s.lower().perm("rw", 0o640).with_xattr("rw", ACCESS, &acl(6, 6, 4, 6, 0));
    s.lower().with_xattr("d", ACCESS, &acl(7, 7, 5, 7, 0)).with_xattr("d", DEFAULT, &acl(7, 7, 5, 7, 0));
    let m = s.up();
    let user = as_user(1234, 1234, || {
        [m.read("d/f").map(drop), m.read("closed/f").map(drop), m.append("rw", "+"), m.write("d/new", "x")]
            .map(crate::row::told)
    });
    s.say(user.join(" "));
    let other = as_user(4321, 4321, || [m.read("d/f").map(drop), m.append("rw", "+")].map(crate::row::told));
    s.say(other.join(" "));
    s.say(format!("kept {}", m.xattr("rw", ACCESS) == s.lower().xattr("rw", ACCESS)));
    s.say(format!("handed on {} {:o}", m.xattr("d/new", ACCESS).is_ok(), m.mode("d/new")));
    let m = s.again();
    s.say(format!("{:o} {:o}", m.mode("rw"), m.mode("d")));
    m.chmod("d", 0o700).unwrap();
    s.did("list", as_user(1234, 1234, || m.names("d")));
}

/// What stands on the workdir is not for copies and new files.
fn of_the_workdir(s: &mut Stage) {
    let work = s.beside(s.work);
    work.perm("", 0o2775).with_xattr("", DEFAULT, &acl(7, 7, 7, 7, 7));
    work.chown("", 0, 4321).unwrap();
    work.perm("", 0o2775);
    for name in ["f", "d", "copied", "meta", "over"] {
        s.lower().file(&format!("t/{name}"), "x").perm(&format!("t/{name}"), 0o640);
    }
    s.lower().file("dir/in", "x").perm("dir", 0o750);
    let m = s.up();
    with_umask(0o022, || {
        for name in ["f", "d", "over"] {
            m.unlink(format!("t/{name}")).unwrap();
        }
        m.write("t/f", "x").unwrap();
        m.mkdir("t/d", 0o755).unwrap();
        m.append("t/copied", "+").unwrap();
        m.chmod("t/meta", 0o600).unwrap();
        m.symlink("f", "t/over").unwrap();
        m.write("dir/new", "x").unwrap();
    });
    for path in ["t/f", "t/d", "t/copied", "t/meta", "t/over", "dir"] {
        let st = m.stat(path).unwrap();
        let lists = m.xattrs(path).unwrap().iter().filter(|n| n.starts_with(b"system.posix_acl")).count();
        s.say(format!("{path} {:o} {}:{} lists {lists}", st.st_mode & 0o7777, st.st_uid, st.st_gid));
    }
}

/// Work that a dead mount has left, of any depth, is gone, and the mount can be written.
fn work_left_over(s: &mut Stage) {
    let work = s.beside(s.work);
    work.file("work/#1f/bar/deep/f", "x").file("work/#20", "x").dir("work/#21", 0o000);
    work.whiteout("work/#22").soft_link("/etc", "work/#23").file("other", "kept");
    work.perm("work", 0o000);
    s.lower().file("f", "x");
    let m = s.up();
    s.did("append", m.append("f", "+"));
    s.list(&work, "work");
    s.say(format!("other {}", text(&work, "other")));
    s.say(format!("etc {}", std::path::Path::new("/etc/passwd").exists()));
    s.say(format!("mode {:o}", work.mode("work")));
}

/// Everything that an object has, after each way of being copied up.
fn all_attributes(s: &mut Stage) {
    let lower = s.lower().file("f", "data").dir("d", 0o2750).soft_link("nowhere", "l").fifo("p");
    lower.mknod("c", FileType::CharacterDevice, 0o620, rustix::fs::makedev(1, 3)).unwrap();
    for path in ["f", "d", "l", "p", "c"] {
        lower.chown(path, 1234, 4321).unwrap();
        lower.set_xattr(path, "trusted.t", b"t").unwrap();
    }
    lower.perm("f", 0o4751).perm("d", 0o2750).with_xattr("f", "user.u", &[7; 200]).with_xattr("d", "user.u", b"");
    lower.with_xattr("d", DEFAULT, &acl(7, 5, 5, 7, 0));
    lower.age();
    let m = s.up();
    let now = Timespec { tv_sec: 1_234_567_890, tv_nsec: 987_654_321 };
    for path in ["f", "d", "l", "p", "c"] {
        m.set_xattr(path, "trusted.new", b"n").unwrap();
    }
    let look = |m: &Tree, path: &str| {
        let st = m.stat(path).unwrap();
        let times = (st.st_mtime, st.st_mtime_nsec, st.st_atime)
            == (tree::OLD.tv_sec, tree::OLD.tv_nsec as _, tree::OLD.tv_sec);
        let names = m.xattrs(path).unwrap().len();
        format!(
            "{path} {:o} {}:{} {} times {times} names {names}",
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_size * i64::from(path != "d")
        )
    };
    for path in ["f", "d", "l", "p", "c"] {
        s.say(look(&m, path));
    }
    m.utimes("l", now).unwrap();
    let m = s.again();
    let st = m.stat("l").unwrap();
    s.say(format!("{}.{}", st.st_mtime, st.st_mtime_nsec));
    s.say(look(&m, "f"));
}

/// The time of access of a directory goes on while it is listed.
fn time_of_access(s: &mut Stage) {
    s.lower().file("merged/f", "x").file("lower/f", "x");
    s.upper().file("merged/g", "x").file("upper/f", "x");
    for dir in ["merged", "upper"] {
        s.upper().utimes(dir, tree::OLD).unwrap();
    }
    let m = s.up();
    let before = s.lower().stat("lower").unwrap().st_atime;
    for dir in ["upper", "merged"] {
        m.stat(dir).unwrap();
        m.names(dir).unwrap();
        let st = m.stat(dir).unwrap();
        s.say(format!("{dir} later {}", st.st_atime > tree::OLD.tv_sec));
    }
    m.names("lower").unwrap();
    s.say(format!("lower {}", s.lower().stat("lower").unwrap().st_atime - before));
}

/// The same for files: those of the upper layer only.
fn time_of_access_of_files(s: &mut Stage) {
    s.lower().file("lower", "x").age();
    s.upper().file("upper", "x").age();
    let m = s.up();
    for name in ["lower", "upper"] {
        m.read(name).unwrap();
        drop(m.open(name, OFlags::RDONLY).unwrap());
        s.say(format!("{name} later {}", m.stat(name).unwrap().st_atime > tree::OLD.tv_sec));
    }
    s.say(format!("layer {}", s.lower().stat("lower").unwrap().st_atime > tree::OLD.tv_sec));
}

pub const ROWS: &[Row] = &[
    row(
        &[11, 26],
        "names of marks",
        "are marks of layers seen or set, and names that look like them?",
        private_names,
        "d: trusted.other trusted.overlay trusted.overlayfsrz user.overlayx; e: ; f: user.overlay.fsz; \
             get ENODATA; set ok; y; set ok; y; set ok; y; remove ok; remove ok; y; d: f",
    )
    .lowers(2),
    row(
        &[14],
        "opaque below",
        "is the mark of an opaque lower directory copied up?",
        opaque_is_not_copied,
        "d: b c; mark ENODATA; d: b c later",
    )
    .lowers(2),
    row(
        &[25],
        "access lists in memory",
        "do access lists of a tmpfs hold at once?",
        access_lists,
        "ok EACCES ok ok; EACCES EACCES; kept true; handed on true 660; 660 770; list EACCES",
    ),
    row(
        &[25],
        "access lists",
        "do access lists of a disk hold at once?",
        access_lists,
        "ok EACCES ok ok; EACCES EACCES; kept true; handed on true 660; 660 770; list EACCES",
    )
    .on(&["ext4"]),
    row(
        &[23],
        "a workdir with rights",
        "does what stands on workdir come to copies and new files?",
        of_the_workdir,
        "t/f 644 0:0 lists 0; t/d 755 0:0 lists 0; t/copied 640 0:0 lists 0; t/meta 600 0:0 lists 0; \
             t/over 777 0:0 lists 0; dir 750 0:0 lists 0",
    )
    .on(&["ext4"]),
    row(
        &[24],
        "work left over",
        "is the workdir of a dead mount emptied?",
        work_left_over,
        "append ok; work: ; other kept; etc true; mode 700",
    )
    .unlike(
        "append EROFS; work: #1f; other kept; etc true; mode 0",
        "what is left is removed at any depth",
        "what an ended mount has left in the workdir is removed at any depth",
    ),
    row(
        &[4, 78],
        "all attributes",
        "are owner, mode, times and attributes of each kind copied up?",
        all_attributes,
        "f 104751 1234:4321 4 times true names 3; d 42750 1234:4321 0 times true names 4; \
             l 120777 1234:4321 7 times true names 2; p 10644 1234:4321 0 times true names 2; \
             c 20600 1234:4321 0 times true names 2; 1234567890.987654321; \
             f 104751 1234:4321 4 times true names 3",
    )
    .on(&["ext4"]),
    row(
        &[39],
        "the access time of a directory",
        "does a listing set it?",
        time_of_access,
        "upper later false; merged later false; lower 0",
    )
    .on(&["ext4"])
    .unlike(
        "upper later true; merged later true; lower 0",
        "nobody's reading changes a layer",
        "Reading a layer leaves its access times alone",
    ),
    row(
        &[39],
        "the access time of a file",
        "does a read set it?",
        time_of_access_of_files,
        "lower later false; upper later false; layer false",
    )
    .on(&["ext4"])
    .unlike(
        "lower later false; upper later true; layer false",
        "nobody's reading changes a layer",
        "Reading a layer leaves its access times alone",
    ),
];
