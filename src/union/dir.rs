//! Listing a directory.
//!
//! No directory stays open for a listing. A cookie is a hash of the name, so that a listing that was dropped comes out
//! in the same order when it is built again. The listing of a large directory is built a window at a time. A cookie has
//! 31 bits, for programs of 32 bits; `merge/places.rs` says how names with one cookie are parted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::ahead::Rest;
use super::{Attr, InodeId, Union};
use crate::base::sync::{Mutex, RwLockReadGuard, RwLockWriteGuard};
use crate::base::{Errno, Name, Result};
use crate::inode::{DirBody, Inode, MOST_INDEXED, Names};
use crate::merge::{self, Answer, DirPart, DirView, Found, Listed};
use crate::sys::stat::Kind;

/// One entry of a listing.
#[derive(Debug)]
pub struct ListedEntry<'a> {
    /// `.`, `..` or a name.
    pub name: &'a [u8],
    /// The cookie by which a reader goes on after this entry.
    pub cookie: u64,
    /// Its inode number.
    pub id: InodeId,
    /// Its type.
    pub kind: Kind,
    /// Its attributes, if they were asked for; such an entry counts one lookup (but for `.` and `..`).
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

/// Names that listings and indexes may hold in memory before the oldest are let go.
const MOST_NAMES: usize = 1 << 20;
/// A directory with more names than this is a large one.
const LARGE: usize = 1 << 10;
/// Directories whose names may be in memory before the oldest are let go.
const MOST_DIRS: usize = 1 << 14;

/// Which directories have their names in memory, oldest first.
#[derive(Default)]
pub(super) struct ListingCache(Mutex<Held>);

#[derive(Default)]
struct Held {
    dirs: VecDeque<(InodeId, usize)>,
    names: usize,
}

impl Held {
    /// Enters a directory; returns the directories that must let their names go.
    fn enter(&mut self, dir: InodeId, names: usize) -> Vec<InodeId> {
        let mut old = Vec::new();
        // The next window of a large directory takes the place of the one before.
        if names > LARGE
            && let Some(at) = self.dirs.iter().position(|(held, _)| *held == dir)
            && let Some((_, names)) = self.dirs.remove(at)
        {
            self.names = self.names.saturating_sub(names);
        }
        self.dirs.push_back((dir, names));
        self.names += names;
        while (self.names > MOST_NAMES || self.dirs.len() > MOST_DIRS) && self.dirs.len() > 1 {
            let Some((dir, names)) = self.dirs.pop_front() else { break };
            self.names = self.names.saturating_sub(names);
            old.push(dir);
        }
        old
    }
}

impl Union {
    /// Enters a directory whose names were read. Where too many names are in memory those that were read first are
    /// forgotten.
    fn remembered(&self, dir: InodeId, names: usize) {
        let old = self.listings.0.lock().enter(dir, names);
        for dir in old.into_iter().filter_map(|id| self.table.get(id)) {
            if let Some(mut names) = dir.dir().ok().and_then(|dir| dir.names.try_write()) {
                names.forget();
            }
        }
    }

    /// Reads the names of a directory in which many names were looked up, so that later lookups need not search its
    /// parts.
    pub(super) fn index_names(&self, inode: &Arc<Inode>, body: &DirBody) {
        let mut names = body.names.write();
        let Ok(view) = body.live_view() else { return };
        if names.index().is_some() {
            return;
        }
        // Where a part cannot be listed the lookups report the error.
        let listing = merge::list_some(&view, &self.cookies, MOST_INDEXED).unwrap_or_default();
        let listing = listing.filter(merge::Listing::is_exact);
        names.set_index(&self.cookies, listing.as_ref());
        drop(names);
        self.remembered(inode.id, listing.map_or(0, |listing| listing.len()));
    }

