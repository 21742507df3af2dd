//! The life of one upper layer: mounted, killed, looked at by plyfs and by the kernel, and mounted again for the next kill.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::common::view::Numbers;
use crate::common::*;
use crate::layers::{Marks, findings, left_in_workdir, marks, moved, repair, stack, staged, write_large};
use crate::model::layers::Plan;
use crate::verdict::{Came, Look, settle};
use crate::worker::{Habits, Worker};

const WORKERS: usize = 6;
/// How often one upper layer meets a kill.
const KILLS: u64 = 5;
/// A kill comes up to this many ms after the load has begun; half of them within a twentieth.
const LONGEST: f64 = 900.0;

/// The findings of `plyfs layer check` that a kill may leave, until the next mount.
const LEFT: [&str; 4] = ["leftover", "orphan", IDLE, EMPTIED];
/// A record of blocks that was made before its file; it stays until `plyfs complete`.
const IDLE: &str = "idle-record";
/// A large file that was emptied, with its mark; it stays until it is written, or `plyfs layer check --repair`.
const EMPTIED: &str = "emptied";

/// With which options the daemon runs: the first half of all kills with none.
fn ways() -> Vec<&'static str> {
    if !mount::is_plyfs() {
        return vec![""];
    }
    let mut ways = vec!["", "fsync=strict", "copyup_block=64K", "io=passthrough", "io=writeback"];
    ways.retain(|way| is_offered(way) && !(who() == Who::Namespace && way.contains("copyup_block")));
    let word = std::env::var("PLYFS_KILL_WAY").unwrap_or_default();
    let chosen: Vec<_> = ways.iter().copied().filter(|way| !word.is_empty() && way.contains(&word)).collect();
    if chosen.is_empty() { ways } else { chosen }
}

/// What all kills came to.
#[derive(Default)]
pub struct Report {
    pub kills: u64,
    done: BTreeMap<&'static str, u64>,
    synced: u64,
    begun: BTreeMap<&'static str, u64>,
    came: BTreeMap<String, u64>,
    kernel_views: u64,
    staged: usize,
    found: BTreeMap<String, u64>,
    sorts: BTreeMap<String, u64>,
    pub wrong: Vec<String>,
}

impl Report {
    fn wrong(&mut self, sort: &str, words: &str) {
        *self.sorts.entry(sort.to_owned()).or_default() += 1;
        if self.wrong.len() < 20 {
            self.wrong.push(format!("{sort}: {words}"));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} kills; acknowledged before them {:?}, {} writes synced", self.kills, self.done, self.synced)?;
        writeln!(f, "begun at a kill: {:?}; came out as {:?}", self.begun, self.came)?;
        writeln!(f, "{} objects stood in workdir after the kills; findings {:?}", self.staged, self.found)?;
        write!(f, "{} views compared with the kernel's; differences: {:?}", self.kernel_views, self.sorts)
    }
}

/// All kills, in lives of several.
pub fn run(rounds: u64) -> Report {
    let mut report = Report::default();
    let below = Scratch::new();
    let (ways, seed) = (ways(), env_number("PLYFS_TEST_SEED", 1));
    // A half of the kills without options, the rest with each of the others.
    let others = ways.len() as u64 - 1;
    let mut left = vec![(rounds / (2 * others).max(1)).max(1); ways.len()];
    left[0] = rounds.saturating_sub(left[1..].iter().sum()).max(1);
    let with_kernel = who() != Who::User && Kernel::usable();
    if who() != Who::User && !with_kernel {
        say_skipped("no kernel OverlayFS to look at the layers");
    }
    let large = below.path().join("large");
    let mut number = 0;
    let mut first: Option<View> = None;
    while left.iter().any(|left| *left > 0) {
        for (way, left) in ways.iter().zip(&mut left).filter(|(_, left)| **left > 0) {
            number += 1;
            let links = who() != Who::Namespace && mount::is_plyfs();
            let held_back = way.contains("writeback") || !mount::is_plyfs();
            let holds = !held_back && !way.contains("passthrough");
            let habits = Habits { seed: seed * 10_000 + number, links, held_back, holds };
            let mut life = Life::new(way, habits, &large, number % 2 == 0);
            life.with_kernel = with_kernel;
            first.get_or_insert_with(|| view::layer(&large));
            let kills = KILLS.min(*left);
            *left -= kills;
            life.live(kills, &mut report);
            if !report.wrong.is_empty() && mount::is_plyfs() {
                report.wrong.push(format!("in life {number} with {way:?}, PLYFS_TEST_SEED={seed}"));
                return report;
            }
        }
    }
    if let Some(difference) = first.and_then(|first| view::layer(&large).difference(&first)) {
        report.wrong("a lower layer has changed", &difference);
    }
    report
}

