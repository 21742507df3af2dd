//! `plyfs apply`: what a view has changed is brought to its lower directory.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::super::commands::print;
use super::super::daemon::say;
use super::super::json::{member, quoted};
use super::super::progress::{Bar, Spinner};
use super::super::report::Failure;
use super::super::told;
use super::super::view::{View, plain};
use super::changes;
use super::shared::Shared;
use crate::base::config::Config;
use crate::session::{Place, Session};
use crate::sys::namespace;
use crate::tool::apply::{self as work, Conflict, Dirs, Loss, Plan, Refusal, Resumed, Staged};
use crate::tool::{self, Change, Diff, How, Layers};
use crate::union::{self, Range};

/// The exit status of a conflict.
const CONFLICT: u8 = 3;
/// The exit status if something could not be kept.
const LOSSES: u8 = 4;
/// What is staged for a longer time is compared again before it is put in place.
const LONG: Duration = Duration::from_secs(1);

/// bring what a view has changed to its lower directory
#[derive(Debug, Args)]
#[command(after_help = "\
A conflict is an object below that is new, has changed or is gone since it was changed in the view.
All of them are listed, and nothing is touched.

Exit status: 0 done; 1 not done; 2 usage; 3 conflicts; 4 done, but not all could be kept

Examples:
  plyfs apply try-it -n
  plyfs apply try-it /etc/app.conf
  plyfs apply -o lowerdir=base,upperdir=u,workdir=w")]
pub struct Apply {
    /// A session, or a view that is not in use, and paths in it (all of it)
    #[arg(value_name = "VIEW|PATH")]
    words: Vec<PathBuf>,
    /// The layers of a view that is not mounted, as `mount` takes them
    #[arg(short = 'o', value_name = "OPTION,…")]
    options: Vec<OsString>,
    /// Only say what would be done
    #[arg(short = 'n', long, conflicts_with = "resume")]
    dry_run: bool,
    /// Leave conflicts out: the lower objects stay, and the view keeps its own
    #[arg(long, conflicts_with_all = ["ours", "resume"])]
    theirs: bool,
    /// Put what the view has in the place of what has changed below
    #[arg(long)]
    ours: bool,
    /// Go on with an apply that was broken off
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    shared: Shared,
    /// Print no summary
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// The layers of one view, held for this process.
struct Held {
    /// What stands before its paths.
    before: PathBuf,
    /// Its lower layer is the machine, which goes on.
    of_session: bool,
    /// Of the view, as the layers have it …
    plain: Layers,
    /// … and with hard links that show their copy.
    shown: Layers,
    dirs: Dirs,
    lower: PathBuf,
    _locks: Vec<OwnedFd>,
}

impl Held {
    fn new(config: &Config, before: PathBuf, of_session: bool) -> Result<Self, Failure> {
        let Some(upper) = &config.upper else {
            return Err(Failure::refused("the view", "it has no upper layer, and so no changes", "name another one"));
        };
        let lower = config.lowers.first().cloned().unwrap_or_default();
        let failed =
            |errno: crate::base::Errno| Failure::refused(upper.dir.display().to_string(), errno.to_string(), "");
        if namespace::is_read_only(&lower).unwrap_or(false) {
            let what = format!("lowerdir={}", lower.display());
            return Err(Failure::refused(
                what,
                "it is on a read-only file system",
                "remount that rw, if it is meant to change",
            ));
        }
        union::Rivals::of(config).check()?;
        let (plain, locks) = union::hold(config)?;
        let shown = union::look_between(config, Range::ALL)?.with_index();
        let dirs = Dirs::open(&plain, &upper.work).map_err(failed)?;
        if work::is_volatile(&dirs) {
            let what = format!("upperdir={}", upper.dir.display());
            let reason = "it was last mounted volatile, and may be incomplete";
            return Err(Failure::refused(what, reason, "look at it, and remove workdir/work/incompat/volatile"));
        }
        Ok(Self { before, of_session, plain, shown, dirs, lower, _locks: locks })
    }

    fn diff(&self) -> Result<Diff, Failure> {
        let how = How { counts: true, in_use: self.of_session, alone: true };
        tool::diff(&self.plain, how).map_err(|errno| {
            self.failure(&Refusal {
                path: PathBuf::new(),
                reason: errno.to_string(),
                hint: "the upper layer must be readable",
                conflict: false,
            })
        })
    }

    fn whole(&self, path: &Path) -> PathBuf {
        self.before.join(path)
    }

