//! What a layer says, in the order of its names: it is seen together with the layers below it, in which it may have the data
//! of its files and the content of its renamed directories.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::vec::IntoIter;

use super::entry::{Archive, Body, Changed, Meta};
use super::{Export, Failed, LeftOut, Which};
use crate::base::ids::OVERFLOW_ID;
use crate::base::{Errno, Name, Result};
use crate::format::wh;
use crate::layer::{DirMarks, DirPlace, read_dir_marks};
use crate::merge::{
    Answer, CookieKey, DirPart, DirView, Found, FoundDir, FoundLeaf, Layers, Places, Window, list, lookup,
};
use crate::sys::ending;
use crate::sys::stat::{Kind, Stat, Time};
use crate::tool::change::path_of;
use crate::tool::compare::xattrs;
use crate::tool::content::Content;
use crate::tool::diff::{MOST_PATH, is_gone, join, list_upper};

/// How the marks of overlays begin.
const MARKS: [&str; 4] = ["trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", "user.containers.override_"];
/// What belongs to one machine. XFS lists ACLs a second time, in its own form, as `trusted.SGI_ACL_*`.
const LOCAL: [&str; 5] = ["security.selinux", "security.ima", "security.evm", "system.nfs4_acl", "trusted.SGI_ACL_"];

/// Whether an attribute is a mark of an overlay, which an archive never has.
pub(in crate::tool) fn is_mark(key: &[u8]) -> bool {
    MARKS.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
}

/// Whether an attribute belongs to one machine, and is no part of what an archive has either.
pub(in crate::tool) fn is_local(key: &[u8]) -> bool {
    LOCAL.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
}

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Which names of a directory are told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Those of the layer itself.
    Own,
    /// Those of the layer itself, and those below whose copy the index has.
    Indexed,
    /// All that are seen: the layer has another directory's content here.
    Whole,
}

/// A directory on the way to where the walk is.
struct Node {
    view: DirView,
    path: Vec<u8>,
    names: IntoIter<(Name, bool)>,
    way: Way,
    /// It is told only if something below is.
    pending: Option<(Stat, Xattrs)>,
}

struct Walk<'a, W: Write> {
    export: &'a mut Export<W>,
    layers: &'a Layers,
    key: CookieKey,
    level: usize,
    nodes: Vec<Node>,
}

/// Adds what a layer says, below the directory `before`.
///
/// # Errors
/// As [`Export::add`].
pub(super) fn walk<W: Write>(
    export: &mut Export<W>,
    layers: &Layers,
    which: Which,
    before: &[u8],
) -> std::result::Result<(), Failed> {
    let failed = |errno: Errno| failed(before, &errno.to_string());
    let key = CookieKey::random().map_err(failed)?;
    let level = if let Which::Level(level) = which { level } else { 0 };
    let mut walk = Walk { export, layers, key, level, nodes: Vec::new() };
    walk.root(which, before)?;
    while let Some(node) = walk.nodes.last_mut() {
        let Some((name, whiteout)) = node.names.next() else {
            walk.nodes.pop();
            continue;
        };
        let path = join(&node.path, &name);
        ending::check().map_err(|errno| self::failed(&path, &errno.to_string()))?;
        if path.len() > MOST_PATH {
            return Err(self::failed(&path, &Errno::ENAMETOOLONG.to_string()));
        }
        walk.name(&name, path, whiteout)?;
    }
    Ok(())
}

fn failed(path: &[u8], why: &str) -> Failed {
    Failed { path: path_of(if path.is_empty() { b"." } else { path }), why: why.to_owned() }
}

/// What to do about an error of the layers.
fn told(path: &[u8], errno: Errno) -> Failed {
    let hint = match errno {
        Errno::EIO => " (the layer may lack those that it stands on: name them after it)",
        Errno::EPERM => " (its marks are not followed here: run it as who wrote the layer)",
        Errno::ESTALE => return failed(path, &Changed.to_string()),
        _ => "",
    };
    failed(path, &format!("{errno}{hint}"))
}

