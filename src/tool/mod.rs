//! What can be said of layers by looking at them: no mount, no inodes. Nothing is changed but by [`apply`],
//! and new layers are made by [`squash`], by which [`convert`] writes one in another form.
//!
//! Whoever opens the layers hands them in as [`Layers`]: [`crate::union::look`]. A daemon may serve them meanwhile, so
//! that a name that is gone by the time it is looked at is no error.

pub mod apply;
pub(crate) mod beside;
mod change;
pub(crate) mod check;
mod compare;
mod content;
pub(crate) mod convert;
mod count;
mod diff;
pub mod du;
pub mod export;
pub mod import;
mod renamed;
mod source;
pub(crate) mod squash;
mod weight;
mod whereabouts;

pub use crate::merge::Layers;
pub use crate::sys::stat::Kind;
pub use change::{Change, Diff, Letter, Sizes, Summary, Trouble, What};
pub use content::{Content, Side, read};
pub use diff::{How, diff};
pub use du::{Du, Large, Weighed, du};
pub use weight::{Weight, weigh_upper};
pub use whereabouts::{Gives, Hider, Part, Role, Whereabouts, whereabouts};
