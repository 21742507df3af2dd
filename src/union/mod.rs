//! The operations of the union, one file for each verb. Each is a method of [`Union`] that serves one kind of request
//! of a file system.
//!
//! Every change follows one pattern: load the view, *prepare* (copy up, stage; no names are locked), *lock* the names,
//! *revalidate*, *publish* by one system call, *update* the live state, unlock. An operation that fails for want of
//! descriptors is tried once more, in one place (`again.rs`).

mod again;
mod ahead;
mod anew;
mod attr;
mod blocks;
mod cached;
mod change;
mod closed;
mod copy_up;
mod covered;
mod create;
mod dir;
mod fit;
mod ground;
mod identity;
mod in_use;
mod indexed;
mod indexing;
mod io;
mod ioctl;
mod joining;
mod link;
mod long;
mod look;
mod lookup;
mod marked;
mod metacopy;
mod moving;
mod open;
mod overlap;
mod owners;
mod past;
mod protect;
mod refusal;
mod remove;
mod rename;
mod resent;
mod restack;
mod restore;
mod rivals;
mod roots;
mod setup;
mod side;
mod strangers;
mod sync;
mod types;
mod xattr;

pub use crate::base::{ViewGid, ViewUid};
pub use crate::format::commits::number as commit_number;
pub(crate) use crate::format::mark::{Namespace, WhiteoutStyle};
pub use crate::inode::{InodeId, Journal};
pub use crate::sys::stat::{Kind, SetTime, StatFs, Time};
pub use crate::sys::tree::RenameFlags;
pub use crate::upper::remove as remove_tree;
pub(crate) use anew::{Form, anew};
pub use blocks::{Completed, Tender};
pub use cached::Held;
pub use change::Notices;
pub use create::{Make, symlink_target};
pub use dir::{DirSink, ListedEntry};
pub use io::{Seek, WriteHow};
pub use long::Operation;
pub(crate) use look::marks_on;
pub use look::{Range, gather, gather_at_all, hold, look, look_at_all, look_between};
pub use open::OpenHow;
pub use refusal::SetupError;
pub use restack::{
    Done, Entered, Exchange, LayerChange, LayerPlace, Live, Log, Logged, Long, Record, Step, log_of, step_together,
};
pub use rivals::{Rivals, written};
pub use setup::Builder;
pub(crate) use setup::may_write_trusted;
pub use types::{Attr, Caller, Entry, SetAttr};

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use crate::base::config::{Fsync, Timeouts, XattrPermissions};
use crate::base::sync::RwLock;
use crate::base::{Errno, Result};
use crate::inode::{Inode, Table, Topology};
use crate::layer::{DirPlace, FdCache};
use crate::merge::{CookieKey, Stack};
use crate::upper::Upper;

/// What came of the options that depend on what the layers can do, in the words of the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect {
    /// `on`, `follow` or `nofollow`.
    pub redirect_dir: &'static str,
    /// With an upper layer: a change of metadata copies no data. Without one: metacopy files of the layers are shown.
    pub metacopy: bool,
    /// An index keeps the names of a copied-up hard link together.
    pub index: bool,
    /// The prefix of the extended attributes that hold the upper layer's marks, or `none`; without an upper layer, of
    /// those that are followed in the lower layers.
    pub marks: &'static str,
    /// The form of whiteouts in the upper layer: `device`, `xattr`, `wh`, or `none`.
    pub whiteouts: &'static str,
    /// Owners and modes of the upper layer are written as attributes: `1` for `security.*`, `2` for `user.*`.
    pub xattr_permissions: Option<&'static str>,
}

