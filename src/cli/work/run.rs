//! `plyfs run`: a command sees the machine as it is, and what it changes is kept apart.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use clap::Args;

use super::super::describe::describe;
use super::super::grammar::Word;
use super::super::log;
use super::super::report::Failure;
use super::super::resolve::{self, Abilities, Manner};
use crate::base::Errno;
use crate::fuse::Adapter;
use crate::session::{self, Command, Ground, Opened, Run as Start, Session, Store, Wishes};
use crate::sys::{namespace, process};
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
            eprintln!("plyfs: {failure}");
            FAILED
        }))
    }

    fn try_run(self) -> Result<u8, Failure> {
        session::preflight()?;
        let store = Store::new(self.store.clone())?;
        let wishes = self.wishes()?;
        let name = self.name.clone().unwrap_or_else(name_by_time);
        let session = store.take(&name)?;
        let mut words = self.command.iter().cloned();
        let command = Command { program: words.next().unwrap_or_default(), args: words.collect() };
        let Some(lock) = hold(&session)? else { return self.join(&session, &command) };
        let ground = Ground::survey(&wishes).map_err(|errno| failed("/proc/self/mountinfo", errno))?;
        let open = |at: &Path| open(at, &session);
        let start = Start {
            ground: &ground,
            session: &session,
            lock,
            command: &command,
            open: &open,
            no_net: self.no_net,
            user: !process::is_admin(),
            remove: self.rm,
        };
        let (pid, ended) = session::start(start).map_err(|errno| failed("a process", errno))?;
        let status = process::follow(pid).map_err(|errno| failed("the command", errno))?;
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
        let somebody = session.mounts().and_then(|mounts| namespace::somebody_in(&mounts));
        let pid = somebody.ok_or_else(|| refused("it is in use, and no process of it is to be seen", "try again"))?;
        let child = session::start_beside(pid, command).map_err(|errno| failed("a process", errno))?;
        process::follow(child).map_err(|errno| failed("the command", errno))
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
        if self.quiet {
            return;
        }
        let name = &session.name;
        let line = match (goes_on, self.rm) {
            (true, _) => format!("session {name} goes on: processes that the command has left use it"),
            (false, true) => return,
            (false, false) => format!("what was changed is in session {name}"),
        };
        let colour = if std::io::stderr().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        eprintln!("{}plyfs: {line}{}", colour.0, colour.1);
    }
}

/// Whether the session's daemon serves processes that the command has left.
fn goes_on(session: &Session, ended: &OwnedFd) -> bool {
    let deadline = Instant::now() + END;
    loop {
        if process::is_closed_within(ended, Duration::from_millis(20)) {
            return false;
        }
        let used = session.mounts().is_some_and(|mounts| namespace::somebody_in(&mounts).is_some());
        if used || Instant::now() > deadline {
            return true;
        }
    }
}

/// The lock of a session, for which a daemon that is about to end is waited for; `None`: processes use it.
fn hold(session: &Session) -> Result<Option<OwnedFd>, Failure> {
    let deadline = Instant::now() + END;
    loop {
        let held = session.lock().map_err(|errno| failed(&session.dir.display().to_string(), errno))?;
        let used = || session.mounts().is_some_and(|mounts| namespace::somebody_in(&mounts).is_some());
        if held.is_some() || used() || Instant::now() > deadline {
            return Ok(held);
        }
        std::thread::sleep(Duration::from_millis(10));
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
    let (upper, work) = session.layers_for(at).map_err(failed)?;
    let abilities = Abilities { mounts_directly: true, ids_are_initial: process::ids_are_initial() };
    let mut words = vec![word("lowerdir+", at), word("upperdir", &upper), word("workdir", &work)];
    if !abilities.ids_are_initial || !process::is_admin() {
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
