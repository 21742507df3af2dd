//! The process as a whole: forking, descriptors, signals, limits.

#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, WaitOptions};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use super::newer::{self, Newer};
use crate::base::{DiskUid, Errno, Result};

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The process that forked, and the child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Makes a second process of this one, which must have one thread only.
///
/// # Errors
/// `EAGAIN` and `ENOMEM` of [fork(2)](https://man7.org/linux/man-pages/man2/fork.2.html); `EBUSY` if there is another
/// thread, whose locks the child would inherit held for good.
pub fn fork() -> Result<Fork> {
    // An unreadable /proc says nothing about threads: then the caller's word must do.
    if std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(Errno::EBUSY);
    }
    // Asked, and logged, here: between the fork and `close_inherited` the log must open nothing.
    newer::is_absent(Newer::CloseRange);
    // SAFETY: this process has one thread (checked above), so that the child is as whole as its parent.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(std::io::Error::last_os_error().into()),
        0 => {
            super::random::begin_anew();
            Ok(Fork::Child)
        }
        pid => Pid::from_raw(pid).map(Fork::Parent).ok_or(Errno::EINVAL),
    }
}

/// The number of this process.
pub fn this() -> Pid {
    rustix::process::getpid()
}

/// Sets the name that `ps` shows for the calling thread, and for a process with one thread.
pub fn set_name(name: &str) {
    let name = std::ffi::CString::new(name).unwrap_or_default();
    let _ = rustix::thread::set_name(&name);
}

/// Ends this process at once: what its parent registered for its own end (atexit(3), destructors) is not run.
pub fn leave_at_once() -> ! {
    // SAFETY: it takes a number, and does not return.
    unsafe { libc::_exit(0) }
}

/// From now on the descriptor and all of its copies answer `EAGAIN` instead of waiting.
///
/// # Errors
/// Those of [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html).
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    Ok(rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}

/// A process that this one has forked; it is killed with this.
#[derive(Debug)]
pub struct Forked {
    pid: Pid,
    handle: OwnedFd,
}

impl Forked {
    /// The child `pid`, which was not waited for.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`; `ENOSYS` before Linux 5.3. Then it is killed.
    pub fn new(pid: Pid) -> Result<Self> {
        let handle = pidfd(pid);
        let end = |_: &Errno| {
            let _ = signal(pid, libc::SIGKILL).and_then(|()| wait_for(pid));
        };
        Ok(Self { pid, handle: handle.inspect_err(end)? })
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        is_readable(self.handle.as_fd())
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        // Not by its number: where SIGCHLD is ignored another process may have that by now.
        let _ = rustix::process::pidfd_send_signal(&self.handle, rustix::process::Signal::KILL);
        let _ = wait_for(self.pid);
    }
}

/// A descriptor for a process ([pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html)).
fn pidfd(pid: Pid) -> Result<OwnedFd> {
    if newer::is_absent(Newer::PidFd) {
        return Err(Errno::ENOSYS);
    }
    let opened = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(Errno::from);
    if opened.as_ref().err() == Some(&Errno::ENOSYS) {
        newer::lacks(Newer::PidFd);
    }
    opened
}

/// A process that this one watches: the one that has forked it, or another one.
#[derive(Debug)]
pub struct Watched {
    pid: Pid,
    handle: OwnedFd,
}

impl Watched {
    /// Watches the parent. SIGUSR1 tells this process of the end of its main thread; it must be [held
    /// back](block_endings).
    ///
    /// # Errors
    /// `ESRCH` where it has ended; `ENOSYS` of
    /// [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html) (before Linux 5.3).
    pub fn new(pid: Pid) -> Result<Self> {
        let signal = Some(rustix::process::Signal::USR1);
        rustix::process::set_parent_process_death_signal(signal)?;
        let handle = pidfd(pid)?;
        // By that number there may be another one by now.
        if rustix::process::getppid() == Some(pid) { Ok(Self { pid, handle }) } else { Err(Errno::ESRCH) }
    }

    /// Watches another process, which may be anybody's.
    ///
    /// # Errors
    /// `ESRCH` where it has ended; `ENOSYS` before Linux 5.3.
    pub fn other(pid: Pid) -> Result<Self> {
        let handle = pidfd(pid)?;
        Ok(Self { pid, handle })
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits for the end of its main thread: a SIGKILL ends that at once, whatever other threads wait for. Or for the
    /// beginning of a core dump, before which all threads wait for each other.
    pub fn wait_for_main_thread(&self) {
        let look = libc::timespec { tv_sec: 2, tv_nsec: 0 };
        while rustix::process::getppid() == Some(self.pid) && !self.is_dumping() {
            // SAFETY: all-zero is a value of the type; the pointers are to live values of this frame.
            let (signal, sender) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                let signal = libc::sigtimedwait(&awaited(), &mut info, &look);
                (signal, info.si_pid())
            };
            if signal == libc::SIGUSR1 && sender == self.pid.as_raw_nonzero().get() {
                break;
            }
        }
    }

