//! All layers of a view, opened to be looked at.

use std::os::fd::OwnedFd;

use super::{DirView, Found, Stack, lookup};
use crate::base::{Name, Result};
use crate::layer::IndexDir;
use crate::merge::Answer;

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
}

impl Layers {
    /// The same, with lower hard links that show their copy: as the view has them.
    #[must_use]
    pub fn with_index(mut self) -> Self {
        self.stack.index = self.index.take();
        self
    }

    /// The root of what is seen below the upper layer.
    pub(crate) fn below(&self) -> DirView {
        self.root.below()
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
