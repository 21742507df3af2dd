//! Copy-up: a lower object gets its upper copy, whole or not at all, before its first change.
//!
//! Parents first; then the object is built in workdir with everything it has, synced, and appears by one rename under
//! its parent's `names`. One inode's copy-up holds up nobody else.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::closed::check_file;
use super::protect::{self, LowerFlags};
use super::{Caller, Union};
use crate::base::{Errno, Name, Result};
use crate::format::{Protattr, Redirect};
use crate::inode::{Body, Inode, Key, LeafBody, LeafObject, lock_up};
use crate::layer::{DirPlace, IndexDir, Place};
use crate::merge::{DirPart, DirView, LowerFile, MetaFile};
use crate::sys::caller::overrides_modes;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, SetTime, Stat, stat_fd};
use crate::sys::{caller, data, tree};
use crate::upper::{
    Applied, CopyData, Metadata, SMALL, Staged, Temp, Upper, WhiteoutStyle, Widened, clear_privileges, copy_data,
    copy_from_cache, mark_of,
};

/// What is copied up of an object, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyUp {
    /// The data is copied, too; else the copy may leave its data below (`metacopy`).
    pub data: bool,
    /// The length in bytes to which the file is truncated next.
    pub len: Option<u64>,
    /// The object is renamed next, within its directory.
    pub renamed: bool,
    /// The flags of `chattr` on the lower object, where the caller has just read them.
    pub flags: Option<LowerFlags>,
    /// The mode that the object gets next.
    pub mode: Option<u32>,
    /// The kernel asks for the attributes after this request by itself, or the answer holds them.
    pub seen: bool,
    /// The caller who may not keep set-user-id and set-group-id bits: a truncation by him ends them.
    pub ends_ids: Option<Caller>,
    /// The thread whose pending SIGKILL ends the copy-up; 0 for none.
    pub pid: u32,
}

impl CopyUp {
    /// The copy-up before a change of metadata.
    pub fn metadata(caller: &Caller) -> Self {
        Self { pid: caller.pid, data: false, ..Self::unasked() }
    }

    /// The copy-up before a change of data.
    pub fn data(caller: &Caller) -> Self {
        Self { data: true, ..Self::metadata(caller) }
    }

    /// The copy-up before a write, after which the kernel asks for the attributes by itself.
    pub fn written(caller: &Caller) -> Self {
        Self { seen: true, ..Self::data(caller) }
    }

    /// The copy-up of metadata and data on behalf of no program.
    pub fn unasked() -> Self {
        Self { data: true, len: None, renamed: false, flags: None, mode: None, seen: false, ends_ids: None, pid: 0 }
    }
}

impl Union {
    /// Gives an inode its upper object, if it has none.
    ///
    /// # Errors
    /// `EROFS`; `EPERM` and `EOVERFLOW` for an owner that the process may not set; `EINTR`; what the layers say.
    pub(super) fn copy_up(&self, inode: &Arc<Inode>, how: &CopyUp) -> Result<()> {
        self.copy_up_cut(inode, how).map(drop)
    }

    /// [`Union::copy_up`] for a change that may truncate the file: true where the copy was made with the new length, so
    /// that no truncation is left to do.
    pub(super) fn copy_up_cut(&self, inode: &Arc<Inode>, how: &CopyUp) -> Result<bool> {
        match &inode.body {
            Body::Dir(_) => self.copy_up_dir(inode).map(|()| false),
            Body::Leaf(leaf) => self.copy_up_leaf(inode, leaf, how),
        }
    }

