//! Maps by root: a table of operations, in plyfs and in the kernel's OverlayFS over idmapped layers.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, OFlags, Uid};

use crate::common::idmapped::{self, Ranges};
use crate::common::stack::Layer;
use crate::common::*;
use crate::ids;

/// Ids 0 to 999 of the layers are shown as 100000 and up.
const MAP: &Ranges = &[(0, 100_000, 1000)];
/// What is shown for an id that the map does not have.
const OVERFLOW: u32 = 65_534;

/// Layers with files of mapped and of unmapped owners; those of the upper one end in `-up`.
fn fill(stack: &Stack) {
    stack.lowers.iter().for_each(|layer| fill_layer(layer, ""));
    fill_layer(stack.upper(), "-up");
}

fn fill_layer(layer: &Layer, suffix: &str) {
    let name = |name: &str| format!("{name}{suffix}");
    for (file, owner) in [("target", (5, 6)), ("f", (5, 6)), ("private", (5, 6)), ("un", (7000, 6)), ("ung", (5, 7000))]
    {
        let file = if file == "target" { file.to_owned() } else { name(file) };
        layer.file(&file, "data").chown(&file, owner.0, owner.1).unwrap();
    }
    layer.perm(&name("private"), 0o640);
    layer.dir(&name("open"), 0o1777).dir(&name("d"), 0o755).chown(name("d"), 5, 6).unwrap();
    layer.dir(&name("sgid"), 0o755).chown(name("sgid"), 0, 6).unwrap();
    layer.perm(&name("sgid"), 0o2777);
    layer.soft_link("f", &name("l")).chown(name("l"), 5, 6).unwrap();
}

type Act = fn(&Tree, &str) -> Result<(), Errno>;

/// Who does it, in ids of the view; what; on which object; and what comes of it.
type Row = (u32, &'static str, Act, &'static str, Result<(), Errno>);

fn new_file(tree: &Tree, path: &str) -> Result<(), Errno> {
    tree.create(path, 0o644).map(drop)
}

fn chown_user(tree: &Tree, path: &str, uid: u32) -> Result<(), Errno> {
    rustix::fs::chownat(CWD, tree.at(path), Some(Uid::from_raw(uid)), None, AtFlags::SYMLINK_NOFOLLOW)
}

