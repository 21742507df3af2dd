//! Inode numbers where each upper layer becomes a lower one: what is copied up again keeps its number.

use std::collections::BTreeMap;
use std::path::Path;

use rustix::fs::{Dir, FileType, OFlags};

use crate::common::tree::OLD;
use crate::common::*;

/// As many as an upper layer of each may become a lower one of the next.
const LAYERS: usize = 10;

/// What stands in the lowest layer, how each layer changes it, and where its number cannot be kept: `r` stands for what
/// has a new name each time.
type Row = (&'static str, fn(&Mount, &str), &'static [Unless]);

#[derive(PartialEq, Clone, Copy)]
enum Unless {
    /// `user.*` attributes do not go on it.
    UserMarks,
    /// The names part over a remount.
    NoIndex,
}
use Unless::{NoIndex, UserMarks};

const ROWS: &[Row] = &[
    ("written", |m, at| m.append(at, "+").unwrap(), &[]),
    ("touched", |m, at| m.utimes(at, OLD).unwrap(), &[]),
    ("mode", |m, at| m.chmod(at, 0o640).unwrap(), &[]),
    ("empty", |m, at| m.utimes(at, OLD).unwrap(), &[]),
    ("dir", |m, at| m.chmod(at, 0o750).unwrap(), &[]),
    ("dir/within", |m, at| m.append(at, "+").unwrap(), &[]),
    ("symlink", |m, at| m.utimes(at, OLD).unwrap(), &[UserMarks]),
    ("fifo", |m, at| m.utimes(at, OLD).unwrap(), &[UserMarks]),
    ("socket", |m, at| m.utimes(at, OLD).unwrap(), &[UserMarks]),
    ("device", |m, at| m.utimes(at, OLD).unwrap(), &[UserMarks]),
    ("linked", |m, at| m.append(at, "+").unwrap(), &[NoIndex]),
    ("another", |_, _| (), &[NoIndex]),
    ("renamed", |m, at| rename(m, at), &[]),
    ("moved", |m, at| rename(m, at), &[]),
    ("moved/within", |m, at| m.chmod(at, 0o640).unwrap(), &[]),
    ("untouched", |_, _| (), &[]),
];

/// It goes to a new name in another directory and back, so that all that a rename writes is there.
fn rename(mount: &Mount, at: &str) {
    let aside = format!("dir/{at}-aside");
    mount.rename(at, &aside).unwrap();
    mount.rename(&aside, at).unwrap();
}

fn lowest(layer: &stack::Layer) {
    let at = ["written", "touched", "mode", "dir/within", "linked", "renamed", "moved/within", "untouched"];
    for name in at {
        layer.file(name, format!("of {name}"));
    }
    layer.file("empty", "").hard_link("linked", "another").soft_link("target", "symlink").fifo("fifo");
    layer.mknod("socket", FileType::Socket, 0o644, 0).unwrap();
    if who() == Who::Root {
        layer.mknod("device", FileType::CharacterDevice, 0o644, rustix::fs::makedev(1, 3)).unwrap();
    }
}

/// `st_ino` of each row; the same as `d_ino`.
fn numbers(tree: &Tree, when: &str) -> BTreeMap<&'static str, u64> {
    let there = |(name, _, _): &Row| Some((*name, tree.stat(name).ok()?.st_ino));
    let numbers: BTreeMap<_, _> = ROWS.iter().filter_map(there).collect();
    assert_eq!(numbers.len(), ROWS.len() - usize::from(who() != Who::Root), "{when}");
    for (name, number) in &numbers {
        let path = Path::new(name);
        let dir = Dir::new(tree.open(path.parent().unwrap(), OFlags::RDONLY | OFlags::DIRECTORY).unwrap()).unwrap();
        let entry =
            dir.map(Result::unwrap).find(|entry| entry.file_name().to_str().ok() == path.file_name().unwrap().to_str());
        assert_eq!(entry.unwrap().ino(), *number, "{when}: d_ino of {name}");
    }
    numbers
}

fn assert_kept(before: &BTreeMap<&str, u64>, tree: &Tree, lost: &[Unless], when: &str) {
    let now = numbers(tree, when);
    for (name, _, unless) in ROWS.iter().filter(|(name, _, _)| before.contains_key(name)) {
        if !unless.iter().any(|unless| lost.contains(unless)) {
            assert_eq!(now[name], before[name], "{when}: {name}");
        }
    }
}

fn forget() {
    if who() == Who::Root {
        std::fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    }
}

/// Ten layers, each an upper one before. The number is that of the topmost lower object, as in the kernel's OverlayFS: it
/// stays over copy-up, when the kernel forgets the inode, and over a remount. (Under one layer more it is another, there,
/// too.)
#[test]
fn numbers_stay_where_each_layer_was_an_upper_one() {
    within(240, || {
        let all = who() == Who::Root && mount::is_plyfs();
        let root: &[(&str, &[Unless])] = &[("userxattr", &[UserMarks])];
        let each: &[(&str, &[Unless])] = &[
            ("index=on", &[]),
            ("index=off", &[NoIndex]),
            ("metacopy=off", &[]),
            ("redirect_dir=on,metacopy=on", &[]),
        ];
        let kernel = all && Kernel::usable();
        if all && !kernel {
            say_skipped("the kernel's OverlayFS cannot be mounted here");
        }
        for (options, lost) in each.iter().chain(if all { root } else { &[] }) {
            let lost = if who() == Who::Root { lost.to_vec() } else { [lost, &[UserMarks][..]].concat() };
            let mut stack = Stack::new(1).option(options);
            lowest(&stack.lowers[0]);
            for layer in 0..LAYERS {
                if layer > 0 {
                    let upper = stack.upper.replace(stack::Layer::new(stack.scratch.dir(&format!("upper{layer}"))));
                    stack.lowers.insert(0, upper.unwrap());
                }
                one_layer(&stack, layer, &lost, options, kernel);
            }
        }
    });
}

/// With the kernel's OverlayFS in the end, where it is to be had.
fn one_layer(stack: &Stack, layer: usize, lost: &[Unless], options: &str, kernel: bool) {
    let work = format!("work{layer}");
    let up = || {
        Mount::with(
            &format!("{},{options}", stack.layer_options(&work)),
            &stack.merged,
            &stack.scratch.path().join("log"),
        )
    };
    let when = |what: &str| format!("{options}, layer {layer}, {what}");
    let mut mount = up();
    let before = numbers(&mount, &when("before"));
    // No test that runs beside this one makes the kernel forget them.
    let held: Vec<_> = before.keys().map(|name| mount.open(name, OFlags::PATH).unwrap()).collect();
    for (name, change, _) in ROWS.iter().filter(|(name, _, _)| before.contains_key(name)) {
        change(&mount, name);
    }
    assert_kept(&before, &mount, &[], &when("copied up"));
    drop(held);
    forget();
    assert_kept(&before, &mount, lost, &when("forgotten by the kernel"));
    mount.remount();
    assert_kept(&before, &mount, lost, &when("mounted again"));
    mount.unmount();
    if kernel && !options.contains("userxattr") {
        let index = if options.contains("index=off") { "off" } else { "on" };
        let options = format!("{},index={index},xino=on,redirect_dir=on,metacopy=on", stack.layer_options(&work));
        let kernel = Kernel::with(&options, &stack.merged).unwrap();
        assert_kept(&before, &kernel, lost, &when("in the kernel's OverlayFS"));
    }
}
