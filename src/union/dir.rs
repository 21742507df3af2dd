//! Listing a directory.
//!
//! No open directory is kept: a cookie is a hash of the name, so that a listing that was let go of comes out in the
//! same order when it is built again.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::{Attr, InodeId, Union};
use crate::base::sync::{Mutex, RwLockReadGuard, RwLockWriteGuard};
use crate::base::{Errno, Name, Result};
use crate::inode::{DirBody, Inode, Names};
use crate::merge::{self, Answer, DirView, Listed};
use crate::sys::stat::Kind;

/// One entry of a listing.
#[derive(Debug)]
pub struct ListedEntry<'a> {
    /// `.`, `..` or a name.
    pub name: &'a [u8],
    /// Where to go on after it.
    pub cookie: u64,
    /// Its inode number.
    pub id: InodeId,
    /// Its type.
    pub kind: Kind,
    /// Its attributes where they were asked for; then the entry counts one lookup (not for `.` and `..`).
    pub attr: Option<Attr>,
}

/// Takes entries until it is full.
pub trait DirSink {
    /// False where there was no room for the entry.
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool;
}

/// Cookies of the first two entries.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// Names that listings may hold in memory before the oldest are let go.
const MOST_NAMES: usize = 1 << 20;
/// The same for the directories that have a listing.
const MOST_DIRS: usize = 1 << 14;

/// Which directories have a listing in memory, oldest first.
#[derive(Default)]
pub(super) struct ListingCache(Mutex<Held>);

#[derive(Default)]
struct Held {
    dirs: VecDeque<(Weak<Inode>, usize)>,
    names: usize,
}

impl ListingCache {
    /// Enters a directory whose listing was built; the oldest lose theirs where there are too many names.
    fn built(&self, dir: &Arc<Inode>, names: usize) {
        let mut old = Vec::new();
        {
            let mut held = self.0.lock();
            held.dirs.push_back((Arc::downgrade(dir), names));
            held.names += names;
            while (held.names > MOST_NAMES || held.dirs.len() > MOST_DIRS) && held.dirs.len() > 1 {
                let Some((dir, names)) = held.dirs.pop_front() else { break };
                held.names = held.names.saturating_sub(names);
                old.push(dir);
            }
        }
        for dir in old.iter().filter_map(Weak::upgrade) {
            if let Some(mut names) = dir.dir().ok().and_then(|dir| dir.names.try_write()) {
                names.listing = None;
            }
        }
    }
}

impl Union {
    /// Opens a directory; true where the kernel may fill and use its cache of the names for this open.
    ///
    /// The kernel looks whether its cache is out of date at the start of a walk only: a walk that is under way goes on in
    /// a cache that a slower reader from before a change has completed, and shows names that were gone when it began. So
    /// while a reader from before the last change is left, new opens do without.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`
    pub fn opendir(&self, id: InodeId) -> Result<bool> {
        let inode = self.inode(id)?;
        let mut names = inode.dir()?.names.write();
        if names.cache_is_stale && names.cached_opens > 0 {
            return Ok(false);
        }
        names.cache_is_stale = false;
        names.cached_opens += 1;
        Ok(true)
    }

    /// Closes a directory that was opened with the kernel's cache.
    ///
    /// # Errors
    /// `ENOTDIR`, `ESTALE`
    pub fn releasedir(&self, id: InodeId) -> Result<()> {
        let inode = self.inode(id)?;
        let mut names = inode.dir()?.names.write();
        names.cached_opens = names.cached_opens.saturating_sub(1);
        Ok(())
    }

    /// Lists a directory after `cookie` (0: from the start) into `sink` until it is full. With `plus` every entry
    /// comes with attributes and counts one lookup.
    ///
    /// # Errors
    /// `ENOTDIR`; what reading the layers says.
    pub fn readdir(&self, id: InodeId, cookie: u64, plus: bool, sink: &mut dyn DirSink) -> Result<()> {
        let inode = self.inode(id)?;
        let body = inode.dir()?;
        if cookie < DOT && !sink.add(&self.dot(&inode, plus, b".", DOT)?) {
            return Ok(());
        }
        if cookie < DOT_DOT {
            let parent = body.state.read().at.as_ref().map_or_else(|| inode.clone(), |(parent, _)| parent.clone());
            if !sink.add(&self.dot(&parent, plus, b"..", DOT_DOT)?) {
                return Ok(());
            }
        }
        let names = self.listed(&inode, body)?;
        let (Some(listing), Ok(view)) = (&names.listing, body.live_view()) else { return Ok(()) };
        let mut over = true;
        for (cookie, name, listed) in listing.after(cookie.max(DOT_DOT)) {
            over = false;
            if !self.list_one(&inode, &view, (cookie, name, listed), plus, sink)? {
                return Ok(());
            }
        }
        drop(names);
        if over && let Some(mut names) = body.names.try_write() {
            names.listing = None;
        }
        Ok(())
    }

    fn dot<'a>(&self, inode: &Inode, plus: bool, name: &'a [u8], cookie: u64) -> Result<ListedEntry<'a>> {
        let attr = if plus { Some(self.attr(inode)?) } else { None };
        Ok(ListedEntry { name, cookie, id: inode.id, kind: Kind::Dir, attr })
    }

    /// The names of a directory, with a listing unless it was removed.
    fn listed<'a>(&self, inode: &Arc<Inode>, body: &'a DirBody) -> Result<RwLockReadGuard<'a, Names>> {
        let names = body.names.read();
        if names.listing.is_some() {
            return Ok(names);
        }
        drop(names);
        let mut names = body.names.write();
        let Ok(view) = body.live_view() else { return Ok(RwLockWriteGuard::downgrade(names)) };
        let listing = merge::list(&view, &self.cookies)?;
        let count = listing.len();
        names.listing = Some(listing);
        let names = RwLockWriteGuard::downgrade(names);
        self.listings.built(inode, count);
        Ok(names)
    }

    /// True where the sink took the entry, or it is gone. The caller holds the directory's `names`.
    fn list_one(
        &self,
        dir: &Arc<Inode>,
        view: &DirView,
        (cookie, name, listed): (u64, &Name, &Listed),
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool> {
        let found = match merge::lookup_from(&self.stack, view, name, usize::from(listed.slot)) {
            Ok(Answer::Found(found)) => found,
            Ok(Answer::Absent(_)) => return Ok(true),
            // A name that cannot be looked at is a name all the same.
            Err(errno) => return Ok(self.list_unknown(name, cookie, listed, errno, sink)),
        };
        let entry = match self.enter(dir, name, &found) {
            Ok(entry) => entry,
            Err(Errno::ESTALE | Errno::ENOENT) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        let (kind, attr) = (entry.attr.kind, plus.then_some(entry.attr));
        let taken = sink.add(&ListedEntry { name: name.as_bytes(), cookie, id: entry.id, kind, attr });
        if !taken || !plus {
            self.forget(entry.id, 1);
        }
        Ok(taken)
    }

    fn list_unknown(&self, name: &Name, cookie: u64, listed: &Listed, errno: Errno, sink: &mut dyn DirSink) -> bool {
        log::info!("{name:?} is listed without attributes: {errno}");
        let id = self.table.spare_id();
        let kind = listed.kind.unwrap_or(Kind::File);
        sink.add(&ListedEntry { name: name.as_bytes(), cookie, id, kind, attr: None })
    }
}
