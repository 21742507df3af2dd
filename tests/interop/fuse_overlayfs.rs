//! Upper layers that fuse-overlayfs (1.x, as Debian has it) has written: plyfs shows what was there, and goes on in them.
//!
//! Not compared is what fuse-overlayfs loses itself: renamed directories, hard links of lower files, and histories after
//! which it shows another tree when it mounts its own layer again (the lower name is back after a new file that was
//! renamed over a whiteout is removed; names without an object; directories that cannot be read).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::io::Result as Io;

use crate::common::stack::Layer;
use crate::common::*;
use crate::histories::turn;
use crate::model::layers::{self, Kind, Plan, build, plan, things};
use crate::model::{self, Op, changes};
use crate::side::*;
use crate::table::listing;

pub fn is_here() -> bool {
    let here = std::path::Path::new(FUSE_OVERLAYFS).exists();
    if !here {
        say_skipped("no fuse-overlayfs (Debian: fuse-overlayfs)");
    }
    here && !is_kernel()
}

fn lower(layer: &Layer) {
    layer.file("f", "f").file("g", "g").file("d/x", "x").file("d/sub/y", "y").file("e/z", "z").soft_link("t", "s");
}

/// The tree in a line; the owner is everybody's own.
fn shown(tree: &Tree) -> String {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    listing(tree).replace(&format!("@{uid}:{gid}"), "")
}

/// What is done through fuse-overlayfs, and what plyfs then shows.
type Case = (&'static str, fn(&Tree) -> Io<()>, &'static str);

const CASES: &[Case] = &[
    ("unlink", |t| t.unlink("f"), "d/ d/sub/ d/sub/y=y d/x=x e/ e/z=z g=g s->t"),
    ("unlink of all of a directory", |t| t.unlink("e/z"), "d/ d/sub/ d/sub/y=y d/x=x e/ f=f g=g s->t"),
    ("rm -r", |t| t.remove_all("d"), "e/ e/z=z f=f g=g s->t"),
    (
        "rm -r and mkdir",
        |t| {
            t.remove_all("d")?;
            t.mkdir("d", 0o755)?;
            t.write("d/new", "n")
        },
        "d/ d/new=n e/ e/z=z f=f g=g s->t",
    ),
    (
        "rm -r and mkdir of a directory and of one in it",
        |t| {
            t.remove_all("d")?;
            t.mkdir("d", 0o700)?;
            t.mkdir("d/sub", 0o755)
        },
        "d/(700) d/sub/ e/ e/z=z f=f g=g s->t",
    ),
    (
        "rm -r and mkdir below a lower directory",
        |t| {
            t.remove_all("d/sub")?;
            t.mkdir("d/sub", 0o755)
        },
        "d/ d/sub/ d/x=x e/ e/z=z f=f g=g s->t",
    ),
    (
        "rename of a new file over a whiteout",
        |t| {
            t.unlink("f")?;
            t.write("new", "n")?;
            t.rename("new", "f")
        },
        "d/ d/sub/ d/sub/y=y d/x=x e/ e/z=z f=n g=g s->t",
    ),
    (
        "rename of a lower file over a lower file",
        |t| t.rename("g", "d/x"),
        "d/ d/sub/ d/sub/y=y d/x=g e/ e/z=z f=f s->t",
    ),
    (
        "a file made anew and removed again",
        |t| {
            t.unlink("f")?;
            t.write("f", "n")?;
            t.unlink("f")
        },
        "d/ d/sub/ d/sub/y=y d/x=x e/ e/z=z g=g s->t",
    ),
    (
        "chmod of a file and of a directory",
        |t| {
            t.chmod("g", 0o600)?;
            t.chmod("d/sub", 0o700)
        },
        "d/ d/sub/(700) d/sub/y=y d/x=x e/ e/z=z f=f g=g(600) s->t",
    ),
    ("append to a lower file", |t| t.append("d/sub/y", "+"), "d/ d/sub/ d/sub/y=y+ d/x=x e/ e/z=z f=f g=g s->t"),
    (
        "new directories in new directories",
        |t| {
            t.mkdir("a", 0o755)?;
            t.mkdir("a/b", 0o755)?;
            t.mkdir("a/b/c", 0o755)?;
            t.write("a/b/c/n", "n")?;
            t.mkdir("d/sub/a", 0o755)
        },
        "a/ a/b/ a/b/c/ a/b/c/n=n d/ d/sub/ d/sub/a/ d/sub/y=y d/x=x e/ e/z=z f=f g=g s->t",
    ),
    (
        "symlinks",
        |t| {
            t.unlink("s")?;
            t.symlink("new", "s")?;
            t.unlink("f")?;
            t.symlink("over", "f")?;
            t.symlink("up", "d/l")
        },
        "d/ d/l->up d/sub/ d/sub/y=y d/x=x e/ e/z=z f->over g=g s->new",
    ),
    ("an attribute", |t| t.set_xattr("g", "user.a", b"v"), "d/ d/sub/ d/sub/y=y d/x=x e/ e/z=z f=f g=g+user.a=v s->t"),
];

