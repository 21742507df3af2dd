//! A thread with names of its own: it does one change after another, and its model has each that was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::acts::{Safe, is_death, is_write, perform, renamed, word};
use crate::common::{Errno, Tree};
use crate::layers::{large, with_merged};
use crate::model::layers::{Plan, plan, things};
use crate::model::memory::Memory;
use crate::model::real::Real;
use crate::model::{How, Known, Op, Step, Subject, changes, history};

/// A program.
pub struct Worker {
    pub number: usize,
    /// What was acknowledged, by its own names.
    pub memory: Memory,
    /// What it had begun when the daemon was killed.
    pub begun: Option<Step>,
    /// Its layers, top first.
    pub plans: Vec<Plan>,
    habits: Habits,
    runner: TestRunner,
    made: usize,
    pub done: BTreeMap<&'static str, u64>,
    pub synced: u64,
}

/// How the workers of a life are.
#[derive(Clone, Copy)]
pub struct Habits {
    pub seed: u64,
    /// Lower files may have several names.
    pub links: bool,
    /// The kernel holds writes back: only fsync makes bytes safe.
    pub held_back: bool,
    /// Workers hold files open over other changes. Not with `io=passthrough`, which takes a set-user-id bit from a file
    /// that is open, where the model says that root's write leaves it.
    pub holds: bool,
}

impl Worker {
    /// Over layers drawn for it.
    pub fn new(number: usize, habits: Habits) -> Self {
        let seed = [habits.seed, number as u64, 0, 0].map(u64::to_le_bytes).concat();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let mut drawn = things().new_tree(&mut runner).unwrap().current();
        drawn.truncate(2);
        let mut plans = with_merged(plan(&drawn, habits.links));
        plans.push(large(number, habits.links));
        let memory = Memory::new(&plans);
        Worker { number, memory, begun: None, plans, habits, runner, made: 0, done: BTreeMap::new(), synced: 0 }
    }

    /// What an object of its own is called in the view. Every other worker has a directory of its own; the rest have
    /// their first level in one directory that they share.
    pub fn name(number: usize, path: &str) -> String {
        match (number % 2, path) {
            (0, "") => format!("w{number}"),
            (0, path) => format!("w{number}/{path}"),
            (_, "") => "shared".to_owned(),
            (_, path) => format!("shared/w{number}-{path}"),
        }
    }

    fn below(&mut self, n: usize) -> usize {
        (0..n).new_tree(&mut self.runner).unwrap().current()
    }

    /// What to do next: a random history, or one of the things that programs do.
    fn draw(&mut self) -> Vec<Drawn> {
        let len = 12;
        let ops: Vec<Op> = match self.below(5) {
            0 if self.habits.holds => history(len).new_tree(&mut self.runner).unwrap().current(),
            1 | 2 => return vec![Drawn::Habit(self.below(5))],
            _ => changes(len).new_tree(&mut self.runner).unwrap().current(),
        };
        ops.into_iter().map(Drawn::Op).collect()
    }

