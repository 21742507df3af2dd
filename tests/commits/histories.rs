//! Random histories with commits, undo and redo at random moments: a commit changes nothing that is seen, undo and redo show
//! what was there, and so does the kernel's OverlayFS over the frozen layers.

use std::collections::HashMap;

use proptest::prelude::*;

use crate::about;
use crate::common::view::Numbers;
use crate::common::*;
use crate::model::layers::{self, Plan, build, plan, things};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, history};

/// What was seen when each commit was made; 0: the lower layers.
type Seen = HashMap<u64, View>;

fn view(tree: &Tree) -> View {
    // What came back while a program still holds what was there has a number of its own.
    View::of(tree, Walk { numbers: Numbers::NotJudged, ..Walk::default() })
}

/// The first number behind a word.
fn number(said: &str, word: &str) -> Option<u64> {
    let rest = said.split_once(word)?.1;
    rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn same(what: &str, is: &View, was: &View) -> Result<(), String> {
    if is == was {
        return Ok(());
    }
    let paths = is.objects.keys().chain(was.objects.keys());
    let differs = paths.filter(|path| is.objects.get(*path) != was.objects.get(*path));
    let lines: Vec<_> = differs
        .map(|path| format!("{}: {:?}, not {:?}", path.escape_ascii(), is.objects.get(path), was.objects.get(path)))
        .collect();
    Err(format!("{what}:\n{}\n{:?} not {:?}\n{:?} {:?}", lines.join("\n"), is.same, was.same, is.wrong, was.wrong))
}

/// [`same`] for a view that was seen long before. Where lower files have hard links (`links`), some of them may be hidden:
/// the link count of a copy holds these only until it is frozen and forgotten.
fn later(what: &str, mut is: View, mut was: View, links: bool) -> Result<(), String> {
    for view in [&mut is, &mut was].into_iter().filter(|_| links) {
        view.objects.values_mut().for_each(|object| object.nlink = 0);
    }
    same(what, &is, &was)
}

/// A path that was taken back, and the view until then.
type Taken = (Vec<u8>, View);

fn is_at(path: &[u8], other: &[u8]) -> bool {
    other == path || other.strip_prefix(path).is_some_and(|rest| rest[0] == b'/')
}

/// Whether one of the paths that were taken back, and nothing else, is there again.
fn returned(before: &View, is: &View, taken: &[Taken], links: bool) -> Result<(), String> {
    let mut why = "no path was taken back".to_owned();
    for (path, then) in taken.iter().rev() {
        let mut wanted = before.clone();
        wanted.objects.retain(|other, _| !is_at(path, other));
        let then = then.objects.iter().filter(|(other, _)| is_at(path, other));
        wanted.objects.extend(then.map(|(other, object)| (other.clone(), object.clone())));
        let mut is = is.clone();
        (is.same, wanted.same) = Default::default();
        match later("the view after the way back", is, wanted, links) {
            Ok(()) => return Ok(()),
            Err(differs) => why = differs,
        }
    }
    Err(why)
}

/// Takes a step, and compares what is seen with what it must be.
fn step(mount: &Mount, which: u8, seen: &mut Seen, (taken, links): (&[Taken], bool)) -> Result<String, String> {
    let before = view(mount);
    let at = mount.root();
    if which < 3 {
        let Ok(said) = about("commit", at) else { return Ok("nothing to commit".into()) };
        seen.insert(number(&said, "commit").unwrap(), before.clone());
        return same("the view after a commit", &view(mount), &before).map(|()| said);
    }
    let Ok(said) = about(if which < 6 { "undo" } else { "redo" }, at) else { return Ok("no way".into()) };
    if said.contains("there again") {
        return returned(&before, &view(mount), taken, links).map(|()| said);
    }
    if let Some(kept) = number(&said, "kept as commit") {
        seen.insert(kept, before);
    }
    let on = number(&said, "is at commit").unwrap_or(0);
    later(&format!("the view at {on}"), view(mount), seen[&on].clone(), links).map(|()| said)
}

/// Takes one of the paths that are or were seen back, and compares: nothing else may change. `on`: the last commit.
fn path(
    mount: &Mount,
    draw: usize,
    (seen, on): (&Seen, u64),
    (taken, links): (&mut Vec<Taken>, bool),
) -> Result<String, String> {
    let (before, then) = (view(mount), &seen[&on]);
    let all: std::collections::BTreeSet<_> = before.objects.keys().chain(then.objects.keys()).skip(1).collect();
    let Some(path) = all.iter().nth(draw % all.len().max(1)).map(|path| path.to_vec()).filter(|path| !path.is_empty())
    else {
        return Ok("no path".into());
    };
    let Ok(name) = String::from_utf8(path.clone()) else { return Ok("no name".into()) };
    let done = crate::plyfs(&["undo", mount.root().to_str().unwrap(), &format!("./{name}")]);
    let is_at = |other: &[u8]| other == path || other.strip_prefix(&path[..]).is_some_and(|rest| rest[0] == b'/');
    let mut wanted = before.clone();
    if done.is_ok() {
        taken.push((path.clone(), before.clone()));
        wanted.objects.retain(|other, _| !is_at(other));
        let then = then.objects.iter().filter(|(other, _)| is_at(other));
        wanted.objects.extend(then.map(|(other, object)| (other.clone(), object.clone())));
        wanted.same.retain(|names| !names.iter().any(|other| is_at(other)));
    }
    let mut is = view(mount);
    is.same.retain(|names| !names.iter().any(|other| is_at(other)));
    wanted.same.retain(|names| !names.iter().any(|other| is_at(other)));
    later(&format!("the view without the changes at {name}"), is, wanted, links)?;
    Ok(format!("{name}: {}", done.unwrap_or_else(|why| why)))
}

fn one(plans: &[Plan], ops: &[(Op, u8)], links: bool) -> Result<(), String> {
    let stack = build(plans);
    let mut mount = stack.mount();
    let mut seen = Seen::from([(0, view(&mount))]);
    let (mut log, mut on, mut draw, mut taken) = (String::new(), 0, 0, Vec::new());
    {
        let mut real = Real::new(&mount);
        for (op, which) in ops {
            let op = op.resolve(&real.known());
            let outcome = real.apply(&op);
            log += &format!("  {op:?}{}\n", if outcome.is_ok() { "" } else { " failed" });
            if *which < 8 {
                let done = step(&mount, *which, &mut seen, (&taken, links)).map_err(|why| format!("{log}{why}"))?;
                log += &format!("  = {which} {done}\n");
                on = number(&done, "is at commit").or(number(&done, "commit").filter(|_| *which < 3)).unwrap_or_else(
                    || {
                        if done.contains("lower layers") { 0 } else { on }
                    },
                );
            } else if *which < 14 {
                draw += 7919 + usize::from(*which);
                let done = path(&mount, draw, (&seen, on), (&mut taken, links))
                    .map_err(|why| format!("{log}{which}: {why}"))?;
                log += &format!("  = {which} {done}\n");
            }
        }
    }
    let last = view(&mount);
    mount.remount();
    later("the view after a remount", view(&mount), last, links).map_err(|why| format!("{log}{why}"))?;
    if mount.messages().contains("panic") {
        return Err(format!("{log}{}", mount.messages()));
    }
    drop(mount);
    by_the_kernel(&stack, &seen).map_err(|why| format!("{log}{why}"))
}

/// The kernel's OverlayFS over each commit shows what was seen then.
fn by_the_kernel(stack: &Stack, seen: &Seen) -> Result<(), String> {
    if who() != Who::Root || std::env::var_os("PLYFS_TEST_OPTIONS").is_some() {
        return Ok(());
    }
    let commits = stack.scratch.path().join("work/commits");
    for (&number, then) in seen.iter().filter(|(number, _)| **number > 0) {
        let mut layers = Vec::new();
        let mut at = number;
        while at > 0 {
            let layer = commits.join(format!("{at}/layer"));
            layers.push(layer.to_str().unwrap().to_owned());
            let mut room = [0; 64];
            let len = rustix::fs::getxattr(&layer, "trusted.overlay.plyfs.on", &mut room).unwrap_or(0);
            at = number_of(&room[..len]);
        }
        layers.extend(stack.lowers.iter().map(|lower| lower.root().to_str().unwrap().to_owned()));
        let options = format!("lowerdir={},redirect_dir=on,metacopy=on,xino=on", layers.join(":"));
        let kernel =
            Kernel::with(&options, &stack.scratch.dir("kernel")).map_err(|error| format!("{options}: {error}"))?;
        let walk = Walk { foreign: true, without_links: true, ..Walk::default() };
        let (is, mut was) = (View::of(&kernel, walk), then.clone());
        was.same.clear();
        was.wrong.clear();
        was.objects.values_mut().for_each(|object| object.nlink = 0);
        let mut is = is;
        is.same.clear();
        is.wrong.clear();
        is.objects.values_mut().for_each(|object| object.nlink = 0);
        same(&format!("the kernel's view of commit {number}"), &is, &was)?;
    }
    Ok(())
}

fn number_of(mark: &[u8]) -> u64 {
    let text = String::from_utf8(mark.to_vec()).unwrap();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

fn run(cases: u64, salt: u64, links: bool) {
    within(900, move || {
        let ops = (history(40), prop::collection::vec(any::<u8>().prop_map(|n| n % 40), 40));
        let ops = ops.prop_map(|(ops, which)| ops.into_iter().zip(which).collect::<Vec<_>>());
        let test = |(things, ops): &(Vec<Vec<layers::Thing>>, Vec<(Op, u8)>)| one(&plan(things, links), ops, links);
        let words = |(things, _): &(Vec<Vec<layers::Thing>>, Vec<(Op, u8)>)| layers::words(&plan(things, links));
        model::check(cases, salt, proptest::strategy::Strategy::boxed((things(), ops)), test, words);
    });
}

#[test]
fn undo_shows_what_was_and_a_commit_changes_nothing() {
    run(40, 301, false);
}

#[test]
fn the_same_with_lower_hard_links() {
    run(20, 302, true);
}
