//! Owners, modes and types that an upper layer keeps in attributes (`xattr_permissions=`): the engine without a mount, then
//! mounts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "common/mod.rs"]
mod common;
#[path = "common/engine.rs"]
mod engine;

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use plyfs::Union;
use plyfs::config::{Config, UpperDirs, XattrPermissions};
use plyfs::testing::seam::{Call, Plan, traced, with_plan};
use plyfs::union::{Attr, Caller, InodeId, Kind, Make, Notices, RenameFlags, SetAttr, ViewGid, ViewUid};
use rustix::fs::FileType;

use common::*;
use engine::{Engine, config, name};

const MARK: &str = "user.containers.override_stat";

/// Over `base/lower`, with an upper layer that is marked.
fn open(base: &Path) -> Union {
    let xattr_permissions = Some(XattrPermissions::Containers);
    Union::open(Config { xattr_permissions, ..config(&base.join("lower"), base) }).unwrap()
}

fn layers() -> Scratch {
    let scratch = Scratch::new();
    ["lower", "upper", "work"].iter().for_each(|dir| drop(scratch.dir(dir)));
    scratch
}

/// Somebody who is not the daemon.
fn stranger() -> Caller {
    Caller { uid: ViewUid(5), gid: ViewGid(6), pid: 0, umask: 0o022, ..Caller::this_process() }
}

fn shown(attr: Attr) -> String {
    let Attr { kind, mode, uid, gid, rdev, .. } = attr;
    let device = if rdev == 0 { String::new() } else { format!(" {}:{}", libc::major(rdev), libc::minor(rdev)) };
    format!("{kind:?} {mode:o} {}:{}{device}", uid.0, gid.0)
}

fn look(union: &Union, path: &str) -> (InodeId, String) {
    let mut id = InodeId::ROOT;
    for part in path.split('/') {
        id = union.lookup(id, &name(part)).unwrap().unwrap_or_else(|| panic!("no {path}")).id;
    }
    (id, shown(union.getattr(id).unwrap()))
}

/// The mark as it stands in the upper layer, and the type and mode of what has it.
fn on_disk(base: &Path, path: &str) -> String {
    let at = base.join("upper").join(path);
    let stat = std::fs::symlink_metadata(&at).unwrap();
    let mut value = [0; 64];
    let mark = match rustix::fs::lgetxattr(&at, MARK, &mut value[..]) {
        Ok(len) => String::from_utf8(value[..len].to_vec()).unwrap(),
        Err(_) => "none".into(),
    };
    assert_eq!(stat.uid(), rustix::process::geteuid().as_raw(), "{path} belongs to somebody else");
    let kind = format!("{:?}", FileType::from_raw_mode(stat.mode())).to_lowercase();
    format!("{mark}, {kind} {:o}", stat.mode() & 0o7777)
}

