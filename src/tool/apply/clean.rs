//! Takes what was applied out of the upper layer. The lower layer shows it now, so that the view is the same before and
//! after each of these calls.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use super::reach::{Dirs, open_dir, split, stat_in};
use super::{At, Clean, Outcome, Refusal};
use crate::base::{Errno, Name, Result};
use crate::format::commits::Stand;
use crate::format::mark::Mark;
use crate::format::wh;
use crate::merge::Layers;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, SetTime, Time};
use crate::sys::{tree, xattr};
use crate::upper::remove;

pub(super) fn clean(layers: &Layers, dirs: &Dirs, what: &Clean) -> Outcome<()> {
    let has_wh = layers.root.upper.as_ref().is_some_and(|upper| upper.place.layer.wh_names);
    cleaned(layers, dirs, what, has_wh).map_err(|refusal| Refusal {
        reason: format!("it cannot be taken out of the upper layer: {}", refusal.reason),
        hint: "chattr -i or chmod u+rwx what is in the way there; then plyfs apply --resume",
        ..refusal
    })
}

fn cleaned(layers: &Layers, dirs: &Dirs, what: &Clean, has_wh: bool) -> Outcome<()> {
    match what {
        Clean::Name(path) => name(dirs, path, has_wh).at(path),
        Clean::Tree(path) => whole(dirs, path, has_wh).at(path),
        Clean::Dir(path) => empty(dirs, path).at(path),
        Clean::Stand => stand(layers, dirs).at(b""),
        Clean::Commit(number) => commit(dirs, *number).at(b""),
        Clean::Mode(path, to) => mode(dirs, path, *to).at(path),
        Clean::Times(path, times) => back(dirs, path, *times).at(path),
        Clean::Index(entry) => in_work(dirs, c"index", entry, Kind::File).at(entry),
        Clean::Record(record) => in_work(dirs, c"work/incompat/plyfs.blocks", record, Kind::File).at(record),
    }
}

fn unless_gone(done: Result<()>) -> Result<()> {
    if done == Err(Errno::ENOENT) { Ok(()) } else { done }
}

/// The directory of the upper layer that holds an object, and its name; `None`: it went before.
fn above(dirs: &Dirs, path: &[u8]) -> Result<Option<(OwnedFd, Name)>> {
    let Some((dir, name)) = split(path)? else { return Ok(None) };
    match open_dir(dirs.upper.as_fd(), dir) {
        Err(Errno::ENOENT) => Ok(None),
        dir => Ok(Some((dir?, name))),
    }
}

fn name(dirs: &Dirs, path: &[u8], has_wh: bool) -> Result<()> {
    let Some((dir, name)) = above(dirs, path)? else { return Ok(()) };
    // First: without the object it would hide the lower one.
    if has_wh && let Ok(hidden) = wh::whiteout_name(name.as_bytes()) {
        unless_gone(tree::unlink_at(dir.as_fd(), hidden.as_c_str()))?;
    }
    match stat_in(dir.as_fd(), name.as_c_str())? {
        Some(stat) if !stat.is_dir() => unless_gone(tree::unlink_at(dir.as_fd(), name.as_c_str())),
        _ => Ok(()),
    }
}

fn whole(dirs: &Dirs, path: &[u8], has_wh: bool) -> Result<()> {
    let Some((dir, name)) = above(dirs, path)? else { return Ok(()) };
    if has_wh && let Ok(hidden) = wh::whiteout_name(name.as_bytes()) {
        unless_gone(tree::unlink_at(dir.as_fd(), hidden.as_c_str()))?;
    }
    match stat_in(dir.as_fd(), name.as_c_str())? {
        Some(stat) => unless_gone(remove(dir.as_fd(), name.as_c_str(), stat.kind())),
        None => Ok(()),
    }
}

fn empty(dirs: &Dirs, path: &[u8]) -> Result<()> {
    let Some((dir, name)) = above(dirs, path)? else { return Ok(()) };
    match tree::rmdir_at(dir.as_fd(), name.as_c_str()) {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn mode(dirs: &Dirs, path: &[u8], mode: u32) -> Result<()> {
    let Some((dir, name)) = above(dirs, path)? else { return Ok(()) };
    unless_gone(tree::chmod_at(dir.as_fd(), name.as_c_str(), mode))
}

fn back(dirs: &Dirs, path: &[u8], times: [Time; 2]) -> Result<()> {
    match open_dir(dirs.upper.as_fd(), path) {
        Err(Errno::ENOENT) => Ok(()),
        dir => tree::utimens_fd(dir?.as_fd(), times.map(SetTime::At)),
    }
}

fn stand(layers: &Layers, dirs: &Dirs) -> Result<()> {
    let Some(upper) = &layers.root.upper else { return Ok(()) };
    let root = open_beneath(dirs.upper.as_fd(), c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mark = upper.place.layer.namespace.key(Mark::On);
    xattr::set_fd(root.as_fd(), mark, Stand::default().encode().as_bytes(), 0)
}

fn commit(dirs: &Dirs, number: u64) -> Result<()> {
    in_work(dirs, c"commits", number.to_string().as_bytes(), Kind::Dir)?;
    match tree::rmdir_at(dirs.work.as_fd(), c"commits") {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn in_work(dirs: &Dirs, dir: &CStr, name: &[u8], kind: Kind) -> Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    match open_beneath(dirs.work.as_fd(), dir, OFlags::PATH | OFlags::DIRECTORY) {
        Err(Errno::ENOENT) => Ok(()),
        dir => unless_gone(remove(dir?.as_fd(), &name, kind)),
    }
}
