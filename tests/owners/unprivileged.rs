//! Maps in mounts by a normal user, and by that user's root in a user namespace of one id.

use crate::common::{idmapped, *};
use crate::ids;

/// The daemon can give files to nobody but itself: what the map would give to others is refused.
#[test]
fn without_privilege_a_map_gives_nothing_to_others() {
    bounded(|| {
        if who() == Who::Root {
            return;
        }
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let (uid, gid) = own;
        let stack = Stack::new(1).option(&format!("uidmapping={uid}:{uid}:1,gidmapping={gid}:{gid}:1"));
        stack.lowers[0].file("f", "x").dir("d", 0o755);
        let mount = stack.mount();
        mount.write("d/new", "x").unwrap();
        mount.append("f", "x").unwrap();
        assert_eq!((ids(&mount, "f"), ids(&mount, "d/new"), ids(stack.upper(), "f")), (own, own, own));
        drop(mount);

        // What is his in the layers is shown as another's, and he himself is another one there, whom he cannot become.
        let other = own.0 + 1;
        let stack = Stack::new(1).option(&format!("uidmapping={uid}:{other}:1:{other}:{uid}:1"));
        stack.lowers[0].file("f", "x").perm("f", 0o666).dir("d", 0o777);
        stack.lowers[0].perm("", 0o777);
        let mount = stack.mount();
        if who() == Who::User {
            assert_eq!(ids(&mount, "f"), (other, gid));
            assert_eq!(mount.chmod("f", 0o600), Err(Errno::PERM));
            assert_eq!(mount.append("f", "x"), Ok(()), "everybody may");
            assert_eq!(mount.write("d/new", "x"), Err(Errno::PERM));
        } else {
            // The namespace has no such id: the kernel takes it for none.
            assert_eq!(ids(&mount, "f"), (65_534, gid));
            assert_eq!(mount.chmod("f", 0o600), Err(Errno::OVERFLOW));
            assert_eq!(mount.write("d/new", "x"), Err(Errno::ACCESS));
        }
        assert_eq!(ids(stack.upper(), "").0, uid);
        drop(mount);

        // A group that the daemon is not in.
        let stack = Stack::new(1).option(&format!("gidmapping={}:{gid}:1", gid + 1));
        let mount = stack.mount();
        let done = mount.write("new", "x");
        assert!(matches!(done, Err(Errno::PERM | Errno::OVERFLOW | Errno::ACCESS)), "{done:?}");
        assert!(!stack.upper().has("new"));
    });
}

/// A user namespace with 65,536 ids, as rootless podman has, in which a container has a map of its own.
#[test]
fn keep_id_in_a_namespace_of_many_ids() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        // Layers as `podman pull` leaves them: ids of the namespace. User 1000 of the container is the namespace's root.
        let map = "uidmapping=:0:1:1000:1000:0:1:1001:1001:64535,gidmapping=:0:1:1000:1000:0:1:1001:1001:64535";
        let stack = Stack::new(1);
        let lower = &stack.lowers[0];
        lower.file("roots", "x").perm("roots", 0o644).file("home/own", "x");
        for layer in [lower, stack.upper()] {
            layer.chown("", 100_000, 100_000).unwrap();
        }
        lower.chown("roots", 100_000, 100_000).unwrap();
        lower.chown("home", 101_000, 101_000).unwrap();
        lower.chown("home/own", 101_000, 101_000).unwrap();
        let work = stack.scratch.dir("work");
        for at in [&work, &stack.merged] {
            rustix::fs::chown(at, Some(rustix::fs::Uid::from_raw(100_000)), None).unwrap();
        }
        let script = r#"
            set -e
            mount --make-rprivate /
            "$PLYFS" -o "$OPTIONS" "$AT"
            cd "$AT"
            [ "$(stat -c %u:%g roots home home/own | tr '\n' ' ')" = "1:1 0:0 0:0 " ]
            # The container's user 1000 is this namespace's root.
            echo y >> home/own
            touch home/new
            # Its root is id 1 here.
            setpriv --reuid=1 --regid=1 --clear-groups sh -c 'echo y >> roots && touch new && mkdir dir'
            setpriv --reuid=1001 --regid=1001 --clear-groups sh -c '! touch home/no 2>&-'
            chown 5:6 home/new
            [ "$(stat -c %u:%g home/new new)" = "5:6
1:1" ]
            cd /
            umount "$AT"
        "#;
        if !ran_in_a_namespace(&stack, map, script) {
            return;
        }
        for (path, disk) in
            [("roots", 100_000), ("new", 100_000), ("dir", 100_000), ("home", 101_000), ("home/own", 101_000)]
        {
            assert_eq!(ids(stack.upper(), path), (disk, disk), "{path}");
        }
        assert_eq!(ids(stack.upper(), "home/new"), (100_005 - 1, 100_006 - 1), "5 is shown for 4, 6 for 5");
    });
}

/// Rootless podman with `--userns=auto`: its root, who runs the daemon and is no part of the container, makes files for it.
#[test]
fn the_daemons_own_user_makes_files_in_a_namespace() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = Stack::new(1);
        stack.lowers[0].dir("open", 0o777);
        let work = stack.scratch.dir("work");
        for at in [stack.lowers[0].root(), stack.upper().root(), &work, &stack.merged] {
            let (uid, gid) = (rustix::fs::Uid::from_raw(100_000), rustix::fs::Gid::from_raw(100_000));
            rustix::fs::chown(at, Some(uid), Some(gid)).unwrap();
        }
        stack.lowers[0].chown("open", 100_000, 100_000).unwrap();
        let script = r#"
            set -e
            mount --make-rprivate /
            "$PLYFS" -o "$OPTIONS" "$AT"
            cd "$AT"
            ln -s /proc/mounts mtab
            mkdir open/dir
            echo x > open/file
            chown -h 1:1 mtab
            [ "$(stat -c %u:%g mtab open/dir open/file | tr '\n' ' ')" = "1:1 1:1 1:1 " ]
            # Others whom the map does not have make nothing.
            setpriv --reuid=5000 --regid=5000 --clear-groups sh -c '! touch open/no 2>&-'
            cd /
            umount "$AT"
        "#;
        let map = "uidmapping=:0:1:1000,gidmapping=:0:1:1000";
        if !ran_in_a_namespace(&stack, map, script) {
            return;
        }
        assert_eq!(stack.upper().stat("open/file").unwrap().st_uid, 100_000);
    });
}

/// Runs a script in a user namespace of 65,537 ids from 100,000 on, with what it mounts a view by: false where there can
/// be no such namespace.
fn ran_in_a_namespace(stack: &Stack, map: &str, script: &str) -> bool {
    let Ok(namespace) = idmapped::Namespace::new(&[(0, 100_000, 65_537)], &[(0, 100_000, 65_537)]) else {
        say_skipped("no user namespace");
        return false;
    };
    let out = std::process::Command::new("nsenter")
        .args([&format!("--target={}", namespace.pid()), "--user", "--setuid=0", "--setgid=0", "--"])
        .args(["unshare", "-m", "sh", "-c", script])
        .env("PLYFS", mount::binary())
        .env("OPTIONS", format!("{},{map}", stack.layer_options("work")))
        .env("AT", &stack.merged)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    true
}
