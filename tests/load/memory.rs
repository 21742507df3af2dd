//! What a walk costs is given back, and little memory makes it slower, not wrong.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::OFlags;

use crate::common::*;
use crate::{descriptors_of, mount_after, scale, status_of};

const FILES: usize = 500;

/// `dirs` directories of [`FILES`] files.
fn layers(stack: Stack, dirs: usize) -> Stack {
    for dir in 0..dirs {
        stack.lowers[0].dir(&format!("directory-{dir:04}"), 0o755);
        for file in 0..FILES {
            stack.lowers[0].write(format!("directory-{dir:04}/file-{file:04}.txt"), "").unwrap();
        }
    }
    stack
}

/// Looks at everything, as `ls -lR` does.
fn walk(root: &Path) -> usize {
    let mut dirs = vec![root.to_owned()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            seen += 1;
            if entry.metadata().unwrap().is_dir() {
                dirs.push(entry.path());
            }
        }
    }
    seen
}

#[test]
fn a_walk_is_forgotten_and_its_memory_given_back() {
    within(600, || {
        if who() != Who::Root {
            skip!("only root can make the kernel drop its caches");
        }
        let dirs = 40 * scale() as usize;
        let inodes = (dirs * (FILES + 1)) as u64;
        let stack = layers(crate::stack(1), dirs);
        let mount = stack.mount();
        let start_kib = status_of(&mount, "VmRSS");
        for round in 0..2 {
            let start = Instant::now();
            assert_eq!(walk(&stack.merged) as u64, inodes);
            let (took, full) = (start.elapsed(), status_of(&mount, "VmRSS"));
            let open = descriptors_of(&mount);
            let forgotten = mount::wait_until(|| {
                std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(100));
                status_of(&mount, "VmRSS") < start_kib + (full - start_kib) / 4 + 4096
            });
            let rest = status_of(&mount, "VmRSS");
            let each = |kib: u64| kib.saturating_sub(start_kib) * 1024 / inodes;
            println!(
                "round {round}: {inodes} inodes in {took:?}: {} bytes each, {} after FORGET ({start_kib} {full} {rest} KiB), {open} descriptors",
                each(full),
                each(rest)
            );
            assert!(forgotten, "{rest} KiB of {full} stay, {start_kib} at the start");
            assert!(each(full) < 400 || full - start_kib < 8192, "{} bytes an inode", each(full));
            assert!(open < 8300, "{open} descriptors");
        }
    });
}

/// Copies up, writes, lists and renames; the view that comes of it.
fn work(mount: &Mount) -> View {
    for dir in 0..4 {
        for file in (0..FILES).step_by(5) {
            let at = |name: &str| format!("directory-{dir:04}/{name}-{file:04}.txt");
            mount.write(at("file"), vec![dir as u8; 3000]).unwrap();
            mount.write(at("new"), vec![1; 100]).unwrap();
            mount.rename(at("file"), at("moved")).unwrap();
        }
        mount.rename(format!("directory-{dir:04}"), format!("renamed-{dir}")).unwrap();
    }
    let fd = mount.open("large", OFlags::RDWR).unwrap();
    tree::pwrite_all(&fd, b"end", 47 << 20).unwrap();
    let view = View::of(mount, Walk::default());
    view.assert_sound();
    view
}

#[test]
fn little_memory_makes_it_slower_not_wrong() {
    within(300, || {
        let fresh = || {
            // On a disk: what a tmpfs holds counts as memory of the one who wrote it.
            let stack = layers(Stack::new(1), 4);
            stack.lowers[0].file("large", vec![7; 48 << 20]);
            stack
        };
        let stack = fresh();
        let expected = work(&stack.mount());
        let stack = fresh();
        // The address space: threads get smaller shares of it, or none.
        let limited = mount_after(&stack, "ulimit -v 500000", "");
        work(&limited).assert_same(&expected, "with ulimit -v");
        drop(limited);
        let Some(group) = Cgroup::new(24 << 20) else {
            skip!("no memory controller that could be used");
        };
        let stack = fresh();
        let limited = mount_after(&stack, &group.enter(), "");
        work(&limited).assert_same(&expected, "in a cgroup of 24 MiB");
        println!("in a cgroup of 24 MiB: {} KiB at most", status_of(&limited, "VmHWM"));
    });
}

/// A cgroup with a limit of memory, version 1 or 2.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(bytes: u64) -> Option<Self> {
        let name = format!("plyfs-test-{}", std::process::id());
        for (root, limit) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let group = Cgroup(Path::new(root).join(&name));
            let made =
                std::fs::create_dir(&group.0).and_then(|()| std::fs::write(group.0.join(limit), bytes.to_string()));
            if made.is_ok() && group.0.join(limit).metadata().is_ok_and(|file| file.permissions().mode() & 0o200 != 0) {
                return Some(group);
            }
        }
        None
    }

    /// What a shell runs to be in it.
    fn enter(&self) -> String {
        format!("echo $$ > '{}'", self.0.join("cgroup.procs").display())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Empty only once the daemon has ended.
        mount::wait_until(|| std::fs::remove_dir(&self.0).is_ok());
    }
}
