//! Inode numbers: constant, unique, and the same in each of the places that tell them.

use std::collections::{BTreeMap, BTreeSet};

use rustix::fs::{Dir, FileType, OFlags};

use crate::common::stack::Layer;
use crate::common::*;
use crate::row::{Row, Stage, row, text};

/// Something of everything, in a directory.
fn fill(layer: &Layer, dir: &str) {
    let at = |name: &str| format!("{dir}/{name}");
    layer.file(&at("f"), "x").file(&at("d/in"), "x").soft_link("f", &at("l")).fifo(&at("p"));
    layer.mknod(at("c"), FileType::CharacterDevice, 0o644, rustix::fs::makedev(1, 3)).unwrap();
    layer.mknod(at("s"), FileType::Socket, 0o644, 0).unwrap();
    layer.file(&at("h1"), "x").hard_link(&at("h1"), &at("h2"));
}

const NAMES: [&str; 8] = ["c", "d", "f", "h1", "h2", "l", "p", "s"];

/// Inode numbers and devices by name.
fn numbers(m: &Tree, dir: &str) -> BTreeMap<String, (u64, u64)> {
    let names = NAMES.iter().copied().chain(["d/in"]);
    let of = |name: &str| m.stat(format!("{dir}/{name}")).map(|st| (st.st_dev, st.st_ino)).unwrap();
    names.map(|name| (name.to_owned(), of(name))).collect()
}

/// Which names have other numbers than before; the device is a new one after a remount.
fn changed(before: &BTreeMap<String, (u64, u64)>, now: &BTreeMap<String, (u64, u64)>, whole: bool) -> String {
    let same = |one: (u64, u64), two: (u64, u64)| one.1 == two.1 && (!whole || one.0 == two.0);
    let names: Vec<_> =
        before.iter().filter(|(name, n)| !same(**n, now[*name])).map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "kept".into() } else { format!("new {}", names.join(" ")) }
}

/// Names whose number in the listing is not the one that stat(2) tells.
fn listed(m: &Tree, dir: &str) -> String {
    let fd = m.open(dir, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
    let mut wrong = Vec::new();
    for entry in Dir::new(fd).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap();
        let path = if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") };
        // Above the root is another file system.
        if dir.is_empty() && name == ".." {
            continue;
        }
        if rustix::fs::lstat(m.at(&path)).unwrap().st_ino != entry.ino() {
            wrong.push(name.to_owned());
        }
    }
    wrong.sort();
    if wrong.is_empty() { "listed".into() } else { format!("listed otherwise: {}", wrong.join(" ")) }
}

fn drop_caches() {
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "2");
}

/// The same number before and after the copy-up, a rename, the loss of the caches and a remount.
fn constant(s: &mut Stage) {
    fill(s.lower(), "a");
    s.lower().dir("other", 0o755);
    follow(s);
}

fn constant_of_nested(s: &mut Stage) {
    fill(s.lower(), "a");
    s.lower().dir("other", 0o755);
    s.nest();
    // Some of it has been copied up below.
    s.lower().chmod("a/f", 0o600).unwrap();
    s.lower().write("a/d/new", "x").unwrap();
    follow(s);
}

/// Each layer has all of it: directories of many parts, files that cover each other.
fn constant_over_many_layers(s: &mut Stage) {
    for layer in &s.stack.lowers {
        fill(layer, "a");
        layer.dir("other", 0o755);
    }
    follow(s);
}

/// The upper layer of an earlier mount, with copies in it, is a lower layer now.
fn constant_over_an_old_upper_layer(s: &mut Stage) {
    fill(s.lower(), "a");
    s.lower().dir("other", 0o755);
    let m = s.up();
    for name in ["f", "d", "l", "p", "h1"] {
        m.chown(format!("a/{name}"), 2, 2).unwrap();
    }
    s.down();
    let new = s.beside("upper-2");
    let old = s.stack.upper.replace(new).unwrap();
    s.stack.lowers.insert(0, old);
    s.work = "work-2";
    follow(s);
}

fn follow(s: &mut Stage) {
    let m = s.up();
    let before = numbers(&m, "a");
    s.say(listed(&m, "a"));
    for name in NAMES {
        m.chown(format!("a/{name}"), 1, 1).unwrap();
    }
    s.say(format!("copied up: {}, {}", changed(&before, &numbers(&m, "a"), true), listed(&m, "a")));
    for name in NAMES {
        m.rename(format!("a/{name}"), format!("other/{name}")).unwrap();
    }
    s.say(format!("renamed: {}, {}", changed(&before, &numbers(&m, "other"), true), listed(&m, "other")));
    drop_caches();
    s.say(format!("dropped: {}, {}", changed(&before, &numbers(&m, "other"), true), listed(&m, "other")));
    let m = s.again();
    // Listed first: nothing is known yet.
    let listed = listed(&m, "other");
    s.say(format!("again: {}, {listed}", changed(&before, &numbers(&m, "other"), false)));
}

