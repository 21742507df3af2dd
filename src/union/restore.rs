//! A mount that goes on after its daemon died. A daemon writes down what the next one must know as it happens, and the
//! next daemon finds the inodes again before it answers requests.
//!
//! An inode is found by a name that it had, if the object under that name has its number. So is a change that was
//! published but not yet written down: a rename writes down beforehand where the object will be, and a removal where an
//! object without a name will be.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use super::attr::stat_of_dir;
use super::{InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::format::journal::{Detached, InLower, Record};
use crate::inode::{Body, Inode, Journal, Key, LeafBody, Move, Names, Node};
use crate::layer::{DirPlace, Place};
use crate::merge::{self, Answer, Apartness, Data, DirPart, DirView, Found, FoundDir};
use crate::sys::dirent::read_dir;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Stat, stat_at};

/// The inode numbers of the objects that must stay in workdir; `None`: no mount goes on.
pub(super) fn kept_in_workdir(journal: &Journal) -> Option<HashSet<u64>> {
    journal.init()?;
    let upper = |(_, node): (u64, Node)| match node.detached {
        Some(Detached::Upper { ino, .. }) => Some(ino),
        _ => None,
    };
    Some(journal.nodes().into_iter().filter_map(upper).collect())
}

impl Union {
    /// Writes down where an object will be, before its last name may go.
    pub(super) fn note_detached(&self, inode: &Arc<Inode>) {
        let Some(journal) = &self.journal else { return };
        let at = match &inode.body {
            Body::Leaf(leaf) => self.leaf_without_name(leaf),
            Body::Dir(dir) => stat_of_dir(dir).ok().map(|stat| Detached::Dir {
                mode: libc::S_IFDIR | stat.mode & 0o7777,
                uid: stat.uid,
                gid: stat.gid,
                ino: inode.id.0,
            }),
        };
        journal.write(at.map(|at| Record::Detached { id: inode.id.0, at }));
    }

    fn leaf_without_name(&self, leaf: &LeafBody) -> Option<Detached> {
        let (object, meta) = {
            let state = leaf.state.lock();
            (state.current().ok()?.clone(), state.meta().cloned())
        };
        if !object.place.is_upper() {
            return self.in_lower(&object.place).map(Detached::Lower);
        }
        let data = match meta.map(|meta| meta.data) {
            Some(Data::At(file)) => self.in_lower(&file.place),
            _ => None,
        };
        Some(Detached::Upper { ino: object.key.ino, data })
    }

    fn in_lower(&self, place: &Place) -> Option<InLower> {
        // Counted from the lowest one, as commits put layers on top.
        let layer = self.stack.lowers.iter().rev().position(|root| Arc::ptr_eq(&root.place.layer, &place.dir.layer))?;
        let mut path = vec![place.name.clone()];
        let mut at = place.dir.parent();
        while let Some((parent, name)) = at {
            path.push(name);
            at = parent.parent();
        }
        path.reverse();
        Some(InLower { layer: u32::try_from(layer).ok()?, path })
    }

    /// Writes down that the other names of a copied-up lower hard link lead to the copy, which the layers do not say.
    pub(super) fn note_pinned(&self, inode: &Arc<Inode>, leaf: &LeafBody) {
        let Some(journal) = &self.journal else { return };
        let key = leaf.state.lock().lower().map(|lower| lower.key);
        journal.write(key.map(|key| Record::Key { id: inode.id.0, dev: key.dev, ino: key.ino }));
    }

    /// Writes down the places of names in a directory's listing, before a listing hands them out.
    pub(super) fn note_places(&self, dir: InodeId, names: &mut Names) {
        let unwritten = names.unwritten();
        if let Some(journal) = self.journal.as_ref().filter(|_| !unwritten.is_empty()) {
            let record = |(hash, what): (u64, Apartness)| Record::Place { id: dir.0, hash, what: what.to_number() };
            journal.write(unwritten.into_iter().map(record));
        }
    }

    /// Writes a rename down before it is published.
    pub(super) fn note_move(&self, request: u64, was: InodeId, from: (InodeId, &Name), to: (InodeId, &Name)) {
        if let Some(journal) = &self.journal {
            let place = |(parent, name): (InodeId, &Name)| (parent.0, name.clone());
            journal.write([Record::Moving { request, was: was.0, from: place(from), to: place(to) }]);
        }
    }

