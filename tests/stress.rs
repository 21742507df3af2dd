//! Eight threads at once, each with files of its own and all in one shared directory; every file is compared with what
//! its thread remembers, and the view with the one after a remount.
//!
//! `PLYFS_STRESS_SECONDS` is the duration: 5 in CI, 60 for the full test. `PLYFS_TEST_SEED` chooses the histories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;

const THREADS: u64 = 8;
#[test]
fn eight_threads_then_a_remount() {
    let seconds = env_number("PLYFS_STRESS_SECONDS", 5);
    within(seconds + 120, move || {
        let stack = Stack::new(2);
        worker::layers(&stack, THREADS);
        let lowers: Vec<View> = stack.lowers.iter().map(|l| view::layer(l.root())).collect();
        let mut mount = stack.mount();
        let (deadline, failed, done) =
            (Instant::now() + Duration::from_secs(seconds), AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (tree, failed, done) = (&*mount, &failed, &done);
                let mut worker = worker::Worker::new(tree, number);
                scope.spawn(move || {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        while Instant::now() < deadline && !failed.load(Ordering::Relaxed) {
                            worker.step();
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        worker.check_all();
                    }));
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    result.unwrap();
                });
            }
        });
        println!("{} operations in {seconds} s", done.into_inner());
        let before = View::of(&mount, Walk { times: true, ..Walk::default() });
        before.assert_sound();
        mount.remount();
        let after = View::of(&mount, Walk { times: true, ..Walk::default() });
        after.assert_same(&before, "after the remount (after, before)");
        for (layer, before) in stack.lowers.iter().zip(&lowers) {
            view::layer(layer.root()).assert_same(before, "a lower layer (after, before)");
        }
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
