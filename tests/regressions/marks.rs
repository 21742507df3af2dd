//! Files whose data is below, names that share an inode, and marks that lead elsewhere: what a first version got wrong.

use rustix::fs::{self as sys, OFlags};

use crate::common::tree::{pwrite_all, read_all};
use crate::common::*;

/// The key of a mark that this process can write.
fn mark(name: &str) -> String {
    format!("{}{name}", stack::prefix())
}

#[test]
fn fsync_of_a_file_whose_data_is_below_leaves_its_content() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "data");
        let mut mount = stack.mount();
        mount.chmod("f", 0o600).unwrap();
        let fd = mount.open("f", OFlags::RDWR).unwrap();
        sys::fsync(&fd).unwrap();
        assert_eq!(read_all(&fd).unwrap(), b"data");
        let mut map = SharedMap::new(&fd, 4, true);
        map.put(0, b"D");
        map.sync().unwrap();
        drop((map, fd));
        assert_eq!(mount.text("f"), "Data");
        mount.remount();
        assert_eq!(mount.text("f"), "Data");
    });
}

#[test]
fn a_file_whose_data_is_below_is_emptied_and_cut() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("empty", "data").file("short", "data").file("long", "data");
        let mut mount = stack.mount();
        for (name, size) in [("empty", 0), ("short", 2), ("long", 6)] {
            mount.chmod(name, 0o600).unwrap();
            mount.truncate(name, size).unwrap();
        }
        for _ in 0..2 {
            let texts = ["empty", "short", "long"].map(|name| mount.text(name));
            assert_eq!(texts, ["", "da", "data\0\0"]);
            mount.remount();
        }
    });
}

/// Without the index the names part over the remount, and each keeps its content.
#[test]
fn names_of_one_file_that_are_renamed_in_two_directories_lead_to_its_data() {
    bounded(|| {
        for index in ["index=on", "index=off"] {
            let stack = Stack::new(1).option(index);
            stack.lowers[0].file("d1/a", "data").file("d2/a", "another").hard_link("d1/a", "d2/b");
            let mut mount = stack.mount();
            mount.rename("d1/a", "d1/z").unwrap();
            mount.rename("d2/b", "d2/y").unwrap();
            for _ in 0..2 {
                assert_eq!([mount.text("d1/z"), mount.text("d2/y")], ["data", "data"], "{index}");
                mount.remount();
            }
        }
    });
}

/// A store into a mapping is written back with no lock on the name, which may be another file's by then.
#[test]
fn data_that_follows_late_leaves_the_file_alone_that_took_the_name() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "F".repeat(64 << 20)).file("g", "data of g");
        let mut mount = stack.mount();
        mount.chmod("f", 0o600).unwrap();
        mount.chmod("g", 0o600).unwrap();
        let fd = mount.open("f", OFlags::RDWR).unwrap();
        let mut map = SharedMap::new(&fd, 4096, true);
        map.put(0, b"late");
        std::thread::scope(|scope| {
            scope.spawn(sys::sync);
            std::thread::sleep(std::time::Duration::from_millis(20));
            mount.rename("g", "f").unwrap();
        });
        drop((map, fd));
        assert_eq!(mount.text("f"), "data of g");
        mount.remount();
        assert_eq!(mount.text("f"), "data of g");
    });
}

