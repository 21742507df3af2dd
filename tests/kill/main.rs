//! kill -9 of the daemon at random moments, while several threads change one view: after each, the view of a new mount is
//! what was acknowledged, and of the one change that each thread had begun, the state before it or the one after it.
//!
//! Nothing needs a sync for that but with `io=writeback`: a kill takes no page cache along. So the model in which each
//! thread keeps what was acknowledged (`tests/model`) is exact, and a lost byte, half a copy, a name that is back, or a
//! temporary file in the view are all differences from it.
//!
//! `PLYFS_KILL_ROUNDS` is the number of kills (10 in CI; two fifths of that without privilege), `PLYFS_TEST_SEED` draws
//! others, and `PLYFS_KILL_WAY=WORD` runs only the mount options with that word. On a peer
//! (`PLYFS_TEST_BIN=/usr/bin/fuse-overlayfs`) it goes on after a difference and counts them all.
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
#[path = "../model/mod.rs"]
mod model;

mod acts;
mod layers;
mod life;
mod verdict;
mod worker;

use common::{Who, env_number, legs, who, within};

#[test]
fn a_kill_of_the_daemon_leaves_each_change_before_or_after_and_loses_nothing_acknowledged() {
    rustix::process::umask(0o022.into());
    let rounds = env_number("PLYFS_KILL_ROUNDS", 10);
    let rounds = if who() == Who::Root { rounds } else { (rounds * 2).div_ceil(5) };
    within(120 + 20 * rounds, move || {
        let report = life::run(rounds);
        println!("{report}");
        assert!(report.wrong.is_empty(), "{} differences:\n{}", report.wrong.len(), report.wrong.join("\n"));
    });
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
