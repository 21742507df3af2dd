//! One group: one change of files of one size, by all methods in turns, so that what drifts drifts for all.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::change::{Change, Known};
use crate::common::Layers;
use crate::common::engine::{name, walk};
use crate::extra::Extra;
use crate::methods::{Method, Standing};
use crate::places::Place;
use crate::results::Series;
use crate::stats;

/// More tell nothing new.
const MOST_SAMPLES: usize = 400;
/// Bytes that one batch may copy, beyond its first file.
const MOST_BYTES: u64 = 64 << 20;

/// Lower files of one size, with the same beside their data, in one place.
pub struct Group<'a> {
    pub place: &'a Place,
    pub layers: &'a Layers,
    pub size: u64,
    pub extra: Extra,
    pub change: Change,
}

/// How many lower files there are.
pub fn files(size: u64) -> usize {
    (MOST_BYTES / size.max(1)).clamp(1, 64) as usize
}

/// What one method has shown so far.
#[derive(Default)]
struct Seen {
    nanos: Vec<f64>,
    upper: u64,
    device: Option<u64>,
    /// Why it goes no further.
    failed: Option<String>,
}

/// What came out, and what did not, and why.
pub type Found = (Vec<Series>, Vec<String>);

impl Group<'_> {
    /// Rounds until the time is over, the first one whole unless `end` comes.
    pub fn measure(&self, methods: &[Method], limit: Duration, end: Instant) -> Found {
        let mut seen: Vec<Seen> = methods.iter().map(|_| Seen::default()).collect();
        let (start, mut round) = (Instant::now(), 0);
        let share = limit.div_f64(methods.len() as f64 * 4.0);
        loop {
            let begun = Instant::now();
            // Back and forth: nobody is always the first after another one.
            let order: Vec<_> =
                if round % 2 == 0 { (0..methods.len()).collect() } else { (0..methods.len()).rev().collect() };
            let mut done = 0;
            for number in order {
                let seen = &mut seen[number];
                if seen.failed.is_none() && seen.nanos.len() < MOST_SAMPLES && Instant::now() < end {
                    self.batch(&methods[number], share, seen);
                    done += 1;
                }
            }
            round += 1;
            if done == 0 || start.elapsed() + begun.elapsed() > limit {
                return self.found(methods, seen);
            }
        }
    }

    fn in_words(&self) -> String {
        let size = crate::units::size(self.size as f64);
        let extra = if self.extra == Extra::Nothing { String::new() } else { format!(", {}", self.extra.name()) };
        format!("{}, {size}{extra}", self.change.name())
    }

    fn found(&self, methods: &[Method], seen: Vec<Seen>) -> Found {
        let (mut series, mut skipped) = (Vec::new(), Vec::new());
        for (method, seen) in methods.iter().zip(seen) {
            let count = seen.nanos.len();
            if count == 0 {
                let why = seen.failed.unwrap_or_else(|| "no time was left".into());
                let what = self.in_words();
                // Nothing is wrong with what the engine is never asked for.
                if !why.is_empty() {
                    skipped.push(format!("{}: {what}: {}: {why}", self.place.name, method.label()));
                }
                continue;
            }
            series.push(Series {
                place: self.place.name.clone(),
                method: method.name.clone(),
                durability: method.durability.name().to_owned(),
                change: self.change.name().to_owned(),
                extra: self.extra.name().to_owned(),
                size: self.size,
                changed: self.change.bytes(),
                upper: seen.upper as f64 / count as f64,
                device: seen.device.map(|bytes| bytes as f64 / count as f64),
                nanos: stats::sorted(seen.nanos),
            });
        }
        (series, skipped)
    }

    /// An empty upper layer, and as many files as the time allows.
    fn batch(&self, method: &Method, share: Duration, seen: &mut Seen) {
        self.layers.renew_upper();
        let Some(standing) = method.stand(self.layers) else {
            seen.failed = Some("it cannot be mounted here with these options".into());
            return;
        };
        let before = self.place.device_bytes();
        let (mut spent, mut count) = (Duration::ZERO, 0);
        while count < files(self.size) && (count == 0 || spent < share) {
            match self.one(&standing, &self.extra.path(count)) {
                Ok(time) => {
                    seen.nanos.push(time.as_nanos() as f64);
                    spent += time;
                    count += 1;
                }
                Err(why) => {
                    seen.failed = Some(why);
                    break;
                }
            }
        }
        self.layers.settle();
        let written = self.place.device_bytes().zip(before).map(|(after, before)| after - before);
        seen.upper += taken(&self.layers.path("upper"));
        seen.device = written.map(|bytes| seen.device.unwrap_or(0) + bytes);
    }

    /// The time of one first change; what is not possible says why, without words where it is not meant to be.
    fn one(&self, standing: &Standing, file: &str) -> Result<Duration, String> {
        match standing {
            Standing::Engine(union) => {
                let (dirs, last) = file.rsplit_once('/').unwrap_or(("", file));
                let dirs: Vec<_> = dirs.split_terminator('/').map(name).collect();
                let dir = walk(union, &dirs);
                let entry = union.lookup(dir, &name(last)).map_err(|error| format!("{error:?}"))?;
                let known = Known { id: entry.ok_or("the file is not there")?.id, dir, name: last };
                let start = Instant::now();
                let done = self.change.in_engine(union, &known, self.size).ok_or("")?;
                let time = start.elapsed();
                done.map(|()| time).map_err(|error| format!("{error:?}"))
            }
            Standing::Mount(mounted) => {
                let path = mounted.at().join(file);
                // The name is known, as after ls(1).
                fs::metadata(&path).map_err(|error| error.to_string())?;
                let start = Instant::now();
                let done = self.change.on_mount(&path, self.size);
                let time = start.elapsed();
                done.map(|()| time).map_err(|error| error.to_string())
            }
        }
    }
}

/// Bytes that the files below take, each counted once.
fn taken(dir: &Path) -> u64 {
    let (mut dirs, mut files) = (vec![dir.to_owned()], HashMap::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(stat) if stat.is_dir() => dirs.push(entry.path()),
                Ok(stat) if stat.is_file() => drop(files.insert(stat.ino(), stat.blocks() * 512)),
                _ => {}
            }
        }
    }
    files.values().sum()
}
