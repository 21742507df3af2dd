//! The bytes of the marks in a layer and what they mean. Pure: no I/O and no policy.
//!
//! The values are those of the kernel's OverlayFS, of OCI layers and of fuse-overlayfs, so that either can go on with
//! what the other wrote.

pub mod acl;
pub mod blocks;
pub mod capability;
pub mod commits;
pub mod escape;
pub mod index_name;
pub mod journal;
pub mod mark;
pub mod metacopy;
pub mod nlink;
pub mod origin;
pub mod override_stat;
pub mod protattr;
pub mod redirect;
pub mod wh;

pub use blocks::BlocksMark;
pub use escape::{Naming, from_disk, to_disk};
pub use index_name::{index_name, parse_index_name};
pub use mark::{DEVICE_VALUE, LEGACY_OPAQUE, Mark, Namespace, Opacity, WhiteoutStyle};
pub use metacopy::{Algorithm, Digest, Metacopy};
pub use nlink::{Base, Nlink};
pub use origin::{Decoded, Origin};
pub use override_stat::{OverrideKey, OverrideStat, OverrideType};
pub use protattr::Protattr;
pub use redirect::Redirect;
pub use wh::{AufsName, whiteout_name};

/// The error for a mark with a value that it cannot have. The reader of the layer decides what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed mark {mark}: {why}")]
pub struct Malformed {
    /// The last part of its key, such as `origin`.
    pub mark: &'static str,
    /// What is wrong, in a few words.
    pub why: &'static str,
}
