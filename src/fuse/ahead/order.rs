//! The order in which small files were listed lately: programs that read them do so in that order.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::sync::DashMap;
use crate::union::InodeId;

/// A larger file is no small one: the kernel reads this much by one request.
pub const SMALL_FILE: u64 = 64 << 10;
/// Files that are remembered.
const MOST: u64 = 1 << 16;

/// A ring of inodes, and where in it each one is that nobody has read since.
#[derive(Default)]
pub struct Order {
    ring: OnceLock<Box<[AtomicU64]>>,
    places: DashMap<InodeId, u64>,
    /// The place of the next one; the first is 1.
    last: AtomicU64,
}

impl Order {
    /// Enters a file at the end. One that is in it stays where it is.
    pub fn add(&self, id: InodeId) {
        let ring = self.ring.get_or_init(|| (0..MOST).map(|_| AtomicU64::new(0)).collect());
        if self.places.contains_key(&id) {
            return;
        }
        let place = self.last.fetch_add(1, Relaxed) + 1;
        let Some(slot) = ring.get((place % MOST) as usize) else { return };
        let old = InodeId(slot.swap(id.0, Relaxed));
        self.places.remove_if(&old, |_, at| at % MOST == place % MOST);
        self.places.insert(id, place);
    }

    /// Takes a file out: its place.
    pub fn take(&self, id: InodeId) -> Option<u64> {
        self.places.remove(&id).map(|(_, place)| place)
    }

    /// The last place that was given out.
    pub fn last(&self) -> u64 {
        self.last.load(Relaxed)
    }

    /// The next `most` places after one, as far as their files are still in it.
    pub fn after(&self, place: u64, most: u64) -> impl Iterator<Item = InodeId> {
        let end = (place + most).min(self.last.load(Relaxed));
        let slot = |place: u64| self.ring.get()?.get((place % MOST) as usize);
        (place + 1..=end).filter_map(move |place| {
            let id = InodeId(slot(place)?.load(Relaxed));
            self.places.get(&id).filter(|at| **at == place).map(|_| id)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_listing_until_they_are_taken_or_too_old() {
        let order = Order::default();
        (1..=5).for_each(|id| order.add(InodeId(id)));
        order.add(InodeId(2));
        assert_eq!(order.take(InodeId(3)), Some(3));
        assert_eq!(order.after(1, 10).collect::<Vec<_>>(), [InodeId(2), InodeId(4), InodeId(5)]);
        assert_eq!(order.after(1, 2).collect::<Vec<_>>(), [InodeId(2)]);
        (1..=MOST).for_each(|id| order.add(InodeId(100 + id)));
        assert_eq!(order.take(InodeId(5)), None);
        assert_eq!(order.places.len() as u64, MOST);
    }
}
