//! Odd names, odd nodes, odd owners.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as sys, FileType, OFlags, RenameFlags};

use crate::common::*;

/// Fails on fo1 and fo2: 251 bytes; fo1 and fo2 leave some names out of a listing.
#[test]
fn names_of_255_bytes_and_of_any_bytes() {
    bounded(|| {
        let stack = Stack::new(1);
        let long = vec![b'n'; 255];
        let all: Vec<u8> = (1..=255u8).filter(|b| *b != b'/').collect();
        let names: [&[u8]; 6] = [&long, &all[..128], &all[128..], b"\xff\xfe", b"new\nline", b"..."];
        for (i, name) in names.iter().enumerate() {
            if i % 2 == 0 {
                stack.lowers[0].write(OsStr::from_bytes(name), "lower").unwrap();
            }
        }
        let mut mount = stack.mount();
        for (i, name) in names.iter().enumerate() {
            let name = OsStr::from_bytes(name);
            if i % 2 == 0 { mount.append(name, "+").unwrap() } else { mount.write(name, "upper+").unwrap() }
        }
        let mut want: Vec<_> = names.iter().map(|n| n.to_vec()).collect();
        want.sort();
        for _ in 0..2 {
            assert_eq!(mount.byte_names("").unwrap(), want);
            assert!(names.iter().all(|n| mount.text(OsStr::from_bytes(n)).ends_with("er+")));
            mount.remount();
        }
        let longer = OsStr::from_bytes(&[b'n'; 256]).to_owned();
        assert_eq!(mount.write(&longer, ""), Err(Errno::NAMETOOLONG));
        for name in names {
            mount.unlink(OsStr::from_bytes(name)).unwrap();
        }
        mount.remount();
        assert_eq!(mount.byte_names("").unwrap(), [b""; 0]);
    });
}

/// Fails everywhere else: the device is a whiteout, or is refused (kernel EPERM, fo1 and fo2 ENOENT).
#[test]
fn a_zero_zero_device_that_a_user_makes_is_a_device() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("was", "lower").file("d/below", "lower");
        let mut mount = stack.mount();
        mount.unlink("was").unwrap();
        for name in ["dev", "was", "d/dev"] {
            mount.mknod(name, FileType::CharacterDevice, 0o640, 0).unwrap();
        }
        mount.mknod("dev2", FileType::CharacterDevice, 0o644, 0).unwrap();
        mount.rename("dev2", "d/below").unwrap();
        mount.link("dev", "again").unwrap();
        mount.chmod("dev", 0o600).unwrap();
        for _ in 0..2 {
            for name in ["dev", "was", "d/dev", "again", "d/below"] {
                let st = mount.stat(name).unwrap();
                assert_eq!((FileType::from_raw_mode(st.st_mode), st.st_rdev), (FileType::CharacterDevice, 0), "{name}");
            }
            assert_eq!((mount.mode("dev"), mount.mode("was"), mount.stat("dev").unwrap().st_nlink), (0o600, 0o640, 2));
            assert_eq!(mount.names("").unwrap(), ["again", "d", "dev", "was"]);
            View::of(&mount, Walk::default()).assert_sound();
            mount.remount();
        }
        for name in ["dev", "was", "again", "d/below", "d/dev"] {
            mount.unlink(name).unwrap();
        }
        mount.rmdir("d").unwrap();
        mount.remount();
        assert_eq!(mount.names("").unwrap(), [""; 0]);
    });
}

/// What another overlay on top of this one needs: the name that is left behind is a 0/0 device to everyone.
#[test]
fn rename_whiteout_by_a_user_leaves_a_device() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("low", "lower");
        let mut mount = stack.mount();
        mount.write("up", "upper").unwrap();
        for (from, to) in [("low", "low2"), ("up", "up2")] {
            match mount.rename_with(from, to, RenameFlags::WHITEOUT) {
                Err(Errno::INVAL) if mount::binary() == "kernel" => skip!("the kernel's OverlayFS does not offer it"),
                other => other.unwrap(),
            }
        }
        for _ in 0..2 {
            assert_eq!((mount.text("low2"), mount.text("up2")), ("lower".into(), "upper".into()));
            for name in ["low", "up"] {
                let st = mount.stat(name).unwrap();
                assert_eq!((FileType::from_raw_mode(st.st_mode), st.st_rdev), (FileType::CharacterDevice, 0), "{name}");
            }
            mount.remount();
        }
    });
}

