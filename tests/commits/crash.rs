//! A commit, an undo and a redo end with the process at each of their system calls: the next mount shows what was seen before,
//! or what they lead to, and goes on.

use std::path::Path;
use std::sync::Arc;

use plyfs::Union;
use plyfs::testing::seam::{Plan, with_plan};
use plyfs::testing::{Steps, finish_steps};
use plyfs::union::{Live, Step, log_of, step_together};

use crate::common::scratch::memory;
use crate::common::{Who, who};
use crate::engine::{Engine, View, config};

fn open(base: &Path) -> Engine {
    Engine::around(Union::open(config(&base.join("lower"), base)).unwrap_or_else(|error| panic!("{error:?}")))
}

pub fn take(base: &Path, step: &Step) -> Result<(), String> {
    let union = Union::open(config(&base.join("lower"), base)).map_err(|error| error.to_string())?;
    let live = Live::new(Arc::new(union));
    live.step(step, &|| Ok(())).map(drop).map_err(|error| error.to_string())
}

/// Lower files, a first commit with all sorts of changes, and more changes.
fn layers() -> tempfile::TempDir {
    let scratch = tempfile::tempdir_in(memory()).unwrap();
    let base = scratch.path();
    for dir in ["lower/d/e", "upper", "work"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    for file in ["a", "b", "d/f", "d/e/g"] {
        std::fs::write(base.join("lower").join(file), file).unwrap();
    }
    if who() == Who::Root {
        // Others cannot ask for the lower file of a mark that a kill has left, and see another link count.
        std::fs::hard_link(base.join("lower/b"), base.join("lower/d/b")).unwrap();
    }
    let engine = open(base);
    engine.write("a", 0, "changed").unwrap();
    engine.unlink("d/f").unwrap();
    engine.rename("d", "moved").unwrap();
    drop(engine);
    take(base, &commit()).unwrap();
    let engine = open(base);
    engine.create("new").unwrap();
    engine.write("moved/e/g", 0, "again").unwrap();
    engine.write("b", 1, "linked").unwrap();
    engine.unlink("a").unwrap();
    scratch
}

pub fn commit() -> Step {
    Step::Commit { text: b"one".to_vec() }
}

fn view(base: &Path) -> View {
    open(base).view().unwrap()
}

/// Ends `step` at each of its calls. `before` and `after`: what is seen then.
fn at_each_call(step: &Step, prepare: impl Fn(&Path)) {
    let (before, after) = {
        let scratch = layers();
        prepare(scratch.path());
        let before = view(scratch.path());
        take(scratch.path(), step).unwrap();
        (before, view(scratch.path()))
    };
    let (mut stayed, mut went) = (0, 0);
    for at in 0.. {
        let scratch = layers();
        let base = scratch.path();
        prepare(base);
        let (done, calls) = with_plan(Plan::dead_from(at), || take(base, step));
        if calls <= at {
            assert_eq!(done, Ok(()));
            break;
        }
        let now = view(base);
        assert!(now == before || now == after, "killed at call {at}: {done:?}");
        match now == before {
            true => stayed += 1,
            false => went += 1,
        }
        if now == before && before != after {
            take(base, step).unwrap_or_else(|why| panic!("after a kill at call {at}: {why}"));
            assert!(view(base) == after, "after a kill at call {at}");
        }
    }
    assert!(stayed > 20 && (before == after || went > 0), "{stayed} {went}");
}

#[test]
fn a_commit_that_is_killed_is_made_or_not() {
    at_each_call(&commit(), |_| {});
}

#[test]
fn an_undo_that_is_killed_is_made_or_not() {
    at_each_call(&Step::Undo { to: None }, |_| {});
}

#[test]
fn a_redo_that_is_killed_is_made_or_not() {
    at_each_call(&Step::Redo, |base| take(base, &Step::Undo { to: None }).unwrap());
}

/// A step of two file systems of a session, whose layers are in `0` and `1` of a directory.
fn take_both(session: &Path, step: &Step) -> Result<(), String> {
    let open = |number: &str| {
        let base = session.join(number);
        let union = Union::open(config(&base.join("lower"), &base)).map_err(|error| error.to_string())?;
        let live = Live::new(Arc::new(union));
        live.record_in(Arc::new(Steps(session.to_owned())));
        Ok::<_, String>(live)
    };
    let both = [open("0")?, open("1")?];
    step_together(&both.each_ref(), step, &|| Ok(())).map(drop).map_err(|error| error.to_string())
}

/// What is seen in both, which must stand on the same commit.
fn of_both(session: &Path) -> [View; 2] {
    let all = ["0", "1"].map(|number| {
        let base = session.join(number);
        let view = view(&base);
        let log = log_of(&config(&base.join("lower"), &base)).unwrap();
        (view, log.commits.iter().find(|one| one.here).map(|one| one.number))
    });
    assert_eq!(all[0].1, all[1].1, "the commits on which the two stand");
    all.map(|(view, _)| view)
}

/// A session of two file systems.
fn session() -> tempfile::TempDir {
    let session = tempfile::tempdir_in(memory()).unwrap();
    for number in ["0", "1"] {
        std::fs::rename(layers().keep(), session.path().join(number)).unwrap();
    }
    session
}

/// Between the calls at which a step ends before anything counts: they are those of one file system, too.
const STRIDE: u64 = 9;

/// Ends `step` at each of its calls that count, and who goes on with it at each of theirs.
fn both_at_each_call(step: &Step, prepare: impl Fn(&Path)) {
    let (before, after) = {
        let session = session();
        prepare(session.path());
        let before = of_both(session.path());
        take_both(session.path(), step).unwrap();
        (before, of_both(session.path()))
    };
    let (mut stayed, mut went, mut forward) = (0, 0, 0);
    let mut at = 0;
    loop {
        let session = session();
        let base = session.path();
        prepare(base);
        let (done, calls) = with_plan(Plan::dead_from(at), || take_both(base, step));
        if calls <= at {
            assert_eq!(done, Ok(()));
            assert!(!base.join("step").exists());
            break;
        }
        let killed_at = at;
        at += if base.join("step").exists() { 1 } else { STRIDE };
        if base.join("step").exists() {
            forward += 1;
            for end in 0.. {
                let (finished, calls) = with_plan(Plan::dead_from(end), || finish_steps(base));
                if calls <= end {
                    assert_eq!(finished, Ok(()));
                    break;
                }
            }
        }
        let now = of_both(base);
        assert!(now == before || now == after, "killed at call {killed_at}: {done:?}");
        match now == before {
            true => stayed += 1,
            false => went += 1,
        }
        if now == before && before != after {
            take_both(base, step).unwrap_or_else(|why| panic!("after a kill at call {killed_at}: {why}"));
            assert!(of_both(base) == after, "after a kill at call {killed_at}");
        }
    }
    assert!(stayed > 10 && forward > 3 && (before == after || went > 3), "{stayed} {went} {forward}");
}

#[test]
fn a_commit_of_two_file_systems_that_is_killed_is_made_in_both_or_in_none() {
    both_at_each_call(&commit(), |_| {});
}

#[test]
fn an_undo_of_two_file_systems_that_is_killed_is_made_in_both_or_in_none() {
    both_at_each_call(&Step::Undo { to: None }, |_| {});
}

#[test]
fn a_redo_in_two_file_systems_that_is_killed_is_made_in_both_or_in_none() {
    both_at_each_call(&Step::Redo, |session| take_both(session, &Step::Undo { to: None }).unwrap());
}

/// The record of a step is not what tells the layers that have taken steps since.
#[test]
fn a_record_that_was_left_does_not_count() {
    let session = session();
    let base = session.path();
    take_both(base, &commit()).unwrap();
    let before = of_both(base);
    let ino = |path: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(base.join(path)).unwrap());
    let layer = ino("0/work/commits/2/layer");
    std::fs::write(base.join("step"), format!("0 2 {}\n1 9 {layer}\n", ino("1/upper"))).unwrap();
    finish_steps(base).unwrap();
    assert!(of_both(base) == before && !base.join("step").exists());
    std::fs::write(base.join("step"), "0 2\n").unwrap();
    assert_eq!(finish_steps(base), Err(plyfs::Errno::EIO));
}
