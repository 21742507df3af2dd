//! Asks a mounted view what it is: by an ioctl on any directory in it, which only its daemon answers. An ioctl of FUSE
//! carries data of one fixed size, so that the answer comes in pieces.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::seam::{self, Call};
use crate::base::sync::Mutex;
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
/// The number of the ioctl that orders a step in the history of a view.
const STEP_OPCODE: Opcode = opcode::read_write::<Piece>(0xe7, 0x71);
/// The number of that ioctl, as the daemon gets it.
pub const STEP: u32 = STEP_OPCODE;
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

/// The daemon's side: answers of several pieces, each of which was made once.
#[derive(Debug, Default)]
pub struct Answers {
    /// The last ones, by their stamps.
    kept: Mutex<VecDeque<(u64, Vec<u8>)>>,
    /// Answers until now.
    made: AtomicU64,
}

/// Answers that are kept for those who read them at the same time.
const KEPT: usize = 4;

impl Answers {
    /// What to answer to the question `data`; `make` makes the whole, where it is not known.
    ///
    /// # Errors
    /// `EINVAL` for what is no such question.
    pub fn piece(&self, data: &[u8], make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>> {
        let number = |at: usize| data.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        let (at, stamp) = (number(0).ok_or(Errno::EINVAL)?, number(16).unwrap_or_default());
        let mut kept = self.kept.lock();
        if at > 0
            && let Some(place) = kept.iter().position(|(of, _)| *of == stamp)
            && let Some((stamp, answer)) = kept.get(place)
        {
            let told = piece(data, answer, *stamp);
            if at.saturating_add(PIECE as u64) >= answer.len() as u64 {
                kept.remove(place);
            }
            return told;
        }
        drop(kept);
        let answer = make();
        // Its process: the next daemon tells of itself.
        let stamp = u64::from(std::process::id()) << 32 | (self.made.fetch_add(1, Relaxed) & u64::from(u32::MAX));
        let told = piece(data, &answer, stamp);
        if answer.len() > PIECE {
            kept = self.kept.lock();
            kept.push_back((stamp, answer));
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        told
    }
}

/// Asks the daemon of the view in which the directory `dir`, opened for reading, is.
///
/// # Errors
/// `ENOTTY` and others where it is in no such view; `ENOTCONN` where nobody serves it.
pub fn ask(dir: BorrowedFd<'_>) -> Result<Vec<u8>> {
    seam::enter(Call::Process)?;
    let (mut answer, mut stamp, mut races) = (Vec::new(), None, 0);
    loop {
        let mut piece = Piece { at: answer.len() as u64, total: 0, stamp: stamp.unwrap_or(0), bytes: [0; PIECE] };
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

/// What is ordered, or what has come of it: two numbers and some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordered {
    /// The numbers.
    pub numbers: [u64; 2],
    /// The bytes, of which there is room for [`PIECE`].
    pub bytes: Vec<u8>,
}

impl Ordered {
    /// Reads the data of the ioctl.
    ///
    /// # Errors
    /// `EINVAL` for what is no such data.
    pub fn from_data(data: &[u8]) -> Result<Self> {
        let number = |at: usize| data.get(at..at + 8)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        let read = || {
            let (one, two, len) = (number(0)?, number(8)?, usize::try_from(number(16)?).ok()?);
            Some(Self { numbers: [one, two], bytes: data.get(24..24usize.checked_add(len)?)?.to_vec() })
        };
        read().ok_or(Errno::EINVAL)
    }

    /// The data of the ioctl. What has no room is left out.
    pub fn to_data(&self) -> Vec<u8> {
        let bytes = self.bytes.get(..PIECE).unwrap_or(&self.bytes);
        let mut data = [self.numbers[0], self.numbers[1], bytes.len() as u64].map(u64::to_ne_bytes).concat();
        data.extend_from_slice(bytes);
        data.resize(size_of::<Piece>(), 0);
        data
    }
}

/// Gives the daemon of the view in which the directory `dir`, opened for reading, is an order.
///
/// # Errors
/// `EPERM`: only the daemon's own user and root may; `ENOTTY` and others where it is in no such view.
pub fn order(dir: BorrowedFd<'_>, order: &Ordered) -> Result<Ordered> {
    seam::enter(Call::Process)?;
    let data = order.to_data();
    let mut piece = Piece { at: order.numbers[0], total: order.numbers[1], stamp: 0, bytes: [0; PIECE] };
    let bytes = data.get(24..).unwrap_or_default();
    piece.stamp = order.bytes.len().min(PIECE) as u64;
    piece.bytes.copy_from_slice(bytes);
    // SAFETY: the number carries the size of the structure, any bytes of which are valid in each of its fields.
    unsafe { ioctl(dir, Updater::<STEP_OPCODE, Piece>::new(&mut piece)) }?;
    let len = usize::try_from(piece.stamp).map_err(|_| Errno::ENOTTY)?;
    let bytes = piece.bytes.get(..len).ok_or(Errno::ENOTTY)?.to_vec();
    Ok(Ordered { numbers: [piece.at, piece.total], bytes })
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
    fn an_answer_is_made_once_and_kept_for_each_who_reads_it() {
        let (answers, made) = (Answers::default(), AtomicU64::new(0));
        let ask = |at: usize, stamp: u64| {
            let make = || vec![made.fetch_add(1, Relaxed) as u8; PIECE + 5];
            let got = answers.piece(&[at as u64, 0, stamp].map(u64::to_ne_bytes).concat(), make).unwrap();
            (u64::from_ne_bytes(*got[16..].first_chunk().unwrap()), got[24])
        };
        let (one, two) = (ask(0, 0), ask(0, 0));
        assert_ne!(one.0, two.0);
        assert_eq!((ask(PIECE, one.0), ask(PIECE, two.0)), ((one.0, 0), (two.0, 1)));
        // It is read to its end, and kept no more.
        assert_eq!(ask(PIECE, one.0).1, 2);
        let old = ask(0, 0);
        (0..KEPT).for_each(|_| _ = ask(0, 0));
        assert_ne!(ask(PIECE, old.0).0, old.0);
    }

    #[test]
    fn an_order_comes_as_it_was_given() {
        let order = Ordered { numbers: [7, u64::MAX], bytes: b"text".to_vec() };
        assert_eq!(Ordered::from_data(&order.to_data()), Ok(order.clone()));
        assert_eq!(order.to_data().len(), 4096);
        for junk in [&b"short"[..], &[0xff; 4096]] {
            assert_eq!(Ordered::from_data(junk), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn another_file_system_does_not_answer() {
        let dir = std::fs::File::open("/").unwrap();
        assert!(ask(dir.as_fd()).is_err());
    }
}
