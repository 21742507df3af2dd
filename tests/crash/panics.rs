//! A bug at a call: the request ends there, and all that was about to happen does not.

use plyfs::Errno;
use plyfs::config::Fsync;
use plyfs::testing::seam::{Plan, with_plan};

use crate::engine::View;
use crate::rows::Row;
use crate::stage::{Reader, Stage, Views, check};
use crate::{Tried, for_all_rows, is_walked};

/// A bug at each call of a row: what is there afterwards is one of the two views, to the engine that goes on and to the
/// next one, and no lock is held any more.
fn panic_everywhere(stage: &Stage, row: &Row, tried: &Tried) -> Vec<String> {
    let views = stage.views(row, Reader::Plyfs);
    let (calls, _) = stage.calls(row);
    let mut wrong = Vec::new();
    for at in (0..calls.len()).filter(|at| is_walked(row, *at, 6)) {
        tried.pair(1);
        let why = panic_at(stage, row, &views, at).err();
        wrong.extend(why.map(|why| format!("a panic at call {at} ({:?}), {why}", calls[at])));
    }
    wrong
}

fn panic_at(stage: &Stage, row: &Row, views: &Views, at: usize) -> Result<(), String> {
    let says = |what: &'static str| move |errno: Errno| format!("{what}: {errno:?}");
    let is_one = |seen: &View, when: &str| {
        // A count of links is kept by marks around a call.
        let close = row.links && (seen.is_close(&views.before) || seen.is_close(&views.after));
        if close { Ok(()) } else { check(seen, views).map_err(|why| format!("{when}: {why}")) }
    };
    let layers = stage.layers();
    let engine = layers.before(row);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = with_plan(Plan::panic(at as u64), || row.act(&engine));
    }));
    if panicked.is_ok() {
        return Err("there is none".into());
    }
    let live = engine.view().map_err(says("view"))?;
    is_one(&live, "live")?;
    let probe = engine.create("probe").and_then(|()| engine.write("probe", 0, "new"));
    probe.and_then(|()| engine.unlink("probe")).map_err(says("the next operation"))?;
    // What it was about is free, too.
    if live == views.before {
        row.act(&engine).map_err(says("again at once"))?;
        is_one(&engine.view().map_err(says("view"))?, "again at once")?;
    }
    drop(engine);
    is_one(&layers.read(Reader::Plyfs)?, "opened again")?;
    layers.is_tidy()
}

#[test]
fn a_panic_at_any_call_costs_that_request_only() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("a plan")) {
            usual(info);
        }
    }));
    for_all_rows("a panic", Fsync::Auto, panic_everywhere);
}
