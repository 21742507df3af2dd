//! The calls that have no safe wrapper: a shared mapping, an umask for one thread, a filter of system calls.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};
use std::thread;

/// A shared mapping of the first `len` bytes of a file.
pub struct SharedMap {
    at: *mut libc::c_void,
    len: usize,
}

// SAFETY: the pointer is to memory of the process, not of a thread, and is freed once, by Drop.
unsafe impl Send for SharedMap {}

impl SharedMap {
    /// Maps `fd` shared, for writing too if `writable`.
    pub fn new(fd: impl AsFd, len: usize, writable: bool) -> Self {
        let prot = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        SharedMap { at, len }
    }

    /// Copies `len` bytes out of the mapping.
    pub fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        // SAFETY: within the mapping; volatile, as others change the file.
        (offset..offset + len).map(|i| unsafe { self.at.cast::<u8>().add(i).read_volatile() }).collect()
    }

    /// Stores bytes through the mapping, which must be writable.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping, which the caller made writable.
            unsafe { self.at.cast::<u8>().add(offset + i).write_volatile(*byte) };
        }
    }

    /// Waits until what was stored has reached the file system (msync(2), MS_SYNC).
    pub fn sync(&self) -> std::io::Result<()> {
        // SAFETY: exactly the mapping made by `new`.
        match unsafe { libc::msync(self.at, self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made by `new`, used by nobody else.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// What ends programs ends those that are started from now on, also where these tests are run by nohup(1) or behind a `&`.
pub fn heed_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: it takes two numbers; no function is called when the signal arrives.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Runs `f` in a thread with an umask of its own; the umask belongs to the process otherwise.
pub fn with_umask<R: Send>(mask: u32, f: impl FnOnce() -> R + Send) -> R {
    apart(libc::CLONE_FS, || {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        f()
    })
}

/// Runs `f` in a thread with a table of descriptors of its own, which makes it another owner of POSIX locks.
pub fn as_another_owner<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    apart(libc::CLONE_FILES, f)
}

fn apart<R: Send>(what: libc::c_int, f: impl FnOnce() -> R + Send) -> R {
    let body = || {
        // SAFETY: CLONE_FS gives this thread its own umask and working directory, CLONE_FILES its own descriptors; no other
        // thread sees a change.
        assert_eq!(unsafe { libc::unshare(what) }, 0, "{}", std::io::Error::last_os_error());
        f()
    };
    match thread::scope(|s| s.spawn(body).join()) {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// From now on these system calls of this thread, and of the programs that it starts, answer `errno`: a seccomp filter,
/// which cannot be taken off again.
pub fn deny_calls(calls: &[libc::c_long], errno: i32) {
    // struct sock_filter: an instruction, where to go if it holds or not, and its operand.
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let (load, is, answer) = (0x20, 0x15, 0x06);
    let mut filter = vec![instruction(load, 0, 0, 0)];
    for &call in calls {
        filter.push(instruction(is, 0, 1, u32::try_from(call).unwrap()));
        filter.push(instruction(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()));
    }
    filter.push(instruction(answer, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which `program` describes and which lives until the call is over.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) };
    assert_eq!(result, 0, "seccomp: {}", std::io::Error::last_os_error());
}

/// truncate(2), which rustix has by descriptor only.
pub fn truncate_path(path: &std::ffi::CStr, len: i64) -> rustix::io::Result<()> {
    // SAFETY: the path is NUL-terminated, and the call only reads it.
    match unsafe { libc::truncate(path.as_ptr(), len) } {
        0 => Ok(()),
        _ => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

/// Takes or tries an OFD lock of the whole file (`F_OFD_SETLK`), which belongs to the description, not to the process.
pub fn ofd_lock(fd: impl AsFd, exclusive: bool) -> rustix::io::Result<()> {
    let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
    // SAFETY: all zeros is a `flock` that means the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    // SAFETY: the call only reads the structure, which outlives it.
    match unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}

/// The largest file handle, with the eight bytes before it.
const HANDLE: usize = 8 + 128;

/// A file handle (name_to_handle_at(2)): its length, its type and its bytes.
pub fn file_handle(path: &std::ffi::CStr, room: u32) -> rustix::io::Result<Vec<u8>> {
    let mut handle = vec![0u64; HANDLE / 8];
    handle[0] = u64::from(room);
    let mut mount = 0;
    // SAFETY: the handle has room for as many bytes as its first field says, at most 128, and the path ends with a NUL.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    if result != 0 {
        return Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap());
    }
    let bytes: Vec<u8> = handle.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let len = u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize;
    Ok(bytes[..8 + len].to_vec())
}

/// Opens what a file handle names, in the file system of `mount` (open_by_handle_at(2)).
pub fn open_handle(mount: impl AsFd, handle: &[u8]) -> rustix::io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let mut room = vec![0u64; HANDLE.max(handle.len()).div_ceil(8)];
    for (word, bytes) in room.iter_mut().zip(handle.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the kernel reads at most 128 bytes beyond the first eight, which are there.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_fd().as_raw_fd(), room.as_mut_ptr(), flags) };
    match i32::try_from(fd) {
        // SAFETY: the call has just made this descriptor, which nobody else has.
        Ok(fd) if fd >= 0 => Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) }),
        _ => Err(rustix::io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
    }
}
