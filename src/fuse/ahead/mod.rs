//! What is read and looked at before a program asks for it. [`Ahead`] is told of four things that happen to files; what it
//! makes of that is its own affair, and never changes an answer.

mod guard;
mod order;
mod prefetch;
mod push;
mod random;
mod relist;
mod store;
mod walk;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use self::prefetch::Prefetch;
use self::relist::Relist;
use self::walk::Walk;
use super::turns::Turns;
use crate::base::Result;
use crate::sys::newer::{self, Newer};
use crate::sys::processors;
use crate::sys::stat::Kind;
use crate::union::{InodeId, ListedEntry, Live, Operation};

pub use guard::Guard;
pub use store::Landing;

/// Who reads ahead. Off, which it is until it is [started](Self::start), it does nothing.
#[derive(Default)]
pub struct Ahead(OnceLock<On>);

struct On {
    live: Arc<Live>,
    relist: Relist,
    walk: Option<Walk>,
    files: Option<Prefetch>,
}

impl Ahead {
    /// Switches it on. `guarded`: where files may be read ahead, the connection and its guard.
    pub fn start(&self, live: &Arc<Live>, turns: &Arc<Turns>, guarded: Option<(&OwnedFd, Guard)>) {
        let failed = |error: &io::Error| log::info!("nothing is read before it is asked for: {error}");
        // Else nothing holds that was read before, and a lookup that finds other attributes may wait for a READ's page.
        let stays = live.enter().layers_stay();
        let walk = (stays && processors::count() > 1).then(|| Walk::start(live.clone()));
        let guarded = guarded.filter(|_| stays && !newer::is_absent(Newer::NoOpen));
        let files = guarded.map(|guarded| Prefetch::start(live, guarded, turns));
        let _ = self.0.set(On {
            live: live.clone(),
            relist: Relist::default(),
            walk: walk.and_then(|walk| walk.inspect_err(failed).ok()),
            files: files.and_then(|files| files.inspect_err(failed).ok()),
        });
    }

    /// The view is unmounted.
    pub fn finish(&self) {
        self.files().into_iter().for_each(Prefetch::finish);
    }

    /// Whether files are read ahead.
    pub fn reads_files(&self) -> bool {
        self.files().is_some()
    }

    fn files(&self) -> Option<&Prefetch> {
        self.0.get()?.files.as_ref()
    }

    /// A program lists a directory, from its beginning or from somewhere else. It is given nothing yet.
    pub fn listed(&self, dir: InodeId, from_beginning: bool) -> Listed<'_> {
        let on = self.0.get();
        if let (true, Some(walk)) = (from_beginning, on.and_then(|on| on.walk.as_ref())) {
            walk.lists(dir);
        }
        Listed { on, dirs: Vec::new() }
    }

    /// A READ arrived and is not answered yet. `ENOMEM`: it must fail.
    pub fn read(&self, id: InodeId, offset: u64, size: u32) -> Result<()> {
        let Some(on) = self.0.get() else { return Ok(()) };
        if offset == 0 {
            on.relist.read(&on.live.enter(), id);
        }
        on.files.as_ref().map_or(Ok(()), |files| files.read(id, offset, u64::from(size)))
    }

    /// A request arrived, and nothing was done for it yet. Where it changes a file's data, or lets a program change it, nothing
    /// is read ahead of that file any more. `ENOMEM`: the request must fail. A [`Landing`]: it must wait for that.
    pub fn changing(&self, operation: &Operation) -> Result<Option<Landing<'_>>> {
        self.files().map_or(Ok(None), |files| files.changing(operation))
    }

    /// The kernel forgets an inode.
    pub fn forget(&self, id: InodeId) {
        self.files().into_iter().for_each(|files| files.forget(id));
    }
}

/// What a program is given of a directory.
pub struct Listed<'a> {
    on: Option<&'a On>,
    /// The directories among it.
    dirs: Vec<InodeId>,
}

impl Listed<'_> {
    /// The program is given this entry.
    pub fn add(&mut self, entry: &ListedEntry<'_>) {
        let (Some(on), Some(attr)) = (self.on, &entry.attr) else { return };
        match (attr.kind, &on.files) {
            (Kind::Dir, _) if on.walk.is_some() && !matches!(entry.name, b"." | b"..") => self.dirs.push(entry.id),
            (Kind::File, Some(files)) => files.listed(entry.id, attr),
            _ => {}
        }
    }

    /// That was all: `answer` answers the program.
    pub fn end(self, answer: impl FnOnce()) {
        let walk = self.on.and_then(|on| on.walk.as_ref());
        // Before the next request can come. The thread is woken later, so that the program is not kept waiting.
        let wake = walk.is_some_and(|walk| walk.listed(&self.dirs));
        answer();
        walk.filter(|_| wake).into_iter().for_each(Walk::wake);
    }
}
