//! How changes are told: a line each, in aligned columns or as an object of JSON.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::json::{member, quoted};
use super::paint::Paint;
use super::report::printable;
use crate::tool::{Change, Kind, Letter, Summary, What};

/// Notes are in one column beside paths that are not longer than this.
const MOST_COLUMN: usize = 48;

/// The changes in columns: letter, size, path, and what else there is to say.
pub fn columns(changes: &[Change], paint: Paint) -> String {
    let rows: Vec<_> = changes.iter().map(|change| (change, size(change), shown(change), note(change))).collect();
    let width = |text: &str| text.chars().count();
    let sizes = rows.iter().map(|(_, size, ..)| width(size)).max().unwrap_or(0);
    let noted = rows.iter().filter(|(.., note)| !note.is_empty()).map(|(_, _, path, _)| width(path));
    let paths = noted.filter(|width| *width <= MOST_COLUMN).max().unwrap_or(0);
    let mut text = String::new();
    for (change, size, path, note) in &rows {
        let line = format!("{}  {}{size}  {path}", change.letter.letter(), " ".repeat(sizes - width(size)));
        let gap = " ".repeat(paths.saturating_sub(width(path)));
        let line = if note.is_empty() { line } else { format!("{line}{gap}  {note}") };
        let _ = writeln!(text, "{}", paint.change(change.letter, &line));
    }
    text
}

/// `5 changes: 1 modified, 1 metadata, 1 renamed, 1 deleted, 1 added`
pub fn summary(changes: &[Change]) -> String {
    let summary = Summary::of(changes);
    let kinds: Vec<_> = summary.counts().map(|(count, word)| format!("{} {word}", grouped(count as u64))).collect();
    match summary.total() {
        0 => "no changes\n".to_owned(),
        1 => format!("1 change: {}\n", kinds.join(", ")),
        total => format!("{} changes: {}\n", grouped(total as u64), kinds.join(", ")),
    }
}

/// For each kind of change how many there are, and how many bytes are in them before and after.
pub fn stat(changes: &[Change]) -> String {
    let mut text = String::new();
    for (letter, mark, word) in Letter::ALL {
        let these: Vec<&Change> = changes.iter().filter(|change| change.letter == letter).collect();
        let sum = |size: fn(&Change) -> Option<u64>| these.iter().filter_map(|change| size(change)).sum();
        if !these.is_empty() {
            let (before, after): (u64, u64) = (sum(|change| change.size.0), sum(|change| change.size.1));
            let count = grouped(these.len() as u64);
            let _ = writeln!(text, "{mark}  {word:<8}  {count:>9}  {:>9} → {}", bytes(before), bytes(after));
        }
    }
    text
}

/// One object of JSON on a line.
pub fn json(change: &Change) -> String {
    let mut fields = vec!["\"v\":1".to_owned(), member("path", raw(&change.path))];
    fields.extend(change.was.as_ref().map(|was| member("was", raw(was))));
    fields.push(format!("\"change\":{}", quoted(change.letter.word())));
    fields.push(format!("\"kind\":{}", quoted(word(change.kind))));
    fields.extend(change.was_kind.map(|kind| format!("\"was_kind\":{}", quoted(word(kind)))));
    let number = |size: Option<u64>| size.map_or_else(|| "null".to_owned(), |size| size.to_string());
    if change.size != (None, None) {
        fields.push(format!("\"size\":[{},{}]", number(change.size.0), number(change.size.1)));
    }
    fields.extend(change.files.map(|files| format!("\"files\":{files}")));
    if !change.what.is_empty() {
        let words: Vec<_> = change.what.iter().map(|what| quoted(what.word())).collect();
        fields.push(format!("\"what\":[{}]", words.join(",")));
    }
    for what in &change.what {
        match what {
            What::Mode(old, new) => fields.push(format!("\"mode\":[\"{old:o}\",\"{new:o}\"]")),
            What::Owner(old, new) => {
                fields.push(format!("\"owner\":[[{},{}],[{},{}]]", old.0, old.1, new.0, new.1));
            }
            What::Data | What::Times | What::Xattrs => {}
        }
    }
    format!("{{{}}}\n", fields.join(","))
}

/// The paths of a change, each ended by a NUL, as they are: of a renamed object the old one first.
pub fn raw_paths(change: &Change) -> Vec<u8> {
    let old = change.was.iter().filter(|_| change.letter == Letter::Renamed);
    old.chain([&change.path]).flat_map(|path| [raw(path), b"\0"].concat()).collect()
}