#[test]
fn what_is_made_stands_in_marks() {
    let scratch = layers();
    let base = scratch.path();
    let target: &CStr = c"to/it";
    let dir = |mode| Make::Dir { mode };
    let node = |kind: u32, mode, major, minor| Make::Node { mode: kind | mode, rdev: libc::makedev(major, minor) };
    let table: Vec<(&str, Make<'_>, &str, &str)> = vec![
        ("f", Make::File { mode: 0o4666 }, "File 4644 5:6", "5:6:4644:file, regularfile 644"),
        ("closed", Make::File { mode: 0 }, "File 0 5:6", "5:6:0000:file, regularfile 600"),
        ("d", dir(0o2777), "Dir 2755 5:6", "5:6:2755:dir, directory 755"),
        ("n", node(libc::S_IFREG, 0o640, 0, 0), "File 640 5:6", "5:6:0640:file, regularfile 600"),
        ("null", node(libc::S_IFCHR, 0o666, 1, 3), "Char 644 5:6 1:3", "5:6:0644:char-1-3, regularfile 644"),
        ("disk", node(libc::S_IFBLK, 0o660, 8, 1), "Block 640 5:6 8:1", "5:6:0640:block-8-1, regularfile 600"),
        ("zero", node(libc::S_IFCHR, 0o600, 0, 0), "Char 600 5:6", "5:6:0600:file, regularfile 600"),
        ("pipe", node(libc::S_IFIFO, 0o622, 0, 0), "Fifo 600 5:6", "5:6:0600:pipe, regularfile 600"),
        ("socket", node(libc::S_IFSOCK, 0o700, 0, 0), "Socket 700 5:6", "5:6:0700:socket, regularfile 600"),
        ("s", Make::Symlink { target }, "Symlink 777 5:6", "5:6:0777:symlink, regularfile 655"),
    ];
    let union = open(base);
    for (path, what, expected, _) in &table {
        let entry = union.make(&stranger(), InodeId::ROOT, &name(path), *what).unwrap();
        assert_eq!(shown(entry.attr), *expected, "{path} when it is made");
    }
    // In a directory with set-group-id the group is the directory's.
    let (d, _) = look(&union, "d");
    let other = Caller { gid: ViewGid(7), ..stranger() };
    for (path, what, expected) in [("f", Make::File { mode: 0o644 }, "File 644 5:6"), ("e", dir(0o755), "Dir 2755 5:6")]
    {
        assert_eq!(shown(union.make(&other, d, &name(path), what).unwrap().attr), expected, "d/{path}");
    }
    // The daemon's own symlinks are symlinks, which other programs read.
    let own = union.make(&Caller::this_process(), InodeId::ROOT, &name("own"), Make::Symlink { target }).unwrap();
    assert_eq!((own.attr.kind, on_disk(base, "own")), (Kind::Symlink, "none, symlink 777".into()));
    drop(union);
    let union = open(base);
    for (path, _, expected, disk) in &table {
        assert_eq!((look(&union, path).1, on_disk(base, path)), ((*expected).to_owned(), (*disk).to_owned()), "{path}");
    }
    for path in ["s", "own"] {
        assert_eq!(union.readlink(look(&union, path).0).unwrap(), target.to_bytes(), "{path}");
    }
}

#[test]
fn changes_of_owner_and_mode_are_marks() {
    let scratch = layers();
    let base = scratch.path();
    std::fs::write(base.join("lower/low"), "low").unwrap();
    std::os::unix::fs::symlink("to/it", base.join("lower/link")).unwrap();
    let union = open(base);
    let (me, root) = (Caller::this_process(), InodeId::ROOT);
    let file = union.make(&me, root, &name("f"), Make::File { mode: 0o644 }).unwrap().id;
    let link = union.make(&me, root, &name("s"), Make::Symlink { target: c"to/it" }).unwrap().id;
    let pipe = union.make(&me, root, &name("p"), Make::Node { mode: libc::S_IFIFO | 0o644, rdev: 0 }).unwrap().id;
    let (low, lower_link) = (look(&union, "low").0, look(&union, "link").0);
    let set = |id, mode, uid: Option<u32>, gid: Option<u32>| {
        let (uid, gid) = (uid.map(ViewUid), gid.map(ViewGid));
        shown(union.setattr(&me, id, &SetAttr { mode, uid, gid, ..SetAttr::default() }).unwrap())
    };
    assert_eq!(set(file, Some(0o4711), Some(5), Some(6)), "File 4711 5:6");
    assert_eq!(set(file, None, Some(7), None), "File 711 7:6", "a new owner ends set-user-id");
    assert_eq!(set(file, Some(0o6700), None, None), "File 6700 7:6");
    assert_eq!(on_disk(base, "f"), "7:6:6700:file, regularfile 600", "others may not read it on disk either");
    assert_eq!(set(pipe, Some(0o600), Some(5), None), format!("Fifo 600 5:{}", me.gid.0));
    assert_eq!(set(low, Some(0o600), Some(5), Some(6)), "File 600 5:6");
    assert_eq!(set(link, None, Some(5), Some(6)), "Symlink 777 5:6");
    assert_eq!(set(lower_link, None, Some(5), Some(6)), "Symlink 777 5:6");
    assert_eq!(on_disk(base, "s"), "5:6:0777:symlink, regularfile 655");
    let expected = [
        ("f", "File 6700 7:6".to_owned()),
        ("p", format!("Fifo 600 5:{}", me.gid.0)),
        ("low", "File 600 5:6".into()),
        ("s", "Symlink 777 5:6".into()),
        ("link", "Symlink 777 5:6".into()),
    ];
    let check = |union: Union| {
        for (path, expected) in &expected {
            assert_eq!(&look(&union, path).1, expected, "{path}");
        }
        for path in ["s", "link"] {
            assert_eq!(union.readlink(look(&union, path).0).unwrap(), b"to/it", "{path}");
        }
    };
    check(union);
    check(open(base));
}

