//! Who hears a mount: a file, the system's log, standard error, nobody; and no more than can be read.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{CWD, Mode, XattrFlags, mkfifoat, setxattr};

use super::*;
use crate::common::*;

/// A stack in which a look at `bad` is a line in the log each time.
fn stack() -> Stack {
    let stack = Stack::new(2);
    stack.lowers[0].file("bad/f", "x").file("good", "lower");
    stack.lowers[1].file("bad/g", "x");
    let mark = format!("{}redirect", stack::prefix());
    setxattr(stack.lowers[0].at("bad"), mark, b"..", XattrFlags::empty()).unwrap();
    stack
}

/// Looks at it.
fn look(stack: &Stack) {
    let _ = fs::symlink_metadata(stack.merged.join("bad"));
}

/// Waits until the log has this text; all of it.
#[track_caller]
fn has(log: &Path, text: &str) -> String {
    let read = || fs::read_to_string(log).unwrap_or_default();
    assert!(wait_until(|| read().contains(text)), "no {text:?} in the log:\n{}", read());
    read()
}

fn lines_of(log: &str, word: &str) -> usize {
    log.lines().filter(|line| line.contains(word)).count()
}

#[test]
fn a_mount_in_the_background_is_heard_through_a_file() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        let log = stack.scratch.path().join("log.txt");
        for round in 1..=2 {
            let mut command = plyfs(["-o", &format!("{},log=log.txt", stack.layer_options("work"))]);
            command.arg(&stack.merged).current_dir(stack.scratch.path()).env_remove("RUST_LOG");
            let mut view = Background::run(&stack, &mut command);
            look(&stack);
            has(&log, "WARN");
            view.signal(Signal::USR1);
            assert!(wait_until(|| lines_of(&fs::read_to_string(&log).unwrap(), "requests:") == round), "added to");
            assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
            unmount_any(&stack.merged, false).unwrap();
            assert_eq!(view.ended(), Some(0));
        }
        assert!(lines_of(&fs::read_to_string(&log).unwrap(), "bad") >= 2);
        // `RUST_LOG` says what.
        let mut command = plyfs(["-o", &format!("{},log={}", stack.layer_options("work"), log.display())]);
        let view = Background::run(&stack, command.arg(&stack.merged).env("RUST_LOG", "debug"));
        has(&log, "DEBUG");
        drop(view);
    });
}

#[test]
fn all_the_daemons_of_a_supervised_mount_are_heard() {
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        for flags in [&[][..], &["-f"]] {
            let log = stack.scratch.path().join(format!("log{}", flags.len()));
            let mut command = plyfs(flags);
            command.args(["-o", &format!("{},supervise,log={}", stack.layer_options("work"), log.display())]);
            command.arg(&stack.merged).env_remove("RUST_LOG").stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            assert!(wait_until(|| is_mounted(&stack.merged)));
            look(&stack);
            has(&log, "bad");
            // The supervisor is the first, its daemon the second.
            assert!(wait_until(|| all_of(&stack.merged).len() == 2));
            let daemon = all_of(&stack.merged)[1];
            kill_process(daemon, Signal::KILL).unwrap();
            assert_eq!(fs::read_to_string(stack.merged.join("good")).unwrap(), "lower");
            let before = lines_of(&has(&log, "the daemon ended by a signal"), "bad");
            look(&stack);
            assert!(wait_until(|| lines_of(&fs::read_to_string(&log).unwrap(), "bad") > before), "the second daemon");
            kill_process(all_of(&stack.merged)[0], Signal::USR1).unwrap();
            has(&log, "requests:");
            unmount_any(&stack.merged, false).unwrap();
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success() && out.stderr.is_empty(), "{flags:?}: {}", stderr(&out));
            assert!(wait_until(|| all_of(&stack.merged).is_empty()));
        }
    });
}

#[test]
fn a_flood_is_cut_off_and_what_is_asked_for_comes_through() {
    bounded(|| {
        let stack = stack();
        let log = stack.scratch.path().join("log");
        let mut command = plyfs(["-o", &format!("{},log={}", stack.layer_options("work"), log.display())]);
        let view = Background::run(&stack, command.arg(&stack.merged).env_remove("RUST_LOG"));
        (0..3000).for_each(|_| look(&stack));
        view.signal(Signal::USR1);
        let said = has(&log, "requests:");
        let bad = lines_of(&said, "bad");
        assert!((50..200).contains(&bad), "{bad} lines of 3000 looks");
        assert!(wait_until(|| {
            look(&stack);
            fs::read_to_string(&log).unwrap().contains("were left out")
        }));
    });
}

