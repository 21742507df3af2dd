//! `plyfs apply` as its users call it.

use std::process::{Command, Output};

use super::*;

fn plyfs(args: &[&str]) -> Output {
    Command::new(mount::binary()).args(args).output().unwrap()
}

fn said(out: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

fn changed() -> (Stack, String) {
    let stack = Stack::new(1);
    stack.lowers[0].file("src/main", "1").file("old/f", "2").file("gone", "3");
    stack.age();
    pause();
    let mut mount = stack.mount();
    mount.append("src/main", "1").unwrap();
    mount.unlink("gone").unwrap();
    mount.write("new", "12").unwrap();
    mount.unmount();
    let options = stack.layer_options("work");
    (stack, options)
}

#[test]
fn a_dry_run_tells_and_changes_nothing_and_an_apply_does_it() {
    bounded(|| {
        let (stack, options) = changed();
        let before = view::layer(stack.lowers[0].root());
        let told =
            "D   1 B  gone\nA   2 B  new\nM  +1 B  src/main\nwould apply 3 changes: 1 modified, 1 deleted, 1 added\n";
        assert_eq!(said(&plyfs(&["apply", "-n", "-o", &options])), (Some(0), told.into(), String::new()));
        view::layer(stack.lowers[0].root()).assert_same(&before, "a dry run has changed something");
        let json = said(&plyfs(&["apply", "-n", "--json", "-o", &options, "new"])).1;
        assert_eq!(json, "{\"v\":1,\"path\":\"new\",\"change\":\"added\",\"kind\":\"file\",\"size\":[null,2]}\n");
        let told = "applied 1 change: 1 added\n";
        assert_eq!(said(&plyfs(&["apply", "-o", &options, "new"])), (Some(0), told.into(), String::new()));
        let told = "applied 2 changes: 1 modified, 1 deleted\n";
        assert_eq!(said(&plyfs(&["apply", "-o", &options])), (Some(0), told.into(), String::new()));
        assert_eq!(said(&plyfs(&["apply", "-o", &options])), (Some(0), "applied no changes\n".into(), String::new()));
        assert_eq!(stack.lowers[0].text("src/main"), "11");
    });
}

#[test]
fn a_path_that_is_nowhere_and_a_path_beside_resume_are_refused() {
    bounded(|| {
        let (_stack, options) = changed();
        let line = "plyfs: nonsense/x: no layer has it (name a path in the view)\n";
        assert_eq!(said(&plyfs(&["apply", "-o", &options, "nonsense/x"])), (Some(1), String::new(), line.into()));
        let line = "plyfs: new: --resume takes no paths (leave the path out: what was begun is ended as a whole)\n";
        assert_eq!(said(&plyfs(&["apply", "--resume", "-o", &options, "new"])), (Some(2), String::new(), line.into()));
    });
}

#[test]
fn conflicts_end_with_status_3() {
    bounded(|| {
        let (stack, options) = changed();
        stack.lowers[0].append("gone", "!").unwrap();
        stack.lowers[0].write("new", "!").unwrap();
        let told = "conflict  gone  it was deleted here, and is new or has changed below\n\
                    conflict  new  it was changed here, and is new or has changed below\n";
        let line = "plyfs: 2 conflicts: nothing was changed (--theirs leaves them out, --ours overrides them)\n";
        assert_eq!(said(&plyfs(&["apply", "-o", &options])), (Some(3), told.into(), line.into()));
        assert_eq!(said(&plyfs(&["apply", "-o", &options, "src"])).0, Some(0), "what is not meant does not count");
        let json = said(&plyfs(&["apply", "--json", "-o", &options])).1;
        assert_eq!(json.lines().count(), 2);
        assert!(json.starts_with(r#"{"v":1,"path":"gone","conflict":"it was"#), "{json}");
        assert_eq!(said(&plyfs(&["apply", "--theirs", "-q", "-o", &options])).0, Some(0));
        assert_eq!(stack.lowers[0].text("gone"), "3!");
        assert_eq!(said(&plyfs(&["apply", "--ours", "-q", "-o", &options])), (Some(0), String::new(), String::new()));
        assert!(!stack.lowers[0].has("gone") && stack.lowers[0].text("new") == "12");
    });
}

#[test]
fn a_view_in_use_is_refused_by_the_process_that_serves_it() {
    bounded(|| {
        let (stack, options) = changed();
        let mut mount = stack.mount();
        for args in [&["apply", "-o", &options][..], &["apply", stack.merged.to_str().unwrap()]] {
            let (code, _, line) = said(&plyfs(args));
            assert!(code == Some(1) && line.contains("in use by") && line.contains("process "), "{args:?} {line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
        mount.unmount();
        let (code, _, line) = said(&plyfs(&["apply", "--ours", "--theirs", "-o", &options]));
        assert!(code == Some(2) && line.lines().count() == 1, "{line}");
        let read_only = format!("lowerdir={}", stack.lowers[0].root().display());
        assert_eq!(said(&plyfs(&["apply", "-o", &read_only])).0, Some(1), "without an upper layer");
    });
}

#[test]
fn an_upper_layer_on_commits_is_applied_as_a_whole() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a", "1");
        stack.age();
        pause();
        let mut mount = stack.mount();
        mount.write("a", "2").unwrap();
        let done = plyfs(&["commit", stack.merged.to_str().unwrap()]);
        if !done.status.success() {
            skip!("no commits here: {}", said(&done).2);
        }
        mount.unmount();
        let options = stack.layer_options("work");
        let (code, told, line) = said(&plyfs(&["apply", "-o", &options, "a"]));
        assert!(code == Some(1) && told.is_empty(), "{code:?} {told}");
        assert!(line.contains("as a whole only") && line.lines().count() == 1, "{line}");
        assert_eq!(stack.lowers[0].text("a"), "1");
        let (code, told, line) = said(&plyfs(&["apply", "-o", &options]));
        assert!(code == Some(0) && line.is_empty() && told == "applied 1 change: 1 modified\n", "{told} {line}");
        assert_eq!(stack.lowers[0].text("a"), "2");
    });
}
