//! The end of the process, a failing system call, and one that moves only a part of what it was asked, at every single
//! call of every operation: the engine runs on real directories without a mount, and `sys::seam` is in the way.
//!
//! After each end plyfs, and as root the kernel's OverlayFS too, must show what stood before the operation or what
//! stands after it. `PLYFS_CRASH=WORD` runs the rows that have the word in their names; `PLYFS_FAULTS=all` tries every
//! errno at every call (`tables`: of the rows that stand by themselves), where else a call fails with some only, and of the
//! rows of the large tables every sixth call.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/engine.rs"]
mod engine;

mod ends;
mod errors;
mod panics;
mod rows;
mod stage;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use plyfs::config::{Fsync, XattrPermissions};
use plyfs::testing::seam::{Lacking, Lacks};

use rows::{Row, rows};
use stage::Stage;

/// What a walk has tried.
#[derive(Default)]
pub struct Tried {
    /// Pairs of an operation and a call.
    pub pairs: AtomicUsize,
    /// The same with what is done to the call.
    pub faults: AtomicUsize,
}

impl Tried {
    /// One more, with so many faults.
    pub fn pair(&self, faults: usize) {
        self.pairs.fetch_add(1, Ordering::Relaxed);
        self.faults.fetch_add(faults, Ordering::Relaxed);
    }
}

/// Whether the walk takes its time: for `all` operations, or for those of the small `tables`, without the others.
pub fn takes_its_time() -> bool {
    std::env::var("PLYFS_FAULTS").is_ok_and(|what| what == "all" || what == "tables")
}

/// Whether this call of a row has its turn: of the rows of the large tables one in `each`, where the walk does not take its
/// time. The same from run to run.
pub fn is_walked(row: &Row, at: usize, each: usize) -> bool {
    !row.crossed || takes_its_time() || (at + row.name.len()).is_multiple_of(each)
}

/// Runs `each` for all rows, over a stage for each of two threads; says how much was tried, and fails with all that went
/// wrong.
fn for_all_rows(walk: &str, fsync: Fsync, each: impl Fn(&Stage, &Row, &Tried) -> Vec<String> + Sync) {
    for_all_rows_over(walk, (Lacks::default(), None), fsync, each);
}

/// The same on file systems that lack something.
fn for_all_rows_without(
    walk: &str,
    lacks: Lacks,
    fsync: Fsync,
    each: impl Fn(&Stage, &Row, &Tried) -> Vec<String> + Sync,
) {
    for_all_rows_over(walk, (lacks, None), fsync, each);
}

/// The same over upper layers whose owners are written elsewhere, too.
fn for_all_rows_over(
    walk: &str,
    (lacks, owners): (Lacks, Option<XattrPermissions>),
    fsync: Fsync,
    each: impl Fn(&Stage, &Row, &Tried) -> Vec<String> + Sync,
) {
    let word = std::env::var("PLYFS_CRASH").unwrap_or_default();
    let (rows, next, tried, wrong) = (rows(), AtomicUsize::new(0), Tried::default(), Mutex::new(Vec::new()));
    let tables = std::env::var("PLYFS_FAULTS").is_ok_and(|what| what == "tables");
    let rows: Vec<_> = rows.iter().filter(|row| row.name.contains(&word) && !(tables && row.crossed)).collect();
    let worker = || {
        let _lacking = (lacks != Lacks::default()).then(|| Lacking::new(lacks));
        let stage = Stage::new(fsync, !lacks.marks, owners);
        while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
            let walked = std::panic::catch_unwind(AssertUnwindSafe(|| each(&stage, row, &tried)));
            let found = walked.unwrap_or_else(|_| vec!["a panic".into()]);
            wrong.lock().unwrap().extend(found.into_iter().map(|why| format!("{}: {why}", row.name)));
        }
        stage.assert_lowers_unchanged();
    };
    std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(worker)).map(|worker| worker.join().unwrap()));
    let (pairs, faults) = (tried.pairs.into_inner(), tried.faults.into_inner());
    let _ = writeln!(std::io::stderr(), "{walk}: {} operations, {pairs} of their calls, {faults} faults", rows.len());
    let mut wrong = wrong.into_inner().unwrap();
    wrong.sort();
    assert!(wrong.is_empty(), "{} are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
}
