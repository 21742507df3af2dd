//! The page: all of a run in one file, with nothing from elsewhere.

use std::fmt::Write as _;

use crate::extra::Extra;
use crate::plot::{Curve, Frame, plot};
use crate::results::{Run, Series};
use crate::table::{in_words, written};
use crate::units::{size, time};
use crate::{machine, methods};

const STYLE: &str = include_str!("page.css");
const FRAMES: [(&str, Frame); 2] =
    [("narrow", Frame { width: 350.0, height: 330.0 }), ("wide", Frame { width: 820.0, height: 460.0 })];

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&#39;").replace('"', "&quot;")
}

/// A method, as the page shows it everywhere.
struct Look {
    label: String,
    letter: char,
    colour: usize,
    durability: String,
}

impl Look {
    /// Methods that differ in durability only have one colour.
    fn all(run: &Run) -> Vec<Self> {
        let mut names: Vec<&str> = Vec::new();
        let mut looks: Vec<Self> = Vec::new();
        for one in &run.series {
            if !names.contains(&one.method.as_str()) {
                names.push(&one.method);
            }
            let colour = names.iter().position(|name| *name == one.method).unwrap_or(0) % 8;
            if looks.iter().all(|look| look.label != one.label()) {
                let letter = (b'A' + (looks.len() % 26) as u8) as char;
                looks.push(Self { label: one.label(), letter, colour, durability: one.durability.clone() });
            }
        }
        looks
    }

    fn swatch(&self) -> String {
        let Self { letter, colour, durability, .. } = self;
        format!(
            "<svg class='swatch' viewBox='0 0 40 14' aria-hidden='true'><path class='line c{colour} {durability}' \
             d='M0,7H24'/><text class='letter c{colour}' x='28' y='12'>{letter}</text></svg>"
        )
    }
}

pub fn page(run: &Run) -> String {
    let looks = Look::all(run);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>\n\
         <meta name='viewport' content='width=device-width, initial-scale=1'>\n\
         <title>What copy-up costs</title>\n<style>\n{STYLE}</style></head><body>\n<h1>What copy-up costs</h1>\n\
         <p>The time of the <b>first change</b> of a file of the lower layer, from open(2) to close(2), by the size of the \
         file and by what is done to it. Medians; lower is better.</p>\n<p class='machine'>{}</p>\n",
        escape(&machine::in_words(&run.machine))
    );
    for place in &run.places {
        let text = |key: &str| place[key].as_str().unwrap_or("?");
        let _ = writeln!(
            html,
            "<section><h2>{}</h2>\n<p>{}; a whole file is copied within it by <b>{}</b>.</p>",
            escape(text("name")),
            escape(text("file_system")),
            escape(text("copies"))
        );
        for change in run.sweeps(text("name")) {
            sweep(&mut html, run, (text("name"), change), &looks);
        }
        kinds(&mut html, run, text("name"), &looks);
        neighbours(&mut html, run, text("name"));
        numbers(&mut html, run, text("name"));
        html += "</section>\n";
    }
    if !run.skipped.is_empty() {
        html += "<section><h2>Skipped</h2><ul>\n";
        for what in &run.skipped {
            let _ = writeln!(html, "<li>{}</li>", escape(what));
        }
        html += "</ul></section>\n";
    }
    html + NOTES + "</body></html>\n"
}

/// What a reader needs to trust or to repeat it.
const NOTES: &str = "<section><h2>How it was measured</h2>\n<p>Each file is changed once; its data is in the page cache and \
its name is known. All methods take turns, forwards and backwards, each turn over an empty upper layer and a mount of its \
own. <b>auto</b>: data is on disk before its name is (plyfs, the kernel's OverlayFS); <b>strict</b>: metadata, too; \
<b>volatile</b>: nothing is synced. fuse-overlayfs syncs no copy in any case. The engine is plyfs without a mount. The lines \
<i>a + b·size</i> are least squares on the medians of files that are not empty, weighted by 1/median², with standard \
errors. <b>Upper</b>: bytes that the copies take, with blocks that they share with the lower files (reflink), \
<b>device</b>: bytes that reached the device until it was synced, whoever wrote them; both for each byte that was changed \
(x), or in all where no data was.</p>\n\
<p><code>cargo run --release --example study -- --html DIR</code></p></section>\n";

/// How cost grows with size: the plot, who is who, and the lines.
fn sweep(html: &mut String, run: &Run, (place, change): (&str, &str), looks: &[Look]) {
    let curves: Vec<_> = looks
        .iter()
        .map(|look| Curve {
            letter: look.letter,
            colour: look.colour,
            durability: look.durability.clone(),
            points: run.points(place, change, &look.label),
        })
        .filter(|curve| !curve.points.is_empty())
        .collect();
    let _ = writeln!(html, "<h3>{} by size</h3>", in_full(change));
    for (class, frame) in &FRAMES {
        let svg = plot(frame, &curves, &format!("median time of the first {change}, by size"));
        let _ = writeln!(html, "<div class='{class}'>{svg}</div>");
    }
    let lines = run.lines();
    let here = |one: &crate::results::Line| one.place == place && one.change == change;
    *html += "<ul class='legend'>\n";
    for look in looks.iter().filter(|look| curves.iter().any(|curve| curve.letter == look.letter)) {
        let fit = lines.iter().find(|line| here(line) && line.label == look.label);
        let fit = fit.map_or_else(String::new, |line| format!("<br><small>{}</small>", in_words(&line.fit)));
        let _ = writeln!(html, "<li>{}<span>{}{fit}</span></li>", look.swatch(), escape(&look.label));
    }
    *html += "</ul>\n";
    let crossings = run.crossings(&lines);
    let crossings: Vec<_> = crossings.iter().filter(|one| here(one.above)).collect();
    if !crossings.is_empty() {
        *html += "<details><summary>Where two lines cross</summary><ul>\n";
        for one in crossings {
            let (below, above) = (escape(&one.below.label), escape(&one.above.label));
            let _ = writeln!(html, "<li>from {} on, {below} costs less than {above}</li>", size(one.at));
        }
        *html += "</ul></details>\n";
    }
}

