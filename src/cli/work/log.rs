//! `plyfs log`: the commits of a view.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::super::commands::print;
use super::super::json::{member, quoted};
use super::super::paint::{Color, Paint};
use super::super::report::{Failure, printable};
use super::steps::Which;
use crate::union::{Log as Commits, Logged};

/// the commits of a view, the last one first
#[derive(Debug, Args)]
#[command(after_help = "\
`*` stands before the commit that the view stands on; those above it are what redo leads to.

Examples:
  plyfs log
  plyfs log --json try-it")]
pub struct Log {
    /// A mountpoint or a session (the view that the current directory is in)
    view: Option<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Print colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
    #[command(flatten)]
    which: Which,
}

impl Log {
    /// Prints it.
    ///
    /// # Errors
    /// There is no such view, or its commits cannot be read.
    pub fn run(self) -> Result<u8, Failure> {
        let log = self.which.find(self.view.as_deref())?.log()?;
        print(&if self.json { log.commits.iter().map(json).collect() } else { text(&log, self.color.paint()) })
            .map(|()| 0)
    }
}

/// `* 3  2026-11-30 20:15:01Z  before the upgrade`
fn text(log: &Commits, paint: Paint) -> String {
    let mut lines = String::new();
    // What redo leads to; where the view stands on the lower layers that is all.
    let mut is_above = true;
    let width = log.commits.first().map_or(1, |first| first.number.to_string().len());
    for Logged { number, about, here, .. } in &log.commits {
        let text = about.text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let paths: Vec<String> = about.paths().into_iter().map(printable).collect();
        let text = match about.is_by_undo() {
            true if paths.is_empty() => "(what an undo has left)".to_owned(),
            true => format!("(taken back: {})", paths.join(", ")),
            false => printable(text),
        };
        let line = format!("{} {number:>width$}  {}  {text}", if *here { "*" } else { " " }, time(about.seconds));
        let line = line.trim_end();
        is_above &= !here;
        let line = if *here { paint.strong(line) } else { line.to_owned() };
        let _ = writeln!(lines, "{}", if is_above { paint.faint(&line) } else { line });
    }
    let is_none = log.commits.is_empty();
    if !is_none && log.commits.iter().all(|commit| !commit.here) {
        let line = format!("* {:>width$}  the lower layers as they are", 0);
        let _ = writeln!(lines, "{}", paint.strong(&line));
    }
    lines.push_str(match (is_none, log.changed) {
        (true, true) => "no commit, and changes that none has\n",
        (true, false) => "no commit\n",
        (false, true) => "and changes that no commit has\n",
        (false, false) => "",
    });
    lines
}

fn json(logged: &Logged) -> String {
    let Logged { number, on, about, here } = logged;
    let made = if about.is_by_undo() { "undo" } else { "commit" };
    format!(
        "{{\"v\":1,\"commit\":{number},\"on\":{on},\"here\":{here},\"seconds\":{},\"made_by\":{},{}}}\n",
        about.seconds,
        quoted(made),
        member("text", &about.text)
    )
}

/// Seconds since 1970 as a date and a time of day in UTC.
fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // https://howardhinnant.github.io/date_algorithms.html, with years that begin in March.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z", year + era * 400 + carry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_796_069_701, "2026-11-30 20:15:01Z"),
            (4_107_542_399, "2100-02-28 23:59:59Z"),
        ] {
            assert_eq!(time(seconds), expected);
        }
    }
}
