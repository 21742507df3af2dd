//! One layer as it stands on disk: its directories and their descriptors, the objects in them and their marks.
//!
//! Nothing here knows of the union: a layer's role is its position in a stack, which floors above hold.

mod fd_cache;
mod list;
mod marks;
mod place;

pub use fd_cache::{Evict, FdCache};
pub use list::list_names;
pub use marks::{DirMarks, LookedUp, look_up, read_dir_marks, read_leaf_marks};
pub use place::{DirPlace, Place};

use std::sync::Arc;

use crate::format::mark::{Namespace, WhiteoutStyle};

/// What is the same for everything in one layer.
#[derive(Debug)]
pub struct Layer {
    /// For messages.
    pub path: std::path::PathBuf,
    /// Identifier of the root's file system (zero where it has none).
    pub uuid: [u8; 16],
    /// Objects of this layer give no set-user-id, set-group-id or file capability.
    pub nosuid: bool,
    /// `.wh.` names are whiteouts here (not in a layer of overlay style, where a user may make such a name).
    pub wh_names: bool,
    /// The layer is the upper one, and how it hides names.
    pub upper_style: Option<WhiteoutStyle>,
    /// The root is a private clone of the mount: no other mount can lie below it.
    pub isolated: bool,
    /// The namespace whose marks come first.
    pub namespace: Namespace,
    /// The union's bounded set of open descriptors.
    pub fds: Arc<FdCache>,
}
