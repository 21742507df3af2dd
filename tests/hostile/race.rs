//! Directories that change under the daemon's feet.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use crate::Ran;
use crate::common::stack::Layer;
use crate::common::*;

/// How long a race lasts.
pub fn seconds() -> u64 {
    env_number("PLYFS_RACE_SECONDS", 2)
}

const FILES: usize = 6;
const INSIDE: &str = "inside";
const OUTSIDE: &str = "outside";

/// A lower and an upper layer with a directory each, whose name a symlink takes and gives back all the time. The symlink
/// leads out of the layer as the daemon would follow it, and nowhere as seen through the mount.
struct Trap {
    stack: Stack,
    outside: Tree,
}

impl Trap {
    fn new(options: &str) -> Self {
        let mut stack = Stack::new(1).option(options);
        stack.lowers = vec![Layer::new(stack.scratch.dir("deep/lower"))];
        stack.upper = Some(Layer::new(stack.scratch.dir("deep/upper")));
        let outside = Layer::new(stack.scratch.dir("deep/outside"));
        for i in 0..FILES {
            outside.file(&format!("f{i}"), OUTSIDE).file(&format!("sub/f{i}"), OUTSIDE);
        }
        outside.file("secret", OUTSIDE);
        for (layer, dir) in [(&stack.lowers[0], "low"), (stack.upper(), "up")] {
            for i in 0..FILES {
                layer.file(&format!("{dir}/f{i}"), INSIDE).file(&format!("{dir}/sub/f{i}"), INSIDE);
            }
            layer.soft_link("../outside", &format!("{dir}-link"));
            layer.soft_link("../../outside/sub", &format!("{dir}/sub-link"));
        }
        Trap { outside: Tree::new(outside.root()), stack }
    }

    /// What is swapped with what.
    fn pairs(&self) -> Vec<(PathBuf, PathBuf)> {
        let (low, up) = (&self.stack.lowers[0], self.stack.upper());
        vec![
            (low.at("low"), low.at("low-link")),
            (up.at("up"), up.at("up-link")),
            (low.at("low/sub"), low.at("low/sub-link")),
            (up.at("up/sub"), up.at("up/sub-link")),
        ]
    }
}

fn swap(a: &Path, b: &Path) {
    let _ = renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE);
}

/// Everything a client can do in one directory; errors are its own affair, what it sees is not.
fn disturb(mount: &Tree, dir: &str, round: u64) {
    let see = |path: &str| {
        if let Ok(content) = mount.read(path) {
            let text = String::from_utf8_lossy(&content).into_owned();
            assert!(!text.contains(OUTSIDE), "{path} shows a file of another directory");
        }
    };
    let of = |i: u64| format!("{dir}/f{}", i % FILES as u64);
    if let Ok(names) = mount.names(dir) {
        assert!(!names.iter().any(|name| name == "secret"), "{dir} lists another directory");
    }
    (0..FILES as u64).for_each(|i| see(&of(i)));
    let (one, two, three) = (of(round), of(round + 1), of(round + 2));
    let _ = mount.append(&one, "+");
    let _ = mount.chmod(&two, 0o600);
    let _ = mount.truncate(&two, 3);
    let _ = mount.unlink(&three);
    let _ = mount.write(&three, INSIDE);
    let _ = mount.set_xattr(&one, "user.trap", b"x");
    let _ = mount.remove_xattr(&one, "user.trap");
    let _ = mount.rename(&one, format!("{dir}/moved"));
    let _ = mount.rename(format!("{dir}/moved"), &one);
    let _ = mount.link(&two, format!("{dir}/linked"));
    let _ = mount.unlink(format!("{dir}/linked"));
    let _ = mount.mkdir(format!("{dir}/made"), 0o755);
    let _ = mount.symlink("t", format!("{dir}/made/link"));
    let _ = mount.unlink(format!("{dir}/made/link"));
    let _ = mount.rmdir(format!("{dir}/made"));
    let _ = mount.utimes(&two, tree::OLD);
    let _ = mount.open(&two, OFlags::WRONLY | OFlags::TRUNC);
}

/// One race; how often the names were swapped and the client came round. `before` is done in its thread, where the daemon
/// is started.
pub fn race(options: &str, seconds: u64, before: impl FnOnce()) -> (u64, u64) {
    let trap = Trap::new(options);
    let untouched = view::layer(trap.outside.root());
    before();
    let (stop, swaps, mut rounds) = (AtomicBool::new(false), AtomicU64::new(0), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (a, b) in trap.pairs() {
                    swap(&a, &b);
                    swaps.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        let _stop = Stop(&stop);
        let end = Instant::now() + Duration::from_secs(seconds);
        // A new daemon knows no descriptors: it has to walk again.
        while Instant::now() < end {
            let mount = trap.stack.mount();
            let next = end.min(Instant::now() + Duration::from_millis(250));
            while Instant::now() < next {
                ["low", "up", "low/sub", "up/sub"].iter().for_each(|dir| disturb(&mount, dir, rounds));
                rounds += 1;
            }
        }
    });
    if let Some(difference) = view::layer(trap.outside.root()).difference(&untouched) {
        panic!("something outside of the layers was changed: {difference}");
    }
    (swaps.into_inner(), rounds)
}

/// Ends the other thread, on a panic too.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// fo1 unlinked a file outside.
pub fn a_directory_swapped_for_a_symlink_leads_nowhere() -> Ran {
    for options in ["rw", "timeout=0"] {
        if options != "rw" && !mount::is_plyfs() {
            continue;
        }
        let (swaps, rounds) = race(options, seconds(), || ());
        println!("{options}: {swaps} swaps, {rounds} rounds of 17 changes and 7 looks in 4 directories");
    }
    Ok(())
}

/// The same where names are walked one by one.
pub fn a_directory_swapped_while_openat2_is_refused_leads_nowhere() -> Ran {
    if who() == Who::User {
        return crate::not_here("a filter would keep fusermount3 from its rights");
    }
    let (swaps, rounds) = race("timeout=0", seconds(), || raw::deny_calls(&crate::sandbox::MODERN, libc::EPERM));
    println!("without openat2: {swaps} swaps, {rounds} rounds");
    Ok(())
}
