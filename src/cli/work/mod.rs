//! The commands on what a view has changed. Each is one file with its flags, which clap reads, and what it does.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
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

/// How the command with these words is used, such as `layer squash`.
pub fn help(words: &[&str]) -> Option<String> {
    let all = commands();
    let command = words.iter().try_fold(&all, |command, word| command.find_subcommand(word))?;
    // As it is called; clap names it alone where nothing has been parsed.
    let mut command = command.clone().bin_name(format!("plyfs {}", words.join(" ")));
    Some(command.render_long_help().to_string())
}

/// Runs `args`, which begins with the program's name; the exit status.
///
/// # Errors
/// The words make no sense, or it cannot be done.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<u8, Failure> {
    let args: Vec<OsString> = args.into_iter().collect();
    match Line::try_parse_from(&args) {
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
        Err(error) => Err(failure(&error, &args)),
    }
}

/// What clap finds wrong, in one line.
fn failure(error: &clap::Error, args: &[OsString]) -> Failure {
    let command = named(args);
    let text = error.to_string();
    let all = |kind| match error.get(kind) {
        Some(ContextValue::Strings(all)) => all.join(", "),
        Some(one) => one.to_string(),
        None => String::new(),
    };
    let what = all(ContextKind::InvalidArg);
    let (what, reason) = match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            (command.clone(), format!("a word is missing behind it, one of {}", subcommands(&command)))
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            (command.clone(), format!("a word is missing: {what}"))
        }
        ErrorKind::InvalidValue if error.get(ContextKind::ValidValue).is_some() => {
            let given = all(ContextKind::InvalidValue);
            let reason =
                if given.is_empty() { "a value is missing".to_owned() } else { format!("no such value: {given}") };
            (what, format!("{reason}; there are {}", all(ContextKind::ValidValue)))
        }
        _ => (what, text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()),
    };
    let what = if what.is_empty() { command.clone() } else { what };
    Failure::usage(what, reason, format!("plyfs help {command} says how it is used"))
}

/// The words of the command that `args`, with the program's name, call.
fn named(args: &[OsString]) -> String {
    let mut at = commands();
    let mut words = Vec::new();
    for word in args.iter().skip(1).map_while(|word| word.to_str()) {
        let Some(next) = at.find_subcommand(word).cloned() else { break };
        (at, words) = (next, [words, vec![word]].concat());
    }
    words.join(" ")
}

/// The words that may stand behind a command.
fn subcommands(command: &str) -> String {
    let all = commands();
    let found = all.find_subcommand(command);
    let names = found.into_iter().flat_map(clap::Command::get_subcommands).map(clap::Command::get_name);
    names.collect::<Vec<_>>().join(", ")
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
            let help = help(&[command.get_name()]).unwrap();
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
