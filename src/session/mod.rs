//! A command that sees the machine as it is, and whose changes are kept apart: `plyfs run`.
//!
//! Three processes take part. The *caller* waits for the command, as a shell would. Its child enters namespaces of its own,
//! mounts the unions, and becomes the *command*. The *daemon*, which the child leaves behind, serves all unions; its mount
//! namespace is not the command's, so that the mounts, and with them the daemon, end with the last process that sees them.

mod daemon;
mod ground;
mod stage;
mod store;

pub use daemon::Opened;
pub use ground::{Ground, Spot, Wishes};
pub use stage::{Command, Run, preflight, start, start_beside};
pub use store::{Session, Store};
