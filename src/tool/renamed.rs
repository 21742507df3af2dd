//! Tells what was renamed from what was deleted and what is new, once all of an upper layer was looked at.

use std::collections::HashMap;

use std::os::fd::AsFd;

use super::change::{path_of, size_of};
use super::content::data_of;
use super::count::{Count, count};
use super::diff::Walk;
use super::{Change, Diff, Letter, compare};
use crate::base::Result;
use crate::format::{Decoded, Origin};
use crate::layer::origin_of;
use crate::merge::{Found, FoundDir, FoundLeaf};
use crate::sys::stat::Kind;

/// An object of the lower layers whose name is hidden, or is that of an object of another type.
pub(super) struct Gone {
    /// The path that it would have in the view.
    pub path: Vec<u8>,
    /// Its path below the upper layer.
    pub was: Vec<u8>,
    pub found: Found,
    /// What has its name.
    pub now: Option<Now>,
}

/// An object in the place of one of another type.
#[allow(clippy::large_enum_variant)] // Nearly all of them are files.
pub(super) enum Now {
    Dir,
    Leaf(FoundLeaf),
}

impl Now {
    fn kind(&self) -> Kind {
        match self {
            Self::Dir => Kind::Dir,
            Self::Leaf(leaf) => leaf.stat.kind(),
        }
    }

    fn size(&self) -> Option<u64> {
        match self {
            Self::Dir => None,
            Self::Leaf(leaf) => size_of(&leaf.stat),
        }
    }
}

/// An object of the upper layer that is no directory, and under whose name nothing was.
pub(super) struct New {
    pub path: Vec<u8>,
    pub leaf: FoundLeaf,
}

/// A directory that was renamed.
pub(super) struct Dir {
    pub path: Vec<u8>,
    pub was: Vec<u8>,
    pub found: FoundDir,
}

impl Walk<'_> {
    /// The changes, when everything was looked at.
    pub fn finish(mut self) -> Diff {
        for dir in std::mem::take(&mut self.dirs) {
            let path = dir.path.clone();
            self.done(&path, |walk| walk.renamed_dir(dir));
        }
        // Directories that stand elsewhere have a line of their own there.
        let is_moved = |one: &Gone| matches!(one.found, Found::Dir(_)) && self.moved.contains(&one.was);
        let (moved, mut gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.gone).into_iter().partition(is_moved);
        moved.into_iter().for_each(|one| self.in_place_of(one));
        gone.sort_by(|a, b| a.was.cmp(&b.was));
        let mut gone: Vec<Option<Gone>> = gone.into_iter().map(Some).collect();
        let known = Known::new(&self, &gone);
        // In the order of their paths.
        self.new.sort_by(|a, b| b.path.cmp(&a.path));
        while let Some(New { path, leaf }) = self.new.pop() {
            let old = known.find(&self, &leaf, &gone).and_then(|at| gone.get_mut(at)?.take());
            let Some(old) = old else {
                self.change(Letter::Added, &path, None, leaf.stat.kind(), Vec::new());
                self.sized((None, size_of(&leaf.stat)));
                continue;
            };
            if let Found::Leaf(found) = &old.found {
                self.done(&path, |walk| walk.renamed_file(&path, &old.was, (&leaf, found)));
            }
            self.in_place_of(old);
        }
        for one in gone.into_iter().flatten() {
            let path = one.path.clone();
            self.done(&path, |walk| if one.now.is_some() { walk.retyped(one) } else { walk.deleted(one) });
        }
        self.changes.sort_by(|a, b| (&a.path, a.letter).cmp(&(&b.path, b.letter)));
        self.troubles.sort_by(|a, b| a.path.cmp(&b.path));
        Diff { changes: self.changes, troubles: self.troubles }
    }

    /// What has the name of an object that was renamed is new.
    fn in_place_of(&mut self, Gone { path, now, .. }: Gone) {
        match now {
            Some(Now::Leaf(leaf)) => self.new.push(New { path, leaf }),
            Some(Now::Dir) => self.change(Letter::Added, &path, None, Kind::Dir, Vec::new()),
            None => {}
        }
    }

    fn retyped(&mut self, Gone { path, was, found, now }: Gone) -> Result<()> {
        let Some(now) = now else { return Ok(()) };
        let (old_kind, old_size) = match &found {
            Found::Dir(_) => (Kind::Dir, None),
            Found::Leaf(leaf) => (leaf.stat.kind(), size_of(&leaf.stat)),
        };
        let elsewhere = (was != path).then(|| path_of(&was));
        self.change(Letter::Retyped, &path, elsewhere, now.kind(), Vec::new());
        self.sized((old_size, now.size()));
        if let Some(Change { was_kind, .. }) = self.changes.last_mut() {
            *was_kind = Some(old_kind);
        }
        Ok(())
    }

    fn renamed_dir(&mut self, Dir { path, was, found }: Dir) -> Result<()> {
        let (Some(new), Some(old)) = (found.view.top(), self.layers.base_part(&found.view)) else { return Ok(()) };
        let (stat, plain) = match found.lower.filter(|_| !self.layers.are_several()) {
            Some(stat) => (stat, found.plain.1),
            None => (old.place.stat_self()?, false),
        };
        let what = compare::dirs((&new.place, &found.stat, found.plain.0), (&old.place, &stat, plain))?;
        let counted = self.how.counts.then(|| count(self.layers, &found.view, &self.key, false)).transpose()?;
        self.change(Letter::Renamed, &path, Some(path_of(&was)), Kind::Dir, what);
        self.counted(counted.map(|count| count.files));
        Ok(())
    }

    fn renamed_file(&mut self, path: &[u8], was: &[u8], (new, old): (&FoundLeaf, &FoundLeaf)) -> Result<()> {
        let what = compare::leaves(self.layers, new, old)?;
        self.change(Letter::Renamed, path, Some(path_of(was)), new.stat.kind(), what);
        self.sized((size_of(&old.stat), size_of(&new.stat)));
        Ok(())
    }

    fn deleted(&mut self, Gone { path, was, found, .. }: Gone) -> Result<()> {
        let elsewhere = (was != path).then(|| path_of(&was));
        match found {
            Found::Leaf(leaf) => {
                self.change(Letter::Deleted, &path, elsewhere, leaf.stat.kind(), Vec::new());
                self.sized((size_of(&leaf.stat), None));
            }
            Found::Dir(dir) => {
                let counted = self.how.counts.then(|| count(self.layers, &dir.view, &self.key, true)).transpose()?;
                self.change(Letter::Deleted, &path, elsewhere, Kind::Dir, Vec::new());
                self.sized((counted.map(|Count { bytes, .. }| bytes), None));
                self.counted(counted.map(|count| count.files));
            }
        }
        Ok(())
    }

    fn counted(&mut self, files: Option<u64>) {
        if let Some(last) = self.changes.last_mut() {
            last.files = files;
        }
    }
}

