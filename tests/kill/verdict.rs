//! What a worker finds after a kill: its model says what may be there.

use std::collections::BTreeSet;

use crate::acts::{changes_objects, is_between, is_write, paths};
use crate::common::{Tree, View, Walk};
use crate::model::Subject;
use crate::model::memory::Memory;
use crate::worker::Worker;

/// How the change that was begun came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// There was none.
    Nothing,
    Before,
    After,
    /// A write of which the first bytes are done, or whose set-user-id bit has gone.
    Between,
}

/// A difference from all that may be: of what sort, and in words.
pub type Wrong = (&'static str, String);

/// How to look.
#[derive(Clone, Copy)]
pub struct Look {
    pub walk: Walk,
    /// The kernel holds writes back: any pages of one that was not synced may be there.
    pub any_pages: bool,
}

/// The worker's part of the whole view, by its own names.
pub fn part_of(number: usize, whole: &View) -> View {
    let own = |path: &[u8]| {
        let start = Worker::name(number, "a");
        let start = &start.as_bytes()[..start.len() - 1];
        let root = Worker::name(number, "");
        match path.strip_prefix(start) {
            Some(own) => Some(own.to_vec()),
            None => (number.is_multiple_of(2) && path == root.as_bytes()).then(Vec::new),
        }
    };
    let objects = whole.objects.iter().filter_map(|(path, object)| Some((own(path)?, object.clone())));
    let names = |names: &BTreeSet<Vec<u8>>| names.iter().filter_map(|path| own(path)).collect::<BTreeSet<_>>();
    let same = whole.same.iter().map(names).filter(|names| !names.is_empty()).collect();
    View { objects: objects.collect(), same, wrong: Vec::new() }
}

/// What the model shows of the worker's part.
fn expected(number: usize, memory: &Memory, walk: Walk) -> View {
    let mut view = memory.view(walk);
    if number % 2 == 1 {
        view.objects.remove(&Vec::new());
    }
    view
}

/// Compares what is seen with what was acknowledged and what was begun; the model then has what is there.
pub fn settle(worker: &mut Worker, whole: &View, tree: &Tree, look: Look) -> Result<Came, Vec<Wrong>> {
    let seen = part_of(worker.number, whole);
    let (mut before, mut after) = (worker.memory.clone(), worker.memory.clone());
    let begun = worker.begun.take();
    if let Some(step) = &begun {
        if after.apply(step).is_err() {
            after = before.clone();
        }
        [&mut before, &mut after].into_iter().for_each(|memory| memory.forget_times(&paths(step)));
    }
    [&mut before, &mut after].into_iter().for_each(Memory::release);
    let shows = |memory: &Memory| expected(worker.number, memory, look.walk);
    let (old, new) = (shows(&before), shows(&after));
    let Some(from_old) = seen.difference(&old) else {
        worker.memory = before;
        return Ok(if begun.is_some() { Came::Before } else { Came::Nothing });
    };
    let Some(from_new) = seen.difference(&new) else {
        worker.memory = after;
        return Ok(Came::After);
    };
    if let Some(step) = begun.as_ref().filter(|step| changes_objects(step)) {
        let sides = Sides { seen: &seen, old: &old, new: &new, before: &before, after: &after };
        let any_pages = is_write(step).then_some(look.any_pages);
        if let Some(between) = sides.blend(worker.number, tree, any_pages)
            && seen.difference(&shows(&between)).is_none()
        {
            worker.memory = between;
            return Ok(Came::Between);
        }
    }
    let short = |text: String| text.lines().take(12).map(|line| format!("{line:.400}\n")).collect::<String>();
    let words = format!(
        "worker {}, {begun:?} was begun; from the state before (seen, acknowledged):\n{}  from the one after:\n{}",
        worker.number,
        short(from_old),
        short(from_new)
    );
    Err(sorts(&seen, &old, &new).into_iter().map(|sort| (sort, words.clone())).collect())
}

/// What is seen, and the two states it may be.
struct Sides<'a> {
    seen: &'a View,
    old: &'a View,
    new: &'a View,
    before: &'a Memory,
    after: &'a Memory,
}

impl Sides<'_> {
    /// The state that has for each object what is seen of it, if each part of that is from before or after; of a write
    /// (`any_pages` says how) the bytes may be on the way.
    fn blend(&self, number: usize, tree: &Tree, any_pages: Option<bool>) -> Option<Memory> {
        let mut between = self.before.clone();
        for (path, seen) in &self.seen.objects {
            let (old, new) = (self.old.objects.get(path)?, self.new.objects.get(path)?);
            let known = [old, new];
            let each = known.iter().any(|o| o.mode == seen.mode)
                && known.iter().any(|o| o.owner == seen.owner)
                && known.iter().any(|o| o.xattrs == seen.xattrs);
            if !each {
                return None;
            }
            let name = std::str::from_utf8(path).ok()?;
            let bytes = match known.iter().find(|o| (o.size, o.content) == (seen.size, seen.content)) {
                Some(known) if std::ptr::eq(*known, old) => None,
                Some(_) => Some(self.after.bytes(name)?.to_vec()),
                None => {
                    let bytes = tree.read(Worker::name(number, name)).ok()?;
                    let right = is_between(&bytes, &self.before.bytes(name)?, &self.after.bytes(name)?, any_pages?);
                    right.then_some(())?;
                    Some(bytes)
                }
            };
            between.adopt(name, seen, bytes);
        }
        Some(between)
    }
}

/// Of what sorts the differences are.
fn sorts(seen: &View, old: &View, new: &View) -> BTreeSet<&'static str> {
    let mut sorts = BTreeSet::new();
    for (path, object) in &seen.objects {
        let (old, new) = (old.objects.get(path), new.objects.get(path));
        let last = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
        let bytes = |of: Option<&crate::common::view::Object>| of.map(|o| (o.size, o.content));
        let is = Some((object.size, object.content));
        match (old, new) {
            (None, None) if last.starts_with(b"#") || last.starts_with(b".") => sorts.insert("a temporary name"),
            (None, None) => sorts.insert("a name that is back"),
            _ if bytes(old) != is && bytes(new) != is => sorts.insert("bytes lost or half a copy"),
            _ if old != Some(object) && new != Some(object) => sorts.insert("other metadata"),
            _ => false,
        };
    }
    let gone = |path: &&Vec<u8>| !seen.objects.contains_key(*path) && new.objects.contains_key(*path);
    if old.objects.keys().any(|path| gone(&path)) {
        sorts.insert("a name lost");
    }
    if sorts.is_empty() {
        sorts.insert("a mix of before and after, or links");
    }
    sorts
}