/// fo1: EIO for the chmod of a fifo. A fifo without a writer is never opened by the daemon.
#[test]
fn fifos_sockets_and_devices() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].fifo("fifo").fifo("fifo2");
        stack.lowers[0].mknod("socket", FileType::Socket, 0o644, 0).unwrap();
        let device = sys::makedev(1, 3);
        let with_device = stack.lowers[0].mknod("null", FileType::CharacterDevice, 0o666, device).is_ok();
        let mut mount = stack.mount();
        mount.chmod("fifo", 0o600).unwrap();
        mount.rename("fifo2", "moved").unwrap();
        mount.chmod("socket", 0o600).unwrap();
        if with_device {
            mount.chmod("null", 0o600).unwrap();
            mount.mknod("zero", FileType::CharacterDevice, 0o666, sys::makedev(1, 5)).unwrap();
        }
        for _ in 0..2 {
            let kind = |p| FileType::from_raw_mode(mount.stat(p).unwrap().st_mode);
            assert_eq!(
                (kind("fifo"), kind("moved"), kind("socket")),
                (FileType::Fifo, FileType::Fifo, FileType::Socket)
            );
            assert_eq!((mount.mode("fifo"), mount.mode("socket"), mount.has("fifo2")), (0o600, 0o600, false));
            if with_device {
                assert_eq!(mount.stat("null").unwrap().st_rdev, device);
                assert_eq!(mount.stat("zero").unwrap().st_rdev, sys::makedev(1, 5));
            }
            mount.remount();
        }
    });
}

/// Fails on fo1 and fo2.
#[test]
fn a_setgid_directory_is_inherited() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].dir("lower", 0o2775);
        let gid = if who() == Who::Root { 12 } else { rustix::process::getegid().as_raw() };
        if who() == Who::Root {
            stack.lowers[0].chown("lower", 0, gid).unwrap();
            stack.lowers[0].perm("lower", 0o2775);
        }
        let mount = stack.mount();
        mount.mkdir("upper", 0o755).unwrap();
        mount.chown("upper", rustix::process::geteuid().as_raw(), gid).unwrap();
        mount.chmod("upper", 0o2775).unwrap();
        for dir in ["lower", "upper"] {
            mount.mkdir(format!("{dir}/dir"), 0o755).unwrap();
            mount.write(format!("{dir}/file"), "").unwrap();
            mount.symlink("t", format!("{dir}/link")).unwrap();
            mount.mknod(format!("{dir}/fifo"), FileType::Fifo, 0o644, 0).unwrap();
            for name in ["dir", "file", "link", "fifo"] {
                assert_eq!(mount.stat(format!("{dir}/{name}")).unwrap().st_gid, gid, "{dir}/{name}");
            }
            assert_eq!(mount.mode(format!("{dir}/dir")) & 0o2000, 0o2000);
            assert_eq!(mount.mode(format!("{dir}/file")) & 0o2000, 0);
            // The same where a whiteout stands.
            mount.unlink(format!("{dir}/file")).unwrap();
            mount.rmdir(format!("{dir}/dir")).unwrap();
            mount.mkdir(format!("{dir}/dir"), 0o755).unwrap();
            assert_eq!(
                (mount.stat(format!("{dir}/dir")).unwrap().st_gid, mount.mode(format!("{dir}/dir")) & 0o2000),
                (gid, 0o2000)
            );
        }
    });
}

