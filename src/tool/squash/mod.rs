//! One layer that shows the same as a stack of them, over whatever lies below.
//!
//! The view of the stack is walked, and each of its objects made again. Only what hides or leads to something below the
//! stack gets a mark: the lowest layer of the stack is an empty one, so that every search says where it would go on.
//! Directories get their owner, mode and times at the end, when all is in them.

mod object;
mod only;

use only::Below;
pub(in crate::tool) use only::ways;
pub use only::{Joined, Only, Paths, joined};

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::change::path_of;
use super::diff::{join, list_upper};
use crate::base::{Errno, Name, Result};
use crate::format::{Redirect, wh};
use crate::layer::{DirId, DirPlace, Layer};
use crate::merge::{
    Answer, CookieKey, DirPart, DirView, Found, FoundDir, Layers, Places, Rest, Window, list, lookup_open,
};
use crate::sys::flags::is_fixed;
use crate::sys::stat::{Stat, stat_at};
use crate::sys::{ending, tree};
use crate::upper::{Metadata, Staged, Upper};

/// How layers are made one.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// No layer will lie below: there are no whiteouts.
    pub bottom: bool,
    /// Files are links of those in the layers, where that can be.
    pub link: bool,
    /// Directories that mounts write: a layer must not have one of them inside.
    pub written: HashSet<DirId>,
    /// Of the stack only what its topmost layer says is made.
    pub only: Option<Only>,
}

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Squashed {
    /// Names of what is no directory.
    pub files: u64,
    /// Those that are links of files in the layers.
    pub linked: u64,
    /// Directories, without the root.
    pub directories: u64,
    /// Whiteouts and opaque directories.
    pub hiding: u64,
    /// Bytes of the files that were copied, or whose blocks are shared.
    pub bytes: u64,
    /// Hard links of lower files that came up without all of their names, from which they part.
    pub parted: u64,
    /// Directories whose content was brought up, and may go on in layers below the stack.
    pub open: u64,
}

/// Why it cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The object, in the view; empty for the root.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// What to do; may be empty.
    pub hint: &'static str,
}

/// Makes the objects of a stack anew in the empty layer `out`. The lowest layer of the stack must be an empty one.
///
/// # Errors
/// [`Refused`]; then a part of it is in `out`.
pub fn squash(layers: &Layers, out: &Upper, how: How) -> std::result::Result<Squashed, Refused> {
    let key = CookieKey::random().map_err(|errno| refused(b"", errno, ""))?;
    let mut squash = Squash {
        layers,
        out,
        how,
        key,
        todo: Vec::new(),
        finish: Vec::new(),
        names: HashMap::new(),
        lifted: HashMap::new(),
        made: Squashed::default(),
    };
    squash.all()?;
    squash.made.parted = squash.lifted.values().filter(|(all, made)| made < all).count() as u64;
    Ok(squash.made)
}

fn refused(path: &[u8], errno: Errno, hint: &'static str) -> Refused {
    Refused { path: path_of(path), reason: errno.to_string(), hint }
}

/// What to do about an object that cannot be made again.
const POWERLESS: &str = "only who may give files to its owner and make devices can: root, or podman unshare";

/// What to do about an object that cannot be made, by what the system says of it.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => POWERLESS,
        Errno::ENOSPC => "make room on the file system of OUT",
        Errno::EFBIG => "a limit of file sizes is in force: ulimit -f, or that of the file system of OUT",
        Errno::EDQUOT => "the quota of the user or project on the file system of OUT is used up",
        Errno::EACCES => "who squashes must be able to read all of the layers",
        Errno::EOPNOTSUPP => "the new layer lacks the marks for what it has: --marks trusted or --marks user",
        _ => "",
    }
}

/// What to do about an object that cannot be looked up.
fn lookup_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "its marks are in the namespace that is not followed: --userxattr, or --from for convert",
        Errno::EIO | Errno::ESTALE | Errno::ELOOP => "its marks lead nowhere",
        errno => hint(errno),
    }
}

