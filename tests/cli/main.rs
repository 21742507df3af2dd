//! The command as its users call it: every option has an effect that can be seen from outside, every error is one line,
//! and the background process is there when the command returns and gone when the mount is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../common/mod.rs"]
mod common;

mod clients;
mod daemon;
mod errors;
mod log;
mod mount8;
mod options;
mod rivals;
mod show;
mod umount;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use common::mount::{is_mounted, unmount_any, wait_until};
use common::{Stack, Who, who};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}

/// The command, with these arguments.
fn plyfs<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    common::heed_signals();
    let mut command = Command::new(common::mount::binary());
    command.args(args);
    command
}

/// What a command says on standard error.
fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A view that a process in the background serves; unmounted at the end of the test.
struct Background<'a> {
    stack: &'a Stack,
    daemon: Pid,
    waited: bool,
}

impl<'a> Background<'a> {
    /// Mounts the stack with more options. `output` reads both pipes to their ends: the daemon must hold neither.
    fn start(stack: &'a Stack, options: &str) -> Self {
        let all = match options {
            "" => stack.layer_options("work"),
            more => format!("{},{more}", stack.layer_options("work")),
        };
        Background::run(stack, plyfs(["-o", &all]).arg(&stack.merged))
    }

    /// Runs a command that mounts at the stack's mountpoint.
    fn run(stack: &'a Stack, command: &mut Command) -> Self {
        adopt_orphans();
        let out = command.output().unwrap();
        assert!(out.status.success(), "{command:?}: {}: {}", out.status, stderr(&out));
        assert!(is_mounted(&stack.merged), "{command:?} returned before the mount was there");
        let daemon = daemon_of(&stack.merged).unwrap_or_else(|| panic!("{command:?}: no daemon"));
        Background { stack, daemon, waited: false }
    }

    fn entry(&self) -> Entry {
        Entry::of(&self.stack.merged).unwrap()
    }

    /// `/proc/PID/NAME` of the daemon.
    fn proc(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.daemon.as_raw_pid().to_string()).join(name)
    }

    /// The exit status of the daemon once it has ended, `None` if it does not.
    fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until(|| {
            let waited = rustix::process::waitpid(Some(self.daemon), WaitOptions::NOHANG).unwrap();
            status = waited.map(|(_, status)| status);
            status.is_some()
        });
        self.waited = status.is_some();
        status.and_then(|status| status.exit_status())
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.daemon, signal).unwrap();
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        if is_mounted(&self.stack.merged) {
            let _ = unmount_any(&self.stack.merged, true);
        }
        if !self.waited && self.ended().is_none() {
            let _ = kill_process(self.daemon, Signal::KILL);
            let _ = rustix::process::waitpid(Some(self.daemon), WaitOptions::empty());
        }
    }
}

/// Daemons become children of this process when the command that started them returns.
fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
}

/// The process that was started with the mountpoint among its arguments and still runs.
fn daemon_of(merged: &Path) -> Option<Pid> {
    std::fs::read_dir("/proc").unwrap().find_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let program = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        let args = std::fs::read(entry.path().join("cmdline")).ok()?;
        let named = args.split(|&byte| byte == 0).any(|arg| arg == merged.as_os_str().as_bytes());
        // `mount.fuse.plyfs` is cut off at 15 bytes.
        (named && (program.trim() == "plyfs" || program.starts_with("mount."))).then(|| Pid::from_raw(pid))?
    })
}

/// The processes of a view, the one that started the others first: supervisor, daemon and guard.
fn all_of(merged: &Path) -> Vec<Pid> {
    let is_one = |proc: &Path| {
        let program = std::fs::read_to_string(proc.join("comm")).unwrap_or_default();
        let args = std::fs::read(proc.join("cmdline")).unwrap_or_default();
        let named = args.split(|&byte| byte == 0).any(|arg| arg == merged.as_os_str().as_bytes());
        named && ["plyfs", "fuse-guard"].contains(&program.trim())
    };
    let pid = |entry: std::io::Result<std::fs::DirEntry>| {
        let proc = entry.ok()?.path();
        is_one(&proc).then(|| Pid::from_raw(proc.file_name()?.to_str()?.parse().ok()?))?
    };
    let mut all: Vec<Pid> = std::fs::read_dir("/proc").unwrap().filter_map(pid).collect();
    let parent = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let raw: Vec<i32> = all.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
    all.sort_by_key(|pid| (parent(pid).is_some_and(|parent: i32| raw.contains(&parent)), pid.as_raw_nonzero()));
    all
}

/// Ends what is left of a view at the end of a test.
struct End<'a>(&'a Path);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if is_mounted(self.0) {
            let _ = unmount_any(self.0, true);
        }
        wait_until(|| all_of(self.0).is_empty() || !std::thread::panicking());
        all_of(self.0).into_iter().for_each(|pid| _ = kill_process(pid, Signal::KILL));
    }
}

/// A line of the mount table.
#[derive(Debug)]
struct Entry {
    kind: String,
    source: String,
    flags: BTreeSet<String>,
    of_kernel: BTreeSet<String>,
}

impl Entry {
    fn of(at: &Path) -> Option<Self> {
        let table = common::mount::mount_table();
        let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str())?;
        let (before, after) = line.split_once(" - ")?;
        let words = |list: &str| list.split(',').map(str::to_owned).collect();
        let mut after = after.split(' ');
        Some(Entry {
            kind: after.next()?.to_owned(),
            source: after.next()?.to_owned(),
            flags: words(before.split(' ').nth(5)?),
            of_kernel: words(after.next()?),
        })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

/// Whether mounting needs no helper.
fn mounts_directly() -> bool {
    who() != Who::User
}