    /// Copies up a directory and all directories above it that have no upper part yet, from the top.
    pub(super) fn copy_up_dir(&self, inode: &Arc<Inode>) -> Result<()> {
        let upper = self.upper()?;
        let mut missing = Vec::new();
        let mut at = inode.clone();
        loop {
            let parent = {
                let state = at.dir()?.state.read();
                if state.removed.is_some() {
                    return Err(Errno::ENOENT);
                }
                match &state.at {
                    _ if state.view.upper.is_some() => break,
                    Some((parent, _)) => parent.clone(),
                    None => return Err(Errno::ESTALE),
                }
            };
            missing.push(std::mem::replace(&mut at, parent));
        }
        if missing.is_empty() {
            return Ok(());
        }
        let done = missing.iter().rev().try_for_each(|dir| self.copy_up_one_dir(upper, dir));
        // The copy is another object, and it changed the attributes of the directory in which it appeared.
        missing.iter().chain([&at]).for_each(|dir| self.attributes_changed(dir.id));
        done
    }

    fn copy_up_one_dir(&self, upper: &Upper, inode: &Arc<Inode>) -> Result<()> {
        let dir = inode.dir()?;
        let _up = inode.up.lock();
        let (view, at) = {
            let state = dir.state.read();
            (state.view.clone(), state.at.clone())
        };
        if view.upper.is_some() {
            return Ok(());
        }
        let (parent, name) = at.ok_or(Errno::ENOENT)?;
        let (staged, made) = self.stage_dir(upper, inode, &view)?;
        let parent_dir = parent.dir()?;
        let mut names = self.changing(&parent)?;
        let into = parent_dir.live_view()?.upper.ok_or(Errno::ESTALE)?;
        names.begin();
        self.publish_copy(upper, &parent, (&into.place, &name), staged, true, || {
            let place = into.place.child(&name, made.ino);
            let xattr_whiteouts = upper.style == WhiteoutStyle::Xattr;
            inode.set_loose(true);
            dir.state.write().view.upper = Some(DirPart { place, level: 0, xattr_whiteouts, impure: false });
            names.raised(&self.cookies, &name, Kind::Dir);
        })?;
        drop(names);
        upper.sync_name(&into.place)
    }

    fn copy_up_leaf(&self, inode: &Arc<Inode>, leaf: &LeafBody, how: &CopyUp) -> Result<bool> {
        let upper = self.upper()?;
        let mut cut = false;
        loop {
            let at = {
                let state = leaf.state.lock();
                if state.upper().is_some() {
                    break;
                }
                state.names.first().cloned()
            };
            if let Some((parent, _)) = &at {
                self.copy_up_dir(parent)?;
            }
            let _up = lock_up(inode, &how.killed())?;
            if leaf.state.lock().upper().is_some() {
                break;
            }
            let copy = self.stage_leaf(upper, inode, leaf, how)?;
            cut = copy.cut;
            let tells = copy.narrowed || !how.seen;
            if copy.entry.is_some() {
                self.copy_into_index(upper, inode, leaf, copy)?;
                self.copied(inode, tells);
                break;
            }
            let Some((parent, name)) = at else {
                self.keep_copy_hidden(inode, leaf, copy)?;
                self.copied(inode, tells);
                return Ok(cut);
            };
            let parent_dir = parent.dir()?;
            let mut names = self.changing(&parent)?;
            let still = leaf.state.lock().has_name(&parent, &name);
            let into = parent_dir.live_view().ok().and_then(|view| view.upper);
            let (true, Some(into)) = (still, into) else {
                // The object was unlinked or renamed meanwhile: this copy goes, and another attempt begins.
                drop(names);
                continue;
            };
            names.begin();
            self.publish_copy(upper, &parent, (&into.place, &name), copy.temp, copy.has_origin, || {
                names.raised(&self.cookies, &name, inode.kind);
                let place = Place { dir: into.place.clone(), name: name.clone() };
                self.now_upper(inode, leaf, place, &copy.made, copy.links, copy.meta);
            })?;
            drop(names);
            self.attributes_changed(parent.id);
            self.copied(inode, tells);
            // Last, when the live state knows of the copy: it has its name, whatever this sync says.
            upper.sync_name(&into.place)?;
            break;
        }
        self.alias_known(upper, inode, leaf, &how.killed())?;
        if !how.data || leaf.state.lock().meta().is_none() {
            return Ok(cut);
        }
        let completed = self.complete(inode, leaf, how);
        self.copied(inode, !how.seen);
        completed.map(|now| now || cut)
    }

