//! One owner for everything: `squash_to_root`, `squash_to_uid=`, `squash_to_gid=`.

use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Uid};

use crate::common::stack::Layer;
use crate::common::*;
use crate::ids;

const CAPABILITY: &str = "security.capability";

fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

fn chown(tree: &Tree, path: &str, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(CWD, tree.at(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// Files of several owners, with privileges.
fn fill(lower: &Layer) {
    for (path, owner, mode) in [
        ("f", (5, 6), 0o644),
        ("suid", (5, 6), 0o6755),
        ("mine", (1000, 1000), 0o6755),
        ("renamed", (5, 6), 0o6755),
        ("touched", (1000, 1000), 0o6755),
        ("roots", (0, 0), 0o6755),
        ("closed", (5, 6), 0o400),
        ("capable", (5, 6), 0o644),
        ("d/f", (5, 6), 0o644),
    ] {
        lower.file(path, "data").chown(path, owner.0, owner.1).unwrap();
        lower.perm(path, mode);
    }
    lower.chown("d", 5, 6).unwrap();
    std::fs::copy("/usr/bin/id", lower.at("id")).unwrap();
    let capable = [&0x0200_0001_u32.to_le_bytes()[..], &[0, 0x20, 0, 0], &[0; 12]].concat();
    lower.perm("id", 0o6755).with_xattr("capable", CAPABILITY, &capable);
}

/// Root mounts for user 1000: everything is his to change, what is new belongs to root, and nothing gains root's rights.
#[test]
fn one_user_may_change_what_others_own_and_gains_no_privilege() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = Stack::new(1).option("squash_to_uid=1000,squash_to_gid=1000");
        fill(&stack.lowers[0]);
        let mut mount = stack.mount();
        for (path, mode) in
            [("f", 0o644), ("suid", 0o755), ("mine", 0o755), ("roots", 0o755), ("d", 0o755), ("d/f", 0o644)]
        {
            assert_eq!((ids(&mount, path), mount.mode(path) & 0o6777), ((1000, 1000), mode), "{path}");
        }
        for user in ["1000", "1234"] {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
            let out = command.arg(mount.at("id")).arg("-u").output().unwrap();
            assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), user, "nobody becomes another user");
        }
        assert_eq!(mount.xattr("capable", CAPABILITY), Err(Errno::NODATA));
        as_user(1000, 1000, || changes_of_the_owner(&mount));
        as_user(1234, 1234, || {
            assert_eq!(mount.append("roots", "x"), Err(Errno::ACCESS), "what the mode refuses is refused");
            assert_eq!(mount.create("d/other", 0o600).map(drop), Err(Errno::ACCESS));
            assert_eq!(mount.chmod("suid", 0o777), Err(Errno::PERM));
        });
        // To whom everything belongs it may be given, and to nobody else.
        assert_eq!(chown(&mount, "suid", Some(1000), Some(1000)), Ok(()));
        assert_eq!(chown(&mount, "suid", Some(0), None), Err(Errno::PERM));
        assert_eq!(chown(&mount, "suid", None, Some(5)), Err(Errno::PERM));
        for _ in 0..2 {
            for path in ["suid", "mine", "roots", "capable", "d", "d/new", "d/moved", "closed", "d/renamed", "touched"]
            {
                let upper = stack.upper();
                assert_eq!((ids(upper, path), upper.mode(path) & 0o6000), ((0, 0), 0), "{path} on the disk");
                assert_eq!(upper.xattr(path, CAPABILITY), Err(Errno::NODATA), "{path}");
                assert_eq!(ids(&mount, path), (1000, 1000), "{path}");
            }
            mount.remount();
        }
        assert_eq!(mount.text("d/moved"), "datax");
    });
}

