//! The UUID of a file system in marks: as the kernel has it whichever call is missing, none, and one that appears.

use std::path::Path;

use crate::common::stack::Layer;
use crate::common::*;
use crate::mount_without;

const WORDS: [&str; 3] = ["", "fs-uuid", "fs-uuid,ext4-uuid"];
const INDEX: &str = ",index=on";

/// A stack on one file system, with a lower file of two names.
fn stack_on(system: &Path) -> Stack {
    let scratch = Scratch::within(system);
    let (lowers, upper) = (vec![Layer::new(scratch.dir("lower"))], Some(Layer::new(scratch.dir("upper"))));
    lowers[0].file("a", "low").hard_link("a", "b").file("plain", "low");
    let (merged, options) = (scratch.dir("merged"), Vec::new());
    Stack { scratch, lowers, upper, merged, options }
}

/// Changes the file by one of its names, and another file.
fn change(view: &Tree) -> (u64, u64) {
    view.append("a", " more").unwrap();
    view.append("plain", " more").unwrap();
    numbers(view)
}

fn numbers(view: &Tree) -> (u64, u64) {
    (view.stat("a").unwrap().st_ino, view.stat("plain").unwrap().st_ino)
}

/// Both names lead to the changed file.
fn assert_one_file(view: &Tree, what: &str) {
    assert_eq!((view.text("a"), view.text("b")), ("low more".into(), "low more".into()), "{what}");
    assert_eq!(view.stat("a").unwrap().st_ino, view.stat("b").unwrap().st_ino, "{what}");
}

/// Runs `test` on each file system whose UUID lasts.
fn on_each(test: impl Fn(&str, &Path)) {
    for kind in ["ext4", "xfs", "btrfs"] {
        let scratch = Scratch::in_memory();
        match System::native(kind, &scratch) {
            Ok(system) => test(kind, system.root()),
            Err(why) => say_skipped(&format!("{kind}: {why}")),
        }
    }
}

/// Why the kernel's OverlayFS is not there to be compared with. Where it is and refuses, that is for the tests.
fn no_overlay() -> Option<String> {
    let stack = Stack::new(1);
    let refused = Kernel::with(&stack.layer_options("work"), &stack.merged).err()?;
    (refused.raw_os_error() == Some(Errno::NODEV.raw_os_error()))
        .then(|| format!("no OverlayFS of the kernel's: {refused}"))
}

#[test]
fn the_kernel_takes_an_index_that_was_made_without_the_newer_calls_and_the_other_way_round() {
    if who() != Who::Root {
        skip!("file systems are mounted by root");
    }
    if let Some(why) = no_overlay() {
        skip!("{why}");
    }
    within(120, || {
        on_each(|kind, system| {
            for words in WORDS {
                let what = format!("{kind} without {words}");
                let stack = stack_on(system);
                let before = change(&mount_without(&stack, words, INDEX));
                let options = format!("{}{INDEX}", stack.layer_options("work"));
                let theirs = Kernel::with(&options, &stack.merged);
                assert_one_file(&theirs.unwrap_or_else(|e| panic!("{what}: {e}")), &what);
                let ours = mount_without(&stack, words, INDEX);
                assert_one_file(&ours, &what);
                assert_eq!(numbers(&ours), before, "{what}");
                drop(ours);

                let stack = stack_on(system);
                change(&Kernel::with(&format!("{}{INDEX}", stack.layer_options("work")), &stack.merged).unwrap());
                assert_one_file(&mount_without(&stack, words, INDEX), &format!("{what}, the kernel first"));
            }
        });
    });
}

/// Whether the kernel's OverlayFS is here and has `uuid=off`.
fn reads_uuid_off() -> bool {
    let why = match no_overlay() {
        None if kernel() < (5, 11) => Some("uuid=off is not in OverlayFS before Linux 5.11".into()),
        why => why,
    };
    why.iter().for_each(|why| say_skipped(&format!("the kernel's part: {why}")));
    why.is_none()
}

