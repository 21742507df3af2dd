//! What is wrong with a layer, and what plyfs and the kernel's OverlayFS do with it.
//!
//! The layer is the topmost one of a stack, so that all it has is seen in the view: each of its directories is walked with
//! what the view has in its place, and each search of the view that fails is a finding. Marks that no search reads are read here.

mod marks;
mod work;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::change::{Trouble, path_of};
use super::content::data_of;
use super::diff::join;
use crate::base::{Errno, Name, Result};
use crate::format::mark::{Mark, WhiteoutStyle};
use crate::format::{Redirect, wh};
use crate::layer::{DirPlace, Layer, LookedUp, look_up, verity};
use crate::merge::{Answer, DirPart, DirView, Found, FoundLeaf, Layers, lookup, lookup_open};
use crate::sys::stat::{SetTime, Stat};
use crate::sys::{dirent, tree, xattr};

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, in the layer or in its work directory; empty for the root.
    pub path: PathBuf,
    /// It is in the work directory.
    pub in_work: bool,
    /// A word for programs.
    pub kind: &'static str,
    /// What is wrong.
    pub what: String,
    /// What plyfs does with it.
    pub plyfs: &'static str,
    /// What the kernel's OverlayFS does with it.
    pub kernel: &'static str,
    /// It was there, and is no more.
    pub repaired: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Checked {
    /// What is wrong, in the order in which it was met.
    pub findings: Vec<Finding>,
    /// What could not be looked at.
    pub troubles: Vec<Trouble>,
}

/// Checks the topmost layer of a stack, and its work directory if the stack has it. `repairs`: what hides and shows nothing is
/// removed.
///
/// # Errors
/// The layer's root cannot be read.
pub fn check(layers: &Layers, repairs: bool) -> Result<Checked> {
    let top = layers.root.top().ok_or(Errno::EINVAL)?.clone();
    names(&top.place)?;
    let mut check = Check {
        layers,
        repairs,
        level: top.level,
        found: Checked::default(),
        parts: HashMap::new(),
        styles: [None, None, None],
        records: HashSet::new(),
    };
    let root = Node { view: layers.root.clone(), opaque: false, path: Vec::new() };
    check.root(&top.place);
    let mut todo = vec![root];
    while let Some(node) = todo.pop() {
        if let Err(errno) = check.dir(&node, &mut todo) {
            check.trouble(&node.path, errno);
        }
    }
    check.mixed();
    if let Some(work) = &layers.work
        && let Err(errno) = check.work(work.as_fd(), &top.place)
    {
        check.trouble(b"", errno);
    }
    Ok(check.found)
}

/// A directory of the layer.
struct Node {
    view: DirView,
    /// Nothing of the layers below is in it: it is opaque, or lies in one that is.
    opaque: bool,
    path: Vec<u8>,
}

/// A directory of a layer: the layer, and the inode number in it.
type Object = (*const Layer, u64);

struct Check<'a> {
    layers: &'a Layers,
    repairs: bool,
    level: usize,
    found: Checked,
    /// The first directory that shows each directory of the layers below.
    parts: HashMap<Object, Vec<u8>>,
    /// A whiteout of each form.
    styles: [Option<Vec<u8>>; 3],
    /// The records of blocks that are in use.
    records: HashSet<Name>,
}

/// What plyfs and the kernel's OverlayFS do.
type Deeds = (&'static str, &'static str);
const IGNORED: Deeds = ("ignores it", "ignores it");

