//! A step on disk: what is prepared before it, and what is left to do after it.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use super::plan::{Aim, Number, Standpoint, aim};
use super::swap::are_complete;
use super::{Stands, Step};
use crate::base::config::Config;
use crate::base::{Errno, Result};
use crate::format::commits::{About, MOST_TEXT, Stand, Why, number};
use crate::format::mark::{Mark, Namespace};
use crate::format::{Base, Decoded, Nlink, Origin, parse_index_name};
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::random::random_bytes;
use crate::sys::stat::stat_at;
use crate::sys::{dirent, lock, xattr};
use crate::union::Union;
use crate::union::refusal::{Setup, SetupError};
use crate::union::setup::own_namespace;
use crate::upper::Upper;
use crate::upper::commits::{Broken, Commits, Looks, Standing, Successor, stand_of};

/// What undo and redo lead to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Log {
    /// The commits, the topmost first.
    pub commits: Vec<Logged>,
    /// Something has changed since the one on which the view stands.
    pub changed: bool,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The number of the commit.
    pub number: u64,
    /// The commit below it; 0: the lower layers.
    pub on: u64,
    /// What is said of it.
    pub about: About,
    /// The view stands on it.
    pub here: bool,
}

impl Logged {
    /// In one line: `N ON here|- ABOUT`, where the text of the commit may have lines of its own.
    pub fn encode(&self) -> Vec<u8> {
        let here = if self.here { "here" } else { "-" };
        [format!("{} {} {here} ", self.number, self.on).as_bytes(), &self.about.encode()].concat()
    }

    /// Reads what [`Logged::encode`] has written.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(4, |&byte| byte == b' ');
        let (number, on) = (number(words.next()?)?, number(words.next()?)?);
        let here = words.next()? == b"here";
        Some(Self { number, on, about: About::parse(words.next()?), here })
    }
}

/// A step that is ready to be done.
pub(super) struct Ready {
    pub aim: Aim,
    /// What the next one will stand on.
    pub stand: Stand,
    pub successor: Successor,
    /// The lock on the next upper layer.
    pub lock: OwnedFd,
    /// The root of the upper layer until then, which the commit gets.
    pub root: Arc<OwnedFd>,
    /// What the upper layer's root looks like, where the next one looks like it.
    pub looks: Option<Looks>,
    /// Where something may be mounted on the view; a commit takes nothing away.
    pub mounts: Vec<PathBuf>,
}

fn failed(what: &str) -> impl Fn(Errno) -> SetupError {
    move |errno| SetupError::new(what, errno.to_string(), "")
}

impl Union {
    pub(super) fn standing<'a>(&'a self, root: &'a OwnedFd) -> Setup<Standing<'a>> {
        let no = |reason: &str, hint: &str| Err(SetupError::new("upperdir", reason, hint));
        let Ok(upper) = self.upper() else {
            return no("the view is read-only: it has no upper layer", "mount it with upperdir=DIR,workdir=DIR");
        };
        if self.journal.is_some() {
            // What the next daemon would read of files without a name goes by places in the stack.
            return Err(SetupError::new(
                "--supervise",
                "a supervised view takes no such step while it is mounted",
                "unmount it and name its layers by -o, or mount without --supervise",
            ));
        }
        let Stands { workdir: Some(workdir), own, .. } = &self.stands else { return no("it has no workdir", "") };
        if upper.namespace() != Some(*own) {
            return no("its file system cannot hold the marks of a commit", "use ext4, XFS, btrfs or a newer tmpfs");
        }
        if !upper.features.exchange {
            return no("its file system cannot exchange two names at once", "use ext4, XFS, btrfs or tmpfs");
        }
        Ok(Standing { workdir: workdir.as_fd(), root: root.as_fd(), namespace: *own, synced: !self.is_volatile() })
    }

    pub(super) fn root_fd(&self) -> Setup<Arc<OwnedFd>> {
        let upper = self.upper().map_err(|_| {
            SetupError::new("upperdir", "the view has no upper layer", "mount it with upperdir=DIR,workdir=DIR")
        })?;
        upper.root.fd().map_err(failed("upperdir"))
    }

    pub(super) fn commits(&self) -> Setup<Commits> {
        let workdir = self.stands.workdir.as_ref().ok_or(Errno::EROFS).map_err(failed("workdir"))?;
        Commits::open(workdir.as_fd(), self.stands.own).map_err(failed("workdir/commits"))
    }

    /// Where the upper layer stands, and what undo and redo lead to.
    pub(super) fn standpoint(&self) -> Setup<Standpoint> {
        standpoint(self.root_fd()?.as_fd(), &self.commits()?, self.stands.own)
    }

    /// Whether something has changed since the commit on which the upper layer stands.
    pub(super) fn has_changes(&self) -> Setup<bool> {
        let root = self.root_fd()?;
        let on = stand_of(root.as_fd(), self.stands.own).map_err(failed("upperdir"))?.on;
        self.commits()?.has_changes(root.as_fd(), on).map_err(failed("upperdir"))
    }

