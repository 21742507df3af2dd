//! The description of a mount that its daemon gives to who asks: pairs of a key and a value, each ended by a NUL. Paths
//! contain no NUL and are kept as bytes, in UTF-8 or not.

/// The description of a mount.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Described(Vec<u8>);

impl Described {
    /// Takes over the bytes of a description.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Adds a pair; keys may repeat.
    pub fn add(&mut self, key: &str, value: impl AsRef<[u8]>) {
        for text in [key.as_bytes(), value.as_ref()] {
            self.0.extend(text.iter().filter(|byte| **byte != 0));
            self.0.push(0);
        }
    }

    /// The bytes of the description.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The pairs, in their order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let mut parts = self.0.split(|&byte| byte == 0);
        std::iter::from_fn(move || {
            let key = std::str::from_utf8(parts.next()?).ok().filter(|key| !key.is_empty())?;
            Some((key, parts.next()?))
        })
    }

    /// The values of a key.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.pairs().filter(move |(of, _)| *of == key).map(|(_, value)| value)
    }

    /// The paths of all of a view's layers.
    pub fn layers(&self) -> impl Iterator<Item = &[u8]> {
        ["lowerdir", "datadir", "upperdir"].into_iter().flat_map(|key| self.all(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_told_as_it_is() {
        let mut described = Described::default();
        described.add("lowerdir", b"/a\xff\n=b");
        described.add("lowerdir", "");
        described.add("pid", "7");
        let told = Described::from_bytes(described.as_bytes().to_vec());
        let pairs: Vec<_> = told.pairs().collect();
        assert_eq!(pairs, [("lowerdir", &b"/a\xff\n=b"[..]), ("lowerdir", b""), ("pid", b"7")]);
        assert_eq!(told.all("lowerdir").count(), 2);
        for junk in [&b""[..], b"\0\0", b"key", b"\xff\0x\0"] {
            assert!(Described::from_bytes(junk.to_vec()).pairs().count() < 2);
        }
    }
}
