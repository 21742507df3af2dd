//! Directories of a layer that are no part of what it shows: the union's own upper and work directory, where they lie in
//! it (`lowerdir=/`). They are absent, so that nothing that is written is a part of a lower layer.

use crate::base::Name;
use crate::sys::stat::{Kind, Stat};

/// A directory's `st_dev` with its inode number.
pub type DirId = (u64, u64);

/// A directory that is hidden, and where it was when the union began.
#[derive(Debug, Clone)]
pub struct HiddenDir {
    /// Itself.
    pub id: DirId,
    /// The directory that holds it, and its name there, unless it is the root of a mount.
    pub at: Option<(DirId, Name)>,
}

/// What one layer hides; empty in nearly all.
#[derive(Debug, Default)]
pub struct Hidden(Vec<HiddenDir>);

impl Hidden {
    /// Those of these directories that may be in a layer whose root is on `dev`; `subvolumes`: in one file system there,
    /// directories have different numbers of devices.
    pub fn new(all: &[HiddenDir], dev: u64, subvolumes: bool) -> Self {
        Self(all.iter().filter(|dir| dir.id.0 == dev || subvolumes).cloned().collect())
    }

    /// Whether an object is one of them, wherever it is by now.
    pub fn is(&self, stat: &Stat) -> bool {
        self.0.iter().any(|dir| dir.id == (stat.dev, stat.ino)) && stat.is_dir()
    }

    /// Whether `name` in the directory `parent` is one of them: for what another mount covers.
    pub fn is_at(&self, parent: &Stat, name: &Name) -> bool {
        let here = (parent.dev, parent.ino);
        self.0.iter().any(|dir| dir.at.as_ref().is_some_and(|(at, known)| *at == here && known == name))
    }

    /// Whether an entry of the directory with inode number `parent` must be looked at to know. What a directory says of
    /// the number of a subvolume, or of what is a mount's root elsewhere, is not what stat(2) says.
    pub fn may_be(&self, parent: u64, kind: Option<Kind>, ino: u64) -> bool {
        let may = |dir: &HiddenDir| dir.id.1 == ino || dir.at.as_ref().is_none_or(|(at, _)| at.1 == parent);
        matches!(kind, None | Some(Kind::Dir)) && self.0.iter().any(may)
    }

    /// Takes those that are in a directory off its link count, which counts the directories in it (on btrfs nothing).
    pub fn uncount(&self, stat: &mut Stat) {
        if self.0.is_empty() || stat.nlink < 2 {
            return;
        }
        let here = (stat.dev, stat.ino);
        let hidden = self.0.iter().filter(|dir| dir.at.as_ref().is_some_and(|(at, _)| *at == here)).count();
        stat.nlink = stat.nlink.saturating_sub(hidden as u64).max(2);
    }
}
