//! What the benches share: layers, mounts that end with the value, and who serves them: plyfs, and beside it the kernel's
//! OverlayFS and fuse-overlayfs where they are.
// Each bench is a crate of its own and uses a part of this module.
#![allow(dead_code)]

pub mod engine;
pub mod first_change;
pub mod images;
pub mod layers;
pub mod mounts;
pub mod stock;
pub mod summary;

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

use criterion::Criterion;

pub use layers::Layers;
pub use mounts::Mounted;

/// Little is to be measured (CI): whether it runs counts, not the figures.
pub fn is_short() -> bool {
    std::env::var_os("PLYFS_BENCH_SHORT").is_some()
}

/// What cannot be measured here, and why.
pub fn say_skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
}

/// How long each thing is measured. The words of the command line come last: they count most.
pub fn criterion() -> Criterion {
    leave_no_mounts();
    // As the daemon does: the descriptors of many layers are kept.
    plyfs::testing::process::raise_open_files();
    let criterion = Criterion::default().sample_size(10);
    let criterion = if is_short() {
        let (warm_up, measured) = (Duration::from_millis(5), Duration::from_millis(40));
        criterion.without_plots().nresamples(1000).warm_up_time(warm_up).measurement_time(measured)
    } else {
        criterion.nresamples(10_000).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2))
    };
    let criterion = criterion.configure_from_args();
    // What a short run measures is compared with the last short run only.
    let named = std::env::args().any(|arg| arg.contains("baseline"));
    if is_short() && !named { criterion.save_baseline("short".to_owned()) } else { criterion }
}

/// Measures, and says at the end what came out.
pub fn run(measure: impl FnOnce(&mut Criterion)) {
    let begun = SystemTime::now();
    let mut criterion = criterion();
    measure(&mut criterion);
    criterion.final_summary();
    summary::print(begun);
}

/// Whether the words of the command line ask for another one of `all` only: then nothing is made for this one.
pub fn is_left_out(one: &str, all: &[&str]) -> bool {
    let words: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let asks = |name: &str| words.iter().any(|word| word.contains(name));
    !asks(one) && all.iter().any(|name| asks(name))
}

/// Root's mounts are made in a mount table of this run's own, so that none is left where it is interrupted.
pub fn leave_no_mounts() {
    const ALONE: &str = "PLYFS_BENCH_ALONE";
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private"]);
        command
    };
    let can = || unshare().arg("true").output().is_ok_and(|out| out.status.success());
    if std::env::var_os(ALONE).is_none() && rustix::process::geteuid().is_root() && can() {
        let program = std::env::current_exe().expect("the path of this program");
        // Comes back only where it fails; then it goes on here.
        let _ = unshare().arg(program).args(std::env::args_os().skip(1)).env(ALONE, "1").exec();
    }
}
