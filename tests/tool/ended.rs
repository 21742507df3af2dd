//! A command on layers that somebody ends by a signal leaves nothing beside what it was to make.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::*;

/// The names in a directory, those in directories that are made among them.
fn names(dir: &Path) -> Vec<String> {
    let list = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = list.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Starts it in `dir`, and waits until it has made something there.
fn begun(dir: &Path, words: &[&str]) -> Option<Child> {
    let before = names(dir);
    let mut command = Command::new(mount::binary());
    command.arg("layer").args(words).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    loop {
        let is_begun = names(dir) != before;
        match child.try_wait().unwrap() {
            Some(_) => return None,
            None if is_begun => return Some(child),
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

#[test]
fn a_command_that_is_ended_leaves_nothing_and_ends_by_the_signal() {
    within(300, || {
        let stack = Stack::read_only(1);
        let layer = &stack.lowers[0];
        for at in 0..2000 {
            layer.file(&format!("d{}/{at}", at % 20), "x");
        }
        layer.file(
            "large",
            (0..(96_u32 << 18)).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<_>>(),
        );
        let dir = stack.scratch.dir("here");
        std::os::unix::fs::symlink(layer.root(), dir.join("layer")).unwrap();
        let tar = ["layer", "export", "--tar", "image.tar", "layer"];
        assert!(Command::new(mount::binary()).args(tar).current_dir(&dir).status().unwrap().success());
        let before = names(&dir);
        for words in [
            &["squash", "layer", "out"][..],
            &["convert", "--marks", "user", "layer", "out"],
            &["export", "--tar", "out", "layer"],
            &["export", "--oci", "out", "layer"],
            &["import", "image.tar", "out"],
        ] {
            let mut ended = 0;
            for (signal, delay) in [(Signal::INT, 0), (Signal::TERM, 2), (Signal::HUP, 10), (Signal::INT, 30)] {
                let Some(child) = begun(&dir, words) else { continue };
                std::thread::sleep(Duration::from_millis(delay));
                let _ = kill_process(Pid::from_child(&child), signal);
                let done = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&done.stderr).into_owned();
                match done.status.signal() {
                    Some(by) => assert_eq!((by, &*said), (signal.as_raw(), ""), "{words:?}"),
                    // It was done before.
                    None => assert!(done.status.success(), "{words:?}: {said}"),
                }
                ended += usize::from(done.status.signal().is_some());
                let left: Vec<_> = names(&dir.join("out")).into_iter().filter(|name| name.starts_with('.')).collect();
                assert_eq!(left, [""; 0], "{words:?}");
                let _ = std::fs::remove_dir_all(dir.join("out"));
                let _ = std::fs::remove_file(dir.join("out"));
                assert_eq!(names(&dir), before, "{words:?}");
            }
            assert!(ended > 0, "{words:?}: nothing was ended");
        }
    });
}
