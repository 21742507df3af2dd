//! `plyfs run`: a command sees the machine, and what it changes is kept apart; as root and as a normal user.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
mod outside;

use std::fs;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::mount::wait_until;
use common::*;

/// A directory of the machine, and a store in it.
struct Place {
    scratch: Scratch,
    here: PathBuf,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        let here = scratch.path().join("here");
        fs::create_dir_all(here.join("dir")).unwrap();
        fs::write(here.join("file"), "one\n").unwrap();
        fs::write(here.join("dir/f"), "f\n").unwrap();
        Self { scratch, here }
    }

    fn plyfs(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = Command::new(common::mount::binary());
        command.arg(verb).arg("--store").arg(self.scratch.path().join("store")).args(args);
        command.current_dir(&self.here).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs it, with `words` before the words of a shell.
    fn run(&self, words: &[&str], script: &str) -> Output {
        self.plyfs("run", &[words, &["sh", "-c", script]].concat()).output().unwrap()
    }

    /// Its output, of a script that must end well.
    fn said(&self, words: &[&str], script: &str) -> String {
        let out = self.run(words, script);
        assert!(out.status.success(), "{script}: {}: {}", out.status, String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// The sessions; how many file systems each has is the machine's affair.
    fn status(&self) -> String {
        let out = self.plyfs("status", &[]).output().unwrap();
        let lines = String::from_utf8(out.stdout).unwrap();
        let sessions = lines.lines().filter(|line| line.starts_with("session "));
        sessions.map(|line| format!("{}\n", line.split(',').next().unwrap())).collect()
    }
}

/// Whether a normal user can have namespaces here.
fn can_run() -> bool {
    let can = who() == Who::Root || Command::new("unshare").args(["-Um", "true"]).status().is_ok_and(|s| s.success());
    if !can {
        say_skipped("no user namespace can be made here");
    }
    can && fs::exists("/dev/fuse").unwrap()
}

/// What was said, but for what the machine has that no union can stand on.
fn stderr(out: &Output) -> String {
    let said = String::from_utf8_lossy(&out.stderr);
    said.lines().filter(|line| !line.contains("is not in the view: ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for (words, status, said) in [
        (&["true"][..], 0, ""),
        (&["false"], 1, ""),
        (&["sh", "-c", "exit 77"], 77, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["sh", "-c", "kill -XFSZ $$"], 153, ""),
        (&["/nonexistent/program"], 127, "plyfs: /nonexistent/program: No such file or directory (os error 2)\n"),
        (&["/etc/passwd"], 126, "plyfs: /etc/passwd: Permission denied (os error 13)\n"),
    ] {
        let out = place.plyfs("run", &[&["-q", "--rm", "--"][..], words].concat()).output().unwrap();
        assert_eq!((out.status.code(), stderr(&out)), (Some(status), said.to_owned()), "{words:?}");
    }
    for (words, status) in
        [(&["--on", "/nonexistent", "true"][..], 2), (&["--what", "true"], 2), (&["-n", "a/b", "true"], 125)]
    {
        let out = place.plyfs("run", words).output().unwrap();
        assert_eq!(
            out.status.code(),
            Some(if words[0] == "--on" { 125 } else { status }),
            "{words:?}: {}",
            stderr(&out)
        );
        assert_eq!(stderr(&out).lines().count(), 1, "{}", stderr(&out));
    }
    assert_eq!(place.status(), "");
}

#[test]
fn what_is_changed_is_kept_apart_until_it_is_dropped() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let change = "pwd; echo two >>file; mv dir moved; rm moved/f; mkdir -p new/deep; echo n >new/deep/n; ln -s n new/deep/s; \
                  chmod 600 file; cat file; ls";
    let said = place.said(&["-n", "try"], change);
    assert_eq!(said, format!("{}\none\ntwo\nfile\nmoved\nnew\n", place.here.display()));
    assert_eq!(fs::read_to_string(place.here.join("file")).unwrap(), "one\n");
    assert_eq!(fs::read_dir(&place.here).unwrap().count(), 2);
    assert_eq!(place.status(), "session try  kept\n");
    assert_eq!(
        place.said(&["-q", "-n", "try"], "cat file new/deep/s; ls moved; stat -c %a file"),
        "one\ntwo\nn\n600\n"
    );
    // Another session, and none at all, see nothing of it.
    assert_eq!(place.said(&["-q", "--rm"], "cat file; ls"), "one\ndir\nfile\n");
    let out = place.plyfs("drop", &["try"]).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "1 session removed\n");
    assert_eq!(place.status(), "");
    let out = place.plyfs("drop", &["try"]).output().unwrap();
    assert_eq!(stderr(&out), "plyfs: try: there is no such session (plyfs status lists them)\n");
}

#[test]
fn at_the_end_one_line_says_where_the_changes_are() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let said = |script: &str| stderr(&place.run(&["-n", "x"], script));
    assert_eq!(said("true"), "plyfs: session x: no changes (plyfs diff x)\n");
    let counted = "plyfs: session x: 4 changes: 1 modified, 1 renamed, 1 deleted, 1 added (plyfs diff x)\n";
    let now = said("echo two >>file; mv dir moved; rm moved/f; echo n >new");
    let diff = place.plyfs("diff", &["x", "--json"]).output().unwrap();
    assert_eq!(now, counted, "{}", String::from_utf8_lossy(&diff.stdout));
    assert_eq!(stderr(&place.run(&["-n", "x", "-q"], "true")), "");
    assert_eq!(stderr(&place.run(&["--rm"], "true")), "");
}

