//! What a run says at its end: the median of each thing that was measured, and its ratio to the kernel's OverlayFS.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

/// Whose times the others are compared with.
const KERNEL: &str = "kernel-overlayfs";

/// What one bench has measured, as criterion left it on the disk.
struct Row {
    group: String,
    /// Who was measured, such as `plyfs` or `engine/synced`.
    function: String,
    /// The parameter of the group, such as a size in bytes.
    value: String,
    /// Nanoseconds.
    median: f64,
}

impl Row {
    fn read(new: &Path) -> Option<Self> {
        let json = |file: &str| serde_json::from_slice::<Value>(&fs::read(new.join(file)).ok()?).ok();
        let (what, estimates) = (json("benchmark.json")?, json("estimates.json")?);
        let text = |key: &str| what[key].as_str().unwrap_or_default().to_owned();
        let median = estimates["median"]["point_estimate"].as_f64()?;
        Some(Self { group: text("group_id"), function: text("function_id"), value: text("value_str"), median })
    }

    /// The key of the same, done by the kernel's OverlayFS.
    fn of_kernel(&self) -> (String, String, String) {
        // A way is the first word of the function, as in `plyfs/synced`.
        let (_, rest) = self.function.split_once('/').unwrap_or((&self.function, ""));
        let function = if rest.is_empty() { KERNEL.to_owned() } else { format!("{KERNEL}/{rest}") };
        (self.group.clone(), function, self.value.clone())
    }

    fn key(&self) -> (String, String, String) {
        (self.group.clone(), self.function.clone(), self.value.clone())
    }
}

/// Where criterion keeps what it has measured.
fn home() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    var("CRITERION_HOME")
        .unwrap_or_else(|| var("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()).join("criterion"))
}

/// The directories `new` below `dir` that were written since.
fn written(dir: &Path, since: SystemTime, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_new = |path: &Path| {
            let file = fs::metadata(path.join("estimates.json")).and_then(|stat| stat.modified());
            file.is_ok_and(|time| time >= since)
        };
        match entry.file_name().to_str() {
            Some("new") if is_new(&path) => found.push(path),
            _ if path.is_dir() => written(&path, since, found),
            _ => {}
        }
    }
}

/// A time in the unit that a person would take.
fn time(nanos: f64) -> String {
    [("s", 1e9), ("ms", 1e6), ("us", 1e3)]
        .into_iter()
        .find(|(_, unit)| nanos >= *unit)
        .map_or_else(|| format!("{nanos:.0} ns"), |(name, unit)| format!("{:.2} {name}", nanos / unit))
}

/// Prints the table of what was measured since then, if there is something to compare.
pub fn print(since: SystemTime) {
    let mut found = Vec::new();
    written(&home(), since, &mut found);
    let mut rows: Vec<Row> = found.iter().filter_map(|new| Row::read(new)).collect();
    let number = |row: &Row| row.value.parse::<u64>().unwrap_or(0);
    rows.sort_by(|one, other| {
        (&one.group, number(one), &one.value, &one.function).cmp(&(
            &other.group,
            number(other),
            &other.value,
            &other.function,
        ))
    });
    let medians: BTreeMap<_, f64> = rows.iter().map(|row| (row.key(), row.median)).collect();
    if rows.is_empty() {
        return;
    }
    println!("\n| what | parameter | who | median | to the kernel's OverlayFS |\n|---|---|---|---|---|");
    for row in &rows {
        let ratio = medians.get(&row.of_kernel()).map(|kernel| format!("x{:.2}", row.median / kernel));
        let Row { group, function, value, median } = row;
        println!("| {group} | {value} | {function} | {} | {} |", time(*median), ratio.unwrap_or_default());
    }
}
