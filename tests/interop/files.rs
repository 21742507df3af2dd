//! Files and their marks: hard links of lower files, and files without data. The expected marks are those of the kernel
//! (Linux 6.18).

use rustix::fs::{OFlags, RenameFlags};

use crate::common::*;
use crate::side::*;
use crate::table::{Case, EMPTY};

#[test]
fn a_hard_link_is_written_and_its_other_names_read() {
    Case::over(|l| {
        l.file("a", "x").hard_link("a", "b").hard_link("a", "d/c");
    })
    .round(|t| t.append("a", "1"), "a=x1*3 b=x1*3 d/ d/c=x1*3")
    .index(1)
    .round(|t| t.append("d/c", "2"), "a=x12*3 b=x12*3 d/ d/c=x12*3")
    .round(|t| t.unlink("b"), "a=x12*2 d/ d/c=x12*2")
    .round(|t| t.rename("d/c", "e"), "a=x12*2 d/ e=x12*2")
    .round(|t| t.link("a", "d/f"), "a=x12*3 d/ d/f=x12*3 e=x12*3")
    .round(|t| t.append("d/f", "3"), "a=x123*3 d/ d/f=x123*3 e=x123*3")
    .index(1)
    .run();
}

#[test]
fn hard_links_removed_one_by_one() {
    Case::over(|l| {
        l.file("a", "x").hard_link("a", "b").hard_link("a", "c");
    })
    .round(|t| t.unlink("a"), "b=x*2 c=x*2")
    .round(|t| t.unlink("c"), "b=x")
    .round(|t| t.append("b", "+"), "b=x+")
    .round(|t| t.unlink("b"), "")
    .index(0)
    .round(|t| t.write("a", "new"), "a=new")
    .round(|t| t.link("a", "b"), "a=new*2 b=new*2")
    .run();
}

#[test]
fn a_hard_link_made_before_anything_was_written() {
    Case::over(|l| {
        l.file("a", "x").hard_link("a", "b");
    })
    .round(|t| t.link("b", "c"), "a=x*3 b=x*3 c=x*3")
    .round(|t| t.unlink("b"), "a=x*2 c=x*2")
    .round(|t| t.append("a", "+"), "a=x+*2 c=x+*2")
    .round(|t| t.rename("c", "a"), "a=x+*2 c=x+*2")
    .round(|t| t.unlink("a"), "c=x+")
    .run();
}

#[test]
fn a_hard_link_renamed_before_anything_was_written() {
    Case::over(|l| {
        l.file("a", "x").hard_link("a", "b").file("f", "f");
    })
    .round(|t| t.rename("a", "r"), "b=x*2 f=f r=x*2")
    .round(|t| t.rename("f", "b"), "b=f r=x")
    .round(|t| t.rename_with("b", "r", RenameFlags::EXCHANGE), "b=x r=f")
    .round(|t| t.append("b", "+"), "b=x+ r=f")
    .run();
}

#[test]
fn hard_links_in_a_renamed_directory() {
    Case::over(|l| {
        l.file("d/a", "x").hard_link("d/a", "d/b").hard_link("d/a", "o");
    })
    .round(|t| t.rename("d", "e"), "e/ e/a=x*3 e/b=x*3 o=x*3")
    .round(|t| t.append("e/a", "+"), "e/ e/a=x+*3 e/b=x+*3 o=x+*3")
    .round(|t| t.rename("e/b", "p"), "e/ e/a=x+*3 o=x+*3 p=x+*3")
    .round(|t| t.chmod("o", 0o600), "e/ e/a=x+(600)*3 o=x+(600)*3 p=x+(600)*3")
    .run();
}

/// Another layer, or none, has the other name: it counts all the same.
#[test]
fn a_hard_link_with_a_name_outside_the_layer() {
    Case::over(|l| {
        l.file("a", "x").hard_link("a", "../outside").file("b", "y").hard_link("b", "c").hard_link("b", "../out");
    })
    .round(|t| t.append("a", "+"), "a=x+*2 b=y*3 c=y*3")
    .round(|t| t.link("a", "d"), "a=x+*3 b=y*3 c=y*3 d=x+*3")
    .round(|t| t.unlink("b"), "a=x+*3 c=y*2 d=x+*3")
    .round(|t| t.append("c", "+"), "a=x+*3 c=y+*2 d=x+*3")
    .round(
        |t| {
            t.unlink("a")?;
            t.unlink("c")?;
            t.unlink("d")
        },
        "",
    )
    .round(|t| t.write("c", "new"), "c=new")
    .run();
}

#[test]
fn symlinks_and_fifos_with_two_names() {
    Case::over(|l| {
        l.soft_link("t", "s").hard_link("s", "s2").fifo("p").hard_link("p", "p2");
    })
    .round(|t| t.chown("s", 1, 2), "p:Fifo*2 p2:Fifo*2 s->t@1:2*2 s2->t@1:2*2")
    .round(|t| t.chmod("p2", 0o600), "p:Fifo(600)*2 p2:Fifo(600)*2 s->t@1:2*2 s2->t@1:2*2")
    .round(|t| t.unlink("s2"), "p:Fifo(600)*2 p2:Fifo(600)*2 s->t@1:2")
    .run();
}

#[test]
fn hard_links_in_a_layer_that_was_an_upper_one() {
    Case::over(|l| {
        l.file("a", "x").hard_link("a", "b");
    })
    .round(|t| t.append("a", "1"), "a=x1*2 b=x1*2")
    .round(|t| t.append("b", "2"), "a=x12*2 b=x12*2")
    .restack()
    .round(|t| t.append("b", "3"), "a=x123*2 b=x123*2")
    .round(|t| t.unlink("a"), "b=x123")
    .run();
}

