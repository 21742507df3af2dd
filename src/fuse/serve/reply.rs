//! Answers and listings as fuser takes them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    Errno as FuseErrno, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::convert::{attr, bare, errno, kind, negative};
use crate::base::config::Timeouts;
use crate::base::{Errno, Result};
use crate::fuse::ahead::Listed;
use crate::union::{Attr, DirSink, Entry, Kind, ListedEntry};

/// Never the backing inode's: copy-up would make the kernel's inode bad.
pub const GENERATION: Generation = Generation(0);

/// What a request is answered by; instead of its own answer each takes an error.
pub trait Reply: Send + 'static {
    fn error(self, errno: FuseErrno);
}

macro_rules! replies {
    ($($reply:ident)*) => { $(impl Reply for $reply {
        fn error(self, errno: FuseErrno) {
            $reply::error(self, errno);
        }
    })* };
}

replies! {
    ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyDirectoryPlus ReplyEmpty ReplyEntry ReplyIoctl ReplyLseek ReplyOpen
    ReplyStatfs ReplyWrite ReplyXattr
}

/// Answers a request: by what was found or done, as `tell` says it, or by the error.
pub fn answer<R: Reply, T>(reply: R, result: Result<T>, tell: impl FnOnce(R, T)) {
    match result {
        Ok(value) => tell(reply, value),
        Err(error) => reply.error(errno(error)),
    }
}

pub fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

pub fn written<N: TryInto<u32>>(reply: ReplyWrite, bytes: N) {
    reply.written(bytes.try_into().unwrap_or(u32::MAX));
}

/// The value of an attribute or their list, or how long it is where the caller has no room (`size` 0).
pub fn xattr(size: u32) -> impl FnOnce(ReplyXattr, Vec<u8>) {
    move |reply, value| match size {
        0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        _ if value.len() > size as usize => reply.error(errno(Errno::ERANGE)),
        _ => reply.data(&value),
    }
}

/// How long the kernel may keep what it is told.
#[derive(Debug, Clone, Copy)]
pub struct Ttls {
    pub timeouts: Timeouts,
    /// What the kernel writes by itself clears set-user-id bits, and it does not see that.
    pub passthrough: bool,
}

impl Ttls {
    /// For attributes with this mode.
    pub fn attr(&self, shown: &Attr) -> Duration {
        let unseen = self.passthrough && has_ids(shown.mode) && shown.kind == Kind::File;
        if unseen { Duration::ZERO } else { self.timeouts.attr }
    }

    /// Answers with an entry.
    pub fn entry(&self, reply: ReplyEntry, entry: Entry) {
        reply.entry_with_ttls(&self.attr(&entry.attr), &self.timeouts.entry, &attr(&entry.attr), GENERATION);
    }

    /// Answers with an entry, or that there is none, which the kernel may remember.
    pub fn found(&self, reply: ReplyEntry, found: Option<Entry>) {
        match found {
            Some(entry) => self.entry(reply, entry),
            None if self.timeouts.negative.is_zero() => reply.error(errno(Errno::ENOENT)),
            None => reply.entry_with_ttls(&Duration::ZERO, &self.timeouts.negative, &negative(), GENERATION),
        }
    }
}

/// Whether a mode makes who runs a file somebody else.
pub fn has_ids(mode: u32) -> bool {
    mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

/// Entries with attributes; what the program is given is told to who reads ahead.
pub struct Plus<'a> {
    pub reply: ReplyDirectoryPlus,
    pub ttls: Ttls,
    pub listed: Listed<'a>,
}

impl DirSink for Plus<'_> {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        let (found, ttl) = match &entry.attr {
            Some(found) => (attr(found), self.ttls.timeouts.entry.min(self.ttls.attr(found))),
            // Asked again when somebody wants to know.
            None => (bare(entry.id, entry.kind), Duration::ZERO),
        };
        let name = OsStr::from_bytes(entry.name);
        let taken = !self.reply.add(INodeNo(entry.id.0), entry.cookie, name, &ttl, &found, GENERATION);
        if taken {
            self.listed.add(entry);
        }
        taken
    }
}

/// Entries without.
pub struct Plain<'a>(pub &'a mut ReplyDirectory);

impl DirSink for Plain<'_> {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        !self.0.add(INodeNo(entry.id.0), entry.cookie, kind(entry.kind), OsStr::from_bytes(entry.name))
    }
}
