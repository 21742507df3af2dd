//! Overlays on overlays: what one of them writes through a plyfs mount, it finds there again.

use rustix::fs::{FileType, RenameFlags};

use crate::common::stack::{Layer, prefix};
use crate::common::*;
use crate::{alone, scenario};

/// Two layers in which every mark is made by the calls of an overlay: in `root`, `top` and `base`. `leading`: with marks
/// that lead elsewhere.
fn layers(root: &Tree, leading: bool) -> [Layer; 2] {
    let dir = |name: &str| {
        root.mkdir(name, 0o755).unwrap();
        Layer::new(root.at(name))
    };
    let [top, base] = ["top", "base"].map(dir);
    let mark = |name: &str| format!("{}{name}", prefix());
    for name in ["hidden", "moved-away", "dir/hidden", "opaque/below", "marked/hidden", "marked/shown", "shown"] {
        base.file(name, "base");
    }
    base.file("from/below", "base").file("data", "data");
    top.file("dir/own", "top").file("here", "top");
    // mknod(2) and RENAME_WHITEOUT, as an overlay removes and renames.
    top.whiteout("hidden");
    top.mknod("dir/hidden", FileType::CharacterDevice, 0o644, 0).unwrap();
    top.write("moved-away", "top").unwrap();
    top.rename_with("moved-away", "moved-here", RenameFlags::WHITEOUT).unwrap();
    // RENAME_EXCHANGE, as it replaces: a whiteout goes out of the way of a new directory.
    top.whiteout("opaque").dir("staged", 0o755).opaque("staged").file("staged/own", "top");
    top.rename_with("staged", "opaque", RenameFlags::EXCHANGE).unwrap();
    top.unlink("staged").unwrap();
    top.file("marked/hidden", "").with_xattr("marked/hidden", &mark("whiteout"), b"");
    top.with_xattr("marked", &mark("opaque"), b"x");
    if leading {
        top.dir("to", 0o755).with_xattr("to", &mark("redirect"), b"/from").whiteout("from");
        top.file("copied", "").with_xattr("copied", &mark("metacopy"), b"");
        top.with_xattr("copied", &mark("redirect"), b"/data").truncate("copied", 4).unwrap();
    }
    top.age();
    base.age();
    [top, base]
}

fn options(layers: &[Layer; 2]) -> String {
    let [top, base] = layers;
    let follow = if who() == Who::Root { ",redirect_dir=follow,metacopy=on" } else { ",userxattr" };
    format!("lowerdir={}:{}{follow}", top.root().display(), base.root().display())
}

fn seen_by_the_kernel(layers: &[Layer; 2], scratch: &Scratch) -> View {
    let kernel = Kernel::with(&options(layers), &scratch.fresh("kernel")).unwrap();
    View::of(&kernel, Walk { times: true, foreign: true, without_links: true, ..Walk::default() })
}

/// The same calls on a local file system and through a mount leave layers that look the same to the kernel's OverlayFS.
#[test]
fn marks_made_through_a_mount_are_found_by_the_kernels_overlay() {
    let _alone = alone();
    bounded(|| {
        if !Kernel::usable() || !mount::is_plyfs() {
            skip!("no kernel OverlayFS to put on top, or no plyfs below");
        }
        let scratch = Scratch::new();
        // The kernel follows marks that lead elsewhere in trusted.* only.
        let leading = who() == Who::Root;
        let expected = seen_by_the_kernel(&layers(&Tree::new(scratch.dir("local")), leading), &scratch);
        assert!(expected.objects.contains_key(&b"shown"[..]) && !expected.objects.contains_key(&b"hidden"[..]));
        let stack = Stack::new(1);
        let mut mount = stack.mount();
        let nested = layers(&mount, leading);
        for when in ["at once", "after a remount below"] {
            let seen = seen_by_the_kernel(&nested, &scratch);
            seen.assert_same(&expected, &format!("{when} (through the mount, local)"));
            mount.remount();
        }
    });
}

#[test]
fn marks_made_through_a_mount_are_found_by_plyfs_on_top() {
    let _alone = alone();
    bounded(|| {
        let scratch = Scratch::new();
        if !mount::is_plyfs() {
            skip!("others do not nest");
        }
        let leading = mount::takes("redirect_dir=follow") && mount::takes("metacopy=on");
        if !leading {
            say_skipped("marks that lead elsewhere: redirect_dir and metacopy are not there yet");
        }
        let options = |layers: &[Layer; 2]| {
            let [top, base] = layers;
            let follow = if leading { ",redirect_dir=follow,metacopy=on" } else { "" };
            format!("lowerdir={}:{}{follow}", top.root().display(), base.root().display())
        };
        let look = |layers: &[Layer; 2]| {
            let (at, log) = (scratch.fresh("plyfs"), scratch.path().join("log"));
            let above = Mount::with(&options(layers), &at, &log);
            View::of(&above, Walk { times: true, ..Walk::default() })
        };
        let expected = look(&layers(&Tree::new(scratch.dir("local")), leading));
        let stack = Stack::new(1);
        let mut mount = stack.mount();
        let nested = layers(&mount, leading);
        for when in ["at once", "after a remount below"] {
            look(&nested).assert_same(&expected, &format!("{when} (through the mount, local)"));
            mount.remount();
        }
    });
}

/// The kernel's OverlayFS takes a plyfs mount even for its upper layer: that has all which it asks of a remote one.
#[test]
fn the_kernels_upper_layer_inside_a_mount() {
    let _alone = alone();
    bounded(|| {
        if who() != Who::Root || !Kernel::usable() || !mount::is_plyfs() {
            skip!("no kernel OverlayFS to put on top, or not all of its marks, or no plyfs below");
        }
        let scratch = Scratch::new();
        let (lower, base) = (Layer::new(scratch.dir("lower")), Layer::new(scratch.dir("base")));
        scenario::fill(&lower);
        lower.file("cover/own", "x").age();
        scenario::fill_base(&base);
        let stack = Stack::new(1);
        let mut mount = stack.mount();
        let lowers = format!("lowerdir={}:{}", lower.root().display(), base.root().display());
        let features = "redirect_dir=on,metacopy=on,index=on,xino=on";
        let options = |root: &Tree| {
            let dir = |name| {
                root.mkdir(name, 0o755).unwrap();
                root.at(name).display().to_string()
            };
            format!("{lowers},upperdir={},workdir={},{features}", dir("upper"), dir("work"))
        };
        let [local, nested] = [&Tree::new(scratch.dir("local")), &*mount].map(options);
        let look = |kernel: &Kernel| View::of(kernel, Walk { times: true, foreign: true, ..Walk::default() });
        let story = |options: &str| {
            let kernel = Kernel::with(options, &scratch.fresh("kernel")).unwrap();
            (scenario::change(&kernel).steps, look(&kernel))
        };
        let (expected, steps) = (story(&local), story(&nested));
        assert_eq!(steps.0, expected.0, "(through the mount, local)");
        steps.1.assert_same(&expected.1, "after the changes (through the mount, local)");
        mount.remount();
        let again = Kernel::with(&nested, &scratch.fresh("kernel")).unwrap();
        look(&again).assert_same(&expected.1, "after a remount below (through the mount, local)");
        drop(again);
    });
}
