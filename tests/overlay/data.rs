//! Descriptors, mappings, locks and syncs over a copy-up.

use std::os::fd::AsFd;
use std::process::Command;

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::common::*;
use crate::row::{Row, Stage, row, text};

/// Syncs of what is below, copied up, and new; of files and of directories.
fn syncs(s: &mut Stage) {
    s.lower().file("lower", "x").file("d/f", "x").file("copied", "x");
    let m = s.up();
    m.append("copied", "+").unwrap();
    m.write("new", "x").unwrap();
    for name in ["lower", "copied", "new", "d", ""] {
        let fd = m.open(name, OFlags::RDONLY).unwrap();
        s.did("fsync", rustix::fs::fsync(&fd));
        s.did("fdatasync", rustix::fs::fdatasync(&fd));
        s.did("syncfs", rustix::fs::syncfs(&fd));
    }
    s.say(format!("copied by it: {}", s.upper().names("").unwrap().contains(&"lower".to_owned())));
}

/// The upper layer's file system has been shut down under the mount.
fn syncs_of_what_is_shut_down(s: &mut Stage) {
    s.lower().file("f", "x");
    let m = s.up();
    m.append("f", "+").unwrap();
    let fd = m.open("f", OFlags::RDWR).unwrap();
    rustix::fs::fsync(&fd).unwrap();
    shut_down(s);
    s.did("fsync", rustix::fs::fsync(&fd));
    s.did("syncfs", rustix::fs::syncfs(&fd));
}

fn shut_down(s: &Stage) {
    let done = Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(s.upper().root().parent().unwrap()).output();
    assert!(done.is_ok_and(|out| out.status.success()), "no xfs_io (Debian: xfsprogs)");
}

/// A reader from before the copy-up reads what is written after it.
fn readers(s: &mut Stage) {
    for name in ["written", "cut", "emptied", "longer"] {
        s.lower().file(name, "lower data");
    }
    let m = s.up();
    let open = |name| m.open(name, OFlags::RDONLY).unwrap();
    let fds = ["written", "cut", "emptied", "longer"].map(open);
    m.pwrite("written", 0, b"UPPER").unwrap();
    m.truncate("cut", 5).unwrap();
    m.write("emptied", "").unwrap();
    m.truncate("longer", 12).unwrap();
    for fd in &fds {
        let text = tree::read_all(fd).unwrap();
        let size = rustix::fs::fstat(fd).unwrap().st_size;
        s.say(format!("{:?} of {size}", text.escape_ascii().to_string()));
    }
}

/// A mapping from before the copy-up shows what is stored through another one after it.
fn mappings(s: &mut Stage) {
    s.lower().file("f", "lower");
    let m = s.up();
    let map = SharedMap::new(m.open("f", OFlags::RDONLY).unwrap(), 5, false);
    let mut other = SharedMap::new(m.open("f", OFlags::RDWR).unwrap(), 5, true);
    let before = map.get(0, 5);
    other.put(0, b"UPPER");
    s.say(format!("{}, then {}", before.escape_ascii(), map.get(0, 5).escape_ascii()));
    other.sync().unwrap();
    s.say(text(&m, "f"));
    s.say(s.lower().text("f"));
}

/// Locks that were taken before the copy-up hold after it.
fn locks(s: &mut Stage) {
    for name in ["flock", "ofd", "posix", "shared"] {
        s.lower().file(name, "x");
    }
    let m = s.up();
    let open = |name: &str, flags| m.open(name, flags).unwrap();
    let first = open("flock", OFlags::RDONLY);
    flock(&first, FlockOperation::LockExclusive).unwrap();
    let second = open("flock", OFlags::RDWR);
    tree::write_all(&second, b"y").unwrap();
    s.did("flock", flock(&second, FlockOperation::NonBlockingLockExclusive));
    let first_ofd = open("ofd", OFlags::RDONLY);
    raw::ofd_lock(&first_ofd, false).unwrap();
    let second_ofd = open("ofd", OFlags::RDWR);
    tree::write_all(&second_ofd, b"y").unwrap();
    s.did("ofd", raw::ofd_lock(&second_ofd, true));
    s.did("ofd shared", raw::ofd_lock(open("ofd", OFlags::RDONLY), false));
    drop((first, first_ofd));
    s.did("flock, free", flock(&second, FlockOperation::NonBlockingLockExclusive));
    s.did("ofd, free", raw::ofd_lock(&second_ofd, true));
    // A lock file that is removed and made anew is another one.
    let old = open("shared", OFlags::RDONLY);
    flock(&old, FlockOperation::LockExclusive).unwrap();
    m.unlink("shared").unwrap();
    m.write("shared", "new").unwrap();
    s.did("flock, anew", flock(open("shared", OFlags::RDONLY), FlockOperation::NonBlockingLockExclusive));
    // Last: the end of that thread closes its copies of the descriptors when it likes.
    let own = open("posix", OFlags::RDONLY);
    rustix::fs::fcntl_lock(&own, FlockOperation::LockShared).unwrap();
    m.chmod("posix", 0o666).unwrap();
    let [taken, shared] = raw::as_another_owner(|| {
        let fd = open("posix", OFlags::RDWR);
        [FlockOperation::NonBlockingLockExclusive, FlockOperation::NonBlockingLockShared]
            .map(|lock| rustix::fs::fcntl_lock(&fd, lock))
    });
    s.did("posix", taken);
    s.did("posix shared", shared);
}

