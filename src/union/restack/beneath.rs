//! The union that goes on over other lower layers: with the same upper layer, and the same live inodes.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Stands;
use super::labels::{Levels, Lost};
use super::layers::Layering;
use super::returned::Notes;
use crate::base::{Errno, Result};
use crate::inode::{Body, InodeId};
use crate::layer::{Layer, index_of};
use crate::merge::{DirPart, DirView};
use crate::union::Union;
use crate::union::indexing::belongings;
use crate::union::joining::Parted;
use crate::union::refusal::{Setup, SetupError};
use crate::upper::IndexError;

fn failed(errno: Errno) -> SetupError {
    SetupError::new("the layers", errno.to_string(), "nothing has changed")
}

impl Union {
    /// Makes the union over other lower layers, which takes the live inodes over. What the kernel must be told of it is
    /// returned. No request is under way.
    ///
    /// # Errors
    /// Why it cannot be done; then nothing has changed.
    pub(super) fn relayer(&self, layering: Layering) -> Setup<(Union, Notes)> {
        let seeds = self.redirected(&layering);
        let upper = self.upper.as_ref().map(|upper| upper.successor(upper.root.clone())).transpose().map_err(failed)?;
        let root = self.root_over(&layering.stack)?;
        let Layering { stack, config, places, common, added, removed, parted, notes, .. } = layering;
        let old = &self.stands;
        let copy = |fd: &std::os::fd::OwnedFd| fd.try_clone().map_err(Errno::from);
        let stands = Stands {
            config,
            frozen: old.frozen.clone(),
            written: old.written.clone(),
            workdir: old.workdir.as_ref().map(copy).transpose().map_err(failed)?,
            own: old.own,
            common,
            locks: old.locks.iter().map(copy).collect::<Result<Vec<_>>>().map_err(failed)?,
            places,
        };
        let mut next = self.next(upper, stack, stands);
        // One that was told when the layer joined before.
        next.notes.extend(notes.into_iter().filter(|note| !self.notes.contains(note)));
        if let Some(removed) = &removed {
            let of_it = format!("lowerdir={} ", removed.place.layer.path.display());
            next.notes.retain(|note| !note.starts_with(&of_it));
            next.rename_lower(removed).map_err(failed)?;
        }
        // From here on nothing fails.
        parted.into_iter().for_each(Parted::keep);
        let own = self.upper().map(|upper| upper.root.layer.dev);
        if let Some((part, system)) = &added {
            if own == Ok(part.place.layer.dev) {
                self.table.upper_has_lower_beside();
            }
            self.table.add_system(system.clone());
        }
        if let Some(dev) = removed.as_ref().map(|part| part.place.layer.dev)
            && next.stack.lowers.iter().all(|part| part.place.layer.dev != dev)
        {
            self.table.drop_system(dev, own == Ok(dev));
        }
        let gone = removed.as_ref().map(|part| &part.place.layer);
        let lost = next.relabel_beneath(&root, gone);
        let is_added = |part: &DirPart| {
            added.as_ref().is_some_and(|(added, _)| Arc::ptr_eq(&added.place.layer, &part.place.layer))
        };
        let told = next.returned(lost, &is_added, seeds);
        Ok((next, told))
    }

    /// Where the upper layer knows the layers below by one that goes, it is to know them by another one: else its index would
    /// be refused by the next mount.
    fn rename_lower(&self, removed: &DirPart) -> Result<()> {
        let (Ok(upper), Some(workdir), true) = (self.upper(), &self.stands.workdir, self.stack.index.is_some()) else {
            return Ok(());
        };
        let key = |namespace: crate::format::mark::Namespace| namespace.key(crate::format::mark::Mark::Origin);
        let root = upper.root.fd()?;
        let known = upper.namespace().map(|own| crate::sys::xattr::get_at(root.as_fd(), c".", key(own))).transpose()?;
        let goes = index_of(&removed.place.layer, removed.place.fd()?.as_fd(), c".")?;
        if goes.is_none() || known.flatten() != goes {
            return Ok(());
        }
        match belongings(upper, workdir.as_fd(), &self.stack, &mut |belongings| belongings.rename_lower()) {
            // The next mount has no index then, and says so.
            Err(IndexError::NoHandles) | Ok(()) => Ok(()),
            Err(IndexError::Failed(errno)) => Err(errno),
            Err(_) => Err(Errno::EIO),
        }
    }

    /// Gives the parts of all directories their places in this union's stack, in which the upper layer is the same; what was in
    /// the layer that is gone is returned.
    fn relabel_beneath(&self, root: &DirView, gone: Option<&Arc<Layer>>) -> Lost {
        let levels = Levels::of(&self.stack);
        let is_gone = |layer: &Arc<Layer>| gone.is_some_and(|gone| Arc::ptr_eq(gone, layer));
        let (mut lost, mut copies) = (Lost::default(), Vec::new());
        self.table.for_each(&mut |inode| match &inode.body {
            Body::Dir(dir) => {
                dir.names.write().forget();
                let mut state = dir.state.write();
                let is_root = inode.id == InodeId::ROOT;
                let view = if is_root { root.clone() } else { levels.beneath(&state.view) };
                let is_less = view.len() < state.view.len();
                let before = std::mem::replace(&mut state.view, view);
                if is_root || is_less {
                    lost.dirs.push((inode.clone(), before));
                }
            }
            Body::Leaf(leaf) if gone.is_some() => {
                let state = leaf.state.lock();
                let is_there = state.current().is_ok_and(|object| is_gone(&object.place.dir.layer));
                let was_there = state.lower().is_some_and(|object| is_gone(&object.place.dir.layer));
                if is_there {
                    lost.leaves.push(inode.clone());
                } else if was_there {
                    copies.push(inode.clone());
                }
            }
            Body::Leaf(_) => {}
        });
        for copy in copies {
            if self.table.drop_lower(&copy) {
                self.forget(copy.id, 1);
            }
        }
        lost
    }
}
