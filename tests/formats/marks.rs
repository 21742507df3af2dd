//! The other marks, and what is left in a workdir.

use crate::common::Stack;
use crate::common::stack::Layer;
use crate::index::ERRNO;
use crate::redirect::mark;
use crate::row::{Row, row};

/// `d` in both layers, with this mark on the upper one.
fn merged(name: &'static str, value: &'static [u8]) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[0].file("d/below", "x");
        stack.upper().file("d/own", "x").with_xattr("d", &mark(name), value);
    }
}

fn opaque() -> Vec<Row> {
    let dir = |name, value, list| row(format!("opaque {name}"), "", merged("opaque", value), "list d", list);
    let both = "below own";
    vec![
        dir("y", b"y", "own"),
        dir("yy", b"yy", both),
        dir("Y", b"Y", both),
        dir("y and a NUL", b"y\0", both),
        dir("that is empty", b"", both),
        dir("0", b"0", both),
        dir("of 64 KiB", &[b'y'; 65_536], both).root_only(),
        row("opaque on a file", "", on_file("opaque", b"y"), "read f", "upper"),
        row(
            "opaque in user.* met by root",
            "",
            |stack| {
                stack.lowers[0].file("d/below", "x");
                stack.upper().file("d/own", "x").with_xattr("d", "user.overlay.opaque", b"y");
            },
            "list d",
            "own",
        )
        .unlike(both, "an upper layer of a normal user is read by root, too")
        .root_only(),
    ]
}

/// `f` in both layers, with this mark on the upper one.
fn on_file(name: &'static str, value: &'static [u8]) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[0].file("f", "lower");
        stack.upper().file("f", "upper").with_xattr("f", &mark(name), value);
    }
}

/// A file marked as a whiteout in a lower layer, whose directory says that it may hold some, or does not.
fn marked_whiteout(content: &'static str, said: bool) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[1].file("d/f", "below");
        stack.lowers[0].file("d/f", content).with_xattr("d/f", &mark("whiteout"), b"y");
        if said {
            stack.lowers[0].with_xattr("d", &mark("opaque"), b"x");
        }
    }
}

fn whiteouts() -> Vec<Row> {
    vec![
        row("whiteout mark where it counts", "", marked_whiteout("", true), "list d; stat d/f", "; ENOENT"),
        row("whiteout mark elsewhere", "", marked_whiteout("", false), "list d; stat d/f", "f; file 0")
            .unlike("f; ENOENT", "the kernel lists it, and does not find it"),
        row("whiteout mark on a file with content", "", marked_whiteout("x", true), "list d; read d/f", "f; x"),
        row(
            "whiteout mark on a directory",
            "",
            |stack| {
                stack.lowers[1].file("d/e/below", "x");
                stack.lowers[0].file("d/e/f", "x").with_xattr("d/e", &mark("whiteout"), b"");
                stack.lowers[0].with_xattr("d", &mark("opaque"), b"x");
            },
            "list d; list d/e",
            "e; below f",
        ),
        row(
            "whiteout that is a device with a mode",
            "",
            |stack| {
                stack.lowers[1].file("d/f", "x").file("d/g", "x");
                stack.lowers[0].dir("d", 0o755).whiteout("d/f").perm("d/f", 0o666);
            },
            "list d; stat d/f",
            "g; ENOENT",
        ),
        row(
            "whiteout in an opaque directory",
            "",
            |stack| {
                stack.lowers[0].file("d/below", "x");
                stack.upper().opaque("d").whiteout("d/below").file("d/own", "x");
            },
            "list d; stat d/below",
            "own; ENOENT",
        )
        .unlike("below own; ENOENT", "the kernel lists it, and does not find it"),
    ]
}

