//! The flags that several commands have.

use std::path::PathBuf;

use clap::Args;

use super::super::paint::Color;

/// How it is told, and of which sessions.
#[derive(Debug, Args)]
pub struct Shared {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Print colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
    /// Where sessions are kept ($XDG_STATE_HOME/plyfs)
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}
