//! The layers' directories, opened and looked at before anything is changed.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::ground::Ground;
use super::past::Past;
use super::refusal::{Setup, SetupError};
use crate::base::config::{Config, UpperDirs, XattrPermissions};
use crate::base::{Errno, Result};
use crate::format::mark::{Mark, Namespace, WhiteoutStyle};
use crate::format::{Origin, OverrideKey, OverrideStat};
use crate::layer::{DirPlace, FdCache, Folding, Handles, Hidden, HiddenDir, Layer, is_folding_root};
use crate::merge::{self, DirPart};
use crate::sys::caller::own_ids;
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::stat::{may_change_in, mount_flags_nosuid, stat_fd, statfs_fd};
use crate::sys::uuid::FsUuid;
use crate::sys::{dirent, handle, mount, xattr};
use crate::upper::commits::{Broken, Commits, Frozen, stand_of};

/// What is known of the file system that a layer is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Identity {
    /// Its UUID, or zeros.
    pub real: FsUuid,
    /// The UUID that marks hold of it.
    pub written: FsUuid,
}

/// A layer's root, opened.
pub(super) struct Root {
    pub path: PathBuf,
    pub fd: OwnedFd,
    pub nosuid: bool,
    pub handles: Handles,
    pub identity: Identity,
    pub isolated: bool,
    /// The magic number of its file system.
    magic: u64,
    /// The attribute in which owners and modes of the layer's objects stand.
    pub owners: Option<OverrideKey>,
    /// The same, of directories only that were made for what they hold.
    pub carried: Option<OverrideKey>,
    /// The root is case-insensitive: it finds names in spellings that it does not list.
    pub folds: bool,
    /// It was an upper layer, which a commit has frozen.
    pub frozen: bool,
}

/// The upper and work directories, opened.
pub(super) struct UpperRoots {
    pub upper: Root,
    pub work: OwnedFd,
}

/// What the layers are opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// To be served: the upper layer is locked.
    Serving,
    /// To be looked at, which another process may serve meanwhile.
    Looking,
    /// The same, whatever may be wrong.
    Checking,
    /// As [`For::Looking`], with the layer of this commit as the upper one.
    LookingAt(u64),
    /// To be copied, or linked: the upper layer is locked, and the layers are in no clones of their mounts, as no link leads
    /// from one mount to another.
    Copying,
    /// To be repaired: as [`For::Copying`], whatever may be wrong.
    Repairing,
}

/// What all layers of a union have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub suid_view: bool,
    pub doubts_marks: bool,
    pub namespace: Namespace,
    pub believed: Namespace,
    pub written: Arc<[HiddenDir]>,
    /// The namespace by which attributes are named in an upper layer that takes no marks.
    pub markless: Namespace,
    /// How names that begin with `.wh.` are read in the topmost layer; `None`: as its root says.
    pub wh_names: Option<bool>,
    /// The union has one layer, which is not written.
    pub alone: bool,
    /// The layers are only looked at.
    pub looks: bool,
    /// The `st_dev` of a file system that has no case-insensitive directories.
    pub exact_dev: Option<u64>,
    pub fds: Arc<FdCache>,
}

impl Common {
    /// What several layers have in common, whose own marks are in `own`.
    pub fn new(config: &Config, own: Namespace, fds: FdCache) -> Self {
        Self {
            suid_view: config.suid_view,
            doubts_marks: config.doubts_marks,
            namespace: own,
            believed: own,
            written: Arc::default(),
            markless: Namespace::User,
            wh_names: config.wh_names,
            alone: false,
            looks: false,
            exact_dev: None,
            fds: Arc::new(fds),
        }
    }
}

impl Root {
    /// Replaces the root by one in a clone of its mount, in which nothing else is mounted: the daemon can never walk
    /// into a foreign mount or its own. Where the process may not clone mounts every step checks for mounts instead.
    pub fn isolate(mut self, read_only: bool) -> Self {
        if let Ok(clone) = mount::clone_tree(self.fd.as_fd(), read_only) {
            self.fd = clone;
            self.isolated = true;
        }
        self
    }

