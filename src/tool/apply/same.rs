//! Whether what goes is still what the plan saw, asked right before each step that takes something away.

use std::collections::HashSet;
use std::sync::Arc;

use super::journal::{Step, Was};
use super::plan::names_in;
use super::{At, Outcome, Refusal};
use crate::base::Result;
use crate::layer::DirPlace;
use crate::sys::stat::Stat;
use crate::tool::diff::join;

/// What the steps themselves change the time of, by inode number.
pub(super) struct Touched {
    /// Directories from which something is taken.
    dirs: HashSet<u64>,
    /// Files of which several names go, each with a step.
    files: HashSet<u64>,
    /// All that goes with a step of its own, which compares it.
    own: HashSet<u64>,
}

/// That something has changed below since the plan.
pub(super) fn changed(path: &[u8], reason: &str) -> Refusal {
    let hint = "look at it; plyfs apply --resume --ours goes on all the same";
    Refusal { conflict: true, ..Refusal::new(path, reason, hint) }
}

impl Touched {
    pub fn of(steps: &[Step]) -> Self {
        let (mut dirs, mut files, mut own) = (HashSet::new(), HashSet::new(), HashSet::new());
        for step in steps {
            match step {
                Step::Take { from, .. } => {
                    dirs.insert(*from);
                }
                Step::Put { old: Some(old), .. } | Step::Delete { old, .. } if !own.insert(old.id.1) => {
                    files.insert(old.id.1);
                }
                _ => {}
            }
        }
        Self { dirs, files, own }
    }

    /// Compares what stands there with what stood there; `dir` opens it, if it is a directory.
    ///
    /// # Errors
    /// [`Refusal`], which is a conflict.
    pub fn check(
        &self,
        old: &Was,
        (there, dir): (&Stat, &dyn Fn() -> Result<Arc<DirPlace>>),
        path: &[u8],
    ) -> Outcome<()> {
        if there.ino != old.id.1 {
            return Err(changed(path, "another object came here while changes were applied"));
        }
        let is_same = match there.is_dir() {
            true => self.dirs.contains(&there.ino) || there.ctime <= old.changed,
            false if self.files.contains(&there.ino) => there.mtime == old.mtime,
            false => there.ctime == old.changed,
        };
        if !is_same {
            return Err(changed(path, "it has changed below while changes were applied"));
        }
        if there.is_dir() { self.check_tree(dir().at(path)?, old, path) } else { Ok(()) }
    }

    fn check_tree(&self, top: Arc<DirPlace>, old: &Was, path: &[u8]) -> Outcome<()> {
        let mut todo = vec![(top, path.to_vec())];
        while let Some((dir, path)) = todo.pop() {
            for name in names_in(&dir).at(&path)? {
                let path = join(&path, &name);
                let Some(stat) = dir.stat_on_disk(&name).at(&path)? else { continue };
                if stat.ino == 0 {
                    return Err(Refusal::new(&path, "something is mounted there, in what goes", "unmount that"));
                }
                let is_touched = self.dirs.contains(&stat.ino) || self.own.contains(&stat.ino);
                if !is_touched && stat.ctime > old.changed {
                    return Err(changed(&path, "it lies in what goes, and is new or has changed below"));
                }
                if stat.is_dir() {
                    todo.push((dir.child(&name, stat.ino), path));
                }
            }
        }
        Ok(())
    }
}