#[test]
fn diff_tells_what_a_session_has_changed() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.said(&["-q", "-n", "x"], "echo two >>file; mv dir moved; echo n >new; chmod 700 moved/f");
    let here = place.here.strip_prefix("/").unwrap().display().to_string();
    let diff = |words: &[&str]| {
        let out = place.plyfs("diff", &[&["x"], words].concat()).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), stderr(&out))
    };
    let expected = format!("M  {here}/file\nR  {here}/dir/ → {here}/moved/\nm  {here}/moved/f\nA  {here}/new\n");
    let lines = |text: String| {
        let words = |line: &str| {
            let path = line.find(&here).unwrap_or(line.len());
            let (letter, path) = (line.chars().next().unwrap(), line.get(path..).unwrap());
            format!("{letter}  {}", path.split("  ").next().unwrap())
        };
        let mut lines: Vec<_> = text.lines().map(words).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(diff(&["-q"])), lines(expected));
    let patch = format!("--- a/{here}/file\n+++ b/{here}/file\n@@ -1 +1,2 @@\n one\n+two\n");
    assert!(diff(&["file", "-p"]).contains(&patch), "{}", diff(&["file", "-p"]));
    // From within it cannot be told.
    let inner = format!("{} diff --store ../store x", common::mount::binary().display());
    assert!(stderr(&place.run(&["-q", "-n", "x"], &inner)).contains("cannot be seen from within"));
}

#[test]
fn a_session_is_applied_and_empty_afterwards() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let script = "echo two >>file; mv dir moved; chmod 700 moved/f; mkdir new; echo x >new/x; ln file again";
    place.said(&["-q", "-n", "x"], script);
    let apply = |words: &[&str]| {
        let out = place.plyfs("apply", &[&["x"], words].concat()).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned(), stderr(&out))
    };
    let mut user = place.plyfs("run", &["-q", "-n", "x", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let in_use = || apply(&["-n"]).2.starts_with("plyfs: x: it is in use by process ");
    assert!(wait_until(in_use), "{:?}", apply(&["-n"]));
    drop(user.stdin.take());
    user.wait().unwrap();
    assert!(wait_until(|| place.status() == "session x  kept\n"));
    let (code, told, _) = apply(&["-n"]);
    assert!(
        code == Some(0) && told.ends_with("would apply 6 changes: 1 modified, 1 metadata, 1 renamed, 3 added\n"),
        "{told}"
    );
    assert!(!place.here.join("new").exists());
    let (code, told, said) = apply(&["new"]);
    assert_eq!((code, told.as_str(), said.as_str()), (Some(0), "applied 2 changes: 2 added\n", ""));
    let (code, told, said) = apply(&[]);
    let expected = "applied 4 changes: 1 modified, 1 metadata, 1 renamed, 1 added\n";
    assert_eq!((code, told.as_str(), said.as_str()), (Some(0), expected, ""));
    let text = |path: &str| fs::read_to_string(place.here.join(path)).unwrap();
    assert_eq!([text("file"), text("moved/f"), text("new/x")], ["one\ntwo\n", "f\n", "x\n"]);
    let number = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(place.here.join(path)).unwrap());
    assert_eq!(number("file"), number("again"));
    assert!(!place.here.join("dir").exists());
    let out = place.plyfs("diff", &["x"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "no changes\n");
    let text = place.said(&["-q", "-n", "x"], "cat file moved/f new/x; ls");
    assert_eq!(text, "one\ntwo\nf\nx\nagain\nfile\nmoved\nnew\n");
    // What was applied is no change below for the next one.
    place.said(&["-q", "-n", "x"], "echo y >new/y; mv new/y new/x");
    let (code, told, said) = apply(&[]);
    assert_eq!((code, told.as_str(), said.as_str()), (Some(0), "applied 1 change: 1 modified\n", ""));
}

#[test]
fn status_and_where_tell_what_a_session_has_and_from_where() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.said(&["-q", "-n", "x"], "chmod 600 file; rm dir/f; echo n >new");
    let here = place.here.strip_prefix("/").unwrap().display().to_string();
    let said = |command: &str, words: &[&str]| {
        let out = place.plyfs(command, words).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), stderr(&out))
    };
    let status = said("status", &["x"]);
    let of_root = status.lines().find(|line| line.starts_with("at          / ")).unwrap();
    assert!(status.starts_with("session     x\nstate       kept\n") && of_root.contains(" objects, "), "{status}");
    let json = said("status", &["--json", "x"]);
    assert!(
        json.starts_with(
            r#"{"v":1,"session":"x","in_use":false,"half_applied":false,"file_systems":[{"mountpoint":"/","#
        ),
        "{json}"
    );
    let upper = |name: &str| format!("{}/x/0/upper/{here}/{name}", place.scratch.path().join("store").display());
    let table = [
        ("file", format!("0 upper  {}  metadata", upper("file"))),
        ("dir/f", format!("0 upper  {}  (whiteout)", upper("dir/f"))),
        ("new", format!("0 upper  {}  metadata, data", upper("new"))),
    ];
    for (path, expected) in table {
        let told = said("where", &["x", path]);
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(&told).starts_with(&words(&format!("{here}/{path}  {expected}"))), "{told}");
    }
    assert_eq!(said("where", &["x", "/proc/self"]), "plyfs: proc/self: no layer has it (name a path in the view)\n");
}

