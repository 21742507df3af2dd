//! The rules of the house that a compiler does not check: imports point downwards, rooms stay small, `unsafe` stays in
//! its fence, and the documents say what the program does.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each floor may import besides itself.
const FLOORS: [(&str, &[&str]); 12] = [
    ("base", &[]),
    ("sys", &["base"]),
    ("format", &["base"]),
    ("layer", &["base", "sys", "format"]),
    ("merge", &["base", "sys", "format", "layer"]),
    ("upper", &["base", "sys", "format", "layer"]),
    ("inode", &["base", "sys", "format", "layer", "merge"]),
    ("union", &["base", "sys", "format", "layer", "merge", "upper", "inode"]),
    ("tool", &["base", "sys", "format", "layer", "merge", "upper"]),
    ("fuse", &["base", "sys", "union"]),
    ("session", &["base", "sys", "union", "fuse"]),
    ("cli", &["base", "sys", "union", "fuse", "tool", "session"]),
];

/// The same for the rooms of `src/fuse`.
const ROOMS: [(&str, &[&str]); 3] = [("turns", &[]), ("ahead", &["turns"]), ("serve", &["ahead", "turns"])];

const MOST_LINES: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All source files below `dir`, with their text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

/// The imports in `dir`, whose own name is `own`, of what stands behind `prefix` and is in the table but not in `below`.
fn wrong_imports(dir: &Path, own: &str, prefix: &str, (table, below): (&[(&str, &[&str])], &[&str])) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in sources(dir) {
        // Unit tests may ask any floor for something to test with.
        let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        for (number, line) in code.enumerate() {
            let mut rest = line.trim_start();
            if rest.starts_with("//") {
                continue;
            }
            while let Some((_, after)) = rest.split_once(prefix) {
                let target: String = after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let known = table.iter().any(|(name, _)| *name == target);
                if known && target != own && !below.contains(&target.as_str()) {
                    wrong.push(format!("{}:{}: {line}", path.display(), number + 1));
                }
                rest = after;
            }
        }
    }
    wrong
}

#[test]
fn imports_point_downwards_only() {
    let src = root().join("src");
    let floors = FLOORS.map(|(floor, below)| wrong_imports(&src.join(floor), floor, "crate::", (&FLOORS, below)));
    let rooms = ["crate::fuse::", "super::super::"].map(|prefix| {
        let room = |(room, below)| wrong_imports(&src.join("fuse").join(room), room, prefix, (&ROOMS, below));
        ROOMS.map(room).concat()
    });
    let wrong = [floors.concat(), rooms.concat()].concat();
    assert!(wrong.is_empty(), "imports that point upwards:\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    for (path, text) in sources(&root().join("src")) {
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", path.display());
    }
}

#[test]
fn unsafe_stays_in_sys_and_says_why() {
    for (path, text) in sources(&root().join("src")) {
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let is_unsafe = ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|form| code.contains(form));
            if !is_unsafe {
                continue;
            }
            let here = format!("{}:{}", path.display(), number + 1);
            assert!(path.starts_with(root().join("src/sys")), "{here}: unsafe outside sys");
            let above = &lines[number.saturating_sub(8)..=number];
            assert!(above.iter().any(|line| line.contains("SAFETY:")), "{here}: no SAFETY: comment above");
        }
    }
}

/// `PLYFS_UPDATE_DOCS=1 cargo test --test house` writes the block anew.
#[test]
fn the_documents_list_the_options_as_the_program_has_them() {
    const START: &str = "<!-- options -->\n";
    const END: &str = "<!-- /options -->";
    let path = root().join("docs/options.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once(START).unwrap();
    let (listed, after) = rest.split_once(END).unwrap();
    let table = plyfs::cli::help::markdown();
    if std::env::var_os("PLYFS_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{START}{table}{END}{after}")).unwrap();
    } else {
        assert!(listed == table, "run PLYFS_UPDATE_DOCS=1 cargo test --test house");
    }
}

#[test]
fn what_the_documents_name_exists() {
    let tests: String = sources(&root().join("tests")).into_iter().map(|(_, text)| text).collect();
    let semantics = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    for name in semantics
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.strip_prefix("test:").filter(|name| !name.is_empty()))
    {
        assert!(tests.contains(&format!("fn {name}()")), "docs/semantics.md names a test that is not there: {name}");
    }
    let contributing = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    for code in contributing.split('`').skip(1).step_by(2) {
        let is_path = ["src/", "tests/", "docs/", ".ci/"].iter().any(|start| code.starts_with(start));
        assert!(!is_path || root().join(code).exists(), "CONTRIBUTING.md names {code}");
    }
    // The walks for a stranger: a function, and the file that it is in.
    for row in contributing.lines().filter(|line| line.starts_with("| `")) {
        let codes: Vec<_> = row.split('`').skip(1).step_by(2).collect();
        let [function, file, ..] = codes[..] else { continue };
        if file.starts_with("src/") && !function.starts_with("src/") {
            let (text, name) = (fs::read_to_string(root().join(file)).unwrap(), function.rsplit("::").next().unwrap());
            assert!(text.contains(&format!("fn {name}(")), "CONTRIBUTING.md: {file} has no {function}");
        }
    }
}
