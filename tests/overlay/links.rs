//! Hard links of lower files: one file, and the right count.

use crate::common::*;
use crate::row::{Row, Stage, row, text};

/// Each name with its link count and content, and which names are one inode.
fn state(m: &Tree, names: &[&str]) -> String {
    let mut first: Vec<(u64, &str)> = Vec::new();
    let mut words = Vec::new();
    for name in names {
        let Ok(st) = m.stat(name) else { continue };
        let same = first.iter().find(|(ino, _)| *ino == st.st_ino).map(|(_, name)| *name);
        let like = same.map_or_else(String::new, |same| format!("={same}"));
        words.push(format!("{name}{like} {} {}", st.st_nlink, text(m, name)));
        first.push((st.st_ino, name));
    }
    words.join(", ")
}

fn broken(s: &mut Stage) {
    s.lower().file("a", "x").hard_link("a", "b").file("c", "y").hard_link("c", "d").hard_link("c", "sub/e");
    let m = s.up();
    s.say(state(&m, &["a", "b", "c", "d", "sub/e"]));
    m.append("a", "+").unwrap();
    m.chmod("d", 0o600).unwrap();
    s.say(state(&m, &["a", "b", "c", "d", "sub/e"]));
    m.append("b", "+").unwrap();
    m.append("sub/e", "+").unwrap();
    let m = s.again();
    s.say(state(&m, &["a", "b", "c", "d", "sub/e"]));
    s.say(format!("below {}", state(s.lower(), &["a", "b"])));
    s.say(format!("{:o}", m.mode("c")));
}

/// Names part over a remount then; what was written by a name can be read by it.
fn without_an_index(s: &mut Stage) {
    s.lower().file("a", "x").hard_link("a", "b").file("c", "y").hard_link("c", "d").hard_link("c", "e");
    let m = s.up();
    m.names("").unwrap();
    m.append("b", "+b").unwrap();
    m.append("a", "+a").unwrap();
    m.append("d", "+d").unwrap();
    m.chmod("c", 0o600).unwrap();
    for _ in 0..2 {
        let m = s.again();
        let kept = ["a", "b", "d"].map(|name| text(&m, name).contains(&format!("+{name}")));
        s.say(format!("written {kept:?}, c {:o}, below {}", m.mode("c"), text(s.lower(), "a")));
    }
}

fn counted(s: &mut Stage) {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "new", "other"];
    s.lower().file("a", "x").hard_link("a", "b").hard_link("a", "c").hard_link("a", "d").file("other", "o");
    let m = s.up();
    let say = |s: &mut Stage, m: &Tree, what: &str| s.say(format!("{what}: {}", state(m, &NAMES)));
    say(s, &m, "below");
    m.unlink("a").unwrap();
    say(s, &m, "one gone");
    m.link("b", "new").unwrap();
    say(s, &m, "one more");
    m.rename("c", "moved").unwrap();
    say(s, &m, "one moved");
    m.rename("other", "d").unwrap();
    say(s, &m, "one covered");
    let m = s.again();
    say(s, &m, "again");
    m.unlink("b").unwrap();
    m.link("moved", "b").unwrap();
    m.unlink("new").unwrap();
    let fd = m.open("moved", rustix::fs::OFlags::RDONLY).unwrap();
    say(s, &m, "two gone");
    m.unlink("b").unwrap();
    m.unlink("moved").unwrap();
    s.say(format!("open {}", rustix::fs::fstat(&fd).unwrap().st_nlink));
    drop(fd);
    say(s, &m, "all gone");
    let m = s.again();
    say(s, &m, "again");
    s.say(format!("index {}", index(s)));
}

/// What the index has after a mount: entries that no name has any more are removed.
fn index(s: &Stage) -> usize {
    let names = Tree::new(s.beside(s.work).root()).names("index").unwrap_or_default();
    names.iter().filter(|name| !name.starts_with('#')).count()
}

