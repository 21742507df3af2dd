//! `plyfs run`: a command sees the machine as it is, and what it changes is kept apart.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use clap::Args;

use super::super::daemon::say;
use super::super::describe::describe;
use super::super::grammar::Word;
use super::super::log;
use super::super::report::Failure;
use super::super::resolve::{self, Abilities, Manner};
use super::super::told::summary;
use super::changes;
use crate::base::Errno;
use crate::fuse::Adapter;
use crate::session::{self, Command, Opened, Run as Start, Session, Store, Wishes};
use crate::sys::{follow, process};
use crate::union::{SetupError, Union};

/// run a command, and keep what it changes apart
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plyfs run make install\n  plyfs run -n try-it bash\n  plyfs run --rm --on ~/src -- sh -c 'rm -r *'\n\n\
    Status: the command's own; 125 plyfs has failed, 126 the command cannot be run, 127 it is not found,\n128+N signal N has ended it."
)]
pub struct Run {
    /// The session's name: it is made, gone on with, or joined while it runs (a name by the time)
    #[arg(short = 'n', long, value_name = "NAME")]
    name: Option<String>,
    /// Throw the changes away at the end
    #[arg(long)]
    rm: bool,
    /// Cover this directory only, and what is mounted below it; may be given again
    #[arg(long, value_name = "DIR")]
    on: Vec<PathBuf>,
    /// Let changes below PATH through; may be given again
    #[arg(long, value_name = "PATH")]
    rw: Vec<PathBuf>,
    /// Show nothing at PATH; may be given again
    #[arg(long, value_name = "PATH")]
    hide: Vec<PathBuf>,
    /// Without a network
    #[arg(long)]
    no_net: bool,
    /// Say nothing at the end
    #[arg(short, long)]
    quiet: bool,
    /// Keep sessions in DIR ($XDG_STATE_HOME/plyfs)
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// plyfs itself has failed, for env(1).
const FAILED: u8 = 125;
/// The most time that a daemon takes to end after its last process.
const END: Duration = Duration::from_secs(5);

impl Run {
    /// Runs it; the exit status is the command's.
    ///
    /// # Errors
    /// None: what plyfs has to say is on standard error, with status 125.
    pub fn run(self) -> Result<u8, Failure> {
        Ok(self.try_run().unwrap_or_else(|failure| {
            say(&failure.to_string());
            FAILED
        }))
    }

    fn try_run(self) -> Result<u8, Failure> {
        session::preflight()?;
        let store = Store::new(self.store.clone())?;
        let wishes = self.wishes()?;
        let name = self.name.clone().unwrap_or_else(name_by_time);
        let (session, lock) = hold(&store, &name)?;
        let mut words = self.command.iter().cloned();
        let command = Command { program: words.next().unwrap_or_default(), args: words.collect() };
        let Some(lock) = lock else { return self.join(&session, &command) };
        if self.rm && !session.places().is_ok_and(|places| places.is_empty()) {
            let hint = "leave --rm out, and plyfs drop it in the end";
            return Err(Failure::refused(name, "it has changes of an earlier run, which --rm would throw away", hint));
        }
        let open = |at: &Path| open(at, &session);
        let start = Start {
            wishes: &wishes,
            session: &session,
            lock,
            command: &command,
            open: &open,
            no_net: self.no_net,
            user: !process::is_admin(),
            remove: self.rm,
        };
        follow::hold_signals();
        let (pid, ended) = session::start(start).map_err(|errno| failed("a process", errno))?;
        let status = follow::follow(pid).map_err(|errno| failed("the command", errno))?;
        self.tell_end(&session, &ended);
        Ok(status)
    }

    /// Runs the command among those of a session in use.
    fn join(&self, session: &Session, command: &Command) -> Result<u8, Failure> {
        let refused = |reason: &str, hint: &str| Failure::refused(session.name.clone(), reason, hint);
        if !(self.on.is_empty() && self.rw.is_empty() && self.hide.is_empty() && !self.rm && !self.no_net) {
            return Err(refused(
                "it is in use, and is what it was started with",
                "leave --on, --rw, --hide, --rm and --no-net out",
            ));
        }
        let pid = session
            .somebody()
            .ok_or_else(|| refused("it is in use, and no process of it is to be seen", "try again"))?;
        follow::hold_signals();
        let child = session::start_beside(pid, command).map_err(|errno| failed("a process", errno))?;
        follow::follow(child).map_err(|errno| failed("the command", errno))
    }

