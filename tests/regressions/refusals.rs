//! What may not be mounted: one line, the reason, and nothing touched.

use crate::common::*;

/// The error of a mount that should fail; everything else is a failure of the test.
fn refused(stack: &Stack, options: &str) -> String {
    let (at, log) = (stack.scratch.dir("refused"), stack.scratch.path().join("refused-log"));
    let _ = std::fs::remove_file(&log);
    match Mount::try_with(options, &at, &log) {
        Ok(_) => panic!("mounted: {options}"),
        Err(why) => {
            assert!(!mount::is_mounted(&at));
            why
        }
    }
}

/// Fails on the kernel (a warning), fo1 and fo2.
#[test]
fn an_upper_or_a_workdir_in_use_by_another_daemon() {
    bounded(|| {
        let (stack, other) = (Stack::new(1), Stack::new(1));
        stack.lowers[0].file("f", "x");
        let mount = stack.mount();
        let (lower, dir) = (stack.lowers[0].root().display(), |t: &Tree| t.root().display().to_string());
        let (upper, work) = (dir(stack.upper()), stack.scratch.dir("work").display().to_string());
        let (upper2, work2) = (dir(other.upper()), other.scratch.dir("work").display().to_string());
        refused(&stack, &format!("lowerdir={lower},upperdir={upper},workdir={work}"));
        refused(&stack, &format!("lowerdir={lower},upperdir={upper},workdir={work2}"));
        refused(&stack, &format!("lowerdir={lower},upperdir={upper2},workdir={work}"));
        // The one that was there works on, and leaves the way free.
        mount.append("f", "y").unwrap();
        drop(mount);
        let mount = stack.mount();
        assert_eq!(mount.text("f"), "xy");
    });
}

/// fo1 and fo2 mount most of these.
#[test]
fn layers_that_cannot_be() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("sub/f", "x").file("file", "x");
        let (base, before) = (stack.scratch.path().display(), view::layer(stack.lowers[0].root()));
        stack.scratch.dir("work");
        stack.scratch.dir("lower0/sub/work");
        let (lower, upper, work) = ("lower0", "upper", "work");
        let options = |l: &str, u: &str, w: &str| format!("lowerdir={base}/{l},upperdir={base}/{u},workdir={base}/{w}");
        for (l, u, w) in [
            ("absent", upper, work),
            (lower, "absent", work),
            ("lower0/file", upper, work),
            (lower, "lower0/file", work),
            (lower, "upper", "upper"),
            (lower, "upper", "upper/work"),
            (lower, "work/upper", "work"),
            (lower, "lower0/sub", work),
        ] {
            std::fs::create_dir_all(stack.scratch.path().join("upper")).unwrap();
            let said = refused(&stack, &options(l, u, w));
            assert!(said.lines().count() <= 2, "one line of ours, not: {said}");
        }
        std::fs::remove_dir(stack.scratch.path().join("lower0/sub/work")).unwrap();
        assert_eq!(stack.upper().names("").unwrap(), [""; 0]);
        view::layer(stack.lowers[0].root()).assert_same(&before, "the lower layer (after, before)");
    });
}

#[test]
fn an_upper_without_a_workdir_and_no_lower() {
    bounded(|| {
        let stack = Stack::new(1);
        refused(
            &stack,
            &format!("lowerdir={},upperdir={}", stack.lowers[0].root().display(), stack.upper().root().display()),
        );
        refused(&stack, "lowerdir=");
    });
}
