//! Other lower layers below the same upper layer: what is found out, and refused, before a layer joins or goes. Requests are
//! answered meanwhile.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::data::{Level, shown};
use crate::base::config::Config;
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode, Key, LeafState, System};
use crate::layer::{DirId, Layer, Place, read_dir_marks};
use crate::merge::{self, Answer, Data, DirPart, DirView, Found, Stack};
use crate::union::copy_up::CopyUp;
use crate::union::ground::id_of;
use crate::union::joining::{Joining, Parted, Places, find};
use crate::union::refusal::{Setup, SetupError};
use crate::union::roots::Common;
use crate::union::{InodeId, Union};

/// A lower layer that joins a view, or goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerChange {
    /// A layer joins.
    Add {
        /// Its directory, by a path from `/` on.
        dir: PathBuf,
        /// `st_dev` and `st_ino` of that directory for who asks.
        seen: DirId,
        /// Where it joins.
        at: LayerPlace,
    },
    /// A layer goes.
    Remove {
        /// Its directory, as the view names it.
        dir: PathBuf,
    },
}

impl LayerChange {
    /// The directory of the layer.
    pub fn dir(&self) -> &Path {
        let (Self::Add { dir, .. } | Self::Remove { dir }) = self;
        dir
    }
}

/// Where a layer joins the lower layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerPlace {
    /// Above all that were given, below the commits.
    Top,
    /// Below all but those that hold data only.
    Bottom,
    /// Directly below this one, as the view names it.
    Below(PathBuf),
}

/// A change of the layers that is ready to be made.
pub(super) struct Layering {
    pub stack: Stack,
    pub config: Config,
    pub places: Places,
    pub common: Common,
    pub added: Option<(DirPart, System)>,
    pub removed: Option<DirPart>,
    /// The layer that is not the only one any more.
    pub parted: Option<Parted>,
    pub notes: Vec<String>,
    /// The level of the layer that joins or goes, among those before the change where it goes.
    level: usize,
    /// Directories whose parts were seen to lead nowhere else.
    plain: Plain,
    /// What had been done then that may have made or moved a file whose data is below.
    stirred: u64,
    mounts: Vec<PathBuf>,
}

/// Directories, which live as long as the value does.
#[derive(Default)]
struct Plain(HashSet<usize>, Vec<Arc<Inode>>);

impl Plain {
    fn add(&mut self, inode: Arc<Inode>) {
        self.0.insert(Arc::as_ptr(&inode).addr());
        self.1.push(inode);
    }

    fn has(&self, inode: &Arc<Inode>) -> bool {
        self.0.contains(&Arc::as_ptr(inode).addr())
    }
}

/// How often files of a layer that goes are looked for which the kernel still knows, without any of them being forgotten.
const LOOKS: usize = 25;
/// The time between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Attempts after which files whose data is below are looked for while requests wait.
const QUIET_ATTEMPTS: usize = 4;

