//! A part of what is to be done: the paths that were asked for, without what is left out.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::reach::{Id, id, is_within, ways};
use super::{Act, Outcome, Plan, Refusal};

const WHOLE: &str = "it can be applied as a whole only: name it";

impl Plan<'_> {
    /// Keeps what is at or below one of `paths`, if there are any, and leaves out what is in conflict, if `theirs`.
    ///
    /// # Errors
    /// [`Refusal`]: what is left cannot be applied without the rest.
    pub fn select(&mut self, paths: &[PathBuf], theirs: bool) -> Outcome<()> {
        let paths: Vec<&[u8]> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
        let left_out: HashSet<Vec<u8>> = match theirs {
            true => self.conflicts.iter().map(|conflict| conflict.unit.clone()).collect(),
            false => HashSet::new(),
        };
        self.check_whole((paths.is_empty() || paths.contains(&&b""[..])) && left_out.is_empty())?;
        (self.meant, self.left_out) = (paths.iter().map(|path| path.to_vec()).collect(), left_out.clone());
        let meant = self.meant.clone();
        let is_meant = |unit: &[u8]| meant.is_empty() || is_in(unit, &meant);
        let is_left_out = |unit: &[u8]| is_in(unit, &left_out);
        let has = |unit: &[u8]| is_meant(unit) && !is_left_out(unit);
        if let Some((unit, path)) = self.cut(&paths) {
            let reason = format!("it lies in {}, which is new, renamed or replaced", unit.escape_ascii());
            return Err(Refusal::new(path, reason, "name that"));
        }
        self.check_needs(&has)?;
        self.check_names(&has)?;
        // A directory whose attributes are not meant still gets its times back, if something in it is applied.
        let within: HashSet<&[u8]> =
            self.items.iter().filter(|item| has(&item.unit)).flat_map(|item| ways(&item.path)).collect();
        let touched = |dir: &[u8]| within.contains(dir);
        let keep: Vec<(bool, bool)> =
            self.steps.iter().map(|step| (has(&step.unit) || touched(&step.path), has(&step.unit))).collect();
        let mut keep = keep.into_iter();
        self.steps.retain_mut(|step| {
            let (stays, whole) = keep.next().unwrap_or_default();
            if stays && !whole && step.all {
                return false;
            }
            step.all &= whole;
            stays
        });
        let ends: HashSet<Vec<u8>> = self.steps.iter().map(|step| step.path.clone()).collect();
        self.cleans.retain(|(unit, clean)| match clean {
            super::Clean::Dir(path) => ends.contains(path),
            _ => has(unit),
        });
        self.conflicts.retain(|conflict| is_meant(&conflict.unit));
        self.items.retain(|item| has(&item.unit));
        Ok(())
    }

    /// Whether the object at a path is applied, as [`Plan::select`] has left it.
    pub fn has(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        (self.meant.is_empty() || is_in(path, &self.meant)) && !is_in(path, &self.left_out)
    }

    /// A path that lies in what can be applied as a whole only.
    fn cut<'p>(&self, paths: &[&'p [u8]]) -> Option<(Vec<u8>, &'p [u8])> {
        let is_tree = |clean: &super::Clean| matches!(clean, super::Clean::Tree(_));
        // What is applied with all that is in it.
        let whole: HashSet<&[u8]> =
            self.cleans.iter().filter(|(_, clean)| is_tree(clean)).map(|(unit, _)| unit.as_slice()).collect();
        let units = self.steps.iter().filter(|step| step.path == step.unit && whole.contains(step.unit.as_slice()));
        let mut cuts = units.filter_map(|step| {
            let inside = |path: &&&[u8]| **path != step.unit.as_slice() && is_within(path, &step.unit);
            paths.iter().find(inside).map(|path| (step.unit.clone(), *path))
        });
        cuts.next()
    }

    /// Nothing may be taken away that the rest of the upper layer leads to.
    fn check_needs(&self, has: &dyn Fn(&[u8]) -> bool) -> Outcome<()> {
        let by_path: HashMap<&[u8], &super::Item> =
            self.items.iter().map(|item| (item.path.as_slice(), item)).collect();
        for item in self.items.iter().filter(|item| has(&item.unit)) {
            if let Some(needs) = item.needs.as_ref().filter(|needs| {
                let of = by_path.get(needs.as_slice());
                of.is_none_or(|other| !has(&other.unit))
            }) {
                let reason = format!("what was there is renamed to {}, which is not applied", needs.escape_ascii());
                return Err(Refusal::new(&item.path, reason, WHOLE));
            }
        }
        let all = self.items.iter().all(|item| has(&item.unit)) && self.cleans.iter().all(|(unit, _)| has(unit));
        if all {
            return Ok(());
        }
        let stays = |item: &&super::Item| !has(&item.unit) && matches!(item.act, Act::Moved { .. });
        let was = |item: &super::Item| match &item.act {
            Act::Moved { was, .. } => was.clone(),
            _ => Vec::new(),
        };
        // What goes, by its path now: a directory that is moved or deleted, with what is in it.
        let goes: HashSet<Vec<u8>> = self
            .items
            .iter()
            .filter(|item| has(&item.unit))
            .filter_map(|item| match &item.act {
                Act::Moved { was, .. } => Some(was.clone()),
                Act::Nothing | Act::Attribute(_) => None,
                Act::Leaf(_) | Act::NewDir | Act::Delete => item.old.as_ref().map(|_| below(item)),
            })
            .collect();
        let is_taken = |(unit, _, data): &&(Vec<u8>, Vec<u8>, Vec<u8>)| !has(unit) && is_in(data, &goes);
        if let Some((_, path, _)) = self.data.iter().find(is_taken) {
            return Err(Refusal::new(path, "it has its data below in what is applied, and is not", WHOLE));
        }
        match self.items.iter().filter(stays).find(|item| is_in(&was(item), &goes)) {
            Some(item) => Err(Refusal::new(&item.path, "it lies below in what is applied, and is not", WHOLE)),
            None => Ok(()),
        }
    }

    /// A file with several names is applied with all of them.
    fn check_names(&self, has: &dyn Fn(&[u8]) -> bool) -> Outcome<()> {
        let mut known: HashMap<Id, (&super::Item, bool)> = HashMap::new();
        for item in &self.items {
            let Act::Leaf(leaf) = &item.act else { continue };
            let (other, with) = *known.entry(id(&leaf.stat)).or_insert((item, has(&item.unit)));
            if with != has(&item.unit) {
                let (with, without) = if with { (other, item) } else { (item, other) };
                let reason = format!("it has another name, {}, which is not applied", without.path.escape_ascii());
                return Err(Refusal::new(&with.path, reason, "name that, too"));
            }
        }
        Ok(())
    }
}

/// Whether a path is one of these, or lies in one.
fn is_in(path: &[u8], dirs: &HashSet<Vec<u8>>) -> bool {
    !dirs.is_empty() && ways(path).any(|way| dirs.contains(way))
}

/// The path that an object has below now.
pub(super) fn below(item: &super::Item) -> Vec<u8> {
    let name = Path::new(std::ffi::OsStr::from_bytes(&item.path)).file_name().unwrap_or_default().as_bytes();
    if item.ground.is_empty() { name.to_vec() } else { [&item.ground, &b"/"[..], name].concat() }
}
