//! Extended attributes as users see them: the union's own marks are neither visible nor settable.

use std::ffi::{CStr, CString};

use super::copy_up::{CopyUp, killed};
use super::protect::Change;
use super::resent::or_gone_before;
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Result};
use crate::format::capability::CAPABILITY;
use crate::format::{Naming, acl};
use crate::inode::{Body, Inode, lock_up};
use crate::layer::Layer;
use crate::sys::xattr;
use std::sync::Arc;

const ACL_ACCESS: &CStr = c"system.posix_acl_access";
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";

impl Union {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`
    pub fn getxattr(&self, id: InodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.check_xattrs()?;
        if self.asked_for_acls && self.noacl && is_acl(name) {
            return Err(Errno::ENODATA);
        }
        self.again(|| {
            let inode = self.inode(id)?;
            self.value_of(&inode, name)
        })
    }

    fn value_of(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let layer = layer_of(inode)?;
        let key = match self.stored(name, layer.naming()) {
            // Where owners stand in attributes there are none, which is no error to who asks before each access.
            Err(Errno::EOPNOTSUPP) if is_acl(name) && !self.noacl => return Err(Errno::ENODATA),
            key => key?,
        };
        if self.hides_capability(inode, name)? {
            return Err(Errno::ENODATA);
        }
        if xattr::is_listed(&key) && self.is_bare(inode) {
            return Err(Errno::ENODATA);
        }
        let value = self.at_object(inode, |dir, at| layer.xattr(dir, at, &key)).map_err(|errno| match errno {
            // A directory that another mount covers in its layer has no attributes.
            Errno::EXDEV => Errno::ENODATA,
            errno => errno,
        })?;
        self.owners.value_shown(said(name, &key), value)
    }

    /// The names of all extended attributes that the caller may see, each ended by a NUL.
    ///
    /// # Errors
    /// What `listxattr(2)` says.
    pub fn listxattr(&self, caller: &Caller, id: InodeId) -> Result<Vec<u8>> {
        self.check_xattrs()?;
        self.again(|| {
            let inode = self.inode(id)?;
            if self.is_bare(&inode) {
                return Ok(Vec::new());
            }
            let stored = match self.at_object(&inode, xattr::list_at) {
                Err(Errno::EXDEV) => Vec::new(),
                stored => stored?,
            };
            let naming = self.naming(&inode)?;
            let mut trusted = None;
            let mut list = Vec::new();
            for name in stored.iter().filter_map(|name| naming.from_disk(name)) {
                if name.starts_with(b"trusted.") && !*trusted.get_or_insert_with(|| caller.sees_trusted()) {
                    continue;
                }
                if (self.noacl && is_acl(&name)) || self.lacks_capability(&inode, &name)? {
                    continue;
                }
                list.extend_from_slice(&name);
                list.push(0);
            }
            Ok(list)
        })
    }

    /// Sets an extended attribute; `flags`: `XATTR_CREATE`, `XATTR_REPLACE`.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `EOPNOTSUPP`, `ENOSPC`, `EROFS`; what copy-up says.
    pub fn setxattr(&self, caller: &Caller, id: InodeId, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.check_xattrs()?;
        self.again(|| {
            let done = self.store_xattr(caller, id, name, value, flags);
            // The kernel asks only for the time of change, but the attribute may take a block, which the size on disk
            // shows.
            if self.is_writable() {
                self.attributes_changed(id);
            }
            done
        })
    }

    fn store_xattr(&self, caller: &Caller, id: InodeId, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let upper = self.upper()?;
        let inode = self.inode(id)?;
        let key = self.stored(name, upper.root.layer.naming())?;
        let lower = self.check_flags(&inode, Change::Other)?;
        let mode = if key.as_c_str() == ACL_ACCESS { acl::mode(value) } else { None };
        self.check_closed(&inode, mode)?;
        let old = || self.at_object(&inode, |dir, at| xattr::get_at(dir, at, &key));
        let value = self.owners.value_to_set(said(name, &key), value, old)?;
        // A capability is meant for the data of now, not for data that others may have changed later.
        let how = if self.needs_data(&inode, name) { CopyUp::data(caller) } else { CopyUp::metadata(caller) };
        self.copy_up(&inode, &CopyUp { flags: lower, mode, ..how })?;
        // A background copy of the data puts attributes back as it found them, and must not run meanwhile.
        let _up = matches!(inode.body, Body::Leaf(_)).then(|| lock_up(&inode, &killed(caller.pid))).transpose()?;
        // A request that is sent again may have been done: its flag then no longer fits.
        let flags = if caller.resent { 0 } else { flags };
        self.at_object(&inode, |dir, at| xattr::set_at(dir, at, &key, &value, flags))?;
        self.xattr_changed(&inode, &key);
        if key.as_c_str() == ACL_ACCESS { self.drop_foreign_sgid(caller, &inode) } else { Ok(()) }
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`, `EROFS`; what copy-up says.
    pub fn removexattr(&self, caller: &Caller, id: InodeId, name: &[u8]) -> Result<()> {
        self.check_xattrs()?;
        let done = self.again(|| {
            let upper = self.upper()?;
            let inode = self.inode(id)?;
            let key = self.stored(name, self.naming(&inode)?)?;
            // An attribute that does not exist is no reason to copy the object up.
            self.at_object(&inode, |dir, at| xattr::get_at_raw(dir, at, &key))?;
            let key = self.stored(name, upper.root.layer.naming())?;
            let flags = self.check_flags(&inode, Change::Other)?;
            self.copy_up(&inode, &CopyUp { flags, ..CopyUp::metadata(caller) })?;
            let _up = matches!(inode.body, Body::Leaf(_)).then(|| lock_up(&inode, &killed(caller.pid))).transpose()?;
            self.at_object(&inode, |dir, at| xattr::remove_at(dir, at, &key))?;
            self.xattr_changed(&inode, &key);
            match &inode.body {
                // The same thread sends a write or a change of owner next, which ends more.
                Body::Leaf(leaf) if name == CAPABILITY.to_bytes() => leaf.set_capability_ender(caller.pid),
                _ => {}
            }
            if key.as_c_str() == ACL_ACCESS { self.drop_foreign_sgid(caller, &inode) } else { Ok(()) }
        });
        if done.is_ok() {
            self.attributes_changed(id);
        }
        or_gone_before(caller, Errno::ENODATA, done)
    }

