//! Flags of chattr(1), of objects in each layer.

use std::process::Command;

use rustix::fs::{IFlags, OFlags, RenameFlags, ioctl_getflags, ioctl_setflags};

use crate::common::*;
use crate::row::{Row, Stage, row, told};

fn chattr(flags: &str, at: std::path::PathBuf) -> bool {
    Command::new("chattr").arg(flags).arg(at).output().is_ok_and(|out| out.status.success())
}

/// The flags of an object, by letter, as the mount tells them.
fn flags(tree: &Tree, path: &str) -> String {
    let flags = tree.open(path, OFlags::RDONLY | OFlags::NONBLOCK).and_then(ioctl_getflags);
    let letters = [(IFlags::SYNC, 'S'), (IFlags::IMMUTABLE, 'i'), (IFlags::APPEND, 'a'), (IFlags::NOATIME, 'A')];
    flags.map_or_else(code, |flags| letters.iter().filter(|l| flags.contains(l.0)).map(|l| l.1).collect())
}

/// All that a flag can forbid, on a file and in a directory that both have it.
fn deeds(m: &Tree, f: &str, d: &str) -> String {
    let deeds: [(&str, rustix::io::Result<()>); 20] = [
        ("read", m.read(f).map(drop)),
        ("write", m.pwrite(f, 0, b"y")),
        ("append", m.append(f, "+")),
        ("empty", m.write(f, "")),
        ("cut", m.truncate(f, 0)),
        ("chmod", m.chmod(f, 0o600)),
        ("chown", m.chown(f, 1, 1)),
        ("times", m.utimes(f, tree::OLD)),
        ("xattr", m.set_xattr(f, "user.x", b"x")),
        ("link", m.link(f, "linked")),
        ("rename", m.rename(f, "renamed")),
        ("over", m.rename("plain", f)),
        ("unlink", m.unlink(f)),
        ("exchange", m.rename_with(f, "plain", RenameFlags::EXCHANGE)),
        ("list", m.names(d).map(drop)),
        ("create", m.write(format!("{d}/new"), "x")),
        ("mkdir", m.mkdir(format!("{d}/newdir"), 0o755)),
        ("in", m.append(format!("{d}/in"), "+")),
        ("unlink in", m.unlink(format!("{d}/in"))),
        ("chmod dir", m.chmod(d, 0o700)),
    ];
    let deeds =
        deeds.into_iter().chain([("link in", m.link("plain", format!("{d}/link"))), ("rmdir", m.remove_all(d))]);
    deeds.map(|(what, result)| format!("{what} {}", told(result))).collect::<Vec<_>>().join(", ")
}

/// A layer with a file and a directory of each flag. `set` says where the flags are given.
fn protected(s: &mut Stage, fill: fn(&Stage) -> &Tree, inside: bool) {
    let layer = fill(s).clone();
    for (letter, _) in LETTERS {
        layer.write(format!("f{letter}"), "x").unwrap();
        layer.mkdir(format!("d{letter}"), 0o755).unwrap();
        layer.write(format!("d{letter}/in"), "x").unwrap();
    }
    layer.write("plain", "x").unwrap();
    let give = |at: &Tree, way: char| {
        for (letter, _) in LETTERS {
            for kind in ['f', 'd'] {
                assert!(chattr(&format!("{way}{letter}"), at.at(format!("{kind}{letter}"))), "chattr {way}{letter}");
            }
        }
    };
    let m = if inside {
        let m = s.up();
        give(&m, '+');
        m
    } else {
        give(&layer, '+');
        s.up()
    };
    let mut said = Vec::new();
    for (letter, name) in LETTERS {
        said.push(format!("{name}: {}", deeds(&m, &format!("f{letter}"), &format!("d{letter}"))));
    }
    let m = s.again();
    for (letter, _) in LETTERS {
        said.push(format!("{} {}", flags(&m, &format!("f{letter}")), flags(&m, &format!("d{letter}"))));
    }
    said.push(format!("unlink {}", told(m.unlink("fi"))));
    // Taken off by root, through the mount; where that cannot be, in the layer.
    let taken: Vec<_> =
        LETTERS.iter().map(|(letter, _)| chattr(&format!("-{letter}"), m.at(format!("f{letter}")))).collect();
    said.push(format!("taken off {taken:?}, append {} {}", told(m.append("fa", "+")), told(m.append("fi", "+"))));
    s.down();
    for layer in [s.lower().root(), s.upper().root()] {
        let _ = Command::new("chattr").args(["-R", "-f", "-ia"]).arg(layer).output();
    }
    for line in said {
        s.say(line);
    }
}

