//! What stands on workdir, or came to it from its parent, and would be handed on to all that is staged there.

use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, OFlags};

use crate::common::stack::Layer;
use crate::common::*;
use crate::{Ran, not_here};

const DEFAULT: &str = "system.posix_acl_default";
const ACCESS: &str = "system.posix_acl_access";

/// An ACL that gives all to one more user, the only one that a user namespace may have.
fn acl() -> Vec<u8> {
    let other = if who() == Who::Namespace { 0 } else { 4321 };
    let entries = [(1u16, 7u16, u32::MAX), (2, 7, other), (4, 7, u32::MAX), (0x10, 7, u32::MAX), (0x20, 5, u32::MAX)];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        value.extend(tag.to_le_bytes().iter().chain(&perm.to_le_bytes()).chain(&id.to_le_bytes()));
    }
    value
}

/// Gives a directory all that a directory hands on by way of rights.
fn bequeathing(dir: &Tree, path: &str) {
    dir.set_xattr(path, DEFAULT, &acl()).unwrap();
    dir.set_xattr(path, ACCESS, &acl()).unwrap();
    if who() == Who::Root {
        dir.chown(path, 0, 1234).unwrap();
    }
    dir.chmod(path, 0o2775).unwrap();
}

/// Where the rights stand.
const PLACES: [&str; 5] = ["nowhere", "work", "above both", "upper", "of an earlier run"];

fn stack(place: &str) -> Stack {
    let mut stack = Stack::new(1);
    let beneath = Tree::new(stack.scratch.dir("both"));
    if place == "above both" {
        bequeathing(&beneath, "");
    }
    ["upper", "work"].iter().for_each(|name| beneath.mkdir(name, 0o755).unwrap());
    match place {
        "work" => bequeathing(&beneath, "work"),
        "upper" => bequeathing(&beneath, "upper"),
        "of an earlier run" => {
            for name in ["work/work", "work/work/#1", "work/index"] {
                beneath.mkdir(name, 0o755).unwrap();
                bequeathing(&beneath, name);
            }
            beneath.write("work/work/#1/left", "x").unwrap();
        }
        _ => {}
    }
    stack.upper = Some(Layer::new(beneath.at("upper")));
    let lower = &stack.lowers[0];
    for name in ["data", "meta", "later", "moved", "linked", "d/f", "w/file", "w/dir", "w/link", "w/fifo", "w/moved"] {
        lower.file(name, "x").perm(name, 0o640);
    }
    lower.file("tree/f", "x").file("gone/f", "x").dir("moving", 0o750).dir("empty", 0o750);
    lower.hard_link("linked", "linked2").soft_link("x", "symlink").fifo("fifo").perm("fifo", 0o640);
    lower.dir("w", 0o755).dir("d", 0o750);
    stack
}

/// Everything that is built in workdir.
fn change(tree: &Tree) {
    with_umask(0o022, || {
        tree.append("data", "y").unwrap();
        for name in ["meta", "later", "fifo", "symlink", "d/f", "linked", "empty"] {
            tree.utimes(name, tree::OLD).unwrap();
        }
        tree.append("later", "y").unwrap();
        tree.rename("moved", "moved2").unwrap();
        tree.rename("moving", "d/moving").unwrap();
        for name in ["file", "dir", "link", "fifo", "moved"] {
            tree.unlink(format!("w/{name}")).unwrap();
        }
        drop(tree.create("w/file", 0o666).unwrap());
        tree.mkdir("w/dir", 0o777).unwrap();
        drop(tree.create("w/dir/f", 0o666).unwrap());
        tree.link("data", "w/link").unwrap();
        tree.mknod("w/fifo", FileType::Fifo, 0o666, 0).unwrap();
        tree.rename("linked2", "w/moved").unwrap();
        tree.remove_all("tree").unwrap();
        tree.mkdir("tree", 0o777).unwrap();
        drop(tree.create("tree/f", 0o666).unwrap());
        tree.remove_all("gone").unwrap();
        tree.symlink("target", "gone").unwrap();
        // In the upper layer from the first.
        drop(tree.create("new", 0o666).unwrap());
        tree.mkdir("newdir", 0o777).unwrap();
        tree.mkdir("newdir/d", 0o777).unwrap();
    });
}

