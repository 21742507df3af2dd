//! What hides names, and what is made in its place.

use rustix::fs::FileType;

use crate::common::*;
use crate::row::{Row, Stage, row, text};

/// Which of these names are whiteouts in a layer.
fn hidden(layer: &Tree, names: &[&str]) -> String {
    let hidden: Vec<_> = names.iter().copied().filter(|name| layer.is_whiteout(name)).collect();
    hidden.join(" ")
}

fn all_kinds(s: &mut Stage) {
    const NAMES: [&str; 5] = ["c", "d", "f", "p", "s"];
    let lower = s.lower().file("f", "x").file("d/in", "x").soft_link("f", "s").fifo("p");
    lower.mknod("c", FileType::Socket, 0o644, 0).unwrap();
    let m = s.up();
    s.did("rm -r", m.remove_all(""));
    s.list(&m, "");
    s.say(format!("whiteouts: {}", hidden(s.upper(), &NAMES)));
    let m = s.again();
    s.list(&m, "");
    m.write("f", "new").unwrap();
    m.unlink("f").unwrap();
    s.list(&m, "");
}

/// The file leaves a whiteout where it was, and none where it goes away from for good.
fn moved_then_removed(s: &mut Stage) {
    s.lower().file("f", "x").file("g", "x").file("both/h", "x");
    s.upper().dir("pure", 0o755).dir("both", 0o755);
    let m = s.up();
    m.rename("f", "pure/f").unwrap();
    m.rename("g", "both/g").unwrap();
    for path in ["pure/f", "both/g", "both/h"] {
        m.unlink(path).unwrap();
    }
    s.list(&m, "pure");
    s.list(&m, "both");
    let upper = Tree::new(s.upper().root());
    s.list(&upper, "pure");
    s.list(&upper, "both");
    let m = s.again();
    s.did("rmdir", m.rmdir("pure"));
    s.did("rmdir", m.rmdir("both"));
    s.list(&m, "");
}

/// A directory whose names are all hidden in its own layers.
fn of_a_lower_layer(s: &mut Stage) {
    s.lower().whiteout("d/f").dir("d/own", 0o755).whiteout("d/own/g");
    s.stack.lowers[1].file("d/f", "x").file("d/own/g", "x");
    let m = s.up();
    s.list(&m, "d");
    s.did("rm -r", m.remove_all("d"));
    s.list(&m, "");
    m.mkdir("d", 0o755).unwrap();
    s.list(&m, "d");
    s.did("rmdir", m.rmdir("d"));
}

/// Hidden, there again, hidden again: in one layer after the other.
fn of_whiteouts(s: &mut Stage) {
    s.stack.lowers[2].file("f", "lowest").file("g", "lowest");
    s.stack.lowers[1].whiteout("f").whiteout("g").whiteout("none");
    s.lower().file("f", "again").whiteout("none");
    let m = s.up();
    s.say(format!("f {}, g {}", text(&m, "f"), text(&m, "g")));
    m.unlink("f").unwrap();
    s.did("rm none", m.unlink("none"));
    m.write("g", "new").unwrap();
    m.unlink("g").unwrap();
    s.did("mkdir", m.mkdir("none", 0o755));
    s.list(&m, "");
    let m = s.again();
    s.list(&m, "");
    let marks = hidden(s.upper(), &["f", "g", "none"]);
    s.say(format!("whiteouts: {marks}"));
}

/// The directory below goes while nothing is mounted: its whiteouts hide nothing any more, and are not seen.
fn left_without_a_lower_directory(s: &mut Stage) {
    for dir in ["changed", "gone", "made"] {
        s.lower().file(&format!("{dir}/f"), "x").file(&format!("{dir}/g"), "x");
    }
    let m = s.up();
    m.unlink("changed/f").unwrap();
    m.unlink("gone/f").unwrap();
    m.unlink("gone/g").unwrap();
    m.chmod("made", 0o700).unwrap();
    s.down();
    s.lower().remove_all("changed").unwrap();
    s.lower().remove_all("gone").unwrap();
    s.lower().remove_all("made").unwrap();
    s.upper().whiteout("made/stray");
    let m = s.up();
    for dir in ["changed", "gone", "made"] {
        s.list(&m, dir);
        s.did("rmdir", m.rmdir(dir));
    }
    let m = s.again();
    s.list(&m, "");
}

