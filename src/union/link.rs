//! A further name for an object.

use std::os::fd::AsFd;

use super::change::AbsentName;
use super::copy_up::CopyUp;
use super::protect::Change;
use super::{Attr, Caller, Entry, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode, LeafBody};
use crate::layer::DirPlace;
use crate::merge::Absent;
use crate::sys::tree;
use crate::upper::{Temp, Upper, WhiteoutStyle};

impl Union {
    /// Gives an object that is no directory another name. The entry counts one lookup.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` for a directory, `EMLINK`, `EROFS`; what copy-up and the system calls say.
    pub fn link(&self, caller: &Caller, id: InodeId, parent: InodeId, name: &Name) -> Result<Entry> {
        let made = self.again(|| {
            let upper = self.upper()?;
            self.check_name(name)?;
            self.owners.check_caller(caller)?;
            let (inode, parent) = (self.inode(id)?, self.inode(parent)?);
            let Body::Leaf(leaf) = &inode.body else { return Err(Errno::EPERM) };
            let flags = self.check_flags(&inode, Change::Other)?;
            self.check_flags(&parent, Change::Addition)?;
            self.copy_up(&inode, &CopyUp { flags, seen: true, ..CopyUp::metadata(caller) })?;
            if !self.may_get_names(upper, leaf)? {
                self.copy_up(&inode, &CopyUp::written(caller))?;
            }
            let AbsentName { mut names, into, absent, .. } = self.lock_absent_name(&parent, name)?;
            let into = &into.place;
            let before = self.attr(&inode)?;
            names.begin();
            self.make_impure_for(upper, &inode, &parent, into)?;
            self.count_with_upper(upper, leaf, 1)?;
            self.link_to(upper, &inode, into, name, absent)?;
            let key = {
                let mut state = leaf.state.lock();
                if let Some(links) = state.nlink_mut() {
                    *links = links.saturating_add(1);
                }
                state.upper().ok_or(Errno::ESTALE)?.key
            };
            self.stir();
            self.table.add_key(&inode, key);
            self.table.add_name(&inode, &parent, name, None);
            names.added(&self.cookies, name, inode.kind);
            if !self.table.hold(&inode) {
                return Err(Errno::ESTALE);
            }
            // The link exists now, even if its attributes cannot be read.
            let attr = self.attr(&inode).unwrap_or(Attr { nlink: before.nlink.saturating_add(1), ..before });
            Ok(Entry { id: inode.id, attr })
        });
        let made = self.told_if_failed(id, made);
        self.or_made_before(caller, parent, name, made)
    }

    /// Links the inode's upper object to `name`, over a whiteout if one is there.
    fn link_to(&self, upper: &Upper, inode: &Inode, into: &DirPlace, name: &Name, absent: Absent) -> Result<()> {
        let fd = into.fd()?;
        let link = |dir, new: &std::ffi::CStr| self.at_object(inode, |from, old| tree::link_at(from, old, dir, new));
        if absent == Absent::Nowhere || upper.style == WhiteoutStyle::File {
            link(fd.as_fd(), name.as_c_str())?;
            if absent != Absent::Nowhere {
                upper.drop_wh_file(fd.as_fd(), name);
            }
            return Ok(());
        }
        let temp = Temp::new(upper, inode.kind)?;
        link(upper.work(), temp.name())?;
        temp.publish(fd.as_fd(), name.as_c_str())
    }

    /// Whether a file can get new names. Where its data is in a lower layer its mark must hold an absolute path to the
    /// data.
    fn may_get_names(&self, upper: &Upper, leaf: &LeafBody) -> Result<bool> {
        let at = {
            let state = leaf.state.lock();
            if state.meta().is_none() {
                return Ok(true);
            }
            if state.meta().is_some_and(|meta| meta.blocks.is_some()) {
                return Ok(false);
            }
            state.names.first().cloned()
        };
        match at {
            Some((parent, name)) => self.redirect_file(upper, leaf, &parent, &name, true),
            None => Ok(false),
        }
    }
}
