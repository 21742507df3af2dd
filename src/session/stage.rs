//! How the command comes to see the unions: its child process builds the view and becomes the command.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::daemon::{DONE, Daemon, OPEN, Open, SERVE};
use super::{Ground, Session, Spot};
use crate::base::{Errno, Result};
use crate::sys::mount::{self, Flags, MountRequest};
use crate::sys::process::{self, Fork};
use crate::sys::{namespace, newer};
use crate::union::SetupError;

/// A program and its arguments.
#[derive(Debug, Clone)]
pub struct Command {
    /// Looked for as a shell does.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// All that a command is started with.
pub struct Run<'a> {
    /// What it sees where.
    pub ground: &'a Ground,
    /// Where its changes are kept.
    pub session: &'a Session,
    /// Held as long as the session is in use.
    pub lock: OwnedFd,
    /// The command.
    pub command: &'a Command,
    /// Opens the union over a place.
    pub open: Open<'a>,
    /// It has no network.
    pub no_net: bool,
    /// A user namespace is needed to mount.
    pub user: bool,
    /// The session is removed at the end.
    pub remove: bool,
}

/// The exit statuses of env(1): plyfs itself has failed, the command cannot be run, it is not found.
const FAILED: i32 = 125;
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Starts the command in a view of its own. Returns its process, a child of this one, and a pipe that is closed when the
/// daemon has ended.
///
/// # Errors
/// No process can be made. What fails later is said on standard error by the child, which ends with status 125.
pub fn start(run: Run<'_>) -> Result<(Pid, OwnedFd)> {
    let (ended, held) = process::pipe()?;
    match process::fork()? {
        Fork::Parent(pid) => Ok((pid, ended)),
        Fork::Child => {
            drop(ended);
            let command = run.command;
            std::process::exit(enter(run, held).map_or_else(|error| failed(&error), |()| become_command(command)))
        }
    }
}

/// Starts the command in the view of the process `pid`, which belongs to a session in use.
///
/// # Errors
/// As [`start`].
pub fn start_beside(pid: Pid, command: &Command) -> Result<Pid> {
    match process::fork()? {
        Fork::Parent(child) => Ok(child),
        Fork::Child => {
            let here = std::env::current_dir().unwrap_or_default();
            let joined = namespace::join(pid).map_err(|errno| broken("the session", errno, "it may just have ended"));
            std::process::exit(joined.map_or_else(
                |error| failed(&error),
                |()| {
                    go_back(&here);
                    become_command(command)
                },
            ))
        }
    }
}

fn failed(error: &SetupError) -> i32 {
    eprintln!("plyfs: {error}");
    FAILED
}

fn broken(what: impl Into<String>, errno: Errno, hint: &str) -> SetupError {
    SetupError { what: what.into(), reason: errno.to_string(), hint: hint.into() }
}

fn become_command(command: &Command) -> i32 {
    let error = std::process::Command::new(&command.program).args(&command.args).exec();
    eprintln!("plyfs: {}: {error}", command.program.display());
    if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

/// Enters namespaces of its own, leaves the daemon behind, and mounts.
fn enter(run: Run<'_>, held: OwnedFd) -> std::result::Result<(), SetupError> {
    let here = std::env::current_dir().unwrap_or_default();
    let Run { ground, session, .. } = run;
    namespace::enter_own(run.user).map_err(|errno| {
        let hint = "this machine lets no normal user have namespaces of their own (sysctl user.max_user_namespaces)";
        broken("a namespace", errno, if run.user { hint } else { "" })
    })?;
    let daemon = leave_daemon(&run, held)?;
    drop(run.lock);
    let done = || -> Result<()> {
        namespace::enter_copy()?;
        if run.no_net {
            namespace::leave_network()?;
        }
        session.set_mounts(&namespace::own_mounts()?)
    };
    done().map_err(|errno| broken("a namespace", errno, ""))?;
    let root = if ground.has_root { session.dir.join("root") } else { PathBuf::from("/") };
    Stage { root: &root, daemon }.build(&ground.spots)?;
    if ground.has_root {
        namespace::change_root(&root).map_err(|errno| broken("pivot_root(2)", errno, "use --on DIR"))?;
    }
    go_back(&here);
    Ok(())
}

/// The directory in which the command was called, in the view.
fn go_back(here: &Path) {
    if let Err(error) = std::env::set_current_dir(here) {
        eprintln!("plyfs: note: {} is not in the view: {error}", here.display());
        let _ = std::env::set_current_dir("/");
    }
}

/// Starts the daemon, which nobody waits for.
fn leave_daemon<'a>(run: &Run<'a>, held: OwnedFd) -> std::result::Result<Orders, SetupError> {
    let no_process = |errno| broken("a process", errno, "");
    let places = run.ground.spots.iter().filter_map(|spot| match spot {
        Spot::Union(at) => Some(at.as_path()),
        _ => None,
    });
    let unions: Vec<(&Path, OwnedFd)> = places
        .map(|at| mount::open_device().map(|device| (at, device)))
        .collect::<Result<_>>()
        .map_err(|errno| broken(mount::DEVICE, errno, "modprobe fuse; for a container: --device /dev/fuse"))?;
    let devices: Vec<(PathBuf, OwnedFd)> = unions
        .iter()
        .map(|(at, device)| Ok((at.to_path_buf(), device.try_clone()?)))
        .collect::<Result<_>>()
        .map_err(no_process)?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| no_process(error.into()))?;
    let lock = run.lock.try_clone().map_err(|error| no_process(error.into()))?;
    match process::fork().map_err(no_process)? {
        Fork::Parent(between) => {
            let _ = process::wait_for(between);
            Ok(Orders { stream: BufReader::new(ours), devices })
        }
        Fork::Child => {
            drop((ours, devices));
            if let Ok(Fork::Child) = process::fork() {
                let held = vec![held, lock];
                let Run { open, session, remove, .. } = *run;
                Daemon { orders: theirs, unions, open, session, remove, held }.run();
            }
            process::leave_at_once()
        }
    }
}

