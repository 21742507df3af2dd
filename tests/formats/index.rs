//! The index of copied-up hard links: link counts, entries that nobody made, and an index of other layers.

use std::path::PathBuf;

use crate::common::stack::Layer;
use crate::common::*;
use crate::redirect::mark;
use crate::row::{Row, row};

const ON: &str = "index=on";
pub const ERRNO: &str = "an errno is all it has";

/// Three names of one lower file, `a` copied up by an overlay with an index: by the kernel's where it can be had.
fn indexed(stack: &Stack) -> (Layer, String) {
    stack.lowers[0].file("a", "link").hard_link("a", "b").hard_link("a", "c");
    let at = stack.scratch.fresh("before");
    let options = format!("{},{ON}", stack.layer_options("work"));
    if who() == Who::Root && Kernel::usable() {
        Kernel::with(&options, &at).unwrap().chmod("a", 0o600).unwrap();
    } else {
        Mount::with(&options, &at, &stack.scratch.path().join("log-before")).chmod("a", 0o600).unwrap();
    }
    let index = Layer::new(stack.scratch.path().join("work/index"));
    let names = index.names("").unwrap();
    assert_eq!(names.len(), 1, "{names:?}");
    (index, names[0].clone())
}

/// With this mark of the links on the copy.
fn counted(value: &'static [u8]) -> impl Fn(&Stack) {
    move |stack| {
        let (index, entry) = indexed(stack);
        index.with_xattr(&entry, &mark("nlink"), value);
    }
}

fn counts() -> Vec<Row> {
    let probe = "links a; links b; read c";
    let count = |value: &'static str, links| row(format!("nlink {value}"), ON, counted(value.as_bytes()), probe, links);
    // The copy has two names: its own and the entry.
    let fallback = "2; 2; link";
    vec![
        row("nlink as it was written", ON, |stack| _ = indexed(stack), probe, "3; 3; link"),
        count("U+1", "3; 3; link"),
        count("L+0", "3; 3; link"),
        count("L-1", "2; 2; link"),
        count("U-999999", fallback),
        count("U-2", fallback),
        count("U+99999999999", fallback),
        count("X+1", fallback),
        count("U1", fallback),
        count("U", fallback),
        count("", fallback),
        count("U+1 ", fallback),
        row("nlink of 64 KiB", ON, counted(&[b'9'; 65_536]), probe, fallback).root_only(),
        row(
            "nlink on a file with one link",
            ON,
            |stack| {
                stack.lowers[0].file("f", "x");
                stack.upper().file("f", "y").with_xattr("f", &mark("nlink"), b"U+7");
            },
            "links f; read f",
            "1; y",
        ),
    ]
}

/// An entry of the index that is replaced by something else, which says that it is that entry, or does not.
fn replaced(says: bool, make: fn(&Layer, &str)) -> impl Fn(&Stack) {
    move |stack| {
        let (index, entry) = indexed(stack);
        let origin = index.xattr(&entry, mark("origin")).unwrap();
        index.unlink(&entry).unwrap();
        make(&index, &entry);
        if says {
            index.with_xattr(&entry, &mark("origin"), &origin);
        }
    }
}

/// With something more in the index.
fn besides(make: fn(&Layer)) -> impl Fn(&Stack) {
    move |stack| make(&indexed(stack).0)
}

/// The last byte of a mark is another: a handle of something else.
fn altered(at: fn(&Stack) -> PathBuf, name: &'static str) -> impl Fn(&Stack) {
    move |stack| {
        indexed(stack);
        let dir = Tree::new(at(stack));
        let mut value = dir.xattr("", mark(name)).unwrap();
        *value.last_mut().unwrap() ^= 1;
        dir.set_xattr("", mark(name), &value).unwrap();
    }
}

