//! The engine without a mount: what only an odd file system or a fault can show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use plyfs::config::{Config, Fsync, Timeouts, UpperDirs};
use plyfs::testing::seam::{Call, Guise, Guised, Lacking, Lacks, Plan, traced, with_plan};
use plyfs::testing::{data, newer, xattr};
use plyfs::union::{Caller, InodeId, ListedEntry, Make, RenameFlags, SetAttr, WriteHow};
use plyfs::{Errno, Name, Union};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// Layers with two lower files and a lower directory.
fn layers() -> tempfile::TempDir {
    let base = tempfile::tempdir().unwrap();
    for dir in ["lower/dir", "upper", "work"] {
        fs::create_dir_all(base.path().join(dir)).unwrap();
    }
    for file in ["lower/a", "lower/b", "lower/dir/old"] {
        fs::write(base.path().join(file), file).unwrap();
    }
    base
}

fn open(base: &Path) -> Union {
    Union::builder().lower(base.join("lower")).upper(base.join("upper"), base.join("work")).build().unwrap()
}

struct Names(Vec<String>);

impl plyfs::union::DirSink for Names {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        self.0.push(String::from_utf8_lossy(entry.name).into_owned());
        true
    }
}

fn names(union: &Union, dir: InodeId) -> Vec<String> {
    let mut names = Names(Vec::new());
    union.readdir(dir, 0, false, &mut names).unwrap();
    let mut names: Vec<_> = names.0.into_iter().filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// Deletes, renames and replaces lower names; the view must be the same after the layers are opened again.
fn delete_and_replace(base: &Path, union: &Union) {
    let (me, root) = (Caller::this_process(), InodeId::ROOT);
    union.unlink(&me, root, &name("a")).unwrap();
    union.rename(&me, root, &name("b"), root, &name("moved"), RenameFlags::empty()).unwrap();
    let dir = union.lookup(root, &name("dir")).unwrap().unwrap().id;
    union.unlink(&me, dir, &name("old")).unwrap();
    union.rmdir(&me, root, &name("dir")).unwrap();
    assert_eq!(names(union, root), ["moved"]);
    let dir = union.make(&me, root, &name("dir"), Make::Dir { mode: 0o755 }).unwrap().id;
    assert_eq!(names(union, dir), [""; 0], "what was deleted shows through the new directory");
    let a = union.make(&me, root, &name("a"), Make::File { mode: 0o644 }).unwrap().id;
    union.write(&me, a, 0, b"new", WriteHow::default()).unwrap();
    union.unlink(&me, root, &name("a")).unwrap();
    assert_eq!(names(union, root), ["dir", "moved"]);
    assert_eq!(fs::read_to_string(base.join("lower/a")).unwrap(), "lower/a");
}

#[test]
fn whiteouts_are_marked_files_where_no_device_can_be_made() {
    let base = layers();
    for _ in 0..2 {
        let (union, _) = with_plan(Plan::fail(0, Errno::EPERM).only(Call::Mknod), || open(base.path()));
        if !fs::exists(base.path().join("upper/moved")).unwrap() {
            assert!(union.notes().iter().any(|note| note.contains("device nodes")), "{:?}", union.notes());
            delete_and_replace(base.path(), &union);
            let whiteout = fs::symlink_metadata(base.path().join("upper/a")).unwrap();
            assert!(whiteout.is_file() && whiteout.len() == 0);
        } else {
            assert_eq!(names(&union, InodeId::ROOT), ["dir", "moved"]);
            let dir = union.lookup(InodeId::ROOT, &name("dir")).unwrap().unwrap().id;
            assert_eq!(names(&union, dir), [""; 0]);
        }
    }
}

#[test]
fn a_failing_whiteout_leaves_the_name_and_nothing_else() {
    let base = layers();
    let union = open(base.path());
    let me = Caller::this_process();
    for call in [Call::Mknod, Call::Rename] {
        let plan = Plan::fail(0, Errno::ENOSPC).only(call);
        let (done, _) = with_plan(plan, || union.unlink(&me, InodeId::ROOT, &name("a")));
        if done == Err(Errno::ENOSPC) {
            assert_eq!(names(&union, InodeId::ROOT), ["a", "b", "dir"], "after a failed {call:?}");
        }
    }
    union.unlink(&me, InodeId::ROOT, &name("b")).unwrap();
    assert!(!names(&union, InodeId::ROOT).contains(&"b".to_owned()));
}

#[test]
fn a_removed_file_that_was_never_forgotten_is_gone_after_the_mount() {
    let (base, me) = (layers(), Caller::this_process());
    let union = open(base.path());
    let left = || fs::read_dir(base.path().join("work/work")).unwrap().count();
    union.make(&me, InodeId::ROOT, &name("new"), Make::File { mode: 0o644 }).unwrap();
    union.unlink(&me, InodeId::ROOT, &name("new")).unwrap();
    assert_eq!(left(), 1, "it may be open");
    drop(union);
    assert_eq!(left(), 0);
}

static LONGEST: AtomicUsize = AtomicUsize::new(0);

/// A log that writes nothing of what it is given.
struct Formats;

impl log::Log for Formats {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LONGEST.fetch_max(record.args().to_string().len(), Ordering::Relaxed);
    }

    fn flush(&self) {}
}

