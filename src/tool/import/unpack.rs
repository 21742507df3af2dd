//! Unpacks a layer into a directory of its own: `.wh.` files become whiteouts and opaque marks, as a mount of the caller's
//! reads them.
//!
//! Each name is looked for beneath that directory, component by component, never through a symlink. What is there already is
//! replaced, never written to. Directories get their modes and times at the end, when nothing more comes into them.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tar::EntryType;

use super::archive::{Archive, Entry, wrong};
use super::stream::Room;
use crate::base::{DiskGid, DiskUid, Errno, Name};
use crate::format::mark::{Mark, Namespace};
use crate::format::wh::{self, AufsName};
use crate::sys::caller::own_ids;
use crate::sys::data::{pwrite_all, truncate};
use crate::sys::path::{OFlags, open_beneath};
use crate::sys::stat::{Kind, SetTime, Stat, Time, stat_at};
use crate::sys::{ending, tree, xattr};
use crate::tool::change::path_of;
use crate::tool::export::{LeftOut, is_mark};

/// The most directories above an object.
const MOST_DEPTH: usize = 500;
/// Bytes that are copied at once.
const ROOM: usize = 1 << 17;

/// What was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    pub entries: u64,
    pub left_out: Vec<LeftOut>,
    /// Objects that belong to others in the archive, and to the caller here.
    pub foreign: u64,
    /// The directories that the archive does not have, but what is in them; those above come first.
    pub implied: Vec<Vec<Name>>,
}

/// Whose marks are written, and whether owners can be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct As {
    pub marks: Namespace,
    pub gives_owners: bool,
}

/// What a directory gets at the end.
struct DirMeta {
    /// `None`: the archive does not have it, but what is in it.
    attributes: Option<Attributes>,
    opaque: bool,
}

/// What all kinds of objects have.
pub(super) struct Attributes {
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: Time,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Attributes {
    /// Of a directory of which nobody knows more.
    fn implied() -> Self {
        let (uid, gid) = own_ids();
        let owner = (uid.0.into(), gid.0.into());
        Self { mode: 0o755, owner, mtime: Time { sec: 0, nsec: 0 }, xattrs: BTreeMap::new() }
    }

    fn of(entry: &mut Entry) -> Self {
        let xattrs = std::mem::take(&mut entry.xattrs);
        Self { mode: entry.mode, owner: entry.owner, mtime: entry.mtime, xattrs }
    }
}

struct Unpack<'a> {
    root: Arc<OwnedFd>,
    how: As,
    room: &'a Room,
    /// The directories from the root to where the last object was.
    way: Vec<(Name, Arc<OwnedFd>)>,
    dirs: BTreeMap<Vec<Name>, DirMeta>,
    /// For what is copied.
    buffer: Vec<u8>,
    done: Unpacked,
}

/// Unpacks an archive into an empty directory. Returns the archive's bytes, of which some may be unread, too.
///
/// # Errors
/// What is no archive, or not an honest one, with the name that it is about; what the file system says.
pub(super) fn unpack<R: Read>(from: R, root: OwnedFd, how: As, room: &Room) -> io::Result<(R, Unpacked)> {
    let mut archive = Archive::new(from);
    let mut unpack = Unpack {
        root: Arc::new(root),
        how,
        room,
        way: Vec::new(),
        dirs: BTreeMap::from([(Vec::new(), DirMeta { attributes: None, opaque: false })]),
        buffer: vec![0; ROOM],
        done: Unpacked::default(),
    };
    while let Some(mut entry) = archive.next()? {
        let path = entry.path.clone();
        ending::check()?;
        unpack.entry(&mut archive, &mut entry).map_err(|error| about(&path, &error))?;
        archive.pass(&entry)?;
        unpack.done.entries += 1;
    }
    unpack.finish_dirs()?;
    Ok((archive.into_inner(), unpack.done))
}

fn about(path: &[u8], error: &io::Error) -> io::Error {
    let text = match error.raw_os_error() {
        Some(code) => Errno::from(io::Error::from_raw_os_error(code)).to_string(),
        None => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {text}", path.escape_ascii()))
}

/// The components of a name in an archive.
fn components(path: &[u8]) -> io::Result<Vec<Name>> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let names = parts.map(|part| match part {
        b".." => Err(wrong("a name that leads out of the layer")),
        part => Name::new(part).map_err(io::Error::from),
    });
    let names = names.collect::<io::Result<Vec<_>>>()?;
    if names.len() > MOST_DEPTH { Err(wrong("a name in too many directories")) } else { Ok(names) }
}

