//! `plyfs layer check`: what is wrong with layers.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::super::super::commands::print;
use super::super::super::daemon::say;
use super::super::super::json::{member, quoted};
use super::super::super::report::{Failure, printable};
use super::super::super::told;
use crate::base::config::{Config, UpperDirs};
use crate::tool::check::{Finding, check};
use crate::union;

/// The exit status if there is something.
const FOUND: u8 = 1;
/// The exit status if not all could be looked at.
const LOSSES: u8 = 4;

/// what is wrong with layers, and what plyfs and the kernel's OverlayFS do with it
#[derive(Debug, Args)]
#[command(after_help = "\
The first layer is the topmost one, as in lowerdir=; name all of the stack.

Exit status: 0 nothing is wrong; 1 something is, or was repaired; 2 usage; 4 not all could be read

Examples:
  plyfs layer check app base
  plyfs layer check --workdir work upper app base
  plyfs layer check --repair app base")]
pub struct Check {
    /// The layers, the topmost first
    #[arg(value_name = "LAYER", required = true)]
    layers: Vec<PathBuf>,
    /// The first layer is an upper one, and DIR is its workdir
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// A data-only layer below all of them, as lowerdir=…::DIR has it; may be given again
    #[arg(long, value_name = "DIR")]
    datadir: Vec<PathBuf>,
    /// Remove what hides nothing, says nothing, or is left over; no mount may use the layers
    #[arg(long)]
    repair: bool,
    /// As root, the marks are user.overlay.*
    #[arg(long)]
    userxattr: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Check {
    /// Prints what is wrong.
    ///
    /// # Errors
    /// A layer cannot be read, or is in use and to be repaired.
    pub fn run(self) -> Result<u8, Failure> {
        let (mut is_found, mut is_lost) = (false, false);
        for at in 0..self.layers.len() {
            let config = self.config(at);
            // What repairs writes to the layers, of which others are to be read only.
            let (layers, _locks) =
                if self.repair { union::gather_at_all(&config)? } else { (union::look_at_all(&config)?, Vec::new()) };
            let layer = self.layers.get(at).cloned().unwrap_or_default();
            let failed =
                |errno: crate::base::Errno| Failure::refused(layer.display().to_string(), errno.to_string(), "");
            let checked = check(&layers, self.repair).map_err(failed)?;
            for finding in &checked.findings {
                let root = if finding.in_work { self.workdir.as_deref().unwrap_or(&layer) } else { &layer };
                print(&if self.json { json(root, finding) } else { text(root, finding) })?;
            }
            for trouble in &checked.troubles {
                say(&format!("{}: cannot be looked at: {}", told::line(&layer.join(&trouble.path)), trouble.errno));
            }
            is_found |= !checked.findings.is_empty();
            is_lost |= !checked.troubles.is_empty();
        }
        Ok(if is_lost { LOSSES } else { u8::from(is_found) * FOUND })
    }

    /// The layers from number `at` on.
    fn config(&self, at: usize) -> Config {
        let mut lowers: Vec<PathBuf> = self.layers.iter().skip(at).cloned().collect();
        let work = self.workdir.clone().filter(|_| at == 0);
        let upper = work.map(|work| UpperDirs { dir: lowers.remove(0), work });
        Config { lowers, data_only: self.datadir.clone(), upper, userxattr: self.userxattr, ..Config::default() }
    }
}

fn text(root: &Path, found: &Finding) -> String {
    let done = if found.repaired { "; removed" } else { "" };
    let path = printable(root.join(&found.path).as_os_str().as_bytes());
    format!("{path}: {}{done}; plyfs {}; the kernel {}\n", found.what, found.plyfs, found.kernel)
}

fn json(root: &Path, found: &Finding) -> String {
    let (root, path) =
        (member("layer", root.as_os_str().as_bytes()), member("path", found.path.as_os_str().as_bytes()));
    let [kind, what, plyfs, kernel] = [found.kind, &found.what, found.plyfs, found.kernel].map(quoted);
    let repaired = found.repaired;
    format!(
        "{{\"v\":1,{root},{path},\"kind\":{kind},\"what\":{what},\"plyfs\":{plyfs},\"kernel\":{kernel},\"repaired\":{repaired}}}\n"
    )
}
