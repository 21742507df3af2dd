//! Names of the entries of the index directory: the origin in hexadecimal digits.

use super::Malformed;
use super::origin::{HEADER, MAGIC, VERSION};
use crate::base::{self, Name};

/// The entry of the index that stands for the lower object with this (encoded) origin.
///
/// # Errors
/// `ENAMETOOLONG` for an origin longer than 127 bytes; `EINVAL` for an empty one, which is unknown.
pub fn index_name(origin_value: &[u8]) -> base::Result<Name> {
    let digit = |half: u8| char::from_digit(half.into(), 16).map_or(b'0', |digit| digit as u8);
    let name: Vec<u8> = origin_value.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
    Name::new(&name)
}

/// The (encoded) origin that an entry of the index stands for.
///
/// # Errors
/// [`Malformed`] for a name that none of its writers gives.
pub fn parse_index_name(name: &[u8]) -> Result<Vec<u8>, Malformed> {
    let malformed = |why| Malformed { mark: "index", why };
    if name.len() > Name::MAX {
        return Err(malformed("longer than a name"));
    }
    let (pairs, []) = name.as_chunks::<2>() else { return Err(malformed("half a byte")) };
    let digit = |digit: u8| char::from(digit).to_digit(16).map(|half| half as u8);
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    let value: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>().ok_or(malformed("not hexadecimal"))?;
    match value[..] {
        _ if value.len() < HEADER => Err(malformed("shorter than its header")),
        [_, magic, ..] if magic != MAGIC => Err(malformed("wrong magic number")),
        [version, ..] if version != VERSION => Err(malformed("unknown version")),
        [_, _, len, ..] if usize::from(len) != value.len() => Err(malformed("wrong length")),
        _ => Ok(value),
    }
}

#[cfg(test)]
#[expect(clippy::string_slice, reason = "of text that stands here")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::Errno;
    use crate::format::Origin;

    /// Made by Linux 6.18 for a file on ext4.
    const EXT4: &str = "00fb1d00010000000000000000000000000000000027a09f00c2fa2544";

    #[test]
    fn the_kernels_name_is_read_and_written_to_the_byte() {
        let value = parse_index_name(EXT4.as_bytes()).unwrap();
        assert_eq!((value.len(), value[21], value[28]), (29, 0x27, 0x44));
        assert_eq!(index_name(&value).unwrap().as_bytes(), EXT4.as_bytes());
        assert_eq!(parse_index_name(EXT4.to_uppercase().as_bytes()), Ok(value));
    }

    #[test]
    fn other_names_are_malformed() {
        for (name, why) in [
            ("", "shorter than its header"),
            ("00", "shorter than its header"),
            (&EXT4[..40], "shorter than its header"),
            (&EXT4[..57], "half a byte"),
            ("#1", "not hexadecimal"),
            (&EXT4.replacen("27", "2g", 1), "not hexadecimal"),
            (&EXT4.replacen("27", "+7", 1), "not hexadecimal"),
            (&EXT4.replacen("27", "\u{e9}", 1), "not hexadecimal"),
            (&EXT4.replacen("fb", "fa", 1), "wrong magic number"),
            (&EXT4.replacen("00", "01", 1), "unknown version"),
            (&EXT4.replacen("1d", "1c", 1), "wrong length"),
            (&EXT4[..56], "wrong length"),
            (&format!("{EXT4}00"), "wrong length"),
            (&"00".repeat(128), "longer than a name"),
        ] {
            assert_eq!(parse_index_name(name.as_bytes()), Err(Malformed { mark: "index", why }), "{name}");
        }
    }

    #[test]
    fn an_origin_that_no_name_can_hold_has_no_entry() {
        assert_eq!(index_name(&[7; 127]).unwrap().as_bytes().len(), 254);
        assert_eq!(index_name(&[7; 128]), Err(Errno::ENAMETOOLONG));
        assert_eq!(index_name(b""), Err(Errno::EINVAL));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(kind: u8, uuid: [u8; 16], fid in prop::collection::vec(any::<u8>(), 0..=106)) {
            let value = Origin { kind, uuid, fid }.encode();
            let name = index_name(&value).unwrap();
            prop_assert_eq!(parse_index_name(name.as_bytes()), Ok(value));
        }
    }
}
