//! Kernels that lack something: each newer call and ability of FUSE is taken away (`PLYFS_ABSENT`), one after the other and
//! all at once, and what is written without them is what is written with them. Real old kernels boot
//! with `tests/suites/kernels.sh`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod absent;
mod refused;
mod uuid;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;

use common::*;

/// The binary under test on a kernel that lacks this.
fn without(scratch: &Scratch, words: &str) -> OsString {
    let script = scratch.fresh("without").join("plyfs");
    let text = format!("#!/bin/sh\nPLYFS_ABSENT={words} exec {} \"$@\"\n", mount::binary().to_string_lossy());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    script.into()
}

/// Mounts a stack so, with the workdir `work`.
fn mount_without(stack: &Stack, words: &str, more: &str) -> Mount {
    let options = format!("{}{more}", stack.layer_options("work"));
    let log = stack.scratch.path().join("log");
    Mount::by(without(&stack.scratch, words), &options, &stack.merged, &log)
        .unwrap_or_else(|why| panic!("without {words}: {why}"))
}
