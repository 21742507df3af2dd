//! Each way that data can go (`io=`, `copyup=`) gives the same view; what each changes beside speed is checked here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::mount::unmount_any;
use common::scratch::Mounted;
use common::tree::pwrite_all;
use common::*;
use rustix::fs::OFlags;

/// The options, and whether an open for writing copies up.
const WAYS: [(&str, bool); 5] = [
    ("io=auto", false),
    ("io=stateless", false),
    ("io=passthrough", false),
    ("io=writeback", true),
    ("copyup=open", true),
];

/// Mounts the stack in each way that this user may.
fn in_each_way(make: impl Fn() -> Stack + Send + 'static, check: impl Fn(&Stack, &Mount, bool) + Send + 'static) {
    bounded(move || {
        for (option, at_open) in WAYS {
            if !is_offered(option) {
                continue;
            }
            let stack = make().option(option);
            let mount = stack.mount();
            println!("{option}");
            check(&stack, &mount, at_open);
        }
    });
}

fn lower(files: &[(&str, &str)]) -> Stack {
    let stack = Stack::new(1);
    files.iter().for_each(|(path, text)| drop(stack.lowers[0].file(path, text).at(path)));
    stack
}

fn open(mount: &Mount, path: &str, flags: OFlags) -> OwnedFd {
    mount.open(path, flags).unwrap()
}

#[test]
fn what_is_written_is_read_and_stands_in_the_upper_layer() {
    in_each_way(
        || lower(&[("old", "from below")]),
        |stack, mount, _| {
            mount.write("new", "0123456789").unwrap();
            let fd = open(mount, "new", OFlags::RDWR);
            tree::pwrite_all(&fd, b"ab", 3).unwrap();
            assert_eq!(mount.text("new"), "012ab56789");
            mount.append("old", "!").unwrap();
            mount.truncate("new", 4).unwrap();
            rustix::fs::fsync(&fd).unwrap();
            assert_eq!((mount.text("new"), mount.text("old")), ("012a".into(), "from below!".into()));
            assert_eq!((stack.upper().text("new"), stack.upper().text("old")), ("012a".into(), "from below!".into()));
            assert_eq!(stack.lowers[0].text("old"), "from below");
        },
    );
}

/// A reader that opened the lower file sees what is written to its copy, also when others have it open by then.
#[test]
fn who_opened_the_lower_file_sees_what_is_written_later() {
    in_each_way(
        || lower(&[("f", "lower text")]),
        |stack, mount, _| {
            let reader = open(mount, "f", OFlags::RDONLY);
            let read = |fd: &OwnedFd| {
                let mut bytes = [0; 64];
                let n = rustix::io::pread(fd, &mut bytes, 0).unwrap();
                String::from_utf8(bytes[..n].to_vec()).unwrap()
            };
            assert_eq!(read(&reader), "lower text");
            let writer = open(mount, "f", OFlags::RDWR);
            tree::pwrite_all(&writer, b"UPPER", 0).unwrap();
            let late = open(mount, "f", OFlags::RDONLY);
            assert_eq!(
                (read(&reader), read(&late), read(&writer)),
                ("UPPER text".into(), "UPPER text".into(), "UPPER text".into())
            );
            drop((reader, late, writer));
            // All opens have ended: the next one may go another way, and sees nothing old.
            let writer = open(mount, "f", OFlags::RDWR);
            tree::pwrite_all(&writer, b"again", 0).unwrap();
            assert_eq!(read(&open(mount, "f", OFlags::RDONLY)), "again text");
            assert_eq!(stack.lowers[0].text("f"), "lower text");
        },
    );
}

#[test]
fn an_open_for_writing_copies_up_only_where_it_is_to() {
    in_each_way(
        || lower(&[("f", "text"), ("emptied", "text")]),
        |stack, mount, at_open| {
            drop(open(mount, "f", OFlags::RDONLY));
            assert!(!stack.upper().has("f"));
            drop(open(mount, "f", OFlags::RDWR));
            assert_eq!(stack.upper().has("f"), at_open);
            drop(open(mount, "emptied", OFlags::WRONLY | OFlags::TRUNC));
            assert_eq!((mount.text("emptied"), stack.upper().text("emptied")), (String::new(), String::new()));
        },
    );
}

/// Also while the kernel writes by itself: what was opened before the bit was set clears it.
#[test]
fn a_users_write_ends_set_user_id_that_was_set_while_the_file_was_open() {
    if who() != Who::Root {
        return;
    }
    in_each_way(
        || {
            let stack = lower(&[]);
            stack.upper().file("f", "text").perm("f", 0o777);
            stack
        },
        |_, mount, _| {
            let fd = as_user(1234, 1234, || open(mount, "f", OFlags::WRONLY));
            mount.chmod("f", 0o6777).unwrap();
            assert_eq!(mount.mode("f"), 0o6777);
            as_user(1234, 1234, || tree::pwrite_all(&fd, b"T", 0).unwrap());
            drop(fd);
            assert_eq!(mount.mode("f"), 0o777);
        },
    );
}

