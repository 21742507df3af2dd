//! Where an object is in its layer, independent of the union's tree.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use super::{Evict, Layer};
use crate::base::sync::Mutex;
use crate::base::{Errno, Name, Result};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{self, Stat};

/// A directory of one layer.
///
/// It knows its parent and name there, so that its descriptor is only a cache: an evicted one is opened again beneath
/// the nearest ancestor that has one, and checked to be the same directory. A rename within the layer changes one
/// link and everything below follows.
pub struct DirPlace {
    /// The layer it is in.
    pub layer: Arc<Layer>,
    ino: u64,
    link: Mutex<Link>,
    fd: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
    this: Weak<DirPlace>,
}

enum Link {
    Root,
    Below { parent: Arc<DirPlace>, name: Name },
}

/// A relative path handed to one `openat2` is kept below `PATH_MAX`.
const PATH_STEP: usize = 3800;
/// How often a directory is looked for again while others rename what is above it.
const RENAME_RACES: usize = 3;

impl DirPlace {
    /// A layer's root: its descriptor stays open.
    pub fn root(layer: Arc<Layer>, fd: OwnedFd, ino: u64) -> Arc<Self> {
        Self::make(layer, ino, Link::Root, Some(Arc::new(fd)))
    }

    /// The directory `name` of this one, whose inode number was just seen to be `ino`.
    pub fn child(self: &Arc<Self>, name: &Name, ino: u64) -> Arc<Self> {
        Self::make(self.layer.clone(), ino, Link::Below { parent: self.clone(), name: name.clone() }, None)
    }