/// The root says how the layer is written, whatever option it was mounted with.
#[test]
fn an_upper_layer_whose_root_has_a_mark_is_written_so_without_the_option() {
    let scratch = layers();
    let base = scratch.path();
    drop(open(base));
    let plain = || Union::open(config(&base.join("lower"), base));
    let union = plain().unwrap();
    union.make(&stranger(), InodeId::ROOT, &name("f"), Make::File { mode: 0o600 }).unwrap();
    assert_eq!(on_disk(base, "f"), "5:6:0600:file, regularfile 600");
    drop(union);
    let security = Some(XattrPermissions::Security);
    let refused = Union::open(Config { xattr_permissions: security, ..config(&base.join("lower"), base) });
    let error = refused.err().unwrap();
    let why = if who() == Who::Root { MARK } else { "only root" };
    assert!(error.what == "xattr_permissions=1" && error.reason.contains(why), "{error:?}");
    assert!(plain().unwrap().effect().xattr_permissions == Some("2"));
    let UpperDirs { dir, .. } = config(&base.join("lower"), base).upper.unwrap();
    rustix::fs::setxattr(dir, MARK, b"0:0:door", rustix::fs::XattrFlags::empty()).unwrap();
    assert!(plain().is_err(), "a root with a broken mark");
}

/// A look at an object takes several calls; here the object is changed before each of them.
#[test]
fn a_file_that_is_written_all_the_time_can_be_looked_at() {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let scratch = layers();
    let union = open(scratch.path());
    let file = union.make(&stranger(), InodeId::ROOT, &name("f"), Make::File { mode: 0o640 }).unwrap().id;
    FILE.set(scratch.path().join("upper/f")).unwrap();
    let write = || {
        // Longer than a tick of the clock for time stamps.
        std::thread::sleep(Duration::from_millis(12));
        std::fs::write(FILE.get().unwrap(), "x").unwrap();
    };
    let (seen, calls) = with_plan(Plan::count().each(write), || union.getattr(file));
    assert_eq!((seen.map(shown), calls > 3), (Ok("File 640 5:6".into()), true));
}

/// A lower directory that cannot be listed is not known to be empty.
#[test]
fn a_refused_rmdir_leaves_the_mode_on_disk() {
    if who() != Who::User {
        return;
    }
    let scratch = layers();
    let base = scratch.path();
    let [lower, upper] = ["lower", "upper"].map(|layer| stack::Layer::new(base.join(layer)));
    lower.dir("d", 0o300);
    upper.with_xattr("", MARK, b"0:0:0755:dir").dir("d", 0o755).with_xattr("d", MARK, b"5:6:0077:dir");
    let engine = Engine::around(open(base));
    assert_eq!(engine.rmdir("d"), Err(plyfs::Errno::EACCES));
    lower.perm("d", 0o700);
    assert_eq!(on_disk(base, "d"), "5:6:0077:dir, directory 755");
}

/// Collects what the kernel is told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<InodeId>>>);

impl Notices for Told {
    fn names_changed(&self, _: InodeId) {}

    fn name_changed(&self, _: InodeId, _: &plyfs::Name) {}

    fn attributes_changed(&self, id: InodeId) {
        self.0.lock().unwrap().push(id);
    }
}

