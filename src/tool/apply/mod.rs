//! Brings what the upper layer changes to the lower layer below it, and takes it out of the upper one.
//!
//! 1. *Plan* ([`Plan`]): the upper layer is walked, and nothing is changed. Conflicts are found here.
//! 2. *Stage* ([`Plan::stage`]): all that is new is made beside, in private directories of the lower layer. The layers
//!    are as they were; a stop leaves nothing but these directories, which the next apply removes.
//! 3. *Commit* ([`Staged::commit`]): the journal is written and synced. From here on each step is one rename that can be told
//!    to have been made or not by the inode number in the journal, so that all steps can be made again by whoever resumes.
//! 4. *Clean*: what was applied is taken out of the upper layer, when the lower one is on the disk.
//!
//! As long as the journal is there no overlay mounts the upper layer: it lies in `work/incompat`.

mod check;
mod clean;
mod commit;
mod journal;
mod links;
mod plan;
mod reach;
mod renames;
mod same;
mod select;
mod several;
mod since;
mod stage;

use std::path::PathBuf;

use super::change::path_of;
use crate::base::Errno;
use crate::merge::FoundLeaf;
use crate::sys::stat::{Stat, Time};

pub use commit::{Progress, Resumed, resume};
pub use journal::{has_begun, is_volatile};
pub use plan::Plan;
pub use reach::Dirs;
pub use stage::Staged;

/// A lower object that is not what the session began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its path in the view.
    pub path: PathBuf,
    /// What is the matter with it.
    pub why: &'static str,
    /// What would have to be left out with it.
    pub(super) unit: Vec<u8>,
}

/// Something that stands in the way of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The path in the view.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// What to do about it; may be empty.
    pub hint: &'static str,
    /// Something has changed below since the changes were planned.
    pub conflict: bool,
}

impl Refusal {
    fn new(path: &[u8], reason: impl Into<String>, hint: &'static str) -> Self {
        Self { path: path_of(path), reason: reason.into(), hint, conflict: false }
    }

    fn errno(path: &[u8], errno: Errno) -> Self {
        Self::new(path, errno.to_string(), "")
    }
}

/// Something of an object that could not be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The path in the view.
    pub path: PathBuf,
    /// In words: `owner 0:0`.
    pub what: String,
}

/// An object of the lower layer that goes, or in whose place another comes.
struct Old {
    id: reach::Id,
    stat: Stat,
}

/// What is done at a path of the view.
enum Act {
    /// An object that is no directory is put there.
    Leaf(Box<FoundLeaf>),
    /// A directory is made there.
    NewDir,
    /// An object of the lower layer is put there.
    Moved { was: Vec<u8>, id: reach::Id },
    /// The lower object gets the one attribute that has changed.
    Attribute(Box<FoundLeaf>),
    /// The lower object goes.
    Delete,
    /// The lower object goes elsewhere, and nothing comes in its place.
    Nothing,
}

struct Item {
    path: Vec<u8>,
    /// What is applied as a whole, or not at all: the topmost directory above that is new, renamed or replaced; else the
    /// object itself.
    unit: Vec<u8>,
    act: Act,
    old: Option<Old>,
    /// The nearest directory above that the lower layer has now, by its path there.
    ground: Vec<u8>,
    /// The directory that must go elsewhere before, by its path in the view.
    needs: Option<Vec<u8>>,
    /// The inode number of the lower directory that the object is in, if that is there now.
    parent: Option<u64>,
}

/// A directory that gets the attributes that the upper one has.
struct DirStep {
    path: Vec<u8>,
    unit: Vec<u8>,
    /// All of them; else the times only.
    all: bool,
    /// Its times below are others than those of the upper one.
    times: bool,
    /// It has changed below meanwhile, and keeps the times of that.
    later: bool,
    /// The lower directory that has a wider mode, the widest that it may have from the beginning, and its path there now.
    narrow: Option<(reach::Id, u32, Vec<u8>)>,
}

/// What is taken out of the upper layer, by its path there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Clean {
    /// An object that is no directory, or a whiteout.
    Name(Vec<u8>),
    /// A directory with all that is in it.
    Tree(Vec<u8>),
    /// A directory, if it is empty by then.
    Dir(Vec<u8>),
    /// The upper layer stands on the lower ones from now on, and on no commit.
    Stand,
    /// A commit.
    Commit(u64),
    /// An entry of the index.
    Index(Vec<u8>),
    /// A record of blocks.
    Record(Vec<u8>),
    /// A directory gets this mode: it is opened for this process, or gets its own mode back.
    Mode(Vec<u8>, u32),
    /// A directory that stays gets its times of before, access and modification, back.
    Times(Vec<u8>, [Time; 2]),
}

type Outcome<T> = std::result::Result<T, Refusal>;

/// Puts the path to what a system call says.
trait At<T> {
    fn at(self, path: &[u8]) -> Outcome<T>;
}

impl<T> At<T> for crate::base::Result<T> {
    fn at(self, path: &[u8]) -> Outcome<T> {
        self.map_err(|errno| Refusal::errno(path, errno))
    }
}
