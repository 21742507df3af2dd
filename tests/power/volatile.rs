//! `volatile`: nothing is synced, but whoever comes after a loss of power is told.

use plyfs::config::Fsync;

use crate::image::{Random, states};
use crate::rows::Row;
use crate::stand::{Stand, Way};
use crate::{Extent, usable};

fn row(fsync: Fsync) -> Row {
    let row = Row { fsync, ..crate::rows::row("volatile", |_| Ok(())) };
    row.then(|e| e.write("f", 2, "xx")).then(|e| e.chmod("d/sub/deep", 0o600)).then(|e| e.unlink("one"))
}

/// A layer without the mark is as it was; one with it neither plyfs nor the kernel opens.
fn look(stand: &Stand, row: &Row) -> Result<bool, String> {
    let marked = stand.at.join("work/work/incompat/volatile").exists();
    let (plyfs, kernel) = (stand.by_plyfs(row), stand.by_kernel(row));
    if marked {
        let refused = plyfs.as_ref().is_err_and(|why| why.contains("volatile")) && kernel.is_err();
        return if refused { Ok(true) } else { Err(format!("not refused: {plyfs:?}, {kernel:?}")) };
    }
    let changed = std::fs::read_dir(stand.at.join("upper")).unwrap().count() > 0;
    if changed { Err("changed, but without the mark".into()) } else { kernel.and(plyfs).map(|_| false) }
}

fn on(kind: &'static str) {
    let Some(stand) = usable(kind) else { return };
    let (extent, row) = (Extent::new(), row(Fsync::Volatile));
    let mut seen = [0, 0];
    for way in [Way::Commits, Way::Syncs] {
        let mut random = Random::new(extent.seed);
        let (base, log) = stand.record_opening(&row, way, 1).unwrap();
        for state in extent.choose(states(&base, &log, 1, &mut random), &mut random) {
            stand.disk.load(&state.image);
            let _up = stand.up().unwrap();
            let marked =
                look(&stand, &self::row(Fsync::Auto)).unwrap_or_else(|why| panic!("{way:?} {}: {why}", state.what));
            seen[usize::from(marked)] += 1;
        }
    }
    println!("{kind}: {} states without the mark, {} with it", seen[0], seen[1]);
    assert!(seen[1] > 0);
}

#[test]
fn a_volatile_layer_that_lost_power_is_refused() {
    on("ext4");
    on("xfs");
}
