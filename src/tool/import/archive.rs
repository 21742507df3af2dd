//! Reads an archive, entry by entry: ustar, with what PAX and GNU tar have added for long names, large numbers, attributes and
//! holes. Nothing of what it says is believed, and what it says of itself takes a bounded room.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::sys::stat::Time;

/// The block of an archive, in bytes.
pub(super) const BLOCK: usize = 512;
/// The most bytes that an entry may have beside its content.
const MOST_RECORDS: u64 = 1 << 20;
/// The most parts of a file with holes.
const MOST_PARTS: u64 = 1 << 20;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// One entry. Its content follows it in the archive.
#[derive(Debug)]
pub(super) struct Entry {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: EntryType,
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: Time,
    pub rdev: (u32, u32),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The size of the file that comes out, and where its parts are in it.
    pub size: u64,
    pub parts: Vec<(u64, u64)>,
    /// Bytes of the content that were not read, and those that fill its last block.
    left: u64,
    padding: u64,
}

impl Entry {
    /// Bytes up to the next entry.
    pub fn rest(&self) -> u64 {
        self.left.saturating_add(self.padding)
    }
}

pub(super) fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// An archive that is being read.
pub(super) struct Archive<R> {
    from: R,
}

impl<R: Read> Archive<R> {
    pub fn new(from: R) -> Self {
        Self { from }
    }

    pub fn get_mut(&mut self) -> &mut R {
        &mut self.from
    }

    pub fn into_inner(self) -> R {
        self.from
    }

    /// The next entry; `None` at the end. The content of the one before must have been read or passed over.
    ///
    /// # Errors
    /// What is no archive; what reading says.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let (mut records, mut long_name, mut long_link) = (BTreeMap::new(), None, None);
        let is_begun = |records: &BTreeMap<_, _>, long: &Option<Vec<u8>>| !records.is_empty() || long.is_some();
        loop {
            let Some(header) = self.header()? else {
                return if is_begun(&records, &long_name) {
                    Err(wrong("the archive ends too early"))
                } else {
                    Ok(None)
                };
            };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XHeader => records = pax(&self.small(size)?)?,
                EntryType::XGlobalHeader => drop(self.small(size)?),
                EntryType::GNULongName => long_name = Some(ended(self.small(size)?)),
                EntryType::GNULongLink => long_link = Some(ended(self.small(size)?)),
                EntryType::GNUSparse => {
                    return Err(wrong("a file in GNU tar's old sparse format (tar --format=posix)"));
                }
                kind => return self.entry(&header, kind, records, (long_name, long_link)).map(Some),
            }
        }
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut done = 0;
        while let Some(rest) = block.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest)? {
                // Some programs leave the end out.
                0 if done == 0 => return Ok(None),
                0 => return Err(wrong("it is no tar archive, or ends too early")),
                len => done += len,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if (148..156).contains(&at) { b' ' } else { *byte }))
            .sum();
        if header.cksum().ok() != Some(sum) { Err(wrong("it is no archive")) } else { Ok(Some(header)) }
    }

    /// A small content, with what fills its last block.
    fn small(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MOST_RECORDS {
            return Err(wrong("the records of an entry are too large"));
        }
        let mut bytes = vec![0; usize::try_from(size.next_multiple_of(BLOCK as u64)).unwrap_or_default()];
        self.from.read_exact(&mut bytes)?;
        bytes.truncate(usize::try_from(size).unwrap_or_default());
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        mut records: BTreeMap<Vec<u8>, Vec<u8>>,
        (long_name, long_link): (Option<Vec<u8>>, Option<Vec<u8>>),
    ) -> io::Result<Entry> {
        let mut take = |key: &str| records.remove(key.as_bytes());
        let number = |value: Option<Vec<u8>>, other: io::Result<u64>| match value {
            Some(value) => {
                std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| wrong("a number"))
            }
            None => other,
        };
        let len = number(take("size"), header.entry_size())?;
        let owner = (number(take("uid"), header.uid())?, number(take("gid"), header.gid())?);
        let mtime = match take("mtime") {
            Some(value) => time(&value).ok_or_else(|| wrong("a time"))?,
            None => Time { sec: i64::try_from(header.mtime()?).unwrap_or(i64::MAX), nsec: 0 },
        };
        let name = take("path").or(long_name).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = take("linkpath").or(long_link);
        let link = link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
        let sparse = (take("GNU.sparse.major"), take("GNU.sparse.minor"));
        let (path, size) = match sparse {
            (Some(_), _) => {
                let size = number(take("GNU.sparse.realsize"), Err(wrong("a sparse file without a size")))?;
                (take("GNU.sparse.name").unwrap_or(name), size)
            }
            _ => (name, len),
        };
        use EntryType::{Block, Char, Directory, Fifo, Link, Symlink};
        // Whatever size these have, nothing follows them.
        let left = if matches!(kind, Link | Symlink | Char | Block | Directory | Fifo) { 0 } else { len };
        let is_dir = path.ends_with(b"/");
        let rdev = match kind {
            Char | Block => (header.device_major()?.unwrap_or_default(), header.device_minor()?.unwrap_or_default()),
            // Elsewhere the fields may be empty.
            _ => (0, 0),
        };
        let mut entry = Entry {
            path,
            link,
            // Old programs tell a directory by its name alone.
            kind: if kind == EntryType::Regular && is_dir { Directory } else { kind },
            mode: header.mode()? & 0o7777,
            owner,
            mtime,
            rdev,
            xattrs: BTreeMap::new(),
            size,
            parts: vec![(0, len)],
            left,
            padding: left.next_multiple_of(BLOCK as u64) - left,
        };
        match sparse {
            (None, None) if !records.keys().any(|key| key.starts_with(b"GNU.sparse.")) => {}
            (Some(major), Some(minor)) if major == b"1" && minor == b"0" => self.map(&mut entry)?,
            _ => return Err(wrong("a file in an old sparse format (tar --sparse-version=1.0)")),
        }
        let xattr = |(key, value): (Vec<u8>, Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value));
        entry.xattrs = records.into_iter().filter_map(xattr).collect();
        Ok(entry)
    }

    /// Reads where the parts of a file are, which stands before them.
    fn map(&mut self, entry: &mut Entry) -> io::Result<()> {
        let (mut block, mut at) = ([0; BLOCK], BLOCK);
        let mut number = |archive: &mut Self, entry: &mut Entry| {
            let mut value: u64 = 0;
            loop {
                if at == BLOCK {
                    archive.exact(entry, &mut block)?;
                    at = 0;
                }
                let byte = block.get(at).copied().unwrap_or_default();
                at += 1;
                match byte {
                    b'\n' => return Ok::<u64, io::Error>(value),
                    b'0'..=b'9' => {
                        let more = value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0')));
                        value = more.ok_or_else(|| wrong("a map of holes"))?;
                    }
                    _ => return Err(wrong("a map of holes")),
                }
            }
        };
        let count = number(self, entry)?;
        if count > MOST_PARTS {
            return Err(wrong("a map of too many holes"));
        }
        let (mut parts, mut end) = (Vec::new(), 0);
        for _ in 0..count {
            let (start, len) = (number(self, entry)?, number(self, entry)?);
            let next = start.checked_add(len).filter(|next| start >= end && *next <= entry.size);
            end = next.ok_or_else(|| wrong("a map of holes"))?;
            parts.push((start, len));
        }
        if parts.iter().map(|(_, len)| len).sum::<u64>() != entry.left {
            return Err(wrong("a map of holes that does not fit"));
        }
        entry.parts = parts;
        Ok(())
    }

    fn exact(&mut self, entry: &mut Entry, buffer: &mut [u8]) -> io::Result<()> {
        entry.left = entry.left.checked_sub(buffer.len() as u64).ok_or_else(|| wrong("a content that is too short"))?;
        self.from.read_exact(buffer)
    }

    /// Reads the next bytes of the content; fewer than there is room for at its end.
    ///
    /// # Errors
    /// What reading says.
    pub fn content(&mut self, entry: &mut Entry, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(entry.left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..len).unwrap_or_default();
        self.exact(entry, part)?;
        Ok(len)
    }

    /// Passes over what is left of the content.
    ///
    /// # Errors
    /// What reading says.
    pub fn pass(&mut self, entry: &Entry) -> io::Result<()> {
        let left = entry.left.checked_add(entry.padding).ok_or_else(|| wrong("a size"))?;
        let passed = io::copy(&mut (&mut self.from).take(left), &mut io::sink())?;
        if passed == left { Ok(()) } else { Err(wrong("the archive ends too early")) }
    }
}

