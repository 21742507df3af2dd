//! Histories, and what of them a loss of power must leave.

use std::fs;
use std::path::Path;

use plyfs::config::Fsync;

use crate::engine::{Engine, Result};

/// One operation of a history.
pub struct Step {
    pub act: fn(&Engine) -> Result<()>,
    /// Names that show what they show now, or later, from the answer on.
    pub keeps: &'static [&'static str],
    /// Names that have an upper object from the answer on.
    pub copies: &'static [&'static str],
    /// What else the names may show as long as that is not synced: of data nothing is promised before.
    pub torn: &'static [(&'static str, &'static str)],
}

/// A history, and the state that it starts from.
pub struct Row {
    pub name: String,
    pub fsync: Fsync,
    /// Files arrive by blocks (`copyup_block=4096`).
    pub blocks: bool,
    /// The lower layer is on another file system.
    pub apart: bool,
    /// It has the file `big`, which takes its time to look at.
    pub large: bool,
    pub before: fn(&Engine) -> Result<()>,
    pub steps: Vec<Step>,
}

type Act = fn(&Engine) -> Result<()>;

pub fn row(name: &str, before: Act) -> Row {
    let large = ["large", "blocks"].iter().any(|word| name.contains(word));
    Row { name: name.into(), fsync: Fsync::Auto, blocks: false, apart: false, large, before, steps: Vec::new() }
}

impl Row {
    /// Nothing is promised of when it is on the disk.
    pub fn then(self, act: Act) -> Self {
        self.keep(&[], act)
    }

    /// A sync: these names are kept.
    fn keep(self, keeps: &'static [&'static str], act: Act) -> Self {
        self.step(Step { act, keeps, copies: &[], torn: &[] })
    }

    /// Data that is not synced: the length may be on the disk before the bytes, and their end be cleared before it is cut.
    fn torn(self, torn: &'static [(&'static str, &'static str)], act: Act) -> Self {
        self.step(Step { act, keeps: &[], copies: &[], torn })
    }

    /// With `fsync=strict` these are copied for good.
    fn copy(self, copies: &'static [&'static str], act: Act) -> Self {
        self.step(Step { act, keeps: &[], copies, torn: &[] })
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// From another file system: where the two can share their blocks that is done.
    fn by_blocks(self) -> Self {
        Row { blocks: true, apart: true, ..self }
    }

    fn apart(self) -> Self {
        Row { name: format!("{}, from another file system", self.name), apart: true, ..self }
    }

    fn strict(self) -> Self {
        Row { fsync: Fsync::Strict, ..self }
    }
}

