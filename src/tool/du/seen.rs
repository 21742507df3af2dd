//! What the view shows of each layer.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::change::{Trouble, path_of};
use super::super::content::data_of;
use super::super::diff::{is_gone, join};
use crate::base::{Errno, Result};
use crate::layer::{DirPlace, Layer};
use crate::merge::{Answer, CookieKey, DirView, Found, FoundLeaf, Layers, Places, Window, list, lookup};

/// What the view takes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// Owner, mode and times; the bytes are elsewhere.
    Metadata,
    /// The bytes, or the whole.
    Data,
}

/// An object of a layer: the layer, and the inode number in it.
type Object = (*const Layer, u64);

/// The objects that are seen.
#[derive(Default)]
pub(super) struct Seen {
    leaves: HashMap<Object, Use>,
    /// The merged directory that a directory of a layer is a part of.
    dirs: HashMap<Object, Arc<DirView>>,
    /// What could not be looked at.
    pub troubles: Vec<Trouble>,
}

impl Seen {
    /// Walks the view.
    ///
    /// # Errors
    /// What getrandom(2) says.
    pub fn of(layers: &Layers) -> Result<Self> {
        let key = CookieKey::random()?;
        let mut seen = Self::default();
        let mut todo = vec![(layers.root.clone(), Vec::new())];
        while let Some((dir, path)) = todo.pop() {
            let view = Arc::new(dir);
            for (_, part) in view.parts(0) {
                seen.dirs.insert(object(&part.place, part.place.ino()), view.clone());
            }
            if let Err(errno) = seen.names((layers, &key), &view, &path, &mut todo) {
                seen.trouble(&path, errno);
            }
        }
        Ok(seen)
    }

    fn names(
        &mut self,
        (layers, key): (&Layers, &CookieKey),
        dir: &DirView,
        path: &[u8],
        todo: &mut Vec<(DirView, Vec<u8>)>,
    ) -> Result<()> {
        let listing = list(dir, key, &Places::default(), Window::WHOLE)?;
        for (_, name, _) in listing.after(0) {
            let path = join(path, &name);
            let looked = lookup(&layers.stack, dir, &name).and_then(|answer| match answer {
                Answer::Found(Found::Dir(found)) => {
                    todo.push((found.view, path.clone()));
                    Ok(())
                }
                Answer::Found(Found::Leaf(leaf)) => self.leaf(layers, &leaf),
                Answer::Absent(_) => Ok(()),
            });
            if let Err(errno) = looked {
                self.trouble(&path, errno);
            }
        }
        Ok(())
    }

    fn leaf(&mut self, layers: &Layers, leaf: &FoundLeaf) -> Result<()> {
        let has_blocks = leaf.meta.as_ref().is_none_or(|meta| meta.blocks.is_some());
        self.mark(object(&leaf.place.dir, leaf.stat.ino), if has_blocks { Use::Data } else { Use::Metadata });
        if leaf.meta.is_some() {
            let (place, stat) = data_of(layers, leaf)?;
            self.mark(object(&place.dir, stat.ino), Use::Data);
        }
        Ok(())
    }

    fn mark(&mut self, object: Object, what: Use) {
        let known = self.leaves.entry(object).or_insert(what);
        *known = what.max(*known);
    }

    /// What the view takes of an object of a directory's layer; `None`: nothing.
    pub fn get(&self, dir: &Arc<DirPlace>, ino: u64) -> Option<Use> {
        self.leaves.get(&object(dir, ino)).copied()
    }

    /// The merged directory that shows a directory of a layer.
    pub fn view_of(&self, dir: &Arc<DirPlace>) -> Option<&Arc<DirView>> {
        self.dirs.get(&object(dir, dir.ino()))
    }

    fn trouble(&mut self, path: &[u8], errno: Errno) {
        if !is_gone(errno) {
            self.troubles.push(Trouble { path: path_of(path), errno });
        }
    }
}

fn object(dir: &Arc<DirPlace>, ino: u64) -> Object {
    (Arc::as_ptr(&dir.layer), ino)
}
