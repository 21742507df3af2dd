//! A further name for an object.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::copy_up::CopyUp;
use super::{Caller, Entry, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode};
use crate::layer::DirPlace;
use crate::merge::{self, Absent, Answer};
use crate::sys::tree;
use crate::upper::{Temp, Upper, WhiteoutStyle};

impl Union {
    /// Gives an object that is no directory another name. The entry counts one lookup.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` for a directory, `EMLINK`, `EROFS`; what copy-up and the system calls say.
    pub fn link(&self, caller: &Caller, id: InodeId, parent: InodeId, name: &Name) -> Result<Entry> {
        let upper = self.upper()?;
        self.check_name(name)?;
        let (inode, parent) = (self.inode(id)?, self.inode(parent)?);
        let Body::Leaf(leaf) = &inode.body else { return Err(Errno::EPERM) };
        self.copy_up(&inode, &CopyUp { len: None, pid: caller.pid })?;
        self.copy_up_dir(&parent)?;
        let body = parent.dir()?;
        let mut names = body.names.write();
        let view = body.live_view()?;
        let absent = match merge::lookup(&view, name)? {
            Answer::Found(_) => return Err(Errno::EEXIST),
            Answer::Absent(absent) => absent,
        };
        let into = &view.upper.as_ref().ok_or(Errno::ESTALE)?.place;
        self.make_impure(upper, &parent, into)?;
        self.link_to(upper, &inode, into, name, absent)?;
        let key = {
            let mut state = leaf.state.lock();
            if let Some(links) = &mut state.nlink {
                *links += 1;
            }
            state.upper.as_ref().ok_or(Errno::ESTALE)?.key
        };
        self.table.add_key(&inode, key);
        self.table.add_name(&inode, &parent, name);
        self.name_is_new(&mut names, name, inode.kind);
        if !inode.acquire() {
            return Err(Errno::ESTALE);
        }
        let attr = self.attr(&inode).inspect_err(|_| self.forget(inode.id, 1))?;
        Ok(Entry { id: inode.id, attr })
    }

    /// Links the inode's upper object to `name`, over a whiteout if one is there.
    fn link_to(&self, upper: &Upper, inode: &Inode, into: &DirPlace, name: &Name, absent: Absent) -> Result<()> {
        let fd = into.fd()?;
        let link = |dir, new: &std::ffi::CStr| self.at_object(inode, |from, old| tree::link_at(from, old, dir, new));
        if absent == Absent::Nowhere || upper.style == WhiteoutStyle::File {
            link(fd.as_fd(), name.as_c_str())?;
            return if absent == Absent::Nowhere { Ok(()) } else { upper.drop_wh_file(fd.as_fd(), name) };
        }
        let temp = Temp::new(upper, inode.kind)?;
        link(upper.work(), temp.name())?;
        temp.publish(fd.as_fd(), name.as_c_str())
    }

    /// Gives a name of a copied-up lower file that is still the lower one its upper object, so that it can be moved.
    /// The caller holds the parent's `names`.
    pub(super) fn materialize(&self, inode: &Arc<Inode>, into: &DirPlace, name: &Name) -> Result<()> {
        let fd = into.fd()?;
        self.at_object(inode, |from, old| tree::link_at(from, old, fd.as_fd(), name.as_c_str()))
    }
}
