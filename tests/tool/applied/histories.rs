//! Random histories: after an apply the lower directory is what the view was.

use super::*;
use crate::model::layers::{self, build, plan, things};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

/// What stands in the way of a history: lower files with several names, and a commit behind each so many steps.
#[derive(Clone, Copy, Default)]
struct With {
    links: bool,
    commits: Option<usize>,
}

fn one(things: &[Vec<layers::Thing>], ops: &[Op], option: &str, with: With) -> Result<(), String> {
    let With { links, commits } = with;
    let plans = plan(things, links);
    let mut stack = build(&plans[plans.len() - 1..]);
    if !option.is_empty() {
        stack = stack.option(option);
    }
    pause();
    let mut mount = stack.mount();
    let mut log = String::new();
    {
        let mut real = Real::new(&mount);
        for (at, op) in ops.iter().enumerate() {
            let step = op.resolve(&real.known());
            let outcome = real.apply(&step);
            log += &format!("  {step:?}{}\n", if outcome.is_ok() { "" } else { " failed" });
            if commits.is_some_and(|each| at % each == each - 1) {
                log += &format!("  = commit {:?}\n", crate::ranges::commit(&mount));
            }
        }
    }
    let expected = seen(&mount);
    mount.unmount();
    match apply(&stack, What::default()) {
        Ok(lost) if lost.is_empty() => {}
        other => return Err(format!("{log}{other:?}")),
    }
    if stack.scratch.path().join("work/commits").exists() {
        return Err(format!("{log}commits are left"));
    }
    check_applied(&stack, &expected).map_err(|why| format!("{log}{why}"))
}

fn run(cases: u64, salt: u64, option: &'static str, with: With) {
    let links = with.links;
    within(600, move || {
        let drawn = (things(), changes(30));
        let test = |(things, ops): &(Vec<Vec<layers::Thing>>, Vec<Op>)| one(things, ops, option, with);
        let words = |(things, _): &(Vec<Vec<layers::Thing>>, Vec<Op>)| {
            let plans = plan(things, links);
            layers::words(&plans[plans.len() - 1..])
        };
        model::check(cases, salt, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn after_an_apply_the_lower_directory_is_what_the_view_was() {
    run(60, 301, "", With::default());
}

#[test]
fn the_same_where_all_is_copied() {
    run(30, 302, "redirect_dir=off,metacopy=off,index=off", With::default());
}

#[test]
fn the_same_with_blocks() {
    run(30, 303, "copyup_block=4K", With::default());
}

#[test]
fn the_same_with_lower_hard_links() {
    run(30, 304, "", With { links: true, ..With::default() });
}

#[test]
fn the_same_with_commits() {
    run(60, 305, "", With { commits: Some(7), ..With::default() });
}

#[test]
fn the_same_with_commits_where_all_is_copied() {
    run(30, 306, "redirect_dir=off,metacopy=off,index=off", With { commits: Some(5), ..With::default() });
}

#[test]
fn the_same_with_commits_and_lower_hard_links() {
    run(30, 307, "", With { links: true, commits: Some(6) });
}
