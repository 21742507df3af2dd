//! The union that goes on after a step: with other layers, and the same live inodes.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::Stands;
use super::disk::Ready;
use super::labels::Levels;
use super::returned::Notes;
use crate::base::{Errno, Result};
use crate::format::commits::Why;
use crate::layer::{DirPlace, Layer};
use crate::merge::{DirPart, DirView, Stack, Traps};
use crate::sys::stat::stat_fd;
use crate::union::blocks::{ByBlocks, Completed};
use crate::union::indexing::open_index;
use crate::union::refusal::{Setup, SetupError};
use crate::union::roots::open_one_frozen;
use crate::union::{Union, ground};
use crate::upper::Upper;
use crate::upper::commits::{Broken, Commits};

fn failed(errno: Errno) -> SetupError {
    SetupError::new("workdir/commits", errno.to_string(), "nothing has changed")
}

/// How often files that arrive by blocks are looked for anew, where some were not completed.
const PASSES: usize = 2;

/// Refuses a step as long as files arrive by blocks that cannot be completed.
pub(super) fn are_complete(done: Completed) -> Setup<()> {
    if done.failed == 0 {
        return Ok(());
    }
    let reason = format!("{} files that arrive by blocks cannot be completed", done.failed);
    Err(SetupError::new("copyup_block", reason, "plyfs complete tells which"))
}

impl Union {
    /// Completes, before a step, what no commit can hold. Requests go on meanwhile.
    ///
    /// # Errors
    /// Files that arrive by blocks cannot be completed; some names of hard links cannot be found or made.
    pub(super) fn make_whole(&self) -> Setup<()> {
        if self.upper().is_err() {
            return Ok(());
        }
        self.complete_blocks_there()?;
        if self.has_unlinked().map_err(failed)? || self.check_names().is_err() {
            let links =
                |errno: Errno| SetupError::new("hard links of lower files", errno.to_string(), "nothing has changed");
            self.alias_all_names().map_err(links)?;
        }
        Ok(())
    }

    /// Completes the files that arrive by blocks. Requests go on meanwhile.
    ///
    /// # Errors
    /// Some cannot be completed.
    pub(super) fn complete_blocks_there(&self) -> Setup<()> {
        if !self.upper().is_ok_and(Upper::has_records) {
            return Ok(());
        }
        let mut done = self.complete_those_there().map_err(failed)?;
        // What was renamed or removed meanwhile is no failure.
        for _ in 0..PASSES {
            if done.failed > 0 {
                done = self.complete_those_there().map_err(failed)?;
            }
        }
        are_complete(done)
    }

    /// Does a step on disk, and makes the union for it. Nothing in memory has changed yet.
    ///
    /// # Errors
    /// Why it cannot be done; then nothing has changed.
    pub(super) fn succeed(&self, ready: &mut Ready) -> Setup<Union> {
        self.take_nameless_from_index().and_then(|()| self.check_names()).map_err(|errno| {
            SetupError::new("index", errno.to_string(), "files with several names are open whose names are not known")
        })?;
        let chain = self.layers_after(ready)?;
        if !ready.mounts.is_empty() {
            let parts = chain.iter().map(|(_, part)| part.clone()).collect();
            let stack = self.stack_of(parts, ready).map_err(failed)?;
            // The next upper layer is empty.
            let root = DirView { upper: None, redirect: None, lowers: stack.lowers.clone() };
            self.check_mounts(&stack, &root, &ready.mounts)?;
        }
        ready.successor.exchange().map_err(|errno| {
            SetupError::new("upperdir", errno.to_string(), "the directory that holds it must be writable")
        })?;
        // Whatever went wrong, the old layers are right.
        self.succeed_on_disk(ready, chain).inspect_err(|_| self.undo_exchange(ready))
    }

    /// Puts the old layers back after a step that failed, here or elsewhere.
    pub(super) fn undo_exchange(&self, ready: &mut Ready) {
        let back = ready.successor.take_back().and_then(|()| match (&self.stands.workdir, &self.stack.index) {
            (Some(workdir), Some(_)) => ready.successor.put_index_back(workdir.as_fd()),
            _ => Ok(()),
        });
        if let Err(errno) = back.map_or_else(|errno| if errno == Errno::ENOENT { Ok(()) } else { Err(errno) }, Ok) {
            log::error!("a step that failed is not taken back: {errno}");
        }
    }