    fn wishes(&self) -> Result<Wishes, Failure> {
        let whole = |flag: &str, paths: &[PathBuf]| {
            let one = |path: &PathBuf| {
                std::fs::canonicalize(path).map_err(|error| {
                    Failure::usage(format!("{flag} {}", path.display()), error.to_string(), "it must be there")
                })
            };
            paths.iter().map(one).collect::<Result<Vec<_>, _>>()
        };
        let wishes = Wishes {
            on: whole("--on", &self.on)?,
            through: whole("--rw", &self.rw)?,
            hidden: whole("--hide", &self.hide)?,
        };
        match wishes.on.iter().find(|dir| !dir.is_dir()) {
            Some(file) => {
                Err(Failure::usage(format!("--on {}", file.display()), "it is no directory", "name its directory"))
            }
            None => Ok(wishes),
        }
    }

    /// One line on what is left, for people.
    fn tell_end(&self, session: &Session, ended: &OwnedFd) {
        let goes_on = goes_on(session, ended);
        // One that nobody has named, and that has nothing to keep.
        let is_empty = session.places().is_ok_and(|places| places.is_empty());
        if !goes_on && (is_empty || (self.name.is_none() && !session.has_changes())) {
            let _ = session.remove();
            return;
        }
        if self.quiet {
            return;
        }
        let name = &session.name;
        let line = match (goes_on, self.rm) {
            (true, _) => format!("session {name} goes on: processes that the command has left use it"),
            (false, true) => return,
            (false, false) => told(session),
        };
        say(&line);
    }
}

/// What a session has changed, in a line.
fn told(session: &Session) -> String {
    let name = &session.name;
    let count = || -> Result<String, Failure> {
        let parts = changes::of_session(session)?;
        let found = changes::compare(&parts, &[], false)?;
        let changes: Vec<_> = found.changes.into_iter().map(|seen| seen.told).collect();
        Ok(summary(&changes).trim_end().to_owned())
    };
    // In a session of its own this one's layers cannot be seen.
    let count = count().unwrap_or_else(|_| "what was changed is kept".to_owned());
    match session.has_commits() {
        true => format!("session {name}: {count} since its last commit (plyfs log {name})"),
        false => format!("session {name}: {count} (plyfs diff {name})"),
    }
}

/// Whether the session's daemon serves processes that the command has left.
fn goes_on(session: &Session, ended: &OwnedFd) -> bool {
    let deadline = Instant::now() + END;
    loop {
        if follow::is_closed_within(ended, Duration::from_millis(20)) {
            return false;
        }
        if session.somebody().is_some() || Instant::now() > deadline {
            return true;
        }
    }
}

/// The session of this name, and its lock, for which a daemon that is about to end or to begin is waited for; no lock:
/// processes use it.
fn hold(store: &Store, name: &str) -> Result<(Session, Option<OwnedFd>), Failure> {
    let deadline = Instant::now() + END;
    loop {
        let session = store.take(name)?;
        match session.lock() {
            // Removed just now.
            Err(Errno::ENOENT) if Instant::now() < deadline => continue,
            Err(errno) => return Err(failed(&session.dir.display().to_string(), errno)),
            Ok(None) if session.somebody().is_none() && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(lock) => return Ok((session, lock)),
        }
    }
}

fn failed(what: &str, errno: Errno) -> Failure {
    Failure::refused(what, errno.to_string(), "")
}

/// A name for a session that has none: in the order of time.
fn name_by_time() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("run-{}-{}", since.as_secs(), std::process::id())
}

/// Opens the union of a session over `at`, in the daemon.
fn open(at: &Path, session: &Session) -> Result<Opened, SetupError> {
    let failed =
        |errno: Errno| SetupError { what: session.name.clone(), reason: errno.to_string(), hint: String::new() };
    let is_root = process::is_admin() && process::ids_are_initial();
    let (upper, work) = session.layers_for(at, is_root).map_err(failed)?;
    let abilities = Abilities { mounts_directly: true, ids_are_initial: process::ids_are_initial() };
    let mut words = vec![word("lowerdir+", at), word("upperdir", &upper), word("workdir", &work)];
    if !is_root {
        words.push(word("xattr_permissions", Path::new("parents")));
    }
    let explain = |failure: Failure| SetupError { what: failure.what, reason: failure.reason, hint: failure.hint };
    let mut resolved = resolve::resolve(&words, None, at, Manner::default(), abilities).map_err(explain)?;
    static LOG: Once = Once::new();
    LOG.call_once(|| drop(log::begin(&mut resolved, false, false)));
    let mount = resolved.mount.clone();
    let union = Arc::new(Union::open(resolved.config.clone())?);
    let described = describe(&resolved, &mount, &union, &[]);
    Ok(Opened { adapter: Adapter::new(union, mount.data, described), settings: mount })
}

fn word(key: &str, value: &Path) -> Word {
    use std::os::unix::ffi::OsStrExt;
    Word { key: key.to_owned(), value: Some(value.as_os_str().as_bytes().to_vec()) }
}