    /// Finds the inodes again that the daemon before has given out. An inode that is not found answers `ESTALE`.
    pub(super) fn restore(&self) {
        let Some(journal) = self.journal.clone().filter(|journal| journal.init().is_some()) else { return };
        let mut left = by_depth(journal.nodes());
        let all = left.len();
        self.table.go_on_behind(left.iter().map(|(id, _)| *id));
        let moves = journal.moves();
        let mut held = Vec::new();
        let mut exact = true;
        loop {
            let before = left.len();
            left.retain(|(id, node)| match self.find_again(*id, node, &moves, exact) {
                Some(inode) => {
                    held.push((inode, node.clone()));
                    false
                }
                None => true,
            });
            match (left.len() < before, exact) {
                // A directory that was found may be the parent of other inodes.
                (true, _) => exact = true,
                (false, true) => exact = false,
                (false, false) => break,
            }
        }
        let hidden = self.in_workdir();
        for (id, node) in left {
            match self.find_nameless(InodeId(id), &node, &hidden) {
                Some(inode) => held.push((inode, node)),
                None => {
                    log::warn!("inode {id} is not found again: {node:?}");
                    journal.write([Record::Dead { id }]);
                }
            }
        }
        for (inode, node) in &held {
            self.further_names(&journal, inode, node);
        }
        for (id, hash, what) in journal.places() {
            if let Some(dir) = self.table.get(InodeId(id))
                && let Ok(body) = dir.dir()
            {
                body.names.write().set_place(hash, what);
            }
        }
        // The kernel may keep a listing that the daemon before has given it.
        let dirs = held.iter().filter_map(|(inode, _)| inode.dir().ok());
        dirs.for_each(|dir| dir.names.read().walked());
        if let Some(root) = self.table.get(InodeId::ROOT)
            && let Ok(dir) = root.dir()
        {
            dir.names.read().walked();
        }
        let found = held.len();
        // Parents last: each child counts as a reference of its parent by now.
        held.iter().rev().for_each(|(inode, node)| self.table.adopted(inode, node));
        log::warn!("goes on: {found} of {all} inodes found again");
    }

    /// Finds an inode by one of its names. `exact`: the object under the name must have the inode's number.
    fn find_again(&self, id: u64, node: &Node, moves: &[Move], exact: bool) -> Option<Arc<Inode>> {
        if exact && self.table.is_private(InodeId(id)) {
            return None;
        }
        let ends = moves.iter().flat_map(|one| [(&one.from, &one.to), (&one.to, &one.from)]);
        let moved = ends.filter(|(from, _)| exact && node.names.iter().any(|name| name == *from)).map(|(_, to)| to);
        // The copy of a hard link has one name in the upper layer, and all names lead to the copy.
        let copied = !node.keys.is_empty();
        let found = node.names.iter().chain(moved).find_map(|(parent, name)| {
            let parent = self.table.get(InodeId(*parent))?;
            let found = self.look_again(&parent, name).ok()??;
            let number = self.table.lasting(&found);
            let same = if exact { number == Some(InodeId(id)) } else { is_kind(&found, node.kind) };
            let lower = matches!(&found, Found::Leaf(leaf) if !leaf.upper);
            (same && !(copied && lower)).then_some((parent, name, found))
        });
        let (parent, name, found) = found?;
        self.table.adopt(InodeId(id), &parent, name, &found)
    }

    fn look_again(&self, parent: &Arc<Inode>, name: &Name) -> Result<Option<Found>> {
        let body = parent.dir()?;
        let _names = body.names.read();
        match merge::lookup(&self.stack, &body.live_view()?, name)? {
            Answer::Found(found) => Ok(Some(found)),
            Answer::Absent(_) => Ok(None),
        }
    }

    /// Finds the other names of a hard link, and writes the names that are left into the journal.
    fn further_names(&self, journal: &Journal, inode: &Arc<Inode>, node: &Node) {
        for (parent, name) in &node.names {
            let known = inode.has_name(InodeId(*parent), name);
            if let (false, Some(parent)) = (known, self.table.get(InodeId(*parent)))
                && let Ok(Some(found)) = self.look_again(&parent, name)
                && self.leads_to(inode, node, &found)
            {
                let lower = match &found {
                    Found::Leaf(leaf) if !leaf.upper => Some(leaf.stat.nlink),
                    _ => None,
                };
                self.table.add_name(inode, &parent, name, lower);
            }
        }
        let id = inode.id.0;
        let gone = node.names.iter().filter(|(parent, name)| !inode.has_name(InodeId(*parent), name));
        journal.write(gone.map(|(parent, name)| Record::Unnamed { id, parent: *parent, name: name.clone() }));
        let names = inode.leaf().map(|leaf| leaf.state.lock().names.iter().cloned().collect::<Vec<_>>());
        let names = names
            .unwrap_or_else(|_| inode.dir().ok().and_then(|dir| dir.state.read().at.clone()).into_iter().collect());
        journal.write(names.into_iter().map(|(parent, name)| Record::Named { id, parent: parent.id.0, name }));
    }

    /// Whether the object under another name is this hard link.
    fn leads_to(&self, inode: &Inode, node: &Node, found: &Found) -> bool {
        let Found::Leaf(leaf) = found else { return false };
        let key = Key::of(&leaf.stat);
        let held = inode.leaf().ok().and_then(|leaf| Some(leaf.state.lock().current().ok()?.key));
        held == Some(key) || node.keys.contains(&(key.dev, key.ino))
    }

