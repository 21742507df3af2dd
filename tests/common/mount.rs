//! Mounts that end with the test: the binary under test, and the kernel's OverlayFS to compare with.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{panicking, sleep};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Pid;

use super::{Errno, Stack, Tree, Who, patience, who, with_daemons};

/// How long a daemon may take to mount, and to end after the unmount.
const PATIENCE: Duration = Duration::from_secs(15);

/// The binary under test.
pub fn binary() -> OsString {
    std::env::var_os("PLYFS_TEST_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_plyfs").into())
}

/// Whether that is plyfs, and not another to compare with.
pub fn is_plyfs() -> bool {
    Path::new(&binary()).file_name().is_some_and(|name| name == "plyfs")
}

/// Whether the binary under test takes this option; plyfs refuses by name what is "not there yet".
pub fn takes(option: &str) -> bool {
    let binary = binary();
    if binary == "kernel" {
        return true;
    }
    let nowhere = "/nonexistent/plyfs";
    let out = Command::new(binary).args(["-f", "-o", &format!("lowerdir={nowhere},{option}"), nowhere]).output();
    out.is_ok_and(|out| !String::from_utf8_lossy(&out.stderr).contains("not there yet"))
}

/// The mount table, in which another's mount may have bytes that are no text.
pub fn mount_table() -> String {
    String::from_utf8_lossy(&std::fs::read("/proc/thread-self/mountinfo").unwrap_or_default()).into_owned()
}

/// Whether a mount stands at `at`, from the mount table: no file system is asked, none can hang.
pub fn is_mounted(at: &Path) -> bool {
    let table = mount_table();
    table.lines().any(|l| l.split(' ').nth(4) == at.to_str())
}

/// Waits until `ready`, at most as long as [`PATIENCE`].
pub fn wait_until(mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience(PATIENCE);
    while !ready() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(Duration::from_millis(2));
    }
    true
}

/// Unmounts as the process can: umount2(2) or fusermount3. What was just closed may be busy for an instant more.
pub fn unmount_any(at: &Path, lazy: bool) -> io::Result<()> {
    let deadline = Instant::now() + patience(Duration::from_secs(2));
    loop {
        match unmount_once(at, lazy) {
            Err(_) if Instant::now() < deadline && is_mounted(at) => {
                sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

fn unmount_once(at: &Path, lazy: bool) -> io::Result<()> {
    if who() == Who::User {
        let mut command = Command::new("fusermount3");
        command.arg(if lazy { "-uz" } else { "-u" }).arg(at);
        let out = command.output()?;
        return if out.status.success() { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&out.stderr))) };
    }
    Ok(unmount(at, if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() })?)
}

/// The kernel's OverlayFS, mounted as the oracle: index and inode numbers over all layers where they are to be had.
pub struct Kernel {
    tree: Tree,
    options: String,
}

impl Kernel {
    /// Mounts at `at`.
    pub fn start(options: &str, at: &Path) -> io::Result<Self> {
        let extra = match who() {
            Who::Root if options.contains("upperdir=") => ",index=on,xino=on,redirect_dir=on,metacopy=on",
            Who::Root => ",xino=on",
            Who::Namespace => ",userxattr",
            Who::User => return Err(io::ErrorKind::PermissionDenied.into()),
        };
        Kernel::with(&format!("{options}{extra}"), at)
    }

    /// Mounts at `at` with these options and no others. An upper layer may be in use for an instant after its unmount, by
    /// the copy of it in the mount namespace that a process has just made.
    pub fn with(options: &str, at: &Path) -> io::Result<Self> {
        let data = CString::new(options)?;
        let mut done = Err(Errno::BUSY);
        wait_until(|| {
            done = mount("overlay", at, "overlay", MountFlags::empty(), data.as_c_str());
            done != Err(Errno::BUSY)
        });
        done?;
        Ok(Kernel { tree: Tree::new(at), options: options.to_owned() })
    }

    /// Whether the kernel's OverlayFS can be mounted here, over the directory for tests.
    pub fn usable() -> bool {
        Stack::new(1).mount_kernel().is_some()
    }

    /// Unmounts and mounts again.
    pub fn remount(&self) {
        unmount(self.root(), UnmountFlags::empty()).unwrap();
        std::mem::forget(Kernel::with(&self.options, self.root()).unwrap());
    }
}

impl Deref for Kernel {
    type Target = Tree;
    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if unmount(self.root(), UnmountFlags::empty()).is_err() {
            let _ = unmount(self.root(), UnmountFlags::DETACH);
        }
    }
}

/// A live mount of the binary under test.
pub struct Mount {
    tree: Tree,
    program: OsString,
    options: String,
    log: PathBuf,
    daemon: Option<Child>,
    kernel: Option<Kernel>,
}

