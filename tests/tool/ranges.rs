//! Changes between two commits: what is told turns the tree of the one into that of the other.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use plyfs::tool::{self, Diff, How};
use plyfs::union::{self, Range};

use crate::common::mount::binary;
use crate::common::*;
use crate::histories::{State, judge, state};
use crate::model::layers::{self, Plan, build, plan, things};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};
use crate::{config, lines};

/// Commits what a mount shows; the number of the commit, or `None`: nothing has changed.
pub fn commit(mount: &Mount) -> Option<u64> {
    let out = Command::new(binary()).arg("commit").arg(mount.root()).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    said.strip_prefix("commit ").map(|number| number.trim().parse().unwrap())
}

fn between(stack: &Stack, from: u64, to: Option<u64>) -> Diff {
    let range = Range { from: Some(from), to, of_session: false };
    let layers = union::look_between(&config(stack), range).unwrap_or_else(|error| panic!("{error:?}"));
    tool::diff(&layers, How { counts: true, ..How::default() }).unwrap()
}

/// The tree with the times of all objects.
fn timed(mount: &Mount) -> State {
    let mut state = state(mount);
    for (path, object) in &mut state.objects {
        let stat = std::fs::symlink_metadata(mount.root().join(std::ffi::OsStr::from_bytes(path))).unwrap();
        object.changed = view::Changed::At(stat.mtime(), stat.mtime_nsec());
    }
    state
}

fn one(plans: &[Plan], ops: &[Op], option: &str, links: bool) -> Result<(), String> {
    let mut stack = build(plans);
    if !option.is_empty() {
        stack = stack.option(option);
    }
    let mount = stack.mount();
    let mut states: Vec<(Option<u64>, State)> = vec![(Some(0), timed(&mount))];
    let mut log = String::new();
    {
        let mut real = Real::new(&mount);
        for (at, op) in ops.iter().enumerate() {
            let step = op.resolve(&real.known());
            let outcome = real.apply(&step);
            log += &format!("  {step:?}{}\n", if outcome.is_ok() { "" } else { " failed" });
            if at % 7 == 6
                && let Some(number) = commit(&mount)
            {
                log += &format!("  = commit {number}\n");
                states.push((Some(number), timed(&mount)));
            }
        }
    }
    states.push((None, timed(&mount)));
    for (at, (from, before)) in states.iter().enumerate() {
        for (to, after) in states.iter().skip(at + 1) {
            let from = from.unwrap();
            let diff = between(&stack, from, *to);
            let what = || format!("{log}from {from} to {to:?}:\n{}", lines(&diff).join("\n"));
            if !diff.troubles.is_empty() {
                return Err(what());
            }
            // A frozen copy has a number of its own when the kernel has forgotten it.
            judge(before, after, &diff, links, false).map_err(|why| format!("{}\n{why}", what()))?;
        }
    }
    Ok(())
}

fn run(cases: u64, salt: u64, option: &'static str, links: bool) {
    within(600, move || {
        let drawn = (things(), changes(35));
        let test = |(things, ops): &(Vec<Vec<layers::Thing>>, Vec<Op>)| one(&plan(things, links), ops, option, links);
        let words = |(things, _): &(Vec<Vec<layers::Thing>>, Vec<Op>)| layers::words(&plan(things, links));
        model::check(cases, salt, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn the_changes_between_two_commits_turn_the_one_tree_into_the_other() {
    run(50, 211, "", false);
}

#[test]
fn the_same_where_all_is_copied() {
    run(20, 212, "redirect_dir=off,metacopy=off,index=off", false);
}

#[test]
fn the_same_with_lower_hard_links() {
    run(20, 214, "", true);
}
