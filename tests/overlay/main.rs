//! The questions that are asked of an overlay file system, as a table: what is done to some layers through a mount of
//! plyfs and of the kernel's OverlayFS, what both must say, and where plyfs says something else why that is so.
//!
//! The classes are those of the overlay group of xfstests, by number; what each asks stands in our own words here, and
//! nothing of that suite was taken over. `PLYFS_OVERLAY=WORD` runs only the rows with that word in their ids; the table is
//! printed with `-- --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../common/mod.rs"]
mod common;

mod attributes;
mod classes;
mod copies;
mod data;
mod flags;
mod links;
mod lowers;
mod mounts;
mod numbers;
mod row;
mod whiteouts;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use common::*;
use row::{By, Case, Row, Side, Stage};

/// What one side says, or why it cannot be asked here; a panic is what it said instead.
fn ask(case: Case, side: Side) -> Result<String, String> {
    let said: Arc<Mutex<Result<String, String>>> = Arc::new(Mutex::new(Ok("nothing".into())));
    let theirs = said.clone();
    let body = move || {
        let said = Stage::new(&case, side).map(|mut stage| {
            (case.run)(&mut stage);
            stage.end()
        });
        *theirs.lock().unwrap() = said;
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| within(90, body))) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        return Ok(format!("panicked: {}", text.unwrap_or_default()));
    }
    let said = said.lock().unwrap();
    said.clone()
}

/// Runs the cases among these rows on both sides.
fn run(rows: &[Row]) {
    if !mount::is_plyfs() {
        skip!("the answers are those of plyfs");
    }
    let chosen = std::env::var("PLYFS_OVERLAY").unwrap_or_default();
    let kernel = who() == Who::Root && Kernel::usable();
    let (mut wrong, mut table, mut skipped) = (Vec::new(), String::new(), BTreeMap::new());
    let mut skip = |why: String| *skipped.entry(why).or_insert(0) += 1;
    for row in rows.iter().filter(|row| row.id.contains(&chosen)) {
        let case = match &row.by {
            By::Here(case) => case,
            By::Without(why, _) => {
                table += &format!("| {} | {} | not there | | {why} |\n", row.id, row.asks);
                continue;
            }
            By::Covered(..) => continue,
        };
        if who() != Who::Root && !case.users {
            skip("for root only".into());
            continue;
        }
        let ours = match ask(*case, Side::Plyfs) {
            Ok(said) => said,
            Err(why) => {
                skip(format!("{}: {why}", row.id));
                continue;
            }
        };
        if ours != case.ours {
            wrong.push(format!("{}: plyfs says\n  {ours}\nnot\n  {}", row.id, case.ours));
        }
        let want = case.unlike.map_or(case.ours, |unlike| unlike.0);
        let theirs = if kernel { ask(*case, Side::Kernel) } else { Ok("not asked".into()) };
        let theirs = theirs.unwrap_or_else(|why| why);
        if kernel && theirs != want {
            wrong.push(format!("{}: the kernel says\n  {theirs}\nnot\n  {want}", row.id));
        }
        let why = case.unlike.map_or("", |unlike| unlike.1);
        table += &format!("| {} | {} | {ours} | {theirs} | {why} |\n", row.id, row.asks);
    }
    println!("| row | asks | plyfs | the kernel | unlike, because |\n|---|---|---|---|---|\n{table}");
    if !kernel && who() == Who::Root {
        say_skipped("the kernel's answers: its OverlayFS as root is needed");
    }
    for (why, rows) in skipped {
        say_skipped(&format!("{rows} rows: {why}"));
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn whiteouts_hide_and_are_hidden_as_in_the_kernels_overlay() {
    run(whiteouts::ROWS);
}

#[test]
fn copy_up_keeps_what_the_kernels_overlay_keeps() {
    run(copies::ROWS);
}

#[test]
fn what_is_open_or_mapped_shows_what_the_kernels_overlay_shows() {
    run(data::ROWS);
}

#[test]
fn attributes_go_as_in_the_kernels_overlay() {
    run(attributes::ROWS);
}

#[test]
fn flags_of_files_hold_as_in_the_kernels_overlay_in_each_layer() {
    run(flags::ROWS);
}

#[test]
fn inode_numbers_are_constant_as_in_the_kernels_overlay() {
    run(numbers::ROWS);
}

#[test]
fn hard_links_are_counted_as_in_the_kernels_overlay() {
    run(links::ROWS);
}

#[test]
fn mounts_are_refused_as_by_the_kernels_overlay() {
    run(mounts::ROWS);
}

#[test]
fn lower_layers_that_change_or_lead_elsewhere_are_read_as_by_the_kernels_overlay() {
    run(lowers::ROWS);
}

#[test]
fn every_class_has_a_row_and_what_the_rows_name_is_there() {
    classes::check(&classes::all());
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
