//! `plyfs layer du`: what layers weigh, and what they hide.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::Args;

use super::super::super::commands::print;
use super::super::super::daemon::say;
use super::super::super::json::{member, quoted};
use super::super::super::report::{Failure, printable};
use super::super::super::told::{self, bytes, grouped};
use super::super::changes::{self, Part};
use crate::tool::Trouble;
use crate::tool::du::{Amount, Du, Large, Weighed, Why, du};

/// The exit status above `--max`.
const ABOVE: u8 = 1;
/// The exit status if not all could be looked at.
const LOSSES: u8 = 4;

/// what layers weigh: what is seen of each, and what the layers above hide
#[derive(Debug, Args)]
#[command(after_help = "\
Columns: all files of the layer; those that the view shows; those of which it shows the metadata
only; those in whose place it shows others; those that were deleted, and are still in the layer

Exit status: 0 done; 1 not done, or more is hidden than --max; 2 usage; 4 not all could be read

Examples:
  plyfs layer du ~/view
  plyfs layer du -o lowerdir=app:base --top 10
  plyfs layer du -o lowerdir=app:base --max 50M")]
pub struct Weigh {
    /// A mountpoint or a session (the view that the current directory is in)
    #[arg(value_name = "VIEW")]
    view: Option<PathBuf>,
    /// The layers of a view that is not mounted, as `mount` takes them
    #[arg(short = 'o', value_name = "OPTION,…", conflicts_with = "view")]
    options: Vec<OsString>,
    /// Name the N largest hidden files, and the N largest that were copied up
    #[arg(long, value_name = "N", default_value_t = 0)]
    top: usize,
    /// Exit with 1 if more bytes than SIZE are hidden (1024, 50M, 2G)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max: Option<u64>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Where sessions are kept ($XDG_STATE_HOME/plyfs)
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// Bytes, with a unit of 1024 or its powers.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let number = text.trim_end_matches(['K', 'M', 'G', 'T', 'i', 'B']);
    let power = match text.get(number.len()..).unwrap_or_default() {
        "" | "B" => 0,
        "K" | "KiB" => 1,
        "M" | "MiB" => 2,
        "G" | "GiB" => 3,
        "T" | "TiB" => 4,
        _ => return Err("units are K, M, G and T".to_owned()),
    };
    let value = number.parse::<u64>().ok().and_then(|value| value.checked_mul(1 << (10 * power)));
    value.ok_or_else(|| "it is no number of bytes".to_owned())
}

impl Weigh {
    /// Prints it.
    ///
    /// # Errors
    /// There is no view, or it cannot be read.
    pub fn run(self) -> Result<u8, Failure> {
        let words: Vec<PathBuf> = self.view.iter().cloned().collect();
        let (parts, paths) = changes::find(&self.options, &words, self.store.clone())?;
        if !paths.is_empty() {
            let view = self.view.unwrap_or_default();
            return Err(Failure::usage(view.display().to_string(), "it is no view", "name a mountpoint or a session"));
        }
        let (mut hidden, mut troubles) = (0_u64, Vec::new());
        let count = parts.len();
        for part in parts {
            let Part { before, layers, upper, .. } = part;
            let failed = |errno: crate::base::Errno| {
                Failure::refused(format!("upperdir={}", upper.display()), errno.to_string(), "it must be readable")
            };
            let found = du(&layers.with_index(), self.top).map_err(failed)?;
            hidden = found.layers.iter().fold(hidden, |sum, layer| sum.saturating_add(layer.hidden().bytes));
            if count > 1 && !self.json {
                print(&format!("/{}:\n", told::line(&before)))?;
            }
            print(&if self.json { json(&found) } else { text(&found) })?;
            troubles.extend(found.troubles);
        }
        for Trouble { path, errno } in &troubles {
            say(&format!("{}: cannot be looked at: {errno}", told::line(path)));
        }
        Ok(match self.max {
            Some(max) if hidden > max => {
                say(&format!("{} are hidden, more than {} (--max)", bytes(hidden), bytes(max)));
                ABOVE
            }
            _ if !troubles.is_empty() => LOSSES,
            _ => 0,
        })
    }
}

/// A table of the layers, and the large files.
fn text(found: &Du) -> String {
    let amount = |amount: Amount| match amount.files {
        0 => "-".to_owned(),
        files => format!("{} in {}", bytes(amount.bytes), grouped(files)),
    };
    let row = |layer: &Weighed| {
        let columns = [layer.own(), layer.visible, layer.metadata, layer.covered, layer.deleted].map(amount);
        let name = format!("{} {}", layer.level, layer.role.word());
        let path = printable(layer.path.as_os_str().as_bytes());
        [vec![name], columns.to_vec(), vec![path]].concat()
    };
    let heading =
        ["layer", "all", "visible", "metadata", "covered", "deleted", "directory"].map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(found.layers.iter().map(row)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let gap = " ".repeat(width(column).unwrap_or(0) - cell.chars().count());
            // Numbers end where their column ends.
            if (1..row.len() - 1).contains(&column) { format!("{gap}{cell}") } else { format!("{cell}{gap}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    for large in found.hidden.iter().chain(&found.copied_up) {
        text += &format!(
            "{:<9}  {:>9}  {}  {}\n",
            why(large.why),
            bytes(large.bytes),
            large.level,
            told::line(&large.path)
        );
    }
    let hidden = found.layers.iter().fold(Amount::default(), |sum, layer| sum.plus(layer.hidden()));
    text + &format!("{} in {} files are hidden\n", bytes(hidden.bytes), grouped(hidden.files))
}

fn why(why: Why) -> &'static str {
    match why {
        Why::Covered => "covered",
        Why::Deleted => "deleted",
        Why::CopiedUp => "copied-up",
    }
}

/// An object for each layer, and for each large file.
fn json(found: &Du) -> String {
    let amount = |key: &str, amount: Amount| {
        format!("{}:{{\"files\":{},\"bytes\":{}}}", quoted(key), amount.files, amount.bytes)
    };
    let layer = |layer: &Weighed| {
        let amounts = [
            amount("all", layer.own()),
            amount("visible", layer.visible),
            amount("metadata", layer.metadata),
            amount("covered", layer.covered),
            amount("deleted", layer.deleted),
        ];
        let path = member("path", layer.path.as_os_str().as_bytes());
        let (level, role, whiteouts) = (layer.level, quoted(layer.role.word()), layer.whiteouts);
        format!(
            "{{\"v\":1,\"level\":{level},\"role\":{role},{path},{},\"whiteouts\":{whiteouts}}}\n",
            amounts.join(",")
        )
    };
    let large = |large: &Large| {
        let (file, why) = (member("file", large.path.as_os_str().as_bytes()), quoted(why(large.why)));
        format!("{{\"v\":1,{file},\"level\":{},\"bytes\":{},\"why\":{why}}}\n", large.level, large.bytes)
    };
    let files = found.hidden.iter().chain(&found.copied_up);
    found.layers.iter().map(layer).chain(files.map(large)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_of_a_power_of_1024() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("2K", Some(2048)),
            ("50M", Some(50 << 20)),
            ("1GiB", Some(1 << 30)),
            ("", None),
            ("M", None),
            ("1X", None),
            ("1iB", None),
            ("-1", None),
            ("99999999999T", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }
}