fn refused<T>(dir: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Setup<T> {
    Err(SetupError::new(dir.display().to_string(), reason, hint))
}

impl Union {
    /// Where the lower layers that were given are.
    pub fn lower_paths(&self) -> &[PathBuf] {
        &self.stands.config.lowers
    }

    /// Finds out what a change of the layers makes of the stack. Nothing has changed yet.
    pub(super) fn plan_layers(&self, change: &LayerChange) -> Setup<Layering> {
        if self.journal.is_some() {
            let reason = "a supervised view keeps its layers while it is mounted";
            return Err(SetupError::new(
                "--supervise",
                reason,
                "mount it with the other layers, or without --supervise",
            ));
        }
        let frozen = self.stands.frozen.len();
        let Some(given) = self.stack.lowers.len().checked_sub(frozen).filter(|given| *given > 0) else {
            let reason = "a commit hides all lower layers: its root is opaque";
            return Err(SetupError::new("workdir/commits", reason, "plyfs undo leads back"));
        };
        let layering = match change {
            LayerChange::Add { dir, seen, at } => self.plan_to_add((dir, *seen), self.index_of(dir, at)?, given)?,
            LayerChange::Remove { dir } => self.plan_to_remove(dir, given)?,
        };
        let dir = change.dir();
        let root = self.root_over(&layering.stack)?;
        self.check_mounts(&layering.stack, &root, &layering.mounts)?;
        let brought = self.check_data(&layering.stack, dir)?;
        self.check_kept(&layering.stack, dir)?;
        let let_go = |which: &dyn Fn(&LeafState) -> bool| match &layering.removed {
            Some(removed) => self.let_go(&removed.place.layer, which, dir),
            None => Ok(()),
        };
        // What stands in the way is told before any data is copied, for which it may be much.
        let_go(&|state| state.upper().is_none())?;
        for path in brought {
            self.bring_up(&path).map_err(|errno| {
                let reason =
                    format!("the data of {} is still in the layers, and cannot be copied: {errno}", shown(&path));
                SetupError::new(dir.display().to_string(), reason, "nothing has changed")
            })?;
        }
        let_go(&|_| true)?;
        Ok(Layering { plain: self.plain_dirs(layering.level), ..layering })
    }

    /// The root of the view over other lower layers.
    pub(super) fn root_over(&self, stack: &Stack) -> Setup<DirView> {
        let root = self.table.get(InodeId::ROOT).and_then(|root| Some(root.dir().ok()?.view()));
        let view = root.ok_or_else(|| SetupError::new("the view", Errno::EIO.to_string(), ""))?;
        Ok(DirView { lowers: stack.lowers.clone(), ..view })
    }

    fn index_of(&self, dir: &Path, at: &LayerPlace) -> Setup<usize> {
        let lowers = &self.stands.config.lowers;
        match at {
            LayerPlace::Top => Ok(0),
            LayerPlace::Bottom => Ok(lowers.len()),
            LayerPlace::Below(other) => match find(lowers, other) {
                Some(at) => Ok(at + 1),
                None => {
                    let reason = format!("no lower layer of the view is {}", other.display());
                    refused(dir, reason, "plyfs status VIEW tells them")
                }
            },
        }
    }

    fn plan_to_add(&self, (dir, seen): (&Path, DirId), at: usize, given: usize) -> Setup<Layering> {
        let (config, frozen) = (&self.stands.config, self.stands.frozen.len());
        let above = at.checked_sub(1).and_then(|above| self.stack.lowers.get(frozen + above));
        if at > given || (at == given && above.is_some_and(is_opaque)) {
            let reason = "it would be hidden: the root of a layer above it is opaque";
            return refused(dir, reason, "plyfs layer add without --bottom puts it on top");
        }
        let known = find(&config.lowers, dir).and_then(|known| self.stack.lowers.get(frozen + known));
        if known.is_some_and(|part| id_of(&part.place) != Ok(seen)) {
            let reason = "the view has another directory as a layer of that path";
            return refused(dir, reason, "plyfs layer remove takes that one out");
        }
        let Joining { part, opaque, place, system, common, notes } = self.open_joining(dir, seen)?;
        if self.stack.index.is_some() && frozen + at == 0 && !part.place.layer.handles.are_lasting() {
            let reason =
                "the index of changed hard links knows the top layer by its file handle, and it has none that lasts";
            return refused(dir, reason, "add it with --bottom or --below DIR");
        }
        if opaque && at < config.lowers.len() {
            return refused(dir, "its root is opaque, and would hide all layers below", "add it with --bottom");
        }
        let parted = self.part_with_folding()?;
        let (mut config, mut places) = (config.clone(), self.stands.places.clone());
        config.lowers.insert(at, dir.to_owned());
        places.lowers.insert(at.min(places.lowers.len()), place);
        let mut lowers = self.stack.lowers.to_vec();
        let level = frozen + at + 1;
        let part = DirPart { level, ..part };
        lowers.insert(frozen + at, part.clone());
        let own = id_of(&part.place).map_err(|errno| failed(dir, errno))?;
        let traps = self.stack.traps.upper.iter().copied().chain([own]).collect();
        let (stack, mounts) = (self.stack_with(lowers, traps), self.mounts_below()?);
        let (added, removed, plain, stirred) = (Some((part, system)), None, Plain::default(), self.stirred());
        Ok(Layering { stack, config, places, common, added, removed, parted, notes, level, plain, stirred, mounts })
    }

    fn plan_to_remove(&self, dir: &Path, given: usize) -> Setup<Layering> {
        let (config, frozen) = (&self.stands.config, self.stands.frozen.len());
        let Some(at) = find(&config.lowers, dir) else { return self.no_such_layer(dir) };
        if config.lowers.len() == 1 {
            return refused(dir, "it is the only lower layer, and a view has at least one", "umount ends the view");
        }
        if given < config.lowers.len() && at + 1 >= given {
            let reason = "its root is opaque, or it lies below such a layer: what that hides is not open";
            return refused(dir, reason, "unmount the view, and mount it with the other layers");
        }
        let mut lowers = self.stack.lowers.to_vec();
        if frozen + at >= lowers.len() {
            return self.no_such_layer(dir);
        }
        let (removed, level) = (lowers.remove(frozen + at), frozen + at + 1);
        let (mut config, mut places) = (config.clone(), self.stands.places.clone());
        config.lowers.remove(at);
        if at < places.lowers.len() {
            places.lowers.remove(at);
        }
        let own = id_of(&removed.place).ok();
        let traps = self.stack.traps.upper.iter().copied().filter(|id| Some(*id) != own).collect();
        let (stack, mounts) = (self.stack_with(lowers, traps), self.mounts_below()?);
        let (added, removed, plain, stirred) = (None, Some(removed), Plain::default(), self.stirred());
        let (common, parted, notes) = (self.stands.common.clone(), None, Vec::new());
        Ok(Layering { stack, config, places, common, added, removed, parted, notes, level, plain, stirred, mounts })
    }

    fn no_such_layer<T>(&self, dir: &Path) -> Setup<T> {
        let config = &self.stands.config;
        let commits = config.upper.as_ref().map(|dirs| dirs.work.join("commits"));
        if config.upper.as_ref().is_some_and(|dirs| dirs.dir == dir) {
            return refused(dir, "it is the upper layer of the view", "plyfs layer remove is for lower layers");
        }
        if commits.is_some_and(|commits| dir.starts_with(commits)) {
            return refused(dir, "it is a commit", "plyfs undo takes it out of the view, and redo puts it back");
        }
        if config.data_only.iter().any(|path| path == dir) {
            return refused(dir, "it holds data only, and goes with a remount", "mount without it");
        }
        refused(dir, "no lower layer of the view is that", "plyfs status VIEW tells them")
    }

    /// The same stack with these lower layers.
    fn stack_with(&self, lowers: Vec<DirPart>, traps: Vec<DirId>) -> Stack {
        let lowers = lowers.into_iter().enumerate().map(|(at, part)| DirPart { level: at + 1, ..part });
        Stack { lowers: lowers.collect(), traps: merge::Traps { upper: traps }, ..self.stack.again() }
    }

    /// Whether what was found out still holds. No request is under way; false: it must be found out anew.
    pub(super) fn still_holds(&self, layering: &Layering, dir: &Path, attempt: usize) -> Setup<bool> {
        if self.stirred() != layering.stirred {
            if attempt < QUIET_ATTEMPTS {
                return Ok(false);
            }
            if !self.check_data(&layering.stack, dir)?.is_empty() {
                return Ok(false);
            }
        }
        self.check_mounts(&layering.stack, &self.root_over(&layering.stack)?, &layering.mounts)?;
        Ok(true)
    }

    /// The files of the upper layer whose data is below, and would be lost or another file's over this stack.
    ///
    /// # Errors
    /// There is such a file in a commit, which cannot get its data.
    fn check_data(&self, stack: &Stack, dir: &Path) -> Setup<Vec<Vec<Name>>> {
        let mut changed = Vec::new();
        if !self.stack.follow_metacopy {
            return Ok(changed);
        }
        let root = self.root_over(&self.stack)?;
        let frozen = self.stands.frozen.len();
        for level in usize::from(root.upper.is_none())..=frozen {
            // As the layers below this one are on their own.
            let from = |stack: &Stack| DirView {
                upper: root.upper.clone().filter(|_| level == 0),
                redirect: None,
                lowers: stack.lowers.iter().skip(level.saturating_sub(1)).cloned().collect(),
            };
            let mut walk = Level { now: &self.stack, then: stack, level, changed: Vec::new() };
            walk.walk(&from(&self.stack), &from(stack)).map_err(|at| not_searched(dir, at))?;
            if level == 0 {
                changed = walk.changed;
            } else if let Some(path) = walk.changed.first() {
                return data_of_a_commit(dir, *self.stands.frozen.get(level - 1).unwrap_or(&0), path);
            }
        }
        Ok(changed)
    }

    /// Looks at the commits on which the view does not stand, but to which undo and redo lead.
    ///
    /// # Errors
    /// One of them has a file whose data is below, and would be lost or another file's over this stack.
    fn check_kept(&self, stack: &Stack, dir: &Path) -> Setup<()> {
        if self.upper().is_err() || !self.stack.follow_metacopy {
            return Ok(());
        }
        let (commits, frozen) = (self.commits()?, &self.stands.frozen);
        for number in commits.numbers().map_err(|errno| failed(dir, errno))? {
            // Nothing leads to one that stands on what is gone.
            let Some(chain) = commits.numbers_beneath(number).ok().filter(|_| !frozen.contains(&number)) else {
                continue;
            };
            let parts = chain.into_iter().map(|number| self.commit_part(number)).collect::<Setup<Vec<_>>>()?;
            let over = |given: &Stack| {
                let given = given.lowers.iter().skip(frozen.len()).cloned();
                self.stack_with(parts.iter().cloned().chain(given).collect(), self.stack.traps.upper.to_vec())
            };
            let root = |stack: &Stack| DirView { upper: None, redirect: None, lowers: stack.lowers.clone() };
            let (now, then) = (over(&self.stack), over(stack));
            let mut walk = Level { now: &now, then: &then, level: 1, changed: Vec::new() };
            walk.walk(&root(&now), &root(&then)).map_err(|at| not_searched(dir, at))?;
            if let Some(path) = walk.changed.first() {
                return data_of_a_commit(dir, number, path);
            }
        }
        Ok(())
    }

    /// Gives a file of the upper layer its data.
    fn bring_up(&self, path: &[Name]) -> Result<()> {
        let mut at = InodeId::ROOT;
        let mut done = Ok(());
        for name in path {
            let found = self.lookup(at, name);
            self.forget(at, 1);
            match found? {
                Some(entry) => at = entry.id,
                // Somebody has removed it since, or renamed it, which will be seen.
                None => return Ok(()),
            }
        }
        if let Ok(inode) = self.inode(at)
            && inode.leaf().is_ok()
        {
            done = self.copy_up(&inode, &CopyUp::unasked());
        }
        self.forget(at, 1);
        done
    }

    /// Makes the kernel forget the files of a layer; `which`: those in this state.
    ///
    /// # Errors
    /// Somebody has one of them open.
    fn let_go(&self, layer: &Arc<Layer>, which: &dyn Fn(&LeafState) -> bool, dir: &Path) -> Setup<()> {
        let mut held = Vec::new();
        self.table.for_each(&mut |inode| {
            if uses(inode, layer, which) {
                held.push(inode.clone());
            }
        });
        held.iter().for_each(|inode| self.move_over(inode, layer));
        let mut looks = 0;
        loop {
            let before = held.len();
            held.retain(|inode| {
                let known = self.table.get(inode.id).is_some_and(|now| Arc::ptr_eq(&now, inode));
                known && uses(inode, layer, which)
            });
            let Some(first) = held.first() else { return Ok(()) };
            looks = if held.len() < before { 0 } else { looks + 1 };
            if looks > LOOKS {
                let path = path_of(first).or_else(|| path_in_layer(first));
                let path = path.unwrap_or_else(|| "one without a name".to_owned());
                let what = if held.len() == 1 { "file of it is" } else { "files of it are" };
                let reason = format!("{}: {} {what} open or mapped: {path}", Errno::EBUSY, held.len());
                return refused(dir, reason, "close them first, or end the programs that have them (fuser -m VIEW)");
            }
            for inode in &held {
                let names = inode.leaf().map(|leaf| leaf.state.lock().names.clone()).unwrap_or_default();
                if let Some(notices) = self.notices.get() {
                    names.iter().for_each(|(parent, name)| notices.name_changed(parent.id, name));
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Gives a file of which another layer has a hard link its place there.
    fn move_over(&self, inode: &Arc<Inode>, layer: &Arc<Layer>) {
        let Ok(leaf) = inode.leaf() else { return };
        let key = |state: &LeafState| {
            let object = state.current().ok().filter(|object| !object.place.is_upper());
            object.filter(|_| state.is_linked() && state.meta().is_none()).map(|object| object.key)
        };
        let (names, Some(own)) = ({
            let state = leaf.state.lock();
            (state.names.clone(), key(&state))
        }) else {
            return;
        };
        let place = names.iter().find_map(|(parent, name)| {
            let view = parent.dir().ok()?.live_view().ok()?;
            let stays = |part: &&DirPart| !Arc::ptr_eq(&part.place.layer, layer);
            let rest = DirView { lowers: view.lowers.iter().filter(stays).cloned().collect(), ..view };
            match merge::lookup(&self.stack, &rest, name) {
                Ok(Answer::Found(Found::Leaf(found))) if Key::of(&found.stat) == own && found.meta.is_none() => {
                    Some(found.place)
                }
                _ => None,
            }
        });
        let mut state = leaf.state.lock();
        // Nobody has changed it meanwhile.
        if let Some(place) = place.filter(|_| key(&state) == Some(own)) {
            state.set_place(place);
            drop(state);
            leaf.close();
        }
    }

    /// All live directories.
    pub(in crate::union) fn live_dirs(&self) -> Vec<Arc<Inode>> {
        let mut dirs = Vec::new();
        self.table.for_each(&mut |inode| {
            if matches!(inode.body, Body::Dir(_)) {
                dirs.push(inode.clone());
            }
        });
        dirs
    }

    /// The live directories none of whose parts above `level` leads elsewhere.
    fn plain_dirs(&self, level: usize) -> Plain {
        let mut plain = Plain::default();
        // The upper layer's mark is known.
        if level > 1 {
            self.live_dirs().into_iter().filter(|dir| !leads(dir, level)).for_each(|dir| plain.add(dir));
        }
        plain
    }

    /// The directories that a mark leads to other parts, and the files of layers whose data is in another one, each as its
    /// parent and its name.
    pub(super) fn redirected(&self, layering: &Layering) -> Vec<(InodeId, Name)> {
        let mut seeds = Vec::new();
        self.table.for_each(&mut |inode| {
            let Ok(leaf) = inode.leaf() else { return };
            let state = leaf.state.lock();
            if state.meta().is_some() && state.upper().is_none() {
                seeds.extend(state.names.iter().map(|(parent, name)| (parent.id, name.clone())));
            }
        });
        for inode in self.live_dirs() {
            let Ok(body) = inode.dir() else { continue };
            let (at, is_led) = {
                let state = body.state.read();
                (state.at.clone().filter(|_| state.removed.is_none()), state.view.redirect.is_some())
            };
            let Some((parent, name)) = at else { continue };
            let may_be_led = layering.level > 1 && !layering.plain.has(&inode);
            if is_led || (may_be_led && leads(&inode, layering.level)) {
                seeds.push((parent.id, name));
            }
        }
        seeds
    }
}

fn failed(dir: &Path, errno: Errno) -> SetupError {
    SetupError::new(dir.display().to_string(), errno.to_string(), "nothing has changed")
}

fn not_searched(dir: &Path, (at, errno): (Vec<Name>, Errno)) -> SetupError {
    let reason = format!("/{} cannot be searched for files whose data is below: {errno}", shown(&at));
    let hint = "nothing has changed; who owns it needs the right to search it (chmod u+x)";
    SetupError::new(dir.display().to_string(), reason, hint)
}

fn data_of_a_commit<T>(dir: &Path, number: u64, path: &[Name]) -> Setup<T> {
    let reason = format!("commit {number} has changed {}, whose data is still in the layers", shown(path));
    refused(dir, reason, "it would be lost")
}

/// Whether a layer's root hides the layers below; in doubt not.
fn is_opaque(root: &DirPart) -> bool {
    merge::root_part(&root.place, root.level, true).is_ok_and(|(_, opaque)| opaque)
}

/// Whether a live file that is in such a state has its object or its data in a layer.
fn uses(inode: &Inode, layer: &Arc<Layer>, which: &dyn Fn(&LeafState) -> bool) -> bool {
    let Body::Leaf(leaf) = &inode.body else { return false };
    let state = leaf.state.lock();
    let is_there = state.current().is_ok_and(|object| Arc::ptr_eq(&object.place.dir.layer, layer));
    let has_data = state.meta().is_some_and(|meta| match &meta.data {
        Data::At(file) => Arc::ptr_eq(&file.place.dir.layer, layer),
        Data::Beneath(_) => false,
    });
    (is_there || has_data) && which(&state)
}

/// Whether a part of a directory above `level`, but for that in the upper layer, leads the search elsewhere; in doubt it does.
fn leads(inode: &Inode, level: usize) -> bool {
    let Ok(view) = inode.dir().map(|dir| dir.view()) else { return false };
    view.lowers.iter().filter(|part| part.level < level).any(|part| {
        let Some((parent, name)) = part.place.parent() else { return false };
        let marks = parent.fd().and_then(|fd| read_dir_marks(&part.place, fd.as_fd(), name.as_c_str(), true));
        marks.map_or(true, |marks| marks.redirect.is_some())
    })
}

/// A path of a file in the view; `None`: it has none.
fn path_of(inode: &Arc<Inode>) -> Option<String> {
    let (mut at, name) = inode.leaf().ok()?.state.lock().names.first().cloned()?;
    let mut path = vec![name];
    while let Some((parent, name)) = at.dir().ok().and_then(|dir| dir.state.read().at.clone()) {
        path.push(name);
        at = parent;
    }
    path.reverse();
    Some(shown(&path))
}

/// Where a file is that has no path in the view: it was deleted, or another layer hides it.
fn path_in_layer(inode: &Arc<Inode>) -> Option<String> {
    let Place { dir: mut at, name } = inode.leaf().ok()?.state.lock().current().ok()?.place.clone();
    let mut path = vec![name];
    while let Some((parent, name)) = at.parent() {
        path.push(name);
        at = parent;
    }
    path.reverse();
    Some(format!("one without a name in the view ({} in the layer)", shown(&path)))
}