struct Life {
    way: &'static str,
    look: Look,
    stack: Stack,
    workers: Vec<Worker>,
    marks: Marks,
    lowers: Vec<View>,
    with_kernel: bool,
}

impl Life {
    fn new(way: &'static str, habits: Habits, large: &Path, in_memory: bool) -> Self {
        let workers: Vec<_> = (0..WORKERS).map(|number| Worker::new(number, habits)).collect();
        let mut plans = vec![Plan::new(); 3];
        for worker in &workers {
            for (plan, own) in plans.iter_mut().zip(&worker.plans) {
                plan.extend(moved(own, &|path| Worker::name(worker.number, path)));
            }
        }
        if !large.exists() {
            write_large(&plans[2], large.to_owned());
        }
        plans.truncate(2);
        let mut stack = stack(&plans, large, in_memory);
        if who() == Who::Namespace {
            // What the kernel reads there.
            stack = stack.option("redirect_dir=off,metacopy=off,index=off");
        }
        if !way.is_empty() {
            stack = stack.option(way);
        }
        let walk = Walk {
            times: mount::is_plyfs(),
            foreign: !mount::is_plyfs(),
            without_links: !habits.links,
            ..Walk::default()
        };
        let (look, marks) = (Look { walk, any_pages: habits.held_back }, marks(&stack));
        let lowers = stack.lowers[..2].iter().map(|layer| view::layer(layer.root())).collect();
        Life { way, look, stack, workers, marks, lowers, with_kernel: false }
    }

    /// Ends early after a difference: the models no longer know what is there.
    fn live(&mut self, kills: u64, report: &mut Report) {
        for _ in 0..kills {
            let wrong = report.sorts.values().sum::<u64>();
            self.load_and_kill(report);
            if let Err(why) = catch_unwind(AssertUnwindSafe(|| self.look(report))) {
                let text = why.downcast_ref::<String>().cloned().unwrap_or_default();
                report.wrong("a view that cannot be had", &text);
            }
            if report.sorts.values().sum::<u64>() > wrong {
                break;
            }
        }
        for worker in &self.workers {
            worker.done.iter().for_each(|(word, n)| *report.done.entry(word).or_default() += n);
            report.synced += worker.synced;
        }
        for (layer, before) in self.stack.lowers.iter().zip(&self.lowers) {
            if let Some(difference) = view::layer(layer.root()).difference(before) {
                report.wrong("a lower layer has changed", &difference);
            }
        }
    }

