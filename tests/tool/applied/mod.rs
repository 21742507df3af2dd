//! `apply`: the lower directory becomes what the view shows, and the upper layer holds nothing of it any more.

mod cases;
mod command;
mod conflicts;
mod histories;
mod kills;
mod meanwhile;
mod rights;
mod several;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use plyfs::config::Config;
use plyfs::tool::apply::{self, Dirs, Loss, Plan, Refusal, Resumed};
use plyfs::tool::{self, How};
use plyfs::union;

use crate::common::*;
use crate::config;

/// What is applied.
#[derive(Default)]
pub struct What<'a> {
    pub paths: &'a [&'a str],
    pub theirs: bool,
    pub ours: bool,
}

/// Why nothing was applied.
#[derive(Debug, PartialEq, Eq)]
pub enum Not {
    Conflicts(Vec<String>),
    Refused(Refusal),
}

/// Applies the changes of a stack that is not mounted.
pub fn apply(stack: &Stack, what: What<'_>) -> Result<Vec<Loss>, Not> {
    apply_with(&config(stack), what)
}

pub fn apply_with(config: &Config, what: What<'_>) -> Result<Vec<Loss>, Not> {
    apply_after(config, what, || ())
}

/// `meanwhile` happens when all is staged.
pub fn apply_after(config: &Config, what: What<'_>, meanwhile: impl FnOnce()) -> Result<Vec<Loss>, Not> {
    let (plain, _held) = union::hold(config).unwrap_or_else(|error| panic!("{error:?}"));
    let shown = union::look_between(config, union::Range::ALL).unwrap().with_index();
    let dirs = Dirs::open(&plain, &config.upper.as_ref().unwrap().work).unwrap();
    let diff = tool::diff(&plain, How { alone: true, ..How::default() }).unwrap();
    let mut plan = Plan::make((&shown, &dirs), &diff, false).map_err(Not::Refused)?;
    let paths: Vec<PathBuf> = what.paths.iter().map(PathBuf::from).collect();
    plan.select(&paths, what.theirs).map_err(Not::Refused)?;
    if !plan.conflicts().is_empty() && !what.theirs && !what.ours {
        let line = |conflict: &apply::Conflict| format!("{}: {}", conflict.path.display(), conflict.why);
        return Err(Not::Conflicts(plan.conflicts().iter().map(line).collect()));
    }
    let staged = plan.stage(&mut |_, _| ()).map_err(Not::Refused)?;
    meanwhile();
    staged.commit(&mut |_, _| ()).map_err(Not::Refused)
}

pub fn resume(config: &Config) -> Result<Resumed, Refusal> {
    resume_with(config, false)
}

pub fn resume_with(config: &Config, ours: bool) -> Result<Resumed, Refusal> {
    let (plain, _held) = union::hold(config).unwrap_or_else(|error| panic!("{error:?}"));
    let dirs = Dirs::open(&plain, &config.upper.as_ref().unwrap().work).unwrap();
    apply::resume(&union::look_between(config, union::Range::ALL).unwrap().with_index(), &dirs, ours, &mut |_, _| ())
}

/// A tree with all that `ls` and `stat` show of it but its root: types, owners, modes, links, contents, attributes, and the
/// times to the nanosecond. Private marks are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub view: View,
    pub times: BTreeMap<Vec<u8>, (i64, i64)>,
}

pub fn seen(tree: &Tree) -> Seen {
    let mut view = View::of(tree, Walk { foreign: true, ..Walk::default() });
    let is_staged = |path: &[u8]| path.split(|byte| *byte == b'/').any(|name| name.starts_with(b".plyfs-apply-"));
    view.objects.retain(|path, _| !path.is_empty() && !is_staged(path));
    view.same.retain(|names| !names.iter().any(|name| is_staged(name)));
    let time = |path: &Vec<u8>| {
        let stat = std::fs::symlink_metadata(tree.root().join(std::ffi::OsStr::from_bytes(path))).unwrap();
        (stat.mtime(), stat.mtime_nsec())
    };
    let times = view.objects.keys().map(|path| (path.clone(), time(path))).collect();
    Seen { view, times }
}

impl Seen {
    /// What differs, in words.
    pub fn difference(&self, other: &Seen) -> Option<String> {
        let mut text = self.view.difference(&other.view).unwrap_or_default();
        for (path, time) in &self.times {
            let other = other.times.get(path);
            if other.is_some_and(|other| other != time) {
                text += &format!("  time of {}: {time:?} {other:?}\n", path.escape_ascii());
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Names in a layer at any depth, but in the directories of work.
pub fn left_in(dir: &Path) -> Vec<String> {
    let mut left: Vec<String> = Tree::new(dir).names("").unwrap();
    left.sort();
    left
}

/// The lower directory shows what the view has shown, nothing is left in the upper layer, and the view is as it was.
pub fn check_applied(stack: &Stack, expected: &Seen) -> Result<(), String> {
    let lower = seen(&stack.lowers[0]);
    if let Some(difference) = expected.difference(&lower) {
        return Err(format!("the lower directory is not what the view was:\n{difference}"));
    }
    let left = left_in(stack.upper().root());
    if !left.is_empty() {
        return Err(format!("left in the upper layer: {left:?}"));
    }
    let staged: Vec<_> =
        left_in(stack.lowers[0].root()).into_iter().filter(|name| name.starts_with(".plyfs")).collect();
    if !staged.is_empty() {
        return Err(format!("left in the lower directory: {staged:?}"));
    }
    let mount = stack.mount();
    match expected.difference(&seen(&mount)) {
        Some(difference) => Err(format!("the view is not what it was:\n{difference}")),
        None => Ok(()),
    }
}

/// Lets the clock of the file system go on, so that what comes is later than what was.
pub fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(25));
}
