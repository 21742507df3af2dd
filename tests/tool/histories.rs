//! Random histories: the changes that are told turn the lower layers' tree into the view, each of them is one, and a
//! renamed directory is told as such.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use plyfs::tool::{Change, Diff, Kind, Letter, What};

use crate::common::view::Object;
use crate::common::*;
use crate::model::layers::{self, Plan, build, plan, things};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};
use crate::{diff, line, lines};

/// A tree by path, without its root, and the number of each object.
pub struct State {
    pub objects: BTreeMap<Vec<u8>, Object>,
    numbers: HashMap<Vec<u8>, u64>,
}

pub fn state(tree: &Tree) -> State {
    let mut objects = View::of(tree, Walk { times: true, ..Walk::default() }).objects;
    objects.remove(&b""[..]);
    let number = |path: &Vec<u8>| {
        let path = tree.root().join(std::ffi::OsStr::from_bytes(path));
        std::fs::symlink_metadata(path).unwrap().ino()
    };
    let numbers = objects.keys().map(|path| (path.clone(), number(path))).collect();
    State { objects, numbers }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// What stands below `dir`, relative to it; `None`: it is elsewhere.
fn below<'a>(path: &'a [u8], dir: &[u8]) -> Option<&'a [u8]> {
    let rest = path.strip_prefix(dir)?;
    (rest.is_empty() || rest[0] == b'/').then_some(rest)
}

/// Where the lines say that an old object is now; `None`: it was deleted.
fn place(path: &[u8], diff: &Diff) -> Option<Vec<u8>> {
    let old = |change: &Change| bytes(change.was.as_ref().unwrap_or(&change.path));
    let tells = |change: &&Change| match change.letter {
        Letter::Renamed => true,
        Letter::Deleted => true,
        // What was in a directory that is none any more is gone with it.
        Letter::Retyped => change.was_kind == Some(Kind::Dir) && old(change) != path,
        _ => false,
    };
    let told =
        diff.changes.iter().filter(tells).filter_map(|change| Some((change, below(path, &old(change))?.to_vec())));
    match told.min_by_key(|(_, rest)| rest.len()) {
        None => Some(path.to_vec()),
        Some((change, rest)) if change.letter == Letter::Renamed => Some([bytes(&change.path), rest].concat()),
        Some(_) => None,
    }
}

/// How an object that is there before and after differs.
fn differs(old: &Object, new: &Object) -> Vec<&'static str> {
    let is_dir = new.kind == rustix::fs::FileType::Directory;
    let is_link = new.kind == rustix::fs::FileType::Symlink;
    let data = |object: &Object| (object.size, object.content, object.target.clone(), object.rdev);
    let all = [
        ("data", data(old) != data(new)),
        ("mode", !is_link && old.mode != new.mode),
        ("owner", old.owner != new.owner),
        ("times", !is_dir && old.changed != new.changed),
        ("xattrs", old.xattrs != new.xattrs),
    ];
    all.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect()
}

/// Checks the lines against the two trees. `links`: a lower file may have several names, of which the upper layer may not
/// have all. `numbers`: an object that is there before and after has the same one.
pub fn judge(before: &State, after: &State, diff: &Diff, links: bool, numbers: bool) -> Result<(), String> {
    let mut moved: HashMap<Vec<u8>, &Vec<u8>> = HashMap::new();
    for path in before.objects.keys() {
        if let Some(now) = place(path, diff)
            && let Some(other) = moved.insert(now.clone(), path)
        {
            return Err(format!(
                "{} is told to be two",
                now.escape_ascii().to_string() + &other.escape_ascii().to_string()
            ));
        }
    }
    let at: HashMap<Vec<u8>, &Change> =
        diff.changes.iter().filter(|c| c.letter != Letter::Deleted).map(|c| (bytes(&c.path), c)).collect();
    if at.len() != diff.changes.iter().filter(|c| c.letter != Letter::Deleted).count() {
        return Err("two lines of one path".into());
    }
    for (path, new) in &after.objects {
        let shown = path.escape_ascii();
        let change = at.get(path);
        let Some(was) = moved.get(path) else {
            match change {
                Some(Change { letter: Letter::Added, .. }) => continue,
                other => return Err(format!("{shown} is new, and told as {:?}", other.map(|c| line(c)))),
            }
        };
        let old = &before.objects[*was];
        if let Some(change) = change {
            told_right(change, was, (old, new))?;
            continue;
        }
        let differing = differs(old, new);
        let other_name = links && old.nlink > 1;
        if old.kind != new.kind || (!differing.is_empty() && !other_name) {
            return Err(format!("{shown} differs ({differing:?}), and no line tells so:\n  {old:?}\n  {new:?}"));
        }
    }
    for (now, was) in &moved {
        if !after.objects.contains_key(now) {
            return Err(format!("{} is gone from {}, and no line tells so", was.escape_ascii(), now.escape_ascii()));
        }
    }
    for change in &diff.changes {
        told_of_something(change, before, after)?;
    }
    if numbers { known_by_number(before, after, diff) } else { Ok(()) }
}