    /// Where a step leads.
    pub(super) fn aim(&self, step: &Step, from: &Standpoint, changed: bool) -> Setup<Aim> {
        let commits = self.commits()?;
        let known = |number| commits.frozen(number).is_ok_and(|one| commits.numbers_beneath(one.number).is_ok());
        aim(step, from, changed, &known)
    }

    /// The number that the next commit would get.
    pub(super) fn next_number(&self) -> Setup<u64> {
        let numbers = self.commits()?.numbers().map_err(failed("workdir/commits"))?;
        Ok(numbers.last().map_or(1, |last| last + 1))
    }

    /// Prepares what a step needs. Nothing that counts is changed.
    pub(super) fn make_ready(&self, step: &Step, aim: Aim, number: u64) -> Setup<Ready> {
        let root = self.root_fd()?;
        let standing = self.standing(&root)?;
        let from = self.standpoint()?;
        let text = match step {
            Step::Commit { text } => text.clone(),
            _ => Vec::new(),
        };
        if text.len() > MOST_TEXT {
            return Err(SetupError::new("-m", format!("the text is longer than {MOST_TEXT} bytes"), "say less"));
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let id = Some(u128::from_ne_bytes(random_bytes().map_err(failed("getrandom"))?));
        let about = About { seconds, why: aim.why, id, text };
        let commits = self.commits()?;
        let on = |new| match aim.to.with(new) {
            // A file system that came later to a session has not all of its commits.
            number if number != 0 && number != new && commits.frozen(number).is_err() => from.beneath(number),
            number => number,
        };
        let stand_on = |new| {
            let on = on(new);
            let id = if on == new { id } else { commits.about(on).ok().and_then(|about| about.id) };
            Stand { on, tip: aim.tip.map(|tip| tip.with(new)).filter(|&tip| tip > on), id }
        };
        // The next root looks like that of the layer on which it stands; at the very bottom, like the first one above.
        let look = match stand_on(u64::MAX).on {
            u64::MAX => None,
            0 => from.chain.last().map(|&last| commits.frozen(last)),
            on => Some(commits.frozen(on)),
        };
        let look = look.transpose().map_err(failed("workdir/commits"))?;
        let like = look.as_ref().map_or(root.as_fd(), |one| one.root.as_fd());
        let looks = look.is_none().then(|| Looks::of(root.as_fd())).transpose().map_err(failed("upperdir"))?;
        let mounts = if aim.to == Number::New { Vec::new() } else { self.mounts_below()? };
        let successor = standing.prepare(like, (number, &about), stand_on).map_err(|errno| match errno {
            Errno::EBUSY => SetupError::new(
                "upperdir",
                "it is the root of a mount, and cannot be exchanged",
                "use a directory in it",
            ),
            errno @ (Errno::EACCES | Errno::EPERM | Errno::EROFS) => {
                SetupError::new("workdir/commits", errno.to_string(), "the upper layer's parent must be writable, too")
            }
            errno => SetupError::new("workdir/commits", errno.to_string(), ""),
        })?;
        let stand = stand_on(successor.number);
        let fd = open_beneath(successor.root.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY);
        let lock = fd.map_err(failed("workdir/commits"))?;
        lock::try_lock(lock.as_fd()).map_err(failed("workdir/commits"))?;
        Ok(Ready { aim, stand, successor, lock, root, looks, mounts })
    }

    /// Whether the view's root still looks as when the step was prepared; its times are given on. No request is under way.
    pub(super) fn is_unchanged(&self, ready: &Ready) -> Setup<bool> {
        let Some(looks) = &ready.looks else { return Ok(true) };
        if *looks != Looks::of(ready.root.as_fd()).map_err(failed("upperdir"))? {
            return Ok(false);
        }
        ready.successor.take_times(ready.root.as_fd()).map_err(failed("upperdir"))?;
        Ok(true)
    }

    /// Whether the upper layer has nothing that no commit can hold; false: what came since [`Union::make_whole`] must be
    /// completed first. No request is under way.
    pub(super) fn check_whole(&self) -> Setup<bool> {
        if !self.has_whole_files()? {
            return Ok(false);
        }
        self.are_all_linked().map_err(failed("workdir/index"))
    }

    /// Whether no file of the upper layer arrives by blocks; false: what came since must be completed first. No request is
    /// under way.
    pub(super) fn has_whole_files(&self) -> Setup<bool> {
        if !self.upper().is_ok_and(Upper::has_records) {
            return Ok(true);
        }
        if !self.has_no_new_blocks() {
            return Ok(false);
        }
        // What is left belongs to no file, or to one that was renamed while others were completed.
        are_complete(self.complete_all().map_err(failed("copyup_block"))?)?;
        Ok(true)
    }

    /// The entries of the index with fewer links than names, as far as is known: some of the names may lead to them by the
    /// index only.
    pub(super) fn parted(&self) -> Result<HashSet<CString>> {
        let mut parted = HashSet::new();
        let (Some(index), Some(namespace)) = (&self.stack.index, self.upper()?.namespace()) else { return Ok(parted) };
        let dir = index.dir().open()?;
        let mut entries = Vec::new();
        dirent::read_dir(dir.as_fd(), &mut |entry| {
            entries.push(entry.name.to_owned());
            true
        })?;
        for entry in entries {
            let stat = match stat_at(dir.as_fd(), &entry) {
                // It went meanwhile, with the last name.
                Err(Errno::ENOENT) => continue,
                stat => stat?,
            };
            let mark = match xattr::get_at(dir.as_fd(), &entry, namespace.key(Mark::Nlink)) {
                Err(Errno::ENOENT) => continue,
                mark => mark?,
            };
            let Some(Ok(mark)) = mark.as_deref().map(Nlink::parse) else { continue };
            // A crash has left a mark that counts from the lower file.
            let lower = || {
                let origin = parse_index_name(entry.to_bytes()).ok()?;
                let Ok(Decoded::Known(origin)) = Origin::decode(&origin) else { return None };
                self.stack.resolve(&origin, true).map(|stat| stat.nlink)
            };
            let lower = if mark.base == Base::Lower { lower() } else { None };
            let links = mark.links(stat.nlink, lower).map_or(0, u64::from);
            let unknown = mark.base == Base::Lower && lower.is_none();
            // The entry itself is one of the links.
            if unknown || links > stat.nlink.saturating_sub(1) {
                parted.insert(entry);
            }
        }
        Ok(parted)
    }

    /// What is left to do after a step, when requests are answered again.
    pub(super) fn tidy_up(&self, ready: &Ready) {
        let tidy = || -> Result<()> {
            if !self.is_volatile() {
                ready.successor.sync()?;
            }
            if ready.aim.why == Why::Empty {
                let upper = self.upper()?.root.fd()?;
                let standing = self.standing(&upper).map_err(|_| Errno::EROFS)?;
                standing.forget_empty(ready.successor.number)?;
            }
            Ok(())
        };
        if let Err(errno) = tidy() {
            log::warn!("what a step has left is not tidied up: {errno}");
        }
    }

    /// Notes that not all of a frozen layer may be on disk.
    pub(super) fn has_unsynced(&self) {
        self.unsynced.store(!self.is_volatile(), Relaxed);
    }

    /// The commits that undo and redo lead to.
    ///
    /// # Errors
    /// The view has no upper layer; what reading them says.
    pub fn log(&self) -> Setup<Log> {
        log(self.root_fd()?.as_fd(), &self.commits()?, self.stands.own)
    }
}

/// The commits of a view that somebody else may serve.
///
/// # Errors
/// The view has no upper layer; what reading it says.
pub fn log_of(config: &Config) -> Setup<Log> {
    let Some(dirs) = &config.upper else {
        return Err(SetupError::new(
            "upperdir",
            "a view without an upper layer has no commits",
            "name upperdir and workdir",
        ));
    };
    let open = |what: &str, path: &Path| open_root(path).map_err(failed(&format!("{what}={}", path.display())));
    let (root, work) = (open("upperdir", &dirs.dir)?, open("workdir", &dirs.work)?);
    let own = own_namespace(config);
    log(root.as_fd(), &Commits::open(work.as_fd(), own).map_err(failed("workdir/commits"))?, own)
}

fn standpoint(root: BorrowedFd<'_>, commits: &Commits, own: Namespace) -> Setup<Standpoint> {
    let stand = stand_of(root, own).map_err(failed("upperdir"))?;
    let broken = |broken: Broken| SetupError::new(format!("commit {}", broken.commit), broken.reason(), "");
    commits.check(stand).map_err(broken)?;
    let tip = stand.tip.filter(|&tip| tip > stand.on);
    let chain = |top| commits.numbers_beneath(top);
    // What a redo would lead to may be gone.
    let above = tip.and_then(|tip| chain(tip).ok()).filter(|all| stand.on == 0 || all.contains(&stand.on));
    let stand = Stand { tip: tip.filter(|_| above.is_some()), ..stand };
    let chain = above.map_or_else(|| chain(stand.on).map_err(broken), Ok)?;
    Ok(Standpoint { stand, chain })
}

fn log(root: BorrowedFd<'_>, commits: &Commits, own: Namespace) -> Setup<Log> {
    let at = standpoint(root, commits, own)?;
    let below = |place: usize| at.chain.get(place + 1).copied().unwrap_or(0);
    let one = |(place, &number): (usize, &u64)| Logged {
        number,
        on: below(place),
        about: commits.about(number).unwrap_or_default(),
        here: number == at.stand.on,
    };
    let changed = commits.has_changes(root, at.stand.on).map_err(failed("upperdir"))?;
    Ok(Log { commits: at.chain.iter().enumerate().map(one).collect(), changed })
}
