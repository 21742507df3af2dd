//! From settings to a union: opens and checks every layer before anything is changed.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::blocks::ByBlocks;
use super::ground::Ground;
use super::in_use;
use super::indexing::open_index;
use super::joining::Places;
use super::owners::Owners;
use super::past::Past;
use super::refusal::{Setup, SetupError};
use super::restack::Stands;
use super::roots::{
    Common, For, Root, UpperRoots, is_empty, isolate_pair, open_commit, open_frozen, open_layer, open_upper,
};
use super::{Union, fit, identity, overlap, restore};
use crate::base::config::{Config, Fsync, RedirectDir, UpperDirs, Uuid, XattrPermissions, Xino};
use crate::base::{Errno, Result};
use crate::format::OverrideKey;
use crate::format::journal::Record;
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::inode::{HardLinks, Journal, Numbers, System, Table};
use crate::layer::{DirPlace, FdCache, HiddenDir, Modes};
use crate::merge::{self, CookieKey, DirPart, DirView, Stack, Traps};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::random::random_bytes;
use crate::sys::stat::stat_fd;
use crate::sys::{process, xattr};
use crate::upper::commits::Standing;
use crate::upper::{Does, Features, Staged, Upper, WorkError, Workdir, mark_of, set_mark};

/// Puts a [`Config`] together.
#[derive(Debug, Default)]
pub struct Builder(Config);

impl Builder {
    /// Adds a lower layer below those added before.
    #[must_use]
    pub fn lower(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.lowers.push(path.into());
        self
    }

    /// The writable layer and its work directory, on one file system.
    #[must_use]
    pub fn upper(mut self, dir: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        self.0.upper = Some(UpperDirs { dir: dir.into(), work: work.into() });
        self
    }

    /// What is synced, and when.
    #[must_use]
    pub fn fsync(mut self, fsync: Fsync) -> Self {
        self.0.fsync = fsync;
        self
    }

    /// Opens the layers.
    ///
    /// # Errors
    /// As [`Union::open`].
    pub fn build(self) -> Setup<Union> {
        Union::open(self.0)
    }
}

/// The cache of descriptors may hold one of this many descriptors that the process may open.
const FD_SHARE: u64 = 2;
const MOST_FDS: u64 = 8192;
const FEWEST_FDS: u64 = 32;

/// Names in one window of a directory's listing, which take about 10 MiB. A directory of a million names is read four
/// to six times so, a third of a second each.
const NAMES_AT_ONCE: usize = 1 << 18;

impl Union {
    /// Opens all layers and prepares the upper one.
    ///
    /// # Errors
    /// [`SetupError`] names the option or path, the reason and a way out; then nothing was changed.
    pub fn open(config: Config) -> Setup<Self> {
        Self::open_with(config, None)
    }

    /// [`Union::open`] for a mount that is to outlive this process: the union goes on where the journal ends, and
    /// writes the journal from then on.
    ///
    /// # Errors
    /// As [`Union::open`].
    pub fn open_with(config: Config, journal: Option<Arc<Journal>>) -> Setup<Self> {
        if config.lowers.is_empty() {
            return Err(SetupError::new("lowerdir", "no lower layer is given", "give at least one: lowerdir=DIR"));
        }
        let Roots { mut lowers, data_only, upper, locks, traps, written, frozen, places, mut notes } =
            open_roots(&config, For::Serving)?;
        let numbers = number(&config, &lowers, upper.as_ref())?;
        let own = own_namespace(&config);
        let mut common = Common { written, ..Common::new(&config, own, FdCache::new(fd_limit())) };
        let prepared = match upper {
            Some(mut roots) => {
                settle(&roots, own)?;
                let kept = journal.as_deref().and_then(restore::kept_in_workdir);
                match try_workdir(&roots, kept.as_ref(), own) {
                    Ok(found) => {
                        mark_root(config.xattr_permissions, &mut roots.upper, lowers.first())?;
                        Some(prepare(&config, roots, found, &mut common, &mut notes)?)
                    }
                    Err(error) if error.is_unwritable() && kept.is_none() => {
                        notes.push(read_only(&config, error));
                        // The upper layer is only shown: it becomes the topmost lower layer.
                        lowers.insert(0, roots.upper);
                        None
                    }
                    Err(error) => return Err(work_failed(error)),
                }
            }
            None => None,
        };
        common.alone = prepared.is_none() && lowers.len() + data_only.len() == 1;
        let mut stack = stack_of(&config, (lowers, data_only), &common, traps)?;
        let (upper, workdir) = match prepared {
            Some((upper, workdir)) => {
                stack.index = open_index(&config, &upper, workdir.as_fd(), &stack, &mut notes)?;
                (Some(upper), Some(workdir))
            }
            None => (None, None),
        };
        let (written, fds) = (common.written.clone(), common.fds.clone());
        let stands = Stands { config: config.clone(), frozen, written, workdir, own, common, locks, places };
        let union = Self::assemble(config, upper, stack, numbers, (fds, stands), notes, journal)?;
        union.restore();
        Ok(union)
    }

