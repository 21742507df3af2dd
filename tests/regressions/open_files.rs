//! Descriptors and mappings across a copy-up, and the operations on an open file.

use rustix::fs::{self as sys, FallocateFlags as F, OFlags, SeekFrom};

use crate::common::tree::{pwrite_all, read_all, write_all};
use crate::common::*;

#[test]
fn a_reader_sees_what_is_written_after_it_opened() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "lower");
        let mount = stack.mount();
        let reader = mount.open("f", OFlags::RDONLY).unwrap();
        // Not a byte was read yet by the first, all by the second.
        let second = mount.open("f", OFlags::RDONLY).unwrap();
        assert_eq!(read_all(&second).unwrap(), b"lower");
        mount.append("f", " and more").unwrap();
        mount.pwrite("f", 0, b"L").unwrap();
        assert_eq!(read_all(&reader).unwrap(), b"Lower and more");
        assert_eq!(read_all(&second).unwrap(), b"Lower and more");
        assert_eq!(sys::fstat(&reader).unwrap().st_size, 14);
        assert_eq!(sys::fstat(&reader).unwrap().st_ino, mount.stat("f").unwrap().st_ino);
        // A rename in between changes nothing for them.
        mount.rename("f", "g").unwrap();
        mount.append("g", "!").unwrap();
        assert_eq!(read_all(&reader).unwrap(), b"Lower and more!");
    });
}

/// Fails on the kernel's OverlayFS (its documentation, "Non-standard behavior", b).
#[test]
fn a_shared_mapping_sees_what_is_written_after_it_was_made() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "l".repeat(10_000));
        let mount = stack.mount();
        let map = SharedMap::new(mount.open("f", OFlags::RDONLY).unwrap(), 10_000, false);
        assert_eq!(map.get(5000, 3), b"lll");
        mount.pwrite("f", 5000, b"new").unwrap();
        assert_eq!(map.get(4999, 5), b"lnewl");
        assert_eq!(map.get(0, 1), b"l");
    });
}

/// A store makes the copy-up: it sends no request of its own.
#[test]
fn a_store_into_a_mapping_reaches_the_upper_layer_only() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "l".repeat(10_000));
        let mut mount = stack.mount();
        let fd = mount.open("f", OFlags::RDWR).unwrap();
        let mut map = SharedMap::new(&fd, 10_000, true);
        map.put(5000, b"new");
        map.sync().unwrap();
        assert_eq!(&mount.read("f").unwrap()[4999..5004], b"lnewl");
        map.put(6000, b"later");
        drop((map, fd));
        mount.remount();
        assert_eq!(&mount.read("f").unwrap()[5998..6006], b"lllaterl");
        assert_eq!(stack.lowers[0].text("f"), "l".repeat(10_000));
    });
}

#[test]
fn fallocate_in_all_modes() {
    bounded(|| {
        let stack = Stack::new(1);
        for name in ["extend", "keep", "punch", "zero"] {
            stack.lowers[0].file(name, "x".repeat(20_000));
        }
        let mount = stack.mount();
        let at = |name: &str, how: F, offset, len| {
            let fd = mount.open(name, OFlags::RDWR).unwrap();
            sys::fallocate(&fd, how, offset, len).map(|()| sys::fstat(&fd).unwrap().st_size)
        };
        assert_eq!(at("extend", F::empty(), 0, 50_000), Ok(50_000));
        assert_eq!(at("keep", F::KEEP_SIZE, 0, 50_000), Ok(20_000));
        assert_eq!(at("punch", F::PUNCH_HOLE | F::KEEP_SIZE, 4096, 8192), Ok(20_000));
        let zeroed = at("zero", F::ZERO_RANGE, 16_384, 8192);
        let mut want = vec![b'x'; 20_000];
        want[4096..12_288].fill(0);
        assert!(mount.read("punch").unwrap() == want, "what was punched is zero, the rest is not");
        let fd = mount.open("keep", OFlags::RDWR).unwrap();
        assert_eq!(sys::fallocate(&fd, F::PUNCH_HOLE, 0, 10), Err(Errno::OPNOTSUPP), "punching needs KEEP_SIZE");
        if zeroed == Err(Errno::OPNOTSUPP) && kernel() < (5, 14) {
            skip!("before Linux 5.14 the kernel asks no FUSE daemon to zero a range");
        }
        assert_eq!(zeroed, Ok(24_576));
        let mut want = vec![b'x'; 20_000];
        want.resize(24_576, 0);
        want[16_384..].fill(0);
        assert!(mount.read("zero").unwrap() == want);
    });
}