/// A whiteout that a directory holds for a name which is nowhere below.
fn of_nothing(s: &mut Stage) {
    s.upper().dir("pure", 0o755).whiteout("pure/x").whiteout("y");
    s.lower().file("merged/f", "x");
    s.upper().whiteout("merged/x");
    let m = s.up();
    s.list(&m, "merged");
    s.did("stat", m.stat("merged/x"));
    s.did("stat", m.stat("y"));
    m.unlink("merged/f").unwrap();
    s.did("rmdir", m.rmdir("merged"));
    s.did("stat", m.stat("pure/x"));
    s.did("create", m.write("pure/x", "new"));
    s.list(&m, "pure");
}

/// The upper layer is changed by somebody else while it is mounted: nothing breaks.
fn whiteout_removed_beneath(s: &mut Stage) {
    s.lower().file("f", "x").file("g", "x");
    let m = s.up();
    m.unlink("f").unwrap();
    m.unlink("g").unwrap();
    s.did("stat", m.stat("f"));
    s.upper().unlink("f").unwrap();
    s.upper().unlink("g").unwrap();
    s.did("mkdir", m.mkdir("f", 0o755));
    s.did("create", m.write("g", "new"));
    s.did("another", m.write("alive", "x"));
}

fn file_removed_beneath(s: &mut Stage) {
    s.lower().file("lower", "x").file("d/in", "x");
    let m = s.up();
    for name in ["lower", "new"] {
        m.write(name, "upper").unwrap();
    }
    m.mkdir("made", 0o755).unwrap();
    m.stat("lower").unwrap();
    m.stat("new").unwrap();
    s.upper().unlink("lower").unwrap();
    s.upper().unlink("new").unwrap();
    s.upper().rmdir("made").unwrap();
    s.did("rm lower", m.unlink("lower"));
    s.did("rm new", m.unlink("new"));
    s.did("rmdir", m.rmdir("made"));
    s.did("another", m.write("alive", "x"));
    let m = s.again();
    s.list(&m, "");
}

fn owner(m: &Tree, path: &str) -> String {
    let st = m.stat(path).unwrap();
    format!("{path} {}:{} {:o}", st.st_uid, st.st_gid, st.st_mode & 0o7777)
}

/// What stands over a whiteout belongs to who made it.
fn made_over_by_another_user(s: &mut Stage) {
    for name in ["f", "d", "l", "p", "h"] {
        s.lower().file(&format!("all/{name}"), "x");
    }
    s.lower().perm("all", 0o777);
    let m = s.up();
    m.remove_all("all").unwrap();
    m.mkdir("all", 0o777).unwrap();
    m.chmod("all", 0o777).unwrap();
    let m = s.again();
    as_user(1234, 4321, || {
        m.write("all/f", "x").unwrap();
        m.mkdir("all/d", 0o755).unwrap();
        m.symlink("f", "all/l").unwrap();
        m.mknod("all/p", FileType::Fifo, 0o644, 0).unwrap();
        m.link("all/f", "all/h").unwrap();
    });
    for path in ["all/f", "all/d", "all/l", "all/p", "all/h"] {
        s.say(owner(&m, path));
    }
}

/// g+s of a directory goes on to what is made over a whiteout, as to anything else.
fn made_over_in_a_setgid_directory(s: &mut Stage) {
    for name in ["f", "d", "l", "kept"] {
        s.lower().file(&format!("g/{name}"), "x");
    }
    s.lower().chown("g", 0, 4321).unwrap();
    s.lower().perm("g", 0o2777);
    let m = s.up();
    for name in ["f", "d", "l"] {
        m.unlink(format!("g/{name}")).unwrap();
    }
    as_user(1234, 1234, || {
        m.write("g/f", "x").unwrap();
        m.mkdir("g/d", 0o755).unwrap();
        m.symlink("f", "g/l").unwrap();
        m.write("g/new", "x").unwrap();
    });
    for path in ["g/f", "g/d", "g/l", "g/new"] {
        s.say(owner(&m, path));
    }
}