/// What a thread of the daemon has is 2 MiB; here it is a part of that.
#[test]
fn a_tree_of_many_levels_needs_no_deep_stack() {
    const LEVELS: usize = 3_000;
    let (base, me) = (layers(), Caller::this_process());
    let union = open(base.path());
    let make = |dir| union.make(&me, dir, &name("d"), Make::Dir { mode: 0o755 }).unwrap().id;
    let dir = (0..LEVELS).fold(InodeId::ROOT, |dir, _| make(dir));
    union.make(&me, dir, &name("f"), Make::File { mode: 0o644 }).unwrap();
    drop(union);
    fs::rename(base.path().join("upper"), base.path().join("deep")).unwrap();
    fs::create_dir(base.path().join("upper")).unwrap();
    let (deep, upper) = (base.path().join("deep"), base.path().join("upper"));
    let union = Union::builder().lower(deep).upper(upper, base.path().join("work")).build().unwrap();
    let small = std::thread::Builder::new().stack_size(128 << 10);
    let used = move || {
        let into = |dir, text| union.lookup(dir, &name(text)).unwrap().unwrap().id;
        let dir = (0..LEVELS).fold(InodeId::ROOT, |dir, _| into(dir, "d"));
        let file = into(dir, "f");
        union.make(&me, dir, &name("x"), Make::File { mode: 0o644 }).unwrap();
        // An error that the log has with the whole path.
        log::set_max_level(log::LevelFilter::Trace);
        let _ = log::set_logger(&Formats);
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        let failing = Plan::fail(0, Errno::EIO).only(Call::Utimens);
        assert_eq!(with_plan(failing, || union.setattr(&me, file, &set)).0, Err(Errno::EIO));
        assert!(LONGEST.load(Ordering::Relaxed) > 2 * LEVELS);
        drop(union);
    };
    small.spawn(used).unwrap().join().unwrap();
    // Whoever removes the directory for tests has a stack, too.
    let gone = std::process::Command::new("rm").arg("-rf").arg(base.path()).status().unwrap();
    assert!(gone.success());
}

/// What is copied up is known to be so although the directory above it could not be synced.
#[test]
fn a_copy_up_whose_sync_fails_can_be_gone_on_with() {
    for call in 0.. {
        let base = layers();
        let config = Config {
            fsync: Fsync::Strict,
            lowers: vec![base.path().join("lower")],
            upper: Some(UpperDirs { dir: base.path().join("upper"), work: base.path().join("work") }),
            ..Config::default()
        };
        let union = Union::open(config).unwrap();
        let dir = union.lookup(InodeId::ROOT, &name("dir")).unwrap().unwrap().id;
        let old = union.lookup(dir, &name("old")).unwrap().unwrap().id;
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        let chmod = || union.setattr(&Caller::this_process(), old, &set).map(|attr| attr.mode & 0o777);
        let (done, calls) = with_plan(Plan::fail(call, Errno::EIO).only(Call::Fsync), chmod);
        if call >= calls {
            assert!(call >= 3 && done == Ok(0o600), "{call} syncs, {done:?}");
            break;
        }
        assert_eq!(done, Err(Errno::EIO), "sync {call}");
        assert_eq!(chmod(), Ok(0o600), "the next time after sync {call}");
    }
}

