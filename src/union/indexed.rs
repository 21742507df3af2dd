//! Hard links of lower files that stay one file: the copy stands in the index, where each of the names finds it.
//!
//! A name that is changed first gets a link of the copy (an alias), so that one call on it changes the real and the
//! union's count of links alike: the mark `nlink` holds their difference, which stays right whenever the process ends.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Union;
use super::copy_up::Copy;
use crate::base::{Errno, Name, Result};
use crate::format::{Base, Namespace, Nlink};
use crate::inode::{Inode, LeafBody};
use crate::layer::{DirPlace, IndexDir};
use crate::merge::FoundLeaf;
use crate::sys::stat::{Kind, SetTime, stat_at, stat_fd};
use crate::sys::tree::{self, RenameFlags};
use crate::upper::{Staged, Temp, Upper, Widened, relocate};

impl Union {
    /// Whether the copy of a lower object with so many links goes into the index. `user.*` marks do not go on symlinks,
    /// fifos, sockets and devices: there the names of one object part over a remount.
    pub(super) fn is_indexed(&self, kind: Kind, links: u64) -> bool {
        let marks = self.upper.as_ref().and_then(Upper::namespace);
        links > 1 && self.stack.index.is_some() && (kind == Kind::File || marks == Some(Namespace::Trusted))
    }

    /// Whether a change of this name must wait for the copy-up of its file.
    pub(super) fn needs_index(&self, inode: &Inode, found: &FoundLeaf) -> bool {
        !found.upper
            && self.is_indexed(inode.kind, found.stat.nlink)
            && inode.leaf().is_ok_and(|leaf| leaf.state.lock().upper.is_none())
    }

    /// A staged copy of a lower hard link appears in the index, then under the name that it is known by. The caller holds
    /// the inode's `up`.
    pub(super) fn copy_into_index(
        &self,
        upper: &Upper,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        copy: Copy<'_>,
        at: Option<&(Arc<Inode>, Name)>,
    ) -> Result<()> {
        let (Some(index), Some(entry)) = (&self.stack.index, copy.entry) else { return Err(Errno::EIO) };
        let links = i32::try_from(copy.links).map_err(|_| Errno::EMLINK)?;
        // Its entry in the index is the only real link at first.
        let mark = Nlink { base: Base::Upper, difference: links - 1 };
        upper.stage_nlink(Staged::Named(upper.work(), copy.temp.name()), &mark).or_else(|errno| match errno {
            Errno::EACCES => upper.set_nlink(upper.work(), copy.temp.name(), &mark),
            errno => Err(errno),
        })?;
        let stat = stat_at(upper.work(), copy.temp.name())?;
        copy.temp.publish_new(index.dir().fd()?.as_fd(), entry.as_c_str())?;
        leaf.state.lock().set_index(Some(entry.clone()));
        self.now_upper(inode, leaf, index.place(&entry), &stat, copy.links, copy.meta);
        let Some((parent, name)) = at else { return Ok(()) };
        let dir = parent.dir()?;
        let mut names = dir.names.write();
        let still = leaf.state.lock().names.iter().any(|(p, n)| Arc::ptr_eq(p, parent) && n == name);
        let Some(into) = dir.live_view().ok().and_then(|view| view.upper).filter(|_| still) else { return Ok(()) };
        let aliased = self.alias_quietly(upper, inode, leaf, (parent, &into.place, name), copy.links);
        match aliased {
            Ok(()) => self.name_is_new(&mut names, name, inode.kind),
            // The name finds its copy by the index all the same.
            Err(errno) => log::debug!("{name:?} gets no link of its copy: {errno}"),
        }
        Ok(())
    }