fn mounted(stack: &Stack) -> Mount {
    let both = stack.scratch.path().join("both");
    let (lower, upper, work) = (stack.lowers[0].root(), both.join("upper"), both.join("work"));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"))
}

/// Nobody but who mounts may enter it, and it hands on nothing.
fn assert_private(work: &Tree, name: &str, case: &str) {
    let stat = work.stat(name).unwrap();
    let own = rustix::process::geteuid().as_raw();
    assert_eq!((stat.st_uid, stat.st_mode & 0o7077), (own, 0), "{case}: {name} in workdir");
    for key in [DEFAULT, ACCESS] {
        assert!(matches!(work.xattr(name, key), Err(Errno::NODATA | Errno::OPNOTSUPP)), "{case}: {key} of {name}");
    }
}

/// As with a workdir that hands on nothing, and as in the kernel's OverlayFS (which leaves on an index what it finds there).
/// fo1 and fo2 copy what workdir has.
pub fn rights_of_workdir_are_not_those_of_what_is_staged_there() -> Ran {
    if stack("nowhere").upper().set_xattr("", DEFAULT, &acl()).is_err() {
        return not_here("no ACLs on the file system of the tests");
    }
    let walk = Walk { foreign: true, ..Walk::default() };
    let seen = |place: &str| {
        let stack = stack(place);
        let mut mount = mounted(&stack);
        let work = Tree::new(stack.scratch.path().join("both/work"));
        assert_private(&work, "work", place);
        // While it lasts, too: a file that is gone, and still open.
        let open = mount.open("w/file", OFlags::RDONLY).unwrap();
        change(&mount);
        drop(open);
        let names: Vec<_> = ["work", "index"].into_iter().filter(|name| work.has(name)).collect();
        names.iter().for_each(|name| assert_private(&work, name, place));
        let view = View::of(&mount, walk);
        mount.remount();
        View::of(&mount, walk).assert_same(&view, place);
        mount.unmount();
        (view, View::of(stack.upper(), walk))
    };
    let (plain, plain_upper) = seen("nowhere");
    for place in PLACES {
        let (view, upper) = seen(place);
        if ["work", "of an earlier run"].contains(&place) {
            view.assert_same(&plain, place);
            upper.assert_same(&plain_upper, place);
        }
        let stack = stack(place);
        let both = stack.scratch.path().join("both");
        let lower = stack.lowers[0].root().display();
        let options = format!("lowerdir={lower},upperdir={0}/upper,workdir={0}/work", both.display());
        if place == "of an earlier run" {
            continue;
        }
        if let Ok(kernel) = Kernel::start(&options, &stack.scratch.dir("kernel")) {
            // What has a redirect there is a copy here where redirects cannot be had.
            if who() == Who::Root {
                change(&kernel);
                view.assert_same(&View::of(&kernel, walk), &format!("{place}: (tested, kernel)"));
            }
        }
    }
    Ok(())
}

/// One that another user's mount has made: he could enter it.
pub fn a_workdir_of_another_user_is_taken_from_him() -> Ran {
    if who() != Who::Root {
        return not_here("another user's directory is needed");
    }
    let stack = Stack::new(1);
    stack.lowers[0].file("f", "x");
    let work = Tree::new(stack.scratch.dir("work"));
    for name in ["work", "index"] {
        work.mkdir(name, 0o777).unwrap();
        work.chown(name, 1234, 1234).unwrap();
    }
    let mount = stack.mount();
    mount.append("f", "y").unwrap();
    ["work", "index"].iter().for_each(|name| assert_private(&work, name, "of another user"));
    Ok(())
}

