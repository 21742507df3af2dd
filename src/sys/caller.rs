//! Acting as the process that asked, and what is known about it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::CString;
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::seam::{self, Call};
use crate::base::{DiskGid, DiskUid, Errno, Result, ViewGid};

/// What this process may do, looked up once.
struct Daemon {
    ids: Ids,
    caps: CapabilitySets,
    may_act: bool,
}

/// User and group that new objects belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ids {
    uid: DiskUid,
    gid: DiskGid,
}

impl Ids {
    /// The file system ids of this thread.
    fn now() -> Self {
        // What is no id is not taken, and the call tells the one of now.
        Self { uid: DiskUid(swap_fsuid(u32::MAX)), gid: DiskGid(swap_fsgid(u32::MAX)) }
    }
}

const ROOT: DiskUid = DiskUid(0);

thread_local! {
    /// Whom this thread acts as, if not as the daemon.
    static ACTING: Cell<Option<Ids>> = const { Cell::new(None) };
}

fn daemon() -> &'static Daemon {
    static DAEMON: OnceLock<Daemon> = OnceLock::new();
    DAEMON.get_or_init(|| {
        let none = CapabilitySet::empty();
        let caps = capabilities(None).unwrap_or(CapabilitySets { effective: none, permitted: none, inheritable: none });
        let may_act = caps.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
        Daemon { ids: Ids::now(), caps, may_act }
    })
}

/// User and group of this process.
pub fn own_ids() -> (DiskUid, DiskGid) {
    (DiskUid(rustix::process::geteuid().as_raw()), DiskGid(rustix::process::getegid().as_raw()))
}

/// Whether [`as_caller`] can take other ids: the daemon has `CAP_SETUID` and `CAP_SETGID` (in its user namespace).
pub fn may_act_as_others() -> bool {
    daemon().may_act
}

/// Whether no mode and no ACL of a file that this process's user namespace knows the owner of keeps the daemon from reading
/// and searching it (`CAP_DAC_OVERRIDE` or `CAP_DAC_READ_SEARCH`).
pub fn overrides_modes() -> bool {
    daemon().caps.effective.intersects(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH)
}

/// The effective capabilities of this thread, bit N for capability N
/// ([capget(2)](https://man7.org/linux/man-pages/man2/capget.2.html)); 0 if they cannot be read.
pub fn effective_caps() -> u64 {
    if seam::enter(Call::Caps).is_err() {
        return 0;
    }
    capabilities(None).map_or(0, |sets| sets.effective.bits())
}

/// Runs `f` with this thread's file system ids set to `uid` and `gid`, but with the daemon's capabilities, so that what
/// it creates belongs to them ([setfsuid(2)](https://man7.org/linux/man-pages/man2/setfsuid.2.html)).
///
/// No permission is checked as theirs, as long as the daemon has `CAP_DAC_OVERRIDE`; supplementary groups stay the
/// daemon's. Where the ids are the daemon's own already, or the daemon may not take others
/// ([`may_act_as_others`]), `f` simply runs. On return, by a panic too, the thread is the daemon again; if that cannot
/// be, the process is aborted.
///
/// # Errors
/// `EOVERFLOW` for ids without a mapping in the daemon's user namespace; those of `f`.
pub fn as_caller<T>(uid: DiskUid, gid: DiskGid, f: impl FnOnce() -> Result<T>) -> Result<T> {
    seam::enter(Call::AsCaller)?;
    let daemon = daemon();
    let wanted = Ids { uid, gid };
    let before = ACTING.get().unwrap_or(daemon.ids);
    if wanted == before || !daemon.may_act {
        return f();
    }
    let _back = Back { before };
    take(wanted, daemon)?;
    f()
}

/// Runs `f` without this thread's right (`CAP_FSETID`) to keep set-user-id and set-group-id bits of a file that it writes
/// to. A file that is handed to the kernel meanwhile loses them, too, when the kernel writes to it for somebody.
///
/// # Errors
/// `EPERM` where the right cannot be laid down; then `f` is not run.
pub fn without_fsetid<T>(f: impl FnOnce() -> T) -> Result<T> {
    let caps = capabilities(None)?;
    let mut fewer = caps;
    fewer.effective.remove(CapabilitySet::FSETID);
    set_capabilities(None, fewer)?;
    let done = f();
    if let Err(errno) = set_capabilities(None, caps) {
        log::error!("a thread stays without CAP_FSETID: {errno}");
    }
    Ok(done)
}

