//! `plyfs diff` as its users call it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::*;

fn diff(at: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(mount::binary());
    command.arg("diff").args(args).current_dir(at).output().unwrap()
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A view with a change of each kind.
fn view() -> (Stack, Mount) {
    let stack = Stack::new(1);
    let low = &stack.lowers[0];
    low.file("src/main.rs", "one\ntwo\nthree\n").file("bin/tool", "x").perm("bin/tool", 0o755);
    low.file("old/dir/a", "1").file("old/dir/b", "2").file("target/x", [b'x'; 2048]);
    stack.age();
    let mount = stack.mount();
    mount.write("src/main.rs", "one\n2\nthree\nfour\n").unwrap();
    mount.chmod("bin/tool", 0o700).unwrap();
    mount.mkdir("new", 0o755).unwrap();
    mount.rename("old/dir", "new/dir").unwrap();
    mount.remove_all("target").unwrap();
    mount.write("notes.txt", "no newline").unwrap();
    (stack, mount)
}

const COLUMNS: &str = "\
m           bin/tool             mode 755 → 700
A           new/
R           old/dir/ → new/dir/  (2 files with it)
A     10 B  notes.txt
M     +3 B  src/main.rs
D  2.0 KiB  target/              (1 file)
6 changes: 1 modified, 1 metadata, 1 renamed, 1 deleted, 2 added
";

#[test]
fn a_view_is_named_by_its_mountpoint_by_where_one_is_or_by_its_layers() {
    bounded(|| {
        let (stack, mut mount) = view();
        let merged = stack.merged.to_str().unwrap();
        for (at, args) in [(Path::new("/"), &[merged][..]), (&stack.merged, &[]), (&stack.merged, &["."])] {
            assert_eq!(text(&diff(at, args)), COLUMNS, "{} {args:?}", at.display());
        }
        let src = stack.merged.join("src");
        let one = "M  +3 B  src/main.rs\n1 change: 1 modified\n";
        for (at, args) in [
            (&src, &["main.rs"][..]),
            (&src, &["../src"]),
            (&stack.merged, &["src/main.rs"]),
            (&stack.merged, &["./bin/../src", "gone/nothing"]),
        ] {
            assert_eq!(text(&diff(at, args)), one, "{} {args:?}", at.display());
        }
        assert_eq!(text(&diff(Path::new("/"), &[merged, "src", "-q"])), "M  +3 B  src/main.rs\n");
        assert_eq!(text(&diff(&stack.merged, &["old"])).lines().count(), 2, "a path that was renamed");
        let options = stack.layer_options("work");
        mount.unmount();
        assert_eq!(text(&diff(Path::new("/"), &["-o", &options])), COLUMNS);
        assert_eq!(text(&diff(Path::new("/"), &["-o", &options, "/src/"])), one);
        let out = diff(Path::new("/"), &[merged]);
        assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).lines().count()), (Some(1), 1), "{out:?}");
    });
}

#[test]
fn each_form_says_the_same() {
    bounded(|| {
        let (stack, _mount) = view();
        let told = |args: &[&str]| text(&diff(&stack.merged, args));
        let names = "bin/tool\nnew\nnew/dir\nnotes.txt\nsrc/main.rs\ntarget\n";
        assert_eq!(told(&["--names"]), names);
        assert_eq!(told(&["--names", "-z", "src"]), "src/main.rs\0");
        assert_eq!(told(&["-z", "new/dir", "target"]), "R\0old/dir\0new/dir\0D\0target\0");
        let stat = told(&["--stat"]);
        assert!(stat.contains("D  deleted           1    2.0 KiB → 0 B\n") && stat.ends_with("2 added\n"), "{stat}");
        let json = told(&["--json"]);
        assert_eq!(json.lines().count(), 6);
        let one = r#"{"v":1,"path":"new/dir","was":"old/dir","change":"renamed","kind":"dir","files":2}"#;
        assert!(json.contains(one), "{json}");
        let patch = told(&["-p", "src", "notes.txt"]);
        let expected = concat!(
            "A  10 B  notes.txt\n--- /dev/null\n+++ b/notes.txt\n@@ -0,0 +1 @@\n+no newline\n",
            "\\ No newline at end of file\n",
            "M  +3 B  src/main.rs\n--- a/src/main.rs\n+++ b/src/main.rs\n@@ -1,3 +1,4 @@\n one\n-two\n+2\n three\n+four\n",
            "2 changes: 1 modified, 1 added\n",
        );
        assert_eq!(patch, expected);
    });
}

