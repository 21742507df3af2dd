//! `plyfs undo` and `plyfs redo`: back to a commit, and forward again.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;

use super::super::commands::print;
use super::super::report::Failure;
use super::steps::Which;
use crate::union::{Done, Step, commit_number};

/// go back to a commit; what was there since is kept
#[derive(Debug, Args)]
#[command(after_help = "\
Without N it goes back by one: to the last commit, or from there to the one before. What has
changed since is kept as a commit of its own, to which redo leads back.

Examples:
  plyfs undo
  plyfs undo try-it 3
  plyfs undo -o lowerdir=base,upperdir=u,workdir=w 0")]
pub struct Undo {
    /// A mountpoint or a session, and the number of a commit (0: the lower layers)
    #[arg(value_name = "VIEW|N", num_args = 0..=2)]
    words: Vec<PathBuf>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    which: Which,
}

/// come forward again after an undo
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  plyfs redo")]
pub struct Redo {
    /// A mountpoint or a session (the view that the current directory is in)
    view: Option<PathBuf>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    which: Which,
}

impl Undo {
    /// Does it.
    ///
    /// # Errors
    /// There is no such view or commit, or it cannot be done.
    pub fn run(self) -> Result<u8, Failure> {
        let number = |word: &PathBuf| commit_number(word.as_os_str().as_bytes());
        let (view, to) = match self.words.as_slice() {
            [] => (None, None),
            [one] => number(one).map_or((Some(one), None), |to| (None, Some(to))),
            [view, last, ..] => {
                let what = || last.display().to_string();
                let to = number(last)
                    .ok_or_else(|| Failure::usage(what(), "it is no number of a commit", "plyfs log tells them"))?;
                (Some(view), Some(to))
            }
        };
        let done = self.which.find(view.map(PathBuf::as_path))?.take(&Step::Undo { to })?;
        tell(&done, self.quiet)
    }
}

impl Redo {
    /// Does it.
    ///
    /// # Errors
    /// There is no such view, nothing to redo, or it cannot be done.
    pub fn run(self) -> Result<u8, Failure> {
        let done = self.which.find(self.view.as_deref())?.take(&Step::Redo)?;
        tell(&done, self.quiet)
    }
}

fn tell(done: &Done, quiet: bool) -> Result<u8, Failure> {
    let at = match done.on {
        0 => "the view has the lower layers as they are".to_owned(),
        on => format!("the view is at commit {on}"),
    };
    let kept = done.made.map(|made| format!("; what has changed since is kept as commit {made}")).unwrap_or_default();
    if quiet { Ok(0) } else { print(&format!("{at}{kept}\n")).map(|()| 0) }
}