const LETTERS: [(char, &str); 2] = [('i', "immutable"), ('a', "append only")];

fn in_a_lower_layer(s: &mut Stage) {
    protected(s, |s| s.lower(), false);
}

fn in_the_upper_layer(s: &mut Stage) {
    protected(s, |s| s.upper(), false);
}

fn given_to_what_is_below(s: &mut Stage) {
    protected(s, |s| s.lower(), true);
}

fn given_to_what_is_above(s: &mut Stage) {
    protected(s, |s| s.upper(), true);
}

/// What is copied up and mounted again still has its flags, as far as copies have any.
fn kept_by_copies(s: &mut Stage) {
    for name in ["S", "A", "SA"] {
        s.lower().file(name, "x").dir(&format!("d{name}"), 0o755);
        for path in [name.to_owned(), format!("d{name}")] {
            for letter in name.chars() {
                assert!(chattr(&format!("+{letter}"), s.lower().at(&path)));
            }
        }
    }
    let m = s.up();
    for round in 0..3 {
        for name in ["S", "A", "SA"] {
            s.say(format!("{} {}", flags(&m, name), flags(&m, &format!("d{name}"))));
            if round == 0 {
                m.append(name, "+").unwrap();
                m.write(format!("d{name}/new"), "x").unwrap();
            }
        }
        if round == 1 {
            s.again();
        }
    }
}

/// A symlink takes the flag of its directory on ext4; it has none that could be given to its copy.
fn of_symlinks(s: &mut Stage) {
    s.lower().dir("d", 0o755);
    assert!(chattr("+A", s.lower().at("d")));
    s.lower().soft_link("nowhere", "d/l");
    let m = s.up();
    s.did("chown", m.chown("d/l", 1, 1));
    s.did("times", m.utimes("d/l", tree::OLD));
    s.did("rename", m.rename("d/l", "d/m"));
    s.say(m.readlink("d/m").map_or_else(code, |t| t.escape_ascii().to_string()));
}

/// A descriptor for reading is enough to ask; to set, the file is copied up first.
fn by_a_reader(s: &mut Stage) {
    s.lower().file("f", "x").dir("d", 0o755);
    let m = s.up();
    for path in ["f", "d"] {
        let fd = m.open(path, OFlags::RDONLY).unwrap();
        let has = ioctl_getflags(&fd).unwrap();
        s.did("set", ioctl_setflags(&fd, has | IFlags::NODUMP));
        s.did("set", ioctl_setflags(&fd, has | IFlags::APPEND));
        s.say(format!("{} {}", flags(&m, path), flags(s.lower(), path)));
        s.did("clear", ioctl_setflags(&fd, has));
    }
    let user = as_user(1234, 1234, || m.open("f", OFlags::RDONLY).and_then(|fd| ioctl_setflags(fd, IFlags::APPEND)));
    s.did("by a user", user);
}

