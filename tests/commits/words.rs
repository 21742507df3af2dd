//! What the commands say, on views that are mounted and on those that are not.

use std::fs;

use crate::common::*;
use crate::{about, plyfs};

fn lines(said: &str) -> Vec<String> {
    // The times are the machine's affair.
    said.lines()
        .map(|line| line.split("  ").filter(|part| !part.ends_with('Z')).collect::<Vec<_>>().join("  "))
        .collect()
}

#[test]
fn a_history_is_told_and_gone_through_without_a_mount() {
    let stack = Stack::new(1);
    let options = stack.layer_options("work");
    let say = |args: &[&str]| plyfs(&[args, &["-o", &options]].concat());
    assert!(say(&["commit"]).unwrap_err().contains("nothing has changed"));
    assert!(say(&["undo"]).unwrap_err().contains("nothing to undo"));
    assert_eq!(say(&["log"]), Ok("no commit\n".to_owned()));
    for text in ["one", "two\nmore"] {
        stack.upper().file(&text[..3], text);
        assert_eq!(say(&["commit", "-m", text]).unwrap(), format!("commit {}\n", if text == "one" { 1 } else { 2 }));
    }
    stack.upper().file("later", "");
    assert_eq!(lines(&say(&["log"]).unwrap()), ["* 2  two", "  1  one", "and changes that no commit has"]);
    assert_eq!(say(&["undo", "1"]).unwrap(), "the view is at commit 1; what has changed since is kept as commit 3\n");
    assert!(say(&["undo", "9"]).unwrap_err().contains("there is no commit 9"));
    assert_eq!(lines(&say(&["log"]).unwrap()), ["  3  (what an undo has left)", "  2  two", "* 1  one"]);
    assert_eq!(say(&["undo", "0"]).unwrap(), "the view has the lower layers as they are\n");
    let told = lines(&say(&["log"]).unwrap());
    assert_eq!(told.last().unwrap(), "* 0  the lower layers as they are", "{told:?}");
    assert_eq!(say(&["redo"]).unwrap(), "the view is at commit 1\n");
    assert_eq!(say(&["redo"]).unwrap(), "the view is at commit 2\n");
    let json = say(&["log", "--json"]).unwrap();
    let second: Vec<_> = json.lines().nth(1).unwrap().split(',').collect();
    assert_eq!((second[0], second[1], second[2], second[3]), ("{\"v\":1", "\"commit\":2", "\"on\":1", "\"here\":true"));
    assert!(json.contains("\"made_by\":\"commit\",\"text\":\"two\\u000amore\"}"), "{json}");
}

/// A layer that stands on commits is no layer by itself: what these have is a part of what it shows.
#[test]
fn a_layer_without_its_commits_is_refused() {
    let stack = Stack::new(1);
    let options = stack.layer_options("work");
    stack.lowers[0].file("low", "x");
    stack.upper().file("committed", "x");
    plyfs(&["commit", "-o", &options]).unwrap();
    stack.upper().file("later", "x");
    let (upper, lower) = (stack.upper().root().to_str().unwrap(), stack.lowers[0].root().to_str().unwrap());
    let [out, work] = ["out", "work"].map(|name| stack.scratch.path().join(name).to_str().unwrap().to_owned());
    let layers = format!("lowerdir={upper}:{lower}");
    for args in [
        &["layer", "squash", upper, lower, &out][..],
        &["layer", "export", "--tar", &out, upper, lower],
        &["layer", "check", upper, lower],
        &["layer", "du", "-o", &layers],
        &["-o", &layers, stack.merged.to_str().unwrap()],
    ] {
        let said = plyfs(args).unwrap_err();
        assert!(said.contains("it stands on commits") && said.lines().count() == 1, "{args:?}: {said}");
        assert!(!std::path::Path::new(&out).exists(), "{args:?}");
    }
    plyfs(&["layer", "squash", "--workdir", &work, upper, lower, &out]).unwrap();
    assert_eq!(Tree::new(&out).names("").unwrap(), ["committed", "later", "low"]);
}