/// The daemon, as the child speaks to it.
struct Orders {
    stream: BufReader<UnixStream>,
    devices: Vec<(PathBuf, OwnedFd)>,
}

impl Orders {
    /// What the daemon has against it, if anything.
    fn give(&mut self, order: &str, number: usize) -> std::result::Result<(), String> {
        let gone = |error: std::io::Error| format!("the daemon does not answer: {error}");
        self.stream.get_mut().write_all(format!("{order}{number}\n").as_bytes()).map_err(gone)?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer).map_err(gone)?;
        match answer.trim_end() {
            DONE => Ok(()),
            "" => Err("the daemon has ended".to_owned()),
            other => Err(other.to_owned()),
        }
    }
}

/// The view as it is built below `root`.
struct Stage<'a> {
    root: &'a Path,
    daemon: Orders,
}

impl Stage<'_> {
    fn build(mut self, spots: &[Spot]) -> std::result::Result<(), SetupError> {
        // Opened before anything covers them.
        let open = |spot: &Spot| match spot {
            Spot::Union(_) | Spot::Hidden(_) => None,
            Spot::Through(at) | Spot::ReadOnly(at) => namespace::open_path(at).ok(),
        };
        let sources: Vec<Option<OwnedFd>> = spots.iter().map(open).collect();
        for (spot, source) in spots.iter().zip(&sources) {
            let target = self.root.join(spot.at().strip_prefix("/").unwrap_or(spot.at()));
            let done = match spot {
                Spot::Union(at) => {
                    self.mount_union(at, &target)?;
                    continue;
                }
                Spot::Through(_) => bind(source.as_ref(), &target),
                Spot::ReadOnly(_) => bind(source.as_ref(), &target).and_then(|()| namespace::make_read_only(&target)),
                Spot::Hidden(_) if target.is_dir() => namespace::mount_empty(&target),
                Spot::Hidden(_) => namespace::bind(Path::new("/dev/null"), &target),
            };
            match (done, spot) {
                (Ok(()), _) => {}
                // Nothing is there, so nothing is shown.
                (Err(Errno::ENOENT), Spot::Hidden(_)) => {}
                (Err(errno), Spot::Hidden(at)) => return Err(broken(format!("--hide {}", at.display()), errno, "")),
                (Err(errno), spot) => {
                    eprintln!("plyfs: note: {} is not in the view: {errno}", spot.at().display());
                    // What the mount hides is no part of the machine either.
                    let _ = namespace::mount_empty(&target);
                }
            }
        }
        Ok(())
    }

    fn mount_union(&mut self, at: &Path, target: &Path) -> std::result::Result<(), SetupError> {
        let Some(number) = self.daemon.devices.iter().position(|(place, _)| place == at) else { return Ok(()) };
        let asked_for = at == Path::new("/") || self.root == Path::new("/");
        match self.daemon.give(OPEN, number) {
            Ok(()) => {}
            Err(reason) if asked_for => {
                return Err(SetupError { what: at.display().to_string(), reason, hint: String::new() });
            }
            Err(reason) => {
                eprintln!("plyfs: note: {} is not in the view: {reason}", at.display());
                return Ok(());
            }
        }
        let failed = |errno| broken(at.display().to_string(), errno, "");
        let Some((_, device)) = self.daemon.devices.get(number) else { return Ok(()) };
        mount_on(at, target, device.as_fd()).map_err(failed)?;
        self.daemon.give(SERVE, number).map_err(|reason| SetupError {
            what: at.display().to_string(),
            reason,
            hint: String::new(),
        })
    }
}

/// Mounts a union over `at` on `target`; programs there may do what they may in the file system below.
fn mount_on(at: &Path, target: &Path, device: BorrowedFd<'_>) -> Result<()> {
    let below = mount::flags_of(namespace::open_dir(at)?.as_fd())?;
    let flags = Flags { ro: false, sync: false, dirsync: false, ..below };
    let subtype = "plyfs".into();
    let request = MountRequest { source: at.into(), subtype, flags, allow_other: true, ..MountRequest::default() };
    mount::mount_on(mount::open_mountpoint(target)?.as_fd(), device, &request)
}

fn bind(source: Option<&OwnedFd>, target: &Path) -> Result<()> {
    let source = source.ok_or(Errno::ENOENT)?;
    namespace::bind(Path::new(&format!("/proc/self/fd/{}", source.as_raw_fd())), target)
}

/// Whether this kernel can do what a session needs.
///
/// # Errors
/// What it lacks.
pub fn preflight() -> std::result::Result<(), SetupError> {
    let _ = newer::check();
    mount::open_device()
        .map(drop)
        .map_err(|errno| broken(mount::DEVICE, errno, "modprobe fuse; for a container: --device /dev/fuse"))
}
