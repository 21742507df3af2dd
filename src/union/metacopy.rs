//! Files whose metadata is in the upper layer and whose data is still in a lower one: where the data is, and how it is
//! copied later.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Union;
use super::copy_up::CopyUp;
use crate::base::config::Verity;
use crate::base::{Errno, Name, Result};
use crate::format::capability::CAPABILITY;
use crate::format::{Digest, Metacopy, Redirect};
use crate::inode::{Inode, LeafBody, LeafObject, LeafState, lock_up};
use crate::layer::{Place, verity};
use crate::merge::{Data, LowerFile, MetaFile};
use crate::sys::path::OFlags;
use crate::sys::stat::{SetTime, Stat, stat_fd};
use crate::sys::{data, tree, xattr};
use crate::upper::{CopyData, Staged, Upper, clear_privileges, copy_data, without_ids};

/// The largest file, in bytes, whose data is copied even though the file is emptied next. To empty a file and to take
/// its mark away are two calls, and between them the kernel's OverlayFS would see an empty file with content.
const WORTH_A_COPY: u64 = 4 << 20;

impl Union {
    /// The file that holds the data of a metacopy file; `None`: the object has its own data. The data is compared with
    /// its digest once.
    ///
    /// # Errors
    /// `EIO`: no layer has the data, or it does not match its digest.
    pub(super) fn meta_source(&self, leaf: &LeafBody) -> Result<Option<LowerFile>> {
        let (meta, verified) = {
            let state = leaf.state.lock();
            let Some(meta) = state.meta() else { return Ok(None) };
            (meta.clone(), state.verified())
        };
        let file = match &meta.data {
            Data::At(file) => file.clone(),
            Data::Beneath(path) => {
                let (place, stat) = self.stack.find_data(path)?;
                let file = LowerFile { place, stat };
                if let Some(meta) = leaf.state.lock().meta_mut() {
                    meta.data = Data::At(file.clone());
                }
                file
            }
        };
        if self.stack.verity != Verity::Off {
            // Compared once, so that a refusal is logged once, however often the file is read.
            let right = match verified {
                Some(right) => right,
                None => {
                    let right = self.verify(&file, meta.digest.as_ref())?;
                    leaf.state.lock().set_verified(right);
                    right
                }
            };
            if !right {
                return Err(Errno::EIO);
            }
        }
        Ok(Some(file))
    }

    /// Whether a file's data is in a layer on a `nosuid` mount. Who can change that data must not decide what runs with
    /// set-user-id, whichever layer has the mode.
    pub(super) fn is_nosuid(&self, state: &LeafState) -> bool {
        let of_data = state.meta().is_some_and(|meta| match &meta.data {
            Data::At(file) => file.place.dir.layer.nosuid,
            Data::Beneath(_) => self.stack.data_only.iter().any(|root| root.layer.nosuid),
        });
        of_data || state.current().is_ok_and(|object| object.place.dir.layer.nosuid)
    }

    /// Whether a file's data is where others may change it: on a `nosuid` mount, or in a layer whose modes stand in
    /// attributes and are not those on disk.
    pub(super) fn has_doubtful_data(&self, state: &LeafState) -> bool {
        let marked = |place: &Place| !place.is_upper() && place.dir.layer.is_open_to_others();
        let data = state.meta().map(|meta| match &meta.data {
            Data::At(file) => marked(&file.place),
            Data::Beneath(_) => self.stack.data_only.iter().any(|root| root.layer.is_open_to_others()),
        });
        let own = || state.current().is_ok_and(|object| marked(&object.place));
        self.is_nosuid(state) || data.unwrap_or_else(own)
    }

    /// Whether the data of a metacopy file passes what `verity=` asks for.
    fn verify(&self, file: &LowerFile, digest: Option<&Digest>) -> Result<bool> {
        let Some(digest) = digest else {
            let required = self.stack.verity == Verity::Require;
            if required {
                log::warn!("{:?}: the metacopy file has no digest for it (verity=require)", file.place);
            }
            return Ok(!required);
        };
        let fd = file.place.open_file(file.stat.ino, OFlags::RDONLY)?;
        let right = verity::check(fd.as_fd(), stat_fd(fd.as_fd())?.size, digest)?;
        if !right {
            log::warn!("{:?} is not what the digest of the metacopy file says", file.place);
        }
        Ok(right)
    }

