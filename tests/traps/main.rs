//! The traps of FUSE and of this kind of file system that cost others days: a test for each, by what it is about.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod chain;
mod errors;
mod layout;
mod listing;
mod narrow;
mod numbers;
mod permissions;

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
