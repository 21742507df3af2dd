//! Owner, mode and type of an object that stand in an extended attribute, as containers/storage (`force_mask`) and
//! fuse-overlayfs (`xattr_permissions`) write them.
//!
//! The value is `UID:GID:MODE`, and after another colon the type if that is not the object's own: `file`, `dir`,
//! `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR`, `char-MAJOR-MINOR`
//! ([containers/storage](https://github.com/containers/storage/blob/main/pkg/idtools/idtools.go)). The ids are decimal. The
//! mode is octal; fuse-overlayfs writes it with the bits of the type (`S_IFMT`).

use std::ffi::CStr;

use super::Malformed;
use crate::base::config::XattrPermissions;
use crate::base::{DiskGid, DiskUid};

/// Where a layer keeps the marks of its objects. Each layer has one of these keys on its root, which says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OverrideKey {
    /// `security.fuseoverlayfs.override_stat`, which only root can write: `xattr_permissions=1`.
    Security,
    /// `user.containers.override_stat`: containers/storage, and `xattr_permissions=2`.
    Containers,
    /// `user.fuseoverlayfs.override_stat`: `xattr_permissions=2` of fuse-overlayfs before 1.14.
    User,
}

impl OverrideKey {
    /// All keys: the first that a root has counts.
    pub const ALL: [Self; 3] = [Self::Security, Self::Containers, Self::User];

    /// The key of the attribute.
    pub const fn key(self) -> &'static CStr {
        match self {
            Self::Security => c"security.fuseoverlayfs.override_stat",
            Self::Containers => c"user.containers.override_stat",
            Self::User => c"user.fuseoverlayfs.override_stat",
        }
    }

    /// The key that an option gives to an upper layer.
    pub const fn of(option: XattrPermissions) -> Self {
        match option {
            XattrPermissions::Security => Self::Security,
            XattrPermissions::Containers | XattrPermissions::Parents => Self::Containers,
        }
    }

    /// Whether an upper layer whose root has this key can be mounted with an option.
    pub fn goes_with(self, option: XattrPermissions) -> bool {
        self == Self::of(option) || (self, option) == (Self::User, XattrPermissions::Containers)
    }

    /// The option that a layer has all of whose objects have such marks.
    pub const fn option(self) -> XattrPermissions {
        match self {
            Self::Security => XattrPermissions::Security,
            Self::Containers | Self::User => XattrPermissions::Containers,
        }
    }

    /// Whether only an administrator can write the attribute. Of `user.*` whoever may write the object can.
    pub const fn is_privileged(self) -> bool {
        matches!(self, Self::Security)
    }
}

/// What sort of object is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum OverrideType {
    File,
    Dir,
    /// The target is the content of the regular file that stands for the symlink.
    Symlink,
    Fifo,
    Socket,
    Block {
        major: u32,
        minor: u32,
    },
    Char {
        major: u32,
        minor: u32,
    },
}

/// The largest numbers that the kernel has room for (`linux/kdev_t.h`).
const MOST_MAJOR: u32 = (1 << 12) - 1;
const MOST_MINOR: u32 = (1 << 20) - 1;

