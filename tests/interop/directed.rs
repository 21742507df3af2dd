//! What the marks of a layer are for, one case each. The expected marks are those of the kernel (Linux 6.18).

use rustix::fs::{FileType, OFlags, RenameFlags};

use crate::table::{Case, run};

/// The mark's value of a metacopy file without a digest.
const EMPTY: Option<&[u8]> = Some(b"");

#[test]
fn renamed_directories() {
    run(|| {
        vec![
            Case::new("a merged directory renamed beside its old name", |l| {
                l.file("d/sub/x", "x").file("d/sub/y/z", "z");
            })
            .round(
                |t| {
                    t.write("d/sub/new", "n")?;
                    t.rename("d/sub", "d/other")
                },
                "d/ d/other/ d/other/new=n d/other/x=x d/other/y/ d/other/y/z=z",
            )
            .marks(&[("d/other", "redirect", Some(b"sub")), ("d", "redirect", None)])
            .round(
                |t| {
                    t.append("d/other/x", "+")?;
                    t.rename("d/other", "d/third")
                },
                "d/ d/third/ d/third/new=n d/third/x=x+ d/third/y/ d/third/y/z=z",
            )
            .marks(&[("d/third", "redirect", Some(b"sub"))])
            .round(|t| t.rename("d/third", "d/sub"), "d/ d/sub/ d/sub/new=n d/sub/x=x+ d/sub/y/ d/sub/y/z=z"),
            Case::new("a merged directory of the root renamed", |l| {
                l.file("sub/x", "x");
            })
            .round(|t| t.rename("sub", "b"), "b/ b/x=x")
            .marks(&[("b", "redirect", Some(b"sub"))]),
            Case::new("a directory moved to another", |l| {
                l.file("a/sub/x", "x").file("b/y", "y");
            })
            .round(|t| t.rename("a/sub", "b/moved"), "a/ b/ b/moved/ b/moved/x=x b/y=y")
            .marks(&[("b/moved", "redirect", Some(b"/a/sub"))])
            .round(|t| t.rename("b", "c"), "a/ c/ c/moved/ c/moved/x=x c/y=y")
            .marks(&[("c", "redirect", Some(b"b")), ("c/moved", "redirect", Some(b"/a/sub"))])
            .round(|t| t.rename("c/moved", "top"), "a/ c/ c/y=y top/ top/x=x")
            .marks(&[("top", "redirect", Some(b"/a/sub"))])
            .round(|t| t.remove_all("a"), "c/ c/y=y top/ top/x=x"),
            Case::new("a directory moved out of one that was renamed", |l| {
                l.file("a/b/c/x", "x").file("a/b/y", "y");
            })
            .round(|t| t.rename("a/b", "a/r"), "a/ a/r/ a/r/c/ a/r/c/x=x a/r/y=y")
            .round(|t| t.rename("a", "s"), "s/ s/r/ s/r/c/ s/r/c/x=x s/r/y=y")
            .round(|t| t.rename("s/r/c", "out"), "out/ out/x=x s/ s/r/ s/r/y=y")
            .marks(&[("out", "redirect", Some(b"/a/b/c")), ("s/r", "redirect", Some(b"b"))])
            .round(|t| t.rename("out", "s/r/y2"), "s/ s/r/ s/r/y=y s/r/y2/ s/r/y2/x=x"),
            Case::new("redirects in each of three layers", |l| {
                l.file("d/x", "x").file("q/y", "y");
            })
            .round(
                |t| {
                    t.rename("d", "e")?;
                    t.write("e/one", "1")
                },
                "e/ e/one=1 e/x=x q/ q/y=y",
            )
            .marks(&[("e", "redirect", Some(b"d"))])
            .restack()
            .round(
                |t| {
                    t.rename("e", "q/f")?;
                    t.write("q/f/two", "2")
                },
                "q/ q/f/ q/f/one=1 q/f/two=2 q/f/x=x q/y=y",
            )
            .marks(&[("q/f", "redirect", Some(b"/e"))])
            .restack()
            .round(
                |t| {
                    t.rename("q/f", "q/g")?;
                    t.append("q/g/x", "3")
                },
                "q/ q/g/ q/g/one=1 q/g/two=2 q/g/x=x3 q/y=y",
            )
            .marks(&[("q/g", "redirect", Some(b"f"))])
            .restack()
            .round(|t| t.rename("q", "h"), "h/ h/g/ h/g/one=1 h/g/two=2 h/g/x=x3 h/y=y")
            .marks(&[("h", "redirect", Some(b"q"))]),
            Case::new("a file changed in a renamed directory", |l| {
                l.file("d/s/f", "f").file("d/s/g", "g").soft_link("f", "d/s/l");
            })
            .round(|t| t.rename("d", "e"), "e/ e/s/ e/s/f=f e/s/g=g e/s/l->f")
            .round(|t| t.append("e/s/f", "+"), "e/ e/s/ e/s/f=f+ e/s/g=g e/s/l->f")
            .round(|t| t.unlink("e/s/g"), "e/ e/s/ e/s/f=f+ e/s/l->f")
            .round(|t| t.rename("e/s", "e/t"), "e/ e/t/ e/t/f=f+ e/t/l->f"),
            Case::new("the old name made anew", |l| {
                l.file("d/f", "f").file("d/s/g", "g");
            })
            .round(
                |t| {
                    t.rename("d", "e")?;
                    t.mkdir("d", 0o755)?;
                    t.write("d/f", "new")
                },
                "d/ d/f=new e/ e/f=f e/s/ e/s/g=g",
            )
            .marks(&[("d", "opaque", Some(b"y")), ("d", "redirect", None), ("e", "opaque", None)])
            .round(
                |t| {
                    t.remove_all("d")?;
                    t.write("d", "file")
                },
                "d=file e/ e/f=f e/s/ e/s/g=g",
            )
            .round(
                |t| {
                    t.unlink("d")?;
                    t.rename("e", "d")
                },
                "d/ d/f=f d/s/ d/s/g=g",
            )
            .round(|t| t.rename("d/s", "s"), "d/ d/f=f s/ s/g=g"),
            Case::new("directories exchanged", |l| {
                l.file("a/x", "x").file("b/y", "y").file("f", "f");
            })
            .round(|t| t.rename_with("a", "b", RenameFlags::EXCHANGE), "a/ a/y=y b/ b/x=x f=f")
            .marks(&[("a", "redirect", Some(b"b")), ("b", "redirect", Some(b"a"))])
            .round(|t| t.rename_with("a", "f", RenameFlags::EXCHANGE), "a=f b/ b/x=x f/ f/y=y")
            .round(|t| t.rename_with("b", "f", RenameFlags::EXCHANGE), "a=f b/ b/y=y f/ f/x=x"),
            Case::new("a renamed directory removed", |l| {
                l.file("a/d/x", "x").file("b/y", "y");
            })
            .round(|t| t.rename("a/d", "b/d"), "a/ b/ b/d/ b/d/x=x b/y=y")
            .round(
                |t| {
                    t.unlink("b/d/x")?;
                    t.rmdir("b/d")
                },
                "a/ b/ b/y=y",
            )
            .round(|t| t.mkdir("a/d", 0o755), "a/ a/d/ b/ b/y=y"),
            Case::new("names that are not plain", |l| {
                l.file("a b\n:,\\/x", "x").file("\u{e9}/..c/y", "y").dir("to", 0o755);
            })
            .round(
                |t| {
                    t.rename("a b\n:,\\", "r")?;
                    t.rename("\u{e9}/..c", "to/m")
                },
                "r/ r/x=x to/ to/m/ to/m/y=y \u{e9}/",
            )
            .marks(&[("r", "redirect", Some(b"a b\n:,\\")), ("to/m", "redirect", Some("/\u{e9}/..c".as_bytes()))])
            .round(|t| t.append("r/x", "+"), "r/ r/x=x+ to/ to/m/ to/m/y=y \u{e9}/"),
            Case::new("a new directory moved over a hidden one", |l| {
                l.file("m/q/x", "x").file("m/z", "z");
            })
            .round(
                |t| {
                    t.remove_all("m/q")?;
                    t.mkdir("p", 0o755)?;
                    t.write("p/n", "n")?;
                    t.rename("p", "m/q")
                },
                "m/ m/q/ m/q/n=n m/z=z",
            )
            .marks(&[("m/q", "opaque", Some(b"y"))])
            .round(|t| t.rename("m", "o"), "o/ o/q/ o/q/n=n o/z=z")
            .restack()
            .round(|t| t.rename("o/q", "o/r"), "o/ o/r/ o/r/n=n o/z=z"),
        ]
    });
}

