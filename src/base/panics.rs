//! A bug costs one request: a panic ends where the request began, and is logged with its backtrace once for each place.
//!
//! No lock is poisoned. The drops of the values under a lock see to what a panic leaves there: names in the middle of a
//! change are forgotten (`Names::end`), and staged objects are removed.

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use super::sync::Mutex;

/// The most places that are told apart; panics at further places count as one place.
const MOST_PLACES: usize = 256;

/// The target of log records to which no limit applies: somebody asked for each, or each is counted by itself.
pub const ALWAYS: &str = "plyfs";

/// The places of panics, with the number of panics at each.
static SEEN: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());
/// A backtrace is being written.
static WRITING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// How many [`caught`] this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Runs `f`. False: it ended in a panic.
pub fn caught(f: impl FnOnce()) -> bool {
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get().saturating_sub(1));
        }
    }
    DEPTH.set(DEPTH.get().saturating_add(1));
    let _inside = Inside;
    catch_unwind(AssertUnwindSafe(f)).is_ok()
}

/// Sends panics of this process to the log from now on, and nowhere else: the first panic at a place with its
/// backtrace, whatever `RUST_BACKTRACE` says, and later ones at each power of ten.
pub fn record() {
    std::panic::set_hook(Box::new(hook));
}

fn hook(info: &PanicHookInfo<'_>) {
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let count = count(&place);
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
    let what = text.unwrap_or("no message");
    let (is_caught, thread) = (DEPTH.get() > 0, std::thread::current());
    let name = thread.name().unwrap_or("without a name");
    let end = if is_caught { "it is answered EIO and the mount goes on" } else { "the thread ends" };
    let line = format!("a bug: panic at {place}, thread {name}: {what}: {end}; please report this");
    if count > 1 {
        if 10u64.pow(count.ilog10()) == count {
            log::error!(target: ALWAYS, "{line} ({count} times by now)");
        }
        return;
    }
    // Finding the names reads the program's file, which may lie under the mount itself.
    if WRITING.swap(true, Ordering::AcqRel) {
        SEEN.lock().retain(|(at, _)| *at != place);
        return log::error!(target: ALWAYS, "{line} (without a backtrace: another one is being written)");
    }
    let trace = Backtrace::force_capture();
    if !is_caught {
        return write(&line, &trace);
    }
    // Another thread writes the backtrace, so that the request ends and this thread serves again.
    let short = line.clone();
    let writer = std::thread::Builder::new().name("plyfs-panic".into()).spawn(move || write(&line, &trace));
    if let Err(error) = writer {
        WRITING.store(false, Ordering::Release);
        log::error!(target: ALWAYS, "{short} (without a backtrace: no thread for it: {error})");
    }
}

fn write(line: &str, trace: &Backtrace) {
    log::error!(target: ALWAYS, "{line}\n{trace}");
    WRITING.store(false, Ordering::Release);
}

/// How often there was a panic at this place, this time included.
fn count(place: &str) -> u64 {
    let mut seen = SEEN.lock();
    let full = seen.len() >= MOST_PLACES;
    let known = seen.iter_mut().find(|(at, _)| at == place || (full && at.is_empty()));
    if let Some((_, count)) = known {
        *count = count.saturating_add(1);
        return *count;
    }
    let place = if full { String::new() } else { place.to_owned() };
    seen.push((place, 1));
    1
}

/// Whether a record of the log is the echo of a panic that is being recorded: fuser says that a reply was dropped.
pub fn is_echo(record: &log::Record<'_>) -> bool {
    std::thread::panicking() && record.target().starts_with("fuser")
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn a_panic_is_caught_also_in_another_one() {
        std::panic::set_hook(Box::new(|_| ()));
        let mut went_on = false;
        let caught_outside = caught(|| {
            assert!(!caught(|| panic!("on purpose")));
            went_on = true;
        });
        let _ = std::panic::take_hook();
        assert!(caught_outside && went_on && DEPTH.get() == 0);
    }

    /// A wrong number may cost data, a panic costs one request. `[profile]` in Cargo.toml.
    #[test]
    fn a_number_that_does_not_fit_is_a_panic() {
        std::panic::set_hook(Box::new(|_| ()));
        let caught = caught(|| _ = black_box(black_box(u64::MAX) + black_box(1)));
        let _ = std::panic::take_hook();
        assert!(!caught);
    }

    #[test]
    fn places_are_counted_apart_until_there_are_too_many() {
        let last = (0..MOST_PLACES + 10).map(|at| count(&format!("place {at}"))).collect::<Vec<_>>();
        assert!(last[..MOST_PLACES - 1].iter().all(|count| *count == 1), "{last:?}");
        assert_eq!(count("place 3"), 2);
        assert_eq!((count("elsewhere"), SEEN.lock().len()), (11, MOST_PLACES + 1));
    }
}
