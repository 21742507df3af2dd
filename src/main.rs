//! The command `plyfs`; everything about it is in [`plyfs::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    plyfs::cli::commands::run(std::env::args_os())
}
