//! A list that mostly has one element.

use std::ops::Deref;

/// A list in which one element takes no more memory than itself if its type has a niche (a pointer). Any other number
/// of elements is on the heap.
#[derive(Debug, Clone)]
pub enum Few<T> {
    /// Just this one.
    One(T),
    /// Any other number of elements; `None`: no element.
    #[expect(clippy::box_collection, reason = "a `Vec` would make the list three words long")]
    Many(Option<Box<Vec<T>>>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(None)
    }
}

impl<T> Few<T> {
    /// Adds one at the end.
    pub fn push(&mut self, item: T) {
        *self = match std::mem::take(self) {
            Self::Many(None) => Self::One(item),
            Self::One(first) => Self::Many(Some(Box::new(vec![first, item]))),
            Self::Many(Some(mut all)) => {
                all.push(item);
                Self::Many(Some(all))
            }
        };
    }

    /// Keeps the elements for which `keep` holds.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let mut left = std::mem::take(self).into_vec();
        left.retain(keep);
        *self = match left.len() {
            0 => Self::Many(None),
            1 => left.pop().map_or(Self::Many(None), Self::One),
            _ => Self::Many(Some(Box::new(left))),
        };
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(item) => vec![item],
            Self::Many(all) => all.map(|all| *all).unwrap_or_default(),
        }
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(Some(all)) => all,
            Self::Many(None) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_larger_than_itself() {
        assert_eq!(size_of::<Few<(Box<u8>, Box<u8>)>>(), size_of::<(Box<u8>, Box<u8>)>());
    }

    #[test]
    fn elements_stay_in_order() {
        let mut few = Few::default();
        for n in 0..4 {
            assert_eq!(few.to_vec(), (0..n).collect::<Vec<_>>());
            few.push(n);
        }
        few.retain(|n| n % 2 == 1);
        assert_eq!(few.to_vec(), [1, 3]);
        few.retain(|n| *n == 3);
        assert!(matches!(few, Few::One(3)));
        few.retain(|_| false);
        assert!(few.is_empty() && few.into_vec().is_empty());
    }
}
