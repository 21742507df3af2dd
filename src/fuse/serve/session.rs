//! A mounted view from its beginning to its end: mount, serve, unmount when asked to.

use std::ffi::OsString;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use fuser::{Config, Session, SessionACL};

use super::adapter::{self, Adapter};
use super::opens;
use super::reattach::Successive;
use super::requests::Requests;
use super::settings::{MountSettings, Propagation};
use super::splice::Splice;
use crate::base::{Errno, panics};
use crate::fuse::ahead::Guard;
use crate::sys::newer::{self, Newer};
use crate::sys::{mount, process};
use crate::union::{Live, SetupError};

/// KiB that the kernel reads ahead where root may say so. 160 MiB of a lower file in the cache, cold, ms: with 128 KiB
/// 83-102 read in order and 74-88 mapped, with 256 66-71 and 67-72, with 512 60-65 and 58-62, with 4096 66-68 and 48-52.
const READ_AHEAD: u64 = 512;

const OWN_DIRECTORY: &str = "a normal user mounts on a directory of their own";

/// Panics after which the thread for signals ends.
const MOST_PANICS: usize = 100;

/// How this process may mount.
#[derive(Debug, Clone)]
enum MountBy {
    /// mount(2): root, or inside a user namespace.
    Call,
    /// The set-user-id helper of the package fuse3.
    Helper(PathBuf),
    /// The caller, who has handed over the connection.
    Caller,
}

impl MountBy {
    fn unmount(&self, at: &Path, lazy: bool) -> Result<(), String> {
        match self {
            Self::Call => mount::unmount(at, lazy).map_err(|errno| errno.to_string()),
            Self::Helper(program) => mount::fusermount_unmount(program, at, lazy),
            Self::Caller => Err("whoever has mounted it unmounts it".to_owned()),
        }
    }
}

/// Whether this process mounts by mount(2), which it may as root and inside a user namespace with mounts of its own.
pub fn mounts_directly() -> bool {
    process::is_admin()
}

/// Finds out whether [`serve`] can mount, without changing anything.
///
/// # Errors
/// What stands in the way: the mountpoint, `/dev/fuse`, or that there is neither the privilege nor `fusermount3`.
pub fn preflight(settings: &MountSettings) -> Result<(), SetupError> {
    if settings.given.is_some() {
        return Ok(());
    }
    open_mountpoint(&settings.mountpoint)?;
    mount::open_device().map_err(device_closed)?;
    match mount_by(&settings.mountpoint)? {
        MountBy::Call | MountBy::Caller => Ok(()),
        MountBy::Helper(_) => helper_would_mount(settings),
    }
}

/// Whether the kernel can do what `io=` asks for, and checks permissions.
fn check_agreed(settings: &MountSettings, device: Option<&OwnedFd>) -> Result<(), SetupError> {
    // A mount of the caller's may lack `default_permissions`: there modes are checked only because the kernel asks for ACLs.
    if settings.given.is_some() && newer::is_absent(Newer::PosixAcl) {
        let reason = "this kernel has no FUSE_POSIX_ACL, and nobody would check permissions";
        return Err(failure(settings, reason, "mount on a directory"));
    }
    if settings.data.writeback && newer::is_absent(Newer::Writeback) {
        let reason = "this kernel cannot hold data back";
        return Err(refused("io=writeback", reason, "leave it out; Linux 3.15 has it"));
    }
    let passes = device.filter(|_| settings.data.passthrough).map_or(Ok(()), opens::can_pass);
    passes.map_err(|error| refused("io=passthrough", error.to_string(), "leave it out; Linux 6.9 has it"))
}

