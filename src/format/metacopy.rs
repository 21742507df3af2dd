//! A file whose data is in a layer below: the value of the mark `metacopy`.
//!
//! It is empty, or a header of four bytes and the
//! [fs-verity digest](https://docs.kernel.org/filesystems/overlayfs.html#fs-verity-support) of the data:
//!
//! | offset | | |
//! |---|---|---|
//! | 0 | version | 0 |
//! | 1 | length | of all |
//! | 2 | flags | 0 |
//! | 3 | algorithm | 1 SHA-256, 2 SHA-512; 0 without a digest |
//! | 4 | digest | |

use super::Malformed;

const VERSION: u8 = 0;
const HEADER: usize = 4;

/// What the mark says of the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metacopy {
    /// The digest of the data, if the mark holds one.
    pub digest: Option<Digest>,
}

/// The fs-verity digest of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// How it was computed.
    pub algorithm: Algorithm,
    /// The bytes of the digest, as many as the algorithm gives.
    pub bytes: Vec<u8>,
}

/// How an fs-verity digest is computed (`FS_VERITY_HASH_ALG_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl Algorithm {
    /// Its number in the kernel's interface and in the mark.
    pub const fn number(self) -> u8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// The algorithm of that number; `None` for one that is not known here.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Sha256),
            2 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The length of its digests in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl Metacopy {
    /// Reads the value of the mark.
    ///
    /// # Errors
    /// [`Malformed`] for what is neither empty nor of the form above, also for what a later version may write: to read
    /// such a file's data unchecked would be wrong.
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { mark: "metacopy", why };
        if value.is_empty() {
            return Ok(Self::default());
        }
        let Some((&[version, len, flags, algorithm], bytes)) = value.split_first_chunk::<HEADER>() else {
            return Err(malformed("shorter than its header"));
        };
        if version != VERSION {
            return Err(malformed("unknown version"));
        }
        if usize::from(len) != value.len() {
            return Err(malformed("wrong length"));
        }
        if flags != 0 {
            return Err(malformed("unknown flags"));
        }
        if algorithm == 0 && bytes.is_empty() {
            return Ok(Self::default());
        }
        let algorithm = Algorithm::from_number(algorithm).ok_or(malformed("unknown algorithm"))?;
        if bytes.len() != algorithm.digest_len() {
            return Err(malformed("wrong length of the digest"));
        }
        Ok(Self { digest: Some(Digest { algorithm, bytes: bytes.to_vec() }) })
    }

    /// The value of the mark: empty without a digest, and for a digest whose length is not that of its algorithm.
    pub fn encode(&self) -> Vec<u8> {
        match &self.digest {
            Some(Digest { algorithm, bytes }) if bytes.len() == algorithm.digest_len() => {
                // At most 68.
                let len = (HEADER + bytes.len()) as u8;
                [&[VERSION, len, 0, algorithm.number()], &bytes[..]].concat()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(header: [u8; 4], digest: usize) -> Vec<u8> {
        [&header[..], &vec![7; digest]].concat()
    }

    fn digest(algorithm: Algorithm) -> Metacopy {
        Metacopy { digest: Some(Digest { algorithm, bytes: vec![7; algorithm.digest_len()] }) }
    }

    #[test]
    fn a_value_holds_a_digest_or_none() {
        for (value, expected, written) in [
            (Vec::new(), Metacopy::default(), Vec::new()),
            (with([0, 4, 0, 0], 0), Metacopy::default(), Vec::new()),
            (with([0, 36, 0, 1], 32), digest(Algorithm::Sha256), with([0, 36, 0, 1], 32)),
            (with([0, 68, 0, 2], 64), digest(Algorithm::Sha512), with([0, 68, 0, 2], 64)),
        ] {
            assert_eq!(Metacopy::parse(&value), Ok(expected.clone()), "{value:x?}");
            assert_eq!(expected.encode(), written);
        }
    }

    #[test]
    fn other_values_are_malformed() {
        for (value, why) in [
            (vec![0], "shorter than its header"),
            (b"y".to_vec(), "shorter than its header"),
            (vec![0, 3, 0], "shorter than its header"),
            (with([1, 4, 0, 0], 0), "unknown version"),
            (with([0, 0, 0, 0], 0), "wrong length"),
            (with([0, 5, 0, 0], 0), "wrong length"),
            (with([0, 35, 0, 1], 32), "wrong length"),
            (with([0, 36, 0, 1], 31), "wrong length"),
            (with([0, 36, 0, 1], 256 + 32), "wrong length"),
            (with([0, 4, 1, 0], 0), "unknown flags"),
            (with([0, 36, 128, 1], 32), "unknown flags"),
            (with([0, 36, 0, 0], 32), "unknown algorithm"),
            (with([0, 36, 0, 3], 32), "unknown algorithm"),
            (with([0, 4, 0, 3], 0), "unknown algorithm"),
            (with([0, 4, 0, 1], 0), "wrong length of the digest"),
            (with([0, 68, 0, 1], 64), "wrong length of the digest"),
            (with([0, 36, 0, 2], 32), "wrong length of the digest"),
            (vec![0; 65536], "wrong length"),
        ] {
            let shown = &value[..value.len().min(8)];
            assert_eq!(Metacopy::parse(&value), Err(Malformed { mark: "metacopy", why }), "{shown:x?}");
        }
    }

    #[test]
    fn a_digest_of_a_wrong_length_is_left_out() {
        let wrong = Digest { algorithm: Algorithm::Sha256, bytes: vec![7; 31] };
        assert!(Metacopy { digest: Some(wrong) }.encode().is_empty());
    }

    #[test]
    fn an_algorithm_is_its_number() {
        for number in 0..=255 {
            let back = Algorithm::from_number(number).map(Algorithm::number);
            assert_eq!(back, [1, 2].contains(&number).then_some(number));
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(mut value in prop::collection::vec(any::<u8>(), 0..80), sane: bool) {
            if let (true, Some(algorithm)) = (sane, Algorithm::from_number(value.len() as u8 % 2 + 1)) {
                value.resize(HEADER + algorithm.digest_len(), 0);
                value[..HEADER].copy_from_slice(&[VERSION, (HEADER + algorithm.digest_len()) as u8, 0, algorithm.number()]);
                prop_assert!(Metacopy::parse(&value).is_ok());
            }
            if let Ok(Metacopy { digest: digest @ Some(_) }) = Metacopy::parse(&value) {
                prop_assert_eq!(Metacopy { digest }.encode(), value);
            }
        }
    }
}