    /// Marks a staged file as a metacopy file whose data stays in `file`, to be found by the redirect if one is given.
    /// `None`: the data must be copied.
    pub(super) fn stage_meta(
        &self,
        upper: &Upper,
        staged: Staged<'_>,
        leaf: &LeafBody,
        (file, redirect): (&LowerFile, Option<Redirect>),
    ) -> Result<Option<MetaFile>> {
        if !upper.metacopy {
            return Ok(None);
        }
        // The digest of a lower metacopy file is a digest of the same data.
        let known = leaf.state.lock().meta().and_then(|meta| meta.digest.clone());
        let digest = match upper.verity {
            _ if known.is_some() => known,
            Verity::Off => None,
            Verity::On | Verity::Require => {
                verity::measured(file.place.open_file(file.stat.ino, OFlags::RDONLY)?.as_fd())?
            }
        };
        if digest.is_none() && upper.verity == Verity::Require {
            return Ok(None);
        }
        // Where there is no room for the redirect now, a rename tries it again.
        let redirect = match redirect {
            Some(redirect) if upper.stage_redirect(staged, &redirect)? => Some(redirect),
            _ => None,
        };
        if !upper.set_metacopy(staged, &Metacopy { digest: digest.clone() })? {
            if redirect.is_some() {
                upper.unstage_redirect(staged)?;
            }
            return Ok(None);
        }
        Ok(Some(MetaFile { data: Data::At(file.clone()), digest, redirect, blocks: None }))
    }

    /// Copies the data of a metacopy file into its upper file. The mark goes last, when the data is on disk: until then
    /// the data in the upper file does not count.
    ///
    /// True: the file was emptied, as `how` asks.
    pub(super) fn complete(&self, inode: &Arc<Inode>, leaf: &LeafBody, how: &CopyUp) -> Result<bool> {
        if leaf.state.lock().meta().is_none() {
            return Ok(false);
        }
        let upper = self.upper()?;
        let _up = lock_up(inode, &how.killed())?;
        if let Some(blocks) = self.blocks(inode, leaf)? {
            return self.complete_blocks(inode, leaf, &blocks, how);
        }
        let emptied = how.len == Some(0);
        let source = match self.meta_source(leaf) {
            // What is emptied needs no data.
            Err(Errno::EIO | Errno::EACCES) if emptied => None,
            source => source?.filter(|file| !emptied || file.stat.size <= WORTH_A_COPY),
        };
        if leaf.state.lock().meta().is_none() {
            return Ok(false);
        }
        let nosuid = source.as_ref().is_some_and(|file| file.place.dir.layer.nosuid);
        let open = |source: LowerFile| source.place.open_file(source.stat.ino, OFlags::RDONLY);
        let from = match source.map(open).transpose() {
            Err(Errno::EACCES) if emptied => None,
            from => from?,
        };
        let cut = self.at_leaf(inode, |object| {
            let to = super::io::open_for_write(object)?.fd;
            if nosuid {
                // Set-user-id and capabilities were not shown for data of a `nosuid` layer, and the copy must not have
                // them.
                clear_privileges(to.as_fd(), upper.owners(), &|_| false)?;
            }
            self.fill(upper, to.as_fd(), from.as_ref().map(AsFd::as_fd), how)?;
            Ok(from.is_none())
        });
        let cut = cut?;
        inode.set_loose(true);
        leaf.state.lock().set_meta(None);
        leaf.close();
        Ok(cut)
    }

    /// Makes the mark of a metacopy file say where its data is, before the file gets another name: by its name now in
    /// `parent`, or (`absolute`) by the path of that name. False: there is no room for the mark, and the data must be
    /// copied.
    pub(super) fn redirect_file(
        &self,
        upper: &Upper,
        leaf: &LeafBody,
        parent: &Arc<Inode>,
        name: &Name,
        absolute: bool,
    ) -> Result<bool> {
        // Held so that two renames do not set the mark at once.
        let _data = leaf.data().lock();
        let (object, redirect) = {
            let state = leaf.state.lock();
            let Some(meta) = state.meta() else { return Ok(true) };
            (state.upper().cloned().ok_or(Errno::ESTALE)?, meta.redirect.clone())
        };
        let Some(redirect) = self.next_redirect(redirect.as_ref(), parent, name, absolute)? else { return Ok(true) };
        let LeafObject { place, .. } = object;
        if !upper.set_redirect(place.dir.fd()?.as_fd(), place.name.as_c_str(), &redirect)? {
            leaf.state.lock().set_stuck();
            return Ok(false);
        }
        if let Some(meta) = leaf.state.lock().meta_mut() {
            meta.redirect = Some(redirect);
        }
        Ok(true)
    }

