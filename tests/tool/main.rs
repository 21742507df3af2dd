//! What is said of layers without a mount of their own: the changes of an upper layer, told beside the daemon that serves
//! it, and compared with both trees as they are seen.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../model/mod.rs"]
mod model;

mod applied;
mod cases;
mod check;
mod command;
mod converted;
mod ended;
mod histories;
mod hostile;
mod images;
mod imports;
mod outputs;
mod ranges;
mod rootless;
mod round_trips;
mod squash;
mod weights;
mod whereabouts;

use std::path::Path;

use common::Stack;
use plyfs::config::{Config, UpperDirs};
use plyfs::tool::{self, Change, Diff, How, Kind, What};
use plyfs::union;

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user_in_memory();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace_in_memory();
}

/// The settings for the layers of a stack.
fn config(stack: &Stack) -> Config {
    let upper = stack.upper.as_ref();
    Config {
        lowers: stack.lowers.iter().map(|layer| layer.root().to_owned()).collect(),
        upper: upper.map(|upper| UpperDirs { dir: upper.root().to_owned(), work: stack.scratch.dir("work") }),
        ..Config::default()
    }
}

/// The changes of a stack's upper layer.
fn diff(stack: &Stack) -> Diff {
    diff_with(&config(stack))
}

fn diff_with(config: &Config) -> Diff {
    let layers = union::look(config).unwrap_or_else(|error| panic!("{error:?}"));
    tool::diff(&layers, How { counts: true, ..How::default() }).unwrap()
}

/// Each change on a line.
fn lines(diff: &Diff) -> Vec<String> {
    let trouble = |trouble: &tool::Trouble| format!("{:?} {}", trouble.errno, trouble.path.display());
    diff.changes.iter().map(line).chain(diff.troubles.iter().map(trouble)).collect()
}

/// `M a/b (was c/b) 3>5 [data mode 644>600]`
fn line(change: &Change) -> String {
    let mut line = format!("{} {}", change.letter.letter(), shown(&change.path));
    if change.kind == Kind::Dir {
        line += "/";
    }
    line += &change.was.as_ref().map(|was| format!(" (was {})", shown(was))).unwrap_or_default();
    line += &change.was_kind.map(|kind| format!(" from {kind:?}")).unwrap_or_default();
    let number = |size: Option<u64>| size.map(|size| size.to_string()).unwrap_or_default();
    if change.size != (None, None) {
        line += &format!(" {}>{}", number(change.size.0), number(change.size.1));
    }
    line += &change.files.map(|files| format!(" files {files}")).unwrap_or_default();
    let what: Vec<_> = change.what.iter().map(what).collect();
    if what.is_empty() { line } else { format!("{line} [{}]", what.join(" ")) }
}

fn shown(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().escape_ascii().to_string()
}

fn what(what: &What) -> String {
    match what {
        What::Mode(old, new) => format!("mode {old:o}>{new:o}"),
        What::Owner(old, new) => format!("owner {}:{}>{}:{}", old.0, old.1, new.0, new.1),
        other => other.word().to_owned(),
    }
}
