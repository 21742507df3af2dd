//! The view whose history a command is about: one that a daemon serves, which is asked, or one that nobody serves, which is
//! opened for the time of the step.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::Pid;

use super::super::grammar;
use super::super::report::Failure;
use super::super::resolve::{self, Abilities, Manner};
use super::super::show;
use super::super::view::{Shown, View, plain};
use super::changes;
use crate::base::Errno;
use crate::base::config::Config;
use crate::base::described::Described;
use crate::fuse::serve::steps;
use crate::session::{Command, Place, Session, Steps, start_beside};
use crate::sys::{ask, follow, mount, process, stat};
use crate::union::{Done, Live, Log, Logged, Step, Union, log_of, step_together};

/// Which view is meant, beside its name.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The layers of a view that is not mounted, as `mount` takes them
    #[arg(short = 'o', value_name = "OPTION,…")]
    pub options: Vec<OsString>,
    /// Where sessions are kept ($XDG_STATE_HOME/plyfs)
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

/// A view.
pub enum Target {
    /// A directory in it, whose daemon answers.
    Served(OwnedFd),
    /// Nobody serves it: how each of its unions is opened, and of a session where steps are written down, and the lock that
    /// keeps others away.
    Kept { configs: Vec<Config>, session: Option<(Arc<Steps>, OwnedFd)> },
}

/// The most time for which a session that is about to begin or to end is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Which {
    /// Finds the view that `word` names; `None`: the one that the current directory is in.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, word: Option<&Path>) -> Result<Target, Failure> {
        if !self.options.is_empty() {
            if let Some(word) = word {
                let reason = "-o names the view already";
                return Err(Failure::usage(word.display().to_string(), reason, "leave one of the two out"));
            }
            return Ok(Target::Kept { configs: vec![self.config()?], session: None });
        }
        if let Some(word) = word
            && let Some(session) = changes::named(word, self.store.clone())?
        {
            return of_session(&session, None);
        }
        let at = word.unwrap_or(Path::new("."));
        let (dir, _) = show::view_at(at).map_err(|failure| Failure {
            hint: "name a view: its mountpoint, a session, or its layers by -o lowerdir=…,upperdir=…,workdir=…".into(),
            ..failure
        })?;
        Ok(Target::Served(dir))
    }

    /// Finds the view that the first of `words` names, and the paths in it that the others are; or all are paths in the view
    /// that the first lies in, or that `-o` names.
    ///
    /// # Errors
    /// There is none; the paths lie in several.
    pub fn find_with_paths(&self, words: &[PathBuf]) -> Result<(Target, Vec<PathBuf>), Failure> {
        if !self.options.is_empty() {
            let paths: Vec<PathBuf> = words.iter().map(|path| plain(path)).collect();
            check_plain(words)?;
            if let Some(at) = paths.iter().position(|path| path.as_os_str().is_empty()) {
                return Err(whole_view(words.get(at)));
            }
            return Ok((self.find(None)?, paths));
        }
        if let Some((first, paths)) = words.split_first()
            && let Some(session) = changes::named(first, self.store.clone())?
        {
            check_plain(paths)?;
            return of_session_with_paths(&session, paths);
        }
        let Shown { dir, paths, is_named, is_whole, .. } = View::shown(words)?;
        if is_whole || (paths.is_empty() && !is_named) {
            return Err(whole_view(words.last()));
        }
        Ok((Target::Served(dir), paths))
    }

    fn config(&self) -> Result<Config, Failure> {
        let words: Vec<_> = self.options.iter().flat_map(|value| grammar::split_options(value.as_bytes())).collect();
        let abilities = Abilities { mounts_directly: process::is_admin(), ids_are_initial: process::ids_are_initial() };
        Ok(resolve::resolve(&words, None, Path::new("/"), Manner::default(), abilities)?.config)
    }
}

