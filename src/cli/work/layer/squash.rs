//! `plyfs layer squash`: several layers made one.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::super::commands::print;
use super::super::super::progress::Spinner;
use super::super::super::report::Failure;
use super::super::super::told::{bytes, grouped};
use crate::base::Errno;
use crate::base::config::{Config, Fsync, UpperDirs, Uuid};
use crate::tool::beside::{Beside, Taken};
use crate::tool::squash::{How, Refused, Squashed, squash};
use crate::union;

/// several layers made one, which shows the same: what was deleted is gone
#[derive(Debug, Args)]
#[command(after_help = "\
The first layer is the topmost one, as in lowerdir=. OUT must not exist; it appears when all is in it.

Exit status: 0 done; 1 not done, and nothing is left of it; 2 usage

Examples:
  plyfs layer squash patch app base out
  plyfs layer squash --bottom app base image
  plyfs layer squash --workdir work upper app out")]
pub struct Squash {
    /// The layers, the topmost first
    #[arg(value_name = "LAYER", required = true)]
    layers: Vec<PathBuf>,
    /// The directory that is made
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// No layer will lie below OUT: no whiteouts
    #[arg(long)]
    bottom: bool,
    /// Make hard links of the layers' files where that can be; OUT must not be written then
    #[arg(long)]
    link: bool,
    /// The first layer is an upper one, and DIR is its workdir
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// As root, follow and write user.overlay.* marks
    #[arg(long)]
    userxattr: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Squash {
    /// Makes it.
    ///
    /// # Errors
    /// A layer is in use or cannot be read, or something cannot be made again; then nothing is left of it.
    pub fn run(self) -> Result<u8, Failure> {
        self.check_place()?;
        let out = self.out.display().to_string();
        let failed = |errno: Errno| Failure::refused(out.clone(), errno.to_string(), "");
        let beside = Beside::begin(&self.out).map_err(|taken| refusal(&out, taken))?;
        let [below, layer, work] = [c"below", c"layer", c"work"].map(|name| beside.add(name));
        let below = below.map_err(failed)?;
        let written = union::written();
        self.check_above(&written)?;
        let gathered = union::gather(&self.config(below.clone()));
        let (layers, locks) = gathered.map_err(|error| match error.what.contains(&*below.to_string_lossy()) {
            // What is wrong with the empty layer is wrong with its place: a bind mount may show one of the layers.
            true => Failure::usage(out.clone(), error.reason, "name a place outside of the layers"),
            false => error.into(),
        })?;
        let dirs = UpperDirs { dir: layer.map_err(failed)?, work: work.map_err(failed)? };
        let userxattr = layers.has_user_marks();
        let fresh = Config { upper: Some(dirs), userxattr, fsync: Fsync::Auto, uuid: Uuid::Off, ..Config::default() };
        let made = {
            let upper = union::anew(&fresh, layers.owners())?;
            let _spinner = Spinner::new("squashing");
            squash(&layers.with_index(), &upper, How { bottom: self.bottom, link: self.link, written })
        };
        let made = made.map_err(|Refused { path, reason, hint }| {
            let what = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
            Failure::refused(what.display().to_string(), reason, hint)
        })?;
        beside.publish(c"layer").map_err(failed)?;
        drop(locks);
        print(&if self.json { json(&made) } else { text(&made) })?;
        Ok(0)
    }

    /// OUT must not lie in a layer, of which it would become a part.
    fn check_place(&self) -> Result<(), Failure> {
        let above = self.out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(above) = above.canonicalize() else { return Ok(()) };
        let holds = |layer: &&PathBuf| layer.canonicalize().is_ok_and(|layer| above.starts_with(layer));
        match self.layers.iter().chain(&self.workdir).find(holds) {
            Some(layer) => {
                let reason = format!("it lies in {}", layer.display());
                Err(Failure::usage(self.out.display().to_string(), reason, "name a place outside of the layers"))
            }
            None => Ok(()),
        }
    }

    /// No layer must lie in a directory that a mount writes.
    fn check_above(&self, written: &HashSet<(u64, u64)>) -> Result<(), Failure> {
        for layer in &self.layers {
            let Ok(at) = layer.canonicalize() else { continue };
            for above in at.ancestors().skip(1) {
                if std::fs::metadata(above).is_ok_and(|stat| written.contains(&(stat.dev(), stat.ino()))) {
                    let reason = format!("it lies in {}, which a mount writes", above.display());
                    return Err(Failure::refused(layer.display().to_string(), reason, "unmount that one first"));
                }
            }
        }
        Ok(())
    }

    /// The stack with an empty layer below.
    fn config(&self, below: PathBuf) -> Config {
        let mut lowers = self.layers.clone();
        let upper = self.workdir.clone().map(|work| UpperDirs { dir: lowers.remove(0), work });
        lowers.push(below);
        Config { lowers, upper, userxattr: self.userxattr, ..Config::default() }
    }
}

fn refusal(out: &str, taken: Taken) -> Failure {
    let hint = |errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            "its parent must be a writable directory"
        }
        Errno::ENOSPC | Errno::EDQUOT => "make room on its file system",
        _ => "",
    };
    match taken {
        Taken::There => Failure::refused(out, "it is there already", "name a directory that does not exist"),
        Taken::Busy => Failure::refused(out, "another process is making it", "wait for that one"),
        Taken::Foreign => {
            let reason = "something that no squash of this user has left is beside it, under the name .OUT.plyfs-new";
            Failure::refused(out, reason, "rename or remove that")
        }
        Taken::Failed(errno) => Failure::refused(out, errno.to_string(), hint(errno)),
    }
}

fn text(made: &Squashed) -> String {
    let Squashed { files, linked, directories, hiding, bytes: size } = made;
    let links = if *linked == 0 { String::new() } else { format!(" ({} of them links)", grouped(*linked)) };
    format!(
        "{} files{links} in {} directories, {} whiteouts, {}\n",
        grouped(*files),
        grouped(*directories + 1),
        grouped(*hiding),
        bytes(*size)
    )
}

fn json(made: &Squashed) -> String {
    let Squashed { files, linked, directories, hiding, bytes } = made;
    format!(
        "{{\"v\":1,\"files\":{files},\"linked\":{linked},\"directories\":{directories},\"hiding\":{hiding},\"bytes\":{bytes}}}\n"
    )
}