fn raw(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path on one line.
pub fn line(path: &Path) -> String {
    printable(raw(path))
}

/// `new`, `old → new`; a directory ends with a slash.
fn shown(change: &Change) -> String {
    let slash = if change.kind == Kind::Dir { "/" } else { "" };
    match change.was.as_ref().filter(|_| change.letter == Letter::Renamed) {
        Some(was) => format!("{}{slash} → {}{slash}", line(was), line(&change.path)),
        None => format!("{}{slash}", line(&change.path)),
    }
}

/// What an object takes, or by how much it has changed.
fn size(change: &Change) -> String {
    match (change.letter, change.size) {
        (Letter::Metadata, _) => String::new(),
        (_, (Some(old), Some(new))) if new > old => format!("+{}", bytes(new - old)),
        (_, (Some(old), Some(new))) if new < old => format!("−{}", bytes(old - new)),
        (Letter::Modified, (Some(_), Some(_))) => bytes(0),
        (Letter::Deleted, (Some(size), None)) | (Letter::Added, (None, Some(size))) => bytes(size),
        _ => String::new(),
    }
}

fn note(change: &Change) -> String {
    let mut notes = Vec::new();
    match (change.letter, change.files) {
        (Letter::Renamed, Some(1)) => notes.push("(1 file with it)".to_owned()),
        (Letter::Renamed, Some(files)) => notes.push(format!("({} files with it)", grouped(files))),
        (_, Some(1)) => notes.push("(1 file)".to_owned()),
        (_, Some(files)) => notes.push(format!("({} files)", grouped(files))),
        (_, None) => {}
    }
    notes.extend(change.was_kind.map(|was| format!("{} → {}", word(was), word(change.kind))));
    for what in &change.what {
        match what {
            What::Data if change.letter == Letter::Renamed => notes.push("changed".to_owned()),
            What::Mode(old, new) => notes.push(format!("mode {old:o} → {new:o}")),
            What::Owner(old, new) => notes.push(format!("owner {}:{} → {}:{}", old.0, old.1, new.0, new.1)),
            What::Xattrs => notes.push("xattrs".to_owned()),
            // Of what has other bytes the time is no news.
            What::Times if !change.what.contains(&What::Data) => notes.push("times".to_owned()),
            What::Data | What::Times => {}
        }
    }
    notes.join(", ")
}

/// The word for a type.
pub fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Char => "char",
        Kind::Block => "block",
    }
}

/// `412 B`, `1.2 GiB`
pub fn bytes(size: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{value:.1} {unit}")
}

/// `1,204`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn change(letter: Letter, path: &str) -> Change {
        let (was, kind, was_kind, size, what, files) = (None, Kind::File, None, (None, None), Vec::new(), None);
        Change { letter, path: path.into(), was, kind, was_kind, size, what, files }
    }

    fn all() -> Vec<Change> {
        vec![
            Change {
                size: (Some(3), Some(12)),
                what: vec![What::Data, What::Times],
                ..change(Letter::Modified, "src/main.rs")
            },
            Change {
                what: vec![What::Mode(0o755, 0o700)],
                size: (Some(9), Some(9)),
                ..change(Letter::Metadata, "bin/tool")
            },
            Change {
                was: Some("old/dir".into()),
                kind: Kind::Dir,
                files: Some(1204),
                ..change(Letter::Renamed, "new/dir")
            },
            Change {
                size: (Some(1288490188), None),
                kind: Kind::Dir,
                files: Some(1),
                ..change(Letter::Deleted, "target")
            },
            Change { size: (None, Some(412)), ..change(Letter::Added, "notes\n.txt") },
            Change { was_kind: Some(Kind::Dir), size: (None, Some(1)), ..change(Letter::Retyped, "t") },
        ]
    }

    #[test]
    fn changes_are_lines_in_columns() {
        let expected = concat!(
            "M     +9 B  src/main.rs\n",
            "m           bin/tool             mode 755 → 700\n",
            "R           old/dir/ → new/dir/  (1,204 files with it)\n",
            "D  1.2 GiB  target/              (1 file)\n",
            "A    412 B  notes\\n.txt\n",
            "T           t                    dir → file\n",
        );
        assert_eq!(columns(&all(), Paint::PLAIN), expected);
        let expected = "6 changes: 1 modified, 1 metadata, 1 type, 1 renamed, 1 deleted, 1 added\n";
        assert_eq!(summary(&all()), expected);
        assert_eq!((summary(&[]), columns(&[], Paint::PLAIN)), ("no changes\n".to_owned(), String::new()));
        assert!(stat(&all()).contains("D  deleted           1    1.2 GiB → 0 B\n"), "{}", stat(&all()));
    }

    #[test]
    fn an_object_of_json_says_the_same() {
        let lines: Vec<_> = all().iter().map(json).collect();
        let expected = [
            r#"{"v":1,"path":"src/main.rs","change":"modified","kind":"file","size":[3,12],"what":["data","times"]}"#,
            r#"{"v":1,"path":"bin/tool","change":"metadata","kind":"file","size":[9,9],"what":["mode"],"mode":["755","700"]}"#,
            r#"{"v":1,"path":"new/dir","was":"old/dir","change":"renamed","kind":"dir","files":1204}"#,
        ];
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(line.trim_end(), expected);
        }
        let odd = Change { path: OsStr::from_bytes(b"\xff").into(), ..change(Letter::Added, "") };
        assert!(json(&odd).contains("\"path_base64\":\"/w==\""));
    }

    #[test]
    fn sizes_are_short() {
        for (size, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(size), expected);
        }
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
