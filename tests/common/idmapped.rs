//! The kernel's own map of ids: an idmapped mount of a directory, to compare with.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::mount::wait_until;
use super::scratch::Mounted;

/// Ranges of a map: an id of the layers, one of the view, how many.
pub type Ranges = [(u32, u32, u32)];

/// The ranges as `uidmapping=` takes them.
pub fn words(ranges: &Ranges) -> String {
    let all: Vec<String> = ranges.iter().map(|(disk, view, len)| format!("{disk}:{view}:{len}")).collect();
    all.join(":")
}

/// Mounts `dir` at `at` with these ids (Linux 5.12, root of the initial user namespace).
pub fn bind(dir: &Path, at: &Path, uids: &Ranges, gids: &Ranges) -> io::Result<Mounted> {
    let namespace = Namespace::new(uids, gids)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree: OwnedFd = open_tree(CWD, dir, flags)?;
    // struct mount_attr of linux/mount.h.
    let (set_idmap, clear, propagation) = (0x0010_0000_u64, 0_u64, 0_u64);
    let attr = [set_idmap, clear, propagation, u64::try_from(namespace.file.as_raw_fd()).unwrap()];
    // SAFETY: the kernel reads the structure and the empty path; the descriptors are open.
    let done = unsafe {
        let (fd, size) = (tree.as_raw_fd(), size_of_val(&attr));
        libc::syscall(libc::SYS_mount_setattr, fd, c"".as_ptr(), libc::AT_EMPTY_PATH, attr.as_ptr(), size)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    move_mount(&tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(Mounted::adopt(at))
}

/// A user namespace with a map, held by a process that sleeps.
pub struct Namespace {
    process: Child,
    file: File,
}

impl Namespace {
    /// The first id of a range is inside, the second outside.
    pub fn new(uids: &Ranges, gids: &Ranges) -> io::Result<Self> {
        let mut process = Command::new("unshare").args(["-U", "sleep", "60"]).stdin(Stdio::null()).spawn()?;
        let at = format!("/proc/{}", process.id());
        let own = std::fs::read_link("/proc/self/ns/user")?;
        wait_until(|| std::fs::read_link(format!("{at}/ns/user")).is_ok_and(|theirs| theirs != own));
        let lines = |ranges: &Ranges| ranges.iter().map(|(d, v, n)| format!("{d} {v} {n}\n")).collect::<String>();
        let set = || {
            std::fs::write(format!("{at}/uid_map"), lines(uids))?;
            std::fs::write(format!("{at}/gid_map"), lines(gids))?;
            File::open(format!("{at}/ns/user"))
        };
        match set() {
            Ok(file) => Ok(Self { process, file }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// The process that holds it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
