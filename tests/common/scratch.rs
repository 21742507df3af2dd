//! Directories for layers, and file systems of their own for some.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// A directory that goes with the test.
pub struct Scratch(TempDir);

impl Scratch {
    /// A new one, under `PLYFS_TEST_DIR` or the system's directory for temporary files.
    pub fn new() -> Self {
        Scratch::within(&base())
    }

    /// A new one in memory, where the machine has a place for that: for the images of file systems, and where the end of a
    /// process is tried at each of its calls, for which no disk need be waited for.
    pub fn in_memory() -> Self {
        Scratch::within(&memory())
    }

    /// A new one in a directory that is there.
    pub fn within(base: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("plyfs-").tempdir_in(base).unwrap();
        // Other users walk through it to the mount.
        rustix::fs::chmod(dir.path(), 0o755.into()).unwrap();
        Scratch(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new directory in it.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A new directory in it that was not there, with a name that begins so.
    pub fn fresh(&self, name: &str) -> PathBuf {
        self.dir(&format!("{name}-{}", next()))
    }
}

/// Where directories for layers are made.
fn base() -> PathBuf {
    std::env::var_os("PLYFS_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// A place in memory for such directories, or, where the machine has none or another was chosen, [`base`].
pub fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let chosen = std::env::var_os("PLYFS_TEST_DIR").is_some();
    let usable = !chosen && rustix::fs::access(memory, rustix::fs::Access::WRITE_OK).is_ok();
    if usable { memory.to_owned() } else { base() }
}

/// A number that no other directory has in its name.
fn next() -> usize {
    static MADE: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    MADE.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// A file system mounted for the test; unmounted on Drop.
pub struct Mounted(PathBuf);

impl Mounted {
    /// A tmpfs at `at`; `None` where this process may not mount.
    pub fn tmpfs(at: &Path) -> Option<Self> {
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"mode=755").ok().map(|()| Mounted(at.to_owned()))
    }

    /// A tmpfs that holds `kib` KiB; `None` where this process may not mount.
    pub fn small(at: &Path, kib: u64) -> Option<Self> {
        let options = std::ffi::CString::new(format!("mode=755,size={kib}k")).ok()?;
        mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()).ok().map(|()| Mounted(at.to_owned()))
    }

    /// What the test has mounted at `at` itself.
    pub fn adopt(at: &Path) -> Self {
        Mounted(at.to_owned())
    }

    /// A journaled ext4 of `mib` MiB from an image beside `at`; `None` without root, mkfs.ext4 or loop devices.
    pub fn ext4(at: &Path, mib: u64) -> Option<Self> {
        Mounted::image(at, mib, &["mkfs.ext4", "-qF"])
    }

    /// An XFS at `at`, which has reflinks; `None` without root, mkfs.xfs or loop devices.
    pub fn xfs(at: &Path) -> Option<Self> {
        Mounted::image(at, 320, &["mkfs.xfs", "-qf"])
    }

    fn image(at: &Path, mib: u64, mkfs: &[&str]) -> Option<Self> {
        let image = at.with_extension("img");
        std::fs::File::create(&image).ok()?.set_len(mib << 20).ok()?;
        let done = |c: &mut Command| c.output().is_ok_and(|o| o.status.success());
        (done(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image))
            && done(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at)))
        .then(|| Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if unmount(&self.0, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }
}
