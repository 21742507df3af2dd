//! One entry of an archive: a ustar header, and PAX records for what that has no room for
//! ([pax](https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_03); attributes are
//! `SCHILY.xattr.*`, holes are told as GNU tar's
//! [sparse format 1.0](https://www.gnu.org/software/tar/manual/html_node/PAX-1.html) does).
//!
//! The bytes depend on what the objects show only: a hole is a part of 64 KiB that has no other bytes than 0, whatever the
//! file system has made of it. Layers of images have no holes, as
//! [their format](https://github.com/opencontainers/image-spec/blob/main/layer.md#file-attributes) says: what podman has
//! unpacked from such an archive it cannot write again.

use std::collections::BTreeMap;
use std::io::{self, Write};

use tar::{Builder, EntryType, Header};

use super::super::content::Content;
use crate::sys::stat::Time;

/// The size in bytes of the parts of a file that are holes, or are none.
const PART: usize = 1 << 16;
/// Bytes of a part that are looked at first: most parts have another one than 0 among them.
const PROBE: usize = 1 << 12;
/// The block of an archive, in bytes.
const BLOCK: u64 = 512;
/// What ends an archive.
const END: [u8; 1024] = [0; 1024];
/// Bytes in a header for a name, and for the target of a link.
const NAME: usize = 100;
/// The most that the header's fields can hold.
const MOST_ID: u32 = 0o7_777_777;
const MOST_SIZE: u64 = 0o77_777_777_777;

/// What all kinds of objects have.
pub(super) struct Meta<'a> {
    pub path: &'a [u8],
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: Time,
    pub xattrs: &'a BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an object is.
pub(super) enum Body<'a> {
    Dir,
    File(&'a Content, u64),
    /// An empty file that stands for a whiteout.
    Mark,
    Symlink(&'a [u8]),
    /// Another name of this path.
    Link(&'a [u8]),
    Fifo,
    Device {
        block: bool,
        rdev: u64,
    },
}

/// A file got another size, or another content, while it was read.
#[derive(Debug)]
pub(super) struct Changed;

impl std::fmt::Display for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it was changed while it was read")
    }
}

impl std::error::Error for Changed {}

