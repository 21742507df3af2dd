//! The end of the process, and a failing system call, at every single call of an operation: the engine runs on real
//! directories without a mount, and `sys::seam` ends it.
//!
//! After each end plyfs, and as root the kernel's OverlayFS too, must show what stood before the operation or what
//! stands after it. `PLYFS_CRASH=WORD` runs the rows that have the word in their names.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/engine.rs"]
mod engine;

mod rows;
mod stage;

use plyfs::Errno;
use plyfs::sys::seam::{Call, Plan, with_plan};

use common::{Who, skip, who};
use engine::View;
use rows::{Row, rows};
use stage::{Reader, Stage, Views, check, index_is_tidy};

/// Runs `each` for all rows over one stage; fails with all that went wrong.
fn for_all_rows(each: impl Fn(&Stage, &Row) -> Vec<String>) {
    let (stage, word) = (Stage::new(), std::env::var("PLYFS_CRASH").unwrap_or_default());
    let mut wrong = Vec::new();
    for row in rows().iter().filter(|row| row.name.contains(&word)) {
        wrong.extend(each(&stage, row).into_iter().map(|why| format!("{}: {why}", row.name)));
    }
    stage.assert_lower_unchanged();
    assert!(wrong.is_empty(), "{} are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
}

/// Ends the process at each call of each row; then the reader looks.
fn end_everywhere(stage: &Stage, row: &Row, reader: Reader) -> Vec<String> {
    let views = stage.views(row, reader);
    let mut wrong = Vec::new();
    for at in 0..=stage.calls(row) {
        let layers = stage.layers();
        let engine = layers.before(row);
        // The end takes the engine along: nothing is cleaned up.
        with_plan(Plan::dead_from(at), || {
            let _ = (row.act)(&engine);
            drop(engine);
        });
        let found = layers.read(reader).and_then(|seen| {
            check(&seen, &views)?;
            if reader == Reader::Kernel {
                return Ok(());
            }
            layers.is_tidy()?;
            index_is_tidy(&layers, &seen)?;
            if row.links { layers.empties_its_index() } else { Ok(()) }
        });
        wrong.extend(found.err().map(|why| format!("ended at call {at}: {why}")));
    }
    wrong
}

#[test]
fn an_end_at_any_call_leaves_before_or_after_to_plyfs() {
    for_all_rows(|stage, row| end_everywhere(stage, row, Reader::Plyfs));
}

#[test]
fn an_end_at_any_call_leaves_before_or_after_to_the_kernel() {
    if who() != Who::Root || !common::Kernel::usable() {
        skip!("no kernel OverlayFS to look at the layers");
    }
    for_all_rows(|stage, row| end_everywhere(stage, row, Reader::Kernel));
}

/// One call fails: the answer says which of the two views is there, now and after the layers are opened again.
fn fail_everywhere(stage: &Stage, row: &Row) -> Vec<String> {
    let views = stage.views(row, Reader::Plyfs);
    let mut wrong = Vec::new();
    for &call in Call::ALL {
        let calls = stage.calls_of(row, call);
        for (at, errno) in (0..calls).flat_map(|at| [(at, Errno::ENOSPC), (at, Errno::EIO)]) {
            let fault = Fault { call, at, errno, last: at + 2 >= calls };
            let why = fail_at(stage, row, &views, &fault).err();
            wrong.extend(why.map(|why| format!("{call:?} {at} fails with {errno:?}, {why}")));
        }
    }
    wrong
}

struct Fault {
    call: Call,
    at: u64,
    errno: Errno,
    /// It is the last call of its kind, but for one that reads a number of blocks.
    last: bool,
}

impl Fault {
    fn plan(&self) -> Plan {
        Plan::fail(self.at, self.errno).only(self.call)
    }

    /// Whether the operation may have been done when it answers with this error.
    fn is_of_the_answer(&self, row: &Row) -> bool {
        row.answers_attributes && self.call == Call::Stat && self.last
    }

    /// Whether the names of one file may part: there is no room to say which lower file the copy is of.
    fn parts_names(&self, row: &Row) -> bool {
        row.links && (self.call, self.errno) == (Call::SetXattr, Errno::ENOSPC)
    }

    /// Whether a count of links may be off by one: its mark is not written, or a link in workdir stays until the next mount.
    fn miscounts(&self, row: &Row) -> bool {
        row.links && matches!(self.call, Call::SetXattr | Call::Unlink)
    }
}

fn fail_at(stage: &Stage, row: &Row, views: &Views, fault: &Fault) -> Result<(), String> {
    let says = |what: &'static str| move |errno: Errno| format!("{what}: {errno:?}");
    let layers = stage.layers();
    let engine = layers.before(row);
    let (answer, _) = with_plan(fault.plan(), || (row.act)(&engine));
    let live = engine.view().map_err(says("view"))?;
    let done = answer.is_ok() || (fault.is_of_the_answer(row) && live == views.after);
    let shows = |seen: View, done: bool, when: &str| {
        let expected = if done { &views.after } else { &views.before };
        let close = fault.miscounts(row) && seen.is_close(expected);
        let parted = fault.parts_names(row) && when != "live" && seen.is_blend(&views.before, &views.after);
        if &seen == expected || close || parted {
            return Ok(seen);
        }
        Err(format!("{answer:?}, {when}:{}", seen.difference(expected)))
    };
    shows(live, done, "live")?;
    let probe = engine.create("probe").and_then(|()| engine.write("probe", 0, "new"));
    probe.and_then(|()| engine.unlink("probe")).map_err(says("the next operation"))?;
    drop(engine);
    let engine = layers.open();
    let seen = shows(engine.view().map_err(says("view"))?, done, "opened again")?;
    layers.is_tidy()?;
    index_is_tidy(&layers, &seen)?;
    drop(engine);
    if done {
        return Ok(());
    }
    // Tried again after the remount, and at once.
    let engine = layers.open();
    (row.act)(&engine).map_err(says("again after a remount"))?;
    shows(engine.view().map_err(says("view"))?, true, "tried again after a remount")?;
    drop(engine);
    let layers = stage.layers();
    let engine = layers.before(row);
    let _ = with_plan(fault.plan(), || (row.act)(&engine));
    (row.act)(&engine).map_err(says("again at once"))?;
    shows(engine.view().map_err(says("view"))?, true, "tried again at once")?;
    drop(engine);
    shows(layers.read(Reader::Plyfs)?, true, "tried again at once, and opened again").map(drop)
}

#[test]
fn an_error_of_any_call_leaves_what_the_answer_says() {
    for_all_rows(fail_everywhere);
}

/// A bug at each call of each row: what is there afterwards is one of the two views, to the engine that goes on and to the
/// next one, and no lock is held any more.
fn panic_everywhere(stage: &Stage, row: &Row) -> Vec<String> {
    let views = stage.views(row, Reader::Plyfs);
    let calls = {
        let engine = stage.layers();
        let engine = engine.before(row);
        with_plan(Plan::count(), || (row.act)(&engine)).1
    };
    let mut wrong = Vec::new();
    for at in 0..calls {
        let why = panic_at(stage, row, &views, at).err();
        wrong.extend(why.map(|why| format!("a panic at call {at}, {why}")));
    }
    wrong
}

fn panic_at(stage: &Stage, row: &Row, views: &Views, at: u64) -> Result<(), String> {
    let says = |what: &'static str| move |errno: Errno| format!("{what}: {errno:?}");
    let is_one = |seen: &View, when: &str| {
        // A count of links is kept by marks around a call, as above.
        let close = row.links && (seen.is_close(&views.before) || seen.is_close(&views.after));
        if close { Ok(()) } else { check(seen, views).map_err(|why| format!("{when}: {why}")) }
    };
    let layers = stage.layers();
    let engine = layers.before(row);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = with_plan(Plan::panic(at), || (row.act)(&engine));
    }));
    assert!(panicked.is_err(), "{}: no panic at call {at}", row.name);
    let live = engine.view().map_err(says("view"))?;
    is_one(&live, "live")?;
    let probe = engine.create("probe").and_then(|()| engine.write("probe", 0, "new"));
    probe.and_then(|()| engine.unlink("probe")).map_err(says("the next operation"))?;
    // What it was about is free, too.
    if live == views.before {
        (row.act)(&engine).map_err(says("again at once"))?;
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
    for_all_rows(panic_everywhere);
}
