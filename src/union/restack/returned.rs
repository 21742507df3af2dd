//! What the way back to a commit, or forward to one, makes of the live inodes: a name may lead to another object, or to
//! none. An object that no name leads to any more is there for as long as somebody holds it, as after its removal.
//!
//! Only what has changed is looked up again: directories that have lost a part or got one, and the names that stand in
//! such parts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::labels::Lost;
use crate::base::Name;
use crate::inode::{Body, Inode, Key};
use crate::layer::{ListedName, NameSink, list_names};
use crate::merge::{self, Answer, Data, DirPart, DirView, Found};
use crate::union::{InodeId, Union};

/// What the kernel must be told.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Names that may lead elsewhere, with their directories.
    names: Vec<(InodeId, Name)>,
    /// Directories whose attributes and listings may be others, and other objects whose attributes may.
    dirs: Vec<InodeId>,
}

/// What is found out on the way from the root downwards.
struct Returning<'a> {
    union: &'a Union,
    is_added: &'a dyn Fn(&DirPart) -> bool,
    /// The parts that directories had before, where one of them is gone.
    before: HashMap<InodeId, DirView>,
    /// The names that may lead elsewhere, by directory.
    changed: HashMap<InodeId, HashSet<Name>>,
    removed: HashSet<InodeId>,
}

impl Union {
    /// Finds out where the names of live inodes lead now. `is_added`: whether a part is in a layer that the stack did not
    /// have before; `seeds`: more names that may lead elsewhere. No request is under way.
    pub(super) fn returned(
        &self,
        lost: Lost,
        is_added: &dyn Fn(&DirPart) -> bool,
        seeds: Vec<(InodeId, Name)>,
    ) -> Notes {
        let is_nothing = lost.dirs.is_empty() && lost.leaves.is_empty() && seeds.is_empty();
        if is_nothing && !self.stack.lowers.iter().any(is_added) {
            return Notes::default();
        }
        let before = lost.dirs.into_iter().map(|(inode, view)| (inode.id, view)).collect();
        let (changed, removed) = (HashMap::new(), HashSet::new());
        let mut returning = Returning { union: self, is_added, before, changed, removed };
        for (dir, name) in seeds {
            returning.changed.entry(dir).or_default().insert(name);
        }
        for dir in self.dirs_from_above() {
            returning.dir(&dir);
        }
        let mut notes = Notes { names: Vec::new(), dirs: returning.changed.keys().copied().collect() };
        for inode in &lost.leaves {
            notes.names.extend(self.part_from(inode, |_, _| true));
            self.table.drop_keys(inode);
            let pinned = inode.leaf().is_ok_and(|leaf| leaf.state.lock().set_pinned(false));
            if pinned {
                self.forget(inode.id, 1);
            }
        }
        // A removed file that is held: its keys must not lead the names that come back to it.
        self.nameless().iter().for_each(|inode| self.table.drop_keys(inode));
        for inode in self.leaves() {
            let is_lost = |parent: &Inode, name: &Name| returning.is_lost(&inode, parent, name);
            notes.names.extend(self.part_from(&inode, is_lost));
        }
        let names = returning.changed.into_iter();
        notes.names.extend(names.flat_map(|(dir, names)| names.into_iter().map(move |name| (dir, name))));
        // What stays keeps its name, on or below which a mount or somebody's place may be.
        let Notes { names, dirs } = &mut notes;
        names.retain(|(dir, name)| match self.table.by_name(*dir, name) {
            None => true,
            Some(inode) => {
                if inode.leaf().is_ok() {
                    dirs.push(inode.id);
                }
                false
            }
        });
        notes
    }

    /// All live directories, parents before their children.
    fn dirs_from_above(&self) -> Vec<Arc<Inode>> {
        let mut dirs = Vec::new();
        self.table.for_each(&mut |inode| {
            if matches!(inode.body, Body::Dir(_)) {
                dirs.push((depth(inode), inode.clone()));
            }
        });
        dirs.sort_by_key(|(depth, _)| *depth);
        dirs.into_iter().map(|(_, dir)| dir).collect()
    }

