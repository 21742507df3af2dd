//! Marks that have no room, or may not be written: what is done instead. The engine without a mount.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/engine.rs"]
mod engine;

use std::fs;
use std::path::{Path, PathBuf};

use plyfs::Errno;
use plyfs::base::config::Config;
use plyfs::sys::seam::{Call, Plan, with_plan};

use common::stack::prefix;
use common::{Scratch, Tree};
use engine::{Engine, Result, config};

/// Layers with a lower file, a lower directory, and a file of two names.
fn layers() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    for dir in ["lower/d", "lower/into", "upper", "work"] {
        scratch.dir(dir);
    }
    let lower = scratch.path().join("lower");
    for (file, text) in [("d/in", "in"), ("f", "0123456789"), ("one", "linked")] {
        fs::write(lower.join(file), text).unwrap();
    }
    fs::hard_link(lower.join("one"), lower.join("two")).unwrap();
    let base = scratch.path().to_owned();
    (scratch, base)
}

/// Runs `act` with the mark number `at` that it writes refused.
fn refused<T>(at: u64, errno: Errno, act: impl FnOnce() -> T) -> T {
    with_plan(Plan::fail(at, errno).only(Call::SetXattr), act).0
}

/// What a file system answers that has no room for a mark.
const NO_ROOM: [Errno; 4] = [Errno::ENOSPC, Errno::EDQUOT, Errno::ERANGE, Errno::E2BIG];

fn marks(base: &Path, file: &str) -> Vec<String> {
    let upper = Tree::new(base.join("upper"));
    let names = upper.xattrs(file).unwrap().into_iter().map(|name| String::from_utf8(name).unwrap());
    names.filter_map(|name| name.strip_prefix(prefix()).map(str::to_owned)).collect()
}

#[test]
fn a_directory_without_room_for_its_redirect_is_not_renamed() {
    for (errno, to) in NO_ROOM.into_iter().flat_map(|errno| [(errno, "moved"), (errno, "into/moved")]) {
        let (_scratch, base) = layers();
        let engine = Engine::open(&base);
        // Whatever else is marked on the way is marked before.
        engine.create("d/new").unwrap();
        engine.chmod("into", 0o700).unwrap();
        let before = engine.view().unwrap();
        assert_eq!(refused(0, errno, || engine.rename("d", to)), Err(Errno::EXDEV), "{errno:?}");
        assert_eq!(engine.view(), Ok(before.clone()), "{errno:?}, live");
        assert_eq!(marks(&base, "d"), ["origin"], "{errno:?}");
        drop(engine);
        let engine = Engine::open(&base);
        assert_eq!(engine.view(), Ok(before), "{errno:?}, opened again");
        engine.rename("d", to).unwrap();
        assert_eq!(engine.text(&format!("{to}/in")).unwrap(), "in");
    }
}

/// A row: what is done before, what is done while the mark number `refused` is, and where the file is then.
struct Row {
    what: &'static str,
    before: fn(&Engine) -> Result<()>,
    act: fn(&Engine) -> Result<()>,
    refused: u64,
    file: &'static str,
    marks: &'static [&'static str],
}

