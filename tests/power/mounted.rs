//! The same over a real mount: programs' system calls, a daemon in between, and a disk that writes when it likes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use crate::common::Mount;
use crate::engine::{Engine, Result};
use crate::image::{Event, Image, Random, states};
use crate::rows::{Row, Step};
use crate::stand::{Stand, Way};
use crate::{Extent, usable};

/// A step as the engine does it, which says what is to be seen then, and as programs do.
struct Twin {
    step: Step,
    program: fn(&Path) -> io::Result<()>,
}

fn twin(act: fn(&Engine) -> Result<()>, program: fn(&Path) -> io::Result<()>) -> Twin {
    Twin { step: Step { act, keeps: &[], copies: &[], torn: &[] }, program }
}

impl Twin {
    fn keep(mut self, keeps: &'static [&'static str]) -> Self {
        self.step.keeps = keeps;
        self
    }

    fn torn(mut self, torn: &'static [(&'static str, &'static str)]) -> Self {
        self.step.torn = torn;
        self
    }
}

fn write_at(path: &Path, offset: u64, text: &str, flags: i32) -> io::Result<()> {
    OpenOptions::new().write(true).custom_flags(flags).open(path)?.write_all_at(text.as_bytes(), offset)
}

/// Of a file or a directory.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn history() -> Vec<Twin> {
    [files(), directories()].into_iter().flatten().collect()
}

fn files() -> Vec<Twin> {
    let nothing = |_: &Engine| Ok(());
    vec![
        twin(|e| e.write("f", 2, "xx"), |at| write_at(&at.join("f"), 2, "xx", 0)),
        twin(nothing, |at| File::open(at.join("f"))?.sync_data()).keep(&["f"]),
        twin(|e| e.write("d/sub/deep", 0, "THIS"), |at| write_at(&at.join("d/sub/deep"), 0, "THIS", libc::O_DSYNC))
            .keep(&["d/sub/deep"]),
        twin(
            |e| e.append("d/sub/deep", "+"),
            |at| {
                OpenOptions::new().append(true).custom_flags(libc::O_SYNC).open(at.join("d/sub/deep"))?.write_all(b"+")
            },
        )
        .keep(&["d/sub/deep"])
        .torn(&[("d/sub/deep", "THIS is d/sub/deep\0")]),
        twin(|e| e.chmod("one", 0o600), |at| Ok(rustix::fs::chmod(at.join("one"), 0o600.into())?)),
        twin(|e| e.write("two", 0, "THIS"), |at| write_at(&at.join("two"), 0, "THIS", libc::O_DSYNC))
            .keep(&["one", "two", "p/three"]),
        twin(|e| e.write("big", 9000, "xx"), |at| write_at(&at.join("big"), 9000, "xx", 0)),
        // Where the kernel has the file in its own hands by now, it syncs this one itself.
        twin(|e| e.write("big", 9010, "yy"), |at| write_at(&at.join("big"), 9010, "yy", libc::O_DSYNC)).keep(&["big"]),
        twin(|e| e.create("e/new"), |at| File::create(at.join("e/new")).map(drop)),
        twin(|e| e.write("e/new", 0, "new"), |at| write_at(&at.join("e/new"), 0, "new", 0))
            .torn(&[("e/new", "\0\0\0")]),
        twin(nothing, |at| sync(&at.join("e/new"))).keep(&["e/new"]),
        twin(|e| e.rename("e/new", "e/other"), |at| fs::rename(at.join("e/new"), at.join("e/other"))),
        twin(nothing, |at| sync(&at.join("e"))).keep(&["e/new", "e/other"]),
    ]
}

