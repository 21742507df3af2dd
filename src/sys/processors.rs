//! Which processors this process may use, and how much of them.

/// How many processors this process may use. `PLYFS_PROCESSORS` pretends another number, for the benches.
pub fn count() -> usize {
    let pretended = std::env::var("PLYFS_PROCESSORS").ok().and_then(|count| count.parse().ok());
    pretended.filter(|&count| count > 0).unwrap_or_else(allowed)
}

/// The processors in the affinity mask of the calling thread.
fn allowed() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count() as usize)
}

/// Whether a control group has less time than those processors
/// ([`cpu.max`](https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu), `cpu.cfs_quota_us` before).
pub fn has_cpu_quota() -> bool {
    std::thread::available_parallelism().is_ok_and(|usable| usable.get() < allowed())
}

/// The processor on which the calling thread is.
pub fn current_cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// Moves the calling thread to another one of the processors that it may use. It may use all of them afterwards.
pub fn leave_cpu() {
    let Ok(all) = rustix::thread::sched_getaffinity(None) else { return };
    let mut others = all;
    others.unset(current_cpu());
    if others.count() == 0 {
        return;
    }
    let moved = rustix::thread::sched_setaffinity(None, &others);
    if let Err(errno) = moved.and_then(|()| rustix::thread::sched_setaffinity(None, &all)) {
        log::debug!("a thread stays on its processor: {errno}");
    }
}
