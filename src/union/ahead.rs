//! Directories that are looked at before a program lists them.
//!
//! What was found holds as long as the layers do. So only directories without an upper part are looked at: their names lead
//! to what lower layers have. A file with several names is left out, as a change by another of its names must be seen.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{InodeId, Union};
use crate::base::sync::Mutex;
use crate::base::{Name, Result};
use crate::inode::{DirBody, Inode};
use crate::merge::{self, Answer, Found};

/// Directories whose names may be known ahead, and names of one.
const MOST_DIRS: usize = 8;
const MOST_NAMES: usize = 512;

/// The directories that were looked at, oldest first.
#[derive(Default)]
pub(super) struct Ahead(Mutex<VecDeque<Arc<Seen>>>);

/// What was found in a directory, in the order of its listing.
struct Seen {
    dir: Arc<Inode>,
    found: Mutex<VecDeque<(u64, Name, Found)>>,
    /// Somebody lists it.
    taken: AtomicBool,
}

/// A name: its place, the slot of its topmost part, and the slots below that have one, where known.
type ToLookAt = (u64, Name, usize, Option<Vec<usize>>);

/// What of it the program that lists the directory has not taken yet.
#[derive(Default)]
pub(super) struct Rest(VecDeque<(u64, Name, Found)>);

impl Rest {
    /// What was found by this name. The names are asked for in the order of the listing.
    pub fn take(&mut self, place: u64, name: &Name) -> Option<Found> {
        while self.0.front().is_some_and(|(at, _, _)| *at < place) {
            self.0.pop_front();
        }
        let (at, known, _) = self.0.front()?;
        if *at != place || known != name {
            return None;
        }
        self.0.pop_front().map(|(_, _, found)| found)
    }
}

impl Union {
    /// Looks at what is in a directory, so that who lists it next need not.
    ///
    /// # Errors
    /// What reading the layers says; it means nothing.
    pub fn look_ahead(&self, id: InodeId) -> Result<()> {
        let dir = self.inode(id)?;
        let body = dir.dir()?;
        let view = body.live_view()?;
        if !self.layers_stay() || view.upper.is_some() {
            return Ok(());
        }
        let seen = Arc::new(Seen { dir: dir.clone(), found: Mutex::default(), taken: AtomicBool::new(false) });
        self.ahead.enter(&seen);
        for (place, name, slot, below) in self.to_look_at(&dir, body)? {
            if seen.taken.load(Relaxed) {
                break;
            }
            let below = below.map(Vec::into_iter);
            let found = match merge::lookup_in(&self.stack, &view, &name, slot, below) {
                Ok(Answer::Found(found)) => found,
                _ => continue,
            };
            let alone = match &found {
                Found::Dir(_) => true,
                Found::Leaf(leaf) => leaf.stat.nlink == 1,
            };
            if alone {
                seen.found.lock().push_back((place, name, found));
            }
        }
        Ok(())
    }

    /// The first names of a directory: where to look for each, taken along, so that nobody waits for its lock meanwhile.
    fn to_look_at(&self, dir: &Arc<Inode>, body: &DirBody) -> Result<Vec<ToLookAt>> {
        let names = self.listed(dir, body, 0)?;
        let Some(listing) = names.listing() else { return Ok(Vec::new()) };
        let each = listing.after(0).take(MOST_NAMES).map(|(place, name, listed)| {
            let below = listing.below(place, &listed).map(Iterator::collect);
            (place, name, usize::from(listed.slot), below)
        });
        Ok(each.collect())
    }

    /// What was found in a directory that is being listed. The caller holds its `names`; it has no upper part.
    pub(super) fn seen_ahead(&self, dir: &Arc<Inode>) -> Rest {
        self.ahead.take(dir).map(|seen| Rest(std::mem::take(&mut *seen.found.lock()))).unwrap_or_default()
    }

    /// Keeps what is left for the program that goes on with the listing.
    pub(super) fn put_back(&self, dir: &Arc<Inode>, rest: Rest) {
        if !rest.0.is_empty() {
            let found = Mutex::new(rest.0);
            self.ahead.enter(&Arc::new(Seen { dir: dir.clone(), found, taken: AtomicBool::new(true) }));
        }
    }

    /// A directory is known no longer.
    pub(super) fn not_ahead(&self, dir: &Arc<Inode>) {
        self.ahead.take(dir);
    }
}

impl Ahead {
    /// Forgets all that was found.
    pub fn forget(&self) {
        self.0.lock().clear();
    }

    fn enter(&self, seen: &Arc<Seen>) {
        let mut all = self.0.lock();
        all.push_back(seen.clone());
        if all.len() > MOST_DIRS {
            all.pop_front();
        }
    }

    fn take(&self, dir: &Arc<Inode>) -> Option<Arc<Seen>> {
        let mut all = self.0.lock();
        let at = all.iter().position(|seen| Arc::ptr_eq(&seen.dir, dir))?;
        let seen = all.remove(at)?;
        seen.taken.store(true, Relaxed);
        Some(seen)
    }
}