#[test]
fn hard_links_of_a_new_file() {
    Case::over(|_| {})
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
        .index(1)
        .run();
}

#[test]
fn metacopy_by_chmod_then_read() {
    Case::over(|l| {
        l.file("f", "data").with_xattr("f", "user.a", b"v");
    })
    .round(|t| t.chmod("f", 0o600), "f=data(600)+user.a=v")
    .marks(&[("f", "metacopy", EMPTY), ("f", "redirect", None)])
    .round(|t| t.chown("f", 1, 2), "f=data(600)@1:2+user.a=v")
    .marks(&[("f", "metacopy", EMPTY)])
    .round(|t| t.remove_xattr("f", "user.a"), "f=data(600)@1:2")
    .round(|t| t.append("f", "+"), "f=data+(600)@1:2")
    .marks(&[("f", "metacopy", None)])
    .run();
}

#[test]
fn metacopy_then_a_new_length() {
    Case::over(|l| {
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
    .marks(&[("f", "metacopy", None), ("g", "metacopy", None), ("h", "metacopy", None)])
    .run();
}

#[test]
fn metacopy_renamed_then_read() {
    Case::over(|l| {
        l.file("f", "data").dir("d", 0o755);
    })
    .round(|t| t.chmod("f", 0o600), "d/ f=data(600)")
    .round(|t| t.rename("f", "g"), "d/ g=data(600)")
    .marks(&[("g", "metacopy", EMPTY), ("g", "redirect", Some(b"f"))])
    .round(|t| t.rename("g", "d/h"), "d/ d/h=data(600)")
    .marks(&[("d/h", "metacopy", EMPTY), ("d/h", "redirect", Some(b"/f"))])
    .round(|t| t.write("f", "other"), "d/ d/h=data(600) f=other")
    .round(|t| t.append("d/h", "+"), "d/ d/h=data+(600) f=other")
    .marks(&[("d/h", "metacopy", None)])
    .run();
}

#[test]
fn a_file_renamed_without_a_change_takes_no_data_along() {
    Case::over(|l| {
        l.file("f", "data").dir("d", 0o755);
    })
    .round(|t| t.rename("f", "d/g"), "d/ d/g=data")
    .marks(&[("d/g", "metacopy", EMPTY), ("d/g", "redirect", Some(b"/f"))])
    .round(|t| t.rename("d/g", "d/h"), "d/ d/h=data")
    .round(|t| t.pwrite("d/h", 1, b"-"), "d/ d/h=d-ta")
    .run();
}

#[test]
fn metacopy_in_a_renamed_directory() {
    Case::over(|l| {
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
    .round(|t| t.append("p/h", "+"), "e/ p/ p/h=data+(600)")
    .run();
}

#[test]
fn metacopy_files_exchanged() {
    Case::over(|l| {
        l.file("a/f", "one").file("b/g", "two");
    })
    .round(|t| t.rename_with("a/f", "b/g", RenameFlags::EXCHANGE), "a/ a/f=two b/ b/g=one")
    .marks(&[("a/f", "redirect", Some(b"/b/g")), ("b/g", "redirect", Some(b"/a/f"))])
    .round(|t| t.append("a/f", "+"), "a/ a/f=two+ b/ b/g=one")
    .run();
}

#[test]
fn a_metacopy_file_given_a_second_name() {
    Case::over(|l| {
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
    .round(|t| t.append("h", "+"), "d/ d/g=data+(600)*2 h=data+(600)*2")
    .run();
}

#[test]
fn metacopy_of_a_file_with_two_names() {
    Case::over(|l| {
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
    .round(|t| t.append("a", "+"), "a=data+(600)@1:2*2 d/ d/c=data+(600)@1:2*2")
    .run();
}

#[test]
fn metacopy_over_metacopy_over_data() {
    Case::over(|l| {
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
    .marks(&[("e/f", "metacopy", None), ("h", "metacopy", None)])
    .run();
}

/// `user.*` marks do not go on symlinks, fifos, sockets and devices; on files they do.
#[test]
fn without_privilege_names_part_over_a_remount_but_for_files() {
    if who() == Who::Root || is_kernel() {
        return;
    }
    bounded(|| {
        let stack = Stack::new(1);
        let pairs = [("file", "file2"), ("link", "link2"), ("fifo", "fifo2")];
        stack.lowers[0].file("file", "x").soft_link("t", "link").fifo("fifo");
        for (one, two) in pairs {
            stack.lowers[0].hard_link(one, two);
        }
        stack.age();
        let live = PLYFS_ALL.mount(&stack, "work").unwrap();
        let time = rustix::fs::Timespec { tv_sec: 1_100_000_000, tv_nsec: 0 };
        let number = |tree: &Tree, path| tree.stat(path).unwrap().st_ino;
        for (one, two) in pairs {
            // The other name is not known to the mount: it gets no link.
            live.utimes(one, time).unwrap();
            assert_eq!(live.stat(two).unwrap().st_mtime, time.tv_sec, "{two}, live");
            assert_eq!(number(&live, one), number(&live, two), "{two}, live");
        }
        live.unmount().unwrap();
        let live = PLYFS_ALL.mount(&stack, "work").unwrap();
        for (one, two) in pairs {
            let one_still = one == "file";
            assert_eq!(live.stat(one).unwrap().st_mtime, time.tv_sec, "{one}, mounted again");
            assert_eq!(live.stat(two).unwrap().st_mtime == time.tv_sec, one_still, "{two}, mounted again");
            assert_eq!(number(&live, one) == number(&live, two), one_still, "{two}, mounted again");
        }
        live.append("file2", "+").unwrap();
        assert_eq!(live.text("file"), "x+");
    });
}
