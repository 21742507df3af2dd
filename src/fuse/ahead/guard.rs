//! A process that ends a connection whose daemon was killed.
//!
//! A thread that stores into the kernel's cache may wait there for the page of a READ. If the daemon is killed just then
//! nobody answers that READ, the thread cannot be killed, and as long as it is there the kernel does not see that the
//! daemon is gone: whoever uses the view would wait for good. So this process, which holds the connection, too, answers
//! `ENOTCONN` to all that is asked until nothing is left of the daemon, and ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::Pid;

use crate::base::sync::Mutex;
use crate::base::{Errno, Result, panics};
use crate::fuse::wire::{MESSAGE, answer_error, request, resend};
use crate::sys::process::{self, Fork, Forked, Watched};
use crate::sys::{handover, inherited};

/// What `ps` shows: not the daemon's name, by which that may be killed.
const NAME: &str = "fuse-guard";
/// How often it looks whether the daemon is gone, and how many requests it answers in between.
const LOOK: Duration = Duration::from_millis(5);
const MOST: usize = 1000;

/// A guard that waits for its connection, and ends when this is dropped before.
#[derive(Debug)]
pub struct Guard {
    socket: OwnedFd,
    process: Forked,
}

/// A guard at work; it ends with this.
#[derive(Debug)]
pub struct Guarded(Mutex<Option<Forked>>);

impl Guard {
    /// Starts the process. To be called before there is another thread.
    ///
    /// # Errors
    /// `EBUSY` where there is one, `EAGAIN`, `EMFILE`, `ENFILE` and `ENOMEM`; `ENOSYS` before Linux 5.3.
    pub fn start() -> Result<Self> {
        let daemon = process::this();
        let (socket, theirs) = handover::pair()?;
        match process::fork()? {
            Fork::Parent(pid) => Ok(Self { socket, process: Forked::new(pid)? }),
            Fork::Child => {
                drop(socket);
                panics::caught(|| {
                    if let Err(error) = guard(daemon, &theirs) {
                        log::debug!("the guard ends: {error}");
                    }
                });
                process::leave_at_once()
            }
        }
    }

    /// It guards this connection from now on.
    ///
    /// # Errors
    /// `EINVAL`: the kernel cannot send again what a dead daemon had read (before Linux 6.9); those of the connection.
    pub fn take(self, connection: BorrowedFd<'_>) -> Result<Guarded> {
        // Nothing was read yet: only to know that it can be done.
        resend(connection)?;
        handover::send_fd(self.socket.as_fd(), connection)?;
        Ok(Guarded(Mutex::new(Some(self.process))))
    }
}

impl Guarded {
    /// Whether it was killed.
    pub fn is_gone(&self) -> bool {
        self.0.lock().as_ref().is_some_and(Forked::has_ended)
    }

    /// It is needed no longer.
    pub fn end(&self) {
        drop(self.0.lock().take());
    }

    /// For what is no connection.
    #[cfg(test)]
    pub fn nobody() -> Self {
        Self(Mutex::default())
    }
}

/// The life of the process.
fn guard(daemon: Pid, socket: &OwnedFd) -> Result<()> {
    inherited::close_inherited(&[socket.as_fd()])?;
    // Standard error is where the log of this process goes, too.
    process::detach(true)?;
    process::set_name(NAME);
    let daemon = Watched::new(daemon)?;
    let connection = handover::receive_fd(socket.as_fd())?;
    daemon.wait_for_main_thread();
    // A thread of the daemon that is about to die may be the one who reads what is waiting.
    process::set_nonblocking(connection.as_fd())?;
    let mut message = vec![0; MESSAGE];
    while !daemon.has_ended_within(LOOK)? {
        // What it had read; again and again, as its threads end one after the other. `ENODEV` after an unmount.
        resend(connection.as_fd())?;
        for _ in 0..MOST {
            let len = match handover::read(connection.as_fd(), &mut message) {
                Err(Errno::EAGAIN | Errno::ENOENT | Errno::EINTR) => break,
                len => len?,
            };
            if let Some(unique) = request(message.get(..len).unwrap_or_default()) {
                answer_error(connection.as_fd(), unique, Errno::from_raw(libc::ENOTCONN))?;
            }
        }
    }
    Ok(())
}
