//! The two calls that have no safe wrapper: a shared mapping, and an umask for one thread.
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
