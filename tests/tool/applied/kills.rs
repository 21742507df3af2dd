//! An apply that ends at any system call can be resumed, and no object is ever anything but what it was or will be.

use std::collections::BTreeSet;
use std::process::Command;

use plyfs::testing::seam::{self, Plan as Fault};

use super::*;

/// A stack with changes of every kind, which is not mounted.
fn changed(options: &str, commits: bool) -> (Stack, Seen) {
    let mut stack = Stack::in_memory(1);
    if !options.is_empty() {
        stack = stack.option(options);
    }
    let low = &stack.lowers[0];
    low.file("d/a", "12345").file("d/b", "other").file("d/e/deep", "deep").file("top", "top");
    low.file("s/t/u", "u").file("s/v", "v").file("gone/x", "x").file("gone/y/z", "z").file("big", vec![b'x'; 20_000]);
    stack.age();
    pause();
    let mut mount = stack.mount();
    mount.append("big", "more").unwrap();
    mount.chmod("top", 0o600).unwrap();
    mount.remove_all("gone").unwrap();
    mount.link("d/a", "again").unwrap();
    if commits {
        crate::ranges::commit(&mount).unwrap();
    }
    mount.unlink("d/b").unwrap();
    let _ = mount.rename("s", "z");
    let _ = mount.mkdir("s", 0o700);
    let _ = mount.write("s/new", "new");
    let _ = mount.write("z/t/w", "w");
    let _ = mount.unlink("z/v");
    if commits {
        mount.write("d/a", "54321").unwrap();
        crate::ranges::commit(&mount).unwrap();
    }
    mount.chmod("d/e", 0o700).unwrap();
    mount.remove_all("d/e").unwrap();
    mount.write("d/e", "a file now").unwrap();
    let expected = seen(&mount);
    mount.unmount();
    (stack, expected)
}

/// Another stack with the same layers.
fn copy(stack: &Stack) -> Stack {
    let other = Stack::in_memory(1);
    for name in ["lower0", "upper", "work"] {
        let (from, to) = (stack.scratch.path().join(name), other.scratch.path().join(name));
        let _ = std::fs::remove_dir(&to);
        let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(done.success());
    }
    Stack { options: stack.options.clone(), ..other }
}

/// Each object that both trees do not agree on is that of one of them, and nothing else is there.
fn check_between(now: &Seen, before: &Seen, after: &Seen) -> Result<(), String> {
    // Links and times change with what is around an object.
    let plain = |object: &view::Object| {
        let mut object = object.clone();
        object.nlink = 0;
        object
    };
    let all = |seen: &Seen| seen.view.objects.values().map(plain).collect::<Vec<_>>();
    let known: Vec<view::Object> = [all(before), all(after)].concat();
    for (path, object) in &now.view.objects {
        let object = plain(object);
        // A directory gets its attributes when all is in it, one after the other.
        let is_dir = object.kind == rustix::fs::FileType::Directory;
        if !is_dir && !known.contains(&object) {
            return Err(format!("{} is half of something: {object:?}", path.escape_ascii()));
        }
    }
    Ok(())
}

fn killed_at_each_call(options: &str, commits: bool) {
    let (stack, expected) = changed(options, commits);
    let before = seen(&stack.lowers[0]);
    let whole = copy(&stack);
    let ours = || What { ours: true, ..What::default() };
    let (done, calls) = seam::with_plan(Fault::count(), || apply(&whole, ours()));
    done.unwrap();
    assert!(calls > 200, "{calls}");
    let mut states = BTreeSet::new();
    let step = env_number("PLYFS_TEST_STEP", 3).max(1);
    for at in (0..calls).step_by(usize::try_from(step).unwrap()) {
        let stack = copy(&stack);
        let config = config(&stack);
        // What it says does not matter: from one call on nothing happens any more.
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            seam::with_plan(Fault::dead_from(at), || apply(&stack, ours()).is_ok()).0
        }));
        check_between(&seen(&stack.lowers[0]), &before, &expected)
            .unwrap_or_else(|why| panic!("killed at {at}: {why}"));
        // The one that resumes may be killed, too.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            seam::with_plan(Fault::dead_from(at % 90), || resume(&config).is_ok())
        }));
        check_between(&seen(&stack.lowers[0]), &before, &expected)
            .unwrap_or_else(|why| panic!("killed at {at}: {why}"));
        let resumed = resume(&config).unwrap_or_else(|refusal| panic!("killed at {at}: {refusal:?}"));
        states.insert(format!("{resumed:?}"));
        if resumed != Resumed::Done(Vec::new()) {
            apply(&stack, ours()).unwrap_or_else(|why| panic!("killed at {at}: {why:?}"));
        }
        if let Some(difference) = expected.difference(&seen(&stack.lowers[0])) {
            panic!("killed at {at} ({killed:?}) and resumed ({resumed:?}):\n{difference}");
        }
        assert_eq!(left_in(stack.upper().root()), [""; 0], "killed at {at}");
        let staged: Vec<_> =
            left_in(stack.lowers[0].root()).into_iter().filter(|name| name.starts_with(".plyfs")).collect();
        assert_eq!(staged, [""; 0], "killed at {at}");
        assert!(!stack.scratch.path().join("work/work/incompat").exists(), "killed at {at}");
        assert!(!stack.scratch.path().join("work/commits").exists(), "killed at {at}");
    }
    assert_eq!(states.len(), 3, "each state was met: {states:?}");
}

