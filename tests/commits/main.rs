//! Commits, undo and redo: random histories on live mounts, a kill at each step, hostile marks, and programs that go on
//! meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/engine.rs"]
mod engine;
#[path = "../model/mod.rs"]
mod model;

mod around;
mod below;
mod blocks;
mod crash;
mod histories;
mod hostile;
mod kept;
mod layers;
mod links;
mod live;
mod modes;
mod paths;
mod relayered;
mod sessions;
mod words;

use std::path::Path;
use std::process::Command;

use common::mount::binary;

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user_in_memory();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace_in_memory();
}

/// What a command says on standard output, or, where it fails, on standard error.
fn plyfs(args: &[&str]) -> Result<String, String> {
    let out = Command::new(binary()).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
}

/// A command about the view at `at`.
fn about(command: &str, at: &Path) -> Result<String, String> {
    plyfs(&[command, at.to_str().unwrap()])
}
