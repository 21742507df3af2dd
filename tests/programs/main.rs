//! Programs that trust their file system, on files that start in a lower layer: SQLite, git, a database of mapped pages,
//! PostgreSQL. The daemon is killed (-9) in the midst of a load of each but the last; after a new mount the program's own
//! check passes, and every commit that it had acknowledged is there.
//!
//! fuse-overlayfs writes pages of such a database to wrong places now and then (containers/fuse-overlayfs#475).
//! `PLYFS_PROGRAM_KILLS` is how often each is killed: 3 in CI.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unreachable
)]

#[path = "../common/mod.rs"]
mod common;

mod kills;
mod mapped;
mod postgres;
mod repository;
mod sqlite;

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}