/// Names are added below, or above, while it is mounted: nothing breaks, no count goes below nothing.
fn added_beneath(s: &mut Stage, above: bool) {
    s.lower().file("a", "x").hard_link("a", "b");
    let m = s.up();
    m.chmod("a", 0o600).unwrap();
    let layer = if above { s.upper() } else { s.lower() };
    if above && !layer.has("b") {
        // Where only the name that was changed is there yet.
        m.chmod("b", 0o600).unwrap();
    }
    for name in ["c", "d"] {
        layer.link("a", name).unwrap();
    }
    for name in ["a", "b", "c", "d"] {
        let done = m.unlink(name);
        let live = |name: &str| m.stat(name).is_ok_and(|st| st.st_nlink == 0);
        s.say(format!("{name} {}", if done.is_ok() { "gone" } else { "not there" }));
        assert!(!["a", "b", "c", "d"].into_iter().any(live), "a name without links");
    }
    m.write("alive", "x").unwrap();
    let m = s.again();
    s.say(format!("alive {}", text(&m, "alive")));
    s.did("rm", m.unlink("alive"));
}

fn added_below(s: &mut Stage) {
    added_beneath(s, false);
}

fn added_above(s: &mut Stage) {
    added_beneath(s, true);
}

/// Names are added below while nothing is mounted, for what was copied up before.
fn added_offline(s: &mut Stage) {
    s.lower().file("one", "x").file("a", "y").hard_link("a", "b");
    let m = s.up();
    m.append("one", "+").unwrap();
    m.append("a", "+").unwrap();
    s.down();
    s.lower().link("one", "two").unwrap();
    s.lower().link("a", "c").unwrap();
    let m = s.up();
    s.say(format!("{} {} {}", text(&m, "one"), text(&m, "two"), text(&m, "c")));
    s.did("append", m.append("two", "-"));
    s.did("append", m.append("one", "-"));
    s.did("append", m.append("c", "-"));
    let m = s.again();
    s.say(format!("{} {} {} {}", text(&m, "one"), text(&m, "two"), text(&m, "c"), text(&m, "b")));
}

/// The name that was changed is removed; the other one has the change, also later.
fn removed_and_mounted_again(s: &mut Stage) {
    s.lower().file("a", "x").hard_link("a", "b").file("c", "y").hard_link("c", "d");
    let m = s.up();
    m.append("a", "+").unwrap();
    m.append("c", "+").unwrap();
    m.unlink("a").unwrap();
    s.say(state(&m, &["a", "b"]));
    let m = s.again();
    m.unlink("c").unwrap();
    s.say(state(&m, &["a", "b", "c", "d"]));
    let m = s.again();
    s.say(state(&m, &["a", "b", "c", "d"]));
    s.did("append", m.append("b", "+"));
    s.say(state(&m, &["b", "d"]));
}

/// Names are removed above or below while nothing is mounted.
fn removed_offline(s: &mut Stage) {
    s.lower().file("a", "x").hard_link("a", "b").file("c", "y").hard_link("c", "d");
    let m = s.up();
    for name in ["a", "b", "c", "d"] {
        m.append(name, "+").unwrap();
    }
    s.down();
    s.upper().unlink("a").unwrap();
    s.upper().unlink("c").unwrap();
    s.upper().unlink("d").unwrap();
    s.say(format!("index {}", index(s)));
    let m = s.up();
    s.say(format!("b {}", text(&m, "b")));
    m.unlink("b").unwrap();
    m.unlink("c").unwrap();
    s.did("rm", m.unlink("d"));
    m.unlink("a").unwrap();
    let m = s.again();
    s.list(&m, "");
    s.say(format!("index {}", index(s)));
}

/// Orphans of the index are removed by the mount.
fn orphans(s: &mut Stage) {
    s.lower().file("a", "x").hard_link("a", "b");
    let m = s.up();
    m.append("a", "+").unwrap();
    m.append("b", "+").unwrap();
    s.say(format!("index {}", index(s)));
    m.unlink("a").unwrap();
    m.unlink("b").unwrap();
    let m = s.again();
    s.say(format!("index {}", index(s)));
    m.write("a", "new").unwrap();
    m.link("a", "b").unwrap();
    s.say(state(&m, &["a", "b"]));
}

