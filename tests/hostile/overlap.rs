//! Layers that lie in each other by a way that their paths do not show, two daemons, and workdirs with a past.

use std::path::Path;

use rustix::fs::FileType;
use rustix::mount::mount_bind;

use crate::common::scratch::Mounted;
use crate::common::*;
use crate::{Ran, not_here};

/// Shows `what` at a new directory `at` as well.
pub fn bind(what: &Path, at: &Path) -> Option<Mounted> {
    mount_bind(what, at).ok().map(|()| Mounted::adopt(at))
}

/// Mounts with these directories, if that is allowed.
pub fn try_mount(stack: &Stack, lower: &Path, upper: &Path, work: &Path) -> Result<Mount, String> {
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    Mount::try_with(&options, &stack.merged, &stack.scratch.path().join("log"))
}

/// Refused at the mount, or refused by name where the layers meet: never both in one view.
fn apart(mounted: Result<Mount, String>, meeting: &str) {
    let Ok(mount) = mounted else { return };
    mount.write("new", "new").unwrap();
    let within = |name: &str| format!("{meeting}/{name}");
    assert_eq!(mount.stat(within("new")).map(drop), Err(Errno::LOOP), "{meeting} shows what is written elsewhere");
    assert_eq!(mount.names(meeting), Err(Errno::LOOP), "{meeting}");
    assert_eq!(mount.write(within("made"), ""), Err(Errno::LOOP), "{meeting}");
    assert!(mount.rename(meeting, "moved").is_err() && mount.rmdir(meeting).is_err());
    assert_eq!((mount.text("f"), mount.text("new")), ("x".into(), "new".into()), "the rest of the view is of use");
}

/// Fails on fo1 and fo2; the kernel answers ELOOP.
pub fn layers_that_meet_through_a_bind_mount_are_refused() -> Ran {
    let probe = Stack::new(1);
    if who() == Who::User || bind(probe.lowers[0].root(), &probe.scratch.dir("bound")).is_none() {
        return not_here("bind mounts are needed");
    }
    // A lower layer in the upper one, the workdir in it, and either in the workdir.
    for (inner, outer) in [("lower0", "upper"), ("work", "upper"), ("lower0", "work"), ("upper", "work")] {
        let stack = Stack::new(1);
        let dir = |name: &str| stack.scratch.dir(name);
        for name in ["lower0", "upper", "work"] {
            std::fs::write(dir(name).join("f"), "x").unwrap();
        }
        let meeting = dir(&format!("{outer}/a/meeting"));
        if inner != "work" {
            std::fs::write(meeting.join("f"), "x").unwrap();
        }
        let bound = dir("bound");
        let Some(held) = bind(&meeting, &bound) else { return not_here("bind mounts are needed") };
        let path = |name: &str| if name == inner { bound.clone() } else { dir(name) };
        let (lower, upper) = (path("lower0"), path("upper"));
        let work = path("work");
        apart(try_mount(&stack, &lower, &upper, &work), "a/meeting");
        drop(held);
    }
    Ok(())
}

/// The lock is on the directory, not on its path.
pub fn an_upper_layer_in_use_is_in_use_by_every_path() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "x");
    let first = stack.mount();
    let (work, other) = (stack.scratch.dir("work"), stack.scratch.dir("other"));
    std::os::unix::fs::symlink("upper", stack.scratch.path().join("upper-link")).unwrap();
    std::os::unix::fs::symlink("work", stack.scratch.path().join("work-link")).unwrap();
    let (lower, at) = (stack.lowers[0].root(), stack.scratch.dir("second"));
    let bound = stack.scratch.dir("bound");
    let held = bind(stack.upper().root(), &bound);
    let mut uppers = vec![stack.scratch.path().join("upper-link"), stack.scratch.path().join("upper/../upper")];
    uppers.extend(held.as_ref().map(|_| bound.clone()));
    let mut pairs: Vec<_> = uppers.into_iter().map(|upper| (upper, other.clone())).collect();
    pairs.push((stack.scratch.dir("upper2"), work));
    pairs.push((stack.scratch.dir("upper2"), stack.scratch.path().join("work-link")));
    for (upper, work) in pairs {
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let second = Mount::try_with(&options, &at, &stack.scratch.path().join("log2"));
        assert!(second.is_err(), "a second daemon: {options}");
    }
    first.append("f", "y").unwrap();
    drop((first, held));
    assert_eq!(stack.mount().text("f"), "xy");
    Ok(())
}