impl OverrideType {
    /// The type bits of `st_mode`.
    pub const fn to_mode(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Dir => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::Block { .. } => libc::S_IFBLK,
            Self::Char { .. } => libc::S_IFCHR,
        }
    }

    /// The type with these bits of `st_mode`, and for a device its number as `makedev(3)` composes it. `None`: there is
    /// no such type, or a device number that is too large.
    pub fn from_mode(mode: u32, rdev: u64) -> Option<Self> {
        let device = || {
            let (major, minor) = (libc::major(rdev), libc::minor(rdev));
            (major <= MOST_MAJOR && minor <= MOST_MINOR).then_some((major, minor))
        };
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Dir,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFBLK => device().map(|(major, minor)| Self::Block { major, minor })?,
            libc::S_IFCHR => device().map(|(major, minor)| Self::Char { major, minor })?,
            _ => return None,
        })
    }

    /// The device number, as `makedev(3)` composes it; 0 for what is no device.
    pub fn rdev(self) -> u64 {
        match self {
            Self::Block { major, minor } | Self::Char { major, minor } => libc::makedev(major, minor),
            _ => 0,
        }
    }

    /// Reads the word. What follows after `-` or `:` is left to later versions, as in containers/storage.
    fn parse(word: &[u8]) -> Result<Self, Malformed> {
        let mut parts = word.split(|byte| matches!(byte, b'-' | b':'));
        let name = parts.next().unwrap_or_default();
        let mut device = || {
            let mut number = |most| {
                let digits = parts.next().ok_or(malformed("a device without a number"))?;
                number(digits, 10).filter(|number| *number <= most).ok_or(malformed("no device number"))
            };
            Ok((number(MOST_MAJOR)?, number(MOST_MINOR)?))
        };
        Ok(match name {
            b"file" => Self::File,
            b"dir" => Self::Dir,
            b"symlink" => Self::Symlink,
            b"pipe" => Self::Fifo,
            b"socket" => Self::Socket,
            b"block" => device().map(|(major, minor)| Self::Block { major, minor })?,
            b"char" => match device()? {
                // That is a whiteout to some readers, and to others a device.
                (0, 0) => return Err(malformed("a character device 0:0")),
                (major, minor) => Self::Char { major, minor },
            },
            _ => return Err(malformed("unknown type")),
        })
    }

    fn encode(self) -> String {
        match self {
            Self::File => "file".into(),
            Self::Dir => "dir".into(),
            Self::Symlink => "symlink".into(),
            Self::Fifo => "pipe".into(),
            Self::Socket => "socket".into(),
            Self::Block { major, minor } => format!("block-{major}-{minor}"),
            Self::Char { major, minor } => format!("char-{major}-{minor}"),
        }
    }
}

/// What the mark of an object says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OverrideStat {
    /// Owner.
    pub uid: DiskUid,
    /// Group.
    pub gid: DiskGid,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Its type.
    pub kind: OverrideType,
}

impl OverrideStat {
    /// Reads the mark of an object that is on disk what `mode` (of `st_mode`) and `rdev` say. A regular file may stand
    /// for anything but a directory; any other object is what it is.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn parse(value: &[u8], (mode, rdev): (u32, u64)) -> Result<Self, Malformed> {
        if value.contains(&0) {
            return Err(malformed("a NUL"));
        }
        let mut fields = value.splitn(4, |byte| *byte == b':');
        let mut field = |radix, why| {
            let digits = fields.next().ok_or(malformed("less than three fields"))?;
            number(digits, radix).ok_or(malformed(why))
        };
        let (uid, gid, said) = (field(10, "no user id")?, field(10, "no group id")?, field(8, "no mode")?);
        if uid == u32::MAX || gid == u32::MAX {
            return Err(malformed("the id that stands for none"));
        }
        let own = OverrideType::from_mode(mode, rdev).ok_or(malformed("an object of no type"))?;
        let kind = fields.next().map_or(Ok(own), OverrideType::parse)?;
        let stands_for = own == OverrideType::File && kind != OverrideType::Dir;
        if kind != own && !stands_for {
            return Err(malformed("the type is not that of the object"));
        }
        if said & !0o7777 != 0 && said & !0o7777 != kind.to_mode() {
            return Err(malformed("bits that are no mode, or of another type"));
        }
        Ok(Self { uid: DiskUid(uid), gid: DiskGid(gid), mode: said & 0o7777, kind })
    }

    /// The value to write.
    pub fn encode(&self) -> Vec<u8> {
        let Self { uid, gid, mode, kind } = self;
        format!("{uid}:{gid}:{mode:04o}:{}", kind.encode()).into_bytes()
    }
}

fn malformed(why: &'static str) -> Malformed {
    Malformed { mark: "override_stat", why }
}

