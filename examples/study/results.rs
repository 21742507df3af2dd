//! What a run has found, and its two forms on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::extra::Extra;
use crate::stats::{self, Fit};
use crate::{Done, methods, neighbour};

/// Changes when a reader of the JSON would have to.
const SCHEMA: &str = "plyfs-study-2";

/// The first changes of files that are alike, by one method.
#[derive(Clone)]
pub struct Series {
    pub place: String,
    pub method: String,
    pub durability: String,
    pub change: String,
    /// What the file has beside its data: a word of [`crate::extra::Extra`].
    pub extra: String,
    /// Bytes of the lower file.
    pub size: u64,
    /// Bytes of data that one change changes.
    pub changed: u64,
    /// Bytes that the files of the upper layer take after it, for one change.
    pub upper: f64,
    /// Bytes that were written to the device until it was synced, for one change.
    pub device: Option<f64>,
    /// Sorted.
    pub nanos: Vec<f64>,
}

impl Series {
    pub fn label(&self) -> String {
        methods::label(&self.method, &self.durability)
    }

    pub fn median(&self) -> f64 {
        stats::median(&self.nanos)
    }

    pub fn quantile(&self, share: f64) -> f64 {
        stats::quantile(&self.nanos, share)
    }

    /// Whether it is the change of a file that has nothing but its data.
    pub fn is_plain(&self) -> bool {
        self.extra == Extra::Nothing.name() && !self.is_neighbour()
    }

    /// Whether it is what another program waits for, and not the change itself.
    pub fn is_neighbour(&self) -> bool {
        neighbour::WORDS.contains(&self.change.as_str())
    }

    /// What is the same in another run.
    pub fn key(&self) -> (&str, &str, &str, u64, &str, &str) {
        (&self.place, &self.change, &self.extra, self.size, &self.method, &self.durability)
    }

    fn to_json(&self) -> Value {
        json!({
            "place": self.place, "method": self.method, "durability": self.durability, "change": self.change,
            "extra": self.extra, "size_bytes": self.size, "changed_bytes": self.changed,
            "upper_bytes": self.upper, "device_bytes": self.device,
            "median_ns": self.median(), "p99_ns": self.quantile(0.99), "max_ns": self.quantile(1.0),
            "samples_ns": self.nanos,
        })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Some(Self {
            place: text("place")?,
            method: text("method")?,
            durability: text("durability")?,
            change: text("change")?,
            extra: text("extra")?,
            size: value["size_bytes"].as_u64()?,
            changed: value["changed_bytes"].as_u64()?,
            upper: value["upper_bytes"].as_f64()?,
            device: value["device_bytes"].as_f64(),
            nanos: stats::sorted(value["samples_ns"].as_array()?.iter().filter_map(Value::as_f64).collect()),
        })
    }
}

/// The cost by size of one method, as a line.
pub struct Line {
    pub place: String,
    pub change: String,
    pub label: String,
    pub fit: Fit,
}

/// Where the lines of two methods cross.
pub struct Crossing<'a> {
    pub below: &'a Line,
    pub above: &'a Line,
    /// Bytes from which on `above` is the dearer one.
    pub at: f64,
}

pub struct Run {
    /// See [`crate::machine::describe`].
    pub machine: Value,
    /// Each with `name`, `file_system` and `copies`.
    pub places: Vec<Value>,
    pub series: Vec<Series>,
    pub skipped: Vec<String>,
}

impl Run {
    /// What `--json` has written.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path) -> Done<Self> {
        let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let value: Value =
            serde_json::from_slice(&fs::read(path).map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
        if value["schema"] != SCHEMA {
            return Err(wrong(&format!("this is no study with the schema {SCHEMA}")).into());
        }
        let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
        let series: Option<Vec<_>> = list("series").iter().map(Series::from_json).collect();
        Ok(Self {
            machine: value["machine"].clone(),
            places: list("places"),
            series: series.ok_or_else(|| wrong(&"a series lacks a value"))?,
            skipped: list("skipped").iter().filter_map(|text| text.as_str().map(str::to_owned)).collect(),
        })
    }