const ROOT: u32 = 0;
/// Root, and by his group not the daemon's own user.
const STRANGER: u32 = 1;
/// Root of the layers, as the view knows him.
const LAYERS_ROOT: u32 = 100_000;
/// The owner of the files.
const OWNER: u32 = 100_005;
const OTHER: u32 = 100_009;

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (ROOT, "reads", |t, p| t.read(p).map(drop), "f", Ok(())),
    (STRANGER, "creates", |t, p| new_file(t, &format!("{p}/new")), "open", Err(Errno::OVERFLOW)),
    (STRANGER, "makes a directory", |t, p| t.mkdir(format!("{p}/newdir"), 0o755), "open", Err(Errno::OVERFLOW)),
    (STRANGER, "makes a symlink", |t, p| t.symlink("x", format!("{p}/newlink")), "open", Err(Errno::OVERFLOW)),
    (LAYERS_ROOT, "creates", |t, p| new_file(t, &format!("{p}/new0")), "open", Ok(())),
    (OWNER, "creates", |t, p| new_file(t, &format!("{p}/new5")), "open", Ok(())),
    (OWNER, "creates in a directory of a group", |t, p| new_file(t, &format!("{p}/new5")), "sgid", Ok(())),
    (OWNER, "makes a directory", |t, p| t.mkdir(format!("{p}/dir5"), 0o755), "open", Ok(())),
    (OWNER, "makes a fifo", |t, p| t.mknod(format!("{p}/fifo5"), FileType::Fifo, 0o600, 0), "open", Ok(())),
    (OWNER, "makes a symlink", |t, p| t.symlink("x", format!("{p}/link5")), "open", Ok(())),
    (OWNER, "creates in his own", |t, p| new_file(t, &format!("{p}/new5")), "d", Ok(())),
    (OTHER, "creates in another's", |t, p| new_file(t, &format!("{p}/new9")), "d", Err(Errno::ACCESS)),
    (OWNER, "appends", |t, p| t.append(p, "x"), "f", Ok(())),
    (OTHER, "appends", |t, p| t.append(p, "x"), "f", Err(Errno::ACCESS)),
    (OTHER, "reads what is closed", |t, p| t.read(p).map(drop), "private", Err(Errno::ACCESS)),
    (OWNER, "reads what is his", |t, p| t.read(p).map(drop), "private", Ok(())),
    (OWNER, "chmod", |t, p| t.chmod(p, 0o600), "f", Ok(())),
    (OTHER, "chmod", |t, p| t.chmod(p, 0o600), "f", Err(Errno::PERM)),
    (ROOT, "chown", |t, p| t.chown(p, 100_008, 100_009), "f", Ok(())),
    (ROOT, "chown of a symlink", |t, p| t.chown(p, 100_008, 100_009), "l", Ok(())),
    (ROOT, "chown to an unmapped user", |t, p| chown_user(t, p, 8), "f", Err(Errno::OVERFLOW)),
    (ROOT, "chown to an unmapped group", |t, p| t.chown(p, 100_008, 8), "f", Err(Errno::OVERFLOW)),
    (ROOT, "chown to the overflow id", |t, p| chown_user(t, p, OVERFLOW), "f", Err(Errno::OVERFLOW)),
    (OWNER, "chown", |t, p| chown_user(t, p, 100_008), "d", Err(Errno::PERM)),
    (ROOT, "reads what is nobody's", |t, p| t.read(p).map(drop), "un", Ok(())),
    (ROOT, "appends to what is nobody's", |t, p| t.append(p, "x"), "un", Err(Errno::ACCESS)),
    (ROOT, "appends to what is no group's", |t, p| t.append(p, "x"), "ung", Err(Errno::ACCESS)),
    (ROOT, "chmod of what is nobody's", |t, p| t.chmod(p, 0o600), "un", Err(Errno::OVERFLOW)),
    (ROOT, "utimes of what is nobody's", |t, p| t.utimes(p, tree::OLD), "un", Err(Errno::OVERFLOW)),
    (ROOT, "chown of what is no group's", |t, p| chown_user(t, p, 100_001), "ung", Err(Errno::OVERFLOW)),
    (ROOT, "chown, whole, of what is no group's", |t, p| t.chown(p, OTHER, OTHER), "ung", Err(Errno::PERM)),
    (OTHER, "chown of what is nobody's", |t, p| t.chown(p, OTHER, OTHER), "un", Err(Errno::PERM)),
    (ROOT, "setxattr of what is nobody's", |t, p| t.set_xattr(p, "user.a", b"1"), "un", Err(Errno::PERM)),
    (ROOT, "link of what is nobody's", |t, p| t.link(p, format!("{p}.linked")), "un", Err(Errno::OVERFLOW)),
    (ROOT, "rename of what is nobody's", |t, p| t.rename(p, format!("{p}.renamed")), "un", Err(Errno::OVERFLOW)),
    (ROOT, "unlink of what is nobody's", |t, p| t.unlink(p), "un", Err(Errno::OVERFLOW)),
    (ROOT, "chown of what is nobody's, as root of the file system's namespace", |t, p| chown_user(t, p, OTHER), "un", Ok(())),
    (STRANGER, "link", |t, p| t.link(p, format!("{p}.linked")), "private", Err(Errno::OVERFLOW)),
    (STRANGER, "rename", |t, p| t.rename(p, format!("{p}.new")), "private", Err(Errno::OVERFLOW)),
    (ROOT, "rename over a name", |t, p| t.rename(p, "target"), "l", Ok(())),
    (OWNER, "link", |t, p| t.link(p, format!("open/{p}.linked")), "private", Ok(())),
    (OWNER, "rename", |t, p| t.rename(format!("{p}/new5"), format!("{p}/newer5")), "d", Ok(())),
];

/// Does the rows, and says what came of each.
fn run(tree: &Tree) -> Vec<(String, Result<(), Errno>)> {
    let mut told = Vec::new();
    for suffix in ["", "-up"] {
        for (who, what, act, path, _) in ROWS {
            let path = format!("{path}{suffix}");
            let done = match *who {
                ROOT => act(tree, &path),
                STRANGER => as_user(ROOT, STRANGER, || act(tree, &path)),
                who => as_user(who, who, || act(tree, &path)),
            };
            told.push((format!("{who} {what}: {path}"), done));
        }
    }
    told
}

/// Owners of all objects.
fn owners(tree: &Tree) -> Vec<String> {
    fn walk(tree: &Tree, dir: &str, all: &mut Vec<String>) {
        for name in tree.names(dir).unwrap() {
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let stat = tree.stat(&path).unwrap();
            all.push(format!("{path} {}:{} {:o}", stat.st_uid, stat.st_gid, stat.st_mode));
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                walk(tree, &path, all);
            }
        }
    }
    let mut all = Vec::new();
    walk(tree, "", &mut all);
    all
}

fn mapped(lowers: usize) -> Stack {
    let words = idmapped::words(MAP);
    Stack::new(lowers).option(&format!("uidmapping=:{words},gidmapping={words}"))
}

