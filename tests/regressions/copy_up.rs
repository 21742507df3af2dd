//! What a copy keeps: everything.

use std::os::fd::OwnedFd;

use rustix::fs::{self as sys, OFlags, SeekFrom};

use crate::common::tree::OLD;
use crate::common::*;

/// The data extents of a file, by SEEK_DATA and SEEK_HOLE.
fn extents(fd: &OwnedFd) -> Vec<(u64, u64)> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        match sys::seek(fd, SeekFrom::Data(at)) {
            Ok(start) => {
                at = sys::seek(fd, SeekFrom::Hole(start)).unwrap();
                all.push((start, at));
            }
            Err(Errno::NXIO) => return all,
            Err(e) => panic!("SEEK_DATA: {e:?}"),
        }
    }
}

/// Fails on fo1 and fo2 (no holes) and on the kernel (1 MiB steps).
#[test]
fn holes_stay_exactly_where_they_were() {
    bounded(|| {
        let stack = Stack::new(1).option("metacopy=off");
        let lower = stack.lowers[0].file("sparse", "");
        lower.truncate("sparse", 64 << 20).unwrap();
        for at in [0, 12_288, 3 << 20, (40 << 20) + 8192] {
            lower.pwrite("sparse", at, &[7; 4096]).unwrap();
        }
        lower.file("empty", "").truncate("empty", 10 << 20).unwrap();
        let mount = stack.mount();
        for name in ["sparse", "empty"] {
            let below = lower.open(name, OFlags::RDONLY).unwrap();
            let through = mount.open(name, OFlags::RDONLY).unwrap();
            assert_eq!(extents(&through), extents(&below), "through the mount, before");
            mount.chmod(name, 0o600).unwrap();
            let upper = stack.upper().open(name, OFlags::RDONLY).unwrap();
            assert_eq!(extents(&upper), extents(&below), "{name} in the upper layer");
            assert_eq!(extents(&through), extents(&below), "through the mount, after");
            let blocks = |fd| sys::fstat(fd).unwrap().st_blocks;
            assert_eq!(blocks(&upper), blocks(&below));
            assert!(tree::read_all(&upper).unwrap() == tree::read_all(&below).unwrap());
        }
    });
}

/// fo1 and fo2 lose the time of the symlink and of the parent.
#[test]
fn times_of_the_object_and_of_its_parents_are_kept() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("a/b/f", "x").soft_link("t", "a/l").fifo("a/p").dir("a/d", 0o755);
        stack.age();
        let mut mount = stack.mount();
        mount.chmod("a/b/f", 0o600).unwrap();
        mount.chmod("a/p", 0o600).unwrap();
        mount.chmod("a/d", 0o700).unwrap();
        mount.link("a/l", "m").unwrap();
        for _ in 0..2 {
            for path in ["a", "a/b", "a/b/f", "a/l", "a/p", "a/d"] {
                let st = mount.stat(path).unwrap();
                assert_eq!((st.st_mtime, st.st_mtime_nsec as i64), (OLD.tv_sec, OLD.tv_nsec), "{path}");
            }
            mount.remount();
        }
    });
}

/// Fails on fo1: tar says "Directory renamed before its status could be extracted". On fo2 after a remount.
#[test]
fn inode_numbers_are_kept_by_copy_up_and_rename() {
    bounded(|| {
        let stack = Stack::new(2);
        stack.lowers[0].file("d/f", "x").soft_link("t", "d/l").fifo("d/p");
        stack.lowers[1].file("d/g", "x").file("e/h", "x");
        let mut mount = stack.mount();
        let numbers = |paths: &[&str]| paths.iter().map(|p| mount.stat(*p).unwrap().st_ino).collect::<Vec<_>>();
        let paths = ["", "d", "e", "d/f", "d/l", "d/p", "d/g", "e/h"];
        let before = numbers(&paths);
        mount.append("d/f", "y").unwrap();
        mount.append("e/h", "y").unwrap();
        mount.chmod("d/p", 0o600).unwrap();
        mount.chmod("d", 0o700).unwrap();
        mount.utimes("d/l", OLD).unwrap();
        mount.rename("d/g", "d/g2").unwrap();
        mount.mkdir("new", 0o755).unwrap();
        let new = mount.stat("new").unwrap().st_ino;
        mount.rename("new", "d/new").unwrap();
        assert_eq!(mount.stat("d/new").unwrap().st_ino, new);
        let paths = ["", "d", "e", "d/f", "d/l", "d/p", "d/g2", "e/h"];
        assert_eq!(numbers(&paths), before);
        // Over a remount for what an `origin` can stand on; a normal user's stands on files and directories.
        let paths: Vec<_> = paths.into_iter().filter(|p| who() == Who::Root || !["d/l", "d/p"].contains(p)).collect();
        let before = numbers(&paths);
        if mount::binary() == "kernel" && who() == Who::Namespace {
            skip!("the kernel keeps no numbers over a remount without file handles");
        }
        mount.remount();
        let after: Vec<_> = paths.iter().map(|p| mount.stat(*p).unwrap().st_ino).collect();
        assert_eq!(after, before, "over a remount, of {paths:?}");
    });
}

