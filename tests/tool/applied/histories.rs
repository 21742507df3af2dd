//! Random histories: after an apply the lower directory is what the view was.

use super::*;
use crate::model::layers::{self, build, plan, things};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

fn one(things: &[Vec<layers::Thing>], ops: &[Op], option: &str, links: bool) -> Result<(), String> {
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
        for op in ops {
            let step = op.resolve(&real.known());
            let outcome = real.apply(&step);
            log += &format!("  {step:?}{}\n", if outcome.is_ok() { "" } else { " failed" });
        }
    }
    let expected = seen(&mount);
    mount.unmount();
    match apply(&stack, What::default()) {
        Ok(lost) if lost.is_empty() => {}
        other => return Err(format!("{log}{other:?}")),
    }
    check_applied(&stack, &expected).map_err(|why| format!("{log}{why}"))
}

fn run(cases: u64, salt: u64, option: &'static str, links: bool) {
    within(600, move || {
        let drawn = (things(), changes(30));
        let test = |(things, ops): &(Vec<Vec<layers::Thing>>, Vec<Op>)| one(things, ops, option, links);
        let words = |(things, _): &(Vec<Vec<layers::Thing>>, Vec<Op>)| {
            let plans = plan(things, links);
            layers::words(&plans[plans.len() - 1..])
        };
        model::check(cases, salt, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn after_an_apply_the_lower_directory_is_what_the_view_was() {
    run(60, 301, "", false);
}

#[test]
fn the_same_where_all_is_copied() {
    run(30, 302, "redirect_dir=off,metacopy=off,index=off", false);
}

#[test]
fn the_same_with_blocks() {
    run(30, 303, "copyup_block=4K", false);
}

#[test]
fn the_same_with_lower_hard_links() {
    run(30, 304, "", true);
}
