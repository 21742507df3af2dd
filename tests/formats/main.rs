//! Hostile and broken layers: each row of the tables is a layer, what is asked of it, and the documented answer, which the
//! kernel's OverlayFS gives too, unless the row says what it answers and why that is another.
//!
//! `PLYFS_FORMATS=WORD` runs only the rows with that word in their names; the whole table is printed (`--nocapture`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../common/mod.rs"]
mod common;

mod index;
mod marks;
mod metacopy;
mod namespaces;
mod owners;
mod probe;
mod redirect;
mod row;
mod verity;

use common::scratch::Mounted;
use common::stack::Layer;
use common::*;
use row::{Row, Theirs};

/// A stack on a file system of the test's own where there may be one: tmpfs holds attributes of 64 KiB.
struct Place {
    _below: Option<System>,
    _tmpfs: Option<Mounted>,
    stack: Stack,
}

impl Place {
    fn new(row: &Row) -> Self {
        let scratch = Scratch::new();
        let tmpfs = Mounted::tmpfs(scratch.path());
        let layer = |name: &str| Layer::new(scratch.dir(name));
        let below = row.fs_verity.then(|| System::native("ext4-verity", &scratch).unwrap());
        let bottom = below.as_ref().map_or_else(|| layer("lower1"), |system| Layer::new(system.root().to_owned()));
        let (lowers, upper) = (vec![layer("lower0"), bottom], Some(layer("upper")));
        let (merged, options) = (scratch.dir("merged"), Vec::new());
        Place { _below: below, _tmpfs: tmpfs, stack: Stack { scratch, lowers, upper, merged, options } }
    }
}

/// The mount options of a row.
fn options(stack: &Stack, lowers: &str, more: &str) -> String {
    // The digits are the layers.
    let path = |n: char| n.to_digit(10).map_or(n.to_string(), |n| path_of(&stack.lowers[n as usize]));
    let lowers: String = lowers.chars().map(path).collect();
    let (upper, work) = (path_of(stack.upper()), stack.scratch.dir("work").display().to_string());
    let comma = if more.is_empty() { "" } else { "," };
    let key = if lowers.contains('=') { "" } else { "lowerdir=" };
    format!("{key}{lowers},upperdir={upper},workdir={work}{comma}{more}")
}

fn path_of(layer: &Layer) -> String {
    layer.root().display().to_string()
}

/// What the binary under test answers, of the layers as they are, or after `plyfs layer check --repair`; an error is a failure
/// in any case.
fn ask_ours(row: &Row, repairs: bool) -> Result<String, String> {
    let place = Place::new(row);
    let stack = &place.stack;
    (row.make)(stack);
    if repairs {
        check(row, stack, &["--repair"]);
    }
    let before: Vec<View> = stack.lowers.iter().map(|l| view::layer(l.root())).collect();
    let log = stack.scratch.path().join("log");
    let mounted = Mount::try_with(&options(stack, row.lowers, row.options), &stack.merged, &log);
    let answer = match mounted {
        Err(said) => {
            let said: Vec<_> = said.lines().filter(|line| line.contains("plyfs: ")).collect();
            if said.len() != 1 {
                return Err(format!("the mount is refused, but not in one line: {said:?}"));
            }
            "refused".into()
        }
        Ok(mut mount) => {
            let answer = probe::ask(&mount, stack, row.probe);
            mount.write("alive", "x").map_err(|e| format!("after {answer:?}: {e:?}"))?;
            match mount.unmount() {
                Some(status) if !status.success() => return Err(format!("the daemon ended with {status}")),
                _ => answer,
            }
        }
    };
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let (says, once) = if repairs { (&[][..], None) } else { (row.says, row.once) };
    if let Some(word) = says.iter().find(|word| !said.contains(*word)) {
        return Err(format!("{answer}, and it does not say {word:?}: {said}"));
    }
    if let Some(word) = once.filter(|word| said.lines().filter(|line| line.contains(word)).count() != 1) {
        return Err(format!("{answer}, and it does not say {word:?} in one line: {said}"));
    }
    for (layer, before) in stack.lowers.iter().zip(&before) {
        if let Some(difference) = view::layer(layer.root()).difference(before) {
            return Err(format!("a lower layer has changed: {difference}"));
        }
    }
    Ok(answer)
}