/// While windows around random reads are read ahead, nothing old gets into the cache over what was just written, by
/// write(2) or by a store into a mapping.
#[test]
fn random_reads_see_each_write_while_the_file_is_read_ahead() {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    const BLOCK: u64 = 4096;
    const BLOCKS: u64 = 8192;
    in_each_way(
        || {
            let stack = Stack::new(1);
            stack.lowers[0].file("f", vec![0; (BLOCK * BLOCKS) as usize]);
            stack
        },
        |_, mount, _| {
            let file = open(mount, "f", OFlags::RDWR);
            // How often a block was written; each has one writer.
            let written: Vec<AtomicU32> = (0..BLOCKS).map(|_| AtomicU32::new(0)).collect();
            let number = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            std::thread::scope(|threads| {
                for writer in 0..2 {
                    let (file, written) = (&file, &written);
                    threads.spawn(move || {
                        for i in 0..1500 {
                            let block = number(i * 2 + writer) % (BLOCKS / 2) * 2 + writer;
                            let count = written[block as usize].load(SeqCst) + 1;
                            tree::pwrite_all(file, &count.to_le_bytes().repeat(1024), block * BLOCK).unwrap();
                            written[block as usize].store(count, SeqCst);
                        }
                    });
                }
                for reader in 0..2 {
                    let (file, written) = (&file, &written);
                    threads.spawn(move || {
                        let mut page = [0; BLOCK as usize];
                        for i in 0..6000 {
                            let block = number(i * 2 + reader + 1_000_000) % BLOCKS;
                            let before = written[block as usize].load(SeqCst);
                            assert_eq!(rustix::io::pread(file, &mut page, block * BLOCK).unwrap(), page.len());
                            let seen = u32::from_le_bytes(page[..4].try_into().unwrap());
                            let after = written[block as usize].load(SeqCst);
                            assert!(seen >= before && seen <= after + 1, "block {block}: {before} {seen} {after}");
                        }
                    });
                }
            });
            for (block, count) in written.iter().enumerate() {
                let mut page = [0; 4];
                rustix::io::pread(&file, &mut page, block as u64 * BLOCK).unwrap();
                assert_eq!(u32::from_le_bytes(page), count.load(SeqCst), "block {block}");
            }
        },
    );
}

/// Programs that read the same small files in the order of their listing, at once, meet what is put into the kernel's cache
/// ahead of them: with two threads in the daemon, too, nobody waits for ever, and each file is what it is.
#[test]
fn small_files_read_in_order_by_several_at_once_are_what_they_are() {
    const DIRS: usize = 20;
    const FILES: usize = 60;
    let text = |dir: usize, file: usize| format!("{dir} {file} ").repeat(1 + (dir * FILES + file) * 37 % 1500);
    let stack = move |writable| {
        let stack = if writable { Stack::new(2) } else { Stack::read_only(2) };
        for (dir, file) in (0..DIRS).flat_map(|dir| (0..FILES).map(move |file| (dir, file))) {
            stack.lowers[file % 2].file(&format!("d{dir}/{file}"), text(dir, file));
        }
        stack
    };
    bounded(move || {
        for (writable, threads) in [(false, "threads=2"), (false, "threads=4"), (true, "threads=2")] {
            let stack = stack(writable).option(threads);
            let mount = stack.mount();
            let mut order = Vec::new();
            for dir in 0..DIRS {
                for entry in std::fs::read_dir(mount.at(format!("d{dir}"))).unwrap() {
                    let entry = entry.unwrap();
                    assert!(entry.metadata().unwrap().is_file());
                    order.push((dir, entry.file_name().to_str().unwrap().parse().unwrap()));
                }
            }
            assert_eq!(order.len(), DIRS * FILES);
            std::thread::scope(|readers| {
                for reader in 0..3 {
                    let (order, mount) = (&order, &mount);
                    readers.spawn(move || {
                        for &(dir, file) in order.iter().skip(reader * 7) {
                            assert_eq!(mount.text(format!("d{dir}/{file}")), text(dir, file), "{threads}");
                        }
                    });
                }
            });
        }
    });
}