/// `.` and `..`, merged, pure and impure directories, before and after they change.
fn told_alike(s: &mut Stage) {
    fill(s.lower(), "merged");
    fill(s.lower(), "lower/sub");
    s.upper().file("merged/u", "x").file("pure/sub/f", "x").dir("impure", 0o755).file("impure/own", "x");
    let m = s.up();
    m.rename("merged/f", "impure/f").unwrap();
    m.rename("merged/d", "impure/d").unwrap();
    m.write("pure/sub/new", "x").unwrap();
    for _ in 0..2 {
        let m = s.again();
        for dir in ["", "merged", "lower", "lower/sub", "pure", "pure/sub", "impure", "impure/d"] {
            s.say(format!("{dir}: {}", listed(&m, dir)));
        }
        m.chmod("lower", 0o700).unwrap();
        m.append("lower/sub/f", "+").unwrap();
    }
}

/// Every object has a number of its own, also where layers on different file systems have the same ones.
fn unique(s: &mut Stage) {
    for (i, layer) in s.stack.lowers.iter().enumerate() {
        for n in 0..20 {
            layer.file(&format!("l{i}/f{n}"), "x").file(&format!("both/l{i}-{n}"), "x");
        }
    }
    for n in 0..20 {
        s.upper().file(&format!("up/f{n}"), "x");
    }
    let m = s.up();
    let look = |m: &Tree, seen: &mut BTreeSet<(u64, u64)>, real: &mut usize, total: &mut usize| {
        for dir in m.names("").unwrap() {
            for name in [String::new()].into_iter().chain(m.names(&dir).unwrap()) {
                let path = if name.is_empty() { dir.clone() } else { format!("{dir}/{name}") };
                let st = m.stat(&path).unwrap();
                *total += usize::from(seen.insert((st.st_dev, st.st_ino)));
                *real += 1;
            }
        }
    };
    for round in 1..3 {
        let (mut seen, mut all, mut different) = (BTreeSet::new(), 0, 0);
        look(&m, &mut seen, &mut all, &mut different);
        s.say(format!("{all} objects, {different} numbers"));
        for i in 0..s.stack.lowers.len() {
            m.append(format!("l{i}/f0"), "+").unwrap();
            m.rename(format!("both/l{i}-{round}"), format!("l{i}/moved{round}")).unwrap();
        }
    }
    // Not those of the layers themselves: a file and its copy are told apart.
    let (shown, real) = (m.stat("l0/f1").unwrap(), s.lower().stat("l0/f1").unwrap());
    s.say(format!("as below {}", (shown.st_dev, shown.st_ino) == (real.st_dev, real.st_ino)));
}

/// Two upper files with one origin have two numbers, or one of them cannot be had.
fn two_of_one_origin(s: &mut Stage) {
    s.lower().file("a", "aaaa").dir("d", 0o755).file("d/f", "x");
    let m = s.up();
    m.append("a", "+").unwrap();
    m.chmod("d", 0o700).unwrap();
    s.down();
    for name in ["a", "d"] {
        let Ok(origin) = s.upper().xattr(name, "trusted.overlay.origin") else { return s.say("no origin") };
        let copy = format!("{name}2");
        if name == "a" {
            s.upper().write(&copy, "bbbbb").unwrap()
        } else {
            s.upper().mkdir(&copy, 0o755).unwrap()
        }
        s.upper().set_xattr(&copy, "trusted.overlay.origin", &origin).unwrap();
    }
    let m = s.up();
    for (one, two) in [("a", "a2"), ("d", "d2")] {
        let numbers = [one, two].map(|name| m.stat(name).map(|st| (st.st_dev, st.st_ino)));
        let text = match numbers {
            [Ok(one), Ok(two)] => {
                if one == two {
                    "one number".into()
                } else {
                    "two numbers".into()
                }
            }
            [one, two] => format!("{} {}", crate::row::told(one), crate::row::told(two)),
        };
        s.say(format!("{one}, {two}: {text}"));
    }
    s.say(format!("{} {}", text(&m, "a"), text(&m, "a2")));
}

/// The mark that tells the kernel that numbers of a directory's entries are those of other objects.
fn impure(s: &mut Stage) {
    s.lower().file("a/f", "x").file("a/d/in", "x");
    s.upper().dir("pure", 0o755).dir("pure2", 0o755).dir("pure3", 0o755);
    let m = s.up();
    m.rename("a/f", "pure/f").unwrap();
    m.rename("a/d", "pure2/d").unwrap();
    m.write("pure3/f", "x").unwrap();
    for dir in ["pure", "pure2", "pure3", ""] {
        let mark = s.upper().xattr(dir, "trusted.overlay.impure").map_or_else(code, |v| v.escape_ascii().to_string());
        s.say(format!("{dir} {mark}"));
    }
    s.down();
    // Where somebody has taken it off, a listing may not tell them.
    let _ = s.upper().remove_xattr("pure", "trusted.overlay.impure");
    let m = s.up();
    s.say(listed(&m, "pure"));
    s.list(&m, "pure");
}

const KEPT: &str = "is each number kept over copy-up, rename, remount, in stat and listings?";