/// A file takes the symlink's place, and nothing else is seen to change.
#[test]
fn a_new_owner_of_a_symlink_leaves_all_else_as_it_was() {
    let scratch = layers();
    let base = scratch.path();
    let lower = stack::Layer::new(base.join("lower"));
    lower.soft_link("to/it", "d/s");
    let root = who() == Who::Root;
    if root {
        lower.with_xattr("d/s", "trusted.x", b"v");
    }
    let told = Told::default();
    let union = open(base);
    union.set_notices(Box::new(told.clone()));
    let engine = Engine::around(union);
    // The copy is there before.
    engine.rename("d/s", "d/t").unwrap();
    engine.utimes("d", 5).unwrap();
    let (dir, before) = (engine.id("d").unwrap(), engine.attr("d/t").unwrap());
    told.0.lock().unwrap().clear();
    engine.chown("d/t", 5, 6).unwrap();
    assert_eq!(on_disk(base, "d/t"), "5:6:0777:symlink, regularfile 655");
    assert_eq!(engine.attr("d").unwrap().mtime.sec, 5, "the directory's");
    assert!(told.0.lock().unwrap().contains(&dir), "its time of change is a new one");
    drop(engine);
    let engine = Engine::around(open(base));
    let after = engine.attr("d/t").unwrap();
    assert_eq!((shown(after), after.mtime), ("Symlink 777 5:6".into(), before.mtime));
    if root {
        assert_eq!(after.id, before.id);
        assert_eq!(engine.0.getxattr(engine.id("d/t").unwrap(), b"trusted.x").unwrap(), b"v");
    }
}

/// An overlay on top of this one leaves its whiteouts so.
#[test]
fn the_device_that_a_rename_leaves_can_be_looked_at_and_removed() {
    let scratch = layers();
    let base = scratch.path();
    let engine = Engine::around(open(base));
    let me = Caller::this_process();
    engine.create("f").unwrap();
    engine.rename_with("f", "g", RenameFlags::WHITEOUT).unwrap();
    let device = format!("Char 0 {}:{}", me.uid.0, me.gid.0);
    assert_eq!(engine.attr("f").map(shown), Ok(device));
    assert_eq!(on_disk(base, "f"), format!("{}:{}:0000:file, regularfile 600", me.uid.0, me.gid.0));
    engine.unlink("f").unwrap();
    // A file of mode 0 that another program left: the daemon may not read its mark, which may be one.
    stack::Layer::new(base.join("upper")).file("closed", "x").perm("closed", 0);
    assert_eq!(engine.attr("closed").map(|attr| (attr.kind, attr.mode)), Ok((Kind::File, 0)));
    engine.rename("closed", "moved").unwrap();
    engine.unlink("moved").unwrap();
}

/// Objects that stood in the upper layer before it had marks are shown as they are on disk, which gets a mode of its own.
#[test]
fn an_end_in_a_change_of_mode_shows_the_old_or_the_new_one_and_nothing_wider_on_disk() {
    for (path, before, after) in [("f", 0o666, 0o640), ("f", 0o600, 0o644), ("d", 0o777, 0o710), ("d", 0o755, 0o1755)] {
        let (mut at, mut seen) = (0, std::collections::BTreeSet::new());
        loop {
            let scratch = layers();
            let base = scratch.path();
            let upper = stack::Layer::new(base.join("upper"));
            if path == "d" {
                upper.dir("d", before)
            } else {
                upper.file("f", "x").perm("f", before)
            };
            let engine = Engine::around(open(base));
            engine.attr(path).unwrap();
            let (_, calls) = with_plan(Plan::dead_from(at), || engine.chmod(path, after));
            with_plan(Plan::dead_from(0), || drop(engine));
            let engine = Engine::around(open(base));
            let shown = engine.attr(path).unwrap().mode;
            assert!([before, after].contains(&shown), "{path}: {before:o}, {after:o}: {shown:o} from call {at} on");
            let disk = std::fs::symlink_metadata(upper.at(path)).unwrap().mode() & 0o7777;
            assert_eq!(disk & !shown & 0o077, 0, "{path}: {disk:o} on disk, {shown:o} shown, from call {at} on");
            seen.insert(shown);
            if at >= calls {
                break;
            }
            at += 1;
        }
        assert_eq!(seen.len(), 2, "{path}: {before:o} to {after:o}");
    }
}

