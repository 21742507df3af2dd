//! Where the layers below have what an object stands for: the value of the mark `redirect`.

use super::Malformed;
use crate::base::Name;

/// The longest value in bytes, which is that of any extended attribute (`XATTR_SIZE_MAX`).
const MAX: usize = 64 * 1024;

/// A name or a path in the layers below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// It replaces the last component within the parent's lower path.
    Relative(Name),
    /// A path from the root of the layers below.
    Absolute(Vec<Name>),
}

impl Redirect {
    /// Reads the value of the mark.
    ///
    /// # Errors
    /// [`Malformed`] for an empty value, one longer than 64 KiB, and one with a component that is no [`Name`]: a
    /// redirect leads downwards only.
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        let malformed = |why| Malformed { mark: "redirect", why };
        if value.len() > MAX {
            return Err(malformed("longer than 64 KiB"));
        }
        let name = |bytes: &[u8]| Name::new(bytes).map_err(|_| malformed("a component that is no name"));
        match value.strip_prefix(b"/") {
            Some(path) => path.split(|&byte| byte == b'/').map(name).collect::<Result<_, _>>().map(Self::Absolute),
            None => name(value).map(Self::Relative),
        }
    }

    /// The value to write. The kernel's OverlayFS makes none that is longer than 256 bytes, but reads them.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Relative(name) => name.as_bytes().to_vec(),
            Self::Absolute(path) => path.iter().flat_map(|name| [b"/", name.as_bytes()].concat()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn absolute(names: &[&str]) -> Redirect {
        Redirect::Absolute(names.iter().map(|name| Name::new(name.as_bytes()).unwrap()).collect())
    }

    #[test]
    fn a_value_is_a_name_or_an_absolute_path() {
        let longest = "x".repeat(255);
        for (value, expected) in [
            ("mc", Redirect::Relative(Name::new(b"mc").unwrap())),
            ("...", Redirect::Relative(Name::new(b"...").unwrap())),
            (longest.as_str(), Redirect::Relative(Name::new(longest.as_bytes()).unwrap())),
            ("/d", absolute(&["d"])),
            ("/a/b c/.d", absolute(&["a", "b c", ".d"])),
        ] {
            assert_eq!(Redirect::parse(value.as_bytes()), Ok(expected.clone()), "{value}");
            assert_eq!(expected.encode(), value.as_bytes());
        }
    }

    #[test]
    fn a_value_that_leads_nowhere_or_upwards_is_malformed() {
        let no_name = "a component that is no name";
        for (value, why) in [
            (&b""[..], no_name),
            (b".", no_name),
            (b"..", no_name),
            (b"a/b", no_name),
            (b"a/", no_name),
            (b"a\0b", no_name),
            (b"a\0", no_name),
            (&[b'x'; 256], no_name),
            (b"/", no_name),
            (b"//", no_name),
            (b"//a", no_name),
            (b"/a//b", no_name),
            (b"/a/", no_name),
            (b"/a/../b", no_name),
            (b"/..", no_name),
            (b"/./a", no_name),
            (b"/a\0", no_name),
            (&[&b"/a/"[..], &[b'x'; 256]].concat(), no_name),
            (&b"/a".repeat(32769), "longer than 64 KiB"),
            (&[b'x'; 65537], "longer than 64 KiB"),
        ] {
            let shown = String::from_utf8_lossy(&value[..value.len().min(20)]);
            assert_eq!(Redirect::parse(value), Err(Malformed { mark: "redirect", why }), "{shown:?}");
        }
        assert!(Redirect::parse(&b"/a".repeat(32768)).is_ok());
    }

    fn name() -> impl Strategy<Value = Name> {
        prop::collection::vec(any::<u8>(), 1..20).prop_filter_map("a name", |bytes| Name::new(&bytes).ok())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(path in prop::collection::vec(name(), 1..6), one: bool) {
            let redirect = if one { Redirect::Relative(path[0].clone()) } else { Redirect::Absolute(path) };
            prop_assert_eq!(Redirect::parse(&redirect.encode()), Ok(redirect));
        }

        #[test]
        fn what_is_read_is_written_the_same(value in prop::collection::vec(prop::sample::select(b"/.a\0".to_vec()), 0..9)) {
            if let Ok(redirect) = Redirect::parse(&value) {
                prop_assert_eq!(redirect.encode(), value);
            }
        }
    }
}
