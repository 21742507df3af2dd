//! Owners: the one place where users and groups of the layers become those of the view, and back
//! (`uidmapping=`, `gidmapping=`, `squash_to_root` and its like).
//!
//! What goes out is translated where [`super::Attr`] is made and where an attribute's value is read. What comes in is
//! translated here when it is to be made, set or compared. Everything between has the ids of the layers: copies, the
//! journal, the tools.
//!
//! An owner that the map does not have is shown as none ([`u32::MAX`]). So the kernel itself treats the object as an
//! idmapped mount does: it shows the overflow id, nobody may open it for writing (`EACCES`), it cannot be removed,
//! renamed, or have attributes set (`EOVERFLOW`, `EPERM` for extended ones), and its set-user-id bit means nothing.

use std::borrow::Cow;
use std::ffi::CStr;

use super::{Caller, SetAttr, strangers};
use crate::base::config::{Config, Shown, XattrPermissions};
use crate::base::{DiskGid, DiskUid, Errno, Result, ViewGid, ViewUid};
use crate::format::acl::{self, Named};
use crate::format::capability::{self, CAPABILITY};
use crate::sys::caller::{may_act_as_others, own_ids};
use crate::sys::process::ids_are_initial;
use crate::sys::stat::Stat;
use crate::upper::Metadata;

/// How the owners of objects are shown, and what the view's ids mean in the layers.
#[derive(Debug)]
pub(super) struct Owners {
    uids: Shown,
    gids: Shown,
    /// User and group of the daemon.
    own: (DiskUid, DiskGid),
    /// Some objects of owners whom the daemon's user namespace does not have are shown as the daemon's.
    lends: bool,
}

impl Owners {
    pub fn new(config: &Config) -> Self {
        let lends = config.xattr_permissions == Some(XattrPermissions::Parents) && !ids_are_initial();
        Self { uids: config.uids.clone(), gids: config.gids.clone(), own: own_ids(), lends }
    }

    /// Owner, group and permission bits that are shown for an object of a layer.
    pub fn shown(&self, stat: &Stat) -> (ViewUid, ViewGid, u32) {
        match self.lends.then(|| strangers::lent_mode(stat, self.own)).flatten() {
            Some(mode) => (self.uid(self.own.0), self.gid(self.own.1), mode),
            None => (self.uid(stat.uid), self.gid(stat.gid), self.mode(stat)),
        }
    }

