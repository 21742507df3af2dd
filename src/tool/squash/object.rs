//! Makes one object of a stack anew that is no directory: as a link, or as a copy with all its metadata.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Node, Refused, Squash, hint, only, refused};
use crate::base::{Errno, Name, Result};
use crate::format::{Metacopy, OverrideKey, Redirect};
use crate::merge::{Data, FoundLeaf, MetaFile, Rest};
use crate::sys::path::OFlags;
use crate::sys::stat::{Kind, Stat, stat_at};
use crate::sys::{data, tree, xattr};
use crate::tool::change::path_of;
use crate::tool::content::Content;
use crate::upper::{Metadata, Staged, Temp, mark_of};

impl Squash<'_> {
    /// Makes an object; a further name of one that was made is a link.
    pub(super) fn leaf(
        &mut self,
        node: &Node,
        name: &Name,
        (leaf, rest): (FoundLeaf, Rest),
        path: &[u8],
    ) -> std::result::Result<(), Refused> {
        let outside = self.outside(node, &leaf, rest, path)?;
        let failed = |errno| refused(path, errno, hint(errno));
        self.made.files += 1;
        let object = (Arc::as_ptr(&leaf.place.dir.layer), (leaf.stat.dev, leaf.stat.ino));
        if leaf.stat.nlink > 1 && self.how.only.is_some() && !node.own {
            self.lifted.entry(object).or_insert((leaf.stat.nlink, 0)).1 += 1;
        }
        if leaf.stat.nlink > 1
            && let Some(first) = self.names.get(&object)
        {
            match link((first.0.fd().map_err(failed)?.as_fd(), &first.1), node, name) {
                // There are too many links, or the file system has none.
                Err(Errno::EMLINK | Errno::EPERM | Errno::EOPNOTSUPP) => {}
                done => return done.map_err(failed),
            }
        }
        // What came up of the layers below is theirs: who writes to the new layer must not write to them.
        let may_link = self.how.link && (self.how.only.is_none() || only::is_own(self.layers, &leaf));
        let is_linked = outside.is_none() && may_link && self.link_of_layer(node, name, &leaf).map_err(failed)?;
        if is_linked {
            self.made.linked += 1;
        } else {
            self.copy(node, name, &leaf, outside).map_err(failed)?;
        }
        if leaf.stat.nlink > 1 {
            self.names.insert(object, (node.to.clone(), name.as_c_str().to_owned()));
        }
        Ok(())
    }

    /// Where the data of a metacopy file is below the stack; `None`: it is in the stack.
    fn outside(
        &self,
        node: &Node,
        leaf: &FoundLeaf,
        rest: Rest,
        path: &[u8],
    ) -> std::result::Result<Option<Vec<Name>>, Refused> {
        let is_outside = |meta: &MetaFile| matches!(&meta.data, Data::Beneath(path) if path.is_empty());
        let Some(meta) = leaf.meta.as_ref().filter(|meta| is_outside(meta)) else { return Ok(None) };
        let refuse = |reason: &str, hint| Refused { path: path_of(path), reason: reason.to_owned(), hint };
        if let Some(only) = &self.how.only
            && let Some((reason, hint)) = only.refuses_data(self.out, meta.blocks.is_some())
        {
            return Err(refuse(reason, hint));
        }
        let below = Self::below(node, rest);
        let below = below.ok_or_else(|| refuse("its data is in no layer (metacopy)", "name the layer that has it"))?;
        if self.how.bottom {
            let reason = "its data is in a layer below the last one (metacopy)";
            return Err(refuse(reason, "name that layer, too, or leave out --bottom"));
        }
        if meta.blocks.is_some() {
            let reason = "a part of its data is in a layer below the last one (copyup_block)";
            return Err(refuse(reason, "name that layer, too"));
        }
        Ok(Some(below))
    }

    /// Makes the name a link of the layer's own object. False: it must be copied.
    fn link_of_layer(&self, node: &Node, name: &Name, leaf: &FoundLeaf) -> Result<bool> {
        let layer = &leaf.place.dir.layer;
        let owners = [layer.owners, layer.carried, self.out.owners()];
        if leaf.meta.is_some() || leaf.device || owners.iter().any(Option::is_some) {
            return Ok(false);
        }
        let from = leaf.place.dir.fd()?;
        let keys = xattr::list_at(from.as_fd(), leaf.place.name.as_c_str())?;
        // What is private in a layer, or stored under another name than it has, in either layer.
        let to = self.out.root.layer.naming();
        let is_stored_so = |key: &[u8]| to.to_disk(key).is_ok_and(|stored| stored.to_bytes() == key);
        if !keys.iter().all(|key| layer.naming().from_disk(key).as_ref() == Some(key) && is_stored_so(key)) {
            return Ok(false);
        }
        match link((from.as_fd(), leaf.place.name.as_c_str()), node, name) {
            Ok(()) => {}
            Err(Errno::EXDEV | Errno::EPERM | Errno::EACCES | Errno::EMLINK | Errno::EOPNOTSUPP) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        let stat = stat_at(node.to.fd()?.as_fd(), name.as_c_str())?;
        if (stat.dev, stat.ino) == (leaf.stat.dev, leaf.stat.ino) { Ok(true) } else { Err(Errno::ESTALE) }
    }

    fn copy(&mut self, node: &Node, name: &Name, leaf: &FoundLeaf, outside: Option<Vec<Name>>) -> Result<()> {
        let from = &leaf.place;
        let layers = (&*from.dir.layer, &*self.out.root.layer);
        // A user's 0/0 device is an empty file with a mark of its own, also to the attribute that tells of types.
        let is_file = leaf.device && self.out.owners().is_some();
        let stat = match is_file {
            true => Stat { mode: (leaf.stat.mode & 0o7777) | Kind::File.to_mode(), rdev: 0, ..leaf.stat },
            false => leaf.stat,
        };
        let metadata = Metadata::of(from.dir.fd()?.as_fd(), from.name.as_c_str(), stat, layers)?;
        let dir = node.to.fd()?;
        let (dir, cname) = (dir.as_fd(), name.as_c_str());
        let kind = leaf.stat.kind();
        let target = match kind {
            Kind::Symlink => Some(CString::new(from.readlink()?).map_err(|_| Errno::EINVAL)?),
            _ => None,
        };
        match (self.out.owners(), kind) {
            (_, Kind::File) => {
                let file = tree::create_at(dir, cname, OFlags::RDWR, 0o600)?;
                match outside {
                    // A further name of the file leads there, too.
                    Some(below) if leaf.stat.nlink > 1 => {
                        self.meta_file(&file, leaf, Some(Redirect::Absolute(below)))?;
                    }
                    Some(below) => self.meta_file(&file, leaf, Self::redirect(node, name, &below))?,
                    None => self.data(&file, leaf)?,
                }
                self.keep_origin(leaf, Staged::Open(file.as_fd()))?;
                give(&metadata, Staged::Open(file.as_fd()), false)?;
            }
            (_, _) if leaf.device => {
                drop(tree::create_at(dir, cname, OFlags::WRONLY, 0o600)?);
                self.out.set_device(dir, cname)?;
                give(&metadata, Staged::Named(dir, cname), false)?;
            }
            (Some(owners), _) => self.stand_in((dir, name), leaf, (&metadata, owners), target)?,
            (None, Kind::Symlink) => {
                tree::symlink_at(&target.unwrap_or_default(), dir, cname)?;
                self.keep_origin(leaf, Staged::Named(dir, cname))?;
                give(&metadata, Staged::Named(dir, cname), true)?;
            }
            (None, kind) => {
                tree::mknod_at(dir, cname, kind.to_mode() | 0o600, leaf.stat.rdev)?;
                self.keep_origin(leaf, Staged::Named(dir, cname))?;
                give(&metadata, Staged::Named(dir, cname), false)?;
            }
        }
        if leaf.protection.encode().is_empty() { Ok(()) } else { self.out.set_protattr(dir, cname, leaf.protection) }
    }

    /// In a layer that is only made anew its objects are copies of what they were copies of.
    fn keep_origin(&self, leaf: &FoundLeaf, to: Staged<'_>) -> Result<()> {
        match self.how.only {
            Some(_) => only::keep_origin(self.out, (&leaf.place.dir, leaf.place.name.as_c_str()), to),
            None => Ok(()),
        }
    }

    fn data(&mut self, file: &OwnedFd, leaf: &FoundLeaf) -> Result<()> {
        Content::open(self.layers, leaf)?.copy_to(file.as_fd(), leaf.stat.size)?;
        self.made.bytes = self.made.bytes.saturating_add(leaf.stat.size);
        Ok(())
    }

    /// Makes a file whose data stays below the stack.
    fn meta_file(&self, file: &OwnedFd, leaf: &FoundLeaf, redirect: Option<Redirect>) -> Result<()> {
        data::truncate(file.as_fd(), leaf.stat.size)?;
        let digest = leaf.meta.as_ref().and_then(|meta| meta.digest.clone());
        let to = Staged::Open(file.as_fd());
        let has_redirect = match &redirect {
            Some(redirect) => self.out.stage_redirect(to, redirect)?,
            None => true,
        };
        if has_redirect && self.out.set_metacopy(to, &Metacopy { digest })? { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
    }

    /// Makes the file that stands for an object where owners and types are written as attributes.
    fn stand_in(
        &self,
        (dir, name): (BorrowedFd<'_>, &Name),
        leaf: &FoundLeaf,
        (metadata, owners): (&Metadata, OverrideKey),
        target: Option<CString>,
    ) -> Result<()> {
        let (kind, work) = (leaf.stat.kind(), self.out.work());
        let temp = Temp::new(self.out, kind)?;
        match &target {
            Some(target) => self.out.stage_symlink(temp.name(), owners, &mark_of(&leaf.stat)?, target)?,
            None => drop(self.out.make_stand_in(temp.name(), kind, (leaf.stat.mode, None))?),
        }
        let is_symlink = stat_at(work, temp.name())?.kind() == Kind::Symlink;
        give(metadata, Staged::Named(work, temp.name()), is_symlink)?;
        temp.publish_new(dir, name.as_c_str())
    }
}

fn link((from, old): (BorrowedFd<'_>, &CStr), node: &Node, name: &Name) -> Result<()> {
    tree::link_at(from, old, node.to.fd()?.as_fd(), name.as_c_str())
}

/// Sets all metadata: an object that would give less than the original is none of it.
fn give(metadata: &Metadata, to: Staged<'_>, is_symlink: bool) -> Result<()> {
    let applied = metadata.apply(to, is_symlink)?;
    if applied.narrowed { Err(Errno::EPERM) } else { Ok(()) }
}