/// The kernel's OverlayFS cannot be asked: its own rights in workdir are those of root, whom the map does not have.
#[test]
fn each_operation_under_a_map_does_what_an_idmapped_mount_does() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = mapped(1);
        fill(&stack);
        let mut mount = stack.mount();
        let (told, seen) = (run(&mount), owners(&mount));
        for ((what, done), (.., expected)) in told.iter().zip(ROWS.iter().cycle()) {
            assert_eq!(done, expected, "{what}");
        }
        mount.remount();
        assert_eq!(owners(&mount), seen, "after a remount");
        // All of it in one directory.
        let plain = Stack::read_only(1);
        let layer = &plain.lowers[0];
        ["", "-up"].iter().for_each(|suffix| fill_layer(layer, suffix));
        let bind = idmapped::bind(layer.root(), &plain.merged, MAP, MAP);
        let Ok(_bind) = bind.inspect_err(|error| say_skipped(&format!("no idmapped mount: {error}"))) else { return };
        let kernel = Tree::new(&plain.merged);
        for ((what, done), (_, by_kernel)) in told.iter().zip(run(&kernel)) {
            assert_eq!(*done, by_kernel, "{what}");
        }
        assert_eq!(seen, owners(&kernel));
    });
}

/// Podman of root makes files for a container in a view of which he is no part. An idmapped mount refuses them (EOVERFLOW).
#[test]
fn what_the_daemons_own_user_makes_under_a_map_is_his_in_the_layers() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        for (map, own) in [
            ("uidmapping=:0:100000:1000,gidmapping=:0:100000:1000", (100_000, 100_000)),
            ("uidmapping=:0:100000:1000", (100_000, 0)),
            ("gidmapping=:0:100000:1000,xattr_permissions=2", (0, 100_000)),
        ] {
            let stack = Stack::new(1).option(map);
            stack.lowers[0].file("f", "x").file("gone", "x");
            let mut mount = stack.mount();
            mount.symlink("/proc/mounts", "mtab").unwrap();
            mount.mkdir("dir", 0o755).unwrap();
            mount.write("dir/new", "x").unwrap();
            mount.link("f", "dir/linked").unwrap();
            mount.rename("f", "dir/moved").unwrap();
            mount.unlink("gone").unwrap();
            mount.mknod("gone", FileType::Fifo, 0o600, 0).unwrap();
            for _ in 0..2 {
                for path in ["mtab", "dir", "dir/new", "dir/linked", "dir/moved", "gone"] {
                    assert_eq!((ids(&mount, path), ids(stack.upper(), path)), (own, (0, 0)), "{path} with {map}");
                }
                mount.remount();
            }
        }
        // What would be nobody's is not made.
        let stack = Stack::new(1).option("uidmapping=:5:100000:1000,gidmapping=:5:100000:1000");
        let mount = stack.mount();
        let done = mount.mkdir("dir", 0o755);
        assert!(matches!(done, Err(Errno::OVERFLOW | Errno::ACCESS)), "{done:?}");
        assert!(!stack.upper().has("dir"));
    });
}

#[test]
fn what_is_shown_is_what_the_map_says_and_the_layers_keep_their_own() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = mapped(2);
        fill(&stack);
        let mut mount = stack.mount();
        for suffix in ["", "-up"] {
            let at = |name: &str| format!("{name}{suffix}");
            for (name, shown) in [
                ("f", (100_005, 100_006)),
                ("d", (100_005, 100_006)),
                ("l", (100_005, 100_006)),
                ("un", (OVERFLOW, 100_006)),
                ("ung", (100_005, OVERFLOW)),
            ] {
                assert_eq!(ids(&mount, &at(name)), shown, "{name}");
            }
        }
        // Copies keep the layer's owner, however they come about.
        mount.append("f", "x").unwrap();
        mount.chmod("private", 0o600).unwrap();
        as_user(OWNER, 100_006, || new_file(&mount, "d/below")).unwrap();
        as_user(LAYERS_ROOT, LAYERS_ROOT, || mount.rename("l", "l2")).unwrap();
        for _ in 0..2 {
            for (name, disk) in [("f", (5, 6)), ("private", (5, 6)), ("d", (5, 6)), ("d/below", (5, 6)), ("l2", (5, 6))]
            {
                assert_eq!(ids(stack.upper(), name), disk, "{name}");
                assert_eq!(ids(&mount, name), (disk.0 + 100_000, disk.1 + 100_000), "{name}");
            }
            mount.remount();
        }
        mount.chown("private", 100_001, 100_002).unwrap();
        assert_eq!((ids(stack.upper(), "private"), ids(&mount, "private")), ((1, 2), (100_001, 100_002)));
        for (layer, before) in stack.lowers.iter().zip([(5, 6), (5, 6)]) {
            assert_eq!(ids(layer, "f"), before, "a lower layer is never changed");
        }
    });
}