/// Under fuse-overlayfs, then under plyfs, which goes on and must find that again.
fn case((what, act, shows): &Case, wh_files: bool) -> Result<(), String> {
    let stack = Stack::new(1);
    lower(&stack.lowers[0]);
    let before = lowers(&stack);
    let live = Side::FuseOverlayfs { wh_files }.mount(&stack, "work")?;
    act(&live).map_err(|e| format!("{what}: {e}"))?;
    live.unmount()?;
    let is = |live: &Tree, expected: &str, when: &str| {
        let listed = shown(live);
        if listed == expected { Ok(()) } else { Err(format!("{what}, {when}:\n    {listed}\n    not {expected}")) }
    };
    let live = PLYFS_ALL.mount(&stack, "work")?;
    is(&live, shows, "under plyfs")?;
    hides_whiteouts(&live)?;
    live.unmount()?;
    let live = PLYFS_ALL.mount(&stack, "work")?;
    is(&live, shows, "under plyfs again")?;
    go_on(&live).map_err(|e| format!("{what}, going on: {e}"))?;
    let now = shown(&live);
    live.unmount()?;
    let live = PLYFS_ALL.mount(&stack, "work")?;
    is(&live, &now, "mounted again")?;
    live.unmount()?;
    unchanged(&stack, &before)
}

fn hides_whiteouts(tree: &Tree) -> Result<(), String> {
    let view = View::of(tree, Walk::default());
    let shown = view.objects.keys().map(|path| path.escape_ascii().to_string()).find(|path| path.contains(".wh."));
    shown.map_or(Ok(()), |path| Err(format!("{path} is to be seen")))
}

/// Removes everything, and makes the same directories anew.
fn go_on(tree: &Tree) -> Io<()> {
    tree.append("g", "later").or_else(|e| if e == Errno::NOENT { Ok(()) } else { Err(e) })?;
    for name in tree.names("")?.iter().filter(|name| *name != "g") {
        match tree.names(name) {
            Ok(_) => {
                tree.remove_all(name)?;
                tree.mkdir(name, 0o755)?;
                tree.write(format!("{name}/later"), "l")?;
            }
            Err(_) => tree.unlink(name)?,
        }
    }
    Ok(())
}

#[test]
fn what_fuse_overlayfs_wrote_is_read_right() {
    if !is_here() {
        return;
    }
    rustix::process::umask(0o022.into());
    bounded(|| {
        let wrong: Vec<_> =
            CASES.iter().flat_map(|each| [case(each, false), case(each, true)]).filter_map(Result::err).collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    });
}

/// Histories that were not compared.
static SKIPPED: AtomicU64 = AtomicU64::new(0);

fn history(wh_files: bool, plans: &[Plan], first: &[Op], second: &[Op]) -> Result<(), String> {
    let stack = build(plans);
    let before = lowers(&stack);
    let mut log = String::new();
    // Times of directories are its own affair.
    let walk = |side: Side| Walk { times: false, foreign: true, ..side.walk(true) };
    let side = Side::FuseOverlayfs { wh_files };
    let theirs = walk(side);
    let view = turn(side, &stack, None, first, theirs, &mut log);
    let again = view.and_then(|view| turn(side, &stack, Some(&view), &[], theirs, &mut log));
    let Ok(view) = again else {
        SKIPPED.fetch_add(1, Relaxed);
        return Ok(());
    };
    let view = turn(PLYFS_ALL, &stack, Some(&view), second, walk(PLYFS_ALL), &mut log)?;
    turn(PLYFS_ALL, &stack, Some(&view), &[], walk(PLYFS_ALL), &mut log)?;
    unchanged(&stack, &before).map_err(|why| format!("{log}{why}"))
}

/// It reads no `user.overlay.opaque`.
fn readable(mut plans: Vec<Plan>) -> Vec<Plan> {
    for kind in plans.iter_mut().flat_map(|plan| plan.values_mut()) {
        match kind {
            Kind::Dir { opaque, .. } if who() != Who::Root => *opaque = false,
            _ => {}
        }
    }
    plans
}

