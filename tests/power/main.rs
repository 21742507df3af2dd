//! Loss of power: every write and flush below the upper layer's file system is recorded while the engine runs, and after
//! each crash state that the record allows plyfs and the kernel's OverlayFS must show a state of the history, with all
//! that was synced.
//!
//! By default some states of each history in one way; `PLYFS_POWER=flushes` looks at what is on the medium at each flush, in
//! all ways, `PLYFS_POWER=all` at every state that the record allows, `PLYFS_POWER_STATES=N` at N of each history, `PLYFS_POWER_ROW=WORD` at the histories that have the word in their names.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice, clippy::unreachable)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/engine.rs"]
mod engine;

mod image;
mod mounted;
mod recorder;
mod rows;
mod stand;
mod syncs;
mod volatile;

use std::panic::AssertUnwindSafe;

use common::{Who, env_number, who};
use image::{Random, State, states};
use rows::Row;
use stand::{Stand, Views, Way};

/// How much is looked at.
struct Extent {
    /// In all four ways.
    all: bool,
    /// What is on the medium at each flush only.
    flushes: bool,
    states: usize,
    seed: u64,
    word: String,
}

impl Extent {
    fn new() -> Self {
        let asked = std::env::var("PLYFS_POWER").unwrap_or_default();
        let flushes = asked == "flushes";
        let all = flushes || asked == "all";
        Extent {
            all,
            flushes,
            states: env_number("PLYFS_POWER_STATES", if all { u64::MAX } else { 6 }) as usize,
            seed: env_number("PLYFS_TEST_SEED", 1),
            word: std::env::var("PLYFS_POWER_ROW").unwrap_or_default(),
        }
    }

    /// The last state, and others by lot.
    fn choose(&self, found: Vec<State>, random: &mut Random) -> Vec<State> {
        self.choose_of(found, self.states, random)
    }

    /// At most so many.
    fn choose_of(&self, mut found: Vec<State>, most: usize, random: &mut Random) -> Vec<State> {
        if found.len() <= most {
            return found;
        }
        let mut chosen: Vec<State> = found.pop().into_iter().collect();
        while chosen.len() < most && !found.is_empty() {
            chosen.push(found.swap_remove(random.below(found.len() as u64) as usize));
        }
        chosen
    }
}

/// What was done with one history.
#[derive(Default)]
struct Tally {
    allowed: usize,
    looked_at: usize,
    wrong: Vec<String>,
}

fn one_way(
    stand: &Stand,
    row: &Row,
    views: &Views,
    way: Way,
    extent: &Extent,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut random = Random::new(extent.seed ^ way as u64 ^ row.name.len() as u64);
    let (base, log) = stand.record(row, way, random.below(u64::MAX))?;
    let mut found = states(&base, &log, if extent.flushes { 0 } else { 3 }, &mut random);
    found.retain(|state| !extent.flushes || state.what.ends_with("nothing since the flush"));
    tally.allowed += found.len();
    for (number, state) in extent.choose(found, &mut random).into_iter().enumerate() {
        tally.looked_at += 1;
        let look = AssertUnwindSafe(|| stand.check(row, views, &state, number % 2 == 0));
        let found = std::panic::catch_unwind(look).unwrap_or_else(|_| Err("a panic, said above".into()));
        if let Err(why) = found {
            let State { begun, done, what, .. } = state;
            tally.wrong.push(format!("{way:?}, {begun} begun, {done} done, {what} of {}: {why}", log.len()));
        }
    }
    Ok(())
}

/// A stand, if there can be one here; else says why not.
fn usable(kind: &'static str) -> Option<Stand> {
    if who() != Who::Root || !common::Kernel::usable() {
        common::say_skipped("root and a kernel OverlayFS are needed");
        return None;
    }
    Stand::new(kind).inspect_err(|why| common::say_skipped(&format!("{kind}: {why}"))).ok()
}

fn every_history_on(kind: &'static str) {
    let Some(stand) = usable(kind) else { return };
    let extent = Extent::new();
    let (mut wrong, mut looked_at, mut allowed) = (Vec::new(), 0, 0);
    for (number, row) in rows::rows().iter().enumerate().filter(|(_, row)| row.name.contains(&extent.word)) {
        let mut tally = Tally::default();
        let ways = if extent.all { &Way::ALL[..] } else { &Way::ALL[number % 4..][..1] };
        let start = std::time::Instant::now();
        let done = stand
            .views(row)
            .and_then(|views| ways.iter().try_for_each(|way| one_way(&stand, row, &views, *way, &extent, &mut tally)));
        let seconds = start.elapsed().as_secs();
        tally.wrong.extend(done.err());
        println!(
            "{kind}: {}: {} of {} states in {seconds} s, {} wrong",
            row.name,
            tally.looked_at,
            tally.allowed,
            tally.wrong.len()
        );
        looked_at += tally.looked_at;
        allowed += tally.allowed;
        wrong.extend(tally.wrong.into_iter().take(3).map(|why| format!("{}: {why}", row.name)));
    }
    println!("{kind}: {looked_at} of {allowed} states");
    assert!(wrong.is_empty(), "{} are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
}

#[test]
fn every_crash_state_of_ext4_is_a_state_of_the_history() {
    every_history_on("ext4");
}

#[test]
fn every_crash_state_of_xfs_is_a_state_of_the_history() {
    every_history_on("xfs");
}
