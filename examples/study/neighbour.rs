//! What another program's stat(2) takes while a lower file is changed, and while nothing is.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::change::Change;
use crate::common::Layers;
use crate::extra::Extra;
use crate::measure::files;
use crate::methods::{Method, Standing};
use crate::places::Place;
use crate::results::Series;
use crate::stats;

/// What is called a change in all that is written.
pub const WORDS: [&str; 2] = ["stat-alone", "stat-meanwhile"];
/// Names that nobody has asked for yet: else the kernel would answer from its cache.
const NAMES: usize = 2000;
const PAUSE: Duration = Duration::from_millis(1);
/// As many as tell the 99th of a hundred, and of one mount.
const ALONE: usize = 400;
const ALONE_AT_ONCE: usize = 100;
const MEANWHILE: usize = 1000;

/// Where the others look.
pub struct Neighbour<'a> {
    pub place: &'a Place,
    pub layers: &'a Layers,
    /// Bytes of the file that is changed.
    pub size: u64,
}

impl<'a> Neighbour<'a> {
    /// Adds the names to the layers of a group.
    pub fn new(place: &'a Place, layers: &'a Layers, size: u64) -> std::io::Result<Self> {
        let dir = layers.lower(0).join("names");
        fs::create_dir_all(&dir)?;
        (0..NAMES).try_for_each(|number| fs::write(dir.join(format!("name{number}")), ""))?;
        Ok(Self { place, layers, size })
    }

    /// By each method that is a mount, in turns, the first one whole unless `end` comes.
    pub fn measure(&self, methods: &[Method], limit: Duration, end: Instant) -> Vec<Series> {
        let mounts: Vec<_> = methods.iter().filter(|method| method.is_mount()).collect();
        let mut seen: Vec<[Vec<f64>; 2]> = mounts.iter().map(|_| Default::default()).collect();
        let (start, mut first) = (Instant::now(), true);
        let is_over = |first: bool| Instant::now() > end || (!first && start.elapsed() > limit);
        while !is_over(first) && seen.iter().any(|[_, meanwhile]| meanwhile.len() < MEANWHILE) {
            for (method, seen) in mounts.iter().zip(&mut seen) {
                if !is_over(first) && seen[1].len() < MEANWHILE {
                    self.batch(method, seen);
                }
            }
            first = false;
        }
        let series = |(method, seen): (&&Method, [Vec<f64>; 2])| {
            let named = WORDS.into_iter().zip(seen).filter(|(_, nanos)| !nanos.is_empty());
            named.map(|(word, nanos)| self.series(method, word, nanos)).collect::<Vec<_>>()
        };
        mounts.iter().zip(seen).flat_map(series).collect()
    }

    fn series(&self, method: &Method, word: &str, nanos: Vec<f64>) -> Series {
        Series {
            place: self.place.name.clone(),
            method: method.name.clone(),
            durability: method.durability.name().to_owned(),
            change: word.to_owned(),
            extra: Extra::Nothing.name().to_owned(),
            size: self.size,
            changed: 0,
            upper: 0.0,
            device: None,
            nanos: stats::sorted(nanos),
        }
    }

    /// One mount: first nothing happens beside the stats, then each of the files is changed once.
    fn batch(&self, method: &Method, [alone, meanwhile]: &mut [Vec<f64>; 2]) {
        self.layers.renew_upper();
        let Some(Standing::Mount(mounted)) = method.stand(self.layers) else { return };
        let mut names = (0..NAMES).map(|number| mounted.at().join(format!("names/name{number}")));
        for _ in alone.len()..ALONE.min(alone.len() + ALONE_AT_ONCE) {
            alone.extend(names.next().and_then(|name| look(&name)));
            std::thread::sleep(PAUSE);
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..files(self.size) {
                    // What fails here has failed as a change before, and is said there.
                    let _ = Change::Middle.on_mount(&mounted.at().join(Extra::Nothing.path(number)), self.size);
                }
                done.store(true, Relaxed);
            });
            while !done.load(Relaxed) {
                let Some(name) = names.next() else { break };
                meanwhile.extend(look(&name));
                std::thread::sleep(PAUSE);
            }
        });
    }
}

/// Nanoseconds.
fn look(path: &Path) -> Option<f64> {
    let start = Instant::now();
    fs::symlink_metadata(path).ok()?;
    Some(start.elapsed().as_nanos() as f64)
}