/// Mounts, calls `on_ready` once requests come, and answers them until the view is unmounted: from outside, or by
/// SIGTERM, SIGINT or SIGHUP to this process.
///
/// # Errors
/// Why it could not be mounted (then nothing is), or why serving ended before its time (then it is unmounted).
pub fn serve(
    mut fs: Adapter,
    (settings, guard): (&MountSettings, Option<Guard>),
    successive: Option<Successive>,
    on_ready: impl FnOnce(),
) -> Result<(), SetupError> {
    process::block_endings();
    let (connection, by) = connection(settings, successive.as_ref())?;
    let (live, requests, turns, ahead) = (fs.live.clone(), fs.requests.clone(), fs.turns.clone(), fs.ahead.clone());
    fs.splice = Splice::new(&connection).ok();
    let device = connection
        .try_clone()
        .inspect_err(|error| log::info!("nothing is read ahead, and no processor kept awake: {error}"))
        .ok();
    let mounted = Mounted::new(&settings.mountpoint, by);

    // With a supervisor the next daemon goes on with it.
    let _at_the_worst = successive.is_none().then(|| GiveUp(&mounted));

    let mut config = Config::default();
    config.acl = SessionACL::All; // who may enter is the kernel's affair
    config.n_threads = Some(settings.threads.max(1));
    config.clone_fd = false;
    let first = successive.as_ref().is_none_or(|one| one.connection.is_none());
    let end_early = |error: std::io::Error| {
        // The next one may have better luck.
        if first {
            mounted.give_up();
        }
        match error.raw_os_error() {
            Some(libc::EPERM) if settings.given.is_some() => {
                failure(settings, "nothing is mounted with this /dev/fuse yet", "mount first, then start plyfs")
            }
            _ => failure(settings, format!("the connection to the kernel failed: {error}"), ""),
        }
    };
    let started = match &successive {
        Some(one) => one.session(fs, &connection, config),
        None => Session::from_fd(fs, connection, SessionACL::All, config),
    };
    let session = match started {
        // Unmounted before the first request: that, too, is an end in order.
        Err(error) if error.kind() == std::io::ErrorKind::NotConnected => {
            on_ready();
            return Ok(());
        }
        session => session.map_err(end_early)?,
    };
    check_agreed(settings, device.as_ref()).inspect_err(|_| mounted.give_up())?;
    adapter::connect(&live.enter(), session.notifier());
    if !first {
        live.enter().tell_anew();
    }
    mounted.raise_read_ahead();
    if first {
        mounted.propagate(&settings.propagation);
    }
    if settings.prefetch {
        // Of what the kernel had from a daemon before this one nothing is known.
        let guard = guard.filter(|_| successive.is_none() && settings.reads_ahead());
        ahead.start(&live, &turns, device.as_ref().zip(guard));
    }
    turns.choose(settings.spin, device);
    watch_signals(mounted.clone(), requests.clone(), live.clone()).map_err(end_early)?;
    on_ready();
    let ended = ended(session.run());
    log::debug!("{requests}");
    if ended.is_ok() {
        // Other threads may still have the union for a moment, and its end would come after that of the process.
        live.enter().finish();
        ahead.finish();
    }
    ended.map_err(end_early)
}

fn watch_signals(mounted: Mounted, requests: Arc<Requests>, live: Arc<Live>) -> std::io::Result<()> {
    let watch = move || (0..MOST_PANICS).any(|_| panics::caught(|| mounted.unmount_when_told(&requests, &live)));
    thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
}

fn ended(run: std::io::Result<()>) -> std::io::Result<()> {
    match run {
        // What the kernel says where a request had just been taken off its queue when the view was unmounted.
        Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => Ok(()),
        run => run,
    }
}

/// The connection to the kernel: that of the daemon before, the caller's, or that of a mount just made.
fn connection(settings: &MountSettings, successive: Option<&Successive>) -> Result<(OwnedFd, MountBy), SetupError> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(|error| device_closed(error.into()));
    match (successive.and_then(|one| one.connection.as_ref()), settings.given()) {
        (kept, Some(given)) => Ok((copy(kept.map_or(given, AsFd::as_fd))?, MountBy::Caller)),
        (Some(kept), None) => Ok((copy(kept.as_fd())?, mount_by(&settings.mountpoint)?)),
        (None, None) => mount(settings),
    }
}

