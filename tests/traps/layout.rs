//! Where the layers and the mount lie: below, above and inside each other.

use std::path::Path;

use crate::common::scratch::Mounted;
use crate::common::*;

fn mount_at(stack: &Stack, options: &str, at: &Path) -> Mount {
    Mount::with(options, at, &stack.scratch.path().join("log"))
}

/// Walking into one's own mount is a deadlock of the daemon with itself.
#[test]
fn the_mountpoint_below_a_lower_layer() {
    within(30, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x").dir("a/merged", 0o755).file("a/g", "x");
        let at = stack.lowers[0].at("a/merged");
        let mut mount = mount_at(&stack, &stack.layer_options("work"), &at);
        for _ in 0..2 {
            assert_eq!(mount.names("").unwrap(), ["a", "f"]);
            assert_eq!(mount.names("a").unwrap(), ["g", "merged"]);
            // Its own mountpoint from within: the directory that is covered, or a place where it cannot go.
            let inner = mount.names("a/merged");
            assert!(inner == Ok(vec![]) || inner == Err(Errno::XDEV), "{inner:?}");
            assert!(mount.stat("a/merged/f").is_err());
            mount.append("a/g", "y").unwrap();
            mount.remount();
        }
        assert_eq!(mount.text("a/g"), "xyy");
    });
}

/// As `lowerdir=/`, without its size: everything is below the layer, upper, workdir and the mount too.
#[test]
fn a_lower_layer_that_holds_everything() {
    within(30, || {
        let stack = Stack::new(1);
        stack.lowers[0].file("f", "x");
        let base = stack.scratch.path().display().to_string();
        stack.scratch.dir("work");
        if mount::binary() == "kernel" {
            skip!("the kernel's OverlayFS lets layers overlap only without its index");
        }
        let options = format!("lowerdir={base}");
        let mount = mount_at(&stack, &options, &stack.merged);
        assert_eq!(mount.text("lower0/f"), "x");
        let own = mount.names("merged");
        assert!(own == Ok(vec![]) || own == Err(Errno::XDEV), "{own:?}");
        assert!(mount.names("").unwrap().contains(&"merged".to_owned()));
    });
}

/// The root of the system as a layer, as people do.
#[test]
fn the_root_directory_as_a_lower_layer() {
    within(30, || {
        if mount::binary() == "kernel" {
            skip!("the kernel's OverlayFS lets layers overlap only without its index");
        }
        // The upper layer below / as well, and on a file system of its own.
        for elsewhere in [false, true] {
            let stack = Stack::new(1);
            let _upper = elsewhere.then(|| Mounted::tmpfs(&stack.scratch.dir("in")));
            let (upper, work) = (stack.scratch.dir("in/upper"), stack.scratch.dir("in/work"));
            let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
            let mount = mount_at(&stack, &options, &stack.merged);
            assert_eq!(mount.read("etc/passwd").unwrap(), std::fs::read("/etc/passwd").unwrap());
            assert!(mount.names("").unwrap().contains(&"proc".to_owned()));
            // Mounts on the layer are not entered.
            assert!(!mount.has("proc/self"));
            mount.write("made-here", "x").unwrap();
            assert!(!Path::new("/made-here").exists() && upper.join("made-here").exists());
            assert!(!mount.has(upper.strip_prefix("/").unwrap()) && !mount.has(work.strip_prefix("/").unwrap()));
        }
    });
}

/// A mount over one of its layers hides it from everyone but the daemon.
#[test]
fn the_mountpoint_is_one_of_the_layers() {
    within(30, || {
        for layer in ["lower0", "lower1", "upper"] {
            let stack = Stack::new(2);
            stack.lowers[0].file("f", "zero");
            stack.lowers[1].file("g", "one");
            stack.upper().file("h", "up");
            let at = stack.scratch.path().join(layer);
            let mut mount = mount_at(&stack, &stack.layer_options("work"), &at);
            assert_eq!(mount.names("").unwrap(), ["f", "g", "h"], "over {layer}");
            mount.append("g", "+").unwrap();
            mount.unlink("f").unwrap();
            mount.write("new", "n").unwrap();
            assert_eq!(mount.names("").unwrap(), ["g", "h", "new"], "over {layer}");
            mount.remount();
            assert_eq!((mount.text("g"), mount.text("new")), ("one+".into(), "n".into()));
            mount.unmount();
            assert_eq!((stack.lowers[1].text("g"), stack.upper().text("g")), ("one".into(), "one+".into()));
        }
    });
}

/// A foreign mount below a layer is not entered: an empty directory or EXDEV, never its files, never a hang.
#[test]
fn a_mount_below_a_layer_is_not_entered() {
    within(30, || {
        let stack = Stack::new(1);
        stack.lowers[0].dir("covered", 0o755).file("f", "x");
        let Some(foreign) = Mounted::tmpfs(&stack.lowers[0].at("covered")) else {
            skip!("tmpfs may not be mounted here")
        };
        stack.lowers[0].file("covered/foreign", "x");
        let mount = stack.mount();
        assert_eq!(mount.names("").unwrap(), ["covered", "f"]);
        let names = mount.names("covered");
        assert!(names == Ok(vec![]) || names == Err(Errno::XDEV), "{names:?}");
        assert!(mount.stat("covered/foreign").is_err());
        mount.append("f", "y").unwrap();
        drop(mount);
        drop(foreign);
    });
}

/// A union whose layer is another union.
#[test]
fn a_mount_as_the_layer_of_another() {
    within(30, || {
        let (inner, outer) = (Stack::new(1), Stack::new(1));
        inner.lowers[0].file("d/f", "x").file("gone", "x");
        let below = inner.mount();
        below.unlink("gone").unwrap();
        below.append("d/f", "y").unwrap();
        let work = outer.scratch.dir("work");
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            inner.merged.display(),
            outer.upper().root().display(),
            work.display()
        );
        let mount = mount_at(&outer, &options, &outer.merged);
        assert_eq!(mount.names("").unwrap(), ["d"]);
        mount.append("d/f", "z").unwrap();
        mount.write("d/new", "n").unwrap();
        assert_eq!((mount.text("d/f"), below.text("d/f")), ("xyz".into(), "xy".into()));
        assert_eq!(below.names("d").unwrap(), ["f"]);
        View::of(&mount, Walk::default()).assert_sound();
        drop(mount);
        drop(below);
    });
}

/// The kernel knows allow_other only; fuser filters in user space and lets reads and writes of anyone through.
#[test]
fn allow_root_is_refused_by_name() {
    within(30, || {
        let stack = Stack::new(1);
        if !mount::is_plyfs() {
            skip!("others have it");
        }
        let options = format!("{},allow_root", stack.layer_options("work"));
        match Mount::try_with(&options, &stack.merged, &stack.scratch.path().join("log")) {
            Ok(_) => panic!("mounted"),
            Err(why) => assert!(why.contains("allow_root"), "{why}"),
        }
    });
}