    /// Finds the inode of an object without a name.
    fn find_nameless(&self, id: InodeId, node: &Node, hidden: &HashMap<u64, Name>) -> Option<Arc<Inode>> {
        let (found, name, hidden) = match node.detached.as_ref()? {
            Detached::Upper { ino, data } => {
                let name = hidden.get(ino)?;
                let place = self.work.clone()?;
                let part = DirPart { place, level: 0, xattr_whiteouts: false, impure: true };
                let data = data.as_ref().and_then(|place| self.lower_dir(place));
                let data = data.as_ref().map(|(part, name)| (part, *name));
                (found(merge::lookup_nameless(&self.stack, &part, name, data))?, name.clone(), true)
            }
            Detached::Lower(place) => {
                let (part, name) = self.lower_dir(place)?;
                let view = DirView { upper: None, redirect: None, lowers: Arc::new([part]) };
                (found(merge::lookup(&self.stack, &view, name))?, name.clone(), false)
            }
            Detached::Dir { mode, uid, gid, ino } => {
                let top = self.top.stat_self().ok()?;
                let stat = Stat { mode: *mode, uid: *uid, gid: *gid, ino: *ino, nlink: 0, size: 0, blocks: 0, ..top };
                let view = DirView { upper: None, redirect: None, lowers: Arc::new([]) };
                let found = FoundDir { view, stat, lower: None, protection: Default::default(), plain: (false, false) };
                (Found::Dir(found), Name::new(b"removed").ok()?, false)
            }
        };
        self.table.adopt_nameless(id, &name, &found, hidden).filter(|_| is_kind(&found, node.kind))
    }

    /// The directory of a place in a lower layer, with the name in that directory.
    fn lower_dir<'a>(&self, place: &'a InLower) -> Option<(DirPart, &'a Name)> {
        let (name, dirs) = place.path.split_last()?;
        let mut part = self.stack.lowers.iter().rev().nth(place.layer as usize)?.clone();
        for dir in dirs {
            part.place = below(&part.place, dir).ok()??;
        }
        Some((part, name))
    }

    /// The names in workdir by inode number.
    fn in_workdir(&self) -> HashMap<u64, Name> {
        let mut found = HashMap::new();
        let Some(upper) = &self.upper else { return found };
        let Ok(dir) = open_beneath(upper.work(), c".", OFlags::RDONLY | OFlags::DIRECTORY) else { return found };
        let listed = read_dir(dir.as_fd(), &mut |entry| {
            if let (Ok(stat), Ok(name)) = (stat_at(dir.as_fd(), entry.name), Name::new(entry.name.to_bytes())) {
                found.insert(stat.ino, name);
            }
            true
        });
        if let Err(errno) = listed {
            log::warn!("workdir cannot be listed, open files without a name are lost: {errno}");
        }
        found
    }
}

fn found(answer: Result<Answer>) -> Option<Found> {
    match answer {
        Ok(Answer::Found(found)) => Some(found),
        _ => None,
    }
}

/// The subdirectory `name` of a layer's directory; marks are not looked at.
fn below(dir: &Arc<DirPlace>, name: &Name) -> Result<Option<Arc<DirPlace>>> {
    let stat = dir.stat(name)?.ok_or(Errno::ESTALE)?;
    Ok(stat.is_dir().then(|| dir.child(name, stat.ino)))
}

fn is_kind(found: &Found, kind: u8) -> bool {
    let stat = match found {
        Found::Dir(dir) => &dir.stat,
        Found::Leaf(leaf) => &leaf.stat,
    };
    Node::kind_of(stat.kind()) == kind
}

/// The nodes in an order in which parents come first.
fn by_depth(nodes: Vec<(u64, Node)>) -> Vec<(u64, Node)> {
    let parents: HashMap<u64, u64> = nodes.iter().filter_map(|(id, node)| Some((*id, node.names.first()?.0))).collect();
    let mut depths: HashMap<u64, usize> = HashMap::new();
    for &(id, _) in &nodes {
        let mut way = Vec::new();
        let mut at = id;
        // A journal without a bug has no circle of parents; with one this must still end.
        while let (None, Some(&parent)) = (depths.get(&at), parents.get(&at)) {
            way.push(at);
            at = parent;
            if way.len() > nodes.len() {
                break;
            }
        }
        let base = depths.get(&at).copied().unwrap_or(0);
        for (above, node) in way.iter().rev().enumerate() {
            depths.insert(*node, base + above + 1);
        }
    }
    let mut nodes = nodes;
    nodes.sort_by_cached_key(|(id, _)| depths.get(id).copied().unwrap_or(0));
    nodes
}
