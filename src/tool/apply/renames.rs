//! Files whose lower object stood elsewhere, or is gone.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use super::reach::{id, open_dir, split};
use super::select::below;
use super::{Act, Item, Old, Plan};
use crate::format::{Decoded, Origin};
use crate::layer::origin_of;
use crate::merge::FoundLeaf;
use crate::tool::{Diff, Letter, What};

/// What the comparison has told, by path.
pub(super) struct Told {
    what: HashMap<Vec<u8>, Vec<What>>,
    /// Objects that stood elsewhere, each with its path below.
    renamed: HashMap<Vec<u8>, Vec<u8>>,
}

impl Told {
    pub fn of(diff: &Diff) -> Self {
        let bytes = |path: &std::path::Path| path.as_os_str().as_bytes().to_vec();
        let there = diff.changes.iter().filter(|change| change.letter != Letter::Deleted);
        let what = there.clone().map(|change| (bytes(&change.path), change.what.clone())).collect();
        let renamed = there.filter(|change| change.letter == Letter::Renamed);
        let renamed = renamed.filter_map(|change| Some((bytes(&change.path), bytes(change.was.as_ref()?))));
        Self { what, renamed: renamed.collect() }
    }

    pub fn has(&self, path: &[u8]) -> bool {
        self.what.contains_key(path)
    }

    pub fn is_renamed(&self, path: &[u8]) -> bool {
        self.renamed.contains_key(path)
    }

    /// Whether nothing of an object has changed but what one call sets.
    pub fn is_one_attribute(&self, path: &[u8]) -> bool {
        self.what.get(path).is_some_and(|what| matches!(what.as_slice(), [What::Mode(..) | What::Times]))
    }

    /// Whether more than the time of a directory has changed.
    pub fn differs(&self, path: &[u8]) -> bool {
        self.what.get(path).is_some_and(|what| what.iter().any(|what| *what != What::Times))
    }
}

impl Plan<'_> {
    /// Files that were only renamed are renamed below, too.
    pub(super) fn rename_files(&mut self, told: &Told) {
        let by_path: HashMap<Vec<u8>, usize> =
            self.items.iter().enumerate().map(|(at, item)| (below(item), at)).collect();
        for at in 0..self.items.len() {
            let Some(item) = self.items.get(at) else { continue };
            let Act::Leaf(leaf) = &item.act else { continue };
            let unchanged = told.what.get(&item.path).is_some_and(Vec::is_empty) && leaf.stat.nlink < 2;
            let Some(was) = told.renamed.get(&item.path).filter(|_| unchanged) else { continue };
            let Some(from) = by_path.get(was).copied().filter(|from| *from != at) else { continue };
            let (path, kind) = (item.path.clone(), leaf.stat.kind());
            let Some(from) = self.items.get_mut(from).filter(|from| from.needs.is_none()) else { continue };
            let is_it = |old: &&Old| old.stat.kind() == kind && old.stat.nlink == 1;
            let Some(old) = from.old.as_ref().filter(is_it) else { continue };
            let act = Act::Moved { was: was.clone(), id: old.id };
            if matches!(from.act, Act::Delete) {
                from.act = Act::Nothing;
            } else if !matches!(from.act, Act::Leaf(_) | Act::NewDir) {
                continue;
            }
            (from.old, from.needs) = (None, Some(path));
            if let Some(item) = self.items.get_mut(at) {
                item.act = act;
            }
        }
    }

    /// Tells of the files that are copies of what the lower layer does not have any more.
    pub(super) fn tell_lost(&mut self) {
        for (path, unit) in std::mem::take(&mut self.lost) {
            let of = self.items.iter().find(|item| item.path == path);
            let Some(Item { act: Act::Leaf(leaf), .. }) = of else { continue };
            // Another name of it, or the one that it had, leads to an object that is there.
            let is_there = self.items.iter().any(|other| match (&other.act, &other.old) {
                (Act::Leaf(other), Some(old)) if id(&other.stat) == id(&leaf.stat) => {
                    old.stat.kind() == leaf.stat.kind()
                }
                (_, Some(old)) if !old.stat.is_dir() => self.is_origin(leaf, other),
                _ => false,
            });
            if !is_there {
                self.conflict(&path, unit, "it was changed here, and is gone below");
            }
        }
    }

    /// Whether a file is a copy of the lower object in whose place an item comes.
    fn is_origin(&self, leaf: &FoundLeaf, item: &Item) -> bool {
        let Some(root) = self.layers.grounds().first() else { return false };
        let value = || {
            let (_, name) = split(&item.path).ok()??;
            let dir = open_dir(self.dirs.lower.as_fd(), &item.ground).ok()?;
            origin_of(&root.place.layer, dir.as_fd(), name.as_c_str()).ok()?
        };
        match (value().map(|value| Origin::decode(&value)), &leaf.origin) {
            (Some(Ok(Decoded::Known(there))), Some(origin)) => there.agrees_with(origin),
            _ => false,
        }
    }
}
