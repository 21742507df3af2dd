//! Mounts that end with the value: plyfs, and the kernel's OverlayFS beside it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

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
        let outside = fs::metadata(at).ok()?.dev();
        let daemon = Command::new(env!("CARGO_BIN_EXE_plyfs")).args(["-f", "-o", options]).arg(at).spawn().ok()?;
        let mut mounted = Self { at: at.to_owned(), daemon: Some(daemon) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::metadata(&mounted.at).ok()?.dev() == outside {
            let ended = mounted.daemon.as_mut().is_none_or(|d| !matches!(d.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Some(mounted)
    }

    /// Where it is.
    pub fn at(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match &mut self.daemon {
            None => drop(Command::new("umount").arg(&self.at).status()),
            Some(daemon) => {
                let pid = rustix::process::Pid::from_child(daemon);
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                let _ = daemon.wait();
            }
        }
    }
}