/// What stands in a workdir already, and whether it can be one.
type Odd = (&'static str, fn(&Tree), bool);

const ODD: [Odd; 9] = [
    ("work is a file", |dir| dir.write("work", "mine").unwrap(), false),
    ("work is a symlink to a directory outside", |dir| dir.symlink("../outside", "work").unwrap(), false),
    ("work is a fifo", |dir| dir.mknod("work", FileType::Fifo, 0o644, 0).unwrap(), false),
    ("work is closed", |dir| dir.mkdir("work", 0).unwrap(), true),
    (
        "a deep tree is left in work",
        |dir| {
            std::fs::create_dir_all(dir.at(format!("work/#1/{}", "d/".repeat(200)))).unwrap();
            dir.mkdir("work/#1/closed", 0).unwrap();
        },
        true,
    ),
    (
        "work holds a symlink to a directory outside",
        |dir| {
            dir.mkdir("work", 0o755).unwrap();
            dir.symlink("../../outside", "work/#1").unwrap();
        },
        true,
    ),
    (
        "incompat is a symlink",
        |dir| {
            dir.mkdir("work", 0o755).unwrap();
            dir.symlink("../../outside", "work/incompat").unwrap();
        },
        false,
    ),
    ("index is a symlink", |dir| dir.symlink("../outside", "index").unwrap(), true),
    ("index is a file", |dir| dir.write("index", "mine").unwrap(), true),
];

pub fn a_workdir_with_odd_things_in_it_is_cleaned_or_refused() -> Ran {
    for (what, make, works) in ODD {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x").hard_link("f", "g");
        let outside = stack::Layer::new(stack.scratch.dir("outside"));
        outside.file("f", "outside").file("sub/f", "outside");
        let before = view::layer(outside.root());
        make(&Tree::new(stack.scratch.dir("work")));
        let (at, log) = (&stack.merged, stack.scratch.path().join("log"));
        match Mount::try_with(&stack.layer_options("work"), at, &log) {
            Ok(mount) => {
                assert!(works, "{what}: mounted");
                mount.append("f", "y").unwrap();
                mount.unlink("g").unwrap();
                assert_eq!((mount.text("f"), mount.names("").unwrap()), ("xy".into(), vec!["f".to_owned()]), "{what}");
            }
            Err(why) => {
                assert!(!works, "{what}: {why}");
                let said: Vec<_> = why.lines().filter(|line| line.contains("plyfs: ")).collect();
                assert_eq!(said.len(), 1, "{what}: not one line: {why}");
            }
        }
        view::layer(outside.root()).assert_same(&before, what);
    }
    Ok(())
}

/// The mount stands on its own lower or upper layer, and below one; with what is written going where it should.
pub fn a_view_on_top_of_its_own_layer_is_right() -> Ran {
    for name in ["lower0", "upper", "lower0/below"] {
        let mut stack = Stack::new(1);
        stack.lowers[0].file("f", "x").dir("below", 0o755);
        stack.merged = stack.scratch.dir(name);
        let before = view::layer(stack.lowers[0].root());
        let mut mount = stack.mount();
        for round in 0..3 {
            mount.append("f", "+").unwrap();
            mount.write(format!("new{round}"), "n").unwrap();
            let inner = mount.names("below");
            assert!(inner == Ok(vec![]) || inner == Err(Errno::XDEV), "{name}: {inner:?}");
            mount.remount();
        }
        assert_eq!(mount.text("f"), "x+++", "{name}");
        mount.unmount();
        assert_eq!(stack.upper().names("").unwrap(), ["f", "new0", "new1", "new2"], "{name}");
        view::layer(stack.lowers[0].root()).assert_same(&before, name);
    }
    Ok(())
}
