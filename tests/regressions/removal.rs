//! Deleted stays deleted, empty is empty, and what is listed exists.

use rustix::fs::FileType;

use crate::common::*;

/// Fails on fo1: no whiteout is made again, the lower name is back.
#[test]
fn a_name_renamed_over_a_whiteout_and_removed_stays_removed() {
    bounded(|| {
        let stack = Stack::new(1);
        for name in ["unlinked", "renamed", "dir/linked"] {
            stack.lowers[0].file(name, "lower");
        }
        let mut mount = stack.mount();
        for name in ["unlinked", "renamed", "dir/linked"] {
            mount.unlink(name).unwrap();
            mount.write("new", "new").unwrap();
            mount.rename("new", name).unwrap();
        }
        mount.unlink("unlinked").unwrap();
        mount.rename("renamed", "elsewhere").unwrap();
        mount.link("elsewhere", "renamed").unwrap();
        mount.unlink("renamed").unwrap();
        mount.unlink("dir/linked").unwrap();
        for _ in 0..2 {
            assert_eq!(mount.names("").unwrap(), ["dir", "elsewhere"]);
            assert_eq!(mount.names("dir").unwrap(), [""; 0]);
            assert!(!mount.has("unlinked") && !mount.has("renamed") && !mount.has("dir/linked"));
            mount.remount();
        }
    });
}

#[test]
fn a_removed_lower_name_is_a_whiteout_and_the_layer_is_untouched() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("top", "t").file("d/f", "x");
        stack.lowers[1].file("top", "below").file("bottom", "b").soft_link("t", "link");
        stack.age();
        let before: Vec<_> = stack.lowers.iter().map(|l| view::layer(l.root())).collect();
        let mount = stack.mount();
        mount.write("only-upper", "u").unwrap();
        for name in ["top", "bottom", "link", "only-upper", "d/f"] {
            mount.unlink(name).unwrap();
            assert!(!mount.has(name));
        }
        assert_eq!(mount.names("").unwrap(), ["d"]);
        for name in ["top", "bottom", "link", "d/f"] {
            assert!(stack.upper().is_whiteout(name), "{name}");
        }
        assert!(!stack.upper().has("only-upper"), "a name that no lower layer has needs no whiteout");
        for (layer, before) in stack.lowers.iter().zip(&before) {
            view::layer(layer.root()).assert_same(before, "a lower layer (after, before)");
        }
    });
}

/// Fails on fo2: rmdir is ENOTEMPTY, and mkdir EEXIST after a remount.
#[test]
fn a_directory_that_looks_empty_can_be_removed() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("d/a", "x").whiteout("hidden/z").dir("merged", 0o755);
        stack.lowers[1].file("d/b", "x").file("hidden/z", "z").file("merged/m", "x");
        let mut mount = stack.mount();
        assert_eq!(mount.rmdir("d"), Err(Errno::NOTEMPTY));
        mount.unlink("d/a").unwrap();
        mount.unlink("d/b").unwrap();
        mount.unlink("merged/m").unwrap();
        mount.remount();
        for dir in ["d", "hidden", "merged"] {
            assert_eq!(mount.names(dir).unwrap(), [""; 0], "{dir}");
            mount.rmdir(dir).unwrap();
            assert!(!mount.has(dir));
        }
        mount.remount();
        for dir in ["d", "hidden", "merged"] {
            mount.mkdir(dir, 0o755).unwrap();
            assert_eq!(mount.names(dir).unwrap(), [""; 0], "{dir}");
        }
        mount.remount();
        assert_eq!(mount.names("").unwrap(), ["d", "hidden", "merged"]);
        assert_eq!(mount.names("d").unwrap(), [""; 0]);
    });
}

/// Fails on fo1 and fo2 after the remount; on fo1 the kernel is shown `.wh..wh..opq`.
#[test]
fn every_name_that_is_listed_exists() {
    bounded(|| {
        // The kernel reads the upper afterwards, in a namespace without metacopy.
        let stack = Stack::new(2).option("metacopy=off");
        for layer in &stack.lowers {
            for dir in ["a", "a/b", "a/b/c", "d"] {
                layer.file(&format!("{dir}/f"), "x").file(&format!("{dir}/g"), "x");
            }
        }
        let mut mount = stack.mount();
        mount.remove_all("a/b").unwrap();
        mount.mkdir("a/b", 0o755).unwrap();
        mount.mkdir("a/b/c", 0o755).unwrap();
        mount.write("a/b/c/f", "new").unwrap();
        mount.unlink("a/b/c/f").unwrap();
        mount.rename("d/f", "a/b/f").unwrap();
        mount.unlink("a/b/f").unwrap();
        mount.mkdir("e", 0o755).unwrap();
        mount.rename("d/g", "e/g").unwrap();
        mount.rename("e", "a/b/c/e").unwrap();
        let before = View::of(&mount, Walk::default());
        before.assert_sound();
        mount.remount();
        View::of(&mount, Walk::default()).assert_same(&before, "after the remount (after, before)");
        mount.unmount();
        if let Some(kernel) = stack.mount_kernel() {
            let seen = View::of(&kernel, Walk { foreign: true, ..Walk::default() });
            seen.assert_same(&before, "in the kernel's mount of the same upper (kernel, before)");
        }
    });
}

