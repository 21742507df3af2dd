//! Which lower object an upper one was copied from: `struct ovl_fb` of the kernel's OverlayFS.
//!
//! | offset | | |
//! |---|---|---|
//! | 0 | version | 0 |
//! | 1 | magic | 0xfb |
//! | 2 | length | of all, at least 21 |
//! | 3 | flags | 1 big endian, 2 any endian, 4 of an upper object |
//! | 4 | type | of the file handle |
//! | 5 | uuid | of the lower file system, or zeros |
//! | 21 | file handle | |

use super::Malformed;

pub(super) const VERSION: u8 = 0;
pub(super) const MAGIC: u8 = 0xfb;
pub(super) const HEADER: usize = 21;

const BIG_ENDIAN: u8 = 1;
const ANY_ENDIAN: u8 = 2;
const PATH_UPPER: u8 = 4;
const OWN_ENDIAN: u8 = if cfg!(target_endian = "big") { BIG_ENDIAN } else { 0 };

/// A lower object: its file system and its file handle there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `handle_type`
    pub kind: u8,
    /// Of the file system; zeros if it has none.
    pub uuid: [u8; 16],
    /// `f_handle`
    pub fid: Vec<u8>,
}

/// What the mark says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// This object.
    Known(Origin),
    /// Copied up, but from where was not known, or was written in a form that is not ours to read.
    Unknown,
}

impl Origin {
    /// From a file handle and the UUID of its file system; `None` for a handle that the mark cannot hold.
    pub fn new(kind: i32, uuid: [u8; 16], fid: &[u8]) -> Option<Self> {
        let kind = u8::try_from(kind).ok()?;
        u8::try_from(HEADER + fid.len()).ok()?;
        Some(Self { kind, uuid, fid: fid.to_vec() })
    }

