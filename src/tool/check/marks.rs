//! The marks of an object, whether or not a search reads them.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Check, Deeds, IGNORED, Node};
use crate::base::{Name, Result};
use crate::format::mark::{DEVICE_VALUE, Mark, Namespace, Opacity, WhiteoutStyle};
use crate::format::origin::Decoded;
use crate::format::{BlocksMark, Metacopy, Nlink, Origin, Protattr, Redirect};
use crate::layer::{DirPlace, read_dir_marks};
use crate::merge::DirPart;
use crate::sys::stat::Stat;
use crate::sys::xattr;

/// A mark that an object has, with its value.
type Set = Vec<(Mark, Vec<u8>)>;

const OWN_COUNT: Deeds = ("shows the file's own count", "shows the file's own count");
const EIO: Deeds = ("refuses it (EIO)", "reads it, but under verity");

impl Check<'_> {
    /// What a search takes of a directory's marks: whether it is opaque, and its redirect.
    pub(super) fn dir_marks(&self, node: &Node, name: &Name, ino: u64) -> Option<(bool, Option<Redirect>)> {
        let part = node.view.top()?;
        let place = part.place.child(name, ino);
        let marks = read_dir_marks(&place, part.place.fd().ok()?.as_fd(), name.as_c_str(), true).ok()?;
        Some((marks.opaque, marks.redirect))
    }

    /// The marks of the root, which say who wrote the layer.
    pub(super) fn root(&mut self, root: &Arc<DirPlace>) {
        let read = || -> Result<(Vec<Vec<u8>>, Set)> {
            let fd = root.fd()?;
            let keys = xattr::list_at(fd.as_fd(), c".")?;
            let mut set = Vec::new();
            for mark in [Mark::Uuid, Mark::Style, Mark::Redirect, Mark::Metacopy] {
                set.extend(xattr::get_at(fd.as_fd(), c".", root.layer.namespace.key(mark))?.map(|value| (mark, value)));
            }
            Ok((keys, set))
        };
        let (keys, set) = match read() {
            Ok(read) => read,
            Err(errno) => return self.trouble(b"", errno),
        };
        self.names(&keys, root.layer.namespace, b"");
        for (mark, value) in set {
            match mark {
                Mark::Uuid if value.len() != 16 => self.useless(b"", mark, "is no UUID of 16 bytes"),
                Mark::Style if WhiteoutStyle::parse(&value).is_none() => {
                    self.useless(b"", mark, "is none that is known")
                }
                Mark::Redirect | Mark::Metacopy => self.useless(b"", mark, "is on the root"),
                _ => {}
            }
        }
    }

    /// The marks of an object.
    pub(super) fn marks(&mut self, part: &DirPart, name: &Name, stat: &Stat, path: &[u8]) -> Result<()> {
        let fd = part.place.fd()?;
        let keys = xattr::list_at(fd.as_fd(), name.as_c_str())?;
        let own = part.place.layer.namespace;
        self.names(&keys, own, path);
        let mut set = Set::new();
        for &mark in Mark::ALL.iter().filter(|&&mark| has(&keys, own, mark)) {
            set.extend(xattr::get_at(fd.as_fd(), name.as_c_str(), own.key(mark))?.map(|value| (mark, value)));
        }
        let is_opaque = set.contains(&(Mark::Opaque, b"y".to_vec()));
        for (mark, value) in &set {
            let before = self.found.findings.len();
            if stat.is_dir() {
                self.of_dir((*mark, value), is_opaque, path);
            } else {
                self.of_leaf((*mark, value), (stat, part.xattr_whiteouts), path);
            }
            match mark {
                Mark::Origin => self.origin(value, path),
                Mark::Protattr if value.is_empty() || Protattr::parse(value).is_err() => {
                    self.useless(path, *mark, "has no flag that is known");
                }
                Mark::Upper | Mark::Uuid | Mark::Style | Mark::WhNames | Mark::On => {
                    self.useless(path, *mark, "is not where it counts");
                }
                _ => {}
            }
            if self.repairs && self.found.findings.len() > before && self.says_nothing(*mark, stat) {
                let removed = xattr::remove_at(fd.as_fd(), name.as_c_str(), own.key(*mark));
                self.repaired(path, removed);
            }
        }
        Ok(())
    }

    /// Whether a mark that was found wrong says nothing to anybody, as it is on an object of another type than it is made
    /// for, or is a link count that no file can have, in a layer without an index.
    fn says_nothing(&self, mark: Mark, stat: &Stat) -> bool {
        match mark {
            Mark::Metacopy | Mark::Whiteout | Mark::Device | Mark::Blocks if stat.is_dir() => true,
            Mark::Metacopy => !stat.is_file(),
            Mark::Redirect => !stat.is_file() && !stat.is_dir(),
            Mark::Opaque | Mark::Impure => !stat.is_dir(),
            Mark::Device => !stat.is_file() || stat.size != 0,
            Mark::Nlink => stat.is_dir() || self.layers.work.is_none(),
            _ => false,
        }
    }

    /// The object that one was copied from.
    fn origin(&mut self, value: &[u8], path: &[u8]) {
        let why = match Origin::decode(value) {
            _ if value.is_empty() => return,
            Err(_) => "is malformed",
            Ok(Decoded::Unknown) => "is in no form that is known",
            Ok(_) if Origin::is_upper(value) => "names an object of an upper layer",
            // It counts in an upper layer only.
            Ok(Decoded::Known(origin)) if self.level == 0 && !self.layers.stack.knows(&origin) => {
                "is on no file system of the layers"
            }
            Ok(_) => return,
        };
        self.useless(path, Mark::Origin, why);
    }

    /// Marks by their names alone.
    fn names(&mut self, keys: &[Vec<u8>], own: Namespace, path: &[u8]) {
        let both: Vec<_> =
            Mark::ALL.iter().filter(|&&mark| has(keys, own, mark) && has(keys, own.other(), mark)).collect();
        if let Some(mark) = both.first() {
            let what = format!("{} in both namespaces", mark.name());
            self.find("both-namespaces", path, what, ("reads its own first", "reads its own"));
        } else if let Some(mark) = Mark::ALL.iter().find(|&&mark| has(keys, own.other(), mark)) {
            let what = format!("{} in the other namespace than the layer's", mark.name());
            let deeds = ("reads it, but where the root says who wrote the layer", "does not look at it");
            self.find("other-namespace", path, what, deeds);
        }
        let unknown = keys.iter().filter_map(|key| key.strip_prefix(own.prefix())).find(|rest| {
            let is_escaped =
                [&b"overlay."[..], b"fuseoverlayfs.", b"containers."].iter().any(|by| rest.starts_with(by));
            !is_escaped && !Mark::ALL.iter().any(|mark| mark.name().as_bytes() == *rest)
        });
        if let Some(name) = unknown {
            let what = format!("an unknown mark {}", name.escape_ascii());
            self.find("unknown-mark", path, what, ("hides it, and ignores it", "hides it, and ignores it"));
        }
    }

    /// A mark that says nothing.
    fn useless(&mut self, path: &[u8], mark: Mark, why: &str) {
        self.find("useless-mark", path, format!("the mark {} {why}", mark.name()), IGNORED);
    }

    fn of_dir(&mut self, (mark, value): (Mark, &Vec<u8>), is_opaque: bool, path: &[u8]) {
        match mark {
            Mark::Opaque if Opacity::parse(Some(value)) == Opacity::None => {
                self.useless(path, mark, "is neither y nor x");
            }
            Mark::Impure if value != b"y" => self.useless(path, mark, "is not y"),
            Mark::Redirect if is_opaque => self.useless(path, mark, "is on an opaque directory"),
            Mark::Redirect if self.level >= self.layers.stack.last() && self.layers.stack.data_only.is_empty() => {
                let what = "a redirect in the last layer, which leads nowhere";
                self.find(
                    "dangling-redirect",
                    path,
                    what,
                    ("shows the directory without it", "shows the directory without it"),
                );
            }
            Mark::Metacopy | Mark::Whiteout | Mark::Nlink | Mark::Device | Mark::Blocks => {
                self.useless(path, mark, "is on a directory");
            }
            _ => {}
        }
    }

    fn of_leaf(&mut self, (mark, value): (Mark, &Vec<u8>), (stat, may_be_whiteout): (&Stat, bool), path: &[u8]) {
        match mark {
            Mark::Opaque | Mark::Impure => self.useless(path, mark, "is on no directory"),
            // With its data a file keeps its redirect.
            Mark::Redirect if !stat.is_file() => self.useless(path, mark, "is on no file"),
            Mark::Metacopy if !stat.is_file() => self.useless(path, mark, "is on no file"),
            Mark::Metacopy if BlocksMark::shift_in(value).is_none() && Metacopy::parse(value).is_err() => {
                self.find("bad-metacopy", path, "a malformed mark metacopy", EIO);
            }
            Mark::Whiteout if !may_be_whiteout => {
                let deeds = ("shows the file", "lists it, and does not find it");
                self.find("useless-mark", path, "the mark whiteout in a directory that has no opaque=x", deeds);
            }
            Mark::Whiteout => self.useless(path, mark, "is on an object with content"),
            // The index has a link, too.
            Mark::Nlink if stat.nlink == 1 && self.layers.work.is_some() => {
                self.useless(path, mark, "is on a file that is not in the index");
            }
            Mark::Nlink => self.nlink(value, stat, path),
            Mark::Device if value != DEVICE_VALUE || !stat.is_file() || stat.size != 0 => {
                self.useless(path, mark, "is on no empty file");
            }
            _ => {}
        }
    }

    /// A count of links that no file can have.
    pub(super) fn nlink(&mut self, value: &[u8], stat: &Stat, path: &[u8]) {
        match Nlink::parse(value) {
            Err(malformed) => {
                self.find("bad-nlink", path, format!("a link count that is none: {}", malformed.why), OWN_COUNT)
            }
            Ok(mark) if mark.links(stat.nlink, Some(u64::from(u32::MAX / 2))).is_none() => {
                let what = format!("a link count that no file can have ({})", value.escape_ascii());
                self.find("bad-nlink", path, what, OWN_COUNT);
            }
            Ok(_) => {}
        }
    }
}

fn has(keys: &[Vec<u8>], namespace: Namespace, mark: Mark) -> bool {
    let key: CString = namespace.key(mark).to_owned();
    keys.iter().any(|known| known.as_slice() == key.to_bytes())
}
