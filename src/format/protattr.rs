//! Inode flags that an object has in the union only, since its upper inode could not be changed with them: the value of
//! the mark `protattr`.

use super::Malformed;

/// The longest value in bytes that the kernel's OverlayFS reads.
const MAX: usize = 32;

/// The flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protattr {
    /// It can only grow (`a`).
    pub append: bool,
    /// It cannot be changed (`i`).
    pub immutable: bool,
}

impl Protattr {
    /// Reads the value of the mark: letters in any order, or none.
    ///
    /// # Errors
    /// [`Malformed`] for another letter, and for more than 32.
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { mark: "protattr", why };
        if value.len() > MAX {
            return Err(malformed("longer than 32 bytes"));
        }
        let mut flags = Self::default();
        for letter in value {
            match letter {
                b'a' => flags.append = true,
                b'i' => flags.immutable = true,
                _ => return Err(malformed("unknown flag")),
            }
        }
        Ok(flags)
    }

    /// The value to write; empty for no flags, which are written by having no mark.
    pub fn encode(self) -> Vec<u8> {
        let letters = [(self.append, b'a'), (self.immutable, b'i')];
        letters.into_iter().filter_map(|(set, letter)| set.then_some(letter)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_as_they_are_written() {
        for (value, append, immutable) in
            [("", false, false), ("a", true, false), ("i", false, true), ("ai", true, true)]
        {
            let flags = Protattr { append, immutable };
            assert_eq!(Protattr::parse(value.as_bytes()), Ok(flags), "{value}");
            assert_eq!(flags.encode(), value.as_bytes());
        }
        assert_eq!(Protattr::parse(b"iai"), Ok(Protattr { append: true, immutable: true }));
    }

    #[test]
    fn other_values_are_malformed() {
        for (value, why) in [
            (&b"A"[..], "unknown flag"),
            (b"ax", "unknown flag"),
            (b"a\0", "unknown flag"),
            (b" ", "unknown flag"),
            (&[b'a'; 33], "longer than 32 bytes"),
        ] {
            assert_eq!(Protattr::parse(value), Err(Malformed { mark: "protattr", why }), "{value:?}");
        }
    }
}
