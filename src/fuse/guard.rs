//! A process that ends a connection whose daemon was killed.
//!
//! A thread that stores into the kernel's cache may wait there for the page of a READ. If the daemon is killed just then
//! nobody answers that READ, the thread cannot be killed, and as long as it is there the kernel does not see that the
//! daemon is gone: whoever uses the view would wait for good. So this process, which holds the connection, too, answers
//! `ENOTCONN` to all that is asked until nothing is left of the daemon, and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::Pid;

use super::reattach::{MESSAGE, answer_error, request, resend};
use crate::base::{Errno, Result, panics};
use crate::sys::handover;
use crate::sys::process::{self, Fork, Watched};

/// What `ps` shows. Not the daemon's name: who kills by name means the daemon.
const NAME: &str = "fuse-guard";

/// How often it looks whether the daemon is gone.
const LOOK: Duration = Duration::from_millis(5);

/// The daemon's end: the process waits for the connection, and ends when this is dropped before.
#[derive(Debug)]
pub struct Guard(OwnedFd);

impl Guard {
    /// Starts the process. To be called before there is another thread.
    ///
    /// # Errors
    /// `EBUSY` where there is one, `EAGAIN`, `EMFILE`, `ENFILE` and `ENOMEM`.
    pub fn start() -> Result<Self> {
        let daemon = process::this();
        let (ours, theirs) = handover::pair()?;
        match process::fork()? {
            Fork::Parent(_) => Ok(Self(ours)),
            Fork::Child => {
                panics::caught(|| {
                    if let Err(error) = guard(daemon, &theirs) {
                        log::debug!("the guard ends: {error}");
                    }
                });
                process::leave_at_once()
            }
        }
    }

    /// It guards this connection from now on. False where the kernel cannot send again what a dead daemon had read
    /// (before Linux 6.9): then there is no guard.
    ///
    /// # Errors
    /// Those of the connection, and of handing it over.
    pub fn hand_over(&self, connection: BorrowedFd<'_>) -> Result<bool> {
        // Nothing was read yet: only to know that it can be done.
        match resend(connection) {
            Err(Errno::EINVAL) => Ok(false),
            done => done.and_then(|()| handover::send_fd(self.0.as_fd(), connection)).map(|()| true),
        }
    }
}

/// The life of the process.
fn guard(daemon: Pid, socket: &OwnedFd) -> Result<()> {
    process::close_inherited(socket.as_fd())?;
    process::detach()?;
    process::set_name(NAME);
    let daemon = Watched::new(daemon)?;
    let connection = handover::receive_fd(socket.as_fd())?;
    daemon.wait_for_main_thread()?;
    let mut message = vec![0; MESSAGE];
    while !daemon.has_ended_within(LOOK)? {
        // What it had read; again and again, as its threads end one after the other. `ENODEV` after an unmount.
        resend(connection.as_fd())?;
        while process::is_readable(connection.as_fd()) {
            let len = handover::read(connection.as_fd(), &mut message)?;
            if let Some(unique) = request(message.get(..len).unwrap_or_default()) {
                answer_error(connection.as_fd(), unique, Errno::from_raw(libc::ENOTCONN))?;
            }
        }
    }
    Ok(())
}
