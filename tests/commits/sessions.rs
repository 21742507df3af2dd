//! Commits of a session: from within, from outside while it runs, and afterwards.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::common::mount::binary;
use crate::common::*;

/// A directory of the machine, and a store beside it.
struct Place(Scratch);

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path().join("here")).unwrap();
        fs::write(scratch.path().join("here/file"), "one").unwrap();
        Self(scratch)
    }

    fn plyfs(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg(args[0]).arg("--store").arg(self.0.path().join("store")).args(&args[1..]);
        command.current_dir(self.0.path().join("here")).env_remove("RUST_LOG").env("PLYFS", binary());
        command.stdin(Stdio::null());
        command
    }

    fn said(&self, args: &[&str]) -> String {
        let out = self.plyfs(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn run(&self, script: &str) -> String {
        let here = self.0.path().join("here");
        self.said(&["run", "-q", "-n", "s", "--on", here.to_str().unwrap(), "--", "sh", "-c", script])
    }
}

fn can_run() -> bool {
    let can = who() == Who::Root || Command::new("unshare").args(["-Um", "true"]).status().is_ok_and(|s| s.success());
    if !can {
        say_skipped("no user namespace can be made here");
    }
    can && fs::exists("/dev/fuse").unwrap()
}

#[test]
fn a_session_gets_commits_from_within_and_afterwards() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let said =
        place.run("echo two > file; $PLYFS commit; echo three > file; $PLYFS undo; cat file; $PLYFS redo; cat file");
    assert_eq!(
        said,
        "commit 1\nthe view is at commit 1; what has changed since is kept as commit 2\ntwo\nthe view is at commit 2\nthree\n"
    );
    assert_eq!(fs::read_to_string(place.0.path().join("here/file")).unwrap(), "one");
    assert_eq!(place.said(&["undo", "s", "1"]), "the view is at commit 1\n");
    assert_eq!(place.run("cat file"), "two\n");
    assert_eq!(place.said(&["undo", "s", "0"]), "the view has the lower layers as they are\n");
    assert_eq!(place.run("cat file"), "one");
    assert_eq!(place.said(&["log", "s"]).lines().count(), 3);
}

#[test]
fn a_session_gets_a_commit_from_outside_while_it_runs() {
    if !can_run() {
        return;
    }
    within(60, || {
        let place = Place::new();
        let here = place.0.path().join("here");
        let script = "echo two > file; echo begun; while ! [ -e stop ]; do sleep 0.05; done; cat file";
        let args = ["run", "-q", "-n", "s", "--on", here.to_str().unwrap(), "--", "sh", "-c", script];
        let mut child = place.plyfs(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "begun");
        assert_eq!(place.said(&["commit", "s", "-m", "from outside"]), "commit 1\n");
        assert!(place.said(&["log", "s"]).contains("from outside"));
        assert_eq!(place.said(&["undo", "s", "0"]), "the view has the lower layers as they are\n");
        place.said(&["run", "-q", "-n", "s", "--", "sh", "-c", "echo > stop"]);
        assert_eq!(lines.next().unwrap().unwrap(), "one");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_path_of_a_session_is_taken_back_from_everywhere() {
    if !can_run() {
        return;
    }
    within(60, || {
        let place = Place::new();
        let file = place.0.path().join("here/file");
        assert_eq!(place.run("echo two > file; echo n > n; $PLYFS undo -q file; cat file n"), "onen\n");
        place.run("echo two > file");
        let said = place.said(&["undo", "s", file.to_str().unwrap()]);
        assert_eq!(said, "it is as the lower layers have it; what it was is kept as commit 2\n");
        assert_eq!(place.run("cat file n"), "onen\n");
        let script = "echo three > file; echo begun; while ! [ -e stop ]; do sleep 0.05; done; cat file";
        let here = place.0.path().join("here");
        let args = ["run", "-q", "-n", "s", "--on", here.to_str().unwrap(), "--", "sh", "-c", script];
        let mut child = place.plyfs(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "begun");
        // Relative to the current directory, as with the other commands.
        place.said(&["undo", "s", "file"]);
        place.said(&["run", "-q", "-n", "s", "--", "sh", "-c", "echo > stop"]);
        assert_eq!(lines.next().unwrap().unwrap(), "one");
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_step_that_was_broken_off_is_ended_by_the_next_command() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.run("echo two > file; $PLYFS commit -q; echo three > file");
    let (of_s, record) = (place.0.path().join("store/s"), place.0.path().join("store/s/step"));
    // As it is between two exchanges.
    let waits = of_s.join("0/work/commits/2");
    let break_off = || {
        fs::create_dir_all(waits.join("layer")).unwrap();
        let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(waits.join("layer")).unwrap());
        fs::write(&record, format!("0 2 {ino}\n")).unwrap();
    };
    for args in
        [&["log", "s"][..], &["diff", "s"], &["where", "s", "file"], &["status"], &["run", "-q", "-n", "s", "true"]]
    {
        break_off();
        place.plyfs(args).output().unwrap();
        assert!(!record.exists() && waits.join("layer/").read_dir().unwrap().next().is_some(), "{args:?}");
        fs::remove_dir(of_s.join("0/upper")).unwrap();
        fs::rename(waits.join("layer"), of_s.join("0/upper")).unwrap();
    }
    fs::write(&record, "nonsense").unwrap();
    let out = place.plyfs(&["log", "s"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) && said.starts_with("plyfs: s: ") && said.lines().count() == 1, "{said}");
}

/// The store lies in what the view covers: no upper layer, old or new, is shown in it.
#[test]
fn the_next_upper_layer_is_hidden_as_the_first_one_was() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let store = place.0.path().join("store");
    let around = place.0.path().to_str().unwrap().to_owned();
    let script =
        format!("echo x > file; $PLYFS commit -q; find {} -name layer -o -name upper; ls {around}", store.display());
    let said = place.said(&["run", "-q", "-n", "s", "--on", &around, "--", "sh", "-c", &script]);
    assert!(!said.contains("layer") && !said.contains("upper"), "{said}");
    assert!(said.contains("here"), "{said}");
}

/// What a session hides stays hidden when it goes back, and what it writes through stays so.
#[test]
fn an_undo_opens_nothing_that_a_session_hides() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let here = place.0.path().join("here");
    fs::create_dir(here.join("sec")).unwrap();
    for dir in ["sec/hid", "sec/through", "sec/beside"] {
        fs::create_dir(here.join(dir)).unwrap();
    }
    fs::write(here.join("sec/hid/secret"), "secret").unwrap();
    let script = "echo x > sec/beside/x; $PLYFS undo; cat sec/hid/secret; ls sec/beside; echo through > sec/through/f";
    let [on, hid, through] =
        [&here, &here.join("sec/hid"), &here.join("sec/through")].map(|path| path.to_str().unwrap().to_owned());
    let args = ["run", "-q", "-n", "s", "--on", &on, "--hide", &hid, "--rw", &through, "--", "sh", "-c", script];
    let said = place.said(&args);
    assert!(!said.lines().any(|line| line == "secret" || line == "x"), "{said}");
    assert_eq!(fs::read_to_string(here.join("sec/through/f")).unwrap(), "through\n");
}
