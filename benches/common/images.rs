//! File systems to stand layers on: images on loop devices, in a tmpfs so that no disk is measured. Root only.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

/// A file system, and the program that makes it.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    mkfs: &'static [&'static str],
    mount: &'static str,
}

// Nothing goes on in the background: no tables are made later, and no block is given back.
pub const EXT4: Kind =
    Kind { name: "ext4", mkfs: &["mkfs.ext4", "-qF", "-E", "lazy_itable_init=0,lazy_journal_init=0"], mount: "loop" };
pub const XFS: Kind = Kind { name: "xfs", mkfs: &["mkfs.xfs", "-qf"], mount: "loop" };
pub const XFS_WITHOUT_REFLINKS: Kind =
    Kind { name: "xfs-without-reflinks", mkfs: &["mkfs.xfs", "-qf", "-m", "reflink=0"], mount: "loop" };
pub const F2FS: Kind = Kind { name: "f2fs", mkfs: &["mkfs.f2fs", "-qf"], mount: "loop,nodiscard" };
pub const BTRFS: Kind = Kind { name: "btrfs", mkfs: &["mkfs.btrfs", "-qf"], mount: "loop,nodiscard" };

/// Mounted as long as the value lives.
pub struct Image {
    // In the order in which they go: the file system, the tmpfs with its image.
    mounted: At,
    _memory: At,
    _dir: TempDir,
}

impl Image {
    /// A new file system of `mib` MiB.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn new(kind: Kind, mib: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("root is needed".into());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (memory, at) = (dir.path().join("memory"), dir.path().join("at"));
        for path in [&memory, &at] {
            fs::create_dir(path).map_err(|error| error.to_string())?;
        }
        run("mount", ["-t", "tmpfs", "plyfs-bench"].map(OsStr::new), &[&memory])?;
        let tmpfs = At(memory.clone());
        let image = memory.join("image");
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(mib << 20).map_err(|error| error.to_string())?;
        run(kind.mkfs[0], kind.mkfs[1..].iter().map(OsStr::new), &[&image])?;
        // All of the memory now, not when it is first written to: who comes first would pay for all.
        fallocate(&file, FallocateFlags::empty(), 0, mib << 20).map_err(|error| error.to_string())?;
        run("mount", ["-o", kind.mount].map(OsStr::new), &[&image, &at])?;
        Ok(Self { mounted: At(at), _memory: tmpfs, _dir: dir })
    }

    pub fn path(&self) -> &Path {
        &self.mounted.0
    }
}

/// A tmpfs.
pub struct Memory {
    mounted: At,
    _dir: TempDir,
}

impl Memory {
    /// # Errors
    /// What is missing, in words.
    pub fn new() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        run("mount", ["-t", "tmpfs", "plyfs-bench"].map(OsStr::new), &[dir.path()])?;
        Ok(Self { mounted: At(dir.path().to_owned()), _dir: dir })
    }

    pub fn path(&self) -> &Path {
        &self.mounted.0
    }
}

/// A mount that ends with the value.
struct At(PathBuf);

impl Drop for At {
    fn drop(&mut self) {
        if run("umount", [], &[&self.0]).is_err() {
            let _ = run("umount", ["-l".as_ref()], &[&self.0]);
        }
    }
}

fn run<'a>(program: &str, args: impl IntoIterator<Item = &'a OsStr>, paths: &[&Path]) -> Result<(), String> {
    match Command::new(program).args(args).args(paths).output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim())),
        Err(_) => Err(format!("{program} is not there")),
    }
}
