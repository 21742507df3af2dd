//! What a mount must not open to those who could not open it before.

use std::process::Command;

use rustix::fs::OFlags;

use crate::common::*;
use crate::{Ran, not_here};

/// The words of the kernel for a mount.
fn words_of(at: &std::path::Path) -> Vec<String> {
    let table = crate::common::mount::mount_table();
    let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str()).unwrap();
    line.split([' ', ',']).map(str::to_owned).collect()
}

/// Whatever the options say.
pub fn the_kernel_checks_permissions_in_every_mount() -> Ran {
    let ways = ["rw", "ro", "noacl", "userxattr", "io=writeback", "default_permissions", "metacopy=off"];
    for options in ways.into_iter().filter(|options| is_offered(options)) {
        let stack = Stack::new(1).option(options);
        stack.lowers[0].file("f", "x");
        if options == "userxattr" && !mount::is_plyfs() {
            continue;
        }
        let mount = stack.mount();
        let words = words_of(&stack.merged);
        assert!(words.iter().any(|word| word == "default_permissions"), "{options}: {words:?}");
        let others = words.iter().any(|word| word == "allow_other");
        assert_eq!(others, who() != Who::User, "{options}: normal users let nobody else in: {words:?}");
        drop(mount);
    }
    Ok(())
}

/// A hollow file with a mode of its own that leads to one that the mounter cannot read.
pub fn data_that_the_mounter_cannot_read_is_not_shown() -> Ran {
    if who() == Who::Root {
        return not_here("root reads everything");
    }
    if std::fs::read("/etc/shadow").is_ok() || !mount::is_plyfs() {
        return not_here("a closed /etc/shadow and marks in user.* are needed");
    }
    let stack = Stack::new(1);
    let upper = stack.upper().file("shown", "").perm("shown", 0o644);
    upper.with_xattr("shown", "user.overlay.metacopy", b"").with_xattr("shown", "user.overlay.redirect", b"/shadow");
    upper.truncate("shown", 4096).unwrap();
    let options =
        format!("lowerdir=/etc,upperdir={},workdir={}", upper.root().display(), stack.scratch.dir("work").display());
    let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
    assert_eq!(mount.read("shown"), Err(Errno::ACCESS));
    assert_eq!(mount.append("shown", "x"), Err(Errno::ACCESS));
    assert_eq!(mount.read("shadow"), Err(Errno::ACCESS));
    assert_eq!(mount.write("alive", "x"), Ok(()));
    Ok(())
}

/// What another user can find out with and without a mount of root's in between; each answer as from the layer itself.
fn spy(tree: &Tree) -> Vec<String> {
    let mut seen = Vec::new();
    let mut see = |what: &str, path: &str, answer: String| seen.push(format!("{what} {path}: {answer}"));
    for path in ["open", "closed", "acl", "mine", "dir/f", "search/f", "none/f", "link", "sticky/roots", "ours"] {
        see("read", path, tree.text(path));
        see("stat", path, format!("{:?}", tree.stat(path).map(|st| (st.st_mode, st.st_uid, st.st_size))));
        see("xattr", path, format!("{:?}", tree.xattr(path, "user.secret")));
        see("names", path, format!("{:?}", tree.xattrs(path)));
        see("acl", path, format!("{:?}", tree.xattr(path, "system.posix_acl_access").map(|value| value.len())));
        see("target", path, format!("{:?}", tree.readlink(path)));
        for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::WRONLY | OFlags::APPEND, OFlags::RDWR | OFlags::TRUNC] {
            see("open", path, format!("{:?}", tree.open(path, flags).map(drop)));
        }
    }
    for dir in [".", "dir", "search", "none", "sticky"] {
        see("list", dir, format!("{:?}", tree.names(dir)));
        see("make in", dir, format!("{:?}", tree.mkdir(format!("{dir}/new"), 0o755)));
        see("link into", dir, format!("{:?}", tree.link("open", format!("{dir}/hard"))));
    }
    for path in ["open", "mine", "ours", "sticky/roots", "none/f"] {
        see("chmod", path, format!("{:?}", tree.chmod(path, 0o666)));
        see("chown", path, format!("{:?}", tree.chown(path, USER, 0)));
        see("utimes", path, format!("{:?}", tree.utimes(path, tree::OLD)));
        see("rename", path, format!("{:?}", tree.rename(path, format!("{path}-moved"))));
        see("unlink", path, format!("{:?}", tree.unlink(path)));
    }
    seen
}

