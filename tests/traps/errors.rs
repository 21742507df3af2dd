//! Errors and values that went wrong on their way through FUSE.

use rustix::fs::{self as sys, FallocateFlags, OFlags, SeekFrom, Timespec};

use crate::common::scratch::Mounted;
use crate::common::*;

/// fuser's times before 1970 arrive wrong: -1.8 s as -2.2 s.
#[test]
fn times_before_1970() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x").dir("d", 0o755).soft_link("t", "l");
        let native = Tree::new(stack.scratch.dir("native"));
        native.write("f", "x").unwrap();
        let mount = stack.mount();
        // Of ext4, whose own ends it rounds.
        let (first, last) = (i64::from(i32::MIN) + 1, 0x3_7fff_fffe);
        for (sec, nsec) in [
            (-2, 200_000_000),
            (-1, 999_999_999),
            (-1, 1),
            (-1_000_000, 0),
            (0, 0),
            (0, 1),
            (first, 5),
            (last, 5),
            (1 << 33, 7),
        ] {
            native.utimes("f", Timespec { tv_sec: sec, tv_nsec: nsec }).unwrap();
            let want = native.stat("f").unwrap();
            for path in ["f", "d", "l"] {
                mount.utimes(path, Timespec { tv_sec: sec, tv_nsec: nsec }).unwrap();
                let st = mount.stat(path).unwrap();
                let got = (st.st_mtime, st.st_mtime_nsec, st.st_atime, st.st_atime_nsec);
                let want = (want.st_mtime, want.st_mtime_nsec, want.st_atime, want.st_atime_nsec);
                assert_eq!(got, want, "{path} at {sec} s {nsec} ns");
            }
        }
    });
}

/// An addition without a check in fuser's parser ended a worker; eight of them end all.
#[test]
fn times_at_the_ends_of_the_range_do_not_end_the_daemon() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x");
        let mount = stack.mount();
        for i in 0..8 {
            for tv_sec in [i64::MIN, i64::MIN + 1, i64::MAX, i64::MAX - 1] {
                for tv_nsec in [0, 1, 999_999_999] {
                    let _ = mount.utimes("f", Timespec { tv_sec, tv_nsec });
                }
            }
            mount.write(format!("alive{i}"), "x").unwrap();
        }
        assert_eq!(mount.text("f"), "x");
    });
}

/// One ENOSYS and the kernel never asks again, for the whole mount: an fsync that returns 0 unsynced.
#[test]
fn nothing_is_answered_with_enosys() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x".repeat(10_000)).dir("d", 0o755);
        let mount = stack.mount();
        for _ in 0..2 {
            let (fd, dir) = (mount.open("f", OFlags::RDWR).unwrap(), mount.open("d", OFlags::RDONLY).unwrap());
            let mut results = vec![
                sys::fallocate(&fd, FallocateFlags::COLLAPSE_RANGE, 0, 4096),
                sys::fallocate(&fd, FallocateFlags::empty(), 0, 4096),
                sys::fsync(&fd),
                sys::fdatasync(&fd),
                sys::fsync(&dir),
                sys::syncfs(&fd),
                sys::seek(&fd, SeekFrom::Data(0)).map(drop),
                sys::ioctl_getflags(&fd).map(drop),
                sys::ioctl_getflags(&dir).map(drop),
                sys::ioctl_ficlone(&fd, &fd),
                mount.set_xattr("f", "user.x", b"1"),
                mount.set_xattr("f", "nonsense", b"1"),
                mount.xattr("f", "user.absent").map(drop),
                mount.remove_xattr("f", "user.absent"),
                mount.xattrs("f").map(drop),
                sys::accessat(sys::CWD, mount.at("f"), sys::Access::EXEC_OK, sys::AtFlags::empty()),
                sys::flock(&fd, sys::FlockOperation::NonBlockingLockExclusive),
                sys::fcntl_lock(&fd, sys::FlockOperation::NonBlockingLockExclusive),
                sys::statvfs(mount.root()).map(drop),
                mount.mknod("f", sys::FileType::Fifo, 0o644, 0),
                mount.readlink("f").map(drop),
            ];
            let (mut off_in, mut off_out) = (0, 8000);
            results.push(sys::copy_file_range(&fd, Some(&mut off_in), &fd, Some(&mut off_out), 100).map(drop));
            for (i, result) in results.iter().enumerate() {
                assert_ne!(*result, Err(Errno::NOSYS), "call {i}");
            }
            let good = [1, 2, 3, 4, 6, 10, 14, 18, 21].map(|i| results[i]);
            assert_eq!(good, [Ok(()); 9]);
            assert_eq!(
                (results[11], results[12], results[13]),
                (Err(Errno::OPNOTSUPP), Err(Errno::NODATA), Err(Errno::NODATA))
            );
        }
    });
}

