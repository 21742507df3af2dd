//! The stack of layers: the roots from which absolute paths start, and where marks may lead.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::DirPart;
use crate::base::config::Verity;
use crate::base::{Errno, Name, Result};
use crate::format::Origin;
use crate::layer::{self, DirId, DirPlace, Handles, IndexDir, Place};
use crate::sys::stat::Stat;

/// All that a lookup needs beside the directory. The role of a layer is its position in the stack.
#[derive(Debug, Default)]
pub struct Stack {
    /// The roots of the ordinary lower layers, the topmost first: the part at `k` has level `k + 1`.
    pub lowers: Arc<[DirPart]>,
    /// The roots of the layers that hold the data of metacopy files only.
    pub data_only: Vec<Arc<DirPlace>>,
    /// The index of copied-up hard links.
    pub index: Option<IndexDir>,
    /// Marks `redirect` are followed; else an object that has one is refused.
    pub follow_redirect: bool,
    /// Marks `metacopy` are followed; else a file that has one is refused.
    pub follow_metacopy: bool,
    /// What is done with the digest in a mark `metacopy`.
    pub verity: Verity,
    /// The directories that a search must not meet on its way down.
    pub traps: Traps,
}

/// The directories that must not be met below the upper layer's root: bind mounts let layers lie in each other in ways
/// that no path shows. (A lower layer does not show an upper or work directory that lies in it:
/// [`crate::layer::Hidden`].)
#[derive(Debug, Default)]
pub struct Traps {
    /// The roots of the lower layers, and the work directory.
    pub upper: Vec<DirId>,
}

impl Stack {
    /// The same stack, in which a lower hard link is what its layer has.
    #[must_use]
    pub fn without_index(&self) -> Self {
        Self {
            lowers: self.lowers.clone(),
            data_only: self.data_only.clone(),
            index: None,
            follow_redirect: self.follow_redirect,
            follow_metacopy: self.follow_metacopy,
            verity: self.verity,
            traps: Traps { upper: self.traps.upper.clone() },
        }
    }

    /// The same stack.
    #[must_use]
    pub fn again(&self) -> Self {
        let index = self.index.as_ref().map(|index| IndexDir::new(index.dir().clone()));
        Self { index, ..self.without_index() }
    }

    /// Refuses a directory of the layer at `level` that must not be there, as the kernel's OverlayFS does.
    ///
    /// # Errors
    /// `ELOOP`
    pub fn check_trap(&self, level: usize, stat: &Stat) -> Result<()> {
        let trap = level == 0 && self.traps.upper.contains(&(stat.dev, stat.ino));
        if trap { Err(Errno::ELOOP) } else { Ok(()) }
    }

    /// The roots of the layers below `level`, the topmost first.
    pub fn below(&self, level: usize) -> impl Iterator<Item = &DirPart> {
        self.lowers.iter().filter(move |root| root.level > level)
    }

    /// The level of the lowest ordinary layer.
    pub fn last(&self) -> usize {
        self.lowers.last().map_or(0, |root| root.level)
    }

    /// The attributes of the lower object that an origin names, if the process may ask for them. It is asked only if
    /// they are `needed`, or if the handle does not tell the object's number.
    pub fn resolve(&self, origin: &Origin, needed: bool) -> Option<Stat> {
        let root = self.home(origin)?;
        match root.layer.handles {
            Handles::Tell if !needed => None,
            Handles::Tell | Handles::Silent => layer::resolve(root, origin).ok(),
            Handles::Plyfs | Handles::Passing => None,
        }
    }

    /// Whether the lower object that an origin names is known to be gone.
    pub fn is_gone(&self, origin: &Origin) -> bool {
        let lost =
            |root: &DirPlace| root.layer.handles == Handles::Tell && layer::resolve(root, origin) == Err(Errno::ESTALE);
        self.home(origin).is_some_and(lost)
    }

    /// Whether a mark `origin` names the root of a lower layer.
    pub fn has_root(&self, mark: &[u8]) -> bool {
        let names = |place: &DirPlace| {
            let named = place.fd().and_then(|fd| layer::index_of(&place.layer, fd.as_fd(), c"."));
            named.is_ok_and(|named| named.as_deref() == Some(mark))
        };
        self.lowers.iter().any(|root| names(&root.place))
    }

    /// Whether an origin names a file system of a layer.
    pub fn knows(&self, origin: &Origin) -> bool {
        self.home(origin).is_some()
    }

    /// A root on the file system that an origin names: the only file system with the origin's UUID. For an origin
    /// without a UUID there must be only one file system.
    fn home(&self, origin: &Origin) -> Option<&DirPlace> {
        let named = |place: &DirPlace| [place.layer.uuid, place.layer.real_uuid].contains(&origin.uuid);
        let places = || self.lowers.iter().map(|root| &*root.place);
        let nameless = origin.is_nameless() && !places().any(named);
        let mut same = places().filter(|place| nameless || named(place));
        let root = same.next()?;
        same.all(|other| other.layer.dev == root.layer.dev).then_some(root)
    }

    /// The regular file at `path` in the topmost data-only layer that has one.
    ///
    /// # Errors
    /// `EIO`: no data-only layer has one.
    pub fn find_data(&self, path: &[Name]) -> Result<(Place, Stat)> {
        let found = self.data_only.iter().find_map(|root| self.beneath(root, path));
        found.ok_or_else(|| {
            log::warn!("no data-only layer has the data of a metacopy file: {path:?}");
            Errno::EIO
        })
    }

    /// Whether a data-only layer has a file at `path`.
    pub fn has_data(&self, path: &[Name]) -> bool {
        self.data_only.iter().any(|root| self.beneath(root, path).is_some())
    }

    /// The regular file at `path` beneath the root of a data-only layer; `None` also if the path cannot be followed.
    fn beneath(&self, root: &Arc<DirPlace>, path: &[Name]) -> Option<(Place, Stat)> {
        let (name, dirs) = path.split_last()?;
        let mut dir = root.clone();
        for component in dirs {
            let stat = dir.stat(component).ok().flatten().filter(Stat::is_dir)?;
            dir = dir.child(component, stat.ino);
        }
        let stat = dir.stat(name).ok().flatten().filter(Stat::is_file)?;
        Some((Place { dir, name: name.clone() }, stat))
    }
}
