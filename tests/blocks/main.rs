//! Copy-up block by block, through the engine without a mount: what it costs, that every byte is right, and what is left
//! when the process ends, a call fails or the machine starts anew.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/engine.rs"]
mod engine;

mod crash;
mod layers;
mod model;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use plyfs::testing::seam::{Call, Plan, with_plan};
use plyfs::union::{Completed, Live, Seek, WriteHow};
use plyfs::{Errno, Union};

use common::{Kernel, Who, skip, who};
use engine::me;
use layers::{BLOCK, Layers, SIZE, pattern, read};

/// What a file takes on disk.
fn allocated(path: &std::path::Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

#[test]
fn a_small_write_to_a_large_file_costs_a_few_blocks() {
    const BLOCK: u64 = 64 << 10;
    let layers = Layers::on_disk();
    let path = layers.lower().join("f");
    let lower = fs::File::options().read(true).write(true).truncate(true).open(path).unwrap();
    lower.set_len(1 << 30).unwrap();
    for at in [0, 4096, 1 << 20, 5 << 20, (1 << 30) - 4096] {
        lower.write_all_at(&pattern(4096, 1), at).unwrap();
    }
    let engine = layers.open(Some(16));
    let id = engine.id("f").unwrap();
    engine.0.write(&me(), id, (5 << 20) + 100, &[7; 4096], WriteHow::default()).unwrap();
    engine.0.fsync(id, false).unwrap();
    let record = fs::read_dir(layers.records()).unwrap().next().unwrap().unwrap().path();
    let cost = allocated(&layers.upper().join("f")) + allocated(&record);
    assert!(cost <= 4 * BLOCK, "{cost} bytes");
    let mut expected = vec![0; 8192];
    lower.read_exact_at(&mut expected, 5 << 20).unwrap();
    expected[100..4196].fill(7);
    let mut found = vec![0; 8192];
    assert_eq!(engine.0.read(id, 5 << 20, &mut found), Ok(8192));
    assert!(found == expected);
    assert_eq!(engine.0.getattr(id).unwrap().size, 1 << 30);
    // Without the option the same write copies all that is data.
    assert_eq!(layers.open_again(engine, None).0.complete_all(), Ok(Completed { done: 1, failed: 0 }));
    assert!(allocated(&layers.upper().join("f")) < 1 << 20, "holes are kept");
}

#[test]
fn what_is_left_is_found_again_and_a_completed_file_is_a_copy() {
    for option in [Some(12), None, Some(14)] {
        let layers = Layers::new();
        let mut expected = layers.content();
        let engine = layers.open(Some(12));
        for at in [0, 5 * BLOCK + 77, SIZE - 10] {
            let id = engine.id("f").unwrap();
            assert_eq!(engine.0.write(&me(), id, at as u64, b"0123456789", WriteHow::default()), Ok(10));
            expected[at..at + 10].copy_from_slice(b"0123456789");
        }
        let times = engine.attr("f").unwrap();
        drop(engine);
        assert!(layers.is_partial("f"));
        let engine = layers.open(option);
        assert!(read(&engine, "f") == expected);
        assert!(layers.is_partial("f"), "reading completes nothing");
        assert_eq!(engine.0.complete_all(), Ok(Completed { done: 1, failed: 0 }));
        assert!(read(&engine, "f") == expected);
        assert!(fs::read(layers.upper().join("f")).unwrap() == expected);
        assert_eq!((engine.attr("f").unwrap().mtime, engine.attr("f").unwrap().mode), (times.mtime, times.mode));
        assert!(!layers.is_partial("f") && !layers.has_incompat());
        drop(engine);
        assert!(read(&layers.open(None), "f") == expected);
    }
}

#[test]
fn what_needs_the_whole_file_completes_it() {
    type Act = fn(&engine::Engine);
    let acts: [(&str, Act); 5] = [
        ("link", |e| e.link("f", "g").unwrap()),
        ("truncate to shorter", |e| e.truncate("f", 100_000).unwrap()),
        ("truncate to nothing", |e| e.truncate("f", 0).unwrap()),
        ("truncate to longer", |e| e.truncate("f", SIZE as u64 + 5).unwrap()),
        ("fallocate", |e| e.0.fallocate(&me(), e.id("f").unwrap(), 3, 4096, 8192).unwrap()),
    ];
    for (name, act) in acts {
        let layers = Layers::new();
        let engine = layers.open(Some(12));
        engine.write("f", 9000, "x").unwrap();
        assert!(layers.is_partial("f"));
        let mut expected = layers.content();
        expected[9000] = b'x';
        act(&engine);
        assert!(!layers.is_partial("f") && !layers.has_incompat(), "{name}");
        match name {
            "truncate to shorter" => expected.truncate(100_000),
            "truncate to nothing" => expected.clear(),
            "truncate to longer" => expected.resize(SIZE + 5, 0),
            "fallocate" => expected[4096..12288].fill(0),
            _ => {}
        }
        assert!(read(&engine, "f") == expected, "{name}");
        assert!(read(&layers.open_again(engine, None), "f") == expected, "{name}");
    }
}

#[test]
fn what_needs_no_data_leaves_the_file_as_it_is() {
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    let mut expected = layers.content();
    engine.write("f", 9000, "x").unwrap();
    expected[9000] = b'x';
    engine.chmod("f", 0o4750).unwrap();
    engine.rename("f", "dir/g").unwrap();
    let id = engine.id("dir/g").unwrap();
    engine.0.fsync(id, false).unwrap();
    assert_eq!(engine.0.seek(id, 5, Seek::Data), Ok(5));
    assert_eq!(engine.0.seek(id, 5, Seek::Hole), Ok(SIZE as u64));
    assert_eq!(engine.0.seek(id, SIZE as u64, Seek::Data), Err(Errno::ENXIO));
    assert_eq!(engine.0.copy_range(&me(), (id, 0), (id, 4096), 10), Err(Errno::EOPNOTSUPP));
    assert!(layers.is_partial("dir/g"));
    assert!(read(&engine, "dir/g") == expected);
    let engine = layers.open_again(engine, None);
    assert!(read(&engine, "dir/g") == expected);
    assert_eq!(engine.attr("dir/g").unwrap().mode, 0o4750);
    // A write by somebody else ends that, a copy in the background does not.
    engine.0.complete_all().unwrap();
    assert_eq!(engine.attr("dir/g").unwrap().mode, 0o4750);
}

#[test]
fn an_unlinked_file_is_read_and_written_and_leaves_nothing() {
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    let mut expected = layers.content();
    engine.write("f", 9000, "x").unwrap();
    let id = engine.id("f").unwrap();
    engine.unlink("f").unwrap();
    assert_eq!(engine.0.write(&me(), id, 70_000, b"y", WriteHow::default()), Ok(1));
    (expected[9000], expected[70_000]) = (b'x', b'y');
    let mut found = vec![0; SIZE + 1];
    assert_eq!(engine.0.read(id, 0, &mut found), Ok(SIZE));
    assert!(found[..SIZE] == expected);
    engine.0.forget(id, 100);
    assert!(!layers.has_incompat());
    drop(engine);
    assert_eq!(layers.open(None).id("f"), Err(Errno::ENOENT));
}

#[test]
fn only_a_sync_outlives_the_machine() {
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    let mut expected = layers.content();
    let id = engine.id("f").unwrap();
    engine.0.write(&me(), id, 10, b"synced", WriteHow::default()).unwrap();
    expected[10..16].copy_from_slice(b"synced");
    engine.0.fsync(id, true).unwrap();
    engine.0.write(&me(), id, 50_000, b"not", WriteHow::default()).unwrap();
    let mut now = expected.clone();
    now[50_000..50_003].copy_from_slice(b"not");
    // The process ends, and the machine goes on.
    layers::abandon(engine);
    let engine = layers.open(None);
    assert!(read(&engine, "f") == now);
    layers::abandon(engine);
    layers.reboot();
    let engine = layers.open(Some(12));
    assert!(read(&engine, "f") == expected);
    // What was left of the lost block in the file does not come back.
    engine.0.write(&me(), engine.id("f").unwrap(), 50_010, b"z", WriteHow::default()).unwrap();
    expected[50_010] = b'z';
    assert!(read(&engine, "f") == expected);
    // An end in order syncs.
    drop(engine);
    layers.reboot();
    assert!(read(&layers.open(None), "f") == expected);
}

#[test]
fn without_its_record_a_file_is_refused_and_not_shown_as_it_was() {
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    engine.write("f", 9000, "x").unwrap();
    drop(engine);
    fs::remove_dir_all(layers.records().parent().unwrap()).unwrap();
    let engine = layers.open(Some(12));
    let id = engine.id("f").unwrap();
    assert_eq!(engine.0.read(id, 0, &mut [0; 10]), Err(Errno::EIO));
    assert_eq!(engine.0.write(&me(), id, 0, b"x", WriteHow::default()), Err(Errno::EIO));
    engine.unlink("f").unwrap();
}

#[test]
fn descriptors_that_run_out_are_taken_from_files_that_nobody_uses() {
    let layers = Layers::new();
    fs::copy(layers.lower().join("f"), layers.lower().join("other")).unwrap();
    let engine = layers.open(Some(12));
    for name in ["f", "other"] {
        engine.write(name, 9000, "x").unwrap();
    }
    let mut expected = layers.content();
    expected[9000] = b'x';
    drop(engine);
    let mut at = 0;
    loop {
        let engine = layers.open(None);
        assert!(read(&engine, "other") == expected);
        let id = engine.id("f").unwrap();
        let mut found = vec![0; SIZE];
        let plan = Plan::fail(at, Errno::EMFILE).only(Call::OpenBeneath);
        let (len, calls) = with_plan(plan, || engine.0.read(id, 0, &mut found));
        assert!(len == Ok(SIZE) && found == expected, "open {at}: {len:?}");
        assert!(read(&engine, "other") == expected);
        if at >= calls {
            break;
        }
        at += 1;
    }
}

#[test]
fn the_kernel_refuses_the_layer_until_it_is_complete() {
    if who() != Who::Root || !Kernel::usable() {
        skip!("no kernel OverlayFS to look at the layers");
    }
    let layers = Layers::new();
    let engine = layers.open(Some(12));
    engine.write("f", 9000, "x").unwrap();
    drop(engine);
    let (base, at) = (layers.base().display().to_string(), layers.base().join("merged"));
    fs::create_dir(&at).unwrap();
    let rw = format!("lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,metacopy=on,redirect_dir=on");
    assert_eq!(Kernel::with(&rw, &at).err().and_then(|error| error.raw_os_error()), Some(libc::EINVAL));
    let ro = format!("lowerdir={base}/upper:{base}/lower,metacopy=on,redirect_dir=on");
    {
        let _kernel = Kernel::with(&ro, &at).unwrap();
        assert_eq!(fs::read(at.join("f")).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(fs::read(at.join("small")).unwrap(), b"small");
    }
    // And neither does plyfs follow it where the layer is a lower one.
    let below = Union::builder().lower(layers.upper()).lower(layers.lower()).build().unwrap();
    assert_eq!(engine::Engine::around(below).id("f"), Err(Errno::EIO));
    let mut expected = layers.content();
    expected[9000] = b'x';
    layers.open(None).0.complete_all().unwrap();
    for options in [rw, ro] {
        let _kernel = Kernel::with(&options, &at).unwrap();
        assert!(fs::read(at.join("f")).unwrap() == expected);
    }
}

#[test]
fn a_file_in_use_is_completed_in_the_background() {
    let layers = Layers::new();
    let mut config = layers.config(Some(12));
    config.copyup_rate = 300_000;
    let engine = Arc::new(Union::open(config).unwrap());
    let live = Arc::new(Live::new(engine.clone()));
    let tender = live.tend().unwrap().unwrap();
    let id = engine.lookup(plyfs::union::InodeId::ROOT, &engine::name("f")).unwrap().unwrap().id;
    engine.write(&me(), id, 9000, b"x", WriteHow::default()).unwrap();
    let before = engine.getattr(id).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while layers.is_partial("f") {
        assert!(Instant::now() < deadline, "it is not completed");
        sleep(Duration::from_millis(50));
    }
    assert_eq!(engine.getattr(id).unwrap().mtime, before.mtime);
    drop(tender);
    drop(live);
    drop(engine);
    let mut expected = layers.content();
    expected[9000] = b'x';
    assert!(fs::read(layers.upper().join("f")).unwrap() == expected);
    assert!(!layers.has_incompat());
}

#[test]
fn small_files_and_hard_links_are_copied_whole() {
    let layers = Layers::new();
    fs::hard_link(layers.lower().join("f"), layers.lower().join("f2")).unwrap();
    let engine = layers.open(Some(12));
    engine.write("f", 9000, "x").unwrap();
    engine.write("small", 0, "x").unwrap();
    assert!(!layers.has_incompat());
    assert_eq!(engine.text("small").unwrap(), "xmall");
}
