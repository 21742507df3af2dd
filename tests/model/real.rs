//! A history on a real file system.

use std::os::fd::OwnedFd;

use rustix::fs::{self as sys, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec};
use rustix::io::Errno;

use super::{How, Known, Outcome, Room, SLOTS, Step, Subject, content};
use crate::common::tree::{pwrite_all, read_all};
use crate::common::{Tree, View, Walk};

/// A mounted tree and the descriptors that the history holds in it.
pub struct Real {
    tree: Tree,
    held: [Option<OwnedFd>; SLOTS],
}

impl Real {
    /// On this tree.
    pub fn new(tree: &Tree) -> Self {
        Real { tree: tree.clone(), held: Default::default() }
    }

    fn held(&self, slot: usize) -> Result<&OwnedFd, Errno> {
        self.held[slot].as_ref().ok_or(Errno::BADF)
    }
}

/// The flags that fallocate(2) takes for it.
fn flags(room: Room) -> FallocateFlags {
    match room {
        Room::Extend => FallocateFlags::empty(),
        Room::KeepSize => FallocateFlags::KEEP_SIZE,
        Room::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Room::Zero => FallocateFlags::ZERO_RANGE,
    }
}

impl Subject for Real {
    fn apply(&mut self, step: &Step) -> Outcome {
        let t = &self.tree;
        let none = |()| Vec::new();
        match step {
            Step::Nothing | Step::Compare => Ok(Vec::new()),
            Step::Create(p, mode) => t.create(p, *mode).map(|_| Vec::new()),
            Step::Mkdir(p, mode) => t.mkdir(p, *mode).map(none),
            Step::Mkfifo(p) => t.mknod(p, FileType::Fifo, 0o644, 0).map(none),
            Step::Symlink(p) => t.symlink("a/b", p).map(none),
            Step::Link(from, to) => t.link(from, to).map(none),
            Step::Unlink(p) => t.unlink(p).map(none),
            Step::Rmdir(p) => t.rmdir(p).map(none),
            Step::Rename(from, to, how) => {
                let flags = match how {
                    How::Plain => RenameFlags::empty(),
                    How::NoReplace => RenameFlags::NOREPLACE,
                    How::Exchange => RenameFlags::EXCHANGE,
                };
                t.rename_with(from, to, flags).map(none)
            }
            Step::Write(p, at, len, seed) => t.pwrite(p, *at as u64, &content(*seed, *len)).map(none),
            Step::Append(p, len, seed) => t.append(p, content(*seed, *len)).map(none),
            Step::Truncate(p, size) => t.truncate(p, *size as u64).map(none),
            Step::OpenTruncate(p) => t.open(p, OFlags::WRONLY | OFlags::TRUNC).map(|_| Vec::new()),
            Step::Fallocate(p, room, at, len) => {
                sys::fallocate(t.open(p, OFlags::RDWR)?, flags(*room), *at as u64, *len as u64).map(none)
            }
            Step::Read(p) => t.read(p),
            Step::List(p) => t.names(p).map(|n| n.join(" ").into_bytes()),
            Step::Chmod(p, mode) => t.chmod(p, *mode).map(none),
            Step::Chown(p, uid, gid) => t.chown(p, *uid, *gid).map(none),
            Step::Utimes(p, sec) => t.utimes(p, Timespec { tv_sec: *sec, tv_nsec: 7 }).map(none),
            Step::SetXattr(p, name, seed) => t.set_xattr(p, name, &content(*seed, 9)).map(none),
            Step::RemoveXattr(p, name) => t.remove_xattr(p, name).map(none),
            Step::Hold(slot, p, write) => {
                let fd = t.open(p, if *write { OFlags::RDWR } else { OFlags::RDONLY })?;
                self.held[*slot] = Some(fd);
                Ok(Vec::new())
            }
            Step::Drop(slot) => {
                self.held[*slot] = None;
                Ok(Vec::new())
            }
            Step::HeldRead(slot) => read_all(self.held(*slot)?),
            Step::HeldWrite(slot, at, len, seed) => {
                pwrite_all(self.held(*slot)?, &content(*seed, *len), *at as u64).map(none)
            }
            Step::HeldTruncate(slot, size) => sys::ftruncate(self.held(*slot)?, *size as u64).map(none),
            Step::HeldChmod(slot, mode) => sys::fchmod(self.held(*slot)?, Mode::from_raw_mode(*mode)).map(none),
            Step::HeldStat(slot) => {
                let st = sys::fstat(self.held(*slot)?)?;
                Ok(format!("size {} mode {:o} links {}", st.st_size, st.st_mode & 0o7777, st.st_nlink).into_bytes())
            }
        }
    }

    fn known(&self) -> Known {
        fn walk(tree: &Tree, dir: &str, known: &mut Known) {
            for name in tree.names(dir).unwrap_or_default() {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                let Ok(st) = tree.stat(&path) else { continue };
                let kind = FileType::from_raw_mode(st.st_mode);
                known.add(&path, kind);
                if kind == FileType::Directory {
                    walk(tree, &path, known);
                }
            }
        }
        let mut known = Known::default();
        known.add("", FileType::Directory);
        walk(&self.tree, "", &mut known);
        known.sort();
        known
    }

    fn view(&self, walk: Walk) -> View {
        View::of(&self.tree, walk)
    }
}
