//! Answers and listings as fuser takes them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{INodeNo, ReplyAttr, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyWrite, ReplyXattr};

use super::adapter::{Adapter, GENERATION};
use super::convert::{attr, bare, errno, kind};
use crate::base::{Errno, Result};
use crate::union::{Attr, DirSink, InodeId, Kind, ListedEntry};

pub(in crate::fuse) fn empty(reply: ReplyEmpty, done: Result<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

pub(in crate::fuse) fn attributes(reply: ReplyAttr, ttl: Duration, found: Result<Attr>) {
    match found {
        Ok(found) => reply.attr(&ttl, &attr(&found)),
        Err(error) => reply.error(errno(error)),
    }
}

pub(in crate::fuse) fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>>) {
    match value {
        Err(error) => reply.error(errno(error)),
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(errno(Errno::ERANGE)),
        Ok(value) => reply.data(&value),
    }
}

pub(in crate::fuse) fn written(reply: ReplyWrite, done: Result<u32>) {
    match done {
        Ok(bytes) => reply.written(bytes),
        Err(error) => reply.error(errno(error)),
    }
}

/// Entries with attributes; those that were taken are told to the one who reads ahead.
pub(in crate::fuse) struct Plus<'a> {
    pub reply: &'a mut ReplyDirectoryPlus,
    pub ttl: Duration,
    pub adapter: &'a Adapter,
    /// The directories among them.
    pub dirs: Vec<InodeId>,
}

impl DirSink for Plus<'_> {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        let name = OsStr::from_bytes(entry.name);
        let (found, ttl) = match &entry.attr {
            Some(found) => (attr(found), self.ttl.min(self.adapter.ttls().attr(found))),
            // Asked again when somebody wants to know.
            None => (bare(entry.id, entry.kind), Duration::ZERO),
        };
        let taken = !self.reply.add(INodeNo(entry.id.0), entry.cookie, name, &ttl, &found, GENERATION);
        if let (true, Some(attr)) = (taken, &entry.attr) {
            if attr.kind == Kind::Dir && !matches!(entry.name, b"." | b"..") {
                self.dirs.push(entry.id);
            } else if let Some(prefetch) = self.adapter.ahead.prefetch.get() {
                prefetch.listed(entry.id, attr);
            }
        }
        taken
    }
}

/// Entries without.
pub(in crate::fuse) struct Plain<'a>(pub &'a mut ReplyDirectory);

impl DirSink for Plain<'_> {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        !self.0.add(INodeNo(entry.id.0), entry.cookie, kind(entry.kind), OsStr::from_bytes(entry.name))
    }
}
