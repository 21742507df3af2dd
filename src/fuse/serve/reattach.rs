//! A mount that outlives the daemon that serves it.
//!
//! A supervisor holds the connection to the kernel, too: when the daemon dies nothing is closed, and requests wait. The
//! next daemon is given the connection and a journal. fuser wants to read an INIT first, which the kernel sends once in the
//! life of a connection. So the INIT is kept in the journal, and fuser reads it from a socket, which the connection replaces
//! afterwards. Then the kernel is asked to send again what the dead daemon had read (`FUSE_NOTIFY_RESEND`, Linux 6.9).
//!
//! The connection must not be cloned for each thread: what was read on a clone is answered `ECONNABORTED` when the clone
//! is closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, InitFlags, Session, SessionACL};

use super::adapter::Adapter;
use crate::base::{Errno, Result};
use crate::fuse::wire::{MESSAGE, RESENT, answer_error, request, resend};
use crate::sys::newer::{self, Newer};
use crate::sys::{handover, process};
use crate::union::Journal;

/// What a supervisor gives to a daemon.
#[derive(Debug)]
pub struct Successive {
    /// What the one before has written, and this one goes on to write.
    pub journal: Arc<Journal>,
    /// The connection, where this is not the first.
    pub connection: Option<OwnedFd>,
    /// Where the first one hands the connection over.
    pub supervisor: OwnedFd,
    /// The daemons before have died so soon that a request may be to blame: what they had read is answered `EIO`.
    pub refuse: bool,
}

/// `struct fuse_init_in`, behind the header: the flags.
const FLAGS: usize = 40 + 12;
const NO_RESEND: &str = "needs Linux 6.9, where requests can be sent again";

impl Successive {
    /// Starts the session on `connection`.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn session(&self, fs: Adapter, connection: &OwnedFd, config: Config) -> io::Result<Session<Adapter>> {
        let before = self.journal.init();
        let init = match &before {
            Some(init) => init.clone(),
            None => {
                let mut message = vec![0; MESSAGE];
                let len = handover::read(connection.as_fd(), &mut message)?;
                message.truncate(len);
                // Else no other daemon can do better.
                if newer::is_absent(Newer::Resend) || !offers_resend(&message) {
                    return Err(io::Error::other(NO_RESEND));
                }
                handover::send_fd(self.supervisor.as_fd(), connection.as_fd())?;
                message
            }
        };
        let (ours, theirs) = handover::pair()?;
        handover::write(ours.as_fd(), &init)?;
        let session = Session::from_fd(fs, theirs, SessionACL::All, config)?;
        let mut answer = [0; 4096];
        let len = handover::read(ours.as_fd(), &mut answer)?;
        handover::put_in_place(connection.as_fd(), session.as_fd())?;
        match before {
            None => {
                self.journal.set_init(init);
                handover::write(connection.as_fd(), answer.get(..len).unwrap_or_default())?;
            }
            Some(_) => self.take_over(connection.as_fd())?,
        }
        let since = u64::try_from(process::uptime().as_nanos()).unwrap_or(u64::MAX);
        handover::write(self.supervisor.as_fd(), &since.to_le_bytes())?;
        Ok(session)
    }

    /// For the supervisor, once a daemon has ended: how long it had answered requests, if it came to that.
    pub fn has_served(told: BorrowedFd<'_>) -> Option<Duration> {
        let mut since = [0; 8];
        let told = handover::read(told, &mut since).is_ok_and(|len| len == since.len());
        told.then(|| process::uptime().saturating_sub(Duration::from_nanos(u64::from_le_bytes(since))))
    }

    fn take_over(&self, connection: BorrowedFd<'_>) -> Result<()> {
        match resend(connection) {
            // Unmounted meanwhile: the session will see that.
            Err(Errno::ENODEV | Errno::EPERM | Errno::ENOENT) => return Ok(()),
            done => done?,
        }
        if self.refuse { refuse_resent(connection) } else { Ok(()) }
    }
}

/// Whether an INIT is that of a kernel that has `FUSE_NOTIFY_RESEND`.
fn offers_resend(init: &[u8]) -> bool {
    let word = |at: usize| init.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let flags = u64::from(word(FLAGS)) | u64::from(word(FLAGS + 4)) << 32;
    InitFlags::from_bits_retain(flags).contains(InitFlags::FUSE_INIT_EXT | InitFlags::FUSE_HAS_RESEND)
}

/// Looks before anything is mounted whether a daemon can go on where another one has died.
///
/// # Errors
/// Why not.
pub fn can_succeed() -> std::result::Result<(), String> {
    // What was brought into an older kernel of a distribution is not known before there is a mount.
    if newer::is_absent(Newer::Resend) || !newer::release_is_at_least(6, 9) {
        return Err(format!("{NO_RESEND} (this is {})", newer::release()));
    }
    Ok(())
}

/// Answers `EIO` to all requests that another daemon has read before: they stand before all others.
fn refuse_resent(connection: BorrowedFd<'_>) -> Result<()> {
    let mut message = vec![0; MESSAGE];
    while process::is_readable(connection) {
        let len = handover::read(connection, &mut message)?;
        // Who forgets says so in between: what it means is kept, which costs memory.
        let Some(unique) = request(message.get(..len).unwrap_or_default()) else { continue };
        if unique & RESENT == 0 {
            // The first of the others: back into the queue.
            return resend(connection);
        }
        log::error!("a request was answered EIO: daemons died of it, or beside it");
        answer_error(connection, unique, Errno::EIO)?;
    }
    Ok(())
}