#[test]
fn the_exit_status_tells_changes_and_what_could_not_be_compared() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x");
        let mount = stack.mount();
        let status = |args: &[&str]| diff(&stack.merged, args).status.code().unwrap();
        assert_eq!((status(&[]), status(&["--exit-code"])), (0, 0));
        assert_eq!(text(&diff(&stack.merged, &[])), "no changes\n");
        mount.write("new", "").unwrap();
        assert_eq!((status(&[]), status(&["--exit-code"]), status(&["--exit-code", "f"])), (0, 1, 0));
        assert_eq!((status(&["--what"]), status(&["-o", "x=y"]), status(&["--stat", "-p"])), (2, 2, 2));
        drop(mount);
        stack.upper().file("f", "y").with_xattr("f", &format!("{}metacopy", stack::prefix()), b"junk");
        let out = diff(Path::new("/"), &["-o", &stack.layer_options("work"), "--exit-code"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(4), "{said}");
        assert!(said.contains("f: cannot be compared: "), "{said}");
    });
}

#[test]
fn a_path_in_a_directory_that_is_gone_moved_or_replaced_is_told_by_that_directory() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("gone/sub/f", "").file("old/f", "").file("dir/f", "");
        let mount = stack.mount();
        std::fs::remove_dir_all(mount.root().join("gone")).unwrap();
        std::fs::rename(mount.root().join("old"), mount.root().join("new")).unwrap();
        std::fs::remove_dir_all(mount.root().join("dir")).unwrap();
        mount.write("dir", "").unwrap();
        let names = |path: &str| text(&diff(&stack.merged, &["--names", path]));
        for (path, told) in [
            ("gone/sub/f", "gone\n"),
            ("gone/other", "gone\n"),
            ("old/f", "new\n"),
            ("new/f", "new\n"),
            ("dir/f", "dir\n"),
            ("elsewhere", ""),
        ] {
            assert_eq!(names(path), told, "{path}");
        }
    });
}

#[test]
fn what_looks_like_a_range_and_is_none_is_refused() {
    bounded(|| {
        let stack = Stack::new(1);
        let mount = stack.mount();
        mount.write("..1", "").unwrap();
        for word in ["..1", "01..2", "1..2..3", "1...2", "99999999999999999999..1", "..."] {
            let out = diff(&stack.merged, &[word, "--exit-code"]);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            let named = said.contains(&format!("{word}: it is no range of commits")) && said.lines().count() == 1;
            assert!(out.status.code() == Some(2) && named, "{word}: {said}");
        }
        assert_eq!(diff(&stack.merged, &["0..0", "0..0"]).status.code(), Some(2), "two ranges");
        assert_eq!(text(&diff(&stack.merged, &["--names", "./..1"])), "..1\n");
        assert_eq!(text(&diff(&stack.merged, &["0..0"])), "no changes\n");
    });
}

#[test]
fn a_patch_names_each_file_as_patch_reads_it() {
    bounded(|| {
        let names: [&[u8]; 5] = [b"sp", b"sp ace", b"tab\tname", b"line\n\"quote\"", b"\xff\xc3\xa4"];
        let stack = Stack::new(1);
        let copy = tempfile::tempdir().unwrap();
        for name in names.map(std::ffi::OsStr::from_bytes) {
            std::fs::write(stack.lowers[0].at(name), "one\n").unwrap();
            std::fs::write(copy.path().join(name), "one\n").unwrap();
        }
        let mount = stack.mount();
        for name in &names[1..] {
            std::fs::write(mount.root().join(std::ffi::OsStr::from_bytes(name)), "one\ntwo\n").unwrap();
        }
        let patch = diff(&stack.merged, &["-p", "-q"]).stdout;
        std::fs::write(copy.path().join("patch"), patch).unwrap();
        let Ok(out) = Command::new("patch").args(["-p1", "-i", "patch"]).current_dir(copy.path()).output() else {
            skip!("patch is missing");
        };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        for name in names {
            let expected = if name == b"sp" { "one\n" } else { "one\ntwo\n" };
            let text = std::fs::read_to_string(copy.path().join(std::ffi::OsStr::from_bytes(name))).unwrap();
            assert_eq!(text, expected, "{}", name.escape_ascii());
        }
    });
}

#[test]
fn bytes_that_are_no_text_are_told_whole() {
    bounded(|| {
        let stack = Stack::new(1);
        let mount = stack.mount();
        let name = std::ffi::OsStr::from_bytes(b"a\xff\n");
        mount.write(name, "").unwrap();
        assert_eq!(diff(&stack.merged, &["-z", "--names"]).stdout, b"a\xff\n\0");
        assert_eq!(text(&diff(&stack.merged, &["--names"])), "a\\xff\\n\n");
        let json = text(&diff(&stack.merged, &["--json"]));
        assert!(json.contains("\"path_base64\":\"Yf8K\"") && json.lines().count() == 1, "{json}");
    });
}