#[test]
fn an_apply_that_ends_at_any_call_is_resumed() {
    within(600, || killed_at_each_call("", false));
}

#[test]
fn the_same_where_all_is_copied() {
    within(600, || killed_at_each_call("redirect_dir=off,metacopy=off,index=off", false));
}

#[test]
fn the_same_with_commits() {
    within(600, || killed_at_each_call("", true));
}

#[test]
fn nothing_comes_to_a_directory_before_it_is_closed() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/old", "").perm("d", 0o755);
        stack.age();
        pause();
        let mut mount = stack.mount();
        mount.chmod("d", 0o700).unwrap();
        mount.write("d/secret", "secret").unwrap();
        mount.unmount();
        let ours = || What { ours: true, ..What::default() };
        let (_, calls) = seam::with_plan(Fault::count(), || apply(&copy(&stack), ours()));
        let mut came = 0;
        for at in 0..calls {
            let stack = copy(&stack);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                seam::with_plan(Fault::dead_from(at), || apply(&stack, ours()).is_ok())
            }));
            if stack.lowers[0].root().join("d/secret").exists() {
                came += 1;
                let mode = std::fs::metadata(stack.lowers[0].root().join("d")).unwrap().mode();
                assert_eq!(mode & 0o7777, 0o700, "killed at {at}");
            }
        }
        assert!(came > 1, "it came {came} times");
    });
}

#[test]
fn a_call_that_fails_leaves_all_as_it_was_or_can_be_resumed() {
    within(600, || {
        let (stack, expected) = changed("", false);
        let before = seen(&stack.lowers[0]);
        let ours = || What { ours: true, ..What::default() };
        let (_, calls) = seam::with_plan(Fault::count(), || apply(&copy(&stack), ours()));
        for at in (0..calls).step_by(7) {
            let stack = copy(&stack);
            let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                seam::with_plan(Fault::fail(at, plyfs::Errno::ENOSPC), || apply(&stack, ours())).0
            }));
            let Ok(failed) = failed else { continue };
            let has_journal = stack.scratch.path().join("work/work/incompat/plyfs.apply/journal").exists();
            match failed {
                Ok(_) => assert_eq!(expected.difference(&seen(&stack.lowers[0])), None, "failed at {at}"),
                Err(_) if has_journal => {}
                Err(_) => {
                    // The end of the journal is the last that can fail.
                    let now = seen(&stack.lowers[0]);
                    let is_done = expected.difference(&now).is_none();
                    assert!(is_done || before.difference(&now).is_none(), "failed at {at}");
                }
            }
            if resume(&config(&stack)) != Ok(Resumed::Done(Vec::new())) {
                apply(&stack, ours()).unwrap();
            }
            assert_eq!(expected.difference(&seen(&stack.lowers[0])), None, "failed at {at}");
        }
    });
}

#[test]
fn an_upper_layer_is_not_mounted_until_its_apply_is_resumed() {
    bounded(|| {
        let (stack, expected) = changed("", false);
        let (_, calls) =
            seam::with_plan(Fault::count(), || apply(&copy(&stack), What { ours: true, ..What::default() }));
        let stack = copy(&stack);
        let _ =
            seam::with_plan(Fault::dead_from(calls * 4 / 5), || apply(&stack, What { ours: true, ..What::default() }));
        let options = stack.layer_options("work");
        let run = |args: &[&str]| {
            let out = Command::new(mount::binary()).args(args).output().unwrap();
            (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
        };
        let (code, said) = run(&["-o", &options, stack.merged.to_str().unwrap()]);
        assert!(code == Some(1) && said.contains("plyfs apply --resume"), "{code:?} {said}");
        assert!(stack.mount_kernel().is_none(), "the kernel's OverlayFS mounts it");
        for args in [&["diff", "-o", &options][..], &["apply", "-o", &options]] {
            let (code, said) = run(args);
            assert!(
                code == Some(1) && said.contains("broken off") && said.contains("--resume"),
                "{args:?} {code:?} {said}"
            );
        }
        assert_eq!(run(&["apply", "--resume", "-o", &options]), (Some(0), String::new()));
        check_applied(&stack, &expected).unwrap();
        assert_eq!(run(&["apply", "--resume", "-o", &options]).0, Some(1), "there is nothing to resume");
    });
}