impl Check<'_> {
    fn find(&mut self, kind: &'static str, path: &[u8], what: impl Into<String>, (plyfs, kernel): Deeds) {
        let (path, what) = (path_of(path), what.into());
        self.found.findings.push(Finding { path, in_work: false, kind, what, plyfs, kernel, repaired: false });
    }

    fn trouble(&mut self, path: &[u8], errno: Errno) {
        self.found.troubles.push(Trouble { path: path_of(path), errno });
    }

    /// Looks at all that the layer has in one directory.
    fn dir(&mut self, node: &Node, todo: &mut Vec<Node>) -> Result<()> {
        let Some(part) = node.view.top().filter(|part| part.level == self.level).cloned() else { return Ok(()) };
        for name in names(&part.place)? {
            let path = join(&node.path, &name);
            let Some(stat) = part.place.stat_on_disk(&name)? else { continue };
            if let Some(style) = whiteout(&part, &name, &stat)? {
                self.whiteout(node, &part, (&name, &path), style);
                continue;
            }
            if is_metadata(&part.place.layer, &name) {
                continue;
            }
            if let Err(errno) = self.marks(&part, &name, &stat, &path) {
                self.trouble(&path, errno);
            }
            self.seen(node, (&name, &path), &stat, todo);
        }
        Ok(())
    }

    /// Notes the form of a whiteout, and whether it hides anything.
    fn whiteout(&mut self, node: &Node, part: &DirPart, (name, path): (&Name, &[u8]), style: WhiteoutStyle) {
        if let Some(first) = self.styles.get_mut(style as usize) {
            first.get_or_insert_with(|| path.to_vec());
        }
        if !node.opaque {
            return;
        }
        let deeds = ("does not show it", "lists it, and does not find it");
        self.find("idle-whiteout", path, "a whiteout in an opaque directory, which hides nothing", deeds);
        if self.repairs {
            let removed = || {
                let (dir, stat) = (part.place.fd()?, part.place.stat_self()?);
                tree::unlink_at(dir.as_fd(), name.as_c_str())?;
                tree::utimens_at(dir.as_fd(), c".", [SetTime::At(stat.atime), SetTime::At(stat.mtime)])
            };
            self.repaired(path, removed());
        }
    }

    /// Notes what came of the repair of the last finding.
    fn repaired(&mut self, path: &[u8], done: Result<()>) {
        match done {
            Ok(()) => self.found.findings.iter_mut().last().into_iter().for_each(|last| last.repaired = true),
            Err(errno) => self.trouble(path, errno),
        }
    }

    /// Whiteouts of several forms in one layer.
    fn mixed(&mut self) {
        let words = ["0/0 devices", "marked files", ".wh. files"];
        let has: Vec<_> =
            self.styles.iter().zip(words).filter_map(|(path, word)| Some((path.clone()?, word))).collect();
        if let [_, (path, _), ..] = has.as_slice() {
            let all: Vec<_> = has.iter().map(|(_, word)| *word).collect();
            let what = format!("whiteouts of several forms in one layer: {}", all.join(", "));
            self.find(
                "mixed-whiteouts",
                path,
                what,
                ("reads each", "shows .wh. files, and marked files in an upper layer"),
            );
        }
    }

    /// Looks at an object as the view has it.
    fn seen(&mut self, node: &Node, (name, path): (&Name, &[u8]), stat: &Stat, todo: &mut Vec<Node>) {
        let looked = match lookup(&self.layers.stack, &node.view, name) {
            // Below the last layer there may be more: that is what a dangling mark is.
            Err(Errno::EIO) if !stat.is_dir() => return self.dangling(node, name, path),
            looked => looked,
        };
        match looked {
            Ok(Answer::Found(Found::Dir(dir))) => {
                let marks = self.dir_marks(node, name, dir.stat.ino);
                let (opaque, redirect) = marks.unwrap_or_default();
                // A redirect leads out of an opaque directory.
                let is_closed = opaque || (node.opaque && redirect.is_none());
                if !opaque && let Some(redirect) = redirect {
                    self.redirected(node, (&dir.view, &redirect), path);
                }
                if let Some(below) = dir.view.parts(0).find(|(_, part)| part.level > self.level) {
                    let object = (Arc::as_ptr(&below.1.place.layer), below.1.place.ino());
                    let first = self.parts.entry(object).or_insert_with(|| path.to_vec()).clone();
                    if first != path {
                        self.twice(path, &first);
                    }
                }
                todo.push(Node { view: dir.view, opaque: is_closed, path: path.to_vec() });
            }
            Ok(Answer::Found(Found::Leaf(leaf))) => {
                if let Err(errno) = self.data(&leaf, path) {
                    self.trouble(path, errno);
                }
            }
            Ok(Answer::Absent(_)) => {}
            Err(Errno::EPERM) => {
                let what = "a redirect or metacopy in the other namespace than the layer's";
                self.find("other-namespace", path, what, ("refuses it (EPERM)", "does not look at it"));
            }
            Err(Errno::EINVAL) => {
                let deeds = ("refuses it (EINVAL)", "refuses it");
                self.find("bad-redirect", path, "a malformed redirect", deeds);
            }
            Err(errno) => self.trouble(path, errno),
        }
    }

    /// A metacopy file whose search ends with an error.
    fn dangling(&mut self, node: &Node, name: &Name, path: &[u8]) {
        let leads = lookup_open(&self.layers.stack, &node.view, name).is_ok();
        let what =
            if leads { "a metacopy file whose data is in no layer" } else { "a metacopy file that leads to no data" };
        self.find("no-data", path, what, ("refuses it (EIO)", "refuses it (EIO), or reads what is there"));
    }

    /// A directory that says where its lower parts are.
    fn redirected(&mut self, node: &Node, (view, redirect): (&DirView, &Redirect), path: &[u8]) {
        if view.parts(0).all(|(_, part)| part.level == self.level) {
            let what = format!("a redirect to {}, which no layer below has", redirect.encode().escape_ascii());
            self.find(
                "dangling-redirect",
                path,
                what,
                ("shows the directory without it", "shows the directory without it"),
            );
            return;
        }
        let other = match redirect {
            Redirect::Relative(name) => lookup(&self.layers.stack, &node.view, name).ok(),
            Redirect::Absolute(names) => {
                let found = self.layers.find(&self.layers.root, names).ok().flatten();
                found.map(Answer::Found)
            }
        };
        let Some(Answer::Found(Found::Dir(other))) = other else { return };
        let is_below = |view: &DirView| {
            let below = view.parts(0).map(|(_, part)| part).find(|part| part.level > self.level);
            below.map(|part| (Arc::as_ptr(&part.place.layer), part.place.ino()))
        };
        let is_itself = other.view.top().zip(view.top()).is_some_and(|(one, two)| {
            Arc::ptr_eq(&one.place.layer, &two.place.layer) && one.place.ino() == two.place.ino()
        });
        if !is_itself && is_below(&other.view) == is_below(view) {
            self.twice(path, redirect.encode().strip_prefix(b"/").unwrap_or(&redirect.encode()));
        }
    }

    fn twice(&mut self, path: &[u8], other: &[u8]) {
        let what = format!("it and {} show the same directory of a layer below", other.escape_ascii());
        if !self.found.findings.iter().any(|found| found.kind == "shown-twice" && found.path == path_of(path)) {
            self.find("shown-twice", path, what, ("shows both", "answers ESTALE for one of them"));
        }
    }

    /// Compares a metacopy file with its data.
    fn data(&mut self, leaf: &FoundLeaf, path: &[u8]) -> Result<()> {
        let Some(meta) = &leaf.meta else { return Ok(()) };
        if let Some(mark) = &meta.blocks {
            self.records.insert(mark.record.clone());
            return Ok(());
        }
        let (place, stat) = match data_of(self.layers, leaf) {
            Err(Errno::EIO) => {
                let what = "a metacopy file whose data is in no data-only layer";
                self.find("no-data", path, what, ("refuses it (EIO)", "refuses it"));
                return Ok(());
            }
            data => data?,
        };
        if leaf.stat.size == 0 && stat.size > 0 {
            return self.emptied(leaf, path);
        }
        if stat.size != leaf.stat.size {
            let what = format!("a metacopy file of {} bytes, and its data has {}", leaf.stat.size, stat.size);
            self.find("other-size", path, what, ("shows the first size", "shows the first size"));
        }
        if let Some(digest) = &meta.digest {
            let (file, _) = place.open_to_read(stat.ino)?;
            if !verity::check(file.as_fd(), stat.size, digest)? {
                let what = "a metacopy file whose data has another digest";
                self.find("wrong-digest", path, what, ("refuses it with verity=on (EIO)", "refuses it with verity=on"));
            }
        }
        Ok(())
    }

    /// A large file is emptied by two calls, the second of which takes the mark away.
    fn emptied(&mut self, leaf: &FoundLeaf, path: &[u8]) -> Result<()> {
        let what = "a metacopy file that was emptied, and has kept its mark";
        self.find("emptied", path, what, ("shows an empty file", "shows its size as 0, and the data"));
        if self.repairs {
            let (place, key) = (&leaf.place, leaf.place.dir.layer.namespace.key(Mark::Metacopy));
            self.repaired(
                path,
                place.dir.fd().and_then(|dir| xattr::remove_at(dir.as_fd(), place.name.as_c_str(), key)),
            );
        }
        Ok(())
    }
}

