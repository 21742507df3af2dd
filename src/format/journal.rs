//! The journal of a supervised mount: what a daemon writes down in memory that outlives it, so that the next one can
//! answer for the inodes that the kernel holds.
//!
//! A record is its length (4 bytes, little-endian, of what follows), a tag and its fields. The last one may be torn: the
//! writer was killed. Both sides are the same program; the format is private to it.

use crate::base::{DiskGid, DiskUid, Name};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // Numbers of inodes, and names.
pub enum Record {
    /// The kernel's INIT request, as it came.
    Init(Vec<u8>),
    /// The key of the directory cookies.
    Cookies([u8; 16]),
    /// An inode of this type (`S_IFMT >> 12`) is live. It counts no lookup yet.
    Node { id: u64, kind: u8 },
    /// The inode has this name.
    Named { id: u64, parent: u64, name: Name },
    /// The inode has lost this name.
    Unnamed { id: u64, parent: u64, name: Name },
    /// The kernel has got this many more lookups of the inode.
    Held { id: u64, lookups: u64 },
    /// The kernel has given this many lookups back.
    Forgot { id: u64, lookups: u64 },
    /// The inode is gone.
    Dead { id: u64 },
    /// Where the inode's object is once no name leads to it. Written before the name goes.
    Detached { id: u64, at: Detached },
    /// An object of a layer that leads to the inode, although the layers do not say so: another name of a copied-up
    /// hard link.
    Key { id: u64, dev: u64, ino: u64 },
    /// What is known of the place of a name in this directory's listing, by the hash of the name; 0: the place of the
    /// hash.
    Place { id: u64, hash: u64, what: u64 },
    /// A rename is about to be published. `was`: the inode that stands at `from`.
    Moving { request: u64, was: u64, from: (u64, Name), to: (u64, Name) },
}

/// Where the object of an inode without a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As `stat(2)` has them.
pub enum Detached {
    /// In workdir, with this inode number; its data may be elsewhere.
    Upper { ino: u64, data: Option<InLower> },
    /// In a lower layer.
    Lower(InLower),
    /// It was an empty directory with these attributes.
    Dir { mode: u32, uid: DiskUid, gid: DiskGid, ino: u64 },
}

/// A place in a lower layer: the layer's position in the stack, counted from the lowest one, and the path below its root.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct InLower {
    pub layer: u32,
    pub path: Vec<Name>,
}

const INIT: u8 = 1;
const COOKIES: u8 = 2;
const NODE: u8 = 3;
const NAMED: u8 = 4;
const UNNAMED: u8 = 5;
const HELD: u8 = 6;
const FORGOT: u8 = 7;
const DEAD: u8 = 8;
const IN_UPPER: u8 = 9;
const IN_LOWER: u8 = 10;
const NO_DIR: u8 = 11;
const KEY: u8 = 12;
const MOVING: u8 = 13;
const PLACE: u8 = 14;

impl Record {
    /// Appends the record to `to`.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend([0; 4]);
        match self {
            Self::Init(bytes) => tagged(to, INIT, &[]).extend(bytes),
            Self::Cookies(key) => tagged(to, COOKIES, &[]).extend(key),
            Self::Node { id, kind } => tagged(to, NODE, &[*id]).push(*kind),
            Self::Named { id, parent, name } => put_name(tagged(to, NAMED, &[*id, *parent]), name),
            Self::Unnamed { id, parent, name } => put_name(tagged(to, UNNAMED, &[*id, *parent]), name),
            Self::Held { id, lookups } => numbers(to, HELD, &[*id, *lookups]),
            Self::Forgot { id, lookups } => numbers(to, FORGOT, &[*id, *lookups]),
            Self::Dead { id } => numbers(to, DEAD, &[*id]),
            Self::Key { id, dev, ino } => numbers(to, KEY, &[*id, *dev, *ino]),
            Self::Place { id, hash, what } => numbers(to, PLACE, &[*id, *hash, *what]),
            Self::Detached { id, at: Detached::Upper { ino, data } } => {
                let to = tagged(to, IN_UPPER, &[*id, *ino]);
                data.iter().for_each(|place| put_place(to, place));
            }
            Self::Detached { id, at: Detached::Lower(place) } => put_place(tagged(to, IN_LOWER, &[*id]), place),
            Self::Detached { id, at: Detached::Dir { mode, uid, gid, ino } } => {
                numbers(to, NO_DIR, &[*id, u64::from(*mode), u64::from(uid.0), u64::from(gid.0), *ino]);
            }
            Self::Moving { request, was, from, to: target } => {
                let to = tagged(to, MOVING, &[*request, *was, from.0, target.0]);
                put_name(to, &from.1);
                put_name(to, &target.1);
            }
        }
        let len = u32::try_from(to.len() - start - 4).unwrap_or(u32::MAX);
        if let Some(place) = to.get_mut(start..start + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }

