//! What is to be done, found by a walk of the upper layer. Nothing is changed.

use std::collections::{HashMap, HashSet};

use super::check::{Rights, born, is_later};
use super::journal::Was;
use super::reach::{Dirs, Id, id};
use super::renames::Told;
use super::since;
use super::{Act, At, Clean, Conflict, DirStep, Item, Old, Outcome, Refusal};
use crate::base::Name;
use crate::layer::{DirPlace, ListedName, NameSink, list_names};
use crate::merge::{Answer, DirView, Found, FoundDir, FoundLeaf, Layers, lookup};
use crate::sys::stat::{Stat, Time};
use crate::tool::Diff;
use crate::tool::change::path_of;
use crate::tool::content::data_of;
use crate::tool::diff::{MOST_PATH, is_gone, join};
use crate::tool::source::{self, Copies};

use std::sync::Arc;

/// What is to be done.
pub struct Plan<'a> {
    pub(super) layers: &'a Layers,
    pub(super) dirs: &'a Dirs,
    pub(super) items: Vec<Item>,
    pub(super) steps: Vec<DirStep>,
    /// What is taken out of the upper layer, each with its unit.
    pub(super) cleans: Vec<(Vec<u8>, Clean)>,
    pub(super) conflicts: Vec<Conflict>,
    /// The paths below the upper layer of directories that stand elsewhere, each with its path in the view.
    pub(super) moved: HashMap<Vec<u8>, Vec<u8>>,
    /// Files of the upper layer whose data is below: unit, path, and the path of the data there.
    pub(super) data: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)>,
    pub(super) rights: Rights,
    /// The lower layer is the machine, which goes on.
    in_use: bool,
    /// What files in commits are copies of.
    copies: Copies,
    /// The latest time of change in each lower directory that goes.
    changed: HashMap<Id, Time>,
    /// Files of whose lower object no sign was found, each with its unit.
    pub(super) lost: Vec<(Vec<u8>, Vec<u8>)>,
    /// The paths that were asked for; none: all.
    pub(super) meant: HashSet<Vec<u8>>,
    /// What is left as it is on both sides.
    pub(super) left_out: HashSet<Vec<u8>>,
}

/// The lower directory that becomes one of the view.
#[derive(Clone)]
pub(super) struct Ground {
    pub place: Arc<DirPlace>,
    /// Its path now.
    pub path: Vec<u8>,
    /// The view shows none of it, as the upper directory is opaque.
    pub hidden: bool,
}

/// A directory of the view that has an upper part.
pub(super) struct Node {
    view: DirView,
    path: Vec<u8>,
    pub ground: Option<Ground>,
    /// The nearest directory at or above that the lower layer has now.
    nearest: Vec<u8>,
    /// The directory at or above that is applied as a whole, or not at all.
    unit: Option<Vec<u8>>,
    /// Since when the upper layer may have covered what is in it: see [`since`].
    pub covers: Option<Time>,
}

impl Node {
    fn unit(&self, path: &[u8]) -> Vec<u8> {
        self.unit.clone().unwrap_or_else(|| path.to_vec())
    }
}

impl<'a> Plan<'a> {
    /// Finds out what must be done so that the lower layer becomes what the view shows. `layers` are those
    /// [with the index](Layers::with_index), `diff` are their changes; `in_use`: as in [`crate::tool::How`].
    ///
    /// # Errors
    /// [`Refusal`]: something cannot be applied.
    pub fn make((layers, dirs): (&'a Layers, &'a Dirs), diff: &Diff, in_use: bool) -> Outcome<Self> {
        if let Some(trouble) = diff.troubles.first() {
            let reason = format!("it cannot be compared: {}", trouble.errno);
            return Err(Refusal { path: trouble.path.clone(), reason, hint: "", conflict: false });
        }
        if layers.grounds().len() != 1 || !layers.stack.data_only.is_empty() {
            let hint = "make one of them by plyfs layer squash, or copy from the mounted view";
            return Err(Refusal::new(b"", "which of several lower layers is to change is not clear", hint));
        }
        if layers.grounds().iter().any(|part| part.place.layer.owners.is_some()) {
            let reason =
                "its owners and modes stand in attributes (xattr_permissions), which are not written to a lower layer";
            return Err(Refusal::new(b"", reason, "mount the upper layer as a further lower one instead"));
        }
        let rights = Rights::new(dirs).at(b"")?;
        let (items, steps, cleans, conflicts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (moved, data, meant, left_out) = (HashMap::new(), Vec::new(), HashSet::new(), HashSet::new());
        let (lost, changed) = (Vec::new(), HashMap::new());
        let copies = if layers.are_several() { Copies::of(layers).at(b"")? } else { Copies::default() };
        let mut plan = Self {
            layers,
            dirs,
            items,
            steps,
            cleans,
            conflicts,
            moved,
            data,
            rights,
            in_use,
            copies,
            changed,
            lost,
            meant,
            left_out,
        };
        plan.scan()?;
        let told = Told::of(diff);
        plan.walk(&told)?;
        plan.other_names()?;
        plan.rename_files(&told);
        plan.clean_commits().at(b"")?;
        Ok(plan)
    }

    /// What stands in the way, in the order of the paths.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.steps.is_empty() && self.cleans.is_empty()
    }