const ONE: &str = "are names of a lower file one file after a change, and after a remount?";

pub const ROWS: &[Row] = &[
    row(
        &[18],
        "links of one file",
        ONE,
        broken,
        "a 2 x, b=a 2 x, c 3 y, d=c 3 y, sub/e=c 3 y; a 2 x+, b=a 2 x+, c 3 y, d=c 3 y, sub/e=c 3 y; \
             a 2 x++, b=a 2 x++, c 3 y+, d=c 3 y+, sub/e=c 3 y+; below a 2 x, b=a 2 x; 600",
    )
    .on(&["ext4"]),
    row(
        &[18],
        "links of one file in memory",
        ONE,
        broken,
        "a 2 x, b=a 2 x, c 3 y, d=c 3 y, sub/e=c 3 y; a 2 x+, b=a 2 x+, c 3 y, d=c 3 y, sub/e=c 3 y; \
             a 2 x++, b=a 2 x++, c 3 y+, d=c 3 y+, sub/e=c 3 y+; below a 2 x, b=a 2 x; 600",
    ),
    row(
        &[44],
        "links on two file systems",
        ONE,
        broken,
        "a 2 x, b=a 2 x, c 3 y, d=c 3 y, sub/e=c 3 y; a 2 x+, b=a 2 x+, c 3 y, d=c 3 y, sub/e=c 3 y; \
             a 2 x++, b=a 2 x++, c 3 y+, d=c 3 y+, sub/e=c 3 y+; below a 2 x, b=a 2 x; 600",
    )
    .on(&["ext4", "xfs"]),
    row(
        &[18],
        "links without an index",
        "is what was written by a name read by it after a remount?",
        without_an_index,
        "written [true, true, true], c 600, below x; written [true, true, true], c 600, below x",
    )
    .on(&["ext4"])
    .options("index=off,redirect_dir=on,metacopy=on"),
    row(
        &[33],
        "counts of links",
        "is the count right after each change of names?",
        counted,
        "below: a 4 x, b=a 4 x, c=a 4 x, d=a 4 x, other 1 o; one gone: b 3 x, c=b 3 x, d=b 3 x, \
             other 1 o; one more: b 4 x, c=b 4 x, d=b 4 x, new=b 4 x, other 1 o; one moved: b 4 x, d=b 4 x, \
             new=b 4 x, other 1 o; one covered: b 3 x, d 1 o, new=b 3 x; again: b 3 x, d 1 o, new=b 3 x; \
             two gone: b 2 x, d 1 o; open 0; all gone: d 1 o; again: d 1 o; index 0",
    )
    .on(&["ext4"]),
    row(
        &[34],
        "links added below",
        "what if lower links are made under a mount?",
        added_below,
        "a gone; b gone; c gone; d gone; alive x; rm ok",
    )
    .on(&["ext4"]),
    row(
        &[72],
        "links added above",
        "what if upper links are made under a mount?",
        added_above,
        "a gone; b gone; c not there; d not there; alive x; rm ok",
    )
    .on(&["ext4"]),
    row(
        &[42],
        "links added offline",
        "what if a copied file gets a lower link while nothing is mounted?",
        added_offline,
        "x+ x y+; append ok; append ok; append ok; x+- x- y+- y+-",
    )
    .on(&["ext4"]),
    row(
        &[47],
        "a link removed",
        "has the other name the change after a remount?",
        removed_and_mounted_again,
        "b 1 x+; b 1 x+, d 1 y+; b 1 x+, d 1 y+; append ok; b 1 x++, d 1 y+",
    )
    .on(&["ext4"]),
    row(
        &[48],
        "links removed offline",
        "what if names are removed in the layers while nothing is mounted?",
        removed_offline,
        "index 2; b x++; rm ok; .: ; index 1",
    )
    .on(&["ext4"]),
    row(
        &[48],
        "orphans of the index",
        "are entries of the index removed that have no name?",
        orphans,
        "index 1; index 0; a 2 new, b=a 2 new",
    )
    .on(&["ext4"]),
];
