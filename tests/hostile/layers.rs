//! Layers as they stand: symlinks, names, large attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::common::stack::Layer;
use crate::common::*;
use crate::{Ran, not_here};

/// A stack whose layers lie one directory deeper than its mountpoint, so that a symlink upwards leads elsewhere for the
/// daemon than for a client.
fn deep_stack(lowers: usize) -> Stack {
    let mut stack = Stack::new(0);
    stack.lowers = (0..lowers).map(|i| Layer::new(stack.scratch.dir(&format!("deep/lower{i}")))).collect();
    stack.upper = Some(Layer::new(stack.scratch.dir("deep/upper")));
    Layer::new(stack.scratch.dir("deep/side")).file("secret", "secret").file("d/f", "secret");
    stack
}

const TARGETS: [&str; 6] = ["../side", "../lower1/d", "/", "..", "d", "loop5"];

pub fn symlinks_in_place_of_directories_are_symlinks() -> Ran {
    let stack = deep_stack(2);
    for (i, target) in TARGETS.iter().enumerate() {
        let name = format!("loop{i}");
        stack.lowers[0].soft_link(target, &name);
        stack.upper().soft_link(target, &format!("up{i}"));
        // What it stands in place of.
        stack.lowers[1].file(&format!("{name}/below"), "x").file(&format!("up{i}/below"), "x");
    }
    stack.lowers[1].file("d/f", "lower");
    let side = view::layer(&stack.scratch.path().join("deep/side"));
    let mut mount = stack.mount();
    for _ in 0..2 {
        for (i, target) in TARGETS.iter().enumerate() {
            for name in [format!("loop{i}"), format!("up{i}")] {
                assert_eq!(mount.readlink(&name).unwrap(), target.as_bytes(), "{name}");
                assert!(mount.stat(format!("{name}/below")).is_err(), "{name} is merged with what it hides");
                assert!(mount.stat(format!("{name}/secret")).is_err(), "{name} is followed");
                mount.utimes(&name, tree::OLD).unwrap();
            }
        }
        mount.remount();
    }
    for (i, _) in TARGETS.iter().enumerate() {
        let name = format!("loop{i}");
        mount.unlink(&name).unwrap();
        mount.mkdir(&name, 0o755).unwrap();
        mount.write(format!("{name}/f"), "own").unwrap();
    }
    mount.remount();
    for (i, _) in TARGETS.iter().enumerate() {
        assert_eq!(mount.names(format!("loop{i}")).unwrap(), ["f"]);
    }
    assert_eq!(stack.lowers[1].text("d/f"), "lower");
    view::layer(&stack.scratch.path().join("deep/side")).assert_same(&side, "beside the layers");
    Ok(())
}

/// A symlink in the upper layer leads its reader, not the daemon: what is written by that way is copied up there.
pub fn a_symlink_of_the_upper_layer_is_no_way_into_a_lower_one() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("d/f", "lower").file("g", "lower");
    let before = view::layer(stack.lowers[0].root());
    // Absolute, into the lower layer itself, and within the view.
    stack.upper().soft_link(stack.lowers[0].at("d").to_str().unwrap(), "into").soft_link("d", "within");
    let mount = stack.mount();
    mount.append("within/f", "+").unwrap();
    mount.write("within/new", "new").unwrap();
    mount.unlink("into").unwrap();
    mount.mkdir("into", 0o755).unwrap();
    mount.write("into/f", "own").unwrap();
    // Opened before the copy-up, cut and written after it.
    let early = mount.open("g", rustix::fs::OFlags::RDONLY).unwrap();
    drop(mount.open("g", rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC).unwrap());
    mount.append("g", "again").unwrap();
    assert_eq!(tree::read_all(&early).unwrap(), b"again");
    assert_eq!(
        (mount.text("d/f"), mount.text("d/new"), mount.text("into/f")),
        ("lower+".into(), "new".into(), "own".into())
    );
    drop((early, mount));
    view::layer(stack.lowers[0].root()).assert_same(&before, "the lower layer");
    Ok(())
}

/// `.wh.` names that a user makes, with newlines and bytes that are no text, of every length: fo1 and fo2 hide `x` after
/// `touch .wh.x`, and know no names beyond 251 bytes.
pub fn names_that_look_like_marks_are_names() -> Ran {
    let stack = Stack::new(1);
    stack.lowers[0].file("x", "x").file("d/y", "y").file("\n", "newline");
    let longest = [&b".wh."[..], &[b'n'; 251]].concat();
    let names: [&[u8]; 9] = [
        b".wh.x",
        b".wh..wh..opq",
        b".wh..wh..plnk",
        b".wh.",
        b"#1",
        b"\n\n",
        b"\xc3\x28\xff",
        b" ",
        longest.as_slice(),
    ];
    let mut mount = stack.mount();
    for name in names {
        mount.write(OsStr::from_bytes(name), "own").unwrap();
        mount.write(OsStr::from_bytes(&[b"d/", name].concat()), "own").unwrap();
        mount.rename(OsStr::from_bytes(name), "moved").unwrap();
        mount.rename("moved", OsStr::from_bytes(name)).unwrap();
    }
    for _ in 0..2 {
        assert_eq!((mount.text("x"), mount.text("d/y"), mount.text("\n")), ("x".into(), "y".into(), "newline".into()));
        for name in names {
            assert_eq!(mount.text(OsStr::from_bytes(name)), "own", "{}", name.escape_ascii());
        }
        assert_eq!(
            (mount.byte_names("").unwrap().len(), mount.byte_names("d").unwrap().len()),
            (names.len() + 3, names.len() + 1)
        );
        mount.remount();
    }
    Ok(())
}