    /// Finds all directories that stand elsewhere. One that was missed would be deleted under its old name.
    fn scan(&mut self) -> Outcome<()> {
        let mut todo = vec![(self.layers.root.clone(), Vec::new(), Some(Vec::new()))];
        while let Some((dir, path, was)) = todo.pop() {
            for (name, _) in self.names(&dir).at(&path)?.iter().filter(|(_, whiteout)| !whiteout) {
                let path = join(&path, name);
                let answer = lookup(&self.layers.stack, &dir, name).at(&path)?;
                let Answer::Found(Found::Dir(child)) = answer else { continue };
                if path.len() > MOST_PATH {
                    return Err(Refusal::errno(&path, crate::base::Errno::ENAMETOOLONG));
                }
                let here = was.as_ref().map(|was| join(was, name));
                let elsewhere = self.lower_path(&child.view, &path, was.as_deref())?;
                let elsewhere = elsewhere.filter(|was| Some(was) != here.as_ref());
                if let Some(was) = &elsewhere {
                    self.moved.insert(was.clone(), path.clone());
                }
                let merged = here.filter(|_| self.layers.base_part(&child.view).is_some());
                todo.push((child.view, path, elsewhere.or(merged)));
            }
        }
        Ok(())
    }

    fn lower_path(&self, dir: &DirView, path: &[u8], within: Option<&[u8]>) -> Outcome<Option<Vec<u8>>> {
        source::lower_path(self.layers, dir, path, within).at(path)
    }

    fn walk(&mut self, told: &Told) -> Outcome<()> {
        let place = self.layers.grounds().first().map(|part| part.place.clone());
        let ground = place.map(|place| Ground { place, path: Vec::new(), hidden: false });
        let view = self.layers.root.clone();
        let covers = self.first_mount().at(b"")?;
        let mut todo = vec![Node { view, path: Vec::new(), ground, nearest: Vec::new(), unit: None, covers }];
        while let Some(node) = todo.pop() {
            if node.path.len() > MOST_PATH {
                return Err(Refusal::errno(&node.path, crate::base::Errno::ENAMETOOLONG));
            }
            self.dir(&node, told, &mut todo)?;
        }
        self.tell_lost();
        self.conflicts.sort_by(|one, two| one.path.cmp(&two.path));
        self.conflicts.dedup_by(|one, two| one.path == two.path);
        Ok(())
    }