    /// [`Union::alias`] as a part of copy-up: the directory keeps its times.
    fn alias_quietly(
        &self,
        upper: &Upper,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        (parent, into, name): (&Arc<Inode>, &Arc<DirPlace>, &Name),
        lower_links: u64,
    ) -> Result<()> {
        let fd = into.fd()?;
        let before = stat_fd(fd.as_fd())?;
        let _widened = Widened::new(fd.as_fd(), before.mode)?;
        self.make_impure(upper, parent, into)?;
        self.alias(upper, inode, leaf, into, name, lower_links)?;
        let times = [SetTime::At(before.atime), SetTime::At(before.mtime)];
        if let Err(errno) = tree::utimens_at(fd.as_fd(), c".", times) {
            log::debug!("{into:?}: its times are not restored: {errno}");
        }
        upper.sync_name(into)
    }

    /// Gives a lower name, whose file is copied up, a link of the copy. The caller holds the directory's `names`.
    pub(super) fn alias(
        &self,
        upper: &Upper,
        inode: &Inode,
        leaf: &LeafBody,
        into: &DirPlace,
        name: &Name,
        lower_links: u64,
    ) -> Result<()> {
        let (entry, union) = {
            let state = leaf.state.lock();
            (state.index().cloned(), state.nlink)
        };
        let (Some(index), Some(entry)) = (&self.stack.index, entry) else {
            return self.link_object(inode, into, name);
        };
        let dir = index.dir().fd()?;
        let mark = |base, links: u64| -> Result<()> {
            let Some(union) = union else { return Ok(()) };
            let difference = i64::from(union) - i64::try_from(links).unwrap_or(i64::MAX);
            let difference = i32::try_from(difference).map_err(|_| Errno::EMLINK)?;
            upper.set_nlink(dir.as_fd(), entry.as_c_str(), &Nlink { base, difference })
        };
        // While the real count changes, the difference is that from the lower one.
        mark(Base::Lower, lower_links)?;
        let linked = self.link_object(inode, into, name);
        mark(Base::Upper, stat_at(dir.as_fd(), entry.as_c_str())?.nlink)?;
        linked
    }

    /// [`Union::alias`] for what was found under a name.
    pub(super) fn alias_found(
        &self,
        upper: &Upper,
        parent: &Arc<Inode>,
        into: &Arc<DirPlace>,
        name: &Name,
        inode: &Inode,
        found: &FoundLeaf,
    ) -> Result<()> {
        self.make_impure(upper, parent, into)?;
        let lower = found.lower.as_ref().map_or(found.stat.nlink, |lower| lower.stat.nlink);
        self.alias(upper, inode, inode.leaf()?, into, name, lower)
    }

    fn link_object(&self, inode: &Inode, into: &DirPlace, name: &Name) -> Result<()> {
        let fd = into.fd()?;
        self.at_object(inode, |from, old| tree::link_at(from, old, fd.as_fd(), name.as_c_str()))
    }

    /// The last name of an indexed file is gone: so is its entry, and the file lives on in workdir until it is forgotten.
    pub(super) fn leave_index(&self, leaf: &LeafBody) {
        let entry = leaf.state.lock().index().cloned();
        let (Some(upper), Some(index), Some(entry)) = (&self.upper, &self.stack.index, entry) else { return };
        if let Err(errno) = self.take_from_index(upper, index, leaf, &entry) {
            log::warn!("index: {entry:?} stays until the next mount: {errno}");
        }
    }

    fn take_from_index(&self, upper: &Upper, index: &IndexDir, leaf: &LeafBody, entry: &Name) -> Result<()> {
        let dir = index.dir().fd()?;
        let stat = stat_at(dir.as_fd(), entry.as_c_str())?;
        if stat.nlink > 1 {
            // More names than the union knows of: a lower link was made meanwhile, or the mark was wrong.
            log::warn!("index: {entry:?} has names left");
            return Ok(());
        }
        let temp = Temp::new(upper, stat.kind())?;
        relocate((dir.as_fd(), entry.as_c_str()), (upper.work(), temp.name()), RenameFlags::empty())?;
        leaf.state.lock().set_index(None);
        self.hide(leaf, temp)
    }
}