    fn make(layer: Arc<Layer>, ino: u64, link: Link, fd: Option<Arc<OwnedFd>>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            layer,
            ino,
            link: Mutex::new(link),
            fd: Mutex::new(fd),
            used: AtomicBool::new(false),
            this: this.clone(),
        })
    }

    /// Its inode number in the layer.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Notes that the directory was renamed in its layer.
    pub fn moved(&self, parent: &Arc<DirPlace>, name: &Name) {
        *self.link.lock() = Link::Below { parent: parent.clone(), name: name.clone() };
    }

    /// Its parent and name; `None`: it is the root.
    pub fn parent(&self) -> Option<(Arc<DirPlace>, Name)> {
        match &*self.link.lock() {
            Link::Root => None,
            Link::Below { parent, name } => Some((parent.clone(), name.clone())),
        }
    }

    /// An `O_PATH` descriptor of it.
    ///
    /// # Errors
    /// `ESTALE` where another directory stands in its place; `EXDEV` where a mount covers it; what `openat2(2)` says.
    pub fn fd(&self) -> Result<Arc<OwnedFd>> {
        self.used.store(true, Relaxed);
        if let Some(fd) = &*self.fd.lock() {
            return Ok(fd.clone());
        }
        let mut fd = self.reopen(OFlags::PATH);
        for _ in 0..RENAME_RACES {
            match fd {
                // A directory on the way was renamed meanwhile. EXDEV: it left the directory in which the search began,
                // or a mount is in the way.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::EXDEV) => fd = self.reopen(OFlags::PATH),
                Err(Errno::EMFILE | Errno::ENFILE) => {
                    self.layer.fds.evict_all();
                    fd = self.reopen(OFlags::PATH);
                }
                _ => break,
            }
        }
        fd.map(|fd| self.keep(fd))
    }

    fn keep(&self, fd: Arc<OwnedFd>) -> Arc<OwnedFd> {
        *self.fd.lock() = Some(fd.clone());
        self.layer.fds.opened(self.this.clone());
        fd
    }

    /// Opens it for reading and keeps that descriptor as its own, which saves to open it a second time. Only one thread may
    /// list the directory: the descriptor has one offset. `None`: it must be [opened](Self::open) by itself.
    pub fn fd_to_list(&self) -> Option<Arc<OwnedFd>> {
        if self.fd.lock().is_some() || !self.keeps_times() {
            return None;
        }
        // It may not be read, or was renamed, or there are too many descriptors: the other way tells.
        self.reopen(OFlags::RDONLY).ok().map(|fd| self.keep(fd))
    }

    /// Whether a reader changes no time of access by itself: that is a clone of the mount, or the upper layer.
    fn keeps_times(&self) -> bool {
        (self.layer.isolated && !self.layer.is_frozen()) || self.layer.is_upper()
    }

    /// Opens it, in one call for as many names as the kernel takes.
    fn reopen(&self, how: OFlags) -> Result<Arc<OwnedFd>> {
        let (mut fd, names) = self.way()?;
        let mut paths = joined(&names).into_iter().peekable();
        while let Some(path) = paths.next() {
            let how = if paths.peek().is_some() { OFlags::PATH } else { how };
            fd = Arc::new(open_beneath(fd.as_fd(), &path, how | OFlags::DIRECTORY)?);
        }
        // Another object may be in its place: a layer that is changed underneath, or a hostile race.
        if self.layer.may_be(self.ino, stat::stat_fd(fd.as_fd())?.ino) { Ok(fd) } else { Err(Errno::ESTALE) }
    }

    /// The nearest open ancestor and the names from there to here. A root keeps its descriptor, so there is one.
    fn way(&self) -> Result<(Arc<OwnedFd>, Vec<Name>)> {
        let (mut at, name) = self.parent().ok_or(Errno::EIO)?;
        let mut names = vec![name];
        loop {
            if let Some(fd) = &*at.fd.lock() {
                names.reverse();
                return Ok((fd.clone(), names));
            }
            let (parent, name) = at.parent().ok_or(Errno::EIO)?;
            names.push(name);
            at = parent;
        }
    }

    /// A descriptor to list, sync or read xattrs with.
    ///
    /// # Errors
    /// As [`DirPlace::fd`]; `EACCES` where the process may not read it.
    pub fn open(&self) -> Result<OwnedFd> {
        self.open_if(self.layer.widens_frozen())
    }

    /// As [`DirPlace::open`], of what the daemon owns also where its user may not read it.
    ///
    /// # Errors
    /// As [`DirPlace::open`].
    pub fn open_as_owner(&self) -> Result<OwnedFd> {
        self.open_if(self.layer.widens)
    }

    /// `widens`: where it may not be read its owner gets the right to for an instant.
    fn open_if(&self, widens: bool) -> Result<OwnedFd> {
        let (fd, flags) = (self.fd()?, OFlags::RDONLY | OFlags::DIRECTORY);
        let open = || {
            // A layer's times of access stay as they are. A clone of the mount sees to that by itself.
            let quietly = if self.keeps_times() { flags } else { flags | OFlags::NOATIME };
            match open_beneath(fd.as_fd(), c".", quietly) {
                Err(Errno::EPERM) => open_beneath(fd.as_fd(), c".", flags),
                fd => fd,
            }
        };
        match (open(), self.parent()) {
            // The daemon's own directory, whose owner may remove it without being allowed to read it.
            (Err(Errno::EACCES), Some((parent, name))) if widens => {
                let opened = self.layer.widened(parent.fd()?.as_fd(), name.as_c_str(), 0o500, open);
                opened.map_err(|errno| if errno == Errno::EPERM { Errno::EACCES } else { errno })
            }
            (opened, _) => opened,
        }
    }

    /// The attributes of the object under `name`; `None`: there is none, or the layer does not show it.
    ///
    /// A directory that another mount covers shows as an empty one without an inode number of its own.
    ///
    /// # Errors
    /// What `fstatat(2)` says, but for absence.
    pub fn stat(&self, name: &Name) -> Result<Option<Stat>> {
        let fd = match self.fd() {
            Err(Errno::EXDEV) => return Ok(None),
            fd => fd?,
        };
        self.stat_by(name, |stat| self.layer.overridden(fd.as_fd(), name.as_c_str(), stat), &fd)
    }

    /// [`DirPlace::stat`] without what a mark says of the owner and the type: what there is on disk.
    ///
    /// # Errors
    /// As [`DirPlace::stat`].
    pub fn stat_on_disk(&self, name: &Name) -> Result<Option<Stat>> {
        let fd = match self.fd() {
            Err(Errno::EXDEV) => return Ok(None),
            fd => fd?,
        };
        self.stat_by(name, Ok, &fd)
    }

    fn stat_by(&self, name: &Name, shown: impl Fn(Stat) -> Result<Stat>, fd: &OwnedFd) -> Result<Option<Stat>> {
        let found = self.layer.steady(|| {
            if self.layer.isolated {
                stat::stat_at(fd.as_fd(), name.as_c_str())
            } else {
                stat::stat_beneath(fd.as_fd(), name.as_c_str())
            }
        });
        match found {
            Ok(stat) if self.layer.hidden.is(&stat) => Ok(None),
            Ok(stat) => {
                let mut stat = match shown(stat) {
                    // The name has gone since.
                    Err(Errno::ENOENT) => return Ok(None),
                    stat => stat?,
                };
                if self.layer.nosuid && stat.is_file() {
                    stat.mode &= !(libc::S_ISUID | libc::S_ISGID);
                }
                if stat.is_dir() {
                    self.layer.hidden.uncount(&mut stat);
                }
                Ok(Some(stat))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => Ok(None),
            Err(Errno::EXDEV) => {
                let parent = stat::stat_fd(fd.as_fd())?;
                if self.layer.hidden.is_at(&parent, name) { Ok(None) } else { Ok(Some(covered(&parent))) }
            }
            Err(errno) => Err(errno),
        }
    }

    /// Its own attributes.
    ///
    /// # Errors
    /// As [`DirPlace::fd`].
    pub fn stat_self(&self) -> Result<Stat> {
        match self.fd() {
            Err(Errno::EXDEV) => match self.parent() {
                Some((parent, _)) => Ok(covered(&stat::stat_fd(parent.fd()?.as_fd())?)),
                None => Err(Errno::EXDEV),
            },
            fd => {
                let fd = fd?;
                let stat = self.layer.steady(|| stat::stat_fd(fd.as_fd()))?;
                let mut stat = self.layer.overridden(fd.as_fd(), c".", stat)?;
                self.layer.hidden.uncount(&mut stat);
                Ok(stat)
            }
        }
    }
}

