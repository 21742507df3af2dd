//! What a run prints.

use crate::machine;
use crate::results::{Run, Series};
use crate::units::{size, time};

/// How many bytes were written for each that was changed; of what changes no data, how many were written.
pub fn written(bytes: f64, changed: u64) -> String {
    if changed > 0 { format!("x{}", crate::units::digits(bytes / changed as f64)) } else { size(bytes) }
}

pub fn print(run: &Run) {
    println!("{}", machine::in_words(&run.machine));
    for place in &run.places {
        let text = |key: &str| place[key].as_str().unwrap_or("?");
        println!("\n{}: {}, which copies by {}\n", text("name"), text("file_system"), text("copies"));
        let head = [
            "change",
            "extra",
            "method",
            "durability",
            "size",
            "median",
            "p99",
            "maximum",
            "samples",
            "upper",
            "device",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(run.series.iter().filter(|one| one.place == text("name")).map(row));
        columns(&rows);
    }
    print_lines(run);
    for what in &run.skipped {
        println!("SKIPPED: {what}");
    }
}

fn row(one: &Series) -> [String; 11] {
    [
        one.change.clone(),
        one.extra.clone(),
        one.method.clone(),
        one.durability.clone(),
        size(one.size as f64),
        time(one.median()),
        time(one.quantile(0.99)),
        time(one.quantile(1.0)),
        one.nanos.len().to_string(),
        written(one.upper, one.changed),
        one.device.map_or_else(|| "?".into(), |bytes| written(bytes, one.changed)),
    ]
}

/// Columns of names.
const LEFT: usize = 4;

/// Names at the left, numbers at the right.
pub fn columns<const N: usize>(rows: &[[String; N]]) {
    let widths: Vec<_> = (0..N).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| if i < LEFT { format!("{cell:<width$}") } else { format!("{cell:>width$}") })
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

fn print_lines(run: &Run) {
    let lines = run.lines();
    if !lines.is_empty() {
        println!("\nCost by size, a + b·size (± standard error):");
    }
    for line in &lines {
        println!("  {}: {}, {}: {}", line.place, line.change, line.label, in_words(&line.fit));
    }
    for one in run.crossings(&lines) {
        let (below, above) = (&one.below.label, &one.above.label);
        println!(
            "  {}: {}: from {} on {below} costs less than {above}",
            one.above.place,
            one.above.change,
            size(one.at)
        );
    }
}

/// A line, per MiB: a byte costs too little to be read.
pub fn in_words(fit: &crate::stats::Fit) -> String {
    let mib = f64::from(1 << 20);
    let (a, a_error, b, b_error) = (time(fit.a), time(fit.a_error), time(fit.b * mib), time(fit.b_error * mib));
    format!("{a} ± {a_error} + ({b} ± {b_error}) per MiB")
}