    /// The redirect that an object needs before it leaves `name` in `parent`; `None`: the redirect that it has is
    /// enough.
    pub(super) fn next_redirect(
        &self,
        redirect: Option<&Redirect>,
        parent: &Arc<Inode>,
        name: &Name,
        absolute: bool,
    ) -> Result<Option<Redirect>> {
        let name = match redirect {
            Some(Redirect::Absolute(_)) => return Ok(None),
            Some(Redirect::Relative(_)) if !absolute => return Ok(None),
            Some(Redirect::Relative(name)) => name,
            None => name,
        };
        if !absolute {
            return Ok(Some(Redirect::Relative(name.clone())));
        }
        let mut path = self.lower_path(parent)?;
        path.push(name.clone());
        Ok(Some(Redirect::Absolute(path)))
    }

    /// The path that a directory has in the lower layers.
    fn lower_path(&self, dir: &Arc<Inode>) -> Result<Vec<Name>> {
        let mut path = Vec::new();
        let mut at = dir.clone();
        while at.id != super::InodeId::ROOT {
            let next = {
                let state = at.dir()?.state.read();
                let (parent, name) = state.at.clone().ok_or(Errno::ENOENT)?;
                match &state.view.redirect {
                    Some(Redirect::Absolute(above)) => {
                        path.extend(above.iter().rev().cloned());
                        break;
                    }
                    Some(Redirect::Relative(name)) => path.push(name.clone()),
                    None => path.push(name),
                }
                parent
            };
            at = next;
        }
        path.reverse();
        Ok(path)
    }

    /// Copies the data of `from` into the open upper file `to`, or empties that file (`None`), and takes the mark
    /// `metacopy` away.
    fn fill(&self, upper: &Upper, to: BorrowedFd<'_>, from: Option<BorrowedFd<'_>>, how: &CopyUp) -> Result<()> {
        let before = upper.root.layer.steady(|| stat_fd(to))?;
        let filled = self.try_fill(upper, to, from, how, &before);
        if filled.is_err() {
            // Gives the blocks back; readers never saw the data.
            let back = || {
                data::truncate(to, 0)?;
                data::truncate(to, before.size)?;
                tree::utimens_fd(to, [SetTime::At(before.atime), SetTime::At(before.mtime)])
            };
            if let Err(errno) = back() {
                log::warn!("an upper file whose data is below keeps another size: {errno}");
            }
        }
        filled
    }

    fn try_fill(
        &self,
        upper: &Upper,
        to: BorrowedFd<'_>,
        from: Option<BorrowedFd<'_>>,
        how: &CopyUp,
        before: &Stat,
    ) -> Result<()> {
        let capability = xattr::get_fd(to, CAPABILITY)?;
        // All of the data is copied even if the file is truncated next: between the call that takes the mark away and the
        // one that truncates, the file must show what it had.
        match from {
            Some(from) => {
                let (synced, interrupt) = (upper.syncs_data(), &how.killed());
                copy_data(from, to, CopyData { len: before.size, whole: false, synced, interrupt })?;
            }
            None => data::truncate(to, 0)?,
        }
        let cut = from.is_none();
        // Writing has cleared bits of the mode: they come back, unless the change itself ends them.
        let mode = match how.ends_ids.filter(|_| cut) {
            Some(caller) => without_ids((before.mode, before.gid), &|group| self.owners.is_in(&caller, group)),
            None => before.mode,
        };
        {
            let _modes = upper.root.layer.modes.read();
            if stat_fd(to)?.mode != mode {
                tree::chmod_fd(to, mode & 0o7777)?;
            }
        }
        if let (Some(_), Some(caller), true) = (upper.owners(), how.ends_ids, cut) {
            clear_privileges(to, upper.owners(), &|group| self.owners.is_in(&caller, group))?;
        }
        if let Some(value) = capability.filter(|_| !cut) {
            xattr::set_fd(to, CAPABILITY, &value, 0)?;
        }
        let mtime = if cut { SetTime::Now } else { SetTime::At(before.mtime) };
        tree::utimens_fd(to, [SetTime::At(before.atime), mtime])?;
        upper.sync_staged(to, true)?;
        upper.clear_metacopy(to)
    }
}