/// An access and a default ACL: user::rwx, user:1:r--, group::r--, mask::r--, other::---.
fn acl(user: u32) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 7u16, u32::MAX), (2, 4, user), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// fo2 copies default ACLs only, to files too.
#[test]
fn xattrs_acls_and_capabilities_are_kept() {
    bounded(|| {
        let stack = Stack::new(1);
        let lower = &stack.lowers[0];
        let me = rustix::process::geteuid().as_raw();
        let odd = std::ffi::OsStr::new("user.empty");
        lower.file("f", "x").with_xattr("f", "user.one", b"1").with_xattr("f", "user.big", &[9; 2000]);
        lower.set_xattr("f", odd, b"").unwrap();
        lower.file("d/g", "x").with_xattr("d", "user.dir", b"d");
        if lower.set_xattr("f", "system.posix_acl_access", &acl(me)).is_ok() {
            lower.with_xattr("d", "system.posix_acl_default", &acl(me)).with_xattr(
                "d",
                "system.posix_acl_access",
                &acl(me),
            );
        } else {
            say_skipped("no ACLs on the file system of the tests");
        }
        lower.file("capable", "x").perm("capable", 0o755);
        // cap_net_raw+ep, revision 2 (capabilities(7)).
        let mut capability = 0x0200_0001u32.to_le_bytes().to_vec();
        capability.extend([0, 0x20, 0, 0].iter().chain(&[0; 12]));
        if who() == Who::Root {
            lower.set_xattr("capable", "security.capability", &capability).unwrap();
            lower.with_xattr("f", "trusted.other", b"t");
        }
        let paths = ["f", "d", "d/g", "capable"];
        let all = |tree: &Tree| -> Vec<(Vec<u8>, Vec<u8>)> {
            let name = |n: &[u8]| String::from_utf8(n.to_vec()).unwrap();
            let names = |p: &str| tree.xattrs(p).unwrap().into_iter().filter(|n| !name(n).contains(".overlay."));
            let of = |p: &'static str| names(p).map(move |n| (tree.xattr(p, name(&n)).unwrap(), n)).collect::<Vec<_>>();
            paths.into_iter().flat_map(of).collect()
        };
        let before = all(lower);
        let mode = lower.mode("f");
        let mut mount = stack.mount();
        assert_eq!(all(&mount), before, "through the mount, before");
        for path in paths {
            mount.utimes(path, OLD).unwrap();
        }
        assert_eq!((all(&mount), mount.mode("f")), (before.clone(), mode), "through the mount, after");
        assert_eq!(all(stack.upper()), before, "in the upper layer");
        mount.remount();
        assert_eq!(all(&mount), before, "after a remount");
    });
}

#[test]
fn owners_are_kept() {
    bounded(|| {
        if who() != Who::Root {
            skip!("only root sets owners");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "x").soft_link("t", "d/l").fifo("d/p");
        for (path, uid) in [("d", 1), ("d/f", 2), ("d/l", 3), ("d/p", 4)] {
            stack.lowers[0].chown(path, uid, uid + 10).unwrap();
        }
        stack.lowers[0].perm("d/f", 0o6755);
        let mount = stack.mount();
        for (path, uid) in [("d", 1), ("d/f", 2), ("d/l", 3), ("d/p", 4)] {
            mount.utimes(path, OLD).unwrap();
            for tree in [&*mount, stack.upper()] {
                let st = tree.stat(path).unwrap();
                assert_eq!((st.st_uid, st.st_gid), (uid, uid + 10), "{path}");
            }
        }
        assert_eq!((mount.mode("d/f"), stack.upper().mode("d/f")), (0o6755, 0o6755));
    });
}

