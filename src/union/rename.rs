//! Rename: plain, without replacing, exchanging, and leaving a whiteout.
//!
//! What moves is copied up first ([`Rename::prepare`]); then both directories are locked and the layer is changed
//! ([`Move`]); at last the names and the kernel are told.

use std::sync::Arc;

use super::copy_up::CopyUp;
use super::indexed::unless_foreign;
use super::moving::{Move, Moved};
use super::protect::Change;
use super::resent::or_gone_before;
use super::{Caller, InodeId, Union};
use crate::base::{Errno, Name, Result};
use crate::inode::{Body, Inode, PairGuard, lock_names};
use crate::sys::stat::Kind;
use crate::sys::tree::RenameFlags;
use crate::upper::Upper;

/// A rename as it was asked for.
struct Rename<'a> {
    union: &'a Union,
    upper: &'a Upper,
    caller: &'a Caller,
    from: Spot<'a>,
    to: Spot<'a>,
    flags: RenameFlags,
}

/// A name in a directory.
struct Spot<'a> {
    parent: Arc<Inode>,
    name: &'a Name,
}

impl Union {
    /// Moves `name` of one directory to `new_name` of another.
    ///
    /// `flags` are those of `renameat2(2)`: `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`.
    ///
    /// # Errors
    /// `EXDEV` for a directory that has lower parts where the upper layer cannot say what they are (`redirect_dir`);
    /// `EEXIST`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `ENOENT`, `EINVAL`, `EROFS`; what copy-up and the system calls say, and
    /// then nothing has moved.
    #[allow(clippy::too_many_arguments)]
    pub fn rename(
        &self,
        caller: &Caller,
        parent: InodeId,
        name: &Name,
        new_parent: InodeId,
        new_name: &Name,
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.contains(RenameFlags::EXCHANGE) && flags != RenameFlags::EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let upper = self.upper()?;
        self.check_name(new_name)?;
        if flags.contains(RenameFlags::EXCHANGE) && self.was_exchanged(caller, parent, name) {
            return Ok(());
        }
        let from = Spot { parent: self.inode(parent)?, name };
        let to = Spot { parent: self.inode(new_parent)?, name: new_name };
        let rename = Rename { union: self, upper, caller, from, to, flags };
        or_gone_before(caller, Errno::ENOENT, self.again(|| rename.run()))
    }

    /// The inode under a name, held: the live one, or one that a lookup finds. Another one may be there once the name is
    /// locked.
    fn held(&self, parent: &Arc<Inode>, name: &Name) -> Result<Arc<Inode>> {
        let known = self.table.by_name(parent.id, name).filter(|_| self.layers_stay());
        match known.filter(|inode| self.table.hold(inode)) {
            Some(inode) => Ok(inode),
            None => self.inode(self.lookup(parent.id, name)?.ok_or(Errno::ENOENT)?.id),
        }
    }
}