    /// Takes the first record off `bytes`; `None` at the end, and before bytes that are no whole record.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut rest = *bytes;
        let len = u32::from_le_bytes(take(&mut rest)?);
        let (mut fields, rest) = rest.split_at_checked(len as usize)?;
        let record = Self::decode_fields(&mut fields).filter(|_| fields.is_empty())?;
        *bytes = rest;
        Some(record)
    }

    fn decode_fields(fields: &mut &[u8]) -> Option<Self> {
        let [tag] = take(fields)?;
        if tag == INIT {
            return Some(Self::Init(std::mem::take(fields).to_vec()));
        }
        if tag == COOKIES {
            return Some(Self::Cookies(take(fields)?));
        }
        let id = number(fields)?;
        Some(match tag {
            NODE => {
                let [kind] = take(fields)?;
                Self::Node { id, kind }
            }
            NAMED => Self::Named { id, parent: number(fields)?, name: take_name(fields)? },
            UNNAMED => Self::Unnamed { id, parent: number(fields)?, name: take_name(fields)? },
            HELD => Self::Held { id, lookups: number(fields)? },
            FORGOT => Self::Forgot { id, lookups: number(fields)? },
            DEAD => Self::Dead { id },
            KEY => Self::Key { id, dev: number(fields)?, ino: number(fields)? },
            PLACE => Self::Place { id, hash: number(fields)?, what: number(fields)? },
            IN_UPPER => {
                let ino = number(fields)?;
                let data = if fields.is_empty() { None } else { Some(take_place(fields)?) };
                Self::Detached { id, at: Detached::Upper { ino, data } }
            }
            IN_LOWER => Self::Detached { id, at: Detached::Lower(take_place(fields)?) },
            NO_DIR => {
                let mut small = || u32::try_from(number(fields)?).ok();
                let (mode, uid, gid) = (small()?, DiskUid(small()?), DiskGid(small()?));
                Self::Detached { id, at: Detached::Dir { mode, uid, gid, ino: number(fields)? } }
            }
            MOVING => {
                let (was, from, to) = (number(fields)?, number(fields)?, number(fields)?);
                let (from, to) = ((from, take_name(fields)?), (to, take_name(fields)?));
                Self::Moving { request: id, was, from, to }
            }
            _ => return None,
        })
    }
}

fn tagged<'a>(to: &'a mut Vec<u8>, tag: u8, numbers: &[u64]) -> &'a mut Vec<u8> {
    to.push(tag);
    numbers.iter().for_each(|number| to.extend(number.to_le_bytes()));
    to
}

fn numbers(to: &mut Vec<u8>, tag: u8, numbers: &[u64]) {
    tagged(to, tag, numbers);
}

fn put_name(to: &mut Vec<u8>, name: &Name) {
    // At most 255 bytes.
    to.push(u8::try_from(name.as_bytes().len()).unwrap_or(u8::MAX));
    to.extend(name.as_bytes());
}

fn put_place(to: &mut Vec<u8>, place: &InLower) {
    to.extend(place.layer.to_le_bytes());
    place.path.iter().for_each(|name| put_name(to, name));
}

/// The last of a record's fields.
fn take_place(fields: &mut &[u8]) -> Option<InLower> {
    let layer = u32::from_le_bytes(take(fields)?);
    let mut path = Vec::new();
    while !fields.is_empty() {
        path.push(take_name(fields)?);
    }
    Some(InLower { layer, path })
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*first)
}

fn number(from: &mut &[u8]) -> Option<u64> {
    take(from).map(u64::from_le_bytes)
}

fn take_name(from: &mut &[u8]) -> Option<Name> {
    let [len] = take(from)?;
    let (name, rest) = from.split_at_checked(len.into())?;
    *from = rest;
    Name::new(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    fn one_of_each() -> Vec<Record> {
        let (id, parent) = (u64::MAX - 5, 1);
        let place = InLower { layer: 499, path: vec![name("d"), name("f")] };
        vec![
            Record::Init(vec![1, 2, 3]),
            Record::Cookies([7; 16]),
            Record::Node { id, kind: 8 },
            Record::Named { id, parent, name: name(&"x".repeat(255)) },
            Record::Unnamed { id, parent, name: name("a\nb") },
            Record::Held { id, lookups: 3 },
            Record::Forgot { id, lookups: u64::MAX },
            Record::Dead { id },
            Record::Detached { id, at: Detached::Upper { ino: 9, data: None } },
            Record::Detached { id, at: Detached::Upper { ino: 9, data: Some(place.clone()) } },
            Record::Detached { id, at: Detached::Lower(place) },
            Record::Detached {
                id,
                at: Detached::Dir { mode: 0o40755, uid: DiskUid(1), gid: DiskGid(u32::MAX), ino: 77 },
            },
            Record::Key { id, dev: 1, ino: 2 },
            Record::Moving { request: 4, was: id, from: (1, name("a")), to: (2, name("b")) },
        ]
    }

    #[test]
    fn what_was_written_is_read_up_to_where_it_is_torn() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for record in one_of_each() {
            record.encode(&mut bytes);
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let mut rest = &bytes[..cut];
            let read: Vec<Record> = std::iter::from_fn(|| Record::decode(&mut rest)).collect();
            let whole = ends.iter().filter(|&&end| end <= cut).count() - 1;
            assert_eq!(read, one_of_each()[..whole], "cut at {cut}");
            assert_eq!(cut - rest.len(), ends[whole]);
        }
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        for bytes in [
            &[0, 0, 0, 0][..],
            &[1, 0, 0, 0, 99],
            &[2, 0, 0, 0, DEAD, 1],
            &[255; 64],
            &[10, 0, 0, 0, DEAD, 1, 0, 0, 0, 0, 0, 0, 0, 9],
        ] {
            assert_eq!(Record::decode(&mut &bytes[..]), None, "{bytes:?}");
        }
    }
}