#[test]
fn the_parent_directory_in_a_path_of_a_session_leads_where_it_does_outside() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.here.join("dir/sub")).unwrap();
    std::os::unix::fs::symlink("dir/sub", place.here.join("link")).unwrap();
    place.said(&["-q", "-n", "x"], "echo more >>file; chmod 600 dir/f");
    let here = place.here.strip_prefix("/").unwrap().display().to_string();
    for (path, expected) in [("dir/../file", "file"), ("link/../f", "dir/f"), ("gone/./../file", "")] {
        let out = place.plyfs("diff", &["x", "--names", path]).output().unwrap();
        let names = String::from_utf8_lossy(&out.stdout).into_owned();
        let whole = if expected.is_empty() { String::new() } else { format!("{here}/{expected}\n") };
        assert_eq!(names, whole, "{path}: {}", stderr(&out));
    }
    let out = place.plyfs("diff", &["x", "gone/../file"]).output().unwrap();
    let expected = "plyfs: gone/../file: `..` stands behind what is not there (name it without)\n";
    assert_eq!((out.status.code(), stderr(&out).as_str()), (Some(1), expected));
}

#[test]
fn a_session_that_is_half_applied_is_told_and_not_dropped() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.said(&["-q", "-n", "x"], "echo two >>file");
    // As an apply leaves it that is killed.
    let journal = place.scratch.path().join("store/x/0/work/work/incompat/plyfs.apply");
    fs::create_dir_all(&journal).unwrap();
    assert_eq!(place.status(), "session x  half applied (plyfs apply x --resume)\n");
    let out = place.plyfs("drop", &["x"]).output().unwrap();
    let expected = "plyfs: x: its changes were being applied, which was broken off: what it keeps is half of them \
                    (go on by plyfs apply x --resume)\n";
    assert_eq!((out.status.code(), stderr(&out).as_str()), (Some(1), expected));
    fs::remove_dir(&journal).unwrap();
    let out = place.plyfs("drop", &["x"]).output().unwrap();
    assert_eq!((out.status.code(), stderr(&out).as_str()), (Some(0), ""));
}

#[test]
fn a_second_command_joins_the_first() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let mut first = place.plyfs("run", &["-q", "-n", "x", "sh", "-c", "echo first >new; read line; cat late"]);
    let mut first = first.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert!(wait_until(|| place.status().contains("in use") && place.run(&["-n", "x"], "cat new").status.success()));
    assert_eq!(place.said(&["-n", "x"], "cat new; echo late >late; pwd"), format!("first\n{}\n", place.here.display()));
    let out = place.run(&["-n", "x", "--on", "."], "true");
    assert_eq!(out.status.code(), Some(125), "{}", stderr(&out));
    assert!(stderr(&out).starts_with("plyfs: x: it is in use"), "{}", stderr(&out));
    let out = place.plyfs("drop", &["x"]).output().unwrap();
    assert_eq!(stderr(&out), "plyfs: x: it is in use (end its processes first)\n");
    drop(first.stdin.take());
    let out = first.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "late\n");
}

