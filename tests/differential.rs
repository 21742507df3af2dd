//! Random histories on the binary under test, and the same on the kernel's OverlayFS or on a model in memory: every
//! step has the same result, and the views are equal, also after a remount.
//!
//! `PLYFS_TEST_CASES` scales the number of histories (1 is a run of CI), `PLYFS_TEST_SEED` chooses others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
mod model;

use std::fmt::Write as _;

use common::*;
use model::layers::{self, Plan, build, plan, things};
use model::memory::Memory;
use model::real::Real;
use model::{Op, Step, Subject, history};

/// What is compared. The kernel without its index does not always know its own hard links, and where it is itself the
/// tested one, its d_ino is not judged (wrong after some renames and links, Linux 6.18).
fn walk(kernel: bool) -> Walk {
    let tested = mount::binary() == "kernel";
    let without_links = (kernel || tested) && who() == Who::Namespace;
    Walk { times: true, foreign: tested, without_links, ..Walk::default() }
}

/// How long a history is.
const LENGTH: usize = 60;

/// Results that are the kernel's own mistakes (Linux 6.18): fchmod of an unlinked lower file is EEXIST with the index, and
/// a copy-up after an exchange can be ESTALE; a rename that fails with ENOTEMPTY leaves its directory with a new time.
fn oracle_is_wrong(step: &Step, outcome: &model::Outcome) -> bool {
    match step {
        Step::HeldChmod(..) => matches!(outcome, Err(Errno::EXIST | Errno::STALE)),
        Step::Rename(..) => matches!(outcome, Err(Errno::NOTEMPTY | Errno::STALE)),
        _ => *outcome == Err(Errno::STALE),
    }
}

/// fstat of an unlinked lower file: the kernel (Linux 6.18) still shows the link that the layer has.
fn counts_a_dead_name(step: &Step, got: &model::Outcome, want: &model::Outcome) -> bool {
    let without = |outcome: &model::Outcome, links: &[u8]| {
        outcome.as_ref().ok().and_then(|text| text.strip_suffix(links).map(<[u8]>::to_vec))
    };
    let gone = without(got, b"links 0");
    matches!(step, Step::HeldStat(_)) && gone.is_some() && gone == without(want, b"links 1")
}

/// Runs the history on both; the error tells each step up to the one that went wrong. Returns false for a history that
/// ended early, because the oracle went wrong.
fn run(ops: &[Op], tested: &mut dyn Subject, oracle: &mut dyn Subject, walk: Walk) -> Result<bool, String> {
    let mut log = String::new();
    let compare = |tested: &dyn Subject, oracle: &dyn Subject, log: &str| {
        same(&tested.view(walk), &oracle.view(walk), &format!("{log}the views differ (tested, expected)"))
    };
    compare(tested, oracle, "at the start, ")?;
    for op in ops {
        let step = op.resolve(&oracle.known());
        let (got, want) = (tested.apply(&step), oracle.apply(&step));
        let short = |r: &model::Outcome| match r {
            Ok(bytes) if bytes.len() > 64 => format!("{} bytes", bytes.len()),
            Ok(bytes) => format!("ok {}", bytes.escape_ascii()),
            Err(e) => format!("{e:?}"),
        };
        let _ = writeln!(log, "{step:?} -> {}", short(&want));
        if oracle_is_wrong(&step, &want) {
            return Ok(false);
        }
        if got != want && !counts_a_dead_name(&step, &got, &want) {
            return Err(format!("{log}but the tested one: {}", short(&got)));
        }
        if step == Step::Compare {
            compare(tested, oracle, &log)?;
        }
    }
    compare(tested, oracle, &log)?;
    Ok(true)
}

fn same(one: &View, two: &View, what: &str) -> Result<(), String> {
    one.difference(two).map_or(Ok(()), |difference| Err(format!("{what}:\n{difference}")))
}

