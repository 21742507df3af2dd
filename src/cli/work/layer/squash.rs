//! `plyfs layer squash`: several layers made one.

use std::path::PathBuf;

use clap::Args;

use super::super::super::progress::Spinner;
use super::super::super::report::Failure;
use super::out::{check_above, check_place, gathered, json, refusal, refused, tell_made, text};
use crate::base::Errno;
use crate::base::config::{Config, Fsync, UpperDirs, Uuid};
use crate::tool::beside::Beside;
use crate::tool::squash::{How, squash};
use crate::union;

/// several layers made one, which shows the same: what was deleted is gone
#[derive(Debug, Args)]
#[command(after_help = "\
The first layer is the topmost one, as in lowerdir=. OUT must not exist; it appears when all is in it.

Exit status: 0 done; 1 not done, and nothing is left of it; 2 usage; 4 done, but stdout is full

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
        check_place(&self.out, self.layers.iter().chain(&self.workdir))?;
        let out = self.out.display().to_string();
        let failed = |errno: Errno| Failure::refused(out.clone(), errno.to_string(), "");
        let beside = Beside::begin(&self.out).map_err(|taken| refusal(&out, taken))?;
        let [below, layer, work] = [c"below", c"layer", c"work"].map(|name| beside.add(name));
        let below = below.map_err(failed)?;
        let written = union::written();
        check_above(&self.layers, &written)?;
        let (layers, locks) = gathered(&self.config(below.clone()), &below, &out)?;
        let dirs = UpperDirs { dir: layer.map_err(failed)?, work: work.map_err(failed)? };
        let userxattr = layers.has_user_marks();
        let fresh = Config { upper: Some(dirs), userxattr, fsync: Fsync::Auto, uuid: Uuid::Off, ..Config::default() };
        let made = {
            let upper = union::anew(&fresh, layers.owners(), None)?;
            let _spinner = Spinner::new("squashing");
            squash(&layers.with_index(), &upper, How { bottom: self.bottom, link: self.link, written, only: None })
        };
        let made = made.map_err(refused)?;
        beside.publish(c"layer").map_err(failed)?;
        drop(locks);
        Ok(tell_made(&if self.json { json(&made, &[]) } else { text(&made) }))
    }

    /// The stack with an empty layer below.
    fn config(&self, below: PathBuf) -> Config {
        let mut lowers = self.layers.clone();
        let upper = self.workdir.clone().map(|work| UpperDirs { dir: lowers.remove(0), work });
        lowers.push(below);
        Config { lowers, upper, userxattr: self.userxattr, ..Config::default() }
    }
}