    /// Refuses another owner or mode (`EPERM`) for an object that is shown as another owner's than it is.
    pub fn check_own(&self, set: &SetAttr, stat: impl FnOnce() -> Result<Stat>) -> Result<()> {
        let changes = self.lends && (set.sets_owner() || set.mode.is_some());
        if changes && strangers::is_lent(&stat()?, self.own) { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn uid(&self, disk: DiskUid) -> ViewUid {
        ViewUid(shown(&self.uids, disk.0).unwrap_or(u32::MAX))
    }

    fn gid(&self, disk: DiskGid) -> ViewGid {
        ViewGid(shown(&self.gids, disk.0).unwrap_or(u32::MAX))
    }

    /// The permission bits that are shown for an object of a layer.
    fn mode(&self, stat: &Stat) -> u32 {
        let hidden = if stat.is_dir() { 0 } else { self.set_ids_without_meaning(stat.uid, stat.gid) };
        stat.mode & 0o7777 & !hidden
    }

    /// Whether a caller is in a group of the layers.
    pub fn is_in(&self, caller: &Caller, group: DiskGid) -> bool {
        caller.is_in(self.gid(group))
    }

    /// Owner and group of what a caller makes.
    ///
    /// # Errors
    /// As [`Owners::ids_of`]; `EPERM` for a group that this process cannot give.
    pub fn of_new(&self, caller: &Caller) -> Result<(DiskUid, DiskGid)> {
        let (uid, gid) = self.ids_of(caller)?;
        // Made in the daemon's group it would be shown in another group than the caller's.
        let is_mapped = matches!(self.gids, Shown::Mapped(_));
        if is_mapped && gid != self.own.1 && !may_act_as_others() { Err(Errno::EPERM) } else { Ok((uid, gid)) }
    }

    /// The ids in the layers of what a caller makes, whether or not this process can give them.
    ///
    /// # Errors
    /// `EOVERFLOW` for a caller whom the map does not have, as in an idmapped mount, unless it is the daemon's own user,
    /// whose layers these are: podman makes files for a container in a view of which its root is no part (`--uidmap`).
    /// They belong to that user in the layer, as do those that it makes there itself.
    pub fn ids_of(&self, caller: &Caller) -> Result<(DiskUid, DiskGid)> {
        let is_own = (caller.uid.0, caller.gid.0) == (self.own.0.0, self.own.1.0);
        let id = |ids: &Shown, id: u32, own: u32| match ids {
            Shown::All(_) => Some(own),
            // Of an owner who is not shown nobody could remove what is made.
            ids => stored(ids, id).or_else(|| shown(ids, own).filter(|_| is_own).map(|_| own)),
        };
        let uid = id(&self.uids, caller.uid.0, self.own.0.0).ok_or(Errno::EOVERFLOW)?;
        let gid = id(&self.gids, caller.gid.0, self.own.1.0).ok_or(Errno::EOVERFLOW)?;
        Ok((DiskUid(uid), DiskGid(gid)))
    }

    /// The daemon's group, where all objects are shown with one group: what is new gets it in any directory.
    pub fn group_of_all(&self) -> Option<DiskGid> {
        matches!(self.gids, Shown::All(_)).then_some(self.own.1)
    }

    /// Refuses a new name to a caller to whom [`Owners::ids_of`] gives no ids (`EOVERFLOW`).
    pub fn check_caller(&self, caller: &Caller) -> Result<()> {
        self.ids_of(caller).map(drop)
    }

    /// The owner and the group that are to be set in the layer. One that all objects are shown with is set already.
    ///
    /// # Errors
    /// `EOVERFLOW` for what the map does not have, as in an idmapped mount; `EPERM` for another one than all objects are
    /// shown with, as on a file system without owners (vfat).
    pub fn to_set(&self, set: &SetAttr) -> Result<(Option<DiskUid>, Option<DiskGid>)> {
        let to_set = |shown: &Shown, id: Option<u32>| match (shown, id) {
            (_, None) => Ok(None),
            (Shown::All(all), Some(id)) if *all == id => Ok(None),
            (Shown::All(_), Some(_)) => Err(Errno::EPERM),
            (shown, Some(id)) => stored(shown, id).ok_or(Errno::EOVERFLOW).map(Some),
        };
        let uid = to_set(&self.uids, set.uid.map(|uid| uid.0))?;
        let gid = to_set(&self.gids, set.gid.map(|gid| gid.0))?;
        Ok((uid.map(DiskUid), gid.map(DiskGid)))
    }

    /// Refuses set-user-id and set-group-id (`EPERM`) for a file whose owner they would not stand for.
    pub fn check_set_ids(&self, mode: u32, stat: &Stat) -> Result<()> {
        let refused = !stat.is_dir() && mode & self.set_ids_without_meaning(stat.uid, stat.gid) != 0;
        if refused { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// As [`Owners::check_set_ids`], for a new file.
    pub fn check_new_set_ids(&self, mode: u32) -> Result<()> {
        if mode & self.set_ids_without_meaning(self.own.0, self.own.1) == 0 { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// The set-user-id and set-group-id bits that are not shown for a file, nor set: where all files are shown with one
    /// owner they would make a program of one user one of another. They stay where layer, view and daemon agree on the
    /// owner.
    fn set_ids_without_meaning(&self, uid: DiskUid, gid: DiskGid) -> u32 {
        let lost = |shown: &Shown, disk: u32, own: u32, bit| match shown {
            Shown::All(all) if (*all, own) != (disk, disk) => bit,
            _ => 0,
        };
        lost(&self.uids, uid.0, self.own.0.0, libc::S_ISUID) | lost(&self.gids, gid.0, self.own.1.0, libc::S_ISGID)
    }

    /// Whether copies can get another owner than they have in their layer.
    pub fn takes_any(&self) -> bool {
        matches!((&self.uids, &self.gids), (Shown::All(_), _) | (_, Shown::All(_)))
    }

    /// Whether an object of this owner and group belongs to the daemon once it is copied up, and did not before.
    pub fn takes(&self, stat: &Stat) -> bool {
        let is_taken = |shown: &Shown, is_own: bool| matches!(shown, Shown::All(_)) && !is_own;
        is_taken(&self.uids, stat.uid == self.own.0) || is_taken(&self.gids, stat.gid == self.own.1)
    }

    /// The metadata of a copy: the owner is that of the layer, or, where all objects are shown with one owner, the
    /// daemon, which may set no other.
    pub fn of_copy(&self, metadata: Metadata) -> Metadata {
        let uid = matches!(self.uids, Shown::All(_)).then_some(self.own.0);
        metadata.given_to(uid, self.group_of_all())
    }

    /// Whether the values of attributes can differ between layers and view.
    fn changes(&self) -> bool {
        (&self.uids, &self.gids) != (&Shown::Same, &Shown::Same)
    }

    /// The value of an extended attribute as the view shows it. Entries of an ACL for what the view does not have are left
    /// out: the kernel takes none without an id, and nobody in the view is whom they speak of.
    ///
    /// # Errors
    /// `ENODATA` for a capability whose root user the map does not have.
    pub fn value_shown(&self, key: &CStr, value: Vec<u8>) -> Result<Vec<u8>> {
        if !self.changes() {
            return Ok(value);
        }
        if super::xattr::is_acl(key.to_bytes()) {
            let value = acl::without(&value, &|named| self.is_everybody(named));
            return Ok(acl::translated(&value, |named| self.named_shown(named)));
        }
        match &self.uids {
            Shown::Mapped(map) if key == CAPABILITY => {
                capability::translated(&value, |root| map.view_of(root)).ok_or(Errno::ENODATA)
            }
            _ => Ok(value),
        }
    }

    /// The value of an extended attribute that is to be set in the layer. `old`: reads the value that is there.
    ///
    /// # Errors
    /// `EINVAL` for ids that the map does not have, as in a user namespace, and for an ACL with names instead of one that
    /// names users or groups who are not shown, and would lose them.
    pub fn value_to_set<'a>(
        &self,
        key: &CStr,
        value: &'a [u8],
        old: impl FnOnce() -> Result<Option<Vec<u8>>>,
    ) -> Result<Cow<'a, [u8]>> {
        if !self.changes() {
            return Ok(value.into());
        }
        if super::xattr::is_acl(key.to_bytes()) {
            let stored = |named| match named {
                Named::User(id) => stored(&self.uids, id),
                Named::Group(id) => stored(&self.gids, id),
            };
            let is_unknown = acl::named(value).any(|named| stored(named).is_none());
            let has_names = acl::named(value).next().is_some();
            let loses = |old: Vec<u8>| acl::named(&old).any(|named| self.named_shown(named).is_none());
            if is_unknown || (has_names && old()?.is_some_and(loses)) {
                return Err(Errno::EINVAL);
            }
            return Ok(acl::translated(value, stored).into());
        }
        match &self.uids {
            Shown::Mapped(map) if key == CAPABILITY => {
                capability::translated(value, |root| map.disk_of(root)).map(Cow::from).ok_or(Errno::EINVAL)
            }
            _ => Ok(value.into()),
        }
    }

    /// Whether an entry of an ACL is for users or groups who are all shown as one.
    fn is_everybody(&self, named: Named) -> bool {
        matches!(
            (named, &self.uids, &self.gids),
            (Named::User(_), Shown::All(_), _) | (Named::Group(_), _, Shown::All(_))
        )
    }

    /// The id that an entry of an ACL has in the view; none where all objects have one owner, who is whom the entries for
    /// the owner and the group mean.
    fn named_shown(&self, named: Named) -> Option<u32> {
        let (ids, id) = match named {
            Named::User(id) => (&self.uids, id),
            Named::Group(id) => (&self.gids, id),
        };
        if matches!(ids, Shown::All(_)) { None } else { shown(ids, id) }
    }
}

fn shown(ids: &Shown, disk: u32) -> Option<u32> {
    match ids {
        Shown::Same => Some(disk),
        Shown::Mapped(map) => map.view_of(disk),
        Shown::All(id) => Some(*id),
    }
}

/// The id of the layers that is shown as this one; none where all of them are shown as one.
fn stored(ids: &Shown, view: u32) -> Option<u32> {
    match ids {
        Shown::Same => Some(view),
        Shown::Mapped(map) => map.disk_of(view),
        Shown::All(_) => None,
    }
}