    /// Tells the kernel that an inode shows the attributes of its copy now, where the kernel would not ask (`tells`).
    fn copied(&self, inode: &Inode, tells: bool) {
        if tells {
            self.attributes_changed(inode.id);
        }
    }

    /// Keeps the copy of a file that has lost its last name in workdir, as somebody still holds the file.
    fn keep_copy_hidden(&self, inode: &Arc<Inode>, leaf: &LeafBody, copy: Copy<'_>) -> Result<()> {
        let dir = self.work.clone().ok_or(Errno::EROFS)?;
        let name = Name::new(copy.temp.keep().to_bytes())?;
        leaf.state.lock().set_hidden();
        self.now_upper(inode, leaf, Place { dir, name }, &copy.made, 1, copy.meta);
        self.note_detached(inode);
        Ok(())
    }

    /// Enters the upper object into the live state: from now on everybody reads and writes it.
    pub(super) fn now_upper(
        &self,
        inode: &Arc<Inode>,
        leaf: &LeafBody,
        place: Place,
        stat: &Stat,
        links: u64,
        meta: Option<MetaFile>,
    ) {
        inode.set_loose(true);
        let pinned = {
            let mut state = leaf.state.lock();
            state.set_upper(LeafObject { place, key: Key::of(stat) });
            state.set_meta(meta);
            if links > 1 && state.nlink().is_none() {
                state.set_nlink(u32::try_from(links).unwrap_or(u32::MAX));
            }
            let pinned = links > 1 && state.index().is_none();
            state.set_pinned(pinned);
            if pinned {
                state.set_unaliased(links);
            }
            pinned
        };
        if links > 1 {
            // The other names of the lower file lead to this inode, too.
            self.table.add_key(inode, Key::of(stat));
        }
        if pinned {
            // The upper layer does not say that those names lead to the copy: the inode must not be forgotten.
            self.table.hold(inode);
            self.note_pinned(inode, leaf);
        }
        leaf.close();
        if lacks_data(leaf) {
            self.stir();
        }
    }

    /// Moves a staged copy to its name; the parent keeps its times. `update` enters the copy into the live state, and
    /// nothing that could fail comes between the two. The caller holds the parent's `names`.
    pub(super) fn publish_copy(
        &self,
        upper: &Upper,
        parent: &Arc<Inode>,
        (into, name): (&Arc<DirPlace>, &Name),
        staged: Temp<'_>,
        has_origin: bool,
        update: impl FnOnce(),
    ) -> Result<()> {
        keeping_times(into, |fd| {
            if has_origin {
                self.make_impure(upper, parent, into)?;
            }
            staged.publish_new(fd, name.as_c_str())?;
            update();
            Ok(())
        })
    }

    /// Marks a directory as [`Union::make_impure`] does before the object of `inode` gets a name in it. A directory
    /// that takes no mark (an append-only one) is no error if the object has no origin, as in the kernel's OverlayFS.
    pub(super) fn make_impure_for(
        &self,
        upper: &Upper,
        inode: &Inode,
        dir: &Arc<Inode>,
        place: &DirPlace,
    ) -> Result<()> {
        match self.make_impure(upper, dir, place) {
            Err(Errno::EPERM) if !self.at_object(inode, |at, name| upper.has_origin(at, name))? => Ok(()),
            made => made,
        }
    }

    /// Marks a directory as holding objects that have an origin. The caller holds its `names`.
    pub(super) fn make_impure(&self, upper: &Upper, dir: &Arc<Inode>, place: &DirPlace) -> Result<()> {
        let state = &dir.dir()?.state;
        if state.read().view.upper.as_ref().is_some_and(|part| part.impure) {
            return Ok(());
        }
        upper.set_impure(place.fd()?.as_fd())?;
        if let Some(part) = &mut state.write().view.upper {
            part.impure = true;
        }
        Ok(())
    }
}

