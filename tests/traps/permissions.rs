//! Who may, and what new objects inherit.

use rustix::fs::{self as sys, FileType, OFlags};

use crate::common::*;

/// One entry of an ACL: tag, permissions, id (acl(5), linux/posix_acl_xattr.h).
type Entry = (u16, u16, u32);
const NOBODY: u32 = u32::MAX;

fn acl(entries: &[Entry]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes().iter().chain(&perm.to_le_bytes()).chain(&id.to_le_bytes()));
    }
    value
}

fn parse(value: &[u8]) -> Vec<Entry> {
    let short = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    let entry = |b: &[u8]| (short(b), short(&b[2..]), u32::from_le_bytes([b[4], b[5], b[6], b[7]]));
    value[4..].chunks(8).map(entry).collect()
}

const DEFAULT: &str = "system.posix_acl_default";
const ACCESS: &str = "system.posix_acl_access";

/// A default ACL stands in for the umask; without one the umask counts. FUSE leaves both to the daemon.
#[test]
fn default_acls_and_the_umask() {
    bounded(|| {
        let stack = Stack::new(1);
        let me = rustix::process::geteuid().as_raw();
        let default = acl(&[(1, 7, NOBODY), (2, 6, me), (4, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 0, NOBODY)]);
        stack.lowers[0].dir("lower", 0o755).dir("plain", 0o755).file("lower/gone", "");
        if stack.lowers[0].set_xattr("lower", DEFAULT, &default).is_err() {
            skip!("no ACLs on the file system of the tests");
        }
        let native = Tree::new(stack.scratch.dir("native"));
        native.mkdir("lower", 0o755).unwrap();
        native.mkdir("plain", 0o755).unwrap();
        native.set_xattr("lower", DEFAULT, &default).unwrap();
        let mount = stack.mount();
        mount.unlink("lower/gone").unwrap();
        mount.mkdir("upper", 0o755).unwrap();
        mount.set_xattr("upper", DEFAULT, &default).unwrap();
        let make = |tree: &Tree, dir: &str| {
            with_umask(0o077, || {
                drop(tree.create(format!("{dir}/file"), 0o666).unwrap());
                drop(tree.create(format!("{dir}/gone"), 0o640).unwrap());
                tree.mkdir(format!("{dir}/dir"), 0o777).unwrap();
                tree.mknod(format!("{dir}/fifo"), FileType::Fifo, 0o666, 0).unwrap();
            });
            ["file", "gone", "dir", "fifo"].map(|name| {
                let path = format!("{dir}/{name}");
                let of = |key| tree.xattr(&path, key).map(|v| parse(&v));
                (name, tree.mode(&path), of(ACCESS), of(DEFAULT))
            })
        };
        let want = make(&native, "lower");
        assert_eq!(make(&mount, "lower"), want);
        assert_eq!(make(&mount, "upper"), want);
        assert_eq!(make(&mount, "plain"), make(&native, "plain"));
    });
}

/// Setting an ACL sets the group bits of the mode; chmod changes the mask of the ACL.
#[test]
fn acl_and_mode_follow_each_other() {
    bounded(|| {
        let stack = Stack::new(1);
        let me = rustix::process::geteuid().as_raw();
        stack.lowers[0].file("f", "x").perm("f", 0o644);
        let mount = stack.mount();
        let value = acl(&[(1, 6, NOBODY), (2, 7, me), (4, 4, NOBODY), (0x10, 7, NOBODY), (0x20, 0, NOBODY)]);
        match mount.set_xattr("f", ACCESS, &value) {
            Err(Errno::OPNOTSUPP) => skip!("no ACLs"),
            other => other.unwrap(),
        }
        assert_eq!(mount.mode("f"), 0o670);
        mount.chmod("f", 0o640).unwrap();
        assert_eq!(parse(&mount.xattr("f", ACCESS).unwrap())[3], (0x10, 4, NOBODY));
        mount.remove_xattr("f", ACCESS).unwrap();
        assert_eq!(mount.xattr("f", ACCESS), Err(Errno::NODATA));
        assert_eq!(mount.mode("f"), 0o640);
    });
}