/// The answer is a u32: a reflinked 4 GiB that reads as 0 is the end of the file.
#[test]
fn copy_file_range_of_more_than_four_gib() {
    bounded(|| {
        if lacks("copy-range") {
            skip!("holes are copied as data without copy_file_range(2), and there is no room for 4 GiB");
        }
        let mut stack = Stack::new(1);
        let at = stack.scratch.dir("xfs");
        if who() != Who::Root {
            skip!("a file system of its own is needed");
        }
        let Some(xfs) = Mounted::xfs(&at) else { skip!("no mkfs.xfs (Debian: xfsprogs) or no loop device") };
        stack.upper = Some(stack::Layer::new(stack.scratch.dir("xfs/upper")));
        let size = (4u64 << 30) + 4096;
        let upper = stack.upper().file("big", "");
        upper.truncate("big", size).unwrap();
        upper.pwrite("big", size - 5, b"end").unwrap();
        let work = stack.scratch.dir("xfs/work");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            stack.lowers[0].root().display(),
            upper.root().display(),
            work.display()
        );
        let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        let (from, to) = (mount.open("big", OFlags::RDONLY).unwrap(), mount.create("copy", 0o644).unwrap());
        let (mut off_in, mut off_out) = (0, 0);
        while off_in < size {
            let left = usize::try_from(size - off_in).unwrap();
            let n = sys::copy_file_range(&from, Some(&mut off_in), &to, Some(&mut off_out), left).unwrap();
            assert!(n > 0, "ended at {off_in}");
        }
        assert_eq!(mount.stat("copy").unwrap().st_size as u64, size);
        let mut end = [0; 5];
        rustix::io::pread(&to, &mut end, size - 5).unwrap();
        assert_eq!(&end, b"end\0\0");
        drop((from, to));
        drop(mount);
        drop(xfs);
    });
}

/// What a program may ask of a mount that cannot be changed: EROFS for all of it, also for opens that send no request.
#[test]
fn without_an_upper_every_change_is_erofs() {
    bounded(|| {
        let stack = Stack::read_only(1);
        stack.lowers[0].file("f", "x").dir("d", 0o755).soft_link("t", "l");
        if mount::binary() == "kernel" {
            skip!("the kernel's OverlayFS wants two layers");
        }
        let mount = stack.mount();
        let read_only = Err(Errno::ROFS);
        let open = |flags| mount.open("f", flags).map(drop);
        assert_eq!(open(OFlags::WRONLY), read_only);
        assert_eq!(open(OFlags::RDWR), read_only);
        assert_eq!(open(OFlags::WRONLY | OFlags::TRUNC), read_only);
        assert_eq!(mount.write("new", ""), read_only);
        assert_eq!(mount.mkdir("new", 0o755), read_only);
        assert_eq!(mount.mknod("new", sys::FileType::Fifo, 0o644, 0), read_only);
        assert_eq!(mount.symlink("t", "new"), read_only);
        assert_eq!(mount.link("f", "new"), read_only);
        assert_eq!(mount.unlink("f"), read_only);
        assert_eq!(mount.rmdir("d"), read_only);
        assert_eq!(mount.rename("f", "g"), read_only);
        assert_eq!(mount.chmod("f", 0o600), read_only);
        assert_eq!(mount.chown("f", 0, 0), read_only);
        assert_eq!(mount.utimes("l", tree::OLD), read_only);
        assert_eq!(mount.set_xattr("f", "user.x", b"1"), read_only);
        assert_eq!(mount.remove_xattr("f", "user.x"), read_only);
        assert_eq!((mount.text("f"), mount.readlink("l").unwrap()), ("x".into(), b"t".to_vec()));
        assert_eq!(mount.names("").unwrap(), ["d", "f", "l"]);
    });
}

/// Negative entries are cached: what is made must be seen at once, whoever asked for it before.
#[test]
fn a_name_that_was_asked_for_in_vain_is_there_once_made() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("from", "x").file("d/f", "x").file("other", "x");
        let mount = stack.mount();
        let absent = |name: &str| (0..2).for_each(|_| assert!(!mount.has(name), "{name}"));
        for (name, make) in [
            ("created", &(|t: &Tree, n: &str| t.write(n, "")) as &dyn Fn(&Tree, &str) -> rustix::io::Result<()>),
            ("dir", &|t, n| t.mkdir(n, 0o755)),
            ("linked", &|t, n| t.link("from", n)),
            ("symlink", &|t, n| t.symlink("x", n)),
            ("fifo", &|t, n| t.mknod(n, sys::FileType::Fifo, 0o644, 0)),
            ("renamed", &|t, n| t.rename("from", n)),
            ("d/moved", &|t, n| t.rename("other", n)),
        ] {
            absent(name);
            make(&mount, name).unwrap();
            assert!(mount.has(name), "{name}");
        }
        absent("from");
        absent("other");
        mount.unlink("renamed").unwrap();
        absent("renamed");
        mount.write("from", "again").unwrap();
        assert_eq!((mount.text("from"), mount.text("linked")), ("again".into(), "x".into()));
    });
}