impl Deref for Mount {
    type Target = Tree;
    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl Mount {
    /// Whether the whole suite runs with an option that contains this word.
    pub fn has_more(word: &str) -> bool {
        std::env::var("PLYFS_TEST_OPTIONS").is_ok_and(|more| more.contains(word))
    }

    /// Mounts the stack and waits until the mount answers. `PLYFS_TEST_OPTIONS` runs whole suites with more options.
    pub fn start(stack: &Stack) -> Self {
        let mut options = stack.layer_options("work");
        let more = std::env::var("PLYFS_TEST_OPTIONS").ok();
        for option in more.iter().chain(&stack.options) {
            options = format!("{options},{option}");
        }
        Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"))
    }

    /// Mounts with these options at `at`; the daemon's messages go to `log`. Panics with them if it fails.
    pub fn with(options: &str, at: &Path, log: &Path) -> Self {
        Mount::try_with(options, at, log).unwrap_or_else(|why| panic!("mount -o {options}: {why}"))
    }

    /// As [`Mount::with`], for what should be refused: the error is the exit status with the messages.
    pub fn try_with(options: &str, at: &Path, log: &Path) -> Result<Self, String> {
        Mount::by(binary(), options, at, log)
    }

    /// As [`Mount::try_with`], by another program with the same arguments.
    pub fn by(program: OsString, options: &str, at: &Path, log: &Path) -> Result<Self, String> {
        let (tree, options, log) = (Tree::new(at), options.into(), log.into());
        let mut mount = Mount { tree, program, options, log, daemon: None, kernel: None };
        mount.up().map(|()| mount)
    }

    fn up(&mut self) -> Result<(), String> {
        if self.program == "kernel" {
            self.kernel = Some(Kernel::start(&self.options, self.tree.root()).map_err(|e| e.to_string())?);
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.program);
        command.arg("-f").arg("-o").arg(&self.options).arg(self.tree.root());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut spawned = command.spawn();
        // A script that was just written may be open for an instant more, in a process that another thread starts.
        wait_until(|| {
            let busy = spawned.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ExecutableFileBusy);
            if busy {
                spawned = command.spawn();
            }
            !busy
        });
        let mut child = spawned.map_err(|e| format!("{}: {e}", self.program.to_string_lossy()))?;
        with_daemons(|d| d.push(Pid::from_child(&child)));
        let mut ended = None;
        wait_until(|| {
            ended = child.try_wait().unwrap();
            ended.is_some() || is_mounted(self.tree.root())
        });
        if ended.is_some() || !is_mounted(self.tree.root()) {
            let _ = child.kill();
            let _ = child.wait();
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            return Err(format!("not mounted ({ended:?}): {said}"));
        }
        self.daemon = Some(child);
        self.tree.stat("").map(|_| ()).map_err(|e| format!("mounted, but stat of the root: {e:?}"))
    }

    /// What the daemon has written so far.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The daemon's process, if there is one.
    pub fn pid(&self) -> Option<Pid> {
        self.daemon.as_ref().map(Pid::from_child)
    }

    /// How the daemon ended by itself, waited for at most so long (as [`patience`] has it); afterwards there is none (nor is there for the kernel's
    /// OverlayFS).
    pub fn ended(&mut self, most: Duration) -> Option<ExitStatus> {
        self.kernel = None;
        let deadline = Instant::now() + patience(most);
        let child = self.daemon.as_mut()?;
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            sleep(Duration::from_millis(2));
        }
        self.reap()
    }

    /// Unmounts and returns how the daemon ended (`None` for the kernel's OverlayFS).
    pub fn unmount(&mut self) -> Option<ExitStatus> {
        if self.kernel.take().is_some() {
            return None;
        }
        // What another process (a scanner, a late close) holds for a moment is waited for.
        let mut last = None;
        let gone = wait_until(|| match unmount_any(self.tree.root(), false) {
            Ok(()) => true,
            Err(e) => {
                last = Some(e);
                false
            }
        });
        assert!(gone, "unmount: {last:?}; the daemon said: {}", self.messages());
        let status = self.reap();
        assert!(status.is_some(), "the daemon lives on after the unmount");
        status
    }

    /// Unmounts, expects the daemon to end well, and mounts the same layers again.
    pub fn remount(&mut self) {
        if let Some(status) = self.unmount() {
            assert!(status.success(), "the daemon ended with {status}: {}", self.messages());
        }
        self.up().unwrap_or_else(|why| panic!("remount: {why}"));
    }

    /// Waits for the daemon's end; kills it (its own pid only) when that does not come.
    fn reap(&mut self) -> Option<ExitStatus> {
        let mut child = self.daemon.take()?;
        let pid = Pid::from_child(&child);
        let mut status = None;
        wait_until(|| {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        with_daemons(|d| d.retain(|p| *p != pid));
        status
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.kernel = None;
        if self.daemon.is_none() {
            return;
        }
        if panicking() {
            eprintln!("the daemon said: {}", self.messages());
        }
        if unmount_any(self.tree.root(), false).is_err() {
            let _ = unmount_any(self.tree.root(), true);
        }
        self.reap();
    }
}