/// A number of digits alone: no sign, no space.
fn number(digits: &[u8], radix: u32) -> Option<u32> {
    let first = digits.first()?;
    if !first.is_ascii_digit() {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

#[cfg(test)]
mod tests {
    use OverrideType::{Block, Char, Dir, Fifo, File, Socket, Symlink};
    use proptest::prelude::*;

    use super::*;

    const FILE: (u32, u64) = (libc::S_IFREG | 0o755, 0);
    const DIR: (u32, u64) = (libc::S_IFDIR | 0o755, 0);

    fn stat(uid: u32, gid: u32, mode: u32, kind: OverrideType) -> OverrideStat {
        OverrideStat { uid: DiskUid(uid), gid: DiskGid(gid), mode, kind }
    }

    #[test]
    fn all_forms_are_read() {
        for (value, on_disk, expected) in [
            ("0:0:0755:dir", DIR, stat(0, 0, 0o755, Dir)),
            ("0:0:755", DIR, stat(0, 0, 0o755, Dir)),
            ("5:6:4640:file", FILE, stat(5, 6, 0o4640, File)),
            ("5:6:4640", FILE, stat(5, 6, 0o4640, File)),
            ("4294967294:65534:7777:file", FILE, stat(4_294_967_294, 65534, 0o7777, File)),
            ("0:0:0777:symlink", FILE, stat(0, 0, 0o777, Symlink)),
            ("0:0:0:pipe", FILE, stat(0, 0, 0, Fifo)),
            ("0:0:0644:socket", FILE, stat(0, 0, 0o644, Socket)),
            ("0:6:0660:block-8-1", FILE, stat(0, 6, 0o660, Block { major: 8, minor: 1 })),
            ("0:0:0666:char-1-3", FILE, stat(0, 0, 0o666, Char { major: 1, minor: 3 })),
            ("0:0:0666:char-4095-1048575", FILE, stat(0, 0, 0o666, Char { major: MOST_MAJOR, minor: MOST_MINOR })),
            // What fuse-overlayfs writes, and what later versions may add.
            ("0:0:40755", DIR, stat(0, 0, 0o755, Dir)),
            ("0:0:100644", FILE, stat(0, 0, 0o644, File)),
            ("0:0:020666:char-5-0-more", FILE, stat(0, 0, 0o666, Char { major: 5, minor: 0 })),
            ("0:0:0644:file:more", FILE, stat(0, 0, 0o644, File)),
            ("0:0:0644:file-more", FILE, stat(0, 0, 0o644, File)),
            // Objects that are no stand-ins.
            ("7:8:0777", (libc::S_IFLNK | 0o777, 0), stat(7, 8, 0o777, Symlink)),
            ("7:8:10600:pipe", (libc::S_IFIFO | 0o644, 0), stat(7, 8, 0o600, Fifo)),
            ("7:8:0600", (libc::S_IFCHR | 0o644, libc::makedev(1, 3)), stat(7, 8, 0o600, Char { major: 1, minor: 3 })),
        ] {
            assert_eq!(OverrideStat::parse(value.as_bytes(), on_disk), Ok(expected), "{value}");
        }
    }

    #[test]
    fn hostile_forms_are_refused() {
        for (value, on_disk) in [
            (&b""[..], FILE),
            (b"0", FILE),
            (b"0:0", FILE),
            (b"::", FILE),
            (b"a:0:0644:file", FILE),
            (b"0:b:0644:file", FILE),
            (b"0:0:rw-:file", FILE),
            (b"0:0:0648:file", FILE),
            (b"0:0::file", FILE),
            (b"-1:0:0644:file", FILE),
            (b"+1:0:0644:file", FILE),
            (b" 1:0:0644:file", FILE),
            (b"0:0:0644 :file", FILE),
            (b"0x0:0:0644:file", FILE),
            (b"4294967295:0:0644:file", FILE),
            (b"0:4294967295:0644:file", FILE),
            (b"4294967296:0:0644:file", FILE),
            (b"18446744073709551616:0:0644:file", FILE),
            (b"0:0:77777777777777777777:file", FILE),
            (b"0:0:1000644:file", FILE),
            (b"0:0:10000:file", FILE),
            (b"0:0:170644", FILE),
            (b"0:0:40755", FILE),
            (b"0:0:20666", FILE),
            (b"0:0:40644:file", FILE),
            (b"0:0:0644:", FILE),
            (b"0:0:0644:door", FILE),
            (b"0:0:0644:files", FILE),
            (b"0:0:0644:FILE", FILE),
            (b"0:0:0644\0:file", FILE),
            (b"0:0:0644:file\0", FILE),
            (b"0:0:0644:file-\0", FILE),
            (b"\0", FILE),
            (b"0:0:0644\n", FILE),
            (b"0:0:0755:dir", FILE),
            (b"0:0:0755:file", DIR),
            (b"0:0:0755:symlink", DIR),
            (b"0:0:100755", DIR),
            (b"0:0:0666:char", FILE),
            (b"0:0:0666:char-1", FILE),
            (b"0:0:0666:char-1-", FILE),
            (b"0:0:0666:char-1--3", FILE),
            (b"0:0:0666:char--1-3", FILE),
            (b"0:0:0666:char:1:x", FILE),
            (b"0:0:0666:char-4096-0", FILE),
            (b"0:0:0666:block-0-1048576", FILE),
            (b"0:0:0666:block-99999999999-0", FILE),
            (b"0:0:0666:char-0-0", FILE),
            (b"0:0:0666:char-1-3", DIR),
            (b"0:0:0666:char-1-3", (libc::S_IFIFO, 0)),
            (b"0:0:0666:char-1-3", (libc::S_IFCHR, 0)),
            (b"0:0:0666:file", (libc::S_IFLNK, 0)),
            (b"0:0:0666", (0, 0)),
            (&[b'0'; 65536], FILE),
        ] {
            let got = OverrideStat::parse(value, on_disk);
            assert!(got.is_err(), "{:?}: {got:?}", String::from_utf8_lossy(value.get(..40).unwrap_or(value)));
        }
    }

    #[test]
    fn an_option_gives_a_key_under_which_the_layer_can_be_mounted_again() {
        use XattrPermissions::{Containers, Parents, Security};
        for option in XattrPermissions::ALL {
            assert!(OverrideKey::of(option).goes_with(option), "{option:?}");
        }
        for (key, others) in [
            (OverrideKey::Security, &[Containers, Parents][..]),
            (OverrideKey::Containers, &[Security]),
            (OverrideKey::User, &[Security, Parents]),
        ] {
            assert!(key.goes_with(key.option()), "{key:?}");
            others.iter().for_each(|option| assert!(!key.goes_with(*option), "{key:?}, {option:?}"));
        }
    }

    #[test]
    fn what_is_written_is_the_form_of_containers_storage() {
        for (value, on_disk) in [("0:0:0755:dir", DIR), ("5:6:4640:file", FILE), ("0:6:0660:block-8-1", FILE)] {
            let read = OverrideStat::parse(value.as_bytes(), on_disk).unwrap();
            assert_eq!(read.encode(), value.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn bytes_are_read_or_refused(value: Vec<u8>, mode: u32, rdev: u64) {
            let _ = OverrideStat::parse(&value, (mode, rdev));
        }

        #[test]
        fn what_is_written_is_read(uid in 0..u32::MAX, gid in 0..u32::MAX, mode in 0..=0o7777u32, major in 0..=MOST_MAJOR, minor in 1..=MOST_MINOR) {
            for kind in [File, Symlink, Fifo, Socket, Block { major, minor }, Char { major, minor }] {
                let written = stat(uid, gid, mode, kind);
                prop_assert_eq!(OverrideStat::parse(&written.encode(), FILE), Ok(written));
                prop_assert_eq!(OverrideType::from_mode(kind.to_mode() | mode, kind.rdev()), Some(kind));
            }
        }
    }
}
