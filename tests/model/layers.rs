//! Random layer stacks: drawn as numbers, laid out in memory, then written to disk as often as needed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::content;
use crate::common::Stack;
use crate::common::stack::Layer;

/// What a name of a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File {
        seed: u8,
        len: usize,
        mode: u32,
        xattr: bool,
    },
    /// Another name of the file at that path of the same layer.
    Again(String),
    Dir {
        mode: u32,
        opaque: bool,
    },
    Symlink,
    Fifo,
    Whiteout,
}

/// A layer by path, parents before children.
pub type Plan = BTreeMap<String, Kind>;

/// An object as drawn.
#[derive(Clone, Debug)]
pub struct Thing {
    pub path: Vec<u8>,
    pub kind: u8,
    pub n: u8,
}

/// Two or three lower layers, the top one first.
pub fn things() -> impl Strategy<Value = Vec<Vec<Thing>>> {
    let thing = (prop::collection::vec(0..3u8, 1..4), any::<u8>(), any::<u8>());
    let thing = thing.prop_map(|(path, kind, n)| Thing { path, kind, n });
    prop::collection::vec(prop::collection::vec(thing, 0..14), 2..=3)
}

/// Lays the layers out. With `links`, some files have several names.
pub fn plan(drawn: &[Vec<Thing>], links: bool) -> Vec<Plan> {
    let mut plans: Vec<Plan> = drawn.iter().map(|things| one(things, links)).collect();
    // The kernel shows a whiteout in a directory that merges with nothing as a broken name: not our subject.
    for i in 0..plans.len() {
        let idle: Vec<String> = plans[i]
            .iter()
            .filter(|(path, kind)| {
                let parent = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                **kind == Kind::Whiteout && !merges(&plans[i..], parent)
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in idle {
            plans[i].remove(&path);
        }
    }
    plans
}

/// The layers in words.
pub fn words(plans: &[Plan]) -> String {
    let layers: String = plans.iter().map(|p| format!("  {p:?}\n")).collect();
    format!("over the lower layers\n{layers}")
}

fn one(things: &[Thing], links: bool) -> Plan {
    let mut plan = Plan::new();
    for thing in things {
        let parts: Vec<_> = thing.path.iter().map(|n| ["a", "b", "c"][usize::from(*n)]).collect();
        let path = parts.join("/");
        let parents: Vec<_> = (1..parts.len()).map(|i| parts[..i].join("/")).collect();
        let closed = |p: &String| plan.get(p).is_some_and(|k| !matches!(k, Kind::Dir { .. }));
        if plan.contains_key(&path) || parents.iter().any(closed) {
            continue;
        }
        let n = usize::from(thing.n);
        let file = Kind::File {
            seed: thing.n,
            len: [0, 10, 5000, 70000][n % 4],
            mode: [0o644, 0o600, 0o4755, 0o444][n / 4 % 4],
            xattr: n / 16 % 4 == 0,
        };
        let earlier: Vec<_> = plan.iter().filter(|(_, k)| matches!(k, Kind::File { .. })).map(|(p, _)| p).collect();
        let kind = match thing.kind % 16 {
            0..=5 => file,
            6..=7 if links && !earlier.is_empty() => Kind::Again(earlier[n % earlier.len()].clone()),
            6..=7 => file,
            8..=10 => Kind::Dir { mode: [0o755, 0o700, 0o2755][n % 3], opaque: false },
            11 => Kind::Dir { mode: 0o755, opaque: true },
            12 => Kind::Symlink,
            13 => Kind::Fifo,
            _ => Kind::Whiteout,
        };
        for parent in parents {
            plan.entry(parent).or_insert(Kind::Dir { mode: 0o755, opaque: false });
        }
        plan.insert(path, kind);
    }
    plan
}

/// The layers in which the directory at `path` of the union stands, top first; empty if it is no directory.
pub fn stack_of(plans: &[Plan], path: &str) -> Vec<usize> {
    let mut stack: Vec<usize> = (0..plans.len()).collect();
    let mut at = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
        let mut next = Vec::new();
        for i in stack {
            match plans[i].get(&at) {
                None => {}
                Some(Kind::Dir { opaque, .. }) => {
                    next.push(i);
                    if *opaque {
                        break;
                    }
                }
                Some(_) => break,
            }
        }
        stack = next;
    }
    stack
}

/// Whether the directory stands in the first of these layers and in one below.
fn merges(plans: &[Plan], path: &str) -> bool {
    matches!(stack_of(plans, path)[..], [0, _, ..])
}

/// Writes the layers to disk, with equal old times.
pub fn build(plans: &[Plan]) -> Stack {
    fill(Stack::new(plans.len()), plans)
}

/// Writes them to the layers of this stack.
pub fn fill(stack: Stack, plans: &[Plan]) -> Stack {
    for (layer, plan) in stack.lowers.iter().zip(plans) {
        for (path, kind) in plan {
            make(layer, path, kind);
        }
        for (path, kind) in plan {
            if let Kind::Again(first) = kind {
                layer.link(first, path).unwrap();
            }
        }
    }
    stack.age();
    stack
}

fn make(layer: &Layer, path: &str, kind: &Kind) {
    match kind {
        Kind::File { seed, len, mode, xattr } => {
            layer.file(path, content(*seed, *len));
            if *xattr {
                layer.with_xattr(path, "user.a", b"lower");
            }
            layer.perm(path, *mode);
        }
        Kind::Again(_) => {}
        Kind::Dir { mode, opaque: false } => drop(layer.dir(path, *mode)),
        Kind::Dir { mode, opaque: true } => drop(layer.opaque(path).perm(path, *mode)),
        Kind::Symlink => drop(layer.soft_link("b/c", path)),
        Kind::Fifo => drop(layer.fifo(path)),
        Kind::Whiteout => drop(layer.whiteout(path)),
    }
}
