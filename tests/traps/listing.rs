//! Directories: wide, changing while they are read, read in pieces.

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{self as sys, OFlags, RawDir, SeekFrom};

use crate::common::*;

/// The names and the offset after each, from the descriptor's position to the end, or about `most` names.
fn read_some(fd: &OwnedFd, most: usize) -> Vec<(String, u64)> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut dir = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = dir.next() {
        let entry = match entry {
            Err(Errno::NOENT) => break, // the directory is gone
            other => other.unwrap(),
        };
        names.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
        if names.len() == most {
            break;
        }
    }
    names
}

fn wide(files: usize) -> Stack {
    let stack = Stack::new(2);
    for i in 0..files {
        stack.lowers[i % 2].file(&format!("d/file{i}"), "");
    }
    stack
}

/// Each name that stays is seen exactly once, whatever goes and comes meanwhile.
#[test]
fn ten_thousand_names_while_half_of_them_go() {
    bounded(|| {
        let stack = wide(10_000);
        let mount = stack.mount();
        let fd = mount.open("d", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let mut seen = HashSet::new();
        let mut round = 0;
        loop {
            let some: Vec<_> = read_some(&fd, 200);
            if some.is_empty() {
                break;
            }
            sys::seek(&fd, SeekFrom::Start(some[some.len() - 1].1)).unwrap();
            for (name, _) in some {
                assert!(seen.insert(name.clone()), "{name} twice");
            }
            for i in (round * 200..(round + 1) * 200).filter(|i| i % 2 == 0 && *i < 10_000) {
                mount.unlink(format!("d/file{i}")).unwrap();
            }
            mount.write(format!("d/new{round}"), "").unwrap();
            round += 1;
        }
        for i in (1..10_000).step_by(2) {
            assert!(seen.contains(&format!("file{i}")), "file{i} was not seen");
        }
        let names = mount.names("d").unwrap();
        assert_eq!(names.iter().filter(|n| n.starts_with("file")).count(), 10_000 - 100 * round.min(50));
    });
}

/// seekdir to any place that telldir gave reads on from there, also after names have gone and through another descriptor.
#[test]
fn offsets_of_a_directory_stay_good() {
    bounded(|| {
        let stack = wide(1000);
        let mount = stack.mount();
        mount.write("d/upper", "").unwrap();
        let fd = mount.open("d", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let all = read_some(&fd, usize::MAX);
        assert_eq!(all.len(), 1003, "with . and ..");
        let at = |i: usize| all[i].1;
        for i in [0, 1, 2, 500, 1, 1001, 700] {
            sys::seek(&fd, SeekFrom::Start(at(i))).unwrap();
            assert_eq!(read_some(&fd, usize::MAX), all[i + 1..], "after entry {i}");
        }
        // The rest is the same when something before and something after has gone.
        let gone = [10, 11, 300, 900].map(|i| all[i].0.clone());
        for name in &gone {
            mount.unlink(format!("d/{name}")).unwrap();
        }
        sys::seek(&fd, SeekFrom::Start(at(500))).unwrap();
        let rest: HashSet<_> = read_some(&fd, usize::MAX).into_iter().map(|(n, _)| n).collect();
        let want: HashSet<_> = all[501..].iter().map(|(n, _)| n.clone()).filter(|n| !gone.contains(n)).collect();
        assert!(want.is_subset(&rest), "names that stay are missing: {:?}", want.difference(&rest).collect::<Vec<_>>());
        let late = rest.difference(&want).filter(|n| !gone.contains(n)).count();
        assert_eq!(late, 0, "names from before the place");
        // From the start it is what there is now.
        sys::seek(&fd, SeekFrom::Start(0)).unwrap();
        assert_eq!(read_some(&fd, usize::MAX).len(), 999);
    });
}

/// rewinddir shows what was made since.
#[test]
fn a_rewound_directory_shows_what_is_new() {
    bounded(|| {
        let stack = wide(10);
        let mount = stack.mount();
        let fd = mount.open("d", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        assert_eq!(read_some(&fd, usize::MAX).len(), 12);
        mount.write("d/new", "").unwrap();
        mount.unlink("d/file3").unwrap();
        mount.rename("d/file4", "d/renamed").unwrap();
        sys::seek(&fd, SeekFrom::Start(0)).unwrap();
        let names: HashSet<_> = read_some(&fd, usize::MAX).into_iter().map(|(n, _)| n).collect();
        assert!(
            names.contains("new") && names.contains("renamed") && !names.contains("file3") && !names.contains("file4")
        );
    });
}

/// `.` and `..` have the numbers that stat gives, and a directory that is gone but open lists nothing.
#[test]
fn dot_and_dot_dot_and_a_removed_directory() {
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("d/e/f", "x");
        let mount = stack.mount();
        for (path, dot, dot_dot) in [("d", "d", ""), ("d/e", "d/e", "d")] {
            let fd = mount.open(path, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
            let dir = sys::Dir::new(fd).unwrap();
            let numbers: Vec<_> = dir.map(|e| e.unwrap()).map(|e| (e.file_name().to_owned(), e.ino())).collect();
            let of = |name: &std::ffi::CStr| numbers.iter().find(|(n, _)| **n == *name).unwrap().1;
            assert_eq!(of(c"."), mount.stat(dot).unwrap().st_ino);
            assert_eq!(of(c".."), mount.stat(dot_dot).unwrap().st_ino);
        }
        let fd = mount.open("d/e", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        mount.unlink("d/e/f").unwrap();
        mount.rmdir("d/e").unwrap();
        assert_eq!(sys::fstat(&fd).unwrap().st_mode & 0o170_000, 0o040_000);
        assert!(read_some(&fd, 100).iter().all(|(n, _)| n == "." || n == ".."));
        let made = sys::openat(&fd, "new", OFlags::CREATE | OFlags::WRONLY, 0o644.into());
        assert_eq!(made.map(drop), Err(Errno::NOENT));
    });
}

/// No walk shows a name that was gone when it began, however many read the directory and change it at once. A daemon that
/// answers OPENDIR away and lets the kernel go on with a listing from before a change fails this within seconds.
#[test]
fn names_that_were_gone_before_a_walk_are_not_in_it() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    const CHANGERS: usize = 3;
    bounded(|| {
        let stack = Stack::new(1);
        let stay: Vec<String> = (0..600).map(|i| format!("d/stays-{i:03}-{}", "x".repeat(90))).collect();
        for name in &stay {
            stack.lowers[0].file(name, "");
        }
        let mount = stack.mount();
        let gone: [AtomicUsize; CHANGERS] = Default::default();
        let over = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for (changer, gone) in gone.iter().enumerate() {
                let (over, mount) = (&over, &mount);
                threads.spawn(move || {
                    for round in 1.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        let name = format!("d/{changer}-{round}");
                        mount.write(&name, "").unwrap();
                        mount.unlink(&name).unwrap();
                        gone.store(round, Ordering::SeqCst);
                    }
                });
            }
            let readers: Vec<_> = (0..4)
                .map(|_| {
                    threads.spawn(|| {
                        let end = std::time::Instant::now() + std::time::Duration::from_secs(3);
                        while std::time::Instant::now() < end {
                            let before: Vec<_> = gone.iter().map(|gone| gone.load(Ordering::SeqCst)).collect();
                            let names = mount.names("d").unwrap();
                            for (changer, last) in before.iter().enumerate() {
                                let old = names.iter().find(|name| {
                                    let round = name.strip_prefix(&format!("{changer}-"));
                                    round.is_some_and(|round| round.parse::<usize>().unwrap() <= *last)
                                });
                                assert_eq!(old, None, "gone since {last}");
                            }
                            assert_eq!(names.iter().filter(|name| name.starts_with("stays")).count(), stay.len());
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = readers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            over.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok), "a reader saw what was gone");
        });
    });
}
