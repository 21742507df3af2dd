//! The link count of a hard link in the union, as the difference from one that a file system counts: the value of the
//! mark `nlink`.

use super::Malformed;

/// The longest value in bytes, such as `U-2147483648`.
const MAX: usize = 12;

/// How many more links there are in the union than the base has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nlink {
    /// The count from which the difference is taken.
    pub base: Base,
    /// The count in the union less that of the base.
    pub difference: i32,
}

/// Whose links are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// The links of the upper inode, its entry in the index included (`U`).
    Upper,
    /// The links of the lower inode (`L`).
    Lower,
}

impl Nlink {
    /// Reads the value of the mark.
    ///
    /// # Errors
    /// [`Malformed`] for what is not `U` or `L`, a sign, and digits of a number of 32 bits.
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { mark: "nlink", why };
        if value.len() > MAX {
            return Err(malformed("longer than 12 bytes"));
        }
        let (base, number) = match value {
            [b'U', number @ ..] => (Base::Upper, number),
            [b'L', number @ ..] => (Base::Lower, number),
            _ => return Err(malformed("neither U nor L")),
        };
        // The parser of the standard library would do without a sign.
        if !matches!(number.first(), Some(b'+' | b'-')) {
            return Err(malformed("no sign"));
        }
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
        Ok(Self { base, difference: number.ok_or(malformed("not a number of 32 bits"))? })
    }

    /// The value to write.
    pub fn encode(&self) -> Vec<u8> {
        let base = match self.base {
            Base::Upper => 'U',
            Base::Lower => 'L',
        };
        format!("{base}{:+}", self.difference).into_bytes()
    }

    /// The link count in the union, from the counts of the upper and the lower inode; `None`: no file can have the
    /// result, or the count of the base is not known.
    pub fn links(&self, upper: u64, lower: Option<u64>) -> Option<u32> {
        let base = match self.base {
            Base::Upper => upper,
            Base::Lower => lower?,
        };
        let links = base.checked_add_signed(self.difference.into())?;
        u32::try_from(links).ok().filter(|&links| links > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn nlink(base: Base, difference: i32) -> Nlink {
        Nlink { base, difference }
    }

    #[test]
    fn the_kernels_values_are_read_and_written_to_the_byte() {
        for (value, expected) in [
            ("U+0", nlink(Base::Upper, 0)),
            ("U-1", nlink(Base::Upper, -1)),
            ("L+12", nlink(Base::Lower, 12)),
            ("U-2147483648", nlink(Base::Upper, i32::MIN)),
            ("L+2147483647", nlink(Base::Lower, i32::MAX)),
        ] {
            assert_eq!(Nlink::parse(value.as_bytes()), Ok(expected), "{value}");
            assert_eq!(expected.encode(), value.as_bytes());
        }
        assert_eq!(Nlink::parse(b"U-007"), Ok(nlink(Base::Upper, -7)));
    }

    #[test]
    fn other_values_are_malformed() {
        let (no_base, no_sign, no_number) = ("neither U nor L", "no sign", "not a number of 32 bits");
        for (value, why) in [
            (&b""[..], no_base),
            (b"u+1", no_base),
            (b"+1", no_base),
            (b" U+1", no_base),
            (b"U", no_sign),
            (b"U1", no_sign),
            (b"U 1", no_sign),
            (b"L\0", no_sign),
            (b"U+", no_number),
            (b"L-", no_number),
            (b"U+-1", no_number),
            (b"U++1", no_number),
            (b"U+1 ", no_number),
            (b"U+1\0", no_number),
            (b"U+1\n", no_number),
            (b"U+0x1", no_number),
            (b"U+\xff", no_number),
            (b"U+2147483648", no_number),
            (b"L-2147483649", no_number),
            (b"U+00000000001", "longer than 12 bytes"),
            (&[b'U'; 65536], "longer than 12 bytes"),
        ] {
            assert_eq!(Nlink::parse(value), Err(Malformed { mark: "nlink", why }), "{value:?}");
        }
    }

    #[test]
    fn links_are_counted_from_the_base_or_unknown() {
        for (nlink, upper, lower, expected) in [
            (nlink(Base::Upper, 0), 2, Some(9), Some(2)),
            (nlink(Base::Upper, -1), 2, None, Some(1)),
            (nlink(Base::Lower, 1), 9, Some(3), Some(4)),
            (nlink(Base::Lower, 1), 9, None, None),
            (nlink(Base::Upper, -2), 2, None, None),
            (nlink(Base::Upper, -3), 2, None, None),
            (nlink(Base::Upper, 1), u64::MAX, None, None),
            (nlink(Base::Upper, 1), u64::from(u32::MAX), None, None),
            (nlink(Base::Upper, -1), u64::from(u32::MAX) + 1, None, Some(u32::MAX)),
            (nlink(Base::Lower, i32::MIN), 1, Some(u64::MAX), None),
        ] {
            assert_eq!(nlink.links(upper, lower), expected, "{nlink:?} {upper} {lower:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(upper: bool, difference: i32) {
            let nlink = nlink(if upper { Base::Upper } else { Base::Lower }, difference);
            let value = nlink.encode();
            prop_assert!(value.len() <= MAX);
            prop_assert_eq!(Nlink::parse(&value), Ok(nlink));
        }
    }
}
