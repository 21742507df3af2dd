//! A view that stands on commits: all changes since the lower layer are applied together.

use super::*;
use crate::common::mount::binary;
use crate::ranges::commit;

fn plyfs(args: &[&str]) -> String {
    let out = std::process::Command::new(binary()).args(args).output().unwrap();
    String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
}

#[test]
fn what_has_changed_below_since_the_first_of_several_changes_is_a_conflict() {
    bounded(|| {
        let stack = Stack::new(1);
        let low = &stack.lowers[0];
        low.file("twice", "1")
            .file("moved", "1")
            .file("gone", "1")
            .file("saved", "1")
            .file("d/x", "1")
            .file("same", "1");
        low.file("taken", "1");
        stack.age();
        pause();
        let mut mount = stack.mount();
        for name in ["twice", "moved", "gone", "saved", "same", "taken"] {
            mount.append(name, "2").unwrap();
        }
        mount.chmod("d", 0o700).unwrap();
        assert_eq!(commit(&mount), Some(1));
        pause();
        for name in ["twice", "moved", "gone", "saved"] {
            std::fs::write(low.root().join(name), "changed").unwrap();
        }
        std::fs::write(low.root().join("d/y"), "new").unwrap();
        std::fs::remove_file(low.root().join("taken")).unwrap();
        pause();
        mount.append("twice", "3").unwrap();
        mount.append("same", "3").unwrap();
        mount.append("taken", "3").unwrap();
        mount.rename("moved", "there").unwrap();
        mount.unlink("gone").unwrap();
        mount.write(".saved", "3").unwrap();
        mount.rename(".saved", "saved").unwrap();
        mount.remove_all("d").unwrap();
        mount.unmount();
        let Err(Not::Conflicts(found)) = apply(&stack, What::default()) else { panic!("it was applied") };
        let paths: Vec<&str> = found.iter().map(|line| line.split_once(':').unwrap().0).collect();
        let expected = ["d", "d/y", "gone", "moved", "saved", "taken", "twice"];
        assert_eq!(paths, expected, "{found:?}");
        // What stands in commits can be applied as a whole only.
        let told = plyfs(&["apply", "-o", &stack.layer_options("work")]);
        assert!(told.ends_with("\nplyfs: 7 conflicts: nothing was changed (--ours overrides them)\n"), "{told}");
    });
}

#[test]
fn a_part_of_what_stands_in_commits_is_refused() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1").file("b", "1");
        stack.age();
        pause();
        let mut mount = stack.mount();
        mount.append("a", "2").unwrap();
        commit(&mount).unwrap();
        mount.append("b", "2").unwrap();
        mount.unmount();
        let refused = apply(&stack, What { paths: &["a"], ..What::default() });
        assert!(
            matches!(&refused, Err(Not::Refused(refusal)) if refusal.reason.contains("as a whole only")),
            "{refused:?}"
        );
        let before = seen(&stack.lowers[0]);
        assert_eq!(before.difference(&seen(&stack.lowers[0])), None);
        apply(&stack, What::default()).unwrap();
    });
}

#[test]
fn the_commits_that_were_applied_leave_the_log_and_others_stay() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1");
        stack.age();
        pause();
        let mut mount = stack.mount();
        let options = stack.layer_options("work");
        for text in ["2", "3", "4"] {
            mount.write("a", text).unwrap();
            commit(&mount).unwrap();
        }
        let at = stack.merged.to_str().unwrap();
        // 3 is left by the undo, and 4 stands on 2.
        plyfs(&["undo", at, "2"]);
        mount.write("a", "5").unwrap();
        assert_eq!(commit(&mount), Some(4));
        let expected = seen(&mount);
        mount.unmount();
        assert!(plyfs(&["apply", "-o", &options]).starts_with("applied 1 change: 1 modified"));
        assert_eq!(plyfs(&["log", "-o", &options]), "no commit\n");
        let mut left: Vec<_> = Tree::new(stack.scratch.path().join("work/commits")).names("").unwrap();
        left.sort();
        assert_eq!(left, ["1", "2", "3"], "3 stands on 2, and 2 on 1");
        check_applied(&stack, &expected).unwrap();
        assert!(plyfs(&["undo", "-o", &options, "3"]).contains("commit 3"));
        let mount = stack.mount();
        assert_eq!(mount.read("a").unwrap(), b"4");
    });
}
