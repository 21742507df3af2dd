//! Commits: the upper layer becomes a read-only layer beneath an empty one, and the view goes on with it; and the ways back
//! (undo) and forward (redo).
//!
//! On disk a step is one exchange of names (`upper/commits.rs`). In memory another [`Union`] takes over: it has a stack of
//! its own and the same live inodes, which are told where they are now. No request is under way meanwhile, which is what
//! [`Live`] is for: it holds the union that is served.

mod aliases;
mod back;
mod beneath;
mod data;
mod disk;
mod labels;
mod layers;
mod live;
mod mounted;
mod paths;
mod plan;
mod record;
mod returned;
mod swap;

pub(super) use aliases::Linked;
pub use disk::{Log, Logged, log_of};
pub use layers::{LayerChange, LayerPlace};
pub use live::{Entered, Live, Long, step_together};
pub use record::{Exchange, Record};

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::joining::Places;
use super::roots::Common;
use crate::base::config::Config;
use crate::format::mark::Namespace;
use crate::layer::HiddenDir;

/// A step in the history of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Freezes what has changed.
    Commit {
        /// What is said of it.
        text: Vec<u8>,
    },
    /// Back to a commit; `None`: back by one.
    Undo {
        /// Its number; 0: the lower layers as they are.
        to: Option<u64>,
    },
    /// Single paths, from the root of the view on, back to what they were at the last commit.
    UndoPaths {
        /// The paths.
        paths: Vec<Vec<u8>>,
    },
    /// Forward by one, after an undo.
    Redo,
    /// Other lower layers below the same changes.
    Layers(LayerChange),
}

/// What has come of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The commit that was made; `None`: there was nothing to keep.
    pub made: Option<u64>,
    /// The commit that the view stands on now; 0: the lower layers.
    pub on: u64,
    /// Paths that were taken back are there again.
    pub returned: bool,
}

/// What commits need of how the union was set up.
pub(super) struct Stands {
    pub config: Config,
    /// The commits that the upper layer stands on, the topmost first: the first lower layers are theirs.
    pub frozen: Vec<u64>,
    /// The directories that lower layers do not show: the upper one is the first.
    pub written: Arc<[HiddenDir]>,
    /// The work directory; `None`: there is no upper layer.
    pub workdir: Option<OwnedFd>,
    /// The namespace of the marks that are believed.
    pub own: Namespace,
    /// What all layers have in common.
    pub common: Common,
    /// The locks on the upper and the work directory, which a view keeps even where it became read-only.
    pub locks: Vec<OwnedFd>,
    /// Where the directories were when the union was set up.
    pub places: Places,
}
