//! The union's own extended attributes from inside, and those that need a privilege.

use rustix::io::Result;

use crate::common::*;
use crate::{Ran, not_here};

/// Names that are marks to some union, with a value that would mean something.
const MARKS: [(&str, &[u8]); 19] = [
    ("trusted.overlay.opaque", b"y"),
    ("trusted.overlay.redirect", b"/e"),
    ("trusted.overlay.metacopy", b""),
    ("trusted.overlay.origin", b"\0"),
    ("trusted.overlay.whiteout", b"y"),
    ("trusted.overlay.overlay.opaque", b"y"),
    ("user.overlay.opaque", b"y"),
    ("user.overlay.redirect", b"/e"),
    ("user.overlay.metacopy", b""),
    ("user.overlay.whiteout", b"y"),
    ("user.overlay.nlink", b"U-5"),
    ("user.overlay.protattr", b"i"),
    ("user.overlay.uuid", b"0123456789abcdef"),
    ("user.overlay.plyfs.device", b"y"),
    ("user.overlay.overlay.opaque", b"y"),
    ("user.fuseoverlayfs.opaque", b"y"),
    ("user.fuseoverlayfs.override_stat", b"0:0:104755"),
    ("user.containers.override_stat", b"0:0:104755"),
    ("user.containers.override_trusted.overlay.opaque", b"y"),
];

/// What a reader of the layer itself would take for a mark.
fn is_mark(key: &[u8]) -> bool {
    let plain = |prefix: &str| {
        key.strip_prefix(prefix.as_bytes()).is_some_and(|rest| {
            !rest.starts_with(b"overlay.") && !rest.starts_with(b"fuseoverlayfs.") && !rest.starts_with(b"containers.")
        })
    };
    plain("trusted.overlay.")
        || plain("user.overlay.")
        || key.starts_with(b"user.fuseoverlayfs.")
        || key.starts_with(b"user.containers.")
}

/// The marks on an object of a layer, with their values.
fn marks(layer: &Tree, path: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let keys = layer.xattrs(path).unwrap().into_iter().filter(|key| is_mark(key));
    keys.map(|key| (key.clone(), layer.xattr(path, std::str::from_utf8(&key).unwrap()).unwrap())).collect()
}

/// Stored escaped or refused: what is said back is what was said, and no union takes it for its own.
pub fn marks_set_from_inside_mark_nothing() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("d/f", "x").file("d/g", "y").file("e/f", "z");
    let mut mount = stack.mount();
    // They are in the upper layer with the marks that they need.
    ["d", "d/f"].iter().for_each(|path| mount.chmod(path, 0o751).unwrap());
    mount.append("d/f", "x").unwrap();
    let own = ["d", "d/f"].map(|path| marks(stack.upper(), path));
    let mut kept = Vec::new();
    for path in ["d", "d/f"] {
        for (name, value) in MARKS {
            match mount.set_xattr(path, name, value) {
                Ok(()) => kept.push((path, name, value)),
                Err(errno) => assert!([Errno::PERM, Errno::OPNOTSUPP].contains(&errno), "{name}: {errno:?}"),
            }
        }
    }
    assert_eq!(["d", "d/f"].map(|path| marks(stack.upper(), path)), own, "marks in the upper layer");
    for _ in 0..2 {
        for (path, name, value) in &kept {
            assert_eq!(mount.xattr(path, name).as_deref(), Ok(*value), "{name} of {path}");
        }
        for path in ["d", "d/f"] {
            let mut said: Vec<_> =
                kept.iter().filter(|(at, ..)| *at == path).map(|(_, name, _)| name.as_bytes().to_vec()).collect();
            said.sort();
            assert_eq!(mount.xattrs(path).unwrap(), said, "{path}");
        }
        assert_eq!(
            (mount.names("d").unwrap(), mount.text("d/f"), mount.mode("d/f")),
            (vec!["f".into(), "g".into()], "xx".into(), 0o751)
        );
        assert_eq!(mount.stat("d/f").unwrap().st_nlink, 1);
        mount.remount();
    }
    if let Some(kernel) = {
        drop(mount);
        stack.mount_kernel()
    } {
        assert_eq!((kernel.names("d").unwrap(), kernel.text("d/f")), (vec!["f".into(), "g".into()], "xx".into()));
    }
    let mount = stack.mount();
    for (path, name, _) in &kept {
        mount.remove_xattr(path, name).unwrap();
        assert_eq!(mount.xattr(path, name), Err(Errno::NODATA), "{name}");
    }
    assert_eq!((mount.xattrs("d").unwrap(), mount.xattrs("d/f").unwrap()), (vec![], vec![]));
    Ok(())
}