fn origins() -> Vec<Row> {
    let garbage = |name, value| {
        let make = move |stack: &Stack| {
            on_file("origin", value)(stack);
            merged("origin", value)(stack);
            ["", "d"].iter().for_each(|dir| _ = stack.upper().with_xattr(dir, &mark("impure"), b"y"));
        };
        row(format!("origin {name}"), "", make, "list .; read f; stat f; list d", "d f; upper; file 5; below own")
    };
    let with = |changes: &[(usize, u8)]| -> &'static [u8] {
        let mut value = vec![0, 0xfb, 29, 0, 1];
        value.resize(29, 7);
        changes.iter().for_each(|&(at, byte)| value[at] = byte);
        value.leak()
    };
    vec![
        garbage("that is empty", b""),
        garbage("of one byte", b"y"),
        garbage("of nothing that is there", with(&[])),
        garbage("of version 1", with(&[(0, 1)])),
        garbage("with another magic number", with(&[(1, 0xfc)])),
        garbage("that is shorter than it says", with(&[(2, 255)])),
        garbage("that is longer than it says", with(&[(2, 22)])),
        garbage("with a length within its header", with(&[(2, 3)])),
        garbage("with unknown flags", with(&[(3, 0xf0)])),
        garbage("of another byte order", with(&[(3, 1)])),
        garbage("of a directory of the upper layer", with(&[(3, 4)])),
        garbage("of an unknown type", with(&[(4, 0xfe)])),
        garbage("of 64 KiB", &[0xfb; 65_536]).root_only(),
    ]
}

fn escapes() -> Vec<Row> {
    /// The longest name that an attribute can have.
    const MOST: usize = 255;
    let long = |len: usize| mark(&format!("overlay.{}", "n".repeat(len - mark("overlay.").len())));
    vec![
        row(
            "an escaped mark",
            "",
            |stack| _ = stack.lowers[0].file("f", "x").with_xattr("f", &mark("overlay.opaque"), b"y"),
            "xattrs f; chmod f; xattrs f",
            "opaque; ok; opaque",
        ),
        row(
            "an escaped mark of 250 bytes",
            "",
            move |stack| _ = stack.lowers[0].file("f", "x").with_xattr("f", &long(250), b"y"),
            "xattrs f; chmod f; xattrs f",
            "242; ok; 242",
        ),
        row(
            "the longest escaped mark",
            "",
            move |stack| _ = stack.lowers[0].file("f", "x").with_xattr("f", &long(MOST), b"y"),
            "xattrs f; chmod f; xattrs f; set f 248",
            "247; ok; 247; EOPNOTSUPP",
        ),
        row(
            "marks of its own",
            "",
            |stack| {
                let names = ["opaque", "redirect", "origin", "uuid", "upper", "metacopy?", "protattr", "nonsense"];
                let lower = stack.lowers[0].file("d/f", "x");
                names.iter().for_each(|name| _ = lower.with_xattr("d/f", &mark(name), b"?"));
            },
            "xattrs d/f; chmod d/f; xattrs d/f; read d/f",
            "; ok; ; x",
        ),
    ]
}

fn workdir() -> Vec<Row> {
    let work = |stack: &Stack| Layer::new(stack.scratch.dir("work/work"));
    vec![
        row(
            "a volatile mount that was not ended",
            "",
            move |stack| _ = work(stack).file("incompat/volatile/dirty", ""),
            "list .",
            "refused",
        )
        .unlike("refused EINVAL", ERRNO)
        .says(&["volatile", "workdir/work/incompat"]),
        row(
            "an unknown feature in the workdir",
            "",
            move |stack| _ = work(stack).file("incompat/unknown/x", ""),
            "list .",
            "refused",
        )
        .unlike("refused EINVAL", ERRNO)
        .says(&["incompat"]),
        row(
            "leftovers in the workdir",
            "",
            move |stack| _ = work(stack).file("#1", "x").file("#2/deep", "x").whiteout("#3").fifo("12"),
            "list .; mkdir d",
            "; ok",
        ),
    ]
}

pub fn rows() -> Vec<Row> {
    let protected = |value: &'static [u8], flags| {
        let make = on_file("protattr", value);
        row(format!("protattr {}", value.escape_ascii()), "", make, "flags f; read f", flags).needs(&["index=on"])
    };
    let mut rows = opaque();
    rows.extend(whiteouts());
    rows.extend(origins());
    rows.extend(escapes());
    rows.extend(workdir());
    rows.extend([
        protected(b"a", "a; upper"),
        protected(b"i", "i; upper"),
        protected(b"ai", "ai; upper"),
        protected(b"az", "; upper"),
        protected(b"z", "; upper"),
        protected(b"", "; upper"),
        row("protattr of 64 KiB", "", on_file("protattr", &[b'a'; 65_536]), "flags f; read f", "; upper").root_only(),
        row("impure on everything", "", merged("impure", b"?"), "list d", "below own"),
        row(
            "uuid of the wrong length",
            "",
            |stack| _ = stack.upper().file("f", "x").with_xattr("", &mark("uuid"), b"short"),
            "read f",
            "x",
        ),
    ]);
    rows
}
