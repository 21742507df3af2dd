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
        let options = |l: &str, u: &str, w: &str| format!("lowerdir={base}/{l},upperdir={base}/{u},workdir={base}/{w}");
        for (l, u, w) in [
            ("absent", "upper", "work"),
            ("lower0", "absent", "work"),
            ("lower0/file", "upper", "work"),
            ("lower0", "lower0/file", "work"),
            ("lower0", "upper", "lower0/file"),
            ("lower0", "upper", "upper"),
            ("lower0", "upper", "upper/work"),
            ("lower0", "work/upper", "work"),
        ] {
            for dir in ["upper", "upper/work", "work", "work/upper"].iter().filter(|d| [u, w].contains(d)) {
                stack.scratch.dir(dir);
            }
            let said = refused(&stack, &options(l, u, w));
            assert!(!mount::is_plyfs() || said.lines().count() == 1, "one line, not: {said}");
            let _ = std::fs::remove_dir(stack.upper().at("work"));
            let _ = std::fs::remove_dir(stack.scratch.path().join("work/upper"));
            assert_eq!(stack.upper().names("").unwrap(), [""; 0]);
        }
        // Right in itself (with / as a layer there is no other way), but it must not go unsaid.
        let options = options("lower0", "lower0/sub", "work");
        if let Ok(mount) = Mount::try_with(&options, &stack.merged, &stack.scratch.path().join("log")) {
            assert!(mount.messages().contains("upperdir"), "mounted without a word: {options}");
        }
        let after = view::layer(stack.lowers[0].root());
        assert_eq!(after.objects.keys().collect::<Vec<_>>(), before.objects.keys().collect::<Vec<_>>());
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
