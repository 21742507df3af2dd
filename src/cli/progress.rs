//! How far a long work is: a bar on standard error, if that is a terminal, once the work has taken a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shorter work has no bar.
const PATIENCE: Duration = Duration::from_secs(1);

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
