//! The documents that come from the program's own tables, and those whose words are commands: the man pages, the
//! completions in three shells, the README.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;

mod completions;
mod man;
mod readme;
mod shells;

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Checks the blocks of a document, each between a line that ends with `begin NAME` and one that ends with `end NAME`.
/// `PLYFS_UPDATE_DOCS=1 cargo test --test documents` writes them anew.
#[track_caller]
fn check_blocks(document: &str, blocks: &[(&str, String)]) {
    let path = root().join(document);
    let Ok(mut expected) = fs::read_to_string(&path) else {
        return common::say_skipped("the sources are closed to this user");
    };
    for (name, block) in blocks {
        expected = with_block(&expected, name, block).unwrap_or_else(|| panic!("{document} has no block {name}"));
    }
    check_file(document, &expected);
}

/// Checks a document that is generated as a whole, or writes it anew.
#[track_caller]
fn check_file(document: &str, expected: &str) {
    let path = root().join(document);
    let found = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("PLYFS_UPDATE_DOCS").is_some() {
        fs::write(&path, expected).unwrap();
    } else {
        assert!(found == expected, "{document} is not as generated: PLYFS_UPDATE_DOCS=1 cargo test --test documents");
    }
}

/// The document with another block, whose lines are indented as its first one.
fn with_block(document: &str, name: &str, block: &str) -> Option<String> {
    let (begin, end) = (format!(" begin {name}"), format!(" end {name}"));
    let (mut text, mut inside, mut found) = (String::new(), false, false);
    for line in document.split_inclusive('\n') {
        inside &= !line.trim_end().ends_with(&end);
        if !inside {
            text.push_str(line);
        }
        if line.trim_end().ends_with(&begin) {
            (inside, found) = (true, true);
            let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
            for line in block.lines() {
                text.push_str(&format!("{indent}{line}\n"));
            }
        }
    }
    (found && !inside).then_some(text)
}

/// Whether there is such a program.
fn has(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| Path::new(&dir).join(program).exists())
}