/// A change, for a heading.
fn in_full(change: &str) -> &str {
    match change {
        "middle" => "4 KiB written in the middle",
        "append" => "4 KiB appended",
        "truncate" => "truncated to half",
        "mmap" => "a page stored through mmap(2), and synced",
        other => other,
    }
}

/// The kinds of change at the size at which there are most, and what the files may have at that size.
fn kinds(html: &mut String, run: &Run, place: &str, looks: &[Look]) {
    let here: Vec<&Series> = run.series.iter().filter(|one| one.place == place && one.is_plain()).collect();
    let at = run.most_changes_at(place);
    let mut names: Vec<&str> = Vec::new();
    for one in here.iter().filter(|one| one.size == at) {
        if !names.contains(&one.change.as_str()) {
            names.push(&one.change);
        }
    }
    let of = |kind: &str| here.iter().copied().filter(|one| one.size == at && one.change == kind).collect();
    let groups: Vec<_> = names.into_iter().map(|kind| (in_full(kind), of(kind))).collect();
    bars(html, &format!("By kind of change, files of {}", size(at as f64)), &groups, looks);
    for change in ["middle", "chmod"] {
        let with = |extra: Extra| {
            let is = |one: &&Series| one.size == at && one.change == change && one.extra == extra.name();
            run.series.iter().filter(|one| one.place == place && is(one)).collect::<Vec<_>>()
        };
        let groups = Extra::ALL.map(|extra| (extra.in_full(), with(extra)));
        let groups: Vec<_> = groups.into_iter().filter(|(_, all)| !all.is_empty()).collect();
        let heading = format!("By what the file has: {}, files of {}", in_full(change), size(at as f64));
        bars(html, &heading, &groups, looks);
    }
}

/// Bars of methods, a group below the other; one alone has nothing to be compared with.
fn bars(html: &mut String, heading: &str, groups: &[(&str, Vec<&Series>)], looks: &[Look]) {
    if groups.len() < 2 {
        return;
    }
    let _ = writeln!(html, "<h3>{heading}</h3>\n<div class='kinds'>");
    for (name, all) in groups {
        let most = all.iter().map(|one| one.median()).fold(1.0, f64::max);
        let _ = writeln!(html, "<div class='kind'><h4>{name}</h4>");
        for one in all {
            let label = methods::label(&one.method, &one.durability);
            let Some(look) = looks.iter().find(|look| look.label == label) else { continue };
            let _ = writeln!(
                html,
                "<div class='row'><span class='who'><b>{}</b> {label}</span><span class='track'><span class='bar c{} {}' \
                 style='width:{:.1}%'></span></span><span class='what'>{}</span></div>",
                look.letter,
                look.colour,
                look.durability,
                one.median() / most * 100.0,
                time(one.median())
            );
        }
        *html += "</div>\n";
    }
    *html += "</div>\n";
}

/// What others wait for.
fn neighbours(html: &mut String, run: &Run, place: &str) {
    let all = run.neighbours(place);
    let Some((one, _)) = all.first() else { return };
    let _ = writeln!(
        html,
        "<h3>What a neighbour waits for</h3>\n<p>One stat(2) each millisecond, of names that nobody has asked for yet, in the same \
         view: alone, and while files of {} are changed.</p><div class='wide-table'><table><tr><th>method</th><th>alone</th><th>p99</th>\
         <th>meanwhile</th><th>p99</th><th>maximum</th></tr>",
        size(one.size as f64)
    );
    for (alone, meanwhile) in all {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(&alone.label()),
            time(alone.median()),
            time(alone.quantile(0.99)),
            time(meanwhile.median()),
            time(meanwhile.quantile(0.99)),
            time(meanwhile.quantile(1.0))
        );
    }
    *html += "</table></div>\n";
}

fn numbers(html: &mut String, run: &Run, place: &str) {
    *html += "<details><summary>All numbers</summary><div class='wide-table'><table><tr><th>change</th><th>extra</th><th>size</th>\
              <th>method</th><th>median</th><th>p99</th><th>maximum</th><th>samples</th><th>upper</th><th>device</th></tr>\n";
    for one in run.series.iter().filter(|one| one.place == place) {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            one.change,
            one.extra,
            size(one.size as f64),
            escape(&one.label()),
            time(one.median()),
            time(one.quantile(0.99)),
            time(one.quantile(1.0)),
            one.nanos.len(),
            written(one.upper, one.changed),
            one.device.map_or_else(|| "?".into(), |bytes| written(bytes, one.changed))
        );
    }
    *html += "</table></div></details>\n";
}
