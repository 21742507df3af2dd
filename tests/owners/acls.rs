//! Ids in the values of attributes: POSIX ACLs, and the root user of a capability.

use crate::common::idmapped;
use crate::common::*;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const CAPABILITY: &str = "security.capability";

/// An ACL with rwx for owner, group and others, and these entries of a tag (2: a user, 8: a group) and an id.
fn acl(named: &[(u16, u32)]) -> Vec<u8> {
    let mut entries = vec![(1, u32::MAX)];
    entries.extend(named.iter().filter(|(tag, _)| *tag == 2));
    entries.push((4, u32::MAX));
    entries.extend(named.iter().filter(|(tag, _)| *tag == 8));
    entries.extend([(0x10, u32::MAX), (0x20, u32::MAX)]);
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in entries {
        value.extend([tag.to_le_bytes(), 7_u16.to_le_bytes()].concat());
        value.extend(id.to_le_bytes());
    }
    value
}

/// `cap_net_raw+ep` with this root user; 0: of revision 2, which has none.
fn capability(root: u32) -> Vec<u8> {
    let revision: u32 = if root == 0 { 0x0200_0001 } else { 0x0300_0001 };
    let mut value = revision.to_le_bytes().to_vec();
    value.extend([0, 0x20, 0, 0].iter().chain(&[0; 12]));
    if root != 0 {
        value.extend(root.to_le_bytes());
    }
    value
}

/// An ACL by which user 5 has `perm`, the group may read, and `others` is left to others.
fn acl_of_five(perm: u16, others: u16) -> Vec<u8> {
    let entries = [(1, 6, u32::MAX), (2, perm, 5), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, others, u32::MAX)];
    let entries = entries.map(|(tag, perm, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    [2_u32.to_le_bytes().to_vec(), entries.concat()].concat()
}

/// Nobody may do by it what the ACL refuses.
#[test]
fn nobody_gains_where_an_acl_is_not_shown_or_not_copied() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let may_read = |mount: &Mount, path: &str| as_user(5, 5, || mount.read(path).map(drop));
        for option in ["xattr_permissions=2", "squash_to_uid=1000,squash_to_gid=1000"] {
            let stack = Stack::new(1).option(option);
            let lower = &stack.lowers[0];
            lower.file("closed", "x").file("open", "x").file("plain", "x");
            if lower.set_xattr("closed", ACCESS, &acl_of_five(0, 4)) == Err(Errno::OPNOTSUPP) {
                return say_skipped("the layers take no ACLs");
            }
            lower.with_xattr("open", ACCESS, &acl_of_five(4, 0));
            let mut mount = stack.mount();
            let squashed = option.starts_with("squash");
            assert_eq!(may_read(&mount, "closed"), Err(Errno::ACCESS), "{option}");
            // Where all are shown as one, nobody is named.
            assert_eq!(may_read(&mount, "open"), if squashed { Err(Errno::ACCESS) } else { Ok(()) }, "{option}");
            for path in ["closed", "open", "plain"] {
                mount.append(path, "x").unwrap();
            }
            for _ in 0..2 {
                for (path, may) in [("closed", false), ("open", false), ("plain", true)] {
                    let expected = if may { Ok(()) } else { Err(Errno::ACCESS) };
                    assert_eq!(may_read(&mount, path), expected, "{path} is copied: {option}");
                }
                mount.remount();
            }
        }
    });
}

const USER: u16 = 2;
const GROUP: u16 = 8;

/// Ids of the layers from 0 to 9 are shown from 1000 on, 20 as 0.
const MAP: &str = "0:1000:10:20:0:1";

fn stack() -> Stack {
    Stack::new(1).option(&format!("uidmapping={MAP},gidmapping={MAP}"))
}

