//! The settings of an engine: typed and resolved, without words of the command line.

use std::path::PathBuf;
use std::time::Duration;

pub use super::id_map::{IdMap, Shown};

/// All that [`crate::Union::open`] needs to know.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Lower layers, the topmost first; at least one.
    pub lowers: Vec<PathBuf>,
    /// Data-only layers below the lower ones: their files are reached only by the absolute redirects of metacopy files.
    pub data_only: Vec<PathBuf>,
    /// The writable layer; without one every change answers `EROFS`.
    pub upper: Option<UpperDirs>,
    /// What is synced, and when.
    pub fsync: Fsync,
    /// How inode numbers of several file systems are kept apart.
    pub xino: Xino,
    /// Inode numbers have 32 bits.
    pub ino32: bool,
    /// Marks are `user.overlay.*` even where the process could write `trusted.overlay.*`.
    pub userxattr: bool,
    /// Whether directories with lower parts can be renamed. `None`: on where the upper layer can hold the marks, else
    /// follow.
    pub redirect_dir: Option<RedirectDir>,
    /// Whether an index keeps copied-up hard links together. `None`: on where the layers allow it.
    pub index: Option<bool>,
    /// Whether a change of metadata leaves the data below. `None`: on where the upper layer can hold the marks;
    /// metacopy files of the layers are then followed, too.
    pub metacopy: Option<bool>,
    /// What is not said of redirects and metacopy is off, and what the layers have of them is followed: other programs that
    /// know no such marks read the upper layer, too.
    pub plain: bool,
    /// Large files are copied up by blocks of this size in bytes, as a power of two from 12 to 24; `None`: they are
    /// copied whole.
    pub copyup_block: Option<u8>,
    /// Bytes of such files that are copied in the background each second.
    pub copyup_rate: u64,
    /// Whether the digests of metacopy files are checked.
    pub verity: Verity,
    /// Which UUIDs are written into the upper layer and the origins in it.
    pub uuid: Uuid,
    /// How users are shown.
    pub uids: Shown,
    /// How groups are shown.
    pub gids: Shown,
    /// Where owners and modes of the upper layer are written, if its root does not say so. `None`: on the objects
    /// themselves.
    pub xattr_permissions: Option<XattrPermissions>,
    /// POSIX ACLs are not interpreted.
    pub noacl: bool,
    /// There are no extended attributes (`EOPNOTSUPP`); a copy-up keeps those of the layers.
    pub noxattrs: bool,
    /// The kernel was mounted to ask nobody for permission, and checks modes only where it asks for ACLs: with `noacl`
    /// there is none.
    pub asked_for_acls: bool,
    /// Every directory shows a link count of 1.
    pub static_nlink: bool,
    /// The view honours set-user-id bits in the initial user namespace, so that files of a layer on a `nosuid` mount
    /// must show none.
    pub suid_view: bool,
    /// The daemon can make what counts in the initial user namespace. So a mark that somebody else may have written must
    /// give no set-user-id, no capability and no device, whatever the flags of the mount are: those can be changed, and a
    /// copy in the upper layer is outside of the mount.
    pub doubts_marks: bool,
    /// Whether names that begin with `.wh.` are whiteouts in the topmost layer, which is only read. `None`: its root tells.
    pub wh_names: Option<bool>,
    /// How long the kernel may keep attributes and names in its caches.
    pub timeouts: Timeouts,
    /// About how many names of one directory may be in memory while it is listed; `None`: 262,144.
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
    /// It can be renamed; the mark `redirect` says where its lower parts are.
    On,
    /// It cannot be renamed (`EXDEV`), but such marks of a layer are followed.
    Follow,
    /// It cannot be renamed, and an object with such a mark is refused (`EPERM`).
    NoFollow,
}

/// `verity=`: whether a metacopy file's digest is compared with its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verity {
    /// The digest is not looked at.
    #[default]
    Off,
    /// A digest is checked if a mark has one, and written if the lower file has fs-verity.
    On,
    /// A metacopy file without a digest is refused (`EIO`); a file without fs-verity is copied up whole.
    Require,
}

/// `xattr_permissions=`: the attribute that holds owner, mode and type of each object of the upper layer, and so does on
/// the layer's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrPermissions {
    /// `security.fuseoverlayfs.override_stat`, which takes an administrator (`1`).
    Security,
    /// `user.containers.override_stat` (`2`).
    Containers,
    /// The same, and only of directories that are copied up for what changes in them and whose owner the daemon cannot
    /// give to a copy (`parents`): all else has its owner itself.
    Parents,
}

impl XattrPermissions {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Security, Self::Containers, Self::Parents];

    /// The option's value.
    pub const fn value(self) -> &'static str {
        match self {
            Self::Security => "1",
            Self::Containers => "2",
            Self::Parents => "parents",
        }
    }
}

/// `uuid=`: which UUIDs are written into the upper layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Uuid {
    /// None: origins do not say on which file system the lower object is.
    Off,
    /// The upper layer gets no UUID of its own.
    Null,
    /// The upper layer keeps its UUID; a fresh layer gets one.
    #[default]
    Auto,
    /// The upper layer gets a UUID if it has none.
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
    /// About 136 years: layers do not change underneath, so that the kernel need not ask twice.
    pub const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { attr: Self::FOREVER, entry: Self::FOREVER, negative: Self::FOREVER }
    }
}
