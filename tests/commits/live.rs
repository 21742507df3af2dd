//! Programs that go on while their view gets commits, and goes back and forward: they notice nothing of a commit, and of an
//! undo only that names lead elsewhere.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::about;
use crate::common::*;

/// Asks for absent names over and over; the longest wait.
pub fn asking(root: PathBuf) -> impl FnOnce(&AtomicBool) -> Duration + Send + 'static {
    move |over| {
        let (mut longest, mut number) = (Duration::ZERO, 0);
        while !over.load(Relaxed) {
            let begin = Instant::now();
            assert!(fs::metadata(root.join(format!("0/absent{number}"))).is_err());
            (longest, number) = (longest.max(begin.elapsed()), number + 1);
        }
        longest
    }
}

/// Calls `act` over and over on another thread while `steps` runs.
pub fn beside<T: Send + 'static>(act: impl FnOnce(&AtomicBool) -> T + Send + 'static, steps: impl FnOnce()) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let theirs = over.clone();
    let thread = thread::spawn(move || act(&theirs));
    steps();
    over.store(true, Relaxed);
    thread.join().unwrap()
}

fn commits(mount: &Mount, count: usize) {
    for number in 0..count {
        // Nothing has changed where the program was not fast enough.
        mount.write("each", number.to_string()).unwrap();
        about("commit", mount.root()).unwrap();
    }
}

#[test]
fn an_appending_program_loses_nothing() {
    within(120, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("log", "first\n");
        let mount = stack.mount();
        let mut file = File::options().append(true).open(mount.at("log")).unwrap();
        let append = move |over: &AtomicBool| {
            let mut lines = 0;
            while !over.load(Relaxed) {
                file.write_all(format!("{lines}\n").as_bytes()).unwrap();
                lines += 1;
            }
            lines
        };
        let lines = beside(append, || commits(&mount, 20));
        let expected: String =
            std::iter::once("first\n".to_owned()).chain((0..lines).map(|n| format!("{n}\n"))).collect();
        assert!(fs::read_to_string(mount.at("log")).unwrap() == expected);
        assert!(lines > 100, "{lines}");
    });
}

#[test]
fn a_mapping_is_written_on() {
    within(60, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("mapped", vec![b'.'; 64 << 10]);
        let mount = stack.mount();
        let file = File::options().read(true).write(true).open(mount.at("mapped")).unwrap();
        let mut map = SharedMap::new(&file, 64 << 10, true);
        for round in 0..10u8 {
            map.put(usize::from(round) * 4096, &[round]);
            mount.write("each", [round]).unwrap();
            about("commit", mount.root()).unwrap();
            map.put(usize::from(round) * 4096 + 1, &[round]);
        }
        file.sync_all().unwrap();
        let read = mount.read("mapped").unwrap();
        for round in 0..10u8 {
            let at = usize::from(round) * 4096;
            assert_eq!(read[at..at + 3], [round, round, b'.']);
        }
    });
}

#[test]
fn open_files_without_a_name_are_read_and_written() {
    within(60, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("lower", "lower");
        let mount = stack.mount();
        mount.write("upper", "upper").unwrap();
        let open = |name: &str| File::options().read(true).write(true).open(mount.at(name)).unwrap();
        let mut files = [open("lower"), open("upper")];
        mount.unlink("lower").unwrap();
        mount.unlink("upper").unwrap();
        for step in ["commit", "undo", "redo", "commit"] {
            if step == "commit" {
                mount.write("each", step).unwrap();
            }
            about(step, mount.root()).unwrap();
            for file in &mut files {
                file.write_at(b"U", 0).unwrap();
                let mut text = String::new();
                file.rewind().unwrap();
                file.read_to_string(&mut text).unwrap();
                assert!(["Uower", "Upper"].contains(&text.as_str()), "after {step}: {text}");
            }
        }
    });
}

#[test]
fn an_open_file_keeps_what_it_has_when_its_change_is_undone() {
    within(60, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "before").file("d/f", "f");
        let mount = stack.mount();
        mount.write("a", "after!").unwrap();
        mount.mkdir("new", 0o755).unwrap();
        mount.write("new/f", "new").unwrap();
        mount.unlink("d/f").unwrap();
        assert!(mount.stat("d/f").is_err());
        let mut file = File::options().read(true).write(true).open(mount.at("a")).unwrap();
        let inside = File::open(mount.at("new")).unwrap();
        about("undo", mount.root()).unwrap();
        // Names, listings, data and what was known not to be there.
        assert_eq!(mount.read("a").unwrap(), b"before");
        assert_eq!(mount.read("d/f").unwrap(), b"f");
        assert!(mount.stat("new").is_err() && mount.stat("new/f").is_err());
        let mut names: Vec<_> = fs::read_dir(mount.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a", "d"]);
        // Who has it open has what was there.
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "after!");
        file.write_at(b"own", 0).unwrap();
        assert_eq!(mount.read("a").unwrap(), b"before");
        assert!(inside.metadata().is_ok());
        about("redo", mount.root()).unwrap();
        assert_eq!((mount.read("a").unwrap(), mount.read("new/f").unwrap()), (b"after!".to_vec(), b"new".to_vec()));
        assert!(mount.stat("d/f").is_err());
    });
}

