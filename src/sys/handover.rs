//! Descriptors that go from one process to another, or take another's place.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use crate::base::{Errno, Result};

/// Two ends of a socket on which each write is one read
/// ([unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html), `SOCK_SEQPACKET`).
///
/// # Errors
/// `EMFILE`, `ENFILE` and `ENOMEM`.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a descriptor over a socket.
///
/// # Errors
/// Those of [sendmsg(2)](https://man7.org/linux/man-pages/man2/sendmsg.2.html).
pub fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> Result<()> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::EINVAL);
    }
    // A descriptor needs a byte to go with.
    rustix::net::sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a descriptor that the other end of a socket sends.
///
/// # Errors
/// `ENODEV` where the other end closes without one; those of
/// [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html).
pub fn receive_fd(socket: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let received = loop {
        match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Err(Errno::ENODEV);
    }
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or(Errno::ENODEV)
}

/// One read(2), restarted after a signal.
///
/// # Errors
/// Those of [read(2)](https://man7.org/linux/man-pages/man2/read.2.html).
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match rustix::io::read(fd, &mut *buffer) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// One write(2), which takes all of `message` or nothing.
///
/// # Errors
/// Those of [write(2)](https://man7.org/linux/man-pages/man2/write.2.html).
pub fn write(fd: BorrowedFd<'_>, message: &[u8]) -> Result<()> {
    Ok(rustix::io::write(fd, message).map(drop)?)
}

/// Makes the descriptor number `of` refer to what `fd` refers to, in one step: another thread that uses the number sees
/// the old file or the new one ([dup3(2)](https://man7.org/linux/man-pages/man2/dup.2.html)).
///
/// # Errors
/// `EBUSY` where another thread opens a file at the same moment.
pub fn put_in_place(fd: BorrowedFd<'_>, of: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: both are open; the number `of` stays open throughout, so that whoever owns it closes what it leads to then.
    let result = unsafe { libc::dup3(fd.as_raw_fd(), of.as_raw_fd(), libc::O_CLOEXEC) };
    super::check(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_arrives_and_takes_a_place() {
        let (ours, theirs) = pair().unwrap();
        let (out, into) = super::super::process::pipe().unwrap();
        send_fd(theirs.as_fd(), into.as_fd()).unwrap();
        let arrived = receive_fd(ours.as_fd()).unwrap();
        let (_other, place) = super::super::process::pipe().unwrap();
        put_in_place(arrived.as_fd(), place.as_fd()).unwrap();
        write(place.as_fd(), b"here").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read(out.as_fd(), &mut buffer).map(|n| buffer[..n].to_vec()), Ok(b"here".to_vec()));
        drop(theirs);
        assert_eq!(receive_fd(ours.as_fd()).err(), Some(Errno::ENODEV));
    }
}