/// Fails on fo2.
#[test]
fn the_umask_of_the_caller_counts() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/gone", "x");
        let mount = stack.mount();
        mount.unlink("d/gone").unwrap();
        for (mask, file, dir) in [(0o077, 0o600, 0o700), (0o000, 0o666, 0o777), (0o027, 0o640, 0o750)] {
            with_umask(mask, || {
                drop(mount.create("d/file", 0o666).unwrap());
                drop(mount.create("d/gone", 0o666).unwrap());
                mount.mkdir("d/dir", 0o777).unwrap();
                mount.mknod("d/fifo", FileType::Fifo, 0o666, 0).unwrap();
            });
            let modes = ["d/file", "d/gone", "d/dir", "d/fifo"].map(|p| mount.mode(p));
            assert_eq!(modes, [file, file, dir, file], "umask {mask:o}");
            ["d/file", "d/gone", "d/fifo"].iter().for_each(|p| mount.unlink(p).unwrap());
            mount.rmdir("d/dir").unwrap();
        }
    });
}

/// fo2 keeps 4777 and 6777, fo1 the owner's suid.
#[test]
fn a_write_by_a_user_clears_suid() {
    bounded(|| {
        let stack = Stack::new(1);
        let mut cases = vec![];
        for (how, layer) in (0..4).flat_map(|h| [(h, "lower"), (h, "upper")]) {
            for (mode, after) in [(0o4777, 0o777), (0o6777, 0o777), (0o4766, 0o766)] {
                let path = format!("{layer}-{how}-{mode:o}");
                if layer == "lower" { &stack.lowers[0] } else { stack.upper() }
                    .file(&path, "content")
                    .perm(&path, mode);
                cases.push((path, how, after));
            }
        }
        let mount = stack.mount();
        let change = || {
            for (path, how, _) in &cases {
                match how {
                    0 => mount.append(path, "x").unwrap(),
                    1 => mount.truncate(path, 3).unwrap(),
                    2 => drop(mount.open(path, OFlags::WRONLY | OFlags::TRUNC).unwrap()),
                    _ => sys::fallocate(mount.open(path, OFlags::RDWR).unwrap(), sys::FallocateFlags::empty(), 0, 100)
                        .unwrap(),
                }
            }
        };
        if who() == Who::Root {
            as_user(1234, 1234, change)
        } else {
            change()
        }
        for (path, _, after) in &cases {
            assert_eq!(mount.mode(path), *after, "{path}");
        }
        if who() == Who::Root {
            stack.upper().file("kept", "x").perm("kept", 0o4755);
            mount.append("kept", "y").unwrap();
            assert_eq!(mount.mode("kept"), 0o4755, "root keeps it");
        }
    });
}

/// Fails on fo1 and fo2 when the daemon is a normal user.
#[test]
fn closed_files_and_directories_can_be_handled_as_their_mode_allows() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("closed", "x").perm("closed", 0).file("search/f", "x").perm("search", 0o311);
        stack.lowers[0].dir("sealed", 0o755);
        let mut mount = stack.mount();
        assert_eq!(mount.stat("closed").unwrap().st_size, 1);
        mount.unlink("closed").unwrap();
        mount.write("closed", "second").unwrap();
        mount.chmod("closed", 0).unwrap();
        mount.rename("closed", "still-closed").unwrap();
        if who() == Who::User {
            assert_eq!(mount.read("still-closed"), Err(Errno::ACCESS));
            assert_eq!(mount.names("search"), Err(Errno::ACCESS));
        }
        assert_eq!(mount.text("search/f"), "x");
        mount.write("search/g", "made").unwrap();
        mount.append("search/f", "y").unwrap();
        mount.mkdir("made-closed", 0o555).unwrap();
        mount.mkdir("made-dark", 0).unwrap();
        mount.rmdir("sealed").unwrap();
        mount.mkdir("sealed", 0o111).unwrap();
        mount.remount();
        assert_eq!((mount.mode("made-closed"), mount.mode("made-dark"), mount.mode("sealed")), (0o555, 0, 0o111));
        assert_eq!((mount.mode("still-closed"), mount.text("search/f")), (0, "xy".into()));
        mount.unlink("still-closed").unwrap();
        for dir in ["made-closed", "made-dark", "sealed"] {
            mount.rmdir(dir).unwrap();
        }
        stack.lowers[0].perm("search", 0o755);
        stack.upper().perm("search", 0o755);
    });
}

