//! Whether somebody has changed a layer while it was read. What the new layer has a link of is one and the same object, and
//! cannot be lost.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::base::{Errno, Result};
use crate::merge::Layers;
use crate::sys::dirent::names;
use crate::sys::path::open_root;
use crate::sys::stat::{Time, stat_fd};
use crate::sys::tree;
use crate::tool::change::path_of;
use crate::tool::diff::join;
use crate::upper::Upper;

/// The coarsest clock of a file system in use (FAT's).
const COARSEST: Duration = Duration::from_secs(2);

/// The time since when nothing must have changed.
#[derive(Debug, Clone, Copy)]
pub struct Meanwhile(Time);

impl Meanwhile {
    /// Begins, when the clock of the file system has gone on: what is changed after this has a later `ctime`. `dir` is a
    /// directory of this process's own.
    ///
    /// # Errors
    /// What opening it, `fchmodat(2)` and `fstat(2)` say.
    pub fn begin(dir: &Path) -> Result<Self> {
        let (dir, begun) = (open_root(dir)?, Instant::now());
        let now = || -> Result<Time> {
            tree::chmod_at(dir.as_fd(), c".", 0o700)?;
            Ok(stat_fd(dir.as_fd())?.ctime)
        };
        let first = now()?;
        while now()? == first && begun.elapsed() < COARSEST {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Self(first))
    }

    /// The first object of the topmost layer that was changed, or came or went, and of which the new layer has no link.
    ///
    /// # Errors
    /// What reading the layers says.
    pub fn changed(self, layers: &Layers, new: &Upper) -> Result<Option<PathBuf>> {
        let old = layers.root.top().ok_or(Errno::EIO)?.place.clone();
        let mut todo = vec![(old, Some(new.root.clone()), Vec::new())];
        while let Some((dir, to, path)) = todo.pop() {
            if dir.stat_self()?.ctime > self.0 {
                return Ok(Some(path_of(&path)));
            }
            for name in names(dir.open()?.as_fd())? {
                let at = join(&path, &name);
                let Some(stat) = dir.stat_on_disk(&name)? else { return Ok(Some(path_of(&at))) };
                let made = to.as_ref().map(|to| to.stat_on_disk(&name)).transpose()?.flatten();
                if stat.is_dir() {
                    let to = to.as_ref().zip(made.filter(|made| made.is_dir()));
                    let to = to.map(|(to, made)| to.child(&name, made.ino));
                    todo.push((dir.child(&name, stat.ino), to, at));
                } else if stat.ctime > self.0 && made.is_none_or(|made| (made.dev, made.ino) != (stat.dev, stat.ino)) {
                    return Ok(Some(path_of(&at)));
                }
            }
        }
        Ok(None)
    }
}