/// The kernel drops sgid when someone outside the group sets an ACL; for FUSE the daemon must.
#[test]
fn an_acl_set_from_outside_the_group_drops_sgid() {
    bounded(|| {
        if who() != Who::Root {
            skip!("two users are needed");
        }
        const NAMES: [&str; 10] = [
            "f-out",
            "f-in",
            "d-out",
            "d-in",
            "d-out-default",
            "d-in-default",
            "f-out-gone",
            "d-out-gone",
            "d-in-gone",
            "d-chown",
        ];
        let value = acl(&[(1, 7, NOBODY), (2, 7, 9), (4, 5, NOBODY), (0x10, 7, NOBODY), (0x20, 5, NOBODY)]);
        let fill = |layer: &stack::Layer| {
            for name in NAMES {
                if name.starts_with('f') {
                    layer.file(name, "x")
                } else {
                    layer.dir(name, 0o755)
                };
                if name.ends_with("gone") {
                    layer.set_xattr(name, ACCESS, &value).unwrap();
                }
                layer.chown(name, 1234, if name.contains("in") { 1234 } else { 4321 }).unwrap();
                layer.perm(name, 0o2755);
            }
        };
        let modes = |tree: &Tree| {
            NAMES.map(|name| {
                tree.stat(name).unwrap();
                let set = || match name {
                    _ if name.ends_with("default") => tree.set_xattr(name, DEFAULT, &value),
                    _ if name.ends_with("gone") => tree.remove_xattr(name, ACCESS),
                    "d-chown" => tree.chown(name, 1234, 1234),
                    _ => tree.set_xattr(name, ACCESS, &value),
                };
                let done = as_user(1234, 1234, set);
                (name, done, Kept::mode(tree, name).unwrap())
            })
        };
        for lower in [true, false] {
            let (stack, theirs) = (Stack::new(1), Stack::new(1));
            for stack in [&stack, &theirs] {
                fill(if lower { &stack.lowers[0] } else { stack.upper() });
            }
            let mount = stack.mount();
            let ours = modes(&mount);
            assert_eq!([ours[0].2, ours[1].2, ours[2].2, ours[3].2], [0o775, 0o2775, 0o775, 0o2775], "lower {lower}");
            if let Some(kernel) = theirs.mount_kernel() {
                assert_eq!(ours, modes(&kernel), "lower {lower}");
            }
        }
    });
}

/// The VFS guards get and set of trusted.*, but not list.
#[test]
fn trusted_xattrs_are_not_listed_to_users() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x").with_xattr("f", "user.open", b"1").perm("f", 0o666);
        if who() == Who::Root {
            stack.lowers[0].with_xattr("f", "trusted.closed", b"1");
        }
        let mount = stack.mount();
        let user = || {
            assert_eq!(mount.xattrs("f").unwrap(), [b"user.open".to_vec()]);
            assert_eq!(mount.xattr("f", "trusted.closed"), Err(Errno::NODATA));
            assert_eq!(mount.set_xattr("f", "trusted.closed", b"2"), Err(Errno::PERM));
        };
        if who() == Who::Root {
            assert_eq!(mount.xattrs("f").unwrap(), [b"trusted.closed".to_vec(), b"user.open".to_vec()]);
            as_user(1234, 1234, user);
        } else {
            user();
        }
    });
}

/// Marks that a user writes through the mount never mark the union's own objects, and its own are not shown.
#[test]
fn users_cannot_write_the_unions_own_marks() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/f", "x").file("e/f", "x");
        let mut mount = stack.mount();
        mount.chmod("d", 0o700).unwrap();
        mount.unlink("e/f").unwrap();
        for name in ["trusted.overlay.opaque", "user.overlay.opaque", "user.fuseoverlayfs.opaque"] {
            if mount.set_xattr("d", name, b"y").is_ok() {
                assert_eq!(mount.xattr("d", name), Ok(b"y".to_vec()), "{name}: what is accepted is kept");
            }
        }
        let _ = mount.set_xattr("d", "user.overlay.redirect", b"/e");
        let _ = mount.set_xattr("d/f", "user.overlay.metacopy", b"");
        let _ = mount.set_xattr("d/f", "user.containers.override_stat", b"0:0:4755");
        for _ in 0..2 {
            assert_eq!(mount.names("d").unwrap(), ["f"]);
            assert_eq!((mount.text("d/f"), mount.mode("d/f")), ("x".into(), 0o644));
            assert_eq!(mount.names("e").unwrap(), [""; 0]);
            assert_eq!(mount.xattrs("e").unwrap(), [b""; 0], "its own marks");
            mount.remount();
        }
    });
}