    /// `CoreDumping` of [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html).
    fn is_dumping(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()));
        status.is_ok_and(|status| status.lines().any(|line| line == "CoreDumping:\t1"))
    }

    /// Whether the process is gone; waits up to this long for it.
    ///
    /// # Errors
    /// `ENOMEM` of [poll(2)](https://man7.org/linux/man-pages/man2/poll.2.html); `EINVAL` for a time beyond all clocks.
    pub fn has_ended_within(&self, time: Duration) -> Result<bool> {
        let mut fds = [rustix::event::PollFd::new(&self.handle, rustix::event::PollFlags::IN)];
        let time = rustix::event::Timespec::try_from(time).map_err(|_| Errno::EINVAL)?;
        match rustix::event::poll(&mut fds, Some(&time)) {
            Err(rustix::io::Errno::INTR) => Ok(false),
            ended => Ok(ended? > 0),
        }
    }
}

/// Waits for the end of child `pid`: its exit status, or `None` if a signal ended it.
///
/// # Errors
/// `ECHILD` of [waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html).
pub fn wait_for(pid: Pid) -> Result<Option<i32>> {
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) if status.exited() || status.signaled() => return Ok(status.exit_status()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes this file the standard error.
///
/// # Errors
/// `EMFILE`, `EBUSY` of [dup2(2)](https://man7.org/linux/man-pages/man2/dup.2.html).
pub fn stderr_to(file: BorrowedFd<'_>) -> Result<()> {
    Ok(rustix::stdio::dup2_stderr(file)?)
}

/// Leaves the caller's session, terminal and directory; standard input and output, and error unless it is to stay, become
/// `/dev/null`.
///
/// # Errors
/// `EPERM` of [setsid(2)](https://man7.org/linux/man-pages/man2/setsid.2.html) for a process group's leader (a forked
/// child is none); those of opening `/dev/null`.
pub fn detach(keep_stderr: bool) -> Result<()> {
    rustix::process::setsid()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if !keep_stderr {
        rustix::stdio::dup2_stderr(&null)?;
    }
    rustix::process::chdir("/")?;
    Ok(())
}

/// A pipe, closed in programs that this process runs: (read end, write end).
///
/// # Errors
/// `EMFILE` and `ENFILE` of [pipe2(2)](https://man7.org/linux/man-pages/man2/pipe.2.html).
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Clears the umask, so that objects get exactly the modes that plyfs asks for.
pub fn clear_umask() {
    rustix::process::umask(Mode::empty());
}

/// Raises the number of descriptors that may be open to the hard limit; what cannot be raised stays.
pub fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, raised) {
            log::warn!("the limit of open files stays at {:?}: {errno}", limit.current);
        }
    }
}

/// Makes the table of descriptors large enough for `count` of them, as far as the limit lets it. Where threads share the
/// table the kernel waits for all processors each time that it grows, 10 to 40 ms: to be called while there is one thread.
pub fn reserve_descriptors(count: usize) {
    let Ok((end, _other)) = pipe() else { return };
    let mut last = i32::try_from(count).unwrap_or(i32::MAX);
    // EINVAL: beyond the limit.
    while last > 255 && rustix::io::fcntl_dupfd_cloexec(&end, last).is_err() {
        last /= 2;
    }
}

/// Large pieces of memory are the kernel's again as soon as they are given back, and do not lie among small ones that stay
/// ([mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html)): by itself glibc raises the size that counts as
/// large to that of the largest piece that was ever freed. Nor has each thread an arena of its own, which takes 64 MiB of
/// the address space (`ulimit -v`): so many threads as there are processors allocate at once. Other C libraries have no such
/// call, nor the need.
pub fn return_large_memory() {
    #[cfg(target_env = "gnu")]
    {
        let arenas = super::processors::count().clamp(2, 64) * 2;
        // SAFETY: it takes two numbers.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10);
            libc::mallopt(libc::M_ARENA_MAX, arenas as libc::c_int);
        }
    }
}

