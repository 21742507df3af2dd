//! A thread that does one thing after the other, and sleeps where there is nothing to do. It ends with its owner.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::base::panics;
use crate::base::sync::{Condvar, Mutex, MutexGuard};

/// What there is to do.
pub trait Work: Send + 'static {
    /// One thing to do.
    type Task;

    /// Takes what is to be done next.
    fn next(&mut self) -> Option<Self::Task>;
}

/// The owner of the thread.
pub struct Worker<W>(Arc<Shared<W>>);

pub struct Shared<W> {
    pub work: Mutex<W>,
    more: Condvar,
    over: AtomicBool,
}

impl<W: Work> Worker<W> {
    /// Starts the thread, which does each task by `act`. Fails with `EAGAIN` where there can be no more threads.
    pub fn start(name: &str, work: W, mut act: impl FnMut(W::Task) + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(work));
        let theirs = shared.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(task) = theirs.wait() {
                panics::caught(|| act(task));
            }
        })?;
        Ok(Self(shared))
    }

    /// What there is to do, to be looked at and added to. That alone wakes nobody.
    pub fn work(&self) -> MutexGuard<'_, W> {
        self.0.work.lock()
    }

    /// There is more to do: the thread must not sleep.
    pub fn wake(&self) {
        self.0.more.notify_one();
    }
}

impl<W> Drop for Worker<W> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<W> Shared<W> {
    pub fn new(work: W) -> Self {
        Self { work: Mutex::new(work), more: Condvar::default(), over: AtomicBool::new(false) }
    }

    pub fn end(&self) {
        let work = self.work.lock();
        self.over.store(true, SeqCst);
        drop(work);
        self.more.notify_one();
    }
}

impl<W: Work> Shared<W> {
    /// What is to be done next, once there is something; `None` at the end.
    pub fn wait(&self) -> Option<W::Task> {
        let mut work = self.work.lock();
        while !self.over.load(SeqCst) {
            let task = work.next();
            if task.is_some() {
                return task;
            }
            self.more.wait(&mut work);
        }
        None
    }
}
