//! A step of all file systems of a session: `STORE/NAME/step`, a line for each, with its number, that of the commit that is made
//! there, and the inode number of the layer that comes in the place of the upper one.
//!
//! All of them are in the store, which is one file system: it keeps the order in which names change.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::base::{Errno, Result};
use crate::sys::data;
use crate::sys::path::{OFlags, open_beneath, open_root};
use crate::sys::stat::stat_at;
use crate::sys::tree::{RenameFlags, create_at, rename_at, unlink_at};
use crate::union::{Exchange, Record};

const STEP: &CStr = c"step";
const NOTED: &CStr = c"step.new";

/// More bytes are no record: a session has some file systems, and a line has some numbers.
const MOST: usize = 1 << 16;

/// The record of a session, which is in this directory.
pub struct Steps(pub PathBuf);

fn unless_absent<T: Default>(done: Result<T>) -> Result<T> {
    if matches!(done, Err(Errno::ENOENT)) { Ok(T::default()) } else { done }
}

impl Record for Steps {
    fn note(&self, exchanges: &[Exchange]) -> Result<()> {
        let number = |upper: &Path| upper.parent()?.file_name()?.to_str()?.parse::<usize>().ok();
        let line = |one: &Exchange| {
            let number = number(&one.upper).ok_or(Errno::EINVAL)?;
            Ok(format!("{number} {} {}\n", one.commit, one.successor))
        };
        let text = exchanges.iter().map(line).collect::<Result<String>>()?;
        let dir = open_root(&self.0)?;
        unless_absent(unlink_at(dir.as_fd(), NOTED))?;
        let file = create_at(dir.as_fd(), NOTED, OFlags::WRONLY, 0o600)?;
        data::pwrite_all(file.as_fd(), text.as_bytes(), 0)?;
        data::fsync(file.as_fd())
    }

    fn begin(&self) -> Result<()> {
        let dir = open_root(&self.0)?;
        rename_at(dir.as_fd(), NOTED, dir.as_fd(), STEP, RenameFlags::empty())
    }

    fn end(&self) {
        let ended = open_root(&self.0).and_then(|dir| unless_absent(unlink_at(dir.as_fd(), STEP)));
        if let Err(errno) = ended {
            log::warn!("{}: the record of a step stays: {errno}", self.0.display());
        }
    }
}

/// Whether a step was broken off, or is being taken.
pub(super) fn is_there(session: &Path) -> bool {
    open_root(session).is_ok_and(|dir| stat_at(dir.as_fd(), STEP).is_ok())
}

/// Ends a step that was broken off: it is taken in the file systems in which it was not. The caller holds the session.
///
/// # Errors
/// What the system calls say; `EIO`: the record makes no sense.
pub fn finish_steps(session: &Path) -> Result<()> {
    let dir = open_root(session)?;
    let Some(file) = unless_absent(open_beneath(dir.as_fd(), STEP, OFlags::RDONLY).map(Some))? else { return Ok(()) };
    let mut bytes = vec![0; MOST];
    let read = data::pread_full(file.as_fd(), &mut bytes, 0)?;
    let text = bytes.get(..read).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or(Errno::EIO)?;
    for line in text.lines() {
        let mut words = line.split(' ').map(|word| word.parse::<u64>().map_err(|_| Errno::EIO));
        let mut number = || words.next().unwrap_or(Err(Errno::EIO));
        finish_one(dir.as_fd(), number()?, number()?, number()?)?;
    }
    unlink_at(dir.as_fd(), STEP)
}

/// Puts the layer with inode number `successor` in the place of an upper layer, where it still waits for that.
fn finish_one(session: BorrowedFd<'_>, place: u64, commit: u64, successor: u64) -> Result<()> {
    let open = |path: String| {
        let path = CString::new(path).map_err(|_| Errno::EIO)?;
        open_beneath(session, &path, OFlags::RDONLY | OFlags::DIRECTORY)
    };
    let at = open(place.to_string())?;
    if stat_at(at.as_fd(), c"upper")?.ino == successor {
        return Ok(());
    }
    let waits = open(format!("{place}/work/commits/{commit}"));
    match waits.and_then(|waits| Ok((stat_at(waits.as_fd(), c"layer")?.ino, waits))) {
        Ok((ino, waits)) if ino == successor => {
            rename_at(at.as_fd(), c"upper", waits.as_fd(), c"layer", RenameFlags::EXCHANGE)?;
            data::fsync(waits.as_fd())?;
            data::fsync(at.as_fd())
        }
        // Steps have been taken since.
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
