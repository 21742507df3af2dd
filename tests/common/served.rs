//! For file systems that a test serves itself.

use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};

/// Attributes of an object of root's with one name.
pub fn attributes(ino: u64, (kind, perm): (FileType, u16), size: u64, time: SystemTime) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
