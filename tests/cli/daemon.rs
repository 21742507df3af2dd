//! The life of the background process: when the command returns, what is left open, and how it ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;
use crate::common::*;

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "lower");
    stack
}

#[test]
fn the_command_returns_when_the_view_answers() {
    bounded(|| {
        let stack = stack();
        for _ in 0..10 {
            let mut view = Background::start(&stack, "rw");
            assert_eq!(fs::read_to_string(stack.merged.join("f")).unwrap(), "lower");
            // At once again: the one before must have let go of the layers.
            unmount_any(&stack.merged, false).unwrap();
            assert_eq!(view.ended(), Some(0));
        }
        for _ in 0..10 {
            let mut view = Background::start(&stack, "rw");
            unmount_any(&stack.merged, false).unwrap();
            let again = Background::start(&stack, "rw");
            assert_eq!(view.ended(), Some(0));
            drop(again);
        }
    });
}

#[test]
fn the_daemon_stands_alone() {
    bounded(|| {
        let stack = stack();
        let view = Background::start(&stack, "rw");
        let status = fs::read_to_string(view.proc("status")).unwrap();
        assert!(status.lines().any(|line| line.split_whitespace().eq(["Umask:", "0000"])), "{status}");
        let stat = fs::read_to_string(view.proc("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let (session, terminal) = (fields[3], fields[4]);
        assert_eq!((session, terminal), (&*view.daemon.as_raw_pid().to_string(), "0"));
        if fs::read_link(view.proc("cwd")).is_err() {
            skip!("what a process of another power has open cannot be seen here");
        }
        assert_eq!(fs::read_link(view.proc("cwd")).unwrap(), Path::new("/"));
        for fd in ["fd/0", "fd/1", "fd/2"] {
            assert_eq!(fs::read_link(view.proc(fd)).unwrap(), Path::new("/dev/null"));
        }
        let limits = fs::read_to_string(view.proc("limits")).unwrap();
        let files: Vec<&str> =
            limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
        assert_eq!(files[3], files[4]);
    });
}

#[test]
fn nothing_of_the_callers_stays_open_or_locked() {
    bounded(|| {
        let stack = stack();
        let file = stack.scratch.path().join("locked");
        let script = r#"exec 9>"$1" 10<"$1" 250<"$1"; flock 9; shift; exec "$@""#;
        let mut command = Command::new("sh");
        // Shells differ in how far their descriptors go; dash knows one digit.
        let script = if works("bash") {
            command = Command::new("bash");
            script
        } else {
            r#"exec 9>"$1"; flock 9; shift; exec "$@""#
        };
        command.args(["-c", script, "sh"]).arg(&file).arg(common::mount::binary());
        command.args(["-o", &stack.layer_options("work")]).arg(&stack.merged);
        let view = Background::run(&stack, &mut command);
        let free = fs::File::open(&file).unwrap();
        rustix::fs::flock(&free, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("the lock is still held");
        let Ok(open) = fs::read_dir(view.proc("fd")) else {
            skip!("what a process of another power has open cannot be seen here")
        };
        for fd in open.flatten() {
            let target = fs::read_link(fd.path()).unwrap_or_default();
            let name = target.to_string_lossy();
            assert!(!name.starts_with("pipe:") && !name.starts_with("socket:"), "{name} is open");
            assert_ne!(target, file, "still open");
        }
    });
}

fn works(program: &str) -> bool {
    Command::new(program).args(["-c", "true"]).status().is_ok_and(|status| status.success())
}

#[test]
fn a_caller_who_waits_on_a_pipe_goes_on() {
    bounded(|| {
        let stack = stack();
        let start = Instant::now();
        let mut command = Command::new("sh");
        command.args(["-c", r#""$@" 2>&1 | cat; echo end"#, "sh"]).arg(common::mount::binary());
        command.args(["-o", &stack.layer_options("work")]).arg(&stack.merged);
        let _view = Background::run(&stack, &mut command);
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn unmounting_from_outside_ends_it_with_status_0() {
    bounded(|| {
        let stack = stack();
        let ways: &[&[&str]] = match who() {
            Who::Root => &[&["umount"], &["fusermount3", "-u"], &["umount", "-l"]],
            Who::Namespace => &[&["umount"], &["umount", "-l"]],
            Who::User => &[&["fusermount3", "-u"], &["fusermount3", "-uz"]],
        };
        for way in ways {
            let mut view = Background::start(&stack, "rw");
            fs::write(stack.merged.join("new"), "x").unwrap();
            assert!(Command::new(way[0]).args(&way[1..]).arg(&stack.merged).status().unwrap().success(), "{way:?}");
            assert_eq!(view.ended(), Some(0), "{way:?} of a daemon in the background");

            let mut child = plyfs(["-f", "-o", &stack.layer_options("work")]).arg(&stack.merged).spawn().unwrap();
            assert!(wait_until(|| is_mounted(&stack.merged)));
            assert!(Command::new(way[0]).args(&way[1..]).arg(&stack.merged).status().unwrap().success(), "{way:?}");
            assert_eq!(child.wait().unwrap().code(), Some(0), "{way:?} of a daemon in the foreground");
        }
    });
}

#[test]
fn a_signal_unmounts_and_ends_it_with_status_0() {
    bounded(|| {
        let stack = stack();
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let mut view = Background::start(&stack, "rw");
            fs::write(stack.merged.join("new"), format!("{signal:?}")).unwrap();
            view.signal(signal);
            assert_eq!(view.ended(), Some(0), "{signal:?}");
            assert!(!is_mounted(&stack.merged), "{signal:?}");
            assert_eq!(fs::read_to_string(stack.upper().at("new")).unwrap(), format!("{signal:?}"));
        }
        let mut child = plyfs(["-f", "-o", &stack.layer_options("work")]).arg(&stack.merged).spawn().unwrap();
        assert!(wait_until(|| is_mounted(&stack.merged)));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!is_mounted(&stack.merged));
    });
}

/// nohup(1) has it ignore SIGHUP, and a script that starts it by `&` SIGINT. As libfuse all three.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        let trap = |words: &str| format!("trap '' {words}; exec \"$@\"");
        for (how, ignored, heeded) in [
            ("exec nohup \"$@\" 2>/dev/null", &[Signal::HUP][..], Signal::INT),
            ("\"$@\" </dev/null & wait", &[Signal::INT, Signal::QUIT], Signal::HUP),
            (&trap("HUP INT"), &[Signal::HUP, Signal::INT], Signal::TERM),
            (&trap("TERM"), &[Signal::TERM], Signal::INT),
            // Whom SIGCHLD does not reach must wait for its children all the same.
            ("exec env --ignore-signal=CHLD,HUP \"$@\"", &[Signal::CHILD, Signal::HUP], Signal::TERM),
        ] {
            for flags in [&["-f"][..], &[], &["-f", "--supervise"], &["--supervise"]] {
                adopt_orphans();
                let mut command = Command::new("sh");
                command.args(["-c", how, "sh"]).arg(common::mount::binary()).args(flags);
                command.args(["-o", &stack.layer_options("work")]).arg(&stack.merged).stdout(Stdio::null());
                let mut child = command.spawn().unwrap();
                let what = format!("{how} {flags:?}");
                assert!(wait_until(|| is_mounted(&stack.merged) || child.try_wait().unwrap().is_some()), "{what}");
                if !flags.contains(&"-f") {
                    assert_eq!(child.wait().unwrap().code(), Some(0), "{what}");
                }
                let all = all_of(&stack.merged);
                for (signal, pid) in ignored.iter().flat_map(|signal| all.iter().map(move |pid| (*signal, *pid))) {
                    kill_process(pid, signal).unwrap();
                }
                std::thread::sleep(Duration::from_millis(50));
                assert!(is_mounted(&stack.merged), "{what}: gone");
                assert_eq!(fs::read_to_string(stack.merged.join("f")).unwrap(), "lower", "{what}");
                assert_eq!(all_of(&stack.merged), all, "{what}");
                // The supervisor hands it on.
                kill_process(*all.first().unwrap(), heeded).unwrap();
                assert!(wait_until(|| !is_mounted(&stack.merged)), "{what}: {heeded:?}");
                assert!(wait_until(|| all_of(&stack.merged).is_empty()), "{what}: {heeded:?}");
                assert_eq!(child.wait().unwrap().code(), Some(0), "{what}");
                // Those that this process has adopted.
                all.iter().for_each(|pid| _ = rustix::process::waitpid(Some(*pid), WaitOptions::NOHANG));
            }
        }
    });
}

#[test]
fn a_busy_view_leaves_the_tree_at_once_and_serves_who_is_in_it() {
    bounded(|| {
        let stack = stack();
        let mut view = Background::start(&stack, "rw");
        let file = fs::File::options().read(true).append(true).open(stack.merged.join("f")).unwrap();
        view.signal(Signal::TERM);
        assert!(wait_until(|| !is_mounted(&stack.merged)));
        assert_eq!(file.metadata().unwrap().len(), 5);
        std::io::Write::write_all(&mut &file, b" and more").unwrap();
        drop(file);
        assert_eq!(view.ended(), Some(0));
        assert_eq!(fs::read_to_string(stack.upper().at("f")).unwrap(), "lower and more");
    });
}

#[test]
fn a_second_signal_ends_a_busy_daemon() {
    bounded(|| {
        let stack = stack();
        let mut view = Background::start(&stack, "rw");
        let file = fs::File::open(stack.merged.join("f")).unwrap();
        view.signal(Signal::TERM);
        assert!(wait_until(|| !is_mounted(&stack.merged)));
        std::thread::sleep(Duration::from_millis(100)); // it waits for the second by now
        view.signal(Signal::TERM);
        assert!(view.ended().is_some());
        drop(file);
    });
}

#[test]
fn a_failure_in_the_foreground_and_in_the_background_is_the_same() {
    bounded(|| {
        let stack = stack();
        let options = "lowerdir=/nonexistent/layer";
        let outs = [&["-f"][..], &[]].map(|how| plyfs(how).args(["-o", options]).arg(&stack.merged).output().unwrap());
        assert_eq!((outs[0].status, stderr(&outs[0])), (outs[1].status, stderr(&outs[1])));
        assert_eq!(outs[0].status.code(), Some(1));
    });
}

#[test]
fn the_mountpoint_may_be_a_layer_or_lie_in_one() {
    bounded(|| {
        let mut stack = stack();
        stack.lowers[0].dir("in", 0o755);
        let lower = stack.lowers[0].root().to_owned();
        let upper = stack.upper().root().to_owned();
        let options = stack.layer_options("work");
        for at in [lower.clone(), upper, lower.join("in")] {
            stack.merged = at;
            let view = Background::run(&stack, plyfs(["-o", &options]).arg(&stack.merged));
            assert_eq!(fs::read_to_string(stack.merged.join("f")).unwrap(), "lower");
            // A walk through all of it comes to an end.
            let device = fs::metadata(&stack.merged).unwrap().dev();
            let names: Vec<_> = fs::read_dir(stack.merged.join("in")).unwrap().collect();
            assert!(names.is_empty() && fs::metadata(stack.merged.join("in")).unwrap().dev() == device);
            drop(view);
        }
    });
}

#[test]
fn relative_paths_count_from_where_it_was_called() {
    bounded(|| {
        let stack = stack();
        stack.scratch.dir("work");
        let mut command = plyfs(["-o", "lowerdir=lower0,upperdir=upper,workdir=./work"]);
        command.arg(&stack.merged).current_dir(stack.scratch.path()).stdin(Stdio::null());
        let _view = Background::run(&stack, &mut command);
        fs::write(stack.merged.join("f"), "changed").unwrap();
        assert_eq!(fs::read_to_string(stack.upper().at("f")).unwrap(), "changed");
    });
}