/// Runs `plyfs layer check` on the layers of a row: its exit status, its findings, and what it says besides.
fn check(row: &Row, stack: &Stack, words: &[&str]) -> (Option<i32>, String, String) {
    let (lowers, data) = row.lowers.split_at(row.lowers.find("::").unwrap_or(row.lowers.len()));
    let paths = |digits: &str| {
        let layers = digits.chars().filter_map(|digit| digit.to_digit(10));
        layers.map(|n| stack.lowers[n as usize].root().to_owned()).collect::<Vec<_>>()
    };
    let mut command = std::process::Command::new(mount::binary());
    command.args(["layer", "check"]).args(words).arg("--workdir").arg(stack.scratch.dir("work"));
    command.arg(stack.upper().root()).args(paths(lowers));
    paths(data).iter().for_each(|dir| _ = command.arg("--datadir").arg(dir));
    if row.options.contains("userxattr") {
        command.arg("--userxattr");
    }
    let done = command.output().unwrap();
    let [out, said] = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (done.status.code(), out, said)
}

/// What the kernel's OverlayFS answers, of the layers as they are, or after `plyfs layer check --repair`. `None`: a finding
/// has said that it answers otherwise then.
fn ask_the_kernel(row: &Row, repairs: bool) -> Option<String> {
    let place = Place::new(row);
    let stack = &place.stack;
    (row.make)(stack);
    if repairs && check(row, stack, &["--repair"]).1.contains("removed; plyfs does not show it; the kernel lists it") {
        return None;
    }
    Some(match Kernel::with(&options(stack, row.lowers, row.options), &stack.merged) {
        Ok(kernel) => probe::ask(&kernel, stack, row.probe),
        Err(e) => format!("refused {}", code(Errno::from_io_error(&e).unwrap())),
    })
}

/// Whether the binary under test has what the row is about.
fn possible(row: &Row) -> Result<(), String> {
    if row.root && who() != Who::Root {
        return Err("for root only".into());
    }
    if row.fs_verity {
        verity::usable()?;
    }
    let lacks = row.options.split(',').chain(row.needs.iter().copied()).find(|o| !o.is_empty() && !mount::takes(o));
    lacks.map_or(Ok(()), |option| Err(format!("{option} is not there yet")))
}

#[test]
fn hostile_and_broken_layers_get_the_documented_answer() {
    within(300, || {
        if !mount::is_plyfs() {
            skip!("the answers are those of plyfs");
        }
        let chosen = std::env::var("PLYFS_FORMATS").unwrap_or_default();
        let kernel = who() == Who::Root && Kernel::usable();
        if !kernel {
            say_skipped("the kernel's answers: its OverlayFS as root is needed");
        }
        let (mut wrong, mut table, mut skipped) = (Vec::new(), String::new(), std::collections::BTreeMap::new());
        let rows =
            [redirect::rows(), metacopy::rows(), index::rows(), marks::rows(), namespaces::rows(), verity::rows()]
                .into_iter()
                .chain([owners::rows()])
                .flatten();
        for row in rows.filter(|row| row.name.contains(&chosen)) {
            let theirs = match &row.kernel {
                Theirs::Asked(answer, _) if kernel && (!row.fs_verity || verity::usable().is_ok()) => {
                    let got = ask_the_kernel(&row, false).unwrap();
                    if got != answer.unwrap_or(row.ours) {
                        wrong.push(format!("{}: the kernel answers {got:?}", row.name));
                    }
                    got
                }
                _ => "not asked".into(),
            };
            let ours = match possible(&row) {
                Ok(()) => ask_ours(&row, false),
                Err(why) => {
                    *skipped.entry(why.clone()).or_insert(0) += 1;
                    Ok(why)
                }
            };
            if possible(&row).is_ok() && ours.as_deref() != Ok(row.ours) {
                wrong.push(format!("{}: {ours:?}, not {:?}", row.name, row.ours));
            }
            let why = row.kernel.why();
            table += &format!("| {} | {} | {theirs} | {why} |\n", row.name, ours.unwrap_or_else(|e| e));
        }
        println!("| layer | plyfs | kernel | unlike, because |\n|---|---|---|---|\n{table}");
        for (why, rows) in skipped {
            say_skipped(&format!("{rows} rows: {why}"));
        }
        assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    });
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}