/// What is pushed into the kernel's cache ahead of a reader is never older than what others write there meanwhile.
#[test]
fn small_files_that_change_while_they_are_read_in_order_have_what_was_written_last() {
    const FILES: usize = 1500;
    const CHANGERS: usize = 3;
    let old = |file: usize| vec![b'o'; 6000 + file * 37 % 20_000];
    // What a changer did to a file.
    let new = move |file: usize| {
        let mut bytes = old(file);
        match file % 4 {
            0 => bytes[file * 13 % 6000] = b'm',
            1 => bytes[file * 13 % 5990..][..5].copy_from_slice(b"write"),
            2 => bytes.resize(1 + file % 5000, 0),
            _ => {}
        }
        bytes
    };
    bounded(move || {
        let stack = Stack::new(1).option("threads=3");
        (0..FILES).for_each(|file| {
            stack.lowers[0].file(&format!("d/{file}"), old(file));
        });
        let mut mount = stack.mount();
        let names = std::fs::read_dir(mount.at("d")).unwrap().map(|entry| {
            let entry = entry.unwrap();
            entry.metadata().unwrap();
            entry.file_name().to_str().unwrap().parse::<usize>().unwrap()
        });
        let order: Vec<usize> = names.collect();
        let at = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            let (order, at, mount) = (&order, &at, &mount);
            for changer in 0..CHANGERS {
                threads.spawn(move || {
                    for (place, &file) in order.iter().enumerate().filter(|(place, _)| place % CHANGERS == changer) {
                        // Where the pushes are: a little ahead of the reader.
                        while place > at.load(Relaxed) + file % 40 {
                            std::hint::spin_loop();
                        }
                        change(mount, file);
                    }
                });
            }
            for (place, file) in order.iter().enumerate() {
                at.store(place, Relaxed);
                mount.read(format!("d/{file}")).unwrap();
            }
            at.store(FILES, Relaxed);
        });
        for again in [false, true] {
            for file in 0..FILES {
                let found = mount.read(format!("d/{file}")).unwrap();
                assert!(found == new(file), "{file} is wrong, {again}");
            }
            mount.remount();
        }
    });
}

fn change(mount: &Mount, file: usize) {
    let fd = open(mount, &format!("d/{file}"), OFlags::RDWR);
    match file % 4 {
        0 => raw::SharedMap::new(&fd, 6000, true).put(file * 13 % 6000, b"m"),
        1 => tree::pwrite_all(&fd, b"write", (file * 13 % 5990) as u64).unwrap(),
        2 => rustix::fs::ftruncate(&fd, 1 + file as u64 % 5000).unwrap(),
        _ => {}
    }
}

/// The same of the windows around random reads of a large file.
#[test]
fn a_large_file_that_is_changed_by_a_mapping_while_it_is_read_at_random_has_what_was_stored() {
    const PAGES: usize = 16 << 10;
    bounded(|| {
        let stack = lower(&[]).option("threads=3");
        stack.lowers[0].file("f", vec![b'o'; PAGES * 4096]);
        let mut mount = stack.mount();
        let fd = open(&mount, "f", OFlags::RDWR);
        let place = |i: usize| i * 7919 % PAGES * 4096;
        let at = AtomicUsize::new(0);
        std::thread::scope(|threads| {
            for mapper in 0..2 {
                let (fd, at) = (&fd, &at);
                threads.spawn(move || {
                    let mut map = raw::SharedMap::new(fd, PAGES * 4096, true);
                    for i in (mapper..PAGES / 4).step_by(2) {
                        while i > at.load(Relaxed) + 3 {
                            std::hint::spin_loop();
                        }
                        // In the window of the read, or in its page.
                        map.put(place(i) ^ (i % 3 * 4096) | (1 + mapper), b"m");
                    }
                });
            }
            for i in 0..PAGES / 4 {
                at.store(i, Relaxed);
                rustix::io::pread(&fd, &mut [0; 4096], place(i) as u64).unwrap();
            }
            at.store(PAGES, Relaxed);
        });
        drop(fd);
        for again in [false, true] {
            let mut found = mount.read("f").unwrap();
            for i in 0..PAGES / 4 {
                let stored = place(i) ^ (i % 3 * 4096) | (1 + i % 2);
                assert_eq!(std::mem::replace(&mut found[stored], b'o'), b'm', "at {stored}, {again}");
            }
            assert!(found.iter().all(|byte| *byte == b'o'), "{again}");
            mount.remount();
        }
    });
}

/// A file that gets set-user-id bits, or a flag of chattr, while it is open can be opened again.
#[test]
fn what_a_file_becomes_while_it_is_open_is_no_reason_not_to_open_it() {
    in_each_way(
        || {
            let stack = lower(&[]);
            stack.upper().file("f", "text");
            stack
        },
        |_, mount, _| {
            let first = open(mount, "f", OFlags::RDWR);
            mount.chmod("f", 0o4755).unwrap();
            let second = open(mount, "f", OFlags::RDWR);
            tree::pwrite_all(&second, b"T", 0).unwrap();
            drop(first);
            assert_eq!(mount.text("f"), "Text");
        },
    );
}