/// Gives the thread its ids and rights back when it is dropped.
struct Back {
    before: Ids,
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(errno) = take(self.before, daemon()) {
            log::error!("cannot return to uid {} gid {}: {errno}", self.before.uid, self.before.gid);
            std::process::abort();
        }
    }
}

/// Takes the ids, and then asks whether the thread has them: setfsuid(2) does not report a failure, and asking costs a
/// tenth of what taking costs.
fn take(ids: Ids, daemon: &Daemon) -> Result<()> {
    let from = ACTING.replace(Some(ids)).unwrap_or(daemon.ids);
    if from.gid != ids.gid {
        swap_fsgid(ids.gid.0);
    }
    if from.uid != ids.uid {
        swap_fsuid(ids.uid.0);
    }
    // Leaving or taking uid 0 drops or raises the capabilities that concern files (capabilities(7)). Back at uid 0 they
    // are as they were, unless the daemon had given some away.
    let changed = (from.uid == ROOT) != (ids.uid == ROOT);
    if changed && !(ids.uid == ROOT && daemon.caps.effective == daemon.caps.permitted) {
        set_capabilities(None, daemon.caps)?;
    }
    if Ids::now() == ids { Ok(()) } else { Err(Errno::EOVERFLOW) }
}

/// Sets the id that new objects of this thread get, if it is one; returns the one before.
fn swap_fsuid(uid: u32) -> u32 {
    // SAFETY: it takes a number, and concerns the calling thread only.
    let before = unsafe { libc::setfsuid(uid) };
    before as u32
}

/// As [`swap_fsuid`], of the group.
fn swap_fsgid(gid: u32) -> u32 {
    // SAFETY: it takes a number, and concerns the calling thread only.
    let before = unsafe { libc::setfsgid(gid) };
    before as u32
}

/// Whether the process or thread `pid` has capability `cap` in the daemon's user namespace
/// ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)); `None` if that cannot be read.
///
/// Capabilities in another user namespace say nothing about the files here and count as none.
pub fn caller_has_cap(pid: u32, cap: u32) -> Option<bool> {
    seam::enter(Call::ProcStatus).ok()?;
    if !proc_is_ours() {
        return None;
    }
    if user_namespace(&pid.to_string())? != user_namespace("self")? {
        return Some(false);
    }
    let caps = status_field(&read_status(pid)?, b"CapEff:")?;
    Some(caps.checked_shr(cap)? & 1 != 0)
}

/// Whether the process or thread `pid` is about to be killed by SIGKILL
/// ([proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)); `false` if that cannot be read.
pub fn sigkill_pending(pid: u32) -> bool {
    if seam::enter(Call::ProcStatus).is_err() {
        return false;
    }
    let Some(status) = read_status(pid) else { return false };
    let sigkill = 1 << (libc::SIGKILL - 1);
    [&b"SigPnd:"[..], b"ShdPnd:"].iter().any(|key| status_field(&status, key).is_some_and(|set| set & sigkill != 0))
}

/// Whether the process or thread `pid`, whose group is `gid`, is in `group` (`Groups:` of
/// [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html)); `false` if that cannot be read.
pub fn in_group(pid: u32, gid: ViewGid, group: ViewGid) -> bool {
    if gid == group {
        return true;
    }
    if seam::enter(Call::ProcStatus).is_err() {
        return false;
    }
    let Some(status) = read_status(pid) else { return false };
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Groups:"));
    let groups = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    groups.split_whitespace().any(|one| one.parse() == Ok(group.0))
}

fn read_status(pid: u32) -> Option<Vec<u8>> {
    if !proc_is_ours() {
        return None;
    }
    std::fs::read(format!("/proc/{pid}/status")).ok()
}

/// Whether `/proc` counts processes as this one is counted: in a pid namespace with the `/proc` of another the numbers
/// there are those of other processes.
fn proc_is_ours() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| {
        let own = std::fs::read_link("/proc/self");
        let ours = own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str());
        if !ours {
            log::warn!("/proc is not that of this process: nothing is known of who asks");
        }
        ours
    })
}

/// A hexadecimal number of /proc/PID/status. The first line holds a name, in which a newline is escaped.
fn status_field(status: &[u8], key: &[u8]) -> Option<u64> {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(key))?;
    u64::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 16).ok()
}

