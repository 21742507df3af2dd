//! A command that sees the machine as it is, and whose changes are kept apart: `plyfs run`.
//!
//! Three processes take part. The *caller* waits for the command, as a shell would. Its child enters namespaces of its own,
//! mounts the unions, and becomes the *command*. The *daemon*, which the child leaves behind, serves all unions; its mount
//! namespace is not the command's, so that the mounts, and with them the daemon, end with the last process that sees them.

use std::io::Write;

mod daemon;
mod ground;
mod record;
mod stage;
mod store;

pub use daemon::Opened;
use ground::{Ground, Spot};

pub use ground::Wishes;
pub use record::{Steps, finish_steps};
pub use stage::{Command, Run, preflight, start, start_beside};
pub use store::{Place, Session, Store};

/// Tells the caller, on standard error. That nobody reads it is no reason to end.
fn say(line: &str) {
    let line = line.replace(char::is_control, " ");
    let _ = std::io::stderr().write_all(format!("plyfs: {line}\n").as_bytes());
}
