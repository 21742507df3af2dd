//! Hard links of lower files: each of their names shows the change after a commit, whoever else has names of them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::about;
use crate::common::*;

fn append(mount: &Mount, name: &str, text: &str) {
    File::options().append(true).open(mount.at(name)).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_lower_file_may_have_names_outside_its_layer() {
    within(60, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("h", "h").file("other", "o").file("d/e/f", "");
        fs::hard_link(stack.lowers[0].at("h"), stack.scratch.path().join("outside")).unwrap();
        fs::hard_link(stack.lowers[0].at("h"), stack.lowers[0].at("d/e/never-looked-up")).unwrap();
        fs::hard_link(stack.lowers[0].at("other"), stack.scratch.path().join("outside2")).unwrap();
        let mut mount = stack.mount();
        append(&mount, "h", "1");
        about("commit", mount.root()).unwrap();
        append(&mount, "h", "2");
        append(&mount, "other", "1");
        let shows = |mount: &Mount, h: &str, other: &str| {
            for name in ["h", "d/e/never-looked-up"] {
                assert_eq!(String::from_utf8(mount.read(name).unwrap()).unwrap(), h, "{name}");
            }
            assert_eq!(mount.read("other").unwrap(), other.as_bytes());
        };
        about("undo", mount.root()).unwrap();
        shows(&mount, "h1", "o");
        about("redo", mount.root()).unwrap();
        shows(&mount, "h12", "o1");
        // Another one, after the view was walked through without an end in sight.
        append(&mount, "other", "2");
        about("commit", mount.root()).unwrap();
        mount.remount();
        shows(&mount, "h12", "o12");
        about("undo", mount.root()).unwrap();
        shows(&mount, "h12", "o1");
        assert_eq!(fs::read(stack.scratch.path().join("outside")).unwrap(), b"h");
    });
}

#[test]
fn a_write_to_what_was_undone_stands_in_the_way_of_no_commit() {
    within(60, || {
        for close in [false, true] {
            let stack = Stack::new(1);
            let mut mount = stack.mount();
            mount.write("x", "x").unwrap();
            fs::hard_link(mount.at("x"), mount.at("y")).unwrap();
            let file = File::options().read(true).write(true).open(mount.at("x")).unwrap();
            about("undo", mount.root()).unwrap();
            file.write_all_at(b"W", 0).unwrap();
            mount.write("new", "n").unwrap();
            if close {
                drop(file);
                mount.remount();
                about("commit", mount.root()).unwrap();
                continue;
            }
            about("commit", mount.root()).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 0).unwrap();
            assert_eq!(&byte, b"W");
            about("undo", mount.root()).unwrap();
            file.read_exact_at(&mut byte, 0).unwrap();
            assert_eq!((&byte, mount.stat("x").is_err()), (b"W", true));
        }
    });
}

#[test]
fn a_write_to_what_a_redo_has_removed_stands_in_the_way_of_no_commit() {
    within(60, || {
        let stack = Stack::new(1);
        let mount = stack.mount();
        mount.write("x", "x").unwrap();
        fs::hard_link(mount.at("x"), mount.at("y")).unwrap();
        about("commit", mount.root()).unwrap();
        mount.unlink("x").unwrap();
        mount.unlink("y").unwrap();
        about("undo", mount.root()).unwrap();
        let file = File::options().read(true).write(true).open(mount.at("x")).unwrap();
        about("redo", mount.root()).unwrap();
        file.write_all_at(b"W", 0).unwrap();
        for round in 0..2 {
            mount.write("new", round.to_string()).unwrap();
            about("commit", mount.root()).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 0).unwrap();
            assert_eq!((&byte, mount.stat("x").is_err()), (b"W", true));
            file.write_all_at(b"W", 0).unwrap();
        }
    });
}