    /// Refuses a lower layer that stands on a commit which is not the layer `next`, in a mount whose marks are in `own`.
    pub fn check_alone(&self, next: Option<&Self>, own: Namespace) -> Setup<()> {
        let past = Past::of(self.fd.as_fd()).map_err(|errno| unreadable(&self.path, errno))?;
        // A mark that says nothing is somebody else's.
        let stand = |&namespace: &Namespace| stand_of(self.fd.as_fd(), namespace).ok().filter(|stand| stand.on > 0);
        let is_next = |on: u64| next.is_some_and(|next| next.path.ends_with(format!("commits/{on}/layer")));
        if past.reads(own).iter().filter_map(stand).any(|stand| !is_next(stand.on)) {
            let reason = "it stands on commits in the workdir that it was made with, which are parts of what it shows";
            let hint = "as upperdir=…,workdir=… it has them; plyfs layer squash --workdir makes one layer of all";
            return Err(SetupError::new(format!("lowerdir={}", self.path.display()), reason, hint));
        }
        Ok(())
    }

    /// Refuses an upper layer in which who mounts may make nothing. Whoever owns it may change its mode.
    pub fn check_writable(&self) -> Setup<()> {
        let is_own = || stat_fd(self.fd.as_fd()).is_ok_and(|stat| stat.uid == own_ids().0);
        if may_change_in(self.fd.as_fd()) != Err(Errno::EACCES) || is_own() {
            return Ok(());
        }
        let hint = "name a directory of the user that mounts; without upperdir and workdir the view is read-only";
        Err(SetupError::new(format!("upperdir={}", self.path.display()), Errno::EACCES.to_string(), hint))
    }

    pub fn layer(&self, common: &Common, past: &Past, wh_names: bool, style: Option<WhiteoutStyle>) -> Arc<Layer> {
        // Marks that the upper layer gets must be read again; other layers are read in the mount's own namespace.
        let own = if style.is_some() { common.namespace } else { common.believed };
        let dev = stat_fd(self.fd.as_fd()).map_or(0, |stat| stat.dev);
        let exact_dev = common.exact_dev == Some(dev);
        Arc::new(Layer {
            path: self.path.clone(),
            dev,
            handles: self.handles,
            exact_names: EXACT_NAMES.contains(&self.magic) && !self.folds,
            lists_attributes: LISTS_ATTRIBUTES.contains(&self.magic),
            folding: if exact_dev { Folding::Never } else { Folding::of(self.magic, common.alone) },
            joined: Default::default(),
            lasting_numbers: LASTING_NUMBERS.contains(&self.magic),
            uuid: self.identity.written,
            real_uuid: self.identity.real,
            hidden: self.hidden(common, style),
            nosuid: common.suid_view && self.nosuid,
            owners: self.owners,
            carried: self.carried,
            doubts_marks: common.doubts_marks,
            wh_names,
            upper_style: style,
            frozen: AtomicBool::new(self.frozen),
            widens: (style.is_some() || self.frozen) && !common.looks,
            isolated: self.isolated,
            reads: past.reads(own),
            namespace: common.namespace,
            believed: common.believed,
            fds: common.fds.clone(),
            modes: Default::default(),
            widenings: Default::default(),
        })
    }

    /// The directories that a lower layer does not show.
    fn hidden(&self, common: &Common, upper_style: Option<WhiteoutStyle>) -> Hidden {
        if upper_style.is_some() || self.frozen || common.written.is_empty() {
            return Hidden::default();
        }
        let dev = stat_fd(self.fd.as_fd()).map_or(0, |stat| stat.dev);
        let subvolumes = SUBVOLUMES.contains(&self.magic);
        Hidden::new(&common.written, dev, subvolumes)
    }