    pub fn to_json(&self) -> String {
        let lines = self.lines();
        let fits: Vec<_> = lines
            .iter()
            .map(|line| {
                let Fit { a, b, a_error, b_error } = line.fit;
                json!({
                    "place": line.place, "change": line.change, "method": line.label, "a_ns": a, "a_error_ns": a_error,
                    "b_ns_per_byte": b, "b_error_ns_per_byte": b_error,
                })
            })
            .collect();
        let crossings: Vec<_> = self
            .crossings(&lines)
            .iter()
            .map(|one| {
                json!({
                    "place": one.above.place, "change": one.above.change, "cheaper_from_there_on": one.below.label,
                    "dearer_from_there_on": one.above.label, "size_bytes": one.at,
                })
            })
            .collect();
        let all = json!({
            "schema": SCHEMA, "machine": self.machine, "places": self.places, "fits": fits, "crossings": crossings,
            "skipped": self.skipped, "series": self.series.iter().map(Series::to_json).collect::<Vec<_>>(),
        });
        format!("{all:#}\n")
    }

    /// One sample a line.
    pub fn to_csv(&self) -> String {
        let mut text = String::from("place,method,durability,change,extra,size_bytes,nanoseconds\n");
        for one in &self.series {
            let Series { place, method, durability, change, extra, size, .. } = one;
            let place = place.replace('"', "\"\"");
            for nanos in &one.nanos {
                let _ = writeln!(text, "\"{place}\",\"{method}\",{durability},{change},{extra},{size},{nanos}");
            }
        }
        text
    }

    /// What was measured by size, in one place: each change with at least three sizes.
    pub fn sweeps(&self, place: &str) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        let here = |one: &&Series| one.place == place && one.is_plain();
        for one in self.series.iter().filter(here) {
            let same = |other: &&Series| here(other) && other.change == one.change;
            let mut sizes: Vec<_> = self.series.iter().filter(same).map(|other| other.size).collect();
            sizes.sort_unstable();
            sizes.dedup();
            if sizes.len() >= 3 && !found.contains(&one.change.as_str()) {
                found.push(&one.change);
            }
        }
        found
    }

    /// The labels of all methods, in the order in which they were measured.
    pub fn labels(&self) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for label in self.series.iter().map(Series::label) {
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        labels
    }

    /// The size (bytes) at which most kinds of change were measured, the smallest of several; 0 where there is none.
    pub fn most_changes_at(&self, place: &str) -> u64 {
        let mut changes: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for one in self.series.iter().filter(|one| one.place == place && one.is_plain()) {
            changes.entry(one.size).or_default().insert(&one.change);
        }
        let most = changes.values().map(BTreeSet::len).max().unwrap_or(0);
        changes.iter().find(|(_, all)| all.len() == most).map_or(0, |(size, _)| *size)
    }

    /// What a neighbour waits for, alone and meanwhile, by each method.
    pub fn neighbours(&self, place: &str) -> Vec<(&Series, &Series)> {
        let [alone, meanwhile] = neighbour::WORDS
            .map(|word| self.series.iter().filter(|one| one.place == place && one.change == word).collect::<Vec<_>>());
        let beside = |one: &&Series| meanwhile.iter().find(|other| other.label() == one.label()).copied();
        alone.iter().copied().filter_map(|one| Some((one, beside(&one)?))).collect()
    }

    /// Sizes and medians of one method.
    pub fn points(&self, place: &str, change: &str, label: &str) -> Vec<(f64, f64)> {
        let is = |one: &&Series| one.place == place && one.change == change && one.is_plain() && one.label() == label;
        let mut points: Vec<_> = self.series.iter().filter(is).map(|one| (one.size as f64, one.median())).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    }

    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        for place in self.places.iter().filter_map(|place| place["name"].as_str()) {
            for change in self.sweeps(place) {
                for label in self.labels() {
                    let mut points = self.points(place, change, &label);
                    // An empty file has no data to be synced: it is not on the line of the others.
                    points.retain(|point| point.0 > 0.0);
                    if let Some(fit) = stats::fit(&points) {
                        lines.push(Line { place: place.to_owned(), change: change.to_owned(), label, fit });
                    }
                }
            }
        }
        lines
    }

    /// Those within the sizes that were measured.
    pub fn crossings<'a>(&self, lines: &'a [Line]) -> Vec<Crossing<'a>> {
        let most = self.series.iter().map(|one| one.size).max().unwrap_or(0) as f64;
        let mut found = Vec::new();
        for (number, one) in lines.iter().enumerate() {
            let others = lines[number + 1..].iter().filter(|it| (&it.place, &it.change) == (&one.place, &one.change));
            for other in others {
                let Some(at) = stats::crossing(&one.fit, &other.fit).filter(|at| *at < most) else { continue };
                let (below, above) = if one.fit.b < other.fit.b { (one, other) } else { (other, one) };
                found.push(Crossing { below, above, at });
            }
        }
        found
    }
}
