//! What the peers got wrong: one test for each of the eight headline bugs of fuse-overlayfs 2.0 (`headline`), and for what
//! runs with kills and hostile layers found in fuse-overlayfs 1.10 and 2.0 and in the kernel (the other modules).
//!
//! "Fails on" in a comment was seen on Linux 6.18: fo1 is fuse-overlayfs 1.10, fo2 is 2.0.0, kernel its OverlayFS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../common/mod.rs"]
mod common;

mod copy_up;
mod headline;
mod links;
mod marks;
mod open_files;
mod refusals;
mod removal;
mod special;

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
