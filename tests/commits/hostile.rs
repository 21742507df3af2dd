//! Marks and directories that somebody has made by hand: a view that stands on what cannot be is refused, and nothing outside
//! of `workdir/commits` is ever opened.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use plyfs::Union;

use crate::common::stack::prefix;
use crate::common::*;
use crate::engine::config;

/// Puts the commit of another view in the place of one.
fn swap(base: &Path, number: u64) {
    let other = stack();
    fs::rename(commit(base, number), base.join("old")).unwrap();
    let dirs = [commit(other.path(), number), commit(base, number)];
    assert!(std::process::Command::new("cp").arg("-a").args(dirs).status().unwrap().success());
}

/// What is done to a stack of two commits, and a part of what is said of it.
type Row = (&'static str, fn(&Path), &'static str);

fn mark(layer: &Path, value: &str) {
    Tree::new(layer).set_xattr("", format!("{}plyfs.on", prefix()), value.as_bytes()).unwrap();
}

fn commit(base: &Path, number: u64) -> std::path::PathBuf {
    base.join(format!("work/commits/{number}"))
}

const ROWS: [Row; 14] = [
    ("a commit that is not there", |base| mark(&base.join("upper"), "7"), "commit 7"),
    ("a commit of another view", |base| swap(base, 2), "commit 2"),
    ("a commit of another view below", |base| swap(base, 1), "commit 1"),
    ("a path", |base| mark(&base.join("upper"), "../../lower"), "plyfs.on"),
    ("a number with a sign", |base| mark(&base.join("upper"), "-1"), "plyfs.on"),
    ("a number without end", |base| mark(&base.join("upper"), &"9".repeat(60)), "plyfs.on"),
    ("a commit on itself", |base| mark(&commit(base, 1).join("layer"), "1"), "commit 1"),
    ("a circle", |base| mark(&commit(base, 1).join("layer"), "2"), "commit 1"),
    (
        "a commit that is a symlink",
        |base| {
            fs::rename(commit(base, 1), base.join("elsewhere")).unwrap();
            symlink(base.join("elsewhere"), commit(base, 1)).unwrap();
        },
        "commit 1",
    ),
    (
        "a layer that is a symlink",
        |base| {
            fs::rename(commit(base, 1).join("layer"), base.join("elsewhere")).unwrap();
            symlink(base.join("elsewhere"), commit(base, 1).join("layer")).unwrap();
        },
        "commit 1",
    ),
    (
        "a layer that is a fifo",
        |base| {
            fs::rename(commit(base, 1).join("layer"), base.join("elsewhere")).unwrap();
            Tree::new(commit(base, 1)).mknod("layer", rustix::fs::FileType::Fifo, 0o600, 0).unwrap();
        },
        "commit 1",
    ),
    (
        "a layer that is a file",
        |base| {
            fs::rename(commit(base, 1).join("layer"), base.join("elsewhere")).unwrap();
            fs::write(commit(base, 1).join("layer"), "").unwrap();
        },
        "commit 1",
    ),
    (
        "no directory of commits",
        |base| fs::rename(base.join("work/commits"), base.join("elsewhere")).unwrap(),
        "commit 2",
    ),
    (
        "commits that are a symlink",
        |base| {
            fs::rename(base.join("work/commits"), base.join("elsewhere")).unwrap();
            symlink(base.join("elsewhere"), base.join("work/commits")).unwrap();
        },
        "commit",
    ),
];

fn stack() -> Scratch {
    let scratch = Scratch::new();
    let base = scratch.path();
    for dir in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    for name in ["one", "two"] {
        fs::write(base.join("upper").join(name), name).unwrap();
        crate::crash::take(base, &crate::crash::commit()).unwrap();
    }
    scratch
}

#[test]
fn what_does_not_stand_on_commits_is_refused_in_one_line() {
    for (what, change, said) in ROWS {
        let scratch = stack();
        let base = scratch.path();
        assert!(Union::open(config(&base.join("lower"), base)).is_ok(), "{what}: before");
        change(base);
        let error = Union::open(config(&base.join("lower"), base)).map(drop).unwrap_err();
        assert!(error.to_string().contains(said), "{what}: {error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn what_is_said_of_a_commit_may_be_anything() {
    for change in [
        |about: &Path| fs::write(about, [0xff; 9000]).unwrap(),
        |about: &Path| Tree::new(about.parent().unwrap()).mknod("about", rustix::fs::FileType::Fifo, 0o600, 0).unwrap(),
        |about: &Path| symlink("/dev/zero", about).unwrap(),
        |_: &Path| {},
    ] {
        let scratch = stack();
        let about = commit(scratch.path(), 2).join("about");
        fs::remove_file(&about).unwrap();
        change(&about);
        within(20, move || {
            let union = Union::open(config(&scratch.path().join("lower"), scratch.path())).unwrap();
            assert_eq!(union.log().unwrap().commits.len(), 2);
        });
    }
}

/// As they were made by a version without ids.
#[test]
fn commits_without_ids_are_the_right_ones() {
    let (one, two) = (stack(), stack());
    let strip = |base: &Path| {
        for (layer, on) in [(base.join("upper"), "2"), (commit(base, 2).join("layer"), "1")] {
            mark(&layer, on);
        }
        for number in [1, 2] {
            let about = commit(base, number).join("about");
            let text = fs::read_to_string(&about).unwrap();
            let words: Vec<_> = text.lines().next().unwrap().split(' ').take(2).collect();
            fs::write(about, words.join(" ") + "\ntext").unwrap();
        }
    };
    strip(one.path());
    let open = |base: &Path| Union::open(config(&base.join("lower"), base)).map(|union| union.log().unwrap());
    assert_eq!(open(one.path()).unwrap().commits.len(), 2);
    // Half of them: what is not known is not refused.
    strip(two.path());
    mark(&two.path().join("upper"), "2 #00000000000000000000000000000007");
    assert!(open(two.path()).is_ok());
    crate::crash::take(one.path(), &plyfs::union::Step::Undo { to: None }).unwrap();
    assert_eq!(open(one.path()).unwrap().commits.len(), 3);
}

/// The mark of a view is not among the attributes that its user sets.
#[test]
fn nobody_sets_or_sees_the_mark_through_the_view() {
    let stack = Stack::new(1);
    stack.upper().file("f", "f");
    crate::plyfs(&["commit", "-o", &stack.layer_options("work")]).unwrap();
    let mount = stack.mount();
    let key = format!("{}plyfs.on", prefix());
    assert!(mount.xattr("", &key).is_err());
    mount.set_xattr("", &key, b"0").unwrap();
    drop(mount);
    let mount = stack.mount();
    assert_eq!(mount.read("f").unwrap(), b"f");
}