impl Rename<'_> {
    fn is_exchange(&self) -> bool {
        self.flags.contains(RenameFlags::EXCHANGE)
    }

    fn stays_in_dir(&self) -> bool {
        Arc::ptr_eq(&self.from.parent, &self.to.parent)
    }

    /// Tries until no name leads elsewhere once it is locked (`EAGAIN`).
    fn run(&self) -> Result<()> {
        loop {
            match self.attempt() {
                Err(Errno::EAGAIN) => {}
                done => return done,
            }
        }
    }

    fn attempt(&self) -> Result<()> {
        let Self { union, from, to, .. } = self;
        let moves_dir = self.prepare()?;
        // Directories that change their parent change who is whose ancestor.
        let (_shared, _exclusive) = if moves_dir && !self.stays_in_dir() {
            (None, Some(union.topology.write()))
        } else {
            (Some(union.topology.read()), None)
        };
        if moves_dir {
            union.linked.note_moved_dir();
        }
        let mut names = lock_names(&from.parent, &to.parent)?;
        let step = self.look(&names)?;
        if step.to.inode.is_none() {
            union.owners.check_caller(self.caller)?;
        }
        names.first_mut().begin();
        names.second_mut().begin();
        if let Some(moved) = &step.from.inode {
            step.to.inode.iter().for_each(|target| union.note_detached(target));
            union.note_move(self.caller.request, moved.id, (from.parent.id, from.name), (to.parent.id, to.name));
        }
        let done = step.run();
        if matches!(done, Ok(Moved::All | Moved::WithoutDevice(_))) {
            let left = match (&step.to.inode, &done) {
                (_, Ok(Moved::WithoutDevice(_))) => None,
                (Some(other), _) if self.is_exchange() => Some(other.kind),
                _ => self.flags.contains(RenameFlags::WHITEOUT).then_some(Kind::Char),
            };
            self.enter(&mut names, &step, left);
            union.stir();
        }
        let ended = names.first_mut().end();
        union.note_places(from.parent.id, names.first_mut());
        let new_ended = names.second_mut().end();
        union.note_places(to.parent.id, names.second_mut());
        drop(names);
        union.changed(to.parent.id, new_ended);
        union.changed(from.parent.id, ended);
        for moved in [&step.from, &step.to].into_iter().filter_map(|side| side.inode.as_ref()) {
            // A directory's marks may take a block; the kernel asks for its time of change only.
            if done.is_err() || moved.kind == Kind::Dir || self.caller.resent {
                union.attributes_changed(moved.id);
            }
        }
        union.put(&step.from);
        union.put(&step.to);
        match done? {
            Moved::WithoutDevice(errno) => Err(errno),
            Moved::Nothing | Moved::All => Ok(()),
        }
    }

    /// Copies up both directories and what moves; true where a directory moves. No `names` are held.
    fn prepare(&self) -> Result<bool> {
        let Self { union, from, to, .. } = self;
        union.check_flags(&from.parent, Change::Other)?;
        union.check_flags(&to.parent, if self.is_exchange() { Change::Other } else { Change::Addition })?;
        union.copy_up_dir(&from.parent)?;
        union.copy_up_dir(&to.parent)?;
        let mut moves_dir = self.prepare_moved(from)?;
        if self.is_exchange() {
            moves_dir |= self.prepare_moved(to)?;
        }
        self.prepare_target()?;
        Ok(moves_dir)
    }

    /// Copies up what is under a name that moves; true for a directory.
    fn prepare_moved(&self, spot: &Spot<'_>) -> Result<bool> {
        let Self { union, upper, caller, .. } = self;
        let inode = union.held(&spot.parent, spot.name)?;
        let allowed = union.check_flags(&inode, Change::Other);
        let done = match &inode.body {
            _ if allowed.is_err() => allowed.map(|_| false),
            Body::Dir(dir) if !dir.view().lowers.is_empty() && !upper.redirect => Err(Errno::EXDEV),
            Body::Dir(_) => union.copy_up_dir(&inode).map(|()| true),
            Body::Leaf(leaf) => {
                let (data, renamed) = (leaf.state.lock().is_stuck(), self.stays_in_dir());
                let how = CopyUp { data, renamed, flags: allowed.ok().flatten(), ..CopyUp::metadata(caller) };
                union.copy_up(&inode, &how).map(|()| false)
            }
        };
        union.forget(inode.id, 1);
        done
    }

    /// Copies up a target that the index must know before the target loses its name.
    fn prepare_target(&self) -> Result<()> {
        let Self { union, to, caller, .. } = self;
        if union.stack.index.is_none() {
            return Ok(());
        }
        let Some(entry) = union.lookup(to.parent.id, to.name)? else { return Ok(()) };
        let inode = union.inode(entry.id)?;
        let lower = inode.leaf().ok().and_then(|leaf| leaf.state.lock().lower().cloned());
        let links = entry.attr.nlink.into();
        let indexed = lower.is_some_and(|lower| union.is_indexed(&lower.place.dir.layer, inode.kind, links));
        let done = if indexed { union.copy_up(&inode, &CopyUp::metadata(caller)) } else { Ok(()) };
        union.forget(entry.id, 1);
        unless_foreign(done)
    }

    /// Looks up both sides under their names.
    fn look(&self, names: &PairGuard<'_>) -> Result<Move<'_>> {
        let Self { union, upper, from, to, flags, .. } = self;
        let (known, new_known) = names.both();
        let from = union.side(known, &from.parent, from.name)?;
        let to = union.side(new_known, &to.parent, to.name).inspect_err(|_| union.put(&from))?;
        Ok(Move { union, upper, from, to, flags: *flags })
    }

    /// Enters what was moved into the names of both directories; `left` is the kind of what stands at the old name now.
    fn enter(&self, names: &mut PairGuard<'_>, step: &Move<'_>, left: Option<Kind>) {
        let cookies = &self.union.cookies;
        let old = names.first_mut();
        match left {
            Some(kind) => old.raised(cookies, self.from.name, kind),
            None => old.removed(cookies, self.from.name),
        }
        old.replaced();
        let new = names.second_mut();
        match &step.from.inode {
            Some(moved) if step.to.inode.is_some() => new.raised(cookies, self.to.name, moved.kind),
            Some(moved) => new.added(cookies, self.to.name, moved.kind),
            None => {}
        }
        new.replaced();
    }
}