/// An opening with O_TRUNC keeps all but the content.
#[test]
fn a_truncating_open_keeps_everything_but_the_content() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x".repeat(100_000)).with_xattr("f", "user.a", b"1").perm("f", 0o640);
        let mut mount = stack.mount();
        let ino = mount.stat("f").unwrap().st_ino;
        drop(mount.open("f", OFlags::WRONLY | OFlags::TRUNC).unwrap());
        for _ in 0..2 {
            let st = mount.stat("f").unwrap();
            assert_eq!((st.st_size, st.st_mode & 0o7777, st.st_ino), (0, 0o640, ino));
            assert_eq!(mount.xattr("f", "user.a").unwrap(), b"1");
            mount.remount();
        }
        assert_eq!(stack.lowers[0].stat("f").unwrap().st_size, 100_000);
    });
}

/// Reading through the mount leaves even the access times of a lower layer alone, where O_NOATIME is allowed.
#[test]
fn reading_does_not_change_the_lower_layer() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "x".repeat(10_000)).soft_link("f", "d/l");
        stack.age();
        if mount::binary() == "kernel" {
            skip!("the kernel's OverlayFS passes access times on");
        }
        let mount = stack.mount();
        View::of(&mount, Walk::default()).assert_sound();
        for path in ["d", "d/f"] {
            assert_eq!(stack.lowers[0].stat(path).unwrap().st_atime, OLD.tv_sec, "{path}");
        }
    });
}

/// Fails on fo1 and fo2 beyond about 370 levels: ENAMETOOLONG.
#[test]
fn paths_longer_than_path_max() {
    bounded(|| {
        fn descend(from: OwnedFd, make: bool) -> OwnedFd {
            let name = "a-directory-name-of-40-bytes............";
            (0..500).fold(from, |dir, _| {
                if make {
                    sys::mkdirat(&dir, name, 0o755.into()).unwrap();
                }
                sys::openat(&dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, 0.into()).unwrap()
            })
        }
        let stack = Stack::new(1);
        let low = descend(stack.lowers[0].open("", OFlags::RDONLY).unwrap(), true);
        let put = |dir: &OwnedFd, name: &str, flags| {
            let fd = sys::openat(dir, name, OFlags::WRONLY | flags, 0o644.into()).unwrap();
            tree::write_all(&fd, b"deep").unwrap();
        };
        put(&low, "f", OFlags::CREATE);
        let mut mount = stack.mount();
        let dir = descend(mount.open("", OFlags::RDONLY).unwrap(), false);
        put(&dir, "f", OFlags::APPEND);
        put(&dir, "g", OFlags::CREATE);
        sys::renameat(&dir, "g", &dir, "h").unwrap();
        drop(dir);
        mount.remount();
        let dir = descend(mount.open("", OFlags::RDONLY).unwrap(), false);
        let size = |name| sys::statat(&dir, name, sys::AtFlags::SYMLINK_NOFOLLOW).map(|st| st.st_size);
        assert_eq!((size("f"), size("g"), size("h")), (Ok(8), Err(Errno::NOENT), Ok(4)));
    });
}

#[test]
fn opening_for_writing_copies_nothing() {
    bounded(|| {
        if !mount::is_plyfs() {
            return; // the others copy up as soon as a file is opened for writing
        }
        if std::env::var("PLYFS_TEST_OPTIONS").is_ok_and(|more| ["copyup=open", "io=writeback"].contains(&&*more)) {
            skip!("copied up when opened");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "data").file("meta", "more data");
        let mount = stack.mount();
        mount.chmod("meta", 0o600).unwrap();
        let data =
            |path| stack.upper().stat(path).map(|st| st.st_blocks != 0 && stack.upper().text(path) == mount.text(path));
        for flags in [OFlags::RDWR, OFlags::WRONLY, OFlags::RDWR | OFlags::APPEND] {
            let open = [mount.open("f", flags).unwrap(), mount.open("meta", flags).unwrap()];
            assert_eq!(mount.text("meta"), "more data");
            drop(open);
            assert!(!stack.upper().has("f"), "{flags:?}");
            assert_eq!(data("meta"), Ok(false), "{flags:?}");
        }
        for (path, text) in [("f", "Data"), ("meta", "More data")] {
            let fd = mount.open(path, OFlags::RDWR).unwrap();
            tree::pwrite_all(&fd, &text.as_bytes()[..1], 0).unwrap();
            assert_eq!(mount.text(path), text);
            assert_eq!(stack.upper().text(path), text);
        }
    });
}