/// Somebody else could put another object in the place of the first between two looks, so that one look has all.
#[test]
fn a_mark_is_read_once_where_others_may_write_it_too() {
    let reads = |doubts_marks| {
        let scratch = layers();
        let base = scratch.path();
        let lower = stack::Layer::new(base.join("lower"));
        lower.with_xattr("", MARK, b"0:0:0755:dir").file("f", "f").with_xattr("f", MARK, b"5:6:0640:file");
        let lower = base.join("lower");
        let union = Union::open(Config { lowers: vec![lower], doubts_marks, ..Config::default() }).unwrap();
        let (entry, calls) = traced(|| union.lookup(InodeId::ROOT, &name("f")).unwrap().unwrap());
        assert_eq!(shown(entry.attr), "File 640 5:6");
        calls.iter().filter(|call| **call == Call::GetXattr).count()
    };
    assert_eq!(reads(true), reads(false));
}

/// `user.*` does not go on a symlink on disk, and a label of the host's is no data of the user's.
#[test]
fn a_symlink_with_a_security_label_is_copied_up() {
    if who() != Who::Root {
        return;
    }
    let scratch = layers();
    let base = scratch.path();
    stack::Layer::new(base.join("lower")).soft_link("to/it", "s").with_xattr("s", "security.y", b"y");
    let engine = Engine::around(open(base));
    engine.rename("s", "t").unwrap();
    assert_eq!(on_disk(base, "t"), "none, symlink 777");
}

/// What programs do, and what it is after a remount.
#[test]
fn a_view_with_owners_in_attributes_is_like_any_other() {
    bounded(|| {
        let values: &[&str] = if who() == Who::Root { &["1", "2"] } else { &["2"] };
        for value in values {
            let stack = Stack::new(1).option(&format!("xattr_permissions={value}"));
            stack.lowers[0].file("low", "low").perm("low", 0o640).file("d/gone", "x").soft_link("to/it", "link");
            let mut mount = stack.mount();
            mount.write("f", "f").unwrap();
            mount.chmod("f", 0o4604).unwrap();
            mount.mkdir("new", 0o1777).unwrap();
            mount.mknod("new/pipe", FileType::Fifo, 0o600, 0).unwrap();
            mount.symlink("somewhere", "new/s").unwrap();
            mount.append("low", "+").unwrap();
            mount.chmod("low", 0o600).unwrap();
            mount.link("low", "new/low").unwrap();
            mount.unlink("d/gone").unwrap();
            mount.rename("link", "new/link").unwrap();
            mount.rename("d", "new/d").unwrap();
            mount.set_xattr("f", "user.a", b"v").unwrap();
            assert_eq!(mount.set_xattr("f", "system.posix_acl_access", &[2, 0, 0, 0]), Err(Errno::OPNOTSUPP));
            if who() == Who::Root {
                mount.chown("new/low", 5, 6).unwrap();
                mount.chown("new/s", 5, 6).unwrap();
                mount.mknod("null", FileType::CharacterDevice, 0o666, rustix::fs::makedev(1, 3)).unwrap();
                mount.write("null", "nothing").unwrap();
                mount.set_xattr("f", "security.x", b"v").unwrap();
            }
            let before = View::of(&mount, Walk::default());
            mount.remount();
            View::of(&mount, Walk::default()).assert_same(&before, "after a remount");
            let stat = |path| mount.stat(path).map(|st| (st.st_mode & 0o7777, st.st_nlink)).unwrap();
            assert_eq!((stat("f"), stat("low"), stat("new/pipe")), ((0o4604, 1), (0o600, 2), (0o600, 1)));
            assert_eq!((mount.text("new/low"), mount.names("new/d").unwrap()), ("low+".into(), vec![]));
            if who() == Who::Root {
                let (low, null) = (mount.stat("low").unwrap(), mount.stat("null").unwrap());
                assert_eq!((low.st_uid, low.st_gid, null.st_rdev), (5, 6, rustix::fs::makedev(1, 3)));
                assert_eq!(mount.xattrs("f").unwrap(), [b"security.x".to_vec(), b"user.a".to_vec()]);
                assert_eq!(stack.upper().stat("low").unwrap().st_uid, 0);
            }
        }
    });
}

