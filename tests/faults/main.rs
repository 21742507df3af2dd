//! Causes of errors on real file systems and mounts: the caller gets the errno, the view is what it was, the mount lives, and
//! goes on when the cause is gone. The kernel's OverlayFS stands beside it, over the same file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod few;
mod lower;
mod renumbered;
mod stale;
mod table;
mod upper;
