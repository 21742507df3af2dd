//! The eight headline bugs, each reproduced in fuse-overlayfs 2.0.0.

use rustix::fs::{self as sys, FileType, Mode, OFlags, RenameFlags};

use crate::common::stack::prefix;
use crate::common::tree::{read_all, write_all};
use crate::common::*;

/// Fails on fo2 as root: the append lands in the lower file and vanishes from the view.
#[test]
fn bug_1_a_write_beside_a_reader_reaches_the_lower_layer() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "original-lower\n");
        let before = view::layer(stack.lowers[0].root());
        let mut mount = stack.mount();
        let reader = mount.open("f", OFlags::RDONLY).unwrap();
        assert_eq!(read_all(&reader).unwrap(), b"original-lower\n");
        let writer = mount.open("f", OFlags::RDWR | OFlags::APPEND).unwrap();
        write_all(&writer, b"APPENDED\n").unwrap();
        assert_eq!(mount.text("f"), "original-lower\nAPPENDED\n");
        assert_eq!(read_all(&reader).unwrap(), b"original-lower\nAPPENDED\n");
        drop((reader, writer));
        mount.remount();
        assert_eq!(mount.text("f"), "original-lower\nAPPENDED\n");
        assert_eq!(stack.upper().text("f"), "original-lower\nAPPENDED\n");
        view::layer(stack.lowers[0].root()).assert_same(&before, "the lower layer (after, before)");
    });
}

/// Fails on fo2 (at the root of the mount) and fo1 (nested, after a rename).
#[test]
fn bug_2_a_directory_made_again_brings_deleted_files_back() {
    bounded(|| {
        let stack = Stack::new(2);
        for i in 0..50 {
            stack.lowers[i % 2].file(&format!("dir/f{i}"), "x").file(&format!("deep/er/dir/f{i}"), "x");
        }
        let mut mount = stack.mount();
        for dir in ["dir", "deep/er/dir"] {
            mount.remove_all(dir).unwrap();
            mount.mkdir(dir, 0o755).unwrap();
            assert_eq!(mount.names(dir).unwrap(), [""; 0]);
        }
        mount.write("dir/new", "n").unwrap();
        mount.remove_all("deep").unwrap();
        mount.mkdir("deep", 0o755).unwrap();
        mount.remount();
        assert_eq!(mount.names("dir").unwrap(), ["new"]);
        assert_eq!(mount.names("deep").unwrap(), [""; 0]);
        mount.unmount();
        if let Some(kernel) = stack.mount_kernel() {
            assert_eq!(kernel.names("dir").unwrap(), ["new"], "in the kernel's mount of the same upper");
            assert_eq!(kernel.names("deep").unwrap(), [""; 0], "in the kernel's mount of the same upper");
        }
    });
}

/// Fails on fo2: temporary names are a counter, opened without O_EXCL.
#[test]
fn bug_3_a_stale_file_in_workdir_ends_up_in_a_users_file() {
    bounded(|| {
        let stack = Stack::new(1);
        let stale = "stale ".repeat(100);
        let work = stack.scratch.dir("work");
        for dir in ["", "work", "plyfs"] {
            for i in 0..20 {
                for name in [format!("{i}"), format!("#{i:x}")] {
                    std::fs::create_dir_all(work.join(dir)).unwrap();
                    std::fs::write(work.join(dir).join(name), &stale).unwrap();
                }
            }
        }
        for i in 0..8 {
            stack.lowers[0].file(&format!("f{i}"), "lower\n");
        }
        let mut mount = stack.mount();
        for i in 0..8 {
            mount.append(format!("f{i}"), "user\n").unwrap();
        }
        mount.remount();
        for i in 0..8 {
            assert_eq!(mount.text(format!("f{i}")), "lower\nuser\n");
        }
    });
}