#[test]
fn hard_links() {
    run(|| {
        vec![
            Case::new("one name written, the others read", |l| {
                l.file("a", "x").hard_link("a", "b").hard_link("a", "d/c");
            })
            .round(|t| t.append("a", "1"), "a=x1*3 b=x1*3 d/ d/c=x1*3")
            .index(1)
            .round(|t| t.append("d/c", "2"), "a=x12*3 b=x12*3 d/ d/c=x12*3")
            .round(|t| t.unlink("b"), "a=x12*2 d/ d/c=x12*2")
            .round(|t| t.rename("d/c", "e"), "a=x12*2 d/ e=x12*2")
            .round(|t| t.link("a", "d/f"), "a=x12*3 d/ d/f=x12*3 e=x12*3")
            .round(|t| t.append("d/f", "3"), "a=x123*3 d/ d/f=x123*3 e=x123*3")
            .index(1),
            Case::new("removed one by one", |l| {
                l.file("a", "x").hard_link("a", "b").hard_link("a", "c");
            })
            .round(|t| t.unlink("a"), "b=x*2 c=x*2")
            .round(|t| t.unlink("c"), "b=x")
            .round(|t| t.append("b", "+"), "b=x+")
            .round(|t| t.unlink("b"), "")
            .index(0)
            .round(|t| t.write("a", "new"), "a=new")
            .round(|t| t.link("a", "b"), "a=new*2 b=new*2"),
            Case::new("a name added before anything was written", |l| {
                l.file("a", "x").hard_link("a", "b");
            })
            .round(|t| t.link("b", "c"), "a=x*3 b=x*3 c=x*3")
            .round(|t| t.unlink("b"), "a=x*2 c=x*2")
            .round(|t| t.append("a", "+"), "a=x+*2 c=x+*2")
            .round(|t| t.rename("c", "a"), "a=x+*2 c=x+*2")
            .round(|t| t.unlink("a"), "c=x+"),
            Case::new("renamed before anything was written", |l| {
                l.file("a", "x").hard_link("a", "b").file("f", "f");
            })
            .round(|t| t.rename("a", "r"), "b=x*2 f=f r=x*2")
            .round(|t| t.rename("f", "b"), "b=f r=x")
            .round(|t| t.rename_with("b", "r", RenameFlags::EXCHANGE), "b=x r=f")
            .round(|t| t.append("b", "+"), "b=x+ r=f"),
            Case::new("in a renamed directory", |l| {
                l.file("d/a", "x").hard_link("d/a", "d/b").hard_link("d/a", "o");
            })
            .round(|t| t.rename("d", "e"), "e/ e/a=x*3 e/b=x*3 o=x*3")
            .round(|t| t.append("e/a", "+"), "e/ e/a=x+*3 e/b=x+*3 o=x+*3")
            .round(|t| t.rename("e/b", "p"), "e/ e/a=x+*3 o=x+*3 p=x+*3")
            .round(|t| t.chmod("o", 0o600), "e/ e/a=x+(600)*3 o=x+(600)*3 p=x+(600)*3"),
            Case::new("symlinks and fifos with two names", |l| {
                l.soft_link("t", "s").hard_link("s", "s2").fifo("p").hard_link("p", "p2");
            })
            .round(|t| t.chown("s", 1, 2), "p:Fifo*2 p2:Fifo*2 s->t@1:2*2 s2->t@1:2*2")
            .round(|t| t.chmod("p2", 0o600), "p:Fifo(600)*2 p2:Fifo(600)*2 s->t@1:2*2 s2->t@1:2*2")
            .round(|t| t.unlink("s2"), "p:Fifo(600)*2 p2:Fifo(600)*2 s->t@1:2"),
            Case::new("two names in a layer that was an upper one", |l| {
                l.file("a", "x").hard_link("a", "b");
            })
            .round(|t| t.append("a", "1"), "a=x1*2 b=x1*2")
            .round(|t| t.append("b", "2"), "a=x12*2 b=x12*2")
            .restack()
            .round(|t| t.append("b", "3"), "a=x123*2 b=x123*2")
            .round(|t| t.unlink("a"), "b=x123"),
            Case::new("a new file with several names", |_| {})
                .round(
                    |t| {
                        t.write("a", "x")?;
                        t.link("a", "b")
                    },
                    "a=x*2 b=x*2",
                )
                .index(0)
                .round(|t| t.link("b", "c"), "a=x*3 b=x*3 c=x*3")
                .restack()
                .round(|t| t.append("c", "+"), "a=x+*3 b=x+*3 c=x+*3")
                .index(1),
        ]
    });
}

