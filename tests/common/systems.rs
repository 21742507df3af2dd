//! File systems that a layer can stand on, made for the test and gone with it.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use super::mount::{Kernel, Mount, is_mounted, unmount_any, wait_until};
use super::scratch::{Mounted, Scratch};
use super::stack::{Layer, Stack};
use super::with_daemons;

/// A directory on a file system of its own, and what keeps that there: the last made goes first.
pub struct System {
    root: PathBuf,
    held: Vec<Box<dyn Any>>,
}

impl Drop for System {
    fn drop(&mut self) {
        while self.held.pop().is_some() {}
    }
}

/// A file system, or why there is none here.
pub type Made = Result<System, String>;

/// Runs a program; what it said if it failed, or the package that it comes from if it is not there.
pub fn run(package: &str, command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Err(_) => Err(format!("no {program} (Debian: {package})")),
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("{program}: {}", String::from_utf8_lossy(&out.stderr).trim())),
    }
}

impl System {
    /// Its root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A new directory on a file system that was mounted before.
    pub fn within(mounted: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("plyfs-").tempdir_in(mounted).unwrap();
        System::of(dir.path().to_owned()).holding(dir)
    }

    fn of(root: PathBuf) -> Self {
        System { root, held: Vec::new() }
    }

    fn holding(mut self, guard: impl Any) -> Self {
        self.held.push(Box::new(guard));
        self
    }

    /// A file system that can be written: `ext4`, `ext4-verity`, `xfs`, `btrfs` (each from a sparse image), `tmpfs`.
    pub fn native(kind: &str, scratch: &Scratch) -> Made {
        let at = scratch.fresh(kind);
        let (mib, package, mkfs): (_, _, &[&str]) = match kind {
            "tmpfs" => {
                let tmpfs = Mounted::tmpfs(&at).ok_or("tmpfs may not be mounted")?;
                return Ok(System::of(at).holding(tmpfs));
            }
            "ext4" => (128, "e2fsprogs", &["mkfs.ext4", "-qF"]),
            "ext4-verity" => (32, "e2fsprogs", &["mkfs.ext4", "-qF", "-O", "verity", "-b", "4096"]),
            // Smaller ones mkfs refuses.
            "xfs" => (300, "xfsprogs", &["mkfs.xfs", "-qf"]),
            "btrfs" => (256, "btrfs-progs", &["mkfs.btrfs", "-qf"]),
            other => return Err(format!("not known: {other}")),
        };
        let image = at.with_extension("img");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(mib << 20));
        made.map_err(|e| format!("{}: {e}", image.display()))?;
        run(package, Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image))?;
        let mounted = loop_mount(&image, &at)?;
        Ok(System::of(at).holding(mounted))
    }

    /// A case-insensitive file system that a FUSE daemon serves: `ntfs` or `exfat`.
    pub fn folding(kind: &str, scratch: &Scratch) -> Made {
        let at = scratch.fresh(kind);
        let image = at.with_extension("img");
        let made = std::fs::File::create(&image).and_then(|file| file.set_len(32 << 20));
        made.map_err(|e| format!("{}: {e}", image.display()))?;
        match kind {
            "ntfs" => {
                run("ntfs-3g", Command::new("mkntfs").arg("-qF").arg(&image))?;
                let mut mount = Command::new("lowntfs-3g");
                run("ntfs-3g", mount.args(["-o", "ignore_case"]).args([&image, &at]))?;
            }
            "exfat" => {
                run("exfatprogs", Command::new("mkfs.exfat").arg(&image))?;
                let out =
                    Command::new("losetup").args(["-f", "--show"]).arg(&image).output().map_err(|e| e.to_string())?;
                let device = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
                let mounted = run("exfat-fuse", Command::new("mount.exfat-fuse").args([&device, &at]));
                // It goes with the mount.
                run("mount", Command::new("losetup").arg("-d").arg(&device))?;
                mounted?;
            }
            other => return Err(format!("not known: {other}")),
        }
        Ok(System::of(at.clone()).holding(Mounted::adopt(&at)))
    }

    /// A read-only image, `squashfs` or `erofs`, of what `fill` makes.
    pub fn packed(kind: &str, scratch: &Scratch, fill: impl FnOnce(&Layer)) -> Made {
        let (at, source) = (scratch.fresh(kind), scratch.fresh(kind));
        let image = at.with_extension("img");
        fill(&Layer::new(source.clone()));
        match kind {
            "squashfs" => run(
                "squashfs-tools",
                Command::new("mksquashfs").args([&source, &image]).args(["-noappend", "-quiet", "-no-progress"]),
            )?,
            "erofs" => run("erofs-utils", Command::new("mkfs.erofs").arg("--quiet").args([&image, &source]))?,
            other => return Err(format!("not known: {other}")),
        }
        let mounted = loop_mount(&image, &at)?;
        Ok(System::of(at).holding(mounted))
    }

    /// A plyfs mount with an empty lower layer.
    pub fn plyfs() -> Self {
        let stack = Stack::new(1);
        let mount = stack.mount();
        System::of(stack.merged.clone()).holding(stack).holding(mount)
    }

    /// A mount of the kernel's OverlayFS with an empty lower layer.
    pub fn overlay() -> Made {
        let stack = Stack::new(1);
        let at = stack.scratch.dir("kernel");
        let kernel = Kernel::with(&stack.layer_options("work"), &at).map_err(|e| format!("overlay: {e}"))?;
        Ok(System::of(at).holding(stack).holding(kernel))
    }

    /// What stands in `inner`, through a bindfs that knows no extended attributes. (It is built on FUSE 2, which has no
    /// flags of rename either.)
    pub fn bindfs(inner: System, scratch: &Scratch) -> Made {
        let at = scratch.fresh("bindfs");
        let mut command = Command::new("bindfs");
        // It would keep attributes of each name of a hard link by itself.
        command.args(["-f", "--xattr-none", "-o", "attr_timeout=0,entry_timeout=0"]).args([inner.root(), &at]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|_| "no bindfs (Debian: bindfs)")?;
        with_daemons(|d| d.push(Pid::from_child(&child)));
        let bind = Bind { at: at.clone(), child };
        if !wait_until(|| is_mounted(&at)) {
            return Err("bindfs did not mount".into());
        }
        Ok(System::of(at).holding(inner).holding(bind))
    }
}

fn loop_mount(image: &Path, at: &Path) -> Result<Mounted, String> {
    run("mount", Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
    Ok(Mounted::adopt(at))
}

/// A bindfs that is unmounted, and then waited for.
struct Bind {
    at: PathBuf,
    child: Child,
}

impl Drop for Bind {
    fn drop(&mut self) {
        if unmount_any(&self.at, false).is_err() {
            let _ = unmount_any(&self.at, true);
        }
        let child = &mut self.child;
        if !wait_until(|| !matches!(child.try_wait(), Ok(None))) {
            let _ = child.kill();
            let _ = child.wait();
        }
        with_daemons(|d| d.retain(|pid| *pid != Pid::from_child(child)));
    }
}
