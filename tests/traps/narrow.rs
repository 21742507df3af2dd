//! Programs of 32 bits without large-file support: offsets of directories have 31 bits, and inode numbers 32 with `ino32_t`.

use std::collections::{BTreeMap, HashSet};
use std::mem::MaybeUninit;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{OFlags, RawDir};

use crate::common::stack::Layer;
use crate::common::*;

/// Lists a directory, looks at each name, and goes back to each place that telldir gave.
const PROGRAM: &str = r#"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static long at[5000];
static char names[5000][64];
int main(int argc, char **argv) {
    int n = 0, bad = 0, other = 0, lost = 0;
    struct dirent *e;
    struct stat s;
    if (sizeof(s.st_ino) != 4 || sizeof(off_t) != 4 || chdir(argv[1])) return 2;
    DIR *d = opendir(".");
    for (errno = 0; n < 5000 && (at[n] = telldir(d), e = readdir(d)); errno = 0) {
        strncpy(names[n++], e->d_name, 63);
        if (lstat(e->d_name, &s)) bad++;
        else if (s.st_ino != e->d_ino && strcmp(e->d_name, "..")) other++;
    }
    if (errno) { printf("readdir after %d names: %s\n", n, strerror(errno)); return 1; }
    for (int i = n - 1; i >= 0; i -= 7) {
        seekdir(d, at[i]);
        e = readdir(d);
        if (!e || strcmp(e->d_name, names[i])) lost++;
    }
    printf("%d names, %d cannot be looked at, %d have another number, %d are lost\n", n, bad, other, lost);
    return 0;
}
"#;

/// The program, where the machine has a compiler for it.
fn program(scratch: &Scratch) -> Option<PathBuf> {
    let (source, program) = (scratch.path().join("narrow.c"), scratch.path().join("narrow"));
    std::fs::write(&source, PROGRAM).unwrap();
    let built = Command::new("gcc").args(["-m32", "-w", "-o"]).args([&program, &source]).output();
    if built.is_ok_and(|out| out.status.success()) {
        return Some(program);
    }
    say_skipped("no gcc -m32 (Debian: gcc-multilib)");
    None
}

fn told(program: &Path, dir: &Path) -> String {
    String::from_utf8(Command::new(program).arg(dir).output().unwrap().stdout).unwrap().trim().to_owned()
}

/// A stack whose lower layer is on another file system than its upper, if there are two.
fn two_systems() -> Option<(Scratch, Stack)> {
    if lacks("readdirplus") {
        say_skipped("plain listings give other numbers than stat, and none lasts without a UUID");
        return None;
    }
    let memory = Path::new("/dev/shm");
    let writable = rustix::fs::access(memory, rustix::fs::Access::WRITE_OK).is_ok();
    let other = if writable { Scratch::within(memory) } else { Scratch::new() };
    let mut stack = Stack::new(1);
    let device = |path: &Path| path.metadata().unwrap().dev();
    if device(other.path()) == device(stack.scratch.path()) {
        say_skipped("/dev/shm is no file system of its own here");
        return None;
    }
    stack.lowers.push(Layer::new(other.dir("lower")));
    Some((other, stack))
}

fn fill(stack: &Stack) {
    for i in 0..1000 {
        stack.lowers[i % stack.lowers.len()].file(&format!("d/file{i}"), "");
    }
    stack.upper().file("d/upper", "");
}

const ALL: &str = "1003 names, 0 cannot be looked at, 0 have another number, 0 are lost";

#[test]
fn a_program_of_32_bits_can_list_a_directory() {
    bounded(|| {
        let stack = Stack::new(2);
        let Some(program) = program(&stack.scratch) else { return };
        fill(&stack);
        let mount = stack.mount();
        assert_eq!(told(&program, &mount.at("d")), ALL);
        mount.unlink("d/file7").unwrap();
        mount.write("d/new", "").unwrap();
        assert_eq!(told(&program, &mount.at("d")), ALL);
    });
}

#[test]
fn with_ino32_t_it_can_look_at_what_is_on_several_file_systems() {
    bounded(|| {
        let Some((_other, stack)) = two_systems() else { return };
        let Some(program) = program(&stack.scratch) else { return };
        fill(&stack);
        let mount = stack.mount();
        assert!(told(&program, &mount.at("d")).contains("Value too large"), "{}", told(&program, &mount.at("d")));
        drop(mount);
        let stack = stack.option("ino32_t=1");
        assert_eq!(told(&program, &stack.mount().at("d")), ALL);
    });
}