/// <https://github.com/containers/fuse-overlayfs/issues/478>
#[test]
fn trees_removed_and_made_again_have_only_what_is_new() {
    bounded(|| {
        let stack = Stack::new(3);
        for (i, layer) in stack.lowers.iter().enumerate() {
            for n in 0..5 {
                layer.file(&format!("t/d{n}/e{i}/f"), "x").file(&format!("t/d{n}/f{i}"), "x");
            }
        }
        let mut mount = stack.mount();
        for round in 0..3 {
            mount.remove_all("t").unwrap();
            assert!(!mount.has("t"));
            mount.mkdir("t", 0o755).unwrap();
            for n in 0..3 {
                mount.mkdir(format!("t/d{n}"), 0o755).unwrap();
                mount.write(format!("t/d{n}/f{round}"), "new").unwrap();
            }
            mount.remount();
            assert_eq!(mount.names("t").unwrap(), ["d0", "d1", "d2"]);
            assert_eq!(mount.names("t/d1").unwrap(), [format!("f{round}")]);
            View::of(&mount, Walk::default()).assert_sound();
        }
    });
}

/// Fails on fo1 and fo2 at 200,000 entries: the walk does not end.
#[test]
fn a_directory_emptied_while_it_is_read() {
    bounded(|| {
        let stack = Stack::new(2);
        for n in 0..3000 {
            stack.lowers[n % 2].file(&format!("d/file-with-a-longer-name-{n}"), "");
        }
        let mut mount = stack.mount();
        for n in 0..500 {
            mount.write(format!("d/upper-{n}"), "").unwrap();
        }
        let listing = std::fs::read_dir(mount.at("d")).unwrap();
        let mut seen = 0;
        for entry in listing {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
            seen += 1;
        }
        assert_eq!(seen, 3500);
        assert_eq!(mount.names("d").unwrap(), [""; 0]);
        mount.rmdir("d").unwrap();
        mount.remount();
        assert_eq!(mount.names("").unwrap(), [""; 0]);
    });
}

/// Fails on fo1 and fo2: `touch .wh.x` hides x.
#[test]
fn a_user_may_name_a_file_dot_wh() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("x", "lower x").file("d/y", "lower y");
        let mut mount = stack.mount();
        for name in [".wh.x", "d/.wh.y", "d/.wh..wh..opq", ".wh.none"] {
            mount.write(name, "mine").unwrap();
        }
        for _ in 0..2 {
            assert_eq!(mount.names("").unwrap(), [".wh.none", ".wh.x", "d", "x"]);
            assert_eq!(mount.names("d").unwrap(), [".wh..wh..opq", ".wh.y", "y"]);
            assert_eq!(
                (mount.text("x"), mount.text("d/y"), mount.text(".wh.x")),
                ("lower x".into(), "lower y".into(), "mine".into())
            );
            mount.remount();
        }
        mount.unlink(".wh.x").unwrap();
        mount.rename("d/.wh.y", "d/z").unwrap();
        mount.remount();
        assert_eq!(mount.names("d").unwrap(), [".wh..wh..opq", "y", "z"]);
        assert!(mount.has("x"));
    });
}

/// `.wh.` marks of a layer unpacked from an image hide names, in that layer's own style only.
#[test]
fn dot_wh_marks_of_a_lower_layer_hide_names() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file(".wh.a", "").file("d/.wh..wh..opq", "").file("d/new", "n");
        stack.lowers[1].file("a", "x").file("b", "x").file("d/old", "x");
        if mount::binary() == "kernel" {
            skip!("the kernel's OverlayFS does not read this style");
        }
        let mount = stack.mount();
        assert_eq!(mount.names("").unwrap(), ["b", "d"]);
        assert_eq!(mount.names("d").unwrap(), ["new"]);
        assert!(!mount.has("a") && !mount.has("d/old"));
    });
}

#[test]
fn replacing_lower_objects_of_every_kind() {
    bounded(|| {
        let stack = Stack::new(1);
        for name in ["file", "dir", "link", "fifo"] {
            stack.lowers[0].file(&format!("{name}/file"), "x").dir(&format!("{name}/dir/sub"), 0o755);
            stack.lowers[0].soft_link("file", &format!("{name}/link")).fifo(&format!("{name}/fifo"));
        }
        let mut mount = stack.mount();
        for old in ["file", "dir", "link", "fifo"] {
            for new in ["file", "dir", "link", "fifo"] {
                let path = format!("{new}/{old}");
                if old == "dir" {
                    mount.remove_all(&path).unwrap()
                } else {
                    mount.unlink(&path).unwrap()
                }
                match new {
                    "file" => mount.write(&path, "new").unwrap(),
                    "dir" => mount.mkdir(&path, 0o755).unwrap(),
                    "link" => mount.symlink("new", &path).unwrap(),
                    _ => mount.mknod(&path, FileType::Fifo, 0o600, 0).unwrap(),
                }
            }
        }
        let before = View::of(&mount, Walk::default());
        before.assert_sound();
        assert_eq!(mount.names("dir/dir").unwrap(), [""; 0]);
        mount.remount();
        View::of(&mount, Walk::default()).assert_same(&before, "after the remount (after, before)");
    });
}