#[test]
fn metacopy_files() {
    run(|| {
        vec![
            Case::new("chmod, then read", |l| {
                l.file("f", "data").with_xattr("f", "user.a", b"v");
            })
            .round(|t| t.chmod("f", 0o600), "f=data(600)+user.a=v")
            .marks(&[("f", "metacopy", EMPTY), ("f", "redirect", None)])
            .round(|t| t.chown("f", 1, 2), "f=data(600)@1:2+user.a=v")
            .marks(&[("f", "metacopy", EMPTY)])
            .round(|t| t.remove_xattr("f", "user.a"), "f=data(600)@1:2")
            .round(|t| t.append("f", "+"), "f=data+(600)@1:2")
            .marks(&[("f", "metacopy", None)]),
            Case::new("chmod, then a new length", |l| {
                l.file("f", "data").file("g", "data").file("h", "data");
            })
            .round(
                |t| {
                    t.chmod("f", 0o600)?;
                    t.chmod("g", 0o600)?;
                    t.chmod("h", 0o600)
                },
                "f=data(600) g=data(600) h=data(600)",
            )
            .round(
                |t| {
                    t.truncate("f", 2)?;
                    t.open("g", OFlags::WRONLY | OFlags::TRUNC).map(drop)?;
                    t.truncate("h", 5)
                },
                "f=da(600) g=(600) h=data\0(600)",
            )
            .marks(&[("f", "metacopy", None), ("g", "metacopy", None), ("h", "metacopy", None)]),
            Case::new("chmod, rename, read", |l| {
                l.file("f", "data").dir("d", 0o755);
            })
            .round(|t| t.chmod("f", 0o600), "d/ f=data(600)")
            .round(|t| t.rename("f", "g"), "d/ g=data(600)")
            .marks(&[("g", "metacopy", EMPTY), ("g", "redirect", Some(b"f"))])
            .round(|t| t.rename("g", "d/h"), "d/ d/h=data(600)")
            .marks(&[("d/h", "metacopy", EMPTY), ("d/h", "redirect", Some(b"/f"))])
            .round(|t| t.write("f", "other"), "d/ d/h=data(600) f=other")
            .round(|t| t.append("d/h", "+"), "d/ d/h=data+(600) f=other")
            .marks(&[("d/h", "metacopy", None)]),
            Case::new("renamed without a change", |l| {
                l.file("f", "data").dir("d", 0o755);
            })
            .round(|t| t.rename("f", "d/g"), "d/ d/g=data")
            .marks(&[("d/g", "metacopy", EMPTY), ("d/g", "redirect", Some(b"/f"))])
            .round(|t| t.rename("d/g", "d/h"), "d/ d/h=data")
            .round(|t| t.pwrite("d/h", 1, b"-"), "d/ d/h=d-ta"),
            Case::new("chmod and rename in a renamed directory", |l| {
                l.file("d/f", "data").dir("o", 0o755);
            })
            .round(
                |t| {
                    t.rename("d", "e")?;
                    t.chmod("e/f", 0o600)
                },
                "e/ e/f=data(600) o/",
            )
            .marks(&[("e/f", "metacopy", EMPTY), ("e/f", "redirect", None), ("e", "redirect", Some(b"d"))])
            .round(|t| t.rename("e/f", "e/g"), "e/ e/g=data(600) o/")
            .marks(&[("e/g", "redirect", Some(b"f"))])
            .round(|t| t.rename("e/g", "o/h"), "e/ o/ o/h=data(600)")
            .marks(&[("o/h", "redirect", Some(b"/d/f"))])
            .round(|t| t.rename("o", "p"), "e/ p/ p/h=data(600)")
            .round(|t| t.append("p/h", "+"), "e/ p/ p/h=data+(600)"),
            Case::new("a file exchanged with another, neither with data", |l| {
                l.file("a/f", "one").file("b/g", "two");
            })
            .round(|t| t.rename_with("a/f", "b/g", RenameFlags::EXCHANGE), "a/ a/f=two b/ b/g=one")
            .marks(&[("a/f", "redirect", Some(b"/b/g")), ("b/g", "redirect", Some(b"/a/f"))])
            .round(|t| t.append("a/f", "+"), "a/ a/f=two+ b/ b/g=one"),
            Case::new("a metacopy file given a second name", |l| {
                l.file("f", "data").dir("d", 0o755);
            })
            .round(
                |t| {
                    t.chmod("f", 0o600)?;
                    t.link("f", "d/g")
                },
                "d/ d/g=data(600)*2 f=data(600)*2",
            )
            .marks(&[("f", "metacopy", EMPTY), ("f", "redirect", Some(b"/f"))])
            .round(|t| t.unlink("f"), "d/ d/g=data(600)")
            .round(|t| t.link("d/g", "h"), "d/ d/g=data(600)*2 h=data(600)*2")
            .round(|t| t.append("h", "+"), "d/ d/g=data+(600)*2 h=data+(600)*2"),
            Case::new("chmod of a file with two names", |l| {
                l.file("a", "data").hard_link("a", "d/b");
            })
            .round(|t| t.chmod("a", 0o600), "a=data(600)*2 d/ d/b=data(600)*2")
            .marks(&[("a", "metacopy", EMPTY), ("a", "redirect", None)])
            .index(1)
            .round(|t| t.chown("d/b", 1, 2), "a=data(600)@1:2*2 d/ d/b=data(600)@1:2*2")
            .marks(&[("d/b", "metacopy", EMPTY), ("d/b", "redirect", None)])
            // All names are one inode, with one redirect: absolute even in the same directory.
            .round(|t| t.rename("a", "c"), "c=data(600)@1:2*2 d/ d/b=data(600)@1:2*2")
            .marks(&[("c", "redirect", Some(b"/a")), ("d/b", "redirect", Some(b"/a"))])
            .round(|t| t.rename("d/b", "a"), "a=data(600)@1:2*2 c=data(600)@1:2*2 d/")
            .marks(&[("a", "redirect", Some(b"/a"))])
            .round(|t| t.rename("c", "d/c"), "a=data(600)@1:2*2 d/ d/c=data(600)@1:2*2")
            .round(|t| t.append("a", "+"), "a=data+(600)@1:2*2 d/ d/c=data+(600)@1:2*2"),
            Case::new("metacopy over metacopy over data", |l| {
                l.file("d/f", "data").file("d/g", "data");
            })
            .round(
                |t| {
                    t.chmod("d/f", 0o600)?;
                    t.chmod("d/g", 0o600)
                },
                "d/ d/f=data(600) d/g=data(600)",
            )
            .restack()
            .round(
                |t| {
                    t.chown("d/f", 1, 2)?;
                    t.rename("d/g", "d/h")
                },
                "d/ d/f=data(600)@1:2 d/h=data(600)",
            )
            .marks(&[("d/f", "metacopy", EMPTY), ("d/h", "metacopy", EMPTY), ("d/h", "redirect", Some(b"g"))])
            .restack()
            .round(
                |t| {
                    t.rename("d", "e")?;
                    t.chmod("e/f", 0o644)?;
                    t.rename("e/h", "h")
                },
                "e/ e/f=data@1:2 h=data(600)",
            )
            .marks(&[("e/f", "metacopy", EMPTY), ("h", "metacopy", EMPTY), ("h", "redirect", Some(b"/d/h"))])
            .restack()
            .round(
                |t| {
                    t.append("e/f", "+")?;
                    t.append("h", "+")
                },
                "e/ e/f=data+@1:2 h=data+(600)",
            )
            .marks(&[("e/f", "metacopy", None), ("h", "metacopy", None)]),
        ]
    });
}