    fn leaves(&self) -> Vec<Arc<Inode>> {
        let mut leaves = Vec::new();
        self.table.for_each(&mut |inode| {
            if inode.leaf().is_ok_and(|leaf| !leaf.state.lock().names.is_empty()) {
                leaves.push(inode.clone());
            }
        });
        leaves
    }

    fn nameless(&self) -> Vec<Arc<Inode>> {
        let mut nameless = Vec::new();
        self.table.for_each(&mut |inode| {
            if inode.leaf().is_ok_and(|leaf| leaf.state.lock().names.is_empty()) {
                nameless.push(inode.clone());
            }
        });
        nameless
    }

    /// Takes from an object those of its names that are lost.
    fn part_from(&self, inode: &Arc<Inode>, is_lost: impl Fn(&Inode, &Name) -> bool) -> Vec<(InodeId, Name)> {
        let Ok(leaf) = inode.leaf() else { return Vec::new() };
        let names = leaf.state.lock().names.clone();
        let lost: Vec<_> = names.iter().filter(|(parent, name)| is_lost(parent, name)).collect();
        if lost.len() == names.len() && !lost.is_empty() {
            self.note_detached(inode);
        }
        for (parent, name) in &lost {
            self.table.remove_name(parent, name);
        }
        lost.into_iter().map(|(parent, name)| (parent.id, name.clone())).collect()
    }

    /// Tells the kernel what it must ask for again. Requests are answered meanwhile, as it may wait for one of them.
    pub(super) fn tell_returned(&self, notes: &Notes) {
        if let Some(notices) = self.notices.get() {
            notes.names.iter().for_each(|(dir, name)| notices.name_changed(*dir, name));
        }
        for &dir in &notes.dirs {
            self.names_changed(dir);
            self.attributes_changed(dir);
        }
    }
}

impl Returning<'_> {
    /// Finds out what has become of a directory, whose parent was looked at before.
    fn dir(&mut self, inode: &Arc<Inode>) {
        let Ok(body) = inode.dir() else { return };
        let (at, now) = {
            let state = body.state.read();
            if state.removed.is_some() {
                return;
            }
            (state.at.clone(), state.view.clone())
        };
        let before = self.before.get(&inode.id).cloned();
        let Some((parent, name)) = at else {
            if inode.id == InodeId::ROOT {
                self.touch(inode.id, before.as_ref().unwrap_or(&now), &now);
            }
            return;
        };
        let may_differ = self.changed.get(&parent.id).is_some_and(|names| names.contains(&name));
        if !self.removed.contains(&parent.id) && before.is_none() && !may_differ {
            return;
        }
        let before = before.unwrap_or(now);
        let found = if self.removed.contains(&parent.id) { None } else { self.look(&parent, &name) };
        match found {
            Some(Found::Dir(found)) if is_same(&before, &found.view) => {
                let view = with_places_of(&before, found.view);
                body.state.write().view = view.clone();
                self.touch(inode.id, &before, &view);
            }
            _ => self.remove(inode, &parent, &name, &before),
        }
    }

    fn look(&self, parent: &Inode, name: &Name) -> Option<Found> {
        let view = parent.dir().ok()?.live_view().ok()?;
        match merge::lookup(&self.union.stack, &view, name) {
            Ok(Answer::Found(found)) => Some(found),
            _ => None,
        }
    }

    /// Notes which names of a directory may lead elsewhere.
    fn touch(&mut self, dir: InodeId, before: &DirView, now: &DirView) {
        let is_lost = |part: &DirPart| !now.parts(0).any(|(_, other)| is_one(part, other));
        let is_new = |part: &DirPart| !before.parts(0).any(|(_, other)| is_one(part, other));
        let lost: Vec<&DirPart> = before.parts(0).map(|(_, part)| part).filter(|part| is_lost(part)).collect();
        let new: Vec<&DirPart> = now.parts(0).map(|(_, part)| part).filter(|part| is_new(part)).collect();
        // A part that has come or gone with another one, which hid it.
        let was_known = |part: &&&DirPart| !(self.is_added)(part);
        let uncovered = new.iter().any(|part| was_known(&part)) || lost.iter().any(|part| self.has(part));
        let names = self.changed.entry(dir).or_default();
        let all = before.parts(0).chain(now.parts(0)).map(|(_, part)| part).filter(|_| uncovered);
        for part in lost.into_iter().chain(new).chain(all) {
            let listed = list_names(&part.place, false, &mut Listed(names));
            if let Err(errno) = listed {
                log::warn!("{:?}: names in it may show what they led to before: {errno}", part.place);
            }
        }
    }

    /// Whether the stack has the layer of a part.
    fn has(&self, part: &DirPart) -> bool {
        self.union.stack.lowers.iter().any(|root| Arc::ptr_eq(&root.place.layer, &part.place.layer))
    }

    /// A directory is not there any more: it is as after rmdir(2) for who is still in it.
    fn remove(&mut self, inode: &Arc<Inode>, parent: &Arc<Inode>, name: &Name, before: &DirView) {
        let stat = before.top().and_then(|top| top.place.stat_self().ok());
        self.union.note_detached(inode);
        if let (Ok(dir), Some(stat)) = (inode.dir(), stat.or_else(|| self.union.top.stat_self().ok())) {
            let mut state = dir.state.write();
            state.removed = Some(Box::new(stat));
            state.view = DirView { upper: None, redirect: None, lowers: Arc::new([]) };
        }
        self.removed.insert(inode.id);
        self.changed.entry(parent.id).or_default().insert(name.clone());
        self.union.table.remove_name(parent, name);
    }

    /// Whether a name leads to another object than this one.
    fn is_lost(&self, inode: &Inode, parent: &Inode, name: &Name) -> bool {
        if self.removed.contains(&parent.id) {
            return true;
        }
        if !self.changed.get(&parent.id).is_some_and(|names| names.contains(name)) {
            return false;
        }
        let Ok(leaf) = inode.leaf() else { return true };
        let (key, meta) = {
            let state = leaf.state.lock();
            // The data of an upper file is where it was: else the step would have been refused.
            let meta = state.meta().filter(|_| state.upper().is_none()).cloned();
            (state.current().ok().map(|object| object.key), meta)
        };
        match self.look(parent, name) {
            Some(Found::Leaf(found)) if Some(Key::of(&found.stat)) == key => match (meta, found.meta) {
                (Some(was), Some(is)) => !is_same_data(&was.data, &is.data),
                _ => false,
            },
            _ => true,
        }
    }
}

