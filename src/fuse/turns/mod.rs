//! What is done at the beginning and the end of each request, whatever it asks for.
//!
//! All threads of the session wait for requests, and the kernel hands each one to the thread that has slept longest. That is
//! the plain rule, and with `spin=off` the only one. With `spin=auto`, on two processors, the [`Keeper`] keeps one awake while
//! requests follow each other, and one thread waits meanwhile (`line.rs`).

mod keeper;
mod line;
mod rules;

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use self::keeper::Keeper;
use crate::sys::processors;

/// With so many processors one is kept awake: of more, others would sleep still; one alone has no other to move to.
const KEPT: usize = 2;

/// Whether a processor is kept awake while requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Spin {
    /// Where it helps: on two processors that the process may use wholly.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// A rule for the time between requests. The threads that serve call it.
pub(in crate::fuse) trait Rule: Debug + Send + Sync {
    /// A request of the thread `caller` arrived at this thread; 0 is the kernel itself.
    fn begin(&self, _caller: u32) {}

    /// It was answered, and this thread waits for the next one.
    fn end(&self) {}

    /// Much data is being read: the kernel, or plyfs, reads ahead of the program, so that both have work to do.
    fn work_for_two(&self) {}
}

/// The plain rule: whoever is free takes the next request.
#[derive(Debug)]
struct Plain;

impl Rule for Plain {}

/// The rule of a session: the plain one until another one is [chosen](Self::choose).
#[derive(Debug, Default)]
pub struct Turns(OnceLock<Box<dyn Rule>>);

/// One request, from its arrival to after its answer, or until a thread of its own has it.
pub struct Turn<'a>(&'a dyn Rule);

impl Turns {
    /// Chooses the rule for this machine, before the first request; `device` is the connection to the kernel.
    pub fn choose(&self, spin: Spin, device: Option<OwnedFd>) {
        if !is_of_use(spin, processors::count(), processors::has_cpu_quota()) {
            return;
        }
        let Some(device) = device else { return };
        match Keeper::start(device) {
            Ok(keeper) => drop(self.0.set(Box::new(keeper))),
            Err(error) => log::info!("no processor is kept awake: {error}"),
        }
    }

    fn rule(&self) -> &dyn Rule {
        self.0.get().map_or(&Plain, |rule| &**rule)
    }

    /// A request of the thread `caller` arrived at the calling thread.
    pub fn begin(&self, caller: u32) -> Turn<'_> {
        let rule = self.rule();
        rule.begin(caller);
        Turn(rule)
    }

    /// Much data is being read, or is about to be.
    pub fn work_for_two(&self) {
        self.rule().work_for_two();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Whether one of so many processors should be kept awake.
fn is_of_use(spin: Spin, processors: usize, quota: bool) -> bool {
    spin == Spin::Auto && processors == KEPT && !quota
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_kept_awake_of_two_without_a_quota_unless_spin_is_off() {
        let table = [
            (Spin::Auto, 1, false, false),
            (Spin::Auto, 2, false, true),
            (Spin::Auto, 2, true, false),
            (Spin::Auto, 4, false, false),
            (Spin::Auto, 8, false, false),
            (Spin::Off, 2, false, false),
        ];
        for (spin, processors, quota, kept) in table {
            assert_eq!(is_of_use(spin, processors, quota), kept, "{spin:?}, {processors} processors, quota: {quota}");
        }
    }
}
