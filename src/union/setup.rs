//! From settings to a union: opens and checks every layer before anything is changed.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Union;
use crate::base::config::{Config, Fsync, UpperDirs, Xino};
use crate::base::{Errno, Result};
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::inode::{Numbers, Table};
use crate::layer::{DirPlace, FdCache, Layer};
use crate::merge::{self, CookieKey, DirPart, DirView};
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::stat::{mount_flags_nosuid, stat_fd};
use crate::sys::{dirent, handle, mount, xattr};
use crate::upper::{Features, Upper, WorkError, Workdir};

/// Why a union cannot be set up; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct SetupError {
    /// The option or path.
    pub what: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

impl SetupError {
    fn new(what: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), reason: reason.into(), hint: hint.into() }
    }
}

type Setup<T> = std::result::Result<T, SetupError>;

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

    /// When what is changed is on disk.
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

/// A layer's root, opened.
struct Root {
    path: PathBuf,
    fd: OwnedFd,
    nosuid: bool,
    isolated: bool,
}

/// The upper and work directories, opened.
struct UpperRoots {
    upper: Root,
    work: OwnedFd,
}

/// The daemon's own descriptors: at most this share of what the process may open is kept in the cache.
const FD_SHARE: u64 = 2;
const MOST_FDS: u64 = 8192;
const FEWEST_FDS: u64 = 32;

impl Union {
    /// Opens all layers and prepares the upper one.
    ///
    /// # Errors
    /// [`SetupError`] names the option or path, the reason and a way out; then nothing was changed.
    pub fn open(config: Config) -> Setup<Self> {
        if config.lowers.is_empty() {
            return Err(SetupError::new("lowerdir", "no lower layer is given", "give at least one: lowerdir=DIR"));
        }
        let lowers = config.lowers.iter().map(|path| open_layer("lowerdir", path)).collect::<Setup<Vec<_>>>()?;
        let upper = config.upper.as_ref().map(open_upper).transpose()?;
        let mut notes = Vec::new();
        let locks = match &upper {
            Some(upper) => {
                check_overlap(&lowers, upper)?;
                Some(lock(upper)?)
            }
            None => None,
        };
        let fds = Arc::new(FdCache::new(fd_limit()));
        let lowers: Vec<_> = lowers.into_iter().map(|root| root.isolate(true)).collect();
        let suid_view = config.suid_view;
        let numbers = number(&config, &lowers, upper.as_ref())?;
        let prepared = match (upper, locks) {
            (Some(roots), Some(locks)) => Some(prepare(&config, roots, locks, &fds, &mut notes)?),
            _ => None,
        };
        let namespace = prepared.as_ref().and_then(Upper::namespace).unwrap_or(Namespace::Trusted);
        let mut parts = Vec::new();
        let count = lowers.len();
        for (i, root) in lowers.into_iter().enumerate() {
            let (part, opaque) = root.into_lower(suid_view, namespace, &fds, i + 1 < count)?;
            parts.push(part);
            if opaque {
                break;
            }
        }
        Self::assemble(config, prepared, parts, numbers, fds, notes)
    }

    fn assemble(
        config: Config,
        upper: Option<Upper>,
        lowers: Vec<DirPart>,
        numbers: Numbers,
        fds: Arc<FdCache>,
        notes: Vec<String>,
    ) -> Setup<Self> {
        let failed = |what: &str, errno: Errno| SetupError::new(what, errno.to_string(), "check the directory");
        let upper_part = match &upper {
            Some(upper) => {
                let (mut part, _) = merge::root_part(&upper.root, false).map_err(|errno| failed("upperdir", errno))?;
                part.xattr_whiteouts |= upper.style == WhiteoutStyle::Xattr;
                Some(part)
            }
            None => None,
        };
        let work = match &upper {
            Some(upper) => Some(work_place(upper).map_err(|errno| failed("workdir", errno))?),
            None => None,
        };
        let view = DirView { upper: upper_part, lowers: lowers.into() };
        let Some(top) = view.top().map(|part| part.place.clone()) else {
            return Err(failed("lowerdir", Errno::ENOENT));
        };
        Ok(Self {
            table: Table::new(numbers, view),
            upper,
            work,
            top,
            fds,
            cookies: CookieKey::default(),
            listings: Default::default(),
            topology: Default::default(),
            noacl: config.noacl,
            static_nlink: config.static_nlink,
            timeouts: config.timeouts,
            notes,
        })
    }
}