/// A directory of the view.
struct Node {
    view: DirView,
    /// Where the layers below the stack have it; `None`: it shows nothing of theirs.
    below: Option<Vec<Name>>,
    /// The same directory in the new layer.
    to: Arc<DirPlace>,
    path: Vec<u8>,
    /// Only what the topmost layer has in it is made.
    own: bool,
}

/// A directory that gets its metadata at the end.
struct Finish {
    to: Arc<DirPlace>,
    from: Arc<DirPlace>,
    stat: Stat,
    path: Vec<u8>,
}

/// An object of a layer: the layer, and what names the object on the machine. A layer may be on several file systems.
type Object = (*const Layer, (u64, u64));

struct Squash<'a> {
    layers: &'a Layers,
    out: &'a Upper,
    how: How,
    key: CookieKey,
    todo: Vec<Node>,
    finish: Vec<Finish>,
    /// The first name in the new layer of each object with several.
    names: HashMap<Object, (Arc<DirPlace>, CString)>,
    /// How many names a lower object that came up has, and how many came up.
    lifted: HashMap<Object, (u64, u64)>,
    made: Squashed,
}

impl Squash<'_> {
    fn all(&mut self) -> std::result::Result<(), Refused> {
        let view = self.layers.root.clone();
        let failed = |errno| refused(b"", errno, hint(errno));
        let top = view.top().map(|part| part.place.clone()).ok_or(Errno::EINVAL).map_err(failed)?;
        let stat = top.stat_self().map_err(failed)?;
        self.finish.push(Finish { to: self.out.root.clone(), from: top, stat, path: Vec::new() });
        // A root that hides all below it ends the stack before its last layer.
        let is_open = match &self.how.only {
            Some(_) => view.parts(0).nth(1).is_some(),
            None => view.lowers.last().is_some_and(|part| part.level == self.layers.stack.last() && is_empty(part)),
        };
        let is_opaque = !is_open && !self.how.bottom;
        if is_opaque {
            let root = self.out.root.fd().map_err(failed)?;
            self.out.set_opaque(root.as_fd(), c".").map_err(failed)?;
            self.made.hiding += 1;
        }
        let (to, own) = (self.out.root.clone(), self.how.only.is_some());
        self.todo.push(Node { view, below: is_open.then(Vec::new), to, path: Vec::new(), own });
        while let Some(node) = self.todo.pop() {
            self.dir(&node)?;
        }
        while let Some(dir) = self.finish.pop() {
            self.finish(&dir).map_err(|errno| refused(&dir.path, errno, hint(errno)))?;
        }
        Ok(())
    }

    /// Makes what is in one directory.
    fn dir(&mut self, node: &Node) -> std::result::Result<(), Refused> {
        let at_dir = |errno| refused(&node.path, errno, hint(errno));
        self.check_unwritten(node)?;
        let (shown, hidden) = match self.how.only.as_ref().filter(|_| node.own) {
            Some(only) => only.names(self.layers, node)?,
            None => self.names(node).map_err(at_dir)?,
        };
        for name in shown {
            let path = join(&node.path, &name);
            ending::check().map_err(|errno| refused(&path, errno, ""))?;
            self.check_fixed(node, &name, &path)?;
            let looked = lookup_open(&self.layers.stack, &node.view, &name);
            let (answer, rest) = looked.map_err(|errno| refused(&path, errno, lookup_hint(errno)))?;
            self.check_name(&name).map_err(|errno| refused(&path, errno, "the new layer can hold no such name"))?;
            match answer {
                Answer::Found(Found::Dir(found)) => self.new_dir(node, &name, (found, rest), &path)?,
                Answer::Found(Found::Leaf(leaf)) => self.leaf(node, &name, (leaf, rest), &path)?,
                Answer::Absent(_) => return Err(refused(&path, Errno::ESTALE, "somebody changes the layer")),
            }
        }
        if node.below.is_none() || self.how.bottom {
            return Ok(());
        }
        self.whiteouts(node, hidden)
    }

    /// The names in a directory that are made, and those that are hidden.
    fn names(&self, node: &Node) -> Result<(Vec<Name>, BTreeSet<Name>)> {
        let listing = list(&node.view, &self.key, &Places::default(), Window::WHOLE)?;
        let shown: BTreeSet<Name> = listing.after(0).map(|(_, name, _)| name).collect();
        let mut hidden = BTreeSet::new();
        if node.below.is_some() && !self.how.bottom {
            for (_, part) in node.view.parts(0) {
                let whiteouts = list_upper(part)?.into_iter().filter_map(|(name, whiteout)| whiteout.then_some(name));
                hidden.extend(whiteouts.filter(|name| !shown.contains(name)));
            }
        }
        Ok((listing.after(0).map(|(_, name, _)| name).collect(), hidden))
    }

    /// No mount may write a directory of the layers.
    fn check_unwritten(&self, node: &Node) -> std::result::Result<(), Refused> {
        if self.how.written.is_empty() {
            return Ok(());
        }
        for (_, part) in node.view.parts(0) {
            let stat = part.place.stat_self().map_err(|errno| refused(&node.path, errno, hint(errno)))?;
            if self.how.written.contains(&(stat.dev, stat.ino)) {
                let reason = "a mount has it as its upper layer or workdir".to_owned();
                return Err(Refused { path: path_of(&node.path), reason, hint: "unmount that one first" });
            }
        }
        Ok(())
    }

    /// What cannot be linked or removed keeps its layer from being replaced.
    fn check_fixed(&self, node: &Node, name: &Name, path: &[u8]) -> std::result::Result<(), Refused> {
        if !self.how.link || self.how.only.is_none() || !node.own {
            return Ok(());
        }
        let failed = |errno| refused(path, errno, hint(errno));
        let Some(top) = node.view.top() else { return Ok(()) };
        let dir = top.place.fd().map_err(failed)?;
        match is_fixed(dir.as_fd(), name.as_c_str()) {
            Ok(true) => {
                let reason = "it is immutable or append-only (lsattr), and cannot go with the old layer".to_owned();
                Err(Refused { path: path_of(path), reason, hint: "chattr -ia it first" })
            }
            // It is of a layer below.
            Ok(false) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Hides names of the layers below.
    fn whiteouts(&mut self, node: &Node, hidden: BTreeSet<Name>) -> std::result::Result<(), Refused> {
        let at_dir = |errno| refused(&node.path, errno, hint(errno));
        if hidden.is_empty() {
            return Ok(());
        }
        let dir = node.to.fd().map_err(at_dir)?;
        for name in hidden {
            let placed = self.out.place_whiteout(dir.as_fd(), &name);
            placed.map_err(|errno| {
                let hint =
                    if errno == Errno::EINVAL { "no whiteout of this form can have the name" } else { hint(errno) };
                refused(&join(&node.path, &name), errno, hint)
            })?;
            self.made.hiding += 1;
        }
        // The kernel looks for marked files in a layer whose root has the mark, too.
        let root = self.out.root.fd().map_err(at_dir)?;
        self.out.set_xattr_whiteouts(root.as_fd()).map_err(at_dir)
    }

    /// Where the layers below the stack have an object in a directory.
    fn below(node: &Node, rest: Rest) -> Option<Vec<Name>> {
        match rest {
            Rest::End => None,
            Rest::Path(path) => Some(path),
            Rest::Name(name) => node.below.as_ref().map(|dir| [dir.as_slice(), &[name]].concat()),
        }
    }

    /// The mark that leads from an object in a directory to `below`; `None`: its own name does.
    fn redirect(node: &Node, name: &Name, below: &[Name]) -> Option<Redirect> {
        let (last, above) = below.split_last()?;
        match &node.below {
            Some(dir) if dir == above && last == name => None,
            Some(dir) if dir == above => Some(Redirect::Relative(last.clone())),
            _ => Some(Redirect::Absolute(below.to_vec())),
        }
    }

    /// A name that the new layer would take for a whiteout.
    fn check_name(&self, name: &Name) -> Result<()> {
        let is_wh = self.out.root.layer.wh_names && name.as_bytes().starts_with(wh::PREFIX);
        if is_wh { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Makes a directory that only this process's user can enter until it is finished.
    fn new_dir(
        &mut self,
        node: &Node,
        name: &Name,
        (found, rest): (FoundDir, Rest),
        path: &[u8],
    ) -> std::result::Result<(), Refused> {
        let failed = |errno| refused(path, errno, hint(errno));
        if found.stat.ino == 0 {
            log::warn!("{}: another mount covers it", path.escape_ascii());
            return Err(failed(Errno::EXDEV));
        }
        let Below { at: below, own, open } = match &self.how.only {
            Some(only) => only.below((self.layers, self.out), node, (name, path), (&found, rest))?,
            None => Below { at: Self::below(node, rest), own: false, open: false },
        };
        self.made.open += u64::from(open);
        self.make_dir(node, name, &found, below.as_deref()).map_err(failed)?;
        let dir = node.to.fd().map_err(failed)?;
        let to = node.to.child(name, stat_at(dir.as_fd(), name.as_c_str()).map_err(failed)?.ino);
        let from = found.view.top().map(|part| part.place.clone()).ok_or(Errno::EIO).map_err(failed)?;
        self.finish.push(Finish { to: to.clone(), from, stat: found.stat, path: path.to_vec() });
        self.todo.push(Node { view: found.view, below, to, path: path.to_vec(), own });
        self.made.directories += 1;
        Ok(())
    }

    fn make_dir(&mut self, node: &Node, name: &Name, found: &FoundDir, below: Option<&[Name]>) -> Result<()> {
        let dir = node.to.fd()?;
        tree::mkdir_at(dir.as_fd(), name.as_c_str(), 0o700)?;
        self.mark_dir(node, name, below)?;
        if found.protection.encode().is_empty() {
            return Ok(());
        }
        self.out.set_protattr(dir.as_fd(), name.as_c_str(), found.protection)
    }

    /// Says of a new directory what it shows of the layers below.
    fn mark_dir(&mut self, node: &Node, name: &Name, below: Option<&[Name]>) -> Result<()> {
        let dir = node.to.fd()?;
        match below {
            _ if self.how.bottom => {}
            None if node.below.is_some() => {
                self.out.set_opaque(dir.as_fd(), name.as_c_str())?;
                self.made.hiding += 1;
            }
            None => {}
            Some(below) => {
                if let Some(redirect) = Self::redirect(node, name, below)
                    && !self.out.set_redirect(dir.as_fd(), name.as_c_str(), &redirect)?
                {
                    return Err(Errno::EXDEV);
                }
            }
        }
        Ok(())
    }

    fn finish(&self, dir: &Finish) -> Result<()> {
        let from = dir.from.fd()?;
        let layers = (&*dir.from.layer, &*self.out.root.layer);
        let metadata = Metadata::of(from.as_fd(), c".", dir.stat, layers)?;
        let to = dir.to.fd()?;
        if self.how.only.is_some() {
            only::keep_impure(self.out, (&dir.from, from.as_fd()), to.as_fd())?;
        }
        let applied = metadata.apply(Staged::Open(to.as_fd()), false)?;
        if applied.narrowed { Err(Errno::EPERM) } else { Ok(()) }
    }
}

/// Whether a layer is the empty one.
fn is_empty(part: &DirPart) -> bool {
    list_upper(part).is_ok_and(|names| names.is_empty())
}
