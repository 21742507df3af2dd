//! What a lower file has beside its name and its data.

use std::fs;
use std::path::Path;

use rustix::fs::XattrFlags;

use crate::common::layers::make_file;

/// Bytes from the begin of one piece of data to that of the next, where holes are between.
const STEP: u64 = 64 << 10;
const XATTRS: usize = 8;
const NAMES: usize = 4;
/// Directories above the file that no change has reached yet.
const PARENTS: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    Nothing,
    Xattrs,
    Acl,
    Holes,
    Links,
    Depth,
}

impl Extra {
    pub const ALL: [Self; 6] = [Self::Nothing, Self::Xattrs, Self::Acl, Self::Holes, Self::Links, Self::Depth];

    /// As it is called in all that is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Xattrs => "xattrs",
            Self::Acl => "acl",
            Self::Holes => "holes",
            Self::Links => "links",
            Self::Depth => "depth",
        }
    }

    /// For a heading.
    pub fn in_full(self) -> &'static str {
        match self {
            Self::Nothing => "nothing but its data",
            Self::Xattrs => "8 extended attributes of 100 B",
            Self::Acl => "an ACL",
            Self::Holes => "4 KiB of data in each 64 KiB, else holes",
            Self::Links => "4 names",
            Self::Depth => "8 directories above it that nothing has changed",
        }
    }

    /// Where a file is, from the root of its layer.
    pub fn path(self, number: usize) -> String {
        if self == Self::Depth {
            format!("dir{number}{}/file", "/d".repeat(PARENTS - 1))
        } else {
            format!("file{number}")
        }
    }

    /// One lower file with this.
    ///
    /// # Errors
    /// What the file system does not have, in words.
    pub fn make(self, lower: &Path, number: usize, size: u64) -> Result<(), String> {
        let path = lower.join(self.path(number));
        fs::create_dir_all(path.parent().unwrap_or(lower)).map_err(|error| error.to_string())?;
        let data: Vec<u64> =
            if self == Self::Holes { (0..size / STEP).map(|step| step * STEP).collect() } else { Vec::new() };
        make_file(&path, size, &data);
        let xattr = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(&path, name, value, XattrFlags::empty()).map_err(|error| format!("{name}: {error}"))
        };
        match self {
            Self::Nothing | Self::Holes | Self::Depth => Ok(()),
            Self::Xattrs => (0..XATTRS).try_for_each(|number| xattr(&format!("user.study{number}"), &[b'x'; 100])),
            Self::Acl => xattr("system.posix_acl_access", &acl()),
            Self::Links => {
                let link = |other| fs::hard_link(&path, path.with_extension(format!("link{other}")));
                (1..NAMES).try_for_each(link).map_err(|error| error.to_string())
            }
        }
    }
}

/// `u::rw-,u:1:rw-,g::r--,m::rw-,o::r--` as `linux/posix_acl_xattr.h` has it.
fn acl() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries = [(1_u16, 6_u16, NOBODY), (2, 6, 1), (4, 4, NOBODY), (0x10, 6, NOBODY), (0x20, 4, NOBODY)];
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(rights.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}