/// The form of an object that is a whiteout.
fn whiteout(part: &DirPart, name: &Name, stat: &Stat) -> Result<Option<WhiteoutStyle>> {
    if stat.is_whiteout() {
        return Ok(Some(WhiteoutStyle::Device));
    }
    let is_wh = |rest: &[u8]| !rest.is_empty() && !rest.starts_with(wh::PREFIX);
    if part.place.layer.wh_names && name.as_bytes().strip_prefix(wh::PREFIX).is_some_and(is_wh) {
        return Ok(stat.is_file().then_some(WhiteoutStyle::File));
    }
    let looked = look_up(&part.place, name, part.xattr_whiteouts)?;
    Ok(matches!(looked, LookedUp::Whiteout).then_some(WhiteoutStyle::Xattr))
}

/// A name of aufs for itself.
fn is_metadata(layer: &Layer, name: &Name) -> bool {
    layer.wh_names && name.as_bytes().starts_with(wh::PREFIX)
}

/// The names in a directory of a layer, as they are on disk.
fn names(dir: &DirPlace) -> Result<Vec<Name>> {
    sorted(dir.open()?.as_fd())
}

/// The names in a directory.
fn sorted(dir: BorrowedFd<'_>) -> Result<Vec<Name>> {
    let mut names = dirent::names(dir)?;
    names.sort();
    Ok(names)
}