/// The number of a process's user namespace.
fn user_namespace(pid: &str) -> Option<u64> {
    let path = CString::new(format!("/proc/{pid}/ns/user")).ok()?;
    // The type of the kernel's structure differs between architectures.
    #[allow(clippy::useless_conversion)]
    rustix::fs::statat(CWD, &*path, AtFlags::empty()).ok().map(|found| found.st_ino.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::{OFlags, create_at, open_root, stat_at};

    const OTHER: (DiskUid, DiskGid) = (DiskUid(1234), DiskGid(5678));

    /// In a user namespace these ids may have no mapping.
    fn can_be_other() -> bool {
        let can = may_act_as_others() && as_caller(OTHER.0, OTHER.1, || Ok(())).is_ok();
        if !can {
            eprintln!("skipped: cannot act as others");
        }
        can
    }

    fn ids_now() -> (DiskUid, DiskGid) {
        let Ids { uid, gid } = Ids::now();
        (uid, gid)
    }

    #[test]
    fn what_is_created_belongs_to_the_caller_and_the_thread_returns() {
        let here = tempfile::tempdir().unwrap();
        let dir = open_root(here.path()).unwrap();
        let daemon = ids_now();
        if !can_be_other() {
            return;
        }
        let caps = effective_caps();
        for (uid, gid) in [OTHER, (OTHER.0, daemon.1), (daemon.0, OTHER.1), daemon] {
            let name = CString::new(format!("{uid}-{gid}")).unwrap();
            as_caller(uid, gid, || {
                assert_eq!((ids_now(), effective_caps()), ((uid, gid), caps));
                create_at(dir.as_fd(), &name, OFlags::WRONLY, 0o600)
            })
            .unwrap();
            let found = stat_at(dir.as_fd(), &name).unwrap();
            assert_eq!((found.uid, found.gid), (uid, gid));
            assert_eq!((ids_now(), effective_caps()), (daemon, caps));
        }
    }

    #[test]
    fn errors_panics_and_nesting_leave_the_thread_as_it_was() {
        let (daemon, caps) = (ids_now(), effective_caps());
        if !can_be_other() {
            return;
        }
        let failed: Result<()> = as_caller(OTHER.0, OTHER.1, || Err(Errno::ENOSPC));
        assert_eq!(failed, Err(Errno::ENOSPC));
        assert_eq!((ids_now(), effective_caps()), (daemon, caps));

        let panicked = std::panic::catch_unwind(|| as_caller(OTHER.0, OTHER.1, || -> Result<()> { panic!("meant") }));
        assert!(panicked.is_err());
        assert_eq!((ids_now(), effective_caps()), (daemon, caps));

        as_caller(OTHER.0, OTHER.1, || {
            as_caller(daemon.0, daemon.1, || {
                assert_eq!(ids_now(), daemon);
                Ok(())
            })?;
            assert_eq!(ids_now(), OTHER);
            Ok(())
        })
        .unwrap();
        assert_eq!((ids_now(), effective_caps()), (daemon, caps));
    }

    #[test]
    fn an_id_that_is_none_cannot_be_taken() {
        let (daemon, caps) = (ids_now(), effective_caps());
        let expected = if may_act_as_others() { Err(Errno::EOVERFLOW) } else { Ok(()) };
        for (uid, gid) in [(DiskUid(u32::MAX), daemon.1), (daemon.0, DiskGid(u32::MAX))] {
            assert_eq!(as_caller(uid, gid, || Ok(())), expected);
            assert_eq!((ids_now(), effective_caps()), (daemon, caps));
        }
    }

    #[test]
    fn fields_of_a_status_file_are_read_as_hexadecimal() {
        let status = b"Name:\tCapEff:\\n\nSigPnd:\t0000000000000100\nCapEff:\t000001ffffffffff\nBad:\tzz\n";
        for (key, expected) in
            [(&b"SigPnd:"[..], Some(0x100)), (b"CapEff:", Some(0x1ff_ffff_ffff)), (b"Bad:", None), (b"Missing:", None)]
        {
            assert_eq!(status_field(status, key), expected);
        }
    }

    #[test]
    fn a_process_is_looked_up_by_its_number() {
        let cap_chown = 0;
        let own = std::process::id();
        assert_eq!(caller_has_cap(own, cap_chown), Some(effective_caps() & 1 != 0));
        assert_eq!(caller_has_cap(own, 64), None);
        assert!(!sigkill_pending(own));
        // Beyond the largest process number.
        assert_eq!(caller_has_cap(u32::MAX, cap_chown), None);
        assert!(!sigkill_pending(u32::MAX));
    }
}