/// The type and the bytes of a file handle.
type Handle = (u8, Vec<u8>);

/// What is known of the objects whose names are hidden, each by its index.
#[derive(Default)]
struct Known {
    by_handle: HashMap<Handle, Vec<(Origin, usize)>>,
    /// By `st_dev` and number of the file that has the data.
    by_data: HashMap<(u64, u64), Vec<usize>>,
}

impl Known {
    fn new(walk: &Walk<'_>, gone: &[Option<Gone>]) -> Self {
        let mut known = Self::default();
        // Without a copy that tells where it comes from no handle need be asked for.
        let in_place = gone.iter().flatten().filter_map(|one| match &one.now {
            Some(Now::Leaf(leaf)) => Some(leaf),
            _ => None,
        });
        let all = || walk.new.iter().map(|one| &one.leaf).chain(in_place.clone());
        let (origins, metas) = (all().any(|leaf| leaf.origin.is_some()), all().any(|leaf| leaf.meta.is_some()));
        let leaves = gone.iter().enumerate().filter_map(|(at, one)| match &one.as_ref()?.found {
            Found::Leaf(leaf) => Some((at, leaf)),
            Found::Dir(_) => None,
        });
        for (at, leaf) in leaves {
            if let (true, Some(origin)) = (origins, handle(leaf)) {
                known.by_handle.entry((origin.kind, origin.fid.clone())).or_default().push((origin, at));
            }
            if let (true, Some(id)) = (metas && leaf.stat.is_file(), data_id(walk, leaf)) {
                known.by_data.entry(id).or_default().push(at);
            }
        }
        known
    }

    /// The hidden object of which a new one is a copy.
    fn find(&self, walk: &Walk<'_>, leaf: &FoundLeaf, gone: &[Option<Gone>]) -> Option<usize> {
        let is_left = |at: &usize| match gone.get(*at).and_then(Option::as_ref).map(|one| &one.found) {
            Some(Found::Leaf(old)) => old.stat.kind() == leaf.stat.kind(),
            _ => false,
        };
        let copied = leaf.origin.as_ref().and_then(|origin| {
            let same = self.by_handle.get(&(origin.kind, origin.fid.clone()))?;
            same.iter().filter(|(of, _)| of.agrees_with(origin)).map(|(_, at)| *at).find(is_left)
        });
        let shared = || self.by_data.get(&data_id(walk, leaf)?)?.iter().copied().find(is_left);
        copied.or_else(|| leaf.meta.as_ref().and_then(|_| shared()))
    }
}

/// The file handle of a lower object, as a mark would name it.
fn handle(leaf: &FoundLeaf) -> Option<Origin> {
    let dir = &leaf.place.dir;
    let value = origin_of(&dir.layer, dir.fd().ok()?.as_fd(), leaf.place.name.as_c_str()).ok()??;
    match Origin::decode(&value) {
        Ok(Decoded::Known(origin)) => Some(origin),
        _ => None,
    }
}

/// Which file has the data.
fn data_id(walk: &Walk<'_>, leaf: &FoundLeaf) -> Option<(u64, u64)> {
    data_of(walk.layers, leaf).ok().map(|(_, stat)| (stat.dev, stat.ino))
}