/// Fails on the kernel, fo1 and fo2: suid, sgid and capabilities are shown and copied.
#[test]
fn a_lower_layer_on_a_nosuid_mount_gives_no_suid() {
    bounded(|| {
        if who() != Who::Root {
            skip!("only root mounts a view with suid");
        }
        let stack = Stack::new(1);
        let flags = rustix::mount::MountFlags::NOSUID;
        rustix::mount::mount("tmpfs", stack.lowers[0].root(), "tmpfs", flags, c"mode=755").unwrap();
        let lower = scratch::Mounted::adopt(stack.lowers[0].root());
        stack.lowers[0].file("su", "x").perm("su", 0o6755);
        let mount = stack.mount();
        assert_eq!(mount.mode("su"), 0o755);
        mount.append("su", "y").unwrap();
        assert_eq!((mount.mode("su"), stack.upper().mode("su")), (0o755, 0o755));
        drop(mount);
        drop(lower);
    });
}

/// Sets flags as root does; false where the file system has none.
fn chattr(flags: &str, path: std::path::PathBuf) -> bool {
    std::process::Command::new("chattr").arg(flags).arg(path).output().is_ok_and(|out| out.status.success())
}

/// What may be done to immutable and append-only objects of a lower layer, and after their flags were changed.
fn protected(tree: &Tree) -> Vec<(&'static str, rustix::io::Result<()>)> {
    vec![
        ("chmod i", tree.chmod("i", 0o600)),
        ("append to i", tree.append("i", "more")),
        ("unlink i", tree.unlink("i")),
        ("rename i", tree.rename("i", "j")),
        ("link i", tree.link("i", "k")),
        ("xattr on i", tree.set_xattr("i", "user.a", b"v")),
        ("append to a", tree.append("a", "more")),
        ("truncate a", tree.truncate("a", 0)),
        ("unlink a", tree.unlink("a")),
        ("rename over a", tree.rename("n", "a")),
        ("make in d", tree.mkdir("d/new", 0o755)),
        ("unlink in d", tree.unlink("d/f")),
        ("chmod below d", tree.chmod("d/f", 0o600)),
        ("set i", if chattr("+i", tree.at("n")) { Ok(()) } else { Err(Errno::OPNOTSUPP) }),
        ("unlink n", tree.unlink("n")),
        ("clear i", if chattr("-i", tree.at("i")) { Ok(()) } else { Err(Errno::OPNOTSUPP) }),
        ("chmod i again", tree.chmod("i", 0o600)),
    ]
}

/// Both peers know no such flags.
#[test]
fn immutable_and_append_only_hold_as_in_the_kernels_overlay() {
    bounded(|| {
        if who() != Who::Root {
            skip!("flags are for root");
        }
        let stacks = [Stack::new(1), Stack::new(1)];
        let mut given = true;
        for stack in &stacks {
            let lower = stack.lowers[0].file("i", "i").file("a", "a").file("d/f", "f").file("n", "n");
            for (flags, name) in [("+i", "i"), ("+a", "a"), ("+i", "d")] {
                given &= chattr(flags, lower.at(name));
            }
        }
        let done = || {
            let mut mount = stacks[0].mount();
            let ours = protected(&mount);
            if let Some(kernel) = stacks[1].mount_kernel() {
                assert_eq!(ours, protected(&kernel), "(tested, kernel)");
            }
            mount.remount();
            assert_eq!(mount.unlink("n"), Err(Errno::PERM), "the flag is forgotten");
            assert_eq!(mount.unlink("a"), Err(Errno::PERM), "the flag is forgotten");
        };
        let outcome = if given { std::panic::catch_unwind(std::panic::AssertUnwindSafe(done)) } else { Ok(()) };
        // Or nobody can remove them.
        for stack in &stacks {
            ["i", "a", "d"].iter().for_each(|name| _ = chattr("-ia", stack.lowers[0].at(name)));
        }
        if !given {
            skip!("no flags on this file system");
        }
        outcome.unwrap();
    });
}