/// All whiteouts are one inode, so that ten thousand of them take no ten thousand inodes.
fn of_one_inode(s: &mut Stage) {
    for i in 0..40 {
        s.lower().file(&format!("f{i}"), "x").file(&format!("d{}/in", i % 4), "x");
    }
    let m = s.up();
    m.remove_all("").unwrap();
    let numbers: Vec<_> = s.upper().names("").unwrap().iter().map(|n| s.upper().stat(n).unwrap().st_ino).collect();
    let different: std::collections::BTreeSet<_> = numbers.iter().collect();
    s.say(format!("{} whiteouts, {}", numbers.len(), if different.len() < 4 { "shared" } else { "each its own" }));
}

pub const ROWS: &[Row] = &[
    row(
        &[3],
        "whiteouts of all kinds",
        "is what is removed hidden, whatever it is, also after a remount?",
        all_kinds,
        "rm -r ok; .: ; whiteouts: c d f p s; .: ; .: ",
    )
    .users(),
    row(
        &[6],
        "moved, then removed",
        "are whiteouts seen where a moved file was removed?",
        moved_then_removed,
        "pure: ; both: ; pure: ; both: h; rmdir ok; rmdir ok; .: ",
    )
    .users(),
    row(
        &[10],
        "a directory of whiteouts",
        "can a directory be removed whose lower layers hide all of its names?",
        of_a_lower_layer,
        "d: own; rm -r ok; .: ; d: ; rmdir ok",
    )
    .lowers(2)
    .users(),
    row(
        &[3, 10],
        "whiteouts of whiteouts",
        "is a name hidden, there and hidden again through four layers?",
        of_whiteouts,
        "f again, g ENOENT; rm none ENOENT; mkdir ok; .: none; .: none; whiteouts: f",
    )
    .lowers(3)
    .users(),
    row(
        &[31, 45],
        "whiteouts left alone",
        "are whiteouts seen once the lower directory is gone?",
        left_without_a_lower_directory,
        "changed: ; rmdir ok; gone: ; rmdir ok; made: ; rmdir ok; .: ",
    ),
    row(
        &[31, 45, 56],
        "whiteouts of nothing",
        "are whiteouts seen that hide nothing?",
        of_nothing,
        "merged: f; stat ENOENT; stat ENOENT; rmdir ok; stat ENOENT; create ok; pure: x",
    ),
    row(
        &[8],
        "over a whiteout by a user",
        "whose is what is made over a whiteout?",
        made_over_by_another_user,
        "all/f 1234:4321 644; all/d 1234:4321 755; all/l 1234:4321 777; all/p 1234:4321 644; \
             all/h 1234:4321 644",
    ),
    row(
        &[15],
        "over a whiteout with g+s",
        "is the group of a g+s directory handed on over a whiteout?",
        made_over_in_a_setgid_directory,
        "g/f 1234:4321 644; g/d 1234:4321 2755; g/l 1234:4321 777; g/new 1234:4321 644",
    ),
    row(&[73], "whiteouts of one inode", "do whiteouts share an inode?", of_one_inode, "44 whiteouts, shared"),
    row(
        &[63],
        "a whiteout removed beneath",
        "what if a whiteout is gone when its name is made anew?",
        whiteout_removed_beneath,
        "stat ENOENT; mkdir EEXIST; create ok; another ok",
    )
    .unlike(
        "stat ENOENT; mkdir ESTALE; create ok; another ok",
        "each change looks at what is there",
        "What somebody else changes in the upper layer under a mount",
    ),
    row(
        &[12],
        "a file removed beneath",
        "what if an upper file is gone when it is removed?",
        file_removed_beneath,
        "rm lower ok; rm new ENOENT; rmdir ENOENT; another ok; .: alive d",
    )
    .unlike(
        "rm lower ESTALE; rm new ESTALE; rmdir ESTALE; another ok; .: alive d lower",
        "each change looks at what is there",
        "What somebody else changes in the upper layer under a mount",
    ),
];