/// Also where threads of the daemon go on for a moment: a restart of the machine must find it.
#[test]
fn an_unmount_in_order_records_for_good_what_was_written_by_blocks() {
    // `BELOW`, `HERE` (as long as the machine runs) and `KEPT`, behind a page.
    const STATES: usize = 4096;
    bounded(|| {
        for _ in 0..5 {
            let stack = lower(&[]).option("copyup_block=4096");
            stack.lowers[0].file("f", vec![b'l'; 1 << 20]);
            let mut mount = stack.mount();
            let fd = open(&mount, "f", OFlags::RDWR);
            tree::pwrite_all(&fd, b"written", 70_000).unwrap();
            drop(fd);
            unmount_any(mount.root(), false).unwrap();
            assert!(mount.ended(std::time::Duration::from_secs(15)).is_some_and(|status| status.success()));
            let records = stack.scratch.path().join("work/work/incompat/plyfs.blocks");
            let records: Vec<_> = std::fs::read_dir(records).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(records.len(), 1);
            let states = std::fs::read(&records[0]).unwrap().split_off(STATES);
            assert_eq!((states[17], states.contains(&1)), (2, false), "{states:?}");
        }
    });
}

/// A sparse file of an absurd size is read at random like any other.
#[test]
fn a_file_of_exabytes_is_read_at_random() {
    in_each_way(
        || lower(&[]),
        |_, mount, _| {
            mount.write("f", "").unwrap();
            // Where the file system has no such files there is nothing to see.
            let Some(size) = [1_u64 << 62, 1 << 43].into_iter().find(|size| mount.truncate("f", *size).is_ok()) else {
                return;
            };
            let fd = open(mount, "f", OFlags::RDONLY);
            for i in 1..20 {
                let mut page = [1; 4096];
                assert_eq!(rustix::io::pread(&fd, &mut page, size - i * (size / 32)).unwrap(), page.len());
                assert_eq!(page, [0; 4096]);
            }
        },
    );
}

/// The first requests to a fresh view may hold the lock of its root.
#[test]
fn a_directory_is_moved_below_another_before_anything_is_opened() {
    in_each_way(
        || lower(&[]),
        |_, mount, _| {
            mount.mkdir("a", 0o755).unwrap();
            mount.mkdir("a/x", 0o755).unwrap();
            mount.mkdir("c", 0o755).unwrap();
            mount.rename("a", "c/a").unwrap();
            assert!(mount.has("c/a/x"));
        },
    );
}

/// What the kernel writes back from its cache, and has room for but for the end, is told to who syncs: nothing is lost without
/// a word.
#[test]
fn what_is_stored_and_has_no_room_is_told_by_a_sync() {
    const SIZE: usize = 1 << 20;
    bounded(|| {
        let stack = Stack::new(1);
        stack.lowers[0].file("lower", vec![b'l'; 3 << 20]);
        for way in ["io=stateless", "io=writeback", "copyup_block=64k"].into_iter().filter(|way| is_offered(way)) {
            let at = stack.scratch.fresh("small");
            let Some(small) = Mounted::small(&at, 1000) else {
                return say_skipped("no file system can be mounted here");
            };
            let [upper, work] = ["upper", "work"].map(|name| at.join(name));
            [&upper, &work].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
            let dirs = format!("upperdir={},workdir={},{way}", upper.display(), work.display());
            let options = format!("lowerdir={},{dirs}", stack.lowers[0].root().display());
            let mount = Mount::with(&options, &stack.merged, &stack.scratch.path().join("log"));
            let create = |path: &str| mount.open(path, OFlags::RDWR | OFlags::CREATE);
            let fd = create("written").unwrap();
            let done = pwrite_all(&fd, &vec![b'w'; SIZE], 0).and_then(|()| rustix::fs::fsync(&fd));
            assert_eq!(done, Err(Errno::NOSPC), "{way}: a write");
            drop(fd);
            mount.unlink("written").unwrap();
            // Where it is copied by blocks there is room for a part of a large file.
            let path = if way.starts_with("copyup") { "lower" } else { "mapped" };
            let fd = create(path).unwrap();
            if path == "mapped" {
                rustix::fs::ftruncate(&fd, SIZE as u64).unwrap();
            }
            let mut map = raw::SharedMap::new(&fd, SIZE, true);
            map.put(0, &[b's'; SIZE]);
            assert_eq!(map.sync().map_err(|error| error.raw_os_error()), Err(Some(libc::ENOSPC)), "{way}: a mapping");
            drop((map, fd, mount, small));
        }
    });
}

#[test]
fn again_as_a_normal_user() {
    common::legs::as_a_normal_user();
}

#[test]
fn again_in_a_user_namespace() {
    common::legs::in_a_user_namespace();
}
