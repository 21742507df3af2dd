//! A layer in another form: what it says is the same, and stands in other marks and whiteouts.
//!
//! The new layer is made as [`super::squash`] makes one, of the topmost layer of a stack only. Here is what other union file
//! systems have in a layer beside its objects.

mod dialect;
mod meanwhile;

pub use dialect::Dialect;
pub use meanwhile::Meanwhile;