#[test]
fn a_log_may_go_to_standard_error_or_nowhere() {
    bounded(|| {
        let stack = stack();
        for (to, heard) in [("stderr", true), ("off", false)] {
            let said = stack.scratch.path().join(to);
            let mut command = plyfs(["-o", &format!("{},log={to}", stack.layer_options("work"))]);
            command.arg(&stack.merged).env_remove("RUST_LOG").stderr(fs::File::create(&said).unwrap());
            let mut view = Background::run(&stack, &mut command);
            look(&stack);
            view.signal(Signal::USR1);
            std::thread::sleep(Duration::from_millis(100));
            unmount_any(&stack.merged, false).unwrap();
            assert_eq!(view.ended(), Some(0));
            let said = fs::read_to_string(&said).unwrap();
            assert_eq!((said.contains("bad"), said.contains("requests:")), (heard, heard), "{to}: {said}");
        }
        let out = plyfs(["-o", "lowerdir=/nonexistent/layer,log=off"]).arg(&stack.merged).output().unwrap();
        assert!(out.status.code() == Some(1) && stderr(&out).lines().count() == 1, "a failure is told: {out:?}");
    });
}

#[test]
fn a_file_that_cannot_be_the_log_is_refused_before_anything_is_mounted() {
    bounded(|| {
        let stack = stack();
        let options = stack.layer_options("work");
        let place = stack.scratch.path();
        fs::write(place.join("file"), "").unwrap();
        symlink(place.join("file"), place.join("link")).unwrap();
        mkfifoat(CWD, place.join("fifo"), Mode::from_raw_mode(0o600)).unwrap();
        for (log, says) in [
            (place.join("nowhere/log"), "No such file"),
            (place.join("file/log"), "Not a directory"),
            (place.to_owned(), "Is a directory"),
            (place.join("link"), "symlink"),
            (place.join("fifo"), "not a file"),
            ("/dev/null".into(), "not a file"),
            (stack.merged.join("log"), "the view's own"),
            (stack.upper().at("log"), "the view's own"),
            (place.join("work/log"), "the view's own"),
        ] {
            let mut command = plyfs(["-o", &format!("{options},log={}", log.display())]);
            let out = command.arg(&stack.merged).output().unwrap();
            let said = stderr(&out);
            assert!(out.status.code() == Some(1) && said.lines().count() == 1, "{}: {said}", log.display());
            assert!(said.contains(says) && said.contains("log="), "{}: {said}", log.display());
            assert!(!is_mounted(&stack.merged));
        }
        assert!(!stack.upper().at("log").exists() && !stack.merged.join("log").exists());
    });
}

/// In a mount table of its own, where /dev/log (or its like of the BSDs, where that is missing) is a socket of this test.
#[test]
fn a_mount_in_the_background_is_heard_through_syslog() {
    if who() != Who::Root {
        return;
    }
    bounded(|| {
        let stack = stack();
        let _end = End(&stack.merged);
        let socket = stack.scratch.path().join("socket");
        let listener = UnixDatagram::bind(&socket).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let script = r#"set -u
            if [ -S /dev/log ]; then mount --bind "$1" /dev/log
            else mount -t tmpfs none /run; touch /run/log; mount --bind "$1" /run/log; fi
            "$2" -o "$3" "$4"; stat "$4/bad" >&2 || pid=$("$2" show "$4" | sed -n 's/^pid *//p')
            kill -USR1 "$pid"; sleep 0.3; echo "$pid"; "$2" umount "$4""#;
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-ec", script, "sh"]).arg(&socket);
        command.arg(common::mount::binary()).arg(stack.layer_options("work")).arg(&stack.merged).env_remove("RUST_LOG");
        let out = command.output().unwrap();
        let pid = String::from_utf8_lossy(&out.stdout).trim().to_owned();
        assert!(out.status.success() && !String::from_utf8_lossy(&out.stderr).contains("note: log"), "{out:?}");
        let mut buffer = [0; 4096];
        let mut next = || {
            let len = listener.recv(&mut buffer).expect("nothing is logged");
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        };
        // Facility daemon: 3 * 8, warning: 4.
        let from = format!("plyfs[{pid}]: {}: ", stack.merged.display());
        for word in ["bad", "requests:"] {
            let line = next();
            assert!(line.starts_with("<28>") && line.contains(&from) && line.contains(word), "{word}: {line}");
        }
    });
}

#[test]
fn without_a_system_log_a_mount_says_so_to_who_asked_for_it() {
    let sockets: [PathBuf; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"].map(PathBuf::from);
    if sockets.iter().any(|socket| fs::metadata(socket).is_ok_and(|meta| meta.file_type().is_socket())) {
        skip!("there is a system log here");
    }
    bounded(|| {
        let stack = stack();
        for (options, notes) in [("rw", 0), ("log=syslog", 1), ("log=off", 0)] {
            let _end = End(&stack.merged);
            let mut command = plyfs(["-o", &format!("{},{options}", stack.layer_options("work"))]);
            let out = command.arg(&stack.merged).output().unwrap();
            assert!(out.status.success() && is_mounted(&stack.merged), "{}", stderr(&out));
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(lines_of(&said, "note: log=syslog"), notes, "{options}: {said}");
            look(&stack);
            assert_eq!(fs::read_to_string(stack.merged.join("good")).unwrap(), "lower");
        }
    });
}
