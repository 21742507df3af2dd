//! Lower layers on a nosuid mount (CVE-2023-0386, CVE-2021-3847), and owners that a daemon cannot set.

use std::path::Path;
use std::process::Command;

use rustix::mount::{MountFlags, mount};

use crate::attributes::capability;
use crate::common::scratch::Mounted;
use crate::common::stack::{Layer, prefix};
use crate::common::*;
use crate::{Ran, not_here};

const CAPABILITY: &str = "security.capability";

/// Puts a tmpfs with these flags below a layer.
fn on_tmpfs(layer: &Layer, flags: MountFlags) -> Option<Mounted> {
    mount("tmpfs", layer.root(), "tmpfs", flags, c"mode=755").ok()?;
    Some(Mounted::adopt(layer.root()))
}

/// Files with everything that a nosuid mount takes away, one for each way of copying up; `id` tells whose program it is.
const WAYS: [&str; 9] = ["append", "chmod", "chown", "utimes", "rename", "link", "xattr", "truncate", "linked1"];

fn fill(layer: &Layer) {
    for way in WAYS {
        layer.file(way, "x".repeat(10_000));
        layer.chown(way, 0, 0).unwrap();
        layer.perm(way, 0o6755).set_xattr(way, CAPABILITY, &capability()).unwrap();
    }
    layer.hard_link("linked1", "linked2").dir("sgid", 0o2775);
    std::fs::copy("/usr/bin/id", layer.at("id")).unwrap();
    layer.perm("id", 0o4755);
}

/// Copies everything up, each in its way; the names that then stand for it.
fn copy_up(tree: &Tree) -> Vec<String> {
    tree.append("append", "y").unwrap();
    tree.chmod("chmod", 0o751).unwrap();
    tree.chown("chown", 0, 5).unwrap();
    tree.utimes("utimes", tree::OLD).unwrap();
    tree.rename("rename", "renamed").unwrap();
    tree.link("link", "link2").unwrap();
    tree.set_xattr("xattr", "user.a", b"1").unwrap();
    tree.truncate("truncate", 10).unwrap();
    tree.append("linked1", "y").unwrap();
    tree.utimes("id", tree::OLD).unwrap();
    tree.rename("id", "id2").unwrap();
    tree.rename("id2", "id").unwrap();
    WAYS.iter()
        .map(|way| if *way == "rename" { "renamed".into() } else { (*way).to_owned() })
        .chain(["link2".into(), "linked2".into()])
        .collect()
}

/// As which user a program runs that another one starts.
fn runs_as(program: &Path) -> String {
    let out = Command::new("setpriv")
        .args(["--reuid=1234", "--regid=1234", "--clear-groups"])
        .arg(program)
        .arg("-u")
        .output();
    String::from_utf8_lossy(&out.unwrap().stdout).trim().to_owned()
}

fn assert_plain(tree: &Tree, path: &str) {
    assert_eq!(tree.mode(path) & 0o6000, 0, "{path}");
    assert_eq!(tree.xattr(path, CAPABILITY), Err(Errno::NODATA), "{path}");
    assert!(!tree.xattrs(path).unwrap().contains(&CAPABILITY.as_bytes().to_vec()), "{path}");
}

/// The kernel, fo1 and fo2 show them and copy them.
pub fn a_nosuid_lower_layer_gives_no_privilege() -> Ran {
    if who() != Who::Root {
        return not_here("only root mounts a view in which they would count");
    }
    let stack = Stack::new(1);
    let lower = on_tmpfs(&stack.lowers[0], MountFlags::NOSUID);
    fill(&stack.lowers[0]);
    let mut mount = stack.mount();
    WAYS.iter().for_each(|way| assert_plain(&mount, way));
    assert_eq!(runs_as(&mount.at("id")), "1234");
    assert_eq!(mount.mode("sgid"), 0o2775, "of a directory it is no privilege");
    let names = copy_up(&mount);
    for _ in 0..2 {
        names.iter().for_each(|name| assert_plain(&mount, name));
        assert_eq!(runs_as(&mount.at("id")), "1234");
        mount.remount();
    }
    for name in names.iter().filter(|name| stack.upper().has(name)) {
        assert_plain(stack.upper(), name);
    }
    // Who may, gives it what it then has.
    for (name, mode) in [("chown", 0o4755), ("id", 0o4755)] {
        mount.chmod(name, mode).unwrap();
        assert_eq!(mount.mode(name), mode, "{name}");
    }
    mount.set_xattr("utimes", CAPABILITY, &capability()).unwrap();
    for _ in 0..2 {
        assert_eq!((mount.mode("chown"), mount.mode("id"), runs_as(&mount.at("id"))), (0o4755, 0o4755, "0".into()));
        assert_eq!(mount.xattr("utimes", CAPABILITY), Ok(capability()));
        mount.remount();
    }
    drop(mount);
    drop(lower);
    Ok(())
}

