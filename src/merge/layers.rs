//! All layers of a view, opened to be looked at.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{DirPart, DirView, Found, FoundLeaf, Stack, lookup};
use crate::base::{Errno, Name, Result};
use crate::format::OverrideKey;
use crate::format::mark::Namespace;
use crate::layer::{IndexDir, Layer};
use crate::merge::Answer;
use crate::sys::dirent::read_dir;
use crate::sys::stat::Kind;

/// All layers of a view. Nothing is written through them, and somebody else may change them meanwhile.
#[derive(Debug)]
pub struct Layers {
    /// What lookups need, without the index: a lower file is what its layer has.
    pub(crate) stack: Stack,
    /// The root of the view.
    pub(crate) root: DirView,
    /// The index of copied-up hard links, if the upper layer has one.
    pub(crate) index: Option<IndexDir>,
    /// The work directory of the upper layer.
    pub(crate) work: Option<OwnedFd>,
    /// How many of the topmost layers hold the changes that are meant: the upper one, and commits beneath it.
    pub(crate) changed: usize,
    /// The commits among them, the topmost first.
    pub(crate) commits: Vec<u64>,
}

impl Layers {
    /// The same, with lower hard links that show their copy: as the view has them.
    #[must_use]
    pub fn with_index(mut self) -> Self {
        self.stack.index = self.index.take().or(self.stack.index);
        self
    }

    /// How many hard links of lower files the index has: names of which the upper layer may not have.
    ///
    /// # Errors
    /// What listing the index says.
    pub(crate) fn indexed(&self) -> Result<usize> {
        let Some(index) = self.index.as_ref().or(self.stack.index.as_ref()) else { return Ok(0) };
        let mut count = 0;
        read_dir(index.dir().open()?.as_fd(), &mut |entry| {
            count += usize::from(entry.kind != Some(Kind::Char) && entry.kind != Some(Kind::Dir));
            true
        })?;
        Ok(count)
    }

    /// Whether the marks of the topmost layer are `user.overlay.*`.
    pub(crate) fn has_user_marks(&self) -> bool {
        self.root.top().is_none_or(|part| part.place.layer.namespace == Namespace::User)
    }

    /// Where the first layer of which attributes say the owners of its objects has them.
    pub(crate) fn owners(&self) -> Option<OverrideKey> {
        self.root.parts(0).find_map(|(_, part)| part.place.layer.owners)
    }

    /// The root of what is seen below the changes.
    pub(crate) fn below(&self) -> DirView {
        self.base(&self.root)
    }

    /// Whether the changes are in several layers.
    pub(crate) fn are_several(&self) -> bool {
        self.changed > 1
    }

    /// A directory as it is without the changes.
    pub(crate) fn base(&self, dir: &DirView) -> DirView {
        if !self.are_several() {
            return dir.below();
        }
        let lowers = dir.lowers.iter().filter(|part| part.level >= self.changed).cloned().collect();
        DirView { upper: None, redirect: None, lowers }
    }

    /// The topmost part that a directory has without the changes.
    pub(crate) fn base_part<'d>(&self, dir: &'d DirView) -> Option<&'d DirPart> {
        dir.lowers.iter().find(|part| part.level >= self.changed)
    }

    /// The parts of a directory that hold changes, the topmost first.
    pub(crate) fn sources<'d>(&self, dir: &'d DirView) -> impl Iterator<Item = &'d DirPart> + use<'d> {
        let changed = self.changed;
        dir.parts(0).map(|(_, part)| part).take_while(move |part| part.level < changed)
    }

    /// Whether an object that is seen stands in one of the layers that hold changes.
    pub(crate) fn holds(&self, leaf: &FoundLeaf) -> bool {
        leaf.upper || self.is_changed(&leaf.place.dir.layer)
    }

    /// Whether a layer is a commit that holds changes, or the upper one.
    pub(crate) fn is_changed(&self, layer: &Arc<Layer>) -> bool {
        self.sources(&self.root).any(|root| Arc::ptr_eq(&root.place.layer, layer))
    }

    /// The topmost part of the directory that is seen at a path.
    ///
    /// # Errors
    /// `ENOENT`: there is none; as [`lookup`].
    pub(crate) fn top_part(&self, path: &[u8]) -> Result<DirPart> {
        let mut at = self.root.clone();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            match lookup(&self.stack, &at, &Name::new(name)?)? {
                Answer::Found(Found::Dir(dir)) => at = dir.view,
                _ => return Err(Errno::ENOENT),
            }
        }
        at.top().cloned().ok_or(Errno::ENOENT)
    }

    /// The roots of the lower layers on which the changes stand, the topmost first.
    pub(crate) fn grounds(&self) -> &[DirPart] {
        self.stack.lowers.get(self.changed.saturating_sub(1)..).unwrap_or_default()
    }

    /// What is seen at a path from a root: [`Layers::root`], or [`Layers::below`]. `None`: nothing. The root itself is
    /// no object of a directory; the path must not be empty.
    ///
    /// # Errors
    /// As [`lookup`].
    pub(crate) fn find(&self, root: &DirView, path: &[Name]) -> Result<Option<Found>> {
        let Some((last, dirs)) = path.split_last() else { return Ok(None) };
        let mut at = root.clone();
        for name in dirs {
            match lookup(&self.stack, &at, name)? {
                Answer::Found(Found::Dir(dir)) => at = dir.view,
                _ => return Ok(None),
            }
        }
        match lookup(&self.stack, &at, last)? {
            Answer::Found(found) => Ok(Some(found)),
            Answer::Absent(_) => Ok(None),
        }
    }
}

impl DirView {
    /// The directory as it is without its upper part.
    pub fn below(&self) -> DirView {
        DirView { upper: None, redirect: None, lowers: self.lowers.clone() }
    }
}