/// Fails on fo2: 0755. <https://github.com/containers/fuse-overlayfs/issues/470>
#[test]
fn bug_4_copy_up_widens_the_mode_of_a_directory() {
    bounded(|| {
        let stack = Stack::new(1);
        let modes = [0o700, 0o711, 0o1777, 0o2750, 0o555, 0o311];
        for mode in modes {
            stack.lowers[0].file(&format!("d{mode:o}/sub/f"), "x").perm(&format!("d{mode:o}"), mode);
        }
        let mut mount = stack.mount();
        for mode in modes {
            mount.append(format!("d{mode:o}/sub/f"), "y").unwrap();
        }
        for _ in 0..2 {
            for mode in modes {
                assert_eq!(mount.mode(format!("d{mode:o}")), mode);
                assert_eq!(stack.upper().mode(format!("d{mode:o}")), mode);
            }
            mount.remount();
        }
        for mode in modes {
            stack.lowers[0].perm(&format!("d{mode:o}"), 0o755);
        }
    });
}

/// Fails on fo2 (h3 is stale), and on fo1 after a remount. Over a remount names agree once there is an index.
#[test]
fn bug_5_names_of_one_lower_inode_disagree_after_a_write() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("h1", "old").hard_link("h1", "d/h2").hard_link("h1", "d/h3");
        let names = ["h1", "d/h2", "d/h3"];
        let mount = stack.mount();
        let ino = mount.stat("h1").unwrap().st_ino;
        // One name is looked up before the copy-up, one is used for it, one is looked up after it only.
        assert_eq!(mount.text("h1"), "old");
        mount.write("d/h2", "new").unwrap();
        for name in names {
            assert_eq!(mount.text(name), "new", "{name}");
            let st = mount.stat(name).unwrap();
            assert_eq!((st.st_ino, st.st_nlink), (ino, 3), "{name}");
        }
        mount.chmod("d/h3", 0o600).unwrap();
        mount.unlink("h1").unwrap();
        assert_eq!((mount.mode("d/h2"), mount.stat("d/h2").unwrap().st_nlink), (0o600, 2));
        mount.link("d/h2", "h4").unwrap();
        assert_eq!(mount.stat("d/h3").unwrap().st_nlink, 3);
        View::of(&mount, Walk::default()).assert_sound();
        assert_eq!(stack.lowers[0].text("h1"), "old");
    });
}

/// Fails on fo2: ENOENT. On fo1 the link count stays 1.
#[test]
fn bug_6_an_unlinked_open_file_cannot_be_used() {
    bounded(|| {
        for (layer, flags) in [("lower", OFlags::RDWR), ("lower", OFlags::RDONLY), ("upper", OFlags::RDWR)] {
            let stack = Stack::new(1);
            if layer == "lower" { &stack.lowers[0] } else { stack.upper() }.file("f", "content");
            let mount = stack.mount();
            let fd = mount.open("f", flags).unwrap();
            mount.unlink("f").unwrap();
            let st = sys::fstat(&fd).unwrap();
            assert_eq!((st.st_nlink, st.st_size), (0, 7), "{layer}");
            sys::fchmod(&fd, Mode::from_raw_mode(0o640)).unwrap();
            assert_eq!(sys::fstat(&fd).unwrap().st_mode & 0o7777, 0o640);
            assert_eq!(read_all(&fd).unwrap(), b"content");
            if flags == OFlags::RDWR {
                sys::ftruncate(&fd, 4).unwrap();
                tree::pwrite_all(&fd, b"CO", 0).unwrap();
                assert_eq!(read_all(&fd).unwrap(), b"COnt");
                sys::fsync(&fd).unwrap();
            }
            // A new file of that name is another one.
            mount.write("f", "second").unwrap();
            assert_ne!(sys::fstat(&fd).unwrap().st_ino, mount.stat("f").unwrap().st_ino);
            assert_eq!(mount.text("f"), "second");
        }
    });
}

/// Fails on fo2: EEXIST.
#[test]
fn bug_6_rename_noreplace_over_a_whiteout() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("gone", "lower").file("taken", "lower");
        let mut mount = stack.mount();
        mount.unlink("gone").unwrap();
        mount.write("new", "new").unwrap();
        assert_eq!(mount.rename_with("new", "taken", RenameFlags::NOREPLACE), Err(Errno::EXIST));
        mount.rename_with("new", "gone", RenameFlags::NOREPLACE).unwrap();
        for _ in 0..2 {
            assert_eq!(mount.text("gone"), "new");
            assert_eq!(mount.names("").unwrap(), ["gone", "taken"]);
            mount.remount();
        }
    });
}