/// A file system that holds attributes of 64 KiB, and the layers on it.
fn roomy() -> Result<(Stack, System), String> {
    let mut stack = Stack::new(0);
    let system = match who() {
        Who::Root => System::native("xfs", &stack.scratch)?,
        Who::Namespace => System::native("tmpfs", &stack.scratch)?,
        Who::User => return Err("a file system with room for attributes of 64 KiB has to be mounted".into()),
    };
    let layer = |name: &str| {
        let root = system.root().join(name);
        std::fs::create_dir_all(&root).unwrap();
        Layer::new(root)
    };
    (stack.lowers, stack.upper) = (vec![layer("lower")], Some(layer("upper")));
    Ok((stack, system))
}

fn mounted(stack: &Stack, system: &System) -> Mount {
    let (lower, upper) = (stack.lowers[0].root().display(), stack.upper().root().display());
    let work = system.root().join("work");
    std::fs::create_dir_all(&work).unwrap();
    let options = format!("lowerdir={lower},upperdir={upper},workdir={}", work.display());
    Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"))
}

pub fn attributes_of_64_kib_are_copied_whole() -> Ran {
    let (stack, system) = roomy()?;
    let value = vec![b'v'; 65_536];
    let lower = stack.lowers[0].file("value", "x").file("list", "x").dir("dir", 0o755);
    for path in ["value", "dir"] {
        if let Err(errno) = lower.set_xattr(path, "user.big", &value) {
            return not_here(&format!("no value of 64 KiB here: {errno:?}"));
        }
    }
    // Names of 250 bytes each with their NUL: 260 of them are a list of 65,000 bytes.
    let names: Vec<String> = (0..260).map(|i| format!("user.{i:0>244}")).collect();
    for name in &names {
        if let Err(errno) = lower.set_xattr("list", name, b"") {
            return not_here(&format!("no list of 65,000 bytes here: {errno:?}"));
        }
    }
    let mut mount = mounted(&stack, &system);
    let sorted: Vec<_> = names.iter().map(|name| name.clone().into_bytes()).collect();
    for round in 0..2 {
        assert_eq!(
            (mount.xattr("value", "user.big"), mount.xattr("dir", "user.big")),
            (Ok(value.clone()), Ok(value.clone()))
        );
        assert_eq!(mount.xattrs("list").unwrap(), sorted);
        for path in ["value", "list", "dir"] {
            mount.chmod(path, 0o700 + round).unwrap();
            assert_eq!(stack.upper().mode(path), 0o700 + round, "copied up");
        }
        mount.append("value", "y").unwrap();
        mount.remount();
    }
    assert_eq!(stack.upper().xattr("value", "user.big").unwrap(), value);
    assert!(stack.upper().xattrs("list").unwrap().len() >= names.len());
    drop(mount);
    drop(system);
    Ok(())
}

/// More than a list can be: refused whole, and nothing is left of the attempt.
pub fn a_list_of_attributes_that_is_too_long_refuses_the_copy() -> Ran {
    let (stack, system) = roomy()?;
    let lower = stack.lowers[0].file("f", "content").file("d/f", "content");
    for i in 0..290 {
        if let Err(errno) = lower.set_xattr("f", format!("user.{i:0>244}"), b"") {
            return not_here(&format!("no list of 72,500 bytes here: {errno:?}"));
        }
        lower.set_xattr("d", format!("user.{i:0>244}"), b"").unwrap();
    }
    let mut mount = mounted(&stack, &system);
    let refused = mount.chmod("f", 0o600);
    assert!(refused.is_err(), "a part of the attributes was copied");
    assert_eq!((mount.names("").unwrap(), mount.chmod("d", 0o700).is_ok()), (vec!["d".into(), "f".into()], false));
    assert_eq!((mount.text("f"), mount.mode("f")), ("content".into(), 0o644));
    assert_eq!(mount.write("alive", ""), Ok(()));
    mount.remount();
    assert_eq!(
        (mount.text("f"), mount.names("").unwrap()),
        ("content".into(), vec!["alive".into(), "d".into(), "f".into()])
    );
    assert_eq!(stack.upper().names("").unwrap(), ["alive"]);
    mount.unlink("f").unwrap();
    drop(mount);
    assert_eq!((lower.text("f"), lower.mode("f")), ("content".into(), 0o644));
    drop(system);
    Ok(())
}