/// A mount may hand on the group of every directory (`grpid`): as from the directory in which it is seen, not from workdir.
/// The kernel's OverlayFS gives that of workdir to what is made over a whiteout.
pub fn the_group_that_a_mount_hands_on_is_not_that_of_workdir() -> Ran {
    if who() != Who::Root {
        return not_here("a file system has to be mounted");
    }
    let scratch = Scratch::new();
    let system = System::native("ext4", &scratch)?;
    systems::run("mount", Command::new("mount").args(["-o", "remount,grpid"]).arg(system.root()))?;
    let tree = Tree::new(system.root());
    ["upper", "work", "lower"].iter().for_each(|name| tree.mkdir(name, 0o755).unwrap());
    tree.chown("work", 0, 1234).unwrap();
    let lower = Layer::new(tree.at("lower"));
    ["top", "copy", "d/f", "d/g"].iter().for_each(|name| _ = lower.file(name, "x"));
    lower.chown("d", 0, 4321).unwrap();
    lower.chown("copy", 0, 77).unwrap();
    let at = |name: &str| tree.at(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let mount = Mount::with(&options, &scratch.dir("merged"), &scratch.path().join("log"));
    mount.append("copy", "y").unwrap();
    ["top", "d/f", "d/g"].iter().for_each(|name| mount.unlink(name).unwrap());
    mount.write("top", "new").unwrap();
    mount.write("d/f", "new").unwrap();
    mount.mkdir("d/g", 0o755).unwrap();
    mount.write("d/new", "new").unwrap();
    let groups = ["copy", "top", "d", "d/f", "d/g", "d/new"].map(|name| mount.stat(name).unwrap().st_gid);
    assert_eq!(groups, [77, 0, 4321, 4321, 4321, 4321]);
    Ok(())
}

/// The project of a file or directory.
fn project(path: &Path) -> String {
    let out = Command::new("lsattr").arg("-dp").arg(path).output().unwrap();
    String::from_utf8_lossy(&out.stdout).split_whitespace().next().unwrap_or("?").to_owned()
}

type Words = &'static [&'static str];
type Flagged = (&'static str, Words, Words, &'static str, &'static str);

/// File system, what `chattr` sets on the workdir and on the upper layer, and what a copied file and directory have then:
/// how an object behaves is not handed on, how it is stored is, and the project is that of the upper layer.
const FLAGS: [Flagged; 6] = [
    ("ext4", &["+ASDd"], &[], " 0", " 0"),
    ("xfs", &["+ASd"], &[], " 0", " 0"),
    ("btrfs", &["+ASC"], &["+C"], "C 0", "C 0"),
    ("btrfs", &["+c"], &["+c"], "c 0", "c 0"),
    ("xfs", &[], &["-p", "42", "+P"], " 42", "P 42"),
    ("xfs", &["-p", "42", "+P"], &[], " 0", " 0"),
];

/// The kernel's OverlayFS hands on all flags; where upper and work differ in their project it answers EXDEV, or makes copies
/// that count on that of workdir.
pub fn flags_of_workdir_say_how_a_copy_is_stored_not_how_it_behaves() -> Ran {
    if who() != Who::Root {
        return not_here("file systems have to be mounted");
    }
    for (kind, of_work, of_upper, of_file, of_dir) in FLAGS {
        let case = format!("{kind} {of_work:?} {of_upper:?}");
        let scratch = Scratch::new();
        let system = match System::native(kind, &scratch) {
            Ok(system) => system,
            Err(why) => {
                say_skipped(&format!("{case}: {why}"));
                continue;
            }
        };
        let tree = Tree::new(system.root());
        ["upper", "work", "lower"].iter().for_each(|name| tree.mkdir(name, 0o755).unwrap());
        let lower = Layer::new(tree.at("lower"));
        lower.file("f", "x").file("d/f", "x").file("data", "x").file("gone", "x").file("linked", "x");
        lower.hard_link("linked", "linked2");
        for (name, words) in [("work", of_work), ("upper", of_upper)] {
            let set = |words: &[&str]| Command::new("chattr").args(words).arg(tree.at(name)).status().unwrap();
            assert!(words.is_empty() || set(words).success(), "{case}");
        }
        let at = |name: &str| tree.at(name).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let mount = Mount::with(&options, &scratch.dir("merged"), &scratch.path().join("log"));
        ["f", "d", "d/f", "linked"].iter().for_each(|name| mount.utimes(name, tree::OLD).unwrap());
        mount.append("data", "y").unwrap();
        mount.unlink("gone").unwrap();
        mount.mkdir("gone", 0o755).unwrap();
        mount.rename("d/f", "moved").unwrap();
        for (name, wanted) in [
            ("f", of_file),
            ("d", of_dir),
            ("moved", of_file),
            ("data", of_file),
            ("linked", of_file),
            ("gone", of_dir),
        ] {
            let path = format!("upper/{name}");
            let found = format!("{} {}", tree.flags(&path), project(&tree.at(&path)));
            assert_eq!(found, wanted, "{case}: {name}");
        }
    }
    Ok(())
}
