//! What cannot be had is refused once, in one line, before anything is mounted.

use std::process::{Command, Stdio};

use crate::common::*;
use crate::without;

/// What the command says without `words`, with these arguments before `-o`; it must fail, and mount nothing.
fn refusal(words: &str, args: &[&str], more: &str) -> (Option<i32>, String) {
    let stack = Stack::new(1);
    let mut command = Command::new(without(&stack.scratch, words));
    command.args(args).arg("-o").arg(format!("{}{more}", stack.layer_options("work"))).arg(&stack.merged);
    let out = command.stdin(Stdio::null()).output().unwrap();
    assert!(!mount::is_mounted(&stack.merged), "{words}");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn what_cannot_be_had_is_refused_once_and_in_one_line() {
    bounded(|| {
        let root_only: &[(&str, &[&str], &str, i32, &str)] = &[("passthrough", &[], ",io=passthrough", 1, "Linux 6.9")];
        let table: &[(&str, &[&str], &str, i32, &str)] = &[
            ("resend", &["--supervise"], "", 1, "Linux 6.9"),
            ("resend", &["-f", "--supervise"], "", 1, "Linux 6.9"),
            ("all", &["--supervise"], "", 1, "Linux 6.9"),
            ("writeback", &[], ",io=writeback", 1, "Linux 3.15"),
            ("openat2,opnat2", &[], "", 2, "opnat2 is not known"),
        ];
        for &(words, args, more, status, hint) in table.iter().chain(if who() == Who::Root { root_only } else { &[] }) {
            let (code, said) = refusal(words, args, more);
            assert_eq!(code, Some(status), "{words}: {said}");
            assert!(said.contains(hint), "{words}: {said}");
            let lines: Vec<&str> = said.lines().filter(|line| !line.contains("note:")).collect();
            assert_eq!(lines.len(), 1, "{words} {args:?}: {said}");
        }
    });
}
