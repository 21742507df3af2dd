//! What is done to a daemon and its mount from outside.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::mount::{is_mounted, unmount_any, wait_until};
use crate::common::*;
use crate::{Ran, not_here};

/// Nobody is in the mount any more.
fn ends_well(mount: &mut Mount) {
    let status = mount.ended(std::time::Duration::from_secs(15));
    let well = status.is_some_and(|status| status.success());
    assert!(well || mount::binary() == "kernel", "{status:?}: {}", mount.messages());
}

/// Whether every thread of a process is stopped.
fn is_stopped(pid: Pid) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())).unwrap();
    let states = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    states.into_iter().all(|status| status.contains("State:\tT"))
}

/// While it is stopped clients wait, and those that are killed go; then it goes on as if nothing had been.
pub fn a_daemon_that_is_stopped_goes_on_later() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "x").dir("d", 0o755);
    let mut mount = stack.mount();
    let Some(pid) = mount.pid() else { return not_here("a daemon is needed") };
    // The client that is killed has no file open, and needs no directory that the other one holds: there the kernel itself
    // waits, for an answer to close(2) or for the directory.
    mount.names("d").unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    // A thread that is woken by a request takes that along when it stops.
    assert!(wait_until(|| is_stopped(pid)));
    let mut killed = Command::new("mkdir").arg(mount.at("d/made")).spawn().unwrap();
    let paths = [mount.at("f"), mount.at("new")];
    let waiting = std::thread::spawn(move || {
        std::fs::write(&paths[1], "new").unwrap();
        std::fs::read_to_string(&paths[0]).unwrap()
    });
    sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished() && killed.try_wait().unwrap().is_none(), "answered by a stopped daemon");
    killed.kill().unwrap();
    let gone = wait_until(|| killed.try_wait().unwrap().is_some());
    kill_process(pid, Signal::CONT).unwrap();
    assert!(gone, "a killed client waits for a stopped daemon");
    assert_eq!(waiting.join().unwrap(), "x");
    for _ in 0..2 {
        assert_eq!((mount.text("f"), mount.text("new"), mount.names("").unwrap().len()), ("x".into(), "new".into(), 3));
        mount.remount();
    }
    Ok(())
}

/// The view leaves the tree at once, those who are in it finish, and the daemon ends well.
pub fn a_lazy_unmount_lets_those_in_the_view_finish() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("d/f", "lower").file("d/g", "lower");
    let mut mount = stack.mount();
    let (file, dir) =
        (mount.open("d/f", OFlags::RDWR).unwrap(), mount.open("d", OFlags::RDONLY | OFlags::DIRECTORY).unwrap());
    unmount_any(&stack.merged, true).unwrap();
    assert!(!is_mounted(&stack.merged));
    rustix::io::pwrite(&file, b"LOWER+", 0).unwrap();
    rustix::fs::unlinkat(&dir, "g", rustix::fs::AtFlags::empty()).unwrap();
    let made = rustix::fs::openat(&dir, "made", OFlags::CREATE | OFlags::WRONLY, 0o644.into()).unwrap();
    tree::write_all(&made, b"made").unwrap();
    rustix::fs::fsync(&made).unwrap();
    drop((file, dir, made));
    ends_well(&mut mount);
    assert_eq!((stack.upper().text("d/f"), stack.upper().text("d/made")), ("LOWER+".into(), "made".into()));
    assert!(stack.upper().is_whiteout("d/g"));
    assert_eq!(stack.mount().names("d").unwrap(), ["f", "made"]);
    Ok(())
}

/// From another mount namespace a directory that is mounted on can be removed: the mount goes with it.
pub fn a_mountpoint_that_is_removed_ends_the_daemon_well() -> Ran {
    if who() == Who::User {
        return not_here("a mount namespace is needed");
    }
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "x");
    let mut mount = stack.mount();
    mount.append("f", "y").unwrap();
    let script = r#"umount -l "$1" && rmdir "$1""#;
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]).arg(&stack.merged);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(!stack.merged.exists() && !is_mounted(&stack.merged));
    ends_well(&mut mount);
    stack.scratch.dir("merged");
    assert_eq!(stack.mount().text("f"), "xy");
    Ok(())
}

/// What the daemon was given as its mountpoint has another path when it is asked to end.
pub fn a_mountpoint_that_was_moved_is_unmounted_by_a_signal() -> Ran {
    let mut stack = Stack::new(1);
    stack.lowers[0].file("f", "x");
    stack.merged = stack.scratch.dir("parent/merged");
    let mut mount = stack.mount();
    let Some(pid) = mount.pid() else { return not_here("a daemon is needed") };
    let moved = stack.scratch.path().join("moved");
    std::fs::rename(stack.scratch.path().join("parent"), &moved).unwrap();
    let at = moved.join("merged");
    assert_eq!(Tree::new(&at).text("f"), "x");
    kill_process(pid, Signal::TERM).unwrap();
    let status = mount.ended(std::time::Duration::from_secs(15));
    let left = is_mounted(&at);
    if left {
        let _ = unmount_any(&at, true);
    }
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    assert!(!left, "a dead mount is left at {}", at.display());
    Ok(())
}

