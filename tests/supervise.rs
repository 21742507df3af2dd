//! `--supervise`: the daemon is killed, again and again, and no program notices more than a moment's wait.
//!
//! `PLYFS_SUPERVISE_SECONDS` is the length of the load under kills: 6 in CI.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use common::mount::{is_mounted, wait_until};
use common::*;
use rustix::fs::{OFlags, RenameFlags};
use rustix::process::{Pid, Signal};

/// The daemon of a supervised mount: the child of the process that was started.
fn daemon(mount: &Mount) -> Option<Pid> {
    let supervisor = mount.pid().unwrap().as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    children.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?))
}

/// Whether a daemon has come so far that it answers requests.
fn serves(daemon: &Pid) -> bool {
    fs::read_dir(format!("/proc/{}/task", daemon.as_raw_nonzero())).is_ok_and(|threads| threads.count() > 1)
}

fn kill(mount: &Mount) -> Pid {
    let mut killed = None;
    assert!(wait_until(|| {
        killed = daemon(mount).filter(|pid| rustix::process::kill_process(*pid, Signal::KILL).is_ok());
        killed.is_some()
    }));
    killed.unwrap()
}

/// Kills the daemon and waits until another one is there.
fn kill_and_wait(mount: &Mount) {
    let before = kill(mount);
    assert!(wait_until(|| daemon(mount).is_some_and(|pid| pid != before)), "{}", mount.messages());
    mount.stat("").unwrap();
}

fn supervised(stack: Stack) -> (Stack, Mount) {
    let stack = stack.option("supervise");
    let mount = stack.mount();
    (stack, mount)
}

fn filled() -> Stack {
    let stack = Stack::new(2);
    let lower = &stack.lowers[1];
    for path in ["f", "g", "d/in", "d/sub/deep", "gone/x", "h1"] {
        lower.file(path, path);
    }
    lower.link("h1", "h2").unwrap();
    lower.symlink("f", "link").unwrap();
    for i in 0..300 {
        lower.file(&format!("many/{i:03}"), "");
    }
    stack
}

