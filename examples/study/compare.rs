//! Two runs beside each other.

use crate::results::Run;
use crate::units::{chance, size, time};
use crate::{Done, machine, table};

/// The chance of one wrong word in the whole table.
const LEVEL: f64 = 0.05;

/// # Errors
/// Two runs that have nothing in common.
pub fn print(one: &Run, other: &Run) -> Done {
    println!("A: {}\nB: {}\n", machine::in_words(&one.machine), machine::in_words(&other.machine));
    let pairs: Vec<_> =
        one.series.iter().filter_map(|a| Some((a, other.series.iter().find(|b| a.key() == b.key())?))).collect();
    if pairs.is_empty() {
        return Err("the two runs have measured nothing in common (place, change, size and method)".into());
    }
    let head = ["place", "change", "extra", "method", "size", "A", "B", "B to A", "p"];
    let mut rows = vec![head.map(str::to_owned)];
    for (a, b) in &pairs {
        let p = crate::stats::rank_test(&a.nanos, &b.nanos);
        // So many tests are made that some would differ by chance (Bonferroni).
        if p * pairs.len() as f64 >= LEVEL {
            continue;
        }
        rows.push([
            a.place.clone(),
            a.change.clone(),
            a.extra.clone(),
            a.label(),
            size(a.size as f64),
            time(a.median()),
            time(b.median()),
            format!("x{:.2}", b.median() / a.median()),
            chance(p),
        ]);
    }
    let differing = rows.len() - 1;
    if differing > 0 {
        table::columns(&rows);
        println!();
    }
    println!("{differing} of {} differ (Mann-Whitney, p below {LEVEL} for all together)", pairs.len());
    Ok(())
}
