//! Mounting and unmounting: mount(2) where the process may, else `fusermount3`.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
pub use rustix::mount::MountPropagationFlags as Propagation;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::mounts;
use super::newer::{self, Newer};
use crate::base::{Errno, Result};

/// The device that requests come from.
pub const DEVICE: &str = "/dev/fuse";

/// What a FUSE mount is made with.
#[derive(Debug, Clone, Default)]
pub struct MountRequest {
    /// The first column of the mount table.
    pub source: OsString,
    /// The type in the mount table is `fuse.SUBTYPE`.
    pub subtype: OsString,
    /// `MS_*`
    pub flags: Flags,
    /// Users other than the one who mounts may enter.
    pub allow_other: bool,
    /// Options for the kernel's security modules, as they stand (`context=…`).
    pub security: Vec<OsString>,
}

/// The flags of a mount, one word of the mount table each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, clippy::struct_excessive_bools)]
pub struct Flags {
    pub ro: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub noatime: bool,
    pub sync: bool,
    pub dirsync: bool,
}

impl Flags {
    /// Each flag that is set: for mount(2), and its word for `fusermount3`.
    fn set(self) -> impl Iterator<Item = (MountFlags, &'static str)> {
        [
            (self.ro, MountFlags::RDONLY, "ro"),
            (self.nosuid, MountFlags::NOSUID, "nosuid"),
            (self.nodev, MountFlags::NODEV, "nodev"),
            (self.noexec, MountFlags::NOEXEC, "noexec"),
            (self.noatime, MountFlags::NOATIME, "noatime"),
            (self.sync, MountFlags::SYNCHRONOUS, "sync"),
            (self.dirsync, MountFlags::DIRSYNC, "dirsync"),
        ]
        .into_iter()
        .filter_map(|(on, flag, word)| on.then_some((flag, word)))
    }
}

/// What a word such as `private` or `rslave` does to a mount's propagation, as for mount(8).
pub fn propagation(word: &str) -> Option<Propagation> {
    let (word, all) = match word.strip_prefix('r') {
        Some(word) => (word, Propagation::REC),
        None => (word, Propagation::empty()),
    };
    let how = match word {
        "private" => Propagation::PRIVATE,
        "shared" => Propagation::SHARED,
        "slave" => Propagation::DOWNSTREAM,
        "unbindable" => Propagation::UNBINDABLE,
        _ => return None,
    };
    Some(how | all)
}

/// Changes the propagation of the mount at `path`
/// ([mount_namespaces(7)](https://man7.org/linux/man-pages/man7/mount_namespaces.7.html)).
///
/// # Errors
/// `EPERM` without the privilege, `EINVAL` if nothing is mounted there.
pub fn propagate(path: &Path, how: Propagation) -> Result<()> {
    Ok(rustix::mount::mount_change(path, how)?)
}

/// The flags of the mount that `dir` is in.
///
/// # Errors
/// `ENOENT` where the mount table has no such mount; those of statfs(2) and of reading /proc.
pub fn flags_of(dir: BorrowedFd<'_>) -> Result<Flags> {
    use rustix::fs::StatVfsMountFlags as Flag;
    let id = mounts::mount_id(dir)?;
    let entry = mounts::table()?.into_iter().find(|mount| mount.id == id).ok_or(Errno::ENOENT)?;
    let has = |word: &[u8]| entry.options.split(|&byte| byte == b',').any(|option| option == word);
    let flags = rustix::fs::fstatvfs(dir)?.f_flag;
    Ok(Flags {
        ro: flags.contains(Flag::RDONLY),
        nosuid: flags.contains(Flag::NOSUID),
        nodev: flags.contains(Flag::NODEV),
        noexec: flags.contains(Flag::NOEXEC),
        noatime: flags.contains(Flag::NOATIME),
        sync: has(b"sync"),
        dirsync: has(b"dirsync"),
    })
}

