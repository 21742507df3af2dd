//! `plyfs commit`: what has changed becomes a layer of its own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::Args;

use super::super::commands::print;
use super::super::report::Failure;
use super::steps::Which;
use crate::union::Step;

/// freeze what has changed, and go on from there
#[derive(Debug, Args)]
#[command(after_help = "\
The upper layer of the view becomes a read-only layer beneath an empty one, in workdir/commits.

Exit status: 0 done; 1 not done, or nothing has changed; 2 usage

Examples:
  plyfs commit -m 'before the upgrade'
  plyfs commit try-it
  plyfs commit -o lowerdir=base,upperdir=u,workdir=w")]
pub struct Commit {
    /// A mountpoint or a session (the view that the current directory is in)
    view: Option<PathBuf>,
    /// What is to be said of it in the log
    #[arg(short = 'm', long = "message", value_name = "TEXT")]
    text: Option<OsString>,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    which: Which,
}

impl Commit {
    /// Does it.
    ///
    /// # Errors
    /// There is no such view, nothing has changed, or it cannot be done.
    pub fn run(self) -> Result<u8, Failure> {
        let target = self.which.find(self.view.as_deref())?;
        let done = target.take(&Step::Commit { text: self.text.unwrap_or_default().into_vec() })?;
        match done.made.filter(|_| !self.quiet) {
            Some(number) => print(&format!("commit {number}\n")).map(|()| 0),
            None => Ok(0),
        }
    }
}
