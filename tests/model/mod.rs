//! Random histories: what a program may do to a tree, chosen so that shrinking keeps them meaningful.
//!
//! A drawn [`Op`] holds numbers only; [`Op::resolve`] turns it into a [`Step`] with paths, modulo what exists at that
//! moment, with new names from three letters. So removing an operation from a history never makes the rest senseless.
// Each suite uses a part of this module.
#![allow(dead_code)]

pub mod layers;
pub mod memory;
pub mod real;

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::common::{View, Walk, Who, env_number, kernel, who};

/// How to rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Plain,
    NoReplace,
    Exchange,
}

/// What fallocate(2) is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Extend,
    KeepSize,
    Punch,
    Zero,
}

/// One operation with its paths, as it is done to each file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    Create(String, u32),
    Mkdir(String, u32),
    Mkfifo(String),
    Symlink(String),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, How),
    Write(String, usize, usize, u8),
    Append(String, usize, u8),
    Truncate(String, usize),
    OpenTruncate(String),
    Fallocate(String, Room, usize, usize),
    Read(String),
    List(String),
    Chmod(String, u32),
    Chown(String, u32, u32),
    Utimes(String, i64),
    SetXattr(String, &'static str, u8),
    RemoveXattr(String, &'static str),
    Hold(usize, String, bool),
    Drop(usize),
    HeldRead(usize),
    HeldWrite(usize, usize, usize, u8),
    HeldTruncate(usize, usize),
    HeldChmod(usize, u32),
    HeldStat(usize),
    Compare,
}

impl Step {
    /// Whether names come or go by it.
    pub fn changes_names(&self) -> bool {
        use Step::*;
        matches!(self, Create(..) | Mkdir(..) | Mkfifo(_) | Symlink(_) | Link(..) | Unlink(_) | Rmdir(_) | Rename(..))
    }
}

/// What came of a step: bytes that it read, or the errno.
pub type Outcome = Result<Vec<u8>, Errno>;

/// What a history runs on.
pub trait Subject {
    /// Does one step.
    fn apply(&mut self, step: &Step) -> Outcome;
    /// The paths that exist.
    fn known(&self) -> Known;
    /// The whole view.
    fn view(&self, walk: Walk) -> View;
}

/// The paths that exist, by kind, sorted.
#[derive(Default)]
pub struct Known {
    pub all: Vec<String>,
    pub dirs: Vec<String>,
    pub files: Vec<String>,
}

impl Known {
    /// Adds an object; the root is the empty path and only a directory.
    pub fn add(&mut self, path: &str, kind: FileType) {
        if !path.is_empty() {
            self.all.push(path.to_owned());
        }
        match kind {
            FileType::Directory => self.dirs.push(path.to_owned()),
            FileType::RegularFile => self.files.push(path.to_owned()),
            _ => {}
        }
    }

    /// To be called when all are added.
    pub fn sort(&mut self) {
        [&mut self.all, &mut self.dirs, &mut self.files].into_iter().for_each(|l| l.sort());
    }
}

/// How many descriptors a history may hold.
pub const SLOTS: usize = 3;

/// Simple verbs first: shrinking moves towards them.
#[derive(Clone, Copy, Debug)]
pub enum Verb {
    Create,
    Mkdir,
    Unlink,
    Rmdir,
    Rename,
    Write,
    Append,
    Truncate,
    OpenTruncate,
    Chmod,
    Link,
    Symlink,
    Mkfifo,
    Exchange,
    Utimes,
    SetXattr,
    RemoveXattr,
    Read,
    List,
    Fallocate,
    Chown,
    Hold,
    Drop,
    HeldRead,
    HeldWrite,
    HeldTruncate,
    HeldChmod,
    HeldStat,
    Compare,
    RenameDir,
    Nothing,
}

/// An operation as drawn.
#[derive(Clone, Debug)]
pub struct Op {
    verb: Verb,
    a: u8,
    b: u8,
    n: u16,
}

fn verb() -> impl Strategy<Value = Verb> {
    use Verb::*;
    // Removing and making anew in the same places is where unions go wrong: often.
    prop_oneof![
        5 => Just(Create), 6 => Just(Mkdir), 7 => Just(Unlink), 5 => Just(Rmdir), 9 => Just(Rename), 5 => Just(Write),
        4 => Just(Append), 2 => Just(Truncate), 2 => Just(OpenTruncate), 4 => Just(Chmod), 5 => Just(Link),
        2 => Just(Symlink), 1 => Just(Mkfifo), 3 => Just(Exchange), 3 => Just(Utimes), 2 => Just(SetXattr),
        1 => Just(RemoveXattr), 2 => Just(Read), 4 => Just(List), 2 => Just(Fallocate), 2 => Just(Chown),
        4 => Just(Hold), 1 => Just(Drop), 2 => Just(HeldRead), 2 => Just(HeldWrite), 1 => Just(HeldTruncate),
        1 => Just(HeldChmod), 2 => Just(HeldStat), 2 => Just(Compare),
    ]
}

/// Verbs for what a layer must keep: names and metadata most of all, as the marks of a layer are about them.
fn lasting() -> impl Strategy<Value = Verb> {
    use Verb::*;
    // Nothing comes first, as what every step that does not matter shrinks to.
    prop_oneof![
        1 => Just(Nothing), 4 => Just(Create), 5 => Just(Mkdir), 6 => Just(Unlink), 4 => Just(Rmdir), 8 => Just(Rename), 9 => Just(RenameDir),
        4 => Just(Write), 3 => Just(Append), 2 => Just(Truncate), 1 => Just(OpenTruncate), 6 => Just(Chmod),
        4 => Just(Chown), 6 => Just(Link), 2 => Just(Symlink), 1 => Just(Mkfifo), 4 => Just(Exchange),
        3 => Just(Utimes), 3 => Just(SetXattr), 2 => Just(RemoveXattr),
    ]
}

/// A history of at most `len` operations.
pub fn history(len: usize) -> impl Strategy<Value = Vec<Op>> {
    operations(verb(), len)
}

/// A history of at most `len` operations that each change something for good.
pub fn changes(len: usize) -> impl Strategy<Value = Vec<Op>> {
    operations(lasting(), len)
}

fn operations(verb: impl Strategy<Value = Verb>, len: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = (verb, any::<u8>(), any::<u8>(), any::<u16>()).prop_map(|(verb, a, b, n)| Op { verb, a, b, n });
    prop::collection::vec(op, len / 2..=len)
}

/// Repeatable content in which no two pages are alike, and no byte is like a hole.
pub fn content(seed: u8, len: usize) -> Vec<u8> {
    let page = |i: usize| (((i >> 8) as u32).wrapping_mul(0x9e37_79b1) >> 24) as u8;
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed).wrapping_add(page(i)) | 1).collect()
}