#[test]
fn the_view_ends_with_the_last_process() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let out = place.run(&["-n", "x"], "(sleep 3; echo late >late) >/dev/null 2>&1 & echo left");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "left\n");
    assert_eq!(stderr(&out), "plyfs: session x goes on: processes that the command has left use it\n");
    assert_eq!(place.status(), "session x  in use\n");
    assert!(wait_until(|| place.status() == "session x  kept\n"));
    assert_eq!(place.said(&["-q", "-n", "x"], "cat late"), "late\n");
}

#[test]
fn only_what_was_asked_for_is_covered_let_through_and_hidden() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    fs::create_dir(place.here.join("other")).unwrap();
    place.said(&["-q", "-n", "on", "--on", "dir"], "echo in >dir/in; echo out >out");
    assert_eq!((place.here.join("dir/in").exists(), place.here.join("out").exists()), (false, true));
    place.said(&["-q", "--rm", "--rw", "other"], "echo in >other/in; echo out >file");
    assert_eq!(fs::read_to_string(place.here.join("other/in")).unwrap(), "in\n");
    assert_eq!(fs::read_to_string(place.here.join("file")).unwrap(), "one\n");
    let hidden = "ls dir | wc -l; wc -c <file; ! echo x >dir/x";
    assert_eq!(place.said(&["-q", "--rm", "--hide", "dir", "--hide", "file"], hidden), "0\n0\n");
    assert_eq!(place.said(&["-q", "--rm", "--no-net"], "tail -n +3 /proc/net/dev | wc -l"), "1\n");
}

#[test]
fn one_runs_in_another() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let plyfs = common::mount::binary();
    let inner =
        format!("{} run -q --store ../inner -n y sh -c 'echo inner >>file; cat file'; cat file", plyfs.display());
    assert_eq!(place.said(&["-q", "--rm"], &format!("echo outer >>file; {inner}")), "one\nouter\ninner\none\nouter\n");
    assert_eq!(fs::read_to_string(place.here.join("file")).unwrap(), "one\n");
}

/// The daemon of a session: it holds the lock.
fn daemon(place: &Place, name: &str) -> i32 {
    let lock = place.scratch.path().join("store").join(name).join("lock");
    let fuser = |pid: &i32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|at| at == lock)
    };
    let mut all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.find(fuser).unwrap()
}

#[test]
fn a_daemon_that_is_killed_leaves_a_whole_session() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let script = "echo two >>file; echo ready; read line; cat file && exit 9; true";
    let mut command = place.plyfs("run", &["-q", "-n", "x", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(|| place.run(&["-n", "x"], "grep -q two file").status.success()));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(daemon(&place, "x")).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    // `cat` got an error, or was not even to be had.
    assert_ne!(child.wait().unwrap().code(), Some(9));
    assert_eq!(place.said(&["-q", "-n", "x"], "cat file"), "one\ntwo\n");
}

/// Starts it as a job of its own, as a shell does.
fn job(place: &Place, script: &str) -> Child {
    let mut command = place.plyfs("run", &["-q", "--rm", "sh", "-c", script]);
    let child = command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(wait_until(|| place.status().contains("in use")));
    // The shell is there, and not only the namespace.
    std::thread::sleep(Duration::from_millis(300));
    child
}