    /// The value of the mark: empty, which means an unknown origin, if the handle is longer than 234 bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_with(0)
    }

    /// As [`Origin::encode`], of an upper object: the value of [`super::Mark::Upper`].
    pub fn encode_upper(&self) -> Vec<u8> {
        self.encode_with(PATH_UPPER)
    }

    /// Whether a value was written for an upper object.
    pub fn is_upper(value: &[u8]) -> bool {
        matches!(value, [_, MAGIC, _, flags, ..] if flags & PATH_UPPER != 0)
    }

    fn encode_with(&self, flags: u8) -> Vec<u8> {
        let Ok(len) = u8::try_from(HEADER + self.fid.len()) else { return Vec::new() };
        let mut value = Vec::with_capacity(len.into());
        value.extend([VERSION, MAGIC, len, OWN_ENDIAN | flags, self.kind]);
        value.extend(self.uuid);
        value.extend(&self.fid);
        value
    }

    /// Reads the value of the mark.
    ///
    /// # Errors
    /// [`Malformed`] for what neither this nor a later version of the format can have written.
    pub fn decode(value: &[u8]) -> Result<Decoded, Malformed> {
        let malformed = |why| Malformed { mark: "origin", why };
        if value.is_empty() {
            return Ok(Decoded::Unknown);
        }
        let Some((header, _)) = value.split_first_chunk::<HEADER>() else {
            return Err(malformed("shorter than its header"));
        };
        let [version, magic, len, flags, kind, uuid @ ..] = *header;
        if magic != MAGIC {
            return Err(malformed("wrong magic number"));
        }
        if version > VERSION || flags & !(BIG_ENDIAN | ANY_ENDIAN | PATH_UPPER) != 0 {
            return Ok(Decoded::Unknown);
        }
        let Some(fid) = value.get(HEADER..len.into()) else { return Err(malformed("wrong length")) };
        if flags & ANY_ENDIAN == 0 && flags & BIG_ENDIAN != OWN_ENDIAN {
            return Ok(Decoded::Unknown);
        }
        Ok(Decoded::Known(Self { kind, uuid, fid: fid.to_vec() }))
    }

    /// Whether it holds no UUID: the file system has none, or it was not known.
    pub fn is_nameless(&self) -> bool {
        self.uuid == [0; 16]
    }

    /// Whether both name one object, as far as they say of which file system it is.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let alike = self.uuid == other.uuid || self.is_nameless() || other.is_nameless();
        alike && (self.kind, &self.fid) == (other.kind, &other.fid)
    }

    /// The node id that a handle of a FUSE file system holds.
    pub fn node_id(&self) -> Option<u64> {
        const INO64_GEN: u8 = 0x81;
        let [high, low, _generation] = *self.fid.first_chunk::<12>()?.as_chunks::<4>().0 else { return None };
        let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
        (self.kind == INO64_GEN).then(|| word(high) << 32 | word(low))
    }

    /// The inode number that the handle holds, for the handles of ext4, XFS, Btrfs and tmpfs; `None` for others.
    ///
    /// Types are not unique: FUSE and EROFS use XFS's in a form of their own. Only for a layer whose root's
    /// handle gives the root's number does this mean anything.
    pub fn ino(&self) -> Option<u64> {
        const INO32_GEN: u8 = 1;
        const INO32_GEN_PARENT: u8 = 2;
        const INO64_GEN: u8 = 0x81;
        const INO64_GEN_PARENT: u8 = 0x82;
        const BTRFS: std::ops::RangeInclusive<u8> = 0x4d..=0x4f;

        let word = |index: usize| {
            let bytes = self.fid.get(index * 4..index * 4 + 4)?;
            Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?)))
        };
        let long = || Some(u64::from_ne_bytes(*self.fid.first_chunk()?));
        match (self.kind, self.fid.len()) {
            (INO32_GEN, 8) | (INO32_GEN_PARENT, 16) => word(0),
            // tmpfs: generation, low and high half of the number.
            (INO32_GEN, 12) => Some(word(2)? << 32 | word(1)?),
            // EROFS and FUSE have the high half first; for small numbers that is 0, which the low half of XFS never is.
            (INO64_GEN, 12) if word(0) == Some(0) => self.node_id(),
            (INO64_GEN_PARENT, 24) if word(0) == Some(0) => None,
            (INO64_GEN, 12) | (INO64_GEN_PARENT, 24) => long(),
            (kind, 20..) if BTRFS.contains(&kind) => long(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::{handle_fd, stat_fd};

    /// Written by Linux 6.18 for a file on ext4.
    const EXT4: [u8; 29] = [
        0, 0xfb, 0x1d, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // header
        0x27, 0xa0, 0x9f, 0x00, 0xc2, 0xfa, 0x25, 0x44,
    ];

    fn with(changes: &[(usize, u8)]) -> Vec<u8> {
        let mut value = EXT4.to_vec();
        changes.iter().for_each(|&(at, byte)| value[at] = byte);
        value
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_kernels_value_is_read_and_written_to_the_byte() {
        let Ok(Decoded::Known(origin)) = Origin::decode(&EXT4) else { panic!("not known") };
        assert_eq!(origin, Origin::new(1, [0; 16], &EXT4[21..]).unwrap());
        assert_eq!(origin.ino(), Some(0x9f_a027));
        assert_eq!(origin.encode(), EXT4);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn other_values_are_unknown_or_malformed() {
        let malformed = |why| Err(Malformed { mark: "origin", why });
        for (value, expected) in [
            (Vec::new(), Ok(Decoded::Unknown)),
            (with(&[(0, 1)]), Ok(Decoded::Unknown)),
            (with(&[(3, 8)]), Ok(Decoded::Unknown)),
            (with(&[(3, BIG_ENDIAN)]), Ok(Decoded::Unknown)),
            (with(&[(3, BIG_ENDIAN | ANY_ENDIAN)]), Origin::decode(&EXT4)),
            (with(&[(3, PATH_UPPER)]), Origin::decode(&EXT4)),
            ([&EXT4[..], b"more"].concat(), Origin::decode(&EXT4)),
            (with(&[(1, 0)]), malformed("wrong magic number")),
            (with(&[(2, 20)]), malformed("wrong length")),
            (with(&[(2, 30)]), malformed("wrong length")),
            (EXT4[..28].to_vec(), malformed("wrong length")),
            (EXT4[..20].to_vec(), malformed("shorter than its header")),
            (b"y".to_vec(), malformed("shorter than its header")),
        ] {
            assert_eq!(Origin::decode(&value), expected, "{value:x?}");
        }
    }

    #[test]
    fn an_upper_object_is_told_from_a_lower_one() {
        let origin = Origin::new(1, [0; 16], &EXT4[21..]).unwrap();
        assert!(Origin::is_upper(&origin.encode_upper()) && !Origin::is_upper(&origin.encode()));
        assert_eq!(Origin::decode(&origin.encode_upper()), Ok(Decoded::Known(origin)));
        for (value, expected) in [(with(&[(3, PATH_UPPER)]), true), (Vec::new(), false), (vec![4; 29], false)] {
            assert_eq!(Origin::is_upper(&value), expected, "{value:x?}");
        }
    }

    #[test]
    fn the_inode_number_is_read_from_known_handles_only() {
        let number = 0x1_0000_0083_u64;
        let (low, high, other) = (0x83_u32.to_ne_bytes(), 1_u32.to_ne_bytes(), [0xee; 4]);
        let long = number.to_ne_bytes();
        for (kind, fid, expected) in [
            (1, [low, other].concat(), Some(0x83)),
            (1, [other, low, high].concat(), Some(number)),
            (2, [low, other, other, other].concat(), Some(0x83)),
            (0x81, [&long[..], &other].concat(), Some(number)),
            (0x82, [&long[..], &[0xee; 16]].concat(), Some(number)),
            (0x81, [[0; 4], low, other].concat(), Some(0x83)),
            (0x4d, [&long[..], &[0xee; 12]].concat(), Some(number)),
            (0x4e, [&long[..], &[0xee; 24]].concat(), Some(number)),
            (0x4f, [&long[..], &[0xee; 32]].concat(), Some(number)),
            (0x4d, long.to_vec(), None),
            (0x81, long.to_vec(), None),
            (1, low.to_vec(), None),
            (0xff, [&long[..], &other].concat(), None),
            (1, Vec::new(), None),
        ] {
            assert_eq!(Origin::new(kind, [0; 16], &fid).unwrap().ino(), expected, "{kind:#x} {fid:x?}");
        }
    }

    #[test]
    fn a_real_handle_gives_the_real_number_where_the_roots_does() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) =
            (std::fs::File::open(dir.path()).unwrap(), tempfile::NamedTempFile::new_in(dir.path()).unwrap());
        let number = |fd: &std::fs::File| {
            let handle = handle_fd(fd.as_fd()).ok()?;
            Origin::new(handle.kind, [0; 16], &handle.bytes)?.ino()
        };
        let real = |fd: &std::fs::File| Some(stat_fd(fd.as_fd()).unwrap().ino);
        if number(&root) != real(&root) {
            eprintln!("skipped: no such handles on this file system");
            return;
        }
        assert_eq!(number(file.as_file()), real(file.as_file()));
    }

    #[test]
    fn a_handle_that_does_not_fit_is_an_unknown_origin() {
        assert_eq!(Origin::new(1, [0; 16], &[0; 235]), None);
        assert_eq!(Origin::new(256, [0; 16], &[0; 8]), None);
        assert!(Origin { kind: 1, uuid: [0; 16], fid: vec![0; 235] }.encode().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u8, uuid: [u8; 16], fid in prop::collection::vec(any::<u8>(), 0..=128)) {
            let origin = Origin { kind, uuid, fid };
            prop_assert_eq!(Origin::decode(&origin.encode()), Ok(Decoded::Known(origin)));
        }

        #[test]
        fn no_value_is_too_strange(value in prop::collection::vec(any::<u8>(), 0..300), sane: bool) {
            let mut value = value;
            if let (true, Some(start)) = (sane, value.get_mut(..2)) {
                start.copy_from_slice(&[VERSION, MAGIC]);
            }
            if let Ok(Decoded::Known(origin)) = Origin::decode(&value) {
                let _ = origin.ino();
            }
        }
    }
}
