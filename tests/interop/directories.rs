//! Directories and their marks: redirects, opaque directories, escaped attributes. The expected marks are those of the
//! kernel (Linux 6.18).

use rustix::fs::{FileType, RenameFlags};

use crate::common::*;
use crate::side::*;
use crate::table::{Case, EMPTY};

#[test]
fn a_merged_directory_renamed_beside_its_old_name() {
    Case::over(|l| {
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
    .round(|t| t.rename("d/third", "d/sub"), "d/ d/sub/ d/sub/new=n d/sub/x=x+ d/sub/y/ d/sub/y/z=z")
    .run();
}

#[test]
fn a_merged_directory_of_the_root_renamed() {
    Case::over(|l| {
        l.file("sub/x", "x");
    })
    .round(|t| t.rename("sub", "b"), "b/ b/x=x")
    .marks(&[("b", "redirect", Some(b"sub"))])
    .run();
}

#[test]
fn a_directory_moved_to_another() {
    Case::over(|l| {
        l.file("a/sub/x", "x").file("b/y", "y");
    })
    .round(|t| t.rename("a/sub", "b/moved"), "a/ b/ b/moved/ b/moved/x=x b/y=y")
    .marks(&[("b/moved", "redirect", Some(b"/a/sub"))])
    .round(|t| t.rename("b", "c"), "a/ c/ c/moved/ c/moved/x=x c/y=y")
    .marks(&[("c", "redirect", Some(b"b")), ("c/moved", "redirect", Some(b"/a/sub"))])
    .round(|t| t.rename("c/moved", "top"), "a/ c/ c/y=y top/ top/x=x")
    .marks(&[("top", "redirect", Some(b"/a/sub"))])
    .round(|t| t.remove_all("a"), "c/ c/y=y top/ top/x=x")
    .run();
}

#[test]
fn a_directory_moved_out_of_one_that_was_renamed() {
    Case::over(|l| {
        l.file("a/b/c/x", "x").file("a/b/y", "y");
    })
    .round(|t| t.rename("a/b", "a/r"), "a/ a/r/ a/r/c/ a/r/c/x=x a/r/y=y")
    .round(|t| t.rename("a", "s"), "s/ s/r/ s/r/c/ s/r/c/x=x s/r/y=y")
    .round(|t| t.rename("s/r/c", "out"), "out/ out/x=x s/ s/r/ s/r/y=y")
    .marks(&[("out", "redirect", Some(b"/a/b/c")), ("s/r", "redirect", Some(b"b"))])
    .round(|t| t.rename("out", "s/r/y2"), "s/ s/r/ s/r/y=y s/r/y2/ s/r/y2/x=x")
    .run();
}

#[test]
fn redirects_in_each_of_three_layers() {
    Case::over(|l| {
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
    .marks(&[("h", "redirect", Some(b"q"))])
    .run();
}

#[test]
fn a_file_changed_in_a_renamed_directory() {
    Case::over(|l| {
        l.file("d/s/f", "f").file("d/s/g", "g").soft_link("f", "d/s/l");
    })
    .round(|t| t.rename("d", "e"), "e/ e/s/ e/s/f=f e/s/g=g e/s/l->f")
    .round(|t| t.append("e/s/f", "+"), "e/ e/s/ e/s/f=f+ e/s/g=g e/s/l->f")
    .round(|t| t.unlink("e/s/g"), "e/ e/s/ e/s/f=f+ e/s/l->f")
    .round(|t| t.rename("e/s", "e/t"), "e/ e/t/ e/t/f=f+ e/t/l->f")
    .run();
}

#[test]
fn the_old_name_made_anew() {
    Case::over(|l| {
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
    .round(|t| t.rename("d/s", "s"), "d/ d/f=f s/ s/g=g")
    .run();
}

#[test]
fn directories_exchanged() {
    Case::over(|l| {
        l.file("a/x", "x").file("b/y", "y").file("f", "f");
    })
    .round(|t| t.rename_with("a", "b", RenameFlags::EXCHANGE), "a/ a/y=y b/ b/x=x f=f")
    .marks(&[("a", "redirect", Some(b"b")), ("b", "redirect", Some(b"a"))])
    .round(|t| t.rename_with("a", "f", RenameFlags::EXCHANGE), "a=f b/ b/x=x f/ f/y=y")
    .round(|t| t.rename_with("b", "f", RenameFlags::EXCHANGE), "a=f b/ b/y=y f/ f/x=x")
    .run();
}

/// An absolute redirect leads out of a directory that merges with nothing.
#[test]
fn a_merged_directory_moved_into_a_new_one() {
    Case::over(|l| {
        l.file("a/d/x", "x").file("a/f", "f");
    })
    .round(
        |t| {
            t.mkdir("n", 0o755)?;
            t.rename("a/d", "n/d")?;
            t.rename("a/f", "n/f")
        },
        "a/ n/ n/d/ n/d/x=x n/f=f",
    )
    .marks(&[("n/d", "redirect", Some(b"/a/d")), ("n/f", "redirect", Some(b"/a/f")), ("n/f", "metacopy", EMPTY)])
    .round(|t| t.rename("n/d", "n/e"), "a/ n/ n/e/ n/e/x=x n/f=f")
    .marks(&[("n/e", "redirect", Some(b"/a/d"))])
    .round(|t| t.rename("n", "m"), "a/ m/ m/e/ m/e/x=x m/f=f")
    .round(|t| t.append("m/e/x", "+"), "a/ m/ m/e/ m/e/x=x+ m/f=f")
    .restack()
    .round(|t| t.rename("m/e", "m/g"), "a/ m/ m/f=f m/g/ m/g/x=x+")
    .round(|t| t.append("m/f", "+"), "a/ m/ m/f=f+ m/g/ m/g/x=x+")
    .run();
}

/// The redirect leads to the name of the directory's own parent.
#[test]
fn a_renamed_directory_moved_into_a_new_one_of_its_old_name() {
    Case::over(|l| {
        l.file("d/x", "x").file("d/d/y", "y");
    })
    .round(
        |t| {
            t.rename("d", "e")?;
            t.mkdir("d", 0o755)?;
            t.rename("e", "d/d")
        },
        "d/ d/d/ d/d/d/ d/d/d/y=y d/d/x=x",
    )
    .marks(&[("d", "opaque", Some(b"y")), ("d/d", "redirect", Some(b"/d"))])
    .round(|t| t.rename("d/d/d", "d/e"), "d/ d/d/ d/d/x=x d/e/ d/e/y=y")
    .marks(&[("d/e", "redirect", Some(b"/d/d"))])
    .round(|t| t.append("d/d/x", "+"), "d/ d/d/ d/d/x=x+ d/e/ d/e/y=y")
    .run();
}

#[test]
fn a_renamed_directory_removed() {
    Case::over(|l| {
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
    .round(|t| t.mkdir("a/d", 0o755), "a/ a/d/ b/ b/y=y")
    .run();
}

#[test]
fn names_that_are_not_plain() {
    Case::over(|l| {
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
    .round(|t| t.append("r/x", "+"), "r/ r/x=x+ to/ to/m/ to/m/y=y \u{e9}/")
    .run();
}

#[test]
fn a_new_directory_moved_over_a_hidden_one() {
    Case::over(|l| {
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
    .round(|t| t.rename("o/q", "o/r"), "o/ o/r/ o/r/n=n o/z=z")
    .run();
}

#[test]
fn an_opaque_directory_that_becomes_a_lower_one() {
    Case::over(|l| {
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
    .marks(&[("e", "redirect", Some(b"d"))])
    .run();
}

#[test]
fn deleted_and_made_anew_as_another_kind() {
    Case::over(|l| {
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
    .round(|t| t.mkdir("d", 0o755), "d/ s:Fifo")
    .run();
}

#[test]
fn marks_set_through_the_mount() {
    Case::over(|l| {
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
    .round(|t| t.append("d/f", "+"), "d/+trusted.overlay.opaque=y d/f=f++trusted.overlay.x=v g=g+user.overlay.x=w")
    .marks(&[("d/f", "overlay.x", Some(b"v")), ("d", "overlay.opaque", Some(b"y"))])
    .round(
        |t| {
            t.set_xattr("d/f", "trusted.overlay.overlay.x", b"deeper")?;
            t.remove_xattr("d/f", "trusted.overlay.x")?;
            t.remove_xattr("d", "trusted.overlay.opaque")
        },
        "d/ d/f=f++trusted.overlay.overlay.x=deeper g=g+user.overlay.x=w",
    )
    .marks(&[("d/f", "overlay.overlay.x", Some(b"deeper")), ("d/f", "overlay.x", None)])
    .run();
}

/// The kernel writes no such mark (`redirect_max`), but reads it.
#[test]
fn an_absolute_redirect_longer_than_the_kernel_writes() {
    if who() != Who::Root || is_kernel() || !kernel_is_here() {
        return;
    }
    bounded(|| {
        let stack = Stack::new(1);
        let parts = ["a", "b", "c"].map(|letter| letter.repeat(120));
        let path = parts.join("/");
        stack.lowers[0].file(&format!("{path}/x"), "x").file(&format!("{path}/y/z"), "z");
        stack.lowers[0].dir("into", 0o755);
        let live = PLYFS_ALL.mount(&stack, "work").unwrap();
        live.rename(&path, "into/moved").unwrap();
        live.append("into/moved/y/z", "+").unwrap();
        let view = View::of(&live, Walk::default());
        live.unmount().unwrap();
        let mark = stack.upper().xattr("into/moved", "trusted.overlay.redirect").unwrap();
        assert_eq!(mark, format!("/{path}").as_bytes());
        assert!(mark.len() > 256);
        for side in [KERNEL_ALL, PLYFS_ALL] {
            let live = side.mount(&stack, "work").unwrap();
            same(&View::of(&live, Walk { numbers: view::Numbers::NotJudged, ..Walk::default() }), &view, "now, before")
                .unwrap();
            assert_eq!([live.text("into/moved/x"), live.text("into/moved/y/z")], ["x", "z+"], "{side:?}");
            live.unmount().unwrap();
        }
    });
}