/// Gives the mount at `path`, which has the flags `from`, the flags `to`.
///
/// # Errors
/// `EPERM` without the privilege, or for a flag that a less privileged namespace may not take away; `EINVAL` if nothing is
/// mounted there; `EBUSY` where files are open for writing.
pub fn remount(path: &Path, from: Flags, to: Flags) -> Result<()> {
    // Without a word on access times those stay as they are.
    let times = if from.noatime && !to.noatime { MountFlags::RELATIME } else { MountFlags::empty() };
    let flags = to.set().fold(times, |all, (flag, _)| all | flag);
    Ok(rustix::mount::mount_remount(path, flags, c"")?)
}

/// Opens [`DEVICE`] for a new connection.
///
/// # Errors
/// `ENOENT` without the device, `ENODEV` or `ENXIO` without the kernel's module, `EACCES` or `EPERM` where it is closed
/// ([fuse(4)](https://man7.org/linux/man-pages/man4/fuse.4.html)).
pub fn open_device() -> Result<OwnedFd> {
    Ok(rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory to mount on, without touching what is in it.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EACCES` of [open(2)](https://man7.org/linux/man-pages/man2/open.2.html); `ENOTCONN` for the
/// mount of a daemon that died.
pub fn open_mountpoint(path: &Path) -> Result<OwnedFd> {
    let fd = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // What the kernel has cached of a dead mount answers everything but this.
    rustix::fs::fstatfs(&fd)?;
    Ok(fd)
}

/// Opens a directory in a view, to [ask](super::ask::ask) its daemon something.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `EACCES` of open(2); `ENOTCONN` for the mount of a daemon that died.
pub fn open_to_ask(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::fstatfs(&fd)?;
    Ok(fd)
}

/// Mounts on the directory `target` by [mount(2)](https://man7.org/linux/man-pages/man2/mount.2.html); the connection
/// is `device`, from [`open_device`].
///
/// # Errors
/// `EPERM` where the process may not mount; `EINVAL` for security options that the kernel does not take; `EAGAIN` where
/// there can be no more threads.
pub fn mount_on(target: BorrowedFd<'_>, device: BorrowedFd<'_>, request: &MountRequest) -> Result<()> {
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
    .into_bytes();
    if request.allow_other {
        data.extend_from_slice(b",allow_other");
    }
    for option in &request.security {
        data.push(b',');
        data.extend_from_slice(option.as_bytes());
    }
    let data = c_string(data)?;
    let mut kind = OsString::from("fuse");
    if !request.subtype.is_empty() {
        kind.push(".");
        kind.push(&request.subtype);
    }
    let flags = request.flags.set().fold(MountFlags::empty(), |flags, (flag, _)| flags | flag);

    // The opened directory itself, whatever has become of its path: as the current one of a thread that has its own.
    let mount = || -> Result<()> {
        // SAFETY: `CLONE_FS` parts what belongs to the kernel alone; descriptors stay common.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
        rustix::process::fchdir(target)?;
        Ok(rustix::mount::mount(&*request.source, c".", &*kind, flags, Some(&*data))?)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned()).spawn_scoped(scope, mount)?;
        thread.join().unwrap_or(Err(Errno::EIO))
    })
}

/// Lets the kernel read ahead up to `kib` KiB on the file system with this `st_dev`, if it did less; a FUSE mount begins
/// with 128 ([sysfs](https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-class-bdi), `read_ahead_kb`).
///
/// # Errors
/// `EACCES` and others of writing there: only root may.
pub fn raise_read_ahead(device: u64, kib: u64) -> Result<()> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let now = std::fs::read_to_string(&path)?;
    if now.trim().parse::<u64>().is_ok_and(|now| now < kib) {
        std::fs::write(&path, kib.to_string())?;
    }
    Ok(())
}

/// Mounts on the directory `target` by the set-user-id program `fusermount`; the connection that it opened.
///
/// # Errors
/// What the program said, in one line.
pub fn fusermount_on(
    fusermount: &Path,
    target: BorrowedFd<'_>,
    request: &MountRequest,
) -> std::result::Result<OwnedFd, String> {
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| errno.to_string())?;
    let mut command = Command::new(fusermount);
    command.arg("-o").arg(fusermount_options(request)).arg("--").arg(".");
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    in_directory(&mut command, target, Some(theirs.as_fd()));
    let said = run(&mut command)?;
    drop(theirs);
    super::handover::receive_fd(ours.as_fd())
        .map_err(|errno| if said.is_empty() { format!("no connection came back: {errno}") } else { said })
}

/// The value of `fusermount3 -o`.
fn fusermount_options(request: &MountRequest) -> OsString {
    let mut options = b"default_permissions".to_vec();
    for (_, word) in request.flags.set() {
        options.push(b',');
        options.extend_from_slice(word.as_bytes());
    }
    if request.allow_other {
        options.extend_from_slice(b",allow_other");
    }
    for option in &request.security {
        options.push(b',');
        options.extend_from_slice(option.as_bytes());
    }
    for (key, value) in [("fsname", &request.source), ("subtype", &request.subtype)] {
        if value.is_empty() {
            continue;
        }
        options.extend_from_slice(format!(",{key}=").as_bytes());
        for &byte in value.as_bytes() {
            if matches!(byte, b',' | b'\\') {
                options.push(b'\\');
            }
            options.push(byte);
        }
    }
    OsString::from_vec(options)
}

/// Makes the program start in the directory `dir`, with the descriptor `inherit` (if any) open.
fn in_directory(command: &mut Command, dir: BorrowedFd<'_>, inherit: Option<BorrowedFd<'_>>) {
    let dir = dir.as_raw_fd();
    let inherit = inherit.map(|fd| fd.as_raw_fd());
    let prepare = move || {
        // SAFETY: plain system calls on descriptors that the parent holds open over the whole of `run`; both are
        // async-signal-safe, as pre_exec asks.
        unsafe {
            if libc::fchdir(dir) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if let Some(fd) = inherit
                && libc::fcntl(fd, libc::F_SETFD, 0) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Runs a helper program to its end. If it failed, the last line of its standard error is the error.
fn run(command: &mut Command) -> std::result::Result<String, String> {
    let program =
        Path::new(command.get_program()).file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut said).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    let said = String::from_utf8_lossy(&said).trim().lines().next_back().unwrap_or_default().to_owned();
    match status.success() {
        true => Ok(said),
        false if said.is_empty() => Err(format!("{program}: {status}")),
        false => Err(said),
    }
}

/// The type of the file system that `fd` is on as the mount table of this process has it, such as `fuse.plyfs`; `None`
/// where that mount is not in it
/// ([proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).
///
/// # Errors
/// Those of statx(2) and of reading /proc.
pub fn fs_type(fd: BorrowedFd<'_>) -> Result<Option<String>> {
    let id = mounts::mount_id(fd)?;
    Ok(mounts::table()?.into_iter().find(|mount| mount.id == id).map(|mount| mount.kind))
}

/// The device number of the file system mounted at `path`, without asking its daemon anything.
///
/// # Errors
/// Those of [statx(2)](https://man7.org/linux/man-pages/man2/statx.2.html) on the way to `path`; where a filter of system
/// calls does not know that one, `ENOENT` if the mount table has no such mount.
pub fn device_at(path: &Path) -> Result<u64> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = match newer::is_absent(Newer::Statx) {
        true => Err(Errno::ENOSYS),
        false => rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::empty()).map_err(Errno::from),
    };
    match found {
        Err(errno) if !super::has_call(errno) => {
            mounts::table()?.iter().rfind(|mount| mount.at == path).map(|mount| mount.device).ok_or(Errno::ENOENT)
        }
        found => found.map(|stat| rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)),
    }
}

/// Where the file system with this device number is mounted: the last place, if there are several
/// ([proc_pid_mountinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html)).
pub fn place_of(device: u64) -> Option<PathBuf> {
    mounts::table().ok()?.into_iter().rfind(|mount| mount.device == device).map(|mount| mount.at)
}

/// Unmounts `path` by [umount2(2)](https://man7.org/linux/man-pages/man2/umount.2.html); a `lazy` one vanishes from the
/// tree at once and ends when its last user is gone.
///
/// # Errors
/// `EBUSY` while in use (not if lazy), `EPERM` without the privilege, `EINVAL` if nothing is mounted there.
pub fn unmount(path: &Path, lazy: bool) -> Result<()> {
    let how = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    Ok(rustix::mount::unmount(path, how | UnmountFlags::NOFOLLOW)?)
}

/// [`unmount`] by the set-user-id program `fusermount`.
///
/// # Errors
/// What the program said, in one line.
pub fn fusermount_unmount(fusermount: &Path, path: &Path, lazy: bool) -> std::result::Result<(), String> {
    let mut command = Command::new(fusermount);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    run(command.arg("--").arg(path)).map(drop)
}

/// `struct mount_attr` of [mount_setattr(2)](https://man7.org/linux/man-pages/man2/mount_setattr.2.html).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A private mount of the directory `fd` and what lies below it on the same mount: other mounts are not on it (not even
/// ones made later), and what they cover shows. Access times stay as they are; `read_only` refuses every change.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN or for a mount of another namespace, `EINVAL` where mounts are locked together (a less
/// privileged namespace), `ENOSYS` before Linux 5.12
/// ([open_tree(2)](https://man7.org/linux/man-pages/man2/open_tree.2.html)).
pub fn clone_tree(fd: BorrowedFd<'_>, read_only: bool) -> Result<OwnedFd> {
    if newer::is_absent(Newer::OpenTree) {
        return Err(Errno::ENOSYS);
    }
    let how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(fd, c"", how)?;
    let read_only = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let private = MountAttr { set: read_only, clear: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    let quiet = MountAttr { set: read_only | libc::MOUNT_ATTR_NOATIME, clear: libc::MOUNT_ATTR__ATIME, ..private };
    // A namespace may lock the access times of a mount that it was given: then they are left to it.
    match set_attributes(tree.as_fd(), &quiet) {
        Err(Errno::EPERM) => set_attributes(tree.as_fd(), &private)?,
        other => other?,
    }
    Ok(tree)
}

/// Changes the flags of the mount whose root is `tree`.
fn set_attributes(tree: BorrowedFd<'_>, attributes: &MountAttr) -> Result<()> {
    // SAFETY: the path is a NUL-terminated string, and the kernel reads as many bytes of the structure as it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    super::check(result).map(drop)
}

/// `bytes` as a C string, as mount(2) takes it.
fn c_string(bytes: Vec<u8>) -> Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fusermount_is_given_flags_as_words_and_names_escaped() {
        let request = MountRequest {
            source: "a,b\\c".into(),
            subtype: "plyfs".into(),
            flags: Flags { ro: true, noatime: true, ..Flags::default() },
            allow_other: true,
            security: vec![],
        };
        assert_eq!(
            fusermount_options(&request),
            r"default_permissions,ro,noatime,allow_other,fsname=a\,b\\c,subtype=plyfs"
        );
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let proc = device_at(Path::new("/proc")).unwrap();
        assert!(mounts::table().unwrap().iter().any(|mount| mount.device == proc && mount.at == Path::new("/proc")));
        assert!(place_of(proc).is_some() && place_of(u64::MAX).is_none());
    }

    #[test]
    fn the_type_of_a_mount_is_found_in_the_table() {
        let proc = open_mountpoint(Path::new("/proc")).unwrap();
        assert_eq!(fs_type(proc.as_fd()), Ok(Some("proc".to_owned())));
    }

    #[test]
    fn a_failed_helper_says_why_in_one_line() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo first >&2; echo second >&2; exit 3"]);
        assert_eq!(run(&mut command), Err("second".to_owned()));
        assert_eq!(run(Command::new("sh").args(["-c", "exit 3"])), Err("sh: exit status: 3".to_owned()));
        assert!(run(&mut Command::new("/no/such/program")).is_err());
    }

    #[test]
    fn a_cloned_tree_shows_what_a_mount_covers_or_says_why_not() {
        let root = open_mountpoint(Path::new("/")).unwrap();
        match clone_tree(root.as_fd(), true) {
            Ok(tree) => {
                let made = rustix::fs::mkdirat(&tree, c"plyfs-must-not-exist", Mode::RWXU);
                assert_eq!(made, Err(rustix::io::Errno::ROFS));
            }
            Err(errno) => assert!([Errno::EPERM, Errno::ENOSYS, Errno::EINVAL].contains(&errno), "{errno:?}"),
        }
    }
}