fn directories() -> Vec<Twin> {
    let nothing = |_: &Engine| Ok(());
    vec![
        twin(|e| e.unlink("d/in"), |at| fs::remove_file(at.join("d/in"))),
        twin(nothing, |at| sync(&at.join("d"))).keep(&["d/in"]),
        twin(|e| e.unlink("d/sub/deep"), |at| fs::remove_file(at.join("d/sub/deep"))),
        twin(|e| e.rmdir("d/sub"), |at| fs::remove_dir(at.join("d/sub"))),
        twin(|e| e.rmdir("d"), |at| fs::remove_dir(at.join("d"))),
        twin(|e| e.mkdir("d"), |at| fs::create_dir(at.join("d"))),
        twin(|e| e.create("d/new"), |at| File::create(at.join("d/new")).map(drop)),
        twin(nothing, |at| sync(&at.join("d/new"))).keep(&["d/new", "d/in", "d/sub"]),
        twin(|e| e.rename("e", "into/e"), |at| fs::rename(at.join("e"), at.join("into/e"))),
        twin(nothing, |at| sync(&at.join("into")).and_then(|()| sync(at))).keep(&["e", "into/e/other"]),
        twin(|e| e.link("f", "into/f"), |at| fs::hard_link(at.join("f"), at.join("into/f"))),
        twin(|e| e.unlink("f"), |at| fs::remove_file(at.join("f"))),
        twin(nothing, |at| sync(at).and_then(|()| sync(&at.join("into")))).keep(&["f", "into/f"]),
    ]
}

/// Writes the journal, or all, again and again.
fn write_when_it_likes(bystander: &File, over: &AtomicBool, seed: u64) {
    let mut random = Random::new(seed);
    while !over.load(Relaxed) {
        if random.below(4) == 0 {
            rustix::fs::syncfs(bystander).unwrap();
        } else {
            bystander.set_modified(SystemTime::now()).and_then(|()| bystander.sync_all()).unwrap();
        }
        std::thread::sleep(Duration::from_micros(random.below(1500)));
    }
}

fn record(
    stand: &Stand,
    row: &Row,
    programs: &[fn(&Path) -> io::Result<()>],
    options: &str,
    seed: u64,
) -> (Image, Vec<Event>) {
    let _up = stand.fresh(row);
    let (base, merged) = (stand.at.display(), stand.scratch.dir("mounted"));
    let options = format!("lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,index=on,{options}");
    let mut mount = Mount::with(&options, &merged, &stand.scratch.path().join("log"));
    let recording = stand.recording(Way::Quiet, seed).unwrap();
    let (bystander, over) =
        (File::options().write(true).open(stand.at.join("bystander")).unwrap(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| write_when_it_likes(&bystander, &over, seed));
        for (number, program) in programs.iter().enumerate() {
            stand.disk.mark(Event::Begin(number));
            let done = program(&merged);
            stand.disk.mark(Event::Done(number));
            if let Err(error) = done {
                over.store(true, Relaxed);
                panic!("step {number}: {error}");
            }
        }
        over.store(true, Relaxed);
    });
    let recorded = recording.end(stand).unwrap();
    mount.unmount();
    recorded
}

fn on(kind: &'static str, options: &str) {
    let Some(stand) = usable(kind) else { return };
    let extent = Extent::new();
    let (steps, programs): (Vec<_>, Vec<_>) = history().into_iter().map(|twin| (twin.step, twin.program)).unzip();
    let row = Row { steps, large: true, ..crate::rows::row("a mount", |_| Ok(())) };
    let views = stand.views(&row).unwrap();
    let mut random = Random::new(extent.seed);
    let (base, log) = record(&stand, &row, &programs, options, extent.seed);
    let found = states(&base, &log, 1, &mut random);
    let (allowed, mut looked_at, mut wrong) = (found.len(), 0, Vec::new());
    for (number, state) in extent.choose_of(found, extent.states.saturating_mul(6), &mut random).into_iter().enumerate()
    {
        looked_at += 1;
        if let Err(why) = stand.check(&row, &views, &state, number % 2 == 0) {
            wrong.push(format!("{} begun, {} done, {}: {why}", state.begun, state.done, state.what));
        }
    }
    println!("{kind}, a mount with {options}: {looked_at} of {allowed} states, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{} are wrong:\n  {}", wrong.len(), wrong.join("\n  "));
}

#[test]
fn every_crash_state_under_a_mount_is_a_state_of_the_history() {
    on("ext4", "fsync=auto");
    on("xfs", "fsync=auto");
}

#[test]
fn every_crash_state_under_a_mount_with_passthrough_is_a_state_of_the_history() {
    on("ext4", "io=passthrough");
}