/// A line of an object that is there before and after says what differs, and no more.
fn told_right(change: &Change, was: &[u8], (old, new): (&Object, &Object)) -> Result<(), String> {
    let differing = differs(old, new);
    let told: Vec<_> = change.what.iter().map(|what| what.word()).collect();
    let without_time =
        |words: &[&'static str]| words.iter().copied().filter(|word| *word != "times").collect::<Vec<_>>();
    let is_dir = new.kind == rustix::fs::FileType::Directory;
    let same = if is_dir { without_time(&told) == differing } else { told == differing };
    let data = differing.contains(&"data");
    let fits = match change.letter {
        Letter::Renamed => same && old.kind == new.kind,
        Letter::Retyped => old.kind != new.kind,
        Letter::Modified => same && data && old.kind == new.kind,
        Letter::Metadata => same && !data && old.kind == new.kind && !told.is_empty(),
        Letter::Added | Letter::Deleted => false,
    };
    let is_file = |object: &Object| object.kind == rustix::fs::FileType::RegularFile;
    let sizes = [(change.size.0, old), (change.size.1, new)];
    let sized = sizes.iter().all(|(size, object)| !is_file(object) || *size == Some(object.size));
    let owned = change.what.iter().all(|what| match what {
        What::Mode(from, to) => (*from, *to) == (old.mode, new.mode),
        What::Owner(from, to) => (*from, *to) == (old.owner, new.owner),
        _ => true,
    });
    if fits && sized && owned {
        return Ok(());
    }
    let was = was.escape_ascii();
    Err(format!("{:?} for what differs so: {differing:?} (was {was})\n  {old:?}\n  {new:?}", line(change)))
}

/// A line tells of an object that there is, or was.
fn told_of_something(change: &Change, before: &State, after: &State) -> Result<(), String> {
    let path = bytes(&change.path);
    let old = change.was.as_ref().map_or(path.clone(), |was| bytes(was));
    let files = |state: &State, dir: &[u8]| {
        let inside = state.objects.iter().filter(|(path, _)| below(path, dir).is_some());
        inside.filter(|(_, object)| object.kind != rustix::fs::FileType::Directory).count() as u64
    };
    let (there, counted) = match change.letter {
        Letter::Deleted => (before.objects.contains_key(&old), files(before, &old)),
        Letter::Renamed => {
            (before.objects.contains_key(&old) && after.objects.contains_key(&path), files(after, &path))
        }
        _ => (after.objects.contains_key(&path), 0),
    };
    let counts = change.kind == Kind::Dir && matches!(change.letter, Letter::Deleted | Letter::Renamed);
    if there && (!counts || change.files == Some(counted)) {
        Ok(())
    } else {
        Err(format!("{:?}: {counted}", line(change)))
    }
}

/// An object keeps its number: one that stands elsewhere, and whose old name is gone, was renamed. Not told are a file
/// that took the place of another (other bytes under that name), and one whose old directory was deleted.
fn known_by_number(before: &State, after: &State, diff: &Diff) -> Result<(), String> {
    let old: HashMap<u64, &Vec<u8>> = before.numbers.iter().map(|(path, number)| (*number, path)).collect();
    let taken: HashSet<_> = before.objects.keys().filter_map(|path| place(path, diff)).collect();
    let gone = |path: &[u8]| {
        let ends = |change: &&Change| change.letter == Letter::Deleted || change.was_kind == Some(Kind::Dir);
        let deleted = diff.changes.iter().filter(ends);
        deleted
            .map(|change| bytes(change.was.as_ref().unwrap_or(&change.path)))
            .any(|dir| below(path, &dir).is_some_and(|rest| !rest.is_empty()))
    };
    for (path, number) in &after.numbers {
        let Some(was) = old.get(number).filter(|was| **was != path) else { continue };
        let now = place(was, diff);
        let kinds = (before.objects[*was].kind, after.objects[path].kind);
        let alone = after.numbers.values().filter(|other| *other == number).count() == 1;
        let is_dir = kinds.1 == rustix::fs::FileType::Directory;
        // Of anything but files and directories there are no `user.*` attributes, and so no origins.
        let markable = who() == Who::Root || kinds.1 == rustix::fs::FileType::RegularFile;
        let told = is_dir || (markable && now.is_none() && !taken.contains(path) && !gone(was) && alone);
        if told && kinds.0 == kinds.1 && now.as_ref() != Some(path) {
            return Err(format!("{} was renamed to {}, and no line tells so", was.escape_ascii(), path.escape_ascii()));
        }
    }
    Ok(())
}

fn one(plans: &[Plan], ops: &[Op], option: &str, links: bool) -> Result<(), String> {
    let mut stack = build(plans);
    if !option.is_empty() {
        stack = stack.option(option);
    }
    let mount = stack.mount();
    let before = state(&mount);
    let mut log = String::new();
    {
        let mut real = Real::new(&mount);
        for op in ops {
            let step = op.resolve(&real.known());
            let outcome = real.apply(&step);
            log += &format!("  {step:?}{}\n", if outcome.is_ok() { "" } else { " failed" });
        }
    }
    let after = state(&mount);
    let diff = diff(&stack);
    if !diff.troubles.is_empty() {
        return Err(format!("{log}{:?}", diff.troubles));
    }
    judge(&before, &after, &diff, links, !links).map_err(|why| format!("{log}{}\n{why}", lines(&diff).join("\n")))
}

/// Histories over random layers.
fn run(cases: u64, salt: u64, option: &'static str, links: bool) {
    within(600, move || {
        let drawn = (things(), changes(30));
        let test = |(things, ops): &(Vec<Vec<layers::Thing>>, Vec<Op>)| one(&plan(things, links), ops, option, links);
        let words = |(things, _): &(Vec<Vec<layers::Thing>>, Vec<Op>)| layers::words(&plan(things, links));
        model::check(cases, salt, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}

#[test]
fn no_change_of_a_history_is_missing_and_none_is_too_many() {
    run(60, 201, "", false);
}

#[test]
fn the_same_where_all_is_copied() {
    run(30, 202, "redirect_dir=off,metacopy=off,index=off", false);
}

#[test]
fn the_same_with_blocks() {
    run(30, 203, "copyup_block=4K", false);
}

#[test]
fn the_same_with_lower_hard_links() {
    run(30, 204, "", true);
}