/// Adds a name to an upper directory as a part of a copy-up: the directory may be read-only, and keeps its times. The
/// caller syncs the name once the live state knows of it.
pub(super) fn keeping_times<T>(into: &DirPlace, add: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
    let fd = into.fd()?;
    let before = stat_fd(fd.as_fd())?;
    let _widened = Widened::new(fd.as_fd(), before.mode)?;
    let added = add(fd.as_fd())?;
    // The times are not part of the change itself: a crash in between leaves them too new.
    let times = [SetTime::At(before.atime), SetTime::At(before.mtime)];
    if let Err(errno) = tree::utimens_at(fd.as_fd(), c".", times) {
        log::debug!("{into:?}: its times are not restored: {errno}");
    }
    Ok(added)
}

/// Gives a staged copy the flags of `chattr` that its lower object has: a mark remembers those that the union enforces
/// (where it cannot, they end with the mount), and the others are set on the copy itself.
fn keep_flags(upper: &Upper, inode: &Inode, staged: &Temp<'_>, flags: LowerFlags) -> Result<()> {
    if flags.kept != 0 {
        protect::keep(upper, upper.work(), staged.name(), flags.kept)?;
    }
    if flags.protection == Protattr::default() {
        return Ok(());
    }
    inode.set_protection(flags.protection);
    match upper.set_protattr(upper.work(), staged.name(), flags.protection) {
        Err(Errno::EOPNOTSUPP | Errno::EPERM) => Ok(()),
        set => set,
    }
}

/// Copies the small file `from` if its data is in the page cache: that costs less than marks that say where the data
/// is. False: the data is not in the cache, and the file needs the marks.
fn copy_at_hand(from: &LowerFile, to: BorrowedFd<'_>, size: u64) -> Result<bool> {
    // Where the data cannot be read, or has no room, there may be room for the marks.
    let Ok((from, stat)) = from.place.open_to_read(from.stat.ino) else { return Ok(false) };
    if stat.size != size {
        return Ok(false);
    }
    match copy_from_cache(from.as_fd(), to, size) {
        Err(_) => data::truncate(to, 0).map(|()| false),
        done => done,
    }
}

/// Whether some of a file's data is not in the upper layer.
pub(super) fn lacks_data(leaf: &LeafBody) -> bool {
    let state = leaf.state.lock();
    state.upper().is_none() || state.meta().is_some()
}

/// A copy in workdir.
pub(super) struct Copy<'a> {
    pub temp: Temp<'a>,
    /// The attributes that it was made with, with its inode number.
    pub made: Stat,
    /// The copy gives less than the lower object: see [`Applied`].
    pub narrowed: bool,
    /// The copy has the mark `origin`, which tells the number of the lower object.
    pub has_origin: bool,
    /// The link count of the lower object, as far as its names lead to this inode.
    pub links: u64,
    /// Where the data is, if it stays below.
    pub meta: Option<MetaFile>,
    /// The copy has the length that the file is truncated to.
    pub cut: bool,
    /// The name in the index by which the other names of the lower object will find it.
    pub entry: Option<Name>,
}

