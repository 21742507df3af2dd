//! A client that is killed while a large file is copied up for it is gone at once, and so is the copy.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::common::mount::wait_until;
use crate::common::*;
use crate::scale;

/// A file whose copy takes a while, with real data in it, and a word at either end.
fn large(stack: &Stack) -> u64 {
    let size = scale() * (512 << 20);
    let block = vec![0xa5u8; 16 << 20];
    let file = fs::File::create(stack.lowers[0].at("f")).unwrap();
    for _ in 0..size >> 24 {
        std::io::Write::write_all(&mut &file, &block).unwrap();
    }
    std::os::unix::fs::FileExt::write_all_at(&file, b"first", 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"last", size - 4).unwrap();
    size
}

/// Files in workdir that have data.
fn copies(stack: &Stack) -> Vec<PathBuf> {
    let mut dirs = vec![stack.scratch.path().join("work")];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(stat) if stat.is_dir() => dirs.push(entry.path()),
                Ok(stat) if stat.blocks() > 8 => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found
}

fn spawn(program: &str, args: &[&str]) -> Child {
    Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Starts a client, waits until a copy is under way for it, kills it; how long it lived on, if it was killed in time.
fn kill_in_copy(stack: &Stack, start: &dyn Fn(&Path) -> Child) -> Option<Duration> {
    let mut client = start(&stack.merged.join("f"));
    let began = wait_until(|| !copies(stack).is_empty() || client.try_wait().unwrap().is_some());
    assert!(began, "nothing is copied");
    sleep(Duration::from_millis(10));
    let killed = Instant::now();
    kill_process(Pid::from_child(&client), Signal::KILL).unwrap();
    let status = client.wait().unwrap();
    let took = killed.elapsed();
    (status.signal() == Some(9)).then_some(took)
}

/// That nothing is left of an attempt, and the file is what it was.
fn assert_untouched(stack: &Stack, mount: &Mount, size: u64, case: &str) {
    assert!(wait_until(|| copies(stack).is_empty()), "{case}: the copy stays in workdir");
    assert!(!stack.upper().has("f") && !stack.upper().has("g"), "{case}: something stands in the upper layer");
    assert_eq!(mount.stat("f").unwrap().st_size as u64, size, "{case}");
    let fd = mount.open("f", OFlags::RDONLY).unwrap();
    let mut word = [0; 5];
    rustix::io::pread(&fd, &mut word, 0).unwrap();
    assert_eq!(&word, b"first", "{case}");
}

/// A client in a thread that is not the first of its process (a test's is none): see [`client`].
fn in_a_thread(file: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "interrupts::client", "--ignored", "--nocapture"]).env("PLYFS_LOAD_CLIENT", file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "run by others"]
fn client() {
    let Some(file) = std::env::var_os("PLYFS_LOAD_CLIENT") else { return };
    let file = fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"F", 0).unwrap();
}

/// What a client does, with what option the mount must copy for that, and how it is started.
struct Row {
    what: &'static str,
    options: &'static str,
    start: fn(&Path) -> Child,
}

const ROWS: &[Row] = &[
    Row {
        what: "write",
        options: "copyup=lazy",
        start: |f| {
            let to = format!("of={}", f.display());
            spawn("dd", &["if=/dev/zero", &to, "bs=1", "count=1", "conv=notrunc"])
        },
    },
    Row { what: "write in a thread", options: "copyup=lazy", start: in_a_thread },
    Row {
        what: "truncate to a byte less",
        options: "copyup=lazy",
        start: |f| spawn("truncate", &["-s-1", f.to_str().unwrap()]),
    },
    Row {
        what: "fallocate",
        options: "copyup=lazy",
        start: |f| spawn("fallocate", &["-o", "0", "-l", "4096", f.to_str().unwrap()]),
    },
    Row {
        what: "rename",
        options: "metacopy=off",
        start: |f| spawn("mv", &[f.to_str().unwrap(), f.with_file_name("g").to_str().unwrap()]),
    },
    Row {
        what: "link",
        options: "metacopy=off",
        start: |f| spawn("ln", &[f.to_str().unwrap(), f.with_file_name("g").to_str().unwrap()]),
    },
    Row { what: "chmod", options: "metacopy=off", start: |f| spawn("chmod", &["600", f.to_str().unwrap()]) },
    Row { what: "open in a thread", options: "copyup=open", start: in_a_thread },
    Row { what: "open in a thread", options: "io=writeback", start: in_a_thread },
];

#[test]
fn a_client_killed_in_a_copy_up_is_gone_within_a_second_and_so_is_the_copy() {
    within(600, || {
        let mut stack = Stack::new(1);
        let size = large(&stack);
        let mut worst = Duration::ZERO;
        for row in ROWS {
            stack.options = vec![row.options.into()];
            let mount = stack.mount();
            let case = format!("{} with {}", row.what, row.options);
            let took = kill_in_copy(&stack, &row.start).unwrap_or_else(|| panic!("{case}: done before it was killed"));
            println!("{case}: {took:?} for {size} bytes");
            worst = worst.max(took);
            assert!(took < Duration::from_secs(1), "{case}: the client lives on for {took:?}");
            assert_untouched(&stack, &mount, size, &case);
        }
        println!("killed in the copy-up of {size} bytes: gone after {worst:?} at most");
    });
}