    fn succeed_on_disk(&self, ready: &Ready, chain: Vec<(u64, DirPart)>) -> Setup<Union> {
        let upper = self.upper().map_err(failed)?;
        let root = open_again(ready, &upper.root.layer).map_err(failed)?;
        let next = upper.successor(root.clone()).map_err(failed)?;
        let workdir = self.stands.workdir.as_ref().ok_or(Errno::EROFS).map_err(failed)?;
        let mut stack = self.stack_of(chain.iter().map(|(_, part)| part.clone()).collect(), ready).map_err(failed)?;
        if self.stack.index.is_some() {
            ready.successor.put_index_aside(workdir.as_fd()).map_err(failed)?;
            let mut notes = Vec::new();
            stack.index = open_index(&self.stands.config, &next, workdir.as_fd(), &stack, &mut notes)?;
            if stack.index.is_none() {
                return Err(SetupError::new("index", notes.join("; "), "nothing has changed"));
            }
        }
        let stands = self.stands_after(ready, chain.iter().map(|(number, _)| *number).collect()).map_err(failed)?;
        Ok(self.next(Some(next), stack, stands))
    }

    /// A union that goes on where this one ends.
    pub(super) fn next(&self, upper: Option<Upper>, stack: Stack, stands: Stands) -> Union {
        let top = upper.as_ref().map(|upper| &upper.root).or_else(|| Some(&stack.lowers.first()?.place));
        Union {
            table: self.table.clone(),
            top: top.unwrap_or(&self.top).clone(),
            stack,
            upper,
            work: self.work.clone(),
            fds: self.fds.clone(),
            cookies: self.cookies,
            listings: Default::default(),
            ahead: Default::default(),
            topology: Default::default(),
            owners: self.owners.clone(),
            noacl: self.noacl,
            noxattrs: self.noxattrs,
            asked_for_acls: self.asked_for_acls,
            static_nlink: self.static_nlink,
            by_blocks: ByBlocks::like(&self.by_blocks),
            timeouts: self.timeouts,
            names_at_once: self.names_at_once,
            notices: self.notices.clone(),
            journal: self.journal.clone(),
            notes: self.notes.clone(),
            stands,
            superseded: AtomicBool::new(false),
            linked: Default::default(),
            stirred: Default::default(),
            unsynced: AtomicBool::new(self.unsynced.load(Relaxed)),
        }
    }

    /// The frozen layers after a step, with their numbers, the topmost first. Their levels are set later.
    fn layers_after(&self, ready: &Ready) -> Setup<Vec<(u64, DirPart)>> {
        let numbers = match ready.stand.on {
            on if on == ready.successor.number => [&[on], &self.stands.frozen[..]].concat(),
            0 => Vec::new(),
            on => {
                let broken = |broken: Broken| SetupError::new(format!("commit {}", broken.commit), broken.reason(), "");
                self.commits_now()?.numbers_beneath(on).map_err(broken)?
            }
        };
        numbers.into_iter().map(|number| Ok((number, self.layer_of(number, ready)?))).collect()
    }

    fn commits_now(&self) -> Setup<Commits> {
        let workdir = self.stands.workdir.as_ref().ok_or(Errno::EROFS).map_err(failed)?;
        Commits::open(workdir.as_fd(), self.stands.own).map_err(failed)
    }

    /// The root of the layer of one commit: one that is open already, or one that must be opened.
    fn layer_of(&self, number: u64, ready: &Ready) -> Setup<DirPart> {
        if number == ready.successor.number {
            let root = self.table.get(crate::inode::InodeId::ROOT).and_then(|root| root.dir().ok()?.view().upper);
            return root.ok_or(Errno::EROFS).map_err(failed);
        }
        self.commit_part(number)
    }