/// workdir as a place of the upper layer.
fn work_place(upper: &Upper) -> Result<Arc<DirPlace>> {
    let fd = open_beneath(upper.work(), c".", OFlags::PATH | OFlags::DIRECTORY)?;
    let ino = stat_fd(fd.as_fd())?.ino;
    Ok(DirPlace::root(upper.root.layer.clone(), fd, ino))
}

impl Root {
    /// A clone of the mount in which nothing else is mounted, so that the daemon can never walk into a foreign mount or
    /// its own. Where the process may not make one, every step checks for mounts instead.
    fn isolate(mut self, read_only: bool) -> Self {
        if let Ok(clone) = mount::clone_tree(self.fd.as_fd(), read_only) {
            self.fd = clone;
            self.isolated = true;
        }
        self
    }

    fn layer(
        &self,
        suid_view: bool,
        wh_names: bool,
        upper_style: Option<WhiteoutStyle>,
        namespace: Namespace,
        fds: &Arc<FdCache>,
    ) -> Arc<Layer> {
        Arc::new(Layer {
            path: self.path.clone(),
            uuid: uuid(self.fd.as_fd()),
            nosuid: suid_view && self.nosuid,
            wh_names,
            upper_style,
            isolated: self.isolated,
            namespace,
            fds: fds.clone(),
        })
    }

    fn into_lower(
        self,
        suid_view: bool,
        namespace: Namespace,
        fds: &Arc<FdCache>,
        below: bool,
    ) -> Setup<(DirPart, bool)> {
        let path = self.path.clone();
        let failed = |errno: Errno| {
            SetupError::new(format!("lowerdir={}", path.display()), errno.to_string(), "the layer must be readable")
        };
        let wh_names = !is_overlay_style(self.fd.as_fd()).map_err(failed)?;
        let layer = self.layer(suid_view, wh_names, None, namespace, fds);
        let ino = stat_fd(self.fd.as_fd()).map_err(failed)?.ino;
        let root = DirPlace::root(layer, self.fd, ino);
        let (part, marks) = merge::root_part(&root, below).map_err(failed)?;
        Ok((part, marks.opaque))
    }
}

fn open_layer(option: &str, path: &Path) -> Setup<Root> {
    let what = || format!("{option}={}", path.display());
    let fd = open_root(path).map_err(|errno| {
        let hint = match errno {
            Errno::ENOENT => "create the directory first",
            Errno::ENOTDIR => "a layer is a directory",
            Errno::EACCES => "the user that mounts must be able to enter it",
            _ => "check the path",
        };
        SetupError::new(what(), errno.to_string(), hint)
    })?;
    // Reading is needed to list it; finding that out now beats an empty view later.
    open_beneath(fd.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|errno| SetupError::new(what(), errno.to_string(), "the user that mounts must be able to read it"))?;
    let nosuid = mount_flags_nosuid(fd.as_fd()).unwrap_or(false);
    Ok(Root { path: path.to_owned(), fd, nosuid, isolated: false })
}

fn open_upper(dirs: &UpperDirs) -> Setup<UpperRoots> {
    let upper = open_layer("upperdir", &dirs.dir)?;
    let work = open_layer("workdir", &dirs.work)?;
    let what = || format!("workdir={}", dirs.work.display());
    let stat = |fd: &OwnedFd| stat_fd(fd.as_fd()).map_err(|errno| SetupError::new(what(), errno.to_string(), ""));
    let (upper_stat, work_stat) = (stat(&upper.fd)?, stat(&work.fd)?);
    if upper_stat.dev != work_stat.dev {
        let reason = "it is not on the file system of upperdir";
        return Err(SetupError::new(what(), reason, "use an empty directory beside upperdir"));
    }
    let nested = |above: &OwnedFd, below: &OwnedFd| lies_in(below.as_fd(), above.as_fd()).unwrap_or(false);
    if upper_stat.ino == work_stat.ino || nested(&upper.fd, &work.fd) || nested(&work.fd, &upper.fd) {
        let reason = "upperdir and workdir must not lie one in the other";
        return Err(SetupError::new(what(), reason, "use an empty directory beside upperdir"));
    }
    Ok(isolate_pair(dirs, upper, work.fd))
}