/// The attributes that are shown of a directory that another mount covers.
fn covered(parent: &Stat) -> Stat {
    Stat { ino: 0, mode: libc::S_IFDIR | 0o555, nlink: 2, size: 0, blocks: 0, ..*parent }
}

/// The names as relative paths, none longer than the kernel takes.
fn joined(names: &[Name]) -> Vec<CString> {
    let mut paths = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    for name in names {
        if path.len() + name.as_bytes().len() + 1 > PATH_STEP {
            paths.push(std::mem::take(&mut path));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
    }
    paths.push(path);
    paths.into_iter().filter_map(|path| CString::new(path).ok()).collect()
}

impl Evict for DirPlace {
    fn take_used(&self) -> bool {
        self.used.swap(false, Relaxed)
    }

    fn evict(&self) {
        if !matches!(*self.link.lock(), Link::Root) {
            *self.fd.lock() = None;
        }
    }
}

impl Drop for DirPlace {
    /// A deep chain of parents is taken apart here one by one, not by recursion on the stack.
    fn drop(&mut self) {
        if self.fd.get_mut().is_some() {
            self.layer.fds.gone();
        }
        let mut next = std::mem::replace(self.link.get_mut(), Link::Root);
        while let Link::Below { parent, .. } = next {
            // The parent's own `drop`, which runs at once, finds no link to follow.
            match Arc::try_unwrap(parent) {
                Ok(mut owned) => next = std::mem::replace(owned.link.get_mut(), Link::Root),
                Err(_) => break,
            }
        }
    }
}

impl std::fmt::Debug for DirPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (mut names, mut next) = (Vec::new(), self.parent());
        while let Some((parent, name)) = next {
            next = parent.parent();
            names.push(name);
        }
        write!(f, "{}", self.layer.path.display())?;
        names.iter().rev().try_for_each(|name| write!(f, "/{}", name.as_os_str().display()))
    }
}

/// Where an object that is not a directory is.
#[derive(Debug, Clone)]
pub struct Place {
    /// The directory.
    pub dir: Arc<DirPlace>,
    /// The name in it.
    pub name: Name,
}

impl Place {
    /// Whether it is in the upper layer.
    pub fn is_upper(&self) -> bool {
        self.dir.layer.is_upper()
    }

    /// The object's attributes.
    ///
    /// # Errors
    /// `ESTALE`: the object is gone; what `fstatat(2)` says.
    pub fn stat(&self) -> Result<Stat> {
        self.dir.stat(&self.name)?.ok_or(Errno::ESTALE)
    }

    /// Opens it as the regular file with inode number `ino`; nothing else is ever opened.
    ///
    /// # Errors
    /// `ESTALE`: another object is there now; what `openat2(2)` says.
    pub fn open_file(&self, ino: u64, flags: OFlags) -> Result<OwnedFd> {
        self.open_with_stat(ino, flags).map(|(fd, _)| fd)
    }

    /// Opens it as [`open_file`](Self::open_file) does, and returns its attributes, too.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub fn open_with_stat(&self, ino: u64, flags: OFlags) -> Result<(OwnedFd, Stat)> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let (dir, name) = (self.dir.fd()?, self.name.as_c_str());
        let open = || open_beneath(dir.as_fd(), name, flags);
        let fd = match open() {
            // The daemon's own object, which it could open as long as that was in the upper layer.
            Err(Errno::EACCES) if self.dir.layer.widens_frozen() => {
                let opened = self.dir.layer.widened(dir.as_fd(), name, 0o400, open);
                opened.map_err(|errno| if errno == Errno::EPERM { Errno::EACCES } else { errno })?
            }
            fd => fd?,
        };
        let stat = stat::stat_fd(fd.as_fd())?;
        let same = stat.is_file() && self.dir.layer.may_be(ino, stat.ino);
        if same { Ok((fd, stat)) } else { Err(Errno::ESTALE) }
    }

    /// Opens a file for reading, with its attributes. Its time of access stays as it is where the process may ask for
    /// that (`O_NOATIME` of `open(2)`).
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub fn open_to_read(&self, ino: u64) -> Result<(OwnedFd, Stat)> {
        match self.open_with_stat(ino, OFlags::RDONLY | OFlags::NOATIME) {
            Err(Errno::EPERM) => self.open_with_stat(ino, OFlags::RDONLY),
            opened => opened,
        }
    }
}
