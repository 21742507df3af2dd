//! Layers with owners in attributes: what plyfs writes is read by fuse-overlayfs, and the other way round, for both values
//! of `xattr_permissions`.
//!
//! Not compared are devices, fifos and sockets: fuse-overlayfs 1.10 shows the files that stand for them.

use rustix::fs::FileType;
use rustix::io::Result as Io;

use crate::common::*;
use crate::fuse_overlayfs::is_here;
use crate::side::FUSE_OVERLAYFS;
use crate::table::listing;

fn values() -> &'static [&'static str] {
    if who() == Who::Root { &["1", "2"] } else { &["2"] }
}

fn stack() -> Stack {
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "f").file("g", "g").file("h", "h").file("d/x", "x").file("e/z", "z").soft_link("t", "s");
    stack
}

/// What both can do.
fn fill(tree: &Tree) -> Io<()> {
    tree.mkdir("new", 0o755)?;
    tree.write("new/f", "n")?;
    tree.chmod("new/f", 0o4711)?;
    tree.chmod("new", 0o1750)?;
    tree.append("g", "+")?;
    tree.chmod("g", 0o600)?;
    tree.chmod("d", 0o700)?;
    tree.unlink("f")?;
    if who() == Who::Root {
        tree.chown("new/f", 5, 6)?;
        tree.chmod("new/f", 0o640)?;
        tree.chown("h", 7, 8)?;
    }
    Ok(())
}

fn mount(program: &str, stack: &Stack, options: &str) -> Mount {
    let log = stack.scratch.path().join("log");
    let mounted = match program {
        "plyfs" => Mount::try_with(options, &stack.merged, &log),
        program => Mount::by(program.into(), options, &stack.merged, &log),
    };
    mounted.unwrap_or_else(|why| panic!("{program} -o {options}: {why}"))
}

/// What a program shows of the layers that another one has left, as lower ones.
fn seen(program: &str, stack: &Stack) -> String {
    let (upper, lower) = (stack.upper().root().display(), stack.lowers[0].root().display());
    let mut mount = mount(program, stack, &format!("lowerdir={upper}:{lower}"));
    let listed = listing(&mount);
    mount.unmount();
    without_marks(&listed)
}

/// A listing without the marks, which fuse-overlayfs 1.10 shows to everybody.
fn without_marks(listed: &str) -> String {
    let word = |word: &str| {
        let mut parts = word.split('+').collect::<Vec<_>>();
        parts.retain(|part| !part.contains("override_stat="));
        parts.join("+")
    };
    listed.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn fuse_overlayfs_reads_the_owners_that_plyfs_writes() {
    if !is_here() {
        return;
    }
    bounded(|| {
        for value in values() {
            let stack = stack();
            let plain = "redirect_dir=off,index=off,metacopy=off";
            let options = format!("{},{plain},xattr_permissions={value}", stack.layer_options("work"));
            let mut ours = mount("plyfs", &stack, &options);
            fill(&ours).unwrap();
            ours.symlink("up", "new/s").unwrap();
            let listed = listing(&ours);
            ours.unmount();
            assert_eq!(seen("plyfs", &stack), listed, "plyfs itself, xattr_permissions={value}");
            assert_eq!(seen(FUSE_OVERLAYFS, &stack), listed, "xattr_permissions={value}");
            // What stands for a fifo can be looked at.
            let mut ours = mount("plyfs", &stack, &options);
            ours.mknod("pipe", FileType::Fifo, 0o600, 0).unwrap();
            ours.unmount();
            assert!(seen(FUSE_OVERLAYFS, &stack).contains("pipe"));
        }
    });
}

#[test]
fn plyfs_reads_the_owners_that_fuse_overlayfs_writes_and_goes_on() {
    if !is_here() {
        return;
    }
    if who() == Who::User {
        return say_skipped("what this user chmods there fuse-overlayfs 1.10 gives to 0:0, and then refuses it to him");
    }
    bounded(|| {
        for value in values() {
            let stack = stack();
            let options = stack.layer_options("work");
            let mut theirs = mount(FUSE_OVERLAYFS, &stack, &format!("{options},xattr_permissions={value}"));
            fill(&theirs).unwrap();
            if *value == "2" {
                // With 1 it answers ENOMEM.
                theirs.symlink("up", "new/s").unwrap();
            }
            let listed = without_marks(&listing(&theirs));
            theirs.unmount();
            assert_eq!(seen("plyfs", &stack), listed, "as a lower layer, xattr_permissions={value}");
            let mut ours = mount("plyfs", &stack, &options);
            assert_eq!(listing(&ours), listed, "as the upper layer, xattr_permissions={value}");
            ours.chmod("new/f", 0o604).unwrap();
            ours.write("more", "m").unwrap();
            let listed = listing(&ours);
            ours.unmount();
            assert_eq!(seen(FUSE_OVERLAYFS, &stack), listed, "after plyfs went on, xattr_permissions={value}");
        }
    });
}