/// What was freed is the kernel's again ([malloc_trim(3)](https://man7.org/linux/man-pages/man3/malloc_trim.3.html)).
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// SIGTERM, SIGINT and SIGHUP, which ask a daemon to unmount, as far as who started this process did not have it ignore
/// them (nohup(1) does, and a shell without job control for what it starts by `&`), and SIGUSR1, which asks it to tell.
fn awaited() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is a value of the type, and sigemptyset makes it a proper set; the signal numbers are
    // valid, so that sigaddset cannot fail.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].into_iter().filter(|signal| !is_ignored(*signal)) {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigaddset(&mut set, libc::SIGUSR1);
        set
    }
}

/// Whether a signal does nothing to this process. One that is held back would arrive all the same.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all-zero is a value of the type; nothing is set, and the pointer is to a live value of this frame.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Children can be waited for, also where who started this process had it ignore SIGCHLD
/// ([waitpid(2)](https://man7.org/linux/man-pages/man2/waitpid.2.html): `ECHILD`).
pub fn heed_children() {
    // SAFETY: it takes two numbers, and no function is called when the signal arrives.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Whether [`outlive_file_limits`] has changed what SIGXFSZ does.
static OUTLIVES: AtomicBool = AtomicBool::new(false);

/// A write beyond the limit of file sizes (`ulimit -f`) fails with `EFBIG` from now on, and does not end this process
/// ([setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html)). The limit of a program that writes through a
/// mount is the kernel's to heed.
pub fn outlive_file_limits() {
    // SAFETY: it takes two numbers, and no function is called when the signal arrives.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    OUTLIVES.store(before == libc::SIG_DFL, Ordering::Relaxed);
}

/// Undoes [`outlive_file_limits`], for a program that this process becomes.
pub fn heed_file_limits() {
    if OUTLIVES.swap(false, Ordering::Relaxed) {
        // SAFETY: it takes two numbers, and no function is called when the signal arrives.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_DFL) };
    }
}

/// Keeps SIGTERM, SIGINT, SIGHUP (unless they are ignored) and SIGUSR1 pending for [`wait_for_signal`], in this thread and
/// those that it starts from now on.
pub fn block_endings() {
    // SAFETY: the set is initialised, and no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &awaited(), ptr::null_mut()) };
}

/// What happened to a child, or to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// This signal arrived.
    Signal(i32),
    /// The child ended with this status, or by a signal.
    Ended(Option<i32>),
}

/// Sleeps until one of the signals that [`block_endings`] holds back arrives, or child `pid` ends. SIGCHLD is held back
/// from then on.
///
/// # Errors
/// Those of waitpid(2) and sigwait(3).
pub fn wait_for_event(pid: Pid) -> Result<Event> {
    let mut set = awaited();
    // SAFETY: the set is initialised, and the number is a valid one.
    unsafe {
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
    }
    loop {
        // Asked for first: it may have ended before its signal was held back.
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) if status.exited() || status.signaled() => {
                return Ok(Event::Ended(status.exit_status()));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut signal = 0;
        // SAFETY: both pointers are to live values of this frame.
        match unsafe { libc::sigwait(&set, &mut signal) } {
            0 if signal == libc::SIGCHLD => {}
            0 => return Ok(Event::Signal(signal)),
            errno => return Err(Errno::from_raw(errno)),
        }
    }
}

/// The time since the machine started, the same for all processes (`CLOCK_MONOTONIC`).
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Sends a signal to a child that was not waited for yet.
///
/// # Errors
/// Those of [kill(2)](https://man7.org/linux/man-pages/man2/kill.2.html).
pub fn signal(pid: Pid, signal: i32) -> Result<()> {
    // SAFETY: it takes two numbers.
    let result = unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
    super::check(result.into()).map(drop)
}

/// Sleeps until one of the signals that [`block_endings`] holds back arrives; its number.
///
/// # Errors
/// `EINVAL` of [sigwait(3)](https://man7.org/linux/man-pages/man3/sigwait.3.html), which does not happen with this set.
pub fn wait_for_signal() -> Result<i32> {
    let mut signal = 0;
    // SAFETY: both pointers are to live values of this frame.
    match unsafe { libc::sigwait(&awaited(), &mut signal) } {
        0 => Ok(signal),
        errno => Err(Errno::from_raw(errno)),
    }
}