/// Fails on fo1: not offered.
#[test]
fn seek_data_and_hole() {
    bounded(|| {
        let stack = Stack::new(1);
        let lower = stack.lowers[0].file("f", "");
        lower.truncate("f", 1 << 20).unwrap();
        lower.pwrite("f", 65_536, &[1; 4096]).unwrap();
        let mount = stack.mount();
        for round in 0..2 {
            let fd = mount.open("f", OFlags::RDONLY).unwrap();
            assert_eq!(sys::seek(&fd, SeekFrom::Data(0)), Ok(65_536), "round {round}");
            assert_eq!(sys::seek(&fd, SeekFrom::Hole(65_536)), Ok(69_632));
            assert_eq!(sys::seek(&fd, SeekFrom::Data(100_000)), Err(Errno::NXIO));
            assert_eq!(sys::seek(&fd, SeekFrom::Hole(1 << 20)), Err(Errno::NXIO));
            assert_eq!(sys::seek(&fd, SeekFrom::End(0)), Ok(1 << 20));
            mount.chmod("f", 0o600).unwrap();
        }
    });
}

#[test]
fn copy_file_range_between_layers() {
    bounded(|| {
        let stack = Stack::new(1);
        let content: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        stack.lowers[0].file("from", &content).file("into", "y".repeat(10));
        let mount = stack.mount();
        mount.write("new", "").unwrap();
        for to in ["new", "into"] {
            let (from, into) = (mount.open("from", OFlags::RDONLY).unwrap(), mount.open(to, OFlags::WRONLY).unwrap());
            let (mut off_in, mut off_out) = (1000, 5);
            while off_in < 100_000 {
                let n = sys::copy_file_range(&from, Some(&mut off_in), &into, Some(&mut off_out), 200_000).unwrap();
                assert!(n > 0, "ended at {off_in}");
            }
            assert!(mount.read(to).unwrap()[5..] == content[1000..], "{to}");
        }
        assert_eq!(&mount.read("into").unwrap()[..5], b"yyyyy");
        assert_eq!(stack.lowers[0].text("into"), "y".repeat(10));
        // Within one file, without overlap.
        let fd = mount.open("from", OFlags::RDWR).unwrap();
        let (mut off_in, mut off_out) = (0, 200_000);
        assert_eq!(sys::copy_file_range(&fd, Some(&mut off_in), &fd, Some(&mut off_out), 4096), Ok(4096));
        assert_eq!(mount.read("from").unwrap()[200_000..], content[..4096]);
    });
}

#[test]
fn o_append_writers_do_not_overwrite_each_other() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("log", "start\n");
        let mount = stack.mount();
        let append = OFlags::WRONLY | OFlags::APPEND;
        let (one, two) = (mount.open("log", append).unwrap(), mount.open("log", append).unwrap());
        for i in 0..50 {
            write_all(&one, format!("one {i}\n").as_bytes()).unwrap();
            write_all(&two, format!("two {i}\n").as_bytes()).unwrap();
        }
        assert_eq!(mount.text("log").lines().count(), 101);
        assert!(mount.text("log").ends_with("one 49\ntwo 49\n"));
    });
}

/// fo2 leaves a dead mount behind.
#[test]
fn sigterm_with_an_open_file_leaves_no_dead_mount() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "lower");
        let mount = stack.mount();
        let Some(pid) = mount.pid() else { skip!("no daemon") };
        let fd = mount.open("f", OFlags::RDWR).unwrap();
        pwrite_all(&fd, b"L", 0).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(mount::wait_until(|| !mount::is_mounted(&stack.merged)), "still mounted");
        assert_eq!(Tree::new(&stack.merged).names("").unwrap(), [""; 0]);
        drop(fd);
        drop(mount);
        assert_eq!(stack.upper().text("f"), "Lower");
    });
}

/// fo1 with write-back caching tells only fsync.
#[test]
fn a_full_upper_says_so_and_loses_nothing() {
    bounded(|| {
        let mut stack = Stack::new(1);
        let at = stack.scratch.dir("small");
        let Ok(()) =
            rustix::mount::mount("tmpfs", &at, "tmpfs", rustix::mount::MountFlags::empty(), c"size=2M,mode=755")
        else {
            skip!("tmpfs may not be mounted here");
        };
        let small = scratch::Mounted::adopt(&at);
        let old = stack.upper.replace(stack::Layer::new(stack.scratch.dir("small/upper"))).unwrap();
        stack.lowers[0].file("big", "x".repeat(4 << 20)).file("f", "lower");
        let options = format!(
            "lowerdir={},upperdir={u}/upper,workdir={u}/work",
            stack.lowers[0].root().display(),
            u = at.display()
        );
        stack.scratch.dir("small/work");
        let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        assert_eq!(mount.append("big", "y"), Err(Errno::NOSPC));
        assert_eq!(mount.stat("big").unwrap().st_size, 4 << 20);
        assert!(!stack.upper().has("big"));
        // Written, or refused: never accepted and lost.
        let wrote = mount.write("new", "z".repeat(4 << 20));
        let synced = sys::fsync(mount.open("new", OFlags::WRONLY).unwrap());
        assert!(wrote == Err(Errno::NOSPC) || synced == Err(Errno::NOSPC), "{wrote:?} {synced:?}");
        mount.unlink("new").unwrap();
        // Its room is free when the kernel has forgotten it, an instant later.
        assert!(mount::wait_until(|| mount.append("f", " and more").is_ok()));
        assert_eq!(mount.text("f"), "lower and more");
        drop(mount);
        assert_eq!(stack.upper().text("f"), "lower and more");
        drop((small, old));
    });
}