    fn failure(&self, refusal: &Refusal) -> Failure {
        let what = match refusal.path.as_os_str().is_empty() {
            true => format!("lowerdir={}", self.lower.display()),
            false => told::line(&self.whole(&refusal.path)),
        };
        Failure::refused(what, refusal.reason.clone(), refusal.hint)
    }

    /// Those of `paths` that are in this view, from its root; `None`: none is. A path above the view means all of it.
    fn paths(&self, paths: &[PathBuf]) -> Option<Vec<PathBuf>> {
        if paths.is_empty() || paths.iter().any(|path| self.before.starts_with(path)) {
            return Some(Vec::new());
        }
        let inside: Vec<_> =
            paths.iter().filter_map(|path| path.strip_prefix(&self.before).ok()).map(Path::to_owned).collect();
        (!inside.is_empty()).then_some(inside)
    }
}

/// What is to be done in one view.
struct Job<'a> {
    held: &'a Held,
    plan: Plan<'a>,
    changes: Vec<Change>,
    paths: Vec<PathBuf>,
}

impl Apply {
    /// Does it.
    ///
    /// # Errors
    /// There is no view; it is in use; something cannot be applied, and nothing was.
    pub fn run(self) -> Result<u8, Failure> {
        let (held, paths, _session) = self.find()?;
        if self.resume {
            if let Some(path) = paths.first() {
                let hint = "leave the path out: what was begun is ended as a whole";
                return Err(Failure::usage(told::line(path), "--resume takes no paths", hint));
            }
            return self.go_on(&held);
        }
        for one in &held {
            let begun = work::has_begun(&one.dirs).map_err(|errno| failure_of(one, errno))?;
            if begun {
                let what = format!("lowerdir={}", one.lower.display());
                return Err(Failure::refused(what, "an apply to it was broken off", "go on by plyfs apply --resume"));
            }
        }
        let spinner = Spinner::new("comparing");
        let jobs: Vec<_> = held.iter().map(|one| self.job(one, &paths)).collect::<Result<_, _>>()?;
        drop(spinner);
        let jobs: Vec<_> = jobs.into_iter().flatten().collect();
        let conflicts: Vec<Conflict> = jobs.iter().flat_map(|job| self.conflicts(job)).collect();
        let stops = !conflicts.is_empty() && !self.theirs && !self.ours;
        if self.dry_run {
            self.print_changes(&jobs, if stops { "would not apply" } else { "would apply" })?;
        }
        if stops || !self.quiet {
            self.print_conflicts(&conflicts)?;
        }
        if stops {
            let count = conflicts.len();
            let s = if count == 1 { "" } else { "s" };
            // What stands in commits is applied as a whole only.
            let is_apart = |job: &Job<'_>| job.plan.conflicts().is_empty() || !job.plan.is_whole_only();
            let theirs = if jobs.iter().all(is_apart) { "--theirs leaves them out, " } else { "" };
            let is = if self.dry_run { "would be" } else { "was" };
            say(&format!("{count} conflict{s}: nothing {is} changed ({theirs}--ours overrides them)"));
            return Ok(CONFLICT);
        }
        if self.dry_run {
            return Ok(0);
        }
        self.apply(jobs)
    }

    /// The layers, the paths that are meant, and what holds the session.
    #[allow(clippy::type_complexity)]
    fn find(&self) -> Result<(Vec<Held>, Vec<PathBuf>, Option<OwnedFd>), Failure> {
        if self.options.is_empty()
            && let Some((first, paths)) = self.words.split_first()
            && let Some(session) = changes::named(first, self.shared.store.clone())?
        {
            let lock = hold(&session)?;
            let places =
                session.places().map_err(|errno| Failure::refused(session.name.clone(), errno.to_string(), ""))?;
            let mut held = Vec::new();
            // An empty upper layer may stand on commits, or be left of an apply.
            let is_changed = |place: &&Place| {
                let has_commits = || session.dirs(place).1.join("commits").exists();
                session.has_changes_at(place) || has_commits() || session.has_pending_apply_at(place)
            };
            for place in places.iter().filter(is_changed) {
                if !changes::is_there(place) {
                    say(&format!("{}: it is not mounted now, and its changes stay in the session", place.at.display()));
                    continue;
                }
                held.push(Held::new(&changes::config_of(&session, place), plain(&place.at), true)?);
            }
            let paths = paths.iter().map(|path| changes::whole(path)).collect::<Result<_, _>>()?;
            return Ok((held, paths, Some(lock)));
        }
        let (config, paths) = View::named(&self.options, &self.words)?;
        Ok((vec![Held::new(&config, PathBuf::new(), false)?], paths, None))
    }