/// A file without data in a layer that may give privileges, its data in one that may not: who controls the data controls
/// what would run.
pub fn data_of_a_nosuid_layer_gets_no_privilege() -> Ran {
    if who() != Who::Root || !mount::is_plyfs() {
        return not_here("root and metacopy are needed");
    }
    for below in [":", "::"] {
        let stack = Stack::new(2);
        let nosuid = on_tmpfs(&stack.lowers[1], MountFlags::NOSUID);
        let hollow = |layer: &Layer, name: &str| {
            let size = std::fs::copy("/usr/bin/id", stack.lowers[1].at(name)).unwrap();
            layer.file(name, "").with_xattr(name, &format!("{}metacopy", prefix()), b"");
            layer.with_xattr(name, &format!("{}redirect", prefix()), format!("/{name}").as_bytes());
            layer.truncate(name, size).unwrap();
            layer.perm(name, 0o6755).set_xattr(name, CAPABILITY, &capability()).unwrap();
        };
        hollow(stack.upper(), "up");
        hollow(&stack.lowers[0], "low");
        hollow(&stack.lowers[0], "low-written");
        let [top, bottom] = [0, 1].map(|i| stack.lowers[i].root().display());
        let (upper, work) = (stack.upper().root().display(), stack.scratch.dir("work"));
        let options = format!("lowerdir={top}{below}{bottom},upperdir={upper},workdir={}", work.display());
        let mut mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        let names = ["up", "low", "low-written"];
        for name in names {
            assert_plain(&mount, name);
            assert_eq!(runs_as(&mount.at(name)), "1234", "{name} ({below})");
            mount.utimes(name, tree::OLD).unwrap();
            assert_plain(&mount, name);
        }
        // The data follows: it is what it was when it could have no privilege.
        ["up", "low-written"]
            .iter()
            .for_each(|name| mount.append(name, "").and_then(|()| mount.append(name, "\n")).unwrap());
        for _ in 0..2 {
            names.iter().for_each(|name| assert_plain(&mount, name));
            mount.remount();
        }
        ["up", "low-written"].iter().for_each(|name| assert_plain(stack.upper(), name));
        // Given anew it counts, for the data as it then is.
        mount.chmod("low", 0o4755).unwrap();
        mount.remount();
        assert_eq!((mount.mode("low"), runs_as(&mount.at("low"))), (0o4755, "0".into()), "{below}");
        stack.lowers[1].write("low", "#!/bin/sh\n").unwrap();
        mount.remount();
        assert_ne!(mount.text("low"), "#!/bin/sh\n", "a set-user-id file shows what a nosuid layer has now");
        drop(mount);
        drop(nosuid);
    }
    Ok(())
}

/// The same where the first change of all brings the data up: a write, and a rename that copies small data.
pub fn data_of_a_nosuid_layer_gets_no_privilege_by_the_first_change() -> Ran {
    if who() != Who::Root || !mount::is_plyfs() {
        return not_here("root and metacopy are needed");
    }
    type Act = fn(&Mount) -> std::result::Result<(), Errno>;
    let table: [(&str, Act); 3] = [
        ("written", |mount| mount.append("f", "x")),
        ("cut", |mount| mount.truncate("f", 2)),
        ("renamed", |mount| mount.rename("f", "g").and_then(|()| mount.rename("g", "f"))),
    ];
    for ((what, act), durable) in table.into_iter().flat_map(|row| [(row, ""), (row, ",volatile")]) {
        let stack = Stack::new(2);
        let nosuid = on_tmpfs(&stack.lowers[1], MountFlags::NOSUID);
        let top = &stack.lowers[0];
        stack.lowers[1].file("f", "some data");
        top.file("f", "").with_xattr("f", &format!("{}metacopy", prefix()), b"");
        top.truncate("f", 9).unwrap();
        top.perm("f", 0o6755).set_xattr("f", CAPABILITY, &capability()).unwrap();
        let lowers = [0, 1].map(|i| stack.lowers[i].root().display().to_string()).join(":");
        let (upper, work) = (stack.upper().root().display(), stack.scratch.dir("work"));
        let options = format!("lowerdir={lowers},upperdir={upper},workdir={}{durable}", work.display());
        let mut mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
        act(&mount).unwrap();
        for again in [false, true] {
            if again && durable.is_empty() {
                mount.remount();
            }
            assert_plain(&mount, "f");
            assert!(mount.text("f").starts_with("so"), "{what}{durable}");
        }
        drop(mount);
        drop(nosuid);
    }
    Ok(())
}

