//! Where the bytes of a file are on its disk, as far as other files have them, too (reflinks).
#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::BorrowedFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::seam::{self, Call};
use super::stat::StatFs;
use crate::base::Result;

/// How many extents are asked for at a time.
const MANY: usize = 64;
/// `FIEMAP_EXTENT_LAST` and `FIEMAP_EXTENT_SHARED` of `<linux/fiemap.h>`.
const LAST: u32 = 0x1;
const SHARED: u32 = 0x2000;

/// `struct fiemap_extent` of `<linux/fiemap.h>`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`: its head, whose size the number of the ioctl carries.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Head {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// The head, and room for the extents that follow it.
#[repr(C)]
struct Map {
    head: Head,
    extents: [Extent; MANY],
}

/// `FS_IOC_FIEMAP`
const FIEMAP: Opcode = opcode::read_write::<Head>(b'f', 11);

/// Whether files of a file system can share bytes: btrfs, XFS, bcachefs and OCFS2 by their magic numbers.
pub fn can_share(fs: &StatFs) -> bool {
    [0x9123_683e, 0x5846_5342, 0xca45_1a4e, 0x7461_636f].contains(&fs.magic)
}

/// The ranges of its disk, in bytes, that an open file has in common with others
/// ([fiemap](https://docs.kernel.org/filesystems/fiemap.html)).
///
/// # Errors
/// `EOPNOTSUPP` and `ENOTTY` where the file system does not tell; `EBADF` for an `O_PATH` descriptor.
pub fn shared(file: BorrowedFd<'_>) -> Result<Vec<Range<u64>>> {
    seam::enter(Call::GetFlags)?;
    let (mut shared, mut start) = (Vec::new(), 0);
    loop {
        let head = Head { start, length: u64::MAX - start, count: MANY as u32, ..Head::default() };
        let mut map = Map { head, extents: [Extent::default(); MANY] };
        // SAFETY: the kernel writes `count` extents at most behind the head, for which there is room; any bytes are valid in
        // each of the fields.
        unsafe { ioctl(file, Updater::<FIEMAP, Map>::new(&mut map)) }?;
        let mapped = map.extents.get(..map.head.mapped as usize).unwrap_or_default();
        let ranges = mapped.iter().filter(|extent| extent.flags & SHARED != 0);
        shared.extend(ranges.map(|extent| extent.physical..extent.physical.saturating_add(extent.length)));
        match mapped.last() {
            Some(last) if last.flags & LAST == 0 && last.logical.saturating_add(last.length) > start => {
                start = last.logical.saturating_add(last.length);
            }
            _ => return Ok(shared),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_by_itself_shares_nothing() {
        let file = tempfile::tempfile().unwrap();
        rustix::io::pwrite(&file, &[1; 4096], 0).unwrap();
        // tmpfs does not tell.
        assert!(shared(file.as_fd()).is_ok_and(|shared| shared.is_empty()) || shared(file.as_fd()).is_err());
    }
}
