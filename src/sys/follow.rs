//! A child that stands in this process's place, as a command stands in the place of env(1).

#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::ptr;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions};

use crate::base::{Errno, Result};

/// The signals that [`follow`] hands on, and the one that tells of the child.
fn handed_on() -> libc::sigset_t {
    let signals =
        [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];
    // SAFETY: an empty set is valid; the set is initialised then, and each number a valid one.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// Lets the signals of [`hold_signals`] through, in a child.
pub fn release_signals() {
    // SAFETY: the set is initialised, and no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &handed_on(), ptr::null_mut()) };
}

/// Keeps the signals that [`follow`] hands on pending: before the command is started.
pub fn hold_signals() {
    // SAFETY: the set is initialised, and no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &handed_on(), ptr::null_mut()) };
}

/// Waits for the command `pid`, a child, as if it had been called in this process's place: it gets the signals that this
/// process gets, and this process stops when a terminal stops it, and goes on with it. Its exit status, 128 + N where
/// signal N ended it. After [`hold_signals`].
///
/// # Errors
/// Those of waitpid(2) and sigwaitinfo(2).
pub fn follow(pid: Pid) -> Result<u8> {
    for signal in [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU] {
        // SAFETY: it takes two numbers, and no function is called when the signal arrives.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let set = handed_on();
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((_, status))) if status.exited() => {
                return Ok(u8::try_from(status.exit_status().unwrap_or_default()).unwrap_or(u8::MAX));
            }
            Ok(Some((_, status))) if status.signaled() => {
                return Ok(u8::try_from(128 + status.terminating_signal().unwrap_or_default()).unwrap_or(u8::MAX));
            }
            Ok(Some((_, status))) if status.stopped() => stop_with(pid, status.stopping_signal())?,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // SAFETY: zeroes are a valid value, and both pointers are to live values of this frame.
        let (arrived, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(&set, &mut info), info)
        };
        match arrived {
            libc::SIGCHLD => {}
            // A terminal sends these to the command, too.
            libc::SIGINT | libc::SIGQUIT if info.si_code == libc::SI_KERNEL => {}
            signal @ 1.. => super::process::signal(pid, signal)?,
            _ => match std::io::Error::last_os_error().into() {
                Errno::EINTR => {}
                errno => return Err(errno),
            },
        }
    }
}

/// Stops as a command that a terminal has stopped, and goes on with it.
fn stop_with(pid: Pid, by: Option<i32>) -> Result<()> {
    let by_terminal = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].map(Some).contains(&by);
    let goes_on = || rustix::process::waitpid(Some(pid), WaitOptions::NOHANG | WaitOptions::CONTINUED);
    if !by_terminal || goes_on().is_ok_and(|status| status.is_some()) {
        return Ok(());
    }
    super::process::signal(rustix::process::getpid(), libc::SIGSTOP)?;
    super::process::signal(pid, libc::SIGCONT)
}

/// Whether the other end of a pipe is closed now, or within `time`.
pub fn is_closed_within(pipe: &OwnedFd, time: Duration) -> bool {
    let mut one = [rustix::event::PollFd::new(pipe, rustix::event::PollFlags::IN)];
    let time = rustix::time::Timespec::try_from(time).ok();
    rustix::event::poll(&mut one, time.as_ref()).is_ok_and(|ready| ready > 0)
}
