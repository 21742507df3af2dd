//! Walks that a thread goes ahead of: it looks at the directories that are listed next, while the program and the thread
//! that serves it are busy with this one.
//!
//! It begins once some directories were listed in the order of a walk, in which each is followed by those in it, then by its
//! next sibling.

use std::collections::VecDeque;
use std::sync::Arc;

use super::worker::{Work, Worker};
use crate::union::{InodeId, Live};

/// Directories that are looked at ahead.
const AHEAD: usize = 4;
/// The thread is woken for so many.
const WORTH: usize = 2;
/// Directories listed in order before the thread goes ahead.
const EVIDENCE: u32 = 3;
/// Directories that a program may leave out.
const NEAR: usize = 64;
/// Directories that are known to come.
const MOST: usize = 1 << 12;

/// Goes ahead of walks.
pub struct Walk(Worker<Route>);

/// The directories of a walk.
#[derive(Debug, Default)]
struct Route {
    /// What is listed next is last.
    next: Vec<InodeId>,
    /// Directories that came in this order.
    streak: u32,
    /// Those that were looked at lately.
    done: VecDeque<InodeId>,
}

impl Walk {
    /// Starts the thread. Fails with `EAGAIN` where there can be no more threads.
    pub fn start(live: Arc<Live>) -> std::io::Result<Self> {
        let look = move |dir: InodeId| {
            if let Err(error) = live.enter().look_ahead(dir) {
                log::debug!("{} is not looked at ahead: {error}", dir.0);
            }
        };
        Worker::start("plyfs-walk", Route::default(), look).map(Self)
    }

    /// A program lists a directory from its beginning.
    pub fn lists(&self, dir: InodeId) {
        self.0.work().lists(dir);
    }

    /// It was given these directories in it. True where the thread had better be [woken](Self::wake).
    pub fn listed(&self, dirs: &[InodeId]) -> bool {
        let mut route = self.0.work();
        route.listed(dirs);
        route.todo().count() >= WORTH
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        self.0.wake();
    }
}

impl Work for Route {
    type Task = InodeId;

    fn next(&mut self) -> Option<InodeId> {
        let dir = self.todo().next()?;
        self.done.push_back(dir);
        if self.done.len() > 2 * AHEAD {
            self.done.pop_front();
        }
        Some(dir)
    }
}

impl Route {
    fn lists(&mut self, dir: InodeId) {
        let near = self.next.iter().rev().take(NEAR).position(|next| *next == dir);
        match near {
            Some(left_out) => {
                self.next.truncate(self.next.len() - left_out - 1);
                self.streak = if left_out == 0 { self.streak.saturating_add(1) } else { 0 };
            }
            None => {
                self.next.clear();
                self.streak = 0;
            }
        }
    }

    fn listed(&mut self, dirs: &[InodeId]) {
        self.next.extend(dirs.iter().rev());
        let many = self.next.len().saturating_sub(MOST);
        self.next.drain(..many);
    }

    /// What is worth looking at, the next one first.
    fn todo(&self) -> impl Iterator<Item = InodeId> {
        let sure = self.streak >= EVIDENCE;
        let next = self.next.iter().rev().take(if sure { AHEAD } else { 0 });
        next.filter(|dir| !self.done.contains(dir)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::Shared;
    use super::*;

    fn ids(ids: &[u64]) -> Vec<InodeId> {
        ids.iter().copied().map(InodeId).collect()
    }

    #[test]
    fn directories_are_looked_at_ahead_of_who_lists_each_before_its_next_sibling() {
        let mut route = Route::default();
        let mut go = |dir: u64, dirs: &[u64]| {
            route.lists(InodeId(dir));
            route.listed(&ids(dirs));
            route.todo().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(go(1, &[2, 3, 4]), [0; 0]);
        assert_eq!(go(2, &[5, 6]), [0; 0]);
        assert_eq!(go(5, &[]), [0; 0]);
        assert_eq!(go(6, &[]), [3, 4]);
        assert_eq!(go(3, &[7, 8, 9, 10, 11]), [7, 8, 9, 10]);
        assert_eq!(go(8, &[]), [0; 0], "one is left out");
        assert_eq!((go(9, &[]), go(10, &[]), go(11, &[12])), (vec![], vec![], vec![12, 4]));
        assert_eq!(go(99, &[100]), [0; 0], "elsewhere");
    }

    #[test]
    fn each_is_looked_at_once() {
        let route = Route { next: ids(&[3, 2, 1]), streak: EVIDENCE, ..Route::default() };
        let shared = Shared::new(route);
        assert_eq!([shared.wait(), shared.wait(), shared.wait()], [1, 2, 3].map(|id| Some(InodeId(id))));
        assert_eq!(shared.work.lock().todo().count(), 0);
        shared.end();
        assert_eq!(shared.wait(), None);
    }
}
