//! A criterion bench of one's own through the engine: what the first byte written to a lower file costs, by its size.
//!
//! `cargo run --release --example own_bench -- --bench` (`TMPDIR` says on which file system). Copy it, and change what is timed.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use plyfs::config::Fsync;
use plyfs::union::{Caller, InodeId, WriteHow};
use plyfs::{Errno, Name, Union};

/// Lower files of one size; each is copied up once, then the upper layer is made anew.
const FILES: u64 = 16;

/// The time of `count` first writes, which is what criterion asks for.
fn first_writes(base: &std::path::Path, count: u64) -> Result<Duration, Box<dyn Error>> {
    let (upper, work) = (base.join("upper"), base.join("work"));
    let mut time = Duration::ZERO;
    for begin in (0..count).step_by(FILES as usize) {
        for dir in [&upper, &work] {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir(dir)?;
        }
        let union = Union::builder().lower(base.join("lower")).upper(&upper, &work).fsync(Fsync::Volatile).build()?;
        for number in 0..FILES.min(count - begin) {
            let name = Name::new(format!("file{number}").as_bytes())?;
            let file = union.lookup(InodeId::ROOT, &name)?.ok_or(Errno::ENOENT)?;
            let start = Instant::now();
            union.write(&Caller::this_process(), file.id, 0, b"x", WriteHow::default())?;
            time += start.elapsed();
            union.forget(file.id, 1);
        }
    }
    Ok(time)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("first_write");
    for kib in [4_u64, 64, 1024] {
        let base = tempfile::tempdir()?;
        fs::create_dir(base.path().join("lower"))?;
        for number in 0..FILES {
            fs::write(base.path().join(format!("lower/file{number}")), vec![7; (kib << 10) as usize])?;
        }
        group.throughput(Throughput::Bytes(kib << 10));
        group.bench_with_input(BenchmarkId::from_parameter(kib << 10), base.path(), |bencher, base| {
            bencher.iter_custom(|count| match first_writes(base, count) {
                Ok(time) => time,
                Err(error) => {
                    eprintln!("own_bench: {error}");
                    std::process::exit(1)
                }
            });
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