/// A root daemon's own writes would keep them: it has CAP_FSETID.
#[test]
fn changes_of_owner_and_content_clear_what_they_must() {
    bounded(|| {
        if who() != Who::Root {
            skip!("only root changes owners");
        }
        let stack = Stack::new(1);
        let mut capability = 0x0200_0001u32.to_le_bytes().to_vec();
        capability.extend([0, 0x20, 0, 0].iter().chain(&[0; 12]));
        for name in ["chown", "write", "truncate", "user", "copy", "mapped"] {
            stack.lowers[0].file(name, "x".repeat(100)).perm(name, 0o6777);
            stack.lowers[0].with_xattr(name, "security.capability", &capability);
        }
        stack.lowers[0].file("source", "y".repeat(100));
        let mount = stack.mount();
        mount.chown("chown", 1, 1).unwrap();
        assert_eq!(mount.mode("chown"), 0o777);
        mount.pwrite("write", 0, b"y").unwrap();
        mount.truncate("truncate", 5).unwrap();
        assert_eq!((mount.mode("write"), mount.mode("truncate")), (0o6777, 0o6777), "root keeps suid");
        as_user(1234, 1234, || {
            mount.pwrite("user", 0, b"y").unwrap();
            let (from, to) =
                (mount.open("source", OFlags::RDONLY).unwrap(), mount.open("copy", OFlags::WRONLY).unwrap());
            sys::copy_file_range(&from, None, &to, None, 100).unwrap();
        });
        assert_eq!((mount.mode("user"), mount.mode("copy")), (0o777, 0o777));
        for name in ["chown", "write", "truncate", "user", "copy"] {
            assert_eq!(mount.xattr(name, "security.capability"), Err(Errno::NODATA), "{name}");
        }
        assert!(mount.xattr("mapped", "security.capability").is_ok());
    });
}

