//! An end that somebody asks for by a signal while a command makes something: it tidies up first.

#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use crate::base::{Errno, Result};

/// The signal that has come; 0: none.
static ASKED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    ASKED.store(signal, Relaxed);
}

/// From now on the first SIGINT, SIGTERM or SIGHUP is noted for [`check`], and only a second one ends this process. Those
/// that it ignores it goes on to ignore ([sigaction(2)](https://man7.org/linux/man-pages/man2/sigaction.2.html)).
pub fn note_first() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all-zero is a value of the type, both pointers are to live values of this frame, and the handler stores
        // one atomic number, which a signal may interrupt anything for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, ptr::null(), &mut action) != 0 || action.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            action.sa_sigaction = note as extern "C" fn(i32) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
            libc::sigaction(signal, &action, ptr::null_mut());
        }
    }
}

/// Nobody has asked for the end.
///
/// # Errors
/// `ECANCELED`: somebody has.
pub fn check() -> Result<()> {
    if ASKED.load(Relaxed) == 0 { Ok(()) } else { Err(Errno::ECANCELED) }
}

/// Ends this process by the signal that was noted, if there is one.
pub fn end_if_asked() {
    let signal = ASKED.load(Relaxed);
    if signal != 0 {
        // SAFETY: they take numbers, and no function is called when the signal arrives.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}
