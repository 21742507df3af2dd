//! Trees that are deeper than a path can say, and stacks of many layers.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

use rustix::fs::{self as sys, CWD, Mode, OFlags};

use crate::common::tree::{read_all, write_all};
use crate::common::*;
use crate::status_of;

/// The directory `levels` below `top` in steps of `name`, made on the way where `make`. No path is longer than a name.
fn descend(top: &std::path::Path, name: &str, levels: usize, make: bool) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = sys::openat(CWD, top, flags, Mode::empty()).unwrap();
    for level in 0..levels {
        if make {
            sys::mkdirat(&at, name, Mode::RWXU).unwrap_or_else(|e| panic!("level {level}: {e:?}"));
        }
        at = sys::openat(&at, name, flags, Mode::empty()).unwrap_or_else(|e| panic!("level {level}: {e:?}"));
    }
    at
}

fn put(dir: impl AsFd, name: &str, text: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    write_all(&sys::openat(dir, name, flags, Mode::from(0o644)).unwrap(), text.as_bytes()).unwrap();
}

fn get(dir: impl AsFd, name: &str) -> String {
    String::from_utf8(read_all(&sys::openat(dir, name, OFlags::RDONLY, Mode::empty()).unwrap()).unwrap()).unwrap()
}

fn remove_deep(what: &std::path::Path) {
    let done = Command::new("rm").arg("-rf").arg(what).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn forget_all() {
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "2");
}

/// Names of 40 bytes: 5,000 levels are a path of 200 KB.
const STEP: &str = "directory-with-a-name-of-forty-bytes-....";

#[test]
fn five_thousand_levels_are_made_walked_copied_up_renamed_and_removed() {
    within(600, || {
        const LEVELS: usize = 5000;
        let stack = crate::stack(1);
        let lower = stack.lowers[0].root().to_owned();
        std::fs::create_dir(lower.join("l")).unwrap();
        put(descend(&lower.join("l"), STEP, LEVELS, true), "f", "lower");
        let mut mount = stack.mount();
        let start = Instant::now();
        let at = |top: &str| stack.merged.join(top);
        assert_eq!(get(descend(&at("l"), STEP, LEVELS, false), "f"), "lower");
        let walked = start.elapsed();
        // A tree of one's own.
        mount.mkdir("u", 0o755).unwrap();
        put(descend(&at("u"), STEP, LEVELS, true), "f", "upper");
        let made = start.elapsed();
        // All the directories on the way are copied up; a name far above changes; one far below.
        put(descend(&at("l"), STEP, LEVELS, false), "f", "changed");
        let copied = start.elapsed();
        mount.rename("u", "v").unwrap();
        mount.rename("l", "k").unwrap();
        let deep = descend(&at("k"), STEP, LEVELS - 1, false);
        sys::renameat(&deep, STEP, &deep, "other").unwrap();
        put(&deep, "new", "new");
        drop(deep);
        assert_eq!(get(descend(&at("v"), STEP, LEVELS, false), "f"), "upper");
        forget_all();
        let deep = descend(&at("k"), STEP, LEVELS - 1, false);
        let below = sys::openat(&deep, "other", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!((get(&below, "f"), get(&deep, "new")), ("changed".into(), "new".into()));
        drop((deep, below));
        let renamed = start.elapsed();
        mount.remount();
        let deep = descend(&at("k"), STEP, LEVELS - 1, false);
        let below = sys::openat(&deep, "other", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(get(&below, "f"), "changed");
        drop((deep, below));
        let again = start.elapsed();
        remove_deep(&at("k"));
        remove_deep(&at("v"));
        println!(
            "{LEVELS} levels: walked {walked:?}, made {:?}, copied up {:?}, renamed {:?}, walked again {:?}, removed {:?}",
            made - walked,
            copied - made,
            renamed - copied,
            again - renamed,
            start.elapsed() - again
        );
        assert_eq!(mount.names("").unwrap(), [""; 0]);
        mount.remount();
        assert_eq!(mount.names("").unwrap(), [""; 0]);
        drop(mount);
        remove_deep(&stack.scratch.path().join("work"));
        remove_deep(&lower.join("l"));
    });
}

/// A normal program comes that deep by chdir.
#[test]
fn a_path_longer_than_path_max_is_used_through_nested_chdir() {
    within(120, || {
        let stack = crate::stack(1);
        let mount = stack.mount();
        let script = r#"i=0
            while [ $i -lt 150 ]; do mkdir "$1" && cd -P "./$1" || exit 1; i=$((i+1)); done
            echo text > f && cat f && mv f g && ln g h && rm g && ls && chmod 600 h && cat h"#;
        let out = Command::new("bash").args(["-c", script, "bash", STEP]).current_dir(mount.root()).output();
        let Ok(out) = out else { skip!("no bash") };
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(String::from_utf8_lossy(&out.stdout), "text\nh\ntext\n");
        let long = vec![STEP; 120].join("/");
        assert_eq!(mount.stat(long).err(), Some(Errno::NAMETOOLONG), "the kernel's own limit");
        remove_deep(&mount.at(STEP));
        assert_eq!(mount.names("").unwrap(), [""; 0]);
    });
}

/// Every layer has the directory, one file of its own, a new version of one file, and whiteouts what the one below has.
#[test]
fn five_hundred_lower_layers() {
    within(300, || {
        let layers = 500;
        let stack = crate::stack(layers);
        for (i, layer) in stack.lowers.iter().enumerate() {
            layer.file(&format!("d/own{i}"), format!("{i}")).file("d/same", format!("{i}"));
            layer.file(&format!("d/gone{i}"), "");
            if i + 1 < layers && who() == Who::Root {
                layer.whiteout(&format!("d/gone{}", i + 1));
            }
        }
        let mut mount = stack.mount();
        let kept = if who() == Who::Root { 1 } else { layers };
        assert_eq!(mount.names("d").unwrap().len(), layers + 1 + kept);
        assert_eq!(mount.text("d/same"), "0");
        let start = Instant::now();
        for i in (0..layers).step_by(21) {
            assert_eq!(mount.text(format!("d/own{i}")), format!("{i}"));
            mount.write(format!("d/own{i}"), "new").unwrap();
            assert!(mount.stat(format!("d/absent{i}")).is_err());
        }
        println!(
            "{layers} layers: {} KiB, {:?} for {} files",
            status_of(&mount, "VmRSS"),
            start.elapsed(),
            layers / 21
        );
        mount.rename("d", "e").unwrap();
        mount.remount();
        assert_eq!((mount.text("e/own21"), mount.text("e/own8")), ("new".into(), "8".into()));
        mount.remove_all("e").unwrap();
        mount.mkdir("d", 0o755).unwrap();
        mount.remount();
        assert_eq!(mount.names("d").unwrap(), [""; 0]);
    });
}
