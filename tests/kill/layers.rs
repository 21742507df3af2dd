//! The lower layers: two drawn at random for each life of an upper layer, and below them one of large files for all.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::stack::Layer;
use crate::common::{Stack, Tree, mount};
use crate::model::layers::{Kind, Plan, build, fill};

const MIB: usize = 1 << 20;

/// The large files of a worker, by their own names: one has two names where `links`.
pub fn large(worker: usize, links: bool) -> Plan {
    let file =
        |seed: usize, mib: usize| Kind::File { seed: seed as u8, len: mib * MIB + 777, mode: 0o644, xattr: false };
    let mut plan = Plan::new();
    plan.insert("m".into(), Kind::Dir { mode: 0o755, opaque: false });
    plan.insert("m/large".into(), file(worker * 4, 8));
    plan.insert("large".into(), file(worker * 4 + 1, if worker == 0 { 64 } else { 12 }));
    plan.insert("twice".into(), file(worker * 4 + 2, 8));
    if links {
        plan.insert("m/twice".into(), Kind::Again("twice".into()));
    }
    plan
}

/// A directory with parts in both layers, to be renamed and removed.
pub fn with_merged(mut plans: Vec<Plan>) -> Vec<Plan> {
    for (layer, plan) in plans.iter_mut().enumerate() {
        plan.insert("m".into(), Kind::Dir { mode: 0o755, opaque: false });
        plan.insert("m/a".into(), Kind::Dir { mode: 0o755, opaque: false });
        for file in 0..3 {
            let seed = (layer * 3 + file) as u8;
            let kind = Kind::File { seed, len: 3000 * file + 10, mode: 0o644, xattr: file == 1 };
            plan.insert(format!("m/f{layer}{file}"), kind.clone());
            plan.insert(format!("m/a/{file}"), kind);
        }
    }
    plans
}

/// The plan with the names that a worker's objects have in the shared view.
pub fn moved(plan: &Plan, name: &dyn Fn(&str) -> String) -> Plan {
    let kind = |kind: &Kind| match kind {
        Kind::Again(first) => Kind::Again(name(first)),
        other => other.clone(),
    };
    plan.iter().map(|(path, what)| (name(path), kind(what))).collect()
}

/// Writes the layers of a life: the two drawn ones over the one at `below`.
pub fn stack(plans: &[Plan], below: &Path, in_memory: bool) -> Stack {
    let new = if in_memory { Stack::in_memory(plans.len()) } else { Stack::new(plans.len()) };
    let mut stack = fill(new, plans);
    stack.lowers.push(Layer::new(below.to_owned()));
    stack
}

/// Writes the layer of large files.
pub fn write_large(plan: &Plan, at: PathBuf) {
    let stack = build(std::slice::from_ref(plan));
    std::fs::rename(stack.lowers[0].root(), at).unwrap();
}

/// What shows at once that an object was written to, though its time was put back.
pub type Marks = BTreeMap<PathBuf, (i64, i64, i64, i64, u64, u64)>;

/// The times of change, the sizes and link counts of all objects of the layers.
pub fn marks(stack: &Stack) -> Marks {
    fn walk(dir: &Path, marks: &mut Marks) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let times = (meta.ctime(), meta.ctime_nsec(), meta.mtime(), meta.mtime_nsec());
            marks.insert(path.clone(), (times.0, times.1, times.2, times.3, meta.size(), meta.nlink()));
            if meta.is_dir() {
                walk(&path, marks);
            }
        }
    }
    let mut marks = Marks::new();
    stack.lowers.iter().for_each(|layer| walk(layer.root(), &mut marks));
    marks
}

/// What is left in workdir by what came before. Of blocks that are not all here a mount knows from there.
pub fn left_in_workdir(stack: &Stack) -> Vec<String> {
    let mut names = Tree::new(stack.scratch.path()).names("work/work").unwrap_or_default();
    names.retain(|name| name != "incompat");
    names
}

/// How many of that are files and directories: changes that a kill has met half way, and what was deleted while open.
pub fn staged(stack: &Stack) -> usize {
    let work = Tree::new(stack.scratch.path().join("work/work"));
    let kept = |name: &String| work.stat(name).is_ok_and(|stat| stat.st_mode & 0o170_000 != 0o020_000);
    left_in_workdir(stack).iter().filter(|name| kept(name)).count()
}

/// What `plyfs layer check` finds in the layers: each kind, and the line.
pub fn findings(stack: &Stack) -> Vec<(String, String)> {
    if !mount::is_plyfs() {
        return Vec::new();
    }
    let out = check(stack, "--json");
    let (lines, said) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let kind = |line: &str| {
        let found: serde_json::Value = serde_json::from_str(line).unwrap();
        found["kind"].as_str().unwrap().to_owned()
    };
    let found = lines.lines().map(|line| (kind(line), line.to_owned()));
    found.chain(said.lines().map(|line| ("trouble".to_owned(), line.to_owned()))).collect()
}

/// `plyfs layer check --repair`.
pub fn repair(stack: &Stack) {
    check(stack, "--repair");
}

fn check(stack: &Stack, word: &str) -> std::process::Output {
    let mut command = Command::new(mount::binary());
    command.args(["layer", "check", word, "--workdir"]).arg(stack.scratch.path().join("work"));
    command.arg(stack.upper().root()).args(stack.lowers.iter().map(|layer| layer.root()));
    command.output().unwrap()
}
