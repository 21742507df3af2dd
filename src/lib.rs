//! plyfs: a union (overlay) file system in user space.
//!
//! Read-only *lower* layers and one writable *upper* layer become one directory. A path is looked up from the top
//! layer down, a file is copied up on its first change, and a deleted lower name is hidden by a whiteout.
//!
//! The engine ([`Union`]) works on real directories and needs no mount; [`fuse`] serves one to the kernel.
//!
//! # Floors
//! Imports point downwards only (`tests/house.rs` checks it):
//!
//! ```text
//! cli      options, commands, messages
//! fuse     the adapter for fuser; the mount
//! union    the operations, one file a verb
//! inode    the live inodes, their numbers, the locks     merge   what is seen
//! upper    the only code that changes a layer            layer   one layer as it stands
//! format   bytes <-> meaning of the marks                sys     system calls, the only unsafe
//! base     errors, names, settings
//! ```

pub mod base;
pub mod cli;
pub mod format;
pub mod fuse;
mod inode;
mod layer;
mod merge;
pub mod sys;
pub mod union;
mod upper;

pub use base::{Errno, Name};
pub use union::{SetupError, Union};