/// Refuses `..` in paths of a view that cannot be asked where that leads.
fn check_plain(paths: &[PathBuf]) -> Result<(), Failure> {
    match paths.iter().find(|path| path.components().any(|part| part == Component::ParentDir)) {
        Some(path) => {
            Err(Failure::usage(path.display().to_string(), "`..` may lead through a symlink", "name it without"))
        }
        None => Ok(()),
    }
}

fn whole_view(word: Option<&PathBuf>) -> Failure {
    let word = word.map_or_else(|| "undo".to_owned(), |word| word.display().to_string());
    Failure::usage(word, "it is the whole view", "plyfs undo with the view alone goes back with that")
}

/// A session's file system in which all of these paths are.
fn of_session_with_paths(session: &Session, paths: &[PathBuf]) -> Result<(Target, Vec<PathBuf>), Failure> {
    let failed = |errno: Errno| Failure::refused(session.name.clone(), errno.to_string(), "");
    let all = session.places().map_err(failed)?;
    let whole = paths.iter().map(|path| changes::whole(path)).collect::<Result<Vec<PathBuf>, _>>()?;
    let around = |path: &PathBuf| {
        let around = all.iter().filter(|place| path.starts_with(plain(&place.at)));
        around.max_by_key(|place| place.at.components().count())
    };
    let Some(first) = whole.first() else { return Ok((of_session(session, None)?, Vec::new())) };
    let not_covered = || Failure::refused(first.display().to_string(), "the session does not cover it", "");
    let place = around(first).ok_or_else(not_covered)?;
    if whole.iter().any(|path| around(path).is_none_or(|other| other.at != place.at)) {
        let reason = "the paths are on several file systems of the session";
        return Err(Failure::refused(session.name.clone(), reason, "one at a time"));
    }
    let inside = |path: &PathBuf| path.strip_prefix(plain(&place.at)).map(Path::to_owned).ok();
    let inside: Vec<PathBuf> = whole.iter().filter_map(inside).collect();
    if inside.iter().any(|path| path.as_os_str().is_empty()) {
        return Err(whole_view(paths.first()));
    }
    Ok((of_session(session, Some((place, &whole)))?, inside))
}

