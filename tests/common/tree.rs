//! A directory tree and the system calls on it, by path beneath its root. Nothing here follows the last symlink.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    self as sys, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::{Errno, Result};

/// A tree named by its root: a layer, a mount.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

/// The time that [`Tree::age`] gives to every object: long before any test.
pub const OLD: Timespec = Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };

impl Tree {
    /// The tree at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Tree { root: root.into() }
    }

    /// The root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `path` is. An empty path is the root.
    pub fn at(&self, path: impl AsRef<OsStr>) -> PathBuf {
        let path = path.as_ref();
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    /// open(2), never through a symlink.
    pub fn open(&self, path: impl AsRef<OsStr>, flags: OFlags) -> Result<OwnedFd> {
        sys::open(self.at(path), flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode(0o666))
    }

    /// open(2) with O_CREAT and O_EXCL for reading and writing, with this mode.
    pub fn create(&self, path: impl AsRef<OsStr>, bits: u32) -> Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        sys::open(self.at(path), flags, mode(bits))
    }

    /// The whole content.
    pub fn read(&self, path: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        read_all(&self.open(path, OFlags::RDONLY)?)
    }

    /// The whole content as text, or the error as text: short to compare.
    pub fn text(&self, path: impl AsRef<OsStr>) -> String {
        self.read(path).map_or_else(|e| format!("{e:?}"), |b| String::from_utf8_lossy(&b).into_owned())
    }

    /// Creates or truncates, then writes.
    pub fn write(&self, path: impl AsRef<OsStr>, bytes: impl AsRef<[u8]>) -> Result<()> {
        write_all(&self.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?, bytes.as_ref())
    }

    /// Writes at the end of what exists.
    pub fn append(&self, path: impl AsRef<OsStr>, bytes: impl AsRef<[u8]>) -> Result<()> {
        write_all(&self.open(path, OFlags::WRONLY | OFlags::APPEND)?, bytes.as_ref())
    }

    /// Writes at an offset of what exists.
    pub fn pwrite(&self, path: impl AsRef<OsStr>, offset: u64, bytes: &[u8]) -> Result<()> {
        pwrite_all(&self.open(path, OFlags::WRONLY)?, bytes, offset)
    }

    /// truncate(2) by way of ftruncate.
    pub fn truncate(&self, path: impl AsRef<OsStr>, size: u64) -> Result<()> {
        sys::ftruncate(self.open(path, OFlags::WRONLY)?, size)
    }

    /// lstat(2).
    pub fn stat(&self, path: impl AsRef<OsStr>) -> Result<Stat> {
        sys::lstat(self.at(path))
    }

    /// The permission bits.
    pub fn mode(&self, path: impl AsRef<OsStr>) -> u32 {
        self.stat(path).unwrap().st_mode & 0o7777
    }

    /// Whether the name is there.
    pub fn has(&self, path: impl AsRef<OsStr>) -> bool {
        match self.stat(path) {
            Ok(_) => true,
            Err(Errno::NOENT) => false,
            Err(e) => panic!("stat: {e:?}"),
        }
    }

    /// Whether a layer has a whiteout of any form for the name: 0/0 device, xattr on an empty file, `.wh.` file.
    pub fn is_whiteout(&self, path: &str) -> bool {
        let marked =
            |p: &str| ["trusted.overlay.whiteout", "user.overlay.whiteout"].iter().any(|n| self.xattr(p, n).is_ok());
        match self.stat(path) {
            Ok(st) => {
                FileType::from_raw_mode(st.st_mode) == FileType::CharacterDevice && st.st_rdev == 0 || marked(path)
            }
            Err(_) => {
                let (dir, name) = path.rsplit_once('/').map_or(("", path), |(d, n)| (d, n));
                self.has(Path::new(dir).join(format!(".wh.{name}")))
            }
        }
    }

    /// mkdir(2).
    pub fn mkdir(&self, path: impl AsRef<OsStr>, bits: u32) -> Result<()> {
        sys::mkdir(self.at(path), mode(bits))
    }

    /// rmdir(2).
    pub fn rmdir(&self, path: impl AsRef<OsStr>) -> Result<()> {
        sys::rmdir(self.at(path))
    }

    /// unlink(2).
    pub fn unlink(&self, path: impl AsRef<OsStr>) -> Result<()> {
        sys::unlink(self.at(path))
    }

    /// rename(2).
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        sys::rename(self.at(from), self.at(to))
    }

    /// renameat2(2).
    pub fn rename_with(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>, flags: RenameFlags) -> Result<()> {
        sys::renameat_with(CWD, self.at(from), CWD, self.at(to), flags)
    }

    /// link(2).
    pub fn link(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        sys::link(self.at(from), self.at(to))
    }

    /// symlink(2).
    pub fn symlink(&self, target: impl AsRef<OsStr>, path: impl AsRef<OsStr>) -> Result<()> {
        sys::symlink(target.as_ref(), self.at(path))
    }

    /// readlink(2).
    pub fn readlink(&self, path: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        sys::readlink(self.at(path), Vec::new()).map(std::ffi::CString::into_bytes)
    }

    /// mknod(2).
    pub fn mknod(&self, path: impl AsRef<OsStr>, kind: FileType, bits: u32, dev: u64) -> Result<()> {
        sys::mknodat(CWD, self.at(path), kind, mode(bits), dev)
    }

    /// chmod(2).
    pub fn chmod(&self, path: impl AsRef<OsStr>, bits: u32) -> Result<()> {
        sys::chmod(self.at(path), mode(bits))
    }

    /// lchown(2).
    pub fn chown(&self, path: impl AsRef<OsStr>, uid: u32, gid: u32) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        sys::chownat(CWD, self.at(path), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets atime and mtime (utimensat(2), of a symlink itself).
    pub fn utimes(&self, path: impl AsRef<OsStr>, time: Timespec) -> Result<()> {
        let times = Timestamps { last_access: time, last_modification: time };
        sys::utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The value of an xattr.
    pub fn xattr(&self, path: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        let mut value = vec![0; 65536];
        let len = sys::lgetxattr(self.at(path), name.as_ref(), &mut value)?;
        value.truncate(len);
        Ok(value)
    }

    /// Sets an xattr.
    pub fn set_xattr(&self, path: impl AsRef<OsStr>, name: impl AsRef<OsStr>, value: &[u8]) -> Result<()> {
        sys::lsetxattr(self.at(path), name.as_ref(), value, XattrFlags::empty())
    }

    /// Removes an xattr.
    pub fn remove_xattr(&self, path: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        sys::lremovexattr(self.at(path), name.as_ref())
    }

    /// The names of the xattrs, sorted.
    pub fn xattrs(&self, path: impl AsRef<OsStr>) -> Result<Vec<Vec<u8>>> {
        let mut list = vec![0; 65536];
        let len = match sys::llistxattr(self.at(path), &mut list) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let mut names: Vec<_> = list[..len].split(|b| *b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
        names.sort();
        Ok(names)
    }

    /// The names in a directory as readdir gives them, sorted, without `.` and `..`.
    pub fn names(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let names = self.byte_names(path)?;
        Ok(names.into_iter().map(|n| String::from_utf8_lossy(&n).into_owned()).collect())
    }

    /// Holds here what stands in `layer` beneath `path`: while these live the kernel forgets none of it, whoever makes it
    /// drop its caches (tests that run beside this one do). Nothing is listed here: a listing would be kept, too.
    pub fn hold(&self, layer: &Tree, path: &OsStr) -> Result<Vec<OwnedFd>> {
        let mut held = vec![self.open(path, OFlags::PATH)?];
        for name in layer.byte_names(path)? {
            let within = if path.is_empty() { name } else { [path.as_bytes(), b"/", &name].concat() };
            let within = OsStr::from_bytes(&within);
            match FileType::from_raw_mode(layer.stat(within)?.st_mode) {
                FileType::Directory => held.extend(self.hold(layer, within)?),
                _ => held.push(self.open(within, OFlags::PATH)?),
            }
        }
        Ok(held)
    }

    /// As [`Tree::names`], for names of any bytes.
    pub fn byte_names(&self, path: impl AsRef<OsStr>) -> Result<Vec<Vec<u8>>> {
        let dir = Dir::new(self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        let mut names = Vec::new();
        for entry in dir {
            names.push(entry?.file_name().to_bytes().to_vec());
        }
        names.retain(|n| n != b"." && n != b"..");
        names.sort();
        Ok(names)
    }

    /// Removes a tree as `rm -rf` does: list, remove, until the directory is empty. The root is left.
    pub fn remove_all(&self, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        for name in self.byte_names(path)? {
            let child = Path::new(path).join(std::ffi::OsString::from_vec(name));
            if FileType::from_raw_mode(self.stat(&child)?.st_mode) == FileType::Directory {
                self.remove_all(&child)?;
            } else {
                self.unlink(&child)?;
            }
        }
        if path.is_empty() { Ok(()) } else { self.rmdir(path) }
    }

    /// The letters that `lsattr` has for it, but for those that are ext4's own.
    pub fn flags(&self, path: impl AsRef<OsStr>) -> String {
        let out = std::process::Command::new("lsattr").arg("-d").arg(self.at(path)).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.split_whitespace().next().unwrap_or("?").replace(['-', 'e', 'I', 'N'], "")
    }

    /// Gives every object of the tree the same old times, directories last.
    pub fn age(&self) {
        fn walk(tree: &Tree, dir: &Path) {
            for name in tree.byte_names(dir).unwrap_or_default() {
                let child = dir.join(OsStr::from_bytes(&name));
                if FileType::from_raw_mode(tree.stat(&child).unwrap().st_mode) == FileType::Directory {
                    walk(tree, &child);
                } else {
                    tree.utimes(&child, OLD).unwrap();
                }
            }
            tree.utimes(dir, OLD).unwrap();
        }
        walk(self, Path::new(""));
    }
}

/// Reads a descriptor from offset 0 to its end.
pub fn read_all(fd: &OwnedFd) -> Result<Vec<u8>> {
    let (mut all, mut chunk) = (Vec::new(), vec![0; 65536]);
    loop {
        match rustix::io::pread(fd, &mut chunk, all.len() as u64)? {
            0 => return Ok(all),
            n => all.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Writes all bytes at the descriptor's own offset.
pub fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::write(fd, bytes)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Writes all bytes at `offset`.
pub fn pwrite_all(fd: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        let n = rustix::io::pwrite(fd, bytes, offset)?;
        (bytes, offset) = (&bytes[n..], offset + n as u64);
    }
    Ok(())
}
