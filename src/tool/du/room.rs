//! What files take on disk, where several may have the same bytes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::os::fd::AsFd;

use crate::layer::Place;
use crate::sys::extents;
use crate::sys::path::OFlags;
use crate::sys::stat::{Stat, statfs_fd};

/// The bytes that were counted.
#[derive(Default)]
pub(super) struct Room {
    /// Files with several names.
    linked: HashSet<(u64, u64)>,
    /// The ranges of each disk that several files may have; by `st_dev` whether there can be any.
    shared: HashMap<u64, Option<Counted>>,
}

/// Ranges of a disk that were counted: where they begin, and where they end.
#[derive(Default)]
struct Counted(BTreeMap<u64, u64>);

impl Room {
    /// The bytes that this object takes, but for those that were counted before.
    pub fn taken_by(&mut self, place: &Place, stat: &Stat) -> u64 {
        if stat.nlink > 1 && !self.linked.insert((stat.dev, stat.ino)) {
            return 0;
        }
        let bytes = stat.blocks.saturating_mul(512);
        if !stat.is_file() || bytes == 0 {
            return bytes;
        }
        let counted = match self.shared.entry(stat.dev) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let fs = place.dir.fd().and_then(|dir| statfs_fd(dir.as_fd()));
                new.insert(fs.is_ok_and(|fs| extents::can_share(&fs)).then(Counted::default))
            }
        };
        let Some(counted) = counted else { return bytes };
        let file = place.open_file(stat.ino, OFlags::RDONLY | OFlags::NOATIME);
        let file = file.or_else(|_| place.open_file(stat.ino, OFlags::RDONLY));
        let shared = file.and_then(|file| extents::shared(file.as_fd())).unwrap_or_default();
        let again: u64 = shared.into_iter().map(|range| counted.add(range)).sum();
        bytes.saturating_sub(again)
    }
}

impl Counted {
    /// Adds a range; how much of it was counted before.
    fn add(&mut self, range: Range<u64>) -> u64 {
        let (mut start, mut end, mut again) = (range.start, range.end, 0);
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= range.start) {
            again += to.min(range.end).saturating_sub(from.max(range.start));
            (start, end) = (start.min(from), end.max(to));
            self.0.remove(&from);
        }
        self.0.insert(start, end);
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_counts_once() {
        let mut counted = Counted::default();
        let table = [
            (10..20, 0),
            (10..20, 10),
            (15..30, 5),
            (0..5, 0),
            (0..40, 25),
            (40..50, 0),
            (5..60, 45),
            (100..110, 0),
            (90..120, 10),
        ];
        for (range, again) in table {
            assert_eq!(counted.add(range.clone()), again, "{range:?}");
        }
        assert_eq!(counted.0, BTreeMap::from([(0, 60), (90, 120)]));
    }
}