#[test]
fn ids_in_acls_are_mapped_both_ways() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = stack();
        let lower = &stack.lowers[0];
        lower.file("f", "x").dir("d", 0o777).file("hidden", "x").file("plain", "x");
        ["f", "d", "hidden", "plain", ""].iter().for_each(|path| lower.chown(path, 20, 20).unwrap());
        let (disk, view) = (acl(&[(USER, 5), (GROUP, 6)]), acl(&[(USER, 1005), (GROUP, 1006)]));
        if lower.set_xattr("f", ACCESS, &disk) == Err(Errno::OPNOTSUPP) {
            return say_skipped("the layers take no ACLs");
        }
        lower.with_xattr("d", ACCESS, &disk).with_xattr("d", DEFAULT, &disk);
        // Entries for who is not in the view are not shown.
        lower.with_xattr("hidden", ACCESS, &acl(&[(USER, 5), (USER, 7000), (GROUP, 7000)]));
        let mut mount = stack.mount();
        for _ in 0..2 {
            assert_eq!(mount.xattr("f", ACCESS).unwrap(), view);
            assert_eq!(mount.xattr("d", DEFAULT).unwrap(), view);
            assert_eq!(mount.xattr("hidden", ACCESS).unwrap(), acl(&[(USER, 1005)]));
            mount.chmod("f", 0o777).unwrap();
            mount.chmod("d", 0o777).unwrap();
            assert_eq!(stack.upper().xattr("f", ACCESS).unwrap(), disk, "a copy has the layer's");
            mount.remount();
        }
        // What is set, and what is inherited.
        mount.set_xattr("plain", ACCESS, &acl(&[(USER, 1009), (GROUP, 0)])).unwrap();
        assert_eq!(stack.upper().xattr("plain", ACCESS).unwrap(), acl(&[(USER, 9), (GROUP, 20)]));
        drop(mount.create("d/new", 0o777).unwrap());
        assert_eq!(mount.xattr("d/new", ACCESS).unwrap(), view);
        assert_eq!(stack.upper().xattr("d/new", ACCESS).unwrap(), disk);
        for named in [(USER, 5), (GROUP, 5), (USER, 65_534)] {
            assert_eq!(
                mount.set_xattr("plain", ACCESS, &acl(&[named])),
                Err(Errno::INVAL),
                "{named:?} is not in the map"
            );
            assert_eq!(mount.set_xattr("d", DEFAULT, &acl(&[named])), Err(Errno::INVAL), "{named:?} is not in the map");
        }
        // Entries that are not seen are not lost by the way, but can be taken away with all others.
        assert_eq!(mount.set_xattr("hidden", ACCESS, &acl(&[(USER, 1001)])), Err(Errno::INVAL));
        mount.remove_xattr("hidden", ACCESS).unwrap();
        mount.set_xattr("hidden", ACCESS, &acl(&[(USER, 1001)])).unwrap();
        assert_eq!(stack.upper().xattr("hidden", ACCESS).unwrap(), acl(&[(USER, 1)]));
    });
}

#[test]
fn who_is_named_in_an_acl_may_enter_and_nobody_else() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = stack();
        let lower = &stack.lowers[0];
        lower.file("f", "x").perm("f", 0o640).chown("f", 20, 20).unwrap();
        let mut value = acl(&[(USER, 5), (USER, 7000)]);
        let others = value.len() - 6;
        value[others] = 0;
        if lower.set_xattr("f", ACCESS, &value) == Err(Errno::OPNOTSUPP) {
            return say_skipped("the layers take no ACLs");
        }
        let mount = stack.mount();
        for (uid, may) in [(1005, true), (5, false), (7000, false), (65_534, false), (1006, false)] {
            let done = as_user(uid, uid, || mount.read("f").map(drop));
            assert_eq!(done, if may { Ok(()) } else { Err(Errno::ACCESS) }, "{uid}");
        }
    });
}