#[test]
fn plyfs_goes_on_where_fuse_overlayfs_was() {
    if !is_here() {
        return;
    }
    rustix::process::umask(0o022.into());
    within(600 * env_number("PLYFS_TEST_CASES", 1), || {
        let cases = if who() == Who::Root { 60 } else { 20 };
        model::check(
            cases,
            9,
            (proptest::bool::ANY, things(), changes(30), changes(15)),
            |(wh_files, drawn, first, second)| history(*wh_files, &readable(plan(drawn, false)), first, second),
            |(wh_files, drawn, ..)| {
                format!("{}(.wh. files: {wh_files})\n", layers::words(&readable(plan(drawn, false))))
            },
        );
        let (cases, skipped) = (cases * env_number("PLYFS_TEST_CASES", 1), SKIPPED.load(Relaxed));
        println!("{skipped} of {cases} histories are not compared: fuse-overlayfs does not agree with itself");
        assert!(skipped < cases / 2, "{skipped} of {cases} histories are not compared");
    });
}

/// More that is done through plyfs; a directory with a lower part is not renamed, as by fuse-overlayfs.
const IN_PLACE: &[Case] = &[
    (
        "a lower file is renamed, changed and linked",
        |t| {
            t.rename("f", "d/f2")?;
            t.chmod("d/f2", 0o600)?;
            t.link("d/f2", "f3")
        },
        "d/ d/f2=f(600)*2 d/sub/ d/sub/y=y d/x=x e/ e/z=z f3=f(600)*2 g=g s->t",
    ),
    (
        "a directory with a lower part",
        |t| match t.rename("d", "d2") {
            Err(Errno::XDEV) => Ok(()),
            other => other.and(Err(Errno::IO)),
        },
        "d/ d/sub/ d/sub/y=y d/x=x e/ e/z=z f=f g=g s->t",
    ),
    (
        "a new directory is renamed to a lower name",
        |t| {
            t.remove_all("d")?;
            t.mkdir("new", 0o755)?;
            t.write("new/n", "n")?;
            t.rename("new", "d")
        },
        "d/ d/n=n e/ e/z=z f=f g=g s->t",
    ),
    (
        "an owner's bits and a size",
        |t| {
            t.chmod("d/x", 0o4755)?;
            t.chmod("e", 0o700)?;
            t.append("g", "more")
        },
        "d/ d/sub/ d/sub/y=y d/x=x(4755) e/(700) e/z=z f=f g=gmore s->t",
    ),
];

/// Under plyfs by the name of fuse-overlayfs, or with redirects and metacopy off; then under all that read layers.
fn in_place(side: Side, (what, act, shows): &Case) -> Result<(), String> {
    let stack = Stack::new(1);
    lower(&stack.lowers[0]);
    let live = side.mount(&stack, "work")?;
    act(&live).map_err(|e| format!("{side:?}, {what}: {e}"))?;
    live.unmount()?;
    let kernel = if who() == Who::Root { Side::Kernel("") } else { KERNEL_PLAIN };
    let readers = [side, Side::FuseOverlayfs { wh_files: false }, PLYFS_ALL, kernel];
    for reader in readers.into_iter().filter(|reader| *reader != kernel || Kernel::usable()) {
        // Each has a workdir of its own, and none changes anything.
        let live = reader.mount(&stack, "work-of-readers")?;
        // An attribute like any other to the kernel.
        let listed = shown(&live).replace("+user.fuseoverlayfs.opaque=y", "");
        live.unmount()?;
        if listed != *shows {
            return Err(format!("{side:?}, {what}, read by {reader:?}:\n    {listed}\n    not {shows}"));
        }
    }
    Ok(())
}

#[test]
fn what_is_written_in_the_place_of_fuse_overlayfs_is_read_by_all() {
    if !is_here() {
        return;
    }
    rustix::process::umask(0o022.into());
    bounded(|| {
        let sides = [Side::InPlace, Side::Plyfs("metacopy=off,redirect_dir=off")];
        let cases = || CASES.iter().chain(IN_PLACE);
        let wrong: Vec<_> =
            sides.iter().flat_map(|side| cases().filter_map(|each| in_place(*side, each).err())).collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    });
}

/// What plyfs wrote with all of its marks is shown right by plyfs in the place of fuse-overlayfs, and goes on there.
#[test]
fn plyfs_reads_its_own_marks_in_the_place_of_fuse_overlayfs() {
    if is_kernel() {
        return;
    }
    bounded(|| {
        let stack = Stack::new(1);
        lower(&stack.lowers[0]);
        let live = PLYFS_ALL.mount(&stack, "work").unwrap();
        live.rename("d", "moved").unwrap();
        live.chmod("g", 0o600).unwrap();
        live.unmount().unwrap();
        for _ in 0..2 {
            let live = Side::InPlace.mount(&stack, "work").unwrap();
            assert_eq!(shown(&live), "e/ e/z=z f=f g=g(600) moved/ moved/sub/ moved/sub/y=y moved/x=x s->t");
            assert_eq!(live.rename("moved", "again").err(), Some(Errno::XDEV));
            live.unmount().unwrap();
        }
    });
}
