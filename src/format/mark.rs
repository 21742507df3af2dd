//! The keys of the marks, and the values that are one word.

use std::ffi::CStr;

/// The two sets of extended attributes that can hold the marks of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// `trusted.overlay.*`, which need `CAP_SYS_ADMIN` in the initial user namespace.
    Trusted,
    /// `user.overlay.*`, as with the kernel's `userxattr`: only on files and directories.
    User,
}

macro_rules! marks {
    ($($(#[$doc:meta])* $mark:ident = $key:literal;)*) => {
        /// What an extended attribute says about an object of a layer
        /// ([overlayfs](https://docs.kernel.org/filesystems/overlayfs.html)).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Mark { $($(#[$doc])* $mark),* }

        impl Mark {
            /// All marks.
            pub const ALL: &'static [Mark] = &[$(Mark::$mark),*];

            /// Its name without the namespace, such as `opaque`.
            pub const fn name(self) -> &'static str {
                match self { $(Mark::$mark => $key),* }
            }
        }

        impl Namespace {
            /// The other namespace.
            pub const fn other(self) -> Self {
                match self {
                    Namespace::Trusted => Namespace::User,
                    Namespace::User => Namespace::Trusted,
                }
            }

            /// The prefix of all keys in it.
            pub const fn prefix(self) -> &'static [u8] {
                match self {
                    Namespace::Trusted => b"trusted.overlay.",
                    Namespace::User => b"user.overlay.",
                }
            }

            /// The whole key, such as `trusted.overlay.opaque`.
            pub const fn key(self, mark: Mark) -> &'static CStr {
                let bytes: &'static [u8] = match (self, mark) {
                    $(
                        (Namespace::Trusted, Mark::$mark) => concat!("trusted.overlay.", $key, "\0").as_bytes(),
                        (Namespace::User, Mark::$mark) => concat!("user.overlay.", $key, "\0").as_bytes(),
                    )*
                };
                match CStr::from_bytes_with_nul(bytes) {
                    Ok(key) => key,
                    // Unreachable: each literal ends with its only NUL.
                    Err(_) => c"",
                }
            }
        }
    };
}

marks! {
    /// The directory hides those of its name in the layers below: [`Opacity`].
    Opaque = "opaque";
    /// Where the layers below have the object that this one stands for.
    Redirect = "redirect";
    /// The lower object that this was copied from: [`super::Origin`].
    Origin = "origin";
    /// The directory may hold objects with an origin.
    Impure = "impure";
    /// The difference between the link count of a copied-up hard link and that of the union.
    Nlink = "nlink";
    /// The upper directory that an entry of the index stands for.
    Upper = "upper";
    /// The identity of the union, on the root of an upper.
    Uuid = "uuid";
    /// The file has its metadata here and its data in a layer below.
    Metacopy = "metacopy";
    /// Inode flags that the object has in the union only.
    Protattr = "protattr";
    /// The empty file hides its name, in a directory with [`Opacity::XattrWhiteouts`].
    Whiteout = "whiteout";
    /// Our own: the empty file stands for a user's character device 0:0; its value is [`DEVICE_VALUE`].
    Device = "plyfs.device";
    /// Our own: how the upper hides names, on its root: [`WhiteoutStyle`].
    Style = "plyfs.style";
    /// Our own, on a layer's root: `.wh.` names are whiteouts there, whoever wrote in it later; its value is `y`.
    WhNames = "plyfs.wh";
    /// Our own: the file's data arrives block by block: [`super::BlocksMark`].
    Blocks = "plyfs.blocks";
    /// Our own, on the root of an upper layer: the commit that it stands on: [`super::commits::Stand`].
    On = "plyfs.on";
}

/// The only value of [`Mark::Device`].
pub const DEVICE_VALUE: &[u8] = b"c0:0";

/// What fuse-overlayfs 1.x writes where `trusted.overlay.opaque` is refused; its value is `y`.
pub const LEGACY_OPAQUE: &CStr = c"user.fuseoverlayfs.opaque";

/// What [`Mark::Opaque`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Opacity {
    /// The directory is merged with those below.
    #[default]
    None,
    /// The directory hides those below (`y`).
    Opaque,
    /// The directory is merged, and may hold files marked [`Mark::Whiteout`] (`x`).
    XattrWhiteouts,
}

impl Opacity {
    /// Reads the value, if there is one. What is neither `y` nor `x` says nothing.
    pub fn parse(value: Option<&[u8]>) -> Self {
        match value {
            Some(b"y") => Self::Opaque,
            Some(b"x") => Self::XattrWhiteouts,
            _ => Self::None,
        }
    }

    /// The value to write; empty for [`Opacity::None`], which is written by having no mark.
    pub fn value(self) -> &'static [u8] {
        match self {
            Self::None => b"",
            Self::Opaque => b"y",
            Self::XattrWhiteouts => b"x",
        }
    }
}

/// How an upper hides a name of the layers below: what [`Mark::Style`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhiteoutStyle {
    /// A character device 0:0 (`dev`).
    Device,
    /// An empty file marked [`Mark::Whiteout`] (`xattr`).
    Xattr,
    /// An empty file `.wh.<name>` (`wh`).
    File,
}

impl WhiteoutStyle {
    /// Reads the value; `None` for a style from another version.
    pub fn parse(value: &[u8]) -> Option<Self> {
        Some(match value {
            b"dev" => Self::Device,
            b"xattr" => Self::Xattr,
            b"wh" => Self::File,
            _ => return None,
        })
    }

    /// The value to write.
    pub fn value(self) -> &'static [u8] {
        match self {
            Self::Device => b"dev",
            Self::Xattr => b"xattr",
            Self::File => b"wh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_has_its_key_in_both_namespaces() {
        assert_eq!(Namespace::Trusted.key(Mark::Opaque), c"trusted.overlay.opaque");
        assert_eq!(Namespace::User.key(Mark::Metacopy), c"user.overlay.metacopy");
        assert_eq!(Namespace::User.key(Mark::Device), c"user.overlay.plyfs.device");
        for &mark in Mark::ALL {
            for (namespace, prefix) in [(Namespace::Trusted, "trusted"), (Namespace::User, "user")] {
                assert_eq!(namespace.key(mark).to_str().unwrap(), format!("{prefix}.overlay.{}", mark.name()));
            }
        }
    }

    #[test]
    fn only_y_and_x_say_anything_about_opacity() {
        for (value, expected) in [
            (None, Opacity::None),
            (Some(&b""[..]), Opacity::None),
            (Some(b"y"), Opacity::Opaque),
            (Some(b"x"), Opacity::XattrWhiteouts),
            (Some(b"0"), Opacity::None),
            (Some(b"Y"), Opacity::None),
            (Some(b"yy"), Opacity::None),
            (Some(b"y\0"), Opacity::None),
            (Some(&[b'y'; 65536]), Opacity::None),
        ] {
            assert_eq!(Opacity::parse(value), expected);
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for style in [WhiteoutStyle::Device, WhiteoutStyle::Xattr, WhiteoutStyle::File] {
            assert_eq!(WhiteoutStyle::parse(style.value()), Some(style));
        }
        assert_eq!(WhiteoutStyle::parse(b"other"), None);
        for opacity in [Opacity::Opaque, Opacity::XattrWhiteouts] {
            assert_eq!(Opacity::parse(Some(opacity.value())), opacity);
        }
    }
}
