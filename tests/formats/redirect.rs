//! Marks that say where a directory's lower parts are.

use crate::common::Stack;
use crate::common::stack::prefix;
use crate::row::{Row, row};

const ON: &str = "redirect_dir=on";
const MERGED: &str = "f g own sub";

pub fn mark(name: &str) -> String {
    format!("{}{name}", prefix())
}

/// An upper directory `d`, and `t` in both lower layers with other things that a redirect may meet.
fn layers(stack: &Stack) {
    let [top, bottom] = [&stack.lowers[0], &stack.lowers[1]];
    top.file("t/f", "x").file("t/sub/deep", "x").file("file", "x").soft_link("t", "link");
    bottom.file("t/g", "x").file("plain/f", "x");
    stack.upper().file("d/own", "x");
}

fn to(value: &'static [u8]) -> impl Fn(&Stack) {
    move |stack| {
        layers(stack);
        stack.upper().with_xattr("d", &mark("redirect"), value);
    }
}

const NO_PATH: &str = "the kernel's walk refuses the component, or does not find it";

fn values() -> Vec<Row> {
    let long: &'static [u8] = [&b"/"[..], &[b'n'; 256]].concat().leak();
    let longest: &'static [u8] = b"/n".repeat(2000).leak();
    let same = |name, value, answer| row(format!("redirect {name}"), ON, to(value), "list d", answer);
    let unlike = |name, value, kernel, why| same(name, value, "EINVAL").unlike(kernel, why);
    vec![
        same("to a name", b"t", MERGED),
        same("to a path", b"/t", MERGED),
        same("to a longer path", b"/t/sub", "deep own"),
        same("ending with a slash", b"/t/", "EINVAL"),
        same("with two slashes", b"//t", "EINVAL"),
        same("with two slashes within", b"/t//sub", "EINVAL"),
        same("to the root", b"/", "EINVAL"),
        same("to a relative path", b"t/sub", "EINVAL"),
        same("to a relative path upwards", b"../t", "EINVAL"),
        same("that is empty", b"", "EINVAL"),
        unlike("upwards at once", b"/../t", "EACCES", NO_PATH),
        unlike("upwards later", b"/t/../t", "EACCES", NO_PATH),
        unlike("to ..", b"..", "EACCES", NO_PATH),
        unlike("to .", b".", "EACCES", NO_PATH),
        unlike("through .", b"/./t", "EACCES", NO_PATH),
        unlike("with a NUL", b"t\0x", MERGED, "the kernel reads up to the NUL"),
        unlike("with a component of 256 bytes", long, "own", NO_PATH),
        same("of 4,000 bytes", longest, "own"),
        same("to a path that is nowhere", b"/nowhere", "own"),
        same("to a name that is nowhere", b"nowhere", "own"),
        same("to a file", b"/file", "own"),
        same("to a symlink", b"/link", "own"),
        same("through a file", b"/file/sub", "own"),
        same("through a symlink", b"/link/sub", "own"),
        same("to itself", b"/d", "own"),
    ]
}

/// Every layer sends the search back to another name: it ends with the layers.
fn loops(stack: &Stack) {
    let redirect = mark("redirect");
    for (layer, n) in stack.lowers.iter().chain([stack.upper()]).zip(["0", "1", "up"]) {
        layer.file(&format!("a/a{n}"), "x").with_xattr("a", &redirect, b"/b");
        layer.file(&format!("b/b{n}"), "x").with_xattr("b", &redirect, b"/a");
    }
}

/// In `user.*`, whatever the mount's own namespace is.
fn foreign(stack: &Stack) {
    layers(stack);
    stack.upper().with_xattr("d", "user.overlay.redirect", b"/t");
}

fn by_option() -> Vec<Row> {
    let off = "EPERM; EPERM; f g sub";
    vec![
        row("redirect with nofollow", "redirect_dir=nofollow", to(b"/t"), "list d; stat d; list t", off).needs(&[ON]),
        row("redirect with off", "redirect_dir=off", to(b"/t"), "list d; stat d; list t", off)
            .not_asked("off is follow or nofollow there, as the kernel was built")
            .needs(&[ON]),
        row(
            "redirect with follow",
            "redirect_dir=follow",
            to(b"/t"),
            "list d; rename plain other",
            "f g own sub; EXDEV",
        ),
        row("redirect in user.* met by root", ON, foreign, "list d; list t", "EPERM; f g sub")
            .unlike("own; f g sub", "the kernel does not look at it; what it stands for would be missing")
            .says(&["redirect"])
            .root_only(),
        row("redirect in user.* with userxattr", "userxattr", foreign, "list d", MERGED)
            .unlike("EPERM", "the kernel has nofollow with userxattr")
            .needs(&["redirect_dir=on"])
            .root_only(),
    ]
}

fn lower_redirect(stack: &Stack) {
    layers(stack);
    stack.lowers[0].file("r/own", "x").with_xattr("r", &mark("redirect"), b"/t");
}

fn below_opaque(stack: &Stack) {
    layers(stack);
    stack.lowers[0].file("p/below", "x");
    stack.upper().opaque("p").file("p/d/own", "x").with_xattr("p/d", &mark("redirect"), b"/t");
}

fn on_the_bottom(stack: &Stack) {
    stack.lowers[1].file("d/f", "x").with_xattr("d", &mark("redirect"), b"//");
}

fn on_opaque(stack: &Stack) {
    to(b"/t")(stack);
    stack.upper().opaque("d");
}

fn on_a_file(stack: &Stack) {
    stack.lowers[0].file("t", "lower");
    stack.upper().file("f", "upper").with_xattr("f", &mark("redirect"), b"/t");
}

fn by_place() -> Vec<Row> {
    let twice = "append d/f; read d/f; read t/f; append t/f; read t/f; read d/f";
    vec![
        row("redirect of 64 KiB", ON, to(b"/n".repeat(32_768).leak()), "list d", "own").root_only(),
        row("redirects in a circle", ON, loops, "list a; list b", "a1 aup b0; a0 b1 bup"),
        row("two names for one lower directory", ON, to(b"/t"), twice, "ok; x+; x; ok; x+; x+")
            .unlike("ok; x+; ESTALE; ESTALE; ESTALE; x+", "the kernel knows a lower directory by one name"),
        row("redirect of a lower directory", ON, lower_redirect, "list r", "g own"),
        row("redirect on the bottom layer", ON, on_the_bottom, "list d", "f"),
        row("redirect below an opaque directory", ON, below_opaque, "list p; list p/d", "d; f g own sub"),
        row("redirect on an opaque directory", ON, on_opaque, "list d", "own"),
        row("redirect on a file without metacopy", ON, on_a_file, "read f", "upper"),
    ]
}

pub fn rows() -> Vec<Row> {
    [values(), by_option(), by_place()].into_iter().flatten().collect()
}
