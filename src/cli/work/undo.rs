//! `plyfs undo` and `plyfs redo`: back to a commit, and forward again.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::commands::print;
use super::super::report::Failure;
use super::steps::Which;
use crate::union::{Done, Step, commit_number};

/// go back to a commit; what was there since is kept
#[derive(Debug, Args)]
#[command(after_help = "\
Without N it goes back by one: to the last commit, or from there to the one before. What has
changed since is kept as a commit of its own, to which redo leads back. With paths only these go
back to what they were at the last commit; what they were until then is kept as a commit, too.

Examples:
  plyfs undo
  plyfs undo src/main.rs
  plyfs undo try-it 3
  plyfs undo -o lowerdir=base,upperdir=u,workdir=w 0")]
pub struct Undo {
    /// A mountpoint or a session, and the number of a commit (0: the lower layers) or paths
    #[arg(value_name = "VIEW|N|PATH")]
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
    /// There is no such view or commit, nothing has changed at a path, or it cannot be done.
    pub fn run(self) -> Result<u8, Failure> {
        let (view, to) = match self.words.as_slice() {
            [] => (None, None),
            [one] if is_number(one) => (None, Some(one)),
            [view, last] if is_number(last) => (Some(view), Some(last)),
            words => {
                if let Some(one) = words.iter().find(|word| is_number(word)) {
                    let hint = "a path of digits alone is ./7";
                    return Err(Failure::usage(one.display().to_string(), "a number stands beside paths", hint));
                }
                let (target, paths) = self.which.find_with_paths(words)?;
                if !paths.is_empty() {
                    let paths = paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
                    let done = target.take(&Step::UndoPaths { paths })?;
                    return tell_of_paths(&done, self.quiet);
                }
                return tell(&target.take(&Step::Undo { to: None })?, self.quiet);
            }
        };
        let number = |word: &PathBuf| {
            commit_number(word.as_os_str().as_bytes()).ok_or_else(|| {
                Failure::usage(word.display().to_string(), "it is no number of a commit", "plyfs log tells them")
            })
        };
        let to = to.map(number).transpose()?;
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

/// Whether a word stands for a number and not for a path.
fn is_number(word: &Path) -> bool {
    word.as_os_str().as_bytes().iter().all(u8::is_ascii_digit)
}

fn tell_of_paths(done: &Done, quiet: bool) -> Result<u8, Failure> {
    let was = match done.on {
        0 => "it is as the lower layers have it".to_owned(),
        on => format!("it is as at commit {on}"),
    };
    let kept = done.made.map(|made| format!("; what it was is kept as commit {made}")).unwrap_or_default();
    if quiet { Ok(0) } else { print(&format!("{was}{kept}\n")).map(|()| 0) }
}

fn tell(done: &Done, quiet: bool) -> Result<u8, Failure> {
    let at = match done.on {
        _ if done.returned => "what was taken back is there again".to_owned(),
        0 => "the view has the lower layers as they are".to_owned(),
        on => format!("the view is at commit {on}"),
    };
    let kept = done.made.map(|made| format!("; what has changed since is kept as commit {made}")).unwrap_or_default();
    if quiet { Ok(0) } else { print(&format!("{at}{kept}\n")).map(|()| 0) }
}
