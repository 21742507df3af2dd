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

use std::time::Duration;

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
    // As the daemon does: the descriptors of many layers are kept.
    plyfs::sys::process::raise_open_files();
    let criterion = Criterion::default().sample_size(10);
    let criterion = if is_short() {
        let (warm_up, measured) = (Duration::from_millis(5), Duration::from_millis(40));
        criterion.without_plots().nresamples(1000).warm_up_time(warm_up).measurement_time(measured)
    } else {
        criterion.nresamples(10_000).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2))
    };
    criterion.configure_from_args()
}