/// Files without a name, and one that gets one.
fn without_a_name(s: &mut Stage) {
    s.lower().file("d/f", "x");
    let m = s.up();
    let make = |dir: &str| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(m.at(dir), flags, rustix::fs::Mode::from_raw_mode(0o640))
    };
    let fd = make("d");
    s.did("tmpfile", fd.as_ref().map_err(|e| *e));
    let Ok(fd) = fd else { return };
    tree::write_all(&fd, b"anonymous").unwrap();
    s.list(&m, "d");
    s.say(format!("links {}", rustix::fs::fstat(&fd).unwrap().st_nlink));
    let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let link = |to: &str| {
        let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(rustix::fs::CWD, &*proc, rustix::fs::CWD, m.at(to), flags)
    };
    s.did("link", link("d/named"));
    s.did("again", link("d/f"));
    drop((fd, make("").unwrap()));
    let m = s.again();
    s.say(format!("{} {:o}", text(&m, "d/named"), m.mode("d/named")));
    s.list(&m, "");
}

/// ftruncate beside writes, and a read beside both.
fn cuts(s: &mut Stage) {
    s.lower().file("f", vec![b'l'; 1 << 20]);
    let m = s.up();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let wrong = std::thread::scope(|scope| {
        let (m, stopped) = (&m, &stopped);
        let reader = scope.spawn(move || {
            let fd = m.open("f", OFlags::RDONLY).unwrap();
            let mut wrong = 0;
            while !stopped() {
                let text = tree::read_all(&fd).unwrap();
                wrong += text.iter().filter(|b| ![b'l', b'w', 0].contains(b)).count();
            }
            wrong
        });
        let writer = scope.spawn(move || {
            for at in 0..200u64 {
                m.pwrite("f", at * 4999, &[b'w'; 100]).unwrap();
            }
        });
        for size in (0..200u64).map(|i| i * 5003 % (1 << 20)) {
            m.truncate("f", size).unwrap();
        }
        writer.join().unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    m.truncate("f", 10).unwrap();
    m.truncate("f", 20).unwrap();
    let text = m.read("f").unwrap();
    s.say(format!("wrong {wrong}, then {} of zeros", text[10..].iter().filter(|b| **b == 0).count()));
}

/// What is open goes on, whatever becomes of its name.
fn open_files(s: &mut Stage) {
    for name in ["removed", "renamed", "replaced", "other", "linked"] {
        s.lower().file(name, name);
    }
    let m = s.up();
    let open = |name| m.open(name, OFlags::RDWR).unwrap();
    let fds = ["removed", "renamed", "replaced", "linked"].map(open);
    m.unlink("removed").unwrap();
    m.rename("renamed", "moved").unwrap();
    m.rename("other", "replaced").unwrap();
    m.link("linked", "link").unwrap();
    for fd in &fds {
        rustix::io::pwrite(fd, b"+", 0).unwrap();
        let text = tree::read_all(fd).unwrap();
        let st = rustix::fs::fstat(fd.as_fd()).unwrap();
        s.say(format!("{} links {}", text.escape_ascii(), st.st_nlink));
    }
    s.say(format!("{} {} {}", text(&m, "moved"), text(&m, "replaced"), text(&m, "link")));
    drop(fds);
    let m = s.again();
    s.list(&m, "");
}

/// A directory that cannot be removed is still the working directory.
fn working_directory(s: &mut Stage) {
    s.lower().file("d/sub/f", "x").dir("empty", 0o755);
    let m = s.up();
    let run = |script: &str| {
        let out = Command::new("sh").args(["-c", script]).current_dir(m.root()).output().unwrap();
        String::from_utf8_lossy(&out.stdout)
            .replace(m.root().to_str().unwrap(), "")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let kept = run("cd d/sub && rmdir ../sub 2>/dev/null; echo $?; /bin/pwd; ls");
    let gone = run("cd empty && rmdir ../empty; echo $?; /bin/pwd >/dev/null 2>&1; echo $?; ls | wc -l");
    s.say(kept);
    s.say(gone);
}

/// A listing goes on as it should while names come and go, and one from the start shows what is there.
fn listings(s: &mut Stage) {
    for i in 0..300 {
        s.lower().file(&format!("merged/l{i:03}"), "x").file(&format!("copied/l{i:03}"), "x");
    }
    s.upper().file("merged/u", "x");
    let m = s.up();
    m.chmod("copied", 0o750).unwrap();
    m.mkdir("pure", 0o755).unwrap();
    m.write("pure/l000", "x").unwrap();
    for dir in ["merged", "copied", "pure"] {
        let fd = m.open(dir, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let mut listing = rustix::fs::Dir::read_from(&fd).unwrap();
        let first = (&mut listing).count();
        m.unlink(format!("{dir}/l000")).unwrap();
        m.write(format!("{dir}/new"), "x").unwrap();
        listing.rewind();
        let names: Vec<_> = listing.map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
        let (gone, new) = (!names.contains(&"l000".into()), names.contains(&"new".into()));
        s.say(format!("{dir} {first} then {} gone {gone} new {new}", names.len()));
    }
}

pub const ROWS: &[Row] = &[
    row(
        &[2],
        "syncs",
        "does a sync of anything work, and copy nothing?",
        syncs,
        "fsync ok; fdatasync ok; syncfs ok; fsync ok; fdatasync ok; syncfs ok; fsync ok; fdatasync ok; \
             syncfs ok; fsync ok; fdatasync ok; syncfs ok; fsync ok; fdatasync ok; syncfs ok; copied by it: \
             false",
    ),
    row(
        &[87],
        "syncs of a dead disk",
        "is a sync an error once the upper layer's file system is shut down?",
        syncs_of_what_is_shut_down,
        "fsync EIO; syncfs ok",
    )
    .on(&["xfs"])
    .unlike(
        "fsync EIO; syncfs EIO",
        "the kernel does not tell a FUSE daemon",
        "`syncfs(2)` is not handed to FUSE daemons",
    ),
    row(
        &[7],
        "the working directory",
        "is a directory that cannot be removed still one?",
        working_directory,
        "1 /d/sub f; 0 1 0",
    )
    .users(),
    row(
        &[16],
        "readers",
        "does who has a lower file open read what is written later?",
        readers,
        "\"UPPER data\" of 10; \"lower\" of 5; \"\" of 0; \"lower data\\\\x00\\\\x00\" of 12",
    )
    .users(),
    row(
        &[61],
        "mappings",
        "does a mapping show what is stored by another one later?",
        mappings,
        "lower, then UPPER; UPPER; lower",
    )
    .users()
    .unlike(
        "lower, then lower; UPPER; lower",
        "pages belong to the view's file, not to a layer's",
        "and a `MAP_SHARED` mapping, see what is written after the file was copied up",
    ),
    row(
        &[28],
        "locks",
        "do locks of each kind hold over a copy-up?",
        locks,
        "flock EAGAIN; ofd EAGAIN; ofd shared ok; flock, free ok; ofd, free ok; flock, anew ok; \
             posix EAGAIN; posix shared ok",
    ),
    row(
        &[16, 13],
        "files without a name",
        "do O_TMPFILE and the link of one work?",
        without_a_name,
        "tmpfile EOPNOTSUPP",
    )
    .unlike(
        "tmpfile ok; d: f; links 0; link ok; again EEXIST; anonymous 640; .: d",
        "fuser knows no such request",
        "`O_TMPFILE` answers `EOPNOTSUPP`",
    ),
    row(&[16], "cuts", "is a file right that is cut, written and read at once?", cuts, "wrong 0, then 10 of zeros"),
    row(
        &[16],
        "open files",
        "does what is open go on when its name goes elsewhere?",
        open_files,
        "+emoved links 0; +enamed links 1; +eplaced links 0; +inked links 2; +enamed other +inked; .: \
             link linked moved replaced",
    ),
    row(
        &[77],
        "listings",
        "does a listing from the start show what was changed?",
        listings,
        "merged 303 then 303 gone true new true; copied 302 then 302 gone true new true; \
             pure 3 then 3 gone true new true",
    )
    .users(),
];