/// Root mounts: what is new is his on the disk, in directories that hand on their group, too.
#[test]
fn what_is_new_belongs_to_the_daemon() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        // In the directory of group 7, and in one that was copied up.
        for (option, in_group, elsewhere) in [
            ("squash_to_root", (0, 0), (0, 0)),
            ("squash_to_uid=1000,squash_to_gid=1000", (0, 0), (0, 0)),
            ("squash_to_gid=0", (1000, 0), (1000, 0)),
            ("squash_to_uid=1000", (0, 7), (0, 1000)),
            ("squash_to_root,xattr_permissions=2", (0, 0), (0, 0)),
            ("squash_to_gid=1000,xattr_permissions=1", (1000, 0), (1000, 0)),
        ] {
            let stack = Stack::new(1).option(option);
            stack.lowers[0].dir("d", 0o777).file("group/was", "x").file("group/wasdir/x", "x");
            stack.upper().dir("group", 0o777).chown("group", 7, 7).unwrap();
            stack.upper().perm("group", 0o2777);
            let mut mount = stack.mount();
            for path in ["group/was", "group/wasdir/x"] {
                mount.unlink(path).unwrap();
            }
            mount.rmdir("group/wasdir").unwrap();
            let new = ["file", "dir", "link", "fifo", "null", "was", "wasdir"];
            as_user(1000, 1000, || {
                for dir in ["group", "d"] {
                    for path in ["file", "was"] {
                        mount.create(format!("{dir}/{path}"), 0o600).map(drop).unwrap();
                    }
                    mount.mkdir(format!("{dir}/dir"), 0o700).unwrap();
                    mount.mkdir(format!("{dir}/wasdir"), 0o700).unwrap();
                    mount.symlink("to", format!("{dir}/link")).unwrap();
                    mount.mknod(format!("{dir}/fifo"), FileType::Fifo, 0o600, 0).unwrap();
                }
            });
            for dir in ["group", "d"] {
                mount.mknod(format!("{dir}/null"), FileType::CharacterDevice, 0o600, 0).unwrap();
            }
            let all = |told: &dyn Fn(&str) -> String| -> Vec<String> {
                ["group", "d"].iter().flat_map(|dir| new.map(|name| told(&format!("{dir}/{name}")))).collect()
            };
            let seen =
                all(&|path| format!("{path} {:?}", mount.stat(path).map(|st| (st.st_mode, st.st_uid, st.st_gid))));
            for (dir, owner) in [("group", in_group), ("d", elsewhere)] {
                for name in new.iter().filter(|name| **name != "null") {
                    let path = format!("{dir}/{name}");
                    assert_eq!(owner_of(stack.upper(), &path), owner, "{path} with {option}");
                }
                let inherits = mount.mode(format!("{dir}/dir")) & 0o2000 != 0;
                assert_eq!(inherits, dir == "group", "set-group-id is handed on to {dir}/dir with {option}");
            }
            mount.remount();
            let again =
                all(&|path| format!("{path} {:?}", mount.stat(path).map(|st| (st.st_mode, st.st_uid, st.st_gid))));
            assert_eq!(seen, again, "{option}");
        }
    });
}

/// Owner and group that an object of the upper layer has, by its mark if there is one.
fn owner_of(upper: &Tree, path: &str) -> (u32, u32) {
    let marks = ["user.containers.override_stat", "security.fuseoverlayfs.override_stat"];
    let Some(mark) = marks.iter().find_map(|key| upper.xattr(path, key).ok()) else { return ids(upper, path) };
    let mark = String::from_utf8(mark).unwrap();
    let mut fields = mark.split(':').map(|field| field.parse().unwrap_or(u32::MAX));
    (fields.next().unwrap(), fields.next().unwrap())
}

fn changes_of_the_owner(mount: &Mount) {
    for path in ["f", "suid", "mine", "roots", "d/f", "capable"] {
        mount.append(path, "x").unwrap_or_else(|e| panic!("{path}: {e:?}"));
    }
    // Changes that end no privilege by themselves.
    mount.rename("renamed", "d/renamed").unwrap();
    mount.utimes("touched", tree::OLD).unwrap();
    drop(mount.create("d/new", 0o600).unwrap());
    mount.rename("d/f", "d/moved").unwrap();
    mount.chmod("suid", 0o711).unwrap();
    mount.append("closed", "x").unwrap_err();
    mount.chmod("closed", 0o600).unwrap();
    mount.append("closed", "x").unwrap();
    for bits in [0o4755, 0o2755] {
        assert_eq!(mount.chmod("suid", bits), Err(Errno::PERM), "{bits:o} would make it root's");
        assert_eq!(mount.create(format!("d/new{bits}"), bits).map(drop), Err(Errno::PERM), "{bits:o}");
    }
}

