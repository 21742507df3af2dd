//! Compares an object of the view with the one that the lower layers show: metadata, and data where no mark tells.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use super::What;
use super::content::{Content, data_of};
use crate::base::ids::OVERFLOW_ID;
use crate::base::{Errno, Result};
use crate::format::capability::CAPABILITY;
use crate::layer::{DirPlace, Layer};
use crate::merge::{FoundLeaf, Layers};
use crate::sys::stat::{Kind, Stat};
use crate::sys::xattr;

/// Bytes that are compared at once.
const CHUNK: usize = 1 << 17;

/// What differs between two objects of one type that are no directories.
///
/// # Errors
/// What the layers' system calls say; `EACCES` where data must be compared that this process may not read.
pub(super) fn leaves(layers: &Layers, new: &FoundLeaf, old: &FoundLeaf) -> Result<Vec<What>> {
    let same = match new.stat.kind() {
        Kind::File => same_data(layers, new, old)?,
        Kind::Symlink => new.place.readlink()? == old.place.readlink()?,
        Kind::Char | Kind::Block => new.stat.rdev == old.stat.rdev,
        _ => true,
    };
    let mut what = if same { Vec::new() } else { vec![What::Data] };
    what.extend(attributes(&new.place.dir.layer, &new.stat, &old.stat));
    what.extend((new.stat.mtime != old.stat.mtime).then_some(What::Times));
    // The lookup has listed the attributes, and most objects have none but marks.
    let of = |leaf: &FoundLeaf| if leaf.plain { Ok(BTreeMap::new()) } else { of_leaf(leaf, xattrs) };
    what.extend((of(new)? != of(old)?).then_some(What::Xattrs));
    Ok(what)
}

/// What differs between two directories besides their names and times. Of each its place, its attributes, and whether it is
/// known to have no extended attribute that users see.
///
/// # Errors
/// What the layers' system calls say.
pub(super) fn dirs(new: (&DirPlace, &Stat, bool), old: (&DirPlace, &Stat, bool)) -> Result<Vec<What>> {
    if new.0.layer.carried.is_some() && [new.1.uid.0, new.1.gid.0].contains(&OVERFLOW_ID) {
        // It was only made for what it holds, by a daemon that could not name its owner.
        return Ok(Vec::new());
    }
    let mut what = attributes(&new.0.layer, new.1, old.1);
    // By the directory that holds it, which is open anyway.
    let of = |(place, _, plain): (&DirPlace, &Stat, bool)| match place.parent() {
        // A directory that another mount covers shows none.
        _ if plain || place.ino() == 0 => Ok(BTreeMap::new()),
        Some((parent, name)) => xattrs(&place.layer, parent.fd()?.as_fd(), name.as_c_str()),
        None => xattrs(&place.layer, place.fd()?.as_fd(), c"."),
    };
    what.extend((of(new)? != of(old)?).then_some(What::Xattrs));
    Ok(what)
}

/// What differs in the attributes of an object in `layer`.
fn attributes(layer: &Layer, new: &Stat, old: &Stat) -> Vec<What> {
    // Copied by a daemon that could not name the group, which is no change of the user's: the copy got the daemon's, and a
    // mode that gives it no more than everybody has.
    let regrouped = layer.carried.is_some() && new.uid == old.uid && new.gid != old.gid;
    let bits = if regrouped { 0o5707 } else { 0o7777 };
    let mode = |stat: &Stat| stat.mode & bits;
    let owner = |stat: &Stat| (stat.uid.0, if regrouped { new.gid.0 } else { stat.gid.0 });
    let mut what = Vec::new();
    // A symlink has no mode that counts.
    what.extend((mode(new) != mode(old) && new.kind() != Kind::Symlink).then(|| What::Mode(mode(old), mode(new))));
    what.extend((owner(new) != owner(old)).then(|| What::Owner(owner(old), owner(new))));
    what
}

fn of_leaf<T>(leaf: &FoundLeaf, f: impl FnOnce(&Layer, BorrowedFd<'_>, &CStr) -> Result<T>) -> Result<T> {
    let dir = &leaf.place.dir;
    f(&dir.layer, dir.fd()?.as_fd(), leaf.place.name.as_c_str())
}

/// The extended attributes of an object as users see them.
pub(super) fn xattrs(layer: &Layer, dir: BorrowedFd<'_>, name: &CStr) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for stored in xattr::list_at(dir, name)? {
        let Some(said) = layer.said(&stored) else { continue };
        if said == CAPABILITY.to_bytes() && layer.hides_capability(dir, name)? {
            continue;
        }
        let key = CString::new(stored).map_err(|_| Errno::EINVAL)?;
        match layer.xattr(dir, name, &key) {
            Ok(value) => _ = all.insert(said, value),
            // It was removed since, or cannot be had.
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(all)
}

/// Whether two files have the same bytes: the marks tell where the data was not copied.
fn same_data(layers: &Layers, new: &FoundLeaf, old: &FoundLeaf) -> Result<bool> {
    if new.stat.size != old.stat.size {
        return Ok(false);
    }
    let parted = new.meta.as_ref().is_some_and(|meta| meta.blocks.is_some());
    if new.meta.is_some() && !parted {
        let of = |leaf| data_of(layers, leaf).map(|(_, stat)| (stat.dev, stat.ino));
        if of(new)? == of(old)? {
            return Ok(true);
        }
    }
    let (one, two) = (Content::open(layers, new)?, Content::open(layers, old)?);
    same_bytes(&one, &two, new.stat.size)
}

/// Compares `size` bytes; holes of both are passed over.
fn same_bytes(one: &Content, two: &Content, size: u64) -> Result<bool> {
    let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        let next = [one, two].iter().filter_map(|file| file.data_from(at)).min();
        let Some(next) = next.filter(|next| *next < size) else { return Ok(true) };
        let len = usize::try_from(size - next).unwrap_or(CHUNK).min(CHUNK);
        let (Some(a), Some(b)) = (a.get_mut(..len), b.get_mut(..len)) else { return Err(Errno::EIO) };
        let read = (one.read_at(next, a)?, two.read_at(next, b)?);
        if read.0 != read.1 || a.get(..read.0) != b.get(..read.1) {
            return Ok(false);
        }
        if read.0 == 0 {
            // Both were cut meanwhile.
            return Ok(true);
        }
        at = next + read.0 as u64;
    }
    Ok(true)
}