    /// With `noxattrs` the kernel is told once that there are none, and then asks no more.
    fn check_xattrs(&self) -> Result<()> {
        if self.noxattrs { Err(Errno::ENOSYS) } else { Ok(()) }
    }

    /// The name under which a layer stores the attribute `name`.
    fn stored(&self, name: &[u8], naming: Naming) -> Result<CString> {
        if self.noacl && is_acl(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        naming.to_disk(name)
    }

    /// How attributes of an inode's current object are named.
    fn naming(&self, inode: &Inode) -> Result<Naming> {
        Ok(layer_of(inode)?.naming())
    }

    /// Whether an object is known to have no extended attribute. Its lookup has listed them for the marks, and programs
    /// that copy or list files ask for several attributes of each file.
    fn is_bare(&self, inode: &Inode) -> bool {
        let lower_is_seen = || inode.leaf().is_ok_and(|leaf| leaf.state.lock().upper().is_none());
        inode.is_bare_below() && self.layers_stay() && lower_is_seen()
    }

    /// Whether an attribute is a file capability that is not shown: the data is in a layer on a `nosuid` mount, somebody
    /// else may have written the attribute, or the file's copy will have another owner.
    fn hides_capability(&self, inode: &Inode, name: &[u8]) -> Result<bool> {
        let Ok(leaf) = inode.leaf() else { return Ok(false) };
        if name != CAPABILITY.to_bytes() {
            return Ok(false);
        }
        let nosuid = self.is_nosuid(&leaf.state.lock());
        let layer = layer_of(inode)?;
        if self.owners.takes_any() && self.owners.takes(&self.at_leaf(inode, |object| object.place.stat())?) {
            return Ok(true);
        }
        // Each first write asks: a look at the object is due only where users may have written the attribute.
        if nosuid || !layer.has_users_capabilities() {
            return Ok(nosuid);
        }
        self.at_object(inode, |dir, at| layer.hides_capability(dir, at))
    }

    /// Whether an attribute is a file capability of which no value is shown.
    fn lacks_capability(&self, inode: &Inode, name: &[u8]) -> Result<bool> {
        if name != CAPABILITY.to_bytes() {
            return Ok(false);
        }
        match self.value_of(inode, name) {
            Err(Errno::ENODATA) => Ok(true),
            value => value.map(|_| false),
        }
    }

    /// Whether an attribute is a capability of a file whose data others may change.
    fn needs_data(&self, inode: &Inode, name: &[u8]) -> bool {
        let doubtful = || inode.leaf().is_ok_and(|leaf| self.has_doubtful_data(&leaf.state.lock()));
        name == CAPABILITY.to_bytes() && doubtful()
    }

    fn xattr_changed(&self, inode: &Inode, key: &CStr) {
        match &inode.body {
            Body::Dir(dir) if key == ACL_DEFAULT => dir.names.write().default_acl = None,
            Body::Dir(_) => {}
            Body::Leaf(leaf) => leaf.may_have_privileges(),
        }
    }

    /// Ends set-group-id after an ACL was set or removed, of a directory, too, if the caller is neither in the group
    /// nor privileged. The kernel leaves this to the daemon.
    fn drop_foreign_sgid(&self, caller: &Caller, inode: &Arc<Inode>) -> Result<()> {
        if self.has_foreign_sgid(caller, inode)? { self.drop_sgid(inode) } else { Ok(()) }
    }

    /// Whether an object has set-group-id for a group that the caller is not in, and the caller has no `CAP_FSETID`.
    pub(super) fn has_foreign_sgid(&self, caller: &Caller, inode: &Arc<Inode>) -> Result<bool> {
        let stat = self.stat_shown(inode)?;
        let sgid = stat.mode & libc::S_ISGID != 0;
        Ok(sgid && !caller.keeps_sgid() && !self.owners.is_in(caller, stat.gid))
    }

    pub(super) fn drop_sgid(&self, inode: &Arc<Inode>) -> Result<()> {
        self.set_mode(inode, self.stat_shown(inode)?.mode & 0o7777 & !libc::S_ISGID)
    }
}

/// The name by which the value of an attribute is told, where `key` is stored for `name`.
fn said<'a>(name: &[u8], key: &'a CStr) -> &'a CStr {
    if name == CAPABILITY.to_bytes() { CAPABILITY } else { key }
}

/// The layer that an inode's current object is in.
fn layer_of(inode: &Inode) -> Result<Arc<Layer>> {
    match &inode.body {
        Body::Dir(dir) => dir.state.read().view.top().map(|part| part.place.layer.clone()).ok_or(Errno::ESTALE),
        Body::Leaf(leaf) => Ok(leaf.state.lock().current()?.place.dir.layer.clone()),
    }
}

pub(super) fn is_acl(name: &[u8]) -> bool {
    name == ACL_ACCESS.to_bytes() || name == ACL_DEFAULT.to_bytes()
}
