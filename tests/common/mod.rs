//! What every suite of mount tests shares: layer stacks, mounts, a comparable view of a tree, time limits and skips.
//!
//! The suites drive the real binary on real mounts and know nothing of the engine. The environment chooses:
//! `PLYFS_TEST_BIN` another binary with the same arguments (`/usr/bin/fuse-overlayfs`), or `kernel` for the kernel's
//! OverlayFS; `PLYFS_TEST_DIR` where the layers are made (a file system with `user.*` xattrs and whiteouts);
//! `PLYFS_TEST_SLOWER` by how much every limit of time is longer (an emulated machine).
// Each suite is a crate of its own and uses a part of this module.
#![allow(dead_code, unused_imports, unused_macros, clippy::indexing_slicing)]

pub mod idmapped;
pub mod kept;
pub mod legs;
pub mod mount;
pub mod raw;
pub mod scratch;
pub mod served;
pub mod stack;
pub mod systems;
pub mod tree;
pub mod view;
pub mod worker;

pub use kept::Kept;
pub use mount::{Kernel, Mount};
pub use raw::{SharedMap, deny_calls, heed_signals, with_umask};
pub use rustix::io::Errno;
pub use scratch::Scratch;
pub use stack::Stack;
pub use systems::System;
pub use tree::Tree;
pub use view::{View, Walk};

use std::cell::RefCell;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Gid, Pid, Signal, Uid, kill_process};

/// Says on the real stderr (libtest captures `eprintln!`) why a test or a part of one did not run.
pub fn say_skipped(why: &str) {
    let test = thread::current().name().unwrap_or("?").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// Says that the calling test does not run here, and returns from it.
macro_rules! skip {
    ($($why:tt)*) => {{ $crate::common::say_skipped(&format!($($why)*)); return; }};
}
pub(crate) use skip;

/// With what power the tests run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// Root of the initial user namespace.
    Root,
    /// Anyone else; mounts by fusermount3.
    User,
    /// Root of a user namespace of its own, with one id mapped.
    Namespace,
}

/// The power of this process.
pub fn who() -> Who {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    match (rustix::process::geteuid().is_root(), whole) {
        (true, true) => Who::Root,
        (true, false) => Who::Namespace,
        (false, _) => Who::User,
    }
}

/// Whether the kernel is to seem without this (`PLYFS_ABSENT`).
pub fn lacks(word: &str) -> bool {
    let words = std::env::var("PLYFS_ABSENT").unwrap_or_default();
    words.split(',').any(|absent| absent == word || absent == "all")
}

/// Whether this process may mount with these options on this kernel, or on the one that it is to seem to be.
pub fn is_offered(options: &str) -> bool {
    let passthrough = || who() == Who::Root && !lacks("passthrough") && kernel() >= (6, 9);
    (!options.contains("io=passthrough") || passthrough()) && (!options.contains("io=writeback") || !lacks("writeback"))
}

/// The first two numbers of the kernel's release.
pub fn kernel() -> (u32, u32) {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The name of an errno as the manuals have it.
pub fn code(errno: Errno) -> String {
    let name = match errno {
        Errno::ACCESS => "EACCES",
        Errno::AGAIN => "EAGAIN",
        Errno::BUSY => "EBUSY",
        Errno::DQUOT => "EDQUOT",
        Errno::EXIST => "EEXIST",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::ISDIR => "EISDIR",
        Errno::LOOP => "ELOOP",
        Errno::MFILE => "EMFILE",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NODATA => "ENODATA",
        Errno::NODEV => "ENODEV",
        Errno::NOENT => "ENOENT",
        Errno::NOSPC => "ENOSPC",
        Errno::NOTCONN => "ENOTCONN",
        Errno::NOTDIR => "ENOTDIR",
        Errno::NOTEMPTY => "ENOTEMPTY",
        Errno::NXIO => "ENXIO",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::OVERFLOW => "EOVERFLOW",
        Errno::PERM => "EPERM",
        Errno::RANGE => "ERANGE",
        Errno::ROFS => "EROFS",
        Errno::STALE => "ESTALE",
        Errno::TXTBSY => "ETXTBSY",
        Errno::XDEV => "EXDEV",
        other => return format!("{other:?}"),
    };
    name.into()
}

/// A number from the environment, or `default`.
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// So long on a machine as fast as most; as many times longer as this one is slower.
pub fn patience(on_most: Duration) -> Duration {
    on_most * u32::try_from(env_number("PLYFS_TEST_SLOWER", 1)).unwrap()
}

type Daemons = Arc<Mutex<Vec<Pid>>>;

thread_local! {
    /// The daemons of the test that this thread runs: what its watchdog may kill.
    static DAEMONS: RefCell<Daemons> = RefCell::default();
}

fn with_daemons<R>(f: impl FnOnce(&mut Vec<Pid>) -> R) -> R {
    DAEMONS.with(|d| f(&mut d.borrow().lock().unwrap()))
}

/// Runs the body of a test with 60 seconds of time; see [`within`].
pub fn bounded(body: impl FnOnce() + Send + 'static) {
    within(60, body);
}

/// Runs `body` in a thread of its own; when it is not done after `seconds` (as [`patience`] has them), kills the daemons
/// that it started, which frees whatever hangs in their mounts, and fails.
pub fn within(seconds: u64, body: impl FnOnce() + Send + 'static) {
    let limit = patience(Duration::from_secs(seconds));
    let daemons = Daemons::default();
    let (done, ended) = channel::<()>();
    let (theirs, name) = (daemons.clone(), thread::current().name().unwrap_or("test").to_owned());
    let worker = thread::Builder::new().name(name).spawn(move || {
        DAEMONS.with(|d| *d.borrow_mut() = theirs);
        let _done = done; // dropped on return and on panic
        body();
    });
    let worker = worker.unwrap();
    if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        let pids: Vec<Pid> = daemons.lock().unwrap().clone();
        for pid in &pids {
            let _ = kill_process(*pid, Signal::KILL);
        }
        let _ = ended.recv_timeout(Duration::from_secs(10)); // let it tidy up, if it can
        panic!("not done after {} s; killed the daemons {pids:?}", limit.as_secs());
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `f` in a thread that has these ids and no other groups: file systems see that user. Root only.
pub fn as_user<R: Send>(uid: u32, gid: u32, f: impl FnOnce() -> R + Send) -> R {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let body = || {
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        f()
    };
    match thread::scope(|s| s.spawn(body).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
