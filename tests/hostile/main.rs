//! Hostile layers and clients, what went wrong with privileges elsewhere, and what runs of the peers found: one table, in
//! which each case stands with the function or the test that shows what becomes of it (`table`), and the promises of plyfs,
//! each with the tests that would fail if it broke (`promises`).
//!
//! `PLYFS_HOSTILE=WORD` runs only the functions with that word in their names; `-- --nocapture` prints the outcome of each
//! row. `PLYFS_RACE_SECONDS` is how long each race of two threads lasts.
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

mod attributes;
mod clear;
mod daemon;
mod layers;
mod nodes;
mod nosuid;
mod overlap;
mod privilege;
mod promises;
mod race;
mod sandbox;
mod table;
mod within;
mod workdir;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::*;
use table::{By, Row, Section};

/// What a row's function returns: why it does not run here, if so.
type Ran = Result<(), String>;

/// Ends a row that cannot run here.
fn not_here(why: &str) -> Ran {
    Err(why.into())
}

/// Runs one function with a limit of time, and says in a word how it ended.
fn outcome(name: &str, run: fn() -> Ran) -> Result<String, String> {
    let done: Arc<Mutex<Option<Ran>>> = Arc::default();
    let theirs = done.clone();
    let limit = 60 + race::seconds() * 4;
    let ended = catch_unwind(AssertUnwindSafe(|| within(limit, move || *theirs.lock().unwrap() = Some(run()))));
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        return Err(text.unwrap_or_default().lines().next().unwrap_or_default().to_owned());
    }
    let ran = done.lock().unwrap().take();
    match ran {
        Some(Err(why)) => {
            say_skipped(&format!("{name}: {why}"));
            Ok(format!("not here: {why}"))
        }
        _ => Ok("passed".into()),
    }
}

/// Runs the functions of a section's rows, prints what came of them, and fails where one failed.
fn run(section: Section) {
    let chosen = std::env::var("PLYFS_HOSTILE").unwrap_or_default();
    let (mut told, mut wrong, mut passed) = (String::new(), Vec::new(), 0);
    for Row { case, by, .. } in table::ROWS.iter().filter(|row| row.section == section) {
        for by in *by {
            let By::Here(name, function) = by else { continue };
            if !name.contains(&chosen) {
                continue;
            }
            let start = std::time::Instant::now();
            let outcome = outcome(name, *function);
            let (word, seconds) = (outcome.clone().unwrap_or_else(|e| format!("FAILED: {e}")), start.elapsed());
            told += &format!("| {case} | {name} | {word} | {:.1} s |\n", seconds.as_secs_f32());
            match outcome {
                Ok(word) => passed += usize::from(word == "passed"),
                Err(why) => wrong.push(format!("{name}: {why}")),
            }
        }
    }
    println!("{told}{section:?} as {:?}: {passed} passed, {} failed", who(), wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hostile_layers_and_clients_get_the_answer_of_the_table() {
    run(Section::Hostile);
}

#[test]
fn nobody_gains_a_privilege() {
    run(Section::Privilege);
}

#[test]
fn what_runs_found_in_the_peers_is_not_found_here() {
    run(Section::Peers);
}

/// Whether the sources have this test, or this row of a table.
fn has(file: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap_or_default();
    let attributes = |before: &str| before.rsplit("\n\n").next().is_some_and(|lines| lines.contains("#[test]"));
    let test = text.split_once(&format!("fn {name}()")).is_some_and(|(before, _)| attributes(before));
    test || text.contains(&format!("\"{name}\""))
}

/// The tests that the tables name, wherever they are, exist.
#[test]
fn every_named_test_is_there() {
    if who() != Who::Root && std::env::var_os("PLYFS_TEST_LEG").is_some() {
        return; // The sources may be closed to that user.
    }
    let rows = table::ROWS;
    let mut wrong = Vec::new();
    for Row { case, by, .. } in rows {
        if by.is_empty() {
            wrong.push(format!("no test: {case}"));
        }
    }
    let in_rows = rows.iter().flat_map(|row| row.by.iter().map(|by| (row.case, by)));
    let named = in_rows.filter_map(|(case, by)| match by {
        By::There(file, name) => Some((case, *file, *name)),
        By::Here(..) => None,
    });
    let promised = promises::PROMISES
        .iter()
        .flat_map(|promise| promise.by.iter().map(|(file, name)| (promise.clause, *file, *name)));
    for (case, file, name) in named.chain(promised) {
        let here = file == table::HERE;
        let function = || rows.iter().flat_map(|row| row.by).any(|by| matches!(by, By::Here(n, _) if *n == name));
        if !(if here { function() } else { has(file, name) }) {
            wrong.push(format!("{case}: no {name} in {file}"));
        }
    }
    wrong.extend(promises::PROMISES.iter().filter(|p| p.by.is_empty()).map(|p| format!("no test: {}", p.clause)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `-- --nocapture the_promises` prints the table of docs/promises.md.
#[test]
fn the_promises_are_a_table() {
    let table = promises::markdown();
    println!("{table}");
    if who() == Who::Root || std::env::var_os("PLYFS_TEST_LEG").is_none() {
        let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/promises.md")).unwrap();
        assert!(docs.trim_end().ends_with(table.trim()), "docs/promises.md has another table: see above");
    }
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
