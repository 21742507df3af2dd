//! Files that nobody has changed yet: each is used once, and when all are used up, the upper layer and what stands over it
//! are made anew, outside of the time.

use std::time::{Duration, Instant};

/// `T` is what stands over the layers: a mount, or an engine.
pub struct Stock<'a, T> {
    files: usize,
    next: usize,
    keep: bool,
    renew: Box<dyn Fn() -> T + 'a>,
    now: Option<T>,
}

impl<'a, T> Stock<'a, T> {
    pub fn new(files: usize, renew: impl Fn() -> T + 'a) -> Self {
        Self { files, next: 0, keep: false, renew: Box::new(renew), now: None }
    }

    /// For what changes nothing: all files are there once more, over the same layers.
    pub fn kept(self) -> Self {
        Self { keep: true, ..self }
    }

    /// The time of `count` times `change`, each on the file (by its number) that `prepare` has made ready.
    pub fn time<P>(
        &mut self,
        count: u64,
        prepare: impl Fn(&T, usize) -> P,
        mut change: impl FnMut(&T, &P),
    ) -> Duration {
        let (mut spent, mut left) = (Duration::ZERO, count as usize);
        while left > 0 {
            if self.next == self.files {
                self.next = 0;
                // The old one ends before the new one is there: the layers are for one at a time.
                self.now.take_if(|_| !self.keep);
            }
            let now = self.now.get_or_insert_with(&self.renew);
            let batch = left.min(self.files - self.next);
            let ready: Vec<P> = (self.next..self.next + batch).map(|file| prepare(now, file)).collect();
            let start = Instant::now();
            ready.iter().for_each(|file| change(now, file));
            spent += start.elapsed();
            self.next += batch;
            left -= batch;
        }
        spent
    }
}
