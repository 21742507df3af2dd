//! What changes below between the plan and the steps, or before a resume, is not lost.

use super::*;

type Act = fn(&Tree);

/// Name, what the view does, what is done below when all is staged, and what the lower directory must keep.
#[rustfmt::skip]
const CASES: &[(&str, Act, Act, (&str, &str))] = &[
    ("bytes of what is replaced", |m| m.append("d/a", "6").unwrap(), |l| l.append("d/a", "precious").unwrap(), ("d/a", "12345precious")),
    ("bytes of what is deleted", |m| m.unlink("d/a").unwrap(), |l| l.append("d/a", "precious").unwrap(), ("d/a", "12345precious")),
    ("a new file in what is deleted", |m| m.remove_all("d").unwrap(), |l| l.write("d/new", "precious").unwrap(), ("d/new", "precious")),
    ("bytes deep in what is deleted", |m| m.remove_all("d").unwrap(), |l| l.append("d/e/deep", "precious").unwrap(), ("d/e/deep", "deepprecious")),
    ("a new file in what a file replaces", |m| { m.remove_all("d").unwrap(); m.write("d", "x").unwrap(); },
        |l| l.write("d/e/new", "precious").unwrap(), ("d/e/new", "precious")),
    ("another object in the place of what is deleted", |m| m.unlink("d/a").unwrap(),
        |l| { l.write("x", "precious").unwrap(); l.rename("x", "d/a").unwrap(); }, ("d/a", "precious")),
    ("the directory is another one", |m| m.write("d/n", "x").unwrap(),
        |l| { l.mkdir("x", 0o755).unwrap(); l.rename("d", "y").unwrap(); l.rename("x", "d").unwrap(); }, ("y/a", "12345")),
    ("something new in a directory that a renamed one leaves", |m| { let _ = m.rename("d/e", "e"); m.remove_all("d").unwrap(); },
        |l| l.write("d/new", "precious").unwrap(), ("d/new", "precious")),
];

#[test]
fn what_changes_while_changes_are_applied_is_kept_and_stops_the_apply() {
    within(120, || {
        for (name, above, below, (path, text)) in CASES {
            let stack = Stack::new(1);
            let low = &stack.lowers[0];
            low.file("d/a", "12345").file("d/b", "other").file("d/e/deep", "deep").file("first", "1");
            stack.age();
            pause();
            let mut mount = stack.mount();
            mount.append("first", "2").unwrap();
            above(&mount);
            let expected = seen(&mount);
            mount.unmount();
            pause();
            let config = config(&stack);
            let stopped = apply_after(&config, What::default(), || below(low));
            assert!(matches!(&stopped, Err(Not::Refused(refusal)) if refusal.conflict), "{name}: {stopped:?}");
            assert_eq!(&low.text(path), text, "{name}");
            let again = resume(&config);
            assert!(matches!(&again, Err(refusal) if refusal.conflict), "{name}: {again:?}");
            assert_eq!(&low.text(path), text, "{name}");
            assert_eq!(resume_with(&config, true), Ok(Resumed::Done(Vec::new())), "{name}");
            // What was below elsewhere stays.
            low.remove_all("y").ok();
            low.remove_all("x").ok();
            if !["another object in the place of what is deleted", "the directory is another one"].contains(name) {
                check_applied(&stack, &expected).unwrap_or_else(|why| panic!("{name}: {why}"));
            }
        }
    });
}

#[test]
fn hard_links_that_go_with_several_steps_are_no_conflict() {
    bounded(|| {
        let stack = Stack::new(1);
        let low = &stack.lowers[0];
        low.file("a", "1").hard_link("a", "b").dir("d", 0o755).hard_link("a", "d/c").file("d/x", "2");
        stack.age();
        pause();
        let mut mount = stack.mount();
        mount.unlink("a").unwrap();
        mount.unlink("b").unwrap();
        mount.remove_all("d").unwrap();
        let expected = seen(&mount);
        mount.unmount();
        assert_eq!(apply(&stack, What::default()), Ok(Vec::new()));
        check_applied(&stack, &expected).unwrap();
    });
}
