//! The operations.

mod crossed;

use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::engine::{Engine, Result};

/// A part of a row.
type Step<T> = Box<dyn Fn(&Engine) -> Result<T> + Send + Sync>;

/// What is done.
enum Act {
    /// Something that changes the view.
    Change(Step<()>),
    /// Something that changes nothing that is seen, and its answer.
    Read(Step<String>),
}

/// An operation and the state that it starts from.
pub struct Row {
    pub name: String,
    before: Step<()>,
    act: Act,
    /// What an end in the middle of it may leave, where it takes two steps.
    middle: Option<Step<()>>,
    /// It is about the names of one lower file. Their number is kept by two marks around a call: an end in between leaves
    /// the right one, but where a mark cannot be written it may be off.
    pub links: bool,
    /// Its answer holds attributes, which are read when all is done: an error of that is no change undone.
    pub answers_attributes: bool,
    /// The same operation stands in a table by itself, too: this one is for the walk that takes its time.
    pub crossed: bool,
}

impl Row {
    /// Brings about the state that the operation starts from.
    pub fn before(&self, engine: &Engine) -> Result<()> {
        (self.before)(engine)
    }

    /// Does it.
    pub fn act(&self, engine: &Engine) -> Result<String> {
        match &self.act {
            Act::Change(act) => act(engine).map(|()| String::new()),
            Act::Read(act) => act(engine),
        }
    }

    /// Brings about what an end in the middle may leave; false where there is no such thing.
    pub fn middle(&self, engine: &Engine) -> Result<bool> {
        self.middle.as_ref().map_or(Ok(false), |middle| middle(engine).map(|()| true))
    }

    /// Whether it sets several attributes one after the other, as no program asks for: an end may leave any of them.
    pub fn is_stepwise(&self) -> bool {
        self.name.starts_with("setattr of all")
    }

    pub fn changes(&self) -> bool {
        matches!(self.act, Act::Change(_))
    }
}

/// The names of the one lower file that has several.
pub const LINKED: [&str; 3] = ["one", "two", "p/three"];