/// An archive that is being written.
pub(super) struct Archive<W: Write> {
    out: W,
    until: Option<i64>,
    /// Holes are told, and take no room.
    sparse: bool,
    buffer: Vec<u8>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W, until: Option<i64>, sparse: bool) -> Self {
        Self { out, until, sparse, buffer: vec![0; PART] }
    }

    /// Ends the archive: one that was broken off has no such end.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&END)?;
        Ok(self.out)
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`Changed`] for a file that is not what it was; what reading it and the output say.
    pub fn add(&mut self, meta: &Meta<'_>, body: &Body<'_>) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut records = Records::default();
        header.set_mode(meta.mode & 0o7777);
        records.owner(&mut header, meta.owner);
        records.time(&mut header, self.clamped(meta.mtime));
        records.0.extend(meta.xattrs.iter().filter_map(|(key, value)| {
            let key = std::str::from_utf8(key).ok()?;
            Some((format!("SCHILY.xattr.{key}"), value.clone()))
        }));
        let parts = match body {
            Body::File(content, size) if self.sparse => self.parts_of(content, *size)?,
            Body::File(_, size) => Parts::whole(*size),
            _ => Parts::whole(0),
        };
        header.set_entry_type(kind_of(body));
        match body {
            Body::Symlink(target) | Body::Link(target) => records.target(&mut header, target),
            Body::Device { rdev, .. } => {
                header.set_device_major(libc::major(*rdev))?;
                header.set_device_minor(libc::minor(*rdev))?;
            }
            _ => {}
        }
        let map = match body {
            Body::File(_, size) if parts.has_holes => {
                records.sparse(&mut header, meta.path, *size);
                parts.map()
            }
            _ => {
                records.name(&mut header, meta.path);
                Vec::new()
            }
        };
        let len = map.len() as u64 + parts.data();
        records.size(&mut header, len);
        header.set_cksum();
        self.out.write_all(&records.encode()?)?;
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(&map)?;
        if let Body::File(content, _) = body {
            self.copy(content, &parts)?;
        }
        let rest = usize::try_from(len.next_multiple_of(BLOCK) - len).unwrap_or_default();
        self.out.write_all([0; BLOCK as usize].get(..rest).unwrap_or_default())
    }

    fn clamped(&self, time: Time) -> Time {
        match self.until {
            Some(until) if time.sec >= until => Time { sec: until, nsec: 0 },
            _ => time,
        }
    }

    /// Finds the holes.
    fn parts_of(&mut self, content: &Content, size: u64) -> io::Result<Parts> {
        let mut parts = Parts { ranges: Vec::new(), has_holes: false, size };
        if size < PART as u64 {
            return Ok(Parts::whole(size));
        }
        let mut at = 0;
        while at < size {
            let part = part_of(&mut self.buffer, size - at);
            let len = part.len() as u64;
            let (begin, rest) = part.split_at_mut(PROBE.min(part.len()));
            read(content, at, begin)?;
            // Of most parts no more need be read here.
            if !is_zero(begin) {
                parts.add(at, len);
                at += len;
                continue;
            }
            // Where the file system knows a hole there is nothing to be read.
            let next = content.data_from(at).map_or(size, |next| next.min(size)) / PART as u64 * PART as u64;
            if next > at {
                parts.has_holes = true;
                at = next;
                continue;
            }
            read(content, at + begin.len() as u64, rest)?;
            if is_zero(rest) {
                parts.has_holes = true;
            } else {
                parts.add(at, len);
            }
            at += len;
        }
        Ok(parts)
    }

    fn copy(&mut self, content: &Content, parts: &Parts) -> io::Result<()> {
        for &(start, len) in &parts.ranges {
            let mut done = 0;
            while done < len {
                let part = part_of(&mut self.buffer, len - done);
                read(content, start + done, part)?;
                done += part.len() as u64;
                self.out.write_all(part)?;
            }
        }
        Ok(())
    }
}

