//! How far a long work is: a bar on standard error, if that is a terminal, once the work has taken a second.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shorter work has no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// Says that something is being done of which nobody knows how long it takes, as long as the value lives.
pub struct Spinner {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Spinner {
    /// For a work that begins now.
    pub fn new(what: &'static str) -> Self {
        let (end, ended) = mpsc::channel::<()>();
        let turn = move || {
            if ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::new_spinner().with_message(what);
            while ended.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout) {
                bar.tick();
            }
            bar.finish_and_clear();
        };
        // Without a thread there is only nothing to see.
        let thread = std::io::stderr().is_terminal().then(|| thread::Builder::new().spawn(turn).ok()).flatten();
        Self { end: Some(end), thread }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The bar of one work, which goes away with it.
pub struct Bar {
    what: &'static str,
    begin: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// For a work that begins now.
    pub fn new(what: &'static str) -> Self {
        Self { what, begin: Instant::now(), bar: None }
    }

    /// Shows that `done` of `of` steps are done.
    pub fn show(&mut self, done: u64, of: u64) {
        if self.bar.is_none() && self.begin.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(of).with_message(self.what);
            // A template of our own that is wrong would be the plain one.
            let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos} of {human_len}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_length(of);
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
