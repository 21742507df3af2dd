//! Owners under `uidmapping=` and `gidmapping=`, and under the `squash_to_` options: what is shown, what is set, and what is
//! refused. The kernel's OverlayFS over idmapped layers, where it can be had, answers the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod acls;
mod maps;
mod squash;
mod unprivileged;

use common::*;

/// Owner and group of an object.
fn ids(tree: &Tree, path: &str) -> (u32, u32) {
    let stat = tree.stat(path).unwrap();
    (stat.st_uid, stat.st_gid)
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