/// Where everything is shown as the daemon's, as in a container of one id, set-user-id stays what it is.
#[test]
fn set_ids_stay_where_layer_view_and_daemon_have_one_owner() {
    bounded(|| {
        let (uid, gid) = own_ids();
        let stack = Stack::new(1).option(&format!("squash_to_uid={uid},squash_to_gid={gid}"));
        stack.lowers[0].file("suid", "data").perm("suid", 0o6755);
        let mut mount = stack.mount();
        assert_eq!(mount.mode("suid"), 0o6755);
        mount.rename("suid", "moved").unwrap();
        mount.write("new", "").unwrap();
        mount.chmod("new", 0o4711).unwrap();
        assert_eq!(chown(&mount, "new", Some(uid), Some(gid)), Ok(()));
        mount.chmod("new", 0o4711).unwrap();
        for _ in 0..2 {
            assert_eq!((mount.mode("moved"), mount.mode("new")), (0o6755, 0o4711));
            assert_eq!(ids(stack.upper(), "moved"), (uid, gid));
            mount.remount();
        }
    });
}

#[test]
fn everything_is_roots_where_root_says_so() {
    bounded(|| {
        if who() == Who::User {
            return; // He would be locked out.
        }
        let stack = Stack::new(1).option("squash_to_root");
        stack.lowers[0].file("f", "x");
        if who() == Who::Root {
            stack.lowers[0].chown("f", 5, 6).unwrap();
        }
        let mount = stack.mount();
        mount.write("new", "x").unwrap();
        mount.append("f", "x").unwrap();
        for path in ["", "f", "new"] {
            assert_eq!(ids(&mount, path), (0, 0), "{path}");
        }
        assert_eq!(chown(&mount, "f", Some(5), None).map_err(|e| e == Errno::PERM || e == Errno::INVAL), Err(true));
    });
}

/// What another user owns, and what this one may not even read (fuse-overlayfs#232, #428).
#[test]
fn a_normal_user_makes_his_own_copies() {
    bounded(|| {
        if who() != Who::User {
            return;
        }
        // Files of root's that are everywhere.
        let (uid, gid) = own_ids();
        for (squash, done) in [(true, Ok(())), (false, Err(Errno::PERM))] {
            let stack = Stack::new(0);
            let mut options = format!(
                "lowerdir=/etc,upperdir={},workdir={}",
                stack.upper().root().display(),
                stack.scratch.dir("work").display()
            );
            if squash {
                options += &format!(",squash_to_uid={uid},squash_to_gid={gid}");
            }
            let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
            let before = mount.read("passwd").unwrap();
            let appended = mount.append("passwd", "mine\n");
            if squash {
                assert_eq!(appended, done);
                assert_eq!(mount.read("passwd").unwrap(), [&before[..], b"mine\n"].concat());
                assert_eq!((ids(&mount, "passwd"), ids(stack.upper(), "passwd")), ((uid, gid), (uid, gid)));
                mount.chmod("group", 0o600).unwrap();
                mount.rename("hostname", "renamed").unwrap();
                mount.write("apt/new", "x").unwrap();
                // What he may not read he can neither have nor change.
                assert_eq!(mount.read("shadow"), Err(Errno::ACCESS));
                assert_eq!(mount.chmod("shadow", 0o644), Err(Errno::ACCESS));
                assert_eq!(mount.append("shadow", "x"), Err(Errno::ACCESS));
            } else {
                assert_eq!((appended, mount.chmod("group", 0o600)), (Err(Errno::ACCESS), Err(Errno::PERM)));
            }
        }
    });
}