fn entries() -> Vec<Row> {
    let ask = "index; read a; read b; links a";
    let whole = "1; link; link; 3";
    let odd = |name, make: Box<dyn Fn(&Stack)>, kernel| {
        row(format!("index: {name} as an entry"), ON, make, "list .", "refused").unlike(kernel, ERRNO).says(&["index"])
    };
    vec![
        row("index: a leftover of work in progress", ON, besides(|i| _ = i.file("#1f", "x")), ask, whole),
        row("index: a leftover directory", ON, besides(|i| _ = i.file("#20/deep", "x")), ask, whole),
        row("index: an orphan", ON, orphan, "index; list .; links b", "0; b c; 2"),
        row("index: a copy whose lower file is gone", ON, stale(false), "index; list .; read a", "1; a; link")
            .root_only(),
        row("index: an entry that nothing leads to", ON, stale(true), "index; list .", "0; ").root_only(),
        row("index: an entry of another name", ON, moved, "index; list .; read a", "0; a b c; link"),
        odd("a fifo", Box::new(replaced(false, |i, e| _ = i.fifo(e))), "refused ENODATA"),
        odd("a symlink", Box::new(replaced(false, |i, e| _ = i.soft_link("x", e))), "refused ENODATA"),
        row(
            "index: a directory as an entry",
            ON,
            replaced(false, |i, e| _ = i.dir(e, 0o700)),
            "index; list .; stat a; stat b; read b",
            "1; a b c; file 4; EIO; EIO",
        )
        .unlike("1; b c; EIO; EIO; EIO", "the copy itself is found without the index"),
        row(
            "index: a fifo with the mark of an entry",
            ON,
            replaced(true, |i, e| _ = i.fifo(e)),
            "index; list .; stat b",
            "0; a b c; file 4",
        )
        .root_only(),
    ]
}

/// The copy's name went while there was no mount, and nothing counts it any more.
fn orphan(stack: &Stack) {
    let (index, entry) = indexed(stack);
    index.with_xattr(&entry, &mark("nlink"), b"U-1");
    stack.upper().unlink("a").unwrap();
    stack.lowers[0].unlink("a").unwrap();
}

/// The lower file went, and the copy's name too, or not.
fn stale(all: bool) -> impl Fn(&Stack) {
    move |stack| {
        indexed(stack);
        ["a", "b", "c"].iter().for_each(|name| stack.lowers[0].unlink(name).unwrap());
        if all {
            stack.upper().unlink("a").unwrap();
        }
    }
}

/// The entry has the name of another lower file.
fn moved(stack: &Stack) {
    let (index, entry) = indexed(stack);
    let (start, end) = entry.split_at(entry.len() - 1);
    index.rename(&entry, format!("{start}{}", if end == "0" { "1" } else { "0" })).unwrap();
}

pub fn rows() -> Vec<Row> {
    let refused = |name, make: Box<dyn Fn(&Stack)>, kernel, word| {
        row(format!("index=on: {name}"), ON, make, "list .", "refused")
            .unlike(kernel, "an errno is all it has")
            .says(word)
    };
    let noted = |name, make: Box<dyn Fn(&Stack)>| {
        row(format!("index by default: {name}"), "", make, "list .; read b", "a b c; link")
            .not_asked("off by default, then the same")
            .needs(&[ON])
            .says(&["note: ", "index"])
    };
    let foreign = || Box::new(besides(|i| _ = i.file("foreign", "x")));
    let upper = || Box::new(altered(|s| s.scratch.path().join("work/index"), "upper"));
    let lower = || Box::new(altered(|s| s.upper().root().to_owned(), "origin"));
    let mut rows = counts();
    rows.extend(entries());
    rows.extend([
        refused("a foreign name", foreign(), "refused EINVAL", &["index"]),
        refused("of another upper layer", upper(), "refused ESTALE", &["index"]),
        refused("of another lower layer", lower(), "refused ESTALE", &["index"]),
        noted("a foreign name", foreign()),
        noted("of another upper layer", upper()),
        noted("of another lower layer", lower()),
        row("index=off: a foreign name", "index=off", *foreign(), "list .; read b", "a b c; link").needs(&[ON]),
    ]);
    rows
}
