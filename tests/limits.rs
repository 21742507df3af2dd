//! Marks that have no room, or may not be written: what is done instead. The engine without a mount.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/engine.rs"]
mod engine;

use std::fs;
use std::path::{Path, PathBuf};

use plyfs::Errno;
use plyfs::config::Config;
use plyfs::testing::seam::{Call, Lacking, Lacks, Plan, with_plan};

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

/// What a file has after a change, and the change.
type Change = (&'static str, fn(&Engine) -> Result<()>);

/// Without an index each name that was looked up has a link of the copy before a change is answered, whatever fails or ends.
#[test]
fn every_known_name_has_the_change_or_none_was_answered() {
    let (known, before) = (["one", "two", "into/three"], "linked");
    let changes: [Change; 3] = [
        ("TWOked", |engine| engine.write("two", 0, "TWO")),
        ("li", |engine| engine.truncate("two", 2)),
        ("linked", |engine| engine.chmod("two", 0o604)),
    ];
    let start = || {
        let (scratch, base) = layers();
        fs::hard_link(base.join("lower/one"), base.join("lower/into/three")).unwrap();
        let engine = off(&base);
        for name in known {
            engine.id(name).unwrap();
        }
        (scratch, base, engine)
    };
    for (after, change) in changes {
        let (_scratch, _, engine) = start();
        let (_, calls) = with_plan(Plan::count(), || change(&engine));
        assert!(calls > 5, "{calls}");
        for at in 0..calls {
            for (ends, plan) in [(false, Plan::fail(at, Errno::ENOSPC)), (true, Plan::dead_from(at))] {
                let (_scratch, base, engine) = start();
                let (answer, _) = with_plan(plan, || change(&engine));
                let again = !ends && at % 2 == 0 && answer.is_err();
                if again {
                    change(&engine).unwrap();
                }
                drop(engine);
                let engine = off(&base);
                let shown = |name| (engine.text(name).unwrap(), engine.attr(name).unwrap().mode);
                for name in known {
                    let (text, mode) = shown(name);
                    assert!(text == before || text == after, "{after}, call {at}, {name}: {text}");
                    if answer.is_ok() || again {
                        assert_eq!((text.as_str(), mode), (after, shown("one").1), "call {at}, {name}");
                    }
                }
                assert!(fs::read_dir(base.join("work/work")).unwrap().next().is_none(), "call {at}");
            }
        }
    }
}

/// A directory of another owner cannot be copied up, and so no name in it gets a link: who writes is told so, as what is
/// written may have come by that name. Nothing is changed, and it is the caller's to try again.
#[test]
fn a_known_name_that_cannot_have_the_change_refuses_it() {
    let (_scratch, base) = layers();
    fs::hard_link(base.join("lower/one"), base.join("lower/into/three")).unwrap();
    let engine = off(&base);
    for name in ["one", "into/three"] {
        engine.id(name).unwrap();
    }
    let refused = with_plan(Plan::fail(0, Errno::EPERM).only(Call::Link), || engine.write("one", 0, "ONE")).0;
    assert_eq!((refused, engine.text("one").as_deref()), (Err(Errno::EPERM), Ok("linked")));
    engine.write("one", 0, "ONE").unwrap();
    drop(engine);
    assert_eq!(off(&base).text("into/three").as_deref(), Ok("ONEked"));
}

/// 9p takes an attribute away that is set to nothing: the marks without a value, of a copy from where is not known and of a
/// file without its data, cannot be written there.
#[test]
fn a_file_is_copied_where_attributes_cannot_be_empty() {
    let (_scratch, base) = layers();
    let _lacking = Lacking::new(Lacks { empty_values: true, ..Lacks::default() });
    let engine = Engine::open(&base);
    engine.chmod("f", 0o600).unwrap();
    assert!(!marks(&base, "f").contains(&"metacopy".to_owned()));
    // Its origin would be empty.
    let no_handle = Plan::fail(0, Errno::EOPNOTSUPP).only(Call::Handle);
    with_plan(no_handle, || engine.write("d/in", 0, "IN")).0.unwrap();
    let shown = |engine: &Engine| [engine.text("f").unwrap(), engine.text("d/in").unwrap()];
    assert_eq!(shown(&engine), ["0123456789", "IN"]);
    drop(engine);
    assert_eq!(shown(&Engine::open(&base)), ["0123456789", "IN"]);
}

/// An upper layer that takes no hard links cannot hold two names of one file: there they are files of their own from the
/// start, and each keeps what is written by it.
#[test]
fn names_are_files_of_their_own_where_the_upper_layer_takes_no_hard_links() {
    let (_scratch, base) = layers();
    let _lacking = Lacking::new(Lacks { links: true, ..Lacks::default() });
    let engine = Engine::with(config(&base.join("lower"), &base));
    assert!(engine.0.notes().iter().any(|note| note.contains("takes no hard links")), "{:?}", engine.0.notes());
    assert_ne!(engine.id("one").unwrap(), engine.id("two").unwrap());
    engine.write("two", 0, "TWO").unwrap();
    let texts = |engine: &Engine| [engine.text("one").unwrap(), engine.text("two").unwrap()];
    assert_eq!(texts(&engine), ["linked", "TWOked"]);
    engine.write("one", 0, "ONE").unwrap();
    engine.forget_all();
    assert_eq!(texts(&engine), ["ONEked", "TWOked"]);
    drop(engine);
    assert_eq!(texts(&Engine::with(config(&base.join("lower"), &base))), ["ONEked", "TWOked"]);
}

/// Over `base/lower` without an index.
fn off(base: &Path) -> Engine {
    Engine::with(Config { index: Some(false), ..config(&base.join("lower"), base) })
}