/// A union of layers, ready to serve: the engine. It needs no mount.
///
/// Objects are named by inode number. A number that [`lookup`](Self::lookup), [`make`](Self::make) or
/// [`link`](Self::link) gave out stays valid until [`forget`](Self::forget) takes it back.
///
/// ```
/// use plyfs::union::{Caller, DirSink, InodeId, ListedEntry, Make};
/// use plyfs::{Name, Union};
///
/// struct Names(Vec<String>);
///
/// impl DirSink for Names {
///     fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
///         self.0.push(String::from_utf8_lossy(entry.name).into_owned());
///         true
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let base = tempfile::tempdir()?;
/// # let [lower, upper, work] = ["lower", "upper", "work"].map(|dir| base.path().join(dir));
/// # for dir in [&lower, &upper, &work] {
/// #     std::fs::create_dir(dir)?;
/// # }
/// std::fs::write(lower.join("old"), "")?;
/// let union = Union::builder().lower(&lower).upper(&upper, &work).build()?;
/// let caller = Caller::this_process();
///
/// let made = union.make(&caller, InodeId::ROOT, &Name::new(b"new")?, Make::Dir { mode: 0o755 })?;
/// union.unlink(&caller, InodeId::ROOT, &Name::new(b"old")?)?;
///
/// let mut names = Names(Vec::new());
/// union.readdir(InodeId::ROOT, 0, false, &mut names)?;
/// names.0.sort();
/// assert_eq!(names.0, [".", "..", "new"]);
/// assert!(lower.join("old").exists(), "a whiteout in the upper layer hides it");
/// union.forget(made.id, 1);
/// # Ok(())
/// # }
/// ```
pub struct Union {
    /// It outlives a change of the layers, as all that is behind an [`Arc`].
    table: Arc<Table>,
    /// The lower layers, as lookups need them.
    stack: Stack,
    upper: Option<Upper>,
    /// `workdir/work`, in which unlinked files live while somebody holds them.
    work: Option<Arc<DirPlace>>,
    /// The root of the topmost layer, for `statfs`.
    top: Arc<DirPlace>,
    fds: Arc<FdCache>,
    cookies: CookieKey,
    listings: dir::ListingCache,
    ahead: ahead::Ahead,
    /// Lock order: `inode/locks.rs`.
    topology: RwLock<Topology>,
    owners: Arc<owners::Owners>,
    noacl: bool,
    noxattrs: bool,
    asked_for_acls: bool,
    static_nlink: bool,
    by_blocks: blocks::ByBlocks,
    timeouts: Timeouts,
    /// About how many names of one directory may be in memory while it is listed.
    names_at_once: usize,
    notices: Arc<OnceLock<Box<dyn Notices>>>,
    /// Where changes of the live state are written down, for a mount that is to outlive this process.
    journal: Option<Arc<Journal>>,
    notes: Vec<String>,
    /// What commits and their like need.
    stands: restack::Stands,
    /// Another union goes on with its live state.
    superseded: AtomicBool,
    /// What is known of the names of copied-up hard links.
    linked: restack::Linked,
    /// Counts what may have made or moved a file whose data is in the layers below, once it is done.
    stirred: AtomicU64,
    /// A commit has frozen a layer of which not all may be on disk.
    unsynced: AtomicBool,
}

impl Union {
    /// A builder over [`Config`](crate::config::Config).
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What does not fully work with these layers, one line for each finding.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What came of the options that depend on what the layers can do.
    pub fn effect(&self) -> Effect {
        let (upper, stack) = (self.upper.as_ref(), &self.stack);
        Effect {
            redirect_dir: match upper.is_some_and(|upper| upper.redirect) {
                true => "on",
                false if stack.follow_redirect => "follow",
                false => "nofollow",
            },
            metacopy: upper.map_or(stack.follow_metacopy, |upper| upper.metacopy),
            index: stack.index.is_some(),
            marks: match upper.map_or_else(|| Some(stack.lowers.first()?.place.layer.believed), Upper::namespace) {
                Some(Namespace::Trusted) => "trusted.overlay",
                Some(Namespace::User) => "user.overlay",
                None => "none",
            },
            whiteouts: match upper.map(|upper| upper.style) {
                Some(WhiteoutStyle::Device) => "device",
                Some(WhiteoutStyle::Xattr) => "xattr",
                Some(WhiteoutStyle::File) => "wh",
                None => "none",
            },
            xattr_permissions: match upper.and_then(Upper::owners) {
                Some(owners) => Some(owners.option().value()),
                None => upper.and_then(Upper::carried).map(|_| XattrPermissions::Parents.value()),
            },
        }
    }

    /// How long the kernel may keep attributes and names in its caches.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Whether POSIX ACLs are interpreted.
    pub fn has_acls(&self) -> bool {
        !self.noacl
    }

    /// Whether the kernel is to ask for ACLs in any case, as only then it checks modes.
    pub fn is_asked_for_acls(&self) -> bool {
        self.asked_for_acls || self.has_acls()
    }

    /// Whether the union has an upper layer; else every change answers `EROFS`.
    pub fn is_writable(&self) -> bool {
        self.upper.is_some()
    }

    /// How many inodes are live, the root included.
    pub fn live_inodes(&self) -> usize {
        self.table.len()
    }

    /// The live inode with a number that was given out; `ESTALE` if there is none.
    fn inode(&self, id: InodeId) -> Result<Arc<Inode>> {
        self.table.get(id).ok_or(Errno::ESTALE)
    }

    /// The upper layer; `EROFS` if there is none.
    fn upper(&self) -> Result<&Upper> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    /// Whether the union may remember what the layers have. A finite timeout says that they may change underneath.
    pub fn layers_stay(&self) -> bool {
        let Timeouts { attr, entry, negative } = self.timeouts;
        [attr, entry, negative].iter().all(|timeout| *timeout == Timeouts::FOREVER)
    }

    /// Notes that something is done that may have made or moved a file whose data is in the layers below.
    fn stir(&self) {
        self.stirred.fetch_add(1, SeqCst);
    }

    fn stirred(&self) -> u64 {
        self.stirred.load(SeqCst)
    }

    /// Whether nothing is ever synced.
    fn is_volatile(&self) -> bool {
        self.upper.as_ref().is_none_or(|upper| upper.fsync == Fsync::Volatile)
    }
}