/// A name without the NUL that ends it.
fn ended(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
    name
}

/// PAX records: `LENGTH KEY=VALUE\n`, where the value may have any bytes.
fn pax(mut bytes: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let record = || {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let len: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
            let (record, rest) = bytes.split_at_checked(len)?;
            let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            Some((pair.get(..equals)?.to_vec(), pair.get(equals + 1..)?.to_vec(), rest))
        };
        let (key, value, rest) = record().ok_or_else(|| wrong("PAX records that make no sense"))?;
        records.insert(key, value);
        bytes = rest;
    }
    Ok(records)
}

/// A decimal number of seconds.
fn time(value: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(value).ok()?;
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let sec: i64 = if whole.is_empty() { 0 } else { whole.parse().ok().filter(|sec| *sec >= 0)? };
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nsec: u32 = format!("{part:0<9}").get(..9)?.parse().ok()?;
    Some(match (is_negative, nsec) {
        (false, _) => Time { sec, nsec },
        (true, 0) => Time { sec: -sec, nsec: 0 },
        (true, _) => Time { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("5.5", Some((5, 500_000_000))),
            ("5.0000000079", Some((5, 7))),
            ("-1", Some((-1, 0))),
            ("-0.5", Some((-1, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("x", None),
            ("1.x", None),
            ("--1", None),
        ] {
            assert_eq!(time(text.as_bytes()).map(|time| (time.sec, time.nsec)), expected, "{text}");
        }
    }

    #[test]
    fn records_have_any_bytes() {
        let records = pax(b"9 a=b\nc=\n6 x=y\n").unwrap();
        assert_eq!(&records[&b"a"[..]], b"b\nc=");
        assert_eq!(&records[&b"x"[..]], b"y");
        for broken in [&b"7 x=y\n"[..], b"x", b"3 x", b"6 xyz\n", b"99999999999999999999 a=b\n", b"0 a=b\n"] {
            assert!(pax(broken).is_err(), "{broken:?}");
        }
    }
}
