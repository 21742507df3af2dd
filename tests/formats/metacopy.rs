//! Files whose data is in a layer below, and data-only layers.

use crate::common::Stack;
use crate::common::stack::Layer;
use crate::redirect::mark;
use crate::row::{Row, row};

const ON: &str = "redirect_dir=on,metacopy=on";
const ASK: &str = "list .; stat f; read f";
const BROKEN: &str = "f; EIO; EIO";

/// A file of four bytes without data in a layer.
pub fn hollow(layer: &Layer, path: &str, value: &[u8]) {
    layer.file(path, "").with_xattr(path, &mark("metacopy"), value);
    layer.truncate(path, 4).unwrap();
}

/// `f` in the upper layer has its data in the first lower one.
fn marked(value: &'static [u8]) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[0].file("f", "data");
        hollow(stack.upper(), "f", value);
    }
}

/// The same, but what stands below is something else.
fn over(make: fn(&Layer)) -> impl Fn(&Stack) {
    move |stack| {
        hollow(stack.upper(), "f", b"");
        make(&stack.lowers[0]);
    }
}

/// The data has another name.
fn redirected(value: &'static [u8]) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[0].file("g", "data");
        hollow(stack.upper(), "f", b"");
        stack.upper().with_xattr("f", &mark("redirect"), value);
    }
}

const UNREAD: &str = "the kernel reads the value only under verity";

fn values() -> Vec<Row> {
    let header = |name, value, answer| row(format!("metacopy {name}"), ON, marked(value), ASK, answer);
    let broken = |name, value| header(name, value, BROKEN).unlike("f; file 4; data", UNREAD);
    let digest = |len: u8, algorithm: u8, bytes: usize| -> &'static [u8] {
        [&[0, len, 0, algorithm][..], &vec![7; bytes]].concat().leak()
    };
    vec![
        header("that is empty", b"", "f; file 4; data"),
        header("with a header only", &[0, 4, 0, 0], "f; file 4; data"),
        header("of one byte", &[0], BROKEN),
        header("of two bytes", &[0, 2], BROKEN),
        header("of three bytes", &[0, 3, 0], BROKEN),
        header("of blocks without a record", b"pb\x10", BROKEN),
        broken("of version 1", &[1, 4, 0, 0]),
        broken("that is longer than it says", &[0, 4, 0, 0, 0]),
        broken("that is shorter than it says", &[0, 5, 0, 0]),
        broken("with flags", &[0, 4, 1, 0]),
        broken("with an unknown algorithm", digest(36, 9, 32)),
        broken("with a digest of another length", digest(35, 1, 31)),
        broken("with a digest of 251 bytes", digest(255, 1, 251)),
        broken("of 3,000 bytes", digest(255, 1, 2996)),
    ]
}

fn chains() -> Vec<Row> {
    vec![
        row("metacopy over two layers", ON, chain(b"", true), ASK, "f; file 4; data"),
        row("metacopy over two layers and nothing", ON, chain(b"", false), ASK, BROKEN),
        row("metacopy over a malformed one", ON, chain(&[1], true), ASK, BROKEN),
        row("metacopy on the bottom layer", ON, |stack| hollow(&stack.lowers[1], "f", b""), ASK, BROKEN),
        row(
            "metacopy on a directory",
            ON,
            |stack| {
                stack.lowers[0].file("d/f", "x");
                stack.upper().dir("d", 0o755).with_xattr("d", &mark("metacopy"), b"");
            },
            "list d",
            "f",
        ),
        row(
            "metacopy above a whiteout",
            ON,
            |stack| {
                stack.lowers[1].file("f", "data");
                stack.lowers[0].whiteout("f");
                hollow(stack.upper(), "f", b"");
            },
            ASK,
            BROKEN,
        ),
        row("metacopy that is written to", ON, marked(b""), "append f; read f; stat f", "ok; data+; file 5"),
        row("metacopy that is renamed", ON, marked(b""), "rename f g; read g; list .", "ok; data; g"),
        row("metacopy that is removed", ON, marked(b""), "unlink f; list .", "ok; "),
        row("metacopy without data that is removed", ON, over(|_| ()), "unlink f; list .", "EIO; f"),
    ]
}

fn chain(value: &'static [u8], data: bool) -> impl Fn(&Stack) {
    move |stack| {
        hollow(stack.upper(), "f", b"");
        hollow(&stack.lowers[0], "f", value);
        if data {
            stack.lowers[1].file("f", "data");
        }
    }
}

/// A file of root's that others may not read, and a hollow one with a mode of its own that leads to it.
fn secret(prefix: &'static str) -> impl Fn(&Stack) {
    move |stack| {
        stack.lowers[0].file("secret", "data").perm("secret", 0o600);
        let upper = stack.upper().file("f", "").perm("f", 0o644);
        upper.with_xattr("f", &format!("{prefix}metacopy"), b"");
        upper.with_xattr("f", &format!("{prefix}redirect"), b"/secret").truncate("f", 4).unwrap();
    }
}