/// The modes, owners and ACLs of the merged objects count for each caller, whatever the daemon may.
#[test]
fn the_kernel_checks_each_caller() {
    bounded(|| {
        if who() != Who::Root {
            skip!("two users are needed");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("secret", "x").perm("secret", 0o600).file("open", "x").perm("open", 0o644);
        stack.lowers[0].file("closed/f", "x").perm("closed", 0o700).dir("shared", 0o1777).file("shared/roots", "x");
        let mount = stack.mount();
        as_user(1234, 1234, || {
            assert_eq!(mount.text("open"), "x");
            assert_eq!(mount.read("secret"), Err(Errno::ACCESS));
            assert_eq!(mount.append("open", "y"), Err(Errno::ACCESS));
            assert_eq!(mount.stat("closed/f").map(|_| ()), Err(Errno::ACCESS));
            assert_eq!(mount.chmod("open", 0o777), Err(Errno::PERM));
            assert_eq!(mount.chown("open", 1234, 1234), Err(Errno::PERM));
            assert_eq!(mount.utimes("open", tree::OLD), Err(Errno::PERM));
            assert_eq!(mount.write("new", ""), Err(Errno::ACCESS));
            assert_eq!(mount.unlink("open"), Err(Errno::ACCESS));
            assert_eq!(mount.unlink("shared/roots"), Err(Errno::PERM), "sticky");
            mount.write("shared/mine", "x").unwrap();
            mount.mkdir("shared/dir", 0o755).unwrap();
            mount.symlink("x", "shared/link").unwrap();
            let st = mount.stat("shared/mine").unwrap();
            assert_eq!((st.st_uid, st.st_gid), (1234, 1234));
        });
        for name in ["mine", "dir", "link"] {
            assert_eq!(stack.upper().stat(format!("shared/{name}")).unwrap().st_uid, 1234);
        }
        assert!(!stack.upper().has("open") && !stack.upper().has("secret"), "a refused change copies nothing up");
    });
}

/// What a user gets who gives a permission that his daemon could not grant.
fn unless_privileged() -> rustix::io::Result<()> {
    if who() == Who::User { Err(Errno::ACCESS) } else { Ok(()) }
}

/// What a user may do to his own lower files that he, and so his daemon, may not read: all that asks for no data. Permission
/// to read is not given, as nobody could use it; whoever may read everything may give it.
#[test]
fn what_cannot_be_read_below_gets_no_permission_to_be_read() {
    bounded(|| {
        let refused = unless_privileged();
        // Blocks need opens that are not seen.
        let seen = Mount::has_more("io=writeback") || Mount::has_more("copyup=open");
        let stack = Stack::new(1).option(if seen { "rw" } else { "copyup_block=4096" });
        let lower = &stack.lowers[0];
        let closed = ["chmod", "others", "acl", "times", "renamed", "linked", "name1", "large"];
        closed.iter().for_each(|name| _ = lower.file(name, "data"));
        lower.file("large", vec![b'x'; 100_000]).hard_link("name1", "name2").file("empty", "").file("less", "data");
        closed.iter().chain(&["empty"]).for_each(|name| _ = lower.perm(name, 0));
        lower.file("open", "data").perm("less", 0o044);
        let mut mount = stack.mount();
        let readable = acl(&[(1, 6, NOBODY), (4, 0, NOBODY), (0x20, 0, NOBODY)]);
        for _ in 0..2 {
            assert_eq!(mount.chmod("chmod", 0o600), refused);
            assert_eq!(mount.chmod("others", 0o004), refused);
            if !matches!(mount.xattr("less", ACCESS), Err(Errno::OPNOTSUPP)) {
                assert_eq!(mount.set_xattr("acl", ACCESS, &readable), refused);
            }
            assert_eq!((mount.utimes("times", tree::OLD), mount.chmod("times", 0o400)), (Ok(()), refused));
            let _ = mount.rename("renamed", "renamed2");
            let _ = mount.link("linked", "linked2");
            for name in ["renamed2", "linked2", "linked", "name1", "name2", "large"] {
                assert_eq!(mount.chmod(name, 0o600), refused, "{name}");
            }
            assert_eq!((mount.chmod("less", 0o040), mount.chmod("empty", 0o600)), (Ok(()), Ok(())));
            assert_eq!((mount.chmod("open", 0), mount.chmod("open", 0o600)), (Ok(()), Ok(())));
            assert_eq!((mount.text("open"), mount.text("empty")), ("data".into(), String::new()));
            if refused.is_ok() {
                let names = ["chmod", "times", "renamed2", "linked2", "name2"];
                assert_eq!(names.map(|name| mount.text(name)), ["data"; 5]);
            } else {
                let names = ["chmod", "others", "acl", "times", "renamed2", "linked2", "name1", "large"];
                assert_eq!(names.map(|name| mount.mode(name)), [0; 8]);
                assert!(!stack.upper().has("chmod"), "something has changed");
            }
            mount.remount();
        }
        // Once it can be had.
        drop(mount);
        lower.perm("times", 0o600).perm("renamed", 0o600);
        let mount = stack.mount();
        for name in ["times", "renamed2"] {
            assert_eq!((mount.chmod(name, 0o600), mount.text(name)), (Ok(()), "data".into()), "{name}");
        }
    });
}

/// The same for directories: what may be listed and searched in the view must be so below.
#[test]
fn what_cannot_be_searched_below_gets_no_permission_to_be_searched() {
    bounded(|| {
        let refused = unless_privileged();
        let stack = Stack::new(2);
        let rows = [("dir", 0, 0o700, 0), ("search", 0o311, 0o711, 0o111), ("list", 0o400, 0o500, 0o200)];
        let lower = &stack.lowers[1];
        for (dir, mode, ..) in rows {
            lower.file(&format!("{dir}/f"), "x").perm(dir, mode);
        }
        lower.file("moved/f", "x").perm("moved", 0);
        // Seen is the mode of the part above.
        lower.file("covered/f", "x").perm("covered", 0);
        stack.lowers[0].dir("covered", 0o300);
        let mut mount = stack.mount();
        for _ in 0..2 {
            for (dir, _, mode, less) in rows {
                assert_eq!(mount.chmod(dir, mode), refused, "{dir}");
                assert_eq!((mount.chmod(dir, less), mount.chmod(dir, mode)), (Ok(()), refused), "{dir}");
                assert_eq!(mount.mode(dir), if refused.is_ok() { mode } else { less }, "{dir}");
            }
            let _ = mount.rename("moved", "moved2");
            assert_eq!((mount.chmod("moved2", 0o700), mount.chmod("covered", 0o700)), (refused, refused));
            if refused.is_ok() {
                assert_eq!(["dir/f", "moved2/f", "covered/f"].map(|path| mount.text(path)), ["x"; 3]);
            }
            mount.remount();
        }
        drop(mount);
        lower.perm("dir", 0o700);
        let mount = stack.mount();
        assert_eq!((mount.chmod("dir", 0o700), mount.text("dir/f")), (Ok(()), "x".into()));
        drop(mount);
        // So that they can be removed.
        let open = |layer: &Tree, names: &[&str]| names.iter().for_each(|dir| layer.chmod(dir, 0o700).unwrap());
        open(lower, &["search", "list", "moved", "covered"]);
        open(stack.upper(), &["search", "list", "moved2"]);
    });
}

/// Nor is permission to read needed for that.
#[test]
fn what_is_emptied_needs_no_data_from_below() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("lower", "data").file("marked", "data").perm("lower", 0).perm("marked", 0);
        let mut mount = stack.mount();
        mount.utimes("marked", tree::OLD).unwrap();
        for name in ["lower", "marked"] {
            mount.chmod(name, 0o200).unwrap();
            mount.write(name, "new").unwrap();
            assert_eq!((mount.chmod(name, 0o600), mount.text(name)), (Ok(()), "new".into()), "{name}");
        }
        mount.remount();
        assert_eq!(["lower", "marked"].map(|name| mount.text(name)), ["new"; 2]);
    });
}