const USER: u32 = 1234;

fn secrets(layer: &stack::Layer) {
    layer.file("open", "open").file("closed", "closed").file("acl", "acl").file("mine", "mine").file("ours", "ours");
    layer
        .file("dir/f", "f")
        .file("search/f", "f")
        .file("none/f", "f")
        .file("sticky/roots", "x")
        .soft_link("closed", "link");
    for (path, mode) in [("open", 0o644), ("closed", 0o600), ("acl", 0o640), ("mine", 0o400), ("ours", 0o060)] {
        layer.with_xattr(path, "user.secret", b"value").perm(path, mode);
    }
    for (path, mode) in [("dir", 0o750), ("search", 0o711), ("none", 0o700), ("sticky", 0o1777), ("", 0o755)] {
        layer.perm(path, mode);
    }
    layer.chown("mine", USER, USER).unwrap();
    layer.chown("ours", 0, USER).unwrap();
    // user::rw-, user:1234:r--, group::---, mask::r--, other::---
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, USER), (4, 0, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes().iter().chain(&perm.to_le_bytes()).chain(&id.to_le_bytes()));
    }
    let _ = layer.set_xattr("acl", "system.posix_acl_access", &acl);
}

/// As a normal user, and as one in the group: nothing is to be had through the mount that was not to be had before.
pub fn nothing_is_readable_that_the_caller_could_not_read() -> Ran {
    if who() != Who::Root {
        return not_here("two users are needed");
    }
    for (uid, gid) in [(USER, USER), (777, USER), (777, 777)] {
        for lower in [true, false] {
            let stack = Stack::new(1);
            let native = stack::Layer::new(stack.scratch.dir("native"));
            secrets(&native);
            secrets(if lower { &stack.lowers[0] } else { stack.upper() });
            let mount = stack.mount();
            stack.upper().perm("", 0o755);
            let (ours, theirs) = as_user(uid, gid, || (spy(&mount), spy(&native)));
            let wrong: Vec<_> = ours.iter().zip(&theirs).filter(|(a, b)| a != b).collect();
            assert!(wrong.is_empty() && ours.len() == theirs.len(), "uid {uid} gid {gid}: {wrong:#?}");
        }
    }
    Ok(())
}

/// A helper that is set-user-id gets the directory that was opened, whatever its path leads to by then.
pub fn fusermount_is_not_led_astray() -> Ran {
    if who() != Who::User {
        return not_here("only a normal user needs it");
    }
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "x");
    let (victim, moved, bin) =
        (stack.scratch.dir("victim"), stack.scratch.path().join("moved"), stack.scratch.dir("bin"));
    std::fs::write(victim.join("own"), "x").unwrap();
    // In place of fusermount3: between the daemon's look and the mount the mountpoint becomes a symlink.
    let script = format!(
        "#!/bin/sh\nif [ ! -e '{moved}' ]; then mv '{at}' '{moved}'; ln -s '{victim}' '{at}'; fi\necho \"$@\" >> '{log}'\n\
         PATH=\"${{PATH#*:}}\"; exec fusermount3 \"$@\"\n",
        moved = moved.display(),
        at = stack.merged.display(),
        victim = victim.display(),
        log = stack.scratch.path().join("arguments").display(),
    );
    std::fs::write(bin.join("fusermount3"), script).unwrap();
    std::fs::set_permissions(bin.join("fusermount3"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(mount::binary());
    command.env("PATH", path).args(["-f", "-o", &stack.layer_options("work")]).arg(&stack.merged);
    let mut child = command.spawn().unwrap();
    let there = mount::wait_until(|| mount::is_mounted(&moved) || child.try_wait().unwrap().is_some());
    let (right, wrong) = (mount::is_mounted(&moved), mount::is_mounted(&victim));
    let shown = Tree::new(&moved).text("f");
    [&moved, &victim].iter().for_each(|at| _ = mount::is_mounted(at).then(|| mount::unmount_any(at, true)));
    let _ = child.kill();
    let _ = child.wait();
    assert!(!wrong, "mounted on what the symlink leads to");
    assert!(there && right && shown == "x", "the opened directory itself is mounted on: {shown}");
    assert_eq!(Tree::new(&victim).names("").unwrap(), ["own"]);
    let arguments = std::fs::read_to_string(stack.scratch.path().join("arguments")).unwrap();
    assert!(arguments.lines().next().unwrap().ends_with("-- ."), "{arguments}");
    Ok(())
}