/// What a mark says is what the layer has: that is what is mapped, and what is written is mapped back.
#[test]
fn marks_hold_the_ids_of_the_layers_under_a_map() {
    bounded(|| {
        if who() != Who::Root {
            skip!("only root shows other users' ids");
        }
        let stack = Stack::new(1).option("xattr_permissions=2,uidmapping=0:1000:100,gidmapping=0:2000:100");
        stack.lowers[0].with_xattr("", MARK, b"0:0:0755:dir").file("f", "f").with_xattr("f", MARK, b"5:6:0640:file");
        stack.lowers[0].file("other", "x").with_xattr("other", MARK, b"500:6:0600:file");
        let mut mount = stack.mount();
        let ids = |mount: &Mount, path| mount.stat(path).map(|st| (st.st_uid, st.st_gid)).unwrap();
        assert_eq!((ids(&mount, "f"), ids(&mount, "other")), ((1005, 2006), (65534, 2006)));
        mount.chown("f", 1007, 2008).unwrap();
        assert_eq!(mount.chown("f", 7, 2008), Err(Errno::OVERFLOW));
        assert_eq!(on_disk(stack.scratch.path(), "f"), "7:8:0640:file, regularfile 600");
        mount.remount();
        assert_eq!(ids(&mount, "f"), (1007, 2008));
    });
}

/// A home below a directory of root's, as every user's is.
#[test]
fn a_normal_user_changes_what_lies_below_directories_of_others() {
    if who() != Who::Root {
        skip!("root makes the directories");
    }
    let scratch = layers();
    let base = scratch.path();
    let (user, group) = legs::user();
    std::fs::set_permissions(base, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let own = |path: &str| std::os::unix::fs::chown(base.join(path), Some(user), Some(group)).unwrap();
    std::fs::create_dir_all(base.join("lower/home/user/dir")).unwrap();
    std::fs::write(base.join("lower/home/user/dir/file"), "x").unwrap();
    ["lower/home/user", "lower/home/user/dir", "lower/home/user/dir/file", "upper", "work"]
        .iter()
        .for_each(|at| own(at));
    std::fs::copy(env!("CARGO_BIN_EXE_plyfs"), base.join("plyfs")).unwrap();
    let run = |option: &str, script: &str| {
        let line = format!(
            "./plyfs -o lowerdir=lower,upperdir=upper,workdir=work{option} m || exit; {script}; ./plyfs umount m"
        );
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "sh", "-c", &line]);
        let out = command.current_dir(base).env_remove("RUST_LOG").output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    scratch.dir("m");
    own("m");
    let refused = run("", "cd m/home/user/dir; rm file 2>/dev/null || echo refused; cd ../../../..");
    assert_eq!(refused, "refused\n");
    for file in ["new", "newer"] {
        let script = format!(
            "(cd m/home/user/dir; umask 027; echo >{file}; ln file {file}2; stat -c '%a %u' / .. ../.. . {file}; cd ../..; \
             touch x 2>/dev/null || echo refused)"
        );
        let said = run(",xattr_permissions=parents", &script);
        assert_eq!(said, format!("755 0\n755 {user}\n755 0\n755 {user}\n640 {user}\nrefused\n"));
    }
    let mark = |at: &str| rustix::fs::lgetxattr(base.join("upper").join(at), MARK, &mut [0; 64][..]).is_ok();
    assert_eq!(["", "home", "home/user", "home/user/dir"].map(mark), [true, true, false, false]);
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
