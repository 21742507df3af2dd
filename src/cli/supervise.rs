//! `--supervise`: a small process that holds the mount, and starts the daemon again when it dies.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Pid;

use super::commands;
use super::daemon::Report;
use super::report::Failure;
use super::resolve::Resolved;
use crate::base::Errno;
use crate::fuse::serve::reattach::{self, Successive};
use crate::fuse::serve::session;
use crate::sys::handover;
use crate::sys::process::{self, Event, Fork};
use crate::union::Journal;

/// A daemon that has served at least so long did not die of the first request.
const LONG: Duration = Duration::from_millis(200);
/// Daemons in a row that may serve shorter; after the first four, the next ones refuse the requests that those had read.
const SHORT_LIVES: u32 = 8;
const REFUSING: u32 = 4;
/// The pause before a daemon is started again, times the number of short lives in a row.
const PAUSE: Duration = Duration::from_millis(20);

/// Keeps a view served until it is unmounted.
///
/// # Errors
/// Daemons could not be started, or too many died. Where a daemon has said itself why it could not mount, this process
/// ends with its status.
pub fn run(resolved: &Resolved, report: &mut dyn Report) -> Result<(), Failure> {
    reattach::can_succeed().map_err(|reason| Failure::refused("--supervise", reason, "leave it out"))?;
    process::block_endings();
    let failed = |what: &str, errno: Errno| Failure::system(what, errno.to_string(), "leave --supervise out");
    let files = Journal::files().map_err(|errno| failed("memfd_create(2)", errno))?;
    let mut connection: Option<OwnedFd> = None;
    let mut short_lives = 0;
    loop {
        let copies = || Ok::<_, Errno>([files[0].try_clone()?, files[1].try_clone()?]);
        let (ours, theirs) = handover::pair().map_err(|errno| failed("socketpair(2)", errno))?;
        match process::fork().map_err(|errno| failed("fork(2)", errno))? {
            Fork::Child => {
                drop(ours);
                let refuse = short_lives >= REFUSING;
                let served = copies().and_then(Journal::open).map_err(|errno| failed("the journal", errno));
                let served = served.and_then(|journal| {
                    let one = Successive { journal: Arc::new(journal), connection, supervisor: theirs, refuse };
                    commands::serve(resolved, Some(one), report)
                });
                std::process::exit(i32::from(report.end(served)))
            }
            Fork::Parent(child) => {
                drop(theirs);
                report.leave();
                if connection.is_none() {
                    connection = handover::receive_fd(ours.as_fd()).ok();
                }
                let (status, told) = watch(child).map_err(|errno| failed("waitpid(2)", errno))?;
                match (status, &connection) {
                    (Some(0), _) => return Ok(()),
                    (status, None) => std::process::exit(status.unwrap_or(1)),
                    (status, _) if told => std::process::exit(status.unwrap_or(1)),
                    _ => {}
                }
                let how = status.map_or("a signal".to_owned(), |status| format!("status {status}"));
                let served = Successive::has_served(ours.as_fd());
                log::error!("the daemon ended by {how} after it had served {:?}", served.unwrap_or_default());
                short_lives = if served.is_some_and(|served| served >= LONG) { 0 } else { short_lives + 1 };
                if short_lives > SHORT_LIVES {
                    session::give_up(&resolved.mount.mountpoint);
                    let what = resolved.mount.mountpoint.display().to_string();
                    let reason = format!("{short_lives} daemons in a row died within {LONG:?}: unmounted");
                    return Err(Failure::refused(what, reason, "-f -d shows what happens"));
                }
                std::thread::sleep(PAUSE * short_lives);
            }
        }
    }
}

/// Waits for the end of a daemon, and hands it the signals that this process gets. Returns its exit status (`None` after a
/// signal), and whether it was told to end.
fn watch(child: Pid) -> Result<(Option<i32>, bool), Errno> {
    let mut told = false;
    loop {
        match process::wait_for_event(child)? {
            Event::Ended(status) => return Ok((status, told)),
            Event::Signal(signal) => {
                told |= signal != libc::SIGUSR1;
                let _ = process::signal(child, signal);
            }
        }
    }
}