    fn assemble(
        config: Config,
        upper: Option<Upper>,
        stack: Stack,
        numbers: Numbers,
        (fds, stands): (Arc<FdCache>, Stands),
        mut notes: Vec<String>,
        journal: Option<Arc<Journal>>,
    ) -> Setup<Self> {
        let by_blocks = by_blocks(&config, upper.as_ref(), &mut notes);
        let failed = |what: &str, errno: Errno| SetupError::new(what, errno.to_string(), "check the directory");
        let upper_part = match &upper {
            Some(upper) => {
                let root = merge::root_part(&upper.root, 0, false);
                let (mut part, _) = root.map_err(|errno| failed("upperdir", errno))?;
                part.xattr_whiteouts |= upper.style == WhiteoutStyle::Xattr;
                Some(part)
            }
            None => None,
        };
        let work = match &upper {
            Some(upper) => Some(work_place(upper).map_err(|errno| failed("workdir", errno))?),
            None => None,
        };
        let view = DirView { upper: upper_part, redirect: None, lowers: stack.lowers.clone() };
        let Some(top) = view.top().map(|part| part.place.clone()) else {
            return Err(failed("lowerdir", Errno::ENOENT));
        };
        let hard_links = HardLinks {
            unite: upper.as_ref().is_none_or(|upper| upper.features.links),
            copied: upper.is_some(),
            indexed: upper.as_ref().and_then(Upper::namespace).filter(|_| stack.index.is_some()),
        };
        let cookies = cookie_key(journal.as_deref()).map_err(|errno| failed("getrandom(2)", errno))?;
        Ok(Self {
            table: Arc::new(Table::new(numbers, view, hard_links, journal.clone())),
            journal,
            stack,
            upper,
            work,
            top,
            fds,
            cookies,
            listings: Default::default(),
            ahead: Default::default(),
            topology: Default::default(),
            owners: Arc::new(Owners::new(&config)),
            noacl: config.noacl,
            noxattrs: config.noxattrs,
            asked_for_acls: config.asked_for_acls,
            static_nlink: config.static_nlink,
            by_blocks,
            timeouts: config.timeouts,
            names_at_once: config.names_at_once.unwrap_or(NAMES_AT_ONCE).max(1),
            notices: Default::default(),
            notes,
            stands,
            superseded: AtomicBool::new(false),
            linked: Default::default(),
            stirred: Default::default(),
            unsynced: AtomicBool::new(false),
        })
    }
}

/// The directories of all layers, opened and checked; nothing was changed.
pub(super) struct Roots {
    pub lowers: Vec<Root>,
    pub data_only: Vec<Root>,
    pub upper: Option<UpperRoots>,
    pub locks: Vec<OwnedFd>,
    pub traps: Traps,
    pub written: Arc<[HiddenDir]>,
    /// The commits that the upper layer stands on, whose layers are the first of `lowers`.
    pub frozen: Vec<u64>,
    /// Where the directories are.
    pub places: Places,
    notes: Vec<String>,
}