/// The connection to the kernel of a mount just made, and how it was made.
fn mount(settings: &MountSettings) -> Result<(OwnedFd, MountBy), SetupError> {
    let target = open_mountpoint(&settings.mountpoint)?;
    let mut request = mount::MountRequest {
        source: settings.fsname.clone(),
        subtype: settings.subtype.clone(),
        flags: settings.flags,
        allow_other: true,
        security: settings.security.clone(),
    };
    let mut by = mount_by(&settings.mountpoint)?;
    if matches!(by, MountBy::Call) {
        let device = mount::open_device().map_err(device_closed)?;
        match mount::mount_on(target.as_fd(), device.as_fd(), &request) {
            Ok(()) => return Ok((device, by)),
            // Such as a container that lets nobody mount: its fusermount3 may.
            Err(Errno::EPERM) => by = helper(&settings.mountpoint)?,
            Err(Errno::EINVAL) if !request.security.is_empty() => {
                let options = request.security.join(&OsString::from(","));
                let reason = format!("the kernel does not take {}", options.to_string_lossy());
                return Err(failure(settings, reason, "is SELinux enabled here?"));
            }
            Err(errno) => return Err(failure(settings, format!("mount(2): {errno}"), "")),
        }
    }
    let MountBy::Helper(program) = &by else { return Err(failure(settings, "no way to mount", "")) };
    request.allow_other = settings.allow_other;
    request.flags.nosuid = true;
    request.flags.nodev = true;
    let connection = mount::fusermount_on(program, target.as_fd(), &request)
        .map_err(|said| failure(settings, said, OWN_DIRECTORY))?;
    Ok((connection, by))
}

/// What this process can mount with.
fn mount_by(mountpoint: &Path) -> Result<MountBy, SetupError> {
    if mounts_directly() { Ok(MountBy::Call) } else { helper(mountpoint) }
}

/// The set-user-id helper.
fn helper(mountpoint: &Path) -> Result<MountBy, SetupError> {
    let program = ["fusermount3", "fusermount"].into_iter().find_map(process::find_program);
    let reason = "this user may not mount, and there is no fusermount3";
    let hint = "install the package fuse3, or run the command inside `unshare -Urm`";
    program.map(MountBy::Helper).ok_or_else(|| refused(mountpoint.display(), reason, hint))
}

/// What `fusermount3` would refuse, as far as can be known beforehand.
fn helper_would_mount(settings: &MountSettings) -> Result<(), SetupError> {
    if rustix::fs::access(&settings.mountpoint, rustix::fs::Access::WRITE_OK).is_err() {
        return Err(failure(settings, "this user may not write to the mountpoint", OWN_DIRECTORY));
    }
    // Where the file cannot be read the helper decides.
    let conf = std::fs::read_to_string("/etc/fuse.conf");
    let allowed = conf.map_or(true, |conf| conf.lines().any(|line| line.trim() == "user_allow_other"));
    if settings.allow_other && !allowed && !rustix::process::getuid().is_root() {
        let reason = "normal users may not let others in on this machine";
        return Err(refused(
            "allow_other",
            reason,
            "leave it out, or put the line user_allow_other into /etc/fuse.conf",
        ));
    }
    Ok(())
}

/// Unmounts what stands at `at`, as this process can; a `lazy` one is out of the tree at once, in use or not.
///
/// # Errors
/// Why not, in one line.
pub fn unmount(at: &Path, lazy: bool) -> Result<(), String> {
    let by_helper = |said: String| helper(at).map_or(Err(said), |helper| helper.unmount(at, lazy));
    if !mounts_directly() {
        return by_helper("this user may not unmount, and there is no fusermount3".to_owned());
    }
    match mount::unmount(at, lazy) {
        // Of a mount namespace that belongs to another user namespace.
        Err(Errno::EPERM) => by_helper(Errno::EPERM.to_string()),
        done => done.map_err(|errno| errno.to_string()),
    }
}

/// Unmounts a view that nobody serves any more, or will.
pub fn give_up(mountpoint: &Path) {
    let Ok(by) = mount_by(mountpoint) else { return };
    Mounted::new(mountpoint, by).give_up();
}

/// Unmounts a view whose daemon has died, if one stands at `mountpoint`.
pub fn give_up_dead(mountpoint: &Path) {
    let answer = mount::open_mountpoint(mountpoint).err();
    if answer.is_some_and(|errno| [libc::ENOTCONN, libc::ECONNABORTED].contains(&errno.raw())) {
        give_up(mountpoint);
    }
}