/// What may be done to objects of the upper layer that have their flags there.
fn flagged_in_upper(tree: &Tree) -> Vec<(&'static str, rustix::io::Result<()>)> {
    let mut done = vec![
        ("append to a", tree.append("a", "more")),
        ("append again", tree.append("a", "more")),
        ("write into a", tree.pwrite("a", 0, b"x")),
        ("write beyond a", tree.pwrite("a", 100, b"x")),
        ("truncate a", tree.truncate("a", 0)),
        ("make a longer", tree.truncate("a", 100)),
        ("chmod a", tree.chmod("a", 0o600)),
        ("set times of a", tree.utimes("a", tree::OLD)),
        ("link a", tree.link("a", "a2")),
        ("rename a", tree.rename("a", "a2")),
        ("unlink a", tree.unlink("a")),
        ("append to i", tree.append("i", "more")),
        ("chmod i", tree.chmod("i", 0o600)),
        ("touch i", tree.utimes("i", tree::OLD)),
        ("unlink i", tree.unlink("i")),
    ];
    for dir in ["da", "di"] {
        let at = |name: &str| format!("{dir}/{name}");
        done.extend([
            ("make in it", tree.write(at("new"), "new")),
            ("make a directory in it", tree.mkdir(at("sub2"), 0o755)),
            ("link a new file into it", tree.link("n", at("linked"))),
            ("link a lower file into it", tree.link("low", at("low2"))),
            ("link a copied-up file into it", tree.link("up", at("up2"))),
            ("rename a new file into it", tree.rename("m", at("moved"))),
            ("rename a lower file into it", tree.rename("low", at("low"))),
            ("rename a lower directory into it", tree.rename("lowdir", at("lowdir"))),
            ("rename a new directory into it", tree.rename("dir", at("dir"))),
            ("change a lower file in it", tree.chmod(at("below"), 0o600)),
            ("change a file in it", tree.append(at("f"), "more")),
            ("unlink in it", tree.unlink(at("f"))),
            ("rename in it", tree.rename(at("f"), at("g"))),
            ("rename out of it", tree.rename(at("f"), "g")),
            ("chmod it", tree.chmod(dir, 0o700)),
            ("rename it", tree.rename(dir, "elsewhere")),
            ("remove it", tree.rmdir(dir)),
            ("make below a directory in it", tree.write(at("sub/new"), "new")),
        ]);
    }
    done
}

/// Both peers fail with EPERM at what may be done.
#[test]
fn flags_in_the_upper_layer_hold_as_in_the_kernels_overlay() {
    bounded(|| {
        if who() != Who::Root {
            skip!("flags are for root");
        }
        let stacks = [Stack::new(1), Stack::new(1)];
        let mut given = true;
        for stack in &stacks {
            stack.lowers[0]
                .file("low", "x")
                .file("up", "x")
                .file("lowdir/f", "x")
                .file("da/below", "x")
                .file("di/below", "x");
            let upper = stack.upper();
            upper.file("a", "a").file("i", "i").file("n", "n").file("m", "m").file("dir/f", "f");
            ["da", "di"]
                .iter()
                .for_each(|dir| _ = upper.file(&format!("{dir}/f"), "f").dir(&format!("{dir}/sub"), 0o755));
            for (flags, name) in [("+a", "a"), ("+i", "i"), ("+a", "da"), ("+i", "di")] {
                given &= chattr(flags, upper.at(name));
            }
        }
        let done = || {
            let seen = |tree: &Tree| {
                tree.chmod("up", 0o600).unwrap();
                let done = flagged_in_upper(tree);
                (done, tree.text("a"), tree.names("da").unwrap(), tree.names("di").unwrap())
            };
            let mut mount = stacks[0].mount();
            let ours = seen(&mount);
            if let Some(kernel) = stacks[1].mount_kernel() {
                assert_eq!(ours, seen(&kernel), "(tested, kernel)");
            }
            assert_eq!(ours.1, "amoremore");
            mount.remount();
            mount.append("a", "+").unwrap();
            assert_eq!(
                (mount.text("a"), mount.flags("a"), mount.flags("da")),
                ("amoremore+".into(), "a".into(), "a".into())
            );
            // Taken away in the view it is gone, and what is open writes where it is told to.
            assert!(chattr("-a", mount.at("a")));
            mount.pwrite("a", 0, b"A").unwrap();
            assert_eq!((mount.text("a"), stacks[0].upper().text("a")), ("Amoremore+".into(), "Amoremore+".into()));
        };
        let outcome = if given { std::panic::catch_unwind(std::panic::AssertUnwindSafe(done)) } else { Ok(()) };
        for stack in &stacks {
            // Or nobody can remove them.
            ["a", "i", "da", "di"].iter().for_each(|name| _ = chattr("-ia", stack.upper().at(name)));
        }
        if !given {
            skip!("no flags on this file system");
        }
        outcome.unwrap();
    });
}

