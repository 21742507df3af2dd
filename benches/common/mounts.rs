//! Mounts that end with the value, and who serves them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Layers, say_skipped};

/// How long a daemon may take to mount, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A mount that ends with the value.
pub struct Mounted {
    at: PathBuf,
    daemon: Option<Child>,
}

impl Mounted {
    /// The kernel's OverlayFS; `None` where it cannot be mounted.
    pub fn kernel(options: &str, at: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "overlay", "overlay", "-o", options]).arg(at).output();
        mounted.is_ok_and(|out| out.status.success()).then(|| Self { at: at.to_owned(), daemon: None })
    }

    /// plyfs; `None` where it cannot be mounted.
    pub fn plyfs(options: &str, at: &Path) -> Option<Self> {
        Self::daemon(Command::new(plyfs()), options, at)
    }

    fn daemon(mut program: Command, options: &str, at: &Path) -> Option<Self> {
        let outside = fs::metadata(at).ok()?.dev();
        let daemon = program.args(["-f", "-o", options]).arg(at).stdin(Stdio::null()).spawn().ok()?;
        let mut mounted = Self { at: at.to_owned(), daemon: Some(daemon) };
        let deadline = Instant::now() + PATIENCE;
        while fs::metadata(&mounted.at).ok()?.dev() == outside {
            if mounted.has_ended() || Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Some(mounted)
    }

    /// Where it is.
    pub fn at(&self) -> &Path {
        &self.at
    }

    fn has_ended(&mut self) -> bool {
        self.daemon.as_mut().is_none_or(|daemon| !matches!(daemon.try_wait(), Ok(None)))
    }

    /// What the kernel caches of a mount may still hold it for a moment.
    fn unmount(&self) {
        let done = |program: &str, args: &[&str]| {
            let unmounted = Command::new(program).args(args).arg(&self.at).output();
            unmounted.is_ok_and(|out| out.status.success())
        };
        for _ in 0..50 {
            if done("umount", &[]) || done("fusermount3", &["-u"]) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = done("umount", &["-l"]) || done("fusermount3", &["-uz"]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // One that did not come up has nothing to unmount.
        if self.daemon.is_none() || !self.has_ended() {
            self.unmount();
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The program: `PLYFS_TEST_BIN`, or what was built for the benches. An example is the daemon of its own.
fn plyfs() -> PathBuf {
    let built = || option_env!("CARGO_BIN_EXE_plyfs").map(PathBuf::from);
    let program = std::env::var_os("PLYFS_TEST_BIN").map(PathBuf::from).or_else(built);
    program.unwrap_or_else(|| std::env::current_exe().expect("the path of this program"))
}

/// Who serves a mount.
#[derive(Clone, PartialEq, Eq)]
pub enum Server {
    Plyfs,
    Kernel,
    FuseOverlayfs(PathBuf),
}

/// Who serves, under the name that its figures have.
#[derive(Clone)]
pub struct Peer {
    pub name: String,
    pub server: Server,
}

impl Peer {
    /// All that can be mounted here, plyfs first; says what cannot.
    pub fn available() -> Vec<Self> {
        let mut peers = vec![
            Self { name: "plyfs".into(), server: Server::Plyfs },
            Self { name: "kernel-overlayfs".into(), server: Server::Kernel },
        ];
        let others = fuse_overlayfs();
        if others.is_empty() {
            say_skipped("fuse-overlayfs: there is none on the PATH");
        }
        peers.extend(others);
        peers.retain(Self::can_mount);
        peers
    }

    fn can_mount(&self) -> bool {
        let layers = Layers::new(1);
        layers.renew_upper();
        let there = self.mount(&layers, "").is_some();
        if !there {
            let lacks = if self.server == Server::Kernel { "root is needed" } else { "fusermount3 or /dev/fuse" };
            say_skipped(&format!("{}: it cannot be mounted here ({lacks})", self.name));
        }
        there
    }

    pub fn mount(&self, layers: &Layers, more: &str) -> Option<Mounted> {
        let (options, at) = (layers.options(more), layers.path("merged"));
        match &self.server {
            Server::Plyfs => Mounted::plyfs(&options, &at),
            Server::Kernel => Mounted::kernel(&options, &at),
            Server::FuseOverlayfs(program) => {
                let mut program = Command::new(program);
                program.stdout(Stdio::null()).stderr(Stdio::null());
                Mounted::daemon(program, &options, &at)
            }
        }
    }
}

/// Each version of fuse-overlayfs on the PATH: the old one in C and the new one in Rust are two.
fn fuse_overlayfs() -> Vec<Peer> {
    let mut peers: Vec<Peer> = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in std::env::split_paths(&path).map(|dir| dir.join("fuse-overlayfs")) {
        let Ok(said) = Command::new(&program).arg("--version").output() else { continue };
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        // The old one says the version of fusermount3 first.
        let own = said.lines().find(|line| line.starts_with("fuse-overlayfs"));
        let Some(version) = own.and_then(|line| line.split_whitespace().last()) else { continue };
        let name = format!("fuse-overlayfs-{version}");
        if peers.iter().all(|peer| peer.name != name) {
            peers.push(Peer { name, server: Server::FuseOverlayfs(program) });
        }
    }
    peers
}