pub(super) fn open_roots(config: &Config, what_for: For) -> Setup<Roots> {
    let open = |paths: &[PathBuf]| paths.iter().map(|path| open_layer("lowerdir", path)).collect::<Setup<Vec<_>>>();
    let (mut lowers, data_only) = (open(&config.lowers)?, open(&config.data_only)?);
    for (at, root) in lowers.iter().enumerate() {
        root.check_alone(lowers.get(at + 1), own_namespace(config))?;
    }
    let ground = Ground::look();
    let mut upper = config.upper.as_ref().map(|dirs| open_upper(dirs, &ground)).transpose()?;
    fit::check((&lowers, &data_only), upper.as_ref(), config.xattr_permissions, &ground)?;
    let places = if what_for == For::Serving {
        Places::of((&lowers, &data_only), upper.as_ref(), &ground)
    } else {
        Places::default()
    };
    let (mut notes, mut locks, mut frozen, mut at) = (Vec::new(), Vec::new(), Vec::new(), None);
    if let Some((upper, dirs)) = upper.as_ref().zip(config.upper.as_ref()) {
        notes.extend(overlap::check(lowers.iter().chain(&data_only), upper, &ground)?);
        if matches!(what_for, For::Serving | For::Copying | For::Repairing) {
            upper.upper.check_writable()?;
            locks = lock(upper)?;
        }
        if let For::LookingAt(number) = what_for {
            at = Some(open_commit((config, dirs), upper, own_namespace(config), number)?);
        }
        let root = at.as_ref().unwrap_or(&upper.upper);
        let (numbers, roots): (Vec<u64>, Vec<Root>) =
            open_frozen((config, dirs), (upper, root), own_namespace(config))?.into_iter().unzip();
        frozen = numbers;
        lowers.splice(0..0, roots);
    }
    notes.extend(identity::settle(config.uuid, &mut lowers, upper.as_mut()));
    at.iter_mut().zip(&upper).for_each(|(root, upper)| root.identity = upper.upper.identity);
    let traps = overlap::traps(lowers.iter().chain(&data_only), upper.as_ref());
    let written = upper.as_ref().map(overlap::written).unwrap_or_default();
    if matches!(what_for, For::Copying | For::Repairing) {
        return Ok(Roots { lowers, data_only, upper, locks, traps, written, frozen, places, notes });
    }
    let read_only = what_for != For::Serving;
    let upper = upper.zip(config.upper.as_ref()).map(|(roots, dirs)| match at {
        Some(root) => UpperRoots { upper: root.isolate(true), work: roots.work },
        None => isolate_pair(dirs, roots, read_only),
    });
    // The modes of what a commit has frozen are widened for an instant, as in the upper layer.
    let isolated = |roots: Vec<Root>| {
        let isolate = |root: Root| {
            let writable = root.frozen && !read_only;
            root.isolate(!writable)
        };
        roots.into_iter().map(isolate).collect::<Vec<_>>()
    };
    let (lowers, data_only) = (isolated(lowers), isolated(data_only));
    Ok(Roots { lowers, data_only, upper, locks, traps, written, frozen, places, notes })
}

/// The namespace of the marks that are read and followed.
pub(super) fn own_namespace(config: &Config) -> Namespace {
    if config.userxattr || !may_write_trusted() { Namespace::User } else { Namespace::Trusted }
}

/// Tidies up after a commit that was broken off.
fn settle(roots: &UpperRoots, own: Namespace) -> Setup<()> {
    let (workdir, root) = (roots.work.as_fd(), roots.upper.fd.as_fd());
    match (Standing { workdir, root, namespace: own, synced: false }).settle() {
        // Then the view is read-only, or refused in the next step.
        Err(errno) if !WorkError::Failed(errno).is_unwritable() && errno != Errno::EROFS => {
            Err(SetupError::new("workdir", format!("commits: {errno}"), "plyfs log tells what is there"))
        }
        _ => Ok(()),
    }
}