/// What a renamed metacopy file needs beside its inode costs more than a few bytes of data do.
#[test]
fn a_rename_copies_what_is_small_and_in_memory_where_nothing_is_synced() {
    if newer::is_absent(newer::Newer::NoWait) {
        return eprintln!("skipped: what is in memory is not known");
    }
    let dense = |len| vec![b'x'; len];
    let kept = |path: &Path, bytes: Vec<u8>| {
        fs::write(path, bytes).unwrap();
        // Only what is on the disk leaves memory.
        fs::File::open(path).unwrap().sync_all().unwrap();
    };
    type Write<'a> = &'a dyn Fn(&Path);
    let table: [(&str, Fsync, Write<'_>, bool); 6] = [
        ("small", Fsync::Volatile, &|path| kept(path, dense(5000)), true),
        ("as long as can be", Fsync::Volatile, &|path| kept(path, dense(16 << 10)), true),
        ("longer", Fsync::Volatile, &|path| kept(path, dense((16 << 10) + 1)), false),
        ("with a hole", Fsync::Volatile, &|path| fs::File::create(path).unwrap().set_len(5000).unwrap(), false),
        ("synced", Fsync::Auto, &|path| kept(path, dense(5000)), false),
        ("on the disk", Fsync::Volatile, &|path| out_of_memory(path, &dense(5000)), false),
    ];
    // With what ext4 has beside an inode.
    const EXT4: i64 = 0xef53;
    let crowded = rustix::fs::statfs(std::env::temp_dir()).unwrap().f_type == EXT4;
    for (case, fsync, write, copied) in table {
        let copied = copied && crowded;
        let base = layers();
        let lower = base.path().join("lower/a");
        write(&lower);
        let other = base.path().join("lower/b");
        out_of_memory(&other, &dense(5000));
        if case == "on the disk" && data::read_from_cache(fs::File::open(&other).unwrap().as_fd(), &mut [0; 5000]) {
            eprintln!("left out: {} keeps its files in memory", base.path().display());
            continue;
        }
        let config = Config {
            fsync,
            lowers: vec![base.path().join("lower")],
            upper: Some(UpperDirs { dir: base.path().join("upper"), work: base.path().join("work") }),
            ..Config::default()
        };
        let union = Union::open(config).unwrap();
        let root = InodeId::ROOT;
        union.rename(&Caller::this_process(), root, &name("a"), root, &name("moved"), RenameFlags::empty()).unwrap();
        let upper = base.path().join("upper/moved");
        let marks = xattr::list_fd(fs::File::open(&upper).unwrap().as_fd()).unwrap();
        assert_eq!(marks.iter().any(|mark| mark.ends_with(b".metacopy")), !copied, "{case}");
        let has_data = fs::read(&upper).unwrap() == fs::read(&lower).unwrap();
        assert!(has_data || !copied, "{case}");
        let moved = union.lookup(root, &name("moved")).unwrap().unwrap();
        assert_eq!(moved.attr.size, fs::metadata(&lower).unwrap().len(), "{case}");
    }
}

/// A file of which nothing is in the page cache, where its file system has one.
fn out_of_memory(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// A name hidden by a `.wh.` file is made anew; where the new object cannot be looked at the name stays deleted.
#[test]
fn what_cannot_be_looked_at_brings_no_deleted_name_back_and_a_0_0_device_needs_a_mark() {
    let base = layers();
    let _lacking = Lacking::new(Lacks { rename_flags: true, devices: true, marks: true, ..Lacks::default() });
    let (union, me, root) = (open(base.path()), Caller::this_process(), InodeId::ROOT);
    let device = Make::Node { mode: libc::S_IFCHR | 0o600, rdev: 0 };
    assert_eq!(union.make(&me, root, &name("device"), device).map(drop), Err(Errno::EPERM));
    union.unlink(&me, root, &name("a")).unwrap();
    assert!(base.path().join("upper/.wh.a").exists());
    let create = || union.make(&me, root, &name("a"), Make::File { mode: 0o644 }).map(drop);
    let (_, calls) = with_plan(Plan::count(), create);
    union.unlink(&me, root, &name("a")).unwrap();
    for at in 0..calls {
        if with_plan(Plan::fail(at, Errno::EIO), create).0.is_err() {
            assert_eq!(names(&union, root), ["b", "dir"], "call {at}");
        } else {
            union.unlink(&me, root, &name("a")).unwrap();
        }
    }
}

/// What is read ahead is read this way.
#[test]
fn a_small_file_is_read_whole_wherever_its_data_is_or_not_at_all() {
    let base = layers();
    let (union, me, root) = (open(base.path()), Caller::this_process(), InodeId::ROOT);
    let id = union.lookup(root, &name("a")).unwrap().unwrap().id;
    let read = |room: usize| {
        let mut room = vec![0; room];
        let read = union.hold(id).unwrap().read_whole(&mut room)?;
        Ok::<_, Errno>(String::from_utf8_lossy(&room[..read]).into_owned())
    };
    assert_eq!(read(7), Ok("lower/a".to_owned()));
    assert_eq!(read(8), Ok("lower/a".to_owned()));
    assert_eq!(read(6), Err(Errno::EFBIG));
    // Its metadata is copied up, its data stays below; then that, too, is above, and the file empty.
    union.setattr(&me, id, &SetAttr { mode: Some(0o600), ..SetAttr::default() }).unwrap();
    assert_eq!(read(7), Ok("lower/a".to_owned()));
    union.write(&me, id, 0, b"upper", WriteHow::default()).unwrap();
    assert_eq!(read(7), Ok("upper/a".to_owned()));
    union.setattr(&me, id, &SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    assert_eq!(read(7), Ok(String::new()));
    let dir = union.hold(root).unwrap().read_whole(&mut [0; 8]);
    assert_eq!(dir, Err(Errno::EISDIR));
    // Each hold was given back.
    union.forget(id, 1);
    assert!(union.hold(id).is_none());
}

/// Opens these layers where the directory `at` is case-insensitive, or on a file system with that magic number.
fn open_guised(base: &Path, (lowers, upper): (&[&str], bool), at: &str, magic: Option<u64>) -> Result<Union, String> {
    let ino = fs::metadata(base.join(at)).unwrap().ino();
    let guise = match magic {
        Some(magic) => Guise { casefolded: 0, magic: (ino, magic) },
        None => Guise { casefolded: ino, magic: (0, 0) },
    };
    let _guised = Guised::new(guise);
    let mut builder = lowers.iter().fold(Union::builder(), |builder, lower| builder.lower(base.join(lower)));
    if upper {
        builder = builder.upper(base.join("upper"), base.join("work"));
    }
    builder.build().map_err(|error| format!("{}: {} ({})", error.what, error.reason, error.hint))
}

/// On other machines file systems say so themselves: here no kernel may have them.
#[test]
fn a_case_insensitive_layer_is_refused_unless_it_is_alone() {
    let (vfat, exfat, ntfs) = (0x4d44, 0x2011_bab0, 0x7366_746e);
    let both: &[&str] = &["lower", "other"];
    for (layers, at, magic, refused) in [
        ((both, true), "lower", None, Some("lowerdir=")),
        ((both, true), "other", None, Some("lowerdir=")),
        ((both, false), "other", None, Some("lowerdir=")),
        ((&["lower"], true), "upper", None, Some("upperdir=")),
        ((&["lower"], true), "work/work", None, Some("workdir=")),
        ((&["lower"], true), "lower", Some(vfat), Some("lowerdir=")),
        ((&["lower"], true), "upper", Some(vfat), Some("upperdir=")),
        ((&["lower"], true), "upper", Some(exfat), Some("upperdir=")),
        ((both, false), "lower", Some(exfat), Some("lowerdir=")),
        // Nothing is merged with it.
        ((&["lower"], false), "lower", None, None),
        ((&["lower"], false), "lower", Some(vfat), None),
        // NTFS is case-sensitive unless it is mounted otherwise: then it finds what it does not list.
        ((both, true), "lower", Some(ntfs), None),
    ] {
        let base = self::layers();
        for dir in ["other", "work/work"] {
            fs::create_dir_all(base.path().join(dir)).unwrap();
        }
        let opened = open_guised(base.path(), layers, at, magic);
        let case = format!("{layers:?} {at} {magic:x?}");
        match refused {
            Some(option) => {
                let said = opened.map(drop).expect_err(&case);
                assert!(said.starts_with(option) && said.contains(at.split('/').next().unwrap()), "{case}: {said}");
                assert!(said.contains("case-insensitive") && said.contains("alone"), "{case}: {said}");
            }
            None => assert_eq!(names(&opened.unwrap(), InodeId::ROOT), ["a", "b", "dir"], "{case}"),
        }
    }
}

/// Deep in a layer it is refused where it is met, as by the kernel's OverlayFS.
#[test]
fn a_case_insensitive_directory_below_a_root_is_refused_where_it_is_met() {
    for (at, upper) in [("lower/dir", true), ("other/dir", true), ("upper/dir", true), ("other/dir", false)] {
        let base = layers();
        for dir in ["other/dir", "upper/dir"] {
            fs::create_dir_all(base.path().join(dir)).unwrap();
        }
        let union = open_guised(base.path(), (&["lower", "other"], upper), at, None).unwrap();
        let guise = Guise { casefolded: fs::metadata(base.path().join(at)).unwrap().ino(), magic: (0, 0) };
        let _guised = Guised::new(guise);
        let (me, root) = (Caller::this_process(), InodeId::ROOT);
        for _ in 0..2 {
            assert_eq!(union.lookup(root, &name("dir")).map(drop), Err(Errno::EREMOTE), "{at}");
            assert_eq!(names(&union, root), ["a", "b", "dir"], "{at}: it is listed");
        }
        if upper {
            assert_eq!(union.rmdir(&me, root, &name("dir")), Err(Errno::EREMOTE), "{at}");
            let to = name("moved");
            let moved = union.rename(&me, root, &name("dir"), root, &to, RenameFlags::empty());
            assert_eq!(moved, Err(Errno::EREMOTE), "{at}");
            union.make(&me, root, &name("new"), Make::File { mode: 0o644 }).unwrap();
        }
        assert_eq!(union.lookup(root, &name("a")).unwrap().unwrap().attr.size, 7, "{at}: the rest is of use");
    }
}

/// Nothing in a view becomes so.
#[test]
fn chattr_makes_no_directory_of_a_view_case_insensitive() {
    const CASEFOLD: u32 = 0x4000_0000;
    let base = layers();
    let (union, me, root) = (open(base.path()), Caller::this_process(), InodeId::ROOT);
    let dir = union.make(&me, root, &name("new"), Make::Dir { mode: 0o755 }).unwrap().id;
    let Ok(flags) = union.get_flags(dir) else { return eprintln!("SKIPPED: no flags on this file system") };
    let (set, calls) = with_plan(Plan::count().only(Call::SetFlags), || union.set_flags(&me, dir, flags | CASEFOLD));
    assert_eq!((set, calls), (Err(Errno::EOPNOTSUPP), 0));
    assert_eq!(union.set_flags(&me, dir, flags), Ok(()));
}

/// What a lookup has listed is not asked for again, by however many programs; what is set later is seen.
#[test]
fn a_lower_file_without_attributes_is_not_asked_for_any() {
    let base = layers();
    let plain = base.path().join("lower/a");
    let marked = base.path().join("lower/b");
    if xattr::set_fd(fs::File::open(&marked).unwrap().as_fd(), c"user.k", b"v", 0).is_err() {
        return eprintln!("SKIPPED: no attributes on this file system");
    }
    let (union, me) = (open(base.path()), Caller::this_process());
    let id = |file: &str| union.lookup(InodeId::ROOT, &name(file)).unwrap().unwrap().id;
    let (a, b) = (id("a"), id("b"));
    // ext2 to ext4, XFS, btrfs, f2fs
    if ![0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010].contains(&rustix::fs::statfs(&plain).unwrap().f_type) {
        return eprintln!("SKIPPED: the file system may have attributes that it does not list");
    }
    let asks = [&b"user.k"[..], b"security.capability", b"system.posix_acl_access", b"trusted.k"];
    let (answers, calls) = traced(|| (asks.map(|key| union.getxattr(a, key)), union.listxattr(&me, a)));
    assert_eq!(answers, (asks.map(|_| Err(Errno::ENODATA)), Ok(Vec::new())));
    assert_eq!(calls, [], "a system call for what is known");
    assert_eq!(
        (union.getxattr(b, b"user.k").unwrap(), union.listxattr(&me, b).unwrap()),
        (b"v".to_vec(), b"user.k\0".to_vec())
    );
    union.setxattr(&me, a, b"user.k", b"new", 0).unwrap();
    assert_eq!(
        (union.getxattr(a, b"user.k").unwrap(), union.listxattr(&me, a).unwrap()),
        (b"new".to_vec(), b"user.k\0".to_vec())
    );
    // Where layers may change underneath, nothing is taken for known.
    let timeouts = Timeouts { attr: Duration::ZERO, ..Timeouts::default() };
    let lower = Union::open(Config { lowers: vec![base.path().join("lower")], timeouts, ..Config::default() }).unwrap();
    let a = lower.lookup(InodeId::ROOT, &name("a")).unwrap().unwrap().id;
    xattr::set_fd(fs::File::open(&plain).unwrap().as_fd(), c"user.k", b"below", 0).unwrap();
    assert_eq!(lower.getxattr(a, b"user.k").unwrap(), b"below");
}

/// More attributes than a list can hold are not none (XFS and btrfs take so many).
#[test]
fn a_lower_file_with_too_many_attributes_to_list_keeps_them() {
    let base = layers();
    let plan = Plan::fail(0, Errno::E2BIG).only(Call::ListXattr);
    let file = fs::File::open(base.path().join("lower/a")).unwrap();
    if xattr::set_fd(file.as_fd(), c"user.k", b"v", 0).is_err() {
        return eprintln!("SKIPPED: no attributes on this file system");
    }
    let union = open(base.path());
    let (id, _) = with_plan(plan, || union.lookup(InodeId::ROOT, &name("a")).unwrap().unwrap().id);
    assert_eq!(union.getxattr(id, b"user.k").unwrap(), b"v");
    assert_eq!(union.listxattr(&Caller::this_process(), id).unwrap(), b"user.k\0");
}