/// What was set through the view is shown: the rule is for lower layers. And where the view itself gives nothing there is
/// nothing to take away.
pub fn a_nosuid_upper_layer_and_a_nosuid_view_keep_what_was_set() -> Ran {
    if who() != Who::Root {
        return not_here("only root mounts a view in which they would count");
    }
    let mut stack = Stack::new(1);
    let below = stack.scratch.dir("nosuid");
    rustix::mount::mount("tmpfs", &below, "tmpfs", MountFlags::NOSUID, c"mode=755").unwrap();
    let below = Mounted::adopt(&below);
    stack.upper = Some(Layer::new(stack.scratch.dir("nosuid/upper")));
    fill(&stack.lowers[0]);
    let mount = Mount::with(&stack.layer_options("nosuid/work"), &stack.merged, &stack.scratch.path().join("log"));
    mount.utimes("utimes", tree::OLD).unwrap();
    mount.write("made", "x").unwrap();
    mount.chmod("made", 0o4755).unwrap();
    assert_eq!((mount.mode("utimes"), mount.mode("made")), (0o6755, 0o4755));
    assert_eq!(mount.xattr("utimes", CAPABILITY), Ok(capability()));
    drop(mount);
    drop(below);

    let stack = Stack::new(1).option("nosuid");
    let lower = on_tmpfs(&stack.lowers[0], MountFlags::NOSUID);
    fill(&stack.lowers[0]);
    let mount = stack.mount();
    mount.utimes("utimes", tree::OLD).unwrap();
    assert_eq!((mount.mode("append"), mount.mode("utimes")), (0o6755, 0o6755));
    assert_eq!(runs_as(&mount.at("id")), "1234");
    drop(mount);
    drop(lower);
    Ok(())
}

/// Homes are often nosuid, and a user's own namespace gives nobody outside of it a privilege.
pub fn in_a_user_namespace_nosuid_of_a_layer_is_ignored() -> Ran {
    if who() != Who::Namespace {
        return not_here("it is about user namespaces");
    }
    let stack = Stack::new(1);
    let Some(lower) = on_tmpfs(&stack.lowers[0], MountFlags::NOSUID) else {
        return not_here("tmpfs may not be mounted");
    };
    stack.lowers[0].file("f", "x").perm("f", 0o4755);
    let mut mount = stack.mount();
    assert_eq!(mount.mode("f"), 0o4755);
    mount.utimes("f", tree::OLD).unwrap();
    mount.remount();
    assert_eq!((mount.mode("f"), stack.upper().mode("f")), (0o4755, 0o4755));
    drop(mount);
    drop(lower);
    Ok(())
}

/// A user with a name, which fusermount3 asks for.
const NOBODY: u32 = 65534;

/// A set-user-id file of root's in a directory of a normal user's, whose daemon has no such owner: it is not copied. In a
/// namespace the kernel itself refuses most of it; a daemon that fusermount3 mounts is asked.
const AS_A_USER: &str = r#"
mknod "$1/fuse" c 10 229 && chmod 666 "$1/fuse" && mount --bind "$1/fuse" /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups $3 sh -c '
    cd "$1" || exit 9
    "$2" -o "lowerdir=$1/lower0,upperdir=$1/upper,workdir=$1/work" "$1/merged" || exit 8
    cd merged/d || exit 7
    for command in "mv su moved" "ln su linked" "touch su" "chmod 755 su" "mv plain moved2" "mv own moved3"; do
        $command 2>/dev/null; echo "$command: $?"
    done
    stat -c "%n %a" *
    cd /; umount -l "$1/merged" 2>/dev/null || fusermount3 -uz "$1/merged"
' sh "$@"
"#;

pub fn a_file_whose_owner_cannot_be_set_is_not_copied() -> Ran {
    if who() != Who::Root {
        return not_here("only root makes files of others");
    }
    for wrapper in ["", "unshare -Urm --propagation private"] {
        if let Err(why) = files_of_another(wrapper) {
            return not_here(&why);
        }
    }
    Ok(())
}

fn files_of_another(wrapper: &str) -> Ran {
    let stack = Stack::new(1);
    let lower = stack.lowers[0].file("d/su", "x").file("d/plain", "x").file("d/own", "x");
    lower.perm("d/su", 0o4755);
    for path in ["d", "d/own"] {
        lower.chown(path, NOBODY, NOBODY).unwrap();
    }
    for dir in [stack.upper().root().to_owned(), stack.scratch.dir("work"), stack.merged.clone()] {
        std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    stack.scratch.dir("work");
    // The build directory may be closed to the user.
    let program = stack.scratch.path().join("plyfs");
    std::fs::copy(mount::binary(), &program).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-m", "--propagation", "private", "sh", "-c", AS_A_USER, "sh"])
        .arg(stack.scratch.path())
        .arg(program);
    command.arg(wrapper);
    let out = command.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if errors.contains("unshare failed") {
        return not_here("unshare -Urm is not permitted to normal users here");
    }
    let lines: Vec<_> = said.lines().collect();
    let refused =
        |command: &str| lines.iter().any(|line| line.starts_with(&format!("{command}: ")) && !line.ends_with(": 0"));
    for command in ["mv su moved", "ln su linked", "touch su", "chmod 755 su", "mv plain moved2"] {
        assert!(refused(command), "{command} was done: {said}{errors}");
    }
    assert!(lines.contains(&"mv own moved3: 0") && lines.contains(&"su 4755"), "{said}{errors}");
    let left = stack.upper().names("d").unwrap();
    assert!(!left.iter().any(|name| ["su", "moved", "linked", "plain", "moved2"].contains(&name.as_str())), "{left:?}");
    assert_eq!(stack.upper().stat("d/moved3").unwrap().st_uid, NOBODY);
    Ok(())
}
