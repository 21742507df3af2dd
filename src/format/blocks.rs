//! A file of the upper layer whose data arrives block by block. The form is plyfs's own, and made so that no other
//! overlay takes the file for one whose data is all below.
//!
//! - The mark `metacopy` has three bytes, `pb` and the size of a block as a power of two: shorter than the header that
//!   belongs there, so that the kernel (from 6.6 on) and a plyfs without this answer `EIO` for the file.
//! - The mark `plyfs.blocks` has the name of its record, 16 hexadecimal digits, and then what `metacopy` would say.
//! - The record stands in `work/incompat/plyfs.blocks`, for whose sake the kernel refuses the work directory. Behind a
//!   [header](Header) of one page it has a byte for each block: [`BELOW`], [`HERE`] or [`KEPT`].

use super::{Malformed, Metacopy};
use crate::base::Name;

/// The block is read from below.
pub const BELOW: u8 = 0;
/// The block is in the upper file, but its data may not be on disk: the state counts as long as the machine runs.
pub const HERE: u8 = 1;
/// The block is in the upper file, on disk.
pub const KEPT: u8 = 2;

/// The offset in a record at which the bytes of the blocks begin.
pub const STATES: u64 = 4096;
/// The least size of a block in bytes, as a power of two.
pub const LEAST_SHIFT: u8 = 12;
/// The largest size of a block in bytes, as a power of two.
pub const MOST_SHIFT: u8 = 24;
/// The most blocks of one file.
pub const MOST_BLOCKS: u64 = 1 << 26;

const VALUE: &[u8; 2] = b"pb";
const NAME: usize = 16;

/// What the two marks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksMark {
    /// The size of a block, as a power of two.
    pub shift: u8,
    /// The name of the record.
    pub record: Name,
}

impl BlocksMark {
    /// The size of a block if this value of the mark `metacopy` is one of ours.
    pub fn shift_in(metacopy: &[u8]) -> Option<u8> {
        let [first, second, shift] = metacopy else { return None };
        ([*first, *second] == *VALUE && (LEAST_SHIFT..=MOST_SHIFT).contains(shift)).then_some(*shift)
    }

    /// Reads the value of the mark `plyfs.blocks` beside a `metacopy` with this size of a block.
    ///
    /// # Errors
    /// [`Malformed`] for anything else than is written above.
    pub fn parse(shift: u8, value: &[u8]) -> Result<(Self, Metacopy), Malformed> {
        let malformed = |why| Malformed { mark: "plyfs.blocks", why };
        let Some((name, rest)) = value.split_first_chunk::<NAME>() else {
            return Err(malformed("no name of a record"));
        };
        if !name.iter().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(c)) {
            return Err(malformed("not the name of a record"));
        }
        let record = Name::new(name.as_slice()).map_err(|_| malformed("no name"))?;
        Ok((Self { shift, record }, Metacopy::parse(rest)?))
    }

    /// The values of the marks `plyfs.blocks` and `metacopy`, to be written in this order.
    pub fn encode(&self, metacopy: &Metacopy) -> (Vec<u8>, [u8; 3]) {
        ([self.record.as_bytes(), &metacopy.encode()].concat(), [VALUE[0], VALUE[1], self.shift])
    }
}

/// What a record begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The size of a block, as a power of two.
    pub shift: u8,
    /// How many bytes of the lower file count; all data behind them is in the upper file.
    pub limit: u64,
    /// The run of the machine in which the bytes [`HERE`] were written; zeros: not known.
    pub boot: [u8; 16],
}

const MAGIC: &[u8; 8] = b"plyfsblk";
const VERSION: u8 = 1;

impl Header {
    /// Its length in bytes.
    pub const LEN: usize = 40;

    /// The number of blocks in the record.
    pub fn blocks(&self) -> u64 {
        self.limit.div_ceil(1 << self.shift)
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`Malformed`] for bytes that are not of this version.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { mark: "record of blocks", why };
        let (magic, rest) = bytes.split_at(8);
        let (&[version, shift, ..], rest) = rest.split_at(8) else { return Err(malformed("too short")) };
        let (limit, boot) = rest.split_at(8);
        if magic != MAGIC || version != VERSION || !(LEAST_SHIFT..=MOST_SHIFT).contains(&shift) {
            return Err(malformed("unknown version"));
        }
        let limit = u64::from_le_bytes(limit.try_into().map_err(|_| malformed("too short"))?);
        let header = Self { shift, limit, boot: boot.try_into().map_err(|_| malformed("too short"))? };
        if header.blocks() > MOST_BLOCKS { Err(malformed("more blocks than there can be")) } else { Ok(header) }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = VERSION;
        bytes[9] = self.shift;
        bytes[16..24].copy_from_slice(&self.limit.to_le_bytes());
        bytes[24..].copy_from_slice(&self.boot);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Algorithm, Digest};

    #[test]
    fn marks_are_read_as_they_are_written_and_are_no_metacopy() {
        let digest = Digest { algorithm: Algorithm::Sha256, bytes: vec![7; 32] };
        for digest in [None, Some(digest)] {
            let mark = BlocksMark { shift: 16, record: Name::new(b"0123456789abcdef").unwrap() };
            let metacopy = Metacopy { digest };
            let (value, short) = mark.encode(&metacopy);
            assert!(Metacopy::parse(&short).is_err());
            assert_eq!(BlocksMark::shift_in(&short), Some(16));
            assert_eq!(BlocksMark::parse(16, &value), Ok((mark, metacopy)));
        }
        for other in [&b""[..], b"pb", b"pb\x0b", b"pb\x19", b"xb\x10", b"pb\x10\0", &[0, 4, 0, 0]] {
            assert_eq!(BlocksMark::shift_in(other), None, "{other:x?}");
        }
        for other in [&b""[..], b"0123456789abcde", b"0123456789abcdeF", b"../3456789abcdef", b"0123456789abcdef\0"] {
            assert!(BlocksMark::parse(16, other).is_err(), "{other:x?}");
        }
    }

    #[test]
    fn a_header_is_read_as_it_is_written() {
        let header = Header { shift: 12, limit: 4097, boot: [9; 16] };
        assert_eq!((Header::parse(&header.encode()), header.blocks()), (Ok(header), 2));
        for wrong in
            [Header { shift: 11, ..header }, Header { shift: 25, ..header }, Header { limit: u64::MAX, ..header }]
        {
            assert!(Header::parse(&wrong.encode()).is_err());
        }
        assert!(Header::parse(&[0; Header::LEN]).is_err());
    }
}