/// Takes the workdir over, and finds out what its file system can do.
pub(super) fn try_workdir(
    roots: &UpperRoots,
    kept: Option<&HashSet<u64>>,
    own: Namespace,
) -> std::result::Result<(Workdir, Features), WorkError> {
    let workdir = Workdir::prepare((roots.work.as_fd(), roots.upper.fd.as_fd()), kept)?;
    let features = Features::probe(workdir.work(), own)?;
    Ok((workdir, features))
}

/// The note on a workdir that cannot be written to: the view is read-only then, as with the kernel's OverlayFS.
fn read_only(config: &Config, error: WorkError) -> String {
    let work = config.upper.as_ref().map(|dirs| dirs.work.display().to_string()).unwrap_or_default();
    let why = if let WorkError::Failed(errno) = error { errno.to_string() } else { String::new() };
    format!("workdir={work} cannot be written to ({why}): the view is read-only")
}

/// The key by which listings are ordered; a mount that goes on keeps its key.
fn cookie_key(journal: Option<&Journal>) -> Result<CookieKey> {
    if let Some(key) = journal.and_then(Journal::cookies) {
        return Ok(CookieKey::from_bytes(key));
    }
    let key = CookieKey::random()?;
    if let Some(journal) = journal {
        journal.write([Record::Cookies(key.to_bytes())]);
    }
    Ok(key)
}

/// The lower layers as these settings have them looked at, without an index.
pub(super) fn stack_of(
    config: &Config,
    (lowers, data_only): (Vec<Root>, Vec<Root>),
    common: &Common,
    traps: Traps,
) -> Setup<Stack> {
    let lowers = lower_parts(lowers, common)?.into();
    let data_only = data_only.into_iter().map(|root| root.into_data(common)).collect::<Setup<Vec<_>>>()?;
    Ok(Stack {
        lowers,
        follow_redirect: config.redirect_dir != Some(RedirectDir::NoFollow),
        follow_metacopy: config.metacopy != Some(false) || !data_only.is_empty(),
        data_only,
        index: None,
        verity: config.verity,
        traps,
    })
}

/// The roots of the lower layers, down to the first that hides the layers below it.
fn lower_parts(lowers: Vec<Root>, common: &Common) -> Setup<Vec<DirPart>> {
    let (mut parts, count) = (Vec::new(), lowers.len());
    for (i, root) in lowers.into_iter().enumerate() {
        let (part, opaque) = root.into_lower(common, i + 1, i + 1 < count)?;
        parts.push(part);
        if opaque {
            break;
        }
    }
    Ok(parts)
}

/// How large files are copied up.
fn by_blocks(config: &Config, upper: Option<&Upper>, notes: &mut Vec<String>) -> ByBlocks {
    let able = upper.is_some_and(|upper| upper.metacopy);
    if config.copyup_block.is_some() && upper.is_some() && !able {
        notes.push("copyup_block has no effect: the upper layer cannot hold metacopy files".into());
    }
    ByBlocks::new(config.copyup_block.filter(|_| able), config.copyup_rate)
}

/// `workdir/work` as a directory of the upper layer.
fn work_place(upper: &Upper) -> Result<Arc<DirPlace>> {
    let fd = open_beneath(upper.work(), c".", OFlags::PATH | OFlags::DIRECTORY)?;
    let ino = stat_fd(fd.as_fd())?.ino;
    // A layer of its own: what is in workdir stays there when a commit freezes the upper layer.
    Ok(DirPlace::root(Arc::new(upper.root.layer.sibling()), fd, ino))
}

fn lock(roots: &UpperRoots) -> Setup<Vec<OwnedFd>> {
    Workdir::lock([roots.upper.fd.as_fd(), roots.work.as_fd()]).map_err(|error| match error {
        WorkError::InUse => in_use::refusal(roots),
        error => work_failed(error),
    })
}