/// One history against the kernel's OverlayFS over a second copy of the layers.
fn against_kernel(plans: &[Plan], ops: &[Op]) -> Result<(), String> {
    let (mut stack, twin, walk) = (build(plans), build(plans), walk(true));
    if who() == Who::Namespace {
        // What the kernel refuses there.
        stack = stack.option("redirect_dir=off,metacopy=off,index=off");
    }
    let lowers: Vec<View> = stack.lowers.iter().map(|l| view::layer(l.root())).collect();
    let (mut mount, kernel) = (stack.mount(), oracle(&twin));
    let whole = run(ops, &mut Real::new(&mount), &mut Real::new(&kernel), walk)?;
    if whole {
        let before = View::of(&mount, walk);
        mount.remount();
        kernel.remount();
        let after = View::of(&mount, walk);
        same(&after, &before, "changed by the remount (after, before)")?;
        same(&after, &View::of(&kernel, walk), "after the remount (tested, kernel)")?;
        mount.unmount();
        kernel_reads(&stack, &before, walk)?;
    }
    drop(mount);
    for (layer, before) in stack.lowers.iter().zip(&lowers) {
        same(&view::layer(layer.root()), before, "a lower layer was changed (after, before)")?;
    }
    Ok(())
}

/// The kernel's OverlayFS to compare with. It goes without metacopy: it loses a file's time when one is opened for writing.
fn oracle(stack: &Stack) -> Kernel {
    let extra = if who() == Who::Root { "index=on,xino=on,redirect_dir=on" } else { "userxattr" };
    Kernel::with(&format!("{},{extra}", stack.layer_options("work")), &stack.scratch.dir("kernel")).unwrap()
}

/// The kernel's OverlayFS sees the same in the upper that the binary under test has written.
fn kernel_reads(stack: &Stack, before: &View, walk: Walk) -> Result<(), String> {
    let Some(kernel) = stack.mount_kernel() else {
        return Err("the kernel's OverlayFS does not mount the upper".into());
    };
    let seen = View::of(&kernel, Walk { foreign: true, ..walk });
    same(&seen, before, "the kernel's view of the same layers (kernel, before)")
}

/// One history against the model.
fn against_memory(plans: &[Plan], ops: &[Op]) -> Result<(), String> {
    let (stack, mut memory, walk) = (build(plans), Memory::new(plans), walk(false));
    let mut mount = stack.mount();
    run(ops, &mut Real::new(&mount), &mut memory, walk)?;
    mount.remount();
    same(&View::of(&mount, walk), &memory.view(walk), "after the remount (tested, model)")
}

type Check = fn(&[Plan], &[Op]) -> Result<(), String>;

fn check(cases: u64, links: bool, check: Check) {
    let drawn = (things(), history(LENGTH));
    let salt = env_number("PLYFS_TEST_SEED", 1); // the seeds of old still draw the same
    model::check(
        cases,
        salt,
        drawn,
        |(drawn, ops)| check(&plan(drawn, links), ops),
        |(drawn, _)| layers::words(&plan(drawn, links)),
    );
}

/// The kernel keeps hard links of a lower file together only with its index, which a user namespace does not get.
fn kernel_case(cases: u64, links: bool) {
    rustix::process::umask(0o022.into());
    if !Kernel::usable() {
        skip!("no kernel OverlayFS to compare with here");
    }
    if links && who() != Who::Root {
        skip!("the kernel's index needs root");
    }
    within(600 * env_number("PLYFS_TEST_CASES", 1), move || check(cases, links, against_kernel));
}

fn memory_case(cases: u64, links: bool) {
    rustix::process::umask(0o022.into());
    within(600 * env_number("PLYFS_TEST_CASES", 1), move || check(cases, links, against_memory));
}

#[test]
fn histories_agree_with_the_kernel() {
    kernel_case(40, false);
}

#[test]
fn histories_with_hard_links_in_lowers_agree_with_the_kernel() {
    kernel_case(40, true);
}

#[test]
fn histories_agree_with_a_model() {
    memory_case(40, false);
}

#[test]
fn histories_with_hard_links_in_lowers_agree_with_a_model() {
    memory_case(40, true);
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
