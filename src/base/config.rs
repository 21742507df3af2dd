//! The settings of an engine: typed and resolved, no words of the command line.

use std::path::PathBuf;
use std::time::Duration;

/// All that [`crate::Union::open`] needs to know.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Lower layers, the topmost first; at least one.
    pub lowers: Vec<PathBuf>,
    /// Layers below those, whose files are reached by the absolute redirects of metacopy files only.
    pub data_only: Vec<PathBuf>,
    /// The writable layer; without one every change answers `EROFS`.
    pub upper: Option<UpperDirs>,
    /// When what is changed is on disk.
    pub fsync: Fsync,
    /// How inode numbers of several file systems are kept apart.
    pub xino: Xino,
    /// Inode numbers have 32 bits.
    pub ino32: bool,
    /// Marks are `user.overlay.*` even where the process could write `trusted.overlay.*`.
    pub userxattr: bool,
    /// `None`: on where the upper layer can hold it, else follow.
    pub redirect_dir: Option<RedirectDir>,
    /// `None`: on where the layers allow it.
    pub index: Option<bool>,
    /// `None`: on where the upper layer can hold it; what a layer has of them is then followed, too.
    pub metacopy: Option<bool>,
    /// Large files are copied up by blocks of this size, a power of two from 12 to 24.
    pub copyup_block: Option<u8>,
    /// Bytes a second of such files that are copied in the background.
    pub copyup_rate: u64,
    /// Whether the digests of metacopy files are checked.
    pub verity: Verity,
    /// Which identity the upper layer and the origins in it get.
    pub uuid: Uuid,
    /// POSIX ACLs are not interpreted.
    pub noacl: bool,
    /// Every directory shows a link count of 1.
    pub static_nlink: bool,
    /// The view honours set-user-id bits in the initial user namespace: then a layer on a `nosuid` mount gives none.
    pub suid_view: bool,
    /// How long the kernel may keep what it was told.
    pub timeouts: Timeouts,
    /// About so many names of a directory are in memory while it is listed; `None`: 262,144.
    pub names_at_once: Option<usize>,
}

/// The writable layer and its work directory, on one file system.
#[derive(Debug, Clone)]
pub struct UpperDirs {
    /// `upperdir`
    pub dir: PathBuf,
    /// `workdir`
    pub work: PathBuf,
}

/// What is synced, and when (the kernel's `fsync=` option).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fsync {
    /// A copied file's data is on disk before its name appears.
    #[default]
    Auto,
    /// As `Auto`, and also metadata-only changes and the directories on the way.
    Strict,
    /// Nothing is synced, not even by fsync(2).
    Volatile,
}

/// `xino=`: numbers are unique within the mount in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Xino {
    /// Only the first file system keeps its own numbers; others get numbers that last as long as the mount.
    Off,
    /// The file system's index goes into the high bits where there is room.
    #[default]
    Auto,
    /// As `Auto`, and the mount is refused where there is no room.
    On,
}

/// `redirect_dir=`: whether a directory that has lower parts can be renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectDir {
    /// It can; the mark `redirect` says where its lower parts are.
    On,
    /// It cannot (`EXDEV`), but what a layer has of such marks is followed.
    Follow,
    /// It cannot, and an object with such a mark is refused (`EPERM`).
    NoFollow,
}

/// `verity=`: whether a metacopy file's digest is compared with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verity {
    /// It is not looked at.
    #[default]
    Off,
    /// It is checked where there is one, and written where the lower file has fs-verity.
    On,
    /// A metacopy file without one is refused (`EIO`); a file without fs-verity is copied up whole.
    Require,
}

/// `uuid=`: which identities are written into the upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uuid {
    /// None at all: origins do not say on which file system they are.
    Off,
    /// The upper layer gets none of its own.
    Null,
    /// The upper layer keeps the one it has; a fresh one gets one.
    #[default]
    Auto,
    /// The upper layer has one in any case.
    On,
}

/// How long the kernel may trust its caches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Attributes.
    pub attr: Duration,
    /// Names that exist.
    pub entry: Duration,
    /// Names that do not exist.
    pub negative: Duration,
}

impl Timeouts {
    /// Layers do not change underneath, so that nothing needs to be asked twice (about 136 years).
    pub const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { attr: Self::FOREVER, entry: Self::FOREVER, negative: Self::FOREVER }
    }
}