/// A session: one of its processes sees the view, or nobody does. `only`: one of its file systems, and the paths from `/` on
/// that the command is about.
fn of_session(session: &Session, only: Option<(&Place, &[PathBuf])>) -> Result<Target, Failure> {
    let failed = |errno: Errno| Failure::refused(session.name.clone(), errno.to_string(), "");
    let mut places = session.places().map_err(failed)?;
    if let Some((place, _)) = only {
        places.retain(|one| one.at == place.at);
    }
    if session.has_pending_apply() {
        let reason = "its changes were being applied to the lower directory, which was broken off";
        return Err(Failure::refused(session.name.clone(), reason, "go on by plyfs apply --resume"));
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(lock) = session.lock().map_err(failed)? {
            let is_there = |place: &&_| changes::is_there(place);
            let configs = places.iter().filter(is_there).map(|place| changes::config_of(session, place)).collect();
            return Ok(Target::Kept { configs, session: Some((Arc::new(session.steps()), lock)) });
        }
        if let Some(pid) = session.somebody() {
            let root = PathBuf::from(format!("/proc/{}/root", pid.as_raw_nonzero()));
            let dirs = places.iter().map(|place| root.join(place.at.strip_prefix("/").unwrap_or(&place.at)));
            let dir = dirs
                .into_iter()
                .find_map(|dir| mount::open_to_ask(&dir).ok().filter(|dir| ask::ask(dir.as_fd()).is_ok()));
            return dir.map_or_else(|| from_within(session, pid, only), |dir| Ok(Target::Served(dir)));
        }
        if Instant::now() > deadline {
            return Err(Failure::refused(
                session.name.clone(),
                "it is in use, and no process of it is to be seen",
                "try again",
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs this command among the processes of a session, where the view is to be seen, and ends as it does. A normal user
/// cannot look into their namespace from outside.
fn from_within(session: &Session, pid: Pid, only: Option<(&Place, &[PathBuf])>) -> Result<Target, Failure> {
    let failed = |errno: Errno| Failure::refused(session.name.clone(), errno.to_string(), "");
    let program = std::env::current_exe().map_err(|error| failed(error.into()))?.into_os_string();
    let at = session.places().map_err(failed)?.into_iter().next().ok_or_else(|| failed(Errno::ENOENT))?.at;
    let mut is_named = false;
    let name_by_place = |arg: OsString| match arg == session.name.as_str() && !std::mem::replace(&mut is_named, true) {
        true => at.clone().into_os_string(),
        false => arg,
    };
    // The command itself is no name.
    let all: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut words = all.into_iter();
    let args = match only {
        None => words.next().into_iter().chain(words.map(name_by_place)).collect(),
        Some((place, paths)) => {
            let options = words.clone().filter(|word| word == "-q" || word == "--quiet");
            let paths = paths.iter().map(|path| Path::new("/").join(path).into_os_string());
            let at = place.at.clone().into_os_string();
            words.next().into_iter().chain(options).chain(["--".into(), at]).chain(paths).collect()
        }
    };
    follow::hold_signals();
    let child = start_beside(pid, &Command { program, args }).map_err(failed)?;
    std::process::exit(follow::follow(child).map_err(failed)?.into())
}

impl Target {
    /// Takes a step.
    ///
    /// # Errors
    /// Why it is not taken; then nothing has changed.
    pub fn take(&self, step: &Step) -> Result<Done, Failure> {
        match self {
            Self::Served(dir) => {
                let told = Described::from_bytes(ask::ask(dir.as_fd()).map_err(refused)?);
                // A view that was never writable says so by itself.
                let has_upper = told.all("upperdir").next().is_some();
                if has_upper && stat::is_read_only(dir.as_fd()).map_err(refused)? {
                    let hint = "make it writable first: mount -o remount,rw";
                    return Err(Failure::refused("the view", Errno::EROFS.to_string(), hint));
                }
                // What programs have written by mappings, or have not handed over, belongs to what is there.
                let _ = crate::sys::data::syncfs(dir.as_fd());
                let answer = ask::order(dir.as_fd(), &steps::order(step)).map_err(refused)?;
                Ok(steps::done(&answer)?)
            }
            Self::Kept { configs, session } => {
                let open = |config: &Config| {
                    let live = Live::new(Arc::new(Union::open(config.clone())?));
                    session.iter().for_each(|(steps, _)| live.record_in(steps.clone()));
                    Ok(live)
                };
                let lives = configs.iter().map(open).collect::<Result<Vec<Live>, Failure>>()?;
                let views: Vec<&Live> = lives.iter().collect();
                Ok(step_together(&views, step, &|| Ok(()))?)
            }
        }
    }

    /// The commits of the view; of several unions those of the one that has most.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn log(&self) -> Result<Log, Failure> {
        match self {
            Self::Served(dir) => {
                let told = Described::from_bytes(ask::ask(dir.as_fd()).map_err(refused)?);
                let commits = told.all("commit").filter_map(Logged::parse).collect();
                Ok(Log { commits, changed: told.all("changed").any(|changed| changed == b"yes") })
            }
            Self::Kept { configs, .. } => {
                let logs = configs.iter().map(log_of).collect::<Result<Vec<Log>, _>>()?;
                let changed = logs.iter().any(|log| log.changed);
                let longest = logs.into_iter().max_by_key(|log| log.commits.len()).unwrap_or_default();
                Ok(Log { changed, ..longest })
            }
        }
    }
}

/// What a daemon that does not answer says.
pub(super) fn refused(errno: Errno) -> Failure {
    let hint = match errno.raw() {
        libc::EPERM | libc::EACCES => "only its own user and root may",
        libc::ECONNABORTED | libc::ENOTCONN => "its daemon has ended meanwhile: mount it again",
        _ => "its daemon is of a version without commits",
    };
    Failure::refused("the view", errno.to_string(), hint)
}
