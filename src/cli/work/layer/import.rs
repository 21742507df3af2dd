//! `plyfs layer import`: images and archives as layers.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;

use super::super::super::commands::{print, print_bytes};
use super::super::super::daemon::say;
use super::super::super::json::member;
use super::super::super::progress::Spinner;
use super::super::super::report::{Failure, printable};
use super::super::super::told::{self, grouped};
use super::du::size;
use crate::sys::process;
use crate::tool::export::LeftOut;
use crate::tool::import::{How, Imported, import, source_of};

/// The exit status if something had to be left out.
const LOSSES: u8 = 4;

/// OCI images and archives as layers, each in a directory named by its diff-id
#[derive(Debug, Args)]
#[command(after_help = "\
Takes OCI image layouts (directories, or archives of them), archives by `docker save` and `podman
save`, and layers as archives: plain, gzip or zstd. A layer that is there is not unpacked again

Exit status: 0 done; 1 not done; 2 usage; 4 done, but something could not be made here

Examples:
  plyfs layer import image:v2 layers
  plyfs layer import --print-lowerdir image:v2 layers >list && plyfs -o lowerdir=@list merged")]
#[command(override_usage = "plyfs layer import [OPTIONS] <IMAGE[:TAG]|TAR>... <DIR>")]
pub struct Take {
    /// Images and layers, the topmost first, and the directory for the layers
    #[arg(value_name = "IMAGE[:TAG]|TAR… DIR", num_args = 2.., required = true)]
    words: Vec<OsString>,
    /// Unpack at most SIZE bytes (1024, 50M, 2G)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max: Option<u64>,
    /// Print the layers as `lowerdir=@FILE` takes them, the topmost first
    #[arg(long, conflicts_with = "json")]
    print_lowerdir: bool,
    /// Print one JSON object a layer
    #[arg(long)]
    json: bool,
}

impl Take {
    /// Unpacks them.
    ///
    /// # Errors
    /// They cannot be read, are not honest, or cannot be written.
    pub fn run(self) -> Result<u8, Failure> {
        let Some((to, sources)) = self.words.split_last() else { return Ok(0) };
        let sources: Vec<_> = sources.iter().map(|word| source_of(word)).collect();
        let is_root = process::is_admin();
        let how = How { max: self.max, trusted: is_root && process::ids_are_initial(), gives_owners: is_root };
        let spinner = Spinner::new("importing");
        let done = import(&sources, &PathBuf::from(to), how);
        drop(spinner);
        let done =
            done.map_err(|failed| Failure::refused(told::line(&failed.path), failed.why, "nothing was imported"))?;
        let mut status = 0;
        for layer in &done {
            for LeftOut { path, what, .. } in &layer.left_out {
                status = LOSSES;
                say(&format!("{}: left out: {what}", told::line(path)));
            }
            if layer.foreign > 0 {
                let (dir, foreign) = (told::line(&layer.dir), grouped(layer.foreign));
                say(&format!("{dir}: {foreign} objects belong to others in the image, and to you here"));
            }
            if self.print_lowerdir {
                print_bytes(&[layer.dir.as_os_str().as_bytes(), b"\n"].concat())?;
            } else {
                print(&if self.json { json(layer) } else { text(layer) })?;
            }
        }
        Ok(status)
    }
}

fn text(layer: &Imported) -> String {
    let dir = printable(layer.dir.as_os_str().as_bytes());
    if layer.known { format!("{dir}: there already\n") } else { format!("{dir}: {} entries\n", grouped(layer.entries)) }
}

fn json(layer: &Imported) -> String {
    let (path, known) = (member("path", layer.dir.as_os_str().as_bytes()), layer.known);
    let (entries, foreign, left_out) = (layer.entries, layer.foreign, layer.left_out.len());
    format!(
        "{{\"v\":1,{path},\"known\":{known},\"entries\":{entries},\"foreign\":{foreign},\"left_out\":{left_out}}}\n"
    )
}