/// The marks that the union itself sets cannot be read, set or removed.
pub fn the_unions_own_marks_are_not_there() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("d/f", "x").file("r/f", "x").file("gone", "x").hard_link("d/f", "d/h");
    let mut mount = stack.mount();
    mount.chmod("d/f", 0o600).unwrap();
    mount.unlink("gone").unwrap();
    mount.mkdir("gone", 0o755).unwrap();
    let _ = mount.rename("r", "r2"); // the peers cannot
    let paths: Vec<_> = ["", "d", "d/f", "d/h", "gone", "r2"].into_iter().filter(|path| mount.has(path)).collect();
    for _ in 0..2 {
        for path in &paths {
            assert_eq!(mount.xattrs(path).unwrap(), [b""; 0], "of {path:?}");
            for (name, _) in MARKS {
                let got = mount.xattr(path, name);
                assert!(
                    matches!(got, Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM)),
                    "{name} of {path:?}: {got:?}"
                );
                assert!(mount.remove_xattr(path, name).is_err(), "{name} of {path:?}");
            }
        }
        mount.remount();
    }
    assert_eq!((mount.names("gone").unwrap(), mount.mode("d/f")), (vec![], 0o600));
    Ok(())
}

const CAPABILITY: &str = "security.capability";

/// `cap_net_raw+ep`, of version 2.
pub fn capability() -> Vec<u8> {
    let mut value = 0x0200_0001u32.to_le_bytes().to_vec();
    value.extend([0, 0x20, 0, 0].iter().chain(&[0; 12]));
    value
}

/// A directory of this user's with a file of his, one of root's, and one in his group.
fn fill(layer: &Tree, user: u32) {
    for (path, uid, gid) in [("own", user, user), ("roots", 0, 0), ("groups", 0, user)] {
        layer.write(path, "x").unwrap();
        layer.chown(path, uid, gid).unwrap();
        layer.chmod(path, 0o664).unwrap();
    }
}

/// What a user may set, on files of his own and of others.
fn attempts(tree: &Tree) -> Vec<(String, Result<()>)> {
    let mut done = Vec::new();
    for path in ["own", "roots", "groups"] {
        for (name, value) in [
            (CAPABILITY, capability().as_slice()),
            ("security.nonsense", b"1"),
            ("security.selinux", b"1"),
            ("trusted.a", b"1"),
            ("user.a", b"1"),
            ("system.nonsense", b"1"),
            ("nonsense", b"1"),
        ] {
            done.push((format!("set {name} of {path}"), tree.set_xattr(path, name, value)));
            done.push((format!("remove {name} of {path}"), tree.remove_xattr(path, name)));
        }
    }
    done
}

/// CVE-2021-3493 and its kin: the daemon's privilege is not the caller's. A plain directory says what is right.
pub fn attributes_of_security_are_set_as_the_caller_could() -> Ran {
    if who() != Who::Root {
        return not_here("two users are needed");
    }
    const USER: u32 = 1234;
    let stack = Stack::new(1);
    let native = Tree::new(stack.scratch.dir("native"));
    fill(&stack.lowers[0], USER);
    fill(&native, USER);
    let mount = stack.mount();
    let (ours, theirs) = as_user(USER, USER, || (attempts(&mount), attempts(&native)));
    assert_eq!(ours, theirs);
    // Root of a user namespace: the kernel stores whose namespace the capability counts in.
    let value: String = capability().iter().map(|byte| format!("{byte:02x}")).collect();
    let script = format!(
        "unshare -Ur setfattr -n {CAPABILITY} -v 0x{value} own; unshare -Ur setfattr -n {CAPABILITY} -v 0x{value} groups; \
         unshare -Ur setfattr -n trusted.a -v 1 own; unshare -Ur setfattr -n user.fine -v 1 own"
    );
    let mut seen = Vec::new();
    for tree in [&native, &*mount] {
        let mut command = std::process::Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "sh", "-c", &script]);
        let out = command.current_dir(tree.root()).output().unwrap();
        let of = |path: &str| (tree.xattrs(path).unwrap(), tree.xattr(path, CAPABILITY));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if said.contains("unshare failed") {
            return not_here("unshare -Ur is not permitted to normal users here");
        }
        seen.push((of("own"), of("groups"), said));
    }
    assert_eq!(seen[1], seen[0]);
    assert_eq!(seen[0].0.1.as_ref().map(Vec::len), Ok(24), "the oracle stores a capability of that namespace");
    Ok(())
}