/// Not even the sync at the end of a copy, which nothing can end, keeps a client.
#[test]
fn a_client_killed_at_the_end_of_the_copy_is_gone_within_a_second() {
    within(300, || {
        let stack = Stack::new(1);
        let size = large(&stack);
        let mount = stack.mount();
        let mut client = in_a_thread(&stack.merged.join("f"));
        let end = || copies(&stack).iter().any(|f| fs::metadata(f).is_ok_and(|stat| stat.blocks() * 512 >= size));
        while !end() && client.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(1));
        }
        let killed = Instant::now();
        let _ = kill_process(Pid::from_child(&client), Signal::KILL);
        client.wait().unwrap();
        println!("killed at the end of the copy of {size} bytes: gone after {:?}", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
        assert_eq!(mount.stat("f").unwrap().st_size as u64, size);
        assert!(wait_until(|| copies(&stack).is_empty()), "a copy stays in workdir");
    });
}

/// Bytes that the daemon has written, copies within the kernel included.
fn written(mount: &Mount) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", mount.pid().unwrap().as_raw_pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// O_TRUNC and truncate to 0 copy nothing, however large the file is.
#[test]
fn what_is_emptied_is_not_copied_first() {
    within(120, || {
        for options in ["copyup=lazy", "copyup=open"] {
            let mut stack = crate::stack(1);
            stack.options = vec![options.into()];
            stack.lowers[0].file("f", vec![7; 32 << 20]).file("g", vec![7; 32 << 20]);
            let mount = stack.mount();
            let before = written(&mount);
            drop(mount.open("f", OFlags::WRONLY | OFlags::TRUNC).unwrap());
            // With a descriptor of it open for writing it is whole already.
            let at_open = options == "copyup=open";
            if !at_open {
                mount.truncate("g", 0).unwrap();
            }
            assert!(written(&mount) - before < 1 << 20, "{options}: {} bytes", written(&mount) - before);
            for file in if at_open { &["f"][..] } else { &["f", "g"] } {
                assert_eq!((mount.stat(file).unwrap().st_size, stack.upper().stat(file).unwrap().st_blocks), (0, 0));
            }
        }
    });
}

/// Those who wait for the same copy go on: it is made for one of them. Nobody else waits at all, though the daemon has two
/// threads only.
#[test]
fn others_who_wait_for_the_copy_get_it_and_nobody_else_waits() {
    within(300, || {
        let stack = Stack::new(1).option("copyup=open").option("threads=2");
        let size = large(&stack);
        stack.lowers[0].file("other", "other");
        let mount = stack.mount();
        let file = stack.merged.join("f");
        let mut first = in_a_thread(&file);
        assert!(wait_until(|| !copies(&stack).is_empty()), "nothing is copied");
        let mut others: Vec<Child> = (0..8).map(|_| in_a_thread(&file)).collect();
        let emptied = spawn("chmod", &["640", file.to_str().unwrap()]);
        sleep(Duration::from_millis(30));
        kill_process(Pid::from_child(&first), Signal::KILL).unwrap();
        // One who only waits is gone as soon.
        kill_process(Pid::from_child(&others[0]), Signal::KILL).unwrap();
        let killed = Instant::now();
        let status = others.remove(0).wait().unwrap();
        assert!(killed.elapsed() < Duration::from_secs(1) && status.signal() == Some(9), "{status}");
        assert_eq!(first.wait().unwrap().signal(), Some(9), "done before it was killed");
        assert!(killed.elapsed() < Duration::from_secs(2));
        let looked = Instant::now();
        assert_eq!(mount.text("other"), "other");
        assert!(mount.stat("absent").is_err());
        assert!(looked.elapsed() < Duration::from_millis(500), "others waited for {:?}", looked.elapsed());
        for mut client in others.into_iter().chain([emptied]) {
            assert!(client.wait().unwrap().success());
        }
        assert_eq!(mount.mode("f"), 0o640);
        let (fd, mut word) = (mount.open("f", OFlags::RDONLY).unwrap(), [0; 5]);
        rustix::io::pread(&fd, &mut word, 0).unwrap();
        assert_eq!((&word, mount.stat("f").unwrap().st_size as u64), (b"First", size));
        assert!(wait_until(|| copies(&stack).is_empty()), "a copy stays in workdir");
    });
}

/// The kernel does not say who asks where the client is in no pid namespace of the daemon's: then the copy is made to its
/// end, and is whole.
#[test]
fn a_client_that_the_daemon_cannot_see_is_not_interrupted_and_the_copy_is_whole() {
    within(120, || {
        if who() != Who::Root {
            skip!("a pid namespace of its own for the daemon needs root");
        }
        let stack = Stack::new(1);
        let size = large(&stack);
        let mount = crate::mount_after(&stack, "unshare --help | grep -q kill-child || exit 3", "copyup=lazy");
        drop(mount);
        let script = stack.scratch.path().join("apart");
        let text = format!(
            "#!/bin/sh\nexec unshare --pid --fork --kill-child '{}' \"$@\"\n",
            PathBuf::from(mount::binary()).display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = stack.layer_options("work");
        let log = stack.scratch.path().join("log");
        let mut mount = Mount::by(script.into(), &options, &stack.merged, &log).unwrap();
        let mut client = in_a_thread(&stack.merged.join("f"));
        assert!(wait_until(|| !copies(&stack).is_empty()), "nothing is copied");
        kill_process(Pid::from_child(&client), Signal::KILL).unwrap();
        client.wait().unwrap();
        assert_eq!(mount.stat("f").unwrap().st_size as u64, size);
        assert_eq!(stack.upper().stat("f").unwrap().st_size as u64, size);
        mount.unmount();
    });
}
