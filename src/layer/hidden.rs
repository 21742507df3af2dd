//! Directories that a lower layer does not show: the union's own upper and work directory, if they lie in it
//! (`lowerdir=/`). So nothing that the union writes is a part of a lower layer.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::Name;
use crate::sys::stat::{Kind, Stat};

/// A directory's `st_dev` and inode number.
pub type DirId = (u64, u64);

/// A hidden directory, and where it was when the union began.
#[derive(Debug, Clone)]
pub struct HiddenDir {
    /// The `st_dev` of the directory itself.
    pub dev: u64,
    /// Its inode number. A commit puts another directory in the place of the upper one.
    pub ino: Arc<AtomicU64>,
    /// The directory that holds it, and its name there; `None`: it is the root of a mount.
    pub at: Option<(DirId, Name)>,
}

/// The directories that one layer hides, which are none in nearly all layers.
#[derive(Debug, Default, Clone)]
pub struct Hidden(Vec<HiddenDir>);

impl Hidden {
    /// Those of `all` that may lie in a layer whose root is on `dev`. `subvolumes`: directories of one file system may
    /// have several `st_dev`.
    pub fn new(all: &[HiddenDir], dev: u64, subvolumes: bool) -> Self {
        Self(all.iter().filter(|dir| dir.dev == dev || subvolumes).cloned().collect())
    }

    /// Whether an object is a hidden directory, wherever it is by now.
    pub fn is(&self, stat: &Stat) -> bool {
        stat.is_dir() && self.0.iter().any(|dir| (dir.dev, dir.ino.load(Relaxed)) == (stat.dev, stat.ino))
    }

    /// Whether `name` in the directory `parent` is a hidden directory, for a name that another mount covers.
    pub fn is_at(&self, parent: &Stat, name: &Name) -> bool {
        let here = (parent.dev, parent.ino);
        self.0.iter().any(|dir| dir.at.as_ref().is_some_and(|(at, known)| *at == here && known == name))
    }

    /// Whether an entry of the directory with inode number `parent` may be a hidden directory, which only stat(2) can
    /// tell: for a subvolume or the root of a mount the entry has another number.
    pub fn may_be(&self, parent: u64, kind: Option<Kind>, ino: u64) -> bool {
        let may =
            |dir: &HiddenDir| dir.ino.load(Relaxed) == ino || dir.at.as_ref().is_none_or(|(at, _)| at.1 == parent);
        matches!(kind, None | Some(Kind::Dir)) && self.0.iter().any(may)
    }

    /// Takes the hidden directories off the link count of the directory that holds them. On btrfs that count does not
    /// include them.
    pub fn uncount(&self, stat: &mut Stat) {
        if self.0.is_empty() || stat.nlink < 2 {
            return;
        }
        let here = (stat.dev, stat.ino);
        let hidden = self.0.iter().filter(|dir| dir.at.as_ref().is_some_and(|(at, _)| *at == here)).count();
        stat.nlink = stat.nlink.saturating_sub(hidden as u64).max(2);
    }
}