/// As for `podman diff` and an image that is only looked at.
#[test]
fn a_view_that_nobody_can_change_shows_mapped_owners() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let words = idmapped::words(MAP);
        let stack = Stack::read_only(2).option(&format!("uidmapping={words},gidmapping={words}"));
        stack.lowers[0].file("d/f", "").chown("d/f", 5, 6).unwrap();
        stack.lowers[1].file("d/g", "").chown("d/g", 7000, 7).unwrap();
        let mount = stack.mount();
        assert_eq!((ids(&mount, "d/f"), ids(&mount, "d/g")), ((100_005, 100_006), (OVERFLOW, 100_007)));
        assert_eq!(mount.chown("d/f", 100_001, 100_001), Err(Errno::ROFS));
    });
}

/// Listings carry the attributes, too (READDIRPLUS), and fstat(2) goes by the inode.
#[test]
fn a_listing_and_an_open_file_show_mapped_owners() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        let stack = mapped(1);
        for n in 0..300_u32 {
            stack.lowers[0].file(&format!("d/{n}"), "").chown(format!("d/{n}"), n, n + 1).unwrap();
        }
        let mount = stack.mount();
        let owners: Vec<_> = mount.names("d").unwrap().iter().map(|name| ids(&mount, &format!("d/{name}"))).collect();
        assert_eq!(owners.len(), 300);
        for (uid, gid) in owners {
            assert_eq!((uid >= 100_000, gid), (true, uid + 1));
        }
        let fd: OwnedFd = mount.open("d/7", OFlags::RDONLY).unwrap();
        mount.unlink("d/7").unwrap();
        let stat = rustix::fs::fstat(&fd).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid), (100_007, 100_008));
        rustix::fs::fchown(&fd, Some(Uid::from_raw(100_003)), None).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_uid, 100_003);
        assert_eq!(rustix::fs::fchown(&fd, Some(Uid::from_raw(3)), None), Err(Errno::OVERFLOW));
        // A directory that is gone keeps its attributes in memory.
        as_user(ROOT, STRANGER, || mount.mkdir("gone", 0o777)).unwrap_err();
        as_user(LAYERS_ROOT, LAYERS_ROOT, || mount.mkdir("gone", 0o777)).unwrap();
        let fd: OwnedFd = mount.open("gone", OFlags::RDONLY).unwrap();
        mount.rmdir("gone").unwrap();
        rustix::fs::fchown(&fd, Some(Uid::from_raw(100_003)), None).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_uid, 100_003);
        assert_eq!(rustix::fs::fchown(&fd, Some(Uid::from_raw(3)), None), Err(Errno::OVERFLOW));
    });
}

/// An argument has room for some 128 KiB.
#[test]
fn thousands_of_ranges_are_looked_up() {
    bounded(|| {
        if who() != Who::Root {
            return;
        }
        // Every second id, and the view in reverse.
        let ranges: Vec<_> = (60_000..65_536).map(|n| (2 * n, 1_000_000 - 2 * n, 1)).collect();
        let stack = Stack::new(1).option(&format!("uidmapping={}", idmapped::words(&ranges)));
        stack.lowers[0].file("f", "").chown("f", 131_070, 2).unwrap();
        stack.lowers[0].file("un", "").chown("un", 131_069, 2).unwrap();
        let mount = stack.mount();
        assert_eq!(ids(&mount, "f"), (1_000_000 - 131_070, 2));
        assert_eq!(ids(&mount, "un"), (OVERFLOW, 2));
    });
}

#[test]
fn a_map_that_is_none_is_refused_before_anything_is_mounted() {
    bounded(|| {
        for (option, reason) in [
            ("uidmapping=0:1", "uidmapping: 2 numbers"),
            ("gidmapping=0:1:2:1:9:1", "gidmapping: the id 1 of the layers stands in two ranges"),
            ("gidmapping=0:1:2,squash_to_root", "gidmapping: contradicts squash_to_root"),
            ("squash_to_uid=x", "squash_to_uid=x: not an id"),
        ] {
            let stack = Stack::new(1);
            let options = format!("{},{option}", stack.layer_options("work"));
            let log = stack.scratch.path().join("log");
            let told = Mount::try_with(&options, &stack.merged, &log).err().unwrap();
            assert!(told.contains(reason), "{option}: {told}");
            assert!(!stack.scratch.path().join("work/work").exists(), "{option}: nothing was begun");
        }
    });
}
