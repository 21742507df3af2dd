//! What is in the work directory of an upper layer.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::{Check, Deeds, Finding, sorted};
use crate::base::{Errno, Name, Result};
use crate::format::mark::Mark;
use crate::format::origin::Decoded;
use crate::format::{Nlink, Origin, parse_index_name};
use crate::layer::{DirPlace, is_other_root};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Stat, stat_at};
use crate::sys::xattr;
use crate::tool::change::path_of;
use crate::upper::remove;
use crate::upper::taken::is_broken_off;

/// `upper/records.rs`
const RECORDS: &CStr = c"work/incompat/plyfs.blocks";
const REMOVED: Deeds = ("removes it at the next mount", "removes it at the next mount");
const REFUSED: Deeds = ("refuses index=on, and else goes on without an index", "refuses the mount");

impl Check<'_> {
    fn find_in_work(&mut self, kind: &'static str, path: &str, what: impl Into<String>, (plyfs, kernel): Deeds) {
        let (path, what) = (path_of(path.as_bytes()), what.into());
        self.found.findings.push(Finding { path, in_work: true, kind, what, plyfs, kernel, repaired: false });
    }

    /// Removes what the last finding is about.
    fn removed(&mut self, dir: &OwnedFd, name: &Name, path: &str) {
        if self.repairs {
            let removed = stat_at(dir.as_fd(), name.as_c_str())
                .and_then(|stat| remove(dir.as_fd(), name.as_c_str(), stat.kind()));
            self.repaired(path.as_bytes(), removed);
        }
    }

    /// Looks at the work directory.
    pub(super) fn work(&mut self, work: BorrowedFd<'_>, root: &Arc<DirPlace>) -> Result<()> {
        if let Some(dir) = open(work, c"work")? {
            for name in sorted(dir.as_fd())?.into_iter().filter(|name| name.as_bytes() != b"incompat") {
                let path = format!("work/{}", name.as_os_str().display());
                self.find_in_work("leftover", &path, "a leftover of a mount that did not end in order", REMOVED);
                self.removed(&dir, &name, &path);
            }
        }
        if let Some(incompat) = open(work, c"work/incompat")? {
            for name in sorted(incompat.as_fd())? {
                let (kind, what, hint): (_, _, Deeds) = match name.as_bytes() {
                    b"plyfs.blocks" => continue,
                    b"plyfs.apply" => (
                        "apply-pending",
                        "an apply that was broken off",
                        ("refuses it: plyfs apply --resume", "refuses it (EINVAL)"),
                    ),
                    b"volatile" => (
                        "volatile",
                        "a volatile mount did not end in order: data may be missing",
                        ("refuses it", "refuses it (EINVAL)"),
                    ),
                    _ => ("unknown-feature", "a feature that is not known", ("refuses it", "refuses it (EINVAL)")),
                };
                self.find_in_work(kind, &format!("work/incompat/{}", name.as_os_str().display()), what, hint);
            }
        }
        if is_broken_off(work, root.layer.namespace) {
            let deeds = ("goes back to what was before, at the next mount", "shows what is half done");
            self.find_in_work("undo-pending", "commits", "an undo or redo of paths that was broken off", deeds);
        }
        self.records(work)?;
        match open(work, c"index")? {
            Some(index) => self.index(&index, root),
            None => Ok(()),
        }
    }

    /// Records of blocks without a file, and files without a record.
    fn records(&mut self, work: BorrowedFd<'_>) -> Result<()> {
        let dir = open(work, RECORDS)?;
        let there = dir.map_or(Ok(Vec::new()), |dir| sorted(dir.as_fd()))?;
        for name in there.iter().filter(|name| !self.records.contains(*name)).cloned().collect::<Vec<_>>() {
            let path = format!("work/incompat/plyfs.blocks/{}", name.as_os_str().display());
            let deeds = ("keeps it, until plyfs complete", "refuses the mount (EINVAL)");
            self.find_in_work("idle-record", &path, "a record of blocks that belongs to no file", deeds);
        }
        let lost: Vec<Name> = self.records.iter().filter(|name| !there.contains(name)).cloned().collect();
        for name in lost {
            let path = format!("work/incompat/plyfs.blocks/{}", name.as_os_str().display());
            let deeds = ("refuses the file (EIO)", "cannot read such a file");
            self.find_in_work("no-record", &path, "a file that arrives by blocks has no such record", deeds);
        }
        Ok(())
    }

    fn index(&mut self, index: &OwnedFd, root: &Arc<DirPlace>) -> Result<()> {
        let namespace = root.layer.namespace;
        let upper = xattr::get_at(index.as_fd(), c".", namespace.key(Mark::Upper))?;
        let is_other = |value: &[u8], layer: &DirPlace| is_other_root(&layer.layer, layer.fd()?.as_fd(), value);
        if let Some(value) = upper
            && is_other(&value, root)?
        {
            self.find_in_work("other-index", "index", "an index of another upper layer", REFUSED);
        }
        let origin = xattr::get_at(root.fd()?.as_fd(), c".", namespace.key(Mark::Origin))?;
        let lower = self.layers.stack.lowers.first().map(|part| part.place.clone());
        if let (Some(value), Some(lower)) = (origin, lower)
            && is_other(&value, &lower)?
        {
            self.find_in_work("other-index", "index", "an index of other lower layers", REFUSED);
        }
        for name in sorted(index.as_fd())? {
            self.entry(index, &name, root)?;
        }
        Ok(())
    }

    /// One entry of the index.
    fn entry(&mut self, index: &OwnedFd, name: &Name, root: &Arc<DirPlace>) -> Result<()> {
        let path = format!("index/{}", name.as_os_str().display());
        if name.as_bytes().starts_with(b"#") {
            self.find_in_work("leftover", &path, "a leftover of a mount that did not end in order", REMOVED);
            self.removed(index, name, &path);
            return Ok(());
        }
        let Ok(origin) = parse_index_name(name.as_bytes()) else {
            self.find_in_work("foreign-entry", &path, "it was not made by an overlay", REFUSED);
            return Ok(());
        };
        let stat = stat_at(index.as_fd(), name.as_c_str())?;
        if stat.is_whiteout() {
            return Ok(());
        }
        if stat.is_dir() {
            let upper = xattr::get_at(index.as_fd(), name.as_c_str(), root.layer.namespace.key(Mark::Upper))?;
            if upper.is_none() {
                let deeds = ("refuses what it stands for (EIO)", "refuses what it stands for (EIO)");
                self.find_in_work("foreign-entry", &path, "a directory that stands for none", deeds);
            }
            return Ok(());
        }
        self.link(index, (name, &path), &stat, (root, &origin))
    }

    /// An entry that is a link of a file of the upper layer.
    fn link(
        &mut self,
        index: &OwnedFd,
        (name, path): (&Name, &str),
        stat: &Stat,
        (root, origin): (&Arc<DirPlace>, &[u8]),
    ) -> Result<()> {
        let namespace = root.layer.namespace;
        let marked = xattr::get_at(index.as_fd(), name.as_c_str(), namespace.key(Mark::Origin))?;
        let removed = ("removes it at the next mount", "removes it at the next mount, or refuses it");
        if marked.as_deref() != Some(origin) {
            self.find_in_work("foreign-entry", path, "its name and its origin are of two files", removed);
            return Ok(());
        }
        if let Ok(Decoded::Known(known)) = Origin::decode(origin)
            && self.layers.stack.is_gone(&known)
        {
            self.find_in_work("stale-entry", path, "its lower file is gone", removed);
            return Ok(());
        }
        if let Ok(Decoded::Known(known)) = Origin::decode(origin)
            && self.layers.stack.resolve(&known, true).is_some_and(|lower| lower.kind() != stat.kind())
        {
            self.find_in_work("foreign-entry", path, "it is of another type than its lower file", removed);
            return Ok(());
        }
        let Some(value) = xattr::get_at(index.as_fd(), name.as_c_str(), namespace.key(Mark::Nlink))? else {
            return Ok(());
        };
        match Nlink::parse(&value) {
            Ok(mark) if stat.nlink == 1 && mark.links(1, Some(u64::from(u32::MAX / 2))).is_none() => {
                self.find_in_work("orphan", path, "no name leads to it", removed);
                self.removed(index, name, path);
            }
            _ => {
                let before = self.found.findings.len();
                self.nlink(&value, stat, path.as_bytes());
                self.found.findings.iter_mut().skip(before).for_each(|found| found.in_work = true);
            }
        }
        Ok(())
    }
}

fn open(at: BorrowedFd<'_>, path: &CStr) -> Result<Option<OwnedFd>> {
    match open_beneath(at, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        dir => dir.map(Some),
    }
}
