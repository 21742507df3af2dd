//! What a mount must hold: many names, many files open, deep trees, crowds, little memory, and clients that are killed.
//!
//! `PLYFS_LOAD_SCALE` makes it larger: 1 in CI; `figures.rs` says what the full sizes are.
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

mod crowds;
mod depth;
mod descriptors;
mod endings;
mod interrupts;
mod listing;
mod memory;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::stack::Layer;
use common::{Mount, Scratch, Stack, env_number};

/// How many times the size that CI has.
pub fn scale() -> u64 {
    env_number("PLYFS_LOAD_SCALE", 1).max(1)
}

/// A stack whose layers are in memory where that goes: what is measured here is not the disk.
pub fn stack(lowers: usize) -> Stack {
    let scratch = Scratch::in_memory();
    Stack {
        lowers: (0..lowers).map(|i| Layer::new(scratch.dir(&format!("lower{i}")))).collect(),
        upper: Some(Layer::new(scratch.dir("upper"))),
        merged: scratch.dir("merged"),
        options: Vec::new(),
        scratch,
    }
}

/// Mounts a stack with its options by a shell that first runs `before` (limits).
pub fn mount_after(stack: &Stack, before: &str, more: &str) -> Mount {
    let script = stack.scratch.path().join("limited");
    let text = format!("#!/bin/sh\n{before}\nexec '{}' \"$@\"\n", Path::new(&common::mount::binary()).display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut options = stack.layer_options("work");
    for option in stack.options.iter().map(String::as_str).chain([more]).filter(|option| !option.is_empty()) {
        options = format!("{options},{option}");
    }
    let log = stack.scratch.path().join("log");
    Mount::by(OsString::from(script), &options, &stack.merged, &log).unwrap()
}

/// A number of `/proc/PID/status`, in KiB where it is one of memory.
pub fn status_of(mount: &Mount, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", mount.pid().unwrap().as_raw_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// How long the daemon has had a processor: what does not depend on who else wants one.
pub fn processor_time(mount: &Mount) -> std::time::Duration {
    let tasks = format!("/proc/{}/task", mount.pid().unwrap().as_raw_pid());
    let stats = std::fs::read_dir(tasks).unwrap().filter_map(|task| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).ok()?;
        // What the keeper takes is what nobody else wants.
        (!stat.contains("(keeper)")).then_some(stat)
    });
    let ticks = |stat: String| -> u64 {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum()
    };
    // In hundredths of a second on every Linux.
    std::time::Duration::from_millis(stats.map(ticks).sum::<u64>() * 10)
}

/// How many descriptors the daemon has open.
pub fn descriptors_of(mount: &Mount) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", mount.pid().unwrap().as_raw_pid())).unwrap().count()
}

/// The ways that data can go here.
pub fn ways() -> Vec<&'static str> {
    let ways = ["io=stateless", "io=writeback", "copyup=open", "io=passthrough"];
    ways.into_iter().filter(|way| common::is_offered(way)).collect()
}