    /// Lists the entries of a directory after `cookie` (0: from the start) into `sink` until the sink is full. With
    /// `plus` every entry comes with its attributes and counts one lookup.
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
        let mut at = merge::end_of(cookie.max(DOT_DOT));
        if at == merge::LAST {
            // The end, as programs of 32 bits know this offset.
            return Ok(());
        }
        let mut over = true;
        let mut ahead = None;
        loop {
            let names = self.again(|| self.listed(&inode, body, at))?;
            let (Some(listing), Ok(view)) = (names.listing(), body.live_view()) else { return Ok(()) };
            names.walked();
            let rest = match view.upper {
                None => ahead.get_or_insert_with(|| self.seen_ahead(&inode)),
                Some(_) => ahead.insert(Rest::default()),
            };
            let mut plain = Plain { union: self, dir: &inode, view: &view, last: None };
            for (place, name, listed) in listing.after(at) {
                over = false;
                let cookie = merge::cookie_of(place);
                let taken = match if plus { None } else { plain.entry(&name, &listed) } {
                    Some((id, kind)) => sink.add(&ListedEntry { name: name.as_bytes(), cookie, id, kind, attr: None }),
                    None => {
                        let seen = rest.take(place, &name);
                        self.list_one(&inode, &view, listing, (place, &name, &listed, seen), plus, sink)?
                    }
                };
                if !taken {
                    self.put_back(&inode, std::mem::take(rest));
                    return Ok(());
                }
            }
            if listing.is_last() {
                break;
            }
            at = listing.to();
        }
        if over && let Some(mut names) = body.names.try_write() {
            names.drop_listing();
        }
        Ok(())
    }

    fn dot<'a>(&self, inode: &Inode, plus: bool, name: &'a [u8], cookie: u64) -> Result<ListedEntry<'a>> {
        let attr = if plus { Some(self.attr(inode)?) } else { None };
        Ok(ListedEntry { name, cookie, id: inode.id, kind: Kind::Dir, attr })
    }

    /// The names of a directory, locked, with a listing that goes on after the place `after`. A removed directory has
    /// none.
    pub(super) fn listed<'a>(
        &self,
        inode: &Arc<Inode>,
        body: &'a DirBody,
        after: u64,
    ) -> Result<RwLockReadGuard<'a, Names>> {
        let goes_on = |names: &Names| names.listing().is_some_and(|listing| listing.goes_on(after));
        let names = body.names.read();
        if goes_on(&names) {
            return Ok(names);
        }
        drop(names);
        let mut names = body.names.write();
        let Ok(view) = body.live_view() else { return Ok(RwLockWriteGuard::downgrade(names)) };
        // Another walk may have read the window first.
        if goes_on(&names) {
            return Ok(RwLockWriteGuard::downgrade(names));
        }
        let window = names.next_window(after, self.names_at_once);
        let listing = merge::list(&view, &self.cookies, names.places(), window)?;
        let count = listing.len();
        names.set_listing(&self.cookies, listing, self.layers_stay());
        self.note_places(inode.id, &mut names);
        let names = RwLockWriteGuard::downgrade(names);
        self.remembered(inode.id, count);
        Ok(names)
    }

    /// Hands one name to the sink. True: the sink took the entry, or the name is gone. The caller holds the directory's
    /// `names`.
    fn list_one(
        &self,
        dir: &Arc<Inode>,
        view: &DirView,
        listing: &merge::Listing,
        (place, name, listed, seen): (u64, &Name, &Listed, Option<Found>),
        plus: bool,
        sink: &mut dyn DirSink,
    ) -> Result<bool> {
        let cookie = merge::cookie_of(place);
        let below = listing.below(place, listed).filter(|_| self.layers_stay());
        let look = || merge::lookup_in(&self.stack, view, name, usize::from(listed.slot), below);
        let found = match seen.map_or_else(look, |found| Ok(Answer::Found(found))) {
            Ok(Answer::Found(found)) => found,
            Ok(Answer::Absent(_)) => return Ok(true),
            // A name whose object cannot be looked at is listed without attributes.
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

/// Tells number and type of names from the entries of the layers' directories, where a look at the object would say the
/// same.
struct Plain<'a> {
    union: &'a Union,
    dir: &'a Inode,
    view: &'a DirView,
    /// The part that was asked for last: its slot, and the `st_dev` by which its numbers count.
    last: Option<(u16, Option<u64>)>,
}

impl Plain<'_> {
    fn entry(&mut self, name: &Name, listed: &Listed) -> Option<(InodeId, Kind)> {
        if let Some(inode) = self.union.table.by_name(self.dir.id, name) {
            return Some((inode.id, inode.kind));
        }
        // Where names of one lower object are files of their own, all but one get another number.
        let kind = listed.kind.filter(|_| self.union.table.hard_links.unite)?;
        let part = self.view.parts(usize::from(listed.slot)).next().map(|(_, part)| part)?;
        // Another file system may begin at a directory, and an upper directory may have its number from an origin.
        if kind == Kind::Dir && !(part.place.layer.isolated && listed.slot > 0) {
            return None;
        }
        let dev = match self.last {
            Some((slot, dev)) if slot == listed.slot => dev,
            _ => {
                let dev = numbers_of(part);
                self.last = Some((listed.slot, dev));
                dev
            }
        };
        Some((self.union.table.number_of(dev?, listed.ino)?, kind))
    }
}

/// The `st_dev` by which the numbers in a part's directory count; `None` where marks on the objects may say otherwise.
fn numbers_of(part: &DirPart) -> Option<u64> {
    let layer = &part.place.layer;
    let unmarked = layer.wh_names && !part.impure && layer.exact_names;
    part.place.stat_self().ok().map(|stat| stat.dev).filter(|dev| unmarked && *dev == layer.dev)
}
