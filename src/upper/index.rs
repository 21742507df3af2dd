//! Writing the index of copied-up hard links, and taking it over from an earlier mount.
//!
//! The checks and the clean-up are those of the kernel's OverlayFS (`Documentation/filesystems/overlayfs.rst`, "inode
//! index").

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::inherit::{disinherit, make_private};
use super::removal::{children, remove};
use crate::base::{Errno, Result};
use crate::format::mark::{Mark, Namespace};
use crate::format::{Base, Decoded, Nlink, Origin, parse_index_name};
use crate::layer::{Layer, index_of};
use crate::sys::handle::handle_at;
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, stat_at};
use crate::sys::{tree, xattr};

const INDEX: &CStr = c"index";

/// Why there can be no index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexError {
    /// The upper layer was indexed over another lower layer.
    OtherLower,
    /// The index belongs to another upper layer.
    OtherUpper,
    /// No overlay has made this entry.
    Foreign(String),
    /// The marks of the index are in the other namespace (`userxattr`).
    OtherNamespace,
    /// The file system of the lower or of the upper layer has no lasting file handles.
    NoHandles,
    /// A system call failed.
    Failed(Errno),
}

impl From<Errno> for IndexError {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

/// The index, opened.
pub struct Index {
    /// The directory.
    pub dir: OwnedFd,
    /// The upper layer was used with an index that no longer exists.
    pub lost: bool,
}

/// The layers that an index must belong to.
pub struct Belongings<'a> {
    /// `workdir`
    pub workdir: BorrowedFd<'a>,
    /// The upper layer and its root.
    pub upper: (&'a Layer, BorrowedFd<'a>),
    /// The topmost lower layer and its root.
    pub lower: (&'a Layer, BorrowedFd<'a>),
    /// The namespace of the marks.
    pub namespace: Namespace,
    /// Whether a mark names the root of a lower layer that is not the topmost any more: another one was added.
    pub is_lower: &'a dyn Fn(&[u8]) -> bool,
    /// Whether a lower object is known to be gone.
    pub is_gone: &'a dyn Fn(&Origin) -> bool,
}

/// Whether two marks name one object.
fn agree(one: &[u8], other: &[u8]) -> bool {
    matches!((Origin::decode(one), Origin::decode(other)), (Ok(Decoded::Known(one)), Ok(Decoded::Known(other)))
        if one.agrees_with(&other))
}

