//! How the command comes to see the unions: its child process builds the view and becomes the command.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::daemon::{DONE, Daemon, OPEN, Open, SERVE};
use super::store::told;
use super::{Ground, Session, Spot, Wishes, say};
use crate::base::{Errno, Result};
use crate::sys::mount::{self, Flags, MountRequest};
use crate::sys::process::{self, Fork};
use crate::sys::{follow, namespace, random};
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
    /// What it is to see where.
    pub wishes: &'a Wishes,
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
            follow::release_signals();
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
            follow::release_signals();
            let here = std::env::current_dir().unwrap_or_default();
            let joined = namespace::join(pid).map_err(|errno| broken("the session", errno, "it may just have ended"));
            std::process::exit(joined.map_or_else(
                |error| failed(&error),
                |()| {
                    go_back(&here);
                    if !process::ids_are_initial() {
                        namespace::give_up_privileges();
                    }
                    become_command(command)
                },
            ))
        }
    }
}

fn failed(error: &SetupError) -> i32 {
    let hint = if error.hint.is_empty() { String::new() } else { format!(" ({})", error.hint) };
    say(&format!("{error}{hint}"));
    FAILED
}

fn broken(what: impl Into<String>, errno: Errno, hint: &str) -> SetupError {
    SetupError { what: what.into(), reason: errno.to_string(), hint: hint.into() }
}