    fn job<'a>(&self, held: &'a Held, paths: &[PathBuf]) -> Result<Option<Job<'a>>, Failure> {
        let Some(paths) = held.paths(paths) else { return Ok(None) };
        let diff = held.diff()?;
        let failed = |refusal: Refusal| held.failure(&refusal);
        let is_told = |path: &Path| {
            let is_at = |change: &Change| change.path.starts_with(path) || path.starts_with(&change.path);
            diff.changes.iter().any(is_at)
                || tool::whereabouts(&held.shown, path).is_ok_and(|found| !found.parts.is_empty())
        };
        if let Some(path) = paths.iter().find(|path| !path.as_os_str().is_empty() && !is_told(path)) {
            let what = told::line(&held.whole(path));
            return Err(Failure::refused(what, "no layer has it", "name a path in the view"));
        }
        let mut plan = Plan::make((&held.shown, &held.dirs), &diff, held.of_session).map_err(failed)?;
        plan.select(&paths, self.theirs).map_err(failed)?;
        let changes = diff.changes.into_iter().filter(|change| plan.has(&change.path));
        let whole = |change: Change| Change {
            path: held.whole(&change.path),
            was: change.was.as_ref().map(|was| held.whole(was)),
            ..change
        };
        let changes = changes.map(whole).collect();
        Ok(Some(Job { held, plan, changes, paths }))
    }

    fn conflicts(&self, job: &Job<'_>) -> Vec<Conflict> {
        let mut all = job.plan.conflicts().to_vec();
        all.iter_mut().for_each(|conflict| conflict.path = job.held.whole(&conflict.path));
        all
    }

    fn apply(&self, jobs: Vec<Job<'_>>) -> Result<u8, Failure> {
        let mut bar = Bar::new("staging");
        let begin = Instant::now();
        let (mut staged, mut changes): (Vec<(&Held, Staged<'_>)>, Vec<Change>) = (Vec::new(), Vec::new());
        let mut again = Vec::new();
        for job in jobs.into_iter().filter(|job| !job.plan.is_empty()) {
            match job.plan.stage(&mut |done, of| bar.show(done, of)) {
                Ok(one) => staged.push((job.held, one)),
                Err(refusal) => return Err(abandon(staged, job.held.failure(&refusal))),
            }
            changes.extend(job.changes);
            again.push((job.held, job.paths));
        }
        if begin.elapsed() > LONG && !self.ours {
            // Meanwhile something may have changed below.
            let checked = self.check_again(&again);
            if let Some(failure) = checked.err() {
                return Err(abandon(staged, failure));
            }
        }
        let mut bar = Bar::new("applying");
        let mut losses = Vec::new();
        for (held, one) in staged {
            let lost = match one.commit(&mut |done, of| bar.show(done, of)) {
                Ok(lost) => lost,
                Err(refusal) => return stopped(held, &refusal),
            };
            losses.extend(lost.into_iter().map(|loss| Loss { path: held.whole(&loss.path), ..loss }));
        }
        drop(bar);
        if self.shared.json {
            print(&changes.iter().map(told::json).collect::<String>())?;
        } else if !self.quiet {
            print(&format!("applied {}", told::summary(&changes)))?;
        }
        Ok(tell(&losses))
    }

    /// Refuses to go on if there are conflicts now that there were not.
    fn check_again(&self, parts: &[(&Held, Vec<PathBuf>)]) -> Result<(), Failure> {
        for (held, paths) in parts {
            let diff = held.diff()?;
            let mut plan = Plan::make((&held.shown, &held.dirs), &diff, held.of_session)
                .map_err(|refusal| held.failure(&refusal))?;
            let all = plan.conflicts().to_vec();
            plan.select(paths, self.theirs).map_err(|refusal| held.failure(&refusal))?;
            let new = all.iter().find(|conflict| plan.has(&conflict.path) && !self.theirs);
            if let Some(conflict) = new {
                let path = told::line(&held.whole(&conflict.path));
                return Err(Failure::refused(path, "it has changed below meanwhile", "nothing was applied; try again"));
            }
        }
        Ok(())
    }

    fn go_on(&self, held: &[Held]) -> Result<u8, Failure> {
        let (mut losses, mut found, mut dropped, mut rest) = (Vec::new(), false, false, Vec::new());
        for one in held {
            let mut bar = Bar::new("applying");
            let resumed = work::resume(&one.shown, &one.dirs, self.ours, &mut |done, of| bar.show(done, of));
            let resumed = match resumed {
                Ok(resumed) => resumed,
                Err(refusal) => return stopped(one, &refusal),
            };
            match resumed {
                Resumed::Nothing => rest.push(one),
                Resumed::Dropped => dropped = true,
                Resumed::Done(lost) => {
                    found = true;
                    losses.extend(lost.into_iter().map(|loss| Loss { path: one.whole(&loss.path), ..loss }));
                }
            }
        }
        let line = match (found, dropped) {
            (true, _) => "the apply that was broken off is done\n",
            (false, true) => {
                let reason = "the apply that was broken off had changed nothing";
                return Err(Failure::refused("--resume", reason, "start it again, without --resume"));
            }
            (false, false) => {
                return Err(Failure::refused("--resume", "no apply was broken off", "leave it out to apply changes"));
            }
        };
        if !self.quiet && !self.shared.json {
            print(line)?;
        }
        let lost = tell(&losses);
        for one in rest {
            if !one.diff()?.changes.is_empty() {
                let reason = "its changes were not begun, and are still in the session";
                let hint = "plyfs apply without --resume applies them";
                return Err(Failure::refused(format!("lowerdir={}", one.lower.display()), reason, hint));
            }
        }
        Ok(lost)
    }

    fn print_changes(&self, jobs: &[Job<'_>], deed: &str) -> Result<(), Failure> {
        let changes: Vec<Change> = jobs.iter().flat_map(|job| job.changes.clone()).collect();
        if self.shared.json {
            return print(&changes.iter().map(told::json).collect::<String>());
        }
        print(&told::columns(&changes, self.shared.color.paint()))?;
        if self.quiet { Ok(()) } else { print(&format!("{deed} {}", told::summary(&changes))) }
    }

    fn print_conflicts(&self, conflicts: &[Conflict]) -> Result<(), Failure> {
        let json = |conflict: &Conflict| {
            let path = member("path", conflict.path.as_os_str().as_bytes());
            format!("{{\"v\":1,{path},\"conflict\":{}}}\n", quoted(conflict.why))
        };
        let text = |conflict: &Conflict| format!("conflict  {}  {}\n", told::line(&conflict.path), conflict.why);
        print(&conflicts.iter().map(|one| if self.shared.json { json(one) } else { text(one) }).collect::<String>())
    }
}

fn failure_of(held: &Held, errno: crate::base::Errno) -> Failure {
    held.failure(&Refusal { path: PathBuf::new(), reason: errno.to_string(), hint: "", conflict: false })
}

/// Ends an apply that has begun, and that can be resumed; the exit status of a conflict.
fn stopped(held: &Held, refusal: &Refusal) -> Result<u8, Failure> {
    let mut failure = held.failure(refusal);
    if failure.hint.is_empty() {
        failure.hint = "plyfs apply --resume goes on".into();
    }
    if !refusal.conflict {
        return Err(failure);
    }
    say(&failure.to_string());
    Ok(CONFLICT)
}

/// Removes what was staged, for a failure.
fn abandon(staged: Vec<(&Held, Staged<'_>)>, failure: Failure) -> Failure {
    for (held, one) in staged {
        if let Err(refusal) = one.abandon() {
            say(&held.failure(&refusal).to_string());
        }
    }
    failure
}

/// Says what could not be kept; the exit status.
fn tell(losses: &[Loss]) -> u8 {
    for loss in losses {
        say(&format!("{}: {} could not be kept", told::line(&loss.path), loss.what));
    }
    if losses.is_empty() { 0 } else { LOSSES }
}

/// Holds a session that nobody uses.
fn hold(session: &Session) -> Result<OwnedFd, Failure> {
    let refused = |reason: String, hint: &str| Failure::refused(session.name.clone(), reason, hint);
    changes::check_outside(session)?;
    match session.lock().map_err(|errno| refused(errno.to_string(), ""))? {
        Some(lock) => Ok(lock),
        None => {
            let by = session.somebody().map_or_else(String::new, |pid| format!(" by process {}", pid.as_raw_nonzero()));
            Err(refused(format!("it is in use{by}"), "end its processes first"))
        }
    }
}