fn send(target: i32, signal: i32) {
    let sent = Command::new("kill").args([format!("-{signal}"), "--".into(), target.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

#[test]
fn signals_and_stops_are_the_commands() {
    if !can_run() {
        return;
    }
    heed_signals();
    let place = Place::new();
    // As the terminal does it: to the whole job.
    let mut child = job(&place, "trap 'exit 42' INT; while :; do sleep 0.1; done");
    send(-i32::try_from(child.id()).unwrap(), libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(42));
    // To plyfs alone.
    let mut child = job(&place, "trap 'exit 43' TERM; while :; do sleep 0.1; done");
    send(i32::try_from(child.id()).unwrap(), libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(43));
    let mut child = job(&place, "trap 'exit 44' INT; while :; do sleep 0.1; done");
    send(i32::try_from(child.id()).unwrap(), libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(44));
    let mut child = job(&place, "while :; do sleep 0.1; done");
    let id = i32::try_from(child.id()).unwrap();
    send(-id, libc::SIGTSTP);
    assert!(wait_until(|| state(child.id()) == 'T'), "{}", state(child.id()));
    send(-id, libc::SIGCONT);
    assert!(wait_until(|| state(child.id()) != 'T'));
    send(-id, libc::SIGTERM);
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(143), None));
}

#[test]
fn runs_of_one_name_at_once_never_reach_the_machine() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    for round in 0..8 {
        let name = format!("x{}", round % 2);
        let line =
            format!("pwd >/dev/null; echo leak >leak; echo leak >{}/leak2; sleep 0.05; ls", place.here.display());
        let start = |at: u64| {
            std::thread::sleep(Duration::from_millis(at));
            place.plyfs("run", &["-q", "-n", &name, "sh", "-c", &line]).stdout(Stdio::piped()).spawn().unwrap()
        };
        let all: Vec<Child> = [0, 3, 10, 20].map(start).into_iter().collect();
        for child in all {
            let out = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&out.stdout);
            assert!(out.status.success() && said.contains("leak2"), "{}: {said}{}", out.status, stderr(&out));
        }
        assert_eq!(fs::read_dir(&place.here).unwrap().count(), 2, "round {round} changed the machine");
    }
}

#[test]
fn the_whole_tree_may_be_named() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.said(&["-q", "--rm", "--on", "/", "--on", ".", "--on", "."], "echo leak >leak");
    assert_eq!(fs::read_dir(&place.here).unwrap().count(), 2);
}

#[test]
fn what_a_session_has_is_thrown_away_by_drop_only_and_wholly() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    place.said(&["-q", "-n", "x"], "mkdir -p a/b/c; touch a/b/c/f; chmod 555 a/b/c a/b a");
    let out = place.run(&["--rm", "-n", "x"], "true");
    assert_eq!(out.status.code(), Some(125));
    assert!(stderr(&out).contains("it has changes of an earlier run"), "{}", stderr(&out));
    assert_eq!(place.status(), "session x  kept\n");
    let out = place.plyfs("drop", &["x"]).output().unwrap();
    assert!(out.status.success(), "{}", stderr(&out));
    assert_eq!(fs::read_dir(place.scratch.path().join("store")).unwrap().count(), 0);
    // One without a name, and without a change, leaves nothing.
    assert_eq!(stderr(&place.run(&[], "cat file")), "");
    assert_eq!(fs::read_dir(place.scratch.path().join("store")).unwrap().count(), 0);
}

#[test]
fn a_closed_standard_error_changes_no_status() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = |words: &[&str]| place.plyfs("run", words).stderr(full()).status().unwrap().code();
    assert_eq!(status(&["-n", "x", "sh", "-c", "exit 3"]), Some(3));
    assert_eq!(status(&["/nonexistent"]), Some(127));
}

#[test]
fn a_store_of_somebody_else_is_refused() {
    if who() != Who::Root {
        skip!("root makes a directory of somebody else");
    }
    let place = Place::new();
    let store = place.scratch.dir("store");
    std::os::unix::fs::chown(&store, Some(4711), None).unwrap();
    let out = place.run(&[], "true");
    assert_eq!(out.status.code(), Some(125));
    assert_eq!(stderr(&out), format!("plyfs: {}: it belongs to another user (use --store DIR)\n", store.display()));
    let mut command = place.plyfs("run", &["true"]);
    let home = command.args(["x"]).env("HOME", &store).env_remove("XDG_STATE_HOME");
    assert!(home.output().unwrap().status.code() == Some(125));
}

#[test]
fn the_root_of_a_view_has_the_owner_and_mode_that_it_has_outside() {
    if !can_run() {
        return;
    }
    let place = Place::new();
    fs::set_permissions(&place.here, std::os::unix::fs::PermissionsExt::from_mode(0o1755)).unwrap();
    let mode = |of: &str| format!("stat -c %a:%U {of}");
    let outside = Command::new("sh").args(["-c", &mode("/")]).output().unwrap().stdout;
    let outside = String::from_utf8(outside).unwrap();
    let expected = if who() == Who::Root { outside } else { outside.replace(":root", ":nobody") };
    assert_eq!(place.said(&["-q", "--rm"], &mode("/")), expected);
    assert!(place.said(&["-q", "--rm", "--on", "."], &mode(".")).starts_with("1755:"));
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}