/// Names with their offsets and numbers.
fn listed(mount: &Mount, dir: &str) -> Vec<(String, u64, u64)> {
    let fd = mount.open(dir, OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let (mut raw, mut names) = (RawDir::new(&fd, &mut buffer), Vec::new());
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        names.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie(), entry.ino()));
    }
    names
}

#[test]
fn offsets_of_a_directory_have_31_bits_and_rise() {
    bounded(|| {
        let stack = Stack::new(2);
        fill(&stack);
        let mount = stack.mount();
        let offsets: Vec<u64> = listed(&mount, "d").into_iter().map(|(_, offset, _)| offset).collect();
        assert!(offsets.len() == 1003 && offsets.is_sorted_by(|a, b| a < b));
        assert!(offsets.iter().all(|offset| *offset <= i32::MAX as u64), "{offsets:?}");
    });
}

/// The end as programs of 32 bits know it, and beyond; also where a name came since the directory was read.
#[test]
fn a_listing_that_goes_on_at_the_last_offset_is_over() {
    bounded(|| {
        let stack = Stack::new(2);
        fill(&stack);
        let mount = stack.mount();
        let fd = mount.open("d", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        assert_eq!(listed(&mount, "d").len(), 1003);
        mount.write("d/new", "").unwrap();
        for offset in [i32::MAX as u64, u64::from(u32::MAX), i64::MAX as u64] {
            rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(offset)).unwrap();
            let mut buffer = [MaybeUninit::uninit(); 4096];
            assert!(RawDir::new(&fd, &mut buffer).next().is_none(), "{offset:x}");
        }
        assert_eq!(listed(&mount, "d").len(), 1004);
    });
}

#[test]
fn numbers_of_32_bits_are_of_one_object_each_and_last_where_they_can() {
    bounded(|| {
        let Some((_other, stack)) = two_systems() else { return };
        fill(&stack);
        stack.lowers[0].file("first", "").link("first", "second").unwrap();
        let stack = stack.option("ino32_t=1");
        let mut mount = stack.mount();
        // The layers on the first file system are the upper and the first lower one: even numbers.
        let lasts = |name: &str| {
            name.strip_prefix("file").is_some_and(|number| number.parse::<u32>().unwrap().is_multiple_of(2))
        };
        let numbers = |mount: &Mount| -> BTreeMap<String, u64> {
            let stat = |(name, _, listed): (String, u64, u64)| {
                let ino = mount.stat(format!("d/{name}")).unwrap().st_ino;
                assert!(listed <= u32::MAX.into() && (listed == ino || !lasts(&name)), "{name}: {listed} {ino}");
                (name, ino)
            };
            listed(mount, "d").into_iter().filter(|(name, ..)| name != "..").map(stat).collect()
        };
        let first = numbers(&mount);
        assert!(first.values().all(|ino| *ino <= u32::MAX.into()));
        assert_eq!(first.values().collect::<HashSet<_>>().len(), first.len());
        assert_eq!(mount.stat("first").unwrap().st_ino, mount.stat("second").unwrap().st_ino);
        // A copy-up keeps them.
        for name in ["d/file0", "d/file1"] {
            mount.chmod(name, 0o600).unwrap();
            mount.write(name, "changed").unwrap();
        }
        // Others may have made the kernel forget those that do not last.
        let lasting = |all: BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            all.into_iter().filter(|(name, _)| lasts(name)).collect()
        };
        assert_eq!(lasting(numbers(&mount)), lasting(first.clone()));
        mount.remount();
        let second = numbers(&mount);
        assert_eq!(second.values().collect::<HashSet<_>>().len(), second.len());
        // A user is not told the UUID of an ext4 before Linux 6.0, unless udev knows it: then plyfs says what is lost.
        if (kernel() < (6, 9) || lacks("fs-uuid")) && mount.messages().contains("no UUID") {
            skip!("numbers over a remount: the layers have no UUID on this kernel");
        }
        for (name, ino) in first.iter().filter(|(name, _)| lasts(name)) {
            assert_eq!(second[name], *ino, "{name}");
        }
    });
}