    fn dir(&mut self, node: &Node, told: &Told, todo: &mut Vec<Node>) -> Outcome<()> {
        let (mut shown, mut changes) = (HashSet::new(), false);
        for (name, whiteout) in self.names(&node.view).at(&node.path)? {
            let path = join(&node.path, &name);
            if whiteout {
                changes |= self.whiteout(node, &name, &path)?;
                continue;
            }
            match lookup(&self.layers.stack, &node.view, &name).at(&path)? {
                Answer::Found(Found::Dir(dir)) if self.layers.sources(&dir.view).next().is_some() => {
                    changes |= self.found_dir(node, (&name, path), dir, told, todo)?;
                }
                Answer::Found(Found::Leaf(mut leaf)) if self.is_meant(&leaf) => {
                    self.copies.follow(self.layers, &mut leaf).at(&path)?;
                    changes |= self.leaf(node, &name, path, leaf, told)?
                }
                // One layer hides what another one has.
                Answer::Absent(_) if self.layers.are_several() => changes |= self.whiteout(node, &name, &path)?,
                Answer::Found(_) | Answer::Absent(_) => {}
            }
            shown.insert(name);
        }
        if let Some(ground) = node.ground.as_ref().filter(|ground| ground.hidden) {
            let since = since::earlier(self.born_of_dir(&node.view).at(&node.path)?, node.covers);
            for name in names_in(&ground.place).at(&node.path)?.into_iter().filter(|name| !shown.contains(name)) {
                changes |= self.delete(node, &name, since)?;
            }
        }
        if changes && let Some(ground) = &node.ground {
            self.rights.may_change_in(self.dirs, ground).map_err(|why| why.at(&node.path))?;
        }
        Ok(())
    }

    pub(super) fn conflict(&mut self, path: &[u8], unit: Vec<u8>, why: &'static str) {
        self.conflicts.push(Conflict { path: path_of(path), why, unit });
    }

    /// What is written down of a lower object that goes.
    pub(super) fn was(&self, old: &Old) -> Was {
        let changed = self.changed.get(&old.id).copied().unwrap_or(old.stat.ctime);
        Was { id: old.id, changed, mtime: old.stat.mtime }
    }

    /// What the lower layer has under a name now, unless it goes elsewhere first. `to`: the directory that goes there itself.
    fn old(&self, node: &Node, name: &Name) -> Outcome<(Option<Old>, Option<Vec<u8>>)> {
        let Some(ground) = &node.ground else { return Ok((None, None)) };
        let below = join(&ground.path, name);
        if let Some(to) = self.moved.get(&below) {
            return Ok((None, Some(to.clone())));
        }
        let stat = ground.place.stat_on_disk(name).at(&below)?;
        let old = stat.map(|stat| Old { id: id(&stat), stat });
        if let Some(old) = &old {
            self.rights.may_replace(self.dirs, (ground, name), old).map_err(|why| why.at(&join(&node.path, name)))?;
        }
        Ok((old, None))
    }

    fn push(&mut self, node: &Node, path: Vec<u8>, act: Act, (old, needs): (Option<Old>, Option<Vec<u8>>)) {
        let ground = node.ground.as_ref().map_or(&node.nearest, |ground| &ground.path).clone();
        let parent = node.ground.as_ref().map(|ground| ground.place.ino());
        self.items.push(Item { unit: node.unit(&path), path, act, old, ground, needs, parent });
    }

    /// Notes what must be taken out of the upper layer, unless it goes with a directory above.
    fn clean(&mut self, node: &Node, clean: Clean, path: &[u8]) {
        if node.unit.is_none() || matches!(clean, Clean::Index(_) | Clean::Record(_)) {
            self.cleans.push((node.unit(path), clean));
        }
    }

    fn whiteout(&mut self, node: &Node, name: &Name, path: &[u8]) -> Outcome<bool> {
        let since = self.births(&node.view, name).at(path)?;
        self.clean(node, Clean::Name(path.to_vec()), path);
        self.delete(node, name, since::earlier(since, node.covers))
    }

    /// Notes that the lower object under a name goes.
    fn delete(&mut self, node: &Node, name: &Name, since: Option<Time>) -> Outcome<bool> {
        let path = join(&node.path, name);
        let (old, needs) = self.old(node, name)?;
        let Some(found) = old.as_ref().filter(|old| !old.stat.is_whiteout()) else {
            if let Some(needs) = needs {
                // The name has only to be taken out of the upper layer, when the directory is where it is shown.
                self.push(node, path, Act::Nothing, (None, Some(needs)));
                return Ok(true);
            }
            return Ok(false);
        };
        if found.stat.is_dir() {
            let Some(ground) = &node.ground else { return Ok(false) };
            let dir = ground.place.child(name, found.stat.ino);
            let below = join(&ground.path, name);
            self.check_tree(node, (dir, below, path.clone()), since)?;
        } else if is_later(&found.stat, since) {
            self.conflict(&path, node.unit(&path), "it was deleted here, and is new or has changed below");
        }
        self.push(node, path, Act::Delete, (old, needs));
        Ok(true)
    }

