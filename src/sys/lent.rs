//! Memory that the kernel copies from, until that is ended.

#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::check;
use super::seam::{self, Call};
use crate::base::sync::Mutex;
use crate::base::{Errno, Result};

/// Bytes, from the beginning of a page on. What the kernel has not yet copied when they are called back
/// ([`Recall::recall`]) it never copies: its write(2) fails with `EFAULT` there.
#[derive(Debug)]
pub struct Lent(Arc<Pages>);

/// A handle by which another thread calls the bytes back.
#[derive(Debug, Clone)]
pub struct Recall(Arc<Pages>);

#[derive(Debug)]
struct Pages {
    start: NonNull<libc::c_void>,
    len: usize,
    /// Whether the pages are lent, which decides what mprotect(2) may do.
    loan: Mutex<Loan>,
}

#[derive(Debug, Default)]
struct Loan {
    /// The kernel may be copying now. The pages are closed only in that case.
    lent: bool,
    recalled: bool,
    /// The pages were closed and could not be opened again.
    lost: bool,
}

// SAFETY: the pages belong to this value alone. Only the one `Lent` gives them out, by `&mut`, and only while they are
// not lent; a `Recall` never reads or writes them.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Lent {
    /// Allocates this many bytes, all zero.
    ///
    /// # Errors
    /// `ENOMEM` of [mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html).
    pub fn new(len: usize) -> Result<Self> {
        // Shared memory has a mapping of its own, so that no call for its protection has to split one, and can fail.
        let (access, sort) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, access, sort, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        let start = NonNull::new(start).ok_or(Errno::ENOMEM)?;
        Ok(Self(Arc::new(Pages { start, len, loan: Mutex::default() })))
    }

    /// A handle to call the bytes back by.
    pub fn recall(&self) -> Recall {
        Recall(self.0.clone())
    }

    /// The bytes, to be filled; none where they could not be opened again after they were called back.
    pub fn room(&mut self) -> &mut [u8] {
        let len = if self.0.loan.lock().lost { 0 } else { self.0.len };
        // SAFETY: the pages are open, as they are not lent: only `lend` lends them, by `&mut`, and has ended.
        unsafe { std::slice::from_raw_parts_mut(self.0.start.as_ptr().cast(), len) }
    }

    /// Begins the next loan. A recall that came before does not count for it.
    pub fn begin(&mut self) {
        self.0.loan.lock().recalled = false;
    }

    /// Writes `header` and this range of the bytes to `to`, in one [writev(2)](https://man7.org/linux/man-pages/man2/writev.2.html).
    ///
    /// # Errors
    /// `ECANCELED`: called back since it [began](Self::begin); `EFAULT`: while the kernel copied; `EINVAL`: no such
    /// range; else those of writev(2), `EIO` where not all was taken.
    pub fn lend(&mut self, to: BorrowedFd<'_>, header: &[u8], range: Range<usize>) -> Result<()> {
        if self.room().get(range.clone()).is_none() {
            return Err(Errno::EINVAL);
        }
        let parts = [
            libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() },
            libc::iovec { iov_base: self.0.start.as_ptr().wrapping_byte_add(range.start), iov_len: range.len() },
        ];
        {
            let mut loan = self.0.loan.lock();
            if loan.recalled {
                return Err(Errno::ECANCELED);
            }
            loan.lent = true;
        }
        // SAFETY: both parts are memory that outlives the call, and the kernel only reads them; where the second one is
        // closed meanwhile it says EFAULT.
        let written = check(unsafe { libc::writev(to.as_raw_fd(), parts.as_ptr(), 2) } as libc::c_long);
        self.0.give_back();
        if written? == header.len() + range.len() { Ok(()) } else { Err(Errno::EIO) }
    }
}

impl Recall {
    /// Calls the bytes back: after its return the kernel begins to copy no further page, until the next loan.
    ///
    /// # Errors
    /// Those of [mprotect(2)](https://man7.org/linux/man-pages/man2/mprotect.2.html), if the kernel may be copying: it goes on.
    pub fn recall(&self) -> Result<()> {
        let mut loan = self.0.loan.lock();
        if loan.lent && !loan.recalled {
            self.0.protect(libc::PROT_NONE)?;
        }
        loan.recalled = true;
        Ok(())
    }
}

impl Pages {
    /// The kernel has ended copying.
    fn give_back(&self) {
        let mut loan = self.loan.lock();
        loan.lent = false;
        if loan.recalled {
            loan.lost |= self.protect(libc::PROT_READ | libc::PROT_WRITE).is_err();
        }
    }

    /// Opens or closes the pages. The caller holds the lock, and they are lent.
    fn protect(&self, access: libc::c_int) -> Result<()> {
        seam::enter(Call::Protect)?;
        // SAFETY: the mapping is this value's own, and nobody has a reference into it while it is lent.
        check(unsafe { libc::mprotect(self.start.as_ptr(), self.len, access) }.into()).map(drop)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nobody can reach it any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::process::pipe;

    const PAGE: usize = 4096;

    #[test]
    fn what_is_lent_arrives_behind_its_header() {
        let mut lent = Lent::new(3 * PAGE).unwrap();
        lent.room().iter_mut().zip(0u32..).for_each(|(byte, i)| *byte = (i % 251) as u8);
        let (read, write) = pipe().unwrap();
        lent.begin();
        lent.lend(write.as_fd(), b"head", PAGE..PAGE + 5).unwrap();
        let mut got = [0; 20];
        let n = std::fs::File::from(read).read(&mut got).unwrap();
        assert_eq!(&got[..n], [b"head", &lent.room()[PAGE..PAGE + 5]].concat());
        assert_eq!(lent.lend(write.as_fd(), b"", PAGE..4 * PAGE), Err(Errno::EINVAL));
    }

    #[test]
    fn nothing_is_copied_after_it_was_called_back_until_the_next_loan() {
        let mut lent = Lent::new(64 * PAGE).unwrap();
        let recall = lent.recall();
        let (read, write) = pipe().unwrap();
        lent.begin();
        recall.recall().unwrap();
        assert_eq!(lent.lend(write.as_fd(), b"", 0..1), Err(Errno::ECANCELED));
        // The pipe takes 16 pages; the write waits for room for the next ones while it is called back.
        lent.begin();
        let room = lent.room().len();
        let writer = std::thread::spawn(move || {
            let done = lent.lend(write.as_fd(), b"", 0..room);
            (lent, done)
        });
        let mut file = std::fs::File::from(read);
        let mut got = vec![0; PAGE];
        file.read_exact(&mut got).unwrap();
        recall.recall().unwrap();
        file.read_to_end(&mut got).unwrap();
        let (mut lent, done) = writer.join().unwrap();
        assert!(got.len() < 64 * PAGE, "{}", got.len());
        assert!(matches!(done, Err(Errno::EIO | Errno::EFAULT)), "{done:?}");
        assert_eq!(lent.room().iter().map(|byte| usize::from(*byte)).sum::<usize>(), 0, "open again");
    }
}
