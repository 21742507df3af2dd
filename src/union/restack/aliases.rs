//! Hard links of lower files that were changed: before the upper layer is frozen each of their names gets a link of the copy,
//! as a layer below has no index.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::{Name, Result};
use crate::inode::Inode;
use crate::union::copy_up::keeping_times;
use crate::union::{DirSink, InodeId, Kind, ListedEntry, Union};

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

impl Union {
    /// Looks for the names that lead to a changed hard link by the index only, in the whole view, and gives them links.
    pub(super) fn alias_all_names(&self) -> Result<()> {
        let (mut dirs, mut done) = (vec![InodeId::ROOT], Ok(()));
        while let Some(dir) = dirs.pop() {
            done = done.and_then(|()| self.alias_names_in(dir, &mut dirs));
            self.forget(dir, 1);
        }
        self.names_are_linked.store(done.is_ok(), Relaxed);
        done
    }

    fn alias_names_in(&self, dir: InodeId, dirs: &mut Vec<InodeId>) -> Result<()> {
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
                dirs.push(entry.id);
                continue;
            }
            let done = self.inode(entry.id).and_then(|inode| self.alias_indexed(&parent, &name, &inode));
            self.forget(entry.id, 1);
            done?;
        }
        Ok(())
    }

    fn alias_indexed(&self, parent: &Arc<Inode>, name: &Name, inode: &Arc<Inode>) -> Result<()> {
        let (upper, leaf) = (self.upper()?, inode.leaf()?);
        let links = {
            let state = leaf.state.lock();
            state.index().and(state.unaliased())
        };
        let Some(links) = links else { return Ok(()) };
        self.copy_up_dir(parent)?;
        let mut names = self.changing(parent)?;
        let Some(into) = parent.dir()?.live_view()?.upper else { return Ok(()) };
        if into.place.stat(name)?.is_some() {
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
}
