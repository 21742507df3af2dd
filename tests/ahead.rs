//! Directories that are looked at ahead of who lists them, in the engine: what is listed is what is there by then.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/engine.rs"]
mod engine;

use std::fs;

use engine::{Engine, Result};
use plyfs::testing::seam::{Call, Plan, with_plan};
use plyfs::union::{DirSink, InodeId, ListedEntry};

/// What the kernel is given of a directory, and keeps.
#[derive(Default)]
struct Listing(Vec<String>, Vec<InodeId>);

impl DirSink for Listing {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        let name = String::from_utf8_lossy(entry.name);
        if !matches!(&*name, "." | "..") {
            let attr = entry.attr.unwrap();
            self.1.push(entry.id);
            self.0.push(format!("{name} {:?} {:o} {} *{}", attr.kind, attr.mode, attr.size, attr.nlink));
        }
        true
    }
}

fn list(engine: &Engine, dir: &str) -> Vec<String> {
    let dir = engine.id(dir).unwrap();
    let mut found = Listing::default();
    engine.0.readdir(dir, 0, true, &mut found).unwrap();
    found.1.iter().for_each(|id| engine.0.forget(*id, 1));
    found.0.sort();
    found.0
}

/// A lower layer whose directory has files, one of them with a second name elsewhere, and a directory.
fn layers() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for dir in ["lower/d/sub/deep", "upper", "work"] {
        fs::create_dir_all(base.path().join(dir)).unwrap();
    }
    for file in ["a", "b", "c", "sub/e"] {
        fs::write(base.path().join("lower/d").join(file), file).unwrap();
    }
    fs::hard_link(base.path().join("lower/d/c"), base.path().join("lower/linked")).unwrap();
    base
}

#[test]
fn a_directory_that_was_looked_at_ahead_is_listed_without_another_look() {
    let base = layers();
    let engine = Engine::open(base.path());
    let looks = || with_plan(Plan::count().only(Call::ListXattr), || list(&engine, "d"));
    let d = engine.id("d").unwrap();
    engine.0.look_ahead(d).unwrap();
    let (ahead, few) = looks();
    let (plain, many) = looks();
    assert_eq!(ahead, plain);
    // The file with two names is looked at.
    assert_eq!((few, many), (1, 4), "{ahead:?}");
}

#[test]
fn a_walk_shows_what_changes_while_directories_are_looked_at_ahead() {
    type Change = fn(&Engine) -> Result<()>;
    let changes: [(&str, Change); 12] = [
        ("nothing", |_| Ok(())),
        ("a new name", |e| e.create("d/new")),
        ("a name that is gone", |e| e.unlink("d/b")),
        ("one that is moved away", |e| e.rename("d/b", "moved")),
        ("one that takes the place of another", |e| e.rename("d/a", "d/b")),
        ("other attributes", |e| e.chmod("d/a", 0o600)),
        ("other data", |e| e.append("d/a", "more")),
        ("other data by another name", |e| e.append("linked", "more")),
        ("another name that is gone", |e| e.unlink("linked")),
        ("something new in a directory", |e| e.mkdir("d/sub/new")),
        ("other attributes of a directory", |e| e.chmod("d/sub", 0o700)),
        ("the directory is another one", |e| e.rename("d", "old").and_then(|()| e.mkdir("d"))),
    ];
    for (name, change) in changes {
        let base = layers();
        let engine = Engine::open(base.path());
        // Known to the kernel, as after a listing of the root.
        let d = engine.id("d").unwrap();
        engine.0.look_ahead(d).unwrap();
        change(&engine).unwrap();
        assert_eq!(list(&engine, "d"), list(&engine, "d"), "{name}");
        engine.0.look_ahead(d).unwrap();
        let seen = list(&engine, "d");
        engine.forget_all();
        drop(engine);
        assert_eq!(seen, list(&Engine::open(base.path()), "d"), "{name}, and looked at again");
    }
}

#[test]
fn what_was_looked_at_goes_with_its_directory() {
    let base = layers();
    let engine = Engine::open(base.path());
    let d = engine.id("d").unwrap();
    engine.0.look_ahead(d).unwrap();
    engine.forget_all();
    assert_eq!(engine.0.live_inodes(), 1);
    let looks = with_plan(Plan::count().only(Call::ListXattr), || list(&engine, "d"));
    assert!(looks.1 >= 4, "{looks:?}");
}
