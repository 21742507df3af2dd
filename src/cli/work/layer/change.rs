//! `plyfs layer add` and `plyfs layer remove`: other lower layers for a mounted view.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::super::commands::print;
use super::super::super::describe::lowerdir;
use super::super::super::json::member;
use super::super::super::report::{Failure, printable};
use super::super::super::show;
use super::super::changes;
use super::super::steps::refused;
use crate::base::described::Described;
use crate::fuse::serve::steps;
use crate::sys::ask;
use crate::sys::stat::stat_fd;
use crate::union::{LayerChange, LayerPlace, Step};

/// put a directory among the lower layers of a mounted view
#[derive(Debug, Args)]
#[command(after_help = "\
Programs go on: names that the layer adds, hides or replaces lead there from then on, and open files
stay what they are. The mount table goes on to show the layers of the mount; plyfs status tells those
of now. The next mount must name them all: the command prints how.

Exit status: 0 done; 1 not done; 2 usage

Examples:
  plyfs layer add ~/view ~/patches
  plyfs layer add ~/view /opt/base --bottom
  plyfs layer add DIR --below /opt/app")]
#[command(override_usage = "plyfs layer add [OPTIONS] [VIEW] <DIR>")]
pub struct Add {
    /// A mountpoint (the view that the current directory is in), and the directory
    #[arg(value_name = "[VIEW] DIR", required = true, num_args = 1..=2)]
    words: Vec<PathBuf>,
    /// Above all other lower layers, below the commits (the default)
    #[arg(long, conflicts_with_all = ["bottom", "below"])]
    top: bool,
    /// Below all other layers
    #[arg(long, conflicts_with = "below")]
    bottom: bool,
    /// Directly below this layer
    #[arg(long, value_name = "DIR")]
    below: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// take a lower layer out of a mounted view
#[derive(Debug, Args)]
#[command(after_help = "\
It is refused while a file of the layer is open or mapped, and where a file whose metadata alone has
changed has its data there. Directories that no other layer has are as after rmdir for who is in them.

Exit status: 0 done; 1 not done; 2 usage

Examples:
  plyfs layer remove ~/view ~/patches
  plyfs layer remove /opt/app")]
#[command(override_usage = "plyfs layer remove [OPTIONS] [VIEW] <DIR>")]
pub struct Remove {
    /// A mountpoint (the view that the current directory is in), and the layer
    #[arg(value_name = "[VIEW] DIR", required = true, num_args = 1..=2)]
    words: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// How it is told.
#[derive(Debug, Args)]
struct How {
    /// Print one JSON object: the layers of the view
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
}

impl Add {
    /// Does it.
    ///
    /// # Errors
    /// There is no such view or directory, or the two do not go together.
    pub fn run(self) -> Result<u8, Failure> {
        let (view, dir) = take_apart(&self.words)?;
        let (view, told) = find(view)?;
        let dir = absolute(dir)?;
        let stat = std::fs::metadata(&dir).map_err(|error| {
            Failure::refused(dir.display().to_string(), crate::base::Errno::from(error).to_string(), "name a directory")
        })?;
        let dev = stat_fd(view.as_fd()).map_err(refused_at(&dir))?.dev;
        if dev == stat.dev() {
            let reason = "it lies in the view itself";
            return Err(Failure::refused(dir.display().to_string(), reason, "name a directory outside of it"));
        }
        if stands_on(&dir, dev, NESTED) {
            let reason = "it is in a view that has a layer in this one: each would wait for the other";
            return Err(Failure::refused(dir.display().to_string(), reason, "name a directory of another file system"));
        }
        let at = match (self.below, self.bottom) {
            (Some(other), _) => LayerPlace::Below(listed(&told, &absolute(&other)?)),
            (None, true) => LayerPlace::Bottom,
            (None, false) => LayerPlace::Top,
        };
        let change = LayerChange::Add { dir, seen: (stat.dev(), stat.ino()), at };
        self.how.make((&view, &told), change)
    }
}

impl Remove {
    /// Does it.
    ///
    /// # Errors
    /// There is no such view or layer; files of it are in use.
    pub fn run(self) -> Result<u8, Failure> {
        let (view, dir) = take_apart(&self.words)?;
        let (view, told) = find(view)?;
        let dir = listed(&told, &absolute(dir)?);
        self.how.make((&view, &told), LayerChange::Remove { dir })
    }
}

impl How {
    /// `before`: what the daemon told then.
    fn make(&self, (view, before): (&OwnedFd, &Described), change: LayerChange) -> Result<u8, Failure> {
        let what = change.dir().display().to_string();
        let order = steps::order(&Step::Layers(change));
        if order.bytes.len() > ask::PIECE {
            return Err(Failure::refused(what, "its path is too long", "name it by a shorter one"));
        }
        let answer = ask::order(view.as_fd(), &order).map_err(refused)?;
        steps::done(&answer)?;
        let told = Described::from_bytes(ask::ask(view.as_fd()).map_err(refused)?);
        for note in told.all("degraded").filter(|note| before.all("degraded").all(|known| known != *note)) {
            eprintln!("plyfs: {}", printable(note));
        }
        match (self.quiet, self.json) {
            (true, _) => Ok(()),
            (_, true) => print(&format!("{{\"v\":1,\"layers\":[{}]}}\n", layers(&told))),
            _ => print(&next_mount(&lowerdir(&told))),
        }
        .map(|()| 0)
    }
}

/// What is to be said of the option, if a terminal and a shell can take it as it is.
fn next_mount(lowerdir: &[u8]) -> String {
    let shown = printable(lowerdir);
    if shown.as_bytes() == lowerdir {
        return format!("the next mount needs {shown}\n");
    }
    "the next mount needs these layers, whose paths cannot be printed: --json has them\n".to_owned()
}

/// `VIEW DIR`, or `DIR` alone.
fn take_apart(words: &[PathBuf]) -> Result<(Option<&Path>, &Path), Failure> {
    match words {
        [dir] => Ok((None, dir)),
        [view, dir] => Ok((Some(view), dir)),
        _ => Err(Failure::usage("layer", "a directory is missing", "plyfs layer add VIEW DIR")),
    }
}

/// A directory in the mounted view that `word` names, and what its daemon tells.
fn find(word: Option<&Path>) -> Result<(OwnedFd, Described), Failure> {
    if let Some(word) = word
        && !word.is_dir()
        && let Some(session) = changes::named(word, None)?
    {
        let reason = "a session's layers are the file systems that it covers";
        return Err(Failure::refused(session.name, reason, "name the mountpoint of a view"));
    }
    show::view_at(word.unwrap_or(Path::new("."))).map_err(|failure| Failure {
        hint: "name the mountpoint of a view; one that is not mounted gets its layers by lowerdir=".into(),
        ..failure
    })
}

/// Views that stand on each other which are looked through.
const NESTED: usize = 16;

/// Whether a directory is in a view which has a layer on the file system `dev`.
fn stands_on(dir: &Path, dev: u64, depth: usize) -> bool {
    let Ok((_, told)) = show::view_at(dir) else { return false };
    told.layers().map(|path| Path::new(std::ffi::OsStr::from_bytes(path))).any(|path| {
        show::identity(path).is_some_and(|(at, _)| at == dev) || (depth > 0 && stands_on(path, dev, depth - 1))
    })
}

fn refused_at(dir: &Path) -> impl Fn(crate::base::Errno) -> Failure {
    move |errno| Failure::refused(dir.display().to_string(), errno.to_string(), "")
}

/// A path that means the same wherever it is read: what is relative may lead through the view.
fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    let winds = |part| matches!(part, std::path::Component::ParentDir);
    if (dir.is_relative() || dir.components().any(winds))
        && let Ok(dir) = std::fs::canonicalize(dir)
    {
        return Ok(dir);
    }
    std::path::absolute(dir).map_err(|error| Failure::refused(dir.display().to_string(), error.to_string(), ""))
}

/// The path by which the view names the layer `dir`; itself where it is none.
fn listed(told: &Described, dir: &Path) -> PathBuf {
    let paths: Vec<PathBuf> = told.layers().map(|path| std::ffi::OsStr::from_bytes(path).into()).collect();
    if paths.iter().any(|path| path == dir) {
        return dir.to_owned();
    }
    let wanted = show::identity(dir);
    let same = paths.iter().find(|path| wanted.is_some() && show::identity(path) == wanted);
    same.cloned().unwrap_or_else(|| dir.components().collect())
}

/// `{"role":"lower","path":"/opt/app"},…`
fn layers(told: &Described) -> String {
    let roles = [("upperdir", "upper"), ("lowerdir", "lower"), ("datadir", "data")];
    let one = |role: &str, path: &[u8]| format!("{{{},{}}}", member("role", role.as_bytes()), member("path", path));
    let all = roles.into_iter().flat_map(|(key, role)| told.all(key).map(move |path| one(role, path)));
    all.collect::<Vec<_>>().join(",")
}