impl Unpack<'_> {
    fn entry<R: Read>(&mut self, archive: &mut Archive<R>, entry: &mut Entry) -> io::Result<()> {
        let names = components(&entry.path)?;
        let Some((name, above)) = names.split_last() else {
            return if entry.kind == EntryType::Directory { self.root_is(entry) } else { Err(wrong("a name")) };
        };
        if names.iter().any(|name| AufsName::parse(name.as_bytes()) == AufsName::Metadata) {
            return Ok(());
        }
        if above.iter().any(|name| name.as_bytes().starts_with(wh::PREFIX)) {
            return Err(wrong("a name in a whiteout"));
        }
        match AufsName::parse(name.as_bytes()) {
            AufsName::Opaque => return self.opaque(above),
            AufsName::Whiteout(hidden) => return self.whiteout(above, &Name::new(hidden)?),
            AufsName::Metadata => return Ok(()),
            AufsName::Plain => {}
        }
        if entry.kind == EntryType::Directory {
            self.make_dir(above, name)?;
            let attributes = Attributes::of(entry);
            if let Some(dir) = self.dirs.get_mut(&names) {
                dir.attributes = Some(attributes);
            }
            return Ok(());
        }
        let dir = self.dir(above)?;
        match entry.kind {
            EntryType::Regular | EntryType::Continuous => {
                self.clear(&dir, &names, name)?;
                self.file(archive, entry, &dir, name)
            }
            EntryType::Link => self.link(&names, &dir, name, &entry.link),
            EntryType::Symlink => {
                self.clear(&dir, &names, name)?;
                let target = CString::new(entry.link.clone())?;
                tree::symlink_at(&target, dir.as_fd(), name.as_c_str())?;
                self.give(dir.as_fd(), name.as_c_str(), &entry.path.clone(), Attributes::of(entry), true)
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                self.clear(&dir, &names, name)?;
                self.node(entry, &dir, name)
            }
            _ => {
                self.leave_out(&entry.path, "an object of an unknown type");
                Ok(())
            }
        }
    }

    fn root_is(&mut self, entry: &mut Entry) -> io::Result<()> {
        if let Some(dir) = self.dirs.get_mut(&Vec::new()) {
            dir.attributes = Some(Attributes::of(entry));
        }
        Ok(())
    }

    /// A directory, which is made if it is not there.
    fn dir(&mut self, path: &[Name]) -> io::Result<Arc<OwnedFd>> {
        let same = self.way.iter().zip(path).take_while(|((known, _), name)| known == *name).count();
        self.way.truncate(same);
        while let Some(name) = path.get(self.way.len()) {
            let at = self.way.last().map_or(&self.root, |(_, fd)| fd).clone();
            let open = || open_beneath(at.as_fd(), name.as_c_str(), OFlags::PATH | OFlags::DIRECTORY);
            let fd = match open() {
                Err(Errno::ENOENT | Errno::ENOTDIR) => {
                    let above = path.get(..self.way.len()).unwrap_or_default().to_vec();
                    self.make_dir_at(&at, &above, name, false)?;
                    open()
                }
                fd => fd,
            };
            let fd = fd.map_err(|errno| match errno {
                Errno::ELOOP => wrong("a name behind a symbolic link"),
                errno => errno.into(),
            })?;
            self.way.push((name.clone(), Arc::new(fd)));
        }
        Ok(self.way.last().map_or(&self.root, |(_, fd)| fd).clone())
    }

    fn make_dir(&mut self, above: &[Name], name: &Name) -> io::Result<()> {
        let at = self.dir(above)?;
        self.make_dir_at(&at, above, name, true)
    }

    /// Makes a directory, if there is none. One that takes the place of a whiteout hides what that hid. `named`: the archive
    /// has it as such, and not only something in it.
    fn make_dir_at(&mut self, at: &OwnedFd, above: &[Name], name: &Name, named: bool) -> io::Result<()> {
        let (mut path, mut opaque) = (above.to_vec(), false);
        path.push(name.clone());
        match there(at.as_fd(), name)? {
            Some(stat) if stat.is_dir() => return Ok(()),
            Some(stat) => {
                opaque = stat.is_whiteout();
                if !opaque && !named {
                    let is_symlink = stat.kind() == Kind::Symlink;
                    let kind = if is_symlink { io::ErrorKind::InvalidData } else { io::ErrorKind::NotADirectory };
                    return Err(io::Error::new(kind, "a name behind what is no directory"));
                }
                tree::unlink_at(at.as_fd(), name.as_c_str())?;
            }
            None => {
                let hidden = wh::whiteout_name(name.as_bytes()).ok();
                opaque |= hidden.is_some_and(|hidden| tree::unlink_at(at.as_fd(), hidden.as_c_str()).is_ok());
            }
        }
        tree::mkdir_at(at.as_fd(), name.as_c_str(), 0o700)?;
        self.dirs.insert(path, DirMeta { attributes: None, opaque });
        Ok(())
    }

    /// Makes room for an object: a later one of the same name counts.
    fn clear(&mut self, dir: &OwnedFd, path: &[Name], name: &Name) -> io::Result<()> {
        match there(dir.as_fd(), name)? {
            None => Ok(()),
            Some(stat) if stat.is_dir() => {
                self.way.truncate(path.len() - 1);
                self.dirs.remove(path);
                tree::rmdir_at(dir.as_fd(), name.as_c_str()).map_err(|errno| match errno {
                    Errno::ENOTEMPTY => wrong("a name twice, once of a directory"),
                    errno => errno.into(),
                })
            }
            Some(_) => Ok(tree::unlink_at(dir.as_fd(), name.as_c_str())?),
        }
    }

    fn whiteout(&mut self, above: &[Name], hidden: &Name) -> io::Result<()> {
        let dir = match self.dir(above) {
            // It hides nothing: umoci also hides what was in a directory that has become a file.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            dir => dir?,
        };
        match there(dir.as_fd(), hidden)? {
            Some(stat) if stat.is_dir() => {
                let path = [above, std::slice::from_ref(hidden)].concat();
                if let Some(dir) = self.dirs.get_mut(&path) {
                    dir.opaque = true;
                }
                return Ok(());
            }
            // It hides the same.
            Some(_) => return Ok(()),
            None => {}
        }
        match tree::mknod_at(dir.as_fd(), hidden.as_c_str(), libc::S_IFCHR, 0) {
            Err(Errno::EPERM | Errno::EACCES | Errno::EINVAL | Errno::EOPNOTSUPP) => {
                let name = wh::whiteout_name(hidden.as_bytes())?;
                match tree::create_at(dir.as_fd(), name.as_c_str(), OFlags::WRONLY, 0o600) {
                    Ok(_) | Err(Errno::EEXIST) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
            made => Ok(made?),
        }
    }

    fn opaque(&mut self, above: &[Name]) -> io::Result<()> {
        self.dir(above)?;
        if let Some(dir) = self.dirs.get_mut(above) {
            dir.opaque = true;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        archive: &mut Archive<R>,
        entry: &mut Entry,
        dir: &OwnedFd,
        name: &Name,
    ) -> io::Result<()> {
        // A file of holes takes no room here, but where it is copied to.
        let data: u64 = entry.parts.iter().map(|(_, len)| len).sum();
        self.room.take(entry.size.saturating_sub(data))?;
        let file = tree::create_at(dir.as_fd(), name.as_c_str(), OFlags::WRONLY, 0o600)?;
        let (mut end, mut has_hole) = (0, false);
        for (start, len) in std::mem::take(&mut entry.parts) {
            let mut at = start;
            end = start + len;
            while at < end {
                ending::check()?;
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(ROOM);
                let read = archive.content(entry, self.buffer.get_mut(..most).unwrap_or_default())?;
                if read == 0 {
                    return Err(wrong("a content that is too short"));
                }
                let bytes = self.buffer.get(..read).unwrap_or_default();
                // Holes have come as zeros.
                if bytes.iter().any(|byte| *byte != 0) {
                    pwrite_all(file.as_fd(), bytes, at)?;
                } else {
                    has_hole = true;
                }
                at += read as u64;
            }
        }
        if has_hole || end != entry.size {
            truncate(file.as_fd(), entry.size)?;
        }
        self.give(dir.as_fd(), name.as_c_str(), &entry.path.clone(), Attributes::of(entry), false)
    }

    /// A further name of an object of this layer.
    fn link(&mut self, path: &[Name], dir: &OwnedFd, name: &Name, target: &[u8]) -> io::Result<()> {
        let names = components(target)?;
        let Some((first, above)) = names.split_last() else { return Err(wrong("a hard link to nothing")) };
        if names == path {
            return Ok(());
        }
        let mut from = self.root.clone();
        for name in above {
            from = Arc::new(
                open_beneath(from.as_fd(), name.as_c_str(), OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|_| wrong("a hard link to what is not in the layer"))?,
            );
        }
        match there(from.as_fd(), first)? {
            Some(stat) if !stat.is_dir() && !stat.is_whiteout() => {}
            _ => return Err(wrong("a hard link to what is not in the layer")),
        }
        self.clear(dir, path, name)?;
        Ok(tree::link_at(from.as_fd(), first.as_c_str(), dir.as_fd(), name.as_c_str())?)
    }

    fn node(&mut self, entry: &mut Entry, dir: &OwnedFd, name: &Name) -> io::Result<()> {
        let (kind, rdev) = match entry.kind {
            EntryType::Fifo => (libc::S_IFIFO, 0),
            EntryType::Char => (libc::S_IFCHR, libc::makedev(entry.rdev.0, entry.rdev.1)),
            _ => (libc::S_IFBLK, libc::makedev(entry.rdev.0, entry.rdev.1)),
        };
        if kind == libc::S_IFCHR && rdev == 0 {
            self.leave_out(&entry.path, "a 0/0 device, which would be a whiteout here");
            return Ok(());
        }
        match tree::mknod_at(dir.as_fd(), name.as_c_str(), kind | 0o600, rdev) {
            Err(Errno::EPERM) if kind != libc::S_IFIFO => {
                self.leave_out(&entry.path, "a device, which only root can make");
                Ok(())
            }
            made => {
                made?;
                self.give(dir.as_fd(), name.as_c_str(), &entry.path.clone(), Attributes::of(entry), false)
            }
        }
    }

    fn give(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        attributes: Attributes,
        is_symlink: bool,
    ) -> io::Result<()> {
        give((dir, name), (path, attributes, is_symlink), self.how, &mut self.done)
    }

    /// Gives the directories what they get, the innermost first.
    fn finish_dirs(&mut self) -> io::Result<()> {
        let dirs = std::mem::take(&mut self.dirs);
        let implied = dirs.iter().filter(|(_, dir)| dir.attributes.is_none()).map(|(path, _)| path.clone());
        self.done.implied = implied.collect();
        for (path, DirMeta { attributes, opaque }) in dirs.into_iter().rev() {
            let attributes = attributes.unwrap_or_else(Attributes::implied);
            let shown = path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
            let done = (|| {
                let (at, name) = match path.split_last() {
                    Some((name, above)) => (self.dir(above)?, name.as_c_str()),
                    None => (self.root.clone(), c"."),
                };
                if opaque {
                    self.mark_opaque(at.as_fd(), name)?;
                }
                self.give(at.as_fd(), name, &shown, attributes, false)
            })();
            done.map_err(|error: io::Error| about(&shown, &error))?;
        }
        Ok(())
    }

    fn mark_opaque(&self, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        match xattr::set_at(dir, name, self.how.marks.key(Mark::Opaque), b"y", 0) {
            Err(Errno::EPERM | Errno::EOPNOTSUPP) => {
                let inside = open_beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                let mark = CString::new(wh::OPAQUE)?;
                tree::create_at(inside.as_fd(), &mark, OFlags::WRONLY, 0o600).map(drop).map_err(io::Error::from)
            }
            done => Ok(done?),
        }
    }

    fn leave_out(&mut self, path: &[u8], what: &'static str) {
        self.done.left_out.push(LeftOut { path: path_of(path), what, loss: true });
    }
}

/// Gives an object its owner, attributes, mode and time.
pub(super) fn give(
    (dir, name): (BorrowedFd<'_>, &CStr),
    (path, attributes, is_symlink): (&[u8], Attributes, bool),
    how: As,
    done: &mut Unpacked,
) -> io::Result<()> {
    let Attributes { mode, owner: (uid, gid), mtime, xattrs } = attributes;
    let own = own_ids();
    let mut mode = mode & 0o7777;
    let ids = (u32::try_from(uid), u32::try_from(gid));
    let is_given = match ids {
        (Ok(uid), Ok(gid)) if how.gives_owners => {
            match tree::chown_at(dir, name, Some(DiskUid(uid)), Some(DiskGid(gid))) {
                // The user namespace has no such id.
                Err(Errno::EINVAL | Errno::EPERM) => false,
                given => given.map(|()| true)?,
            }
        }
        (Ok(uid), Ok(gid)) => (DiskUid(uid), DiskGid(gid)) == (own.0, own.1),
        _ => false,
    };
    if !is_given {
        done.foreign += 1;
        mode &= !(libc::S_ISUID | libc::S_ISGID);
    }
    for (key, value) in xattrs {
        let is_mark = is_mark(&key);
        let set = || {
            let key = CString::new(key).map_err(|_| Errno::EINVAL)?;
            xattr::set_at(dir, name, &key, &value, 0)
        };
        match if is_mark { Err(Errno::EPERM) } else { set() } {
            Ok(()) => {}
            Err(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ERANGE) => {
                let what = if is_mark { "a mark of overlays" } else { "an attribute that cannot be set here" };
                done.left_out.push(LeftOut { path: path_of(path), what, loss: true });
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    if !is_symlink {
        tree::chmod_at(dir, name, mode)?;
    }
    Ok(tree::utimens_at(dir, name, [SetTime::At(mtime); 2])?)
}

/// What is at a name.
pub(super) fn there(dir: BorrowedFd<'_>, name: &Name) -> io::Result<Option<Stat>> {
    match stat_at(dir, name.as_c_str()) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
