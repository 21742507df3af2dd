//! Layers that somebody made to do harm.

use rustix::fs::FileType;

use crate::common::*;
use crate::{diff, lines};

#[test]
fn no_symlink_is_followed_and_no_fifo_opened() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "x").file("s", "12345").file("p", "").fifo("q");
        stack.scratch.dir("outside");
        std::fs::write(stack.scratch.path().join("outside/f"), "secret").unwrap();
        let upper = stack.upper();
        upper.soft_link("../outside", "d").soft_link("../outside/f", "s").fifo("p").fifo("q");
        stack.age();
        let told = lines(&diff(&stack));
        assert_eq!(told, ["T d from Dir >10", "T p from File 0>", "T s from File 5>12"]);
        let mode = upper.stat("q").unwrap().st_mode;
        assert_eq!(FileType::from_raw_mode(mode), FileType::Fifo);
    });
}

#[test]
fn a_mark_that_makes_no_sense_is_told_and_the_rest_is_compared() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "x").file("e/f", "x").file("k/f", "x").file("g", "x");
        let (upper, prefix) = (stack.upper(), stack::prefix());
        upper.with_xattr("", "user.overlay.impure", b"y");
        for (path, mark, value) in
            [("d", "redirect", &b"../../etc"[..]), ("e", "redirect", b"/e/nowhere"), ("h", "redirect", b"/k")]
        {
            upper.dir(path, 0o755).with_xattr(path, &format!("{prefix}{mark}"), value);
        }
        upper.file("g", "y").with_xattr("g", &format!("{prefix}metacopy"), b"junk").file("new", "");
        stack.age();
        let told = lines(&diff(&stack));
        assert_eq!(told, ["D e/f 1>", "R h/ (was k) files 1", "A new >0", "EINVAL d", "EIO g"]);
    });
}

#[test]
fn a_deep_tree_ends() {
    within(120, || {
        let stack = Stack::new(1);
        let mut at = stack.upper().at("").to_owned();
        let name = "n".repeat(200);
        for _ in 0..15 {
            at.push(&name);
            std::fs::create_dir(&at).unwrap();
        }
        // Further down than a path reaches.
        let mut dir = rustix::fs::open(&at, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&dir, &*name, 0o755.into()).unwrap();
            dir = rustix::fs::openat(&dir, &*name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        }
        let told = diff(&stack);
        assert!(told.changes.len() > 300 && told.troubles.len() == 1, "{}", told.changes.len());
        std::process::Command::new("rm").arg("-rf").arg(stack.upper().at(&name)).status().unwrap();
    });
}