impl Union {
    /// Stages a copy of a directory without its entries. Returns the copy with the attributes that it was made with.
    fn stage_dir<'a>(&self, upper: &'a Upper, inode: &Inode, view: &DirView) -> Result<(Temp<'a>, Stat)> {
        let from = &view.lowers.first().ok_or(Errno::ESTALE)?.place;
        let fd = from.fd()?;
        let stat = from.stat_self()?;
        if self.owners.takes(&stat) && !overrides_modes() {
            // The daemon's own copy would say that it can be listed.
            from.open()?;
        }
        let metadata = self.owners.of_copy(Metadata::of(fd.as_fd(), c".", stat, (&from.layer, &upper.root.layer))?);
        let temp = Temp::new(upper, Kind::Dir)?;
        tree::mkdir_at(upper.work(), temp.name(), 0o700)?;
        let staged = open_beneath(upper.work(), temp.name(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let target = Staged::Open(staged.as_fd());
        upper.set_origin(target, &from.layer, fd.as_fd(), c".")?;
        let made = match (metadata.apply(target, false), upper.carried()) {
            (Err(Errno::EPERM | Errno::EOVERFLOW), Some(owners)) => metadata.carried(owners).apply(target, false)?.made,
            (applied, _) => applied?.made,
        };
        let flags = protect::of_lower(&from.layer, fd.as_fd(), c".", Kind::Dir)?;
        keep_flags(upper, inode, &temp, flags)?;
        upper.sync_staged(staged.as_fd(), false)?;
        Ok((temp, made))
    }

    fn stage_leaf<'a>(&self, upper: &'a Upper, inode: &Inode, leaf: &LeafBody, how: &CopyUp) -> Result<Copy<'a>> {
        let lower = leaf.state.lock().lower().cloned().ok_or(Errno::ESTALE)?;
        let place = &lower.place;
        let stat = place.stat()?;
        if stat.kind() != inode.kind || !lower.may_be(Key::of(&stat)) {
            return Err(Errno::ESTALE);
        }
        let from = place.dir.fd()?;
        let name = place.name.as_c_str();
        let metadata = Metadata::of(from.as_fd(), name, stat, (&place.dir.layer, &upper.root.layer))?;
        let metadata = self.owners.of_copy(metadata);
        let cut = how.len.is_some_and(|len| inode.kind == Kind::File && len <= stat.size);
        let metadata = match (cut, how.ends_ids) {
            (true, Some(caller)) => metadata.truncated(Some(&|group| self.owners.is_in(&caller, group))),
            (true, None) => metadata.truncated(None),
            (false, _) => metadata,
        };
        // No name leads to what is open from a layer that an undo has taken away.
        let is_there = self.stack.lowers.iter().any(|root| Arc::ptr_eq(&root.place.layer, &place.dir.layer));
        let indexed = is_there && self.is_indexed(&place.dir.layer, inode.kind, stat.nlink);
        let temp = Temp::new(upper, inode.kind)?;
        let mut origin = None;
        // A lower hard link that is not indexed gets no origin: its names that are not known now will become files of
        // their own.
        let mut mark = |staged: Staged<'_>| -> Result<()> {
            if stat.nlink == 1 || indexed {
                origin = upper.set_origin(staged, &place.dir.layer, from.as_fd(), name)?;
            }
            Ok(())
        };
        let (meta, Applied { made, narrowed }) = match inode.kind {
            Kind::File => {
                // A file with several names is found by its path, and so needs no redirect here.
                let redirect = (how.renamed && stat.nlink == 1).then(|| Redirect::Relative(place.name.clone()));
                let lower = LowerFile { place: place.clone(), stat };
                let source = Source { lower, leaf, metadata: &metadata, redirect };
                self.stage_file(upper, &temp, &source, how, &mut mark)?
            }
            Kind::Dir => return Err(Errno::EISDIR),
            kind => {
                let target = (kind == Kind::Symlink).then(|| place.readlink()).transpose()?;
                let target = target.map(CString::new).transpose().map_err(|_| Errno::EIO)?;
                match (target, upper.owners()) {
                    (None, None) => tree::mknod_at(upper.work(), temp.name(), kind.to_mode() | 0o600, stat.rdev)?,
                    (None, Some(_)) => _ = upper.make_stand_in(temp.name(), kind, (stat.mode, None))?,
                    (Some(target), None) => tree::symlink_at(&target, upper.work(), temp.name())?,
                    (Some(target), Some(owners)) => {
                        upper.stage_symlink(temp.name(), owners, &mark_of(&stat)?, &target)?;
                    }
                }
                let staged = Staged::Named(upper.work(), temp.name());
                mark(staged)?;
                (None, metadata.apply(staged, kind == Kind::Symlink)?)
            }
        };
        let flags = match how.flags {
            Some(flags) => flags,
            None => protect::of_lower(&place.dir.layer, from.as_fd(), name, inode.kind)?,
        };
        keep_flags(upper, inode, &temp, flags)?;
        let has_origin = origin.is_some();
        let entry = origin.filter(|_| indexed).and_then(|origin| IndexDir::name(&origin).ok());
        // Where each name of a lower object is a file of its own, the copy has one name.
        let links = if leaf.state.lock().is_linked() { stat.nlink } else { 1 };
        Ok(Copy { temp, made, narrowed, has_origin, links, meta, cut, entry })
    }

    fn stage_file(
        &self,
        upper: &Upper,
        temp: &Temp<'_>,
        source: &Source<'_>,
        how: &CopyUp,
        mark: &mut dyn FnMut(Staged<'_>) -> Result<()>,
    ) -> Result<(Option<MetaFile>, Applied)> {
        let size = source.metadata.stat.size;
        let len = how.len.map_or(size, |len| len.min(size));
        let to = tree::create_at(upper.work(), temp.name(), OFlags::RDWR, source.metadata.mode_at_first())?;
        let staged = Staged::Open(to.as_fd());
        // Before the mark `metacopy`, whose value is the same for all copies: ext4 has room for one mark beside the
        // inode, and files share a block that holds the same marks.
        mark(staged)?;
        // A file that is emptied needs no data.
        let below = if how.len == Some(0) { None } else { self.meta_source(source.leaf)? };
        let file = below.as_ref().unwrap_or(&source.lower);
        let cheap = source.redirect.is_some() && upper.features.crowds_marks && !upper.syncs_data() && !how.data;
        let mut written = cheap && (1..=SMALL).contains(&size) && copy_at_hand(file, to.as_fd(), size)?;
        let meta = if how.data || written || size == 0 {
            None
        } else {
            // Not where the mode would say that everybody can read data that nobody can.
            check_file(file, source.metadata.stat.mode, how.mode)?;
            if self.owners.takes(&source.lower.stat) && !overrides_modes() {
                file.place.open_file(file.stat.ino, OFlags::RDONLY)?;
            }
            self.stage_meta(upper, staged, source.leaf, (file, source.redirect.clone()))?
        };
        if meta.is_some() {
            data::truncate(to.as_fd(), size)?;
        } else if len > 0 && !written {
            let from = file.place.open_file(file.stat.ino, OFlags::RDONLY)?;
            let whole = len == size && below.is_none();
            let (synced, interrupt) = (upper.syncs_data(), &how.killed());
            let shared = copy_data(from.as_fd(), to.as_fd(), CopyData { len, whole, synced, interrupt })?;
            written = !(shared && upper.features.orders_clones);
        }
        let set = source.metadata.apply(staged, false);
        let applied = set.inspect_err(|errno| log::info!("{:?} is not copied up: {errno}", source.lower.place))?;
        if meta.is_none() && below.is_some_and(|file| file.place.dir.layer.nosuid) {
            // Set-user-id and capabilities were not shown for data of a `nosuid` layer, and the copy must not have
            // them.
            clear_privileges(to.as_fd(), upper.owners(), &|_| false)?;
        }
        upper.sync_staged(to.as_fd(), written)?;
        Ok((meta, applied))
    }
}

impl CopyUp {
    /// Whether the caller is about to be killed; asked between the steps of a long copy.
    pub(super) fn killed(self) -> impl Fn() -> bool {
        killed(self.pid)
    }
}

/// Whether a SIGKILL is pending for the thread `pid`; never for 0, a thread that is not seen from here.
pub(super) fn killed(pid: u32) -> impl Fn() -> bool {
    move || pid != 0 && caller::sigkill_pending(pid)
}

/// A lower file to be copied.
struct Source<'a> {
    lower: LowerFile,
    leaf: &'a LeafBody,
    metadata: &'a Metadata,
    /// The mark by which the copy will find its data.
    redirect: Option<Redirect>,
}