    /// Looks for changes in a lower directory that goes.
    fn check_tree(
        &mut self,
        node: &Node,
        first: (Arc<DirPlace>, Vec<u8>, Vec<u8>),
        since: Option<Time>,
    ) -> Outcome<()> {
        let unit = node.unit(&first.2);
        let top = first.0.stat_self().at(&first.2)?;
        let mut changed = top.ctime;
        if is_later(&top, since) {
            self.conflict(&first.2, unit.clone(), "it was deleted here, and is new or has changed below");
        }
        let mut todo = vec![first];
        while let Some((dir, below, path)) = todo.pop() {
            for name in names_in(&dir).at(&path)? {
                let (below, path) = (join(&below, &name), join(&path, &name));
                if self.moved.contains_key(&below) {
                    continue;
                }
                let Some(stat) = dir.stat_on_disk(&name).at(&path)? else { continue };
                if stat.ino == 0 {
                    let hint = "unmount that, or apply other paths";
                    return Err(Refusal::new(&path, "something is mounted there, in what is deleted", hint));
                }
                changed = changed.max(stat.ctime);
                if is_later(&stat, since) {
                    self.conflict(
                        &path,
                        unit.clone(),
                        "it lies in what was deleted here, and is new or has changed below",
                    );
                }
                if stat.is_dir() {
                    let ground = Ground { place: dir.child(&name, stat.ino), path: below.clone(), hidden: false };
                    self.rights.may_change_in(self.dirs, &ground).map_err(|why| why.at(&path))?;
                    todo.push((ground.place, below, path));
                }
            }
        }
        self.changed.insert(id(&top), changed);
        Ok(())
    }

    fn leaf(&mut self, node: &Node, name: &Name, path: Vec<u8>, leaf: FoundLeaf, told: &Told) -> Outcome<bool> {
        if leaf.device {
            let reason = "a character device 0:0 would hide the name in a lower layer";
            return Err(Refusal::new(&path, reason, "remove it, or apply other paths"));
        }
        let since = self.births_of(&leaf, &node.view, name).at(&path)?;
        let unit = node.unit(&path);
        self.clean(node, Clean::Name(path.clone()), &path);
        if let Some(entry) = &leaf.index {
            self.clean(node, Clean::Index(entry.as_bytes().to_vec()), &path);
        }
        if let Some(blocks) = leaf.meta.as_ref().and_then(|meta| meta.blocks.as_ref()) {
            self.clean(node, Clean::Record(blocks.record.as_bytes().to_vec()), &path);
        }
        let data = leaf.meta.as_ref().map(|_| data_of(self.layers, &leaf)).transpose().at(&path)?;
        let data = data.filter(|(place, _)| !self.layers.is_changed(&place.dir.layer));
        if let Some((place, _)) = &data {
            self.data.push((unit.clone(), path.clone(), path_in_layer(&place.dir, &place.name)));
        }
        let (old, needs) = self.old(node, name)?;
        let same_kind = old.as_ref().is_some_and(|old| old.stat.kind() == leaf.stat.kind());
        // Its names stay together.
        let names = leaf.stat.nlink.saturating_sub(u64::from(leaf.index.is_some()));
        if same_kind && needs.is_none() && names < 2 && !told.has(&path) {
            // Nothing of it has changed.
            return Ok(false);
        }
        if data.is_some_and(|(_, stat)| is_later(&stat, since)) {
            self.conflict(&path, unit.clone(), "the lower file that has its data has changed");
        } else if let Some(found) = &old {
            let since = self.since_covered(node, (name, &leaf), since);
            self.check_old(node, (name, &path), found, since)?;
        } else if !told.is_renamed(&path) && self.may_be_lost(node, &leaf, since) {
            self.lost.push((path.clone(), unit));
        }
        // Other names of the lower object are other objects of the view.
        let may = |old: &Old| old.stat.nlink == 1 && self.rights.may_set(&old.stat);
        let alone = names < 2 && old.as_ref().is_some_and(may);
        let in_place = same_kind && alone && needs.is_none() && told.is_one_attribute(&path);
        let act = if in_place { Act::Attribute } else { Act::Leaf };
        self.push(node, path, act(Box::new(leaf)), (old, needs));
        Ok(true)
    }

