//! What a sync syncs, counted at the seam; no disk is needed for that.

use std::path::Path;

use plyfs::Errno;
use plyfs::config::{Config, Fsync};
use plyfs::testing::seam::{Call, Plan, with_plan};

use crate::common::Scratch;
use crate::engine::{Engine, Result, config};

fn open(base: &Path, fsync: Fsync) -> Engine {
    Engine::with(Config { fsync, index: Some(true), ..config(&base.join("lower"), base) })
}

fn layers() -> Scratch {
    let scratch = Scratch::in_memory();
    crate::rows::lower(&scratch.dir("lower"));
    scratch.dir("upper");
    scratch.dir("work");
    scratch
}

/// How often `act` calls fsync(2).
fn count(act: impl Fn() -> Result<()>) -> u64 {
    let (done, calls) = with_plan(Plan::count().only(Call::Fsync), act);
    done.unwrap();
    calls
}

#[test]
fn the_first_sync_after_a_copy_up_syncs_its_name_and_the_directories_on_the_way() {
    let scratch = layers();
    let engine = open(scratch.path(), Fsync::Auto);
    engine.write("d/sub/deep", 0, "THIS").unwrap();
    // The file, its name, the names of d/sub and of d.
    assert_eq!(count(|| engine.fdatasync("d/sub/deep")), 4);
    assert_eq!(count(|| engine.fdatasync("d/sub/deep")), 0);
    // Its directories were seen to.
    engine.write("d/in", 0, "THIS").unwrap();
    assert_eq!(count(|| engine.fdatasync("d/in")), 2);
    // A new file is the file system's own affair, but not a directory that was copied up for it.
    engine.create("e/new").unwrap();
    assert_eq!(count(|| engine.fsync("e/new")), 2);
    assert_eq!(count(|| engine.fsync("e/new")), 1);
    // A mark that goes, as the data is here now, counts like a name.
    engine.chmod("f", 0o600).unwrap();
    assert_eq!(count(|| engine.fsync("f")), 2);
    engine.write("f", 0, "x").unwrap();
    assert_eq!(count(|| engine.write_synced("f", 0, "x")), 2);
    // The name of a directory that a change of its own copied up.
    engine.chmod("p", 0o700).unwrap();
    assert_eq!(count(|| engine.fsync("p")), 2);
}

#[test]
fn a_sync_that_fails_is_not_taken_for_done() {
    for at in 0..4 {
        let scratch = layers();
        let engine = open(scratch.path(), Fsync::Auto);
        engine.write("d/sub/deep", 0, "THIS").unwrap();
        let sync = || engine.fdatasync("d/sub/deep");
        let (failed, _) = with_plan(Plan::fail(at, Errno::EIO).only(Call::Fsync), sync);
        assert_eq!(failed, Err(Errno::EIO), "call {at}");
        let (again, calls) = with_plan(Plan::count().only(Call::Fsync), sync);
        assert_eq!(again, Ok(()));
        // What the first one did not come to: at 0 all, then all but the file and its name at once.
        assert_eq!(calls, [4, 4, 2, 1][at as usize], "after call {at}");
    }
}

/// With `strict` an error of a sync is told, and leaves what the next operation can go on from.
#[test]
fn a_strict_copy_up_whose_sync_fails_is_told_and_can_be_repeated() {
    type Act = fn(&Engine) -> Result<()>;
    let acts: [(&str, Act); 4] = [
        ("d/sub/deep", |e| e.chmod("d/sub/deep", 0o600)),
        ("one", |e| e.write("one", 0, "THIS")),
        ("d", |e| e.chmod("d", 0o700)),
        ("f", |e| e.truncate("f", 3)),
    ];
    for (path, act) in acts {
        let calls = {
            let scratch = layers();
            let engine = open(scratch.path(), Fsync::Strict);
            count(|| act(&engine))
        };
        assert!(calls > 1, "{path}: {calls}");
        for at in 0..calls {
            let scratch = layers();
            let engine = open(scratch.path(), Fsync::Strict);
            let (failed, _) = with_plan(Plan::fail(at, Errno::EIO).only(Call::Fsync), || act(&engine));
            // The last call for a hard link is for a name that is led to by the index, too.
            let told = failed == Err(Errno::EIO) || (path == "one" && at + 1 == calls);
            assert!(told, "{path}: call {at} of {calls}: {failed:?}");
            act(&engine).unwrap_or_else(|errno| panic!("{path}: call {at} failed, and again {errno}"));
            let live = engine.view().unwrap();
            drop(engine);
            let engine = open(scratch.path(), Fsync::Strict);
            assert_eq!(live.difference(&engine.view().unwrap()), "", "{path}: call {at}");
        }
    }
}