#[test]
fn what_cannot_be_done_is_one_line() {
    let stack = Stack::new(1);
    let options = stack.layer_options("work");
    let nowhere = stack.scratch.dir("nowhere");
    for (args, said) in [
        (vec!["commit", nowhere.to_str().unwrap()], "no view of plyfs is mounted there"),
        (vec!["commit", "x", "-o", &options], "leave one of the two out"),
        (vec!["undo", nowhere.to_str().unwrap(), "x"], "no view of plyfs is mounted there"),
        (vec!["undo", nowhere.to_str().unwrap(), "007"], "it is no number of a commit"),
        (vec!["log", "-o", "lowerdir=/"], "has no commits"),
        (vec!["commit", "-o", "lowerdir=/"], "no upper layer"),
    ] {
        let error = plyfs(&args).unwrap_err();
        assert!(error.contains(said) && error.lines().count() == 1, "{args:?}: {error}");
    }
    let mount = stack.mount();
    let busy = plyfs(&["commit", "-o", &options]).unwrap_err();
    assert!(busy.contains("in use"), "{busy}");
    assert!(about("commit", mount.root()).unwrap_err().contains("nothing has changed"));
}

#[test]
fn a_commit_is_there_after_a_remount_and_told_by_show() {
    let stack = Stack::new(1);
    stack.lowers[0].file("a", "a").file("d/gone", "");
    let mut mount = stack.mount();
    mount.write("a", "changed").unwrap();
    mount.unlink("d/gone").unwrap();
    assert_eq!(about("commit", mount.root()), Ok("commit 1\n".into()));
    assert_eq!(fs::read_dir(stack.upper().root()).unwrap().count(), 0);
    mount.remount();
    assert_eq!(mount.read("a").unwrap(), b"changed");
    assert!(mount.stat("d/gone").is_err());
    assert!(about("show", mount.root()).unwrap().contains("commit"));
    // `diff` tells what no commit has.
    assert!(about("diff", mount.root()).unwrap().starts_with("no changes"));
    mount.write("a", "again").unwrap();
    assert!(about("diff", mount.root()).unwrap().starts_with("M"));
}

#[test]
fn the_texts_are_read_once_for_a_whole_answer() {
    let stack = Stack::new(1);
    let mount = stack.mount();
    let text = "x".repeat(3900);
    for number in 0..40 {
        mount.write("a", number.to_string()).unwrap();
        plyfs(&["commit", "-q", "-m", &text, mount.root().to_str().unwrap()]).unwrap();
    }
    let reads = || {
        let io = fs::read_to_string(format!("/proc/{}/io", mount.pid().unwrap().as_raw_nonzero())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
        line.parse::<u64>().unwrap()
    };
    let before = reads();
    let log = about("log", mount.root()).unwrap();
    assert_eq!(log.lines().filter(|line| line.ends_with(&text)).count(), 40);
    // Each commit a few times, and the pieces of the answer; 1,600 where each piece reads them all.
    assert!(reads() - before < 800, "{}", reads() - before);
    let colored = plyfs(&["log", "--color=always", mount.root().to_str().unwrap()]).unwrap();
    assert!(colored.starts_with("\u{1b}[1m* 40"), "{colored}");
}

#[test]
fn a_supervised_view_takes_no_step_while_it_is_mounted() {
    let stack = Stack::new(1).option("supervise");
    let mount = stack.mount();
    mount.write("a", "a").unwrap();
    assert!(about("commit", mount.root()).unwrap_err().contains("--supervise"));
}

#[test]
fn names_that_look_like_a_file_systems_own_are_kept() {
    let stack = Stack::new(1);
    let absurd = stack.scratch.dir("work").join("commits/9999999999999999999");
    fs::create_dir_all(absurd).unwrap();
    let mut mount = stack.mount();
    mount.mkdir("lost+found", 0o755).unwrap();
    assert_eq!(about("commit", mount.root()), Ok("commit 1\n".into()));
    mount.remount();
    assert!(mount.stat("lost+found").is_ok());
}

#[test]
fn a_read_only_view_has_no_commits() {
    let stack = Stack::read_only(1);
    let mount = stack.mount();
    assert!(about("commit", mount.root()).unwrap_err().contains("no upper layer"));
}
