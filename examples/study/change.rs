//! What is done to a lower file for the first time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;

use plyfs::union::{Caller, InodeId, RenameFlags, SetAttr, ViewGid, WriteHow};
use plyfs::{Errno, Union};
use rustix::fs::XattrFlags;

use crate::common::engine::name;
use crate::raw::SharedMap;

/// What is written where data is changed.
const PIECE: [u8; 4096] = [0x33; 4096];

/// A file that the engine has looked up.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    pub id: InodeId,
    pub dir: InodeId,
    pub name: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Middle,
    Append,
    Truncate,
    Mmap,
    Chmod,
    Chown,
    Setxattr,
    Rename,
    Link,
}

impl Change {
    pub const ALL: [Self; 9] = [
        Self::Middle,
        Self::Append,
        Self::Truncate,
        Self::Mmap,
        Self::Chmod,
        Self::Chown,
        Self::Setxattr,
        Self::Rename,
        Self::Link,
    ];

    /// As it is called in all that is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Middle => "middle",
            Self::Append => "append",
            Self::Truncate => "truncate",
            Self::Mmap => "mmap",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Setxattr => "setxattr",
            Self::Rename => "rename",
            Self::Link => "link",
        }
    }

    /// Bytes of data that it changes.
    pub fn bytes(self) -> u64 {
        if matches!(self, Self::Middle | Self::Append | Self::Mmap) { PIECE.len() as u64 } else { 0 }
    }

    /// As a program does it, from open(2) to close(2).
    pub fn on_mount(self, path: &Path, size: u64) -> io::Result<()> {
        let open = || OpenOptions::new().read(true).write(true).open(path);
        match self {
            Self::Middle => open()?.write_all_at(&PIECE, middle(size)),
            Self::Append => io::Write::write_all(&mut File::options().append(true).open(path)?, &PIECE),
            Self::Truncate => open()?.set_len(size / 2),
            Self::Mmap => {
                let mut map = SharedMap::new(open()?, size as usize, true);
                map.put(middle(size) as usize, &PIECE);
                // FUSE learns of a store when it is written back.
                map.sync()
            }
            Self::Chmod => fs::set_permissions(path, Permissions::from_mode(0o600)),
            Self::Chown => chown(path, None, Some(another_group())),
            Self::Setxattr => Ok(rustix::fs::setxattr(path, "user.study", b"1", XattrFlags::empty())?),
            Self::Rename => fs::rename(path, path.with_extension("renamed")),
            Self::Link => fs::hard_link(path, path.with_extension("linked")),
        }
    }

    /// The same, asked of the engine; `None` where it is done by a mount only.
    pub fn in_engine(self, union: &Union, file: &Known<'_>, size: u64) -> Option<Result<(), Errno>> {
        let (caller, Known { id, dir, name: known }) = (Caller::this_process(), *file);
        let set = |set: SetAttr| union.setattr(&caller, id, &set).map(drop);
        let write = |at| union.write(&caller, id, at, &PIECE, WriteHow::default()).map(drop);
        Some(match self {
            Self::Middle => write(middle(size)),
            Self::Append => write(size),
            Self::Truncate => set(SetAttr { size: Some(size / 2), ..SetAttr::default() }),
            Self::Chmod => set(SetAttr { mode: Some(0o600), ..SetAttr::default() }),
            Self::Chown => set(SetAttr { gid: Some(ViewGid(another_group())), ..SetAttr::default() }),
            Self::Setxattr => union.setxattr(&caller, id, b"user.study", b"1", 0),
            Self::Rename => {
                let to = name(&format!("{known}.renamed"));
                union.rename(&caller, dir, &name(known), dir, &to, RenameFlags::empty())
            }
            Self::Link => union.link(&caller, id, dir, &name(&format!("{known}.linked"))).map(drop),
            // A mapping is the kernel's: the engine sees the write of its pages.
            Self::Mmap => return None,
        })
    }
}

/// Where a page begins.
fn middle(size: u64) -> u64 {
    size / 2 / 4096 * 4096
}

/// Root can give a file to every group, others to their own.
fn another_group() -> u32 {
    if rustix::process::geteuid().is_root() { 1 } else { rustix::process::getegid().as_raw() }
}