    /// Notes a conflict about a lower object in whose place another comes.
    fn check_old(&mut self, node: &Node, (name, path): (&Name, &[u8]), old: &Old, since: Option<Time>) -> Outcome<()> {
        if old.stat.is_whiteout() {
            return Ok(());
        }
        if let (true, Some(ground)) = (old.stat.is_dir(), &node.ground) {
            let dir = ground.place.child(name, old.stat.ino);
            return self.check_tree(node, (dir, join(&ground.path, name), path.to_vec()), since);
        }
        if is_later(&old.stat, since) {
            self.conflict(path, node.unit(path), "it was changed here, and is new or has changed below");
        }
        Ok(())
    }

    /// Whether the lower object that a file is a copy of may have been taken away below.
    fn may_be_lost(&self, node: &Node, leaf: &FoundLeaf, since: Option<Time>) -> bool {
        let Some(origin) = &leaf.origin else { return false };
        if self.layers.stack.resolve(origin, true).is_some() {
            return false;
        }
        // Who may not ask for it goes by the directory, in which something has come or gone.
        let changed = || {
            let stat = node.ground.as_ref().and_then(|ground| ground.place.stat_self().ok());
            stat.is_some_and(|stat| since.is_none_or(|since| stat.mtime >= since))
        };
        self.layers.stack.is_gone(origin) || changed()
    }

    fn found_dir(
        &mut self,
        node: &Node,
        (name, path): (&Name, Vec<u8>),
        dir: FoundDir,
        told: &Told,
        todo: &mut Vec<Node>,
    ) -> Outcome<bool> {
        let since = self.born_of_dir(&dir.view).at(&path)?;
        let within = node.ground.as_ref().map(|ground| ground.path.clone());
        let here = within.as_ref().map(|within| join(within, name));
        let was = self.lower_path(&dir.view, &path, within.as_deref())?.filter(|was| Some(was) != here.as_ref());
        let merged = self.layers.base_part(&dir.view).map(|part| part.place.clone());
        let covers = self.covers(node, &dir.view, since).at(&path)?;
        let mut all = told.differs(&path);
        let mut unit = node.unit.clone();
        let (mut changes, mut ground) = (false, None);
        if let Some(place) = merged {
            if self.is_swapped(&dir.view, &place).at(&path)? {
                self.conflict(&path, node.unit(&path), "another directory is below than the one that was changed here");
                // Nothing in it can be applied by itself.
                unit = unit.or_else(|| Some(path.clone()));
            }
            if let Some(was) = was {
                self.moved_dir(node, (name, &path), (&place, &was), since)?;
                (unit, changes) = (unit.or_else(|| Some(path.clone())), true);
                ground = Some(Ground { place, path: was, hidden: false });
            } else if let Some(here) = here {
                self.check_merged(node, (&path, &place), (all, since), &dir)?;
                ground = Some(Ground { place, path: here, hidden: false });
            }
        } else {
            unit = unit.or_else(|| Some(path.clone()));
            let since = since::earlier(since, node.covers);
            if self.is_copy_of_gone(&dir.view).at(&path)? {
                self.conflict(&path, node.unit(&path), "it is a copy of a directory that is gone below");
            }
            let (old, needs) = self.old(node, name)?;
            match (old, &node.ground, here) {
                (Some(old), Some(above), Some(here)) if old.stat.is_dir() => {
                    // Other files are in it now; the directory itself stays.
                    let is_new = || born(&above.place, name).at(&path).map(|born| born.is_none() || born >= since);
                    if is_later(&old.stat, since) && (all || is_new()?) {
                        let why = "it was made or replaced here, and is new or has changed below";
                        self.conflict(&path, node.unit(&path), why);
                    }
                    ground = Some(Ground { place: above.place.child(name, old.stat.ino), path: here, hidden: true });
                }
                (old, ..) => {
                    if let Some(found) = &old {
                        self.check_old(node, (name, &path), found, since)?;
                    }
                    self.push(node, path.clone(), Act::NewDir, (old, needs));
                    (all, changes) = (true, true);
                }
            }
        }
        let clean = if unit.is_some() { Clean::Tree } else { Clean::Dir };
        self.cleans.extend(node.unit.is_none().then(|| (path.clone(), clean(path.clone()))));
        let below = ground.as_ref().map(|ground| ground.place.stat_self()).transpose().at(&path)?;
        let mtimes = (below.map(|stat| stat.mtime), Some(dir.stat.mtime));
        let later = self.in_use && mtimes.0 > mtimes.1;
        let times = mtimes.0 != mtimes.1 || told.has(&path);
        let narrow = ground.as_ref().zip(below).and_then(|(ground, below)| narrowed(ground, &below, &dir.stat));
        let of = unit.clone().unwrap_or_else(|| path.clone());
        self.steps.push(DirStep { path: path.clone(), unit: of, all, times, later, narrow });
        let nearest = node.ground.as_ref().map_or(&node.nearest, |ground| &ground.path).clone();
        todo.push(Node { view: dir.view, path, ground, nearest, unit, covers });
        Ok(changes)
    }

