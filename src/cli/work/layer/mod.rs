//! `plyfs layer …`: the commands on layers, each in a file of its own.

use clap::{Args, Subcommand};

use super::super::report::Failure;

mod check;
mod convert;
mod du;
mod export;
mod import;
mod out;
mod squash;

/// layers as things: what they weigh, several made one, what is wrong, images
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plyfs layer du ~/view\n  plyfs layer squash top middle base out\n  plyfs layer check top middle base"
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
}

impl Layer {
    /// Runs it; the exit status.
    ///
    /// # Errors
    /// As the command says.
    pub fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Du(du) => du.run(),
            Command::Squash(squash) => squash.run(),
            Command::Export(export) => export.run(),
            Command::Check(check) => check.run(),
            Command::Convert(convert) => convert.run(),
            Command::Import(import) => import.run(),
        }
    }
}