/// Fills the lower layers, the upper one of which is the first.
pub fn lowers([root, below]: [&Path; 2]) {
    for dir in ["d/sub", "e", "into", "p", "m", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::create_dir(below.join("m")).unwrap();
    let files = ["d/in", "d/sub/deep", "e/other", "into/keep", "one"].map(|file| root.join(file));
    for (file, name) in files.iter().zip(["d/in", "d/sub/deep", "e/other", "into/keep", "one"]) {
        fs::write(file, format!("this is {name}")).unwrap();
    }
    let more = [root.join("f"), root.join("m/top"), below.join("m/bottom"), below.join("m/top")];
    more.iter().for_each(|file| fs::write(file, "0123456789").unwrap());
    for name in &LINKED[1..] {
        fs::hard_link(root.join(LINKED[0]), root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("f", root.join("symlink")).unwrap();
    for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), 0).unwrap();
    }
    for file in files.iter().chain(&more) {
        rustix::fs::setxattr(file, "user.a", b"is here", XattrFlags::empty()).unwrap();
    }
    let specials = ["symlink", "fifo", "socket"].map(|name| root.join(name));
    for file in files.iter().chain(&more).chain(&specials) {
        let at = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        rustix::fs::utimensat(CWD, file, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

fn row(name: &str, before: fn(&Engine) -> Result<()>, act: fn(&Engine) -> Result<()>) -> Row {
    let answers = ["chmod", "truncate", "link", "create of", "mkdir in"];
    let answers_attributes = answers.iter().any(|word| name.starts_with(word));
    let (before, act) = (Box::new(before), Act::Change(Box::new(act)));
    Row { name: name.into(), before, act, middle: None, links: false, answers_attributes, crossed: false }
}

fn counted(name: &str, before: fn(&Engine) -> Result<()>, act: fn(&Engine) -> Result<()>) -> Row {
    Row { links: true, ..row(name, before, act) }
}

fn fresh(_: &Engine) -> Result<()> {
    Ok(())
}

/// The file `f` with its data below.
fn metacopy(e: &Engine) -> Result<()> {
    e.chmod("f", 0o600)
}

/// The linked file, copied up under one name; the others are not known.
fn indexed(e: &Engine) -> Result<()> {
    e.write("one", 0, "THIS")
}

fn without_d(e: &Engine) -> Result<()> {
    e.unlink("d/in")?;
    e.unlink("d/sub/deep")?;
    e.rmdir("d/sub")
}

fn whiteout_at_d(e: &Engine) -> Result<()> {
    without_d(e)?;
    e.rmdir("d")
}

pub fn rows() -> Vec<Row> {
    let tables = [directories(), metacopies(), hard_links(), crossed::files(), crossed::dirs(), crossed::others()];
    tables.into_iter().flatten().collect()
}

fn directories() -> Vec<Row> {
    vec![
        row("rename of a lower directory", fresh, |e| e.rename("d", "d2")),
        row("rename of a lower directory to another one", fresh, |e| e.rename("d", "into/d")),
        row("rename of a merged directory", |e| e.create("d/new"), |e| e.rename("d", "d2")),
        row("rename of a merged directory to another one", |e| e.create("d/new"), |e| e.rename("d", "into/d")),
        row("rename of a renamed directory to another one", |e| e.rename("d", "d2"), |e| e.rename("d2", "into/d")),
        row("rename of a renamed directory back", |e| e.rename("d", "d2"), |e| e.rename("d2", "d")),
        row("rename of a merged directory over an emptied one", |e| e.unlink("e/other"), |e| e.rename("d", "e")),
        row(
            "rename of a new directory over an emptied one",
            |e| {
                e.unlink("e/other")?;
                e.mkdir("new")?;
                e.create("new/file")
            },
            |e| e.rename("new", "e"),
        ),
        row(
            "rename of a new directory over a whiteout",
            |e| {
                whiteout_at_d(e)?;
                e.mkdir("new")?;
                e.create("new/file")
            },
            |e| e.rename("new", "d"),
        ),
        row(
            "exchange of two merged directories",
            |e| {
                e.create("d/new")?;
                e.create("e/new")
            },
            |e| e.exchange("d", "e"),
        ),
        row("exchange of two lower directories, one below another one", fresh, |e| e.exchange("d/sub", "e")),
        row("exchange of a lower directory and a new file", |e| e.create("new"), |e| e.exchange("d/sub", "new")),
        row("rmdir of a lower directory that was emptied", without_d, |e| e.rmdir("d")),
        row(
            "rmdir of a renamed directory that was emptied",
            |e| {
                without_d(e)?;
                e.rename("d", "d2")
            },
            |e| e.rmdir("d2"),
        ),
        row("mkdir over a whiteout", whiteout_at_d, |e| e.mkdir("d")),
        row("create over a whiteout", whiteout_at_d, |e| e.create("d")),
        row("create of a file", fresh, |e| e.create("new")),
        row("mkdir in a lower directory", fresh, |e| e.mkdir("d/new")),
        row("symlink over a whiteout", whiteout_at_d, |e| e.symlink("d")),
    ]
}

fn metacopies() -> Vec<Row> {
    vec![
        row("rename of a lower file", fresh, |e| e.rename("f", "g")),
        row("rename of a metacopy file", metacopy, |e| e.rename("f", "g")),
        row("rename of a metacopy file to another directory", metacopy, |e| e.rename("f", "into/f")),
        row(
            "rename of a renamed metacopy file to another directory",
            |e| e.rename("f", "g"),
            |e| e.rename("g", "into/f"),
        ),
        row(
            "rename of a metacopy file over another one",
            |e| {
                metacopy(e)?;
                e.chmod("e/other", 0o600)
            },
            |e| e.rename("f", "e/other"),
        ),
        row(
            "rename of a metacopy file over a whiteout",
            |e| {
                metacopy(e)?;
                e.unlink("into/keep")
            },
            |e| e.rename("f", "into/keep"),
        ),
        row(
            "exchange of two metacopy files",
            |e| {
                metacopy(e)?;
                e.chmod("e/other", 0o600)
            },
            |e| e.exchange("f", "e/other"),
        ),
        row("chmod of a lower file", fresh, |e| e.chmod("f", 0o600)),
        row("chmod of a lower file in a lower directory", fresh, |e| e.chmod("d/sub/deep", 0o600)),
        row("chmod of a metacopy file", metacopy, |e| e.chmod("f", 0o640)),
        row("first write to a metacopy file", metacopy, |e| e.write("f", 2, "xx")),
        row("first write to a renamed metacopy file", |e| e.rename("f", "into/f"), |e| e.write("into/f", 2, "xx")),
        row("write to a lower file", fresh, |e| e.write("f", 2, "xx")),
        row("truncate of a metacopy file to smaller", metacopy, |e| e.truncate("f", 4)),
        row("truncate of a metacopy file to nothing", metacopy, |e| e.truncate("f", 0)),
        row("truncate of a metacopy file to larger", metacopy, |e| e.truncate("f", 12)),
        row("truncate of a lower file to smaller", fresh, |e| e.truncate("f", 4)),
        row("truncate of a lower file to nothing", fresh, |e| e.truncate("f", 0)),
        row("truncate of a lower file to larger", fresh, |e| e.truncate("f", 12)),
        row("link of a lower file", fresh, |e| e.link("f", "g")),
        row("link of a metacopy file", metacopy, |e| e.link("f", "g")),
        row(
            "link of a metacopy file over a whiteout",
            |e| {
                metacopy(e)?;
                e.unlink("into/keep")
            },
            |e| e.link("f", "into/keep"),
        ),
        row("unlink of a metacopy file", metacopy, |e| e.unlink("f")),
        row("unlink of a renamed metacopy file", |e| e.rename("f", "g"), |e| e.unlink("g")),
    ]
}

fn hard_links() -> Vec<Row> {
    vec![
        counted("write to a name of a lower hard link", fresh, |e| e.write("one", 0, "THIS")),
        counted(
            "write to a lower hard link with two names known",
            |e| e.id("p/three").map(drop),
            |e| e.write("one", 0, "THIS"),
        ),
        counted("chmod of a name of a lower hard link", fresh, |e| e.chmod("one", 0o600)),
        counted("first write to an indexed metacopy file", |e| e.chmod("one", 0o600), |e| e.write("two", 0, "THIS")),
        counted("truncate of an indexed metacopy file", |e| e.chmod("one", 0o600), |e| e.truncate("two", 4)),
        counted("unlink of a name of a lower hard link", fresh, |e| e.unlink("one")),
        counted("unlink of a name with a link of the copy", indexed, |e| e.unlink("one")),
        counted("unlink of a name without a link of the copy", indexed, |e| e.unlink("two")),
        counted(
            "unlink of a name of a read-only indexed file",
            |e| {
                indexed(e)?;
                e.chmod("one", 0o444)
            },
            |e| e.unlink("two"),
        ),
        counted(
            "unlink of the last name",
            |e| {
                indexed(e)?;
                e.unlink("two")?;
                e.unlink("p/three")
            },
            |e| e.unlink("one"),
        ),
        counted(
            "unlink of the last name, without a link of the copy",
            |e| {
                indexed(e)?;
                e.unlink("one")?;
                e.unlink("p/three")
            },
            |e| e.unlink("two"),
        ),
        counted("rename over a lower hard link", fresh, |e| e.rename("f", "two")),
        counted("rename over a name with a link of the copy", indexed, |e| e.rename("f", "one")),
        counted("rename over a name without a link of the copy", indexed, |e| e.rename("f", "two")),
        counted("rename of a lower hard link", fresh, |e| e.rename("one", "into/one")),
        counted("rename of a name with a link of the copy", indexed, |e| e.rename("one", "into/one")),
        counted("rename of a name without a link of the copy", indexed, |e| e.rename("two", "into/one")),
        counted("rename of an indexed metacopy file", |e| e.chmod("one", 0o600), |e| e.rename("two", "into/one")),
        counted("exchange of two names, one of them indexed", indexed, |e| e.exchange("two", "f")),
        counted("link of a lower hard link", fresh, |e| e.link("one", "into/four")),
        counted("link of an indexed file", indexed, |e| e.link("one", "into/four")),
        counted("link of an indexed file by a name without a link", indexed, |e| e.link("two", "into/four")),
        counted("link of an indexed metacopy file", |e| e.chmod("one", 0o600), |e| e.link("two", "into/four")),
        counted(
            "link of an indexed file over a whiteout",
            |e| {
                indexed(e)?;
                e.unlink("into/keep")
            },
            |e| e.link("one", "into/keep"),
        ),
    ]
}
