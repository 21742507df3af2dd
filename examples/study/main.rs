//! The study of copy-up: what the first change of a lower file costs, by size, change, method, durability and file system,
//! for plyfs, its engine, the kernel's OverlayFS (root) and each fuse-overlayfs on the PATH.
//!
//! `cargo run --release --example study -- --quick --html /tmp/study`; docs/figures.md says how to read what it prints.

#![allow(clippy::expect_used, clippy::indexing_slicing)] // A study that cannot make its layers has nothing to measure.

#[path = "../../benches/common/mod.rs"]
mod common;
#[path = "../../tests/common/raw.rs"]
#[allow(dead_code, clippy::unwrap_used)] // The tests use more of it, and may.
mod raw;

mod change;
mod compare;
mod extra;
mod machine;
mod markdown;
mod measure;
mod methods;
mod neighbour;
mod page;
mod places;
mod plan;
mod plot;
mod results;
mod stats;
mod table;
mod units;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use results::Run;

/// What may be said of a study, beside that it is done.
type Done<T = ()> = Result<T, Box<dyn Error>>;

/// What the first change of a lower file costs: measured, or what was measured before shown or compared.
#[derive(Parser)]
#[command(name = "study")]
struct Args {
    /// Measure on the file system of this directory (repeatable; default: TMPDIR)
    #[arg(long, value_name = "DIR")]
    on: Vec<PathBuf>,
    /// Have the lower layers there, on another file system: what is copied must be read and written
    #[arg(long, value_name = "DIR")]
    lower: Option<PathBuf>,
    /// Measure on new file systems in memory (root): ext4, xfs, xfs-without-reflinks, btrfs, f2fs, tmpfs, xfs-over-ext4, or all
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    make: Vec<String>,
    /// Up to 16 MiB, within two minutes
    #[arg(long)]
    quick: bool,
    /// Seconds for all; what has no time left is skipped (default: 110 with --quick, else 20 for each thing measured)
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u64>,
    /// Write all that was found
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write each sample
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write tables of medians, as docs/figures.md has them
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the page DIR/index.html
    #[arg(long, value_name = "DIR")]
    html: Option<PathBuf>,
    /// Measure nothing: show what a run has written with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["on", "lower", "make", "quick", "budget"])]
    from: Option<PathBuf>,
    /// Measure nothing: say what differs between two files of --json, and how surely
    #[arg(long, num_args = 2, value_names = ["A", "B"], exclusive = true)]
    compare: Option<Vec<PathBuf>>,
}

fn write(path: &Path, text: &str) -> Done {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}

fn run(args: &Args) -> Done {
    if let Some([one, other]) = args.compare.as_deref() {
        return compare::print(&Run::read(one)?, &Run::read(other)?);
    }
    // Known before an hour is spent.
    if let Some(dir) = &args.html {
        fs::create_dir_all(dir).map_err(|error| format!("--html {}: {error}", dir.display()))?;
    }
    for (option, path) in [("--json", &args.json), ("--csv", &args.csv), ("--markdown", &args.markdown)] {
        let Some(path) = path else { continue };
        let opened = fs::OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| format!("{option} {}: {error}", path.display()))?;
    }
    let run = match &args.from {
        Some(path) => Run::read(path)?,
        None => plan::carry_out(args)?,
    };
    table::print(&run);
    if let Some(path) = &args.json {
        write(path, &run.to_json())?;
    }
    if let Some(path) = &args.csv {
        write(path, &run.to_csv())?;
    }
    if let Some(path) = &args.markdown {
        write(path, &markdown::tables(&run))?;
    }
    if let Some(dir) = &args.html {
        write(&dir.join("index.html"), &page::page(&run))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    // As the daemon of its own mounts: examples are not given the path of the program `plyfs`.
    if std::env::args_os().nth(1).is_some_and(|first| first == "-f") {
        return plyfs::cli::commands::run(std::iter::once(OsString::from("plyfs")).chain(std::env::args_os().skip(1)));
    }
    let args = Args::parse();
    run(&args).map_or_else(
        |error| {
            eprintln!("study: {error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}
