//! What is measured, in which order, and how long.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::change::Change;
use crate::common::Layers;
use crate::extra::Extra;
use crate::measure::{Group, files};
use crate::methods::Method;
use crate::neighbour::Neighbour;
use crate::places::{Place, Wanted};
use crate::results::Run;
use crate::{Args, Done, common, machine, units};

/// Bytes.
const QUICK_SIZES: [u64; 5] = [0, 4 << 10, 64 << 10, 1 << 20, 16 << 20];
const SIZES: [u64; 8] = [0, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30, 4 << 30];
/// At which all changes are measured.
const ALL_CHANGES_AT: u64 = 1 << 20;
const NEIGHBOUR_AT: u64 = 256 << 20;
const QUICK_NEIGHBOUR_AT: u64 = 16 << 20;
const QUICK_BUDGET: u64 = 110;
const SECONDS_EACH: u64 = 20;
/// For what is made in memory: the largest file, its copy, and what is not freed yet.
const QUICK_MIB: u64 = 1024;
const MIB: u64 = 4096;

/// Lower files that are alike, and what is measured with them.
struct Batch {
    size: u64,
    extra: Extra,
    changes: Vec<Change>,
    /// Whether it is measured, too, what another program waits for.
    neighbour: bool,
}

impl Batch {
    /// How many things it measures.
    fn count(&self) -> usize {
        self.changes.len() + usize::from(self.neighbour)
    }

    fn in_words(&self) -> String {
        let size = units::size(self.size as f64);
        if self.extra == Extra::Nothing { size } else { format!("{size}, {}", self.extra.name()) }
    }
}

fn batches(quick: bool) -> Vec<Batch> {
    let sizes: &[u64] = if quick { &QUICK_SIZES } else { &SIZES };
    let neighbour_at = if quick { QUICK_NEIGHBOUR_AT } else { NEIGHBOUR_AT };
    let few = if quick { vec![Change::Middle] } else { vec![Change::Middle, Change::Chmod] };
    let plain = sizes.iter().map(|size| Batch {
        size: *size,
        extra: Extra::Nothing,
        changes: if *size == ALL_CHANGES_AT { Change::ALL.to_vec() } else { few.clone() },
        neighbour: *size == neighbour_at,
    });
    let extras = Extra::ALL.into_iter().filter(|extra| *extra != Extra::Nothing);
    let extras = extras.map(|extra| Batch { size: ALL_CHANGES_AT, extra, changes: few.clone(), neighbour: false });
    plain.chain(extras).collect()
}

/// What is left to do, for the bar and for the share of the next one.
struct Clock {
    end: Instant,
    left: usize,
    all: usize,
    bar: ProgressBar,
}

impl Clock {
    fn new(budget: Duration, groups: usize) -> Self {
        // Nothing is drawn where stderr is no terminal.
        let bar = ProgressBar::new(groups as u64);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        Self { end: Instant::now() + budget, left: groups, all: groups, bar }
    }

    fn share(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now()).div_f64(self.left.max(1) as f64)
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    fn begin(&self, what: &str) {
        let left = self.share().as_secs_f64() * self.left as f64;
        self.bar.set_position((self.all - self.left) as u64);
        self.bar.set_message(format!("{what}, at most {left:.0} s left"));
    }

    fn done(&mut self, groups: usize) {
        self.left -= groups;
    }
}

/// One place, with what is common to all that is measured there.
struct Turn<'a> {
    run: &'a mut Run,
    place: &'a Place,
    methods: &'a [Method],
    clock: &'a mut Clock,
}

impl Turn<'_> {
    fn skip(&mut self, what: &str, why: &str, count: usize) {
        self.run.skipped.push(format!("{}: {what}: {why}", self.place.name));
        self.clock.done(count);
    }

    fn begin(&self, what: &str) {
        self.clock.begin(&format!("{}: {what}", self.place.name));
    }

    fn measure(&mut self, batch: &Batch) {
        let Batch { size, extra, .. } = *batch;
        if 3 * size * files(size) as u64 > self.place.room() {
            return self.skip(&batch.in_words(), "there is no room for it", batch.count());
        }
        if self.clock.is_over() {
            return self.skip(&batch.in_words(), "no time was left", batch.count());
        }
        self.begin(&format!("files of {}", batch.in_words()));
        let layers = match self.place.layers(size, files(size), extra) {
            Ok(layers) => layers,
            Err(why) => return self.skip(&batch.in_words(), &why, batch.count()),
        };
        for change in &batch.changes {
            let what = format!("{}, {}", change.name(), batch.in_words());
            if self.clock.is_over() {
                self.skip(&what, "no time was left", 1);
                continue;
            }
            self.begin(&what);
            let group = Group { place: self.place, layers: &layers, size, extra, change: *change };
            let (series, skipped) = group.measure(self.methods, self.clock.share(), self.clock.end);
            self.run.series.extend(series);
            self.run.skipped.extend(skipped);
            self.clock.done(1);
        }
        if batch.neighbour {
            self.neighbour(&layers, size);
        }
    }

    fn neighbour(&mut self, layers: &Layers, size: u64) {
        let what = "what a neighbour's stat takes";
        if self.clock.is_over() {
            return self.skip(what, "no time was left", 1);
        }
        self.begin(what);
        match Neighbour::new(self.place, layers, size) {
            Ok(one) => self.run.series.extend(one.measure(self.methods, self.clock.share(), self.clock.end)),
            Err(error) => self.run.skipped.push(format!("{}: {what}: {error}", self.place.name)),
        }
        self.clock.done(1);
    }
}

/// # Errors
/// A directory or a kind that cannot be used; what is only missing here is in the run, as skipped.
pub fn carry_out(args: &Args) -> Done<Run> {
    let wanted = Wanted::all(args)?;
    common::leave_no_mounts();
    let (methods, skipped) = Method::available();
    let mut peers: Vec<String> = methods.iter().map(|method| method.name.clone()).collect();
    peers.retain(|name| name.starts_with("fuse-overlayfs") || name == "kernel-overlayfs");
    peers.dedup();
    let mut run = Run { machine: machine::describe(&peers), places: Vec::new(), series: Vec::new(), skipped };
    let batches = batches(args.quick);
    let each: usize = batches.iter().map(Batch::count).sum();
    let count = each * wanted.len();
    let budget = args.budget.unwrap_or(if args.quick { QUICK_BUDGET } else { SECONDS_EACH * count as u64 });
    let mut clock = Clock::new(Duration::from_secs(budget), count);
    for one in wanted {
        match one.get(if args.quick { QUICK_MIB } else { MIB })? {
            Ok(place) => {
                run.places.push(serde_json::json!({
                    "name": place.name, "file_system": place.file_system, "copies": place.copies,
                }));
                let mut turn = Turn { run: &mut run, place: &place, methods: &methods, clock: &mut clock };
                batches.iter().for_each(|batch| turn.measure(batch));
            }
            Err(why) => {
                run.skipped.push(why);
                clock.done(each);
            }
        }
    }
    clock.bar.finish_and_clear();
    Ok(run)
}
