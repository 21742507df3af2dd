//! What is read and looked at before a program asks for it.

pub mod guard;
mod order;
pub(in crate::fuse) mod prefetch;
mod push;
mod random;
pub(in crate::fuse) mod relist;
mod store;
pub(in crate::fuse) mod walk;
