//! Which ids the view shows for those of the layers: `uidmapping=`, `gidmapping=`, and the `squash_to_` options.

use std::fmt::Write as _;

/// How the ids of one kind, users or groups, are shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Shown {
    /// As the layers have them.
    #[default]
    Same,
    /// As a map says.
    Mapped(IdMap),
    /// Every one as this.
    All(u32),
}

/// A map between the ids of the layers and those of the view, one to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// Sorted by the layers' ids.
    by_disk: Box<[Range]>,
    /// Sorted by the view's ids.
    by_view: Box<[Range]>,
}

/// `len` ids from `disk` on are shown as those from `view` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    disk: u32,
    view: u32,
    len: u32,
}

impl Range {
    fn disk(&self) -> u32 {
        self.disk
    }

    fn view(&self) -> u32 {
        self.view
    }
}

/// The last id: the number above it is none.
const LAST: u64 = u32::MAX as u64 - 1;

impl IdMap {
    /// Reads `DISK:VIEW:COUNT`, any number of times, with colons between and perhaps one before: `0:100000:65536` as
    /// containerd writes it, `:0:1000:1:1:100000:65536` as podman does. As for a user namespace, no id may stand twice on
    /// a side.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.strip_prefix(':').unwrap_or(text).split(':').collect();
        let numbers = fields.iter().map(|field| number(field)).collect::<Result<Vec<u32>, String>>()?;
        let (triples, rest) = numbers.as_chunks();
        if !rest.is_empty() {
            return Err(format!("{} numbers, which are not three for each range", numbers.len()));
        }
        let ranges = triples.iter().map(|triple| range(*triple)).collect::<Result<Vec<Range>, String>>()?;
        let by_disk = sorted(&ranges, Range::disk, "of the layers")?;
        let by_view = sorted(&ranges, Range::view, "of the view")?;
        Ok(Self { by_disk, by_view })
    }

    /// What a layer's id is shown as.
    pub fn view_of(&self, disk: u32) -> Option<u32> {
        translate(&self.by_disk, disk, Range::disk, Range::view)
    }

    /// The layers' id that is shown as this.
    pub fn disk_of(&self, view: u32) -> Option<u32> {
        translate(&self.by_view, view, Range::view, Range::disk)
    }
}

impl std::fmt::Display for IdMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for Range { disk, view, len } in &self.by_disk {
            write!(text, ":{disk}:{view}:{len}")?;
        }
        f.write_str(text.trim_start_matches(':'))
    }
}

/// Only digits: `parse` would take a sign, too.
fn number(field: &str) -> Result<u32, String> {
    let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits { field.parse().ok() } else { None };
    number.ok_or_else(|| format!("{field:?} is not a number from 0 to {}", u32::MAX))
}

fn range([disk, view, len]: [u32; 3]) -> Result<Range, String> {
    if len == 0 {
        return Err(format!("the range {disk}:{view}:{len} has no ids"));
    }
    if u64::from(disk.max(view)) + u64::from(len) - 1 > LAST {
        return Err(format!("the range {disk}:{view}:{len} goes beyond the last id, {LAST}"));
    }
    Ok(Range { disk, view, len })
}

fn sorted(ranges: &[Range], start: fn(&Range) -> u32, side: &str) -> Result<Box<[Range]>, String> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable_by_key(start);
    for pair in ranges.windows(2) {
        if let [one, next] = pair
            && start(next) - start(one) < one.len
        {
            return Err(format!("the id {} {side} stands in two ranges", start(next)));
        }
    }
    Ok(ranges.into())
}

