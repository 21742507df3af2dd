//! The process ends at a call: nothing happens any more from there on, not even the cleaning up.

use plyfs::config::{Fsync, XattrPermissions};
use plyfs::testing::seam::{Lacks, Plan, with_plan};

use crate::common::{self, Who, skip, who};
use crate::rows::Row;
use crate::stage::{Reader, Stage, check, index_is_tidy};
use crate::{Tried, for_all_rows, for_all_rows_over, is_walked};

/// Ends the process at each call of a row; then the reader looks.
fn end_everywhere(stage: &Stage, row: &Row, tried: &Tried, reader: Reader) -> Vec<String> {
    if row.is_stepwise() {
        return Vec::new();
    }
    let views = stage.views(row, reader);
    let mut wrong = Vec::new();
    let (calls, of_end) = stage.calls(row);
    let each = if reader == Reader::Kernel { 12 } else { 6 };
    for at in (0..=calls.len() + of_end).filter(|at| is_walked(row, *at, each)) {
        tried.pair(1);
        let layers = stage.layers();
        let engine = layers.before(row);
        // The end takes the engine along: nothing is cleaned up.
        with_plan(Plan::dead_from(at as u64), || {
            let _ = row.act(&engine);
            drop(engine);
        });
        let found = layers.read(reader).and_then(|seen| {
            check(&seen, &views)?;
            if reader == Reader::Kernel {
                return Ok(());
            }
            layers.is_tidy()?;
            index_is_tidy(&layers, &seen)?;
            if row.links && !row.crossed { layers.empties_its_index() } else { Ok(()) }
        });
        wrong.extend(found.err().map(|why| format!("ended at call {at}: {why}")));
    }
    wrong
}

#[test]
fn an_end_at_any_call_leaves_before_or_after_to_plyfs() {
    for_all_rows("ended, seen by plyfs", Fsync::Auto, |stage, row, tried| {
        end_everywhere(stage, row, tried, Reader::Plyfs)
    });
}

#[test]
fn an_end_at_any_call_leaves_before_or_after_where_owners_are_marks() {
    let owners = (Lacks::default(), Some(XattrPermissions::Containers));
    for_all_rows_over("ended, owners are marks", owners, Fsync::Auto, |stage, row, tried| {
        end_everywhere(stage, row, tried, Reader::Plyfs)
    });
}

/// Each operation, with the same view of it as where objects have their owners themselves.
#[test]
fn what_is_shown_is_the_same_where_owners_are_marks() {
    let values = [XattrPermissions::Containers, XattrPermissions::Security];
    for owners in values.into_iter().filter(|owners| *owners == XattrPermissions::Containers || who() == Who::Root) {
        for_all_rows("shown, owners are marks", Fsync::Auto, |stage, row, _| {
            let [seen, expected] = [Some(owners), None].map(|owners| stage.views_over(owners, row, Reader::Plyfs));
            let pairs = [(&seen.before, &expected.before), (&seen.after, &expected.after)];
            let differ = pairs.iter().filter(|(seen, expected)| seen != expected);
            let mut wrong: Vec<_> = differ.map(|(seen, expected)| seen.difference(expected)).collect();
            if seen.answer != expected.answer {
                wrong.push(format!("answers {:?}, not {:?}", seen.answer, expected.answer));
            }
            wrong
        });
    }
}

#[test]
fn an_end_at_any_call_leaves_before_or_after_to_the_kernel() {
    if who() != Who::Root || !common::Kernel::usable() {
        skip!("no kernel OverlayFS to look at the layers");
    }
    for_all_rows("ended, seen by the kernel", Fsync::Auto, |stage, row, tried| {
        if row.changes() { end_everywhere(stage, row, tried, Reader::Kernel) } else { Vec::new() }
    });
}
