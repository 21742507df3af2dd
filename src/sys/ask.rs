//! Asks a mounted view what it is: by an ioctl on any directory in it, which only its daemon answers. An ioctl of FUSE
//! carries data of one fixed size, so that the answer comes in pieces.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// Bytes of the answer in one piece.
pub const PIECE: usize = 4096 - 24;

/// The data of the ioctl. A question fills in `at` only; an answer fills in everything.
#[repr(C)]
#[derive(Clone, Copy)]
struct Piece {
    /// Where in the answer the piece begins.
    at: u64,
    /// How long the answer is.
    total: u64,
    /// Which answer the piece belongs to: another answer may have replaced it between two questions.
    stamp: u64,
    bytes: [u8; PIECE],
}

/// The number of the ioctl.
const OPCODE: Opcode = opcode::read_write::<Piece>(0xe7, 0x70);
/// The number of the ioctl, as the daemon gets it.
pub const COMMAND: u32 = OPCODE;
/// How often the asker begins again because another answer has replaced the one that it was reading.
const RACES: usize = 8;
/// The longest answer in bytes that the asker accepts.
const MOST: u64 = 1 << 26;

/// The daemon's side: what to answer to the question `data`, where `answer` is the whole.
///
/// # Errors
/// `EINVAL` for what is no such question.
pub fn piece(data: &[u8], answer: &[u8], stamp: u64) -> Result<Vec<u8>> {
    let at = data.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).ok_or(Errno::EINVAL)?;
    let from = usize::try_from(at).map_err(|_| Errno::EINVAL)?;
    let rest = answer.get(from..).unwrap_or_default();
    let mut piece = [at, answer.len() as u64, stamp].map(u64::to_ne_bytes).concat();
    piece.extend_from_slice(rest.get(..PIECE).unwrap_or(rest));
    piece.resize(size_of::<Piece>(), 0);
    Ok(piece)
}

/// Asks the daemon of the view in which the directory `dir`, opened for reading, is.
///
/// # Errors
/// `ENOTTY` and others where it is in no such view; `ENOTCONN` where nobody serves it.
pub fn ask(dir: BorrowedFd<'_>) -> Result<Vec<u8>> {
    seam::enter(Call::Process)?;
    let (mut answer, mut stamp, mut races) = (Vec::new(), None, 0);
    loop {
        let mut piece = Piece { at: answer.len() as u64, total: 0, stamp: 0, bytes: [0; PIECE] };
        // SAFETY: the number carries the size of the structure, any bytes of which are valid in each of its fields.
        unsafe { ioctl(dir, Updater::<OPCODE, Piece>::new(&mut piece)) }?;
        if piece.total > MOST || piece.at != answer.len() as u64 {
            return Err(Errno::ENOTTY);
        }
        if stamp.is_some_and(|stamp| stamp != piece.stamp) {
            races += 1;
            (answer, stamp) = (Vec::new(), None);
            if races > RACES {
                return Err(Errno::EAGAIN);
            }
            continue;
        }
        stamp = Some(piece.stamp);
        let left = usize::try_from(piece.total).map_err(|_| Errno::ENOTTY)?.saturating_sub(answer.len());
        answer.extend_from_slice(piece.bytes.get(..left.min(PIECE)).unwrap_or_default());
        if left <= PIECE {
            return Ok(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_answer_is_taken_apart_and_put_together() {
        let answer: Vec<u8> = (0..PIECE * 2 + 5).map(|at| at as u8).collect();
        let ask = |at: u64| piece(&at.to_ne_bytes(), &answer, 7).unwrap();
        for at in [0, PIECE, PIECE * 2, answer.len(), usize::MAX] {
            let got = ask(at as u64);
            let rest = answer.get(at..).unwrap_or_default();
            let expected = &rest[..rest.len().min(PIECE)];
            assert_eq!((got.len(), &got[24..24 + expected.len()]), (4096, expected));
        }
        assert_eq!(piece(b"short", &answer, 7), Err(Errno::EINVAL));
    }

    #[test]
    fn another_file_system_does_not_answer() {
        let dir = std::fs::File::open("/").unwrap();
        assert!(ask(dir.as_fd()).is_err());
    }
}
