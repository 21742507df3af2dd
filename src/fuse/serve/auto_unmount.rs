//! `auto_unmount`: a process that unmounts the view when its daemon dies.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::session;
use crate::base::{Errno, Result, panics};
use crate::sys::process::{self, Fork, Watched};
use crate::sys::{handover, inherited};

/// What `ps` shows: not the daemon's name, by which that may be killed.
const NAME: &str = "fuse-unmount";
/// It sleeps until the daemon ends; a time is only what poll(2) wants.
const LONG: Duration = Duration::from_secs(3600);

/// Starts the process. To be called before there is another thread.
///
/// # Errors
/// `EAGAIN`, `EMFILE`, `ENFILE` and `ENOMEM`; `ENOSYS` before Linux 5.3.
pub fn start(mountpoint: &Path) -> Result<()> {
    let daemon = process::this();
    let (ours, theirs) = handover::pair()?;
    match process::fork()? {
        Fork::Parent(_) => {
            drop(theirs);
            let mut answer = [0; 4];
            // Without an answer it has not come so far.
            let len = handover::read(ours.as_fd(), &mut answer)?;
            match i32::from_ne_bytes(answer) {
                0 if len == answer.len() => Ok(()),
                0 => Err(Errno::EAGAIN),
                errno => Err(Errno::from_raw(errno)),
            }
        }
        Fork::Child => {
            drop(ours);
            panics::caught(|| {
                let watched = detach(theirs.as_fd()).and_then(|()| Watched::new(daemon));
                let answer = watched.as_ref().err().map_or(0, |errno| errno.raw());
                let _ = handover::write(theirs.as_fd(), &answer.to_ne_bytes());
                drop(theirs);
                if let Ok(daemon) = watched {
                    while daemon.has_ended_within(LONG) == Ok(false) {}
                    session::give_up_dead(mountpoint);
                }
            });
            process::leave_at_once()
        }
    }
}

fn detach(keep: BorrowedFd<'_>) -> Result<()> {
    inherited::close_inherited(&[keep])?;
    // Standard error is where the log of this process goes, too.
    process::detach(true)?;
    process::set_name(NAME);
    Ok(())
}