#[test]
fn layers_that_the_view_covers_are_refused() {
    bounded(|| {
        let stack = Stack::new(1);
        let lower = stack.lowers[0].file("f", "x").root().to_owned();
        let mount = Mount::with(&stack.layer_options("work"), &lower, &stack.scratch.path().join("log"));
        mount.append("f", "y").unwrap();
        let out = diff(Path::new("/"), &[lower.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!((out.status.code(), out.stdout.len()), (Some(1), 0), "{said}");
        assert!(said.contains("cannot be seen from here"), "{said}");
    });
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    bounded(|| {
        let (stack, _mount) = view();
        let plain = |text: &str| {
            let parts = text.replace('\r', "");
            let parts = parts.split("\u{1b}[").enumerate();
            parts.map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 }).collect::<String>()
        };
        assert_eq!(text(&diff(&stack.merged, &[])), COLUMNS, "into a pipe");
        let colored = text(&diff(&stack.merged, &["--color=always"]));
        assert!(colored.contains("\u{1b}[31mD  2.0 KiB  target/"), "{colored}");
        assert_eq!(plain(&colored), COLUMNS);
        let on_terminal = |set: &str| {
            let line = format!("{set} TERM=xterm {} diff", mount::binary().display());
            let mut command = Command::new("script");
            command.args(["-qec", &line, "/dev/null"]).current_dir(&stack.merged).env_remove("NO_COLOR");
            command.stdin(std::process::Stdio::null()).output().ok().map(|out| text(&out))
        };
        let Some(colored) = on_terminal("").filter(|text| !text.is_empty()) else { skip!("no script (util-linux)") };
        assert!(colored.contains("\u{1b}[31mD") && plain(&colored) == COLUMNS, "{colored:?}");
        let without = on_terminal("NO_COLOR=1").unwrap();
        assert!(!without.contains("\u{1b}[31m"), "{without:?}");
        assert_eq!(diff(&stack.merged, &["--color=sometimes"]).status.code(), Some(2));
    });
}

#[test]
fn changes_are_told_since_the_last_commit_or_between_two() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "one\n").file("b", "b");
        stack.age();
        let mount = stack.mount();
        let commit = || assert!(crate::ranges::commit(&mount).is_some());
        mount.write("a", "two\n").unwrap();
        commit();
        mount.write("a", "three\n").unwrap();
        mount.unlink("b").unwrap();
        commit();
        mount.write("c", "").unwrap();
        let told = |args: &[&str]| text(&diff(&stack.merged, args));
        for (args, lines) in [
            (&["--names"][..], "c\n"),
            (&["2..", "--names"], "c\n"),
            (&["1..2", "--names"], "a\nb\n"),
            (&["0..1", "--names"], "a\n"),
            (&["0..", "--names"], "a\nb\nc\n"),
            (&["0..", "--names", "b"], "b\n"),
            (&["2..2"], "no changes\n"),
            (&["1..2", "-pq", "a"], "M  +2 B  a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-two\n+three\n"),
            (&["0..2", "-pq", "a"], "M  +2 B  a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-one\n+three\n"),
        ] {
            assert_eq!(told(args), lines, "{args:?}");
        }
        let merged = stack.merged.to_str().unwrap();
        assert_eq!(text(&diff(Path::new("/"), &[merged, "0..1", "--names", "a"])), "a\n");
        for (range, why) in [
            ("nosuch", "nosuch: no layer has it"),
            ("3..", "commit 3: there is none of this number"),
            ("1..7", "commit 7: there is none of this number"),
            ("2..1", "2..: commit 1 does not stand on commit 2"),
        ] {
            let out = diff(&stack.merged, &[range]);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.code() == Some(1) && said.lines().count() == 1 && said.contains(why), "{said}");
        }
    });
}

#[test]
fn many_changes_are_the_same_however_many_threads_look() {
    bounded(|| {
        let stack = Stack::new(1);
        let low = &stack.lowers[0];
        for number in 0..200 {
            low.file(&format!("d{number}/a"), "a").file(&format!("d{number}/b"), "b");
            low.file(&format!("flat/{number}"), "flat").file(&format!("made/anew/{number}"), "old");
        }
        stack.age();
        let mount = stack.mount();
        for number in 0..200 {
            match number % 5 {
                0 => mount.write(format!("d{number}/a"), "longer").unwrap(),
                1 => mount.write(format!("d{number}/new"), "").unwrap(),
                2 => mount.unlink(format!("d{number}/b")).unwrap(),
                3 => mount.rename(format!("d{number}"), format!("r{number}")).unwrap(),
                _ => mount.chmod(format!("d{number}/a"), 0o600).unwrap(),
            }
            match number % 3 {
                0 => mount.write(format!("flat/{number}"), "other").unwrap(),
                1 => mount.unlink(format!("flat/{number}")).unwrap(),
                _ => mount.rename(format!("flat/{number}"), format!("d0/from{number}")).unwrap(),
            }
        }
        mount.remove_all("made/anew").unwrap();
        mount.mkdir("made/anew", 0o755).unwrap();
        (0..200).for_each(|number| mount.write(format!("made/anew/{}", number * 2), "new").unwrap());
        let said = |processors: &str| {
            let mut command = Command::new(mount::binary());
            command.args(["diff", "--json"]).arg(&stack.merged).env("PLYFS_PROCESSORS", processors);
            text(&command.output().unwrap())
        };
        let alone = said("1");
        assert!(alone.lines().count() > 600, "{alone}");
        for processors in ["2", "4", "9"] {
            assert_eq!(said(processors), alone, "{processors} processors");
        }
    });
}
