//! What the topmost layer of a stack says, without the layers below: its own names, and what of them hides or leads to
//! something below. With [`Only::flatten`] what it only refers to comes up instead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{Node, Refused, Squash, hint, refused};
use crate::base::{Errno, Name, Result};
use crate::format::Nlink;
use crate::format::mark::Mark;
use crate::layer::{DirMarks, DirPlace, read_dir_marks};
use crate::merge::{Answer, CookieKey, Found, FoundDir, FoundLeaf, Layers, Places, Rest, Window, list, lookup};
use crate::sys::dirent::names;
use crate::sys::stat::stat_at;
use crate::sys::xattr;
use crate::tool::change::path_of;
use crate::tool::convert::Dialect;
use crate::tool::diff::{join, list_upper};
use crate::upper::{Staged, Upper};

/// Of a stack only what its topmost layer says is made.
#[derive(Debug, Clone, Default)]
pub struct Only {
    /// The content of redirected directories and the data of metacopy files come up. The layers below are in the stack.
    pub flatten: bool,
    /// What else hides names in the layer.
    pub dialect: Dialect,
    /// Names, by directory, of which the index has the object: [`joined`].
    pub joined: Paths,
}

/// Names by the path of their directory.
pub type Paths = BTreeMap<Vec<u8>, BTreeSet<Name>>;

/// What the index of an upper layer joins.
#[derive(Debug, Default)]
pub struct Joined {
    /// The names of lower hard links whose object is in the index, and not under this name in the upper layer.
    pub names: Paths,
    /// Of how many objects in the index some names were not found: they are hidden, or in layers that were not looked at.
    pub short: u64,
}