    /// The same of a commit that is there.
    pub(super) fn commit_part(&self, number: u64) -> Setup<DirPart> {
        let place = self.stands.frozen.iter().position(|&one| one == number);
        if let Some(part) = place.and_then(|place| self.stack.lowers.get(place)) {
            return Ok(part.clone());
        }
        let dirs = self.stands.config.upper.as_ref().ok_or(Errno::EROFS).map_err(failed)?;
        let frozen = self.commits_now()?.frozen(number).map_err(failed)?;
        let root = open_one_frozen((&self.stands.config, dirs), number, frozen.root)?.isolate(false);
        root.into_lower(&self.stands.common, 1, true).map(|(part, _)| part)
    }

    /// The stack in which these frozen layers are on top of the lower layers that were given.
    fn stack_of(&self, frozen: Vec<DirPart>, ready: &Ready) -> Result<Stack> {
        let given = self.stack.lowers.iter().skip(self.stands.frozen.len()).cloned();
        let all = frozen.into_iter().chain(given).enumerate();
        let lowers: Vec<DirPart> = all.map(|(at, part)| DirPart { level: at + 1, ..part }).collect();
        // An empty layer goes, and another directory may get its number.
        let stays = ready.aim.why != Why::Empty;
        let own = if stays { Some(ground::id(ready.root.as_fd())?) } else { None };
        let traps = Traps { upper: self.stack.traps.upper.iter().copied().chain(own).collect() };
        Ok(Stack {
            lowers: lowers.into(),
            data_only: self.stack.data_only.clone(),
            index: None,
            follow_redirect: self.stack.follow_redirect,
            follow_metacopy: self.stack.follow_metacopy,
            verity: self.stack.verity,
            traps,
        })
    }

    fn stands_after(&self, ready: &Ready, frozen: Vec<u64>) -> Result<Stands> {
        let old = &self.stands;
        // The lock on the work directory stays, and that on the upper one is the new one's.
        let work = old.locks.last().map(|lock| lock.try_clone()).transpose()?;
        let locks = [Some(ready.lock.try_clone()?), work].into_iter().flatten().collect();
        Ok(Stands {
            config: old.config.clone(),
            frozen,
            written: old.written.clone(),
            workdir: old.workdir.as_ref().map(|dir| dir.try_clone()).transpose()?,
            own: old.own,
            common: old.common.clone(),
            locks,
            places: old.places.clone(),
        })
    }

    /// Takes the live inodes over from the union before. What the kernel must be told of it is returned.
    pub(super) fn take_over(self, old: &Union, ready: &Ready) -> (Union, Notes) {
        if old.stack.index.is_some() {
            old.move_out_of_index();
            if let Err(errno) = ready.successor.remove_index() {
                log::info!("the index of a frozen layer stays until the next mount: {errno}");
            }
        }
        if let (Ok(upper), Some(written), Ok(stat)) = (old.upper(), self.stands.written.first(), ready.successor.stat())
        {
            upper.root.layer.freeze();
            written.ino.store(stat.ino, Relaxed);
        }
        self.table.upper_has_lower_beside();
        self.has_unsynced();
        let upper = self.upper.as_ref().map(|upper| DirPart {
            place: upper.root.clone(),
            level: 0,
            xattr_whiteouts: upper.style == crate::upper::WhiteoutStyle::Xattr,
            impure: false,
        });
        let root = DirView { upper, redirect: None, lowers: self.stack.lowers.clone() };
        let lost = self.relabel(&root, old);
        let added = Levels::of(&old.stack);
        let notes = self.returned(
            lost,
            &|part| {
                let is_own = old.upper().is_ok_and(|upper| Arc::ptr_eq(&upper.root.layer, &part.place.layer));
                !is_own && !added.has(&part.place.layer)
            },
            Vec::new(),
        );
        (self, notes)
    }
}

/// The root of the next upper layer, as a directory of a layer of its own.
fn open_again(ready: &Ready, like: &Layer) -> Result<Arc<DirPlace>> {
    let fd = ready.successor.root.try_clone()?;
    let ino = stat_fd(fd.as_fd())?.ino;
    Ok(DirPlace::root(Arc::new(like.sibling()), fd, ino))
}