impl Belongings<'_> {
    /// Makes `workdir/index`, or takes over one that belongs to these layers. Entries that earlier mounts have left
    /// without use are removed. Nothing is changed before all entries are checked.
    ///
    /// # Errors
    /// [`IndexError`]
    pub fn open(&self) -> std::result::Result<Index, IndexError> {
        let (lower, upper) = (self.lower_mark()?, self.upper_mark()?);
        let root = self.upper.1;
        let origin_known = self.verify(root, Mark::Origin, &lower, IndexError::OtherLower)?;
        let mut lost = false;
        match tree::mkdir_at(self.workdir, INDEX, 0o700) {
            Ok(()) => lost = origin_known,
            // The kernel leaves it with mode 0000, which its owner cannot look into without privilege.
            Err(Errno::EEXIST) => tree::chmod_at(self.workdir, INDEX, 0o700)?,
            Err(errno) => return Err(errno.into()),
        }
        let index = open_beneath(self.workdir, INDEX, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let at = index.as_fd();
        // Old kernels kept the upper layer's mark under this key.
        if let Some(old) = xattr::get_at(at, c".", self.key(Mark::Origin))?.filter(|old| !old.is_empty())
            && !agree(&old, &upper)
        {
            return Err(IndexError::OtherUpper);
        }
        let upper_known = self.verify(at, Mark::Upper, &upper, IndexError::OtherUpper)?;
        let left = self.check(at)?;
        make_private(at, self.workdir)?;
        disinherit(at, root)?;
        if !origin_known {
            xattr::set_at(root, c".", self.key(Mark::Origin), &lower, 0)?;
        }
        if !upper_known {
            xattr::set_at(at, c".", self.key(Mark::Upper), &upper, 0)?;
        }
        for (name, kind) in left {
            log::info!("index: {} is left of an earlier mount and goes", name.to_string_lossy());
            remove(at, &name, kind)?;
        }
        Ok(Index { dir: index, lost })
    }

    /// The error for an entry that was made by a mount with marks in the other namespace.
    fn in_other_namespace(&self, index: BorrowedFd<'_>, name: &CStr) -> Result<Option<IndexError>> {
        let there = xattr::get_at(index, name, self.namespace.other().key(Mark::Origin))?.is_some();
        Ok(there.then_some(IndexError::OtherNamespace))
    }

    fn key(&self, mark: Mark) -> &'static CStr {
        self.namespace.key(mark)
    }

    fn lower_mark(&self) -> std::result::Result<Vec<u8>, IndexError> {
        index_of(self.lower.0, self.lower.1, c".")?.ok_or(IndexError::NoHandles)
    }

    fn upper_mark(&self) -> std::result::Result<Vec<u8>, IndexError> {
        let handle = handle_at(self.upper.1, c".").map_err(|_| IndexError::NoHandles)?;
        let origin = Origin::new(handle.kind, self.upper.0.uuid, &handle.bytes).ok_or(IndexError::NoHandles)?;
        Ok(origin.encode_upper())
    }

    /// Whether the mark exists already with the value that is expected. An empty value says nothing; another value is
    /// an error.
    fn verify(
        &self,
        dir: BorrowedFd<'_>,
        mark: Mark,
        expected: &[u8],
        other: IndexError,
    ) -> std::result::Result<bool, IndexError> {
        match xattr::get_at(dir, c".", self.key(mark))? {
            None => Ok(false),
            Some(value) if value.is_empty() => Ok(false),
            Some(value) if value == expected => Ok(true),
            Some(value) if mark == Mark::Origin && (self.is_lower)(&value) => Ok(true),
            // The mark was made where the UUID of the upper layer's file system was not known.
            Some(value) if mark == Mark::Upper && Origin::is_upper(&value) && agree(&value, expected) => Ok(true),
            Some(_) => Err(other),
        }
    }

    /// Makes the root of the upper layer name another lower layer, as the one that it names is removed from the view.
    ///
    /// # Errors
    /// What reading and writing the mark says.
    pub fn rename_lower(&self) -> std::result::Result<(), IndexError> {
        Ok(xattr::set_at(self.upper.1, c".", self.key(Mark::Origin), &self.lower_mark()?, 0)?)
    }

    /// Checks all entries; returns those that must be removed.
    fn check(&self, index: BorrowedFd<'_>) -> std::result::Result<Vec<(CString, Kind)>, IndexError> {
        let mut left = Vec::new();
        for (name, kind) in children(index)? {
            if name.to_bytes().starts_with(b"#") || !self.is_in_use(index, &name, kind)? {
                left.push((name, kind));
            }
        }
        Ok(left)
    }

    /// Whether some name still leads to an entry.
    fn is_in_use(&self, index: BorrowedFd<'_>, name: &CStr, kind: Kind) -> std::result::Result<bool, IndexError> {
        let foreign = || IndexError::Foreign(name.to_string_lossy().into_owned());
        let origin = parse_index_name(name.to_bytes()).map_err(|_| foreign())?;
        let stat = stat_at(index, name)?;
        // Entries that are directories or whiteouts belong to the option nfs_export.
        if kind == Kind::Dir || stat.is_whiteout() {
            return Ok(true);
        }
        match xattr::get_at(index, name, self.key(Mark::Origin))? {
            Some(value) if value == origin => {}
            Some(value) if !value.is_empty() => return Ok(false),
            _ => return Err(self.in_other_namespace(index, name)?.unwrap_or_else(foreign)),
        }
        if stat.nlink > 1 {
            return Ok(true);
        }
        // No name of the upper layer leads to the entry. A lower name still does unless the lower object is gone.
        if let Ok(Decoded::Known(origin)) = Origin::decode(&origin)
            && (self.is_gone)(&origin)
        {
            return Ok(false);
        }
        let mark = xattr::get_at(index, name, self.key(Mark::Nlink))?;
        Ok(match mark.as_deref().map(Nlink::parse) {
            Some(Ok(mark)) if mark.base == Base::Lower => true,
            Some(Ok(mark)) => mark.links(stat.nlink, None).is_some(),
            Some(Err(_)) | None => false,
        })
    }
}