/// One view on top of another, each with a change of its own: as deep as anyone builds, and no deeper than the kernel
/// allows where it has a say.
pub fn views_nest_until_the_kernel_says_no() -> Ran {
    let depth = if mount::is_plyfs() { 8 } else { 3 };
    for option in ["rw", "io=passthrough"].into_iter().filter(|option| mount::is_plyfs() || *option == "rw") {
        if !is_offered(option) {
            continue;
        }
        let bottom = Stack::new(1).option(option);
        bottom.lowers[0].file("d/f", "0").file("d/gone", "x");
        let mut views = vec![(bottom.mount(), bottom)];
        let mut refused = None;
        while views.len() < depth && refused.is_none() {
            let (below, level) = (views.last().unwrap().1.merged.clone(), views.len());
            let mut stack = Stack::new(0).option(option);
            stack.lowers = vec![stack::Layer::new(below)];
            let options = format!("{},{option}", stack.layer_options("work"));
            match Mount::try_with(&options, &stack.merged, &stack.scratch.path().join("log")) {
                Ok(mount) => {
                    mount.append("d/f", format!("{level}")).unwrap();
                    mount.write(format!("d/new{level}"), "n").unwrap();
                    let _ = mount.unlink("d/gone");
                    views.push((mount, stack));
                }
                Err(why) => refused = Some(why),
            }
        }
        let top = &views.last().unwrap().0;
        let text: String = (0..views.len()).map(|i| i.to_string()).collect();
        assert_eq!((top.text("d/f"), top.names("d").unwrap().len()), (text, views.len()), "{option}");
        assert_eq!(views[0].0.text("d/f"), "0");
        if let Some(why) = &refused {
            let said: Vec<_> = why.lines().filter(|line| line.contains("plyfs: ")).collect();
            assert!(said.len() == 1 && (said[0].contains("nest") || said[0].contains("depth")), "{option}: {why}");
        }
        println!("{option}: {} views nested, then {refused:?}", views.len());
        while views.pop().is_some() {}
    }
    Ok(())
}

/// fo1 and fo2 answer for it with `Directory renamed before its status could be extracted`.
pub fn tar_unpacks_over_a_lower_tree_without_a_word() -> Ran {
    let stack = Stack::new(1);
    let source = stack::Layer::new(stack.scratch.dir("source"));
    for i in 0..30 {
        source.file(&format!("d{i}/e/f"), "new").soft_link("f", &format!("d{i}/e/l")).perm(&format!("d{i}"), 0o755);
        stack.lowers[0]
            .file(&format!("d{i}/e/f"), "old")
            .file(&format!("d{i}/e/g"), "old")
            .perm(&format!("d{i}"), 0o700);
    }
    let archive = stack.scratch.path().join("archive.tar");
    let tar = |args: &[&str], at: &std::path::Path| {
        let out = Command::new("tar").args(args).arg(&archive).arg("-C").arg(at).arg(".").output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(tar(&["-cf"], source.root()), (true, String::new()));
    let mount = stack.mount();
    let start = Instant::now();
    assert_eq!(tar(&["-xpf"], mount.root()), (true, String::new()));
    assert!(start.elapsed() < Duration::from_secs(20));
    for i in [0, 17, 29] {
        assert_eq!((mount.text(format!("d{i}/e/f")), mount.text(format!("d{i}/e/g"))), ("new".into(), "old".into()));
    }
    View::of(&mount, Walk::default()).assert_sound();
    Ok(())
}

/// What `/proc/PID/fd` of a daemon leads to.
fn descriptors(pid: Pid) -> Option<Vec<String>> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).ok()?;
    let targets = open.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    Some(targets.map(|target| target.to_string_lossy().into_owned()).collect())
}

/// Files opened, unlinked, renamed and replaced in rounds: no descriptor and no temporary file stays.
pub fn nothing_stays_open_and_nothing_stays_in_workdir() -> Ran {
    let stack = Stack::new(1);
    for i in 0..40 {
        stack.lowers[0].file(&format!("d/f{i}"), "x".repeat(3000));
    }
    let mount = stack.mount();
    let Some(pid) = mount.pid() else { return not_here("a daemon is needed") };
    let mut counts = Vec::new();
    for round in 0..6 {
        for i in 0..40 {
            let (path, other) = (format!("d/f{i}"), format!("d/g{i}"));
            let held = mount.open(&path, OFlags::RDWR).unwrap();
            mount.append(&path, "y").unwrap();
            mount.rename(&path, &other).unwrap();
            mount.write(&path, format!("{round}")).unwrap();
            mount.rename(&other, &path).unwrap();
            mount.unlink(&path).unwrap();
            tree::write_all(&held, b"still").unwrap();
            mount.write(&path, "x").unwrap();
        }
        let Some(open) = descriptors(pid) else { return not_here("the daemon's descriptors cannot be seen") };
        counts.push(open.len());
    }
    assert!(counts[5] <= counts[2] + 8, "descriptors after each round: {counts:?}");
    // What was unlinked while open goes when the kernel forgets it.
    let work = Tree::new(stack.scratch.path().join("work/work"));
    let few = wait_until(|| work.names("").is_ok_and(|names| names.len() <= 2));
    assert!(few || work.names("").is_err(), "{:?}", work.names(""));
    Ok(())
}
