//! Names that begin with `.wh.`: how AUFS, and layers of the Open Container Initiative, hide names
//! ([whiteouts](https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts)).
//!
//! They have this meaning in a layer of that style only, and as regular files; elsewhere they are names like others.

use crate::base::{Errno, Name, Result};

/// Names that begin so are not ordinary ones in a layer of that style.
pub const PREFIX: &[u8] = b".wh.";
/// The directory that holds it hides those of its name in the layers below.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
const METADATA: &[u8] = b".wh..wh.";

/// What a name says in such a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AufsName<'a> {
    /// The directory hides those of its name in the layers below.
    Opaque,
    /// It hides nothing and is not shown.
    Metadata,
    /// This name is hidden in the layers below.
    Whiteout(&'a [u8]),
    /// Nothing special.
    Plain,
}

impl<'a> AufsName<'a> {
    /// Reads a name.
    pub fn parse(name: &'a [u8]) -> Self {
        if name == OPAQUE {
            return Self::Opaque;
        }
        if name.starts_with(METADATA) {
            return Self::Metadata;
        }
        match name.strip_prefix(PREFIX) {
            None => Self::Plain,
            // Not a name that something can have.
            Some(b"" | b"." | b"..") => Self::Metadata,
            Some(hidden) => Self::Whiteout(hidden),
        }
    }
}

/// The name of the file that hides `name`.
///
/// # Errors
/// `ENAMETOOLONG` if it would be longer than 255 bytes; `EINVAL` for a name that begins with `.wh.` itself, which this
/// form cannot hide, and for what is no name.
pub fn whiteout_name(name: &[u8]) -> Result<Name> {
    let whiteout = Name::new(&[PREFIX, name].concat())?;
    match AufsName::parse(whiteout.as_bytes()) {
        AufsName::Whiteout(_) => Ok(whiteout),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (name, expected) in [
            (&b"a"[..], AufsName::Plain),
            (b".wh", AufsName::Plain),
            (b"a.wh.b", AufsName::Plain),
            (b".WH.a", AufsName::Plain),
            (b".wh.a", AufsName::Whiteout(b"a")),
            (b".wh.\xff", AufsName::Whiteout(b"\xff")),
            (b".wh..hidden", AufsName::Whiteout(b".hidden")),
            (b".wh..wh", AufsName::Whiteout(b".wh")),
            (b".wh..opq", AufsName::Whiteout(b".opq")),
            (b".wh...", AufsName::Metadata),
            (b".wh..", AufsName::Metadata),
            (b".wh.", AufsName::Metadata),
            (b".wh..wh..opq", AufsName::Opaque),
            (b".wh..wh..opq2", AufsName::Metadata),
            (b".wh..wh.plnk", AufsName::Metadata),
            (b".wh..wh.orph", AufsName::Metadata),
            (b".wh..wh.aufs", AufsName::Metadata),
            (b".wh..wh.", AufsName::Metadata),
        ] {
            assert_eq!(AufsName::parse(name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_whiteout_hides_the_name_that_it_was_made_for() {
        for name in [&b"a"[..], b".hidden", b"\xff\n", &[b'x'; 251]] {
            let whiteout = whiteout_name(name).unwrap();
            assert_eq!(AufsName::parse(whiteout.as_bytes()), AufsName::Whiteout(name));
        }
        for (name, errno) in [
            (&[b'x'; 252][..], Errno::ENAMETOOLONG),
            (b".wh.a", Errno::EINVAL),
            (b".wh..opq", Errno::EINVAL),
            (b"..", Errno::EINVAL),
            (b"", Errno::EINVAL),
            (b"a/b", Errno::EINVAL),
        ] {
            assert_eq!(whiteout_name(name), Err(errno), "{name:?}");
        }
    }
}