    fn moved_dir(
        &mut self,
        node: &Node,
        (name, path): (&Name, &[u8]),
        (place, was): (&DirPlace, &[u8]),
        since: Option<Time>,
    ) -> Outcome<()> {
        let (old, needs) = self.old(node, name)?;
        if let Some(found) = &old {
            self.check_old(node, (name, path), found, since::earlier(since, node.covers))?;
        }
        let stat = place.stat_self().at(path)?;
        if let Some((above, name)) = place.parent() {
            let way = was.strip_suffix(name.as_bytes()).map_or(&b""[..], |way| way.strip_suffix(b"/").unwrap_or(way));
            let ground = Ground { place: above, path: way.to_vec(), hidden: false };
            let old = Old { id: id(&stat), stat };
            self.rights.may_replace(self.dirs, (&ground, &name), &old).map_err(|why| why.at(path))?;
            self.rights.may_change_in(self.dirs, &ground).map_err(|why| why.at(path))?;
        }
        let act = Act::Moved { was: was.to_vec(), id: id(&stat) };
        self.push(node, path.to_vec(), act, (old, needs));
        Ok(())
    }

    /// Looks for conflicts about a directory that both layers have.
    fn check_merged(
        &mut self,
        node: &Node,
        (path, place): (&[u8], &DirPlace),
        (all, since): (bool, Option<Time>),
        dir: &FoundDir,
    ) -> Outcome<()> {
        let stat = place.stat_self().at(path)?;
        if !is_later(&stat, since) {
            return Ok(());
        }
        if all {
            self.conflict(path, node.unit(path), "it was changed here, and has changed below");
        } else if self.origin_of_dir(&dir.view).at(path)?.is_none() {
            self.conflict(path, node.unit(path), "it was made here, and is new or has changed below");
        }
        Ok(())
    }
}

/// What a lower directory must lose before anything comes to it, if it is to have less than it has.
fn narrowed(ground: &Ground, below: &Stat, above: &Stat) -> Option<(Id, u32, Vec<u8>)> {
    // Who applies must be able to go on.
    let mode = above.mode & 0o7777 | 0o700;
    (below.mode & 0o7777 & !mode != 0).then(|| (id(below), mode, ground.path.clone()))
}

/// The path of an object in its layer.
fn path_in_layer(dir: &DirPlace, name: &Name) -> Vec<u8> {
    let (mut names, mut next) = (vec![name.clone()], dir.parent());
    while let Some((parent, name)) = next {
        next = parent.parent();
        names.push(name);
    }
    names.iter().rev().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
}

/// The names in one directory of the lower layer, its own whiteouts left out.
pub(super) fn names_in(dir: &DirPlace) -> crate::base::Result<Vec<Name>> {
    struct Names(Vec<Name>);
    impl NameSink for Names {
        fn wants(&mut self, _name: &[u8]) -> bool {
            true
        }
        fn take(&mut self, listed: &ListedName<'_>) -> bool {
            self.0.extend(Name::new(listed.name).ok().filter(|_| !listed.whiteout));
            true
        }
    }
    let mut names = Names(Vec::new());
    match list_names(dir, false, &mut names) {
        Err(errno) if is_gone(errno) => Ok(Vec::new()),
        listed => listed.map(|_| names.0),
    }
}