fn data_only() -> Vec<Row> {
    let at = |value: &'static [u8]| {
        move |stack: &Stack| {
            hollow(&stack.lowers[0], "f", b"");
            stack.lowers[0].with_xattr("f", &mark("redirect"), value);
            stack.lowers[1].file("dir/data", "data").soft_link("dir", "link").soft_link("dir/data", "data-link");
            stack.lowers[1].fifo("fifo").file("f", "by its own name");
        }
    };
    let data = |name, value, answer| {
        row(format!("data-only: {name}"), ON, at(value), "list .; stat f; open f; read f", answer).lowers("0::1")
    };
    // The daemon is not asked for an open(2): what is wrong is seen by the first read.
    let missing = "f; file 4; ok; EIO";
    let unlike = |name, value, kernel| data(name, value, missing).unlike(kernel, "the name itself is there");
    vec![
        data("data that is there", b"/dir/data", "f; file 4; ok; data"),
        unlike("data that is missing", b"/dir/other", "f; file 4; ENOENT; ENOENT"),
        unlike("a path through a symlink", b"/link/data", "f; file 4; ELOOP; ELOOP"),
        unlike("a path to a symlink", b"/data-link", "f; file 4; ENOENT; ENOENT"),
        unlike("a directory", b"/dir", "f; file 4; ENOENT; ENOENT"),
        unlike("a fifo", b"/fifo", "f; file 4; ENOENT; ENOENT"),
        data("a path upwards", b"/../lower1/dir/data", "f; EINVAL; EINVAL; EINVAL")
            .unlike("f; file 4; EXDEV; EXDEV", "as for other redirects"),
        data("a relative redirect", b"data", "f; EIO; EIO; EIO"),
        data("a path with two slashes", b"/dir//data", "f; EINVAL; EINVAL; EINVAL"),
        row(
            "data-only: no redirect",
            ON,
            |stack| {
                hollow(&stack.lowers[0], "f", b"");
                stack.lowers[1].file("f", "data");
            },
            ASK,
            BROKEN,
        )
        .lowers("0::1"),
        row(
            "data-only: a redirect in the upper layer",
            ON,
            |stack| {
                hollow(stack.upper(), "f", b"");
                stack.upper().with_xattr("f", &mark("redirect"), b"/data");
                stack.lowers[1].file("data", "data");
            },
            ASK,
            "f; file 4; data",
        )
        .unlike("f; EIO; EIO", "the kernel wants a file of an ordinary lower layer in between")
        .lowers("0::1"),
        row("data-only: metacopy not asked for", "", at(b"/dir/data"), "list .; read f", "f; data")
            .lowers("0::1")
            .needs(&["datadir+=/x"]),
        row("data-only: datadir+=", "", at(b"/dir/data"), "list .; read f", "f; data")
            .lowers("lowerdir+=0,datadir+=1")
            .needs(&["datadir+=/x"]),
    ]
}

pub fn rows() -> Vec<Row> {
    let mut rows = values();
    rows.extend(chains());
    rows.extend(data_only());
    rows.extend([
        row("metacopy with metacopy=off", "redirect_dir=on,metacopy=off", marked(b""), ASK, "f; EPERM; EPERM"),
        row("metacopy over nothing", ON, over(|_| ()), ASK, BROKEN),
        row("metacopy over a directory", ON, over(|l| _ = l.dir("f", 0o755)), ASK, BROKEN),
        row(
            "metacopy over a symlink",
            ON,
            over(|l| _ = l.file("g", "data").soft_link("g", "f")),
            "stat f; read f",
            "EIO; EIO",
        ),
        row("metacopy over a fifo", ON, over(|l| _ = l.fifo("f")), ASK, BROKEN),
        row("metacopy with redirect to a path", ON, redirected(b"/g"), "stat f; read f", "file 4; data"),
        row("metacopy with redirect to a name", ON, redirected(b"g"), "stat f; read f", "file 4; data"),
        row("metacopy with redirect to nowhere", ON, redirected(b"/h"), "stat f; read f", "EIO; EIO"),
        row("metacopy with a malformed redirect", ON, redirected(b"//g"), "stat f; read f", "EINVAL; EINVAL"),
        row("metacopy with redirect upwards", ON, redirected(b"/../g"), "stat f; read f", "EINVAL; EINVAL")
            .unlike("EACCES; EACCES", "the kernel's walk refuses the component"),
        row("metacopy in user.* met by root", ON, secret("user.overlay."), "stat f; read f", "EPERM; EPERM")
            .unlike("file 4; \\x00\\x00\\x00\\x00", "the kernel does not look at it; zeros would be taken for the data")
            .says(&["metacopy"])
            .root_only(),
        row("metacopy in user.* with userxattr", "userxattr", secret("user.overlay."), "read f", "data")
            .unlike("EPERM", "the kernel has metacopy=off with userxattr")
            .needs(&["metacopy=on"])
            .root_only(),
    ]);
    rows
}