    /// All workers at once, and a kill in the midst.
    fn load_and_kill(&mut self, report: &mut Report) {
        let mut mount = self.stack.mount();
        let (killed, root) = (AtomicBool::new(false), Tree::new(mount.root()));
        let chance = f64::from(u32::from_le_bytes(random_bytes())) / f64::from(u32::MAX);
        let wait = Duration::from_secs_f64(LONGEST.powf(chance) / 1000.0);
        let workers = &mut self.workers;
        let failures: Vec<String> = thread::scope(|scope| {
            let (root, killed) = (&root, &killed);
            let running: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.run(root, killed))).collect();
            thread::sleep(wait);
            killed.store(true, Ordering::SeqCst);
            kill_process(mount.pid().unwrap(), Signal::KILL).unwrap();
            running.into_iter().filter_map(|thread| thread.join().unwrap().err()).collect()
        });
        mount.unmount();
        // What `plyfs layer check` says of a killed mount is what docs/layers.md says that it leaves.
        for (kind, line) in findings(&self.stack) {
            *report.found.entry(kind.clone()).or_default() += 1;
            if !LEFT.contains(&kind.as_str()) {
                report.wrong("a finding after a kill", &line);
            }
        }
        report.staged += staged(&self.stack);
        report.kills += 1;
        failures.iter().for_each(|words| report.wrong("while it lived", words));
        for step in self.workers.iter().filter_map(|worker| worker.begun.as_ref()) {
            *report.begun.entry(crate::acts::word(step)).or_default() += 1;
        }
    }

    /// A new mount, each worker's part of it, the kernel's view, and the lower layers.
    fn look(&mut self, report: &mut Report) {
        let mut mount = self.stack.mount();
        let left = left_in_workdir(&self.stack);
        if !left.is_empty() && mount::is_plyfs() {
            report.wrong("left in workdir", &format!("{left:?}"));
        }
        let seen = View::of(&mount, self.look.walk);
        for words in &seen.wrong {
            report.wrong("what no tree may show", words);
        }
        for worker in &mut self.workers {
            match settle(worker, &seen, &mount, self.look) {
                Ok(came) if came != Came::Nothing => *report.came.entry(format!("{came:?}")).or_default() += 1,
                Ok(_) => {}
                Err(wrong) => wrong.iter().for_each(|(sort, words)| report.wrong(sort, words)),
            }
        }
        let ours = |path: &str| {
            path.is_empty()
                || path == "shared"
                || (0..WORKERS).any(|n| {
                    let start = Worker::name(n, "a");
                    path.starts_with(&start[..start.len() - 1]) || (n.is_multiple_of(2) && path == Worker::name(n, ""))
                })
        };
        for path in seen.objects.keys().map(|path| String::from_utf8_lossy(path)).filter(|path| !ours(path)) {
            report.wrong("a name of nobody", &path);
        }
        mount.unmount();
        let mut found = findings(&self.stack);
        if found.iter().any(|(kind, _)| kind == EMPTIED) {
            repair(&self.stack);
            found = findings(&self.stack);
        }
        for (_, line) in found.into_iter().filter(|(kind, _)| kind != IDLE) {
            report.wrong("a finding after the next mount", &line);
        }
        self.compare_with_the_kernel(&seen, report);
        if marks(&self.stack) != self.marks {
            report.wrong("a lower layer was written to", self.way);
            self.marks = marks(&self.stack);
        }
    }

    fn compare_with_the_kernel(&self, seen: &View, report: &mut Report) {
        let options = match who() {
            _ if !self.with_kernel => return,
            Who::Root => "redirect_dir=on,metacopy=on,index=on,xino=on",
            Who::Namespace => "userxattr",
            Who::User => return,
        };
        let layers = self.stack.layer_options("work");
        if self.way.contains("copyup_block") {
            // Before that the kernel refuses the layer.
            let out = Command::new(mount::binary()).args(["complete", "-o", &layers]).output().unwrap();
            if !out.status.success() {
                return report.wrong("not to be completed", &String::from_utf8_lossy(&out.stderr));
            }
        }
        match Kernel::with(&format!("{layers},{options}"), &self.stack.scratch.dir("kernel")) {
            Err(error) => report.wrong("the kernel refuses the layers", &error.to_string()),
            Ok(kernel) => {
                let walk = Walk {
                    foreign: who() == Who::Namespace || !mount::is_plyfs(),
                    numbers: Numbers::NotJudged,
                    ..self.look.walk
                };
                report.kernel_views += 1;
                if let Some(difference) = View::of(&kernel, walk).difference(seen) {
                    let short: String = difference.lines().take(12).map(|line| format!("{line:.400}\n")).collect();
                    report.wrong("the kernel's view differs", &format!("(kernel, here):\n{short}"));
                }
            }
        }
    }
}

fn random_bytes() -> [u8; 4] {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    bytes
}