#[test]
fn marks_that_were_made_without_a_uuid_count_where_there_is_one() {
    if who() != Who::Root {
        skip!("file systems are mounted by root");
    }
    within(120, || {
        let reads_off = reads_uuid_off();
        on_each(|kind, system| {
            // As plyfs wrote before Linux 6.9, and as both do with uuid=off.
            for by_kernel in [false, true] {
                if by_kernel && !reads_off {
                    continue;
                }
                let stack = stack_on(system);
                let off = format!("{INDEX},uuid=off");
                let before = match by_kernel {
                    true => {
                        let options = format!("{}{off}", stack.layer_options("work"));
                        change(&Kernel::with(&options, &stack.merged).unwrap())
                    }
                    false => change(&mount_without(&stack, "", &off)),
                };
                let what = format!("{kind}, by the kernel: {by_kernel}");
                for more in [INDEX, "", INDEX] {
                    let ours = mount_without(&stack, "", more);
                    assert_one_file(&ours, &what);
                    assert_eq!(numbers(&ours), before, "{what}");
                    // What is made now is of one kind with what was there.
                    ours.append("b", "").unwrap();
                    assert!(!ours.messages().contains("index=off"), "{what}: {}", ours.messages());
                }
                if reads_off {
                    let options = format!("{}{off}", stack.layer_options("work"));
                    let theirs = Kernel::with(&options, &stack.merged).unwrap();
                    assert_one_file(&theirs, &format!("{what}, then the kernel"));
                }
            }
        });
    });
}

#[test]
fn a_uuid_that_nobody_tells_is_that_of_the_marks() {
    if who() != Who::Root {
        skip!("file systems are mounted by root");
    }
    if let Some(why) = no_overlay() {
        skip!("{why}");
    }
    bounded(|| {
        let scratch = Scratch::in_memory();
        let system = match System::native("tmpfs", &scratch) {
            Ok(system) => system,
            Err(why) => skip!("tmpfs: {why}"),
        };
        // The kernel knows the UUID of a tmpfs, and tells it from Linux 6.9 on only.
        let stack = stack_on(system.root());
        let options = format!("{}{INDEX}", stack.layer_options("work"));
        change(&Kernel::with(&options, &stack.merged).unwrap());
        let ours = mount_without(&stack, "fs-uuid", INDEX);
        assert_one_file(&ours, "after the kernel");
        ours.append("plain", " and more").unwrap();
        drop(ours);
        assert_one_file(&Kernel::with(&options, &stack.merged).unwrap(), "the kernel again");
    });
}

#[test]
fn files_of_two_file_systems_without_a_uuid_are_not_taken_for_each_other() {
    if who() != Who::Root {
        skip!("file systems are mounted by root");
    }
    bounded(|| {
        let scratch = Scratch::new();
        let packed = |number: u8| {
            System::packed("squashfs", &scratch, |layer| {
                let [a, b] = ["a", "b"].map(|name| format!("d{number}/{name}"));
                layer.file(&a, format!("data {number}")).hard_link(&a, &b);
            })
        };
        let (one, two) = match (packed(1), packed(2)) {
            (Ok(one), Ok(two)) => (one, two),
            (Err(why), _) | (_, Err(why)) => skip!("{why}"),
        };
        let [upper, work, merged] = ["upper", "work", "merged"].map(|name| scratch.dir(name).display().to_string());
        let (one, two) = (one.root().display(), two.root().display());
        let options = format!("lowerdir={one}:{two},upperdir={upper},workdir={work}");
        let mut mount = Mount::with(&options, Path::new(&merged), &scratch.path().join("log"));
        let number = |name: &str| mount.stat(name).unwrap().st_ino;
        // Else this tests nothing.
        assert_eq!(number("d1/a") & 0xffff, number("d2/a") & 0xffff);
        mount.append("d1/a", " changed").unwrap();
        for _ in 0..2 {
            for name in ["d2/a", "d2/b"] {
                assert_eq!(mount.text(name), "data 2", "{name}");
            }
            assert_eq!(mount.text("d1/a"), "data 1 changed");
            mount.remount();
        }
        assert!(mount.messages().contains("no UUID"), "{}", mount.messages());
    });
}