/// Collects names.
struct Listed<'a>(&'a mut HashSet<Name>);

impl NameSink for Listed<'_> {
    fn wants(&mut self, _: &[u8]) -> bool {
        true
    }

    fn take(&mut self, name: &ListedName<'_>) -> bool {
        self.0.extend(Name::new(name.name).ok());
        true
    }
}

/// Whether the data of a file is where it was. A path in layers of data only leads where it led.
fn is_same_data(was: &Data, is: &Data) -> bool {
    match (was, is) {
        (Data::At(was), Data::At(is)) => Key::of(&was.stat) == Key::of(&is.stat),
        _ => true,
    }
}

/// Whether two parts are one directory of one layer.
fn is_one(one: &DirPart, other: &DirPart) -> bool {
    Arc::ptr_eq(&one.place.layer, &other.place.layer) && one.place.ino() == other.place.ino()
}

/// A directory that was found again, with those places that are known: their links follow renames.
fn with_places_of(before: &DirView, now: DirView) -> DirView {
    let known = |part: &DirPart| {
        let same = before.parts(0).find(|(_, other)| is_one(part, other));
        let place = same.map_or(&part.place, |(_, other)| &other.place).clone();
        DirPart { place, ..part.clone() }
    };
    DirView {
        upper: now.upper.as_ref().map(known),
        redirect: now.redirect,
        lowers: now.lowers.iter().map(known).collect(),
    }
}

/// Whether a directory is still the same: it has a part in common with what it was.
pub(super) fn is_same(before: &DirView, now: &DirView) -> bool {
    now.parts(0).any(|(_, part)| before.parts(0).any(|(_, other)| is_one(part, other)))
}

fn depth(inode: &Arc<Inode>) -> usize {
    let (mut depth, mut at) = (0, inode.clone());
    while let Some(parent) =
        at.dir().ok().and_then(|dir| dir.state.read().at.as_ref().map(|(parent, _)| parent.clone()))
    {
        (depth, at) = (depth + 1, parent);
    }
    depth
}