pub(super) fn work_failed(error: WorkError) -> SetupError {
    match error {
        WorkError::Failed(Errno::EROFS) => SetupError::new(
            "workdir",
            "the file system of upperdir and workdir is read-only",
            "a directory there can be the topmost lower layer: lowerdir=UPPER:…",
        ),
        WorkError::Failed(errno) => {
            SetupError::new("workdir", errno.to_string(), "it must be a writable directory of the user that mounts")
        }
        WorkError::Foreign(name) => SetupError::new(
            "workdir",
            format!("work/{} in it was not made by an overlay, and would be removed", name.to_string_lossy()),
            "name an empty directory",
        ),
        WorkError::Applying => SetupError::new(
            "workdir",
            "the changes of the upper layer were being applied to the lower one, which was broken off",
            "plyfs apply --resume",
        ),
        _ => SetupError::new(
            "workdir",
            "the upper layer was last mounted volatile and may be incomplete, or has a feature that is not known",
            "start with a fresh upper layer, or remove workdir/work/incompat to use it all the same",
        ),
    }
}

fn number(config: &Config, lowers: &[Root], upper: Option<&UpperRoots>) -> Setup<Numbers> {
    let roots = upper.iter().map(|upper| (&upper.upper, false)).chain(lowers.iter().map(|root| (root, true)));
    let mut layers = Vec::new();
    for (root, lower) in roots {
        let stat = stat_fd(root.fd.as_fd())
            .map_err(|errno| SetupError::new(root.path.display().to_string(), errno.to_string(), "check the path"))?;
        let uuids = [root.identity.written, root.identity.real];
        layers.push(System { dev: stat.dev, uuids, handles: root.handles, lower });
    }
    let numbers = Numbers::new(layers, config.xino, config.ino32);
    if config.xino == Xino::On && numbers.systems() > 64 {
        let reason = format!("{} file systems are more than inode numbers have room for", numbers.systems());
        return Err(SetupError::new("xino=on", reason, "use xino=auto"));
    }
    Ok(numbers)
}

/// Finds out where the owners of the upper layer's objects stand, and lets its root say so.
fn mark_root(wish: Option<XattrPermissions>, upper: &mut Root, lower: Option<&Root>) -> Setup<()> {
    if let (Some(wish), None) = (wish, upper.owners) {
        // What the view shows of its root is a parent, too.
        let shown = lower.filter(|_| wish == XattrPermissions::Parents).unwrap_or(upper);
        upper.owners = Some(begin_marks(upper, shown, wish)?);
    }
    if wish == Some(XattrPermissions::Parents) {
        upper.carried = upper.owners.take();
    }
    Ok(())
}

/// Makes the root of an upper layer say where the owners of its objects stand: in the attribute that `wish` names. The
/// root gets the owner and the mode that `shown` has.
fn begin_marks(upper: &Root, shown: &Root, wish: XattrPermissions) -> Setup<OverrideKey> {
    let owners = OverrideKey::of(wish);
    let root = upper.fd.as_fd();
    let marked =
        stat_fd(shown.fd.as_fd()).and_then(|stat| set_mark(Staged::Named(root, c"."), owners, &mark_of(&stat)?));
    marked.map(|()| owners).map_err(|errno| {
        let hint = match wish {
            XattrPermissions::Security => "only root can write security.* attributes: xattr_permissions=2",
            XattrPermissions::Containers | XattrPermissions::Parents => {
                "the upper layer must be on a file system with user.* attributes"
            }
        };
        let option = format!("xattr_permissions={}", wish.value());
        SetupError::new(option, format!("upperdir={}: {errno}", upper.path.display()), hint)
    })
}