/// Rows in which nothing is wrong with the layers: another option, or a use of them, is what the row is about.
const SOUND: [&str; 30] = [
    // What is left where the data was copied up.
    "redirect on a file without metacopy",
    "metacopy that is empty",
    "metacopy with a header only",
    "metacopy over two layers",
    "metacopy that is written to",
    "metacopy that is renamed",
    "metacopy that is removed",
    "data-only: datadir+=",
    "data-only: data that is there",
    "data-only: metacopy not asked for",
    // For plyfs.
    "data-only: a redirect in the upper layer",
    "metacopy with metacopy=off",
    "metacopy with redirect to a path",
    "metacopy with redirect to a name",
    "metacopy in user.* with userxattr",
    "nlink as it was written",
    "nlink U+1",
    "nlink L+0",
    "nlink L-1",
    "opaque y",
    "whiteout mark where it counts",
    "whiteout that is a device with a mode",
    "origin that is empty",
    "an escaped mark",
    "an escaped mark of 250 bytes",
    "the longest escaped mark",
    "protattr a",
    "protattr i",
    "protattr ai",
    "opaque of fuse-overlayfs 1 in a lower layer of root's",
];

#[test]
fn plyfs_layer_check_finds_what_is_odd_about_each_layer() {
    within(300, || {
        let rows = [redirect::rows(), metacopy::rows(), index::rows(), marks::rows(), namespaces::rows()];
        let mut wrong = Vec::new();
        for row in rows.into_iter().flatten().filter(|row| possible(row).is_ok()) {
            let place = Place::new(&row);
            (row.make)(&place.stack);
            let (status, out, said) = check(&row, &place.stack, &[]);
            let expected = if SOUND.contains(&row.name.as_str()) { 0 } else { 1 };
            if status != Some(expected) || out.is_empty() != (expected == 0) {
                wrong.push(format!("{}: {status:?} {out}{said}", row.name));
            }
        }
        assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    });
}

#[test]
fn a_repair_changes_no_answer() {
    within(300, || {
        if !mount::is_plyfs() {
            skip!("the answers are those of plyfs");
        }
        let rows =
            [redirect::rows(), metacopy::rows(), index::rows(), marks::rows(), namespaces::rows(), owners::rows()];
        let kernel = who() == Who::Root && Kernel::usable();
        let mut wrong = Vec::new();
        for row in rows.into_iter().flatten().filter(|row| possible(row).is_ok()) {
            let ours = ask_ours(&row, true);
            if ours.as_deref() != Ok(row.ours) {
                wrong.push(format!("{}: {ours:?}, not {:?}", row.name, row.ours));
            }
            let Theirs::Asked(answer, _) = &row.kernel else { continue };
            let expected = answer.unwrap_or(row.ours);
            let theirs = if kernel { ask_the_kernel(&row, true) } else { None };
            if let Some(theirs) = theirs.filter(|theirs| theirs != expected) {
                wrong.push(format!("{}: the kernel answers {theirs:?}, not {expected:?}", row.name));
            }
        }
        assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
    });
}