fn become_command(command: &Command) -> i32 {
    process::heed_file_limits();
    let error = std::process::Command::new(&command.program).args(&command.args).exec();
    say(&format!("{}: {error}", command.program.display()));
    if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

/// Enters namespaces of its own, leaves the daemon behind, and mounts.
fn enter(run: Run<'_>, held: OwnedFd) -> std::result::Result<(), SetupError> {
    let here = std::env::current_dir().unwrap_or_default();
    let session = run.session;
    namespace::enter_own(run.user).map_err(|errno| {
        let hint = "this machine lets no normal user have namespaces (sysctl user.max_user_namespaces, \
                    kernel.apparmor_restrict_unprivileged_userns)";
        broken("a namespace", errno, if run.user { hint } else { "" })
    })?;
    // From now on no mount is added from outside.
    let ground = Ground::survey(run.wishes).map_err(|errno| broken("/proc/self/mountinfo", errno, ""))?;
    let daemon = leave_daemon(&run, &ground, held)?;
    drop(run.lock);
    let no_namespace = |errno| broken("a namespace", errno, "");
    namespace::enter_copy().map_err(no_namespace)?;
    if run.no_net {
        namespace::leave_network().map_err(no_namespace)?;
    }
    // Opened as long as its path leads to it.
    let mounts = session.open_mounts().map_err(|errno| broken(session.name.clone(), errno, ""))?;
    let source = source_of(session).map_err(no_namespace)?;
    let root = if ground.has_root { session.dir.join("root") } else { PathBuf::from("/") };
    Stage { root: &root, source: &source, daemon }.build(&ground.spots)?;
    if ground.has_root {
        namespace::change_root(&root).map_err(|errno| broken("pivot_root(2)", errno, "use --on DIR"))?;
    }
    go_back(&here);
    if run.user {
        namespace::give_up_privileges();
    }
    // Last: whoever joins sees all of it.
    let tell = || -> Result<()> {
        let mut mounts = mounts;
        Ok(mounts.write_all(&told(&namespace::own_mounts()?, &source))?)
    };
    tell().map_err(|errno| broken(session.name.clone(), errno, ""))
}

/// The source of the session's mounts: no others have it.
fn source_of(session: &Session) -> Result<String> {
    let unique = random::temp_name("")?;
    Ok(format!("plyfs-run:{}:{}", session.name, unique.to_string_lossy()))
}

/// The directory in which the command was called, in the view.
fn go_back(here: &Path) {
    if let Err(error) = std::env::set_current_dir(here) {
        say(&format!("note: {} is not in the view: {error}", here.display()));
        let _ = std::env::set_current_dir("/");
    }
}

/// Starts the daemon, which nobody waits for.
fn leave_daemon(run: &Run<'_>, ground: &Ground, held: OwnedFd) -> std::result::Result<Orders, SetupError> {
    let no_process = |errno| broken("a process", errno, "");
    let places = ground.spots.iter().filter_map(|spot| match spot {
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
                // In this order: whoever sees the pipe closed finds the session free.
                let held = vec![lock, held];
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
    /// Of the unions, in the mount table.
    source: &'a str,
    daemon: Orders,
}

/// What there is at a place before anything covers it.
struct Below {
    /// The tree that is shown as it is.
    tree: Result<OwnedFd>,
    /// What programs may do there.
    flags: Flags,
}

impl Below {
    fn of(spot: &Spot) -> Self {
        let tree = namespace::open_path(spot.at());
        let flags = tree.as_ref().ok().and_then(|tree| mount::flags_of(tree.as_fd()).ok()).unwrap_or_default();
        Self { tree, flags }
    }
}

impl Stage<'_> {
    fn build(mut self, spots: &[Spot]) -> std::result::Result<(), SetupError> {
        let below: Vec<Below> = spots.iter().map(Below::of).collect();
        for (spot, below) in spots.iter().zip(&below) {
            let done = match spot {
                Spot::Union(at) => {
                    self.mount_union(at, below.flags)?;
                    continue;
                }
                Spot::Through(at) => self.target(at).and_then(|target| bind(&below.tree, &target)),
                Spot::ReadOnly(at) => self.show_read_only(at, below),
                Spot::Hidden(at) => self.cover(at),
            };
            match (done, spot) {
                (Ok(()), _) => {}
                // Nothing is there, so nothing is shown.
                (Err(Errno::ENOENT), Spot::Hidden(_)) => {}
                (Err(errno), Spot::Hidden(at)) => return Err(broken(format!("--hide {}", at.display()), errno, "")),
                (Err(errno), spot) => self.leave_out(spot.at(), &errno.to_string(), errno == Errno::EACCES)?,
            }
        }
        Ok(())
    }

    /// What stands for `at` in the view so far; nothing that the session has put there leads elsewhere.
    fn target(&self, at: &Path) -> Result<OwnedFd> {
        let root = namespace::open_dir(self.root)?;
        namespace::open_in(root.as_fd(), at.strip_prefix("/").unwrap_or(at))
    }

    /// Nothing is shown at `at`, neither of the machine nor of what is mounted there.
    fn cover(&self, at: &Path) -> Result<()> {
        let target = self.target(at)?;
        match namespace::mount_empty(&by_number(&target)) {
            Err(Errno::ENOTDIR) => namespace::bind(Path::new("/dev/null"), &by_number(&target)),
            done => done,
        }
    }

    /// `at` cannot be shown as it should be. A place that the user cannot reach outside is left out without a word.
    fn leave_out(&self, at: &Path, why: &str, quietly: bool) -> std::result::Result<(), SetupError> {
        match self.cover(at) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => {}
            Err(errno) => return Err(broken(at.display().to_string(), errno, "it can be neither shown nor hidden")),
        }
        if !quietly {
            say(&format!("note: {} is not in the view: {why}", at.display()));
        }
        Ok(())
    }

    fn show_read_only(&self, at: &Path, below: &Below) -> Result<()> {
        bind(&below.tree, &self.target(at)?)?;
        // The mount that was just made.
        let there = self.target(at)?;
        namespace::make_read_only(&by_number(&there))
    }

    fn mount_union(&mut self, at: &Path, flags: Flags) -> std::result::Result<(), SetupError> {
        let Some(number) = self.daemon.devices.iter().position(|(place, _)| place == at) else { return Ok(()) };
        let asked_for = at == Path::new("/") || self.root == Path::new("/");
        let mounted = self.target(at).map_err(|errno| errno.to_string()).and_then(|target| {
            self.daemon.give(OPEN, number)?;
            let Some((_, device)) = self.daemon.devices.get(number) else { return Ok(()) };
            let flags = Flags { ro: false, sync: false, dirsync: false, ..flags };
            let request = MountRequest {
                source: self.source.into(),
                subtype: "plyfs".into(),
                flags,
                allow_other: true,
                ..MountRequest::default()
            };
            mount::mount_on(target.as_fd(), device.as_fd(), &request).map_err(|errno| errno.to_string())?;
            self.daemon.give(SERVE, number)
        });
        match mounted {
            Ok(()) => Ok(()),
            Err(reason) if asked_for => Err(SetupError { what: at.display().to_string(), reason, hint: String::new() }),
            Err(reason) => self.leave_out(at, &reason, false),
        }
    }
}

/// A path to what is open, whatever its own path leads to.
fn by_number(open: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

fn bind(tree: &Result<OwnedFd>, target: &OwnedFd) -> Result<()> {
    match tree {
        Ok(tree) => namespace::bind(&by_number(tree), &by_number(target)),
        Err(errno) => Err(*errno),
    }
}

/// Whether this kernel can do what a session needs.
///
/// # Errors
/// What it lacks.
pub fn preflight() -> std::result::Result<(), SetupError> {
    mount::open_device()
        .map(drop)
        .map_err(|errno| broken(mount::DEVICE, errno, "modprobe fuse; for a container: --device /dev/fuse"))
}