#[test]
fn the_root_user_of_a_capability_is_mapped() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = stack();
        let lower = &stack.lowers[0];
        for (name, root) in [("roots", 0), ("fives", 5), ("twenties", 20), ("unmapped", 7000)] {
            lower.file(name, "x").with_xattr(name, CAPABILITY, &capability(root)).chown(name, 20, 20).unwrap();
            lower.with_xattr(name, CAPABILITY, &capability(root));
        }
        lower.file("plain", "x").chown("plain", 20, 20).unwrap();
        std::fs::copy("/bin/true", lower.at("program")).unwrap();
        lower.chown("program", 20, 20).unwrap();
        lower.with_xattr("program", CAPABILITY, &capability(7000));
        let mut mount = stack.mount();
        for _ in 0..2 {
            // The root user of revision 2 is 0, who is another one in the view.
            assert_eq!(mount.xattr("roots", CAPABILITY).unwrap(), capability(1000));
            assert_eq!(mount.xattr("fives", CAPABILITY).unwrap(), capability(1005));
            assert_eq!(mount.xattr("twenties", CAPABILITY).unwrap(), capability(0));
            // Nobody in the view is whom it is for. The kernel's OverlayFS over an idmapped layer lists it, has no value
            // (EOVERFLOW), and cannot execute the file; its idmapped mount can.
            assert_eq!(mount.xattr("unmapped", CAPABILITY), Err(Errno::NODATA));
            assert_eq!(mount.xattrs("unmapped").unwrap(), Vec::<Vec<u8>>::new());
            assert_eq!(mount.xattrs("fives").unwrap(), [CAPABILITY.as_bytes()]);
            let run = std::process::Command::new(mount.at("program")).status().unwrap();
            assert!(run.success(), "a program runs without the capability");
            for (name, root) in [("roots", 0), ("fives", 5), ("twenties", 20)] {
                mount.chmod(name, 0o755).unwrap();
                assert_eq!(stack.upper().xattr(name, CAPABILITY).unwrap(), capability(root), "a copy has the layer's");
            }
            mount.remount();
        }
        mount.set_xattr("plain", CAPABILITY, &capability(1005)).unwrap();
        assert_eq!(stack.upper().xattr("plain", CAPABILITY).unwrap(), capability(5));
        mount.set_xattr("plain", CAPABILITY, &capability(0)).unwrap();
        assert_eq!(stack.upper().xattr("plain", CAPABILITY).unwrap(), capability(20));
        assert_eq!(mount.set_xattr("plain", CAPABILITY, &capability(7000)), Err(Errno::INVAL));
    });
}

/// getfacl(1) and setfacl(1) see the same in the kernel's idmapped mount of the same directory.
#[test]
fn acls_are_those_of_an_idmapped_mount() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let ranges = [(0, 1000, 10), (20, 0, 1)];
        let stack = stack();
        let lower = &stack.lowers[0];
        lower.file("f", "x").chown("f", 20, 20).unwrap();
        if lower.set_xattr("f", ACCESS, &acl(&[(USER, 5), (GROUP, 6)])) == Err(Errno::OPNOTSUPP) {
            return say_skipped("the layers take no ACLs");
        }
        let at = stack.scratch.dir("idmapped");
        let bind = idmapped::bind(lower.root(), &at, &ranges, &ranges);
        let Ok(_bind) = bind.inspect_err(|error| say_skipped(&format!("no idmapped mount: {error}"))) else { return };
        let (mount, kernel) = (stack.mount(), Tree::new(&at));
        for (who, value) in [(1005, None), (1001, Some(acl(&[(USER, 1)]))), (0, Some(acl(&[(USER, 1001), (GROUP, 0)])))]
        {
            let did = [&*mount, &kernel].map(|tree| {
                let set = value.as_ref().map(|value| tree.set_xattr("f", ACCESS, value));
                (set, tree.xattr("f", ACCESS), as_user(who, who, || tree.read("f").map(drop)))
            });
            assert_eq!(did[0], did[1], "{who} {value:?}");
        }
    });
}