    /// A file saved by way of another, a directory emptied and made anew, a large file that gets longer or is renamed.
    fn habit(&mut self, which: usize, known: &Known) -> Vec<Step> {
        let pick = self.below(1000);
        let some = |list: &[String]| list.get(pick % list.len().max(1)).cloned();
        let larges: Vec<_> =
            known.files.iter().filter(|f| f.contains("large") || f.contains("twice")).cloned().collect();
        self.made += 1;
        let (new, seed) = (format!("new{}", self.made % 5), self.made as u8);
        match which {
            0 if known.all.contains(&new) => vec![],
            0 => match some(&known.files) {
                Some(file) => vec![
                    Step::Create(new.clone(), 0o644),
                    Step::Write(new.clone(), 0, [100, 70_000, 3 << 20][pick % 3], seed),
                    Step::Rename(new, file, How::Plain),
                ],
                None => vec![],
            },
            1 => {
                let dirs: Vec<_> = known.dirs.iter().filter(|d| !d.is_empty()).cloned().collect();
                let Some(dir) = some(&dirs) else { return vec![] };
                let inside = |path: &&String| path.starts_with(&format!("{dir}/"));
                let mut steps: Vec<_> = known.all.iter().rev().filter(inside).map(|path| remove(known, path)).collect();
                steps.extend([Step::Rmdir(dir.clone()), Step::Mkdir(dir.clone(), 0o755)]);
                steps.push(Step::Create(format!("{dir}/a"), 0o644));
                steps
            }
            2 => some(&larges).map(|file| Step::Append(file, 5000, seed)).into_iter().collect(),
            3 => match some(&larges) {
                Some(file) => vec![Step::Chmod(file.clone(), 0o600), Step::Append(file, 100, seed)],
                None => vec![],
            },
            _ => match (some(&larges), known.dirs.iter().any(|d| d == "m")) {
                (_, true) if pick.is_multiple_of(2) => vec![Step::Rename("m".into(), "n".into(), How::Plain)],
                (Some(file), _) => vec![Step::Rename(file.clone(), format!("{file}x"), How::Plain)],
                _ => vec![],
            },
        }
    }

    /// Changes its part of the view until told to stop, or until the daemon is dead. The error is what was wrong while
    /// it lived.
    pub fn run(&mut self, root: &Tree, killed: &AtomicBool) -> Result<(), String> {
        let mut real = Real::new(root);
        loop {
            for drawn in self.draw() {
                let known = self.memory.known();
                let steps = match drawn {
                    Drawn::Op(op) => vec![op.resolve(&known)],
                    Drawn::Habit(which) => self.habit(which, &known),
                };
                for step in steps {
                    if !matches!(step, Step::Nothing | Step::Compare) && !self.step(root, &mut real, &step, killed)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// One step; false when the daemon is dead.
    fn step(&mut self, root: &Tree, real: &mut Real, step: &Step, killed: &AtomicBool) -> Result<bool, String> {
        let safe = match self.below(3) {
            _ if !is_write(step) => Safe::Written,
            0 => Safe::Sync,
            1 => Safe::Fsynced,
            _ if self.habits.held_back => Safe::Fsynced,
            _ => Safe::Written,
        };
        let number = self.number;
        let theirs = renamed(step, |path| Worker::name(number, path));
        let got = perform(real, root, &theirs, safe);
        let before = got.is_err().then(|| self.memory.clone());
        let want = self.memory.apply(step);
        let listing = matches!(step, Step::List(_));
        match (&got, &want) {
            (Ok(_), Ok(_)) if listing || got == want => {
                *self.done.entry(word(step)).or_default() += 1;
                self.synced += u64::from(safe != Safe::Written);
                return Ok(true);
            }
            (Err(got), Err(want)) if got == want => return Ok(true),
            _ => {}
        }
        let Err(errno) = got else {
            return Err(format!("worker {number}: {step:?}: done, but expected was {:?}", want.err()));
        };
        self.memory = before.unwrap_or_else(|| self.memory.clone());
        match errno {
            // Without redirects a directory with lower parts stays where it is.
            Errno::XDEV if matches!(step, Step::Rename(..)) => Ok(true),
            // tmpfs does not zero ranges.
            Errno::OPNOTSUPP if matches!(step, Step::Fallocate(..)) => Ok(true),
            _ if killed.load(Ordering::SeqCst) && is_death(errno) => {
                self.begun = Some(step.clone());
                Ok(false)
            }
            _ => Err(format!("worker {number}: {step:?}: {errno:?}, but expected was {:?}", want.err())),
        }
    }
}

fn remove(known: &Known, path: &str) -> Step {
    if known.dirs.iter().any(|dir| dir == path) { Step::Rmdir(path.into()) } else { Step::Unlink(path.into()) }
}

/// What was drawn.
enum Drawn {
    Op(Op),
    Habit(usize),
}
