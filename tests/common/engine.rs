//! The engine by path, without a mount, and what it shows in a form that two views can be compared in. Not a part of
//! `common`, whose suites know nothing of the engine.
#![allow(dead_code, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use plyfs::config::{Config, UpperDirs};
use plyfs::union::{
    Attr, Caller, DirSink, Entry, InodeId, Kind, ListedEntry, Make, RenameFlags, SetAttr, SetTime, Time, ViewGid,
    ViewUid, WriteHow,
};
use plyfs::{Errno, Name, Union};

pub type Result<T> = std::result::Result<T, Errno>;

/// The caller of everything.
pub fn me() -> Caller {
    Caller::this_process()
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

/// A union whose objects are named by path; and the lookups that it counts for whoever uses it so.
pub struct Engine(pub Arc<Union>, Mutex<Vec<InodeId>>);

impl Engine {
    /// Over `base/lower`, with `base/upper` and `base/work`; everything that the layers can hold is on.
    pub fn open(base: &Path) -> Self {
        Self::over(&base.join("lower"), base)
    }

    /// The same over another lower layer.
    pub fn over(lower: &Path, base: &Path) -> Self {
        Self::with(Config { index: Some(true), ..config(lower, base) })
    }

    pub fn with(config: Config) -> Self {
        Engine::around(Union::open(config).unwrap_or_else(|error| panic!("{error:?}")))
    }

    pub fn around(union: Union) -> Self {
        Engine(Arc::new(union), Mutex::default())
    }

    /// Remembers a lookup, as the kernel does.
    fn held(&self, entry: Entry) -> InodeId {
        self.1.lock().unwrap().push(entry.id);
        entry.id
    }

    /// Gives back all lookups, as the kernel does when it drops its caches.
    pub fn forget_all(&self) {
        for id in std::mem::take(&mut *self.1.lock().unwrap()) {
            self.0.forget(id, 1);
        }
    }

    /// Looks up each name of the path, as the kernel does before it asks for anything else.
    pub fn id(&self, path: &str) -> Result<InodeId> {
        path.split('/').filter(|part| !part.is_empty()).try_fold(InodeId::ROOT, |dir, part| {
            self.0.lookup(dir, &name(part))?.map(|entry| self.held(entry)).ok_or(Errno::ENOENT)
        })
    }

    fn place(&self, path: &str) -> Result<(InodeId, Name)> {
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.id(dir)?, name(last)))
    }

    pub fn attr(&self, path: &str) -> Result<Attr> {
        self.0.getattr(self.id(path)?)
    }

    pub fn text(&self, path: &str) -> Result<String> {
        let id = self.id(path)?;
        self.text_of(id)
    }

    fn text_of(&self, id: InodeId) -> Result<String> {
        let mut buffer = vec![0; usize::try_from(self.0.getattr(id)?.size).unwrap()];
        let len = self.0.read(id, 0, &mut buffer)?;
        Ok(shown(&buffer[..len]))
    }

    pub fn write(&self, path: &str, offset: u64, text: &str) -> Result<()> {
        let (id, mut done) = (self.id(path)?, 0);
        // Fewer bytes than given are no error.
        while done < text.len() {
            let (at, rest) = (offset + done as u64, &text.as_bytes()[done..]);
            done += self.0.write(&me(), id, at, rest, WriteHow::default())?;
        }
        Ok(())
    }

    /// Adds at the end of a file.
    pub fn append(&self, path: &str, text: &str) -> Result<()> {
        self.write(path, self.attr(path)?.size, text)
    }

    /// As a program does that has opened it with `O_DSYNC`.
    pub fn write_synced(&self, path: &str, offset: u64, text: &str) -> Result<()> {
        let how = WriteHow { sync: true, ..WriteHow::default() };
        self.0.write(&me(), self.id(path)?, offset, text.as_bytes(), how).map(drop)
    }

    pub fn fsync(&self, path: &str) -> Result<()> {
        self.0.fsync(self.id(path)?, false)
    }

    pub fn fdatasync(&self, path: &str) -> Result<()> {
        self.0.fsync(self.id(path)?, true)
    }

    pub fn set(&self, path: &str, set: SetAttr) -> Result<()> {
        self.0.setattr(&me(), self.id(path)?, &set).map(drop)
    }

    pub fn truncate(&self, path: &str, size: u64) -> Result<()> {
        self.set(path, SetAttr { size: Some(size), ..SetAttr::default() })
    }

    pub fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        self.set(path, SetAttr { mode: Some(mode), ..SetAttr::default() })
    }

    fn make(&self, path: &str, what: Make<'_>) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.0.make(&me(), dir, &name, what).map(|entry| _ = self.held(entry))
    }

    pub fn create(&self, path: &str) -> Result<()> {
        self.make(path, Make::File { mode: 0o644 })
    }

    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.make(path, Make::Dir { mode: 0o755 })
    }

    pub fn mknod(&self, path: &str, mode: u32, rdev: u64) -> Result<()> {
        self.make(path, Make::Node { mode, rdev })
    }

    pub fn symlink(&self, path: &str) -> Result<()> {
        self.make(path, Make::Symlink { target: c"somewhere" })
    }

    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        let id = self.id(from)?;
        let (dir, name) = self.place(to)?;
        self.0.link(&me(), id, dir, &name).map(|entry| _ = self.held(entry))
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.0.unlink(&me(), dir, &name)
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.place(path)?;
        self.0.rmdir(&me(), dir, &name)
    }

    pub fn rename_with(&self, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        self.id(from)?;
        let ((dir, name), (new_dir, new_name)) = (self.place(from)?, self.place(to)?);
        self.0.rename(&me(), dir, &name, new_dir, &new_name, flags)
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.rename_with(from, to, RenameFlags::empty())
    }

    pub fn exchange(&self, one: &str, two: &str) -> Result<()> {
        self.rename_with(one, two, RenameFlags::EXCHANGE)
    }

    pub fn chown(&self, path: &str, uid: u32, gid: u32) -> Result<()> {
        self.set(path, SetAttr { uid: Some(ViewUid(uid)), gid: Some(ViewGid(gid)), ..SetAttr::default() })
    }

    pub fn utimes(&self, path: &str, sec: i64) -> Result<()> {
        let at = SetTime::At(Time { sec, nsec: 0 });
        self.set(path, SetAttr { atime: at, mtime: at, ..SetAttr::default() })
    }

    pub fn setxattr(&self, path: &str, key: &str, value: &str) -> Result<()> {
        self.0.setxattr(&me(), self.id(path)?, key.as_bytes(), value.as_bytes(), 0)
    }

    pub fn removexattr(&self, path: &str, key: &str) -> Result<()> {
        self.0.removexattr(&me(), self.id(path)?, key.as_bytes())
    }

    pub fn fallocate(&self, path: &str, mode: i32, offset: u64, len: u64) -> Result<()> {
        self.0.fallocate(&me(), self.id(path)?, mode, offset, len)
    }

    /// Copies `len` bytes, as cp(1) does it: until they are all there, by reading where the engine says so.
    pub fn copy(&self, from: (&str, u64), to: (&str, u64), len: u64) -> Result<()> {
        let (source, target) = (self.id(from.0)?, self.id(to.0)?);
        let mut done = 0;
        while done < len {
            let (from, to) = ((source, from.1 + done), (target, to.1 + done));
            match self.0.copy_range(&me(), from, to, len - done) {
                Ok(copied) if copied > 0 => done += u64::from(copied),
                Err(errno) if errno != Errno::EOPNOTSUPP => return Err(errno),
                _ => {
                    let mut buffer = vec![0; usize::try_from(len - done).unwrap()];
                    let read = self.0.read(source, from.1, &mut buffer)?;
                    let written = self.0.write(&me(), target, to.1, &buffer[..read], WriteHow::default())?;
                    if written < buffer.len() {
                        return Err(Errno::EIO);
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What `getattr` shows, but for numbers and times.
    pub fn stat(&self, path: &str) -> Result<String> {
        let Attr { kind, mode, nlink, uid, gid, rdev, size, mtime, .. } = self.attr(path)?;
        Ok(format!("{kind:?} {mode:o} *{nlink} {uid}:{gid} {rdev} {size} {}", old(mtime.sec)))
    }

    /// The names of a directory; with `plus` each with its type and size, as the kernel keeps them.
    pub fn list(&self, path: &str, plus: bool) -> Result<String> {
        let id = self.id(path)?;
        let mut sink = Entries(Vec::new());
        self.0.readdir(id, 0, plus, &mut sink)?;
        let entries = sink.0.into_iter();
        let mut lines: Vec<_> = entries
            .map(|(name, kind, attr)| {
                let counted = attr.filter(|_| name != "." && name != "..");
                let size = counted.map(|attr| (self.held(Entry { id: attr.id, attr }), attr.size).1);
                format!("{name} {kind:?} {size:?}")
            })
            .collect();
        lines.sort();
        Ok(lines.join("\n"))
    }

    /// Everything that is seen.
    pub fn view(&self) -> Result<View> {
        let mut view = View::default();
        let mut firsts = BTreeMap::new();
        self.walk("", InodeId::ROOT, &mut view, &mut firsts)?;
        Ok(view)
    }

    fn walk(&self, dir: &str, id: InodeId, view: &mut View, firsts: &mut BTreeMap<InodeId, String>) -> Result<()> {
        let mut names = Names(Vec::new());
        self.0.readdir(id, 0, false, &mut names)?;
        names.0.sort();
        for text in names.0 {
            let path = join(dir, &text);
            let Some(entry) = self.0.lookup(id, &name(&text))? else {
                view.0.insert(path, Seen::absent("listed, but not there".into()));
                continue;
            };
            self.held(entry);
            let attr = self.0.getattr(entry.id)?;
            let content = match attr.kind {
                Kind::File => self.text_of(entry.id)?,
                Kind::Symlink => self.0.readlink(entry.id)?.escape_ascii().to_string(),
                _ => String::new(),
            };
            let is_dir = attr.kind == Kind::Dir;
            let mut more = format!("{}:{} {}", attr.uid, attr.gid, attr.rdev);
            for key in
                self.0.listxattr(&me(), entry.id)?.split(|byte| *byte == 0).filter(|key| key.starts_with(b"user."))
            {
                let value = self.0.getxattr(entry.id, key)?;
                let _ = write!(more, " {}={}", key.escape_ascii(), value.escape_ascii());
            }
            view.add(
                &path,
                attr.kind,
                (attr.mode, attr.size),
                (&content, &more, old(attr.mtime.sec)),
                attr.nlink.into(),
            );
            view.same(&path, is_dir, firsts.entry(entry.id).or_insert_with(|| path.clone()));
            if is_dir {
                self.walk(&path, entry.id, view, firsts)?;
            }
        }
        Ok(())
    }
}

/// The `user.*` attributes of an object.
fn xattrs(at: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut room = vec![0; 65536];
    let len = rustix::fs::llistxattr(at, &mut room).unwrap_or(0);
    let keys: Vec<Vec<u8>> = room[..len].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let mut found = Vec::new();
    for key in keys.into_iter().filter(|key| key.starts_with(b"user.")) {
        let len = rustix::fs::lgetxattr(at, key.as_slice(), &mut room).unwrap();
        found.push((key, room[..len].to_vec()));
    }
    found
}

/// The defaults over `lower`, with `base/upper` and `base/work`.
pub fn config(lower: &Path, base: &Path) -> Config {
    Config {
        lowers: vec![lower.into()],
        upper: Some(UpperDirs { dir: base.join("upper"), work: base.join("work") }),
        ..Config::default()
    }
}

/// Entries as the kernel takes them: what was counted for an answer that is an error it never sees.
struct Entries(Vec<(String, Kind, Option<Attr>)>);

impl DirSink for Entries {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        self.0.push((String::from_utf8(entry.name.to_vec()).unwrap(), entry.kind, entry.attr));
        true
    }
}

/// A time that somebody has set; other ones differ from run to run.
fn old(sec: i64) -> String {
    if sec < 1_000_000_000 { sec.to_string() } else { "now".into() }
}

struct Names(Vec<String>);

impl DirSink for Names {
    fn add(&mut self, entry: &ListedEntry<'_>) -> bool {
        let name = String::from_utf8(entry.name.to_vec()).unwrap();
        if name != "." && name != ".." {
            self.0.push(name);
        }
        true
    }
}

/// A file's bytes as they stand in a view: of many their hash.
fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= 4096 {
        return bytes.escape_ascii().to_string();
    }
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    std::hash::Hash::hash(bytes, &mut hasher);
    format!("hash {:016x}", std::hash::Hasher::finish(&hasher))
}

/// Counts the names of a listing, `.` and `..` too.
#[derive(Default)]
pub struct Counted(pub usize);

impl DirSink for Counted {
    fn add(&mut self, _: &ListedEntry<'_>) -> bool {
        self.0 += 1;
        true
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// What is seen of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Type, mode, size, content or target, owner, device, extended attributes.
    what: String,
    /// Of its last change.
    time: String,
    /// Of anything but a directory.
    links: u64,
    /// The first name of the same inode.
    same: String,
}

impl Seen {
    fn absent(why: String) -> Self {
        Seen { what: why, time: String::new(), links: 0, same: String::new() }
    }
}

/// A whole tree, by path. Of times only those that somebody has set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View(BTreeMap<String, Seen>);

impl View {
    /// Of a mount.
    pub fn of(root: &Path) -> Self {
        let (mut view, mut firsts) = (View::default(), BTreeMap::new());
        view.walk(root, "", &mut firsts);
        view
    }

    fn walk(&mut self, root: &Path, dir: &str, firsts: &mut BTreeMap<(u64, u64), String>) {
        let listing = std::fs::read_dir(root.join(dir)).unwrap_or_else(|error| panic!("{dir}: {error}"));
        let mut names: Vec<_> = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        for name in names {
            let path = join(dir, &name);
            let at = root.join(&path);
            let stat = match std::fs::symlink_metadata(&at) {
                Ok(stat) => stat,
                Err(error) => {
                    self.0.insert(path, Seen::absent(error.to_string()));
                    continue;
                }
            };
            let kind = stat.file_type();
            let (kind, content) = if kind.is_dir() {
                (Kind::Dir, String::new())
            } else if kind.is_symlink() {
                (Kind::Symlink, std::fs::read_link(&at).unwrap().to_str().unwrap().to_owned())
            } else if kind.is_fifo() {
                (Kind::Fifo, String::new())
            } else if kind.is_socket() {
                (Kind::Socket, String::new())
            } else if kind.is_char_device() {
                (Kind::Char, String::new())
            } else {
                let content = std::fs::read(&at).map(|content| shown(&content));
                (Kind::File, content.unwrap_or_else(|error| error.to_string()))
            };
            let is_dir = kind == Kind::Dir;
            let mut more = format!("{}:{} {}", stat.uid(), stat.gid(), stat.rdev());
            for (key, value) in xattrs(&at) {
                let _ = write!(more, " {}={}", key.escape_ascii(), value.escape_ascii());
            }
            self.add(
                &path,
                kind,
                (stat.mode() & 0o7777, stat.size()),
                (&content, &more, old(stat.mtime())),
                stat.nlink(),
            );
            self.same(&path, is_dir, firsts.entry((stat.dev(), stat.ino())).or_insert_with(|| path.clone()));
            if is_dir {
                self.walk(root, &path, firsts);
            }
        }
    }

    fn add(
        &mut self,
        path: &str,
        kind: Kind,
        (mode, size): (u32, u64),
        (content, more, time): (&str, &str, String),
        links: u64,
    ) {
        let (size, links) = if kind == Kind::Dir { (0, 0) } else { (size, links) };
        let what = format!("{kind:?} {mode:o} {size} bytes {content:?} {more}");
        self.0.insert(path.to_owned(), Seen { what, time, links, same: String::new() });
    }

    fn same(&mut self, path: &str, is_dir: bool, first: &str) {
        if let Some(seen) = self.0.get_mut(path).filter(|_| !is_dir) {
            seen.same = first.to_owned();
        }
    }

    /// Whether this is the other view, but for times of last change that are too new.
    pub fn is_newer(&self, other: &View) -> bool {
        let newer = |(path, seen): (&String, &Seen)| {
            let seen_as =
                |o: &Seen| Seen { time: if seen.time == "now" { "now".into() } else { o.time.clone() }, ..o.clone() };
            other.0.get(path).is_some_and(|o| seen_as(o) == *seen)
        };
        self.0.len() == other.0.len() && self.0.iter().all(newer)
    }

    /// Whether this is the other view, but for counts of links that are off by one.
    pub fn is_close(&self, other: &View) -> bool {
        let close = |(path, seen): (&String, &Seen)| {
            let other = other.0.get(path);
            other.is_some_and(|o| seen.what == o.what && seen.same == o.same && seen.links.abs_diff(o.links) <= 1)
        };
        self.0.len() == other.0.len() && self.0.iter().all(close)
    }

    /// Whether each name shows what it shows in one of the two views, with any count of links.
    pub fn is_blend(&self, one: &View, two: &View) -> bool {
        let what = |view: &View, path: &String| view.0.get(path).map(|seen| seen.what.clone());
        let paths = self.0.keys().chain(one.0.keys()).chain(two.0.keys());
        paths.into_iter().all(|path| [what(one, path), what(two, path)].contains(&what(self, path)))
    }

    /// The names of files whose content is that of the lower file with several.
    pub fn linked(&self) -> impl Iterator<Item = &String> {
        self.0.iter().filter(|(_, seen)| seen.what.to_lowercase().contains("\"this")).map(|(path, _)| path)
    }

    /// Whether a name is seen.
    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    /// The same, but for the content of one file.
    pub fn with_content(&self, path: &str, content: &[u8]) -> Self {
        let mut view = self.clone();
        if let Some(seen) = view.0.get_mut(path) {
            let mode = seen.what.split(' ').nth(1).unwrap_or_default();
            let more = seen.what.rsplit('"').next().unwrap_or_default();
            seen.what = format!("File {mode} {} bytes {:?}{more}", content.len(), shown(content));
        }
        view
    }

    /// Whether both show the same under this name.
    pub fn agrees(&self, other: &View, path: &str) -> bool {
        let what = |view: &View| view.0.get(path).map(|seen| seen.what.clone());
        what(self) == what(other)
    }

    /// The names that differ, in words.
    pub fn difference(&self, other: &View) -> String {
        let mut text = String::new();
        let words = |seen: Option<&Seen>| match seen {
            Some(Seen { what, time, links, same }) => format!("{what} {time} *{links} ={same}"),
            None => "nothing".into(),
        };
        for path in self.0.keys().chain(other.0.keys().filter(|path| !self.0.contains_key(*path))) {
            let (one, two) = (self.0.get(path), other.0.get(path));
            if one != two {
                let _ = write!(text, "\n      {path}: {}, not {}", words(one), words(two));
            }
        }
        text
    }
}