#[test]
fn whiteouts_opaque_directories_and_escaped_attributes() {
    run(|| {
        vec![
            Case::new("an opaque directory that becomes a lower one", |l| {
                l.file("d/f", "f").file("d/s/g", "g");
            })
            .round(
                |t| {
                    t.remove_all("d")?;
                    t.mkdir("d", 0o755)?;
                    t.write("d/n", "n")
                },
                "d/ d/n=n",
            )
            .marks(&[("d", "opaque", Some(b"y"))])
            .restack()
            .round(|t| t.write("d/f", "new"), "d/ d/f=new d/n=n")
            .marks(&[("d", "opaque", None)])
            .restack()
            .round(|t| t.mkdir("d/s", 0o755), "d/ d/f=new d/n=n d/s/")
            .round(|t| t.rename("d", "e"), "e/ e/f=new e/n=n e/s/")
            .marks(&[("e", "redirect", Some(b"d"))]),
            Case::new("deleted and made anew as another kind", |l| {
                l.file("a", "a").file("d/f", "f").soft_link("t", "s");
            })
            .round(
                |t| {
                    t.unlink("a")?;
                    t.mkdir("a", 0o755)?;
                    t.unlink("s")?;
                    t.mknod("s", FileType::Fifo, 0o644, 0)?;
                    t.unlink("d/f")
                },
                "a/ d/ s:Fifo",
            )
            .round(
                |t| {
                    t.rmdir("a")?;
                    t.symlink("x", "a")?;
                    t.rmdir("d")
                },
                "a->x s:Fifo",
            )
            .round(|t| t.unlink("a"), "s:Fifo")
            .restack()
            .round(|t| t.mkdir("d", 0o755), "d/ s:Fifo"),
            Case::new("marks set through the mount", |l| {
                l.file("d/f", "f").file("g", "g");
            })
            .round(
                |t| {
                    t.set_xattr("d", "trusted.overlay.opaque", b"y")?;
                    t.set_xattr("d/f", "trusted.overlay.x", b"v")?;
                    t.set_xattr("g", "user.overlay.x", b"w")
                },
                "d/+trusted.overlay.opaque=y d/f=f+trusted.overlay.x=v g=g+user.overlay.x=w",
            )
            .marks(&[
                ("d", "opaque", None),
                ("d", "overlay.opaque", Some(b"y")),
                ("d/f", "x", None),
                ("d/f", "overlay.x", Some(b"v")),
            ])
            .restack()
            // A copy-up takes them along.
            .round(
                |t| t.append("d/f", "+"),
                "d/+trusted.overlay.opaque=y d/f=f++trusted.overlay.x=v g=g+user.overlay.x=w",
            )
            .marks(&[("d/f", "overlay.x", Some(b"v")), ("d", "overlay.opaque", Some(b"y"))])
            .round(
                |t| {
                    t.set_xattr("d/f", "trusted.overlay.overlay.x", b"deeper")?;
                    t.remove_xattr("d/f", "trusted.overlay.x")?;
                    t.remove_xattr("d", "trusted.overlay.opaque")
                },
                "d/ d/f=f++trusted.overlay.overlay.x=deeper g=g+user.overlay.x=w",
            )
            .marks(&[("d/f", "overlay.overlay.x", Some(b"deeper")), ("d/f", "overlay.x", None)]),
        ]
    });
}