fn translate(ranges: &[Range], id: u32, from: fn(&Range) -> u32, to: fn(&Range) -> u32) -> Option<u32> {
    let range = ranges.get(ranges.partition_point(|range| from(range) <= id).checked_sub(1)?)?;
    let offset = id - from(range);
    (offset < range.len).then(|| to(range) + offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_those_of_the_range_that_they_stand_in() {
        // As podman writes --userns=keep-id for user 1001.
        let map = IdMap::parse(":0:1:1001:1001:0:1:1002:1002:64535").unwrap();
        for (disk, view) in [
            (0, Some(1)),
            (1000, Some(1001)),
            (1001, Some(0)),
            (1002, Some(1002)),
            (65536, Some(65536)),
            (65537, None),
            (u32::MAX, None),
        ] {
            assert_eq!(map.view_of(disk), view, "{disk}");
            if let Some(view) = view {
                assert_eq!(map.disk_of(view), Some(disk), "{view}");
            }
        }
        assert_eq!(map.disk_of(65537), None);
        let map = IdMap::parse("5:4294967294:1:4294967294:7:1").unwrap();
        assert_eq!((map.view_of(5), map.view_of(4), map.view_of(6)), (Some(u32::MAX - 1), None, None));
        assert_eq!((map.disk_of(7), map.disk_of(8), map.disk_of(u32::MAX)), (Some(u32::MAX - 1), None, None));
        assert_eq!(map.to_string(), "5:4294967294:1:4294967294:7:1");
    }

    #[test]
    fn what_is_no_map_is_told() {
        for (text, reason) in [
            ("", "\"\" is not a number"),
            (":", "\"\" is not a number"),
            ("::0:1:2", "\"\" is not a number"),
            ("0:1:2:", "\"\" is not a number"),
            ("0:1", "2 numbers"),
            ("0:1:2:3", "4 numbers"),
            ("0:+1:2", "\"+1\" is not a number"),
            ("0:-1:2", "\"-1\" is not a number"),
            ("0: 1:2", "\" 1\" is not a number"),
            ("0:4294967296:1", "\"4294967296\" is not a number"),
            ("0:0x10:1", "\"0x10\" is not a number"),
            ("0:1:0", "0:1:0 has no ids"),
            ("0:4294967295:1", "beyond the last id, 4294967294"),
            ("4294967290:0:6", "beyond the last id"),
            ("1:1:4294967295", "beyond the last id"),
            ("0:100:10:9:200:1", "the id 9 of the layers stands in two ranges"),
            ("0:100:10:10:105:1", "the id 105 of the view stands in two ranges"),
            ("0:0:1:0:1:1", "the id 0 of the layers stands in two ranges"),
        ] {
            let told = IdMap::parse(text).unwrap_err();
            assert!(told.contains(reason), "{text}: {told}");
        }
        for whole in ["0:0:4294967295", "4294967290:0:5"] {
            IdMap::parse(whole).unwrap();
        }
    }

    proptest! {
        #[test]
        fn a_look_up_finds_what_a_search_of_all_ranges_does(
            lens in prop::collection::vec((1u32..4, 0u32..3, 0u32..3), 1..40),
            turn in any::<prop::sample::Index>(),
        ) {
            // The view has the same ranges in another order, with other gaps.
            let mut order: Vec<usize> = (0..lens.len()).collect();
            order.rotate_left(turn.index(lens.len()));
            let (mut disk, mut view) = (0, 0);
            let mut ranges = vec![(0, 0, 0); lens.len()];
            for (at, (len, gap, _)) in lens.iter().enumerate() {
                ranges[at] = (disk + gap, 0, *len);
                disk += gap + len;
            }
            for at in order {
                let (len, _, gap) = lens[at];
                ranges[at].1 = view + gap;
                view += gap + len;
            }
            let text: Vec<String> = ranges.iter().map(|(c, h, n)| format!("{c}:{h}:{n}")).collect();
            let map = IdMap::parse(&text.join(":")).unwrap();
            for id in 0..disk.max(view) + 2 {
                let found = ranges.iter().find(|(c, _, n)| (*c..c + n).contains(&id)).map(|(c, h, _)| id - c + h);
                prop_assert_eq!(map.view_of(id), found);
                let found = ranges.iter().find(|(_, h, n)| (*h..h + n).contains(&id)).map(|(c, h, _)| id - h + c);
                prop_assert_eq!(map.disk_of(id), found);
            }
        }

        #[test]
        fn nothing_that_is_read_breaks_it(text in "[0-9:+ -]{0,40}", id: u32) {
            if let Ok(map) = IdMap::parse(&text) {
                prop_assert_eq!(map.view_of(id).map(|view| map.disk_of(view)), map.view_of(id).map(|_| Some(id)));
                prop_assert_eq!(IdMap::parse(&map.to_string()), Ok(map));
            }
        }
    }
}