/// The digest of a lower metacopy file is that of the same data after a chmod, too.
#[test]
fn a_digest_outlives_a_change_of_metadata() {
    bounded(|| {
        let stack = Stack::new(2);
        let (lower, data) = (&stack.lowers[0], &stack.lowers[1]);
        data.file("object", "content");
        let digest =
            std::process::Command::new("fsverity").args(["digest", "--compact"]).arg(data.at("object")).output();
        let Some(digest) = digest.ok().filter(|out| out.status.success()) else {
            skip!("no fsverity (Debian: fsverity)")
        };
        let hex = String::from_utf8(digest.stdout).unwrap();
        let bytes = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap());
        let value: Vec<u8> = [0, 36, 0, 1].into_iter().chain(bytes).collect();
        lower.file("f", "").truncate("f", 7).unwrap();
        lower.with_xattr("f", &mark("metacopy"), &value).with_xattr("f", &mark("redirect"), b"/object");
        let layers = format!(
            "lowerdir={}::{},upperdir={},workdir={},verity=on",
            lower.root().display(),
            data.root().display(),
            stack.upper().root().display(),
            stack.scratch.dir("work").display()
        );
        let mut mount = Mount::with(&layers, &stack.merged, &stack.scratch.path().join("log"));
        assert_eq!(mount.text("f"), "content");
        mount.chmod("f", 0o600).unwrap();
        assert_eq!(stack.upper().xattr("f", mark("metacopy").as_str()).unwrap(), value);
        mount.unmount();
        data.file("object", "changed");
        let mount = Mount::with(&layers, &stack.merged, &stack.scratch.path().join("log"));
        assert_eq!(mount.read("f"), Err(Errno::IO));
    });
}

/// Whoever may write `user.*` in a layer could else show root's files through root's mount.
#[test]
fn marks_of_users_lead_nowhere_for_root_whatever_the_upper_layer_takes() {
    bounded(|| {
        if who() != Who::Root {
            skip!("only root's marks are trusted.*");
        }
        let mut stack = Stack::new(2);
        let at = stack.scratch.dir("plain");
        let flags = rustix::mount::MountFlags::empty();
        let Ok(()) = rustix::mount::mount("ramfs", &at, "ramfs", flags, c"mode=755") else {
            skip!("ramfs, which takes no attributes, may not be mounted here");
        };
        let _plain = scratch::Mounted::adopt(&at);
        stack.upper = Some(stack::Layer::new(stack.scratch.dir("plain/upper")));
        stack.lowers[1].file("secret", "secret").perm("secret", 0o600);
        let fake = stack.lowers[0].file("f", "");
        fake.truncate("f", 6).unwrap();
        fake.with_xattr("f", "user.overlay.metacopy", b"").with_xattr("f", "user.overlay.redirect", b"/secret");
        let options = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            fake.root().display(),
            stack.lowers[1].root().display(),
            stack.upper().root().display(),
            stack.scratch.dir("plain/work").display()
        );
        let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        assert_eq!(mount.read("f"), Err(Errno::PERM));
    });
}

/// As in the kernel: data-only layers may be led to, others not.
#[test]
fn a_path_to_data_leads_into_data_only_layers_alone_where_redirects_are_not_followed() {
    bounded(|| {
        let stack = Stack::new(3);
        let [lower, below, data] = [0, 1, 2].map(|i| &stack.lowers[i]);
        below.file("object", "below");
        for (name, path) in [("f", b"/object"), ("g", b"/thing1")] {
            lower.file(name, "").truncate(name, 5).unwrap();
            lower.with_xattr(name, &mark("metacopy"), b"").with_xattr(name, &mark("redirect"), path);
        }
        data.file("thing1", "thing");
        let options = format!(
            "lowerdir={}:{}::{},redirect_dir=nofollow",
            lower.root().display(),
            below.root().display(),
            data.root().display()
        );
        let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        assert_eq!(mount.text("g"), "thing");
        assert_eq!(mount.read("f"), Err(Errno::IO));
    });
}

/// The mark of append-only is the union's own: data can still be copied into the upper file.
#[test]
fn what_was_made_append_only_before_its_data_was_copied_takes_more() {
    bounded(|| {
        if who() != Who::Root {
            skip!("flags are for root");
        }
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "old");
        let mut mount = stack.mount();
        let chattr = |flag: &str| std::process::Command::new("chattr").arg(flag).arg(mount.at("f")).output();
        if !chattr("+a").is_ok_and(|out| out.status.success()) {
            skip!("no flags on this file system");
        }
        mount.append("f", " and more").unwrap();
        assert_eq!(pwrite_all(&mount.open("f", OFlags::WRONLY | OFlags::APPEND).unwrap(), b"!", 0), Ok(()));
        assert_eq!(mount.truncate("f", 0), Err(Errno::PERM));
        mount.remount();
        assert_eq!(mount.text("f"), "old and more!");
        assert_eq!(mount.unlink("f"), Err(Errno::PERM));
    });
}
