//! Inode numbers and lifetimes.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use rustix::fs::{self as sys, OFlags};

use crate::common::scratch::Mounted;
use crate::common::tree::{read_all, write_all};
use crate::common::*;

/// Fresh file systems number alike: the same numbers in each. One device number for the whole mount, so the numbers must
/// differ, in every xino mode.
#[test]
fn numbers_are_unique_over_layers_on_several_file_systems() {
    bounded(|| {
        if who() == Who::User {
            skip!("mounts are needed");
        }
        for xino in ["", "xino=off", "xino=auto", "xino=on"] {
            if !xino.is_empty() && !mount::is_plyfs() {
                continue;
            }
            if xino == "xino=off" && lacks("readdirplus") {
                say_skipped("numbers of a plain listing are those of no inode with xino=off");
                continue;
            }
            let mut stack = Stack::new(5);
            let at = |i: usize| stack.lowers[i].root().to_owned();
            let mut mounted: Vec<_> = [0, 1].iter().filter_map(|i| Mounted::tmpfs(&at(*i))).collect();
            mounted.extend([2, 3].iter().filter_map(|i| Mounted::ext4(&at(*i), 16)));
            assert!(mounted.len() >= 2, "no tmpfs");
            for (i, layer) in stack.lowers.iter().enumerate() {
                let shared = if who() == Who::Root || i < 2 || i == 4 { 30 } else { 0 };
                for n in 0..shared {
                    layer.file(&format!("d{i}/f{n}"), "").file(&format!("all/f{i}-{n}"), "");
                }
                layer.file(&format!("h{i}"), "").hard_link(&format!("h{i}"), &format!("all/h{i}"));
            }
            if !xino.is_empty() {
                stack.options.push(xino.into());
            }
            let mount = stack.mount();
            // A number that no layer gives lives as long as the inode.
            let held = stack.lowers.iter().flat_map(|layer| mount.hold(layer, "".as_ref()).unwrap());
            let mut held: Vec<_> = held.collect();
            for round in 0..2 {
                View::of(&mount, Walk::default()).assert_sound();
                let mut devices = HashSet::new();
                for dir in ["", "all", "d0", "d4"] {
                    devices.extend(
                        mount
                            .names(dir)
                            .unwrap()
                            .iter()
                            .map(|n| mount.stat(format!("{dir}/{n}").trim_start_matches('/')).unwrap().st_dev),
                    );
                }
                assert_eq!(devices.len(), 1, "one device number for the mount");
                if round == 0 {
                    for i in 0..5 {
                        mount.append(format!("all/h{i}"), "x").unwrap();
                        mount.write(format!("all/new{i}"), "x").unwrap();
                        held.push(mount.open(format!("all/new{i}"), OFlags::PATH).unwrap());
                    }
                }
            }
            drop(held);
            drop(mount);
            drop(mounted);
        }
    });
}

/// ext4 gives a number out again at once; whoever still holds the dead file must not meet the newcomer.
#[test]
fn a_number_that_is_held_is_not_given_out_again() {
    bounded(|| {
        let stack = Stack::new(1);
        let mount = stack.mount();
        let mut held: Vec<(OwnedFd, String)> = Vec::new();
        let mut numbers = HashMap::new();
        for i in 0..300 {
            let text = format!("content of {i}");
            let fd = mount.create("f", 0o644).unwrap();
            write_all(&fd, text.as_bytes()).unwrap();
            let ino = sys::fstat(&fd).unwrap().st_ino;
            assert!(ino > 1, "0 and 1 are taken");
            assert_eq!(numbers.insert(ino, i), None, "file {i} has the number of an earlier one, which is still open");
            assert_eq!(ino, mount.stat("f").unwrap().st_ino);
            mount.unlink("f").unwrap();
            held.push((fd, text));
        }
        for (fd, text) in &held {
            assert_eq!(read_all(fd).unwrap(), text.as_bytes());
            write_all(fd, b"!").unwrap();
        }
        assert_eq!(read_all(&held[7].0).unwrap(), b"content of 7!");
        drop(held);
        // Directories held by a descriptor, too.
        let dirs: Vec<_> = (0..50)
            .map(|_| {
                mount.mkdir("d", 0o755).unwrap();
                let fd = mount.open("d", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
                mount.rmdir("d").unwrap();
                (sys::fstat(&fd).unwrap().st_ino, fd)
            })
            .collect();
        assert_eq!(dirs.iter().map(|(ino, _)| ino).collect::<HashSet<_>>().len(), 50);
    });
}

/// A wrong count of lookups either keeps an inode for ever or forgets one that the kernel still has.
#[test]
fn inodes_die_with_their_last_name() {
    bounded(|| {
        let stack = Stack::new(1);
        let mount = stack.mount();
        let Some(pid) = mount.pid() else { skip!("no daemon") };
        let resident = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let round = |rounds: u32| {
            for i in 0..rounds {
                let name = format!("a-name-that-takes-room-in-a-table-{i}");
                drop(mount.create(&name, 0o644).unwrap());
                if i % 64 == 0 {
                    mount.names("").unwrap();
                }
                mount.unlink(&name).unwrap();
            }
        };
        round(2000);
        let before = resident();
        round(20_000);
        let after = resident();
        assert!(after < before + 4096, "{before} kB, then {after} kB after 20,000 files that are gone");
    });
}

/// With READDIRPLUS each listing counts lookups; what is listed again and again is still one object.
#[test]
fn listing_often_and_removing() {
    bounded(|| {
        let stack = Stack::new(2);
        for i in 0..100 {
            stack.lowers[i % 2].file(&format!("d/f{i}"), "x");
        }
        let mount = stack.mount();
        for round in 0..30 {
            assert_eq!(mount.names("d").unwrap().len(), 100 - round);
            mount.stat(format!("d/f{round}")).unwrap();
            mount.unlink(format!("d/f{round}")).unwrap();
            assert!(!mount.has(format!("d/f{round}")));
        }
        View::of(&mount, Walk::default()).assert_sound();
    });
}
