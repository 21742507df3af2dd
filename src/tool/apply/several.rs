//! Changes in several layers: the upper one and the commits on which it stands are applied as if they were one.

use std::collections::HashSet;
use std::os::fd::AsFd;

use super::check::born;
use super::since;
use super::{Clean, Plan, Refusal};
use crate::base::{Errno, Name, Result};
use crate::layer::read_dir_marks;
use crate::merge::{DirPart, DirView, FoundLeaf};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::Time;
use crate::sys::xattr;
use crate::tool::source;
use crate::upper::children;
use crate::upper::commits::Commits;

impl Plan<'_> {
    /// The names of a directory that the changes have, each with whether it is known to be a whiteout.
    pub(super) fn names(&self, dir: &DirView) -> Result<Vec<(Name, bool)>> {
        source::names(self.layers, dir)
    }

    /// Whether a file is one of the changes: the upper layer has its name, or a commit.
    pub(super) fn is_meant(&self, leaf: &FoundLeaf) -> bool {
        leaf.named || (self.layers.are_several() && self.layers.holds(leaf))
    }

    /// The lowest part of a directory that holds changes, which knows most of what is below.
    fn lowest<'d>(&self, dir: &'d DirView) -> Option<&'d DirPart> {
        self.layers.sources(dir).last()
    }

    /// Since when the layers have something under a name of a directory. `None`: their file system does not tell.
    ///
    /// # Errors
    /// `ENOENT`: they have nothing.
    pub(super) fn births(&self, dir: &DirView, name: &Name) -> Result<Option<Time>> {
        let mut all = Vec::new();
        for part in self.layers.sources(dir) {
            match born(&part.place, name) {
                Err(Errno::ENOENT) => {}
                born => all.push(born?),
            }
        }
        if all.is_empty() { Err(Errno::ENOENT) } else { Ok(earliest(all)) }
    }

    /// Since when the layers have a file, or something that it came in the place of.
    pub(super) fn births_of(&self, leaf: &FoundLeaf, dir: &DirView, name: &Name) -> Result<Option<Time>> {
        let own = born(&leaf.place.dir, &leaf.place.name)?;
        if !self.layers.are_several() {
            return Ok(own);
        }
        Ok(earliest(vec![own, self.births(dir, name)?]))
    }

    /// Since when the layers have a directory.
    pub(super) fn born_of_dir(&self, dir: &DirView) -> Result<Option<Time>> {
        let mut all = Vec::new();
        for part in self.layers.sources(dir) {
            if let Some((parent, name)) = part.place.parent() {
                all.push(born(&parent, &name)?);
            }
        }
        Ok(earliest(all))
    }

    /// A time before the first change: that of the first mount, or of the lowest layer of changes.
    pub(super) fn first_mount(&self) -> Result<Option<Time>> {
        let lowest = self.lowest(&self.layers.root).ok_or(Errno::EINVAL)?;
        since::first_mount(self.dirs, lowest.place.fd()?.as_fd())
    }

    /// Whether a directory is a copy of one that the lower layer does not have any more.
    pub(super) fn is_copy_of_gone(&self, dir: &DirView) -> Result<bool> {
        let Some(part) = self.lowest(dir) else { return Ok(false) };
        let marks = read_dir_marks(&part.place, part.place.fd()?.as_fd(), c".", true)?;
        Ok(marks.redirect.is_some() || (!marks.opaque && self.origin_of_dir(dir)?.is_some()))
    }

    /// The mark of a directory that says that it is a copy.
    pub(super) fn origin_of_dir(&self, dir: &DirView) -> Result<Option<Vec<u8>>> {
        let Some(part) = self.lowest(dir) else { return Ok(None) };
        let key = part.place.layer.namespace.key(crate::format::mark::Mark::Origin);
        xattr::get_at(part.place.fd()?.as_fd(), c".", key)
    }

    /// Whether no part of it can be left out: it stands in commits.
    pub fn is_whole_only(&self) -> bool {
        self.layers.are_several()
    }

    /// Refuses a part of what stands in commits.
    pub(super) fn check_whole(&self, is_whole: bool) -> super::Outcome<()> {
        if is_whole || !self.is_whole_only() {
            return Ok(());
        }
        let reason = "its commits can be applied as a whole only";
        Err(Refusal::new(b"", reason, "leave the paths and --theirs out"))
    }

    /// When all is applied the upper layer is empty, and stands on the lower one. The commits go on which it stood, but for
    /// those on which others stand.
    pub(super) fn clean_commits(&mut self) -> Result<()> {
        if !self.layers.are_several() {
            return Ok(());
        }
        let mut cleans = vec![Clean::Stand];
        let names = |at: std::os::fd::BorrowedFd<'_>, dir: &std::ffi::CStr| -> Result<Vec<Vec<u8>>> {
            match open_beneath(at, dir, OFlags::RDONLY | OFlags::DIRECTORY) {
                Err(Errno::ENOENT) => Ok(Vec::new()),
                dir => Ok(children(dir?.as_fd())?.into_iter().map(|(name, _)| name.into_bytes()).collect()),
            }
        };
        let (upper, work) = (self.dirs.upper.as_fd(), self.dirs.work.as_fd());
        cleans.extend(names(upper, c".")?.into_iter().map(Clean::Tree));
        cleans.extend(names(work, c"index")?.into_iter().map(Clean::Index));
        cleans.extend(names(work, c"work/incompat/plyfs.blocks")?.into_iter().map(Clean::Record));
        cleans.extend(self.free_commits()?.into_iter().map(Clean::Commit));
        self.cleans = cleans.into_iter().map(|clean| (Vec::new(), clean)).collect();
        Ok(())
    }

    /// Those of the commits on which no other one stands that stays.
    fn free_commits(&self) -> Result<Vec<u64>> {
        let Some(upper) = &self.layers.root.upper else { return Ok(Vec::new()) };
        let commits = Commits::open(self.dirs.work.as_fd(), upper.place.layer.namespace)?;
        let own = &self.layers.commits;
        // Of one that cannot be read nobody knows on what it stands.
        let others = commits.numbers()?.into_iter().filter(|number| !own.contains(number));
        let mut needed = HashSet::new();
        for number in others {
            needed.insert(commits.frozen(number)?.stand.on);
        }
        Ok(own.iter().copied().take_while(|number| !needed.contains(number)).collect())
    }
}

/// The first of these times; `None`: one is not known, or there is none.
fn earliest(all: Vec<Option<Time>>) -> Option<Time> {
    all.into_iter().collect::<Option<Vec<_>>>()?.into_iter().min()
}