fn written(path: &[u8], error: &io::Error) -> Failed {
    failed(path, &error.to_string())
}

impl<W: Write> Walk<'_, W> {
    /// Begins with the root, which is an entry of its own.
    fn root(&mut self, which: Which, before: &[u8]) -> std::result::Result<(), Failed> {
        let lowers: Vec<DirPart> =
            self.layers.stack.lowers.iter().filter(|part| part.level >= self.level).cloned().collect();
        let upper = self.layers.root.upper.clone().filter(|_| self.level == 0);
        let view = DirView { upper, redirect: None, lowers: lowers.into() };
        let top = view.top().cloned().ok_or_else(|| failed(before, "there is no such layer"))?;
        let look = || {
            let fd = top.place.open()?;
            let marks = read_dir_marks(&top.place, fd.as_fd(), c".", true)?;
            Ok((top.place.stat_self()?, xattrs(&top.place.layer, fd.as_fd(), c".")?, marks))
        };
        let (stat, xattrs, marks) = look().map_err(|errno| told(before, errno))?;
        let path = if before.is_empty() { b"./".to_vec() } else { [before, b"/"].concat() };
        self.entry(&path, &stat, xattrs, &Body::Dir)?;
        let way = match which {
            Which::Merged => Way::Whole,
            Which::Level(_) if self.has_index() => Way::Indexed,
            Which::Level(_) => Way::Own,
        };
        let opaque = which != Which::Merged && marks.opaque;
        self.enter(view, before.to_vec(), way, opaque, None)
    }

    /// Whether there may be names of lower layers whose object is in the upper one.
    fn has_index(&self) -> bool {
        let Some(index) = self.layers.stack.index.as_ref().filter(|_| self.level == 0) else { return false };
        let part = DirPart { place: index.dir().clone(), level: 0, xattr_whiteouts: false, impure: false };
        list_upper(&part).is_ok_and(|names| !names.is_empty())
    }

    /// Goes into a directory, which has been told, or is `pending`.
    fn enter(
        &mut self,
        view: DirView,
        path: Vec<u8>,
        way: Way,
        opaque: bool,
        pending: Option<(Stat, Xattrs)>,
    ) -> std::result::Result<(), Failed> {
        let names = self.names(&view, way, opaque).map_err(|errno| told(&path, errno))?;
        let mark = join_bytes(&path, wh::OPAQUE);
        self.nodes.push(Node { view, path, names: names.into_iter(), way, pending });
        if opaque { self.mark(&mark) } else { Ok(()) }
    }

    /// The names of a directory that are told, each with whether it is a whiteout, in their order.
    fn names(&self, view: &DirView, way: Way, opaque: bool) -> Result<Vec<(Name, bool)>> {
        let own = view.parts(0).map(|(_, part)| part).find(|part| part.level == self.level);
        let mut names = match own.filter(|_| way != Way::Whole) {
            Some(part) => list_upper(part)?,
            None => Vec::new(),
        };
        // In an opaque directory they hide nothing.
        names.retain(|(_, whiteout)| !(*whiteout && opaque));
        if way != Way::Own {
            let listing = list(view, &self.key, &Places::default(), Window::WHOLE)?;
            names.extend(listing.after(0).map(|(_, name, _)| (name, false)));
        }
        names.sort_unstable();
        names.dedup_by(|one, two| one.0 == two.0);
        Ok(names)
    }

    /// Tells one name of the directory in which the walk is.
    fn name(&mut self, name: &Name, path: Vec<u8>, whiteout: bool) -> std::result::Result<(), Failed> {
        let Some(node) = self.nodes.last() else { return Ok(()) };
        let way = node.way;
        if whiteout {
            let mark = join_bytes(&node.path, &[wh::PREFIX, name.as_bytes()].concat());
            if name.as_bytes().len() + wh::PREFIX.len() > Name::MAX {
                return Err(failed(
                    &path,
                    "it is deleted, and a whiteout of its name would be too long for an archive",
                ));
            }
            return self.mark(&mark);
        }
        let found = match lookup(&self.layers.stack, &node.view, name) {
            Ok(Answer::Found(found)) => found,
            // It went away meanwhile.
            Ok(Answer::Absent(_)) => return Ok(()),
            Err(errno) if is_gone(errno) => return Ok(()),
            Err(errno) => return Err(told(&path, errno)),
        };
        if name.as_bytes().starts_with(wh::PREFIX) {
            self.leave_out(&path, "its name means a whiteout in an archive", true);
            return Ok(());
        }
        match found {
            Found::Dir(dir) => self.dir(name, path, dir, way),
            Found::Leaf(leaf) if way == Way::Indexed && !leaf.upper => Ok(()),
            Found::Leaf(leaf) => self.leaf(&path, &leaf),
        }
    }

    fn dir(&mut self, name: &Name, path: Vec<u8>, dir: FoundDir, way: Way) -> std::result::Result<(), Failed> {
        let Some(top) = dir.view.top().cloned() else { return Ok(()) };
        let look = || {
            if top.place.ino() == 0 {
                // Another mount covers it.
                return Ok((Xattrs::new(), DirMarks::default()));
            }
            let (parent, at) = held(&top.place, name)?;
            let marks = read_dir_marks(&top.place, parent.as_fd(), &at, true)?;
            Ok((xattrs(&top.place.layer, parent.as_fd(), &at)?, marks))
        };
        let (xattrs, marks) = look().map_err(|errno| told(&path, errno))?;
        let is_own = top.level == self.level;
        let redirected = is_own && marks.redirect.is_some();
        if redirected && way != Way::Whole && self.level >= self.layers.stack.last() {
            let why = "it is renamed, and its content is in a layer that was not named (name it after this one)";
            return Err(failed(&path, why));
        }
        let below = if redirected { Way::Whole } else { way };
        let opaque = is_own && way != Way::Whole && (marks.opaque || redirected);
        let stat = stat_of(&dir, &top);
        if way == Way::Indexed && !is_own {
            return self.enter(dir.view, path, way, false, Some((stat, xattrs)));
        }
        self.entry(&[&path, &b"/"[..]].concat(), &stat, xattrs, &Body::Dir)?;
        self.enter(dir.view, path, below, opaque, None)
    }

    fn leaf(&mut self, path: &[u8], leaf: &FoundLeaf) -> std::result::Result<(), Failed> {
        let stat = &leaf.stat;
        match stat.kind() {
            Kind::Socket => {
                self.leave_out(path, "a socket", false);
                return Ok(());
            }
            Kind::Char if stat.rdev == 0 => {
                self.leave_out(path, "a 0/0 device, which would be a whiteout where it is unpacked", true);
                return Ok(());
            }
            _ => {}
        }
        let dir = &leaf.place.dir;
        let key = (Arc::as_ptr(&dir.layer).addr(), stat.ino);
        let has_links = stat.nlink > 1 && dir.layer.lasting_numbers;
        if let Some((first, left)) = self.export.links.get_mut(&key).filter(|_| has_links) {
            let first = first.clone();
            *left -= 1;
            if *left == 0 {
                self.export.links.remove(&key);
            }
            return self.entry(path, stat, Xattrs::new(), &Body::Link(&first));
        }
        let look = || {
            if leaf.bare {
                Ok(Xattrs::new())
            } else {
                xattrs(&dir.layer, dir.fd()?.as_fd(), leaf.place.name.as_c_str())
            }
        };
        let xattrs = look().map_err(|errno| told(path, errno))?;
        let failed = |errno| told(path, errno);
        match stat.kind() {
            Kind::File => {
                let content = Content::open(self.layers, leaf).map_err(failed)?;
                self.entry(path, stat, xattrs, &Body::File(&content, stat.size))?;
                let now = leaf.place.stat().map_err(failed)?;
                if (now.size, now.mtime) != (stat.size, stat.mtime) {
                    return Err(self::failed(path, &Changed.to_string()));
                }
            }
            Kind::Symlink => {
                let target = leaf.place.readlink().map_err(failed)?;
                self.entry(path, stat, xattrs, &Body::Symlink(&target))?;
            }
            Kind::Char | Kind::Block => {
                let body = Body::Device { block: stat.kind() == Kind::Block, rdev: stat.rdev };
                self.entry(path, stat, xattrs, &body)?;
            }
            _ => self.entry(path, stat, xattrs, &Body::Fifo)?,
        }
        if has_links {
            self.export.links.insert(key, (path.to_vec(), stat.nlink - 1));
        }
        Ok(())
    }

    /// Tells a whiteout, or that a directory is opaque.
    fn mark(&mut self, path: &[u8]) -> std::result::Result<(), Failed> {
        self.flush()?;
        let (xattrs, mtime) = (Xattrs::new(), Time { sec: 0, nsec: 0 });
        add(self.export, &Meta { path, mode: 0, owner: (0, 0), mtime, xattrs: &xattrs }, &Body::Mark)
    }

    /// Tells an object.
    fn entry(&mut self, path: &[u8], stat: &Stat, xattrs: Xattrs, body: &Body<'_>) -> std::result::Result<(), Failed> {
        self.flush()?;
        self.tell(path, stat, xattrs, body)
    }

    fn tell(
        &mut self,
        path: &[u8],
        stat: &Stat,
        mut xattrs: Xattrs,
        body: &Body<'_>,
    ) -> std::result::Result<(), Failed> {
        let mut lost = false;
        xattrs.retain(|key, _| {
            if is_local(key) {
                return false;
            }
            let fits = !is_mark(key) && !key.contains(&b'=') && std::str::from_utf8(key).is_ok();
            lost |= !fits;
            fits
        });
        if lost {
            self.leave_out(path, "an attribute that an archive cannot hold", true);
        }
        let owner = (stat.uid.0, stat.gid.0);
        add(self.export, &Meta { path, mode: stat.mode, owner, mtime: stat.mtime, xattrs: &xattrs }, body)
    }

    /// Tells the directories that were waiting for something below them.
    fn flush(&mut self) -> std::result::Result<(), Failed> {
        for at in 0..self.nodes.len() {
            let Some(node) = self.nodes.get_mut(at) else { break };
            if let Some((stat, xattrs)) = node.pending.take() {
                let path = [&node.path, &b"/"[..]].concat();
                self.tell(&path, &stat, xattrs, &Body::Dir)?;
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &[u8], what: &'static str, loss: bool) {
        self.export.done.left_out.push(LeftOut { path: path_of(path), what, loss });
    }
}

/// Writes an entry.
fn add<W: Write>(export: &mut Export<W>, meta: &Meta<'_>, body: &Body<'_>) -> std::result::Result<(), Failed> {
    let archive: &mut Archive<W> = &mut export.archive;
    archive.add(meta, body).map_err(|error| written(meta.path, &error))?;
    export.done.entries += 1;
    Ok(())
}

/// The directory that holds this one, and its name there, which a redirect may have changed.
fn held(place: &Arc<DirPlace>, name: &Name) -> Result<(Arc<std::os::fd::OwnedFd>, std::ffi::CString)> {
    match place.parent() {
        Some((parent, name)) => Ok((parent.fd()?, <CStr as ToOwned>::to_owned(name.as_c_str()))),
        None => Ok((place.fd()?, <CStr as ToOwned>::to_owned(name.as_c_str()))),
    }
}

/// The attributes of a directory. One that was only made for what it holds, by a daemon that could not name its owner, has
/// those of the one below.
fn stat_of(dir: &FoundDir, top: &DirPart) -> Stat {
    let nameless = top.place.layer.carried.is_some() && [dir.stat.uid.0, dir.stat.gid.0].contains(&OVERFLOW_ID);
    dir.lower.filter(|_| nameless).unwrap_or(dir.stat)
}

fn join_bytes(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
