//! The tables of docs/figures.md.

use std::fmt::Write as _;

use crate::machine;
use crate::results::{Run, Series};
use crate::units::{size, time};

/// All medians of a run, a table for each place and question.
pub fn tables(run: &Run) -> String {
    let mut text = format!("{}.\n", machine::in_words(&run.machine));
    for place in &run.places {
        let word = |key: &str| place[key].as_str().unwrap_or("?");
        let (name, system, copies) = (word("name"), word("file_system"), word("copies"));
        let _ = write!(text, "\n**{name}** ({system}; a whole file is copied by {copies})\n");
        let here: Vec<&Series> = run.series.iter().filter(|one| one.place == name).collect();
        for change in run.sweeps(name) {
            let rows = here.iter().filter(|one| one.is_plain() && one.change == change);
            table(&mut text, change, rows.map(|one| (one.size, size(one.size as f64), *one)).collect());
        }
        let at = run.most_changes_at(name);
        let rows = here.iter().filter(|one| one.is_plain() && one.size == at);
        table(&mut text, &size(at as f64), rows.map(|one| (0, one.change.clone(), *one)).collect());
        for change in ["middle", "chmod"] {
            let is = |one: &&&Series| !one.is_neighbour() && one.size == at && one.change == change;
            let rows: Vec<_> = here.iter().filter(is).map(|one| (0, one.extra.clone(), *one)).collect();
            if rows.iter().any(|(_, _, one)| !one.is_plain()) {
                table(&mut text, &format!("{change}, {}", size(at as f64)), rows);
            }
        }
        neighbours(&mut text, run, name);
    }
    text
}

/// A row for each method, a column for each word that stands in its head, in the order of the number before it.
fn table(text: &mut String, what: &str, cells: Vec<(u64, String, &Series)>) {
    let mut heads: Vec<(u64, &String)> = Vec::new();
    let mut labels: Vec<String> = Vec::new();
    for (order, head, one) in &cells {
        if !heads.iter().any(|(_, known)| *known == head) {
            heads.push((*order, head));
        }
        if !labels.contains(&one.label()) {
            labels.push(one.label());
        }
    }
    heads.sort_by_key(|(order, _)| *order);
    let names: Vec<_> = heads.iter().map(|(_, head)| head.as_str()).collect();
    let _ = write!(text, "\n| {what} | {} |\n|---{}|\n", names.join(" | "), "|---".repeat(names.len()));
    for label in labels {
        let _ = write!(text, "| {label} |");
        for (_, head) in &heads {
            let one = cells.iter().find(|(_, other, one)| other == *head && one.label() == label);
            let _ = write!(text, " {} |", one.map_or_else(String::new, |(_, _, one)| time(one.median())));
        }
        *text += "\n";
    }
}

fn neighbours(text: &mut String, run: &Run, place: &str) {
    let all = run.neighbours(place);
    let Some((one, _)) = all.first() else { return };
    let of = size(one.size as f64);
    let _ = write!(
        text,
        "\n| a neighbour's stat, files of {of} | alone | p99 | meanwhile | p99 | maximum |\n|---|---|---|---|---|---|\n"
    );
    for (alone, meanwhile) in all {
        let numbers = [
            alone.median(),
            alone.quantile(0.99),
            meanwhile.median(),
            meanwhile.quantile(0.99),
            meanwhile.quantile(1.0),
        ];
        let _ = writeln!(text, "| {} | {} |", alone.label(), numbers.map(time).join(" | "));
    }
}