/// The beginning of a buffer, at most `left` bytes.
fn part_of(buffer: &mut [u8], left: u64) -> &mut [u8] {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    buffer.get_mut(..len).unwrap_or_default()
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn read(content: &Content, at: u64, part: &mut [u8]) -> io::Result<()> {
    let len = content.read_at(at, part)?;
    if len == part.len() { Ok(()) } else { Err(io::Error::other(Changed)) }
}

fn kind_of(body: &Body<'_>) -> EntryType {
    match body {
        Body::Dir => EntryType::Directory,
        Body::File(..) | Body::Mark => EntryType::Regular,
        Body::Symlink(_) => EntryType::Symlink,
        Body::Link(_) => EntryType::Link,
        Body::Fifo => EntryType::Fifo,
        Body::Device { block: true, .. } => EntryType::Block,
        Body::Device { block: false, .. } => EntryType::Char,
    }
}

/// The parts of a file that are in the archive.
struct Parts {
    /// Where each begins, and how long it is.
    ranges: Vec<(u64, u64)>,
    has_holes: bool,
    size: u64,
}

impl Parts {
    fn whole(size: u64) -> Self {
        Self { ranges: vec![(0, size)], has_holes: false, size }
    }

    fn add(&mut self, at: u64, len: u64) {
        match self.ranges.last_mut() {
            Some((start, known)) if *start + *known == at => *known += len,
            _ => self.ranges.push((at, len)),
        }
    }

    /// How many bytes they are.
    fn data(&self) -> u64 {
        self.ranges.iter().map(|(_, len)| len).sum()
    }

    /// The map, as it stands before the data.
    fn map(&self) -> Vec<u8> {
        // A file that ends with a hole has an empty part there.
        let end = (self.ranges.last().is_none_or(|(start, len)| start + len < self.size)).then_some((self.size, 0));
        let ranges: Vec<_> = self.ranges.iter().copied().chain(end).collect();
        let mut map = format!("{}\n", ranges.len());
        map.extend(ranges.iter().map(|(start, len)| format!("{start}\n{len}\n")));
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
        map
    }
}

/// The PAX records of an entry.
#[derive(Default)]
struct Records(Vec<(String, Vec<u8>)>);

impl Records {
    fn push(&mut self, key: &str, value: impl Into<Vec<u8>>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// The entry that holds them; empty: there are none.
    fn encode(&self) -> io::Result<Vec<u8>> {
        if self.0.is_empty() {
            return Ok(Vec::new());
        }
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions(self.0.iter().map(|(key, value)| (key.as_str(), value.as_slice())))?;
        let mut bytes = builder.into_inner()?;
        bytes.truncate(bytes.len().saturating_sub(END.len()));
        Ok(bytes)
    }

    fn owner(&mut self, header: &mut Header, (uid, gid): (u32, u32)) {
        for (key, id) in [("uid", uid), ("gid", gid)] {
            if id > MOST_ID {
                self.push(key, id.to_string());
            }
        }
        header.set_uid(uid.min(MOST_ID).into());
        header.set_gid(gid.min(MOST_ID).into());
    }

    fn time(&mut self, header: &mut Header, time: Time) {
        let seconds = u64::try_from(time.sec).ok().filter(|sec| *sec <= MOST_SIZE);
        if time.nsec != 0 || seconds.is_none() {
            self.push("mtime", decimal(time));
        }
        header.set_mtime(seconds.unwrap_or_default());
    }

    fn size(&mut self, header: &mut Header, size: u64) {
        if size > MOST_SIZE {
            self.push("size", size.to_string());
        }
        header.set_size(size.min(MOST_SIZE));
    }

    fn name(&mut self, header: &mut Header, path: &[u8]) {
        if path.len() > NAME {
            self.push("path", path);
        }
        if let Some(ustar) = header.as_ustar_mut() {
            fill(&mut ustar.name, path);
        }
    }

    fn target(&mut self, header: &mut Header, target: &[u8]) {
        if target.len() > NAME {
            self.push("linkpath", target);
        }
        if let Some(ustar) = header.as_ustar_mut() {
            fill(&mut ustar.linkname, target);
        }
    }

    fn sparse(&mut self, header: &mut Header, path: &[u8], size: u64) {
        self.push("GNU.sparse.major", "1");
        self.push("GNU.sparse.minor", "0");
        self.push("GNU.sparse.name", path);
        self.push("GNU.sparse.realsize", size.to_string());
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // What a program sees that does not know sparse files.
        if let Some(ustar) = header.as_ustar_mut() {
            fill(&mut ustar.name, &[b"GNUSparseFile.0/", name].concat());
        }
    }
}

fn fill(field: &mut [u8; NAME], bytes: &[u8]) {
    field.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
}

/// Seconds with their fraction. A time before 1970 counts down from it.
fn decimal(time: Time) -> String {
    let Time { sec, nsec } = time;
    let text = match (sec, nsec) {
        (_, 0) => return sec.to_string(),
        (..0, _) => format!("-{}.{:09}", (sec + 1).unsigned_abs(), 1_000_000_000 - nsec),
        _ => format!("{sec}.{nsec:09}"),
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_decimal_number() {
        for (sec, nsec, expected) in [
            (0, 0, "0"),
            (5, 500_000_000, "5.5"),
            (5, 7, "5.000000007"),
            (-1, 0, "-1"),
            (-1, 500_000_000, "-0.5"),
            (-2, 500_000_000, "-1.5"),
            (1 << 40, 1, "1099511627776.000000001"),
        ] {
            assert_eq!(decimal(Time { sec, nsec }), expected);
        }
    }

    #[test]
    fn a_map_tells_each_part_and_the_end() {
        let map = |ranges: &[(u64, u64)], size| {
            let parts = Parts { ranges: ranges.to_vec(), has_holes: true, size };
            let map = parts.map();
            assert_eq!(map.len() % 512, 0);
            String::from_utf8(map).unwrap().trim_end_matches('\0').to_owned()
        };
        assert_eq!(map(&[(0, 5)], 5), "1\n0\n5\n");
        assert_eq!(map(&[(65536, 5)], 100_000), "2\n65536\n5\n100000\n0\n");
        assert_eq!(map(&[], 7), "1\n7\n0\n");
    }
}
