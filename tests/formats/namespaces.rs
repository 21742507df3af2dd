//! Marks in the namespace that is not the mount's own: in a layer that only mounts of that own one have written, by what its
//! root says, they are attributes of users.

use crate::common::Stack;
use crate::common::stack::Layer;
use crate::row::{Row, row};

const BOTH: &str = "below own";
const WHY: &str = "who wrote the layer is not known: a user's overlay may have";

/// `d` in two layers, with this attribute on the upper one of them.
fn merged(above: &Layer, below: &Layer, name: &str, value: &[u8]) {
    below.file("d/below", "x");
    above.file("d/own", "x").with_xattr("d", name, value);
}

/// What the kernel leaves on the root of an upper layer: at its mount (6.6), at its first copy-up, with an index.
const ROOTS: [(&str, &[u8]); 3] = [("uuid", &[7; 16]), ("impure", b"y"), ("origin", b"")];

fn marked(layer: &Layer, namespace: &str, mark: &str, value: &[u8]) {
    layer.with_xattr("", &format!("{namespace}.overlay.{mark}"), value);
}

fn opaque() -> Vec<Row> {
    let mut rows = Vec::new();
    for (mark, value) in ROOTS {
        rows.push(row(
            format!("opaque in user.* in an upper layer of root's, which has {mark}"),
            "",
            move |stack: &Stack| {
                merged(stack.upper(), &stack.lowers[0], "user.overlay.opaque", b"y");
                marked(stack.upper(), "trusted", mark, value);
            },
            "list d",
            BOTH,
        ));
        rows.push(row(
            format!("opaque in trusted.* in an upper layer of userxattr, which has {mark}"),
            "userxattr",
            move |stack: &Stack| {
                merged(stack.upper(), &stack.lowers[0], "trusted.overlay.opaque", b"y");
                marked(stack.upper(), "user", mark, value);
            },
            "list d",
            BOTH,
        ));
    }
    let lower = |name: &'static str, root: &'static str| {
        move |stack: &Stack| {
            merged(&stack.lowers[0], &stack.lowers[1], name, b"y");
            marked(&stack.lowers[0], root, "impure", b"y");
        }
    };
    let (user, legacy) = ("user.overlay.opaque", "user.fuseoverlayfs.opaque");
    rows.extend([
        row("opaque in user.* in a lower layer of root's", "", lower(user, "trusted"), "list d", BOTH),
        row("opaque of fuse-overlayfs 1 in a lower layer of root's", "", lower(legacy, "trusted"), "list d", BOTH),
        row("opaque in user.* in a lower layer of a user's", "", lower(user, "user"), "list d", "own")
            .unlike(BOTH, "a user's layer is read by root, too"),
        row("opaque of fuse-overlayfs 1 in a user's layer", "", lower(legacy, "user"), "list d", "own")
            .unlike(BOTH, "a user's layer is read by root, too"),
        row(
            "opaque in user.* in a layer of both",
            "",
            |stack: &Stack| {
                merged(stack.upper(), &stack.lowers[0], "user.overlay.opaque", b"y");
                marked(stack.upper(), "trusted", "impure", b"y");
                marked(stack.upper(), "user", "impure", b"y");
            },
            "list d",
            "own",
        )
        .unlike(BOTH, "a user's overlay wrote in it, too"),
        row(
            "opaque in trusted.* met by userxattr",
            "userxattr",
            |stack: &Stack| merged(stack.upper(), &stack.lowers[0], "trusted.overlay.opaque", b"y"),
            "list d",
            "own",
        )
        .unlike(BOTH, WHY),
    ]);
    rows
}

/// A file of no bytes with a whiteout mark, in a directory that says that it may hold some, all in `user.*`.
fn whiteout(stack: &Stack) {
    stack.lowers[1].file("d/f", "below");
    stack.lowers[0].file("d/f", "").with_xattr("d/f", "user.overlay.whiteout", b"y");
    stack.lowers[0].with_xattr("d", "user.overlay.opaque", b"x");
}

fn others() -> Vec<Row> {
    let roots = |make: fn(&Stack)| {
        move |stack: &Stack| {
            make(stack);
            marked(&stack.lowers[0], "trusted", "impure", b"y");
            marked(stack.upper(), "trusted", "impure", b"y");
        }
    };
    let redirect = |stack: &Stack| {
        stack.lowers[0].file("t/f", "x");
        stack.upper().file("d/own", "x").with_xattr("d", "user.overlay.redirect", b"/t");
    };
    let metacopy = |stack: &Stack| {
        stack.lowers[0].file("f", "lower");
        stack.upper().file("f", "upper").with_xattr("f", "user.overlay.metacopy", b"");
    };
    vec![
        row("whiteout mark in user.* met by root", "", whiteout, "list d; stat d/f", "; ENOENT")
            .unlike("f; file 0", WHY),
        row("whiteout mark in user.* in a layer of root's", "", roots(whiteout), "list d; stat d/f", "f; file 0"),
        row("redirect in user.* in a layer of root's", "redirect_dir=on", roots(redirect), "list d", "own"),
        row(
            "metacopy in user.* in a layer of root's",
            "redirect_dir=on,metacopy=on",
            roots(metacopy),
            "read f",
            "upper",
        ),
    ]
}

pub fn rows() -> Vec<Row> {
    opaque().into_iter().chain(others()).map(Row::root_only).collect()
}