fn pick(list: &[String], n: impl Into<usize>) -> Option<String> {
    (!list.is_empty()).then(|| list[n.into() % list.len()].clone())
}

/// A name from the alphabet in an existing directory, which may exist, be whited out, or be free.
fn place(known: &Known, n: u8) -> String {
    let dir = pick(&known.dirs, n / 3).unwrap_or_default();
    let letter = ["a", "b", "c"][usize::from(n % 3)];
    if dir.is_empty() || dir.matches('/').count() > 2 { letter.to_owned() } else { format!("{dir}/{letter}") }
}

fn mode(known: &Known, path: &String, n: usize) -> u32 {
    let dir = known.dirs.binary_search(path).is_ok();
    if dir { [0o755, 0o700, 0o1777, 0o2755][n % 4] } else { [0o644, 0o600, 0o4755, 0o2775, 0o2745][n % 5] }
}

const LENGTHS: [usize; 6] = [1, 10, 100, 4096, 5000, 70000];
const NAMES: [&str; 2] = ["user.a", "user.b"];

impl Op {
    /// The step that this operation is, given what exists.
    pub fn resolve(&self, known: &Known) -> Step {
        use Verb as V;
        let n = usize::from(self.n);
        let (seed, slot, len) = (self.n as u8, n % SLOTS, LENGTHS[n % LENGTHS.len()]);
        let at = (n / 7) % 9000;
        let any = || pick(&known.all, self.a);
        let file = || pick(&known.files, self.a);
        let step = match self.verb {
            V::Create => Some(Step::Create(place(known, self.a), [0o666, 0o600, 0o640][n % 3])),
            V::Mkdir => Some(Step::Mkdir(place(known, self.a), [0o777, 0o700][n % 2])),
            V::Mkfifo => Some(Step::Mkfifo(place(known, self.a))),
            V::Symlink => Some(Step::Symlink(place(known, self.a))),
            V::Unlink => any().map(Step::Unlink),
            V::Rmdir => pick(&known.dirs, self.a).filter(|d| !d.is_empty()).or_else(any).map(Step::Rmdir),
            V::Rename => {
                let how = if n % 5 == 0 { How::NoReplace } else { How::Plain };
                let to = if n % 3 == 0 { pick(&known.all, self.b) } else { Some(place(known, self.b)) };
                any().zip(to).map(|(from, to)| Step::Rename(from, to, how))
            }
            V::RenameDir => {
                let dir = |n| pick(&known.dirs, n).filter(|d| !d.is_empty());
                let to = if n % 4 == 0 { dir(self.b) } else { Some(place(known, self.b)) };
                dir(self.a).zip(to).map(|(from, to)| Step::Rename(from, to, How::Plain))
            }
            V::Exchange => any().zip(pick(&known.all, self.b)).map(|(a, b)| Step::Rename(a, b, How::Exchange)),
            V::Link => {
                let from = if n % 8 == 0 { any() } else { file() };
                from.map(|from| Step::Link(from, place(known, self.b)))
            }
            V::Write => file().map(|f| Step::Write(f, at, len, seed)),
            V::Append => file().map(|f| Step::Append(f, len, seed)),
            V::Truncate => file().map(|f| Step::Truncate(f, at)),
            V::OpenTruncate => file().map(Step::OpenTruncate),
            V::Fallocate => {
                // Before Linux 5.14 FUSE hands no FALLOC_FL_ZERO_RANGE to its daemon.
                let rooms = if kernel() < (5, 14) { 3 } else { 4 };
                let room = [Room::Extend, Room::KeepSize, Room::Punch, Room::Zero][n % rooms];
                file().map(|f| Step::Fallocate(f, room, at, len))
            }
            V::Read => file().map(Step::Read),
            V::List => pick(&known.dirs, self.a).map(Step::List),
            V::Chmod => known_kind(known, any()).map(|p| {
                let m = mode(known, &p, n);
                Step::Chmod(p, m)
            }),
            V::Chown if who() == Who::Root => any().map(|p| Step::Chown(p, (n % 3) as u32, (n / 3 % 3) as u32)),
            V::Chown | V::Nothing => None,
            V::Utimes => any().map(|p| Step::Utimes(p, 100_000_000 + i64::from(self.n))),
            V::SetXattr => any().map(|p| Step::SetXattr(p, NAMES[n % 2], seed)),
            V::RemoveXattr => any().map(|p| Step::RemoveXattr(p, NAMES[n % 2])),
            V::Hold => file().map(|f| Step::Hold(slot, f, n % 2 == 1)),
            V::Drop => Some(Step::Drop(slot)),
            V::HeldRead => Some(Step::HeldRead(slot)),
            V::HeldWrite => Some(Step::HeldWrite(slot, at, len, seed)),
            V::HeldTruncate => Some(Step::HeldTruncate(slot, at)),
            V::HeldChmod => Some(Step::HeldChmod(slot, [0o644, 0o600, 0o4755][n % 3])),
            V::HeldStat => Some(Step::HeldStat(slot)),
            V::Compare => Some(Step::Compare),
        };
        step.unwrap_or(Step::Nothing)
    }
}

/// Symlinks have no mode of their own.
fn known_kind(known: &Known, path: Option<String>) -> Option<String> {
    path.filter(|p| known.files.binary_search(p).is_ok() || known.dirs.binary_search(p).is_ok())
}

/// Draws `cases` times what `PLYFS_TEST_CASES` says and tries each; fails with the shortest one that fails, in words.
/// `salt` keeps tests of one seed from drawing the same.
pub fn check<T: Debug>(
    cases: u64,
    salt: u64,
    drawn: impl Strategy<Value = T>,
    test: impl Fn(&T) -> Result<(), String>,
    words: impl Fn(&T) -> String,
) {
    let cases = u32::try_from(cases * env_number("PLYFS_TEST_CASES", 1)).unwrap();
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        max_shrink_time: 90_000,
        ..Config::default()
    };
    let seed = [env_number("PLYFS_TEST_SEED", 1), salt].map(u64::to_le_bytes).concat().repeat(2);
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    match runner.run(&drawn, |drawn| test(&drawn).map_err(TestCaseError::fail)) {
        Ok(()) => {}
        Err(TestError::Fail(why, drawn)) => panic!("the shortest history that fails, {}{why}", words(&drawn)),
        Err(other) => panic!("{other}"),
    }
}