fn open_mountpoint(path: &Path) -> Result<OwnedFd, SetupError> {
    mount::open_mountpoint(path).map_err(|errno| {
        let hint = match errno.raw() {
            libc::ENOTCONN | libc::ECONNABORTED => {
                format!("a mount whose daemon died is in the way: plyfs umount {}", path.display())
            }
            libc::ENOENT => format!("mkdir {}", path.display()),
            _ => "the mountpoint is an existing directory".to_owned(),
        };
        refused(path.display(), errno.to_string(), hint)
    })
}

fn device_closed(errno: Errno) -> SetupError {
    let hint = match errno {
        Errno::EACCES | Errno::EPERM => "open it to this user (chmod 666 /dev/fuse), or give the container the device",
        _ => "modprobe fuse; for a container: --device /dev/fuse",
    };
    refused(mount::DEVICE, errno.to_string(), hint)
}

fn failure(settings: &MountSettings, reason: impl Into<String>, hint: &str) -> SetupError {
    refused(settings.mountpoint.display(), reason, hint)
}

fn refused(what: impl Display, reason: impl Into<String>, hint: impl Into<String>) -> SetupError {
    SetupError { what: what.to_string(), reason: reason.into(), hint: hint.into() }
}

/// A panic of the thread that mounted leaves no mount that nobody answers for.
struct GiveUp<'a>(&'a Mounted);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.give_up();
        }
    }
}

/// What it takes to unmount.
#[derive(Debug, Clone)]
struct Mounted {
    path: PathBuf,
    by: MountBy,
    /// The number that stat(2) gives as `st_dev` inside the view: whatever else is mounted at `path` is left alone.
    device: Option<u64>,
}

impl Mounted {
    fn new(path: &Path, by: MountBy) -> Self {
        let device = if matches!(by, MountBy::Caller) { None } else { mount::device_at(path).ok() };
        Self { path: path.to_owned(), by, device }
    }

    /// Does what `private` and the like ask for, where this process may.
    fn propagate(&self, wishes: &[Propagation]) {
        for how in wishes.iter().filter(|_| matches!(self.by, MountBy::Call)) {
            let Some(at) = self.place() else { return };
            if let Err(errno) = mount::propagate(&at, *how) {
                log::warn!("{}: its propagation stays as it is: {errno}", at.display());
            }
        }
    }

    /// Waits for a signal and unmounts: lazily if the view is in use, so that it is gone from the tree either way, and
    /// those who are in it can finish. A second signal ends the process at once.
    ///
    /// SIGUSR1 only writes the counters to the log.
    fn unmount_when_told(&self, requests: &Requests, live: &Live) {
        loop {
            match process::wait_for_signal() {
                Ok(libc::SIGUSR1) => log::warn!(target: panics::ALWAYS, "{requests}"),
                Ok(signal) => break log::info!("signal {signal}: unmounting {}", self.path.display()),
                Err(errno) => return log::error!("signals: {errno}"),
            }
        }
        let Some(at) = self.place() else {
            // Detached from outside and still in use, or another's to unmount; it was asked for that this process ends.
            live.enter().finish();
            std::process::exit(0);
        };
        if let Err(said) = self.by.unmount(&at, false).or_else(|_| self.by.unmount(&at, true)) {
            log::error!("{}: cannot be unmounted: {said}", at.display());
            std::process::exit(1);
        }
        while let Ok(signal) = process::wait_for_signal() {
            if signal != libc::SIGUSR1 {
                std::process::exit(1);
            }
        }
    }

    /// The kernel reads ahead further than by itself, where root may say so.
    fn raise_read_ahead(&self) {
        if let (MountBy::Call, Some(device)) = (&self.by, self.device)
            && let Err(errno) = mount::raise_read_ahead(device, READ_AHEAD)
        {
            log::debug!("read-ahead stays as it is: {errno}");
        }
    }

    /// Unmounts a view that nobody answers for any more.
    fn give_up(&self) {
        if let Some(at) = self.place()
            && let Err(said) = self.by.unmount(&at, true)
        {
            log::error!("{}: cannot be unmounted: {said}", at.display());
        }
    }

    /// Where the view is mounted: what is above its mountpoint may have been renamed.
    fn place(&self) -> Option<PathBuf> {
        let device = self.device?;
        if mount::device_at(&self.path) == Ok(device) { Some(self.path.clone()) } else { mount::place_of(device) }
    }
}