/// Fails on fo2: ENOENT.
#[test]
fn bug_6_rename_exchange_of_lower_and_upper() {
    bounded(|| {
        if lacks("rename-flags") {
            skip!("nothing can be exchanged");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("low", "lower").file("dir/x", "lower");
        let mut mount = stack.mount();
        mount.write("up", "upper").unwrap();
        mount.rename_with("low", "up", RenameFlags::EXCHANGE).unwrap();
        mount.rename_with("dir/x", "low", RenameFlags::EXCHANGE).unwrap();
        assert_eq!(mount.rename_with("up", "absent", RenameFlags::EXCHANGE), Err(Errno::NOENT));
        for _ in 0..2 {
            assert_eq!(
                (mount.text("up"), mount.text("low"), mount.text("dir/x")),
                ("lower".into(), "lower".into(), "upper".into())
            );
            mount.remount();
        }
        mount.unlink("low").unwrap();
        mount.unlink("dir/x").unwrap();
        mount.remount();
        assert!(!mount.has("low") && !mount.has("dir/x"));
    });
}

/// Fails on fo2: EIO.
#[test]
fn bug_6_fs_ioc_getflags() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("low", "x");
        let native = stack.lowers[0].open("low", OFlags::RDONLY).unwrap();
        let mount = stack.mount();
        mount.write("up", "x").unwrap();
        let answer = |name| sys::ioctl_getflags(mount.open(name, OFlags::RDONLY).unwrap()).map(|f| f.bits());
        match sys::ioctl_getflags(&native) {
            Ok(flags) => assert_eq!((answer("low"), answer("up")), (Ok(flags.bits()), Ok(flags.bits()))),
            Err(e) => skip!("no file flags on the file system of the tests: {e:?}"),
        }
    });
}

/// fo2 asks for passthrough, is refused at the first open, and has given up write-back caching for it.
#[test]
fn bug_7_passthrough_without_the_right_to_it() {
    bounded(|| {
        let stack = Stack::new(1);
        let content = "x".repeat(300_000);
        stack.lowers[0].file("f", &content);
        let mut mount = stack.mount();
        assert_eq!(mount.text("f"), content);
        mount.append("f", "tail").unwrap();
        mount.write("g", &content).unwrap();
        mount.remount();
        assert_eq!((mount.text("f"), mount.text("g")), (content.clone() + "tail", content));
        let said = mount.messages();
        assert!(!said.contains("passthrough") && !said.contains("EPERM"), "{said}");
    });
}

/// Fails on fo1 and fo2: an empty directory, zeros. The values are what the kernel writes for a renamed directory and a
/// changed mode. Until they are followed they are refused, as the kernel refuses them where they are off.
#[test]
fn bug_8_redirect_and_metacopy_of_the_kernel_are_misread() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("was/f", "content").file("meta", "content of meta");
        stack.upper().dir("is", 0o755).with_xattr("is", &format!("{}redirect", prefix()), b"was");
        stack.upper().file("meta", "").truncate("meta", 15).unwrap();
        stack.upper().with_xattr("meta", &format!("{}metacopy", prefix()), b"");
        stack.upper().whiteout("was");
        let mount = stack.mount();
        let dir = mount.names("is");
        assert!(dir.is_err() || dir == Ok(vec!["f".to_owned()]), "a renamed directory shows {dir:?}");
        let meta = mount.read("meta");
        assert!(meta.is_err() || meta == Ok(b"content of meta".to_vec()), "a metacopy file reads as {meta:?}");
        // What a change would copy or hide is refused as well.
        let change = mount.append("meta", "x");
        let meta = mount.read("meta");
        assert!(change.is_err() || meta == Ok(b"content of metax".to_vec()), "after an append: {meta:?}");
        assert_eq!(FileType::from_raw_mode(mount.stat("").unwrap().st_mode), FileType::Directory);
    });
}