#[test]
fn a_file_whose_mark_has_no_room_takes_its_data_along() {
    let metacopy = |e: &Engine| e.chmod("f", 0o600);
    let rows = [
        Row { what: "metacopy", before: |_| Ok(()), act: metacopy, refused: 1, file: "f", marks: &["origin"] },
        Row {
            what: "redirect beside",
            before: metacopy,
            act: |e| e.rename("f", "g"),
            refused: 0,
            file: "g",
            marks: &["origin"],
        },
        Row {
            what: "redirect elsewhere",
            before: metacopy,
            act: |e| e.rename("f", "into/f"),
            refused: 1,
            file: "into/f",
            marks: &["origin"],
        },
        Row {
            what: "redirect of a link",
            before: metacopy,
            act: |e| e.link("f", "g"),
            refused: 0,
            file: "f",
            marks: &["origin"],
        },
        // The copy is marked for its new name before it is there; without room for that it takes its data along.
        Row {
            what: "redirect of a copy that is renamed",
            before: |_| Ok(()),
            act: |e| e.rename("f", "g"),
            refused: 2,
            file: "g",
            marks: &["origin"],
        },
        Row {
            what: "origin, of a whole copy",
            before: |_| Ok(()),
            act: |e| e.write("f", 0, "0"),
            refused: 0,
            file: "f",
            marks: &[],
        },
    ];
    for (row, errno) in rows.iter().flat_map(|row| NO_ROOM.map(|errno| (row, errno))) {
        let (_scratch, base) = layers();
        let engine = Engine::open(&base);
        (row.before)(&engine).unwrap();
        refused(row.refused, errno, || (row.act)(&engine)).unwrap();
        let case = format!("{}, {errno:?}", row.what);
        let view = engine.view().unwrap();
        assert_eq!(engine.text(row.file).unwrap(), "0123456789", "{case}");
        assert_eq!(fs::read(base.join("upper").join(row.file)).unwrap(), b"0123456789", "{case}: its data is below");
        assert_eq!(marks(&base, row.file), row.marks, "{case}");
        drop(engine);
        assert_eq!(Engine::open(&base).view(), Ok(view), "{case}, opened again");
    }
}

#[test]
fn a_metacopy_file_does_without_an_origin() {
    for errno in NO_ROOM {
        let (_scratch, base) = layers();
        let engine = Engine::open(&base);
        refused(0, errno, || engine.chmod("f", 0o600)).unwrap();
        assert_eq!(marks(&base, "f"), ["metacopy"], "{errno:?}");
        let view = engine.view().unwrap();
        drop(engine);
        let engine = Engine::open(&base);
        assert_eq!(engine.view(), Ok(view), "{errno:?}");
        assert_eq!(engine.text("f").unwrap(), "0123456789", "{errno:?}");
    }
}

#[test]
fn without_the_index_of_an_earlier_mount_the_names_part() {
    let (_scratch, base) = layers();
    let engine = Engine::open(&base);
    engine.write("one", 0, "LINKED").unwrap();
    assert_eq!(engine.text("two").unwrap(), "LINKED");
    drop(engine);
    let off = || Engine::with(Config { index: Some(false), ..config(&base.join("lower"), &base) });
    let engine = off();
    // The other name has no link of the copy: without the index it is the lower file.
    assert_eq!([engine.text("one"), engine.text("two")], [Ok("LINKED".into()), Ok("linked".into())]);
    engine.write("two", 0, "TWO").unwrap();
    engine.link("one", "three").unwrap();
    engine.unlink("one").unwrap();
    let view = engine.view().unwrap();
    drop(engine);
    // But for the counts of links: that of the lower file is kept as long as the mount lives.
    assert!(off().view().unwrap().is_close(&view));
    // Nor does the index mind when it is there again.
    let engine = Engine::open(&base);
    assert_eq!([engine.text("two"), engine.text("three")], [Ok("TWOked".into()), Ok("LINKED".into())]);
    engine.unlink("two").unwrap();
    engine.unlink("three").unwrap();
    drop(engine);
    assert!(!Engine::open(&base).view().unwrap().has("two"));
}

/// Another user's file, which a normal user's daemon may not copy, goes where its directory allows that, as any other file.
#[test]
fn a_name_of_a_foreign_hard_link_is_removed_without_a_copy() {
    let (_scratch, base) = layers();
    let engine = Engine::open(&base);
    engine.create("new").unwrap();
    let foreign = |act: &dyn Fn() -> Result<()>| {
        // Its owner need not be set here: what a copy gets after that is refused instead.
        let plan = Plan::fail(0, Errno::EPERM).only(Call::Utimens);
        assert_eq!(with_plan(plan, act).0, Ok(()));
    };
    foreign(&|| engine.unlink("one"));
    assert_eq!((engine.text("one"), engine.text("two").as_deref()), (Err(Errno::ENOENT), Ok("linked")));
    foreign(&|| engine.rename("new", "two"));
    assert_eq!(engine.text("two").as_deref(), Ok(""));
    let before = engine.view().unwrap();
    drop(engine);
    assert_eq!(Engine::open(&base).view(), Ok(before));
}