/// Whether the daemon is told the flags of what it cannot read.
fn reads_flags_of_closed() -> bool {
    let told = who() == Who::Root || kernel() >= (6, 17) && !lacks("file-getattr");
    if !told {
        say_skipped("the flags of what a user cannot read: no file_getattr(2) before Linux 6.17");
    }
    told
}

/// fo1 and fo2 lose them.
#[test]
fn a_copy_has_the_flags_that_the_kernels_overlay_gives_it() {
    bounded(|| {
        if who() == Who::Namespace {
            skip!("flags of a file are for its owner in the initial namespace");
        }
        let stacks = [Stack::new(1), Stack::new(1)];
        let mut given = true;
        for stack in &stacks {
            let lower = &stack.lowers[0];
            for name in ["A", "S", "AS", "d", "closed", "data", "linked", "renamed"] {
                lower.file(name, "x");
            }
            lower.hard_link("linked", "linked2").file("dir/f", "x").file("dirsync/f", "x");
            for (flags, name) in [
                ("+A", "A"),
                ("+S", "S"),
                ("+AS", "AS"),
                ("+d", "d"),
                ("+A", "closed"),
                ("+AS", "data"),
                ("+A", "linked"),
                ("+AS", "renamed"),
                ("+AS", "dir"),
                ("+D", "dirsync"),
            ] {
                given &= chattr(flags, lower.at(name));
            }
            lower.perm("closed", 0o200);
        }
        if !given {
            skip!("no flags on this file system");
        }
        let paths = ["A", "S", "AS", "d", "closed", "data", "linked", "moved", "dir", "dirsync", "dir/f", "dir/new"];
        let seen = |tree: &Tree| {
            ["A", "S", "AS", "d", "linked"].iter().for_each(|name| tree.chmod(name, 0o640).unwrap());
            tree.utimes("closed", tree::OLD).unwrap();
            tree.append("data", "y").unwrap();
            tree.rename("renamed", "moved").unwrap();
            tree.chmod("dir", 0o750).unwrap();
            tree.chmod("dirsync/f", 0o640).unwrap();
            tree.chmod("dir/f", 0o640).unwrap();
            tree.write("dir/new", "").unwrap();
            paths.map(|path| if path == "closed" { String::new() } else { tree.flags(path) })
        };
        let mount = stacks[0].mount();
        let ours = seen(&mount);
        assert_eq!(ours[..3], ["A", "S", "SA"], "{ours:?}");
        if let Some(kernel) = stacks[1].mount_kernel() {
            assert_eq!(ours, seen(&kernel), "(tested, kernel)");
        }
        drop(mount);
        let upper = stacks[0].upper();
        upper.perm("closed", 0o600);
        let closed = if reads_flags_of_closed() { "A" } else { "" };
        assert_eq!(
            paths[..9].iter().map(|path| upper.flags(path)).collect::<Vec<_>>(),
            ["A", "S", "SA", "", closed, "SA", "A", "SA", "SA"]
        );
    });
}
