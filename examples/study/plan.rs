//! What is measured, in which order, and how long.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::change::Change;
use crate::measure::{Group, files};
use crate::methods::Method;
use crate::places::{Place, Wanted};
use crate::results::Run;
use crate::{Args, Done, common, machine, units};

/// Bytes.
const QUICK_SIZES: [u64; 5] = [0, 4 << 10, 64 << 10, 1 << 20, 16 << 20];
const SIZES: [u64; 7] = [0, 4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20, 1 << 30];
/// At which all changes are measured.
const ALL_CHANGES_AT: u64 = 1 << 20;
const QUICK_BUDGET: u64 = 110;
const SECONDS_EACH: u64 = 20;
/// For what is made in memory: the largest file, its copy, and what is not freed yet.
const QUICK_MIB: u64 = 1024;
const MIB: u64 = 4096;

/// Each size with what is done to its files.
fn groups(quick: bool) -> Vec<(u64, Vec<Change>)> {
    let sizes: &[u64] = if quick { &QUICK_SIZES } else { &SIZES };
    let changes = |size: u64| match size {
        ALL_CHANGES_AT => Change::ALL.to_vec(),
        _ if quick => vec![Change::Middle],
        _ => vec![Change::Middle, Change::Chmod],
    };
    sizes.iter().map(|size| (*size, changes(*size))).collect()
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

    fn begin(&self, what: &str) {
        let left = self.share().as_secs_f64() * self.left as f64;
        self.bar.set_position((self.all - self.left) as u64);
        self.bar.set_message(format!("{what}, at most {left:.0} s left"));
    }

    fn done(&mut self, groups: usize) {
        self.left -= groups;
    }
}

fn measure_place(run: &mut Run, place: &Place, methods: &[Method], quick: bool, clock: &mut Clock) {
    for (size, changes) in groups(quick) {
        let needed = 3 * size * files(size) as u64;
        let named = units::size(size as f64);
        if needed > place.room() || Instant::now() > clock.end {
            let why = if needed > place.room() { "there is no room for it" } else { "no time was left" };
            run.skipped.push(format!("{}: {named}: {why}", place.name));
            clock.done(changes.len());
            continue;
        }
        clock.begin(&format!("{}: files of {named}", place.name));
        let layers = place.layers(size, files(size));
        for change in changes {
            if Instant::now() > clock.end {
                run.skipped.push(format!("{}: {}, {named}: no time was left", place.name, change.name()));
                clock.done(1);
                continue;
            }
            clock.begin(&format!("{}: {}, {named}", place.name, change.name()));
            let group = Group { place, layers: &layers, size, change };
            let (series, skipped) = group.measure(methods, clock.share(), clock.end);
            run.series.extend(series);
            run.skipped.extend(skipped);
            clock.done(1);
        }
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
    let each: usize = groups(args.quick).iter().map(|(_, changes)| changes.len()).sum();
    let count = each * wanted.len();
    let budget = args.budget.unwrap_or(if args.quick { QUICK_BUDGET } else { SECONDS_EACH * count as u64 });
    let mut clock = Clock::new(Duration::from_secs(budget), count);
    for one in wanted {
        match one.get(if args.quick { QUICK_MIB } else { MIB })? {
            Ok(place) => {
                run.places.push(serde_json::json!({
                    "name": place.name, "file_system": place.file_system, "copies": place.copies,
                }));
                measure_place(&mut run, &place, &methods, args.quick, &mut clock);
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
