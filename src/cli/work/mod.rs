//! The commands on what a view has changed. Each is one file with its flags, which clap reads, and what it does.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use super::report::Failure;
pub(super) use changes::check_whole;

pub mod apply;
mod changes;
pub mod commit;
pub mod diff;
pub mod drop;
pub mod layer;
pub mod log;
pub mod run;
mod shared;
pub mod status;
mod steps;
pub mod undo;
pub mod whereabouts;

/// What `plyfs COMMAND …` asks for.
#[derive(Debug, Parser)]
#[command(name = "plyfs", disable_help_subcommand = true, disable_version_flag = true)]
struct Line {
    #[command(subcommand)]
    command: Work,
}

/// One command.
#[derive(Debug, Subcommand)]
enum Work {
    Run(run::Run),
    Drop(drop::Drop),
    Diff(diff::Diff),
    Apply(apply::Apply),
    Commit(commit::Commit),
    Log(log::Log),
    Undo(undo::Undo),
    Redo(undo::Redo),
    Layer(layer::Layer),
    Status(status::Status),
    Where(whereabouts::Where),
}

/// The commands, as clap has them: help, man pages and completions are made of it.
pub fn commands() -> clap::Command {
    Line::command()
}

/// Whether `word` is a command of this module.
pub fn has(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| commands().find_subcommand(word).is_some())
}

/// How the command `word` is used.
pub fn help(word: &str) -> Option<String> {
    let mut all = commands();
    let command = all.find_subcommand_mut(word)?;
    // As it is called; clap names it alone where nothing has been parsed.
    let mut command = command.clone().bin_name(format!("plyfs {word}"));
    Some(command.render_long_help().to_string())
}

/// Runs `args`, which begins with the program's name; the exit status.
///
/// # Errors
/// The words make no sense, or it cannot be done.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<u8, Failure> {
    match Line::try_parse_from(args) {
        Ok(Line { command: Work::Run(run) }) => run.run(),
        Ok(Line { command: Work::Drop(drop) }) => drop.run(),
        Ok(Line { command: Work::Diff(diff) }) => diff.run(),
        Ok(Line { command: Work::Apply(apply) }) => apply.run(),
        Ok(Line { command: Work::Commit(commit) }) => commit.run(),
        Ok(Line { command: Work::Log(log) }) => log.run(),
        Ok(Line { command: Work::Undo(undo) }) => undo.run(),
        Ok(Line { command: Work::Redo(redo) }) => redo.run(),
        Ok(Line { command: Work::Layer(layer) }) => layer.run(),
        Ok(Line { command: Work::Status(status) }) => status.run(),
        Ok(Line { command: Work::Where(path) }) => path.run(),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => super::commands::print(&error.to_string()).map(|()| 0),
        Err(error) => Err(failure(&error)),
    }
}

/// What clap finds wrong, in one line.
fn failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let reason = match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a word is missing behind it"
        }
        _ => text.lines().next().unwrap_or_default().trim_start_matches("error: "),
    };
    let reason = reason.to_owned();
    let what = error.get(ContextKind::InvalidArg).map_or_else(|| "the command".to_owned(), ToString::to_string);
    Failure::usage(what, reason, "plyfs help COMMAND says how it is used")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        commands().debug_assert();
    }

    #[test]
    fn each_command_has_an_example_and_fits_its_columns() {
        for command in commands().get_subcommands() {
            let help = help(command.get_name()).unwrap();
            assert!(help.contains("\nExample"), "{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_one_line_with_status_2() {
        for line in [&["plyfs", "status", "--what"][..], &["plyfs", "status", "a", "b"], &["plyfs", "layer"]] {
            let failure = run(line.iter().map(OsString::from)).unwrap_err();
            assert_eq!(failure.status, Failure::USAGE);
            assert_eq!(failure.to_string().lines().count(), 1);
        }
    }
}