#[test]
fn a_deleted_hard_link_that_is_open_does_not_come_back_by_undo() {
    let stack = Stack::new(1);
    stack.lowers[0].file("h1", "h").hard_link("h1", "h2");
    let mount = stack.mount();
    let file = File::options().read(true).write(true).open(mount.at("h1")).unwrap();
    mount.stat("h2").unwrap();
    file.write_at(b"W", 0).unwrap();
    mount.unlink("h1").unwrap();
    mount.unlink("h2").unwrap();
    about("undo", mount.root()).unwrap();
    assert_eq!(mount.read("h1").unwrap(), b"h");
    drop(file);
}

#[test]
fn who_is_in_a_directory_that_stays_is_still_there_after_an_undo() {
    let stack = Stack::new(1);
    stack.lowers[0].file("d/f", "f");
    let mount = stack.mount();
    mount.write("d/new", "new").unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "read line; readlink /proc/$$/cwd"])
        .current_dir(mount.at("d"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    about("undo", mount.root()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim_end(), mount.at("d").to_str().unwrap());
    assert!(mount.stat("d/new").is_err());
}

#[test]
fn a_file_that_was_written_before_a_commit_is_synced_after_it() {
    let stack = Stack::new(1);
    let mount = stack.mount();
    mount.write("f", "half").unwrap();
    let file = File::options().read(true).open(mount.at("f")).unwrap();
    about("commit", mount.root()).unwrap();
    file.sync_all().unwrap();
    assert_eq!(mount.read("f").unwrap(), b"half");
}

#[test]
fn sqlite_goes_on_with_its_wal() {
    if Command::new("sqlite3").arg("-version").output().is_err() {
        skip!("no sqlite3");
    }
    within(180, || {
        let stack = Stack::new(1);
        let mount = stack.mount();
        let database = mount.at("data.sqlite");
        let sql = |sql: String| {
            let out = Command::new("sqlite3").arg("-bail").arg(&database).arg(sql).output().unwrap();
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        sql("PRAGMA journal_mode=WAL; CREATE TABLE t (n INTEGER, x TEXT);".into());
        let rows = |from: u32| {
            let insert = |n: u32| format!("INSERT INTO t VALUES ({n}, hex(randomblob(200)));");
            (from..from + 200).map(insert).collect::<String>()
        };
        let theirs = database.clone();
        let all: String = (0..10).map(|round| rows(round * 200)).collect();
        let write = move |_: &AtomicBool| {
            let mut child =
                Command::new("sqlite3").arg("-bail").arg(theirs).stdin(std::process::Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(format!(".timeout 10000\n{all}").as_bytes()).unwrap();
            assert!(child.wait().unwrap().success());
        };
        beside(write, || commits(&mount, 15));
        assert_eq!(sql("PRAGMA integrity_check; SELECT count(*), sum(n) FROM t;".into()), "ok\n2000|1999000\n");
    });
}

#[test]
fn requests_wait_for_a_commit_as_long_as_for_a_slow_disk() {
    within(120, || {
        let stack = Stack::new(1);
        for dir in 0..100 {
            for file in 0..100 {
                stack.lowers[0].file(&format!("{dir}/{file}"), "");
            }
        }
        let mount = stack.mount();
        for dir in 0..100 {
            for entry in fs::read_dir(mount.at(dir.to_string())).unwrap() {
                entry.unwrap().metadata().unwrap();
            }
            mount.write(format!("{dir}/new"), "").unwrap();
        }
        let longest = beside(asking(mount.root().to_owned()), || commits(&mount, 5));
        assert!(longest < patience(Duration::from_secs(1)), "{longest:?}");
    });
}

#[test]
fn five_hundred_commits_are_no_load() {
    within(300, || {
        let stack = Stack::in_memory(1);
        stack.lowers[0].file("d/a", "a").file("d/b", "b");
        let mount = stack.mount();
        for number in 0..500 {
            mount.write(format!("d/{number}"), number.to_string()).unwrap();
            about("commit", mount.root()).unwrap();
        }
        for number in 0..500 {
            assert_eq!(mount.read(format!("d/{number}")).unwrap(), number.to_string().as_bytes());
        }
        let dir = mount.at("d");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 502);
        crate::plyfs(&["undo", mount.root().to_str().unwrap(), "250"]).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 252);
        assert_eq!(about("log", mount.root()).unwrap().lines().count(), 500);
    });
}
