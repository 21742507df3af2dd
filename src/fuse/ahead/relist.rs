//! Attributes that come with a listing instead of one by one.
//!
//! After a READ the kernel takes a file's time of access for unknown and asks for it (GETATTR) when somebody looks, one
//! file after the other, also where a walk finds all names in its cache. So where several files of a directory were read
//! the kernel is made to drop what it has of the listing: the next walk lists the directory anew, and one READDIRPLUS
//! brings the attributes of all. Without an upper layer the kernel does not ask.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::union::{InodeId, Union};

/// Files read in one directory before its listing is dropped.
const FILES: u64 = 3;
/// Bits of the counter that hold the count.
const COUNT: u32 = 4;

/// The directory of the last reads, and how many there were: the number shifted by [`COUNT`], then the count. Two readers
/// that disturb each other cost a listing that is kept or dropped in vain, no more.
#[derive(Debug, Default)]
pub struct Relist(AtomicU64);

impl Relist {
    /// The beginning of a file is read.
    pub fn read(&self, union: &Union, id: InodeId) {
        let Some(dir) = union.parent_of(id).filter(|_| union.is_writable()) else { return };
        if self.count(dir) == FILES {
            union.drop_listing(dir);
        }
    }

    /// Reads in this directory, this one included, without another one between.
    fn count(&self, dir: InodeId) -> u64 {
        let before = self.0.load(Relaxed);
        let same = before >> COUNT == dir.0 & (u64::MAX >> COUNT);
        let count = if same { (before & ((1 << COUNT) - 1)) + 1 } else { 1 };
        self.0.store(dir.0 << COUNT | count.min(FILES + 1), Relaxed);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_a_row_are_counted_by_directory() {
        let relist = Relist::default();
        for (dir, count) in [(5, 1), (5, 2), (6, 1), (5, 1), (5, 2), (5, 3), (5, 4), (5, 5), (5, 5), (1 << 62, 1)] {
            assert_eq!(relist.count(InodeId(dir)), count, "{dir}");
        }
    }
}
