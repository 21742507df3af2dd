//! Mounts below a view. With a name that a step takes away, the kernel would take the mounts below it, too: a session's
//! hidden directory would be seen. So such a step is refused, as rmdir(2) of a mountpoint is.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::returned::is_same;
use crate::base::{Errno, Name, Result};
use crate::inode::{Inode, Key};
use crate::merge::{self, Answer, DirView, Found, Stack};
use crate::sys::mounts;
use crate::sys::stat::Stat;
use crate::union::refusal::{Setup, SetupError};
use crate::union::{InodeId, Union};

impl Union {
    /// The places in the view on which something may be mounted, in any mount namespace that can be seen. Other FUSE file
    /// systems may be among them: which one is this view is not known here.
    pub(super) fn mounts_below(&self) -> Setup<Vec<PathBuf>> {
        // Nobody mounts on a view that is not mounted.
        if self.notices.get().is_none() {
            return Ok(Vec::new());
        }
        mounts::below_fuse()
            .map_err(|errno| SetupError::new("/proc/self/mountinfo", errno.to_string(), "is /proc mounted?"))
    }

    /// Refuses a step that takes away a name on which, or below which, something is mounted. `stack`: the layers after the
    /// step; `root`: the root of the view then.
    pub(super) fn check_mounts(&self, stack: &Stack, root: &DirView, mounts: &[PathBuf]) -> Setup<()> {
        for path in mounts {
            if !self.stays(stack, root, path).unwrap_or(false) {
                let what = PathBuf::from("/").join(path).display().to_string();
                let hint = format!("something is mounted at or below {what} of the view; unmount that first");
                return Err(SetupError::new("mountpoint", format!("{} ({what})", Errno::EBUSY), hint));
            }
        }
        Ok(())
    }

    /// Whether each name of a path leads where it led before.
    fn stays(&self, stack: &Stack, root: &DirView, path: &Path) -> Result<bool> {
        let mut parent = self.table.get(InodeId::ROOT).ok_or(Errno::EIO)?;
        let mut view = root.clone();
        for part in path.components() {
            let Component::Normal(part) = part else { continue };
            let name = Name::new(part.as_bytes())?;
            // The kernel does not know the name: so the mount is on another file system.
            let Some(inode) = self.table.by_name(parent.id, &name) else { return Ok(true) };
            match merge::lookup(stack, &view, &name)? {
                Answer::Found(Found::Dir(found)) if inode.dir().is_ok_and(|dir| is_same(&dir.view(), &found.view)) => {
                    view = found.view;
                }
                Answer::Found(Found::Leaf(found)) => return Ok(is_leaf(&inode, &found.stat)),
                _ => return Ok(false),
            }
            parent = inode;
        }
        Ok(true)
    }
}

fn is_leaf(inode: &Arc<Inode>, stat: &Stat) -> bool {
    inode.leaf().is_ok_and(|leaf| leaf.state.lock().current().is_ok_and(|object| object.key == Key::of(stat)))
}
