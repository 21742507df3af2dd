//! Tells the live inodes where they are, when layers have got other places in the stack: in memory alone, whatever the
//! layers have. No request is under way.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::base::Errno;
use crate::inode::{Body, DirBody, Inode, LeafBody};
use crate::layer::{IndexDir, Layer, Place};
use crate::merge::{DirPart, DirView, Stack};
use crate::union::InodeId;
use crate::union::Union;
use crate::union::roots::is_empty;

/// The places of the layers in a new stack.
pub(super) struct Levels(HashMap<*const Layer, usize>);

impl Levels {
    pub fn of(stack: &Stack) -> Self {
        Self(stack.lowers.iter().map(|root| (Arc::as_ptr(&root.place.layer), root.level)).collect())
    }

    fn of_layer(&self, layer: &Arc<Layer>) -> Option<usize> {
        self.0.get(&Arc::as_ptr(layer)).copied()
    }

    /// Whether the stack has this layer.
    pub fn has(&self, layer: &Arc<Layer>) -> bool {
        self.of_layer(layer).is_some()
    }

    /// The parts of a directory that the stack has.
    fn view(&self, view: &DirView) -> DirView {
        let kept = |part: &DirPart| Some(DirPart { level: self.of_layer(&part.place.layer)?, ..part.clone() });
        let lowers = view.parts(0).filter_map(|(_, part)| kept(part)).collect();
        DirView { upper: None, redirect: None, lowers }
    }

    /// The same, where the upper layer is the same.
    pub fn beneath(&self, view: &DirView) -> DirView {
        let lowers = self.view(&DirView { upper: None, redirect: None, lowers: view.lowers.clone() }).lowers;
        DirView { lowers, ..view.clone() }
    }
}

/// What a stack without some layers leaves to be looked at again.
#[derive(Default)]
pub(super) struct Lost {
    /// Directories that had a part in a layer that is gone, with the parts that they had.
    pub dirs: Vec<(Arc<Inode>, DirView)>,
    /// Other objects in layers that are gone.
    pub leaves: Vec<Arc<Inode>>,
}

impl Union {
    /// Whether no object can be in the index.
    pub(super) fn has_empty_index(&self) -> bool {
        let is_empty = |index: &IndexDir| index.dir().open().is_ok_and(|dir| is_empty(dir.as_fd()).unwrap_or(false));
        self.stack.index.as_ref().is_none_or(is_empty)
    }

    /// Whether each held object that is in the index can be found by a name of the upper layer, too.
    ///
    /// # Errors
    /// `EBUSY`
    pub(super) fn check_names(&self) -> crate::base::Result<()> {
        let mut done = Ok(());
        if self.has_empty_index() {
            return done;
        }
        self.table.for_each(&mut |inode| {
            if let Body::Leaf(leaf) = &inode.body
                && leaf.state.lock().index().is_some()
                && upper_name(leaf).is_none()
            {
                done = Err(Errno::EBUSY);
            }
        });
        done
    }

    /// Moves the objects that are in the index to a name of the upper layer.
    pub(super) fn move_out_of_index(&self) {
        if self.has_empty_index() {
            return;
        }
        self.table.for_each(&mut |inode| {
            let Body::Leaf(leaf) = &inode.body else { return };
            let place = if leaf.state.lock().index().is_some() { upper_name(leaf) } else { None };
            if let Some(place) = place {
                let mut state = leaf.state.lock();
                state.set_place(place);
                state.set_index(None);
                state.set_count_from_lower(false);
                state.set_aliased();
            }
        });
    }

    /// Gives the parts of all directories their places in this union's stack; what is gone since `old` is returned.
    pub(super) fn relabel(&self, root: &DirView, old: &Union) -> Lost {
        let levels = Levels::of(&self.stack);
        let frozen = old.upper.as_ref().map_or(std::ptr::null(), |upper| Arc::as_ptr(&upper.root.layer));
        // Objects in layers that went earlier have no names.
        let lost = |layer: &Arc<Layer>| !levels.has(layer);
        let lacks_layers = old.stack.lowers.iter().any(|root| lost(&root.place.layer))
            || old.upper.as_ref().is_some_and(|upper| lost(&upper.root.layer));
        let mut lost = Lost::default();
        self.table.for_each(&mut |inode| match &inode.body {
            Body::Dir(dir) if inode.id == InodeId::ROOT => {
                dir.names.write().forget();
                let old = std::mem::replace(&mut dir.state.write().view, root.clone());
                if old.parts(0).any(|(_, part)| !levels.has(&part.place.layer)) {
                    lost.dirs.push((inode.clone(), old));
                }
            }
            Body::Dir(dir) => lost.dirs.extend(relabel_dir(dir, &levels).map(|old| (inode.clone(), old))),
            Body::Leaf(leaf) => {
                let (is_frozen_now, is_lost) = {
                    let state = leaf.state.lock();
                    let Ok(object) = state.current() else { return };
                    let layer = &object.place.dir.layer;
                    (Arc::as_ptr(layer) == frozen, lacks_layers && !layer.is_upper() && !levels.has(layer))
                };
                if is_frozen_now {
                    // A descriptor that could write to what is frozen now; and what was known of the object below that.
                    leaf.close();
                    inode.may_be_dressed_below();
                }
                if is_lost {
                    lost.leaves.push(inode.clone());
                }
            }
        });
        lost
    }
}

/// Relabels one directory; its parts until then, where one of them is gone.
fn relabel_dir(dir: &DirBody, levels: &Levels) -> Option<DirView> {
    dir.names.write().forget();
    let mut state = dir.state.write();
    let view = levels.view(&state.view);
    let is_less = view.len() < state.view.len();
    let old = std::mem::replace(&mut state.view, view);
    is_less.then_some(old)
}

/// A place in the tree of the upper layer that an object with several names has.
fn upper_name(leaf: &LeafBody) -> Option<Place> {
    let names = leaf.state.lock().names.clone();
    names.iter().find_map(|(parent, name)| {
        let dir = parent.dir().ok()?.live_view().ok()?.upper?.place;
        Some(Place { dir, name: name.clone() })
    })
}
