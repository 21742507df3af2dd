//! `plyfs layer du`: what each layer has is told once, and what the view does not show is hidden.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use plyfs::tool::du::{Du, Why};
use plyfs::tool::{self};
use plyfs::union;

use crate::common::*;
use crate::config;
use crate::model::layers::{build, plan, things, words};
use crate::model::real::Real;
use crate::model::{self, Op, Subject, changes};

const KIB: usize = 1024;

fn du(stack: &Stack) -> Du {
    let layers = union::look(&config(stack)).unwrap_or_else(|error| panic!("{error:?}"));
    tool::du(&layers.with_index(), 9).unwrap()
}

/// `LEVEL visible metadata covered deleted`: how many files each.
fn counts(du: &Du) -> Vec<String> {
    let line = |layer: &tool::Weighed| {
        let [visible, metadata, covered, deleted] =
            [layer.visible, layer.metadata, layer.covered, layer.deleted].map(|amount| amount.files);
        format!("{} {visible} {metadata} {covered} {deleted}", layer.level)
    };
    du.layers.iter().map(line).collect()
}

type Act = fn(&Mount);

#[test]
fn each_file_of_a_layer_is_visible_metadata_covered_or_deleted() {
    bounded(|| {
        let table: [(&str, Act, [&str; 3]); 9] = [
            ("nothing", |_| {}, ["0 0 0 0 0", "1 2 0 0 0", "2 4 0 1 0"]),
            ("a write", |m| m.append("a", "x").unwrap(), ["0 1 0 0 0", "1 2 0 0 0", "2 3 0 2 0"]),
            ("a new mode", |m| m.chmod("a", 0o600).unwrap(), ["0 0 1 0 0", "1 2 0 0 0", "2 4 0 1 0"]),
            ("a removal", |m| m.unlink("a").unwrap(), ["0 0 0 0 0", "1 2 0 0 0", "2 3 0 1 1"]),
            ("a removal of both", |m| m.unlink("both").unwrap(), ["0 0 0 0 0", "1 1 0 0 1", "2 4 0 0 1"]),
            ("a directory that goes", |m| m.remove_all("dir").unwrap(), ["0 0 0 0 0", "1 2 0 0 0", "2 2 0 1 2"]),
            ("a renamed directory", |m| m.rename("dir", "new").unwrap(), ["0 0 0 0 0", "1 2 0 0 0", "2 4 0 1 0"]),
            (
                "a write in a renamed directory",
                |m| {
                    m.rename("dir", "new").unwrap();
                    m.append("new/x", "x").unwrap();
                },
                ["0 1 0 0 0", "1 2 0 0 0", "2 3 0 2 0"],
            ),
            (
                "a directory made again",
                |m| {
                    m.remove_all("dir").unwrap();
                    m.mkdir("dir", 0o755).unwrap();
                    m.write("dir/x", "new").unwrap();
                },
                ["0 1 0 0 0", "1 2 0 0 0", "2 2 0 2 1"],
            ),
        ];
        for (what, act, expected) in table {
            let stack = Stack::new(2);
            let big = vec![b'x'; 40 * KIB];
            stack.lowers[1]
                .file("a", &big)
                .file("both", "low")
                .file("dir/x", &big)
                .file("dir/y", "y")
                .file("other", "");
            stack.lowers[0].file("both", "top").file("mine", "");
            let mount = stack.mount();
            act(&mount);
            assert_eq!(counts(&du(&stack)), expected, "{what}");
        }
    });
}

#[test]
fn the_largest_are_named_and_more_than_the_most_is_status_1() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0]
            .file("secret", vec![1; 64 * KIB])
            .file("old", vec![1; 32 * KIB])
            .file("small", vec![1; 4 * KIB]);
        let mount = stack.mount();
        ["secret", "small"].iter().for_each(|name| mount.unlink(name).unwrap());
        mount.write("old", vec![2; 16 * KIB]).unwrap();
        let found = du(&stack);
        let large: Vec<_> = found.hidden.iter().map(|large| (large.why, large.path.to_str().unwrap())).collect();
        assert_eq!(large, [(Why::Deleted, "secret"), (Why::Covered, "old"), (Why::Deleted, "small")]);
        assert_eq!(found.copied_up.iter().map(|large| large.path.to_str().unwrap()).collect::<Vec<_>>(), ["old"]);
        for (max, status) in [("100K", 0), ("99K", 1), ("1X", 2)] {
            let merged = stack.merged.to_str().unwrap();
            let out = Command::new(mount::binary()).args(["layer", "du", merged, "--max", max]).output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(status), "{max}: {said}");
            assert_eq!(said.lines().count(), usize::from(status != 0), "{said}");
        }
    });
}

/// The files of a directory, and what they take: by number once.
fn weigh(root: &Path) -> (u64, u64) {
    let (mut names, mut bytes, mut seen, mut todo) = (0, 0, HashSet::new(), vec![root.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let stat = entry.path().symlink_metadata().unwrap();
            let is_whiteout = (stat.mode() & libc::S_IFMT, stat.rdev()) == (libc::S_IFCHR, 0);
            if stat.is_dir() {
                todo.push(entry.path());
            } else if !is_whiteout {
                names += 1;
                bytes += if seen.insert(stat.ino()) { stat.blocks() * 512 } else { 0 };
            }
        }
    }
    (names, bytes)
}

fn names(root: &Path) -> u64 {
    let mut todo: Vec<PathBuf> = vec![root.to_owned()];
    let mut names = 0;
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() { todo.push(entry.path()) } else { names += 1 }
        }
    }
    names
}

#[test]
fn of_any_history_all_is_told_and_as_much_is_visible_as_the_view_shows() {
    within(600, || {
        let test = |(things, ops): &(Vec<Vec<_>>, Vec<Op>)| {
            let stack = build(&plan(things, false)).option("index=off");
            let mount = stack.mount();
            let mut real = Real::new(&mount);
            for op in ops {
                let step = op.resolve(&real.known());
                // Each name in the view is then one file of one layer.
                if !format!("{step:?}").starts_with("Link") {
                    let _ = real.apply(&step);
                }
            }
            drop(real);
            let seen = names(&stack.merged);
            let found = du(&stack);
            let upper = stack.upper().root().to_owned();
            let roots = std::iter::once(upper).chain(stack.lowers.iter().map(|layer| layer.root().to_owned()));
            let expected: BTreeMap<usize, (u64, u64)> = roots.map(|root| weigh(&root)).enumerate().collect();
            let told = found.layers.iter().map(|layer| (layer.level, (layer.own().files, layer.own().bytes)));
            let told: BTreeMap<usize, (u64, u64)> = told.collect();
            let visible: u64 = found.layers.iter().map(|layer| layer.visible.files).sum();
            if told != expected || visible != seen || !found.troubles.is_empty() {
                return Err(format!("{told:?} for {expected:?}; {visible} for {seen}; {found:?}"));
            }
            Ok(())
        };
        let drawn = (things(), changes(30));
        let words = |(things, _): &(Vec<Vec<_>>, Vec<Op>)| words(&plan(things, false));
        model::check(40, 211, proptest::strategy::Strategy::boxed(drawn), test, words);
    });
}
