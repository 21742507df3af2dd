//! Bytes from a file to another descriptor by reference, without passing through this process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::SpliceFlags;

use super::process;
use crate::base::{Errno, Result};

/// Bytes of a page: a pipe holds a number of pages.
const PAGE: usize = 4096;

/// A pipe that is empty whenever it is not in use.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    pages: usize,
}

impl Pipe {
    /// A pipe of `bytes`, or of fewer where this user may have no larger one
    /// ([fcntl(2)](https://man7.org/linux/man-pages/man2/F_SETPIPE_SZ.2const.html), `F_SETPIPE_SZ`).
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new(bytes: usize) -> Result<Self> {
        let (read, write) = process::pipe()?;
        let _ = rustix::pipe::fcntl_setpipe_size(&write, bytes);
        let pages = rustix::pipe::fcntl_getpipe_size(&write).unwrap_or(PAGE) / PAGE;
        Ok(Self { read, write, pages })
    }

    /// Whether it has room for a header and for this part of a file.
    pub fn takes(&self, offset: u64, len: usize) -> bool {
        let start = usize::try_from(offset % PAGE as u64).unwrap_or(PAGE);
        (start + len).div_ceil(PAGE) < self.pages
    }

    /// Writes `header` and `len` bytes of `file` from `offset` on to `to`, in one write.
    ///
    /// # Errors
    /// `ENODATA`: the file is shorter; else those of [splice(2)](https://man7.org/linux/man-pages/man2/splice.2.html).
    /// Nothing was written in this case, and the pipe must not be used any more.
    pub fn send(&self, header: &[u8], file: BorrowedFd<'_>, offset: u64, len: usize, to: BorrowedFd<'_>) -> Result<()> {
        if rustix::io::write(&self.write, header)? != header.len() {
            return Err(Errno::EIO);
        }
        let (mut at, mut left) = (offset, len);
        while left > 0 {
            let flags = SpliceFlags::NONBLOCK;
            let moved = rustix::pipe::splice(file, Some(&mut at), self.write.as_fd(), None, left, flags)?;
            if moved == 0 {
                return Err(Errno::ENODATA);
            }
            left -= moved;
        }
        let whole = header.len() + len;
        let sent = rustix::pipe::splice(self.read.as_fd(), None, to, None, whole, SpliceFlags::empty())?;
        if sent == whole { Ok(()) } else { Err(Errno::EIO) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_header_and_a_part_of_a_file_arrive_as_one() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        let to = tempfile::tempfile().unwrap();
        let pipe = Pipe::new(1 << 20).unwrap();
        for (offset, len) in [(0u64, 200_000usize), (4096, 65536), (4097, 1), (199_999, 1), (123, 131_072)] {
            let pipe_takes = pipe.takes(offset, len);
            assert!(pipe_takes, "{offset} {len}");
            to.set_len(0).unwrap();
            rustix::fs::seek(&to, rustix::fs::SeekFrom::Start(0)).unwrap();
            pipe.send(b"head", file.as_fd(), offset, len, to.as_fd()).unwrap();
            let mut got = vec![0; len + 5];
            let n = to.read_at(&mut got, 0).unwrap();
            assert_eq!(&got[..n], [b"head", &bytes[offset as usize..][..len]].concat(), "{offset} {len}");
        }
        let short = pipe.send(b"head", file.as_fd(), 199_000, 4096, to.as_fd());
        assert_eq!(short, Err(Errno::ENODATA));
    }

    #[test]
    fn a_pipe_says_what_it_has_no_room_for() {
        let pipe = Pipe::new(16 * PAGE).unwrap();
        let table = [(0, 15 * PAGE, true), (0, 15 * PAGE + 1, false), (1, 15 * PAGE, false), (1, 15 * PAGE - 1, true)];
        for (offset, len, fits) in table {
            assert_eq!(pipe.takes(offset, len), fits, "{offset} {len}");
        }
    }
}
