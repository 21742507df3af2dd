//! How many requests a load takes: what a FUSE file system costs is decided here. Exact counts, on a real mount.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::mount::wait_until;
use common::*;
use rustix::process::{Signal, kill_process};

const DIRS: usize = 20;
const FILES: usize = 12;

/// Counts by kind, without the FORGETs, which come when the kernel likes.
type Counts = BTreeMap<String, i64>;

struct Counted {
    mount: Mount,
    asked: usize,
    before: Counts,
}

impl Counted {
    fn new(mount: Mount) -> Self {
        let mut counted = Self { mount, asked: 0, before: Counts::new() };
        // The one OPENDIR and the one OPEN that are answered away.
        fs::read_dir(counted.mount.at("")).unwrap().for_each(drop);
        drop(File::open(&counted.files()[0]).unwrap());
        counted.asked();
        counted
    }

    fn files(&self) -> Vec<PathBuf> {
        let name = |i| self.mount.at(format!("d{:02}/f{:02}", i / FILES, i % FILES));
        (0..DIRS * FILES).map(name).collect()
    }

    /// What came since the last call.
    fn asked(&mut self) -> Counts {
        self.asked += 1;
        kill_process(self.mount.pid().unwrap(), Signal::USR1).unwrap();
        let lines = |text: &str| text.lines().filter(|line| line.contains("requests:")).count();
        assert!(wait_until(|| lines(&self.mount.messages()) == self.asked), "{}", self.mount.messages());
        let text = self.mount.messages();
        let line = text.lines().rfind(|line| line.contains("requests:")).unwrap();
        let words: Vec<&str> = line.split_once("requests: ").unwrap().1.split(' ').collect();
        let now: Counts = words
            .chunks_exact(2)
            .filter(|pair| pair[0].bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') && pair[0] != "FORGET")
            .map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap()))
            .collect();
        let since = now.iter().map(|(op, n)| (op.clone(), n - self.before.get(op).unwrap_or(&0)));
        let since = since.filter(|(_, n)| *n > 0).collect();
        self.before = now;
        since
    }

    fn expect(&mut self, what: &str, expected: &[(&str, usize)]) {
        let expected: Counts = expected.iter().map(|(op, n)| ((*op).to_owned(), *n as i64)).collect();
        assert_eq!(self.asked(), expected, "{what}");
    }
}

fn tree() -> Stack {
    let stack = Stack::new(2);
    fill(&stack);
    stack
}

fn fill(stack: &Stack) {
    for i in 0..DIRS * FILES {
        stack.lowers[i % 2].file(&format!("d{:02}/f{:02}", i / FILES, i % FILES), "some bytes");
    }
}

/// readdir and lstat of everything, as find(1) does.
fn walk(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let seen = entries.map(|entry| {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        1 + if meta.is_dir() { walk(&entry.path()) } else { 0 }
    });
    seen.sum()
}

fn sum(counts: &Counts, ops: &[&str]) -> i64 {
    ops.iter().map(|op| counts.get(*op).copied().unwrap_or_default()).sum()
}

#[test]
fn a_walk_takes_two_requests_a_directory_and_then_one() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let root = counted.mount.at("");
    assert_eq!(walk(&root), DIRS * (FILES + 1));
    let cold = counted.asked();
    assert_eq!(sum(&cold, &["READDIRPLUS", "READDIR"]), 2 * DIRS as i64, "the root was listed before: {cold:?}");
    assert!(sum(&cold, &["GETATTR", "LOOKUP"]) <= 2 && cold.len() <= 4, "{cold:?}");
    for round in ["second", "third"] {
        walk(&root);
        let warm = counted.asked();
        assert!(sum(&warm, &["GETATTR"]) <= DIRS as i64 + 1, "{round}: {warm:?}");
        assert_eq!(sum(&warm, &["GETATTR"]), warm.values().sum::<i64>(), "{round}: {warm:?}");
    }
}

#[test]
fn a_walk_of_a_view_without_an_upper_layer_asks_nothing_the_second_time() {
    let stack = Stack::read_only(2);
    fill(&stack);
    let mut counted = Counted::new(stack.mount());
    let root = counted.mount.at("");
    walk(&root);
    counted.asked();
    walk(&root);
    counted.expect("second walk", &[]);
}

#[test]
fn what_is_known_is_not_asked_again() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let files = counted.files();
    walk(&counted.mount.at(""));
    let absent = |files: &[PathBuf]| files.iter().all(|file| !file.with_extension("none").exists());
    counted.asked();
    files.iter().for_each(|file| assert!(file.symlink_metadata().unwrap().is_file()));
    let stat = counted.asked();
    assert!(sum(&stat, &["GETATTR"]) <= DIRS as i64 + 1 && stat.len() <= 1, "warm stat: {stat:?}");
    files.iter().for_each(|file| assert!(file.symlink_metadata().unwrap().is_file()));
    counted.expect("stat again", &[]);
    assert!(absent(&files));
    counted.expect("names that do not exist", &[("LOOKUP", files.len())]);
    assert!(absent(&files));
    counted.expect("the same again", &[]);
    // An absent name is asked for again once it may be there.
    fs::write(files[0].with_extension("none"), "").unwrap();
    fs::rename(&files[1], files[1].with_extension("none")).unwrap();
    assert!(files[0].with_extension("none").exists() && files[1].with_extension("none").exists());
    assert!(!files[1].exists());
}