pub const ROWS: &[Row] = &[
    row(
        &[17],
        "constant on one file system",
        KEPT,
        constant,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .on(&["ext4"]),
    row(
        &[17],
        "constant in memory",
        KEPT,
        constant,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    ),
    row(
        &[43],
        "constant on two file systems",
        KEPT,
        constant,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .on(&["ext4", "xfs"]),
    row(
        &[43],
        "constant on two file systems of one kind",
        KEPT,
        constant,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .on(&["ext4", "ext4"]),
    row(
        &[70],
        "constant of nested ones",
        KEPT,
        constant_of_nested,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .on(&["ext4"])
    .unlike(
        "listed; copied up: new h1 h2, listed; renamed: new h1 h2, listed; dropped: new c h1 h2 l p s, \
                 listed; again: new c h1 h2 l p s, listed",
        "handles of an overlay below do not last there",
        "| plyfs | device, opaque | yes | no data | parted | kept | kept | same |",
    ),
    row(
        &[71],
        "constant of nested ones on two file systems",
        KEPT,
        constant_of_nested,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .on(&["ext4", "xfs"])
    .unlike(
        "listed; copied up: new h1 h2, listed; renamed: new h1 h2, listed; dropped: new c h1 h2 l p s, \
                 listed; again: new c h1 h2 l p s, listed",
        "handles of an overlay below do not last there",
        "| plyfs | device, opaque | yes | no data | parted | kept | kept | same |",
    ),
    row(
        &[17, 100, 101, 102, 103],
        "constant over ten layers",
        KEPT,
        constant_over_many_layers,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .lowers(10)
    .on(&["ext4"])
    .unlike(
        "listed otherwise: ..; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; \
                 again: kept, listed",
        "the kernel's `..` is that of a layer",
        "Listings tell the numbers of stat(2)",
    ),
    row(
        &[104, 105, 106, 107, 108, 109],
        "constant over layers on four file systems",
        KEPT,
        constant_over_many_layers,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .lowers(6)
    .on(&["tmpfs", "xfs", "ext4", "ext4"])
    .unlike(
        "listed otherwise: ..; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; \
                 again: kept, listed",
        "the kernel's `..` is that of a layer",
        "Listings tell the numbers of stat(2)",
    ),
    row(
        &[17],
        "constant over an old upper layer",
        KEPT,
        constant_over_an_old_upper_layer,
        "listed; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; again: kept, \
             listed",
    )
    .on(&["ext4"])
    .unlike(
        "listed otherwise: ..; copied up: kept, listed; renamed: kept, listed; dropped: kept, listed; \
                 again: kept, listed",
        "the kernel's `..` is that of a layer",
        "Listings tell the numbers of stat(2)",
    ),
    row(
        &[38],
        "listed on one file system",
        "do listings tell the numbers of stat, `.` and `..` too?",
        told_alike,
        ": listed; merged: listed; lower: listed; lower/sub: listed; pure: listed; pure/sub: listed; \
             impure: listed; impure/d: listed; : listed; merged: listed; lower: listed; lower/sub: listed; \
             pure: listed; pure/sub: listed; impure: listed; impure/d: listed",
    )
    .on(&["ext4"]),
    row(
        &[41],
        "listed on two file systems",
        "do listings tell the numbers of stat, `.` and `..` too?",
        told_alike,
        ": listed; merged: listed; lower: listed; lower/sub: listed; pure: listed; pure/sub: listed; \
             impure: listed; impure/d: listed; : listed; merged: listed; lower: listed; lower/sub: listed; \
             pure: listed; pure/sub: listed; impure: listed; impure/d: listed",
    )
    .on(&["ext4", "xfs"]),
    row(
        &[67],
        "unique",
        "has each object a number of its own?",
        unique,
        "145 objects, 145 numbers; 145 objects, 145 numbers; as below false",
    )
    .lowers(3)
    .on(&["ext4", "ext4", "ext4"]),
    row(
        &[67],
        "unique beside the upper layer",
        "the same, with a lower layer beside the upper one",
        unique,
        "104 objects, 104 numbers; 104 objects, 104 numbers; as below false",
    )
    .lowers(2)
    .on(&["ext4", "xfs"]),
    row(
        &[59],
        "two of one origin",
        "are two files told apart that have one origin?",
        two_of_one_origin,
        "a, a2: two numbers; d, d2: two numbers; aaaa+ bbbbb",
    )
    .on(&["ext4"])
    .unlike(
        "a, a2: ok ESTALE; d, d2: two numbers; aaaa+ ESTALE",
        "both are there, and different",
        "Two files of an upper layer with one `origin`",
    ),
    row(
        &[56],
        "impure",
        "are directories marked that have entries from elsewhere?",
        impure,
        "pure y; pure2 y; pure3 ENODATA;  y; listed; pure: f",
    )
    .on(&["ext4"])
    .unlike(
        "pure y; pure2 y; pure3 ENODATA;  y; listed otherwise: f; pure: f",
        "plyfs needs no mark for that",
        "Listings tell the numbers of stat(2)",
    ),
];
