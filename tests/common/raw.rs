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

/// Runs `f` in a thread with an umask of its own; the umask belongs to the process otherwise.
pub fn with_umask<R: Send>(mask: u32, f: impl FnOnce() -> R + Send) -> R {
    let body = || {
        // SAFETY: CLONE_FS gives this thread its own umask and working directory, nothing else.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_FS) }, 0, "{}", std::io::Error::last_os_error());
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
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