#[test]
fn a_small_file_is_read_by_one_request_and_then_by_none() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let files = counted.files();
    walk(&counted.mount.at(""));
    counted.asked();
    let read = |file: &PathBuf| assert_eq!(fs::read(file).unwrap(), b"some bytes");
    files.iter().for_each(read);
    let cold = counted.asked();
    // One or two more where the kernel dropped a page that was read ahead.
    assert!(sum(&cold, &["READ"]) <= files.len() as i64 + 2, "cold: {cold:?}");
    assert!(cold.keys().all(|op| op == "READ" || op == "GETATTR"), "cold: {cold:?}");
    // std asks for the size: the first stat after a read asks for the time of access.
    files.iter().for_each(read);
    counted.asked();
    // The kernel may take a page from the cache whenever it likes, but not each time.
    let warm: Vec<Counts> = (0..5)
        .map(|_| {
            files.iter().for_each(read);
            counted.asked()
        })
        .collect();
    assert!(warm.iter().any(Counts::is_empty), "{warm:?}");
}

#[test]
fn a_new_file_takes_four_requests_and_its_directory_one() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let dir = counted.mount.at("d00");
    let create = |i: usize| {
        let mut file = File::create_new(dir.join(format!("new{i}"))).unwrap();
        file.write_all(&[7; 4096]).unwrap();
    };
    create(0);
    // The directory was copied up, which changed the one above it, too: that is asked for once more.
    counted.mount.stat("").unwrap();
    counted.asked();
    let n = 50;
    (1..=n).for_each(create);
    counted.expect("create", &[("LOOKUP", n), ("MKNOD", n), ("GETXATTR", n), ("WRITE", n), ("GETATTR", n)]);
    (0..n).for_each(|i| fs::remove_file(dir.join(format!("new{i}"))).unwrap());
    counted.expect("unlink", &[("UNLINK", n), ("GETATTR", n)]);
    let mut file = File::options().append(true).open(dir.join(format!("new{n}"))).unwrap();
    file.write_all(b"x").unwrap();
    counted.asked();
    (0..n).for_each(|_| file.write_all(b"x").unwrap());
    let writes = counted.asked();
    assert_eq!(sum(&writes, &["WRITE"]), n as i64, "{writes:?}");
    assert!(sum(&writes, &["GETXATTR"]) == 0 && writes.len() <= 2, "{writes:?}");
}

/// `tar x` sets times, owner and mode after it has written: each is a system call, and so a request. Before the write and
/// before the new owner the kernel asks for the file capability, which it would have to take away.
#[test]
fn a_file_of_an_archive_takes_nine_requests() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let dir = counted.mount.at("d00");
    let extract = |i: usize| {
        let mut file = File::create_new(dir.join(format!("new{i}"))).unwrap();
        file.write_all(&[7; 100]).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
    };
    extract(0);
    // As above.
    counted.mount.stat("").unwrap();
    counted.asked();
    let n = 50;
    (1..=n).for_each(extract);
    let expected = [("LOOKUP", n), ("MKNOD", n), ("GETXATTR", 2 * n), ("WRITE", n), ("SETATTR", 3 * n), ("GETATTR", n)];
    counted.expect("tar x", &expected);
}

/// `ls -l` asks for a label and an ACL, `cp -a` and `tar --xattrs` for a list. The kernel keeps ACLs and, of a file system in
/// user space, no other attribute: each of those is a request, which costs the daemon nothing more (tests/engine.rs).
#[test]
fn attributes_are_one_request_each_and_acls_one_in_all() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let (files, n) = (counted.files(), DIRS * FILES);
    walk(&counted.mount.at(""));
    counted.asked();
    let list = |file: &PathBuf| {
        let meta = file.symlink_metadata().unwrap();
        for key in ["security.selinux", "system.posix_acl_access"] {
            assert!(rustix::fs::lgetxattr(file, key, &mut [0_u8; 64][..]).is_err());
        }
        meta.len()
    };
    assert_eq!(files.iter().map(list).sum::<u64>(), 10 * n as u64);
    let cold = counted.asked();
    assert_eq!(sum(&cold, &["GETXATTR"]), 2 * n as i64, "ls -l, cold: {cold:?}");
    assert!(sum(&cold, &["GETATTR"]) <= DIRS as i64 + 1 && cold.len() <= 2, "ls -l, cold: {cold:?}");
    assert_eq!(files.iter().map(list).sum::<u64>(), 10 * n as u64);
    counted.expect("ls -l, warm", &[("GETXATTR", n)]);
    let names = |file: &PathBuf| rustix::fs::llistxattr(file, &mut [0_u8; 64][..]).unwrap();
    assert_eq!(files.iter().map(names).sum::<usize>(), 0);
    counted.expect("cp -a and tar --xattrs", &[("LISTXATTR", n)]);
}

/// `git status` looks each name of its index up without a listing.
#[test]
fn names_that_are_known_beforehand_are_one_request_each_and_then_none() {
    let stack = tree();
    let mut counted = Counted::new(stack.mount());
    let files = counted.files();
    let look = |files: &[PathBuf]| files.iter().all(|file| file.symlink_metadata().is_ok());
    assert!(look(&files));
    // The directories were listed, and one file was opened before.
    counted.expect("cold", &[("LOOKUP", files.len() - 1)]);
    assert!(look(&files));
    counted.expect("warm", &[]);
}

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