/// Fills the lower layer.
pub fn lower(root: &Path) {
    for dir in ["d/sub", "e", "into", "p"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    for file in ["d/in", "d/sub/deep", "e/other", "into/keep", "one"] {
        fs::write(root.join(file), format!("this is {file}")).unwrap();
    }
    fs::write(root.join("f"), "0123456789").unwrap();
    for name in ["two", "p/three"] {
        fs::hard_link(root.join("one"), root.join(name)).unwrap();
    }
}

/// Adds the file `big`.
pub fn lower_large(root: &Path) {
    let mut random = crate::image::Random::new(7);
    let big: Vec<u8> = (0..BIG).map(|_| random.below(255) as u8 + 1).collect();
    fs::write(root.join("big"), big).unwrap();
}

/// The size of the file `big`.
const BIG: usize = (3 << 20) + 1000;

fn fresh(_: &Engine) -> Result<()> {
    Ok(())
}

/// An object of the upper layer that is on the disk.
fn new_file(e: &Engine, path: &str) -> Result<()> {
    e.create(path)?;
    e.write(path, 0, "new")?;
    e.fsync(path)
}

fn empty_d(e: &Engine) -> Result<()> {
    e.unlink("d/in")?;
    e.unlink("d/sub/deep")?;
    e.rmdir("d/sub")
}

pub fn rows() -> Vec<Row> {
    let apart = writes().into_iter().chain(metacopies()).map(Row::apart).collect();
    [writes(), metacopies(), apart, renames(), removals(), directories(), links(), blocks(), strict()]
        .into_iter()
        .flatten()
        .collect()
}

fn writes() -> Vec<Row> {
    vec![
        row("copy-up by write, fsync", fresh).then(|e| e.write("f", 2, "xx")).keep(&["f"], |e| e.fsync("f")),
        row("copy-up by write, fdatasync", fresh).then(|e| e.write("f", 2, "xx")).keep(&["f"], |e| e.fdatasync("f")),
        row("copy-up by a write with O_DSYNC", fresh)
            .keep(&["f"], |e| e.write_synced("f", 2, "xx"))
            .keep(&["f"], |e| e.write_synced("f", 5, "yy")),
        row("copy-up by write in lower directories, fdatasync", fresh)
            .then(|e| e.write("d/sub/deep", 0, "THIS"))
            .keep(&["d", "d/sub", "d/sub/deep"], |e| e.fdatasync("d/sub/deep")),
        row("copy-up of a large file, fsync", fresh)
            .then(|e| e.write("big", 9000, "xx"))
            .keep(&["big"], |e| e.fsync("big")),
        row("copy-up of a large file, fdatasync", fresh)
            .then(|e| e.write("big", 9000, "xx"))
            .keep(&["big"], |e| e.fdatasync("big")),
        row("copy-up of a large file by truncation", fresh)
            .then(|e| e.truncate("big", 5000))
            .keep(&["big"], |e| e.fdatasync("big")),
        row("copy-up by truncation to nothing", fresh).then(|e| e.truncate("f", 0)).keep(&["f"], |e| e.fsync("f")),
        row("appends, each synced", fresh)
            .torn(&[("f", "0123456789\0")], |e| e.append("f", "a"))
            .keep(&["f"], |e| e.fdatasync("f"))
            .torn(&[("f", "0123456789a\0")], |e| e.append("f", "b"))
            .keep(&["f"], |e| e.fsync("f"))
            .step(Step {
                act: |e| e.write_synced("f", 12, "c"),
                keeps: &["f"],
                copies: &[],
                torn: &[("f", "0123456789ab\0")],
            }),
        row("a new file in lower directories", fresh)
            .then(|e| e.create("d/sub/new"))
            .torn(&[("d/sub/new", "\0\0\0")], |e| e.write("d/sub/new", 0, "new"))
            .keep(&["d/sub/new"], |e| e.fsync("d/sub/new")),
        row("a new file in new directories", fresh)
            .then(|e| e.mkdir("d/sub/new"))
            .then(|e| e.create("d/sub/new/file"))
            .torn(&[("d/sub/new/file", "\0\0\0")], |e| e.write("d/sub/new/file", 0, "new"))
            .keep(&["d/sub/new", "d/sub/new/file"], |e| e.fsync("d/sub/new/file")),
    ]
}

fn metacopies() -> Vec<Row> {
    let by_chmod: Act = |e| e.chmod("f", 0o600);
    let big_by_chmod: Act = |e| e.chmod("big", 0o600);
    vec![
        row("copy-up by chmod, fsync", fresh).then(by_chmod).keep(&["f"], |e| e.fsync("f")),
        row("copy-up by chmod in lower directories, fsync", fresh)
            .then(|e| e.chmod("d/sub/deep", 0o600))
            .keep(&["d/sub/deep"], |e| e.fsync("d/sub/deep")),
        row("first write to a metacopy file, fsync", by_chmod)
            .then(|e| e.write("f", 2, "xx"))
            .keep(&["f"], |e| e.fsync("f")),
        row("first write to a metacopy file, fdatasync", by_chmod)
            .then(|e| e.write("f", 2, "xx"))
            .keep(&["f"], |e| e.fdatasync("f")),
        row("first write with O_DSYNC to a large metacopy file", big_by_chmod)
            .keep(&["big"], |e| e.write_synced("big", 9000, "xx")),
        row("chmod and the first write, fdatasync", fresh)
            .then(by_chmod)
            .then(|e| e.write("f", 2, "xx"))
            .keep(&["f"], |e| e.fdatasync("f")),
        row("truncation of a metacopy file", by_chmod)
            .torn(&[("f", "0123\0\0\0\0\0\0")], |e| e.truncate("f", 4))
            .keep(&["f"], |e| e.fsync("f")),
        row("truncation of a large metacopy file to nothing", big_by_chmod)
            .then(|e| e.truncate("big", 0))
            .keep(&["big"], |e| e.fsync("big")),
        row("rename of a metacopy file, and its first write", by_chmod)
            .then(|e| e.rename("f", "into/f"))
            .then(|e| e.write("into/f", 2, "xx"))
            .keep(&["f", "into/f"], |e| e.fsync("into/f")),
    ]
}

fn renames() -> Vec<Row> {
    vec![
        row("rename of a new file over a lower one", |e| new_file(e, "new"))
            .then(|e| e.rename("new", "f"))
            .keep(&["new", "f"], |e| e.fsync("")),
        row("rename of a lower file over a lower one", fresh)
            .then(|e| e.rename("f", "e/other"))
            .keep(&["e/other"], |e| e.fsync("e"))
            .keep(&["f", "e/other"], |e| e.fsync("")),
        row("rename of a new file over a copied one", |e| {
            new_file(e, "new")?;
            e.write("f", 0, "xx")
        })
        .then(|e| e.rename("new", "f"))
        .keep(&["new", "f"], |e| e.fsync("")),
        row("rename of a new file over a whiteout", |e| {
            new_file(e, "new")?;
            e.unlink("f")
        })
        .then(|e| e.rename("new", "f"))
        .keep(&["new", "f"], |e| e.fsync("")),
        row("rename of a file that was just written", fresh)
            .then(|e| e.create("new"))
            .torn(&[("new", "\0\0\0")], |e| e.write("new", 0, "new"))
            .keep(&["new"], |e| e.fsync("new"))
            .then(|e| e.rename("new", "f"))
            .keep(&["new", "f"], |e| e.fsync("")),
        row("rename of a lower directory", fresh).then(|e| e.rename("d", "d2")).keep(&["d", "d2/in"], |e| e.fsync("")),
        row("rename of a merged directory", |e| new_file(e, "d/new")).then(|e| e.rename("d", "into/d")).keep(
            &["d", "into/d/in", "into/d/new"],
            |e| {
                e.fsync("into")?;
                e.fsync("")
            },
        ),
        row("rename of a merged directory over an emptied one", |e| {
            new_file(e, "d/new")?;
            e.unlink("e/other")
        })
        .then(|e| e.rename("d", "e"))
        .keep(&["d", "e/in", "e/new"], |e| e.fsync("")),
        row("exchange of two merged directories", |e| {
            new_file(e, "d/new")?;
            new_file(e, "e/new")
        })
        .then(|e| e.exchange("d", "e"))
        .keep(&["d/other", "e/in"], |e| e.fsync("")),
    ]
}

fn removals() -> Vec<Row> {
    vec![
        row("unlink of a lower file", fresh).then(|e| e.unlink("d/in")).keep(&["d/in"], |e| e.fsync("d")),
        row("unlink of a copied file", |e| e.write("d/in", 0, "THIS"))
            .then(|e| e.unlink("d/in"))
            .keep(&["d/in"], |e| e.fsync("d")),
        row("removal of a lower tree", fresh)
            .then(|e| e.unlink("d/in"))
            .then(|e| e.unlink("d/sub/deep"))
            .keep(&["d/in", "d/sub/deep"], |e| {
                e.fsync("d/sub")?;
                e.fsync("d")
            })
            .then(|e| e.rmdir("d/sub"))
            .then(|e| e.rmdir("d"))
            .keep(&["d", "d/sub", "d/in"], |e| e.fsync("")),
        row("removal of a renamed directory", |e| {
            empty_d(e)?;
            e.rename("d", "d2")
        })
        .then(|e| e.rmdir("d2"))
        .keep(&["d2", "d"], |e| e.fsync("")),
    ]
}

fn directories() -> Vec<Row> {
    vec![
        row("removal of a lower directory, and a new one in its place", empty_d)
            .then(|e| e.rmdir("d"))
            .then(|e| e.mkdir("d"))
            .then(|e| e.create("d/new"))
            .torn(&[("d/new", "\0\0\0")], |e| e.write("d/new", 0, "new"))
            .keep(&["d/new", "d/in", "d/sub"], |e| e.fsync("d/new")),
        row("a new directory over a whiteout", |e| {
            empty_d(e)?;
            e.rmdir("d")
        })
        .then(|e| e.mkdir("d"))
        .keep(&["d", "d/in"], |e| e.fsync("")),
        row("a new file over a whiteout", |e| e.unlink("f"))
            .then(|e| e.create("f"))
            .torn(&[("f", "\0\0\0")], |e| e.write("f", 0, "new"))
            .keep(&["f"], |e| e.fsync("f")),
        row("a symlink over a whiteout", |e| e.unlink("f")).then(|e| e.symlink("f")).keep(&["f"], |e| e.fsync("")),
        row("rename of a new directory over a whiteout", |e| {
            empty_d(e)?;
            e.rmdir("d")?;
            e.mkdir("new")?;
            new_file(e, "new/file")
        })
        .then(|e| e.rename("new", "d"))
        .keep(&["new", "d", "d/file", "d/in"], |e| e.fsync("")),
    ]
}

fn links() -> Vec<Row> {
    let indexed: Act = |e| e.write("one", 0, "THIS");
    vec![
        row("write to a lower hard link, fsync", fresh)
            .then(indexed)
            .keep(&["one", "two", "p/three"], |e| e.fsync("one")),
        row("write to a lower hard link, fdatasync", fresh)
            .then(indexed)
            .keep(&["one", "two", "p/three"], |e| e.fdatasync("one")),
        row("chmod and write of a lower hard link, fdatasync", fresh)
            .then(|e| e.chmod("two", 0o600))
            .then(indexed)
            .keep(&["one", "two", "p/three"], |e| e.fdatasync("p/three")),
        row("write to the other name of an indexed file", indexed)
            .then(|e| e.write("two", 5, "IS"))
            .keep(&["one", "two", "p/three"], |e| e.fdatasync("two")),
        row("link of a lower file", fresh).then(|e| e.link("f", "g")).keep(&["f", "g"], |e| e.fsync("")),
        row("link of a lower hard link", fresh)
            .then(|e| e.link("one", "into/four"))
            .keep(&["one", "into/four"], |e| e.fsync("into")),
        row("link over a whiteout", |e| e.unlink("into/keep"))
            .then(|e| e.link("f", "into/keep"))
            .keep(&["into/keep"], |e| e.fsync("into")),
        row("unlink of a lower hard link", fresh).then(|e| e.unlink("one")).keep(&["one", "two"], |e| e.fsync("")),
        row("unlink of all names of an indexed file", indexed)
            .then(|e| e.unlink("one"))
            .then(|e| e.unlink("two"))
            .then(|e| e.unlink("p/three"))
            .keep(&["one", "two", "p/three"], |e| {
                e.fsync("p")?;
                e.fsync("")
            }),
        row("rename over a lower hard link", |e| new_file(e, "new"))
            .then(|e| e.rename("new", "two"))
            .keep(&["one", "two", "new"], |e| e.fsync("")),
    ]
}

fn blocks() -> Vec<Row> {
    let first: Act = |e| e.write("big", 9000, "xx");
    // What is not synced is as it was below when the machine starts again.
    let kept: Act = |e| {
        e.write("big", 9000, "xx")?;
        e.fsync("big")
    };
    vec![
        row("first write by blocks, fsync", fresh).then(first).keep(&["big"], |e| e.fsync("big")).by_blocks(),
        row("first write by blocks, fdatasync", fresh)
            .then(first)
            .keep(&["big"], |e| e.fdatasync("big"))
            .then(|e| e.write("big", 9010, "yy"))
            .keep(&["big"], |e| e.fdatasync("big"))
            .then(|e| e.write("big", 500_000, "zz"))
            .keep(&["big"], |e| e.fdatasync("big"))
            .by_blocks(),
        row("writes by blocks with O_DSYNC", fresh)
            .keep(&["big"], |e| e.write_synced("big", 9000, "xx"))
            .keep(&["big"], |e| e.write_synced("big", 500_000, "yy"))
            .by_blocks(),
        row("completion of a file that arrives by blocks", kept)
            .then(|e| e.0.complete_all().map(drop))
            .then(|e| e.write("big", 500_000, "yy"))
            .keep(&["big"], |e| e.fdatasync("big"))
            .by_blocks(),
        row("truncation of a file that arrives by blocks", kept)
            .then(|e| e.truncate("big", 12_345))
            .keep(&["big"], |e| e.fsync("big"))
            .by_blocks(),
    ]
}

/// `fsync=strict`: what is copied up is so for good when the answer comes, without a sync by anybody.
fn strict() -> Vec<Row> {
    vec![
        row("strict: chmod", fresh).copy(&["f"], |e| e.chmod("f", 0o600)).strict(),
        row("strict: chmod in lower directories", fresh)
            .copy(&["d", "d/sub", "d/sub/deep"], |e| e.chmod("d/sub/deep", 0o600))
            .strict(),
        row("strict: write", fresh).copy(&["f"], |e| e.write("f", 2, "xx")).strict(),
        row("strict: a new file in lower directories", fresh).copy(&["d", "d/sub"], |e| e.create("d/sub/new")).strict(),
        row("strict: chmod of a lower hard link", fresh).copy(&["one"], |e| e.chmod("one", 0o600)).strict(),
        row("strict: chmod of a directory", fresh).copy(&["d"], |e| e.chmod("d", 0o700)).strict(),
        row("strict: first write by blocks", fresh)
            .copy(&["big"], |e| e.write("big", 9000, "xx"))
            .keep(&["big"], |e| e.fdatasync("big"))
            .by_blocks()
            .strict(),
    ]
}
