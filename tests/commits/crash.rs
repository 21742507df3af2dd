//! A commit, an undo and a redo end with the process at each of their system calls: the next mount shows what was seen before,
//! or what they lead to, and goes on.

use std::path::Path;
use std::sync::Arc;

use plyfs::Union;
use plyfs::testing::seam::{Plan, with_plan};
use plyfs::union::{Live, Step};

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
    let scratch = tempfile::tempdir().unwrap();
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