    /// Makes the root a data-only layer.
    pub fn into_data(self, common: &Common) -> Setup<Arc<DirPlace>> {
        let layer = self.layer(common, &Past::default(), false, None);
        let ino = stat_fd(self.fd.as_fd()).map_err(|errno| unreadable(&self.path, errno))?.ino;
        Ok(DirPlace::root(layer, self.fd, ino))
    }

    /// Makes the root an ordinary lower layer at this level. True: the root hides the layers below.
    pub fn into_lower(self, common: &Common, level: usize, below: bool) -> Setup<(DirPart, bool)> {
        let path = self.path.clone();
        let failed = |errno: Errno| unreadable(&path, errno);
        let past = Past::of(self.fd.as_fd()).map_err(failed)?;
        let said = common.wh_names.filter(|_| level == 1);
        let layer = self.layer(common, &past, said.unwrap_or(!past.overlay_style), None);
        let ino = stat_fd(self.fd.as_fd()).map_err(failed)?.ino;
        let root = DirPlace::root(layer, self.fd, ino);
        merge::root_part(&root, level, below).map_err(failed)
    }
}

fn unreadable(path: &Path, errno: Errno) -> SetupError {
    SetupError::new(format!("lowerdir={}", path.display()), errno.to_string(), "the layer must be readable")
}

pub(super) fn open_layer(option: &str, path: &Path) -> Setup<Root> {
    let what = || format!("{option}={}", path.display());
    let fd = open_root(path).map_err(|errno| {
        let hint = match errno {
            Errno::ENOENT if option == "lowerdir" => "create the directory first; a colon in a path is \\:",
            Errno::ENOENT => "create the directory first",
            Errno::ENOTDIR => "a layer is a directory",
            Errno::EACCES => "the user that mounts must be able to enter it",
            _ => "check the path",
        };
        SetupError::new(what(), errno.to_string(), hint)
    })?;
    root_of(what(), path, fd)
}

/// The layer whose root is `fd`; `what`: its option, for messages.
fn root_of(what: String, path: &Path, fd: OwnedFd) -> Setup<Root> {
    let what = || what.clone();
    // A layer that cannot be listed is refused now, rather than shown as empty later.
    let readable =
        |errno: Errno| SetupError::new(what(), errno.to_string(), "the user that mounts must be able to read it");
    let open = open_beneath(fd.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY).map_err(readable)?;
    let magic = statfs_fd(fd.as_fd()).map_or(0, |fs| fs.magic);
    let exact = EXACT_NAMES.contains(&magic) && magic != XFS;
    let folds = is_folding_root(open.as_fd(), magic, exact).map_err(readable)?;
    let nosuid = mount_flags_nosuid(fd.as_fd()).unwrap_or(false);
    let (handles, owners) = (handles(fd.as_fd()), owners(fd.as_fd()).map_err(|why| marked_wrongly(what(), why))?);
    Ok(Root {
        path: path.to_owned(),
        fd,
        nosuid,
        handles,
        identity: Identity::default(),
        isolated: false,
        magic,
        owners,
        carried: None,
        folds,
        frozen: false,
    })
}

/// The layer of a commit, as an upper one that is only looked at.
pub(super) fn open_commit(
    (config, dirs): (&Config, &UpperDirs),
    roots: &UpperRoots,
    own: Namespace,
    number: u64,
) -> Setup<Root> {
    let frozen = Commits::open(roots.work.as_fd(), own).and_then(|commits| commits.frozen(number));
    let frozen = frozen.map_err(|errno| {
        let what = format!("workdir={}: commit {number}", dirs.work.display());
        SetupError::new(what, errno.to_string(), "plyfs log tells what there is")
    })?;
    let root = open_one_frozen((config, dirs), number, frozen.root)?;
    // Its marks are read as those of the upper layer are.
    Ok(Root { frozen: false, ..root })
}