/// Flags of directories in each state: nothing waits for itself.
fn of_directories(s: &mut Stage) {
    s.lower().file("lower/f", "x").file("merged/f", "x");
    s.upper().file("merged/g", "x").file("upper/f", "x");
    let m = s.up();
    for dir in ["lower", "merged", "upper", ""] {
        let fd = m.open(dir, OFlags::RDONLY).unwrap();
        let has = ioctl_getflags(&fd).map(|f| f & (IFlags::APPEND | IFlags::IMMUTABLE));
        s.did("get", has);
        s.did("set", ioctl_setflags(&fd, has.unwrap_or(IFlags::empty()) | IFlags::APPEND));
        s.did("rm", m.unlink(format!("{dir}/f")));
        s.did("clear", ioctl_setflags(&fd, has.unwrap_or(IFlags::empty())));
    }
}

/// What +i and +a forbid, whatever gives them; what follows differs.
macro_rules! forbids {
    ($end:literal) => {
        concat!(
            "immutable: read ok, write EPERM, append EPERM, empty EPERM, cut EPERM, chmod EPERM, chown EPERM, \
             times EPERM, xattr EPERM, link EPERM, rename EPERM, over EPERM, unlink EPERM, exchange EPERM, \
             list ok, create EPERM, mkdir EPERM, in ok, unlink in EPERM, chmod dir EPERM, link in EPERM, \
             rmdir EPERM; append only: read ok, write EPERM, append ok, empty EPERM, cut EPERM, chmod EPERM, \
             chown EPERM, times EPERM, xattr EPERM, link EPERM, rename EPERM, over EPERM, unlink EPERM, \
             exchange EPERM, list ok, create ok, mkdir ok, in ok, unlink in EPERM, chmod dir EPERM, \
             link in ok, rmdir EPERM; i i; a a; unlink EPERM; ",
            $end
        )
    };
}

pub const ROWS: &[Row] = &[
    row(
        &[75],
        "flags below",
        "what do +i and +a of a lower layer forbid?",
        in_a_lower_layer,
        forbids!("taken off [true, true], append ok ok"),
    )
    .on(&["ext4"]),
    row(
        &[27, 30],
        "flags in the upper layer",
        "what do +i and +a of an upper layer forbid?",
        in_the_upper_layer,
        forbids!("taken off [true, true], append ok ok"),
    )
    .unlike(
        forbids!("taken off [false, false], append ok EPERM"),
        "the kernel cannot put its own mark on such a file",
        "In the view they can be taken away, or become the union's own: there the kernel answers `EPERM`",
    )
    .on(&["ext4"]),
    row(
        &[30, 40],
        "flags given to lower files",
        "what do +i and +a forbid that were given to what is below?",
        given_to_what_is_below,
        forbids!("taken off [true, true], append ok ok"),
    )
    .on(&["ext4"]),
    row(
        &[30],
        "flags given to upper files",
        "what do +i and +a forbid that were given to what is above?",
        given_to_what_is_above,
        forbids!("taken off [true, true], append ok ok"),
    )
    .on(&["ext4"]),
    row(
        &[78],
        "flags of copies",
        "are +A and +S kept by a copy-up?",
        kept_by_copies,
        "S S; A A; SA SA; S S; A A; SA SA; S S; A A; SA SA",
    )
    .on(&["ext4"]),
    row(
        &[82],
        "flags of symlinks",
        "is a symlink copied up that has +A?",
        of_symlinks,
        "chown ok; times ok; rename ok; nowhere",
    )
    .on(&["ext4"]),
    row(
        &[40],
        "flags by a reader",
        "does an ioctl of who has a file open for reading reach a lower layer?",
        by_a_reader,
        "set ok; set ok; a ; clear ok; set ok; set ok; a ; clear ok; by a user EPERM",
    )
    .on(&["ext4"]),
    row(
        &[76],
        "flags of directories",
        "do the ioctls work on directories of each layer?",
        of_directories,
        "get ok; set ok; rm EPERM; clear ok; get ok; set ok; rm EPERM; clear ok; get ok; set ok; \
             rm EPERM; clear ok; get ok; set ok; rm ENOENT; clear ok",
    )
    .on(&["ext4"]),
];
