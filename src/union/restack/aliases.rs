//! Hard links of lower files that were changed: before the upper layer is frozen each of their names gets a link of the copy,
//! as a layer below has no index.
//!
//! The index counts more names than there are links where one of them was never looked up, or is not in the view at all: a
//! lower file may have names beside its layer. Which of the two it is only a walk through the whole view tells.

use std::collections::HashSet;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::base::sync::Mutex;
use crate::base::{Errno, Name, Result};
use crate::inode::{Inode, LeafBody};
use crate::merge::DirPart;
use crate::union::copy_up::keeping_times;
use crate::union::{DirSink, InodeId, Kind, ListedEntry, Union};

/// What is known of the names of copied-up hard links.
#[derive(Default)]
pub(in crate::union) struct Linked {
    /// The entries of the index of which each name in the view has a link. Names that come later have one, too.
    entries: Mutex<HashSet<CString>>,
    /// Walks since the last one in which no directory was renamed.
    disturbed: AtomicU32,
    /// Renames of directories: a walk may pass over what is in them.
    pub(super) moved_dirs: AtomicU64,
}

impl Linked {
    /// Notes that a directory is being renamed. The caller holds `topology`.
    pub fn note_moved_dir(&self) {
        self.moved_dirs.fetch_add(1, SeqCst);
    }
}

/// Walks that directories may disturb by their renames before one is made at which all requests wait.
const WALKS: u32 = 4;

/// The names in one directory.
struct Candidates(Vec<Name>);

impl DirSink for Candidates {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        if !matches!(entry.name, b"." | b"..") {
            self.0.extend(Name::new(entry.name).ok());
        }
        true
    }
}

/// A walk through the view.
struct Walk {
    dirs: Vec<InodeId>,
    /// Names get links; else they are only looked for.
    links: bool,
    /// Names that have no link, where they are only looked for.
    left: u64,
}

impl Union {
    /// Whether some names of changed hard links may have no link.
    pub(super) fn has_unlinked(&self) -> Result<bool> {
        let parted = self.parted()?;
        let linked = self.linked.entries.lock();
        Ok(parted.iter().any(|entry| !linked.contains(entry)))
    }

    /// Whether each name of a changed hard link has a link. No request is under way.
    pub(super) fn are_all_linked(&self) -> Result<bool> {
        if self.has_unlinked()? && self.linked.disturbed.load(Relaxed) >= WALKS {
            let parted = self.parted()?;
            if self.walk(false)? == 0 {
                self.linked.entries.lock().extend(parted);
            }
            self.linked.disturbed.store(0, Relaxed);
        }
        Ok(!self.has_unlinked()?)
    }

    /// Looks for the names that lead to a changed hard link by the index only, in the whole view, and gives them links.
    pub(super) fn alias_all_names(&self) -> Result<()> {
        // What enters the index during the walk may have names where that has been.
        let (parted, moved) = (self.parted()?, self.moved_dirs());
        self.walk(true)?;
        if self.moved_dirs() == moved {
            self.linked.entries.lock().extend(parted);
            self.linked.disturbed.store(0, Relaxed);
        } else {
            self.linked.disturbed.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// How many directories were renamed until now; none is being renamed at this instant.
    pub(super) fn moved_dirs(&self) -> u64 {
        let _topology = self.topology.write();
        self.linked.moved_dirs.load(SeqCst)
    }

    /// Walks through the view; the number of names without a link, where they get none.
    fn walk(&self, links: bool) -> Result<u64> {
        let (mut walk, mut done) = (Walk { dirs: vec![InodeId::ROOT], links, left: 0 }, Ok(()));
        while let Some(dir) = walk.dirs.pop() {
            done = done.and_then(|()| match self.walk_in(dir, &mut walk) {
                // It was removed meanwhile, with all of its names.
                Err(_) if self.inode(dir)?.dir()?.live_view().is_err() => Ok(()),
                done => done,
            });
            self.forget(dir, 1);
        }
        done.map(|()| walk.left)
    }

    fn walk_in(&self, dir: InodeId, walk: &mut Walk) -> Result<()> {
        let parent = self.inode(dir)?;
        let has_lower = parent.dir()?.live_view().is_ok_and(|view| !view.lowers.is_empty());
        if !has_lower {
            return Ok(());
        }
        let mut names = Candidates(Vec::new());
        self.readdir(dir, 0, false, &mut names)?;
        for name in names.0 {
            let Some(entry) = self.lookup(dir, &name)? else { continue };
            if entry.attr.kind == Kind::Dir {
                walk.dirs.push(entry.id);
                continue;
            }
            let done = self.inode(entry.id).and_then(|inode| self.alias_indexed(&parent, &name, &inode, walk));
            self.forget(entry.id, 1);
            done?;
        }
        Ok(())
    }

    fn alias_indexed(&self, parent: &Arc<Inode>, name: &Name, inode: &Arc<Inode>, walk: &mut Walk) -> Result<()> {
        let (upper, leaf) = (self.upper()?, inode.leaf()?);
        let (unaliased, lower) = {
            let state = leaf.state.lock();
            if state.index().is_none() {
                return Ok(());
            }
            (state.unaliased(), state.lower().cloned())
        };
        let has_link = |into: &DirPart| Ok::<_, Errno>(into.place.stat(name)?.is_some());
        let into = parent.dir()?.live_view()?.upper;
        if into.as_ref().map_or(Ok(false), has_link)? {
            return Ok(());
        }
        if !walk.links {
            walk.left += 1;
            return Ok(());
        }
        // Another thread may have given links to some of the names meanwhile, and not to this one.
        let links = match unaliased {
            Some(links) => links,
            None => lower.ok_or(Errno::EBUSY)?.place.stat()?.nlink,
        };
        self.copy_up_dir(parent)?;
        let mut names = self.changing(parent)?;
        let into = parent.dir()?.live_view()?.upper.ok_or(Errno::EBUSY)?;
        // A name that was removed meanwhile has a whiteout.
        if has_link(&into)? {
            return Ok(());
        }
        names.begin();
        keeping_times(&into.place, |_| {
            self.make_impure(upper, parent, &into.place)?;
            self.alias(upper, inode, leaf, &into.place, name, links)
        })?;
        names.raised(&self.cookies, name, inode.kind);
        Ok(())
    }

    /// Takes out of the index what somebody holds and no name of the view leads to, as the files of a layer beneath which
    /// another one was undone. No request is under way, and all names have links.
    ///
    /// # Errors
    /// What the system calls say.
    pub(super) fn take_nameless_from_index(&self) -> Result<()> {
        let mut nameless = Vec::new();
        self.table.for_each(&mut |inode| {
            let is_nameless = |leaf: &LeafBody| {
                let state = leaf.state.lock();
                state.index().is_some() && state.names.is_empty()
            };
            nameless.extend(inode.leaf().is_ok_and(is_nameless).then(|| inode.clone()));
        });
        for inode in nameless {
            let leaf = inode.leaf()?;
            self.note_detached(&inode);
            self.try_leave_index(leaf)?;
        }
        Ok(())
    }
}