/// The layers of commits on which the layer with the root `top` stands, the topmost first, with their numbers. `own`: the
/// namespace in which its marks are read.
pub(super) fn open_frozen(
    (config, dirs): (&Config, &UpperDirs),
    (roots, top): (&UpperRoots, &Root),
    own: Namespace,
) -> Setup<Vec<(u64, Root)>> {
    let what = |commit: u64| format!("workdir={}: commit {commit}", dirs.work.display());
    let broken = |broken: Broken| {
        let hint = "the upper layer stands on it: use the workdir with which it was made";
        SetupError::new(what(broken.commit), broken.reason(), hint)
    };
    let unread = |errno: Errno| {
        let reason = format!("its mark {}: {errno}", own.key(Mark::On).to_string_lossy());
        SetupError::new(format!("upperdir={}", dirs.dir.display()), reason, "plyfs log tells what it stood on")
    };
    let stand = stand_of(top.fd.as_fd(), own).map_err(unread)?;
    let on = stand.on;
    if on == 0 {
        return Ok(Vec::new());
    }
    let commits = Commits::open(roots.work.as_fd(), own).map_err(|errno| broken(Broken { commit: on, errno }))?;
    commits.check(stand).map_err(broken)?;
    let chain = commits.chain(on).map_err(broken)?;
    chain
        .into_iter()
        .map(|Frozen { number, root, .. }| open_one_frozen((config, dirs), number, root).map(|root| (number, root)))
        .collect()
}

/// One of them.
pub(super) fn open_one_frozen((config, dirs): (&Config, &UpperDirs), number: u64, root: OwnedFd) -> Setup<Root> {
    let path = dirs.work.join(format!("commits/{number}/layer"));
    let root = root_of(format!("workdir={}: commit {number}", dirs.work.display()), &path, root)?;
    let mut root = Root { nosuid: false, frozen: true, ..root };
    if config.xattr_permissions == Some(XattrPermissions::Parents) {
        root.carried = root.owners.take();
    }
    Ok(root)
}

/// The attribute in which owners and modes of a layer's objects stand: a mark on its root speaks for the whole layer, as
/// with fuse-overlayfs and containers/storage. If the root has several the first of [`OverrideKey::ALL`] counts.
fn owners(root: BorrowedFd<'_>) -> std::result::Result<Option<OverrideKey>, String> {
    for owners in OverrideKey::ALL {
        let value = xattr::get_at(root, c".", owners.key()).map_err(|errno| errno.to_string())?;
        let Some(value) = value else { continue };
        let stat = stat_fd(root).map_err(|errno| errno.to_string())?;
        let read = OverrideStat::parse(&value, (stat.mode, stat.rdev));
        return read
            .map(|_| Some(owners))
            .map_err(|malformed| format!("{}: {}", owners.key().to_string_lossy(), malformed.why));
    }
    Ok(None)
}

fn marked_wrongly(what: String, why: String) -> SetupError {
    SetupError::new(
        what,
        why,
        "its owners stand in that attribute: set it to UID:GID:MODE, as in 0:0:0755, or remove it",
    )
}

pub(super) fn open_upper(dirs: &UpperDirs, ground: &Ground) -> Setup<UpperRoots> {
    // Bits that were set through the view count in the view; `nosuid` is about files that others made.
    let upper = Root { nosuid: false, ..open_layer("upperdir", &dirs.dir)? };
    let work = open_layer("workdir", &dirs.work)?;
    let what = || format!("workdir={}", dirs.work.display());
    let stat = |fd: &OwnedFd| stat_fd(fd.as_fd()).map_err(|errno| SetupError::new(what(), errno.to_string(), ""));
    let (upper_stat, work_stat) = (stat(&upper.fd)?, stat(&work.fd)?);
    if upper_stat.dev != work_stat.dev {
        let reason = "it is not on the file system of upperdir";
        return Err(SetupError::new(what(), reason, "use an empty directory beside upperdir"));
    }
    let (upper_at, work_at) = (ground.spot(upper.fd.as_fd()), ground.spot(work.fd.as_fd()));
    if upper_stat.ino == work_stat.ino || upper_at.lies_in(&work_at) || work_at.lies_in(&upper_at) {
        let reason = "upperdir and workdir must not lie one in the other";
        return Err(SetupError::new(what(), reason, "use an empty directory beside upperdir"));
    }
    Ok(UpperRoots { upper, work: work.fd })
}

