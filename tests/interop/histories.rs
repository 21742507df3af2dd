//! Random histories: one under A, then the same layers under B, which must show what A showed; another under B, and A
//! must show that.

use std::fmt::Write as _;

use crate::common::*;
use crate::model::layers::{self, Plan, build, plan, things};
use crate::model::real::Real;
use crate::model::{self, How, Known, Op, Step, Subject, changes};
use crate::side::*;

/// How long each of the two histories is.
const LENGTH: usize = 30;

/// Mounts, compares the view with the one that another mount has shown, goes on with `ops`, and unmounts. Returns the
/// view at the end.
pub fn turn(
    side: Side,
    stack: &Stack,
    expected: Option<&View>,
    ops: &[Op],
    walk: Walk,
    log: &mut String,
) -> Result<View, String> {
    let live = side.mount(stack, "work").map_err(|why| format!("{log}{why}"))?;
    let mut view = None;
    if let Some(expected) = expected {
        let seen = View::of(&live, walk);
        same(&seen, expected, &format!("{log}then {side:?} shows another tree (now, before)"))?;
        view = Some(seen);
    }
    if !ops.is_empty() {
        let _ = writeln!(log, "under {side:?}:");
        let mut subject = Real::new(&live);
        let mut known = subject.known();
        for op in ops {
            let step = op.resolve(&known);
            if step == Step::Nothing
                || (matches!(side, Side::FuseOverlayfs { .. }) && breaks_fuse_overlayfs(&step, &known))
            {
                continue;
            }
            match subject.apply(&step) {
                Ok(_) => {
                    let _ = writeln!(log, "  {step:?}");
                    if step.changes_names() {
                        known = subject.known();
                    }
                }
                // What may fail is another suite's subject.
                Err(e) => drop(writeln!(log, "  {step:?} fails: {e}")),
            }
        }
        view = None;
    }
    let view = view.unwrap_or_else(|| View::of(&live, walk));
    if !view.wrong.is_empty() {
        return Err(format!("{log}{side:?} shows what no tree may show: {:#?}", view.wrong));
    }
    live.unmount().map_err(|why| format!("{log}{why}"))?;
    Ok(view)
}

/// What fuse-overlayfs does not bring into the layer: that a directory was renamed.
fn breaks_fuse_overlayfs(step: &Step, known: &Known) -> bool {
    let is_dir = |path: &String| known.dirs.contains(path);
    matches!(step, Step::Rename(from, to, how) if is_dir(from) || (*how == How::Exchange && is_dir(to)))
}

/// Under A, under B, under A.
fn take_turns(a: Side, b: Side, plans: &[Plan], first: &[Op], second: &[Op]) -> Result<(), String> {
    let stack = build(plans);
    let before = lowers(&stack);
    // The kernel knows all names of a file with its index only.
    let without_links = [a, b].contains(&KERNEL_PLAIN);
    let mut log = String::new();
    let view = turn(a, &stack, None, first, a.walk(without_links), &mut log)?;
    let view = turn(b, &stack, Some(&view), second, b.walk(without_links), &mut log)?;
    turn(a, &stack, Some(&view), &[], a.walk(without_links), &mut log)?;
    unchanged(&stack, &before).map_err(|why| format!("{log}{why}"))
}

/// `cases` histories with A and B; `links` gives lower files several names.
fn check(cases: u64, salt: u64, a: Side, b: Side, links: bool) {
    rustix::process::umask(0o022.into());
    within(600 * env_number("PLYFS_TEST_CASES", 1), move || {
        model::check(
            cases,
            salt,
            (things(), changes(LENGTH), changes(LENGTH)),
            |(drawn, first, second)| take_turns(a, b, &plan(drawn, links), first, second),
            |(drawn, ..)| layers::words(&plan(drawn, links)),
        );
    });
}

#[test]
fn plyfs_as_root_first_then_the_kernel() {
    if who() == Who::Root && kernel_is_here() {
        check(70, 1, PLYFS_ALL, KERNEL_ALL, false);
        check(70, 2, PLYFS_ALL, KERNEL_ALL, true);
    }
}

#[test]
fn the_kernel_first_then_plyfs_as_root() {
    if who() == Who::Root && kernel_is_here() {
        check(70, 3, KERNEL_ALL, PLYFS_ALL, false);
        check(70, 4, KERNEL_ALL, PLYFS_ALL, true);
    }
}

#[test]
fn plyfs_without_privilege_first_then_the_kernel() {
    if who() == Who::Namespace && kernel_is_here() {
        check(100, 5, PLYFS_PLAIN, KERNEL_PLAIN, false);
    }
}

#[test]
fn the_kernel_first_then_plyfs_without_privilege() {
    if who() == Who::Namespace && kernel_is_here() {
        check(100, 6, KERNEL_PLAIN, PLYFS_PLAIN, false);
    }
}

#[test]
fn plyfs_agrees_with_itself_over_remounts() {
    if who() != Who::Root && is_kernel() {
        return; // has none of it without privilege
    }
    let cases = if who() == Who::Root { 75 } else { 50 };
    check(cases, 7, PLYFS_ALL, PLYFS_ALL, false);
    check(cases, 8, PLYFS_ALL, PLYFS_ALL, true);
}
