//! Listing a directory.
//!
//! No open directory is kept: a cookie is a hash of the name, so that a listing that was let go of comes out in the
//! same order when it is built again.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::{Attr, InodeId, Union};
use crate::base::sync::Mutex;
use crate::base::{Errno, Name, Result};
use crate::inode::{DirBody, Inode};
use crate::merge::{self, Answer, DirView, Listed, Listing};
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

/// Which directories have a listing in memory, oldest first.
#[derive(Default)]
pub(super) struct ListingCache {
    queue: Mutex<(VecDeque<(Weak<Inode>, usize)>, usize)>,
}

impl ListingCache {
    /// Enters a directory whose listing was built; the oldest lose theirs where there are too many names.
    fn built(&self, dir: &Arc<Inode>, names: usize) {
        let mut old = Vec::new();
        {
            let mut queue = self.queue.lock();
            queue.0.push_back((Arc::downgrade(dir), names));
            queue.1 += names;
            while queue.1 > MOST_NAMES && queue.0.len() > 1 {
                let Some((dir, names)) = queue.0.pop_front() else { break };
                queue.1 = queue.1.saturating_sub(names);
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
        let listing = self.listing(&inode, body, cookie < DOT)?;
        let Ok(view) = body.live_view() else { return Ok(()) };
        let rest = listing.after(cookie.max(DOT_DOT));
        for listed in rest {
            if !listed.removed() && !self.list_one(&inode, body, &view, listed, plus, sink)? {
                return Ok(());
            }
        }
        if rest.is_empty() && listing.len() > 0 {
            // The walk is over.
            if let Some(mut names) = body.names.try_write() {
                names.listing = None;
            }
        }
        Ok(())
    }

    fn dot<'a>(&self, inode: &Inode, plus: bool, name: &'a [u8], cookie: u64) -> Result<ListedEntry<'a>> {
        let attr = if plus { Some(self.attr(inode)?) } else { None };
        Ok(ListedEntry { name, cookie, id: inode.id, kind: Kind::Dir, attr })
    }

    /// The listing to go on with; a walk from the start sees all changes.
    fn listing(&self, inode: &Arc<Inode>, body: &DirBody, start: bool) -> Result<Arc<Listing>> {
        if let Some(listing) = cached(body, start) {
            return Ok(listing);
        }
        let mut names = body.names.write();
        let view = match body.live_view() {
            Ok(view) => view,
            // A removed directory has nothing.
            Err(_) => DirView { upper: None, lowers: Arc::new([]), impure: false },
        };
        let listing = Arc::new(merge::list(&view, &self.cookies)?);
        names.listing = Some(listing.clone());
        names.complete = true;
        drop(names);
        self.listings.built(inode, listing.len());
        Ok(listing)
    }

    /// True where the sink took the entry, or it is gone meanwhile.
    fn list_one(
        &self,
        dir: &Arc<Inode>,
        body: &DirBody,
        view: &DirView,
        listed: &Listed,
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool> {
        let names = body.names.read();
        // Where nothing was added or moved since, the layers above the one that has it need not be asked again.
        let from = if names.complete { usize::from(listed.slot) } else { 0 };
        let found = match merge::lookup_from(view, &listed.name, from) {
            Ok(Answer::Found(found)) => found,
            Ok(Answer::Absent(_)) => return Ok(true),
            // A name that cannot be looked at is a name all the same.
            Err(errno) => return Ok(self.list_unknown(&listed.name, listed, errno, sink)),
        };
        let entry = match self.enter(dir, &listed.name, &found) {
            Ok(entry) => entry,
            Err(Errno::ESTALE | Errno::ENOENT) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        drop(names);
        let (kind, attr) = (entry.attr.kind, plus.then_some(entry.attr));
        let name = listed.name.as_bytes();
        let taken = sink.add(&ListedEntry { name, cookie: listed.cookie, id: entry.id, kind, attr });
        if !taken || !plus {
            self.forget(entry.id, 1);
        }
        Ok(taken)
    }

    fn list_unknown(&self, name: &Name, listed: &Listed, errno: Errno, sink: &mut dyn DirSink) -> bool {
        log::info!("{name:?} is listed without attributes: {errno}");
        let id = self.table.spare_id();
        let kind = listed.kind.unwrap_or(Kind::File);
        sink.add(&ListedEntry { name: name.as_bytes(), cookie: listed.cookie, id, kind, attr: None })
    }
}

fn cached(body: &DirBody, start: bool) -> Option<Arc<Listing>> {
    let names = body.names.read();
    if start && !names.complete { None } else { names.listing.clone() }
}