/// Opens the upper and the work directory in one clone of their mount, so that objects can be renamed between the two.
/// Overlaps are checked before: a clone has nothing above it.
pub(super) fn isolate_pair(dirs: &UpperDirs, UpperRoots { upper, work }: UpperRoots, read_only: bool) -> UpperRoots {
    let clone = || -> Option<(OwnedFd, OwnedFd)> {
        let (above, below) = (dirs.dir.canonicalize().ok()?, dirs.work.canonicalize().ok()?);
        let common: PathBuf = above.iter().zip(below.iter()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect();
        let clone = mount::clone_tree(open_root(&common).ok()?.as_fd(), read_only).ok()?;
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

pub(super) fn is_empty(root: BorrowedFd<'_>) -> Result<bool> {
    let fd = open_beneath(root, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut empty = true;
    dirent::read_dir(fd.as_fd(), &mut |entry| {
        // A fresh ext4 has this directory.
        empty &= entry.name.to_bytes() == b"lost+found";
        empty
    })?;
    Ok(empty)
}

/// File systems that find exactly the names that they list, but for directories with the flag `casefold`: ext2 to ext4,
/// XFS, btrfs, tmpfs, squashfs, EROFS, OverlayFS, f2fs, bcachefs. Others (vfat, NTFS, CIFS, NFS with `.snapshot`, FUSE)
/// may have names with several spellings, or names that no listing shows.
const EXACT_NAMES: [u64; 9] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x7371_7368, 0xe0f5_e1e2, 0x794c_7630, 0xf2f5_2010, 0xca45_1a4e];

/// File systems whose objects have exactly the extended attributes that they list, of all kinds: ext2 to ext4, XFS, btrfs,
/// f2fs. Others make some up (CIFS, Ceph, FUSE), or answer `EOPNOTSUPP` for some kinds (NFS, tmpfs before Linux 6.6).
const LISTS_ATTRIBUTES: [u64; 4] = [0xef53, XFS, 0x9123_683e, 0xf2f5_2010];

/// btrfs and bcachefs: each subvolume has a `st_dev` of its own.
pub(super) const SUBVOLUMES: [u64; 2] = [0x9123_683e, 0xca45_1a4e];
/// XFS has exact names unless it was made with `version=ci`.
const XFS: u64 = 0x5846_5342;

/// File systems that keep inode numbers on disk or on the server: ext2 to ext4, XFS, btrfs, tmpfs and ramfs, squashfs,
/// EROFS, f2fs, bcachefs, JFS, ZFS, UBIFS, ISO 9660, UDF, NFS, Ceph. Others (FUSE, vfat, exFAT, CIFS, OverlayFS, 9p)
/// may make up a number for as long as an object is known.
const LASTING_NUMBERS: [u64; 16] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x7371_7368,
    0xe0f5_e1e2,
    0xf2f5_2010,
    0xca45_1a4e,
    0x3153_464a,
    0x2fc1_2fc1,
    0x2405_1905,
    0x9660,
    0x1501_3346,
    0x6969,
    0x00c3_6400,
];

/// What the file handles of a layer are good for. They hold inode numbers if the root's handle holds the root's number.
fn handles(root: BorrowedFd<'_>) -> Handles {
    const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
    if statfs_fd(root).is_ok_and(|fs| fs.magic == FUSE_SUPER_MAGIC) {
        let plyfs = mount::fs_type(root).is_ok_and(|kind| kind.as_deref() == Some("fuse.plyfs"));
        return if plyfs { Handles::Plyfs } else { Handles::Passing };
    }
    let told =
        handle::handle_at(root, c".").ok().and_then(|handle| Origin::new(handle.kind, [0; 16], &handle.bytes)?.ino());
    if told.is_some() && told == stat_fd(root).ok().map(|stat| stat.ino) { Handles::Tell } else { Handles::Silent }
}
