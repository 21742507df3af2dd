//! `plyfs layer …`: the commands on layers, each in a file of its own.

use clap::{Args, Subcommand};

use super::super::report::Failure;
use crate::sys::ending;

mod change;
mod check;
mod convert;
mod du;
mod export;
mod import;
mod out;
mod squash;

/// layers as things: their weight, several made one, what is wrong, images; add and remove
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plyfs layer du ~/view\n  plyfs layer squash top middle base out\n  plyfs layer check top middle base\n  plyfs layer add ~/view ~/patches"
)]
pub struct Layer {
    #[command(subcommand)]
    command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
enum Command {
    Du(du::Weigh),
    Squash(squash::Squash),
    Export(export::Give),
    Check(check::Check),
    Convert(convert::Convert),
    Import(import::Take),
    Add(change::Add),
    Remove(change::Remove),
}

impl Layer {
    /// Runs it; the exit status.
    ///
    /// # Errors
    /// As the command says.
    pub fn run(self) -> Result<u8, Failure> {
        use Command::{Convert, Export, Import, Squash};
        // What they have begun beside its place goes before they do.
        let is_tidy = matches!(self.command, Squash(_) | Export(_) | Convert(_) | Import(_));
        if is_tidy {
            ending::note_first();
        }
        let done = self.done();
        if is_tidy && done.is_err() {
            ending::end_if_asked();
        }
        done
    }

    fn done(self) -> Result<u8, Failure> {
        match self.command {
            Command::Du(du) => du.run(),
            Command::Squash(squash) => squash.run(),
            Command::Export(export) => export.run(),
            Command::Check(check) => check.run(),
            Command::Convert(convert) => convert.run(),
            Command::Import(import) => import.run(),
            Command::Add(add) => add.run(),
            Command::Remove(remove) => remove.run(),
        }
    }
}
