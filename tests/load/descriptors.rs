//! Many files open at once, under a small limit of the daemon's descriptors and under a large one.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::tree::{pwrite_all, read_all};
use crate::common::*;
use crate::{descriptors_of, mount_after, scale, ways};

const DIRS: usize = 40;

/// Three sorts of files: lower ones that are read, lower ones that are written, and new ones that are unlinked.
fn layers(files: usize) -> Stack {
    let stack = crate::stack(2);
    for i in 0..files {
        for sort in ["read", "write"] {
            stack.lowers[i % 2].file(&format!("d{}/{sort}{i}", i % DIRS), format!("{sort} {i}"));
        }
    }
    stack
}

fn path(sort: &str, i: usize) -> String {
    format!("d{}/{sort}{i}", i % DIRS)
}

/// This process may open as many files as it ever may.
fn raise_own_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    limit.maximum.unwrap_or(u64::MAX)
}

/// Opens `3 * each` files, uses all of them while all are open, and looks at what came of it.
fn use_many(mount: &Mount, each: usize, case: &str) {
    let open = |sort: &str, i: usize, flags| {
        mount.open(path(sort, i), flags).unwrap_or_else(|e| panic!("{case}: {sort} {i}: {e:?}"))
    };
    let reading: Vec<OwnedFd> = (0..each).map(|i| open("read", i, OFlags::RDONLY)).collect();
    let writing: Vec<OwnedFd> = (0..each).map(|i| open("write", i, OFlags::RDWR)).collect();
    let gone: Vec<OwnedFd> = (0..each)
        .map(|i| {
            let fd = open("new", i, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL);
            pwrite_all(&fd, format!("new {i}").as_bytes(), 0).unwrap();
            mount.unlink(path("new", i)).unwrap();
            fd
        })
        .collect();
    for round in 0..2 {
        for i in 0..each {
            let expected = |sort: &str| format!("{sort} {i}").into_bytes();
            let at_start = |fd: &OwnedFd| {
                rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0)).unwrap();
                read_all(fd).unwrap()
            };
            assert_eq!(at_start(&reading[i]), expected("read"), "{case}: read {i}");
            assert_eq!(at_start(&gone[i]), expected("new"), "{case}: unlinked {i}");
            let text = if round == 0 { "write" } else { "WRITE" };
            assert_eq!(at_start(&writing[i]), expected(text), "{case}: written {i}");
            pwrite_all(&writing[i], b"WRITE", 0).unwrap();
            if i % 7 == 0 {
                rustix::fs::fsync(&writing[i]).unwrap();
                mount.rename(path("write", i), path("renamed", i)).ok();
            }
        }
        // Names are found, and directories listed, all the same.
        assert_eq!(mount.names("").unwrap().len(), DIRS, "{case}");
        assert!(mount.stat(path("absent", round)).is_err());
    }
    drop((reading, writing, gone));
    for i in 0..each {
        let name = if i % 7 == 0 { "renamed" } else { "write" };
        assert_eq!(mount.text(path(name, i)), format!("WRITE {i}"), "{case}");
        assert!(!mount.has(path("new", i)), "{case}");
    }
}

#[test]
fn six_hundred_open_files_with_256_descriptors() {
    within(300, || {
        raise_own_limit();
        for way in ways() {
            let stack = layers(200);
            let mount = mount_after(&stack, "ulimit -n 256", way);
            use_many(&mount, 200, way);
            let open = descriptors_of(&mount);
            println!("{way}: {open} descriptors of 256 after 600 open files");
            assert!(open < 256);
            View::of(&mount, Walk::default()).assert_sound();
        }
    });
}

/// Of the kernel's own, where the daemon is asked for nothing.
#[test]
fn ten_thousand_open_files() {
    within(600, || {
        let each = 1000 * scale().min(3) as usize + if scale() > 3 { 340 } else { 0 };
        if raise_own_limit() < 3 * each as u64 + 200 {
            skip!("a process may not open {} files here", 3 * each);
        }
        for way in ways() {
            let stack = layers(each);
            let mount = mount_after(&stack, "ulimit -n 20000 2>/dev/null || true", way);
            use_many(&mount, each, way);
            println!("{way}: {} files open at once, {} descriptors", 3 * each, descriptors_of(&mount));
        }
    });
}

/// A directory needs no descriptor either: many of them, deep and wide, with few descriptors.
#[test]
fn a_wide_and_deep_tree_with_64_descriptors() {
    within(120, || {
        let stack = crate::stack(2);
        for i in 0..300 {
            stack.lowers[i % 2].file(&format!("w{i}/a/b/c/f"), format!("{i}"));
        }
        let mount = mount_after(&stack, "ulimit -n 64", "");
        for round in 0..2 {
            for i in 0..300 {
                assert_eq!(mount.text(format!("w{i}/a/b/c/f")), if round == 0 { format!("{i}") } else { "new".into() });
                mount.write(format!("w{i}/a/b/c/f"), "new").unwrap();
                assert_eq!(mount.names(format!("w{i}/a/b/c")).unwrap(), ["f"]);
            }
        }
        for i in (0..300).step_by(2) {
            mount.rename(format!("w{i}"), format!("v{i}")).unwrap();
            assert_eq!(mount.text(format!("v{i}/a/b/c/f")), "new");
        }
        mount.remove_all("w1").unwrap();
        assert!(descriptors_of(&mount) <= 64);
        assert_eq!(mount.names("").unwrap().len(), 299);
    });
}
