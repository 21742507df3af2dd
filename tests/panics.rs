//! A bug in the daemon costs one request: the caller gets EIO, the next request is served, no lock stays held, and the log
//! has one record of each place with its backtrace. The daemon is this program, started anew: a plan of its fault seam is
//! the bug.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::ffi::OsString;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use common::*;
use plyfs::testing::seam::{Call, Plan, with_common_plan};

/// Where the daemon finds its layers, and writes its log.
const PLACE: &str = "PLYFS_TEST_PANICS";
/// What begins a record.
const BUG: &str = "a bug: panic at";

fn layers(base: &Path) {
    for dir in ["lower/dir", "lower/into", "upper", "work", "merged"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    for file in
        ["chmod", "old", "gone", "moved", "read", "written", "cut", "kept", "marked", "linked", "seen", "copied"]
    {
        fs::write(base.join("lower").join(file), format!("this is {file}")).unwrap();
    }
    // A file that has none at all is not asked for its attributes.
    let _ = rustix::fs::setxattr(base.join("lower/marked"), "user.b", b"1", rustix::fs::XattrFlags::empty());
    for large in ["large", "large too"] {
        fs::write(base.join("lower").join(large), vec![7; 3 << 20]).unwrap();
    }
    symlink("somewhere", base.join("lower/link")).unwrap();
}

fn open(path: PathBuf) -> io::Result<fs::File> {
    fs::File::options().read(true).write(true).open(path)
}

/// What a program does, and the call in it that is a bug. What the kernel has in its cache it does not ask for.
type Row = (&'static str, Call, fn(&Path) -> io::Result<()>);

const ROWS: &[Row] = &[
    ("lookup", Call::Stat, |at| fs::symlink_metadata(at.join("seen")).map(drop)),
    ("create", Call::Create, |at| fs::File::create_new(at.join("new")).map(drop)),
    ("mkdir", Call::Mkdir, |at| fs::create_dir(at.join("new dir"))),
    ("symlink", Call::Symlink, |at| symlink("to", at.join("new link"))),
    ("copy-up of attributes", Call::Utimens, |at| {
        fs::set_permissions(at.join("chmod"), PermissionsExt::from_mode(0o600))
    }),
    ("copy-up of much data, on a thread of its own", Call::Reflink, |at| {
        open(at.join("large"))?.write_at(b"x", 9).map(drop)
    }),
    ("truncate", Call::Truncate, |at| open(at.join("cut"))?.set_len(99)),
    ("write", Call::Pwrite, |at| open(at.join("written"))?.write_at(b"x", 0).map(drop)),
    // What the kernel reads ahead, and cannot, it asks for again.
    ("read", Call::Pread, |at| {
        let mut file = fs::File::options();
        file.read(true).custom_flags(libc::O_DIRECT).open(at.join("read"))?.read_at(&mut [0; 8], 0).map(drop)
    }),
    ("readdir", Call::ReadDir, |at| fs::read_dir(at.join("into"))?.try_for_each(|entry| entry.map(drop))),
    ("readlink", Call::Readlink, |at| fs::read_link(at.join("link")).map(drop)),
    ("rename", Call::Rename, |at| fs::rename(at.join("moved"), at.join("into/moved"))),
    ("link", Call::Link, |at| fs::hard_link(at.join("linked"), at.join("new name"))),
    ("unlink", Call::Mknod, |at| fs::remove_file(at.join("gone"))),
    ("rmdir", Call::Link, |at| fs::remove_dir(at.join("dir"))),
    ("statfs", Call::StatFs, |at| Ok(rustix::fs::statfs(at).map(drop)?)),
    ("getxattr", Call::GetXattr, |at| match rustix::fs::getxattr(at.join("marked"), "user.a", &mut [0u8; 9]) {
        Err(Errno::NODATA) => Ok(()),
        other => Ok(other.map(drop)?),
    }),
    ("setxattr", Call::SetXattr, |at| {
        Ok(rustix::fs::setxattr(at.join("marked"), "user.a", b"1", rustix::fs::XattrFlags::empty())?)
    }),
    ("lseek", Call::SeekData, |at| {
        Ok(rustix::fs::seek(open(at.join("kept"))?, rustix::fs::SeekFrom::Data(0)).map(drop)?)
    }),
    ("fsync", Call::Fsync, |at| {
        let file = open(at.join("kept"))?;
        file.write_at(b"x", 0)?;
        file.sync_all()
    }),
];

/// The daemon's side: serves, and uses the mount with a bug in each request.
fn use_it(base: &Path) {
    let at = base.join("merged");
    settled();
    for (name, call, act) in ROWS {
        let (done, calls) = with_common_plan(Plan::panic(0).only(*call), || act(&at));
        let errno = done.as_ref().err().and_then(io::Error::raw_os_error);
        assert_eq!((errno, calls > 0), (Some(5), true), "{name}: {done:?}, {calls} calls of {call:?}");
        act(&at).unwrap_or_else(|error| panic!("{name}, the next time: {error}"));
        logged(base, |log| log.contains(&format!("a plan: {call:?} 0")));
        // Its backtrace is in the same record. That nobody writes one any more is noted an instant later.
        thread::sleep(patience(Duration::from_millis(100)));
    }
    who_waits_for_the_lock(&at);
    forgotten(base, &at);
}

/// Waits until the daemon is done with what it does after it has mounted, where the bug would be as well.
fn settled() {
    let looks_on = || with_common_plan(Plan::panic(u64::MAX), || thread::sleep(patience(Duration::from_millis(50)))).1;
    assert!(mount::wait_until(|| looks_on() == 0), "the daemon never rests");
}

/// Waits until the log is so.
fn logged(base: &Path, is: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let log = || fs::read_to_string(base.join("bugs")).unwrap();
    while !is(&log()) {
        assert!(Instant::now() < deadline, "not in the log:\n{}", log());
        thread::sleep(Duration::from_millis(10));
    }
}

/// The bug is in the middle of a copy-up, whose lock others wait for: one of them makes the copy.
fn who_waits_for_the_lock(at: &Path) {
    let write = |_| open(at.join("large too")).and_then(|file| file.write_at(b"x", 1));
    let (done, _) = with_common_plan(Plan::panic(0).only(Call::Reflink), || {
        thread::scope(|scope| {
            let writers: Vec<_> = (0..4).map(|n| scope.spawn(move || write(n))).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        })
    });
    let failed: Vec<_> = done.iter().filter_map(|done| done.as_ref().err()?.raw_os_error()).collect();
    assert_eq!(failed, [5], "{done:?}");
    let mut expected = vec![7; 3 << 20];
    expected[1] = b'x';
    assert!(fs::read(at.join("large too")).unwrap() == expected);
}

/// A bug where nobody waits for an answer: the kernel forgets a file that was removed while it was open.
fn forgotten(base: &Path, at: &Path) {
    let file = fs::File::options().create_new(true).write(true).mode(0o600).open(at.join("dead")).unwrap();
    fs::remove_file(at.join("dead")).unwrap();
    let (_, calls) = with_common_plan(Plan::panic(0).only(Call::Unlink), || {
        drop(file);
        logged(base, |log| log.contains("a plan: Unlink 0"));
    });
    assert!(calls > 0);
    fs::write(at.join("after"), "all").unwrap();
    assert_eq!(fs::read_to_string(at.join("after")).unwrap(), "all");
}

/// Not a test of its own: what the one below starts.
#[test]
fn the_daemon() {
    let Some(base) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let at = base.join("merged");
    let dir = |name: &str| base.join(name).display().to_string();
    let layers = format!("lowerdir={},upperdir={},workdir={}", dir("lower"), dir("upper"), dir("work"));
    let options = format!("{layers},log={}", dir("bugs"));
    let args: Vec<OsString> = ["plyfs", "-f", "-o", &options, &dir("merged")].map(OsString::from).into();
    let daemon = thread::spawn(|| plyfs::cli::commands::run(args));
    assert!(mount::wait_until(|| mount::is_mounted(&at)));
    let used = std::panic::catch_unwind(|| use_it(&base));
    mount::unmount_any(&at, used.is_err()).unwrap();
    assert_eq!(format!("{:?}", daemon.join().unwrap()), format!("{:?}", std::process::ExitCode::SUCCESS));
    used.unwrap();
}

#[test]
fn a_bug_costs_one_request_and_is_logged_once_with_its_backtrace() {
    within(120, || {
        if std::env::var_os(PLACE).is_some() || !mount::is_plyfs() {
            return;
        }
        let scratch = Scratch::new();
        let base = scratch.path();
        layers(base);
        let log = fs::File::create(base.join("log")).unwrap();
        let mut daemon = Command::new(std::env::current_exe().unwrap());
        daemon.args(["--exact", "the_daemon", "--nocapture"]).env(PLACE, base).env_remove("RUST_BACKTRACE");
        daemon.env_remove("RUST_LOG").stdout(log.try_clone().unwrap()).stderr(log);
        let ended = daemon.status().unwrap();
        let said = fs::read_to_string(base.join("log")).unwrap() + &fs::read_to_string(base.join("bugs")).unwrap();
        let _ = mount::unmount_any(&base.join("merged"), true);
        assert!(ended.success(), "{said}");
        let records: Vec<_> = said.lines().filter(|line| line.contains(BUG)).collect();
        let mut places: Vec<_> = records.iter().filter_map(|line| line.split(BUG).nth(1)?.split(',').next()).collect();
        places.sort_unstable();
        places.dedup();
        // Rename, Reflink and Unlink came twice.
        assert_eq!((records.len(), places.len()), (ROWS.len(), ROWS.len()), "{said}");
        assert!(records.iter().all(|line| line.contains("ERROR") && !line.contains("without")), "{said}");
        let traces = said.lines().filter(|line| line.trim_start().starts_with("0: ")).count();
        assert_eq!(traces, records.len(), "a backtrace each: {said}");
        assert!(said.contains("src/fuse/serve/handlers.rs"), "names of places: {said}");
        assert!(!said.contains("Reply not sent") && !said.contains("RUST_BACKTRACE"), "{said}");
    });
}