/// Upper and work directory from one clone of their mount, so that objects can be renamed between them.
fn isolate_pair(dirs: &UpperDirs, upper: Root, work: OwnedFd) -> UpperRoots {
    let clone = || -> Option<(OwnedFd, OwnedFd)> {
        let (above, below) = (dirs.dir.canonicalize().ok()?, dirs.work.canonicalize().ok()?);
        let common: PathBuf = above.iter().zip(below.iter()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
        let clone = mount::clone_tree(open_root(&common).ok()?.as_fd(), false).ok()?;
        let open = |path: &Path, known: &OwnedFd| {
            let path = CString::new(path.strip_prefix(&common).ok()?.as_os_str().as_bytes()).ok()?;
            let fd = open_beneath(clone.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
            let same = stat_fd(fd.as_fd()).ok()?.ino == stat_fd(known.as_fd()).ok()?.ino;
            same.then_some(fd)
        };
        Some((open(&above, &upper.fd)?, open(&below, &work)?))
    };
    match clone() {
        Some((fd, work)) => UpperRoots { upper: Root { fd, isolated: true, ..upper }, work },
        None => UpperRoots { upper, work },
    }
}

/// Whether `below` is a directory somewhere in `above`.
fn lies_in(below: BorrowedFd<'_>, above: BorrowedFd<'_>) -> Result<bool> {
    let target = stat_fd(above)?;
    let mut at = rustix::fs::openat(below, c".", OFlags::PATH | OFlags::DIRECTORY, rustix::fs::Mode::empty())?;
    let mut here = stat_fd(at.as_fd())?;
    loop {
        let parent = rustix::fs::openat(&at, c"..", OFlags::PATH | OFlags::DIRECTORY, rustix::fs::Mode::empty())?;
        let there = stat_fd(parent.as_fd())?;
        // The top, or another mount: that is no part of the layer.
        if (there.dev, there.ino) == (here.dev, here.ino) || there.dev != here.dev {
            return Ok(false);
        }
        if (there.dev, there.ino) == (target.dev, target.ino) {
            return Ok(true);
        }
        (at, here) = (parent, there);
    }
}

/// A lower layer must not be, hold, or lie in what is written.
fn check_overlap(lowers: &[Root], upper: &UpperRoots) -> Setup<()> {
    for lower in lowers {
        let what = || format!("lowerdir={}", lower.path.display());
        for (written, option) in [(upper.upper.fd.as_fd(), "upperdir"), (upper.work.as_fd(), "workdir")] {
            let same = match (stat_fd(lower.fd.as_fd()), stat_fd(written)) {
                (Ok(a), Ok(b)) => (a.dev, a.ino) == (b.dev, b.ino),
                _ => false,
            };
            if same || lies_in(lower.fd.as_fd(), written).unwrap_or(false) {
                let reason = format!("it is or lies in {option}: a lower layer must not change");
                return Err(SetupError::new(what(), reason, "use directories of their own for upperdir and workdir"));
            }
            if lies_in(written, lower.fd.as_fd()).unwrap_or(false) {
                let reason = format!("{option} lies in it: the layer would change with everything that is written");
                return Err(SetupError::new(what(), reason, "put it outside, or on another file system (a tmpfs)"));
            }
        }
    }
    Ok(())
}

fn lock(roots: &UpperRoots) -> Setup<Vec<OwnedFd>> {
    Workdir::lock([roots.upper.fd.as_fd(), roots.work.as_fd()]).map_err(|error| match error {
        WorkError::InUse => SetupError::new(
            format!("upperdir={}", roots.upper.path.display()),
            "the upper layer or its workdir is in use by another plyfs",
            "unmount that one first, or use other directories",
        ),
        WorkError::Incompatible | WorkError::Failed(_) => work_failed(error),
    })
}

fn work_failed(error: WorkError) -> SetupError {
    match error {
        WorkError::Failed(errno) => {
            SetupError::new("workdir", errno.to_string(), "it must be a writable directory of the user that mounts")
        }
        _ => SetupError::new(
            "workdir",
            "the upper layer was last mounted volatile and may be incomplete, or has a feature that is not known",
            "start with a fresh upper layer, or remove workdir/work/incompat to use it all the same",
        ),
    }
}

fn number(config: &Config, lowers: &[Root], upper: Option<&UpperRoots>) -> Setup<Numbers> {
    let roots = upper.iter().map(|upper| &upper.upper).chain(lowers);
    let mut layers = Vec::new();
    for root in roots {
        let stat = stat_fd(root.fd.as_fd())
            .map_err(|errno| SetupError::new(root.path.display().to_string(), errno.to_string(), "check the path"))?;
        layers.push((stat.dev, uuid(root.fd.as_fd())));
    }
    let numbers = Numbers::new(layers, config.xino);
    if config.xino == Xino::On && numbers.systems() > 64 {
        let reason = format!("{} file systems are more than inode numbers have room for", numbers.systems());
        return Err(SetupError::new("xino=on", reason, "use xino=auto"));
    }
    Ok(numbers)
}

fn prepare(
    config: &Config,
    roots: UpperRoots,
    locks: Vec<OwnedFd>,
    fds: &Arc<FdCache>,
    notes: &mut Vec<String>,
) -> Setup<Upper> {
    let path = roots.upper.path.clone();
    let failed = |errno: Errno| {
        SetupError::new(format!("upperdir={}", path.display()), errno.to_string(), "it must be writable")
    };
    let workdir = Workdir::prepare(roots.work.as_fd(), locks).map_err(work_failed)?;
    let features = Features::probe(workdir.work()).map_err(failed)?;
    notes.extend(features.degraded().into_iter().map(|line| format!("upperdir={} {line}", path.display())));
    if config.fsync == Fsync::Volatile {
        workdir.mark_volatile().map_err(failed)?;
    }
    let style = features.whiteout_style();
    let fresh = is_overlay_style(roots.upper.fd.as_fd()).map_err(failed)?
        || is_empty(roots.upper.fd.as_fd()).map_err(failed)?;
    let wh_names = style == WhiteoutStyle::File || !fresh;
    let namespace = features.marks.unwrap_or(Namespace::User);
    let layer = roots.upper.layer(config.suid_view, wh_names, Some(style), namespace, fds);
    let ino = stat_fd(roots.upper.fd.as_fd()).map_err(failed)?.ino;
    if let (Some(namespace), false) = (features.marks, wh_names) {
        let (key, fd) = (namespace.key(Mark::Style), roots.upper.fd.as_fd());
        if let Err(errno) = xattr::set_at(fd, c".", key, style.value(), 0) {
            log::info!("the upper layer's root is not marked: {errno}");
        }
    }
    let root = DirPlace::root(layer, roots.upper.fd, ino);
    Ok(Upper::new(root, workdir, features, config.fsync))
}

/// An overlay wrote this layer: `.wh.` names are ordinary files there.
fn is_overlay_style(root: BorrowedFd<'_>) -> Result<bool> {
    let keys = xattr::list_at(root, c".")?;
    let marks = [Mark::Origin, Mark::Impure, Mark::Uuid, Mark::Style];
    let known = |key: &Vec<u8>| {
        [Namespace::Trusted, Namespace::User]
            .iter()
            .any(|ns| marks.iter().any(|&mark| ns.key(mark).to_bytes() == key.as_slice()))
    };
    let ours_with_wh = |ns: Namespace| {
        xattr::get_at(root, c".", ns.key(Mark::Style))
            .map(|value| value.as_deref() == Some(WhiteoutStyle::File.value()))
    };
    Ok(keys.iter().any(known) && !ours_with_wh(Namespace::Trusted)? && !ours_with_wh(Namespace::User)?)
}

fn is_empty(root: BorrowedFd<'_>) -> Result<bool> {
    let fd = open_beneath(root, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut empty = true;
    dirent::read_dir(fd.as_fd(), &mut |entry| {
        // A directory that a fresh ext4 has.
        empty &= entry.name.to_bytes() == b"lost+found";
    })?;
    Ok(empty)
}

fn uuid(root: BorrowedFd<'_>) -> [u8; 16] {
    let open = open_beneath(root, c".", OFlags::RDONLY | OFlags::DIRECTORY);
    open.ok().and_then(|fd| handle::fs_uuid(fd.as_fd()).ok().flatten()).unwrap_or_default()
}

fn fd_limit() -> usize {
    let open = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(MOST_FDS);
    usize::try_from((open / FD_SHARE).clamp(FEWEST_FDS, MOST_FDS)).unwrap_or(1024)
}