/// Moves the process, which must have one thread only, into the mount namespace that `path` names
/// (`/proc/PID/ns/mnt`); the current directory becomes that namespace's root.
///
/// # Errors
/// Those of open(2), and `EPERM`, `EINVAL` of [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html).
pub fn enter_mount_namespace(path: &Path) -> Result<()> {
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Adds to the calling thread's nice value ([nice(2)](https://man7.org/linux/man-pages/man2/nice.2.html), which on Linux is
/// about one thread).
pub fn be_nice(by: i32) {
    if let Err(errno) = rustix::process::nice(by) {
        log::debug!("a thread's nice value stays as it is: {errno}");
    }
}

/// The processor time that the calling thread has used
/// ([clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html)).
pub fn thread_time() -> Duration {
    // SAFETY: all zeros are a value of the type, and the pointer is to a live one of this frame.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time);
        time
    };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The calling thread's turns at the processor are short from now on, so that others do not wait for their end; its share
/// stays what it is ([sched_setattr(2)](https://man7.org/linux/man-pages/man2/sched_setattr.2.html), `sched_runtime` of a
/// normal thread: Linux 6.12, without an effect before).
pub fn take_short_turns() {
    #[repr(C)]
    struct Attr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const KEEP_POLICY: u64 = 8;
    // SAFETY: it takes two numbers, 0 for the calling thread.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    let size = size_of::<Attr>() as u32;
    let runtime = SHORT_TURN.as_nanos() as u64;
    let attr = Attr { size, policy: 0, flags: KEEP_POLICY, nice, priority: 0, runtime, deadline: 0, period: 0 };
    // SAFETY: the pointer is to a live structure of the size that it says.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) };
    if set != 0 {
        log::debug!("a thread's turns stay as long as they are: {}", std::io::Error::last_os_error());
    }
}

/// The shortest that Linux gives is 0.1 ms.
const SHORT_TURN: Duration = Duration::from_micros(200);

/// Whether read(2) would return at once: there is something to read, an error, or the end.
pub fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    // An error is for the one who reads.
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).map_or(true, |ready| ready > 0)
}

/// Whether the process holds CAP_SYS_ADMIN in its user namespace
/// ([capabilities(7)](https://man7.org/linux/man-pages/man7/capabilities.7.html)).
pub fn is_admin() -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Whether user ids mean here what they mean in the initial user namespace
/// ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)).
pub fn ids_are_initial() -> bool {
    // A kernel without user namespaces has no such file.
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return true };
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The number that root of the initial user namespace has here, or that all have who have none here
/// ([user_namespaces(7)](https://man7.org/linux/man-pages/man7/user_namespaces.7.html)). A namespace in a namespace is
/// taken for one in the initial one.
pub fn id_of_root() -> DiskUid {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return DiskUid(0) };
    let of_root = map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace();
        let (inside, outside) = (numbers.next()?, numbers.next()?);
        (outside == "0").then(|| inside.parse().ok())?
    });
    let overflow = || std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?.trim().parse().ok();
    DiskUid(of_root.or_else(overflow).unwrap_or(OVERFLOW))
}

/// What stands for ids without a number here, if the system does not say so.
const OVERFLOW: u32 = 65534;

/// The program `name` in the directories of `PATH`, or in the usual ones where there is no `PATH`.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsStr::new("/usr/bin:/bin").to_owned());
    path.as_bytes().split(|&byte| byte == b':').filter(|dir| !dir.is_empty()).find_map(|dir| {
        let program = Path::new(OsStr::from_bytes(dir)).join(name);
        rustix::fs::access(&program, rustix::fs::Access::EXEC_OK).is_ok().then_some(program)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_program_is_found_in_the_path_or_not_at_all() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn a_process_is_watched_for_as_long_as_it_was_said() {
        let handle = rustix::process::pidfd_open(this(), rustix::process::PidfdFlags::empty()).unwrap();
        let watched = Watched { pid: this(), handle };
        for time in [Duration::ZERO, Duration::from_millis(10), Duration::from_millis(1010)] {
            let begin = Instant::now();
            assert_eq!(watched.has_ended_within(time), Ok(false));
            assert!(begin.elapsed() >= time, "{:?} of {time:?}", begin.elapsed());
        }
    }

    #[test]
    fn room_for_descriptors_is_made_and_leaves_none_open() {
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse::<usize>().ok()).unwrap()
        };
        raise_open_files();
        reserve_descriptors(1000);
        assert!(size() >= 1000, "{}", size());
        assert!(std::fs::read_link("/proc/self/fd/1000").is_err());
    }

    #[test]
    fn limits_and_capabilities_can_be_asked_for() {
        raise_open_files();
        let limit = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(is_admin(), crate::sys::caller::effective_caps() & (1 << 21) != 0);
    }
}