#[test]
fn what_is_open_when_the_daemon_dies_goes_on() {
    within(60, || {
        let (_stack, mount) = supervised(filled());
        let open = |path: &str| mount.open(path, OFlags::RDWR).unwrap();
        let read = |fd: &OwnedFd| String::from_utf8(tree::read_all(fd).unwrap()).unwrap();
        mount.write("new", "new").unwrap();
        mount.write("unlinked upper", "uu").unwrap();
        mount.write("replaced", "rr").unwrap();
        mount.write("over", "over").unwrap();
        let (lower, new) = (open("f"), open("new"));
        let (unlinked_lower, unlinked_upper) = (open("g"), open("unlinked upper"));
        let (replaced, moved) = (open("replaced"), open("d/in"));
        let dir = mount.open("gone", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        mount.unlink("g").unwrap();
        mount.unlink("unlinked upper").unwrap();
        mount.rename("over", "replaced").unwrap();
        mount.rename("d", "elsewhere").unwrap();
        mount.remove_all("gone").unwrap();
        let numbers = |mount: &Mount| {
            ["f", "new", "elsewhere/in", "elsewhere/sub", "link", "h1"].map(|path| mount.stat(path).unwrap().st_ino)
        };
        let before = numbers(&mount);

        kill_and_wait(&mount);
        assert_eq!(numbers(&mount), before);
        for (fd, content) in [
            (&lower, "f"),
            (&new, "new"),
            (&unlinked_lower, "g"),
            (&unlinked_upper, "uu"),
            (&replaced, "rr"),
            (&moved, "d/in"),
        ] {
            assert_eq!(read(fd), content);
            tree::pwrite_all(fd, b"WRITTEN", 0).unwrap();
        }
        kill_and_wait(&mount);
        for fd in [&lower, &new, &unlinked_lower, &unlinked_upper, &replaced, &moved] {
            assert_eq!(read(fd), "WRITTEN");
        }
        assert_eq!(mount.text("elsewhere/in"), "WRITTEN");
        assert_eq!(mount.text("replaced"), "over");
        assert!(!mount.has("g") && !mount.has("gone") && !mount.has("d"));
        assert_eq!(rustix::fs::fstat(&dir).unwrap().st_mode & 0o170_000, 0o040_000);
        assert_eq!(rustix::fs::openat(&dir, "x", OFlags::RDONLY, 0.into()).err(), Some(Errno::NOENT));
    });
}

/// The journal has the owners of the layers: nothing is mapped twice.
#[test]
fn owners_of_what_is_open_are_the_same_for_the_next_daemon() {
    within(60, || {
        if who() != Who::Root {
            return;
        }
        let stack = Stack::new(1).option("uidmapping=0:0:1:1:101:100,gidmapping=0:0:1:1:201:100,attr_timeout=0");
        stack.lowers[0].file("f", "f").chown("f", 5, 6).unwrap();
        let (stack, mount) = supervised(stack);
        mount.mkdir("gone", 0o755).unwrap();
        mount.chown("gone", 107, 208).unwrap();
        let held = [mount.open("gone", OFlags::RDONLY).unwrap(), mount.open("f", OFlags::RDWR).unwrap()];
        mount.rmdir("gone").unwrap();
        mount.unlink("f").unwrap();
        let owners = || {
            held.iter().map(rustix::fs::fstat).map(Result::unwrap).map(|st| (st.st_uid, st.st_gid)).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            assert_eq!(owners(), [(107, 208), (105, 206)]);
            kill_and_wait(&mount);
        }
        assert_eq!(owners(), [(107, 208), (105, 206)]);
        let (user, group) = (rustix::fs::Uid::from_raw(109), rustix::fs::Gid::from_raw(8));
        rustix::fs::fchown(&held[0], Some(user), None).unwrap();
        assert_eq!(owners()[0], (109, 208));
        assert_eq!(rustix::fs::fchown(&held[0], None, Some(group)), Err(Errno::OVERFLOW));
        tree::pwrite_all(&held[1], b"g", 0).unwrap();
        assert_eq!(owners()[1], (105, 206), "a copy without a name");
        drop((held, mount, stack));
    });
}

#[test]
fn a_listing_that_a_kill_interrupts_shows_each_name_once() {
    within(60, || {
        let (_stack, mount) = supervised(filled());
        let dir = mount.open("many", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let mut buffer = Vec::with_capacity(2048);
        let mut entries = rustix::fs::RawDir::new(&dir, buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.push(entry.unwrap().file_name().to_str().unwrap().to_owned());
            if names.len() % 100 == 50 {
                kill_and_wait(&mount);
            }
        }
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        let all: Vec<String> = (0..300).map(|i| format!("{i:03}")).collect();
        assert_eq!(names, all);
        // What the kernel has of the listing is dropped by a change after the kill, too.
        mount.unlink("many/007").unwrap();
        assert_eq!(mount.names("many").unwrap().len(), 299);
    });
}

#[test]
fn names_of_a_lower_hard_link_stay_together() {
    within(60, || {
        for index in ["index=on", "index=off"] {
            let (_stack, mount) = supervised(filled().option(index));
            let held = mount.open("h2", OFlags::RDONLY).unwrap();
            mount.write("h1", "written").unwrap();
            kill_and_wait(&mount);
            assert_eq!(
                (mount.text("h2").as_str(), tree::read_all(&held).unwrap()),
                ("written", b"written".to_vec()),
                "{index}"
            );
            assert_eq!(mount.stat("h1").unwrap().st_ino, mount.stat("h2").unwrap().st_ino, "{index}");
            mount.append("h2", " again").unwrap();
            assert_eq!(mount.text("h1"), "written again", "{index}");
        }
    });
}

#[test]
fn a_volatile_mount_goes_on_and_its_mark_goes_with_it() {
    within(60, || {
        let (stack, mut mount) = supervised(filled().option("volatile"));
        mount.write("new", "new").unwrap();
        kill_and_wait(&mount);
        mount.write("newer", "newer").unwrap();
        assert!(mount.unmount().unwrap().success());
        let left = stack.scratch.path().join("work/work/incompat/volatile");
        assert!(!left.exists() || who() != Who::Root || fs::read_dir(&left).is_ok());
    });
}

#[test]
fn a_signal_to_the_supervisor_ends_both_in_order() {
    within(60, || {
        let (stack, mount) = supervised(filled());
        kill_and_wait(&mount);
        let (supervisor, daemon) = (mount.pid().unwrap(), daemon(&mount).unwrap());
        rustix::process::kill_process(supervisor, Signal::TERM).unwrap();
        assert!(wait_until(|| !is_mounted(&stack.merged)));
        assert!(wait_until(|| rustix::process::test_kill_process(daemon).is_err()));
    });
}

#[test]
fn a_copy_up_that_a_kill_interrupts_is_made_by_the_next_daemon() {
    within(100, || {
        const SIZE: usize = 200 << 20;
        let stack = filled();
        stack.lowers[0].file("big", vec![7; SIZE]);
        let (_stack, mount) = supervised(stack);
        thread::scope(|scope| {
            let writer = scope.spawn(|| mount.pwrite("big", 5, b"written").unwrap());
            thread::sleep(Duration::from_millis(40));
            kill_and_wait(&mount);
            writer.join().unwrap();
        });
        let content = mount.read("big").unwrap();
        assert!(content.len() == SIZE && content[..16] == *b"\x07\x07\x07\x07\x07written\x07\x07\x07\x07");
        assert!(content[16..].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_daemon_that_dies_of_what_it_is_sent_is_given_up_in_the_end() {
    within(60, || {
        let (stack, mount) = supervised(filled());
        // As if each died at once: killed as soon as it has threads, which the one who unmounts in the end never has.
        let at = stack.merged.clone();
        let end = Instant::now() + Duration::from_secs(50);
        while !mount.messages().contains("unmounted") && Instant::now() < end {
            if let Some(pid) = daemon(&mount).filter(serves) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(2));
        }
        assert!(wait_until(|| !is_mounted(&at)), "{}", mount.messages());
    });
}

/// xorshift64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// One thread's names below its own directory, and what is in them; nothing else changes them.
struct Worker<'a> {
    tree: &'a Tree,
    home: String,
    random: Random,
    files: BTreeMap<String, Vec<u8>>,
    /// Open files without a name.
    held: Vec<(OwnedFd, Vec<u8>)>,
    steps: u32,
}

impl Worker<'_> {
    fn some(&mut self) -> String {
        let n = self.random.below(self.files.len());
        self.files.keys().nth(n).unwrap().clone()
    }

    fn fresh(&mut self) -> String {
        let dir = ["", "sub/", "made/"][self.random.below(3)];
        format!("{}/{dir}n{}", self.home, self.random.below(40))
    }

    /// Whatever was under a name goes, or nothing may be there.
    fn step(&mut self) {
        self.steps += 1;
        let (tree, action) = (self.tree, self.random.below(12));
        let (path, to) = (self.some(), self.fresh());
        let free = !self.files.contains_key(&to);
        match action {
            0 | 1 => {
                let bytes = self.random.0.to_le_bytes().repeat(1 + self.random.below(900));
                tree.write(&to, &bytes).unwrap();
                self.files.insert(to, bytes);
            }
            2 | 3 => {
                tree.append(&path, b"appended").unwrap();
                self.files.get_mut(&path).unwrap().extend(b"appended");
            }
            4 if path != to => {
                tree.rename(&path, &to).unwrap();
                let content = self.files.remove(&path).unwrap();
                self.files.insert(to, content);
            }
            5 => {
                let other = self.some();
                tree.rename_with(&path, &other, RenameFlags::EXCHANGE).unwrap();
                let (a, b) = (self.files[&path].clone(), self.files[&other].clone());
                self.files.insert(path, b);
                self.files.insert(other, a);
            }
            6 if self.files.len() > 5 => {
                self.held.push((tree.open(&path, OFlags::RDWR).unwrap(), self.files.remove(&path).unwrap()));
                tree.unlink(&path).unwrap();
                assert!(!tree.has(&path));
            }
            _ => self.other_step(action, &path, &to, free),
        }
        if self.held.len() > 6 {
            self.held.clear();
        }
    }

    fn other_step(&mut self, action: usize, path: &str, to: &str, free: bool) {
        let tree = self.tree;
        match action {
            7 => {
                let dir = format!("{}/dir", self.home);
                tree.mkdir(&dir, 0o755).unwrap();
                assert_eq!(tree.mkdir(&dir, 0o755), Err(Errno::EXIST));
                tree.symlink("x", format!("{dir}/s")).unwrap();
                assert_eq!(tree.names(&dir).unwrap(), ["s"]);
                tree.unlink(format!("{dir}/s")).unwrap();
                tree.rmdir(&dir).unwrap();
            }
            8 if free => {
                tree.link(path, to).unwrap();
                assert_eq!(tree.link(path, to), Err(Errno::EXIST));
                assert_eq!(tree.read(to).unwrap(), self.files[path]);
                tree.unlink(to).unwrap();
            }
            9 => {
                tree.chmod(path, 0o640).unwrap();
                let fd = tree.open(path, OFlags::RDONLY).unwrap();
                rustix::fs::fsetxattr(&fd, "user.a", b"1", rustix::fs::XattrFlags::CREATE).unwrap();
                rustix::fs::fremovexattr(&fd, "user.a").unwrap();
            }
            10 => {
                if let Some((fd, content)) = self.held.pop() {
                    let read = tree::read_all(&fd);
                    assert!(
                        read.as_ref().is_ok_and(|read| *read == content),
                        "held without a name: {:?}, not {}",
                        read.map(|r| r.len()),
                        content.len()
                    );
                }
            }
            _ => assert!(tree.read(path).unwrap() == self.files[path], "{path}"),
        }
    }

    fn check_all(&self) {
        for (path, content) in &self.files {
            assert!(self.tree.read(path).unwrap() == *content, "{path}");
        }
        for dir in ["sub", "made"] {
            let mine = format!("{}/{dir}/", self.home);
            let want: Vec<&str> = self.files.keys().filter_map(|path| path.strip_prefix(&mine)).collect();
            assert_eq!(self.tree.names(&mine).unwrap(), want);
        }
    }
}

#[test]
fn programs_under_kills_get_no_wrong_answer() {
    const WORKERS: u64 = 4;
    let seconds = env_number("PLYFS_SUPERVISE_SECONDS", 6);
    within(seconds + 100, move || {
        let stack = Stack::new(2);
        for home in 0..WORKERS {
            for n in 0..20 {
                stack.lowers[n % 2].file(&format!("w{home}/n{n}"), format!("lower {n}"));
                stack.lowers[n % 2].file(&format!("w{home}/sub/n{n}"), "below");
            }
            stack.lowers[0].file(&format!("w{home}/made/n0"), "made");
        }
        let lowers: Vec<View> = stack.lowers.iter().map(|layer| view::layer(layer.root())).collect();
        let (stack, mut mount) = supervised(stack);
        let (end, over) = (Instant::now() + Duration::from_secs(seconds), AtomicBool::new(false));
        let kills = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|n| {
                    scope.spawn({
                        let tree: &Tree = &mount;
                        let over = &over;
                        move || {
                            let home = format!("w{n}");
                            let top = (0..20).map(|f| (format!("{home}/n{f}"), format!("lower {f}").into_bytes()));
                            let sub = (0..20).map(|f| (format!("{home}/sub/n{f}"), b"below".to_vec()));
                            let made = [(format!("{home}/made/n0"), b"made".to_vec())];
                            let files = top.chain(sub).chain(made).collect();
                            let random = Random(env_number("PLYFS_TEST_SEED", 1) * 0x9e37_79b9 + n + 1);
                            let mut worker = Worker { tree, home, random, files, held: Vec::new(), steps: 0 };
                            while !over.load(Ordering::Relaxed) {
                                worker.step();
                            }
                            worker.check_all();
                            worker.steps
                        }
                    })
                })
                .collect();
            let mut kills = 0;
            while Instant::now() < end && !workers.iter().any(thread::ScopedJoinHandle::is_finished) {
                // Who dies sooner is thought to die of what it is sent.
                wait_until(|| daemon(&mount).as_ref().is_some_and(serves));
                thread::sleep(Duration::from_millis(250 + kills * 37 % 200));
                kill(&mount);
                kills += 1;
            }
            over.store(true, Ordering::Relaxed);
            let steps: Vec<u32> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
            println!("{kills} kills, steps of each program: {steps:?}");
            kills
        });
        assert!(kills > 0);
        let before = View::of(&mount, Walk::default());
        before.assert_sound();
        mount.remount();
        View::of(&mount, Walk::default()).assert_same(&before, "after the remount (after, before)");
        for (layer, before) in stack.lowers.iter().zip(&lowers) {
            view::layer(layer.root()).assert_same(before, "a lower layer (after, before)");
        }
        assert_eq!(fs::read_dir(stack.scratch.path().join("work/work")).unwrap().count(), 0, "left in workdir");
    });
}

#[test]
fn again_as_a_normal_user() {
    legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    legs::in_a_user_namespace();
}
