//! Cases as tables: what is done through the mount in each round, what every mount shows from then on, and the marks that
//! stand in the upper layer.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FileType, Timespec};
use rustix::io::Result as Io;

use crate::common::stack::Layer;
use crate::common::*;
use crate::side::*;

/// A mark of `trusted.overlay.` on an object of the upper layer; `None` says that it is not there.
pub type Mark = (&'static str, &'static str, Option<&'static [u8]>);

/// The mark's value of a metacopy file without a digest.
pub const EMPTY: Option<&[u8]> = Some(b"");

/// What is done between two mounts.
struct Round {
    act: fn(&Tree) -> Io<()>,
    shows: &'static str,
    marks: Vec<Mark>,
    /// The upper layer becomes the topmost lower one, under a new upper.
    restack: bool,
    /// How many entries the index has.
    index: Option<usize>,
}

/// One table.
pub struct Case {
    lower: fn(&Layer),
    rounds: Vec<Round>,
}

impl Case {
    /// Over a lower layer that `lower` fills (and an empty one below it).
    pub fn over(lower: fn(&Layer)) -> Self {
        Case { lower, rounds: Vec::new() }
    }

    /// Does something through the mount, which must then show this [`listing`], as must the next mount.
    pub fn round(mut self, act: fn(&Tree) -> Io<()>, shows: &'static str) -> Self {
        self.rounds.push(Round { act, shows, marks: Vec::new(), restack: false, index: None });
        self
    }

    /// Marks that the last round leaves in the upper layer, as the kernel (Linux 6.18) writes them.
    pub fn marks(mut self, marks: &[Mark]) -> Self {
        self.rounds.last_mut().unwrap().marks = marks.to_vec();
        self
    }

    /// How many entries the index has after the last round.
    pub fn index(mut self, entries: usize) -> Self {
        self.rounds.last_mut().unwrap().index = Some(entries);
        self
    }

    /// After the last round, the upper layer becomes a lower one.
    pub fn restack(mut self) -> Self {
        self.rounds.last_mut().unwrap().restack = true;
        self
    }

    /// Plyfs and the kernel take turns, as root: once with plyfs first, once with the kernel.
    pub fn run(self) {
        rustix::process::umask(0o022.into());
        if who() != Who::Root || !kernel_is_here() {
            return;
        }
        bounded(move || {
            let orders = [(PLYFS_ALL, KERNEL_ALL), (KERNEL_ALL, PLYFS_ALL)];
            let failures: Vec<_> = orders.iter().filter_map(|(a, b)| self.turns(*a, *b).err()).collect();
            assert!(failures.is_empty(), "\n{}", failures.join("\n"));
        });
    }

    /// A and B take turns by round; the one whose turn is next must first show what the last one left.
    fn turns(&self, a: Side, b: Side) -> Result<(), String> {
        let (mut stack, mut work) = (Stack::new(2), "work".to_owned());
        (self.lower)(&stack.lowers[0]);
        stack.age();
        let mut before = lowers(&stack);
        let mut expected: Option<(View, &str)> = None;
        for (i, round) in self.rounds.iter().enumerate() {
            let (side, at) = ([a, b][i % 2], i + 1);
            let live = side.mount(&stack, &work)?;
            if let Some(expected) = &expected {
                shows(side, &live, expected).map_err(|why| format!("before round {at}: {why}"))?;
            }
            (round.act)(&live).map_err(|e| format!("round {at} under {side:?}: {e}"))?;
            let now = (View::of(&live, side.walk(false)), round.shows);
            shows(side, &live, &now).map_err(|why| format!("round {at}: {why}"))?;
            live.unmount()?;
            round.check_upper(&stack, &work).map_err(|why| format!("round {at} under {side:?}: {why}"))?;
            unchanged(&stack, &before)?;
            expected = Some(now);
            if round.restack {
                restack(&mut stack, at);
                // Its index has one more name of each file in it, which counts as a link.
                std::fs::remove_dir_all(stack.scratch.path().join(&work)).unwrap();
                work = format!("work-{at}");
                before = lowers(&stack);
            }
        }
        for side in [b, a] {
            let live = side.mount(&stack, &work)?;
            shows(side, &live, expected.as_ref().unwrap()).map_err(|why| format!("at the end: {why}"))?;
            live.unmount()?;
        }
        unchanged(&stack, &before)
    }
}

impl Round {
    fn check_upper(&self, stack: &Stack, work: &str) -> Result<(), String> {
        let upper = stack.upper();
        for (path, name, value) in &self.marks {
            let is = match upper.xattr(path, format!("trusted.overlay.{name}")) {
                Ok(value) => Some(value),
                Err(Errno::NODATA) => None,
                Err(e) => return Err(format!("the upper's {path}, {name}: {e}")),
            };
            if is.as_deref() != *value {
                let text = |v: Option<&[u8]>| v.map(|v| v.escape_ascii().to_string());
                return Err(format!("the upper's {path}: {name} is {:?}, not {:?}", text(is.as_deref()), text(*value)));
            }
            // A metacopy file without data is what the mark is for.
            if *name == "metacopy" && value.is_some() && upper.stat(path).unwrap().st_blocks > 8 {
                return Err(format!("the upper's {path} is marked metacopy, and has data"));
            }
        }
        if let Some(entries) = self.index {
            let mut names = Tree::new(stack.scratch.path().join(work)).names("index").unwrap_or_default();
            names.retain(|n| !n.starts_with('#')); // the kernel's whiteout for sharing, removed by the next mount
            if names.len() != entries {
                return Err(format!("{entries} index entries expected, there are {names:?}"));
            }
        }
        Ok(())
    }
}

/// Puts a new upper layer on top, with the root's time of the old one.
fn restack(stack: &mut Stack, round: usize) {
    let upper = Layer::new(stack.scratch.dir(&format!("upper-{round}")));
    let old = stack.upper.replace(upper).unwrap();
    let st = old.stat("").unwrap();
    let time = Timespec { tv_sec: st.st_mtime, tv_nsec: st.st_mtime_nsec as _ };
    stack.upper().utimes("", time).unwrap();
    stack.lowers.insert(0, old);
}

fn shows(side: Side, live: &Tree, (view, text): &(View, &str)) -> Result<(), String> {
    let listed = listing(live);
    if listed != *text {
        return Err(format!("{side:?} shows\n      {listed}\n    instead of\n      {text}"));
    }
    let now = View::of(live, side.walk(false));
    same(&now, view, &format!("{side:?} shows another tree (now, before)"))
}

/// A whole tree in one line: `d/` `d/f=content` `link->target`, then what is not usual: `(600)` a mode, `@1:2` an owner,
/// `*2` a link count, `+user.a=value` an xattr.
pub fn listing(tree: &Tree) -> String {
    let mut words = Vec::new();
    list(tree, "", &mut words);
    words.join(" ")
}

fn list(tree: &Tree, dir: &str, words: &mut Vec<String>) {
    let names = match tree.names(dir) {
        Ok(names) => names,
        Err(e) => return words.push(format!("{dir}: {e}")),
    };
    for name in names {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        let st = match tree.stat(&path) {
            Ok(st) => st,
            Err(e) => {
                words.push(format!("{path}: {e}"));
                continue;
            }
        };
        let (kind, mode) = (FileType::from_raw_mode(st.st_mode), st.st_mode & 0o7777);
        let (mut word, usual) = match kind {
            FileType::Directory => (format!("{path}/"), 0o755),
            FileType::RegularFile => (format!("{path}={}", tree.text(&path)), 0o644),
            FileType::Symlink => (format!("{path}->{}", tree.readlink(&path).unwrap().escape_ascii()), 0o777),
            other => (format!("{path}:{other:?}"), 0o644),
        };
        if mode != usual {
            let _ = write!(word, "({mode:o})");
        }
        if (st.st_uid, st.st_gid) != (0, 0) {
            let _ = write!(word, "@{}:{}", st.st_uid, st.st_gid);
        }
        if kind != FileType::Directory && st.st_nlink != 1 {
            let _ = write!(word, "*{}", st.st_nlink);
        }
        for name in tree.xattrs(&path).unwrap_or_default() {
            let value = tree.xattr(&path, OsStr::from_bytes(&name)).unwrap_or_default();
            let _ = write!(word, "+{}={}", name.escape_ascii(), value.escape_ascii());
        }
        words.push(word);
        if kind == FileType::Directory {
            list(tree, &path, words);
        }
    }
}
