//! Layers written by one union and read by another: plyfs and the kernel's OverlayFS, both ways, and plyfs by itself over
//! remounts. Random histories (`histories`) and the cases that the format is made of (`directories`, `files`). And the
//! layers that fuse-overlayfs writes, read by plyfs (`fuse_overlayfs`).
//!
//! With `PLYFS_TEST_BIN=kernel` the kernel takes turns with itself: a test of these tests, in which nothing may differ.
//!
//! `PLYFS_TEST_CASES` scales the number of histories (1 is a run of CI), `PLYFS_TEST_SEED` chooses others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../model/mod.rs"]
mod model;

mod directories;
mod files;
mod fuse_overlayfs;
mod histories;
mod namespaces;
mod owners;
mod side;
mod table;

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