pub(super) fn prepare(
    config: &Config,
    roots: UpperRoots,
    (workdir, features): (Workdir, Features),
    common: &mut Common,
    notes: &mut Vec<String>,
) -> Setup<(Upper, OwnedFd)> {
    let path = roots.upper.path.clone();
    let failed = |errno: Errno| {
        SetupError::new(format!("upperdir={}", path.display()), errno.to_string(), "it must be writable")
    };
    if features.folds {
        let work = config.upper.as_ref().map(|dirs| dirs.work.display().to_string());
        return Err(fit::folded(format!("workdir={}", work.unwrap_or_default())));
    }
    let root = roots.upper.fd.as_fd();
    if !features.takes_casefold {
        common.exact_dev = stat_fd(root).ok().map(|stat| stat.dev);
    }
    common.namespace = features.marks.unwrap_or(common.markless);
    let style = remembered_style(root, common.namespace)
        .map_err(failed)?
        .filter(|&style| features.writes(style))
        .unwrap_or_else(|| features.whiteout_style());
    notes.extend(features.degraded(style).into_iter().map(|line| format!("upperdir={} {line}", path.display())));
    if config.fsync == Fsync::Volatile {
        workdir.mark_volatile().map_err(failed)?;
    }
    let past = Past::of(root).map_err(failed)?;
    let fresh = past.overlay_style || is_empty(root).map_err(failed)?;
    // Without extended attributes an opaque directory holds `.wh..wh..opq`, whatever form whiteouts have.
    let wh_names = style == WhiteoutStyle::File || features.marks.is_none() || !fresh;
    if let Some(namespace) = features.marks {
        // A later mount must know this once other marks make the layer look like an overlay's.
        let (mark, value) = if wh_names { (Mark::WhNames, &b"y"[..]) } else { (Mark::Style, style.value()) };
        if let Err(errno) = xattr::set_at(root, c".", namespace.key(mark), value, 0) {
            log::info!("the upper layer's root is not marked: {errno}");
        }
    }
    // In a layer that was empty until now the marks of the other namespace mean as little as they will to later mounts.
    let past = if fresh { Past::of(root).map_err(failed)? } else { past };
    let layer = roots.upper.layer(common, &past, wh_names, Some(style));
    if let Ok(modes) = Modes::noted(workdir.work(), [root, roots.work.as_fd()]) {
        *layer.modes.write() = modes;
    }
    let ino = stat_fd(root).map_err(failed)?.ino;
    if let Some(namespace) = features.marks
        && let Err(errno) = keep_uuid(root, namespace, config.uuid)
    {
        log::info!("the upper layer gets no identity of its own: {errno}");
    }
    // Redirects are written only in the namespace in which they are followed.
    let unsaid = !config.plain || config.metacopy == Some(true);
    let redirect =
        features.marks == Some(common.believed) && config.redirect_dir.map_or(unsaid, |wish| wish == RedirectDir::On);
    let does = Does {
        fsync: config.fsync,
        redirect,
        metacopy: redirect && config.metacopy.unwrap_or(!config.plain),
        verity: config.verity,
    };
    let root = DirPlace::root(layer, roots.upper.fd, ino);
    Ok((Upper::new(root, workdir, features, style, does), roots.work))
}

/// The form of the layer's whiteouts so far.
pub(super) fn remembered_style(root: BorrowedFd<'_>, namespace: Namespace) -> Result<Option<WhiteoutStyle>> {
    let value = xattr::get_at(root, c".", namespace.key(Mark::Style))?;
    Ok(value.and_then(|value| WhiteoutStyle::parse(&value)))
}

/// Gives the upper layer a UUID of its own if `wish` says so: with `auto` only while nothing has been copied up into
/// it.
fn keep_uuid(root: BorrowedFd<'_>, namespace: Namespace, wish: Uuid) -> Result<()> {
    let key = namespace.key(Mark::Uuid);
    let fresh = || Ok::<_, Errno>(xattr::get_at(root, c".", namespace.key(Mark::Impure))?.is_none());
    let wanted = match wish {
        Uuid::Off | Uuid::Null => false,
        Uuid::Auto => fresh()?,
        Uuid::On => true,
    };
    if !wanted || xattr::get_at(root, c".", key)?.is_some_and(|uuid| uuid.len() == 16) {
        return Ok(());
    }
    let mut uuid: [u8; 16] = random_bytes()?;
    // RFC 9562: version 4, variant 1.
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    xattr::set_at(root, c".", key, &uuid, 0)
}

/// Whether this process may write `trusted.*`, which takes an administrator of the initial user namespace.
pub(crate) fn may_write_trusted() -> bool {
    process::is_admin() && process::ids_are_initial()
}

pub(super) fn fd_limit() -> usize {
    let open = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(MOST_FDS);
    usize::try_from((open / FD_SHARE).clamp(FEWEST_FDS, MOST_FDS)).unwrap_or(1024)
}