/// Looks for what the index joins. All that is seen is looked at.
///
/// # Errors
/// What listing and looking up say.
pub fn joined(layers: &Layers) -> Result<Joined> {
    let key = CookieKey::random()?;
    let (mut found, mut seen) = (Paths::new(), HashMap::new());
    let mut todo = vec![(layers.root.clone(), Vec::new())];
    while let Some((view, path)) = todo.pop() {
        let own: BTreeSet<Name> = match view.top().filter(|part| part.level == level_of(layers)) {
            Some(part) => list_upper(part)?.into_iter().map(|(name, _)| name).collect(),
            None => BTreeSet::new(),
        };
        for (_, name, _) in list(&view, &key, &Places::default(), Window::WHOLE)?.after(0) {
            match lookup(&layers.stack, &view, &name)? {
                Answer::Found(Found::Dir(dir)) => todo.push((dir.view, join(&path, &name))),
                Answer::Found(Found::Leaf(leaf)) if leaf.upper => {
                    *seen.entry((leaf.stat.dev, leaf.stat.ino)).or_insert(0) += 1;
                    if !own.contains(&name) {
                        found.entry(path.clone()).or_default().insert(name);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(Joined { names: found, short: short(layers, &seen)? })
}

/// How many objects of the index have more names than were seen.
fn short(layers: &Layers, seen: &HashMap<(u64, u64), u64>) -> Result<u64> {
    let Some(index) = &layers.stack.index else { return Ok(0) };
    let (dir, key) = (index.dir().open()?, index.dir().layer.namespace.key(Mark::Nlink));
    let mut count = 0;
    for entry in names(dir.as_fd())? {
        let stat = stat_at(dir.as_fd(), entry.as_c_str())?;
        let mark = xattr::get_at(dir.as_fd(), entry.as_c_str(), key)?;
        // What counts from the lower file is left by a crash, and says nothing here.
        let links = mark.and_then(|mark| Nlink::parse(&mark).ok()?.links(stat.nlink, None));
        let found = seen.get(&(stat.dev, stat.ino)).copied().unwrap_or(0);
        count += u64::from(links.is_some_and(|links| u64::from(links) > found));
    }
    Ok(count)
}

/// The directories in a directory that are on the way to something.
pub(in crate::tool) fn ways(paths: &Paths, dir: &[u8]) -> BTreeSet<Name> {
    let before = if dir.is_empty() { Vec::new() } else { [dir, b"/"].concat() };
    let below = paths.range(before.clone()..).take_while(|(path, _)| path.starts_with(&before));
    let first = |path: &Vec<u8>| Name::new(path.get(before.len()..)?.split(|byte| *byte == b'/').next()?).ok();
    below.filter_map(|(path, _)| first(path)).collect()
}

/// What to do about what is only referred to.
const FLATTEN: &str = "--flatten with --lower LAYER… brings it up";
const LOWER: &str = "name the layer that has it: --lower LAYER";

/// What a new directory shows of the layers below.
pub(super) struct Below {
    /// Where they have it; `None`: it shows nothing of theirs.
    pub at: Option<Vec<Name>>,
    /// Only the names of the topmost layer are made in it.
    pub own: bool,
    /// Its content was brought up, and may go on below the stack.
    pub open: bool,
}

impl Below {
    fn own(at: Option<Vec<Name>>) -> Self {
        Self { at, own: true, open: false }
    }
}

impl Only {
    /// The names in a directory of the layer, and those that it hides.
    pub(super) fn names(
        &self,
        layers: &Layers,
        node: &Node,
    ) -> std::result::Result<(Vec<Name>, BTreeSet<Name>), Refused> {
        let path = node.path.as_slice();
        let failed = |errno| refused(path, errno, hint(errno));
        let mut hidden = self.dialect.hidden_in(path);
        let mut shown = BTreeSet::new();
        if let Some(top) = node.view.top().filter(|part| part.level == level_of(layers)) {
            for (name, whiteout) in list_upper(top).map_err(failed)? {
                if self.dialect.is_metadata(path, &name) {
                    continue;
                }
                if whiteout {
                    self.dialect.check(top, path, &name)?;
                    hidden.insert(name);
                } else {
                    shown.insert(name);
                }
            }
        }
        shown.extend(self.joined.get(path).into_iter().flatten().cloned());
        hidden.retain(|name| !shown.contains(name));
        let ways = self.dialect.dirs_in(path).into_iter().chain(ways(&self.joined, path));
        let lent: Vec<Name> = ways.filter(|name| !hidden.contains(name)).collect();
        for name in lent.into_iter().filter(|_| node.below.is_some()) {
            if !shown.contains(&name) && self.is_dir_below(layers, node, &name)? {
                shown.insert(name);
            }
        }
        Ok((shown.into_iter().collect(), hidden))
    }

    /// Whether a directory in which something is hidden is in the layers below, if the layer does not have it.
    fn is_dir_below(&self, layers: &Layers, node: &Node, name: &Name) -> std::result::Result<bool, Refused> {
        let path = join(&node.path, name);
        if !self.flatten {
            let reason = "something is hidden in it, and the layer does not have the directory".to_owned();
            return Err(Refused {
                path: path_of(&path),
                reason,
                hint: "name the layers below: --flatten --lower LAYER",
            });
        }
        let found = lookup(&layers.stack, &node.view, name);
        let found = found.map_err(|errno| refused(&path, errno, hint(errno)))?;
        Ok(matches!(found, Answer::Found(Found::Dir(_))))
    }

    /// What a directory of the layer shows of the layers below.
    pub(super) fn below(
        &self,
        (layers, out): (&Layers, &Upper),
        node: &Node,
        (name, path): (&Name, &[u8]),
        (found, rest): (&FoundDir, Rest),
    ) -> std::result::Result<Below, Refused> {
        if self.dialect.hides(&node.path, name) {
            return Ok(Below::own(None));
        }
        let refuse = |reason: &str, hint| Refused { path: path_of(path), reason: reason.to_owned(), hint };
        if !self.flatten {
            let below = Squash::below(node, rest);
            let redirect = below.as_ref().and_then(|below| Squash::redirect(node, name, below));
            if redirect.is_some() && !out.redirect {
                return Err(refuse("its content is in another directory of the layers below (redirect)", FLATTEN));
            }
            return Ok(Below::own(below));
        }
        let here = || node.below.as_ref().map(|dir| [dir.as_slice(), std::slice::from_ref(name)].concat());
        if node.own && found.view.top().is_some_and(|part| part.level != level_of(layers)) {
            // It was only lent by the layers below.
            return Ok(Below::own(here()));
        }
        let marks = marks(found, name).map_err(|errno| refused(path, errno, hint(errno)))?;
        if marks.redirect.is_some() && found.view.parts(0).nth(1).is_none() && rest != Rest::End {
            return Err(refuse("its content is in a layer that was not named (redirect)", LOWER));
        }
        // Of what was brought up all that is seen is made.
        if !node.own || marks.opaque || marks.redirect.is_some() {
            let is_redirected = node.own && marks.redirect.is_some();
            let own = node.own && !is_redirected;
            return Ok(Below { at: None, own, open: is_redirected && rest != Rest::End });
        }
        Ok(Below::own(here()))
    }

    /// Why a file whose data is not in the stack cannot be made.
    pub(super) fn refuses_data(&self, out: &Upper, has_blocks: bool) -> Option<(&'static str, &'static str)> {
        match (self.flatten, has_blocks) {
            (true, _) => Some(("its data is in a layer that was not named (metacopy)", LOWER)),
            (false, true) => Some(("a part of its data is in a layer below (copyup_block)", FLATTEN)),
            (false, false) if !out.metacopy => Some(("its data is in a layer below (metacopy)", FLATTEN)),
            (false, false) => None,
        }
    }
}

/// Whether a file is an object of the topmost layer.
pub(super) fn is_own(layers: &Layers, leaf: &FoundLeaf) -> bool {
    layers.root.top().is_some_and(|top| Arc::ptr_eq(&top.place.layer, &leaf.place.dir.layer))
}

/// The position of the topmost layer.
fn level_of(layers: &Layers) -> usize {
    layers.root.top().map_or(0, |part| part.level)
}

/// The marks of a directory that was found.
fn marks(found: &FoundDir, name: &Name) -> Result<DirMarks> {
    let top = found.view.top().ok_or(Errno::EIO)?;
    match top.place.parent() {
        // A redirect may have led to it by another name.
        Some((parent, name)) => read_dir_marks(&top.place, parent.fd()?.as_fd(), name.as_c_str(), true),
        None => read_dir_marks(&top.place, top.place.fd()?.as_fd(), name.as_c_str(), true),
    }
}

/// Lets a copy say of which lower object its original is a copy: that object has not changed.
pub(super) fn keep_origin(out: &Upper, from: (&DirPlace, &CStr), to: Staged<'_>) -> Result<()> {
    let dir = from.0.fd()?;
    let own = from.0.layer.namespace;
    let from = (dir.as_fd(), from.1);
    keep_protattr(out, from, own.key(Mark::Protattr), to)?;
    keep(out, from, (Mark::Origin, own.key(Mark::Origin)), to)
}

/// Lets a copy of a directory say that objects in it may be copies of lower ones.
pub(super) fn keep_impure(
    out: &Upper,
    (place, from): (&Arc<DirPlace>, BorrowedFd<'_>),
    to: BorrowedFd<'_>,
) -> Result<()> {
    let own = place.layer.namespace;
    keep_protattr(out, (from, c"."), own.key(Mark::Protattr), Staged::Open(to))?;
    keep(out, (from, c"."), (Mark::Impure, own.key(Mark::Impure)), Staged::Open(to))
}

/// Copies the mark of chattr(1), which forbids what an upper layer's object allows.
///
/// # Errors
/// `EOPNOTSUPP`: the new layer has no marks.
fn keep_protattr(out: &Upper, from: (BorrowedFd<'_>, &CStr), key: &CStr, to: Staged<'_>) -> Result<()> {
    let value = match xattr::get_at(from.0, from.1, key) {
        Err(Errno::EACCES) => None,
        value => value?,
    };
    let Some(value) = value else { return Ok(()) };
    let namespace = out.namespace().ok_or(Errno::EOPNOTSUPP)?;
    to.set_xattr(namespace.key(Mark::Protattr), &value)
}

/// Copies a mark under the key that it has in the new layer. An object that takes none goes without.
fn keep(out: &Upper, from: (BorrowedFd<'_>, &CStr), (mark, key): (Mark, &CStr), to: Staged<'_>) -> Result<()> {
    let Some(namespace) = out.namespace() else { return Ok(()) };
    let value = match xattr::get_at(from.0, from.1, key) {
        Err(Errno::EACCES) => return Ok(()),
        value => value?,
    };
    let Some(value) = value else { return Ok(()) };
    match to.set_xattr(namespace.key(mark), &value) {
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSPC | Errno::ERANGE | Errno::E2BIG | Errno::ENODATA) => Ok(()),
        done => done,
    }
}
