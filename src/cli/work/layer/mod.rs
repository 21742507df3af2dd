//! `plyfs layer …`: the commands on layers, each in a file of its own.

use clap::{Args, Subcommand};

use super::super::report::Failure;

mod du;

/// layers as things: what they weigh
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  plyfs layer du ~/view")]
pub struct Layer {
    #[command(subcommand)]
    command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
enum Command {
    Du(du::Weigh),
}

impl Layer {
    /// Runs it; the exit status.
    ///
    /// # Errors
    /// As the command says.
    pub fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Du(du) => du.run(),
        }
    }
}
